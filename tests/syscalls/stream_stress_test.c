// SPDX-License-Identifier: Apache-2.0
// Readiness of connected streams and wake-ups under load: epoll items of several kinds, modes and processes; servers and
// clients with tiny random pauses, so that a wake-up that gets lost between two parties is a test that does not end.
#include "streams.h"

#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/timerfd.h>

// Waits until so many items are ready: readiness of TCP may take a moment.
static int events_within(int e, struct epoll_event *v, int wanted) {
  int n = 0;
  for (int i = 0; i < 400 && n != wanted; i++) {
    if (i > 0) usleep(5000);
    n = OK(epoll_wait(e, v, 4, 0));
  }
  return n;
}
static void warm_epoll(int e, const int s[2]) {  // s[1] is in e
  char c;
  for (int i = 0; i < kWarm; i++) {
    OK(write(s[0], "w", 1));
    ASSERT_TRUE(ready(e, 2000) & EPOLLIN);
    ASSERT_EQ(read(s[1], &c, 1), 1);
  }
}

STREAM_TEST(levels) {
  int s[2], e = OK(epoll_create1(0));
  char b[8];
  warm_streams(kind, s);
  OK(watch(e, EPOLL_CTL_ADD, s[1], EPOLLIN, 42));
  warm_epoll(e, s);
  EXPECT_EQ(ready(e, 0), 0);
  OK(write(s[0], "abc", 3));
  for (int i = 0; i < 3; i++) EXPECT_EQ(ready(e, 2000), EPOLLIN);
  EXPECT_EQ(read(s[1], b, 1), 1);
  EXPECT_EQ(ready(e, 0), EPOLLIN);
  OK(watch(e, EPOLL_CTL_MOD, s[1], EPOLLOUT, 43));
  EXPECT_EQ(ready(e, 0), EPOLLOUT);
  OK(watch(e, EPOLL_CTL_MOD, s[1], EPOLLOUT | EPOLLIN, 44));
  struct epoll_event v;
  EXPECT_EQ(epoll_wait(e, &v, 1, 0), 1);
  EXPECT_EQ(v.events, EPOLLIN | EPOLLOUT);
  EXPECT_EQ(v.data.u64, 44);
  OK(watch(e, EPOLL_CTL_MOD, s[1], 0, 45));
  EXPECT_EQ(ready(e, 0), 0);
  OK(watch(e, EPOLL_CTL_MOD, s[1], EPOLLIN, 46));
  EXPECT_EQ(ready(e, 0), EPOLLIN);
  EXPECT_EQ(read(s[1], b, 8), 2);
  EXPECT_EQ(ready(e, 0), 0);
  OK(watch(e, EPOLL_CTL_MOD, s[1], EPOLLIN | EPOLLRDHUP, 47));
  OK(shutdown(s[0], SHUT_WR));
  EXPECT_EQ(ready(e, 2000), EPOLLIN | EPOLLRDHUP);
  OK(watch(e, EPOLL_CTL_DEL, s[1], 0, 0));
  EXPECT_EQ(ready(e, 0), 0);
  EXPECT_ERR(watch(e, EPOLL_CTL_MOD, s[1], EPOLLIN, 0), ENOENT);
  OK(watch(e, EPOLL_CTL_ADD, s[1], EPOLLIN, 48));
  close(s[0]);
  usleep(1000);
  EXPECT_EQ(ready(e, 2000), EPOLLIN | (kind == kTcp ? 0 : EPOLLHUP));
}
STREAM_TEST(edges) {
  int s[2], e = OK(epoll_create1(0));
  static char b[65536];
  warm_streams(kind, s);
  OK(watch(e, EPOLL_CTL_ADD, s[1], EPOLLIN | EPOLLET, 1));
  warm_epoll(e, s);
  for (int i = 0; i < 3; i++) {  // each arrival is an edge, read or not
    OK(write(s[0], "x", 1));
    EXPECT_EQ(ready(e, 2000), EPOLLIN);
    EXPECT_EQ(ready(e, 0), 0);
  }
  EXPECT_EQ(read(s[1], b, 1), 1);
  EXPECT_EQ(ready(e, 10), 0);
  OK(watch(e, EPOLL_CTL_MOD, s[1], EPOLLIN | EPOLLET, 1));
  EXPECT_EQ(ready(e, 0), EPOLLIN);  // a change looks anew
  EXPECT_EQ(ready(e, 0), 0);
  EXPECT_EQ(read(s[1], b, 8), 2);
  OK(watch(e, EPOLL_CTL_DEL, s[1], 0, 0));
  OK(fcntl(s[0], F_SETFL, O_NONBLOCK));
  OK(watch(e, EPOLL_CTL_ADD, s[0], EPOLLOUT | EPOLLET, 2));
  EXPECT_EQ(ready(e, 0), EPOLLOUT);
  for (int round = 0; round < 3; round++) {
    size_t sum = 0;
    do {
      for (ssize_t n; (n = put(s[0], round, b, sizeof b)) > 0;) sum += (size_t)n;
    } while (kind == kTcp && polled(s[0], POLLOUT, 30));
    (void)ready(e, 0);
    EXPECT_EQ(ready(e, 0), 0);
    while (sum > 0) sum -= (size_t)OK(get(s[1], round, b, sizeof b));
    EXPECT_EQ(ready(e, 2000), EPOLLOUT);
  }
}
STREAM_TEST(one_shot) {
  int s[2], e = OK(epoll_create1(0));
  char b[8];
  warm_streams(kind, s);
  OK(watch(e, EPOLL_CTL_ADD, s[1], EPOLLIN, 1));
  warm_epoll(e, s);
  for (int i = 0; i < 100; i++) {
    OK(watch(e, EPOLL_CTL_MOD, s[1], EPOLLIN | EPOLLONESHOT, 1));
    OK(write(s[0], "xy", 2));
    EXPECT_EQ(ready(e, 2000), EPOLLIN);
    OK(write(s[0], "z", 1));
    EXPECT_EQ(ready(e, 0), 0);
    OK(watch(e, EPOLL_CTL_MOD, s[1], EPOLLIN | EPOLLONESHOT, 1));
    EXPECT_EQ(ready(e, 2000), EPOLLIN);
    ASSERT_EQ(arrived(s[1], 3), 3);
    ASSERT_EQ(get(s[1], i, b, 8), 3);
  }
}
STREAM_TEST(numbers_and_descriptions) {
  int s[2], e = OK(epoll_create1(0)), other = OK(dup(e));
  char c;
  warm_streams(kind, s);
  OK(watch(e, EPOLL_CTL_ADD, s[1], EPOLLIN, 1));
  warm_epoll(e, s);
  const int copy = OK(dup(s[1]));
  OK(watch(e, EPOLL_CTL_ADD, copy, EPOLLIN, 2));
  EXPECT_ERR(watch(other, EPOLL_CTL_ADD, copy, EPOLLIN, 2), EEXIST);
  OK(write(s[0], "x", 1));
  struct epoll_event v[4];
  EXPECT_EQ(events_within(other, v, 2), 2);
  EXPECT_EQ(epoll_wait(e, v, 1, 0), 1);
  const uint64_t first = v[0].data.u64;
  EXPECT_EQ(epoll_wait(e, v, 1, 0), 1);
  EXPECT_EQ(first + v[0].data.u64, 3);  // takes turns
  close(s[1]);                          // the item stays, as its description does
  EXPECT_EQ(epoll_wait(e, v, 4, 0), 2);
  EXPECT_EQ(read(copy, &c, 1), 1);
  EXPECT_EQ(epoll_wait(e, v, 4, 0), 0);
  const int again = OK(dup(s[0]));  // s[1]'s number, another end
  ASSERT_EQ(again, s[1]);
  OK(watch(e, EPOLL_CTL_ADD, again, EPOLLIN, 3));
  OK(write(copy, "y", 1));
  EXPECT_EQ(epoll_wait(e, v, 4, 2000), 1);
  EXPECT_EQ(v[0].data.u64, 3);
  EXPECT_EQ(read(again, &c, 1), 1);
  close(again);
  close(copy);
  usleep(1000);
  EXPECT_EQ(epoll_wait(e, v, 4, 2000), 1);  // s[0] lives: its item tells that the peer went
  EXPECT_EQ(v[0].data.u64, 3);
}
STREAM_TEST(items_of_many_kinds) {
  enum { kStreams = 3, kEvent = 3, kPipe, kTimer, kNested, kItems };
  int e = OK(epoll_create1(0)), inner = OK(epoll_create1(0)), s[kStreams + 1][2], p[2], fds[kItems];
  char b[64];
  uint64_t seed = 17, count;
  for (int i = 0; i <= kStreams; i++) {
    warm_streams(i == 1 ? kPair : kind, s[i]);
    fds[i] = s[i][1];
  }
  OK(pipe(p));
  fds[kEvent] = OK(eventfd(0, EFD_NONBLOCK)), fds[kPipe] = p[0], fds[kTimer] = OK(timerfd_create(CLOCK_MONOTONIC, 0));
  fds[kNested] = inner;
  OK(watch(inner, EPOLL_CTL_ADD, s[kStreams][1], EPOLLIN, 9));
  warm_epoll(inner, s[kStreams]);
  for (int i = 0; i < kItems; i++) OK(watch(e, EPOLL_CTL_ADD, fds[i], EPOLLIN | (i == 2 || i == kPipe ? EPOLLET : 0), (uint64_t)i));
  for (int round = 0; round < 400; round++) {
    const uint32_t wanted = dice(&seed, (1 << kItems) - 1) + 1;
    for (int i = 0; i < kItems; i++) {
      if (~wanted >> i & 1) continue;
      if (i < kStreams) OK(put(s[i][0], round, "stream", 6));
      if (i == kEvent) OK(eventfd_write(fds[i], 1));
      if (i == kPipe) OK(write(p[1], "pipe", 4));
      if (i == kTimer) OK(timerfd_settime(fds[i], 0, &(struct itimerspec){.it_value = {0, 1 + dice(&seed, 200000)}}, NULL));
      if (i == kNested) OK(put(s[kStreams][0], round, "inner", 5));
    }
    for (uint32_t seen = 0; seen != wanted;) {
      struct epoll_event v[kItems];
      const int n = OK(epoll_wait(e, v, 1 + (int)dice(&seed, kItems), 3000));
      ASSERT_TRUE(n > 0);
      for (int k = 0; k < n; k++) {
        const int i = (int)v[k].data.u64;
        ASSERT_TRUE(wanted & ~seen & 1U << i);
        seen |= 1U << i;
        if (i < kStreams) ASSERT_TRUE(get_all(fds[i], round, b, 6));
        if (i == kEvent || i == kTimer) ASSERT_EQ(read(fds[i], &count, 8), 8);
        if (i == kPipe) ASSERT_EQ(read(fds[i], b, 64), 4);
        if (i == kNested) {
          ASSERT_EQ(ready(inner, 0), EPOLLIN);
          ASSERT_TRUE(get_all(s[kStreams][1], round, b, 5));
        }
      }
    }
    ASSERT_EQ(ready(e, 0), 0);
  }
  fd_set r;
  FD_ZERO(&r);
  FD_SET(e, &r);
  EXPECT_EQ(polled(e, POLLIN, 0), 0);
  OK(write(s[0][0], "x", 1));
  EXPECT_EQ(polled(e, POLLIN, 2000), POLLIN);
  EXPECT_EQ(select(e + 1, &r, NULL, NULL, &(struct timeval){2, 0}), 1);
}
STREAM_TEST(lists_shared_by_processes) {
  int s[2], t[2], e = OK(epoll_create1(0));
  char c;
  warm_streams(kind, s);
  warm_streams(kind, t);
  OK(watch(e, EPOLL_CTL_ADD, s[1], EPOLLIN, 1));
  warm_epoll(e, s);
  OK(write(s[0], "x", 1));
  EXPECT_EQ(ready(e, 2000), EPOLLIN);
  IN_CHILD(pid, { EXPECT_EQ(read(s[1], &c, 1), 1); });
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(ready(e, 0), 0);  // another process took the byte
  IN_CHILD(second, {
    OK(watch(e, EPOLL_CTL_ADD, t[1], EPOLLIN, 2));
    kit_sleep_ms(20);
    OK(write(t[0], "y", 1));
  });
  EXPECT_EQ(ready(e, 5000), EPOLLIN);
  EXPECT_EXIT(second, 0);
  IN_CHILD(third, { OK(watch(e, EPOLL_CTL_DEL, t[1], 0, 0)); });
  EXPECT_EXIT(third, 0);
  EXPECT_EQ(ready(e, 0), 0);
  IN_CHILD(fourth, { EXPECT_EQ(ready(e, 5000), EPOLLIN); });
  kit_wait_asleep(fourth);
  OK(write(s[0], "z", 1));
  EXPECT_EXIT(fourth, 0);
  EXPECT_EQ(read(s[1], &c, 1), 1);
  warm_epoll(e, s);
}
static struct { int epoll; volatile int result; volatile uint64_t data; } waiter;
static void *wait_once(void *unused) {
  struct epoll_event v = {};
  const int n = epoll_wait(waiter.epoll, &v, 1, 5000);
  waiter.data = v.data.u64;
  waiter.result = n;
  return NULL;
}
STREAM_TEST(lists_change_under_waiters) {
  int s[2], t[2];
  pthread_t thread;
  warm_streams(kind, s);
  warm_streams(kind, t);
  waiter.epoll = OK(epoll_create1(0));
  OK(watch(waiter.epoll, EPOLL_CTL_ADD, s[1], EPOLLIN, 1));
  warm_epoll(waiter.epoll, s);
  OK(write(t[0], "t", 1));
  for (int how = 0; how < 5; how++) {
    waiter.result = -2;
    if (how == 1) OK(watch(waiter.epoll, EPOLL_CTL_MOD, t[1], 0, 2));
    OK(pthread_create(&thread, NULL, wait_once, NULL));
    kit_sleep_ms(20);
    EXPECT_EQ(waiter.result, -2);
    uint64_t wanted = 2;
    if (how == 0) OK(watch(waiter.epoll, EPOLL_CTL_ADD, t[1], EPOLLIN, 2));  // added while it has bytes
    if (how == 1) OK(watch(waiter.epoll, EPOLL_CTL_MOD, t[1], EPOLLIN, 3)), wanted = 3;
    if (how == 2) OK(write(s[0], "s", 1)), wanted = 1;
    if (how == 3) OK(watch(waiter.epoll, EPOLL_CTL_MOD, s[1], EPOLLOUT, 4)), wanted = 4;
    if (how == 4) {  // what is removed or closed wakes no one
      OK(write(s[0], "s", 1));
      kit_sleep_ms(10);
      EXPECT_EQ(waiter.result, -2);
      OK(watch(waiter.epoll, EPOLL_CTL_ADD, t[1], EPOLLIN, 5)), wanted = 5;
    }
    pthread_join(thread, NULL);
    EXPECT_EQ(waiter.result, 1);
    EXPECT_EQ(waiter.data, wanted);
    char b[64];
    if (how == 1) OK(watch(waiter.epoll, EPOLL_CTL_DEL, t[1], 0, 0));
    if (how == 2) OK(read(s[1], b, 64));
    if (how == 3) OK(watch(waiter.epoll, EPOLL_CTL_DEL, s[1], 0, 0));
  }
}
STREAM_TEST(waits_end_on_time) {
  int s[2], e = OK(epoll_create1(0));
  struct epoll_event v;
  char c;
  sigset_t block, none;
  warm_streams(kind, s);
  OK(watch(e, EPOLL_CTL_ADD, s[1], EPOLLIN, 1));
  warm_epoll(e, s);
  for (int i = 0; i < 4; i++) {
    const long long start = kit_now_ns();
    EXPECT_EQ(i & 1 ? polled(s[1], POLLIN, 20) : epoll_wait(e, &v, 1, 20), 0);
    EXPECT_GE(kit_now_ns() - start, 19500000);
  }
  OK(write(s[0], "x", 1));
  EXPECT_EQ(ready(e, 2000), EPOLLIN);
  EXPECT_EFAULT(kBadWrite, sizeof v, q, syscall(SYS_epoll_wait, e, q, 1, 0));
  EXPECT_ERR(epoll_wait(e, &v, 0, 0), EINVAL);
  EXPECT_EQ(ready(e, 0), EPOLLIN);  // still there
  EXPECT_EFAULT(kBadWrite, sizeof(struct pollfd), q, q ? syscall(SYS_poll, q, 1, 0) : (errno = EFAULT, -1));
  EXPECT_EFAULT(kBadRead, sizeof v, q, syscall(SYS_epoll_ctl, e, EPOLL_CTL_MOD, s[1], q));
  EXPECT_EQ(read(s[1], &c, 1), 1);
  sigemptyset(&none);
  sigemptyset(&block);
  sigaddset(&block, SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &block, NULL));
  kit_catch(SIGUSR1, SA_RESTART);
  IN_CHILD(pid, {
    for (int i = 0; i < 2; i++) kit_wait_asleep(getppid()), kill(getppid(), SIGUSR1), kit_sleep_ms(30);
  });
  EXPECT_ERR(epoll_pwait(e, &v, 1, 5000, &none), EINTR);  // SA_RESTART or not
  struct pollfd f = {s[1], POLLIN, 0};
  EXPECT_ERR(ppoll(&f, 1, &(struct timespec){5, 0}, &none), EINTR);
  EXPECT_EXIT(pid, 0);
}
STREAM_TEST(a_poll_of_many) {
  int s[12][2];
  struct pollfd f[26];
  char c;
  uint64_t seed = 2;
  for (int i = 0; i < 12; i++) warm_streams(i & 1 ? kind : kPair, s[i]);
  for (int i = 0; i < 24; i++) f[i] = (struct pollfd){s[i / 2][i & 1], POLLIN | POLLRDHUP, 0};
  f[24] = (struct pollfd){-1, POLLIN, 7}, f[25] = (struct pollfd){900, POLLIN, 0};
  for (int round = 0; round < 200; round++) {
    const int i = (int)dice(&seed, 24);
    OK(write(f[i ^ 1].fd, "x", 1));
    ASSERT_EQ(polled(f[i].fd, POLLIN, 2000), POLLIN);
    ASSERT_EQ(poll(f, 26, 0), 2);
    ASSERT_EQ(f[i].revents, POLLIN);
    ASSERT_EQ(f[24].revents, 0);
    ASSERT_EQ(f[25].revents, POLLNVAL);
    ASSERT_EQ(read(f[i].fd, &c, 1), 1);
    ASSERT_EQ(poll(f, 25, 0), 0);
  }
}

