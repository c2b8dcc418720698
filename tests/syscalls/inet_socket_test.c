// SPDX-License-Identifier: Apache-2.0
// TCP and UDP over loopback, IPv4 and IPv6.
#include "kit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

static struct sockaddr_in loopback(int port) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}
static int port_of(int s) {
  struct sockaddr_in a;
  socklen_t n = sizeof a;
  OK(getsockname(s, (struct sockaddr *)&a, &n));
  return ntohs(a.sin_port);
}
static int tcp_listener(int *port) {
  int s = OK(socket(AF_INET, SOCK_STREAM, 0));
  struct sockaddr_in a = loopback(0);
  OK(bind(s, (struct sockaddr *)&a, sizeof a));
  OK(listen(s, 16));
  *port = port_of(s);
  return s;
}
static int tcp_connected(int *peer) {
  int port, l = tcp_listener(&port), c = OK(socket(AF_INET, SOCK_STREAM, 0));
  struct sockaddr_in a = loopback(port);
  OK(connect(c, (struct sockaddr *)&a, sizeof a));
  *peer = OK(accept(l, NULL, NULL));
  close(l);
  return c;
}

TEST(tcp_round_trip) {
  int b, a = tcp_connected(&b);
  char t[8] = "";
  EXPECT_EQ(write(a, "hello", 5), 5);
  EXPECT_EQ(recv(b, t, 8, 0), 5);
  EXPECT_STR(t, "hello");
  EXPECT_EQ(send(b, "x", 1, 0), 1);
  EXPECT_EQ(read(a, t, 8), 1);
  close(a);
  EXPECT_EQ(read(b, t, 8), 0);
}
TEST(tcp_between_processes) {
  int port, l = tcp_listener(&port);
  static char block[100000];
  IN_CHILD(pid, {
    int c = OK(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in a = loopback(port);
    OK(connect(c, (struct sockaddr *)&a, sizeof a));
    for (int i = 0; i < 50; i++) {
      memset(block, 'a' + i % 26, sizeof block);
      for (size_t done = 0; done < sizeof block;) done += OK(write(c, block + done, sizeof block - done));
    }
  });
  struct sockaddr_in peer;
  socklen_t n = sizeof peer;
  int s = OK(accept(l, (struct sockaddr *)&peer, &n));
  EXPECT_EQ(peer.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
  size_t total = 0;
  ssize_t r;
  bool right = true;
  while ((r = read(s, block, sizeof block)) > 0) {
    for (ssize_t i = 0; i < r; i++) right &= block[i] == (char)('a' + (total + i) / 100000 % 26);
    total += r;
  }
  EXPECT_EQ(total, 5000000);
  EXPECT_TRUE(right);
  EXPECT_EXIT(pid, 0);
}
TEST(tcp_refused) {
  int port, l = tcp_listener(&port), c = OK(socket(AF_INET, SOCK_STREAM, 0));
  close(l);
  struct sockaddr_in a = loopback(port);
  EXPECT_ERR(connect(c, (struct sockaddr *)&a, sizeof a), ECONNREFUSED);
}
TEST(tcp_nonblocking_connect) {
  int port, l = tcp_listener(&port), c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)), error = 5;
  struct sockaddr_in a = loopback(port);
  int r = connect(c, (struct sockaddr *)&a, sizeof a);
  EXPECT_TRUE(r == 0 || errno == EINPROGRESS);
  struct pollfd f = {c, POLLOUT};
  EXPECT_EQ(poll(&f, 1, 3000), 1);
  socklen_t n = sizeof error;
  OK(getsockopt(c, SOL_SOCKET, SO_ERROR, &error, &n));
  EXPECT_EQ(error, 0);
  char b;
  EXPECT_ERR(read(c, &b, 1), EAGAIN);
  (void)l;
}
TEST(tcp_nonblocking_accept) {
  int port, l = tcp_listener(&port);
  OK(fcntl(l, F_SETFL, O_NONBLOCK));
  EXPECT_ERR(accept(l, NULL, NULL), EAGAIN);
}
TEST(tcp_addresses_in_use) {
  int port, l = tcp_listener(&port), s = OK(socket(AF_INET, SOCK_STREAM, 0));
  struct sockaddr_in a = loopback(port);
  EXPECT_ERR(bind(s, (struct sockaddr *)&a, sizeof a), EADDRINUSE);
  a.sin_addr.s_addr = htonl(0xc0000201);  // 192.0.2.1 is nobody's
  a.sin_port = 0;
  EXPECT_ERR(bind(s, (struct sockaddr *)&a, sizeof a), EADDRNOTAVAIL);
  EXPECT_ERR(bind(s, (struct sockaddr *)&a, 3), EINVAL);
  a.sin_family = 77;
  EXPECT_ERR(bind(s, (struct sockaddr *)&a, sizeof a), EAFNOSUPPORT);
  (void)l;
}
TEST(tcp_options) {
  int s = OK(socket(AF_INET, SOCK_STREAM, 0)), v = 1;
  socklen_t n = sizeof v;
  OK(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &v, n));
  v = 0;
  OK(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, &v, &n));
  EXPECT_EQ(v, 1);
  OK(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, n));
  OK(setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &v, n));
  v = 30;
  OK(setsockopt(s, IPPROTO_TCP, TCP_KEEPIDLE, &v, n));
  v = 65536;
  OK(setsockopt(s, SOL_SOCKET, SO_RCVBUF, &v, n));
  OK(getsockopt(s, SOL_SOCKET, SO_RCVBUF, &v, &n));
  EXPECT_EQ(v, 131072);
  OK(getsockopt(s, SOL_SOCKET, SO_PROTOCOL, &v, &n));
  EXPECT_EQ(v, IPPROTO_TCP);
  struct linger l = {1, 2}, got;
  OK(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof l));
  n = sizeof got;
  OK(getsockopt(s, SOL_SOCKET, SO_LINGER, &got, &n));
  EXPECT_EQ(got.l_linger, 2);
  EXPECT_ERR(setsockopt(s, IPPROTO_TCP, 9999, &v, 4), ENOPROTOOPT);
}
TEST(tcp_shutdown_and_half_close) {
  int b, a = tcp_connected(&b);
  char c;
  OK(shutdown(a, SHUT_WR));
  EXPECT_EQ(read(b, &c, 1), 0);
  EXPECT_EQ(write(b, "x", 1), 1);
  EXPECT_EQ(read(a, &c, 1), 1);
  EXPECT_ERR(send(a, "x", 1, MSG_NOSIGNAL), EPIPE);
}
TEST(tcp_reset) {
  int b, a = tcp_connected(&b);
  struct linger l = {1, 0};
  OK(setsockopt(a, SOL_SOCKET, SO_LINGER, &l, sizeof l));
  close(a);
  char c;
  kit_sleep_ms(20);
  EXPECT_ERR(read(b, &c, 1), ECONNRESET);
}
TEST(tcp_poll_and_epoll) {
  int b, a = tcp_connected(&b), e = OK(epoll_create1(0));
  struct epoll_event v = {EPOLLIN | EPOLLRDHUP | EPOLLET, {.fd = b}}, got;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, b, &v));
  EXPECT_EQ(epoll_wait(e, &got, 1, 0), 0);
  OK(write(a, "x", 1));
  EXPECT_EQ(epoll_wait(e, &got, 1, 2000), 1);
  EXPECT_EQ(got.events, EPOLLIN);
  EXPECT_EQ(epoll_wait(e, &got, 1, 0), 0);
  close(a);
  EXPECT_EQ(epoll_wait(e, &got, 1, 2000), 1);
  EXPECT_TRUE(got.events & EPOLLRDHUP);
}
TEST(tcp_peek_and_fionread) {
  int b, a = tcp_connected(&b), n = 0;
  char t[4];
  OK(write(a, "abc", 3));
  EXPECT_EQ(recv(b, t, 4, MSG_PEEK), 3);
  OK(ioctl(b, FIONREAD, &n));
  EXPECT_EQ(n, 3);
  EXPECT_EQ(recv(b, t, 4, 0), 3);
}
TEST(tcp_sendfile) {
  int b, a = tcp_connected(&b);
  kit_write_file("f", "contents");
  char t[9] = "";
  EXPECT_EQ(sendfile(a, OK(open("f", O_RDONLY)), NULL, 8), 8);
  EXPECT_EQ(recv(b, t, 8, MSG_WAITALL), 8);
  EXPECT_STR(t, "contents");
}
TEST(tcp_blocked_reader_is_interrupted) {
  int b, a = tcp_connected(&b);
  char c;
  kit_catch(SIGALRM, 0);
  ualarm(30000, 0);
  EXPECT_ERR(read(b, &c, 1), EINTR);
  (void)a;
}
TEST(udp_round_trip) {
  int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), c = OK(socket(AF_INET, SOCK_DGRAM, 0));
  struct sockaddr_in a = loopback(0), from;
  OK(bind(s, (struct sockaddr *)&a, sizeof a));
  a = loopback(port_of(s));
  char b[16];
  EXPECT_EQ(sendto(c, "one", 3, 0, (struct sockaddr *)&a, sizeof a), 3);
  EXPECT_EQ(sendto(c, "three", 5, 0, (struct sockaddr *)&a, sizeof a), 5);
  socklen_t n = sizeof from;
  EXPECT_EQ(recvfrom(s, b, 16, 0, (struct sockaddr *)&from, &n), 3);
  EXPECT_EQ(ntohs(from.sin_port), port_of(c));
  EXPECT_EQ(recv(s, b, 2, MSG_TRUNC), 5);
  EXPECT_ERR(recv(s, b, 2, MSG_DONTWAIT), EAGAIN);
  EXPECT_ERR(send(c, "x", 1, 0), EDESTADDRREQ);
  OK(connect(c, (struct sockaddr *)&a, sizeof a));
  EXPECT_EQ(send(c, "x", 1, 0), 1);
  EXPECT_EQ(sendto(s, "y", 1, 0, (struct sockaddr *)&from, n), 1);
  EXPECT_EQ(recv(c, b, 16, 0), 1);
}
TEST(udp_connection_refused) {
  int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), c = OK(socket(AF_INET, SOCK_DGRAM, 0));
  struct sockaddr_in a = loopback(0);
  OK(bind(s, (struct sockaddr *)&a, sizeof a));
  a = loopback(port_of(s));
  close(s);
  OK(connect(c, (struct sockaddr *)&a, sizeof a));
  OK(send(c, "x", 1, 0));
  char b;
  EXPECT_ERR(recv(c, &b, 1, 0), ECONNREFUSED);
}
TEST(ipv6_loopback) {
  int l = socket(AF_INET6, SOCK_STREAM, 0);
  if (l < 0 && errno == EAFNOSUPPORT) SKIP("no IPv6 here");
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
  if (bind(l, (struct sockaddr *)&a, sizeof a) < 0) SKIP("::1 is not there");
  OK(listen(l, 5));
  socklen_t n = sizeof a;
  OK(getsockname(l, (struct sockaddr *)&a, &n));
  EXPECT_EQ(n, sizeof a);
  int c = OK(socket(AF_INET6, SOCK_STREAM, 0));
  OK(connect(c, (struct sockaddr *)&a, sizeof a));
  int s = OK(accept(l, (struct sockaddr *)&a, &n));
  EXPECT_TRUE(IN6_IS_ADDR_LOOPBACK(&a.sin6_addr));
  OK(write(c, "x", 1));
  char b;
  EXPECT_EQ(read(s, &b, 1), 1);
}
TEST(ipv6_any_takes_ipv4) {
  int l = socket(AF_INET6, SOCK_STREAM, 0), zero = 0;
  if (l < 0) SKIP("no IPv6 here");
  OK(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero));
  struct sockaddr_in6 a = {.sin6_family = AF_INET6};
  OK(bind(l, (struct sockaddr *)&a, sizeof a));
  OK(listen(l, 5));
  socklen_t n = sizeof a;
  OK(getsockname(l, (struct sockaddr *)&a, &n));
  struct sockaddr_in v4 = loopback(ntohs(a.sin6_port));
  int c = OK(socket(AF_INET, SOCK_STREAM, 0));
  OK(connect(c, (struct sockaddr *)&v4, sizeof v4));
  OK(accept(l, (struct sockaddr *)&a, &n));
  EXPECT_TRUE(IN6_IS_ADDR_V4MAPPED(&a.sin6_addr));
}
TEST(kinds_that_are_refused) {
  EXPECT_ERR(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
  EXPECT_ERR(socket(AF_INET, 77, 0), EINVAL);
}
TEST(efault_tables) {
  int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
  socklen_t n = sizeof(struct sockaddr_in);
  EXPECT_EFAULT(kBadRead, 16, p, syscall(SYS_bind, s, p, 16));
  EXPECT_EFAULT(kBadRead, 16, p, syscall(SYS_connect, s, p, 16));
  EXPECT_EFAULT(kBadWrite, 16, p, syscall(SYS_getsockname, s, p, &n));
  EXPECT_EFAULT(kBadWrite, 4, p, syscall(SYS_getsockname, s, &n, p));
}
