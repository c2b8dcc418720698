// SPDX-License-Identifier: Apache-2.0
// eventfd, signalfd, timerfd.
#include "kit.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

TEST(eventfd_counts) {
  uint64_t v = 0;
  int fd = OK(eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  v = 4;
  EXPECT_EQ(write(fd, &v, 8), 8);
  EXPECT_EQ(read(fd, &v, 8), 8);
  EXPECT_EQ(v, 7);
  EXPECT_ERR(read(fd, &v, 8), EAGAIN);
}
TEST(eventfd_semaphore) {
  uint64_t v = 0;
  int fd = OK(eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE));
  EXPECT_EQ(read(fd, &v, 8), 8);
  EXPECT_EQ(v, 1);
  EXPECT_EQ(read(fd, &v, 8), 8);
  EXPECT_ERR(read(fd, &v, 8), EAGAIN);
}
TEST(eventfd_limits) {
  int fd = OK(eventfd(0, EFD_NONBLOCK));
  uint64_t v = ~0ULL;
  EXPECT_ERR(write(fd, &v, 8), EINVAL);
  v--;
  EXPECT_EQ(write(fd, &v, 8), 8);
  v = 1;
  EXPECT_ERR(write(fd, &v, 8), EAGAIN);
  struct pollfd p = {fd, POLLIN | POLLOUT};
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents, POLLIN);
  EXPECT_ERR(write(fd, &v, 7), EINVAL);
  EXPECT_ERR(read(fd, &v, 7), EINVAL);
  EXPECT_ERR(eventfd(0, 0x100), EINVAL);
  EXPECT_EFAULT(kBadRead, 8, q, syscall(SYS_write, fd, q, 8));
}
TEST(eventfd_blocks) {
  int fd = OK(eventfd(0, 0));
  IN_CHILD(pid, {
    uint64_t v;
    EXPECT_EQ(read(fd, &v, 8), 8);
    EXPECT_EQ(v, 5);
  });
  kit_wait_asleep(pid);
  OK(eventfd_write(fd, 5));
  EXPECT_EXIT(pid, 0);
}
TEST(signalfd_reads_signals) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGRTMIN);
  OK(sigprocmask(SIG_BLOCK, &set, NULL));
  int fd = OK(signalfd(-1, &set, SFD_NONBLOCK));
  struct signalfd_siginfo i[3];
  EXPECT_ERR(read(fd, i, sizeof i), EAGAIN);
  OK(kill(getpid(), SIGUSR1));
  OK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 77}));
  struct pollfd p = {fd, POLLIN};
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(read(fd, i, sizeof i), 2 * sizeof i[0]);
  EXPECT_EQ(i[0].ssi_signo, SIGUSR1);
  EXPECT_EQ(i[0].ssi_pid, getpid());
  EXPECT_EQ(i[1].ssi_signo, SIGRTMIN);
  EXPECT_EQ(i[1].ssi_int, 77);
  EXPECT_EQ(i[1].ssi_code, SI_QUEUE);
}
TEST(signalfd_errors_and_change) {
  sigset_t set;
  sigfillset(&set);
  struct signalfd_siginfo i;
  EXPECT_ERR(syscall(SYS_signalfd4, -1, &set, 3, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_signalfd4, -1, &set, 8, 0x100), EINVAL);
  EXPECT_ERR(syscall(SYS_signalfd4, 0, &set, 8, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_signalfd4, 777, &set, 8, 0), EBADF);
  EXPECT_EFAULT(kBadRead, 8, p, syscall(SYS_signalfd4, -1, p, 8, 0));
  int fd = OK(signalfd(-1, &set, SFD_NONBLOCK));
  EXPECT_ERR(read(fd, &i, 10), EINVAL);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  EXPECT_EQ(signalfd(fd, &set, 0), fd);
  OK(sigprocmask(SIG_BLOCK, &set, NULL));
  raise(SIGUSR2);
  EXPECT_EQ(read(fd, &i, sizeof i), sizeof i);
}
TEST(signalfd_blocks) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &set, NULL));
  IN_CHILD(pid, {
    int fd = OK(signalfd(-1, &set, 0));
    struct signalfd_siginfo i;
    EXPECT_EQ(read(fd, &i, sizeof i), sizeof i);
    EXPECT_EQ(i.ssi_signo, SIGUSR1);
  });
  kit_wait_asleep(pid);
  OK(kill(pid, SIGUSR1));
  EXPECT_EXIT(pid, 0);
}
TEST(timerfd_fires) {
  int fd = OK(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  struct itimerspec t = {{0, 0}, {0, 30000000}}, left;
  long long start = kit_now_ns();
  OK(timerfd_settime(fd, 0, &t, NULL));
  OK(timerfd_gettime(fd, &left));
  EXPECT_TRUE(left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 30000000);
  uint64_t n = 0;
  EXPECT_EQ(read(fd, &n, 8), 8);
  EXPECT_EQ(n, 1);
  EXPECT_GE(kit_now_ns() - start, 30000000);
  OK(timerfd_gettime(fd, &left));
  EXPECT_EQ(left.it_value.tv_nsec, 0);
}
TEST(timerfd_interval_counts) {
  int fd = OK(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK));
  struct itimerspec t = {{0, 5000000}, {0, 5000000}}, old;
  uint64_t n;
  EXPECT_ERR(read(fd, &n, 8), EAGAIN);
  OK(timerfd_settime(fd, 0, &t, NULL));
  kit_sleep_ms(60);
  EXPECT_EQ(read(fd, &n, 8), 8);
  EXPECT_GE(n, 8);
  t = (struct itimerspec){0};
  OK(timerfd_settime(fd, 0, &t, &old));
  EXPECT_EQ(old.it_interval.tv_nsec, 5000000);
  EXPECT_ERR(read(fd, &n, 8), EAGAIN);
}
TEST(timerfd_absolute_and_poll) {
  int fd = OK(timerfd_create(CLOCK_MONOTONIC, 0));
  long long at = kit_now_ns() + 30000000;
  struct itimerspec t = {{0, 0}, {at / 1000000000, at % 1000000000}};
  OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL));
  struct pollfd p = {fd, POLLIN};
  EXPECT_EQ(poll(&p, 1, 3000), 1);
  EXPECT_GE(kit_now_ns(), at);
}
TEST(timerfd_errors) {
  struct itimerspec t = {{0, 0}, {0, 1000000000}};
  int fd = OK(timerfd_create(CLOCK_MONOTONIC, 0));
  uint64_t n;
  EXPECT_ERR(timerfd_create(99, 0), EINVAL);
  EXPECT_ERR(timerfd_create(CLOCK_MONOTONIC, 0x7), EINVAL);
  EXPECT_ERR(timerfd_settime(fd, 0, &t, NULL), EINVAL);
  EXPECT_ERR(timerfd_settime(fd, 0x80, &t, NULL), EINVAL);
  EXPECT_ERR(timerfd_settime(0, 0, &(struct itimerspec){0}, NULL), EINVAL);
  EXPECT_ERR(timerfd_gettime(777, &t), EBADF);
  EXPECT_ERR(read(fd, &n, 4), EINVAL);
  EXPECT_EFAULT(kBadRead, sizeof t, p, syscall(SYS_timerfd_settime, fd, 0, p, NULL));
  EXPECT_EFAULT(kBadWrite, sizeof t, p, syscall(SYS_timerfd_gettime, fd, p));
}
