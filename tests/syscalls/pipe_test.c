// SPDX-License-Identifier: Apache-2.0
// pipe, pipe2, fifos.
#include "kit.h"

#include <poll.h>
#include <sys/ioctl.h>

TEST(data_passes) {
  int p[2];
  char b[8] = "";
  OK(pipe(p));
  EXPECT_EQ(write(p[1], "hello", 5), 5);
  EXPECT_EQ(read(p[0], b, 2), 2);
  EXPECT_EQ(read(p[0], b, 8), 3);
  EXPECT_ERR(write(p[0], "x", 1), EBADF);
  EXPECT_ERR(read(p[1], b, 1), EBADF);
}
TEST(end_of_file_and_sigpipe) {
  int p[2];
  char c;
  OK(pipe(p));
  OK(write(p[1], "x", 1));
  close(p[1]);
  EXPECT_EQ(read(p[0], &c, 1), 1);
  EXPECT_EQ(read(p[0], &c, 1), 0);
  OK(pipe(p));
  close(p[0]);
  kit_catch(SIGPIPE, 0);
  EXPECT_ERR(write(p[1], "x", 1), EPIPE);
  EXPECT_EQ(kit_signals[SIGPIPE], 1);
  IN_CHILD(pid, {
    signal(SIGPIPE, SIG_DFL);
    write(p[1], "x", 1);
  });
  EXPECT_KILLED(pid, SIGPIPE);
}
TEST(pipe2_flags) {
  int p[2];
  char c;
  OK(pipe2(p, O_CLOEXEC | O_NONBLOCK));
  EXPECT_EQ(fcntl(p[0], F_GETFD), FD_CLOEXEC);
  EXPECT_ERR(read(p[0], &c, 1), EAGAIN);
  EXPECT_ERR(pipe2(p, O_CREAT), EINVAL);
  EXPECT_EFAULT(kBadWrite, 8, q, syscall(SYS_pipe, q));
  EXPECT_EFAULT(kBadWrite, 8, q, syscall(SYS_pipe2, q, 0));
}
TEST(capacity) {
  int p[2];
  static char b[70000];
  OK(pipe2(p, O_NONBLOCK));
  EXPECT_EQ(fcntl(p[0], F_GETPIPE_SZ), 65536);
  EXPECT_EQ(write(p[1], b, 70000), 65536);
  EXPECT_ERR(write(p[1], b, 1), EAGAIN);
  int n;
  OK(ioctl(p[0], FIONREAD, &n));
  EXPECT_EQ(n, 65536);
  EXPECT_EQ(fcntl(p[1], F_SETPIPE_SZ, 100000), 131072);
  EXPECT_ERR(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
  EXPECT_GT(write(p[1], b, 30000), 0);
}
TEST(small_writes_are_atomic) {
  int p[2];
  static char b[65536];
  OK(pipe2(p, O_NONBLOCK));
  OK(write(p[1], b, 65536 - 100));
  EXPECT_ERR(write(p[1], b, 4096), EAGAIN);
}
TEST(blocked_writer_goes_on) {
  int p[2];
  static char b[200000];
  OK(pipe(p));
  IN_CHILD(pid, {
    close(p[0]);
    EXPECT_EQ(write(p[1], b, sizeof b), sizeof b);
  });
  close(p[1]);
  size_t total = 0;
  ssize_t n;
  while ((n = read(p[0], b, 777)) > 0) total += n;
  EXPECT_EQ(total, sizeof b);
  EXPECT_EXIT(pid, 0);
}
TEST(blocked_reader_interrupted_or_restarted) {
  int p[2];
  char c;
  OK(pipe(p));
  kit_catch(SIGALRM, 0);
  ualarm(30000, 0);
  EXPECT_ERR(read(p[0], &c, 1), EINTR);
  kit_catch(SIGALRM, SA_RESTART);
  IN_CHILD(pid, {
    kit_sleep_ms(150);
    OK(write(p[1], "x", 1));
  });
  ualarm(30000, 0);
  EXPECT_EQ(read(p[0], &c, 1), 1);
  EXPECT_EQ(kit_signals[SIGALRM], 2);
  EXPECT_EXIT(pid, 0);
}
TEST(packet_mode) {
  int p[2];
  char b[16];
  OK(pipe2(p, O_DIRECT));
  OK(write(p[1], "abc", 3));
  OK(write(p[1], "defg", 4));
  EXPECT_EQ(read(p[0], b, 16), 3);
  EXPECT_EQ(read(p[0], b, 2), 2);
}
TEST(fifo_open_waits_for_the_other_end) {
  OK(mkfifo("p", 0600));
  EXPECT_ERR(open("p", O_WRONLY | O_NONBLOCK), ENXIO);
  int r = OK(open("p", O_RDONLY | O_NONBLOCK));
  char c;
  EXPECT_EQ(read(r, &c, 1), 0);
  close(r);
  IN_CHILD(pid, {
    int w = OK(open("p", O_WRONLY));
    OK(write(w, "x", 1));
  });
  r = OK(open("p", O_RDONLY));
  EXPECT_EQ(read(r, &c, 1), 1);
  EXPECT_EXIT(pid, 0);
}
TEST(fifo_read_write) {
  OK(mkfifo("p", 0600));
  int fd = OK(open("p", O_RDWR));
  char c;
  OK(write(fd, "x", 1));
  EXPECT_EQ(read(fd, &c, 1), 1);
}
TEST(poll_of_pipe_ends) {
  int p[2];
  OK(pipe(p));
  struct pollfd f[2] = {{p[0], POLLIN}, {p[1], POLLOUT}};
  EXPECT_EQ(poll(f, 2, 0), 1);
  EXPECT_EQ(f[1].revents, POLLOUT);
  OK(write(p[1], "x", 1));
  EXPECT_EQ(poll(f, 2, 0), 2);
  close(p[1]);
  f[1].fd = -1;
  EXPECT_EQ(poll(f, 2, 0), 1);
  EXPECT_EQ(f[0].revents, POLLIN | POLLHUP);
  OK(pipe(p));
  close(p[0]);
  f[0] = (struct pollfd){p[1], POLLOUT};
  EXPECT_EQ(poll(f, 1, 0), 1);
  EXPECT_TRUE(f[0].revents & POLLERR);
}
TEST(stat_of_a_pipe) {
  int p[2];
  struct stat st;
  OK(pipe(p));
  OK(fstat(p[0], &st));
  EXPECT_TRUE(S_ISFIFO(st.st_mode));
  char link[64], target[64] = "";
  sprintf(link, "/proc/self/fd/%d", p[0]);
  OK(readlink(link, target, 63));
  EXPECT_EQ(strncmp(target, "pipe:[", 6), 0);
}
