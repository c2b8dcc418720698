// SPDX-License-Identifier: Apache-2.0
// stat(2) of names that were asked for before: whatever changes, and whoever changes it, the next answer shows it. statx(2) is what
// the answers are compared with.
#include "kit.h"

#include <grp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/xattr.h>

static int same_stat(const struct stat *s, const struct statx *x) {
  return s->st_ino == x->stx_ino && s->st_mode == x->stx_mode && s->st_nlink == x->stx_nlink && s->st_uid == x->stx_uid &&
         s->st_gid == x->stx_gid && (uint64_t)s->st_size == x->stx_size && (uint64_t)s->st_blocks == x->stx_blocks &&
         s->st_mtim.tv_sec == x->stx_mtime.tv_sec && s->st_mtim.tv_nsec == x->stx_mtime.tv_nsec &&
         s->st_ctim.tv_sec == x->stx_ctime.tv_sec && s->st_ctim.tv_nsec == x->stx_ctime.tv_nsec;
}
static int agree(int dirfd, const char *path, int flags) {
  struct statx x;
  struct stat s;
  const int a = fstatat(dirfd, path, &s, flags) == 0 ? 0 : errno;
  const int b = statx(dirfd, path, flags, STATX_BASIC_STATS, &x) == 0 ? 0 : errno;
  if (a == b && (a != 0 || same_stat(&s, &x))) return 1;
  fprintf(stderr, "%d %s %x: errno %d and %d, size %lld and %lld\n", dirfd, path, flags, a, b, (long long)s.st_size, (long long)x.stx_size);
  return 0;
}

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

TEST(stat_again_names) {
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

TEST(stat_again_attributes) {
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
}

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
  char name[32];
  while (!atomic_load(&s->step) && !atomic_load(&s->bad)) {
    const int size = atomic_load(&s->size);
    if (stat("grows", &st) != 0 ? size > 0 : st.st_size < size) atomic_store(&s->bad, 3);
    const int made = atomic_load(&s->made);
    for (int i = made; i <= made + 4; ++i) {
      snprintf(name, sizeof name, "made/%d", i);
      if (i > 0 && stat(name, &st) != 0 && i <= made && atomic_load(&s->made) < i + 3) atomic_store(&s->bad, 4);
    }
    if (made > 8) {
      snprintf(name, sizeof name, "made/%d", made - 5);
      if (stat(name, &st) == 0) atomic_store(&s->bad, 5);
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
TEST(stat_again_random) {
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
    for (int k = 0; k < 8; ++k) ASSERT_TRUE(agree(AT_FDCWD, names[rand_r(&seed) % n], rand_r(&seed) & 1 ? AT_SYMLINK_NOFOLLOW : 0));
  }
}
