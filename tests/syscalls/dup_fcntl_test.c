// SPDX-License-Identifier: Apache-2.0
// dup, dup2, dup3, fcntl, ioctl basics.
#include "kit.h"

#include <sys/ioctl.h>
#include <sys/resource.h>

TEST(dup_family) {
  int fd = OK(open("/dev/null", O_RDONLY | O_CLOEXEC));
  int a = OK(dup(fd));
  EXPECT_EQ(fcntl(a, F_GETFD), 0);
  EXPECT_EQ(dup2(fd, 50), 50);
  EXPECT_EQ(dup2(fd, fd), fd);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(dup3(fd, 51, O_CLOEXEC), 51);
  EXPECT_EQ(fcntl(51, F_GETFD), FD_CLOEXEC);
  EXPECT_ERR(dup3(fd, fd, 0), EINVAL);
  EXPECT_ERR(dup3(fd, 52, O_RDWR), EINVAL);
  EXPECT_ERR(dup(-1), EBADF);
  EXPECT_ERR(dup2(-1, 3), EBADF);
  EXPECT_ERR(dup2(777, 777), EBADF);
  EXPECT_ERR(dup2(fd, -1), EBADF);
}
TEST(dup2_closes_the_old_one) {
  int p[2];
  char c;
  OK(pipe(p));
  OK(dup2(open("/dev/null", O_RDONLY), p[1]));
  EXPECT_EQ(read(p[0], &c, 1), 0);
}
TEST(f_dupfd) {
  EXPECT_EQ(fcntl(0, F_DUPFD, 70), 70);
  EXPECT_EQ(fcntl(0, F_DUPFD, 70), 71);
  EXPECT_EQ(fcntl(0, F_DUPFD_CLOEXEC, 70), 72);
  EXPECT_EQ(fcntl(72, F_GETFD), FD_CLOEXEC);
  struct rlimit l;
  OK(getrlimit(RLIMIT_NOFILE, &l));
  EXPECT_ERR(fcntl(0, F_DUPFD, (int)l.rlim_cur), EINVAL);
  EXPECT_ERR(fcntl(0, F_DUPFD, -1), EINVAL);
}
TEST(status_flags_are_shared) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600)), copy = OK(dup(fd));
  OK(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
  EXPECT_EQ(fcntl(copy, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE), O_APPEND | O_NONBLOCK | O_RDWR);
  OK(fcntl(fd, F_SETFL, O_WRONLY));  // the access mode stays
  EXPECT_EQ(fcntl(copy, F_GETFL) & (O_APPEND | O_ACCMODE), O_RDWR);
}
TEST(unknown_commands) {
  EXPECT_ERR(fcntl(0, 9999), EINVAL);
  EXPECT_ERR(fcntl(-1, F_GETFD), EBADF);
  EXPECT_ERR(ioctl(-1, FIONREAD, NULL), EBADF);
  int fd = OK(open("/dev/null", O_RDONLY));
  EXPECT_ERR(ioctl(fd, 0xdeadbeef, NULL), ENOTTY);
  EXPECT_ERR(ioctl(fd, TIOCGWINSZ, NULL), ENOTTY);
}
TEST(fionbio_and_fioclex) {
  int p[2], one = 1, zero = 0;
  char c;
  OK(pipe(p));
  OK(ioctl(p[0], FIONBIO, &one));
  EXPECT_ERR(read(p[0], &c, 1), EAGAIN);
  OK(ioctl(p[0], FIONBIO, &zero));
  EXPECT_EQ(fcntl(p[0], F_GETFL) & O_NONBLOCK, 0);
  OK(ioctl(p[0], FIOCLEX));
  EXPECT_EQ(fcntl(p[0], F_GETFD), FD_CLOEXEC);
  OK(ioctl(p[0], FIONCLEX));
  EXPECT_EQ(fcntl(p[0], F_GETFD), 0);
  EXPECT_EFAULT(kBadRead, 4, q, syscall(SYS_ioctl, p[0], FIONBIO, q));
  EXPECT_EFAULT(kBadWrite, 4, q, syscall(SYS_ioctl, p[0], FIONREAD, q));
}
TEST(owner_and_async_signal) {
  int p[2];
  OK(pipe(p));
  OK(fcntl(p[0], F_SETOWN, getpid()));
  EXPECT_EQ(fcntl(p[0], F_GETOWN), getpid());
  kit_catch(SIGIO, 0);
  OK(fcntl(p[0], F_SETFL, O_ASYNC));
  OK(write(p[1], "x", 1));
  kit_sleep_ms(50);
  EXPECT_EQ(kit_signals[SIGIO], 1);
}
TEST(cloexec_closes_at_exec) {
  int keep = OK(dup2(0, 60)), drop = OK(fcntl(0, F_DUPFD_CLOEXEC, 61));
  char script[128];
  sprintf(script, "[ -e /proc/self/fd/%d ] && [ ! -e /proc/self/fd/%d ]", keep, drop);
  IN_CHILD(pid, execl("/bin/sh", "sh", "-c", script, NULL));
  EXPECT_EXIT(pid, 0);
}
TEST(lease_and_seals_of_ordinary_files) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  int seals = fcntl(fd, F_GET_SEALS);
  EXPECT_TRUE(seals == -1 ? errno == EINVAL : seals == F_SEAL_SEAL);  // a tmpfs file answers F_SEAL_SEAL
}
// As fts(3) walks a tree: a duplicate to list from, and one back to the number that it closed.
TEST(directories_that_are_duplicated_when_opened) {
  OK(mkdir("d", 0700));
  OK(close(OK(open("d/f", O_CREAT | O_WRONLY, 0600))));
  const int base = OK(open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat st;
  char entries[1024];
  for (int i = 0; i < 40; i++) {
    const int fd = OK(openat(base, ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    EXPECT_EQ(fd, base + 1);
    EXPECT_ERR(fstat(fd + 1, &st), EBADF);
    EXPECT_ERR(fcntl(fd + 1, F_GETFD), EBADF);
    EXPECT_ERR(openat(fd + 1, "f", O_RDONLY), EBADF);
    if (i % 8 == 7) {  // not this time
      EXPECT_EQ(OK(open("d/f", O_RDONLY)), fd + 1);
      EXPECT_EQ(OK(fcntl(fd, F_DUPFD_CLOEXEC, 3)), fd + 2);
      OK(close(fd + 1));
      OK(close(fd + 2));
    } else if (i % 8 == 5) {  // other numbers, and one that stays over exec
      EXPECT_EQ(OK(fcntl(fd, F_DUPFD_CLOEXEC, fd + 3)), fd + 3);
      EXPECT_EQ(OK(fcntl(fd, F_DUPFD, 0)), fd + 1);
      EXPECT_EQ(OK(fcntl(fd + 1, F_GETFD)), 0);
      EXPECT_EQ(OK(fcntl(fd + 3, F_GETFD)), FD_CLOEXEC);
      OK(close(fd + 1));
      OK(close(fd + 3));
    } else {
      EXPECT_EQ(OK(fcntl(fd, F_DUPFD_CLOEXEC, 3)), fd + 1);
      EXPECT_EQ(OK(fcntl(fd + 1, F_GETFD)), FD_CLOEXEC);
      EXPECT_GT(syscall(SYS_getdents64, fd, entries, sizeof entries), 0);
      EXPECT_EQ(syscall(SYS_getdents64, fd + 1, entries, sizeof entries), 0);  // one position
      OK(close(fd));
      EXPECT_ERR(fcntl(fd, F_GETFD), EBADF);
      EXPECT_EQ(OK(fcntl(fd + 1, F_DUPFD_CLOEXEC, 0)), fd);
      OK(fstatat(fd + 1, "f", &st, 0));
      OK(lseek(fd, 0, SEEK_SET));
      EXPECT_GT(syscall(SYS_getdents64, fd + 1, entries, sizeof entries), 0);
      OK(close(fd + 1));
      EXPECT_ERR(fstat(fd + 1, &st), EBADF);
    }
    OK(close(fd));
  }
  EXPECT_ERR(fcntl(base, F_DUPFD, 1 << 20), EINVAL);
  OK(close(base));
}
TEST(duplicates_below_a_limit) {
  OK(mkdir("d", 0700));
  struct rlimit old, few;
  OK(getrlimit(RLIMIT_NOFILE, &old));
  for (int i = 0; i < 12; i++) {
    const int fd = OK(open("d", O_RDONLY | O_DIRECTORY));
    few = old;
    few.rlim_cur = (rlim_t)fd + 1;
    if (i >= 8) OK(setrlimit(RLIMIT_NOFILE, &few));
    if (i >= 8) EXPECT_ERR(fcntl(fd, F_DUPFD, 0), EMFILE);
    else OK(close(OK(fcntl(fd, F_DUPFD, 0))));
    OK(setrlimit(RLIMIT_NOFILE, &old));
    OK(close(fd));
  }
}
