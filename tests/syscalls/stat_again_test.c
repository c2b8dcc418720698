// SPDX-License-Identifier: Apache-2.0
// stat(2), readlink(2), access(2) and failing open(2) of names that were asked for before: whatever changes, and whoever changes it, the
// next answer shows it. They are compared with what is said of the same name in more letters.
#include "agree.h"

#include <grp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/xattr.h>

static const char *const kPaths[] = {"f", "g", "none", "d", "d/a", "d/b", "d/none", "l", "l/a", "s", "d/../f", "./g", "d/sub", "d/sub/x", "dangling"};
static int dir_fd;
static char absolute[256];

// Each name in each way; twice, so that what was left ahead by the first round is looked at, too.
static int all_agree(void) {
  int good = 1;
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < sizeof kPaths / sizeof *kPaths; ++i) {
      char full[512];
      snprintf(full, sizeof full, "%s/%s", absolute, kPaths[i]);
      good &= agree(AT_FDCWD, kPaths[i], 0) & agree(AT_FDCWD, kPaths[i], AT_SYMLINK_NOFOLLOW) & agree(AT_FDCWD, full, 0);
    }
    for (int i = 0; i < 4; ++i) {
      const char *const names[] = {"a", "b", "none", "sub"};
      good &= agree(dir_fd, names[i], 0) & agree(dir_fd, names[i], AT_SYMLINK_NOFOLLOW);
    }
    good &= agree(dir_fd, "", AT_EMPTY_PATH);
  }
  return good;
}

static void make_tree(void) {
  OK(mkdir("d", 0755));
  OK(mkdir("d/sub", 0755));
  kit_write_file("f", "hello");
  kit_write_file("g", "hello");
  kit_write_file("d/a", "a");
  kit_write_file("d/b", "b");
  kit_write_file("d/sub/x", "x");
  OK(symlink("d", "l"));
  OK(symlink("f", "s"));
  OK(symlink("nowhere", "dangling"));
  dir_fd = OK(open("d", O_RDONLY | O_DIRECTORY));
  ASSERT_TRUE(getcwd(absolute, sizeof absolute) != NULL);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(all_agree());
}

#define CHANGE(what) \
  do {               \
    what;            \
    ASSERT_TRUE(all_agree()); \
  } while (0)

static void change_names(void) {
  make_tree();
  CHANGE(kit_write_file("none", "now"));
  CHANGE(OK(unlink("none")));
  CHANGE(kit_write_file("d/none", "now"));
  CHANGE(OK(rename("d/none", "none")));
  CHANGE(OK(rename("none", "f")));
  CHANGE(OK(link("f", "none")));
  CHANGE(OK(unlink("f")));
  CHANGE(OK(rename("d", "none2")));
  CHANGE(OK(rename("none2", "d")));
  CHANGE(OK(unlink("l")));
  CHANGE(OK(symlink("d/sub", "l")));
  CHANGE(OK(rename("d/b", "l")));
  CHANGE(OK(syscall(SYS_renameat2, AT_FDCWD, "d/a", AT_FDCWD, "g", 2 /* RENAME_EXCHANGE */)));
  CHANGE(OK(syscall(SYS_renameat2, AT_FDCWD, "d", AT_FDCWD, "g", 2)));
  CHANGE(OK(syscall(SYS_renameat2, AT_FDCWD, "d", AT_FDCWD, "g", 2)));
  CHANGE(OK(unlink("d/sub/x")));
  CHANGE(OK(rmdir("d/sub")));
  CHANGE(OK(mkdir("d/sub", 0700)));
  CHANGE(kit_write_file("nowhere", "somewhere"));
  CHANGE(OK(unlink("nowhere")));
  CHANGE(OK(unlink("none")));
  CHANGE(OK(mkfifo("none", 0600)));
}

TEST(stat_again_names) { change_names(); }

