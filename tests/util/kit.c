// SPDX-License-Identifier: Apache-2.0
#include "kit.h"

#include <dirent.h>
#include <ftw.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <time.h>

static struct kit_case *first_case, **last_case = &first_case;
static int failures;
static pid_t test_pid;
static char skip_reason_path[160];
static const char *topic;

volatile sig_atomic_t kit_signals[65];

void kit_register(struct kit_case *c) {
  *last_case = c;
  last_case = &c->next;
}

void kit_fail(const char *file, int line, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const char *base = strrchr(file, '/');
  dprintf(1, "# %s:%d: %s\n", base ? base + 1 : file, line, text);
  failures++;
}

bool kit_failed(void) { return failures != 0; }
void kit_give_up(void) { _exit(1); }

void kit_skip(const char *reason) {
  int fd = open(skip_reason_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd >= 0) {
    (void)!write(fd, reason, strlen(reason));
    close(fd);
  }
  _exit(77);
}

int kit_wait(pid_t pid) {
  int status = -1;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return status;
}

long kit_page(void) { return 4096; }

long long kit_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void kit_sleep_ms(int ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
  while (nanosleep(&t, &t) < 0 && errno == EINTR) {
  }
}

void kit_write_file(const char *path, const char *text) {
  int fd = OK(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  ASSERT_EQ(write(fd, text, strlen(text)), strlen(text));
  close(fd);
}

char *kit_read_file(const char *path) {
  int fd = open(path, O_RDONLY);
  if (fd < 0) {
    kit_fail(__FILE__, __LINE__, "open %s: %s", path, strerrorname_np(errno));
    kit_give_up();
  }
  size_t size = 0, room = 65536;
  char *text = malloc(room);
  for (;;) {
    if (size + 4097 > room) text = realloc(text, room *= 2);
    ssize_t n = read(fd, text + size, 4096);
    if (n < 0) {
      kit_fail(__FILE__, __LINE__, "read %s: %s", path, strerrorname_np(errno));
      kit_give_up();
    }
    if (n == 0) break;
    size += (size_t)n;
  }
  text[size] = 0;
  close(fd);
  return text;
}

static void count_signal(int signo) { kit_signals[signo]++; }

void kit_catch(int signo, int flags) {
  struct sigaction action = {.sa_flags = flags};
  action.sa_handler = count_signal;
  OK(sigaction(signo, &action, NULL));
}

void kit_wait_asleep(pid_t pid) {
  char path[64], text[256];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  for (int i = 0; i < 200; i++) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n > 0) {
      text[n] = 0;
      char *end = strrchr(text, ')');
      if (end && end[1] && end[2] == 'S') break;
    }
    kit_sleep_ms(5);
  }
  kit_sleep_ms(10);
}

void *const *kit_bad_pointers(enum kit_bad kind, size_t size) {
  static void *list[8];
  static char *pages;
  const long page = kit_page();
  if (!pages) {  // unmapped, readable-writable, none, read-only, unmapped
    pages = mmap(NULL, 5 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(pages + 2 * page, page, PROT_NONE);
    mprotect(pages + 3 * page, page, PROT_READ);
    munmap(pages, page);
    munmap(pages + 4 * page, page);
  }
  size_t i = 0;
  list[i++] = pages;
  list[i++] = pages + 2 * page;
  if (size > 1 && size <= (size_t)page) list[i++] = pages + 2 * page - (size - 1);  // its last byte is not there
  list[i++] = (void *)0xffffffff80000000UL;
  list[i++] = (void *)0x0000800000000000UL;
  if (kind == kBadWrite) list[i++] = pages + 3 * page;
  list[i] = NULL;
  return list;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st;
  (void)ftw;
  if (type == FTW_DP || type == FTW_D || type == FTW_DNR) rmdir(path); else unlink(path);
  return 0;
}

static void remove_tree(const char *path) {
  chmod(path, 0700);
  nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static bool selected(const char *name, char **filters) {
  if (!*filters) return true;
  for (; *filters; filters++)
    if (strstr(name, *filters)) return true;
  return false;
}

static int wait_limited(pid_t pid, int seconds, bool *timed_out) {
  int status = 0;
  long long deadline = kit_now_ns() + seconds * 1000000000LL;
  for (int pause_us = 200;; pause_us = pause_us < 5000 ? pause_us * 2 : 5000) {
    pid_t done = waitpid(pid, &status, WNOHANG);
    if (done == pid) break;
    if (kit_now_ns() > deadline) {
      *timed_out = true;
      kill(-pid, SIGKILL);
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      break;
    }
    usleep(pause_us);
  }
  kill(-pid, SIGKILL);
  return status;
}

static int run_case(struct kit_case *c) {
  char directory[128];
  const char *base = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
  snprintf(directory, sizeof directory, "%s/guest-test.XXXXXX", base);
  if (!mkdtemp(directory)) {
    printf("not ok %s.%s - mkdtemp in %s: %s\n", topic, c->name, base, strerrorname_np(errno));
    return 1;
  }
  snprintf(skip_reason_path, sizeof skip_reason_path, "%s.skip", directory);
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    prctl(PR_SET_NAME, "test");
    umask(022);
    test_pid = getpid();
    if (chdir(directory) < 0) _exit(99);
    c->run();
    fflush(stdout);
    _exit(failures ? 1 : 0);
  }
  if (pid < 0) {
    printf("not ok %s.%s - fork: %s\n", topic, c->name, strerrorname_np(errno));
    return 1;
  }
  bool timed_out = false;
  int status = wait_limited(pid, c->timeout_s, &timed_out), bad = 0;
  if (timed_out) {
    printf("not ok %s.%s - no end after %d s\n", topic, c->name, c->timeout_s), bad = 1;
  } else if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    printf("ok %s.%s\n", topic, c->name);
  } else if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
    char reason[200] = "?";
    int fd = open(skip_reason_path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, reason, sizeof reason - 1);
    if (n > 0) reason[n] = 0;
    if (fd >= 0) close(fd);
    printf("skip %s.%s - %s\n", topic, c->name, reason);
  } else if (WIFEXITED(status)) {
    printf("not ok %s.%s - exit %d\n", topic, c->name, WEXITSTATUS(status)), bad = 1;
  } else {
    printf("not ok %s.%s - killed by signal %d\n", topic, c->name, WTERMSIG(status)), bad = 1;
  }
  fflush(stdout);
  unlink(skip_reason_path);
  remove_tree(directory);
  return bad;
}

int main(int argc, char **argv) {
  (void)argc;
  static char name[64];
  const char *base = strrchr(argv[0], '/');
  snprintf(name, sizeof name, "%s", base ? base + 1 : argv[0]);
  char *suffix = strstr(name, "_test");
  if (suffix) *suffix = 0;
  topic = name;
  bool list = argv[1] && !strcmp(argv[1], "--list");
  char **filters = argv + 1 + list;
  int bad = 0;
  for (struct kit_case *c = first_case; c; c = c->next) {
    if (!selected(c->name, filters)) continue;
    if (list) printf("%s.%s\n", topic, c->name);
    else bad += run_case(c);
  }
  return bad != 0;
}
