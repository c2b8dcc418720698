// SPDX-License-Identifier: Apache-2.0
// Pipes that are used a lot: a kernel may answer calls on a busy pipe in another way than the first ones. What pipe(7) promises holds
// for them as for others: order, atomic writes, capacity, ends, readiness, and every change of who has which end.
#include "streams.h"

#include <limits.h>
#include <sys/uio.h>

static void warm_pipe(int p[2], int flags) {
  signal(SIGALRM, report_stuck);
  alarm(15);
  OK(pipe2(p, flags));
  for (uint32_t i = 0, got = 0; i < kWarm; i++) {
    ASSERT_EQ(write(p[1], &i, sizeof i), sizeof i);
    ASSERT_TRUE(read(p[0], &got, sizeof got) == sizeof got && got == i);
  }
}
static int left(int fd) {
  int n = -1;
  OK(ioctl(fd, FIONREAD, &n));
  return n;
}

// Not a byte more fits: whole pages into an empty pipe.
static void fill_up(int p[2]) {
  static char page[4096];
  while (left(p[0]) < 65536) ASSERT_EQ(write(p[1], page, 4096), 4096);
}

TEST(bytes_in_order_by_any_call) {
  int p[2];
  static char b[30000];
  uint64_t seed = 5;
  struct flow out = {0, 3}, in = {0, 3};
  warm_pipe(p, O_NONBLOCK);
  while (in.at < 20000000) {
    size_t n = 1 + dice(&seed, dice(&seed, 3) ? 300 : 30000);
    fill(&out, b, n);
    struct iovec v[3] = {{b, n / 3}, {NULL, 0}, {b + n / 3, n - n / 3}};
    ssize_t r = dice(&seed, 2) ? write(p[1], b, n) : writev(p[1], v, 3);
    if (r > 0) out.at += (uint64_t)r;
    else ASSERT_EQ(errno, EAGAIN);
    ASSERT_TRUE(r < 0 || n > PIPE_BUF || r == (ssize_t)n);
    ASSERT_EQ(left(p[0]), out.at - in.at);
    ASSERT_EQ(polled(p[0], POLLIN, 0), out.at != in.at ? POLLIN : 0);
    n = 1 + dice(&seed, dice(&seed, 3) ? 300 : 30000);
    v[0] = (struct iovec){b, n / 2}, v[1] = (struct iovec){b + n / 2, n - n / 2};
    r = dice(&seed, 2) ? read(p[0], b, n) : readv(p[0], v, 2);
    const uint64_t there = out.at - in.at;
    ASSERT_EQ(r, there == 0 ? -1 : (ssize_t)(there < n ? there : n));  // all that is there, never less
    if (r > 0) ASSERT_TRUE(check(&in, b, (size_t)r));
  }
}
TEST(ends_are_one_way) {
  int p[2];
  char b[8];
  warm_pipe(p, O_NONBLOCK);
  EXPECT_ERR(write(p[0], "x", 1), EBADF);
  EXPECT_ERR(read(p[1], b, 1), EBADF);
  EXPECT_ERR(writev(p[0], &(struct iovec){b, 1}, 1), EBADF);
  EXPECT_ERR(readv(p[1], &(struct iovec){b, 1}, 1), EBADF);
  EXPECT_ERR(recv(p[0], b, 1, 0), ENOTSOCK);
  EXPECT_ERR(send(p[1], b, 1, 0), ENOTSOCK);
  EXPECT_ERR(pread(p[0], b, 1, 0), ESPIPE);
  EXPECT_EQ(write(p[1], b, 0), 0);
  EXPECT_EQ(read(p[0], b, 0), 0);
  EXPECT_ERR(read(p[0], b, 1), EAGAIN);
  EXPECT_EFAULT(kBadRead, 8, q, syscall(SYS_write, p[1], q, 8));
  OK(write(p[1], "12345678", 8));
  EXPECT_EFAULT(kBadWrite, 8, q, syscall(SYS_read, p[0], q, 8));
  EXPECT_EQ(read(p[0], b, 8), 8);
}
TEST(capacity_when_busy) {
  int p[2];
  static char b[300000];
  for (int used = 0; used < 3; used++) {
    warm_pipe(p, O_NONBLOCK);
    EXPECT_EQ(fcntl(p[0], F_GETPIPE_SZ), 65536);
    for (int round = 0; round < 4; round++) {
      int sum = 0;
      const int piece = round % 2 ? 4096 : 65536;
      for (ssize_t n; (n = write(p[1], b, (size_t)piece)) > 0;) sum += (int)n;
      EXPECT_EQ(errno, EAGAIN);
      EXPECT_LE(sum, 65536);
      EXPECT_GE(sum, 65536 - 4096);
      EXPECT_EQ(left(p[0]), sum);
      EXPECT_EQ(polled(p[1], POLLOUT, 0), 0);
      EXPECT_EQ(read(p[0], b, 4096), 4096);
      EXPECT_EQ(polled(p[1], POLLOUT, 0), POLLOUT);  // a page is free
      EXPECT_EQ(write(p[1], b, 4096), 4096);
      EXPECT_EQ(read(p[0], b, sizeof b), sum);
      for (int i = 0; i < 50; i++) {
        OK(write(p[1], b, 9));
        ASSERT_EQ(read(p[0], b, 99), 9);
      }
    }
    OK(write(p[1], b, 5000));
    if (used == 0) {  // larger
      EXPECT_EQ(fcntl(p[1], F_SETPIPE_SZ, 262144), 262144);
      EXPECT_GE(write(p[1], b, sizeof b), 262144 - 5000 - 4096);
      EXPECT_ERR(fcntl(p[1], F_SETPIPE_SZ, 65536), EBUSY);
    } else if (used == 1) {  // as small as can be
      EXPECT_ERR(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
      EXPECT_EQ(read(p[0], b, 5000), 5000);
      EXPECT_EQ(fcntl(p[1], F_SETPIPE_SZ, 1), 4096);
      EXPECT_EQ(write(p[1], b, 9000), 4096);
      EXPECT_ERR(write(p[1], b, 1), EAGAIN);
      EXPECT_EQ(polled(p[1], POLLOUT, 0), 0);
      EXPECT_EQ(read(p[0], b, 9000), 4096);
      EXPECT_EQ(polled(p[1], POLLOUT, 0), POLLOUT);
    }
    close(p[0]), close(p[1]);
  }
}
TEST(ends_of_busy_pipes) {
  int p[2];
  char b[8];
  warm_pipe(p, 0);
  OK(write(p[1], "abc", 3));
  close(p[1]);
  EXPECT_EQ(polled(p[0], POLLIN, 0), POLLIN | POLLHUP);
  EXPECT_EQ(read(p[0], b, 8), 3);
  EXPECT_EQ(polled(p[0], POLLIN, 0), POLLHUP);
  for (int i = 0; i < 3; i++) EXPECT_EQ(read(p[0], b, 8), 0);
  close(p[0]);
  warm_pipe(p, 0);
  OK(write(p[1], "abc", 3));
  close(p[0]);
  kit_catch(SIGPIPE, 0);
  for (int i = 1; i < 4; i++) {
    EXPECT_ERR(write(p[1], "x", 1), EPIPE);
    EXPECT_EQ(kit_signals[SIGPIPE], i);
  }
  EXPECT_EQ(polled(p[1], POLLOUT, 0), POLLOUT | POLLERR);
}
static int there[2];
static volatile ssize_t thread_got;
static volatile int thread_errno;
static void *reads(void *unused) {
  char c;
  thread_got = read(there[0], &c, 1);
  return NULL;
}
static void *writes(void *size) {
  static char b[100000];
  thread_got = write(there[1], b, (size_t)size);
  thread_errno = errno;
  return NULL;
}
static void *polls_out(void *unused) {
  thread_got = polled(there[1], POLLOUT, 5000);
  return NULL;
}
TEST(ends_wake_who_waits) {
  pthread_t t;
  kit_catch(SIGPIPE, 0);
  for (int i = 0; i < 40; i++) {
    warm_pipe(there, 0);
    thread_got = -9;
    if (i % 2) {
      OK(pthread_create(&t, NULL, reads, NULL));
      if (i % 3) usleep(1000);
      close(there[1]);
    } else {
      fill_up(there);
      OK(pthread_create(&t, NULL, writes, (void *)10));
      if (i % 3) usleep(1000);
      close(there[0]);
    }
    pthread_join(t, NULL);
    ASSERT_EQ(thread_got, i % 2 ? 0 : -1);
    if (i % 2 == 0) ASSERT_EQ(thread_errno, EPIPE);
    close(there[i % 2 ? 0 : 1]);
  }
}
TEST(readers_and_writers_wait) {
  pthread_t t;
  static char b[100000];
  warm_pipe(there, 0);
  for (int i = 0; i < 100; i++) {
    thread_got = -9;
    OK(pthread_create(&t, NULL, reads, NULL));
    if (i % 3) usleep(i % 3 * 300);
    EXPECT_EQ(thread_got, -9);
    OK(write(there[1], "x", 1));
    pthread_join(t, NULL);
    ASSERT_EQ(thread_got, 1);
  }
  for (int i = 0; i < 60; i++) {
    fill_up(there);
    thread_got = -9;
    const int way = i % 3, size = way == 1 ? 4096 : 70000, taken = i % 5 == 0 ? 4096 : 65536;
    OK(pthread_create(&t, NULL, way ? writes : polls_out, (void *)(long)size));
    if (i % 4) usleep(i % 4 * 300);
    EXPECT_EQ(thread_got, -9);
    ASSERT_EQ(read(there[0], b, (size_t)taken), taken);
    for (int more = 65536 + (way ? size : 0) - taken; more > 0;) more -= (int)OK(read(there[0], b, sizeof b));
    pthread_join(t, NULL);
    ASSERT_EQ(thread_got, way ? size : POLLOUT);
    for (int k = 0; k < 20; k++) {
      OK(write(there[1], b, 9));
      ASSERT_EQ(read(there[0], b, 99), 9);
    }
  }
}
TEST(flags_change) {
  int p[2];
  char b[100];
  warm_pipe(p, 0);
  OK(fcntl(p[0], F_SETFL, O_NONBLOCK));
  EXPECT_ERR(read(p[0], b, 1), EAGAIN);
  OK(fcntl(p[1], F_SETFL, O_DIRECT));  // from here on packets
  OK(write(p[1], "cde", 3));
  OK(write(p[1], "fg", 2));
  EXPECT_EQ(left(p[0]), 5);
  EXPECT_EQ(read(p[0], b, 2), 2);  // a packet that is cut off
  EXPECT_EQ(read(p[0], b, 100), 2);
  EXPECT_EQ(b[0], 'f');
  OK(fcntl(p[1], F_SETFL, 0));
  for (int i = 0; i < 100; i++) {
    OK(write(p[1], "xy", 2)), OK(write(p[1], "z", 1));
    ASSERT_EQ(read(p[0], b, 100), 3);
  }
  OK(fcntl(p[0], F_SETOWN, getpid()));
  kit_catch(SIGIO, 0);
  OK(fcntl(p[0], F_SETFL, O_ASYNC | O_NONBLOCK));
  OK(write(p[1], "x", 1));
  for (int i = 0; i < 500 && !kit_signals[SIGIO]; i++) usleep(1000);
  EXPECT_GE(kit_signals[SIGIO], 1);
}
TEST(spliced_bytes_keep_their_place) {
  int p[2], q[2], f = OK(open("from", O_RDWR | O_CREAT, 0600)), g = OK(open("to", O_RDWR | O_CREAT, 0600));
  static char b[65536], arena[3000 * 2500];  // pages may be passed on, so nothing is written twice
  loff_t at = 0;
  struct flow out = {0, 7}, in = {0, 7};
  uint64_t seed = 11;
  warm_pipe(p, O_NONBLOCK);
  warm_pipe(q, O_NONBLOCK);
  for (int i = 0; i < 3000; i++) {
    size_t n = 1 + dice(&seed, 2500);
    fill(&out, arena + at, n);
    struct iovec v = {arena + at, n};
    ssize_t r = -1;
    switch (dice(&seed, 4)) {  // into p
      case 0: r = vmsplice(p[1], &v, 1, SPLICE_F_NONBLOCK); break;
      case 1:
        ASSERT_EQ(pwrite(f, arena + at, n, at), n);
        r = splice(f, &(loff_t){at}, p[1], NULL, n, SPLICE_F_NONBLOCK);
        break;
      default: r = write(p[1], arena + at, n);
    }
    at += (loff_t)n;
    if (r > 0) out.at += (uint64_t)r;
    n = 1 + dice(&seed, 2500);
    if (dice(&seed, 3) == 0) {  // what tee shows is next
      r = tee(p[0], q[1], n, SPLICE_F_NONBLOCK);
      if (r > 0) {
        struct flow copy = in;
        ASSERT_EQ(read(q[0], b, sizeof b), r);
        ASSERT_TRUE(check(&copy, b, (size_t)r));
      }
    }
    switch (dice(&seed, 4)) {  // out of p
      case 0:
        if (left(p[0]) == 0) break;
        r = splice(p[0], NULL, q[1], NULL, n, SPLICE_F_NONBLOCK);
        ASSERT_TRUE(r > 0);
        ASSERT_EQ(write(q[1], "!", 1), 1);
        ASSERT_EQ(read(q[0], b, sizeof b), r + 1);
        ASSERT_EQ(b[r], '!');
        ASSERT_TRUE(check(&in, b, (size_t)r));
        break;
      case 1:
        if (left(p[0]) == 0) break;
        r = splice(p[0], NULL, g, &(loff_t){0}, n, SPLICE_F_NONBLOCK);
        ASSERT_TRUE(r > 0 && pread(g, b, (size_t)r, 0) == r);
        ASSERT_TRUE(check(&in, b, (size_t)r));
        break;
      default:
        r = read(p[0], b, n);
        if (r > 0) ASSERT_TRUE(check(&in, b, (size_t)r));
    }
    ASSERT_EQ(left(p[0]), out.at - in.at);
  }
}

// --- several processes ---

static bool ask_pipe(int to, int from, uint32_t n) {
  for (uint32_t i = 1, got; i <= n; i++, progress++)
    if (write(to, &i, 4) != 4 || read(from, &got, 4) != 4 || got != i + 1) return false;
  return true;
}
static bool serve_pipe(int from, int to, uint32_t n) {
  for (uint32_t got; n-- > 0;) {
    if (read(from, &got, 4) != 4) return false;
    got++;
    if (write(to, &got, 4) != 4) return false;
  }
  return true;
}
TEST(parent_and_child_talk) {
  int a[2], b[2];
  char c;
  warm_pipe(a, 0);
  warm_pipe(b, 0);
  IN_CHILD(pid, {
    close(a[1]), close(b[0]);
    EXPECT_TRUE(serve_pipe(a[0], b[1], 5000));
    EXPECT_EQ(read(a[0], &c, 1), 0);
  });
  close(a[0]), close(b[1]);
  EXPECT_TRUE(ask_pipe(a[1], b[0], 5000));
  close(a[1]);
  EXPECT_EQ(read(b[0], &c, 1), 0);
  EXPECT_EXIT(pid, 0);
}
TEST(ends_shared_and_alone_again) {
  int a[2], b[2];
  warm_pipe(a, 0);
  warm_pipe(b, 0);
  IN_CHILD(pid, {
    for (int i = 0; i < 20; i++) EXPECT_TRUE(serve_pipe(a[0], b[1], 200));
  });
  for (int i = 0; i < 20; i++) {
    int copy[2] = {dup(a[1]), dup(b[0])};
    EXPECT_TRUE(ask_pipe(i % 2 ? copy[0] : a[1], i % 3 ? copy[1] : b[0], 100));
    close(copy[0]), close(copy[1]);
    if (i % 5 == 0) {
      IN_CHILD(other, { EXPECT_TRUE(ask_pipe(a[1], b[0], 100)); });
      EXPECT_EXIT(other, 0);
    } else {
      EXPECT_TRUE(ask_pipe(a[1], b[0], 100));
    }
  }
  EXPECT_EXIT(pid, 0);
}
static void pump_process(size_t most_written, size_t most_read, uint64_t total, bool slow_reader) {
  int p[2];
  static char b[200000];
  uint64_t seed = most_written + most_read;
  warm_pipe(p, 0);
  struct flow flow = {0, 9};
  IN_CHILD(pid, {
    close(p[0]);
    while (flow.at < total) {
      size_t n = 1 + dice(&seed, (uint32_t)most_written);
      if (n > total - flow.at) n = total - flow.at;
      fill(&flow, b, n);
      ASSERT_EQ(write(p[1], b, n), n);
      flow.at += n;
      if (!slow_reader && dice(&seed, 64) == 0) usleep(dice(&seed, 200));
    }
  });
  close(p[1]);
  ssize_t n;
  while ((n = read(p[0], b, 1 + dice(&seed, (uint32_t)most_read))) > 0) {
    ASSERT_TRUE(check(&flow, b, (size_t)n));
    progress++;
    if (slow_reader && dice(&seed, 64) == 0) usleep(dice(&seed, 200));
  }
  EXPECT_EQ(n, 0);
  EXPECT_EQ(flow.at, total);
  EXPECT_EXIT(pid, 0);
  close(p[0]);
}
TEST(a_stream_of_small_writes) { pump_process(100, 100, 1000000, false); }
TEST(a_stream_of_small_writes_to_a_slow_reader) { pump_process(2000, 3000, 8000000, true); }
TEST(a_stream_of_large_writes) { pump_process(150000, 150000, 30000000, false); }
TEST(a_stream_of_mixed_sizes) { pump_process(20000, 9000, 30000000, true); }
static void *writes_records(void *who) {
  char record[PIPE_BUF];
  uint64_t seed = (uint64_t)(intptr_t)who;
  for (int i = 0; i < 400; i++) {  // what is at most PIPE_BUF is never mixed with others
    const uint32_t n = 8 + dice(&seed, dice(&seed, 4) ? 200 : PIPE_BUF - 8);
    memset(record, (int)(intptr_t)who, n);
    memcpy(record, &n, 4);
    if (write(there[1], record, n) != (ssize_t)n) return (void *)1L;
  }
  return NULL;
}
TEST(small_writes_of_many_are_whole) {
  pthread_t t[4];
  static char b[PIPE_BUF];
  warm_pipe(there, 0);
  IN_CHILD(pid, {
    close(there[0]);
    for (long i = 0; i < 4; i++) OK(pthread_create(&t[i], NULL, writes_records, (void *)(i + 1)));
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  });
  close(there[1]);
  uint32_t n;
  for (int i = 0; i < 4 * 400; i++) {
    ASSERT_TRUE(get_all(there[0], 0, &n, 4));
    ASSERT_TRUE(n >= 8 && n <= PIPE_BUF && get_all(there[0], 0, b, n - 4));
    for (uint32_t k = 1; k < n - 4; k++) ASSERT_EQ(b[k], b[0]);
  }
  EXPECT_EQ(read(there[0], b, 1), 0);
  EXPECT_EXIT(pid, 0);
}
TEST(several_readers_take_each_byte_once) {
  int p[2];
  uint8_t *seen = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  warm_pipe(p, 0);
  pid_t pids[3];
  for (int i = 0; i < 3; i++) {
    IN_CHILD(pid, {
      close(p[1]);
      for (uint16_t v; read(p[0], &v, 2) == 2;) __atomic_fetch_add(&seen[v], 1, __ATOMIC_SEQ_CST);
    });
    pids[i] = pid;
  }
  close(p[0]);
  for (uint32_t i = 0; i < 20000; i++) ASSERT_EQ(write(p[1], &(uint16_t){(uint16_t)i}, 2), 2);
  close(p[1]);
  for (int i = 0; i < 3; i++) EXPECT_EXIT(pids[i], 0);
  for (uint32_t i = 0; i < 20000; i++) ASSERT_EQ(seen[i], 1);
}
TEST(opened_again_through_proc) {
  int p[2];
  char b[100], name[64];
  warm_pipe(p, O_NONBLOCK);
  OK(write(p[1], "1234", 4));
  sprintf(name, "/proc/self/fd/%d", p[0]);
  int other = OK(open(name, O_RDONLY | O_NONBLOCK));
  EXPECT_EQ(read(other, b, 2), 2);
  EXPECT_EQ(read(p[0], b, 8), 2);
  sprintf(name, "/proc/self/fd/%d", p[1]);
  int writer = OK(open(name, O_WRONLY | O_NONBLOCK));
  for (int i = 0; i < 100; i++) {
    OK(write(i % 2 ? writer : p[1], "ab", 2));
    ASSERT_EQ(read(i % 3 ? other : p[0], b, 8), 2);
  }
  close(p[1]);
  EXPECT_ERR(read(other, b, 8), EAGAIN);
  close(writer);
  EXPECT_EQ(read(other, b, 8), 0);
}
static void pass_on(int by, int fd) {
  char c = 'f';
  struct iovec i = {&c, 1};
  union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } u = {.h = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
  memcpy(CMSG_DATA(&u.h), &fd, sizeof fd);
  ASSERT_EQ(sendmsg(by, &(struct msghdr){.msg_iov = &i, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u}, 0), 1);
}
static int receive_it(int by) {
  char c;
  int fd;
  struct iovec i = {&c, 1};
  union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } u;
  ASSERT_EQ(recvmsg(by, &(struct msghdr){.msg_iov = &i, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u}, 0), 1);
  memcpy(&fd, CMSG_DATA(&u.h), sizeof fd);
  return fd;
}
TEST(an_end_is_passed_on) {
  int p[2], s[2];
  char b[100];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  IN_CHILD(pid, {
    const int fd = receive_it(s[1]);
    EXPECT_EQ(read(fd, b, 5), 5);
    for (int i = 0; i < 200; i++) {
      ASSERT_EQ(read(fd, b, 3), 3);
      ASSERT_EQ(write(s[1], "k", 1), 1);
    }
    EXPECT_EQ(read(fd, b, 3), 0);
  });
  warm_pipe(p, 0);
  OK(write(p[1], "first", 5));
  pass_on(s[0], p[0]);
  close(p[0]);
  for (int i = 0; i < 200; i++) {
    ASSERT_EQ(write(p[1], "abc", 3), 3);
    ASSERT_EQ(read(s[0], b, 1), 1);
  }
  close(p[1]);
  EXPECT_EXIT(pid, 0);
}
__attribute__((constructor)) static void serve_after_exec(void) {
  if (getenv("PIPE_TEST")) _exit(serve_pipe(0, 1, 2000) ? 42 : 1);
}
TEST(programs_of_a_pipeline) {
  int a[2], b[2];
  warm_pipe(a, 0);
  warm_pipe(b, 0);
  IN_CHILD(pid, {
    dup2(a[0], 0), dup2(b[1], 1);
    close(a[0]), close(a[1]), close(b[0]), close(b[1]);
    execle("/proc/self/exe", "x", NULL, (char *[]){"PIPE_TEST=1", NULL});
  });
  close(a[0]), close(b[1]);
  EXPECT_TRUE(ask_pipe(a[1], b[0], 2000));
  EXPECT_EXIT(pid, 42);
  char c;
  EXPECT_EQ(read(b[0], &c, 1), 0);
  kit_catch(SIGPIPE, 0);
  EXPECT_ERR(write(a[1], "x", 1), EPIPE);
}
TEST(a_reader_is_killed) {
  int p[2];
  char b[64];
  kit_catch(SIGPIPE, 0);
  for (int i = 0; i < 8; i++) {
    warm_pipe(p, 0);
    IN_CHILD(pid, {
      close(p[1]);
      while (read(p[0], b, sizeof b) > 0) {}
    });
    close(p[0]);
    for (int k = 0; k < 300 + i * 100; k++) ASSERT_EQ(write(p[1], b, 40), 40);
    kill(pid, SIGKILL);
    ssize_t n;
    while ((n = write(p[1], b, 40)) == 40) {}
    EXPECT_TRUE(n == -1 && errno == EPIPE);
    EXPECT_KILLED(pid, SIGKILL);
    close(p[1]);
  }
}
TEST(signals_interrupt) {
  int p[2], done[2];
  char c;
  static char b[65536];
  for (int way = 0; way < 4; way++) {
    warm_pipe(p, 0);
    OK(pipe(done));
    IN_CHILD(pid, {
      kit_catch(SIGUSR1, way & 1 ? SA_RESTART : 0);
      if (way & 2) {
        OK(write(p[1], b, sizeof b));
        if (way & 1) EXPECT_EQ(write(p[1], b, 100), 100);
        else EXPECT_ERR(write(p[1], b, 100), EINTR);
      } else {
        if (way & 1) EXPECT_EQ(read(p[0], &c, 1), 1);
        else EXPECT_ERR(read(p[0], &c, 1), EINTR);
      }
      OK(write(done[1], "d", 1));
    });
    kit_wait_asleep(pid);
    kill(pid, SIGUSR1);
    if (way & 1) {
      kit_sleep_ms(10);
      if (way & 2) OK(read(p[0], b, sizeof b));
      else OK(write(p[1], "x", 1));
    }
    EXPECT_EQ(read(done[0], &c, 1), 1);
    EXPECT_EXIT(pid, 0);
  }
}

