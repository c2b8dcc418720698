// SPDX-License-Identifier: Apache-2.0
// Connected stream sockets of three kinds for the guest tests, bytes that know their place, and exchanges to warm a
// connection up: a kernel may answer calls on a busy connection in another way than the first ones.
#pragma once

#include "kit.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

enum kind { kPair, kUnix, kTcp };
// One test for each kind of stream.
#define STREAM_TEST(id)                              \
  static void stream_##id(enum kind kind);           \
  TEST(id##_pair) { stream_##id(kPair); }            \
  TEST(id##_unix) { stream_##id(kUnix); }            \
  TEST(id##_tcp) { stream_##id(kTcp); }              \
  static void stream_##id(enum kind kind)
#define MAYBE static __attribute__((unused))

// What the test is doing, for the report of a wake-up that never came.
MAYBE const char *volatile phase = "start";
MAYBE volatile long progress;
MAYBE void report_stuck(int signo) {
  dprintf(1, "# stuck in: %s, after %ld steps\n", phase, progress);
  _exit(1);
}

MAYBE void connect_streams(enum kind kind, int s[2]) {
  static int count;
  union { struct sockaddr any; struct sockaddr_un un; struct sockaddr_in in; } a = {};
  socklen_t n;
  signal(SIGALRM, report_stuck);
  alarm(12);
  if (kind == kPair) {
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    return;
  }
  if (kind == kUnix) {
    a.un.sun_family = AF_UNIX;
    n = sizeof a.un;
    sprintf(a.un.sun_path, "stream%d", count++);
  } else {
    a.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    n = sizeof a.in;
  }
  int l = OK(socket(a.any.sa_family, SOCK_STREAM, 0)), one = 1;
  OK(bind(l, &a.any, n));
  OK(listen(l, 8));
  OK(getsockname(l, &a.any, &n));
  s[0] = OK(socket(a.any.sa_family, SOCK_STREAM, 0));
  OK(connect(s[0], &a.any, n));
  s[1] = OK(accept(l, NULL, NULL));
  close(l);
  if (kind == kUnix) unlink(a.un.sun_path);
  for (int i = 0; i < 2 && kind == kTcp; i++) OK(setsockopt(s[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
}

enum { kWays = 5, kWarm = 80 };
MAYBE ssize_t put(int fd, int way, const void *bytes, size_t n) {
  char *b = (char *)bytes;
  struct iovec v[3] = {{b, n / 2}, {NULL, 0}, {b + n / 2, n - n / 2}};
  struct msghdr m = {.msg_iov = v, .msg_iovlen = 3};
  switch (way % kWays) {
    case 0: return write(fd, b, n);
    case 1: return writev(fd, v, 3);
    case 2: return send(fd, b, n, MSG_NOSIGNAL);
    case 3: return sendto(fd, b, n, 0, NULL, 0);
    default: return sendmsg(fd, &m, 0);
  }
}
MAYBE ssize_t get(int fd, int way, void *bytes, size_t n) {
  char *b = bytes;
  struct iovec v[3] = {{b, n / 2}, {NULL, 0}, {b + n / 2, n - n / 2}};
  struct msghdr m = {.msg_iov = v, .msg_iovlen = 3};
  switch (way % kWays) {
    case 0: return read(fd, b, n);
    case 1: return readv(fd, v, 3);
    case 2: return recv(fd, b, n, 0);
    case 3: return recvfrom(fd, b, n, 0, NULL, NULL);
    default: return recvmsg(fd, &m, 0);
  }
}
// Whole amounts, whatever the pieces and the signals. False at the end of the stream or an error.
MAYBE bool put_all(int fd, int way, const void *bytes, size_t n) {
  for (size_t done = 0; done < n;) {
    ssize_t r = put(fd, way, (const char *)bytes + done, n - done);
    if (r < 0 && errno == EINTR) continue;
    if (r <= 0) return false;
    done += (size_t)r;
  }
  return true;
}
MAYBE bool get_all(int fd, int way, void *bytes, size_t n) {
  for (size_t done = 0; done < n;) {
    ssize_t r = get(fd, way, (char *)bytes + done, n - done);
    if (r < 0 && errno == EINTR) continue;
    if (r <= 0) return false;
    done += (size_t)r;
  }
  return true;
}

// Numbers go out on `ask` and come back one higher; `serve` is the other side. False when a number is wrong or lost.
MAYBE bool ask(int fd, uint32_t from, int n) {
  for (uint32_t i = from, back; n-- > 0; i++) {
    if (!put_all(fd, (int)i, &i, sizeof i) || !get_all(fd, (int)i / 2, &back, sizeof back) || back != i + 1) return false;
    progress++;
  }
  return true;
}
MAYBE bool serve(int fd, int n) {
  for (uint32_t i; n-- > 0;) {
    if (!get_all(fd, n, &i, sizeof i)) return false;
    i++;
    if (!put_all(fd, n, &i, sizeof i)) return false;
  }
  return true;
}
MAYBE void warm_up(const int s[2]) {
  for (uint32_t i = 0, got; i < kWarm; i++) {
    const int from = s[i & 1], to = s[~i & 1];
    ASSERT_EQ(put(from, (int)i / 2, &i, sizeof i), sizeof i);
    ASSERT_TRUE(get_all(to, (int)i / 4, &got, sizeof got) && got == i);
  }
}
MAYBE void warm_streams(enum kind kind, int s[2]) {
  connect_streams(kind, s);
  warm_up(s);
}

// Byte number `at` of a stream.
struct flow { uint64_t at; uint64_t seed; };
MAYBE uint8_t flow_byte(const struct flow *f, uint64_t at) { return (uint8_t)((at * 131 + (at >> 8) * 7 + f->seed) ^ at >> 16); }
MAYBE void fill(struct flow *f, void *bytes, size_t n) {
  for (size_t i = 0; i < n; i++) ((uint8_t *)bytes)[i] = flow_byte(f, f->at + i);
}
MAYBE bool check(struct flow *f, const void *bytes, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (((const uint8_t *)bytes)[i] != flow_byte(f, f->at + i)) return false;
  f->at += n;
  return true;
}
MAYBE uint32_t dice(uint64_t *seed, uint32_t sides) {
  *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
  return (uint32_t)(*seed >> 33) % sides;
}

// Waits until that much has arrived: TCP may take a moment.
MAYBE int arrived(int fd, int n) {
  int have = 0;
  for (int i = 0; i < 400; i++) {
    OK(ioctl(fd, FIONREAD, &have));
    if (have >= n) break;
    usleep(i < 20 ? 50 : 5000);
  }
  return have;
}
MAYBE int polled(int fd, short events, int ms) {
  struct pollfd f = {fd, events, 0};
  return poll(&f, 1, ms) == 1 ? f.revents : 0;
}

MAYBE int watch(int e, int op, int fd, uint32_t events, uint64_t data) {
  struct epoll_event v = {events, {.u64 = data}};
  return epoll_ctl(e, op, fd, &v);
}
// The events of the only item that is ready, 0 when there is none within the time.
MAYBE uint32_t ready(int e, int ms) {
  struct epoll_event v[4];
  const int n = OK(epoll_wait(e, v, 4, ms));
  EXPECT_LE(n, 1);
  return n ? v[0].events : 0;
}
