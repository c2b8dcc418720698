// SPDX-License-Identifier: Apache-2.0
// execve, execveat: programs, scripts, arguments, what survives, and malformed ELF files.
#include "kit.h"

#include <elf.h>
#include <pthread.h>
#include <sys/auxv.h>

static int status_of(const char *path, char *const argv[], char *const envp[]) {
  pid_t pid = OK(fork());
  if (!pid) {
    execve(path, argv, envp);
    _exit(200 + (errno == ENOEXEC));
  }
  return kit_wait(pid);
}
static int shell(const char *script) {
  char *argv[] = {"sh", "-c", (char *)script, NULL}, *envp[] = {"A=1", "PATH=/usr/bin:/bin", NULL};
  return status_of("/bin/sh", argv, envp);
}
static void script_file(const char *path, const char *text) {
  kit_write_file(path, text);
  OK(chmod(path, 0755));
}

TEST(a_dynamic_program) { EXPECT_EQ(shell("exit 7"), 7 << 8); }
TEST(arguments_and_environment) {
  char *argv[] = {"sh", "-c", "[ \"$0:$1:$2\" = \"a:b c:\" ] && [ \"$X\" = \"y z\" ] && [ $# = 2 ]", "a", "b c", "", NULL};
  char *envp[] = {"X=y z", NULL};
  EXPECT_EQ(status_of("/bin/sh", argv, envp), 0);
}
TEST(itself_statically_linked) {
  char *argv[] = {"x", "--list", "no-such-test", NULL};
  EXPECT_EQ(status_of("/proc/self/exe", argv, NULL), 0);
}
TEST(script_with_argument) {
  script_file("s", "#!/bin/sh -e\nfalse\nexit 0\n");
  char *argv[] = {"s", NULL};
  EXPECT_EQ(status_of("./s", argv, NULL), 1 << 8);
  script_file("t", "#! /bin/sh\n[ \"$0\" = ./t ] && [ \"$1\" = one ]\n");
  char *argv2[] = {"ignored", "one", NULL};
  EXPECT_EQ(status_of("./t", argv2, NULL), 0);
}
TEST(nested_scripts) {
  script_file("a", "#!/bin/sh\nexit 5\n");
  char line[4200], cwd[4096];
  getcwd(cwd, sizeof cwd);
  sprintf(line, "#!%s/a\n", cwd);
  script_file("b", line);
  char *argv[] = {"b", NULL};
  EXPECT_EQ(status_of("./b", argv, NULL), 5 << 8);
  sprintf(line, "#!%s/loop\n", cwd);
  script_file("loop", line);
  EXPECT_ERR(execve("./loop", argv, NULL), ELOOP);
}
TEST(script_errors) {
  char *argv[] = {"s", NULL};
  script_file("s", "#!/no/such/interpreter\n");
  EXPECT_ERR(execve("./s", argv, NULL), ENOENT);
  script_file("s", "#!\n");
  EXPECT_ERR(execve("./s", argv, NULL), ENOEXEC);
  script_file("s", "just text\n");
  EXPECT_ERR(execve("./s", argv, NULL), ENOEXEC);
  script_file("s", "");
  EXPECT_ERR(execve("./s", argv, NULL), ENOEXEC);
  script_file("s", "#!/bin\n");
  EXPECT_ERR(execve("./s", argv, NULL), EACCES);
}
TEST(path_errors) {
  char *argv[] = {"x", NULL};
  EXPECT_ERR(execve("none", argv, NULL), ENOENT);
  EXPECT_ERR(execve("", argv, NULL), ENOENT);
  kit_write_file("f", "x");
  EXPECT_ERR(execve("f/x", argv, NULL), ENOTDIR);
  EXPECT_ERR(execve("f", argv, NULL), EACCES);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_execve, p, argv, NULL));
  void *const *bad = kit_bad_pointers(kBadRead, 8);
  for (int i = 0; bad[i]; i++) {
    EXPECT_ERR(syscall(SYS_execve, "/bin/true", bad[i], NULL), EFAULT);
    EXPECT_ERR(syscall(SYS_execve, "/bin/true", argv, bad[i]), EFAULT);
    char *bad_argv[] = {"x", bad[i], NULL};
    EXPECT_ERR(syscall(SYS_execve, "/bin/true", bad_argv, NULL), EFAULT);
  }
}
TEST(too_many_arguments) {
  size_t n = 40000;
  char **argv = calloc(n + 1, sizeof *argv), *word = malloc(1001);
  memset(word, 'a', 1000), word[1000] = 0;
  for (size_t i = 0; i < n; i++) argv[i] = word;
  EXPECT_ERR(execve("/bin/true", argv, NULL), E2BIG);
  char *one = malloc(200001);
  memset(one, 'a', 200000), one[200000] = 0;
  char *few[] = {"x", one, NULL};
  EXPECT_ERR(execve("/bin/true", few, NULL), E2BIG);
  argv[1000] = NULL;
  EXPECT_EQ(status_of("/bin/true", argv, NULL), 0);
}
TEST(no_argv_at_all) {
  IN_CHILD(pid, syscall(SYS_execve, "/bin/true", NULL, NULL));
  EXPECT_EXIT(pid, 0);
}
TEST(execveat_ways) {
  char *argv[] = {"true", NULL};
  int dir = OK(open("/bin", O_RDONLY)), file = OK(open("/bin/true", O_PATH));
  IN_CHILD(a, syscall(SYS_execveat, dir, "true", argv, NULL, 0));
  EXPECT_EXIT(a, 0);
  IN_CHILD(b, syscall(SYS_execveat, file, "", argv, NULL, AT_EMPTY_PATH));
  EXPECT_EXIT(b, 0);
  EXPECT_ERR(syscall(SYS_execveat, file, "", argv, NULL, 0), ENOENT);
  EXPECT_ERR(syscall(SYS_execveat, dir, "true", argv, NULL, 0x8000000), EINVAL);
  OK(symlink("/bin/true", "link"));
  EXPECT_ERR(syscall(SYS_execveat, AT_FDCWD, "link", argv, NULL, AT_SYMLINK_NOFOLLOW), ELOOP);
}
TEST(signals_over_exec) {
  signal(SIGUSR1, SIG_IGN);
  kit_catch(SIGUSR2, 0);
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, SIGHUP);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  char *argv[] = {"sh", "-c", "grep -q 'SigIgn:.*[2367abef]..$' /proc/self/status && grep -q 'SigCgt:.*0000$' /proc/$$/status; exit 0", NULL};
  EXPECT_EQ(status_of("/bin/sh", argv, environ), 0);
  IN_CHILD(ignoring, execl("/bin/sh", "sh", "-c", "kill -USR1 $$; exit 3", NULL));
  EXPECT_EXIT(ignoring, 3);
  IN_CHILD(caught, execl("/bin/sh", "sh", "-c", "kill -USR2 $$; exit 3", NULL));
  EXPECT_KILLED(caught, SIGUSR2);
  IN_CHILD(blocked, execl("/bin/sh", "sh", "-c", "kill -HUP $$; exit 3", NULL));
  EXPECT_EXIT(blocked, 3);
}
TEST(pid_survives_and_comm_changes) {
  char script[100];
  IN_CHILD(pid, {
    sprintf(script, "[ $$ = %d ] && [ \"$(cat /proc/$$/comm)\" = dash -o \"$(cat /proc/$$/comm)\" = sh ]", getpid());
    execl("/bin/sh", "sh", "-c", script, NULL);
  });
  EXPECT_EXIT(pid, 0);
}
static void *exec_body(void *argument) {
  execl("/bin/sh", "sh", "-c", argument, NULL);
  return NULL;
}
static void *sleep_body(void *argument) {
  for (;;) pause();
  return argument;
}
TEST(exec_in_a_thread_ends_the_others) {
  IN_CHILD(pid, {
    pthread_t t;
    for (int i = 0; i < 4; i++) pthread_create(&t, NULL, sleep_body, NULL);
    char script[64];
    sprintf(script, "[ $$ = %d ] && exit 6", getpid());
    pthread_create(&t, NULL, exec_body, script);
    for (;;) pause();
  });
  EXPECT_EXIT(pid, 6);
}
TEST(auxiliary_vector) {
  EXPECT_EQ(getauxval(AT_PAGESZ), 4096);
  EXPECT_TRUE(getauxval(AT_PHDR) && getauxval(AT_PHNUM) && getauxval(AT_ENTRY) && getauxval(AT_RANDOM));
  EXPECT_EQ(getauxval(AT_UID), getuid());
  EXPECT_EQ(getauxval(AT_CLKTCK), 100);
  EXPECT_EQ(getauxval(AT_SECURE), 0);
  EXPECT_TRUE(getauxval(AT_EXECFN));
  EXPECT_STR((char *)getauxval(AT_PLATFORM), "x86_64");
}
TEST(set_user_id_program) {
  NEEDS_ROOT();
  static char b[4 << 20];
  int in = OK(open("/bin/id", O_RDONLY)), out = OK(open("id", O_WRONLY | O_CREAT, 0755));
  ssize_t n = OK(read(in, b, sizeof b));
  ASSERT_EQ(write(out, b, n), n);
  close(out);
  OK(chown("id", 4321, 0));
  OK(chmod("id", 04755));
  OK(chmod(".", 0755));
  EXPECT_EQ(shell("[ $(./id -u) = 4321 ] && [ $(./id -ru) = 0 ]"), 0);
}
TEST(busy_text_file) {
  static char b[4 << 20];
  int in = OK(open("/bin/true", O_RDONLY)), out = OK(open("t", O_WRONLY | O_CREAT, 0755));
  ssize_t n = OK(read(in, b, sizeof b));
  ASSERT_EQ(write(out, b, n), n);
  char *argv[] = {"t", NULL};
  EXPECT_ERR(execve("./t", argv, NULL), ETXTBSY);
  close(out);
  EXPECT_EQ(status_of("./t", argv, NULL), 0);
}

