// SPDX-License-Identifier: Apache-2.0
// Answers about absolute paths that processes have in common: each sees what it would have been told itself, whatever the others are, may do
// and have asked before.
#include "agree.h"

#include <grp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mount.h>

static char base[256];
static char path[512];
static const char *in(const char *name) {
  snprintf(path, sizeof path, "%s/%s", base, name);
  return path;
}

static const char *const kNames[] = {"f", "none", "d", "d/a", "d/none", "s", "dangling", "l/a", ""};
// Twice: by now somebody has asked.
static int all_agree(void) {
  int good = 1;
  for (int i = 0; i < 2; ++i)
    for (size_t k = 0; k < sizeof kNames / sizeof *kNames; ++k) good &= agree(AT_FDCWD, in(kNames[k]), 0) & agree(AT_FDCWD, in(kNames[k]), AT_SYMLINK_NOFOLLOW);
  return good;
}
static void make_tree(void) {
  ASSERT_TRUE(getcwd(base, sizeof base) != NULL);
  OK(chmod(".", 0755));
  OK(mkdir("d", 0755));
  kit_write_file("f", "hello");
  kit_write_file("d/a", "a");
  OK(symlink("d", "l"));
  OK(symlink("f", "s"));
  OK(symlink("nowhere", "dangling"));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(all_agree());
}
#define ELSEWHERE(what)                              \
  do {                                               \
    IN_CHILD(child, what; EXPECT_TRUE(all_agree())); \
    EXPECT_EXIT(child, 0);                           \
    ASSERT_TRUE(all_agree());                        \
  } while (0)

TEST(stat_common_changes) {
  make_tree();
  ELSEWHERE((void)0);
  ELSEWHERE(kit_write_file("none", "x"));
  ELSEWHERE(OK(unlink("none")));
  ELSEWHERE(kit_write_file("d/none", "x"));
  ELSEWHERE(OK(rename("d/none", "none")));
  ELSEWHERE(OK(chmod("f", 0600)));
  ELSEWHERE(OK(chmod("d", 0700)));
  ELSEWHERE(OK(truncate("f", 100)));
  ELSEWHERE(OK(rename("d", "e")));
  ELSEWHERE(OK(symlink("e", "d")));
  ELSEWHERE(OK(unlink("d")); OK(rename("e", "d")));
  ELSEWHERE(OK(unlink("s")); OK(symlink("d/a", "s")));
  ELSEWHERE(kit_write_file("nowhere", "x"));
  ELSEWHERE(OK(unlink("nowhere")); OK(unlink("none")));
  ELSEWHERE(OK(syscall(SYS_renameat2, AT_FDCWD, "d", AT_FDCWD, "f", 2)));
  ELSEWHERE(OK(syscall(SYS_renameat2, AT_FDCWD, "d", AT_FDCWD, "f", 2)));
}

// What a descriptor is says its last open(2), whoever had the number before.
TEST(stat_common_descriptors) {
  make_tree();
  static const char *const names[] = {"f", "d/a", "d", "s", "l/a"};
  for (int i = 0; i < 600; ++i) {
    struct stat a, b;
    char again[512], name[512];
    strcpy(name, in(names[i % 5]));
    const int fd = OK(open(name, O_RDONLY));
    if (i % 7 == 0) {
      IN_CHILD(child, OK(truncate(in("f"), i)); OK(truncate(in("d/a"), i + 1)));
      EXPECT_EXIT(child, 0);
    }
    memset(&a, 1, sizeof a), memset(&b, 2, sizeof b);
    OK(fstat(fd, &a));
    OK(stat(longer(name, again), &b));
    ASSERT_TRUE(memcmp(&a, &b, sizeof a) == 0);
    if (i % 3 == 0) {
      const int other = OK(open(in("f"), O_RDONLY));
      OK(dup2(other, fd));
      OK(fstat(fd, &a)), OK(stat(longer(in("f"), again), &b));
      ASSERT_TRUE(a.st_ino == b.st_ino);
      OK(close(other));
      EXPECT_ERR(fstat(other, &a), EBADF);
    }
    OK(close(fd));
    EXPECT_ERR(fstat(fd, &a), EBADF);
  }
}