static void change_attributes(void) {
  make_tree();
  int fd = OK(open("f", O_RDWR));
  CHANGE(EXPECT_EQ(write(fd, "longer than before", 18), 18));
  CHANGE(OK(ftruncate(fd, 3)));
  CHANGE(OK(truncate("g", 100000)));
  CHANGE(OK(fallocate(fd, 0, 0, 20000)));
  CHANGE(OK(chmod("f", 0600)));
  CHANGE(OK(fchmod(dir_fd, 0711)));
  const struct timespec times[2] = {{1000, 1}, {2000, 2}};
  CHANGE(OK(utimensat(AT_FDCWD, "f", times, 0)));
  CHANGE(OK(link("f", "d/f2")));
  CHANGE(OK(unlink("d/f2")));
  CHANGE(OK(mkdir("d/more", 0755)));
  CHANGE(OK(rmdir("d/more")));
  CHANGE(close(OK(open("g", O_WRONLY | O_TRUNC))));
  CHANGE(EXPECT_EQ(pwrite(fd, "x", 1, 1 << 20), 1));
  if (setxattr("f", "user.a", "1", 1, 0) == 0) ASSERT_TRUE(all_agree());
  char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ASSERT_TRUE(map != MAP_FAILED);
  ASSERT_TRUE(all_agree());
  for (int i = 0; i < 4; ++i) CHANGE(map[i * 65536 + 70000] = 1);
  // Reading, listing.
  char buffer[4096];
  fd = OK(open("d/a", O_RDONLY));
  OK(utimensat(AT_FDCWD, "d/a", times, 0));
  CHANGE(EXPECT_EQ(read(fd, buffer, sizeof buffer), 1));
  OK(utimensat(AT_FDCWD, "d", times, 0));
  CHANGE(EXPECT_GT(syscall(SYS_getdents64, dir_fd, buffer, sizeof buffer), 0));
  CHANGE(OK(futimens(fd, times)));
  CHANGE(OK(fchmodat(AT_FDCWD, "d/a", 0444, 0)));
}
TEST(stat_again_attributes) { change_attributes(); }

// A descriptor's number says nothing of what it is.
TEST(stat_again_descriptors) {
  make_tree();
  struct stat a, b;
  int fd = OK(open("f", O_RDONLY)), other = OK(open("d/a", O_RDONLY));
  for (int i = 0; i < 30; ++i) OK(fstat(fd, &a)), OK(fstat(other, &b));
  EXPECT_TRUE(a.st_ino != b.st_ino);
  OK(dup2(other, fd));
  OK(fstat(fd, &a));
  EXPECT_EQ(a.st_ino, b.st_ino);
  OK(close(fd));
  EXPECT_ERR(fstat(fd, &a), EBADF);
  EXPECT_ERR(fstatat(fd, "", &a, AT_EMPTY_PATH), EBADF);
  EXPECT_EQ(open("g", O_RDONLY), fd);
  OK(fstat(fd, &a));
  OK(stat("g", &b));
  EXPECT_EQ(a.st_ino, b.st_ino);
  // The same for names that begin at it.
  int sub = OK(open("d/sub", O_RDONLY));
  for (int i = 0; i < 30; ++i) EXPECT_ERR(fstatat(sub, "a", &a, 0), ENOENT);
  OK(dup2(dir_fd, sub));
  OK(fstatat(sub, "a", &a, 0));
  OK(dup2(fd, sub));
  EXPECT_ERR(fstatat(sub, "a", &a, 0), ENOTDIR);
  int copy = OK(dup(dir_fd));
  OK(close(dir_fd));
  EXPECT_ERR(fstatat(dir_fd, "a", &a, 0), EBADF);
  OK(fstatat(copy, "a", &a, 0));
  IN_CHILD(child, OK(fstatat(copy, "a", &a, 0)); EXPECT_ERR(fstatat(dir_fd, "a", &a, 0), EBADF));
  EXPECT_EXIT(child, 0);
}