// Under load.
static void pause_a_little(uint64_t *seed) {
  switch (dice(seed, 10)) {
    case 0: sched_yield(); break;
    case 1: usleep(dice(seed, 60)); break;
    case 2:
    case 3: for (volatile uint32_t i = dice(seed, 3000); i > 0; i--) {} break;
    default: break;
  }
}
static void play(int fd, uint64_t seed, int rounds, bool starts) {
  struct pollfd f = {fd, POLLIN, 0};
  for (uint32_t i = 0, got; i < (uint32_t)rounds; i++, progress++) {
    if (starts || i > 0) ASSERT_TRUE(put_all(fd, (int)dice(&seed, kWays), &i, 4));
    pause_a_little(&seed);
    switch (dice(&seed, 4)) {
      case 0: ASSERT_EQ(poll(&f, 1, -1), 1); break;
      case 1: for (int k = 0; k < 100 && recv(fd, &got, 4, MSG_DONTWAIT | MSG_PEEK) < 0; k++) {} break;
      default: break;
    }
    ASSERT_TRUE(get_all(fd, (int)dice(&seed, kWays), &got, 4));
    ASSERT_EQ(got, starts ? i + 1 : i);
  }
  if (!starts) ASSERT_TRUE(put_all(fd, 0, &(uint32_t){(uint32_t)rounds}, 4));
}
enum { kRounds = 3000 };
STREAM_TEST(ping_pong_of_processes) {
  int s[2];
  phase = "ping-pong of processes";
  connect_streams(kind, s);
  IN_CHILD(pid, { play(s[1], 77, kRounds, false); });
  play(s[0], 5, kRounds, true);
  EXPECT_EXIT(pid, 0);
}
static void *play_second(void *fd) {
  play(*(int *)fd, 78, kRounds, false);
  return NULL;
}
STREAM_TEST(ping_pong_of_threads) {
  int s[2];
  pthread_t t;
  phase = "ping-pong of threads";
  connect_streams(kind, s);
  OK(pthread_create(&t, NULL, play_second, &s[1]));
  play(s[0], 6, kRounds, true);
  pthread_join(t, NULL);
}

