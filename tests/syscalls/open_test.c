// SPDX-License-Identifier: Apache-2.0
// open, creat, openat, openat2, close, close_range and the O_ flags.
#include "kit.h"

#include <linux/openat2.h>

TEST(creat_and_mode) {
  umask(027);
  int fd = OK(creat("f", 0777));
  struct stat st;
  OK(fstat(fd, &st));
  EXPECT_EQ(st.st_mode, S_IFREG | 0750);
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_WRONLY);
}
TEST(lowest_free_number) {
  int a = OK(open("/dev/null", O_RDONLY)), b = OK(open("/dev/null", O_RDONLY));
  close(a);
  EXPECT_EQ(open("/dev/null", O_RDONLY), a);
  EXPECT_TRUE(b > a);
}
TEST(excl_trunc_directory) {
  kit_write_file("f", "abc");
  EXPECT_ERR(open("f", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
  EXPECT_ERR(open("none", O_RDWR), ENOENT);
  EXPECT_ERR(open("f", O_DIRECTORY | O_RDONLY), ENOTDIR);
  EXPECT_ERR(open("f/x", O_RDONLY), ENOTDIR);
  EXPECT_ERR(open(".", O_RDWR), EISDIR);
  EXPECT_ERR(open(".", O_WRONLY), EISDIR);
  EXPECT_ERR(open("", O_RDONLY), ENOENT);
  EXPECT_ERR(open("new/", O_CREAT | O_RDWR, 0600), EISDIR);
  EXPECT_ERR(open("f/", O_RDONLY), ENOTDIR);
  int fd = OK(open("f", O_TRUNC | O_RDWR));
  EXPECT_EQ(lseek(fd, 0, SEEK_END), 0);
}
TEST(symlinks) {
  kit_write_file("f", "abc");
  OK(symlink("f", "s"));
  OK(symlink("loop", "loop"));
  OK(symlink("nowhere", "dangling"));
  EXPECT_ERR(open("s", O_NOFOLLOW | O_RDONLY), ELOOP);
  EXPECT_ERR(open("loop", O_RDONLY), ELOOP);
  EXPECT_ERR(open("dangling", O_RDONLY), ENOENT);
  EXPECT_ERR(open("s", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
  OK(open("dangling", O_CREAT | O_RDWR, 0600));
  EXPECT_EQ(access("nowhere", F_OK), 0);
  int p = OK(open("s", O_PATH | O_NOFOLLOW));
  struct stat st;
  OK(fstat(p, &st));
  EXPECT_TRUE(S_ISLNK(st.st_mode));
}
TEST(forty_links_are_fine_forty_one_are_not) {
  kit_write_file("l0", "x");
  for (int i = 1; i <= 41; i++) {
    char from[16], to[16];
    sprintf(to, "l%d", i - 1);
    sprintf(from, "l%d", i);
    OK(symlink(to, from));
  }
  EXPECT_EQ(access("l40", F_OK), 0);
  EXPECT_ERR(access("l41", F_OK), ELOOP);
}
TEST(name_too_long) {
  char name[5000];
  memset(name, 'a', sizeof name);
  name[255] = 0;
  int fd = OK(open(name, O_CREAT | O_RDWR, 0600));
  close(fd);
  name[255] = 'a', name[256] = 0;
  EXPECT_ERR(open(name, O_CREAT | O_RDWR, 0600), ENAMETOOLONG);
  name[256] = 'a';
  for (int i = 0; i < 4999; i += 2) name[i] = '.', name[i + 1] = '/';
  name[4095] = 0;
  EXPECT_EQ(access(name, F_OK), 0);
  name[4095] = '/', name[4096] = 0;
  EXPECT_ERR(access(name, F_OK), ENAMETOOLONG);
}
TEST(open_efault) {
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_open, p, O_RDONLY));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_openat, AT_FDCWD, p, O_RDONLY));
}
TEST(openat_dirfd) {
  OK(mkdir("d", 0755));
  kit_write_file("d/f", "abc");
  int d = OK(open("d", O_RDONLY | O_DIRECTORY)), f = OK(openat(d, "f", O_RDONLY));
  EXPECT_ERR(openat(f, "x", O_RDONLY), ENOTDIR);
  EXPECT_ERR(openat(-1, "x", O_RDONLY), EBADF);
  EXPECT_GE(openat(-1, "/dev/null", O_RDONLY), 0);
  OK(rename("d", "e"));
  EXPECT_GE(openat(d, "f", O_RDONLY), 0);
  int path = OK(open("e", O_PATH | O_DIRECTORY));
  EXPECT_GE(openat(path, "f", O_RDONLY), 0);
}
TEST(path_descriptor) {
  kit_write_file("f", "abc");
  int fd = OK(open("f", O_PATH));
  char c, link[64];
  struct stat st;
  EXPECT_ERR(read(fd, &c, 1), EBADF);
  EXPECT_ERR(ftruncate(fd, 0), EBADF);
  EXPECT_ERR(fchmod(fd, 0600), EBADF);
  EXPECT_EQ(fstat(fd, &st), 0);
  sprintf(link, "/proc/self/fd/%d", fd);
  int again = OK(open(link, O_RDWR));
  EXPECT_EQ(read(again, &c, 1), 1);
}
TEST(tmpfile) {
  int fd = open(".", O_TMPFILE | O_RDWR, 0600);
  if (fd < 0 && errno == EOPNOTSUPP) SKIP("O_TMPFILE is not supported here");
  ASSERT_TRUE(fd >= 0);
  EXPECT_EQ(write(fd, "abc", 3), 3);
  struct stat st;
  OK(fstat(fd, &st));
  EXPECT_EQ(st.st_nlink, 0);
  char link_path[64];
  sprintf(link_path, "/proc/self/fd/%d", fd);
  EXPECT_EQ(linkat(AT_FDCWD, link_path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), 0);
  EXPECT_STR(kit_read_file("named"), "abc");
}
TEST(flags_reported) {
  int fd = OK(open("f", O_CREAT | O_RDWR | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0600));
  int flags = fcntl(fd, F_GETFL);
  EXPECT_EQ(flags & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_CREAT), O_RDWR | O_APPEND | O_NONBLOCK);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
}
TEST(close_errors) {
  int fd = OK(open("/dev/null", O_RDONLY));
  EXPECT_EQ(close(fd), 0);
  EXPECT_ERR(close(fd), EBADF);
  EXPECT_ERR(close(-1), EBADF);
}
TEST(close_range_closes_and_marks) {
  int a = OK(dup2(0, 100)), b = OK(dup2(0, 101)), c = OK(dup2(0, 102));
  EXPECT_EQ(close_range(101, 102, CLOSE_RANGE_CLOEXEC), 0);
  EXPECT_EQ(fcntl(b, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(a, F_GETFD), 0);
  EXPECT_EQ(close_range(100, 101, 0), 0);
  EXPECT_ERR(fcntl(a, F_GETFD), EBADF);
  EXPECT_EQ(fcntl(c, F_GETFD), FD_CLOEXEC);
  EXPECT_ERR(close_range(5, 4, 0), EINVAL);
  EXPECT_ERR(close_range(4, 5, 0x80), EINVAL);
}
TEST(openat2_resolve) {
  OK(mkdir("d", 0755));
  kit_write_file("d/f", "abc");
  OK(symlink("..", "d/up"));
  OK(symlink("/", "d/root"));
  int d = OK(open("d", O_RDONLY));
  struct open_how how = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
  EXPECT_GE(syscall(SYS_openat2, d, "f", &how, sizeof how), 0);
  EXPECT_ERR(syscall(SYS_openat2, d, "../d/f", &how, sizeof how), EXDEV);
  EXPECT_ERR(syscall(SYS_openat2, d, "up", &how, sizeof how), EXDEV);
  EXPECT_ERR(syscall(SYS_openat2, d, "/dev/null", &how, sizeof how), EXDEV);
  how.resolve = RESOLVE_NO_SYMLINKS;
  EXPECT_ERR(syscall(SYS_openat2, d, "root", &how, sizeof how), ELOOP);
  how.resolve = RESOLVE_IN_ROOT;
  EXPECT_GE(syscall(SYS_openat2, d, "/f", &how, sizeof how), 0);
  EXPECT_GE(syscall(SYS_openat2, d, "../../f", &how, sizeof how), 0);
  how.resolve = 1 << 20;
  EXPECT_ERR(syscall(SYS_openat2, d, "f", &how, sizeof how), EINVAL);
  how = (struct open_how){.flags = O_RDONLY, .mode = 0600};
  EXPECT_ERR(syscall(SYS_openat2, d, "f", &how, sizeof how), EINVAL);
  EXPECT_ERR(syscall(SYS_openat2, d, "f", &how, 8), EINVAL);
  struct { struct open_how how; long more; } big = {{.flags = O_RDONLY}, 1};
  EXPECT_ERR(syscall(SYS_openat2, d, "f", &big, sizeof big), E2BIG);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_openat2, d, "f", p, sizeof how));
}
TEST(proc_self_fd_links) {
  kit_write_file("f", "abc");
  int fd = OK(open("f", O_RDONLY));
  char link[64], target[4200], cwd[4096];
  sprintf(link, "/proc/self/fd/%d", fd);
  ssize_t n = OK(readlink(link, target, sizeof target - 1));
  target[n] = 0;
  getcwd(cwd, sizeof cwd);
  strcat(cwd, "/f");
  EXPECT_STR(target, cwd);
  OK(unlink("f"));
  n = OK(readlink(link, target, sizeof target - 1));
  target[n] = 0;
  strcat(cwd, " (deleted)");
  EXPECT_STR(target, cwd);
}
TEST(unlinked_file_lives_on) {
  int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
  OK(unlink("f"));
  EXPECT_EQ(write(fd, "abc", 3), 3);
  char b[4] = "";
  EXPECT_EQ(pread(fd, b, 3, 0), 3);
  EXPECT_STR(b, "abc");
  EXPECT_ERR(open("f", O_RDONLY), ENOENT);
}
TEST(nofile_limit) {
  int last = -1, fd;
  struct { unsigned long cur, max; } limit = {64, 64};
  OK(syscall(SYS_prlimit64, 0, 7, &limit, NULL));
  while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
  EXPECT_EQ(errno, EMFILE);
  EXPECT_EQ(last, 63);
  EXPECT_ERR(dup2(0, 64), EBADF);
}