TEST(stat_again_places) {
  make_tree();
  kit_write_file("d/f", "another f");
  ASSERT_TRUE(all_agree());
  struct stat outer, inner;
  OK(stat("f", &outer));
  OK(chdir("d"));
  OK(stat("f", &inner));
  EXPECT_TRUE(outer.st_ino != inner.st_ino);
  OK(chdir(".."));
  OK(stat("f", &inner));
  EXPECT_EQ(inner.st_ino, outer.st_ino);
  OK(fchdir(dir_fd));
  OK(stat("f", &inner));
  EXPECT_TRUE(outer.st_ino != inner.st_ino);
  if (geteuid() == 0) {
    char path[300];
    snprintf(path, sizeof path, "%s/d/f", absolute);
    for (int i = 0; i < 30; ++i) OK(stat("/f", &inner) == 0 || errno == ENOENT ? 0 : -1), OK(stat(path, &inner));
    OK(chroot("."));
    OK(stat("/f", &inner));
    EXPECT_TRUE(outer.st_ino != inner.st_ino);
    EXPECT_ERR(stat(path, &inner), ENOENT);
  }
}

TEST(stat_again_rights) {
  if (geteuid() != 0) SKIP("needs root");
  make_tree();
  OK(chmod(".", 0755));
  OK(chmod("d", 0700));
  OK(setgroups(0, NULL));
  struct stat st;
  for (int i = 0; i < 30; ++i) OK(stat("d/a", &st)), OK(stat("l/a", &st)), OK(fstatat(dir_fd, "a", &st, 0));
  // Only of this thread, as the call is made without the C library.
  OK(syscall(SYS_setresuid, 1000, 1000, 0));
  EXPECT_ERR(stat("d/a", &st), EACCES);
  EXPECT_ERR(stat("l/a", &st), EACCES);
  EXPECT_ERR(fstatat(dir_fd, "a", &st, 0), EACCES);
  for (int i = 0; i < 30; ++i) OK(stat("f", &st)), OK(stat("d", &st));
  OK(syscall(SYS_setresuid, 0, 0, 0));
  OK(stat("d/a", &st));
  OK(chmod("d", 0755));
  OK(syscall(SYS_setresuid, 1000, 1000, 0));
  for (int i = 0; i < 30; ++i) OK(stat("d/a", &st)), OK(fstatat(dir_fd, "a", &st, 0));
  IN_CHILD(child, OK(syscall(SYS_setresuid, 0, 0, 0)); OK(chmod("d", 0700)));
  EXPECT_EXIT(child, 0);
  EXPECT_ERR(stat("d/a", &st), EACCES);
  EXPECT_ERR(fstatat(dir_fd, "a", &st, 0), EACCES);
}

// Who may list a directory may not ask for what is in it.
TEST(stat_again_listed) {
  if (geteuid() != 0) SKIP("needs root");
  make_tree();
  OK(chmod(".", 0755));
  OK(chmod("d", 0744));
  OK(syscall(SYS_setresuid, 1000, 1000, 0));
  struct stat st;
  for (int i = 0; i < 100; ++i) OK(stat("f", &st)), OK(stat("g", &st));
  char buffer[4096];
  int fd = OK(open("d", O_RDONLY | O_DIRECTORY));
  EXPECT_TRUE(syscall(SYS_getdents64, fd, buffer, sizeof buffer) > 0);
  EXPECT_ERR(fstatat(fd, "a", &st, 0), EACCES);
  EXPECT_ERR(fstatat(fd, "b", &st, 0), EACCES);
}