struct pump { int fd; uint64_t seed; pthread_t thread; bool ok; };
enum { kPumped = 2 << 20 };
static void *pump_out(void *argument) {
  struct pump *p = argument;
  char *b = malloc(60000);
  struct flow out = {0, p->seed};
  uint64_t seed = p->seed;
  while (out.at < kPumped) {
    size_t n = 1 + dice(&seed, dice(&seed, 4) ? 2000 : 60000);
    if (n > kPumped - out.at) n = kPumped - out.at;
    fill(&out, b, n);
    if (put(p->fd, (int)seed, b, n) != (ssize_t)n) return NULL;
    out.at += n;
    if (dice(&seed, 8) == 0) pause_a_little(&seed);
  }
  p->ok = shutdown(p->fd, SHUT_WR) == 0;
  return NULL;
}
static bool both_ways(int fd, uint64_t mine, uint64_t theirs) {
  struct pump p = {.fd = fd, .seed = mine};
  char *b = malloc(60000);
  struct flow in = {0, theirs};
  uint64_t seed = mine + 9;
  OK(pthread_create(&p.thread, NULL, pump_out, &p));
  for (ssize_t n; (n = get(fd, (int)seed, b, 1 + dice(&seed, 60000))) > 0; progress = (long)in.at) {
    if (!check(&in, b, (size_t)n)) return false;
    if (dice(&seed, 8) == 0) pause_a_little(&seed);
  }
  pthread_join(p.thread, NULL);
  return p.ok && in.at == kPumped;
}
STREAM_TEST(both_ways_at_once) {
  int s[2];
  phase = "bytes in both directions";
  warm_streams(kind, s);
  IN_CHILD(pid, { EXPECT_TRUE(both_ways(s[1], 31, 30)); });
  EXPECT_TRUE(both_ways(s[0], 30, 31));
  EXPECT_EXIT(pid, 0);
}

