// SPDX-License-Identifier: Apache-2.0
// Unix sockets: stream, datagram, seqpacket, SCM_RIGHTS, SCM_CREDENTIALS, names.
#include "kit.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un name(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  strcpy(a.sun_path, path);
  return a;
}
static int listener(int type, const char *path) {
  struct sockaddr_un a = name(path);
  int s = OK(socket(AF_UNIX, type, 0));
  OK(bind(s, (struct sockaddr *)&a, sizeof a));
  if (type != SOCK_DGRAM) OK(listen(s, 5));
  return s;
}

TEST(socketpair_stream) {
  int s[2];
  char b[16] = "";
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  EXPECT_EQ(write(s[0], "hello", 5), 5);
  EXPECT_EQ(write(s[0], "!", 1), 1);
  EXPECT_EQ(read(s[1], b, 16), 6);
  EXPECT_STR(b, "hello!");
  close(s[0]);
  EXPECT_EQ(read(s[1], b, 16), 0);
  kit_catch(SIGPIPE, 0);
  EXPECT_ERR(write(s[1], "x", 1), EPIPE);
  EXPECT_EQ(kit_signals[SIGPIPE], 1);
  EXPECT_ERR(send(s[1], "x", 1, MSG_NOSIGNAL), EPIPE);
  EXPECT_EQ(kit_signals[SIGPIPE], 1);
}
TEST(socket_errors) {
  int s[2];
  EXPECT_ERR(socket(AF_UNIX, 99, 0), EINVAL);
  EXPECT_ERR(socket(99, SOCK_STREAM, 0), EAFNOSUPPORT);
  EXPECT_ERR(socket(AF_UNIX, SOCK_STREAM, 99), EPROTONOSUPPORT);
  EXPECT_ERR(socketpair(AF_INET, SOCK_STREAM, 0, s), EOPNOTSUPP);
  EXPECT_EFAULT(kBadWrite, 8, p, syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, p));
  EXPECT_ERR(listen(0, 1), ENOTSOCK);
  EXPECT_ERR(bind(777, NULL, 0), EBADF);
  EXPECT_ERR(getsockopt(0, SOL_SOCKET, SO_TYPE, s, &(socklen_t){4}), ENOTSOCK);
}
TEST(listen_connect_accept) {
  int l = listener(SOCK_STREAM, "sock");
  IN_CHILD(pid, {
    int c = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un a = name("sock");
    OK(connect(c, (struct sockaddr *)&a, sizeof a));
    OK(write(c, "ping", 4));
    char b[4];
    EXPECT_EQ(read(c, b, 4), 4);
    EXPECT_EQ(memcmp(b, "pong", 4), 0);
    socklen_t n = sizeof a;
    OK(getpeername(c, (struct sockaddr *)&a, &n));
    EXPECT_STR(a.sun_path, "sock");
  });
  struct sockaddr_un peer;
  socklen_t n = sizeof peer;
  int s = OK(accept4(l, (struct sockaddr *)&peer, &n, SOCK_CLOEXEC));
  EXPECT_EQ(n, 2);
  EXPECT_EQ(fcntl(s, F_GETFD), FD_CLOEXEC);
  char b[4];
  EXPECT_EQ(read(s, b, 4), 4);
  OK(write(s, "pong", 4));
  EXPECT_EXIT(pid, 0);
}
TEST(connect_errors) {
  int c = OK(socket(AF_UNIX, SOCK_STREAM, 0));
  struct sockaddr_un a = name("none");
  EXPECT_ERR(connect(c, (struct sockaddr *)&a, sizeof a), ENOENT);
  kit_write_file("file", "");
  a = name("file");
  EXPECT_ERR(connect(c, (struct sockaddr *)&a, sizeof a), ECONNREFUSED);
  close(listener(SOCK_STREAM, "dead"));
  a = name("dead");
  EXPECT_ERR(connect(c, (struct sockaddr *)&a, sizeof a), ECONNREFUSED);
  int d = listener(SOCK_DGRAM, "dgram");
  a = name("dgram");
  EXPECT_ERR(connect(c, (struct sockaddr *)&a, sizeof a), EPROTOTYPE);
  struct sockaddr_un second = name("second");
  EXPECT_ERR(bind(d, (struct sockaddr *)&second, sizeof second), EINVAL);
  int e = OK(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_ERR(bind(e, (struct sockaddr *)&a, sizeof a), EADDRINUSE);
  EXPECT_ERR(accept(e, NULL, NULL), EINVAL);
  EXPECT_ERR(send(e, "x", 1, 0), ENOTCONN);
  EXPECT_ERR(recv(e, &a, 1, 0), EINVAL);
}
TEST(abstract_names) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  sprintf(a.sun_path + 1, "guest-test-%d", getpid());
  socklen_t n = sizeof(sa_family_t) + 1 + strlen(a.sun_path + 1);
  int l = OK(socket(AF_UNIX, SOCK_STREAM, 0)), c = OK(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_ERR(connect(c, (struct sockaddr *)&a, n), ECONNREFUSED);
  OK(bind(l, (struct sockaddr *)&a, n));
  OK(listen(l, 1));
  EXPECT_EQ(connect(c, (struct sockaddr *)&a, n), 0);
  socklen_t m = sizeof a;
  OK(getsockname(l, (struct sockaddr *)&a, &m));
  EXPECT_EQ(m, n);
}
TEST(autobind) {
  int s = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
  sa_family_t family = AF_UNIX;
  OK(bind(s, (struct sockaddr *)&family, sizeof family));
  struct sockaddr_un a;
  socklen_t n = sizeof a;
  OK(getsockname(s, (struct sockaddr *)&a, &n));
  EXPECT_EQ(n, 8);
  EXPECT_EQ(a.sun_path[0], 0);
}
TEST(datagrams_keep_their_bounds) {
  int s = listener(SOCK_DGRAM, "a"), c = listener(SOCK_DGRAM, "b");
  struct sockaddr_un a = name("a"), from;
  char b[16] = "";
  EXPECT_EQ(sendto(c, "one", 3, 0, (struct sockaddr *)&a, sizeof a), 3);
  EXPECT_EQ(sendto(c, "three", 5, 0, (struct sockaddr *)&a, sizeof a), 5);
  socklen_t n = sizeof from;
  EXPECT_EQ(recvfrom(s, b, 16, 0, (struct sockaddr *)&from, &n), 3);
  EXPECT_STR(from.sun_path, "b");
  EXPECT_EQ(recv(s, b, 2, MSG_TRUNC), 5);
  EXPECT_ERR(recv(s, b, 2, MSG_DONTWAIT), EAGAIN);
  OK(connect(c, (struct sockaddr *)&a, sizeof a));
  EXPECT_EQ(send(c, "", 0, 0), 0);
  EXPECT_EQ(recv(s, b, 16, 0), 0);
  close(s);
  EXPECT_ERR(send(c, "x", 1, 0), ECONNREFUSED);
}
TEST(seqpacket) {
  int s[2];
  char b[16];
  OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
  OK(send(s[0], "one", 3, 0));
  OK(send(s[0], "three", 5, 0));
  EXPECT_EQ(recv(s[1], b, 16, 0), 3);
  EXPECT_EQ(recv(s[1], b, 2, 0), 2);
  close(s[0]);
  EXPECT_EQ(recv(s[1], b, 16, 0), 0);
}
TEST(peek_and_waitall) {
  int s[2];
  char b[8] = "";
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  OK(write(s[0], "abc", 3));
  EXPECT_EQ(recv(s[1], b, 2, MSG_PEEK), 2);
  EXPECT_EQ(recv(s[1], b, 8, 0), 3);
  IN_CHILD(pid, { OK(write(s[0], "12", 2)); kit_sleep_ms(30); OK(write(s[0], "34", 2)); });
  EXPECT_EQ(recv(s[1], b, 4, MSG_WAITALL), 4);
  EXPECT_EXIT(pid, 0);
}
static int send_fds(int s, const int *fds, int n) {
  char c = 'x', control[256] = {0};
  struct iovec v = {&c, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(n * sizeof(int));
  memcpy(CMSG_DATA(h), fds, n * sizeof(int));
  return (int)sendmsg(s, &m, 0);
}
static int receive_fds(int s, int *fds, int room, int flags, int *message_flags) {
  char c, control[256];
  struct iovec v = {&c, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room ? CMSG_SPACE(room * sizeof(int)) : 0};
  OK(recvmsg(s, &m, flags));
  if (message_flags) *message_flags = m.msg_flags;
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  if (!h) return 0;
  int n = (int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
  memcpy(fds, CMSG_DATA(h), n * sizeof(int));
  return n;
}
TEST(rights_pass_descriptors) {
  int s[2], p[2], got[4];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  OK(pipe(p));
  EXPECT_EQ(send_fds(s[0], p, 2), 1);
  close(p[0]);
  IN_CHILD(pid, {
    ASSERT_EQ(receive_fds(s[1], got, 4, MSG_CMSG_CLOEXEC, NULL), 2);
    EXPECT_EQ(fcntl(got[0], F_GETFD), FD_CLOEXEC);
    OK(write(got[1], "y", 1));
    char c;
    EXPECT_EQ(read(got[0], &c, 1), 1);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(rights_truncated_and_lost) {
  int s[2], p[2], got[4], flags = 0;
  char c;
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  OK(pipe(p));
  EXPECT_EQ(send_fds(s[0], p, 2), 1);
  EXPECT_EQ(receive_fds(s[1], got, 0, 0, &flags), 0);
  EXPECT_TRUE(flags & MSG_CTRUNC);
  EXPECT_EQ(send_fds(s[0], &p[1], 1), 1);
  close(p[1]);
  close(s[0]);
  close(s[1]);  // the message and its descriptor go
  EXPECT_EQ(read(p[0], &c, 1), 0);
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  int bad = 777;
  EXPECT_ERR(send_fds(s[0], &bad, 1), EBADF);
}
TEST(credentials) {
  int s[2], one = 1;
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  struct ucred u;
  socklen_t n = sizeof u;
  OK(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &u, &n));
  EXPECT_EQ(u.pid, getpid());
  EXPECT_EQ(u.uid, geteuid());
  OK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
  OK(write(s[0], "x", 1));
  char c, control[128];
  struct iovec v = {&c, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  OK(recvmsg(s[1], &m, 0));
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  ASSERT_TRUE(h && h->cmsg_type == SCM_CREDENTIALS);
  memcpy(&u, CMSG_DATA(h), sizeof u);
  EXPECT_EQ(u.pid, getpid());
}
TEST(shutdown_ways) {
  int s[2];
  char c;
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  OK(shutdown(s[0], SHUT_WR));
  EXPECT_EQ(read(s[1], &c, 1), 0);
  EXPECT_ERR(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE);
  EXPECT_EQ(write(s[1], "x", 1), 1);
  EXPECT_EQ(read(s[0], &c, 1), 1);
  EXPECT_ERR(shutdown(s[0], 9), EINVAL);
  struct pollfd f = {s[1], POLLIN | POLLRDHUP};
  EXPECT_EQ(poll(&f, 1, 0), 1);
  EXPECT_TRUE(f.revents & POLLRDHUP);
}
TEST(nonblocking) {
  int s[2], n;
  static char b[65536];
  OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s));
  EXPECT_ERR(read(s[0], b, 1), EAGAIN);
  while (write(s[0], b, sizeof b) > 0) {
  }
  EXPECT_EQ(errno, EAGAIN);
  struct pollfd f = {s[0], POLLOUT};
  EXPECT_EQ(poll(&f, 1, 0), 0);
  while (read(s[1], b, sizeof b) > 0) {
  }
  EXPECT_EQ(poll(&f, 1, 0), 1);
  OK(write(s[0], "abc", 3));
  OK(ioctl(s[1], FIONREAD, &n));
  EXPECT_EQ(n, 3);
}
TEST(full_backlog_and_timeouts) {
  int s[2];
  char c;
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  struct { long sec, usec; } t = {0, 30000};
  OK(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
  long long start = kit_now_ns();
  EXPECT_ERR(read(s[0], &c, 1), EAGAIN);
  EXPECT_GE(kit_now_ns() - start, 30000000);
  int l = listener(SOCK_STREAM, "sock");
  struct sockaddr_un a = name("sock");
  int i;
  for (i = 0; i < 50; i++) {
    int d = OK(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    if (connect(d, (struct sockaddr *)&a, sizeof a) < 0) break;
  }
  EXPECT_EQ(i, 6);
  (void)l;
}
TEST(options) {
  int s = OK(socket(AF_UNIX, SOCK_STREAM, 0)), v = 0;
  socklen_t n = sizeof v;
  OK(getsockopt(s, SOL_SOCKET, SO_TYPE, &v, &n));
  EXPECT_EQ(v, SOCK_STREAM);
  OK(getsockopt(s, SOL_SOCKET, SO_DOMAIN, &v, &n));
  EXPECT_EQ(v, AF_UNIX);
  OK(getsockopt(s, SOL_SOCKET, SO_ACCEPTCONN, &v, &n));
  EXPECT_EQ(v, 0);
  OK(getsockopt(s, SOL_SOCKET, SO_ERROR, &v, &n));
  EXPECT_EQ(v, 0);
  EXPECT_ERR(getsockopt(s, SOL_SOCKET, 9999, &v, &n), ENOPROTOOPT);
  EXPECT_ERR(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &v, 1), EINVAL);
  EXPECT_EFAULT(kBadWrite, 4, p, syscall(SYS_getsockopt, s, SOL_SOCKET, SO_TYPE, p, &n));
  EXPECT_EFAULT(kBadRead, 4, p, syscall(SYS_setsockopt, s, SOL_SOCKET, SO_PASSCRED, p, 4));
}
TEST(message_errors) {
  int s[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  OK(write(s[0], "x", 1));
  EXPECT_EFAULT(kBadRead, sizeof(struct msghdr), p, syscall(SYS_sendmsg, s[0], p, 0));
  EXPECT_EFAULT(kBadRead, sizeof(struct msghdr), p, syscall(SYS_recvmsg, s[1], p, 0));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_sendto, s[0], p, 1, 0, NULL, 0));
}
TEST(sendmmsg_recvmmsg) {
  int s[2];
  OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
  struct iovec out[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}};
  struct mmsghdr m[3] = {{{.msg_iov = &out[0], .msg_iovlen = 1}}, {{.msg_iov = &out[1], .msg_iovlen = 1}}, {{.msg_iov = &out[2], .msg_iovlen = 1}}};
  EXPECT_EQ(sendmmsg(s[0], m, 3, 0), 3);
  EXPECT_EQ(m[2].msg_len, 3);
  char b[3][8];
  struct iovec in[3] = {{b[0], 8}, {b[1], 8}, {b[2], 8}};
  for (int i = 0; i < 3; i++) m[i] = (struct mmsghdr){{.msg_iov = &in[i], .msg_iovlen = 1}};
  EXPECT_EQ(recvmmsg(s[1], m, 3, MSG_DONTWAIT, NULL), 3);
  EXPECT_EQ(m[1].msg_len, 2);
}