TEST(stat_again_mounts) {
  if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) SKIP("no mounts");
  make_tree();
  if (mount("d/sub", "d/sub", NULL, MS_BIND, NULL) != 0) SKIP("no bind mounts");
  ASSERT_TRUE(all_agree());
  OK(umount("d/sub"));
  ASSERT_TRUE(all_agree());
  if (mount("none", "d", "tmpfs", 0, NULL) != 0) SKIP("no tmpfs");
  ASSERT_TRUE(all_agree());
  struct stat st;
  EXPECT_ERR(stat("d/a", &st), ENOENT);
  OK(fstatat(dir_fd, "a", &st, 0));
  kit_write_file("d/a", "in the tmpfs");
  ASSERT_TRUE(all_agree());
  OK(umount("d"));
  ASSERT_TRUE(all_agree());
  OK(mount("f", "g", NULL, MS_BIND, NULL));
  ASSERT_TRUE(all_agree());
  OK(umount("g"));
  ASSERT_TRUE(all_agree());
}

// Other threads and processes: what they have said they did is seen.
struct shared {
  atomic_int step, seen;
  atomic_int size, made, bad;
};
static void writer(struct shared *s, int steps) {
  const int fd = open("grows", O_WRONLY | O_CREAT | O_APPEND, 0644);
  char name[32];
  for (int i = 1; i <= steps; ++i) {
    if (write(fd, "x", 1) != 1) atomic_store(&s->bad, 1);
    atomic_store(&s->size, i);
    snprintf(name, sizeof name, "made/%d", i);
    close(open(name, O_WRONLY | O_CREAT, 0644));
    atomic_store(&s->made, i);
    if (i > 3) {
      snprintf(name, sizeof name, "made/%d", i - 3);
      if (unlink(name) != 0) atomic_store(&s->bad, 2);
    }
  }
  atomic_store(&s->step, 1);
}
static void reader(struct shared *s) {
  struct stat st;
  char name[32], link[8];
  int fd = -1;
  while (!atomic_load(&s->step) && !atomic_load(&s->bad)) {
    const int size = atomic_load(&s->size);
    if (stat("grows", &st) != 0 ? size > 0 : st.st_size < size) atomic_store(&s->bad, 3);
    const int made = atomic_load(&s->made);
    for (int i = made; i <= made + 4; ++i) {
      snprintf(name, sizeof name, "made/%d", i);
      if (i <= 0) continue;
      const int missing = i % 4 == 0   ? stat(name, &st) != 0
                          : i % 4 == 1 ? readlink(name, link, sizeof link) < 0 && errno == ENOENT
                          : i % 4 == 2 ? access(name, R_OK) != 0
                                       : (fd = open(name, O_RDONLY)) < 0;
      if (fd >= 0) close(fd), fd = -1;
      if (missing && i <= made && atomic_load(&s->made) < i + 3) atomic_store(&s->bad, 4);
    }
    if (made > 8) {
      snprintf(name, sizeof name, "made/%d", made - 5);
      if (stat(name, &st) == 0 || access(name, F_OK) == 0 || open(name, O_RDONLY) >= 0) atomic_store(&s->bad, 5);
    }
  }
}
static void *write_thread(void *s) {
  writer(s, 4000);
  return NULL;
}
TEST(stat_again_threads) {
  static struct shared s;
  OK(mkdir("made", 0755));
  pthread_t thread;
  EXPECT_EQ(pthread_create(&thread, NULL, write_thread, &s), 0);
  reader(&s);
  pthread_join(thread, NULL);
  EXPECT_EQ(s.bad, 0);
}
TEST(stat_again_processes) {
  struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  OK(mkdir("made", 0755));
  const pid_t child = fork();
  if (child == 0) {
    writer(s, 4000);
    _exit(0);
  }
  reader(s);
  waitpid(child, NULL, 0);
  EXPECT_EQ(s->bad, 0);
}

