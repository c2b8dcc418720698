// SPDX-License-Identifier: Apache-2.0
// stat, lstat, fstat, newfstatat, statx, access, utimensat, statfs.
#include "kit.h"

#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/vfs.h>

TEST(stat_regular) {
  kit_write_file("f", "hello");
  struct stat a, b, c;
  OK(stat("f", &a));
  EXPECT_EQ(a.st_size, 5);
  EXPECT_EQ(a.st_nlink, 1);
  EXPECT_EQ(a.st_mode, S_IFREG | 0644);
  EXPECT_EQ(a.st_uid, geteuid());
  int fd = OK(open("f", O_RDONLY));
  OK(fstat(fd, &b));
  OK(fstatat(AT_FDCWD, "f", &c, 0));
  EXPECT_TRUE(a.st_ino == b.st_ino && a.st_dev == b.st_dev && c.st_ino == a.st_ino);
  EXPECT_EQ(fstatat(fd, "", &c, AT_EMPTY_PATH), 0);
  EXPECT_EQ(c.st_ino, a.st_ino);
}
TEST(stat_kinds) {
  struct stat st;
  OK(symlink("nowhere", "s"));
  OK(lstat("s", &st));
  EXPECT_TRUE(S_ISLNK(st.st_mode));
  EXPECT_EQ(st.st_size, 7);
  EXPECT_ERR(stat("s", &st), ENOENT);
  OK(stat(".", &st));
  EXPECT_TRUE(S_ISDIR(st.st_mode));
  OK(mkfifo("p", 0600));
  OK(stat("p", &st));
  EXPECT_TRUE(S_ISFIFO(st.st_mode));
  OK(stat("/dev/null", &st));
  EXPECT_TRUE(S_ISCHR(st.st_mode));
  EXPECT_EQ(st.st_rdev, makedev(1, 3));
}
TEST(stat_errors) {
  struct stat st;
  kit_write_file("f", "");
  EXPECT_ERR(stat("none", &st), ENOENT);
  EXPECT_ERR(stat("f/x", &st), ENOTDIR);
  EXPECT_ERR(stat("", &st), ENOENT);
  EXPECT_ERR(fstat(-1, &st), EBADF);
  EXPECT_ERR(fstatat(AT_FDCWD, "f", &st, 0x10000000), EINVAL);
  EXPECT_EFAULT(kBadWrite, sizeof st, p, syscall(SYS_stat, "f", p));
  EXPECT_EFAULT(kBadWrite, sizeof st, p, syscall(SYS_lstat, "f", p));
  EXPECT_EFAULT(kBadWrite, sizeof st, p, syscall(SYS_fstat, 1, p));
  EXPECT_EFAULT(kBadWrite, sizeof st, p, syscall(SYS_newfstatat, AT_FDCWD, "f", p, 0));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_stat, p, &st));
}
TEST(statx_fields) {
  kit_write_file("f", "hello");
  struct statx x;
  OK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &x));
  EXPECT_EQ(x.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
  EXPECT_EQ(x.stx_size, 5);
  EXPECT_EQ(x.stx_mode, S_IFREG | 0644);
  int fd = OK(open("f", O_RDONLY));
  struct statx y;
  EXPECT_EQ(statx(fd, "", AT_EMPTY_PATH, STATX_INO, &y), 0);
  EXPECT_EQ(x.stx_ino, y.stx_ino);
  EXPECT_ERR(statx(AT_FDCWD, "f", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, STATX_INO, &y), EINVAL);
  EXPECT_ERR(statx(AT_FDCWD, "f", 0, STATX__RESERVED, &y), EINVAL);
  EXPECT_EFAULT(kBadWrite, sizeof x, p, syscall(SYS_statx, AT_FDCWD, "f", 0, STATX_INO, p));
}
TEST(access_modes) {
  kit_write_file("f", "");
  chmod("f", 0600);
  EXPECT_EQ(access("f", R_OK | W_OK), 0);
  EXPECT_ERR(access("f", X_OK), EACCES);
  EXPECT_ERR(access("f", 8), EINVAL);
  EXPECT_ERR(access("none", F_OK), ENOENT);
  EXPECT_EQ(faccessat(AT_FDCWD, "f", F_OK, 0), 0);
  EXPECT_EQ(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, AT_EACCESS), 0);
  EXPECT_ERR(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, 0x4000), EINVAL);
}
TEST(times_move) {
  kit_write_file("f", "x");
  struct timespec t[2] = {{1000, 5}, {2000, 7}};
  struct stat st;
  OK(utimensat(AT_FDCWD, "f", t, 0));
  OK(stat("f", &st));
  EXPECT_EQ(st.st_atim.tv_sec, 1000);
  EXPECT_EQ(st.st_atim.tv_nsec, 5);
  EXPECT_EQ(st.st_mtim.tv_sec, 2000);
  EXPECT_EQ(st.st_mtim.tv_nsec, 7);
  t[0].tv_nsec = UTIME_OMIT, t[1].tv_nsec = UTIME_NOW;
  OK(utimensat(AT_FDCWD, "f", t, 0));
  OK(stat("f", &st));
  EXPECT_EQ(st.st_atim.tv_sec, 1000);
  EXPECT_GT(st.st_mtim.tv_sec, 1000000000);
  t[0].tv_nsec = 1000000000;
  EXPECT_ERR(utimensat(AT_FDCWD, "f", t, 0), EINVAL);
  EXPECT_EQ(utimensat(AT_FDCWD, "f", NULL, 0), 0);
  struct timeval v[2] = {{1, 2}, {3, 4}};
  OK(utimes("f", v));
  OK(stat("f", &st));
  EXPECT_EQ(st.st_mtim.tv_nsec, 4000);
  EXPECT_EFAULT(kBadRead, sizeof t, p, p ? syscall(SYS_utimensat, AT_FDCWD, "f", p, 0) : (errno = EFAULT, -1));
}
TEST(write_moves_mtime_and_ctime) {
  kit_write_file("f", "x");
  struct timespec old[2] = {{1000, 0}, {1000, 0}};
  OK(utimensat(AT_FDCWD, "f", old, 0));
  int fd = OK(open("f", O_WRONLY));
  OK(write(fd, "y", 1));
  struct stat st;
  OK(fstat(fd, &st));
  EXPECT_GT(st.st_mtime, 1000000);
  struct stat before;
  OK(stat(".", &before));
  kit_sleep_ms(20);
  kit_write_file("g", "");
  OK(stat(".", &st));
  EXPECT_TRUE(st.st_mtim.tv_sec > before.st_mtim.tv_sec || st.st_mtim.tv_nsec > before.st_mtim.tv_nsec);
}
TEST(link_counts) {
  struct stat st;
  kit_write_file("f", "");
  OK(link("f", "g"));
  OK(stat("f", &st));
  EXPECT_EQ(st.st_nlink, 2);
  OK(unlink("f"));
  OK(stat("g", &st));
  EXPECT_EQ(st.st_nlink, 1);
}
TEST(statfs_gives_sizes) {
  struct statfs s;
  OK(statfs(".", &s));
  EXPECT_GT(s.f_bsize, 0);
  EXPECT_EQ(s.f_namelen, 255);
  OK(statfs("/proc", &s));
  EXPECT_EQ(s.f_type, 0x9fa0);
  EXPECT_EQ(fstatfs(OK(open("/dev/null", O_RDONLY)), &s), 0);
  EXPECT_ERR(statfs("none", &s), ENOENT);
  EXPECT_EFAULT(kBadWrite, sizeof s, p, syscall(SYS_statfs, ".", p));
}
TEST(blocks_count_what_is_stored) {
  int fd = OK(open("sparse", O_CREAT | O_RDWR, 0600));
  OK(ftruncate(fd, 10 << 20));
  struct stat st;
  OK(fstat(fd, &st));
  EXPECT_EQ(st.st_size, 10 << 20);
  EXPECT_LT(st.st_blocks, 2048);
}