TEST(stat_common_rights) {
  NEEDS_ROOT();
  make_tree();
  OK(chmod("d", 0700));
  for (int i = 0; i < 10; ++i) {
    ELSEWHERE(OK(chown("f", 0, 0)); OK(chmod("f", 0600)));
    IN_CHILD(child, OK(setgroups(0, NULL)); OK(setresgid(1000, 1000, 1000)); OK(setresuid(1000, 1000, 1000)); struct stat st;
             for (int k = 0; k < 5; ++k) {
               EXPECT_ERR(stat(in("d/a"), &st), EACCES);
               EXPECT_ERR(access(in("f"), R_OK), EACCES);
               EXPECT_ERR(access(in("d/none"), F_OK), EACCES);
               EXPECT_ERR(open(in("d/none"), O_RDONLY), EACCES);
               EXPECT_ERR(readlink(in("d/a"), path, 10), EACCES);
             } EXPECT_TRUE(all_agree()));
    EXPECT_EXIT(child, 0);
    // Without a change of ids: what root may do is a matter of capabilities.
    IN_CHILD(weak, struct { uint32_t version, pid; } header = {0x20080522, 0}; struct { uint32_t effective, permitted, inheritable; } data[2];
             OK(syscall(SYS_capget, &header, data)); data[0].effective &= ~6u; data[0].permitted &= ~6u; OK(syscall(SYS_capset, &header, data));
             OK(chmod(in("f"), 0)); EXPECT_ERR(access(in("f"), R_OK), EACCES); EXPECT_TRUE(all_agree()));
    EXPECT_EXIT(weak, 0);
    OK(access(in("f"), R_OK));
    IN_CHILD(group, OK(syscall(SYS_setresgid, 1000, 1000, 1000)); OK(chmod(in("f"), 0060)); OK(chown(in("f"), 5, 1000));
             OK(syscall(SYS_setresuid, 1000, 1000, 1000)); for (int k = 0; k < 3; ++k) OK(access(in("f"), R_OK | W_OK)));
    EXPECT_EXIT(group, 0);
    IN_CHILD(none, OK(setgroups(0, NULL)); OK(syscall(SYS_setresuid, 1000, 1000, 1000)); for (int k = 0; k < 3; ++k) EXPECT_ERR(access(in("f"), R_OK), EACCES));
    EXPECT_EXIT(none, 0);
  }
}

// Two threads of one process with different rights.
static atomic_int threads_done, threads_bad;
static void *weak_thread(void *unused) {
  struct stat st;
  char name[512];
  snprintf(name, sizeof name, "%s/d/a", base);
  if (syscall(SYS_setresuid, 1000, 1000, 1000) != 0) atomic_store(&threads_bad, 1);
  for (int i = 0; i < 3000; ++i)
    if (stat(name, &st) == 0 || errno != EACCES) atomic_store(&threads_bad, 2);
  atomic_store(&threads_done, 1);
  return unused;
}
TEST(stat_common_threads) {
  NEEDS_ROOT();
  make_tree();
  OK(chmod("d", 0700));
  pthread_t thread;
  struct stat st;
  EXPECT_EQ(pthread_create(&thread, NULL, weak_thread, NULL), 0);
  while (!atomic_load(&threads_done) && !atomic_load(&threads_bad)) OK(stat(in("d/a"), &st));
  pthread_join(thread, NULL);
  EXPECT_EQ(threads_bad, 0);
}

TEST(stat_common_namespaces) {
  NEEDS_ROOT();
  make_tree();
  for (int i = 0; i < 5; ++i) {
    IN_CHILD(mounts, if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) _exit(0); struct stat st;
             for (int k = 0; k < 3; ++k) OK(stat(in("d/a"), &st)); if (mount("none", in("d"), "tmpfs", 0, NULL) != 0) _exit(0);
             EXPECT_ERR(stat(in("d/a"), &st), ENOENT); EXPECT_TRUE(all_agree()); EXPECT_ERR(stat(in("d/a"), &st), ENOENT);
             OK(umount(in("d"))); OK(stat(in("d/a"), &st)));
    EXPECT_EXIT(mounts, 0);
    ASSERT_TRUE(all_agree());
    struct stat st;
    OK(stat(in("d/a"), &st));
    IN_CHILD(users, if (unshare(CLONE_NEWUSER) != 0) _exit(0); struct stat inner; OK(stat(in("f"), &inner)); EXPECT_TRUE(inner.st_uid != 0);
             EXPECT_TRUE(all_agree()); OK(stat(in("f"), &inner)); EXPECT_TRUE(inner.st_uid != 0));
    EXPECT_EXIT(users, 0);
    OK(stat(in("f"), &st));
    EXPECT_EQ(st.st_uid, 0);
    IN_CHILD(pivot, if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) _exit(0);
             if (mount("none", "d", "tmpfs", 0, NULL) != 0) _exit(0); OK(mkdir("d/old", 0755)); OK(stat(in("f"), &st));
             if (syscall(SYS_pivot_root, "d", "d/old") != 0) _exit(0); EXPECT_ERR(stat(in("f"), &st), ENOENT); EXPECT_ERR(access(in("f"), F_OK), ENOENT);
             EXPECT_TRUE(all_agree()); OK(stat("/old", &st)));
    EXPECT_EXIT(pivot, 0);
    OK(stat(in("f"), &st));
  }
}