// Anything in any order.
static void change_anything(void) {
  static const char *const names[] = {"a", "b", "c", "d", "d/a", "d/b", "d/c", "e", "e/a", "e/d", "l", "l/a"};
  const int n = sizeof names / sizeof *names;
  unsigned seed = 12345;
  for (int i = 0; i < 6000; ++i) {
    const char *x = names[rand_r(&seed) % n], *y = names[rand_r(&seed) % n];
    switch (rand_r(&seed) % 14) {
      case 0: close(open(x, O_WRONLY | O_CREAT, 0644)); break;
      case 1: unlink(x); break;
      case 2: rename(x, y); break;
      case 3: mkdir(x, 0755); break;
      case 4: rmdir(x); break;
      case 5: symlink(y, x); break;
      case 6: link(x, y); break;
      case 7: truncate(x, rand_r(&seed) % 10000); break;
      case 8: chmod(x, 0600 | (rand_r(&seed) & 0177)); break;
      case 9: syscall(SYS_renameat2, AT_FDCWD, x, AT_FDCWD, y, 2); break;
      case 10: {
        const int fd = open(x, O_WRONLY | O_APPEND);
        if (fd >= 0) write(fd, "more", 4), close(fd);
        break;
      }
      default: break;
    }
    for (int k = 0; k < 12; ++k)
      ASSERT_TRUE(agree_in(rand_r(&seed) % kWays, AT_FDCWD, names[rand_r(&seed) % n], rand_r(&seed) & 1 ? AT_SYMLINK_NOFOLLOW : 0));
  }
}
TEST(stat_again_random) { change_anything(); }

// The same in a tmpfs.
static void go_to_tmpfs(void) {
  if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) SKIP("no mounts");
  OK(mkdir("t", 0755));
  OK(mount("none", "t", "tmpfs", 0, NULL));
  OK(chdir("t"));
}
TEST(stat_again_tmpfs_names) {
  go_to_tmpfs();
  change_names();
}
TEST(stat_again_tmpfs_attributes) {
  go_to_tmpfs();
  change_attributes();
}
TEST(stat_again_tmpfs_random) {
  go_to_tmpfs();
  change_anything();
}
TEST(stat_again_tmpfs_threads) {
  go_to_tmpfs();
  struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  OK(mkdir("made", 0755));
  pthread_t thread;
  EXPECT_EQ(pthread_create(&thread, NULL, write_thread, s), 0);
  reader(s);
  pthread_join(thread, NULL);
  EXPECT_EQ(s->bad, 0);
}
#define SAME(what)                \
  do {                            \
    what;                         \
    OK(fstat(fd, &a));            \
    OK(stat(again, &b));          \
    EXPECT_EQ(memcmp(&a, &b, sizeof a), 0); \
  } while (0)
TEST(stat_again_memfd) {
  const int fd = OK(syscall(SYS_memfd_create, "m", 0));
  struct stat a, b;
  char again[64];
  snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
  for (int i = 0; i < 40; ++i) OK(fstat(fd, &a));
  SAME(OK(ftruncate(fd, 1 << 20)));
  EXPECT_EQ(a.st_size, 1 << 20);
  EXPECT_EQ(a.st_blocks, 0);
  SAME(EXPECT_EQ(pwrite(fd, "x", 1, 5000), 1));
  EXPECT_EQ(a.st_blocks, 8);
  char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  for (int i = 1; i < 5; ++i) {
    SAME(map[i * 65536] = 1);
    EXPECT_GT(a.st_blocks, 8);
  }
  SAME(OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20)));
  EXPECT_EQ(a.st_blocks, 0);
  SAME(OK(fchmod(fd, 0)));
}