// ---- malformed ELF files: exec fails or the program dies; the system lives.
static char image[4 << 20];
static size_t image_size;
static void load_image(void) {
  int in = OK(open("/proc/self/exe", O_RDONLY));
  image_size = OK(read(in, image, sizeof image));
}
static void try_image(const char *what, size_t size, int wanted_errno) {
  int out = OK(open("e", O_WRONLY | O_CREAT | O_TRUNC, 0755));
  ASSERT_EQ(write(out, image, size), size);
  close(out);
  int p[2], error = 0;
  OK(pipe2(p, O_CLOEXEC));
  pid_t pid = OK(fork());
  if (!pid) {
    char *argv[] = {"e", "--list", "no-such-test", NULL};
    execve("./e", argv, NULL);
    error = errno;
    write(p[1], &error, sizeof error);
    _exit(1);
  }
  close(p[1]);
  read(p[0], &error, sizeof error);
  close(p[0]);
  int status = kit_wait(pid);
  if (wanted_errno && error != wanted_errno)
    kit_fail(__FILE__, __LINE__, "%s: errno %d, status 0x%x, wanted errno %d", what, error, status, wanted_errno);
}
TEST(elf_intact) {
  load_image();
  int out = OK(open("e", O_WRONLY | O_CREAT | O_TRUNC, 0755));
  ASSERT_EQ(write(out, image, image_size), image_size);
  close(out);
  char *argv[] = {"e", "--list", "no-such-test", NULL};
  EXPECT_EQ(status_of("./e", argv, NULL), 0);
}
#define FIELD(change, wanted)               \
  do {                                      \
    load_image();                           \
    Elf64_Ehdr *h = (Elf64_Ehdr *)image;    \
    Elf64_Phdr *ph = (Elf64_Phdr *)(image + h->e_phoff); \
    (void)ph;                               \
    change;                                 \
    try_image(#change, image_size, wanted); \
  } while (0)
TEST(elf_header_fields) {
  FIELD(h->e_ident[0] = 'X', ENOEXEC);
  FIELD(h->e_machine = EM_AARCH64, ENOEXEC);
  FIELD(h->e_type = ET_REL, ENOEXEC);
  FIELD(h->e_type = ET_CORE, ENOEXEC);
  FIELD(h->e_phentsize = 1, ENOEXEC);
  FIELD(h->e_phentsize = 0xffff, ENOEXEC);
  FIELD(h->e_phnum = 0, ENOEXEC);
  FIELD(h->e_phnum = 0xffff, ENOEXEC);
  FIELD(h->e_phoff = ~0UL, 0);
  FIELD(h->e_phoff = image_size - 1, 0);
  FIELD(h->e_entry = ~0UL, 0);
  FIELD(h->e_entry = 0xffffffff80000000UL, 0);
}
TEST(elf_truncated) {
  load_image();
  size_t sizes[] = {1, 4, 16, 63, 64, 65, 120, 500, 4096};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) try_image("truncated", sizes[i], sizes[i] < 64 ? ENOEXEC : 0);
}
static Elf64_Phdr *first_load(void) {
  Elf64_Ehdr *h = (Elf64_Ehdr *)image;
  Elf64_Phdr *ph = (Elf64_Phdr *)(image + h->e_phoff);
  while (ph->p_type != PT_LOAD) ph++;
  return ph;
}
TEST(elf_segment_fields) {
  static const unsigned long values[] = {0, 1, 0x1001, 1UL << 40, 1UL << 46, 1UL << 47, 1UL << 62, ~0UL, ~0UL - 4095};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    for (int field = 0; field < 5; field++) {
      load_image();
      Elf64_Phdr *ph = first_load();
      unsigned long *fields[] = {&ph->p_vaddr, &ph->p_memsz, &ph->p_filesz, &ph->p_offset, &ph->p_align};
      *fields[field] = values[i];
      try_image("segment", image_size, 0);
    }
}
TEST(elf_interpreter) {
  load_image();
  Elf64_Phdr *ph = first_load();
  ph->p_type = PT_INTERP, ph->p_offset = image_size + 100, ph->p_filesz = 20;
  try_image("interp beyond the end", image_size, 0);
  load_image();
  ph = first_load();
  ph->p_type = PT_INTERP, ph->p_offset = 0, ph->p_filesz = 0;
  try_image("empty interp", image_size, ENOEXEC);
  load_image();
  ph = first_load();
  ph->p_type = PT_INTERP, ph->p_offset = 0, ph->p_filesz = 5000;
  try_image("long interp", image_size, ENOEXEC);
  load_image();
  ph = first_load();
  ph->p_type = PT_INTERP, ph->p_offset = 0, ph->p_filesz = 64;
  try_image("interp without an end", image_size, 0);
}
TEST_TIMEOUT(elf_random_bytes, 40) {
  unsigned seed = 12345;
  for (int round = 0; round < 150; round++) {
    load_image();
    for (int k = 0; k < 3; k++) {
      seed = seed * 1103515245 + 12345;
      unsigned at = seed >> 8;
      seed = seed * 1103515245 + 12345;
      image[at % 500] = (char)(seed >> 16);
    }
    int out = OK(open("e", O_WRONLY | O_CREAT | O_TRUNC, 0755));
    write(out, image, image_size);
    close(out);
    pid_t pid = OK(fork());
    if (!pid) {
      char *argv[] = {"e", "--list", "no-such-test", NULL};
      alarm(1);
      execve("./e", argv, NULL);
      _exit(1);
    }
    kit_wait(pid);
  }
}