TEST(stat_common_roots) {
  NEEDS_ROOT();
  make_tree();
  kit_write_file("d/inner", "x");
  for (int i = 0; i < 5; ++i) {
    struct stat st;
    EXPECT_ERR(stat("/inner", &st), ENOENT);
    EXPECT_ERR(access("/a", F_OK), ENOENT);
    IN_CHILD(child, for (int k = 0; k < 3; ++k) EXPECT_ERR(stat("/inner", &st), ENOENT); OK(chroot("d")); for (int k = 0; k < 3; ++k) {
      OK(stat("/inner", &st));
      OK(access("/a", R_OK));
      EXPECT_ERR(stat(in("f"), &st), ENOENT);
    } OK(chdir("/")); OK(stat("/inner", &st)));
    EXPECT_EXIT(child, 0);
  }
}

// One thread moves the root that both have; the other one sees that at once.
static atomic_int root_step, root_stop, root_bad;
static int outer_fd;
static void *moving_thread(void *unused) {
  for (int i = 0; i < 1500; ++i) {
    if (syscall(SYS_chroot, "d") != 0) atomic_store(&root_bad, 1);
    atomic_fetch_add(&root_step, 1);
    for (int k = 0; k < i % 50; ++k) sched_yield();
    atomic_fetch_add(&root_step, 1);
    if (fchdir(outer_fd) != 0 || syscall(SYS_chroot, ".") != 0) atomic_store(&root_bad, 2);
    atomic_fetch_add(&root_step, 1);
    for (int k = 0; k < i % 50; ++k) sched_yield();
    if (fchdir(outer_fd) != 0 || chdir(base) != 0) atomic_store(&root_bad, 3);
    atomic_fetch_add(&root_step, 1);
  }
  atomic_store(&root_stop, 1);
  return unused;
}
TEST(stat_common_moving_root) {
  NEEDS_ROOT();
  make_tree();
  kit_write_file("d/inner", "x");
  outer_fd = OK(open("/", O_RDONLY | O_DIRECTORY));
  struct stat st;
  for (int i = 0; i < 20; ++i) EXPECT_ERR(stat("/inner", &st), ENOENT);
  pthread_t thread;
  EXPECT_EQ(pthread_create(&thread, NULL, moving_thread, NULL), 0);
  while (!atomic_load(&root_stop) && !atomic_load(&root_bad)) {
    const int before = atomic_load(&root_step);
    const int found = stat("/inner", &st) == 0, readable = access("/inner", R_OK) == 0;
    if (atomic_load(&root_step) != before) continue;
    // 1: it is inside; 3: outside; 0 and 2: on its way.
    if (before % 4 == 1 && !(found && readable)) atomic_store(&root_bad, 4);
    if (before % 4 == 3 && (found || readable)) atomic_store(&root_bad, 5);
  }
  pthread_join(thread, NULL);
  EXPECT_EQ(root_bad, 0);
}

// What another process has said it did is seen.
struct shared {
  atomic_int made, size, stop, bad;
};
TEST(stat_common_processes) {
  make_tree();
  struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t children[2];
  for (int c = 0; c < 2; ++c) {
    if ((children[c] = fork()) != 0) continue;
    struct stat st;
    while (!atomic_load(&s->stop) && !atomic_load(&s->bad)) {
      char name[64];
      const int size = atomic_load(&s->size), made = atomic_load(&s->made);
      if (stat(in("f"), &st) != 0 || st.st_size < size) atomic_store(&s->bad, 1);
      for (int i = made > 2 ? made - 2 : 1; i <= made + 2; ++i) {
        snprintf(name, sizeof name, "d/%d", i);
        const int there = i % 2 == 0 ? access(in(name), R_OK) == 0 : lstat(in(name), &st) == 0;
        if (!there && i <= made && atomic_load(&s->made) < i + 8) atomic_store(&s->bad, 2);
      }
      if (made > 12) {
        snprintf(name, sizeof name, "d/%d", made - 10);
        if (access(in(name), F_OK) == 0 || open(in(name), O_RDONLY) >= 0) atomic_store(&s->bad, 3);
      }
    }
    _exit(0);
  }
  const int fd = OK(open("f", O_WRONLY | O_TRUNC));
  atomic_store(&s->size, 0);
  for (int i = 1; i < 4000 && !atomic_load(&s->bad); ++i) {
    char name[64];
    EXPECT_EQ(write(fd, "x", 1), 1);
    atomic_store(&s->size, i);
    snprintf(name, sizeof name, "d/%d", i);
    kit_write_file(name, "");
    atomic_store(&s->made, i);
    snprintf(name, sizeof name, "d/%d", i - 8);
    if (i > 8) OK(unlink(name));
  }
  atomic_store(&s->stop, 1);
  for (int c = 0; c < 2; ++c) waitpid(children[c], NULL, 0);
  EXPECT_EQ(s->bad, 0);
}