// --- epoll ---

TEST(ends_in_epoll) {
  int p[2], e = OK(epoll_create1(0)), w = OK(epoll_create1(0));
  static char b[65536];
  warm_pipe(p, O_NONBLOCK);
  OK(watch(e, EPOLL_CTL_ADD, p[0], EPOLLIN, 0));
  OK(watch(w, EPOLL_CTL_ADD, p[1], EPOLLOUT, 0));
  for (int i = 0; i < 100; i++) {
    EXPECT_EQ(ready(e, 0), 0);
    EXPECT_EQ(ready(w, 0), EPOLLOUT);
    OK(write(p[1], "ab", 2));
    EXPECT_EQ(ready(e, 1000), EPOLLIN);
    EXPECT_EQ(read(p[0], b, 1), 1);
    EXPECT_EQ(ready(e, 0), EPOLLIN);
    EXPECT_EQ(read(p[0], b, 9), 1);
  }
  OK(watch(e, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 0));
  for (int i = 0; i < 50; i++) {
    OK(write(p[1], "x", 1));
    EXPECT_EQ(ready(e, 1000), EPOLLIN);
    EXPECT_EQ(ready(e, 0), 0);
  }
  EXPECT_EQ(read(p[0], b, 99), 50);
  OK(watch(w, EPOLL_CTL_MOD, p[1], EPOLLOUT | EPOLLET, 0));
  EXPECT_EQ(ready(w, 0), EPOLLOUT);
  for (int i = 0; i < 10; i++) {
    EXPECT_EQ(ready(w, 0), 0);
    while (write(p[1], b, i % 2 ? 4096 : 60000) > 0) {}
    EXPECT_EQ(ready(w, 0), 0);
    while (read(p[0], b, i % 3 ? 4096 : sizeof b) > 0) {}
    EXPECT_EQ(ready(w, 1000), EPOLLOUT);
    for (int k = 0; k < 20; k++) OK(write(p[1], "x", 1)), OK(read(p[0], b, 1));
  }
  OK(watch(e, EPOLL_CTL_MOD, p[0], EPOLLIN, 0));
  OK(watch(w, EPOLL_CTL_MOD, p[1], 0, 0));
  EXPECT_EQ(ready(w, 0), 0);
  const int copy = OK(dup(p[1]));
  close(p[1]);
  EXPECT_EQ(ready(e, 0), 0);
  close(copy);
  EXPECT_EQ(ready(e, 1000), EPOLLHUP);
  warm_pipe(p, O_NONBLOCK);
  OK(watch(w, EPOLL_CTL_ADD, p[1], 0, 0));
  EXPECT_EQ(ready(w, 0), 0);
  close(p[0]);
  EXPECT_EQ(ready(w, 1000), EPOLLERR);
}
static void *feeds(void *fd) {
  uint64_t seed = 9;
  for (uint32_t i = 0; i < 5000; i++) {
    if (write((int)(intptr_t)fd, &i, 4) != 4) return (void *)1L;
    if (dice(&seed, 8) == 0) usleep(dice(&seed, 60));
  }
  return NULL;
}
static void loop_over_pipe(uint32_t mode, bool process) {
  int p[2], e = OK(epoll_create1(0));
  pthread_t t;
  void *bad = NULL;
  warm_pipe(p, 0);
  OK(fcntl(p[0], F_SETFL, O_NONBLOCK));
  pid_t child = 0;
  if (process) {
    IN_CHILD(pid, {
      close(p[0]);
      EXPECT_TRUE(!feeds((void *)(intptr_t)p[1]));
    });
    child = pid;
    close(p[1]);
  } else {
    OK(pthread_create(&t, NULL, feeds, (void *)(intptr_t)p[1]));
  }
  OK(watch(e, EPOLL_CTL_ADD, p[0], EPOLLIN | mode, 0));
  for (uint32_t next = 0, got; next < 5000;) {
    ASSERT_TRUE(ready(e, 5000) & EPOLLIN);
    while (read(p[0], &got, 4) == 4) {
      ASSERT_EQ(got, next++);
      if (!mode) break;
    }
  }
  if (process) EXPECT_EXIT(child, 0);
  else pthread_join(t, &bad);
  EXPECT_TRUE(!bad);
}
TEST(a_loop_fed_by_a_thread) { loop_over_pipe(0, false); }
TEST(a_loop_fed_by_a_thread_by_edges) { loop_over_pipe(EPOLLET, false); }
TEST(a_loop_fed_by_a_process) { loop_over_pipe(0, true); }
TEST(a_loop_fed_by_a_process_by_edges) { loop_over_pipe(EPOLLET, true); }
