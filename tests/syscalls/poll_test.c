// SPDX-License-Identifier: Apache-2.0
// poll, ppoll, select, pselect6, epoll.
#include "kit.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>

TEST(poll_times_out) {
  int p[2];
  OK(pipe(p));
  struct pollfd f = {p[0], POLLIN};
  long long t = kit_now_ns();
  EXPECT_EQ(poll(&f, 1, 50), 0);
  EXPECT_GE(kit_now_ns() - t, 50000000);
  EXPECT_EQ(poll(NULL, 0, 10), 0);
  EXPECT_EQ(f.revents, 0);
}
TEST(poll_wakes) {
  int p[2];
  OK(pipe(p));
  IN_CHILD(pid, { kit_sleep_ms(30); OK(write(p[1], "x", 1)); });
  struct pollfd f = {p[0], POLLIN};
  EXPECT_EQ(poll(&f, 1, 5000), 1);
  EXPECT_EQ(f.revents, POLLIN);
  EXPECT_EXIT(pid, 0);
}
TEST(poll_errors) {
  struct pollfd f = {777, POLLIN};
  EXPECT_EQ(poll(&f, 1, 0), 1);
  EXPECT_EQ(f.revents, POLLNVAL);
  f.fd = -1;
  f.revents = 55;
  EXPECT_EQ(poll(&f, 1, 0), 0);
  EXPECT_EQ(f.revents, 0);
  EXPECT_EFAULT(kBadRead, sizeof f, p, syscall(SYS_poll, p, 1, 0));
  struct rlimit l;
  getrlimit(RLIMIT_NOFILE, &l);
  EXPECT_ERR(syscall(SYS_poll, &f, l.rlim_cur + 1, 0), EINVAL);
}
TEST(poll_interrupted) {
  kit_catch(SIGALRM, SA_RESTART);
  ualarm(30000, 0);
  EXPECT_ERR(poll(NULL, 0, 2000), EINTR);
}
TEST(ppoll_mask_and_timeout) {
  sigset_t block, none;
  sigemptyset(&none);
  sigemptyset(&block);
  sigaddset(&block, SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &block, NULL));
  kit_catch(SIGUSR1, 0);
  raise(SIGUSR1);
  struct timespec t = {2, 0};
  EXPECT_ERR(ppoll(NULL, 0, &t, &none), EINTR);
  EXPECT_EQ(kit_signals[SIGUSR1], 1);
  raise(SIGUSR1);
  t = (struct timespec){0, 1000000};
  EXPECT_EQ(ppoll(NULL, 0, &t, &block), 0);
  t.tv_nsec = 1000000000;
  EXPECT_ERR(ppoll(NULL, 0, &t, &block), EINVAL);
}
TEST(regular_files_are_always_ready) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  struct pollfd f = {fd, POLLIN | POLLOUT};
  EXPECT_EQ(poll(&f, 1, 1000), 1);
  EXPECT_EQ(f.revents, POLLIN | POLLOUT);
}
TEST(select_sets) {
  int p[2];
  OK(pipe(p));
  fd_set r, w;
  FD_ZERO(&r);
  FD_ZERO(&w);
  FD_SET(p[0], &r);
  FD_SET(p[1], &w);
  struct timeval t = {1, 0};
  EXPECT_EQ(select(p[1] + 1, &r, &w, NULL, &t), 1);
  EXPECT_TRUE(!FD_ISSET(p[0], &r) && FD_ISSET(p[1], &w));
  OK(write(p[1], "x", 1));
  FD_SET(p[0], &r);
  EXPECT_EQ(select(p[1] + 1, &r, &w, NULL, &t), 2);
}
TEST(select_timeout_is_updated) {
  struct timeval t = {0, 30000};
  EXPECT_EQ(select(0, NULL, NULL, NULL, &t), 0);
  EXPECT_EQ(t.tv_sec, 0);
  EXPECT_EQ(t.tv_usec, 0);
}
TEST(select_errors) {
  fd_set r;
  struct timeval t = {-1, 0};
  EXPECT_ERR(select(0, NULL, NULL, NULL, &t), EINVAL);
  EXPECT_ERR(select(-1, NULL, NULL, NULL, NULL), EINVAL);
  // Within 64: Linux looks no further than the descriptor table's size, which depends on what was inherited.
  close(40);
  FD_ZERO(&r);
  FD_SET(40, &r);
  EXPECT_ERR(select(41, &r, NULL, NULL, NULL), EBADF);
  t = (struct timeval){0, 1};
  EXPECT_EFAULT(kBadRead, 1, p, p ? syscall(SYS_select, 64, p, NULL, NULL, &t) : (errno = EFAULT, -1));
}
TEST(pselect_mask) {
  sigset_t block, none;
  sigemptyset(&none);
  sigemptyset(&block);
  sigaddset(&block, SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &block, NULL));
  kit_catch(SIGUSR1, 0);
  raise(SIGUSR1);
  struct timespec t = {2, 0};
  EXPECT_ERR(pselect(0, NULL, NULL, NULL, &t, &none), EINTR);
  sigset_t now;
  OK(sigprocmask(SIG_BLOCK, NULL, &now));
  EXPECT_TRUE(sigismember(&now, SIGUSR1));
}
TEST(epoll_level_triggered) {
  int e = OK(epoll_create1(EPOLL_CLOEXEC)), p[2];
  OK(pipe(p));
  struct epoll_event v = {EPOLLIN, {.u64 = 42}}, got[4];
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v));
  EXPECT_EQ(epoll_wait(e, got, 4, 0), 0);
  OK(write(p[1], "x", 1));
  for (int i = 0; i < 2; i++) {
    EXPECT_EQ(epoll_wait(e, got, 4, 1000), 1);
    EXPECT_EQ(got[0].events, EPOLLIN);
    EXPECT_EQ(got[0].data.u64, 42);
  }
  close(p[1]);
  EXPECT_EQ(epoll_wait(e, got, 4, 0), 1);
  EXPECT_EQ(got[0].events, EPOLLIN | EPOLLHUP);
}
TEST(epoll_edge_triggered) {
  int e = OK(epoll_create1(0)), p[2];
  OK(pipe(p));
  struct epoll_event v = {EPOLLIN | EPOLLET, {.fd = p[0]}}, got;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v));
  OK(write(p[1], "x", 1));
  EXPECT_EQ(epoll_wait(e, &got, 1, 1000), 1);
  EXPECT_EQ(epoll_wait(e, &got, 1, 0), 0);
  OK(write(p[1], "y", 1));
  EXPECT_EQ(epoll_wait(e, &got, 1, 1000), 1);
}
TEST(epoll_one_shot) {
  int e = OK(epoll_create1(0)), p[2];
  OK(pipe(p));
  struct epoll_event v = {EPOLLIN | EPOLLONESHOT, {.fd = p[0]}}, got;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v));
  OK(write(p[1], "x", 1));
  EXPECT_EQ(epoll_wait(e, &got, 1, 1000), 1);
  EXPECT_EQ(epoll_wait(e, &got, 1, 0), 0);
  OK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &v));
  EXPECT_EQ(epoll_wait(e, &got, 1, 1000), 1);
}
TEST(epoll_ctl_errors) {
  int e = OK(epoll_create1(0)), p[2], file = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(pipe(p));
  struct epoll_event v = {EPOLLIN, {.u64 = 0}};
  EXPECT_ERR(epoll_create1(0x77), EINVAL);
  EXPECT_ERR(epoll_create(0), EINVAL);
  EXPECT_ERR(epoll_ctl(e, EPOLL_CTL_ADD, file, &v), EPERM);
  EXPECT_ERR(epoll_ctl(e, EPOLL_CTL_ADD, e, &v), EINVAL);
  EXPECT_ERR(epoll_ctl(p[0], EPOLL_CTL_ADD, p[1], &v), EINVAL);
  EXPECT_ERR(epoll_ctl(e, EPOLL_CTL_ADD, 777, &v), EBADF);
  EXPECT_ERR(epoll_ctl(777, EPOLL_CTL_ADD, p[0], &v), EBADF);
  EXPECT_ERR(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &v), ENOENT);
  EXPECT_ERR(epoll_ctl(e, EPOLL_CTL_DEL, p[0], &v), ENOENT);
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v));
  EXPECT_ERR(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v), EEXIST);
  EXPECT_ERR(epoll_ctl(e, 9, p[0], &v), EINVAL);
  EXPECT_EFAULT(kBadRead, sizeof v, q, syscall(SYS_epoll_ctl, e, EPOLL_CTL_MOD, p[0], q));
  EXPECT_EQ(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL), 0);
}
TEST(epoll_wait_errors) {
  int e = OK(epoll_create1(0)), p[2];
  OK(pipe(p));
  struct epoll_event v = {EPOLLOUT, {.u64 = 0}}, got;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[1], &v));
  EXPECT_ERR(epoll_wait(e, &got, 0, 0), EINVAL);
  EXPECT_ERR(epoll_wait(e, &got, -1, 0), EINVAL);
  EXPECT_ERR(epoll_wait(p[0], &got, 1, 0), EINVAL);
  EXPECT_ERR(epoll_wait(777, &got, 1, 0), EBADF);
  EXPECT_EFAULT(kBadWrite, sizeof got, q, syscall(SYS_epoll_wait, e, q, 1, 0));
}
TEST(epoll_many_and_fair) {
  int e = OK(epoll_create1(0));
  for (int i = 0; i < 20; i++) {
    int fd = OK(eventfd(1, 0));
    struct epoll_event v = {EPOLLIN, {.fd = fd}};
    OK(epoll_ctl(e, EPOLL_CTL_ADD, fd, &v));
  }
  struct epoll_event got[10];
  unsigned long seen = 0;
  for (int i = 0; i < 4; i++) {
    EXPECT_EQ(epoll_wait(e, got, 10, 0), 10);
    for (int k = 0; k < 10; k++) seen |= 1UL << got[k].data.fd;
  }
  EXPECT_EQ(__builtin_popcountl(seen), 20);
}
TEST(epoll_in_epoll) {
  int outer = OK(epoll_create1(0)), inner = OK(epoll_create1(0)), p[2];
  OK(pipe(p));
  struct epoll_event v = {EPOLLIN, {.fd = 1}}, got;
  OK(epoll_ctl(inner, EPOLL_CTL_ADD, p[0], &v));
  OK(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &v));
  EXPECT_ERR(epoll_ctl(inner, EPOLL_CTL_ADD, outer, &v), ELOOP);
  EXPECT_EQ(epoll_wait(outer, &got, 1, 0), 0);
  OK(write(p[1], "x", 1));
  EXPECT_EQ(epoll_wait(outer, &got, 1, 1000), 1);
}
TEST(epoll_closed_descriptor_leaves) {
  int e = OK(epoll_create1(0)), p[2];
  OK(pipe(p));
  struct epoll_event v = {EPOLLIN, {.u64 = 0}}, got;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v));
  OK(write(p[1], "x", 1));
  int copy = OK(dup(p[0]));
  close(p[0]);
  EXPECT_EQ(epoll_wait(e, &got, 1, 0), 1);  // the description is still open
  close(copy);
  EXPECT_EQ(epoll_wait(e, &got, 1, 0), 0);
}
TEST(epoll_pwait_family) {
  int e = OK(epoll_create1(0));
  struct epoll_event got;
  sigset_t block, none;
  sigemptyset(&none);
  sigemptyset(&block);
  sigaddset(&block, SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &block, NULL));
  kit_catch(SIGUSR1, 0);
  raise(SIGUSR1);
  EXPECT_ERR(epoll_pwait(e, &got, 1, 2000, &none), EINTR);
  struct timespec t = {0, 10000000};
  long long start = kit_now_ns();
  EXPECT_EQ(syscall(SYS_epoll_pwait2, e, &got, 1, &t, NULL, 8), 0);
  EXPECT_GE(kit_now_ns() - start, 10000000);
}
TEST(epoll_wakes_a_waiter_in_another_process) {
  int e = OK(epoll_create1(0)), fd = OK(eventfd(0, 0));
  struct epoll_event v = {EPOLLIN, {.u64 = 7}}, got;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, fd, &v));
  IN_CHILD(pid, { EXPECT_EQ(epoll_wait(e, &got, 1, 5000), 1); });
  kit_wait_asleep(pid);
  OK(eventfd_write(fd, 1));
  EXPECT_EXIT(pid, 0);
}