// Messages of eight bytes, two writers and two readers of the same ends, in processes and in threads: each comes once.
enum { kMessages = 2000 };
static struct { int s[2]; volatile uint8_t *seen; } crowd;
static const int kWhole[] = {0, 2, 3};  // ways without pieces
static void *write_messages(void *writer) {
  const uint64_t w = (uint64_t)(uintptr_t)writer;
  uint64_t seed = w + 1;
  for (uint64_t i = 0; i < kMessages; i++) {
    ASSERT_EQ(put(crowd.s[0], kWhole[i % 3], &(uint64_t){w << 32 | i}, 8), 8);
    pause_a_little(&seed);
  }
  return NULL;
}
static void *read_messages(void *unused) {
  uint64_t seed = 3, m = 0;
  for (ssize_t n; (n = get(crowd.s[1], kWhole[dice(&seed, 3)], &m, 8)) > 0;) {
    ASSERT_EQ(n, 8);
    ASSERT_TRUE(m >> 32 < 4 && (uint32_t)m < kMessages);
    __atomic_fetch_add(&crowd.seen[(m >> 32) * kMessages + (uint32_t)m], 1, __ATOMIC_SEQ_CST);
    pause_a_little(&seed);
  }
  return NULL;
}
STREAM_TEST(a_crowd_on_one_stream) {
  pthread_t t[3];
  phase = "a crowd on one stream";
  crowd.seen = mmap(NULL, 4 * kMessages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  warm_streams(kind, crowd.s);
  IN_CHILD(reader, { close(crowd.s[0]); read_messages(NULL); });
  IN_CHILD(writer, { write_messages((void *)0); });
  IN_CHILD(second, { write_messages((void *)1); });
  OK(pthread_create(&t[0], NULL, write_messages, (void *)2));
  OK(pthread_create(&t[1], NULL, write_messages, (void *)3));
  OK(pthread_create(&t[2], NULL, read_messages, NULL));
  EXPECT_EXIT(writer, 0);
  EXPECT_EXIT(second, 0);
  for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
  close(crowd.s[0]);
  pthread_join(t[2], NULL);
  EXPECT_EXIT(reader, 0);
  for (int i = 0; i < 4 * kMessages; i++) ASSERT_EQ(crowd.seen[i], 1);
}

// Eight clients, half of them processes and half of them threads, and one server: a message is its length and so many
// bytes, its answer the same with all bits of the bytes turned.
enum { kClients = 8, kRequests = 150, kLongest = 300 };
enum mode { kLevel, kEdge, kOneShot, kOneShotThreads, kHangUp, kPoll, kSelect, kReadThreads };
struct connection { int fd; uint32_t have; uint8_t bytes[2048]; bool ended; pthread_t thread; };
static struct connection connections[kClients];
static int client_fds[kClients], server_epoll, server_end;
static volatile int ended;

static void run_client(int fd, int number) {
  uint64_t seed = (uint64_t)number * 1000 + 1;
  struct flow f = {0, seed};
  uint8_t b[4 + kLongest], c[4 + kLongest];
  for (int i = 0; i < kRequests; i++, progress++) {
    const uint32_t n = 1 + dice(&seed, kLongest);
    memcpy(b, &n, 4);
    fill(&f, b + 4, n);
    const uint32_t first = dice(&seed, 4) ? 4 + n : 1 + dice(&seed, n + 3);
    ASSERT_TRUE(put_all(fd, (int)dice(&seed, kWays), b, first));
    if (first < 4 + n) {
      pause_a_little(&seed);
      ASSERT_TRUE(put_all(fd, (int)dice(&seed, kWays), b + first, 4 + n - first));
    }
    pause_a_little(&seed);
    ASSERT_TRUE(get_all(fd, (int)dice(&seed, kWays), c, 4 + n));
    for (uint32_t k = 4; k < 4 + n; k++) c[k] = (uint8_t)~c[k];
    ASSERT_TRUE(!memcmp(b, c, 4) && check(&f, c + 4, n));
  }
  if (number % 4 == 0) raise(SIGKILL);
  if (number % 4 == 1) close(fd);
  if (number % 4 == 2) {
    OK(shutdown(fd, SHUT_WR));
    EXPECT_EQ(read(fd, c, 1), 0);
    close(fd);
  }
}
static void *client_thread(void *number) {
  const int i = (int)(uintptr_t)number;
  run_client(client_fds[i], i % 2 + 1);
  return NULL;
}
// Reads once, or until there is nothing, and answers what is complete. The return tells whether it was the end.
static bool serve_some(struct connection *c, bool until_nothing, int flags) {
  do {
    const ssize_t n = recv(c->fd, c->bytes + c->have, sizeof c->bytes - c->have, flags);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) {
      EXPECT_EQ(n, 0);
      EXPECT_EQ(c->have, 0);
      c->ended = true;
      watch(server_epoll, EPOLL_CTL_DEL, c->fd, 0, 0);  // clients may hold copies, which would keep the item
      OK(shutdown(c->fd, SHUT_RDWR));
      close(c->fd);
      if (__atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST) == kClients && server_end >= 0) OK(eventfd_write(server_end, 1));
      return true;
    }
    c->have += (uint32_t)n;
    for (uint32_t length; c->have >= 4;) {
      memcpy(&length, c->bytes, 4);
      ASSERT_TRUE(length <= kLongest);
      if (c->have < 4 + length) break;
      for (uint32_t k = 4; k < 4 + length; k++) c->bytes[k] = (uint8_t)~c->bytes[k];
      ASSERT_TRUE(put_all(c->fd, (int)length, c->bytes, 4 + length));
      memmove(c->bytes, c->bytes + 4 + length, c->have -= 4 + length);
    }
  } while (until_nothing);
  return false;
}
static void *read_thread(void *c) {
  while (!serve_some(c, false, 0)) {
  }
  return NULL;
}
static uint32_t events_of(enum mode mode) {
  return EPOLLIN | (mode == kEdge ? EPOLLET : mode == kOneShot || mode == kOneShotThreads ? EPOLLONESHOT : mode == kHangUp ? EPOLLRDHUP : 0);
}
static void serve_epoll(enum mode mode) {
  struct epoll_event v[4];
  for (;;) {
    const int n = epoll_wait(server_epoll, v, 4, -1);
    for (int i = 0; i < n; i++) {
      if (v[i].data.u64 == kClients) return;
      struct connection *c = &connections[v[i].data.u64];
      if (mode == kHangUp && v[i].events & EPOLLRDHUP) {
        serve_some(c, true, MSG_DONTWAIT);
        ASSERT_TRUE(c->ended);
      } else if (!serve_some(c, mode == kEdge, MSG_DONTWAIT) && (mode == kOneShot || mode == kOneShotThreads)) {
        OK(watch(server_epoll, EPOLL_CTL_MOD, c->fd, events_of(mode), v[i].data.u64));
      }
    }
  }
}
static void *serve_thread(void *unused) {
  serve_epoll(kOneShotThreads);
  return NULL;
}
static void serve_poll(void) {
  while (ended < kClients) {
    struct pollfd f[kClients];
    for (int i = 0; i < kClients; i++) f[i] = (struct pollfd){connections[i].ended ? -1 : connections[i].fd, POLLIN, 0};
    ASSERT_TRUE(poll(f, kClients, -1) > 0);
    for (int i = 0; i < kClients; i++)
      if (f[i].revents) serve_some(&connections[i], false, MSG_DONTWAIT);
  }
}
static void serve_select(void) {
  while (ended < kClients) {
    fd_set r;
    FD_ZERO(&r);
    for (int i = 0; i < kClients; i++)
      if (!connections[i].ended) FD_SET(connections[i].fd, &r);
    ASSERT_TRUE(select(100, &r, NULL, NULL, NULL) > 0);
    for (int i = 0; i < kClients; i++)
      if (!connections[i].ended && FD_ISSET(connections[i].fd, &r)) serve_some(&connections[i], false, MSG_DONTWAIT);
  }
}
static void server_and_clients(enum kind kind, enum mode mode, const char *name) {
  pid_t pids[kClients / 2];
  pthread_t clients[kClients / 2], helpers[2];
  phase = name;
  server_epoll = OK(epoll_create1(0)), server_end = OK(eventfd(0, 0));
  OK(watch(server_epoll, EPOLL_CTL_ADD, server_end, EPOLLIN, kClients));
  for (int i = 0; i < kClients; i++) {
    int s[2];
    connect_streams(kind, s);
    connections[i].fd = s[1], client_fds[i] = s[0];
    if (i < kClients / 2) {
      IN_CHILD(pid, { run_client(s[0], i); });
      pids[i] = pid;
      close(s[0]);
    }
    if (mode < kPoll) OK(watch(server_epoll, EPOLL_CTL_ADD, s[1], events_of(mode), (uint64_t)i));
  }
  for (int i = 0; i < kClients / 2; i++) OK(pthread_create(&clients[i], NULL, client_thread, (void *)(uintptr_t)(i + kClients / 2)));
  if (mode == kOneShotThreads)
    for (int i = 0; i < 2; i++) OK(pthread_create(&helpers[i], NULL, serve_thread, NULL));
  if (mode == kReadThreads)
    for (int i = 0; i < kClients; i++) OK(pthread_create(&connections[i].thread, NULL, read_thread, &connections[i]));
  if (mode < kPoll) serve_epoll(mode);
  if (mode == kPoll) serve_poll();
  if (mode == kSelect) serve_select();
  for (int i = 0; i < 2 && mode == kOneShotThreads; i++) pthread_join(helpers[i], NULL);
  for (int i = 0; i < kClients && mode == kReadThreads; i++) pthread_join(connections[i].thread, NULL);
  EXPECT_EQ(ended, kClients);
  for (int i = 0; i < kClients / 2; i++) pthread_join(clients[i], NULL);
  for (int i = 0; i < kClients / 2; i++) {
    if (i % 4 == 0) EXPECT_KILLED(pids[i], SIGKILL);
    else EXPECT_EXIT(pids[i], 0);
  }
}
STREAM_TEST(serve_by_level) { server_and_clients(kind, kLevel, "epoll, level"); }
STREAM_TEST(serve_by_edge) { server_and_clients(kind, kEdge, "epoll, edge"); }
STREAM_TEST(serve_by_one_shot) { server_and_clients(kind, kOneShot, "epoll, one shot"); }
STREAM_TEST(serve_by_one_shot_in_threads) { server_and_clients(kind, kOneShotThreads, "epoll, one shot in three threads"); }
STREAM_TEST(serve_until_hang_up) { server_and_clients(kind, kHangUp, "epoll, RDHUP"); }
STREAM_TEST(serve_by_poll) { server_and_clients(kind, kPoll, "poll"); }
STREAM_TEST(serve_by_select) { server_and_clients(kind, kSelect, "select"); }
STREAM_TEST(serve_by_reading_threads) { server_and_clients(kind, kReadThreads, "threads that read"); }