TEST(readlink_again) {
  char buffer[256], target[256], name[256];
  make_tree();
  for (int i = 0; i < 30; ++i) {
    EXPECT_ERR(readlink("f", buffer, sizeof buffer), EINVAL);
    EXPECT_ERR(readlink("none", buffer, sizeof buffer), ENOENT);
  }
  // The size comes first, then the path; the buffer last.
  EXPECT_ERR(syscall(SYS_readlink, "none", buffer, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_readlink, "s", buffer, -1), EINVAL);
  EXPECT_ERR(syscall(SYS_readlink, "none", buffer, 1ul << 32), EINVAL);
  EXPECT_ERR(syscall(SYS_readlink, 1, buffer, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_readlink, 1, buffer, 10), EFAULT);
  EXPECT_ERR(syscall(SYS_readlink, "none", 1, 10), ENOENT);
  EXPECT_ERR(syscall(SYS_readlink, "f", 1, 10), EINVAL);
  EXPECT_ERR(syscall(SYS_readlink, "s", 1, 10), EFAULT);
  EXPECT_ERR(syscall(SYS_readlink, "s", ~0ul, 10), EFAULT);
  EXPECT_ERR(readlink("", buffer, 10), ENOENT);
  EXPECT_ERR(readlink("f/", buffer, 10), ENOTDIR);
  EXPECT_ERR(readlink("f/x", buffer, 10), ENOTDIR);
  EXPECT_ERR(readlink("l/", buffer, 10), EINVAL);
  EXPECT_ERR(readlink("d/", buffer, 10), EINVAL);
  EXPECT_ERR(readlink("none/", buffer, 10), ENOENT);
  EXPECT_ERR(readlink("none/x", buffer, 10), ENOENT);
  EXPECT_ERR(readlinkat(dir_fd, "", buffer, 10), ENOENT);
  EXPECT_ERR(readlinkat(999, "f", buffer, 10), EBADF);
  int on_link = OK(open("s", O_PATH | O_NOFOLLOW));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(readlinkat(on_link, "", buffer, 10), 1);
  // Targets of any length, into buffers of any size.
  for (int n = 1; n < 250; ++n) {
    memset(target, 'a' + n % 26, n), target[n] = 0;
    snprintf(name, sizeof name, "link%.*s", n % 50, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    OK(symlink(target, name));
    for (int i = 0; i < 4; ++i) {
      struct stat st;
      memset(buffer, '#', sizeof buffer);
      const int size = i < 2 ? 255 : i == 2 ? n : (n + 1) / 2, told = n < size ? n : size;
      EXPECT_EQ(readlink(name, buffer, size), told);
      ASSERT_TRUE(memcmp(buffer, target, told) == 0 && buffer[told] == '#');
      if (i == 0) OK(lstat(name, &st));
    }
    OK(unlink(name));
    EXPECT_ERR(readlink(name, buffer, sizeof buffer), ENOENT);
  }
  // Another link in its place.
  OK(symlink("first", "turns"));
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(readlink("turns", buffer, sizeof buffer), i % 2 == 0 ? 5 : 6);
    EXPECT_EQ(readlink("turns", buffer, sizeof buffer), i % 2 == 0 ? 5 : 6);
    IN_CHILD(child, OK(symlink(i % 2 == 0 ? "second" : "first", "new")); OK(rename("new", "turns")));
    EXPECT_EXIT(child, 0);
  }
  OK(unlink("turns"));
  kit_write_file("turns", "");
  EXPECT_ERR(readlink("turns", buffer, sizeof buffer), EINVAL);
}

