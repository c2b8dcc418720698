// SPDX-License-Identifier: Apache-2.0
// O_ASYNC: F_SETOWN, F_SETSIG, FIOASYNC and the signals that they ask for.
#include "kit.h"

#include <netinet/in.h>
#include <poll.h>
#include <pty.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static sigset_t blocked(int signo) {
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, signo);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  return s;
}
// The next such signal, or 0 when none comes within the time.
static int next(sigset_t s, siginfo_t *i, int ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  int r = sigtimedwait(&s, i, &t);
  return r < 0 ? 0 : r;
}
static void drain(sigset_t s) {
  siginfo_t i;
  while (next(s, &i, 20) != 0) {
  }
}

TEST(pipe_tells_its_owner) {
  int p[2];
  siginfo_t i;
  sigset_t s = blocked(SIGIO);
  OK(pipe(p));
  OK(fcntl(p[0], F_SETFL, O_ASYNC));
  OK(write(p[1], "x", 1));
  EXPECT_EQ(next(s, &i, 50), 0);  // nobody owns it
  OK(fcntl(p[0], F_SETOWN, getpid()));
  char c;
  OK(read(p[0], &c, 1));
  OK(write(p[1], "x", 1));
  ASSERT_EQ(next(s, &i, 2000), SIGIO);
  EXPECT_EQ(i.si_code, SI_KERNEL);
  drain(s);
  OK(fcntl(p[0], F_SETFL, 0));
  EXPECT_EQ(fcntl(p[0], F_GETFL), O_RDONLY);
  OK(read(p[0], &c, 1));
  OK(write(p[1], "x", 1));
  EXPECT_EQ(next(s, &i, 50), 0);
}
TEST(signal_of_choice_names_the_descriptor) {
  int p[2];
  siginfo_t i;
  sigset_t s = blocked(SIGRTMIN + 3);
  OK(pipe(p));
  OK(fcntl(p[0], F_SETOWN, getpid()));
  EXPECT_EQ(fcntl(p[0], F_GETSIG), 0);
  OK(fcntl(p[0], F_SETSIG, SIGRTMIN + 3));
  EXPECT_EQ(fcntl(p[0], F_GETSIG), SIGRTMIN + 3);
  EXPECT_ERR(fcntl(p[0], F_SETSIG, 65), EINVAL);
  OK(fcntl(p[0], F_SETFL, O_ASYNC | O_NONBLOCK));
  EXPECT_EQ(fcntl(p[0], F_GETFL), O_ASYNC | O_NONBLOCK);
  OK(write(p[1], "x", 1));
  ASSERT_EQ(next(s, &i, 2000), SIGRTMIN + 3);
  EXPECT_EQ(i.si_code, POLL_IN);
  EXPECT_EQ(i.si_fd, p[0]);
  EXPECT_EQ(i.si_band, POLLIN | POLLRDNORM);
  drain(s);
  close(p[1]);
  ASSERT_EQ(next(s, &i, 2000), SIGRTMIN + 3);
  EXPECT_EQ(i.si_code, POLL_IN);
}
TEST(writer_hears_of_room) {
  int p[2];
  siginfo_t i;
  static char b[65536];
  sigset_t s = blocked(SIGRTMIN);
  OK(pipe(p));
  OK(fcntl(p[1], F_SETFL, O_NONBLOCK));
  while (write(p[1], b, sizeof b) > 0) {
  }
  OK(fcntl(p[1], F_SETOWN, getpid()));
  OK(fcntl(p[1], F_SETSIG, SIGRTMIN));
  OK(fcntl(p[1], F_SETFL, O_NONBLOCK | O_ASYNC));
  OK(read(p[0], b, sizeof b));
  ASSERT_EQ(next(s, &i, 2000), SIGRTMIN);
  EXPECT_EQ(i.si_code, POLL_OUT);
  EXPECT_EQ(i.si_fd, p[1]);
  EXPECT_EQ(i.si_band, POLLOUT | POLLWRNORM | POLLWRBAND);
}
TEST(owners) {
  int p[2];
  OK(pipe(p));
  EXPECT_EQ(fcntl(p[0], F_GETOWN), 0);
  EXPECT_ERR(fcntl(p[0], F_SETOWN, 999999), ESRCH);
  EXPECT_ERR(fcntl(p[0], F_SETOWN, (int)0x80000000), EINVAL);
  OK(fcntl(p[0], F_SETOWN, -getpgrp()));
  struct f_owner_ex ex = {0};
  OK(fcntl(p[0], F_GETOWN_EX, &ex));
  EXPECT_EQ(ex.type, F_OWNER_PGRP);
  EXPECT_EQ(ex.pid, getpgrp());
  ex.type = F_OWNER_TID, ex.pid = gettid();
  OK(fcntl(p[0], F_SETOWN_EX, &ex));
  EXPECT_EQ(fcntl(p[0], F_GETOWN), getpid());
  ex.type = 3;
  EXPECT_ERR(fcntl(p[0], F_SETOWN_EX, &ex), EINVAL);
  ex.type = F_OWNER_PID, ex.pid = 999999;
  EXPECT_ERR(fcntl(p[0], F_SETOWN_EX, &ex), ESRCH);
  // A dead owner is none.
  IN_CHILD(pid, pause());
  OK(fcntl(p[0], F_SETOWN, pid));
  EXPECT_EQ(fcntl(p[0], F_GETOWN), pid);
  kill(pid, SIGKILL);
  kit_wait(pid);
  EXPECT_EQ(fcntl(p[0], F_GETOWN), 0);
  OK(fcntl(p[0], F_SETOWN, 0));
  EXPECT_EQ(fcntl(p[0], F_GETOWN), 0);
  EXPECT_EFAULT(kBadRead, sizeof ex, q, fcntl(p[0], F_SETOWN_EX, q));
  EXPECT_EFAULT(kBadWrite, sizeof ex, q, fcntl(p[0], F_GETOWN_EX, q));
}
TEST(group_and_other_process) {
  int p[2], ready[2];
  OK(pipe(p));
  OK(pipe(ready));
  IN_CHILD(pid, {
    sigset_t s = blocked(SIGIO);
    siginfo_t i;
    OK(write(ready[1], "r", 1));
    _exit(next(s, &i, 3000) == SIGIO ? 7 : 1);
  });
  char c;
  OK(read(ready[0], &c, 1));
  OK(fcntl(p[0], F_SETOWN, pid));
  OK(fcntl(p[0], F_SETFL, O_ASYNC));
  OK(write(p[1], "x", 1));
  EXPECT_EXIT(pid, 7);
  OK(fcntl(p[0], F_SETOWN, -getpgrp()));
  siginfo_t i;
  sigset_t s = blocked(SIGIO);
  OK(read(p[0], &c, 1));
  OK(write(p[1], "x", 1));
  EXPECT_EQ(next(s, &i, 2000), SIGIO);
}
static void check_socket(int domain, int type) {
  int p[2];
  siginfo_t i;
  sigset_t s = blocked(SIGRTMIN + 1);
  OK(socketpair(domain, type, 0, p));
  int id = getpid(), on = 1;
  OK(ioctl(p[0], FIOSETOWN, &id));
  id = 0;
  OK(ioctl(p[0], SIOCGPGRP, &id));
  EXPECT_EQ(id, getpid());
  OK(fcntl(p[0], F_SETSIG, SIGRTMIN + 1));
  OK(ioctl(p[0], FIOASYNC, &on));
  EXPECT_TRUE(fcntl(p[0], F_GETFL) & O_ASYNC);
  OK(send(p[1], "x", 1, 0));
  ASSERT_EQ(next(s, &i, 2000), SIGRTMIN + 1);
  EXPECT_EQ(i.si_fd, p[0]);
  EXPECT_EQ(i.si_code, POLL_IN);
  drain(s);
  on = 0;
  OK(ioctl(p[0], FIOASYNC, &on));
  OK(send(p[1], "x", 1, 0));
  EXPECT_EQ(next(s, &i, 50), 0);
  close(p[0]);
  close(p[1]);
}
TEST(unix_sockets) {
  check_socket(AF_UNIX, SOCK_STREAM);
  check_socket(AF_UNIX, SOCK_DGRAM);
}
TEST(inet_socket) {
  int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t n = sizeof a;
  OK(bind(fd, (struct sockaddr *)&a, sizeof a));
  OK(getsockname(fd, (struct sockaddr *)&a, &n));
  sigset_t s = blocked(SIGIO);
  siginfo_t i;
  OK(fcntl(fd, F_SETOWN, getpid()));
  OK(fcntl(fd, F_SETFL, O_ASYNC));
  drain(s);
  int out = OK(socket(AF_INET, SOCK_DGRAM, 0));
  OK(sendto(out, "x", 1, 0, (struct sockaddr *)&a, sizeof a));
  EXPECT_EQ(next(s, &i, 2000), SIGIO);
}
TEST(terminal) {
  int master, slave;
  OK(openpty(&master, &slave, NULL, NULL, NULL));
  sigset_t s = blocked(SIGIO);
  siginfo_t i;
  OK(fcntl(slave, F_SETFL, O_RDWR | O_ASYNC));
  EXPECT_EQ(fcntl(slave, F_GETOWN), getpid());  // a terminal without a foreground group takes who asked
  OK(write(master, "line\n", 5));
  EXPECT_EQ(next(s, &i, 2000), SIGIO);
}
TEST(files_that_do_not_tell) {
  int on = 1, fd = OK(eventfd(0, 0)), file = OK(open("f", O_RDWR | O_CREAT, 0600));
  EXPECT_ERR(ioctl(fd, FIOASYNC, &on), ENOTTY);
  EXPECT_ERR(ioctl(file, FIOASYNC, &on), ENOTTY);
  OK(fcntl(fd, F_SETFL, O_ASYNC));
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_ASYNC, 0);
  EXPECT_EFAULT(kBadRead, 4, p, ioctl(fd, FIOASYNC, p));
}
TEST(closing_while_it_tells) {
  kit_catch(SIGIO, SA_RESTART);
  for (int round = 0; round < 200; round++) {
    int p[2];
    OK(pipe(p));
    OK(fcntl(p[0], F_SETOWN, getpid()));
    OK(fcntl(p[0], F_SETFL, O_ASYNC));
    OK(write(p[1], "x", 1));
    close(p[0]);
    close(p[1]);
  }
  EXPECT_GT(kit_signals[SIGIO], 0);
}
