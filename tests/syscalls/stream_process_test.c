// SPDX-License-Identifier: Apache-2.0
// Connected streams whose ends are in several processes: signals, fork, vfork, exec, memory or descriptors shared alone, death.
#include "streams.h"

#include <linux/sched.h>
#include <sys/time.h>

STREAM_TEST(signals_end_or_restart_reads) {
  int s[2];
  char c;
  for (int restart = 0; restart < 2; restart++) {
    warm_streams(kind, s);
    IN_CHILD(pid, {
      kit_catch(SIGUSR1, restart ? SA_RESTART : 0);
      EXPECT_TRUE(serve(s[1], kWarm));
      for (int i = 0; i < kWays; i++) {
        if (restart) EXPECT_EQ(get(s[1], i, &c, 1), 1);
        else EXPECT_ERR(get(s[1], i, &c, 1), EINTR);
        EXPECT_EQ(kit_signals[SIGUSR1], i + 1);
        OK(write(s[1], "k", 1));
      }
    });
    EXPECT_TRUE(ask(s[0], 0, kWarm));
    for (int i = 0; i < kWays; i++) {
      kit_wait_asleep(pid);
      kill(pid, SIGUSR1);
      if (restart) kit_sleep_ms(10), OK(write(s[0], "x", 1));
      EXPECT_EQ(read(s[0], &c, 1), 1);
    }
    EXPECT_EXIT(pid, 0);
    close(s[0]), close(s[1]);
  }
}
STREAM_TEST(signals_lose_no_byte) {
  int s[2];
  static char b[5000];
  uint64_t seed = 3;
  warm_streams(kind, s);
  IN_CHILD(pid, {
    struct flow in = {0, 2};
    EXPECT_TRUE(serve(s[1], kWarm));
    while (in.at < 3000000) {
      const ssize_t n = get(s[1], (int)seed, b, 1 + dice(&seed, sizeof b));
      ASSERT_TRUE(n > 0 && check(&in, b, (size_t)n));
    }
  });
  struct itimerval every = {{0, 700}, {0, 700}};
  struct flow out = {0, 2};
  EXPECT_TRUE(ask(s[0], 0, kWarm));
  kit_catch(SIGVTALRM, 0);
  kit_catch(SIGUSR1, 0);
  OK(setitimer(ITIMER_VIRTUAL, &every, NULL));
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
  OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
  OK(timer_settime(timer, 0, &(struct itimerspec){{0, 500000}, {0, 500000}}, NULL));
  while (out.at < 3000000) {
    size_t size = 1 + dice(&seed, sizeof b);
    if (size > 3000000 - out.at) size = 3000000 - out.at;
    fill(&out, b, size);
    const ssize_t n = put(s[0], (int)seed, b, size);
    if (n < 0) ASSERT_EQ(errno, EINTR);
    else out.at += (uint64_t)n;
  }
  timer_delete(timer);
  EXPECT_EXIT(pid, 0);
  EXPECT_GT(kit_signals[SIGUSR1], 0);
}
// Runs in the program that exec_keeps_ends starts.
__attribute__((constructor)) static void serve_after_exec(void) {
  const char *fd = getenv("STREAM_TEST_FD");
  if (fd) _exit(serve(atoi(fd), kWarm) ? 42 : 1);
}
STREAM_TEST(exec_keeps_ends) {
  int s[2];
  char text[32];
  warm_streams(kind, s);
  IN_CHILD(pid, {
    EXPECT_TRUE(serve(s[1], kWarm));
    sprintf(text, "STREAM_TEST_FD=%d", s[1]);
    execle("/proc/self/exe", "x", NULL, (char *[]){text, NULL});
  });
  close(s[1]);
  EXPECT_TRUE(ask(s[0], 0, 2 * kWarm));
  EXPECT_EXIT(pid, 42);
  char c;
  EXPECT_EQ(read(s[0], &c, 1), 0);
}
static int shared_s[2], other_s[2];
static volatile bool child_done;
static int with_own_numbers(void *unused) {  // shares the memory, not the descriptors
  char c;
  if (dup2(other_s[1], shared_s[1]) < 0 || write(shared_s[1], "v", 1) != 1) _exit(2);
  if (read(shared_s[1], &c, 1) != 1 || c != 'o') _exit(3);
  close(shared_s[0]);
  close(other_s[0]);
  child_done = true;
  _exit(0);
}
STREAM_TEST(memory_shared_but_not_numbers) {
  char c, *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int how = 0; how < 3; how++) {  // vfork, clone with the memory alone, fork
    warm_streams(kind, shared_s);
    warm_streams(kind, other_s);
    OK(write(other_s[0], "o", 1));
    const int flags[] = {CLONE_VFORK | CLONE_VM, CLONE_VM, 0};
    const pid_t pid = OK(clone(with_own_numbers, stack + 65536, flags[how] | SIGCHLD, NULL));
    if (how == 1) warm_up(shared_s);  // at the same time
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(read(other_s[0], &c, 1), 1);
    EXPECT_EQ(c, 'v');
    warm_up(shared_s);
    warm_up(other_s);
    for (int i = 0; i < 2; i++) close(shared_s[i]), close(other_s[i]);
  }
}
static int closes_it(void *fd) { _exit(close(*(int *)fd) ? 1 : 0); }
STREAM_TEST(numbers_shared_but_not_memory) {
  char c, *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int s[2];
  warm_streams(kind, s);
  const pid_t pid = OK(clone(closes_it, stack + 65536, CLONE_FILES | SIGCHLD, &s[1]));
  EXPECT_EXIT(pid, 0);
  EXPECT_ERR(read(s[1], &c, 1), EBADF);
  EXPECT_EQ(read(s[0], &c, 1), 0);
}
static void *unshares(void *p) {
  int *s = p;
  char c = 0;
  if (unshare(CLONE_FILES) < 0) return (void *)1L;
  dup2(other_s[1], s[1]);
  for (int i = 0; i < 50; i++)
    if (read(s[1], &c, 1) != 1 || c != 'u') return (void *)2L;
  return NULL;
}
STREAM_TEST(a_thread_with_its_own_numbers) {
  int s[2];
  void *bad;
  pthread_t t;
  warm_streams(kind, s);
  warm_streams(kind, other_s);
  OK(pthread_create(&t, NULL, unshares, s));
  for (int i = 0; i < 50; i++) {
    warm_up(s);
    OK(write(other_s[0], "u", 1));
  }
  pthread_join(t, &bad);
  EXPECT_EQ((long)bad, 0);
}
STREAM_TEST(forks_during_traffic) {
  int s[2];
  warm_streams(kind, s);
  IN_CHILD(server, {
    close(s[0]);
    while (serve(s[1], 1)) {
    }
  });
  close(s[1]);
  for (int i = 0; i < 40; i++) {
    IN_CHILD(pid, {
      if (i & 1) EXPECT_TRUE(ask(s[0], 7, 5));  // while its parent waits
    });
    if (~i & 1) EXPECT_TRUE(ask(s[0], 1, 20));
    EXPECT_EXIT(pid, 0);
    EXPECT_TRUE(ask(s[0], 3, 5));
  }
  close(s[0]);
  EXPECT_EXIT(server, 0);
}
TEST(a_reset_comes_through) {
  int s[2];
  char b[8];
  warm_streams(kTcp, s);
  OK(setsockopt(s[0], SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
  IN_CHILD(pid, {
    close(s[0]);
    EXPECT_TRUE(serve(s[1], kWarm));
    EXPECT_ERR(read(s[1], b, 8), ECONNRESET);
  });
  close(s[1]);
  EXPECT_TRUE(ask(s[0], 0, kWarm));
  kit_wait_asleep(pid);
  close(s[0]);
  EXPECT_EXIT(pid, 0);
}

// A read that gives less than there is room for has taken all: with POLLHUP that is the end, and event loops stop there.
TEST_TIMEOUT(hangup_with_less_than_asked_is_the_end, 60) {
  enum { kAll = 600000 };
  static char buffer[65536];
  for (int round = 0; round < 30; round++) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
    pid_t pid = OK(fork());
    if (!pid) {
      close(s[0]);
      for (int left = kAll; left > 0;) {
        ssize_t n = write(s[1], buffer, (size_t)(left < 4096 + round * 100 ? left : 4096 + round * 100));
        if (n <= 0) _exit(1);
        left -= (int)n;
      }
      _exit(0);
    }
    close(s[1]);
    OK(fcntl(s[0], F_SETFL, O_NONBLOCK));
    int total = 0;
    for (;;) {
      struct pollfd p = {.fd = s[0], .events = POLLIN};
      OK(poll(&p, 1, -1));
      ssize_t n = read(s[0], buffer, sizeof buffer);
      if (n == 0) break;
      if (n < 0) {
        EXPECT_EQ(errno, EAGAIN);
        continue;
      }
      total += (int)n;
      if ((p.revents & POLLHUP) && n < (ssize_t)sizeof buffer) break;
    }
    EXPECT_EQ(total, kAll);
    EXPECT_EXIT(pid, 0);
    close(s[0]);
  }
}
