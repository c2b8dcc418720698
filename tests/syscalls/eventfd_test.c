// SPDX-License-Identifier: Apache-2.0
// eventfd, signalfd, timerfd.
#include "kit.h"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

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

// --- used a lot: a kernel may answer calls on a busy descriptor in another way than the first ones ---

static int warm_event(unsigned initial, int flags) {
  int fd = OK(eventfd(0, flags));
  uint64_t v;
  for (uint64_t i = 1; i < 100; i++) {
    EXPECT_EQ(eventfd_write(fd, i), 0);
    for (uint64_t k = 0; k < (flags & EFD_SEMAPHORE ? i : 1); k++) {
      ASSERT_EQ(read(fd, &v, 8), 8);
      ASSERT_EQ(v, flags & EFD_SEMAPHORE ? 1 : i);
    }
  }
  if (initial) EXPECT_EQ(eventfd_write(fd, initial), 0);
  return fd;
}
static short polled(int fd, short events, int ms) {
  struct pollfd p = {fd, events};
  return poll(&p, 1, ms) == 1 ? p.revents : 0;
}
TEST(busy_eventfd_counts) {
  uint64_t v[4] = {0};
  int fd = warm_event(7, EFD_NONBLOCK);
  EXPECT_EQ(polled(fd, POLLIN | POLLOUT, 0), POLLIN | POLLOUT);
  EXPECT_EQ(read(fd, v, 32), 8);
  EXPECT_EQ(v[0], 7);
  EXPECT_ERR(read(fd, v, 8), EAGAIN);
  EXPECT_EQ(polled(fd, POLLIN | POLLOUT, 0), POLLOUT);
  EXPECT_ERR(read(fd, v, 7), EINVAL);
  EXPECT_ERR(read(fd, v, 0), EINVAL);
  EXPECT_ERR(write(fd, v, 7), EINVAL);
  EXPECT_EFAULT(kBadRead, 8, q, syscall(SYS_write, fd, q, 8));
  EXPECT_EFAULT(kBadWrite, 8, q, (eventfd_write(fd, 1), syscall(SYS_read, fd, q, 8)));
  int more;
  EXPECT_ERR(ioctl(fd, FIONREAD, &more), ENOTTY);
  EXPECT_ERR(recv(fd, v, 8, 0), ENOTSOCK);
  EXPECT_ERR(send(fd, v, 8, 0), ENOTSOCK);
  EXPECT_ERR(pread(fd, v, 8, 0), ESPIPE);
}
TEST(busy_eventfd_of_vectors) {
  int fd = warm_event(3, EFD_NONBLOCK);
  uint64_t v = 0;
  struct iovec one = {&v, 8}, halves[2] = {{&v, 4}, {(char *)&v + 4, 4}};
  EXPECT_EQ(readv(fd, &one, 1), 8);
  EXPECT_EQ(v, 3);
  v = 9;
  EXPECT_EQ(writev(fd, &one, 1), 8);
  v = 0;
  EXPECT_EQ(readv(fd, halves, 2), 8);
  EXPECT_EQ(v, 9);
}
TEST(busy_eventfd_semaphore) {
  uint64_t v;
  int fd = warm_event(2, EFD_NONBLOCK | EFD_SEMAPHORE);
  for (int i = 0; i < 2; i++) {
    EXPECT_EQ(read(fd, &v, 8), 8);
    EXPECT_EQ(v, 1);
  }
  EXPECT_ERR(read(fd, &v, 8), EAGAIN);
}
TEST(busy_eventfd_limits) {
  int fd = warm_event(0, EFD_NONBLOCK);
  uint64_t v = ~0ULL;
  for (int round = 0; round < 3; round++) {
    v = ~0ULL;
    EXPECT_ERR(write(fd, &v, 8), EINVAL);
    v--;
    EXPECT_EQ(write(fd, &v, 8), 8);
    v = 0;
    EXPECT_EQ(write(fd, &v, 8), 8);
    v = 1;
    EXPECT_ERR(write(fd, &v, 8), EAGAIN);
    EXPECT_EQ(polled(fd, POLLIN | POLLOUT, 0), POLLIN);
    EXPECT_EQ(read(fd, &v, 8), 8);
    EXPECT_EQ(v, ~0ULL - 1);
    EXPECT_EQ(polled(fd, POLLIN | POLLOUT, 0), POLLOUT);
  }
}
static int busy_fd;
static volatile uint64_t busy_got;
static void *busy_read(void *unused) {
  uint64_t v = 0;
  busy_got = read(busy_fd, &v, 8) == 8 ? v : ~0ULL;
  return NULL;
}
static void *busy_write(void *value) {
  busy_got = write(busy_fd, value, 8) == 8;
  return NULL;
}
static void *busy_poll(void *unused) {
  busy_got = polled(busy_fd, POLLOUT, 5000);
  return NULL;
}
TEST(busy_eventfd_blocks_readers) {
  pthread_t t;
  busy_fd = warm_event(0, 0);
  for (uint64_t i = 1; i < 50; i++) {
    busy_got = 0;
    OK(pthread_create(&t, NULL, busy_read, NULL));
    if (i % 3) usleep(i % 3 * 500);
    EXPECT_EQ(busy_got, 0);
    EXPECT_EQ(write(busy_fd, &i, 8), 8);
    pthread_join(t, NULL);
    ASSERT_EQ(busy_got, i);
  }
  OK(fcntl(busy_fd, F_SETFL, O_NONBLOCK));
  uint64_t v;
  EXPECT_ERR(read(busy_fd, &v, 8), EAGAIN);
}
TEST(busy_eventfd_blocks_writers) {
  pthread_t t;
  busy_fd = warm_event(0, 0);
  for (int i = 0; i < 30; i++) {
    uint64_t v = i % 2 ? ~0ULL - 1 : 1, most = ~0ULL - 1;  // room is wanted although the count is small, too
    EXPECT_EQ(write(busy_fd, &v, 8), 8);
    busy_got = 0;
    if (i % 3 == 2 && v == most) OK(pthread_create(&t, NULL, busy_poll, NULL));
    else OK(pthread_create(&t, NULL, busy_write, &most));
    if (i % 4) usleep(i % 4 * 300);
    EXPECT_EQ(busy_got, 0);
    EXPECT_EQ(read(busy_fd, &v, 8), 8);
    EXPECT_EQ(v, i % 2 ? most : 1);
    pthread_join(t, NULL);
    ASSERT_EQ(busy_got, i % 3 == 2 && i % 2 ? POLLOUT : 1);
    if (busy_got == 1) ASSERT_EQ(read(busy_fd, &v, 8), 8);
  }
}
static int watched(int e, struct epoll_event *v, int ms) { return OK(epoll_wait(e, v, 4, ms)); }
static int watch_it(int e, int op, int fd, uint32_t events) {
  struct epoll_event v = {events, {.u64 = 42}};
  return epoll_ctl(e, op, fd, &v);
}
TEST(busy_eventfd_in_epoll) {
  int fd = warm_event(0, EFD_NONBLOCK), e = OK(epoll_create1(0));
  struct epoll_event v[4];
  uint64_t n;
  OK(watch_it(e, EPOLL_CTL_ADD, fd, EPOLLIN));
  for (int i = 0; i < 100; i++) {  // levels
    EXPECT_EQ(watched(e, v, 0), 0);
    OK(eventfd_write(fd, 2));
    for (int k = 0; k < 2; k++) {
      ASSERT_EQ(watched(e, v, 2000), 1);
      EXPECT_TRUE(v[0].events == EPOLLIN && v[0].data.u64 == 42);
    }
    EXPECT_EQ(read(fd, &n, 8), 8);
  }
  OK(watch_it(e, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET));
  EXPECT_EQ(watched(e, v, 0), 0);
  for (int i = 0; i < 100; i++) {  // each write is an edge, read or not
    OK(eventfd_write(fd, 1));
    ASSERT_EQ(watched(e, v, 2000), 1);
    EXPECT_EQ(v[0].events, EPOLLIN);
    ASSERT_EQ(watched(e, v, 0), 0);
  }
  EXPECT_EQ(read(fd, &n, 8), 8);
  EXPECT_EQ(n, 100);
  EXPECT_EQ(watched(e, v, 0), 0);
  OK(watch_it(e, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT | EPOLLET));
  for (int i = 0; i < 20; i++) {  // room is an edge, too
    ASSERT_EQ(watched(e, v, 0), 1);
    EXPECT_EQ(v[0].events, EPOLLOUT);
    ASSERT_EQ(watched(e, v, 0), 0);
    OK(eventfd_write(fd, 1));
    ASSERT_EQ(watched(e, v, 0), 1);
    EXPECT_EQ(v[0].events, EPOLLIN | EPOLLOUT);
    ASSERT_EQ(watched(e, v, 0), 0);
    EXPECT_EQ(read(fd, &n, 8), 8);
  }
  OK(watch_it(e, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT));
  EXPECT_EQ(watched(e, v, 0), 0);
  OK(eventfd_write(fd, 1));
  EXPECT_EQ(watched(e, v, 2000), 1);
  OK(eventfd_write(fd, 1));
  EXPECT_EQ(watched(e, v, 0), 0);
  OK(watch_it(e, EPOLL_CTL_DEL, fd, 0));
  EXPECT_ERR(watch_it(e, EPOLL_CTL_DEL, fd, 0), ENOENT);
}
static int loop_epoll;
static volatile int rung, to_ring;
static void *rings(void *seed) {
  uint64_t x = (uint64_t)(intptr_t)seed;
  for (int i = 0; i < to_ring; i++) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    if (x >> 61 == 0) usleep(x >> 40 & 63);
    if (eventfd_write(busy_fd, 1)) return (void *)1L;
  }
  return NULL;
}
// Threads that ring and one that waits: what event loops do.
static void ring_loop(uint32_t mode, bool semaphore) {
  pthread_t t[3];
  struct epoll_event v[4];
  busy_fd = warm_event(0, EFD_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0));
  loop_epoll = OK(epoll_create1(0));
  OK(watch_it(loop_epoll, EPOLL_CTL_ADD, busy_fd, EPOLLIN | mode));
  to_ring = 4000;
  for (long i = 0; i < 3; i++) OK(pthread_create(&t[i], NULL, rings, (void *)(i * 77 + 1)));
  uint64_t sum = 0, n;
  while (sum < 3 * 4000) {
    ASSERT_EQ(watched(loop_epoll, v, 5000), 1);
    do {
      n = 0;
      if (read(busy_fd, &n, 8) == 8) sum += n;
    } while (mode && n);
  }
  EXPECT_EQ(sum, 3 * 4000);
  for (int i = 0; i < 3; i++) {
    void *bad;
    pthread_join(t[i], &bad);
    EXPECT_TRUE(!bad);
  }
}
TEST(busy_eventfd_of_a_loop) { ring_loop(0, false); }
TEST(busy_eventfd_of_a_loop_by_edges) { ring_loop(EPOLLET, false); }
TEST(busy_semaphore_of_a_loop) { ring_loop(0, true); }
static void *takes(void *unused) {
  uint64_t v, sum = 0;
  while (sum < 3 * 1000) {
    if (read(busy_fd, &v, 8) != 8) return (void *)1L;
    sum += v;
  }
  return NULL;
}
TEST(busy_eventfd_of_threads_that_block) {
  pthread_t t[3], reader;
  void *bad;
  busy_fd = warm_event(0, 0);
  to_ring = 1000;
  OK(pthread_create(&reader, NULL, takes, NULL));
  for (long i = 0; i < 3; i++) OK(pthread_create(&t[i], NULL, rings, (void *)(i * 5 + 3)));
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
  pthread_join(reader, &bad);
  EXPECT_TRUE(!bad);
}
TEST(busy_eventfd_of_processes) {
  int fd = warm_event(0, 0), copy, back = warm_event(0, 0);
  uint64_t v;
  IN_CHILD(pid, {
    for (uint64_t i = 1; i < 200; i++) {
      ASSERT_EQ(read(fd, &v, 8), 8);
      ASSERT_EQ(v, i);
      ASSERT_EQ(eventfd_write(back, i), 0);
    }
  });
  for (uint64_t i = 1; i < 200; i++) {
    ASSERT_EQ(eventfd_write(fd, i), 0);
    ASSERT_EQ(read(back, &v, 8), 8);
    ASSERT_EQ(v, i);
  }
  EXPECT_EXIT(pid, 0);
  copy = OK(dup(fd));
  OK(eventfd_write(copy, 4));
  EXPECT_EQ(read(fd, &v, 8), 8);
  EXPECT_EQ(v, 4);
  OK(eventfd_write(fd, 6));
  close(fd);
  EXPECT_EQ(OK(dup(back)), fd);  // the number, another file
  EXPECT_EQ(polled(fd, POLLIN, 0), 0);
  for (int i = 0; i < 50; i++) {
    OK(eventfd_write(fd, 1));
    ASSERT_EQ(read(back, &v, 8), 8);
  }
  EXPECT_EQ(read(copy, &v, 8), 8);
  EXPECT_EQ(v, 6);
}
static void pass(int by, int fd) {
  char c = 'f';
  struct iovec i = {&c, 1};
  union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } u = {.h = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
  memcpy(CMSG_DATA(&u.h), &fd, sizeof fd);
  struct msghdr m = {.msg_iov = &i, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u};
  ASSERT_EQ(sendmsg(by, &m, 0), 1);
}
static int take_passed(int by) {
  char c;
  int fd;
  struct iovec i = {&c, 1};
  union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } u;
  struct msghdr m = {.msg_iov = &i, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u};
  ASSERT_EQ(recvmsg(by, &m, 0), 1);
  memcpy(&fd, CMSG_DATA(&u.h), sizeof fd);
  return fd;
}
TEST(busy_eventfd_is_passed_on) {
  int s[2];
  uint64_t v;
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  IN_CHILD(pid, {
    int fd = take_passed(s[1]);
    EXPECT_EQ(read(fd, &v, 8), 8);
    EXPECT_EQ(v, 11);
    for (int i = 0; i < 100; i++) {
      OK(eventfd_write(fd, 3));
      ASSERT_EQ(read(fd, &v, 8), 8);
      ASSERT_EQ(v, 3);
    }
    OK(eventfd_write(fd, 12));
    pass(s[1], fd);
  });
  int fd = warm_event(11, EFD_NONBLOCK);
  pass(s[0], fd);
  close(fd);
  fd = take_passed(s[0]);
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(read(fd, &v, 8), 8);
  EXPECT_EQ(v, 12);
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