// What is said of the flags comes before what is said of the name.
TEST(open_again_missing) {
  make_tree();
  for (int i = 0; i < 30; ++i) {
    EXPECT_ERR(open("none", O_RDONLY), ENOENT);
    EXPECT_ERR(openat(dir_fd, "none", O_RDWR | O_CLOEXEC), ENOENT);
  }
  static const int plain[] = {O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE, O_TRUNC, O_APPEND, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_NOATIME, O_SYNC, O_EXCL, O_NOCTTY, O_ASYNC, 1 << 30};
  for (size_t i = 0; i < sizeof plain / sizeof *plain; ++i) {
    EXPECT_ERR(syscall(SYS_open, "none", plain[i], 0), ENOENT);
    EXPECT_ERR(syscall(SYS_openat, dir_fd, "none", plain[i], 0), ENOENT);
    EXPECT_ERR(syscall(SYS_openat, 999, absolute[0] ? "/none/none" : "", plain[i], 0), ENOENT);
    EXPECT_ERR(syscall(SYS_openat, 999, "none", plain[i], 0), EBADF);
  }
  EXPECT_ERR(syscall(SYS_open, "none", O_TMPFILE & ~O_DIRECTORY, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_open, "none", O_TMPFILE | O_RDONLY, 0600), EINVAL);
  EXPECT_ERR(syscall(SYS_open, "none", O_TMPFILE | O_RDWR, 0600), ENOENT);
  EXPECT_ERR(open("none/", O_RDONLY), ENOENT);
  EXPECT_ERR(open("", O_RDONLY), ENOENT);
  EXPECT_ERR(open("f/none", O_RDONLY), ENOTDIR);
  EXPECT_ERR(open("dangling", O_RDONLY), ENOENT);
  EXPECT_ERR(open("dangling", O_RDONLY | O_NOFOLLOW), ELOOP);
  close(OK(open("none", O_WRONLY | O_CREAT, 0600)));
  close(OK(open("none", O_RDONLY)));
  OK(unlink("none"));
  EXPECT_ERR(open("none", O_RDONLY), ENOENT);
  IN_CHILD(child, kit_write_file("none", "x"); kit_write_file("nowhere", "y"));
  EXPECT_EXIT(child, 0);
  close(OK(open("none", O_RDONLY)));
  close(OK(openat(AT_FDCWD, "dangling", O_RDONLY)));
  // A missing directory in the middle that comes as a link, and the whole by a rename.
  for (int i = 0; i < 5; ++i) {
    EXPECT_ERR(open("mid/a", O_RDONLY), ENOENT);
    EXPECT_ERR(access("d3/a", F_OK), ENOENT);
  }
  OK(symlink("d", "mid"));
  close(OK(open("mid/a", O_RDONLY)));
  OK(rename("d", "d3"));
  OK(access("d3/a", F_OK));
  EXPECT_ERR(open("mid/a", O_RDONLY), ENOENT);
}

