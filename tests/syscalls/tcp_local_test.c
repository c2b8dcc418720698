// SPDX-License-Identifier: Apache-2.0
// TCP connections with both ends on this machine, to the last detail: what is seen of bytes, ends, resets and urgent data.
#include "kit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <linux/sockios.h>

static int listener(struct sockaddr_in *a) {
  int s = OK(socket(AF_INET, SOCK_STREAM, 0));
  *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  OK(bind(s, (struct sockaddr *)a, sizeof *a));
  OK(listen(s, 64));
  socklen_t n = sizeof *a;
  OK(getsockname(s, (struct sockaddr *)a, &n));
  return s;
}
static int connect_to(struct sockaddr_in *a) {
  int c = OK(socket(AF_INET, SOCK_STREAM, 0));
  OK(connect(c, (struct sockaddr *)a, sizeof *a));
  return c;
}
// Both ends of a connection; the client's is the result.
static int pair(int *server) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a);
  *server = OK(accept(l, NULL, NULL));
  close(l);
  return c;
}
static int events_of(int s) {
  struct pollfd p = {s, POLLIN | POLLPRI | POLLOUT | POLLRDHUP, 0};
  OK(poll(&p, 1, 0));
  return p.revents;
}
// What happens at the other end of a connection may take the host's network a moment.
static int wait_events(int s, int wanted) {
  struct pollfd p = {s, wanted, 0};
  OK(poll(&p, 1, 3000));
  return events_of(s);
}
static int state_of(int s) {
  struct tcp_info i = {0};
  socklen_t n = sizeof i;
  OK(getsockopt(s, IPPROTO_TCP, TCP_INFO, &i, &n));
  return i.tcpi_state;
}
static int error_of(int s) {
  int e = -1;
  socklen_t n = sizeof e;
  OK(getsockopt(s, SOL_SOCKET, SO_ERROR, &e, &n));
  return e;
}
static int queued(int s) {
  int n = -1;
  OK(ioctl(s, FIONREAD, &n));
  return n;
}
static void set_int(int s, int level, int name, int v) { OK(setsockopt(s, level, name, &v, sizeof v)); }
static void set_time(int s, int name, int ms) {
  struct timeval v = {ms / 1000, ms % 1000 * 1000};
  OK(setsockopt(s, SOL_SOCKET, name, &v, sizeof v));
}
static void linger_zero(int s) {
  struct linger l = {1, 0};
  OK(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof l));
}
// Byte n of a stream.
static char pattern(size_t n) { return (char)(n * 7 + n / 251); }
static void send_pattern(int s, size_t from, size_t to) {
  static char block[70000];
  while (from < to) {
    size_t n = to - from < sizeof block ? to - from : sizeof block;
    for (size_t i = 0; i < n; i++) block[i] = pattern(from + i);
    for (size_t done = 0; done < n;) done += OK(write(s, block + done, n - done));
    from += n;
  }
}
static void expect_pattern(int s, size_t from, size_t to) {
  static char block[50001];
  while (from < to) {
    ssize_t n = OK(read(s, block, to - from < sizeof block ? to - from : sizeof block));
    if (n == 0) {
      EXPECT_EQ(from, to);
      return;
    }
    for (ssize_t i = 0; i < n; i++)
      if (block[i] != pattern(from + i)) {
        EXPECT_EQ(from + i, -1);
        return;
      }
    from += n;
  }
}
// Sends what the connection takes without waiting.
static size_t fill(int s, size_t from) {
  static char block[8192];
  size_t done = 0;
  for (;;) {
    for (size_t i = 0; i < sizeof block; i++) block[i] = pattern(from + done + i);
    ssize_t n = send(s, block, sizeof block, MSG_DONTWAIT);
    if (n < 0) break;
    done += n;
  }
  EXPECT_EQ(errno, EAGAIN);
  return done;
}

