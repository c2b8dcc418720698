// SPDX-License-Identifier: Apache-2.0
// Connected streams in use: every call that moves bytes, bad and moving buffers, descriptors that are shared, passed,
// replaced and closed under calls, shutdown, flags and options, each on a warm connection.
#include "streams.h"

#include <sys/sendfile.h>

STREAM_TEST(every_call_carries_bytes) {
  int s[2];
  uint8_t b[101], c[101];
  struct flow f = {0, 3};
  warm_streams(kind, s);
  for (int i = 0; i < kWays * kWays * 2; i++) {
    const int from = s[i & 1], to = s[~i & 1];
    fill(&f, b, sizeof b);
    EXPECT_EQ(put(from, i / 2, b, sizeof b), sizeof b);
    memset(c, 0, sizeof c);
    if (kind == kTcp) EXPECT_TRUE(get_all(to, i / 2 / kWays, c, sizeof c));
    else EXPECT_EQ(get(to, i / 2 / kWays, c, sizeof c), sizeof c);
    ASSERT_TRUE(check(&f, c, sizeof c));
  }
}
STREAM_TEST(messages_join_and_split) {
  int s[2];
  char b[400];
  struct flow out = {0, 1}, in = {0, 1};
  warm_streams(kind, s);
  for (int round = 0; round < 50; round++) {
    int sum = 0;
    for (int i = 1; i <= 20; i++) {
      fill(&out, b, (size_t)i);
      ASSERT_EQ(put(s[0], i, b, (size_t)i), i);
      out.at += (uint64_t)i;
      sum += i;
    }
    ASSERT_EQ(arrived(s[1], sum), sum);
    for (int size = 1; sum > 0; size += 3) {
      const ssize_t n = get(s[1], size, b, (size_t)size);
      if (kind == kTcp) ASSERT_TRUE(n > 0 && n <= (size < sum ? size : sum));
      else ASSERT_EQ(n, size < sum ? size : sum);
      ASSERT_TRUE(check(&in, b, (size_t)n));
      sum -= (int)n;
    }
    EXPECT_ERR(recv(s[1], b, 1, MSG_DONTWAIT), EAGAIN);
  }
}
STREAM_TEST(addresses_in_calls) {
  int s[2];
  struct sockaddr_in to = {.sin_family = AF_INET};
  char from[128], c;
  warm_streams(kind, s);
  if (kind == kTcp) EXPECT_EQ(sendto(s[0], "x", 1, 0, (struct sockaddr *)&to, sizeof to), 1);
  else EXPECT_ERR(sendto(s[0], "x", 1, 0, (struct sockaddr *)&to, sizeof to), EISCONN);
  EXPECT_EQ(write(s[1], "y", 1), 1);
  socklen_t n = sizeof from;
  EXPECT_EQ(recvfrom(s[0], &c, 1, 0, (struct sockaddr *)from, &n), 1);
  EXPECT_EQ(c, 'y');
  if (kind != kUnix) EXPECT_LE(n, 2);  // an accepted unix socket has its listener's name
}
STREAM_TEST(nothing_is_a_length) {
  int s[2];
  char b[4];
  struct iovec none[2] = {{b, 0}, {NULL, 0}};
  warm_streams(kind, s);
  EXPECT_EQ(write(s[0], b, 0), 0);
  EXPECT_EQ(send(s[0], NULL, 0, 0), 0);
  EXPECT_EQ(writev(s[0], none, 2), 0);
  EXPECT_EQ(read(s[1], b, 0), 0);
  EXPECT_EQ(readv(s[1], none, 2), 0);
  EXPECT_ERR(recv(s[1], b, 0, MSG_DONTWAIT), EAGAIN);
  EXPECT_EQ(polled(s[1], POLLIN, 0), 0);
  OK(write(s[0], "a", 1));
  ASSERT_EQ(arrived(s[1], 1), 1);
  EXPECT_EQ(read(s[1], b, 0), 0);
  EXPECT_EQ(recv(s[1], b, 0, 0), 0);
  EXPECT_EQ(read(s[1], b, 4), 1);
}
STREAM_TEST(bad_buffers_consume_nothing) {
  int s[2];
  uint8_t b[100], c[300];
  struct flow f = {0, 9};
  warm_streams(kind, s);
  fill(&f, b, sizeof b);
  OK(write(s[0], b, sizeof b));
  ASSERT_EQ(arrived(s[1], 100), 100);
  EXPECT_EFAULT(kBadWrite, 1, p, read(s[1], p, 100));
  EXPECT_EFAULT(kBadWrite, 1, p, syscall(SYS_recvfrom, s[1], p, 100, 0, NULL, NULL));
  EXPECT_EFAULT(kBadWrite, 1, p, syscall(SYS_recvfrom, s[1], p, 100, MSG_PEEK, NULL, NULL));
  EXPECT_EFAULT(kBadWrite, 1, p, readv(s[1], ((struct iovec[]){{p, 50}, {c, 50}}), 2));
  EXPECT_EFAULT(kBadRead, 16, p, syscall(SYS_readv, s[1], p, 1));
  EXPECT_EQ(arrived(s[1], 100), 100);
  EXPECT_EQ(read(s[1], c, sizeof c), 100);
  EXPECT_TRUE(check(&f, c, 100));
  EXPECT_EFAULT(kBadRead, 1, p, write(s[0], p, 100));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_sendto, s[0], p, 100, 0, NULL, 0));
  EXPECT_EFAULT(kBadRead, 1, p, writev(s[0], ((struct iovec[]){{p, 50}, {c, 50}}), 2));
  EXPECT_EFAULT(kBadRead, 16, p, syscall(SYS_writev, s[0], p, 1));
  EXPECT_ERR(syscall(SYS_readv, s[1], &(struct iovec){c, (size_t)-1}, 1), EINVAL);
  EXPECT_ERR(syscall(SYS_writev, s[0], &(struct iovec){c, 1}, 1025), EINVAL);
  EXPECT_ERR(syscall(SYS_readv, s[1], &(struct iovec){c, 1}, -1), EINVAL);
  EXPECT_ERR(recv(s[1], c, 1, MSG_DONTWAIT), EAGAIN);
  EXPECT_EQ(write(s[0], "z", 1), 1);
  EXPECT_EQ(read(s[1], c, sizeof c), 1);
  EXPECT_EQ(c[0], 'z');
}
// Linux moves nothing at all; what counts is that the answer tells what moved.
STREAM_TEST(partly_bad_buffers_move_what_they_say) {
  int s[2];
  char b[200], c[200];
  struct flow out = {0, 6}, in = {0, 6};
  warm_streams(kind, s);
  char *end = (char *)mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 4096;
  OK(mprotect(end, 4096, PROT_NONE));
  for (int i = 0; i < 60; i++) {
    const int good = i % 3 ? i : 100 - i;
    fill(&out, end - good, (size_t)good);
    ssize_t n = i & 1 ? put(s[0], i / 2, end - good, 100) : writev(s[0], (struct iovec[]){{end - good, good}, {end, 8}}, 2);
    if (n < 0) ASSERT_EQ(errno, EFAULT);
    else ASSERT_TRUE(n <= good);
    if (n > 0) out.at += (uint64_t)n;
    fill(&out, b, sizeof b);
    ASSERT_EQ(put(s[0], i, b, sizeof b), sizeof b);
    out.at += sizeof b;
    ASSERT_EQ(arrived(s[1], (int)(out.at - in.at)), out.at - in.at);
    n = i & 1 ? get(s[1], i / 2, end - good, 100) : readv(s[1], (struct iovec[]){{end - good, good}, {end, 8}}, 2);
    if (n < 0) ASSERT_EQ(errno, EFAULT);
    else ASSERT_TRUE(n <= good);
    if (n > 0) ASSERT_TRUE(check(&in, end - good, (size_t)n));
    while (in.at < out.at) {
      n = OK(get(s[1], i, c, sizeof c));
      ASSERT_TRUE(check(&in, c, (size_t)n));
    }
  }
}
static __attribute__((noinline)) ssize_t read_deep_in_the_stack(int fd) {
  volatile char big[400000];
  const ssize_t n = read(fd, (char *)big, 8);
  return n == 8 && big[7] == 7 ? n : -2;
}
STREAM_TEST(buffers_that_are_not_there_yet) {
  int s[2];
  char c[8192] = {1, 2, 3, 4, 5, 6, 8, 7}, d[16];
  c[7] = 7;
  warm_streams(kind, s);
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  for (int i = 0; i < 20; i++) {
    char *fresh = mmap(NULL, 8192, PROT_READ | PROT_WRITE, flags, -1, 0);
    OK(write(s[0], c, 8));
    ASSERT_TRUE(get_all(s[1], i, fresh + 4092, 8));  // across two pages
    EXPECT_EQ(memcmp(fresh + 4092, c, 8), 0);
    char *zero = mmap(NULL, 8192, PROT_READ, flags, -1, 0);
    ASSERT_EQ(put(s[0], i, zero + 4092, 8), 8);
    ASSERT_TRUE(get_all(s[1], i, d, 8));
    EXPECT_EQ(memcmp(d, zero, 8), 0);
    OK(write(s[0], c, 8));
    IN_CHILD(pid, {  // pages shared with the parent until written
      EXPECT_TRUE(get_all(s[1], i, fresh + 4090, 8));
      EXPECT_EQ(memcmp(fresh + 4090, c, 8), 0);
    });
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(memcmp(fresh + 4092, c, 8), 0);
    munmap(fresh, 8192);
    munmap(zero, 8192);
  }
  kit_write_file("f", "0123456789");
  int fd = OK(open("f", O_RDWR));
  char *file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  EXPECT_ERR(write(s[0], file + 4096, 8), EFAULT);  // behind the end of the file: SIGBUS for a program
  OK(write(s[0], file + 2, 8));
  EXPECT_EQ(read(s[1], file, 8), 8);
  EXPECT_EQ(pread(fd, d, 10, 0), 10);
  EXPECT_EQ(memcmp(d, "2345678989", 10), 0);
  OK(write(s[0], c, 8));
  EXPECT_EQ(arrived(s[1], 8), 8);
  EXPECT_ERR(read(s[1], file + 4096, 8), EFAULT);
  EXPECT_EQ(read_deep_in_the_stack(s[1]), 8);
}
static struct { char *pages; volatile bool stop; } moving;
static void *move_pages(void *unused) {
  for (int i = 0; !moving.stop; i++) {
    mprotect(moving.pages, 4096, i % 3 ? PROT_READ | PROT_WRITE : i & 1 ? PROT_READ : PROT_NONE);
    if (i % 4 == 0) sched_yield();
  }
  return NULL;
}
STREAM_TEST(mappings_change_under_calls) {
  int s[2], memory = OK(memfd_create("m", 0));
  pthread_t t;
  warm_streams(kind, s);
  OK(ftruncate(memory, 4096));
  uint64_t *fixed = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  moving.pages = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  OK(pthread_create(&t, NULL, move_pages, NULL));
  const long long end = kit_now_ns() + 400000000;
  for (uint64_t i = 0; kit_now_ns() < end; i++) {
    fixed[0] = i;
    for (ssize_t done = 0, n; done < 8; done += n > 0 ? n : 0) {
      n = put(s[0], (int)i, moving.pages + done, (size_t)(8 - done));
      ASSERT_TRUE(n > 0 || (n < 0 && errno == EFAULT));
    }
    fixed[0] = ~i;
    for (ssize_t done = 0, n; done < 8; done += n > 0 ? n : 0) {
      n = get(s[1], (int)i / 2, moving.pages + done, (size_t)(8 - done));
      ASSERT_TRUE(n > 0 || (n < 0 && errno == EFAULT));
    }
    ASSERT_EQ(fixed[0], i);
  }
  moving.stop = true;
  pthread_join(t, NULL);
}
STREAM_TEST(peek_and_counts) {
  int s[2], n;
  char b[8] = "";
  warm_streams(kind, s);
  OK(write(s[0], "abc", 3));
  ASSERT_EQ(arrived(s[1], 3), 3);
  for (int i = 0; i < 5; i++) EXPECT_EQ(recv(s[1], b, 2, MSG_PEEK), 2);
  EXPECT_EQ(read(s[1], b, 1), 1);
  EXPECT_EQ(b[0], 'a');
  OK(ioctl(s[1], FIONREAD, &n));
  EXPECT_EQ(n, 2);
  OK(write(s[0], "de", 2));
  EXPECT_EQ(arrived(s[1], 4), 4);
  EXPECT_EQ(recv(s[1], b, 8, MSG_PEEK | MSG_DONTWAIT) > 0, 1);
  EXPECT_EQ(b[0], 'b');
  EXPECT_TRUE(get_all(s[1], 0, b, 4));
  EXPECT_EQ(memcmp(b, "bcde", 4), 0);
  OK(ioctl(s[1], FIONREAD, &n));
  EXPECT_EQ(n, 0);
  EXPECT_ERR(recv(s[1], b, 8, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
  IN_CHILD(pid, { for (int i = 0; i < 4; i++) { kit_sleep_ms(10); OK(write(s[0], "12", 2)); } });
  EXPECT_EQ(recv(s[1], b, 1, MSG_PEEK), 1);  // waits
  EXPECT_EQ(recv(s[1], b, 8, MSG_WAITALL), 8);
  EXPECT_EQ(memcmp(b, "12121212", 8), 0);
  EXPECT_EXIT(pid, 0);
}
STREAM_TEST(fill_and_drain) {
  int s[2];
  static char b[40000];
  struct flow out = {0, 1}, in = {0, 1};
  uint64_t seed = 5;
  warm_streams(kind, s);
  OK(fcntl(s[0], F_SETFL, O_NONBLOCK));
  for (int round = 0; round < 3; round++) {
    do {
      for (;;) {
        const size_t size = 1 + dice(&seed, round == 0 ? 3000 : sizeof b);
        fill(&out, b, size);
        const ssize_t n = put(s[0], (int)seed, b, size);
        if (n < 0) break;
        out.at += (uint64_t)n;
      }
      ASSERT_EQ(errno, EAGAIN);
    } while (kind == kTcp && polled(s[0], POLLOUT, 30));
    EXPECT_EQ(polled(s[0], POLLOUT, 0), 0);
    if (kind != kTcp) EXPECT_ERR(send(s[0], "x", 1, 0), EAGAIN);
    while (in.at < out.at) {
      const ssize_t n = OK(get(s[1], (int)seed, b, 1 + dice(&seed, sizeof b)));
      ASSERT_TRUE(check(&in, b, (size_t)n));
    }
    EXPECT_EQ(polled(s[0], POLLOUT, 2000), POLLOUT);
    EXPECT_ERR(recv(s[1], b, 1, MSG_DONTWAIT), EAGAIN);
  }
}
static const size_t kSizes[] = {1, 100, 5000, 16383, 16384, 16385, 70000, 3, 32768, 300000, 7};
STREAM_TEST(large_writes_wait_for_room) {
  int s[2];
  static char b[300000];
  uint64_t seed = 8;
  warm_streams(kind, s);
  IN_CHILD(pid, {
    struct flow out = {0, 4};
    EXPECT_TRUE(serve(s[0], kWarm));
    for (int i = 0; i < 22; i++) {
      const size_t size = kSizes[i % 11];
      fill(&out, b, size);
      ASSERT_EQ(put(s[0], i, b, size), size);  // one blocking call takes all
      out.at += size;
    }
  });
  struct flow in = {0, 4};
  EXPECT_TRUE(ask(s[1], 0, kWarm));
  close(s[0]);
  for (ssize_t n; (n = OK(get(s[1], (int)seed, b, 1 + dice(&seed, 50000)))) > 0;) ASSERT_TRUE(check(&in, b, (size_t)n));
  uint64_t sum = 0;
  for (int i = 0; i < 11; i++) sum += 2 * kSizes[i];
  EXPECT_EQ(in.at, sum);
  EXPECT_EXIT(pid, 0);
}
STREAM_TEST(a_blocked_writer_learns_that_the_reader_left) {
  int s[2];
  static char b[3000];
  warm_streams(kind, s);
  IN_CHILD(pid, {
    close(s[1]);
    signal(SIGPIPE, SIG_IGN);
    EXPECT_TRUE(serve(s[0], kWarm));
    while (write(s[0], b, sizeof b) > 0) {
    }
    EXPECT_TRUE(errno == EPIPE || errno == ECONNRESET);  // the latter as bytes were left unread
    kit_catch(SIGPIPE, 0);
    EXPECT_ERR(write(s[0], b, 1), EPIPE);
    EXPECT_EQ(kit_signals[SIGPIPE], 1);
    EXPECT_ERR(send(s[0], b, 1, MSG_NOSIGNAL), EPIPE);
    EXPECT_EQ(kit_signals[SIGPIPE], 1);
  });
  close(s[0]);
  EXPECT_TRUE(ask(s[1], 0, kWarm));
  kit_wait_asleep(pid);
  OK(read(s[1], b, 100));
  close(s[1]);
  EXPECT_EXIT(pid, 0);
}

// Shared, replaced and closed descriptors.
STREAM_TEST(copies_share_an_end) {
  int s[2];
  char b[8];
  warm_streams(kind, s);
  int d = OK(dup(s[1])), e = OK(fcntl(s[1], F_DUPFD_CLOEXEC, 50)), w = OK(dup3(s[0], 70, O_CLOEXEC));
  OK(write(s[0], "ab", 2));
  OK(write(w, "cd", 2));
  ASSERT_EQ(arrived(e, 4), 4);
  EXPECT_EQ(read(d, b, 1), 1);
  EXPECT_EQ(read(s[1], b + 1, 1), 1);
  close(s[1]);
  EXPECT_ERR(read(s[1], b, 1), EBADF);
  EXPECT_EQ(read(e, b + 2, 2), 2);
  EXPECT_EQ(memcmp(b, "abcd", 4), 0);
  close(d);
  OK(fcntl(e, F_SETFL, O_NONBLOCK));
  EXPECT_ERR(read(e, b, 1), EAGAIN);
  close(s[0]);
  EXPECT_ERR(read(e, b, 1), EAGAIN);  // one copy is left
  OK(syscall(SYS_close_range, 70, 80, 0));
  EXPECT_EQ(polled(e, POLLIN, 2000), POLLIN | (kind == kTcp ? 0 : POLLHUP));
  EXPECT_EQ(read(e, b, 1), 0);
}
STREAM_TEST(the_last_copy_ends_the_stream) {
  int s[2];
  char b[8];
  for (int how = 0; how < 4; how++) {  // closed, exit, SIGKILL, exec
    warm_streams(kind, s);
    if (how == 3) OK(fcntl(s[0], F_SETFD, FD_CLOEXEC));
    IN_CHILD(pid, {
      EXPECT_TRUE(serve(s[0], kWarm));
      OK(write(s[0], "bye", 3));
      kit_sleep_ms(20);
      if (how == 0) close(s[0]), pause();
      if (how == 1) _exit(0);
      if (how == 2) raise(SIGKILL);
      execl("/proc/self/exe", "x", "--list", "no-such-test", NULL);
    });
    close(s[0]);
    EXPECT_TRUE(ask(s[1], 0, kWarm));
    EXPECT_TRUE(get_all(s[1], how, b, 3));
    EXPECT_EQ(get(s[1], how, b, 3), 0);
    EXPECT_EQ(polled(s[1], POLLIN | POLLRDHUP, 0), POLLIN | POLLRDHUP | (kind == kTcp ? 0 : POLLHUP));
    if (how == 0) kill(pid, SIGKILL);
    kit_wait(pid);
    close(s[1]);
  }
}
struct reading { int fd; pthread_t thread; volatile int tid; char got[2]; };
static void *read_twice(void *p) {
  struct reading *r = p;
  r->tid = gettid();
  for (int i = 0; i < 2; i++) EXPECT_EQ(read(r->fd, &r->got[i], 1), 1);
  return NULL;
}
STREAM_TEST(a_call_keeps_the_end_it_began_with) {
  int s[2], t[2];
  warm_streams(kind, s);
  warm_streams(kind, t);
  struct reading r = {.fd = s[1]};
  OK(pthread_create(&r.thread, NULL, read_twice, &r));
  while (!r.tid) usleep(1000);
  kit_sleep_ms(30);
  OK(dup2(t[1], s[1]));  // the first read stays with the old stream
  OK(write(t[0], "n", 1));
  kit_sleep_ms(20);
  EXPECT_EQ(r.got[0], 0);
  OK(write(s[0], "o", 1));
  pthread_join(r.thread, NULL);
  EXPECT_EQ(r.got[0], 'o');
  EXPECT_EQ(r.got[1], 'n');
  EXPECT_EQ(polled(s[0], POLLRDHUP, 2000) & POLLRDHUP, POLLRDHUP);  // gone with that read
}
static struct { int fd, ends[2]; volatile bool stop; } flips;
static void *flip(void *unused) {
  for (int i = 0; !flips.stop; i++) {
    OK(dup2(flips.ends[i & 1], flips.fd));
    if (i % 8 == 0) sched_yield();
  }
  return NULL;
}
STREAM_TEST(numbers_change_under_calls) {
  int s[2][2], number = OK(dup(0)), misses = 0;
  pthread_t t;
  uint32_t next[2] = {0, 0}, back[2] = {0, 0};
  for (int i = 0; i < 2; i++) {
    warm_streams(kind, s[i]);
    flips.ends[i] = s[i][1];
  }
  flips.fd = number;
  OK(dup2(s[0][1], number));
  OK(pthread_create(&t, NULL, flip, NULL));
  const long long end = kit_now_ns() + 300000000;
  for (int i = 0; kit_now_ns() < end; i++) {
    for (int k = 0; k < 2; k++) {
      const uint32_t message = (uint32_t)k << 31 | next[k]++;
      ASSERT_EQ(put(s[k][0], i, &message, 4), 4);
    }
    for (uint32_t seen = 0, v; seen < 2;) {
      const ssize_t n = recv(number, &v, 4, MSG_DONTWAIT);
      if (n < 0 && ++misses % 64 == 0) usleep(20);
      if (n < 0) continue;
      ASSERT_EQ(n, 4);
      ASSERT_EQ(v & 0x7fffffff, back[v >> 31]++);
      seen++;
    }
  }
  flips.stop = true;
  pthread_join(t, NULL);
}
STREAM_TEST(numbers_are_used_again) {
  int s[2], p[2];
  char b[64], text[32];
  for (int i = 0; i < 60; i++) {
    connect_streams(kind, s);
    for (int k = 0; k < (i % 3 ? 4 : kWarm); k++) {
      const int n = sprintf(text, "%d-%d", i, k);
      ASSERT_EQ(put(s[k & 1], k / 2, text, (size_t)n), n);
      ASSERT_EQ(get(s[~k & 1], k / 2, b, sizeof b), n);
      ASSERT_TRUE(!memcmp(b, text, (size_t)n));
    }
    OK(write(s[0], "left", 4));
    close(s[0]);
    close(s[1]);
    OK(pipe(p));  // other files at the same numbers
    OK(write(p[1], "pipe", 4));
    ASSERT_EQ(read(p[0], b, sizeof b), 4);
    EXPECT_ERR(recv(p[0], b, 1, 0), ENOTSOCK);
    EXPECT_ERR(read(p[1], b, 1), EBADF);
    close(p[0]);
    EXPECT_ERR(read(p[0], b, 1), EBADF);
    close(p[1]);
  }
}

// Ends on their way.
static void pass(int carrier, int fd) {
  char c = 'f', control[CMSG_SPACE(sizeof fd)] = {0};
  struct iovec v = {&c, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(h), &fd, sizeof fd);
  ASSERT_EQ(sendmsg(carrier, &m, 0), 1);
}
static int receive(int carrier, void *bytes, size_t n, ssize_t *got) {
  char control[CMSG_SPACE(sizeof(int))];
  struct iovec v = {bytes, n};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  *got = OK(recvmsg(carrier, &m, 0));
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  int fd = -1;
  if (h) memcpy(&fd, CMSG_DATA(h), sizeof fd);
  return fd;
}
STREAM_TEST(ends_travel) {
  int s[2], carrier[2], fd;
  char c;
  ssize_t n;
  warm_streams(kPair, carrier);
  warm_streams(kind, s);
  IN_CHILD(pid, {  // knows only copies that it closes
    close(s[0]), close(s[1]), close(carrier[0]);
    for (int i = 0; i < 40; i++) {
      fd = receive(carrier[1], &c, 1, &n);
      ASSERT_TRUE(fd >= 0);
      EXPECT_TRUE(serve(fd, 10));
      pass(carrier[1], fd);
      close(fd);
    }
  });
  close(carrier[1]);
  fd = s[1];
  for (int i = 0; i < 40; i++) {
    uint32_t number = (uint32_t)i;
    ASSERT_EQ(write(s[0], &number, 4), 4);  // bytes wait in the end that travels
    pass(carrier[0], fd);
    close(fd);
    ASSERT_TRUE(get_all(s[0], i, &number, 4) && number == (uint32_t)i + 1);
    EXPECT_TRUE(ask(s[0], 100, 9));
    fd = receive(carrier[0], &c, 1, &n);
    ASSERT_TRUE(fd >= 0);
    int both[2] = {s[0], fd};
    warm_up(both);
  }
  EXPECT_EXIT(pid, 0);
  connect_streams(kPair, carrier);
  pass(carrier[0], fd);
  close(fd);
  OK(write(s[0], "x", 1));
  close(carrier[0]);
  EXPECT_EQ(polled(s[0], POLLRDHUP, 10), 0);
  close(carrier[1]);  // lost with its message: the stream ends
  EXPECT_TRUE(polled(s[0], POLLRDHUP, 2000) & POLLRDHUP);
}
static void rights_between_bytes(enum kind kind) {
  int s[2], p[2], fd;
  char b[16];
  ssize_t n;
  warm_streams(kind, s);
  OK(pipe(p));
  OK(write(s[0], "ab", 2));
  pass(s[0], p[1]);
  OK(write(s[0], "cd", 2));
  n = recv(s[1], b, 8, MSG_PEEK);
  EXPECT_TRUE(n == 3 || n == 2);  // Linux: a read ends behind the bytes that carry something; before them is no lie either
  fd = receive(s[1], b, 8, &n);
  if (n == 2) fd = receive(s[1], b + 2, 8, &n);
  EXPECT_EQ(memcmp(b, "abf", 3), 0);
  ASSERT_TRUE(fd > 0);
  EXPECT_EQ(read(s[1], b, 8), 2);
  close(fd);
  pass(s[0], p[1]);
  close(p[1]);
  EXPECT_EQ(polled(p[0], POLLIN, 0), 0);
  EXPECT_EQ(read(s[1], b, 8), 1);  // a read that has no room for rights drops them
  EXPECT_EQ(read(p[0], b, 1), 0);
  warm_up(s);
  int one = 1;
  OK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
  OK(write(s[0], "x", 1));
  char control[64];
  struct iovec v = {b, 8};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  EXPECT_EQ(recvmsg(s[1], &m, 0), 1);
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  ASSERT_TRUE(h && h->cmsg_type == SCM_CREDENTIALS);
  EXPECT_EQ(((struct ucred *)CMSG_DATA(h))->pid, getpid());
  warm_up(s);
}
TEST(rights_between_bytes_pair) { rights_between_bytes(kPair); }
TEST(rights_between_bytes_unix) { rights_between_bytes(kUnix); }
STREAM_TEST(another_process_takes_an_end) {
  int s[2];
  warm_streams(kind, s);
  IN_CHILD(pid, {
    close(s[0]);
    EXPECT_TRUE(serve(s[1], kWarm));
    pause();
  });
  int number = s[1];
  close(s[1]);
  EXPECT_TRUE(ask(s[0], 0, kWarm));
  int pidfd = OK(syscall(SYS_pidfd_open, pid, 0)), both[2] = {s[0], (int)syscall(SYS_pidfd_getfd, pidfd, number, 0)};
  if (both[1] < 0) {
    kill(pid, SIGKILL);
    SKIP("pidfd_getfd is not there");
  }
  warm_up(both);
  kill(pid, SIGKILL);
  kit_wait(pid);
  warm_up(both);
}

// Shutdown, flags and options.
STREAM_TEST(shutdown_ends_one_direction) {
  int s[2];
  char b[300];
  warm_streams(kind, s);
  IN_CHILD(pid, {  // the other way stays open
    close(s[1]);
    EXPECT_TRUE(serve(s[0], kWarm));
    memset(b, 'e', sizeof b);
    for (int i = 0; i < 100; i++) OK(write(s[0], b, sizeof b));
    OK(shutdown(s[0], SHUT_WR));
    EXPECT_ERR(send(s[0], b, 1, MSG_NOSIGNAL), EPIPE);
    EXPECT_EQ(read(s[0], b, 5), 5);
    EXPECT_EQ(read(s[0], b, 5), 0);
  });
  close(s[0]);
  EXPECT_TRUE(ask(s[1], 0, kWarm));
  ssize_t n, sum = 0;
  while ((n = read(s[1], b, sizeof b)) > 0) sum += n;
  EXPECT_EQ(n, 0);
  EXPECT_EQ(sum, 30000);
  EXPECT_EQ(polled(s[1], POLLIN | POLLOUT | POLLRDHUP, 0), POLLIN | POLLOUT | POLLRDHUP);
  EXPECT_EQ(write(s[1], "again", 5), 5);
  OK(shutdown(s[1], SHUT_WR));
  EXPECT_EXIT(pid, 0);
}
STREAM_TEST(shutdown_wakes_readers) {
  int s[2];
  char c;
  for (int how = 0; how < 3; how++) {  // the peer's writing side; one's own reading side; both
    warm_streams(kind, s);
    IN_CHILD(pid, {
      EXPECT_TRUE(serve(s[1], kWarm));
      EXPECT_EQ(read(s[1], &c, 1), 0);
      EXPECT_EQ(read(s[1], &c, 1), 0);
    });
    EXPECT_TRUE(ask(s[0], 0, kWarm));
    kit_wait_asleep(pid);
    OK(shutdown(s[how == 0 ? 0 : 1], how == 0 ? SHUT_WR : how == 1 ? SHUT_RD : SHUT_RDWR));
    EXPECT_EXIT(pid, 0);
    if (how == 1 && kind != kTcp) EXPECT_ERR(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    if (how == 2) {
      EXPECT_TRUE(polled(s[0], POLLRDHUP, 2000) & POLLRDHUP);
      EXPECT_ERR(send(s[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    }
    close(s[0]), close(s[1]);
  }
}
STREAM_TEST(bytes_before_shutdown_can_be_read) {
  int s[2];
  char b[8];
  warm_streams(kind, s);
  OK(write(s[0], "abc", 3));
  OK(write(s[1], "def", 3));
  EXPECT_EQ(arrived(s[0], 3), 3);
  EXPECT_EQ(arrived(s[1], 3), 3);
  OK(shutdown(s[1], SHUT_RD));
  EXPECT_EQ(read(s[1], b, 8), 3);
  EXPECT_EQ(read(s[1], b, 8), 0);
  OK(shutdown(s[1], SHUT_RDWR));
  EXPECT_EQ(read(s[0], b, 8), 3);
  EXPECT_EQ(read(s[0], b, 8), 0);
}
STREAM_TEST(unread_bytes_reset) {
  int s[2];
  char b[8];
  warm_streams(kind, s);
  OK(write(s[0], "abc", 3));
  if (kind != kTcp) OK(write(s[1], "de", 2));
  EXPECT_EQ(arrived(s[1], 3), 3);
  close(s[1]);
  kit_catch(SIGPIPE, 0);
  EXPECT_TRUE(polled(s[0], POLLIN, 2000) & POLLHUP);
  if (kind != kTcp) EXPECT_EQ(read(s[0], b, 8), 2);
  EXPECT_ERR(read(s[0], b, 8), ECONNRESET);
  EXPECT_EQ(read(s[0], b, 8), 0);
  EXPECT_ERR(write(s[0], b, 1), EPIPE);
  EXPECT_EQ(kit_signals[SIGPIPE], 1);
}
STREAM_TEST(nonblocking_is_of_the_end) {
  int s[2], on = 1;
  char c;
  warm_streams(kind, s);
  int copy = OK(dup(s[1]));
  IN_CHILD(pid, {
    EXPECT_TRUE(serve(s[1], kWarm));
    EXPECT_EQ(read(s[1], &c, 1), 1);  // this wait began before the flag
    EXPECT_ERR(read(s[1], &c, 1), EAGAIN);
  });
  EXPECT_TRUE(ask(s[0], 0, kWarm));
  kit_wait_asleep(pid);
  OK(fcntl(copy, F_SETFL, O_NONBLOCK));
  EXPECT_ERR(read(s[1], &c, 1), EAGAIN);
  OK(write(s[0], "x", 1));
  EXPECT_EXIT(pid, 0);
  IN_CHILD(second, { OK(fcntl(s[1], F_SETFL, 0)); });
  EXPECT_EXIT(second, 0);
  EXPECT_EQ(fcntl(s[1], F_GETFL) & O_NONBLOCK, 0);
  IN_CHILD(third, { kit_sleep_ms(20); OK(write(s[0], "y", 1)); });
  EXPECT_EQ(read(s[1], &c, 1), 1);
  EXPECT_EXIT(third, 0);
  OK(ioctl(s[1], FIONBIO, &on));
  EXPECT_ERR(get(copy, 1, &c, 1), EAGAIN);
  EXPECT_EQ(fcntl(copy, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  EXPECT_EQ(fcntl(s[0], F_GETFL) & O_NONBLOCK, 0);
}
STREAM_TEST(time_limits) {
  int s[2], low = 4;
  static char b[1 << 20];
  struct timeval t = {0, 40000};
  warm_streams(kind, s);
  OK(setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
  OK(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
  for (int i = 0; i < kWays; i++) {
    const long long start = kit_now_ns();
    EXPECT_ERR(get(s[1], i, b, 8), EAGAIN);
    EXPECT_GE(kit_now_ns() - start, 39000000);
  }
  OK(write(s[0], "x", 1));
  EXPECT_EQ(recv(s[1], b, 8, MSG_WAITALL), 1);
  while (write(s[0], b, sizeof b) > 0) {
  }
  EXPECT_EQ(errno, EAGAIN);
  if (kind != kTcp) return;
  connect_streams(kind, s);
  warm_up(s);
  OK(setsockopt(s[1], SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
  OK(write(s[0], "12", 2));
  EXPECT_EQ(arrived(s[1], 2), 2);
  EXPECT_EQ(polled(s[1], POLLIN, 20), 0);
  IN_CHILD(pid, { kit_sleep_ms(20); OK(write(s[0], "34", 2)); });
  EXPECT_EQ(polled(s[1], POLLIN, 2000), POLLIN);
  EXPECT_EQ(read(s[1], b, 8), 4);
  EXPECT_EXIT(pid, 0);
}
STREAM_TEST(arrival_signals) {
  int s[2];
  char c;
  sigset_t set;
  siginfo_t info;
  sigemptyset(&set);
  sigaddset(&set, SIGIO);
  OK(sigprocmask(SIG_BLOCK, &set, NULL));
  warm_streams(kind, s);
  OK(fcntl(s[1], F_SETOWN, getpid()));
  OK(fcntl(s[1], F_SETFL, O_ASYNC));
  while (sigtimedwait(&set, &info, &(struct timespec){0, 10000000}) > 0) {
  }
  for (int i = 0; i < 3; i++) {
    OK(write(s[0], "x", 1));
    EXPECT_EQ(sigtimedwait(&set, &info, &(struct timespec){2, 0}), SIGIO);
    EXPECT_EQ(read(s[1], &c, 1), 1);
    while (sigtimedwait(&set, &info, &(struct timespec){0, 10000000}) > 0) {
    }
  }
}

STREAM_TEST(other_calls_keep_the_order) {
  int s[2], p[2], file = OK(open("f", O_RDWR | O_CREAT, 0600));
  char b[64];
  OK(pwrite(file, "file", 4, 0));
  OK(pipe(p));
  warm_streams(kind, s);
  for (int i = 0; i < 20; i++) {
    struct iovec v[2] = {{"m1", 2}, {"m2", 2}};
    struct mmsghdr m[2] = {{{.msg_iov = &v[0], .msg_iovlen = 1}}, {{.msg_iov = &v[1], .msg_iovlen = 1}}};
    OK(write(s[0], "one ", 4));
    ASSERT_EQ(sendfile(s[0], file, &(off_t){0}, 4), 4);
    OK(write(s[0], " two ", 5));
    OK(write(p[1], "pipe", 4));
    ASSERT_EQ(splice(p[0], NULL, s[0], NULL, 4, 0), 4);
    OK(send(s[0], " ", 1, MSG_MORE));
    ASSERT_EQ(sendmmsg(s[0], m, 2, 0), 2);
    ASSERT_EQ(arrived(s[1], 22), 22);
    ASSERT_TRUE(get_all(s[1], i, b, 7));
    ASSERT_EQ(splice(s[1], NULL, p[1], NULL, 6, 0), 6);
    ASSERT_TRUE(get_all(s[1], i, b + 13, 9));
    ASSERT_EQ(read(p[0], b + 7, 6), 6);
    ASSERT_EQ(memcmp(b, "one file two pipe m1m2", 22), 0);
  }
}