static void expect_access(const char *path, int granted) {
  for (int mode = 0; mode < 8; ++mode) {
    const int want = (mode & ~granted) == 0 ? 0 : EACCES;
    EXPECT_EQ(access(path, mode) == 0 ? 0 : errno, want);
    EXPECT_EQ(syscall(SYS_faccessat2, AT_FDCWD, path, mode, AT_EACCESS) == 0 ? 0 : errno, want);
  }
}
TEST(access_again_rights) {
  if (geteuid() != 0) SKIP("needs root");
  make_tree();
  OK(chmod(".", 0755));
  OK(chmod("d", 0755));
  OK(chmod("f", 0640));
  OK(chown("f", 1000, 2000));
  for (int i = 0; i < 10; ++i) expect_access("f", 6);
  EXPECT_ERR(access("f", 8), EINVAL);
  EXPECT_ERR(syscall(SYS_faccessat2, AT_FDCWD, "f", 0, 0x2000), EINVAL);
  EXPECT_ERR(access("", F_OK), ENOENT);
  OK(syscall(SYS_faccessat2, dir_fd, "", F_OK, AT_EMPTY_PATH));
  OK(chmod("f", 0641));
  expect_access("f", 7);
  OK(chmod("f", 0640));
  OK(syscall(SYS_setgroups, 0, NULL));
  OK(syscall(SYS_setresgid, 2000, 2000, 2000));
  OK(syscall(SYS_setresuid, 1000, 1000, 0));
  for (int i = 0; i < 10; ++i) expect_access("f", 6);
  OK(syscall(SYS_setresuid, 0, 0, 0));
  OK(syscall(SYS_setresuid, 1001, 1001, 0));
  for (int i = 0; i < 3; ++i) expect_access("f", 4);
  IN_CHILD(child, OK(syscall(SYS_setresuid, 0, 0, 0)); OK(chmod("f", 0610)));
  EXPECT_EXIT(child, 0);
  for (int i = 0; i < 3; ++i) expect_access("f", 1);
  OK(syscall(SYS_setresuid, 0, 0, 0));
  OK(syscall(SYS_setresgid, 0, 0, 0));
  OK(syscall(SYS_setresuid, 1001, 1001, 0));
  for (int i = 0; i < 3; ++i) expect_access("f", 0);
  // Real and effective ids differ: access(2) asks for the former.
  OK(syscall(SYS_setresuid, 1001, 0, 0));
  for (int i = 0; i < 10; ++i) {
    struct stat st;
    OK(stat("f", &st));
    EXPECT_ERR(access("f", R_OK), EACCES);
    OK(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, AT_EACCESS));
    OK(access("f", F_OK));
    EXPECT_ERR(access("none", F_OK), ENOENT);
  }
  OK(chmod("d", 0700));
  for (int i = 0; i < 10; ++i) {
    struct stat st;
    OK(stat("d/a", &st));
    EXPECT_ERR(stat("d/none", &st), ENOENT);
    EXPECT_ERR(access("d/a", F_OK), EACCES);
    EXPECT_ERR(access("d/none", F_OK), EACCES);
    EXPECT_ERR(syscall(SYS_faccessat2, AT_FDCWD, "d/none", F_OK, AT_EACCESS), ENOENT);
  }
  OK(syscall(SYS_setresuid, 0, 0, 0));
  OK(access("d/a", F_OK));
  // The ids for files, and capabilities that are permitted but not effective.
  EXPECT_EQ(setfsuid(1001), 0);
  for (int i = 0; i < 3; ++i) {
    struct stat st;
    EXPECT_ERR(stat("d/a", &st), EACCES);
    OK(access("d/a", R_OK));
    EXPECT_ERR(syscall(SYS_faccessat2, AT_FDCWD, "d/a", R_OK, AT_EACCESS), EACCES);
  }
  EXPECT_EQ(setfsuid(0), 1001);
  struct {
    uint32_t version, pid;
  } header = {0x20080522, 0};
  struct {
    uint32_t effective, permitted, inheritable;
  } data[2];
  OK(syscall(SYS_capget, &header, data));
  data[0].effective &= ~6u;  // CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
  OK(syscall(SYS_capset, &header, data));
  OK(chmod("g", 0));
  for (int i = 0; i < 3; ++i) {
    OK(access("g", R_OK | W_OK));
    EXPECT_ERR(syscall(SYS_faccessat2, AT_FDCWD, "g", R_OK, AT_EACCESS), EACCES);
    EXPECT_ERR(open("g", O_RDONLY), EACCES);
  }
}

TEST(access_again_mounts) {
  if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) SKIP("no mounts");
  make_tree();
  if (mount("d", "d", NULL, MS_BIND, NULL) != 0) SKIP("no bind mounts");
  OK(chmod("d/a", 0755));
  OK(mkfifo("d/fifo", 0666));
  for (int i = 0; i < 10; ++i) OK(access("d/a", 7)), OK(access("d", 7)), OK(access("d/fifo", 6));
  for (int round = 0; round < 2; ++round) {
    OK(mount(NULL, "d", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
    for (int i = 0; i < 3; ++i) {
      EXPECT_ERR(access("d/a", W_OK), EROFS);
      EXPECT_ERR(access("d/a", 7), EROFS);
      EXPECT_ERR(access("d", W_OK), EROFS);
      OK(access("d/a", R_OK | X_OK));
      OK(access("d/fifo", W_OK));
    }
    OK(mount(NULL, "d", NULL, MS_BIND | MS_REMOUNT | MS_NOEXEC, NULL));
    for (int i = 0; i < 3; ++i) {
      EXPECT_ERR(access("d/a", X_OK), EACCES);
      OK(access("d/a", R_OK | W_OK));
      OK(access("d", 7));
    }
    OK(mount(NULL, "d", NULL, MS_BIND | MS_REMOUNT, NULL));
    for (int i = 0; i < 3; ++i) OK(access("d/a", 7));
    ASSERT_TRUE(all_agree());
  }
  OK(umount("d"));
  ASSERT_TRUE(all_agree());
}