// --- bytes ---
TEST(bytes_before_accept_come_first) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a);
  EXPECT_EQ(write(c, "abc", 3), 3);
  int s = OK(accept(l, NULL, NULL));
  EXPECT_EQ(write(c, "def", 3), 3);
  char t[8] = "";
  EXPECT_EQ(recv(s, t, 6, MSG_PEEK | MSG_WAITALL), 6);
  EXPECT_STR(t, "abcdef");
  EXPECT_EQ(queued(s), 6);
  EXPECT_EQ(recv(s, t, 6, 0), 6);
  EXPECT_STR(t, "abcdef");
  EXPECT_EQ(write(s, "gh", 2), 2);
  EXPECT_EQ(read(c, t, 8), 2);
}
TEST(many_bytes_before_accept) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a);
  size_t before = fill(c, 0), all = before + 3000000;
  EXPECT_GT(before, 10000);
  int s = OK(accept(l, NULL, NULL));
  IN_CHILD(pid, { send_pattern(c, before, all); });
  close(c);
  expect_pattern(s, 0, all);
  char t;
  EXPECT_EQ(read(s, &t, 1), 0);
  EXPECT_EXIT(pid, 0);
}
TEST(writer_while_accepted) {
  struct sockaddr_in a;
  int l = listener(&a);
  for (int i = 0; i < 20; i++) {
    IN_CHILD(pid, {
      int c = connect_to(&a);
      for (size_t n = 0; n < 40000; n += 100) send_pattern(c, n, n + 100);
      expect_pattern(c, 0, 20000);
    });
    int s = OK(accept(l, NULL, NULL));
    for (size_t n = 0; n < 20000; n += 100) send_pattern(s, n, n + 100);
    expect_pattern(s, 0, 40000);
    EXPECT_EXIT(pid, 0);
    close(s);
  }
}
TEST(client_that_reads_before_accept) {
  struct sockaddr_in a;
  int l = listener(&a);
  IN_CHILD(pid, {
    int c = connect_to(&a);
    char t[8] = "";
    EXPECT_EQ(recv(c, t, 5, MSG_WAITALL), 5);
    EXPECT_STR(t, "hello");
  });
  kit_wait_asleep(pid);
  int s = OK(accept(l, NULL, NULL));
  EXPECT_EQ(write(s, "hello", 5), 5);
  EXPECT_EXIT(pid, 0);
}
TEST(nonblocking_connect) {
  struct sockaddr_in a;
  int l = listener(&a), c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  if (connect(c, (struct sockaddr *)&a, sizeof a) < 0) EXPECT_EQ(errno, EINPROGRESS);
  EXPECT_TRUE(wait_events(c, POLLOUT) & POLLOUT);
  EXPECT_EQ(error_of(c), 0);
  EXPECT_EQ(write(c, "1", 1), 1);
  int s = OK(accept(l, NULL, NULL));
  EXPECT_EQ(write(c, "2", 1), 1);
  char t[3] = "";
  EXPECT_EQ(recv(s, t, 2, MSG_WAITALL), 2);
  EXPECT_STR(t, "12");
  (void)!connect(c, (struct sockaddr *)&a, sizeof a);  // the first time tells of the success
  EXPECT_ERR(connect(c, (struct sockaddr *)&a, sizeof a), EISCONN);
}
TEST_TIMEOUT(both_ways_at_once, 60) {
  int s, c = pair(&s);
  IN_CHILD(writer, { send_pattern(c, 0, 6000000); });
  IN_CHILD(echo, {
    static char block[30000];
    ssize_t n;
    for (size_t all = 0; all < 6000000; all += n) {
      n = OK(read(s, block, sizeof block));
      for (ssize_t done = 0; done < n;) done += OK(write(s, block + done, n - done));
    }
  });
  expect_pattern(c, 0, 6000000);
  EXPECT_EXIT(writer, 0);
  EXPECT_EXIT(echo, 0);
}
TEST(two_writers_lose_nothing) {
  int s, c = pair(&s);
  IN_CHILD(one, { for (int i = 0; i < 3000; i++) EXPECT_EQ(write(c, "aaaaaaaaaaaaaaaa", 16), 16); });
  IN_CHILD(two, { for (int i = 0; i < 3000; i++) EXPECT_EQ(write(c, "bbbbbbbbbbbbbbbb", 16), 16); });
  size_t a = 0, b = 0;
  static char block[4096];
  while (a + b < 96000) {
    ssize_t n = OK(read(s, block, sizeof block));
    for (ssize_t i = 0; i < n; i++) *(block[i] == 'a' ? &a : &b) += 1;
  }
  EXPECT_EQ(a, 48000);
  EXPECT_EQ(b, 48000);
  EXPECT_EXIT(one, 0);
  EXPECT_EXIT(two, 0);
}
TEST(sender_waits_for_room) {
  int s, c = pair(&s), e = OK(epoll_create1(0));
  struct epoll_event v = {EPOLLOUT | EPOLLET, {.fd = c}}, got;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, c, &v));
  EXPECT_EQ(epoll_wait(e, &got, 1, 1000), 1);
  size_t n = fill(c, 0);
  EXPECT_GT(n, 10000);
  while (epoll_wait(e, &got, 1, 50) == 1) n += fill(c, n);
  EXPECT_EQ(events_of(c) & POLLOUT, 0);
  set_time(c, SO_SNDTIMEO, 50);
  for (char b = pattern(n); write(c, &b, 1) == 1; b = pattern(n)) n++;
  EXPECT_EQ(errno, EAGAIN);
  expect_pattern(s, 0, n);
  EXPECT_EQ(epoll_wait(e, &got, 1, 2000), 1);
  EXPECT_EQ(got.events, EPOLLOUT);
  EXPECT_TRUE(wait_events(c, POLLOUT) & POLLOUT);
  EXPECT_EQ(write(c, "x", 1), 1);
}
TEST(flags_of_receive) {
  int s, c = pair(&s);
  char t[16] = "";
  EXPECT_ERR(recv(s, t, 4, MSG_DONTWAIT), EAGAIN);
  OK(write(c, "0123456789", 10));
  EXPECT_EQ(recv(s, t, 4, MSG_PEEK), 4);
  EXPECT_EQ(recv(s, NULL, 4, MSG_TRUNC), 4);
  EXPECT_EQ(recv(s, t, 2, 0), 2);
  EXPECT_EQ(memcmp(t, "45", 2), 0);
  EXPECT_EQ(queued(s), 4);
  set_time(s, SO_RCVTIMEO, 60);
  EXPECT_EQ(recv(s, t, 16, MSG_WAITALL), 4);
  EXPECT_ERR(recv(s, t, 16, MSG_WAITALL), EAGAIN);
  EXPECT_ERR(recv(s, t, 16, 0), EAGAIN);
  EXPECT_ERR(recv(s, t, 16, MSG_OOB), EINVAL);
  EXPECT_ERR(recv(s, t, 0, MSG_DONTWAIT), EAGAIN);
  OK(write(c, "z", 1));
  EXPECT_EQ(recv(s, t, 0, 0), 0);
  EXPECT_EQ(recv(s, t, 2, 0), 1);
  EXPECT_EQ(send(c, t, 0, 0), 0);
  EXPECT_ERR(recv(s, t, 2, MSG_DONTWAIT), EAGAIN);
}
TEST(peek_that_waits_for_all) {
  int s, c = pair(&s);
  char t[8] = "";
  OK(write(c, "abc", 3));
  kit_sleep_ms(10);
  IN_CHILD(pid, {
    EXPECT_EQ(recv(s, t, 6, MSG_PEEK | MSG_WAITALL), 6);
    EXPECT_STR(t, "abcdef");
  });
  kit_wait_asleep(pid);
  OK(write(c, "def", 3));
  EXPECT_EXIT(pid, 0);
  set_time(s, SO_RCVTIMEO, 40);
  EXPECT_EQ(recv(s, t, 8, MSG_PEEK | MSG_WAITALL), 6);
  OK(shutdown(c, SHUT_WR));
  EXPECT_EQ(recv(s, t, 8, MSG_PEEK | MSG_WAITALL), 6);
  EXPECT_EQ(recv(s, t, 8, MSG_WAITALL), 6);
}
TEST(messages_and_vectors) {
  int s, c = pair(&s);
  char x[3] = "", y[8] = "";
  struct iovec out[3] = {{"ab", 2}, {"", 0}, {"cdef", 4}}, in[2] = {{x, 2}, {y, 7}};
  struct sockaddr_in from;
  struct msghdr m = {.msg_iov = out, .msg_iovlen = 3};
  EXPECT_EQ(sendmsg(c, &m, 0), 6);
  EXPECT_EQ(readv(s, in, 2), 6);
  EXPECT_STR(x, "ab");
  EXPECT_STR(y, "cdef");
  EXPECT_EQ(writev(s, out, 3), 6);
  m = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = in, .msg_iovlen = 2, .msg_flags = 77};
  EXPECT_EQ(recvmsg(c, &m, 0), 6);
  EXPECT_EQ(m.msg_flags & ~MSG_CMSG_CLOEXEC, 0);
  EXPECT_EQ(m.msg_namelen, 0);
  EXPECT_EQ(m.msg_controllen, 0);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  EXPECT_EQ(sendto(c, "x", 1, 0, (struct sockaddr *)&a, sizeof a), 1);
  EXPECT_EQ(read(s, x, 2), 1);
}
TEST(splice_and_sendfile) {
  int s, c = pair(&s), p[2], f = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(pipe(p));
  send_pattern(f, 0, 20000);
  off_t at = 0;
  EXPECT_EQ(sendfile(c, f, &at, 20000), 20000);
  expect_pattern(s, 0, 20000);
  send_pattern(p[1], 0, 5000);
  EXPECT_EQ(splice(p[0], NULL, c, NULL, 5000, 0), 5000);
  EXPECT_EQ(splice(s, NULL, p[1], NULL, 5000, 0), 5000);
  expect_pattern(p[0], 0, 5000);
}
TEST(bad_addresses_lose_no_bytes) {
  int s, c = pair(&s);
  char t[4] = "";
  EXPECT_EFAULT(kBadRead, 1, p, write(c, p, 1));
  OK(write(c, "abc", 3));
  EXPECT_EFAULT(kBadWrite, 1, p, read(s, p, 1));
  EXPECT_EQ(read(s, t, 4), 3);
  EXPECT_STR(t, "abc");
}
TEST(low_water_mark) {
  int s, c = pair(&s);
  char t[16];
  set_int(s, SOL_SOCKET, SO_RCVLOWAT, 5);
  OK(write(c, "abc", 3));
  kit_sleep_ms(20);
  EXPECT_EQ(events_of(s) & POLLIN, 0);
  EXPECT_EQ(recv(s, t, 2, MSG_DONTWAIT), 2);
  set_time(s, SO_RCVTIMEO, 50);
  EXPECT_EQ(recv(s, t, 16, 0), 1);
  OK(write(c, "abcdef", 6));
  EXPECT_TRUE(wait_events(s, POLLIN) & POLLIN);
  EXPECT_EQ(recv(s, t, 16, 0), 6);
  OK(write(c, "abc", 3));
  OK(shutdown(c, SHUT_WR));
  EXPECT_TRUE(wait_events(s, POLLIN) & POLLIN);
  EXPECT_EQ(recv(s, t, 16, 0), 3);
  EXPECT_EQ(recv(s, t, 16, 0), 0);
}
TEST(queue_ioctls) {
  int s, c = pair(&s), n = -1;
  EXPECT_EQ(queued(s), 0);
  send_pattern(c, 0, 3000);
  EXPECT_EQ(queued(s), 3000);
  expect_pattern(s, 0, 1000);
  EXPECT_EQ(queued(s), 2000);
  for (int i = 0; i < 100 && n != 0; i++) {
    OK(ioctl(c, SIOCOUTQ, &n));
    if (n != 0) kit_sleep_ms(5);
  }
  EXPECT_EQ(n, 0);
  OK(shutdown(c, SHUT_WR));
  expect_pattern(s, 1000, 3000);
  EXPECT_EQ(queued(s), 0);
}
TEST(options_stay) {
  int s, c = pair(&s), v = 0;
  socklen_t n = sizeof v;
  set_int(c, IPPROTO_TCP, TCP_NODELAY, 1);
  OK(getsockopt(c, IPPROTO_TCP, TCP_NODELAY, &v, &n));
  EXPECT_EQ(v, 1);
  set_int(c, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_int(c, IPPROTO_TCP, TCP_CORK, 1);
  char t[4];
  EXPECT_EQ(send(c, "abc", 3, MSG_MORE), 3);
  set_int(c, IPPROTO_TCP, TCP_CORK, 0);
  EXPECT_EQ(send(c, "d", 1, 0), 1);
  EXPECT_EQ(recv(s, t, 4, MSG_WAITALL), 4);
  EXPECT_EQ(state_of(c), TCP_ESTABLISHED);
  EXPECT_EQ(state_of(s), TCP_ESTABLISHED);
}
TEST(addresses_of_both_ends) {
  struct sockaddr_in a, client, mine, theirs;
  int l = listener(&a), c = connect_to(&a);
  socklen_t n = sizeof a;
  int s = OK(accept(l, (struct sockaddr *)&client, &n));
  OK(getsockname(c, (struct sockaddr *)&mine, &n));
  EXPECT_EQ(memcmp(&client, &mine, n), 0);
  OK(getpeername(s, (struct sockaddr *)&theirs, &n));
  EXPECT_EQ(memcmp(&theirs, &mine, n), 0);
  OK(getpeername(c, (struct sockaddr *)&theirs, &n));
  EXPECT_EQ(memcmp(&theirs, &a, n), 0);
}
TEST(other_addresses_and_families) {
  int l = socket(AF_INET6, SOCK_STREAM, 0), zero = 0;
  if (l < 0) SKIP("no IPv6 here");
  OK(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero));
  struct sockaddr_in6 a = {.sin6_family = AF_INET6};
  OK(bind(l, (struct sockaddr *)&a, sizeof a));
  OK(listen(l, 5));
  socklen_t n = sizeof a;
  OK(getsockname(l, (struct sockaddr *)&a, &n));
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = a.sin6_port, .sin_addr.s_addr = htonl(0x7f000002)};
  struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = a.sin6_port};
  inet_pton(AF_INET6, "::ffff:127.0.0.3", &mapped.sin6_addr);
  int c[2] = {OK(socket(AF_INET, SOCK_STREAM, 0)), OK(socket(AF_INET6, SOCK_STREAM, 0))};
  OK(connect(c[0], (struct sockaddr *)&to, sizeof to));
  OK(connect(c[1], (struct sockaddr *)&mapped, sizeof mapped));
  for (int i = 0; i < 2; i++) {
    int s = OK(accept(l, NULL, NULL));
    char t[3] = "";
    OK(write(c[i], "ab", 2));
    EXPECT_EQ(read(s, t, 3), 2);
    OK(write(s, "c", 1));
    EXPECT_EQ(read(c[i], t, 3), 1);
    close(s);
    EXPECT_EQ(read(c[i], t, 3), 0);
  }
}
TEST_TIMEOUT(many_short_connections, 60) {
  struct sockaddr_in a;
  int l = listener(&a);
  IN_CHILD(pid, {
    for (int i = 0; i < 400; i++) {
      int c = connect_to(&a);
      char t[16];
      sprintf(t, "%d", i);
      OK(write(c, t, 16));
      if (i % 3 == 0) OK(shutdown(c, SHUT_WR));
      int back;
      EXPECT_EQ(recv(c, &back, sizeof back, MSG_WAITALL), sizeof back);
      EXPECT_EQ(back, i + 1);
      EXPECT_EQ(read(c, t, 1), 0);
      close(c);
    }
  });
  for (int i = 0; i < 400; i++) {
    int s = OK(accept(l, NULL, NULL));
    char t[16];
    EXPECT_EQ(recv(s, t, 16, MSG_WAITALL), 16);
    int n = atoi(t) + 1;
    OK(write(s, &n, sizeof n));
    close(s);
  }
  EXPECT_EXIT(pid, 0);
}
// Connections of which no two go alike: bytes before and after the accept, in all sizes, with and without an urgent one, ended
// by shutdown or close. The answer is how many bytes came and their sum.
static unsigned dice(unsigned *state, unsigned sides) {
  *state = *state * 1664525 + 1013904223;
  return (*state >> 10) % sides;
}
static void random_client(struct sockaddr_in *a, unsigned seed) {
  static unsigned char block[60000];
  int c = connect_to(a);
  unsigned long long told[2] = {0, 0}, answer[2] = {0, 0};
  const int urgent = dice(&seed, 6) == 0 ? (int)dice(&seed, 6) : -1;
  for (int i = 0, pieces = dice(&seed, 12); i < pieces; i++) {
    size_t n = 1 + dice(&seed, dice(&seed, 4) == 0 ? sizeof block : 700);
    for (size_t k = 0; k < n; k++) told[1] += block[k] = (unsigned char)dice(&seed, 256);
    told[0] += n;
    for (size_t done = 0; done < n;) done += OK(write(c, block + done, n - done));
    if (i == urgent) EXPECT_EQ(send(c, "!", 1, MSG_OOB), 1);
    if (dice(&seed, 5) == 0) sched_yield();
  }
  OK(shutdown(c, SHUT_WR));
  EXPECT_EQ(recv(c, answer, sizeof answer, MSG_WAITALL), sizeof answer);
  EXPECT_EQ(answer[0], told[0]);
  EXPECT_EQ(answer[1], told[1]);
  char end;
  EXPECT_EQ(read(c, &end, 1), 0);
  close(c);
}
static void random_server(int l) {
  static unsigned char block[30000];
  for (int s; (s = accept(l, NULL, NULL)) >= 0; close(s)) {
    unsigned long long answer[2] = {0, 0};
    ssize_t n;
    for (unsigned size = 1; (n = OK(read(s, block, 1 + size % sizeof block))) > 0; size = size * 7 + 5) {
      answer[0] += n;
      for (ssize_t k = 0; k < n; k++) answer[1] += block[k];
    }
    EXPECT_EQ(write(s, answer, sizeof answer), sizeof answer);
  }
}
TEST_TIMEOUT(random_connections, 60) {
  struct sockaddr_in a;
  int l = listener(&a);
  pid_t clients[4];
  IN_CHILD(server, { random_server(l); });
  IN_CHILD(second, { random_server(l); });
  for (int i = 0; i < 4; i++) {
    IN_CHILD(pid, {
      for (int k = 0; k < 60; k++) random_client(&a, (unsigned)(i * 1000 + k));
    });
    clients[i] = pid;
  }
  for (int i = 0; i < 4; i++) EXPECT_EXIT(clients[i], 0);
  OK(kill(server, SIGKILL));
  OK(kill(second, SIGKILL));
}
TEST(passed_over_a_unix_socket) {
  int s, c = pair(&s), u[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
  IN_CHILD(pid, {
    close(c);
    close(s);
    char b, control[CMSG_SPACE(sizeof(int))];
    struct iovec v = {&b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    EXPECT_EQ(recvmsg(u[1], &m, 0), 1);
    int got;
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof got);
    EXPECT_EQ(write(got, "hello", 5), 5);
  });
  char control[CMSG_SPACE(sizeof(int))] = "", t[6] = "";
  struct iovec v = {"x", 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  *h = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(h), &c, sizeof c);
  EXPECT_EQ(sendmsg(u[0], &m, 0), 1);
  close(c);
  EXPECT_EQ(recv(s, t, 5, MSG_WAITALL), 5);
  EXPECT_STR(t, "hello");
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(read(s, t, 1), 0);
}

// --- ends ---
TEST(end_after_the_bytes) {
  int s, c = pair(&s);
  char t[8];
  OK(write(c, "abc", 3));
  EXPECT_EQ(wait_events(s, POLLIN), POLLIN | POLLOUT);
  OK(shutdown(c, SHUT_WR));
  EXPECT_EQ(wait_events(s, POLLRDHUP), POLLIN | POLLRDHUP | POLLOUT);
  const int ended = state_of(c);  // once: the acknowledgement may arrive between two questions
  EXPECT_TRUE(ended == TCP_FIN_WAIT2 || ended == TCP_FIN_WAIT1);
  EXPECT_EQ(state_of(s), TCP_CLOSE_WAIT);
  EXPECT_EQ(events_of(c), POLLOUT);
  EXPECT_ERR(send(c, "x", 1, MSG_NOSIGNAL), EPIPE);
  EXPECT_EQ(read(s, t, 2), 2);
  EXPECT_EQ(read(s, t, 8), 1);
  EXPECT_EQ(read(s, t, 8), 0);
  EXPECT_EQ(read(s, t, 8), 0);
  for (int i = 0; i < 3; i++) {
    EXPECT_EQ(write(s, "back", 4), 4);
    EXPECT_EQ(wait_events(c, POLLIN), POLLIN | POLLOUT);
    EXPECT_EQ(recv(c, t, 8, 0), 4);
  }
  OK(write(s, "last", 4));
  OK(shutdown(s, SHUT_WR));
  EXPECT_EQ(wait_events(c, POLLRDHUP), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
  EXPECT_EQ(recv(c, t, 8, 0), 4);
  EXPECT_EQ(recv(c, t, 8, 0), 0);
  EXPECT_EQ(events_of(s), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
  OK(close(c));
  EXPECT_EQ(recv(s, t, 8, 0), 0);
}
TEST(close_is_an_end) {
  int s, c = pair(&s);
  char t[8];
  OK(write(c, "abc", 3));
  OK(close(c));
  EXPECT_EQ(wait_events(s, POLLRDHUP), POLLIN | POLLOUT | POLLRDHUP);
  EXPECT_EQ(read(s, t, 8), 3);
  EXPECT_EQ(read(s, t, 8), 0);
}
TEST(write_after_the_peer_closed) {
  int s, c = pair(&s);
  char t;
  kit_catch(SIGPIPE, 0);
  OK(close(c));
  EXPECT_EQ(read(s, &t, 1), 0);
  EXPECT_EQ(write(s, "x", 1), 1);
  EXPECT_EQ(wait_events(s, POLLERR), POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
  EXPECT_EQ(kit_signals[SIGPIPE], 0);
  EXPECT_ERR(write(s, "x", 1), EPIPE);
  EXPECT_EQ(kit_signals[SIGPIPE], 1);
  EXPECT_ERR(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
  EXPECT_EQ(kit_signals[SIGPIPE], 1);
  EXPECT_EQ(read(s, &t, 1), 0);
}
TEST(write_after_the_peer_closed_with_bytes_unread) {
  int s, c = pair(&s);
  char t[4];
  OK(write(c, "ab", 2));
  OK(close(c));
  EXPECT_TRUE(wait_events(s, POLLRDHUP) & POLLRDHUP);
  EXPECT_EQ(write(s, "x", 1), 1);
  EXPECT_EQ(wait_events(s, POLLERR), POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
  EXPECT_EQ(read(s, t, 4), 2);
  EXPECT_EQ(error_of(s), EPIPE);
  EXPECT_EQ(read(s, t, 4), 0);
}
TEST(close_with_unread_bytes_is_a_reset) {
  int s, c = pair(&s);
  char t[8];
  OK(write(s, "abc", 3));
  OK(write(c, "de", 2));
  kit_sleep_ms(10);
  OK(close(c));
  EXPECT_EQ(wait_events(s, POLLERR), POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
  EXPECT_EQ(state_of(s), TCP_CLOSE);
  EXPECT_EQ(read(s, t, 8), 2);
  EXPECT_ERR(read(s, t, 8), ECONNRESET);
  EXPECT_EQ(read(s, t, 8), 0);
  EXPECT_ERR(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
  struct sockaddr_in a;
  socklen_t n = sizeof a;
  EXPECT_ERR(getpeername(s, (struct sockaddr *)&a, &n), ENOTCONN);
}
TEST(reset_is_seen_by_a_writer) {
  int s, c = pair(&s);
  OK(write(s, "abc", 3));
  kit_sleep_ms(10);
  OK(close(c));
  EXPECT_TRUE(wait_events(s, POLLERR) & POLLERR);
  EXPECT_ERR(send(s, "x", 1, MSG_NOSIGNAL), ECONNRESET);
  EXPECT_ERR(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
  EXPECT_EQ(error_of(s), 0);
}
TEST(reset_by_linger) {
  int s, c = pair(&s);
  char t[8];
  OK(write(c, "abc", 3));
  kit_sleep_ms(10);
  linger_zero(c);
  OK(close(c));
  EXPECT_TRUE(wait_events(s, POLLERR) & POLLERR);
  EXPECT_EQ(read(s, t, 8), 3);
  EXPECT_EQ(error_of(s), ECONNRESET);
  EXPECT_EQ(error_of(s), 0);
  EXPECT_EQ(read(s, t, 8), 0);
}
TEST(reset_after_a_half_close) {
  int s, c = pair(&s);
  char t[8];
  OK(shutdown(c, SHUT_WR));
  EXPECT_EQ(read(s, t, 8), 0);
  OK(write(s, "abc", 3));
  kit_sleep_ms(10);
  OK(close(c));
  EXPECT_TRUE(wait_events(s, POLLERR) & POLLERR);
  EXPECT_EQ(error_of(s), EPIPE);
}
TEST(shutdown_of_reading) {
  int s, c = pair(&s);
  char t[8] = "";
  OK(write(c, "abc", 3));
  kit_sleep_ms(10);
  OK(shutdown(s, SHUT_RD));
  EXPECT_EQ(events_of(s), POLLIN | POLLOUT | POLLRDHUP);
  EXPECT_EQ(events_of(c), POLLOUT);
  EXPECT_EQ(read(s, t, 8), 3);
  EXPECT_EQ(read(s, t, 8), 0);
  EXPECT_EQ(write(c, "de", 2), 2);
  kit_sleep_ms(10);
  EXPECT_EQ(read(s, t, 8), 2);
  EXPECT_EQ(read(s, t, 8), 0);
  EXPECT_EQ(write(s, "f", 1), 1);
  EXPECT_EQ(recv(c, t, 8, 0), 1);
  EXPECT_ERR(shutdown(s, 9), EINVAL);
}
TEST(shutdown_of_both) {
  int s, c = pair(&s);
  char t[8];
  OK(write(s, "abc", 3));
  kit_sleep_ms(10);
  OK(shutdown(c, SHUT_RDWR));
  EXPECT_EQ(wait_events(s, POLLRDHUP), POLLIN | POLLOUT | POLLRDHUP);
  EXPECT_EQ(events_of(c), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
  EXPECT_EQ(recv(c, t, 8, 0), 3);
  EXPECT_EQ(recv(c, t, 8, 0), 0);
  EXPECT_EQ(recv(s, t, 8, 0), 0);
  OK(close(s));
  kit_sleep_ms(10);
  EXPECT_ERR(shutdown(c, SHUT_WR), ENOTCONN);
}
TEST(blocked_reader_sees_the_end) {
  int s, c = pair(&s);
  IN_CHILD(pid, {
    close(c);
    char t;
    EXPECT_EQ(read(s, &t, 1), 0);
  });
  kit_wait_asleep(pid);
  close(c);
  EXPECT_EXIT(pid, 0);
}
TEST(blocked_reader_sees_its_own_shutdown) {
  int s, c = pair(&s);
  IN_CHILD(pid, {
    char t;
    EXPECT_EQ(read(s, &t, 1), 0);
  });
  kit_wait_asleep(pid);
  OK(shutdown(s, SHUT_RD));
  EXPECT_EXIT(pid, 0);
  (void)c;
}
TEST(blocked_writer_sees_the_reset) {
  int s, c = pair(&s);
  IN_CHILD(pid, {
    close(c);
    fill(s, 0);
    kit_catch(SIGPIPE, 0);
    char t[100];
    ssize_t n = write(s, t, 100);
    if (n >= 0) n = write(s, t, 100);
    EXPECT_EQ(n, -1);
    EXPECT_TRUE(errno == ECONNRESET || errno == EPIPE);
  });
  kit_sleep_ms(100);
  close(s);
  close(c);
  EXPECT_EXIT(pid, 0);
}
TEST(blocked_writer_sees_its_own_shutdown) {
  int s, c = pair(&s);
  IN_CHILD(pid, {
    fill(s, 0);
    kit_catch(SIGPIPE, 0);
    static char t[1 << 20];
    ssize_t n;
    while ((n = write(s, t, sizeof t)) >= 0) {}
    EXPECT_EQ(errno, EPIPE);
    EXPECT_EQ(kit_signals[SIGPIPE], 1);
  });
  kit_sleep_ms(100);
  OK(shutdown(s, SHUT_WR));
  EXPECT_EXIT(pid, 0);
  (void)c;
}
TEST(edge_triggered_ends) {
  int s, c = pair(&s), e = OK(epoll_create1(0));
  struct epoll_event v = {EPOLLIN | EPOLLRDHUP | EPOLLET, {.fd = s}}, got;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, s, &v));
  EXPECT_EQ(epoll_wait(e, &got, 1, 0), 0);
  for (int i = 0; i < 3; i++) {
    OK(write(c, "x", 1));
    EXPECT_EQ(epoll_wait(e, &got, 1, 2000), 1);
    EXPECT_EQ(got.events, EPOLLIN);
    EXPECT_EQ(epoll_wait(e, &got, 1, 0), 0);
  }
  OK(shutdown(c, SHUT_WR));
  EXPECT_EQ(epoll_wait(e, &got, 1, 2000), 1);
  EXPECT_EQ(got.events, EPOLLIN | EPOLLRDHUP);
  EXPECT_EQ(queued(s), 3);
  OK(close(c));
  OK(write(s, "y", 1));
  EXPECT_EQ(epoll_wait(e, &got, 1, 2000), 1);
  EXPECT_EQ(got.events & (EPOLLERR | EPOLLHUP), EPOLLERR | EPOLLHUP);
}
TEST(client_gone_before_accept) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a);
  OK(write(c, "abc", 3));
  OK(close(c));
  int s = OK(accept(l, NULL, NULL));
  char t[4];
  EXPECT_EQ(recv(s, t, 4, 0), 3);
  EXPECT_EQ(recv(s, t, 4, 0), 0);
}
TEST(client_half_closed_before_accept) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a);
  OK(write(c, "abc", 3));
  OK(shutdown(c, SHUT_WR));
  int s = OK(accept(l, NULL, NULL));
  char t[4];
  EXPECT_EQ(recv(s, t, 4, 0), 3);
  EXPECT_EQ(recv(s, t, 4, 0), 0);
  OK(write(s, "d", 1));
  EXPECT_EQ(recv(c, t, 4, 0), 1);
}
TEST(listener_gone_before_accept) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a);
  OK(close(l));
  char t;
  EXPECT_TRUE(wait_events(c, POLLERR) & POLLERR);
  EXPECT_ERR(read(c, &t, 1), ECONNRESET);
}
TEST(listener_gone_after_accept) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a), s = OK(accept(l, NULL, NULL));
  OK(close(l));
  char t;
  OK(write(c, "x", 1));
  EXPECT_EQ(read(s, &t, 1), 1);
  int d = OK(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_ERR(connect(d, (struct sockaddr *)&a, sizeof a), ECONNREFUSED);
}
TEST(connected_to_itself) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int s = OK(socket(AF_INET, SOCK_STREAM, 0));
  OK(bind(s, (struct sockaddr *)&a, sizeof a));
  socklen_t n = sizeof a;
  OK(getsockname(s, (struct sockaddr *)&a, &n));
  OK(connect(s, (struct sockaddr *)&a, sizeof a));
  char t[4] = "";
  EXPECT_EQ(write(s, "abc", 3), 3);
  EXPECT_EQ(recv(s, t, 3, MSG_WAITALL), 3);
  EXPECT_STR(t, "abc");
  OK(shutdown(s, SHUT_WR));
  EXPECT_EQ(read(s, t, 1), 0);
}
TEST(disconnected) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a), s = OK(accept(l, NULL, NULL));
  char t[4] = "";
  OK(write(c, "abc", 3));
  OK(write(s, "unread", 6));
  kit_sleep_ms(10);
  struct sockaddr nobody = {.sa_family = AF_UNSPEC};
  OK(connect(c, &nobody, sizeof nobody));
  EXPECT_TRUE(wait_events(s, POLLERR) & POLLERR);
  EXPECT_EQ(read(s, t, 4), 3);
  EXPECT_ERR(read(s, t, 4), ECONNRESET);
  EXPECT_ERR(recv(c, t, 4, MSG_DONTWAIT), ECONNRESET);
  EXPECT_ERR(recv(c, t, 4, MSG_DONTWAIT), ENOTCONN);
  EXPECT_ERR(send(c, t, 4, MSG_NOSIGNAL), EPIPE);
  OK(connect(c, (struct sockaddr *)&a, sizeof a));
  int again = OK(accept(l, NULL, NULL));
  OK(write(again, "new", 3));
  EXPECT_EQ(recv(c, t, 4, 0), 3);
  EXPECT_STR(t, "new");
  OK(write(c, "x", 1));
  EXPECT_EQ(recv(again, t, 4, 0), 1);
}

// --- what is not plain bytes ---
TEST(urgent_data) {
  int s, c = pair(&s), mark = -1;
  char t[16] = "";
  OK(write(c, "abc", 3));
  EXPECT_EQ(send(c, "X", 1, MSG_OOB), 1);
  EXPECT_TRUE(wait_events(s, POLLPRI) & POLLPRI);
  EXPECT_EQ(recv(s, t, 1, MSG_OOB), 1);
  EXPECT_EQ(t[0], 'X');
  EXPECT_ERR(recv(s, t, 1, MSG_OOB), EINVAL);
  OK(write(c, "def", 3));
  OK(ioctl(s, SIOCATMARK, &mark));
  EXPECT_EQ(mark, 0);
  memset(t, 0, sizeof t);
  EXPECT_EQ(recv(s, t, 16, 0), 3);  // not across the mark
  EXPECT_STR(t, "abc");
  OK(ioctl(s, SIOCATMARK, &mark));
  EXPECT_EQ(mark, 1);
  EXPECT_EQ(recv(s, t, 3, MSG_WAITALL), 3);
  EXPECT_STR(t, "def");
  OK(write(s, "back", 4));
  EXPECT_EQ(recv(c, t, 16, 0), 4);
}
TEST(urgent_data_inline) {
  int s, c = pair(&s), mark = -1;
  char t[16] = "";
  set_int(s, SOL_SOCKET, SO_OOBINLINE, 1);
  OK(write(c, "ab", 2));
  EXPECT_EQ(send(c, "cX", 2, MSG_OOB), 2);
  OK(write(c, "de", 2));
  EXPECT_EQ(recv(s, t, 2, MSG_WAITALL), 2);
  EXPECT_EQ(recv(s, t, 16, 0), 1);
  EXPECT_EQ(t[0], 'c');
  OK(ioctl(s, SIOCATMARK, &mark));
  EXPECT_EQ(mark, 1);
  EXPECT_EQ(recv(s, t, 3, MSG_WAITALL), 3);
  EXPECT_EQ(memcmp(t, "Xde", 3), 0);
}
TEST(urgent_data_before_accept) {
  struct sockaddr_in a;
  int l = listener(&a), c = connect_to(&a);
  OK(write(c, "abc", 3));
  OK(send(c, "X", 1, MSG_OOB));
  int s = OK(accept(l, NULL, NULL));
  OK(write(c, "def", 3));
  char t[16] = "";
  EXPECT_EQ(recv(s, t, 1, MSG_OOB), 1);
  EXPECT_EQ(t[0], 'X');
  EXPECT_EQ(recv(s, t, 3, MSG_WAITALL), 3);
  EXPECT_EQ(recv(s, t, 16, 0), 3);
  EXPECT_EQ(memcmp(t, "def", 3), 0);
}
static int control_of(int s, int level, int type, long *value) {
  char b[16], control[128];
  struct iovec v = {b, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  OK(recvmsg(s, &m, 0));
  for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
    if (h->cmsg_level == level && h->cmsg_type == type) {
      *value = 0;
      memcpy(value, CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0) < sizeof *value ? h->cmsg_len - CMSG_LEN(0) : sizeof *value);
      return 1;
    }
  return 0;
}
TEST(queue_lengths_with_the_bytes) {
  int s, c = pair(&s);
  long v = -1;
  char t;
  OK(write(c, "z", 1));
  EXPECT_EQ(read(s, &t, 1), 1);
  set_int(s, IPPROTO_TCP, TCP_INQ, 1);
  OK(write(c, "abc", 3));
  EXPECT_EQ(control_of(s, SOL_TCP, TCP_CM_INQ, &v), 1);
  EXPECT_EQ(v, 2);
}
