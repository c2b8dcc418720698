// SPDX-License-Identifier: Apache-2.0
// Pseudo terminals: line discipline, echo, signals, window size, job control.
#include "kit.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;
static char slave_name[64];
static void open_pair(void) {
  master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) SKIP("no /dev/ptmx");
  OK(grantpt(master));
  OK(unlockpt(master));
  ASSERT_EQ(ptsname_r(master, slave_name, sizeof slave_name), 0);
  slave = OK(open(slave_name, O_RDWR | O_NOCTTY));
}
static void set_flags(tcflag_t off, tcflag_t on) {
  struct termios t;
  OK(tcgetattr(slave, &t));
  t.c_lflag = (t.c_lflag & ~off) | on;
  OK(tcsetattr(slave, TCSANOW, &t));
}
static char buffer[5000];
static const char *read_text(int fd) {
  struct pollfd p = {fd, POLLIN};
  buffer[0] = 0;
  if (poll(&p, 1, 2000) != 1) return "(nothing)";
  ssize_t n = read(fd, buffer, sizeof buffer - 1);
  buffer[n > 0 ? n : 0] = 0;
  return buffer;
}

TEST(is_a_terminal) {
  open_pair();
  EXPECT_EQ(isatty(slave), 1);
  EXPECT_EQ(strncmp(slave_name, "/dev/pts/", 9), 0);
  struct stat st;
  OK(fstat(slave, &st));
  EXPECT_TRUE(S_ISCHR(st.st_mode));
  char name[64];
  EXPECT_EQ(ttyname_r(slave, name, sizeof name), 0);
  EXPECT_STR(name, slave_name);
}
TEST(locked_until_unlocked) {
  int m = posix_openpt(O_RDWR | O_NOCTTY), n;
  if (m < 0) SKIP("no /dev/ptmx");
  char path[64];
  OK(ioctl(m, TIOCGPTN, &n));
  sprintf(path, "/dev/pts/%d", n);
  EXPECT_ERR(open(path, O_RDWR | O_NOCTTY), EIO);
}
TEST(canonical_line) {
  open_pair();
  set_flags(ECHO, 0);
  OK(write(master, "ab", 2));
  struct pollfd p = {slave, POLLIN};
  EXPECT_EQ(poll(&p, 1, 30), 0);
  OK(write(master, "c\ndef\n", 6));
  EXPECT_STR(read_text(slave), "abc\n");
  EXPECT_STR(read_text(slave), "def\n");
}
TEST(erase_and_kill_characters) {
  open_pair();
  set_flags(ECHO, 0);
  OK(write(master, "abx\177c\n", 6));
  EXPECT_STR(read_text(slave), "abc\n");
  OK(write(master, "wrong\025right\n", 12));
  EXPECT_STR(read_text(slave), "right\n");
  OK(write(master, "one two\027three\n", 14));
  EXPECT_STR(read_text(slave), "one three\n");
}
TEST(end_of_file_character) {
  open_pair();
  set_flags(ECHO, 0);
  OK(write(master, "ab\004", 3));
  EXPECT_STR(read_text(slave), "ab");
  OK(write(master, "\004", 1));
  char c;
  EXPECT_EQ(read(slave, &c, 1), 0);
}
TEST(echo_and_output_processing) {
  open_pair();
  OK(write(master, "a\n", 2));
  EXPECT_STR(read_text(master), "a\r\n");
  EXPECT_STR(read_text(slave), "a\n");
  OK(write(slave, "x\ny", 3));
  EXPECT_STR(read_text(master), "x\r\ny");
  OK(write(master, "\003", 1));
  EXPECT_STR(read_text(master), "^C");
  OK(write(master, "\r", 1));
  EXPECT_STR(read_text(slave), "\n");
}
TEST(raw_mode) {
  open_pair();
  struct termios t;
  OK(tcgetattr(slave, &t));
  cfmakeraw(&t);
  OK(tcsetattr(slave, TCSANOW, &t));
  OK(write(master, "\003\r", 2));
  EXPECT_STR(read_text(slave), "\003\r");
  OK(write(slave, "\n", 1));
  EXPECT_STR(read_text(master), "\n");
  t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 1;
  OK(tcsetattr(slave, TCSANOW, &t));
  char c;
  EXPECT_EQ(read(slave, &c, 1), 0);
}
TEST(window_size_and_sigwinch) {
  open_pair();
  struct winsize w = {24, 80, 0, 0}, got = {0};
  OK(ioctl(master, TIOCSWINSZ, &w));
  OK(ioctl(slave, TIOCGWINSZ, &got));
  EXPECT_EQ(got.ws_row, 24);
  EXPECT_EQ(got.ws_col, 80);
  int p[2];
  OK(pipe(p));
  IN_CHILD(pid, {
    setsid();
    OK(ioctl(slave, TIOCSCTTY, 0));
    kit_catch(SIGWINCH, 0);
    OK(write(p[1], "r", 1));
    for (int i = 0; i < 300 && !kit_signals[SIGWINCH]; i++) kit_sleep_ms(5);
    EXPECT_EQ(kit_signals[SIGWINCH], 1);
  });
  char c;
  OK(read(p[0], &c, 1));
  w.ws_col = 100;
  OK(ioctl(master, TIOCSWINSZ, &w));
  EXPECT_EXIT(pid, 0);
}
TEST(controlling_terminal_and_interrupt) {
  open_pair();
  int p[2];
  OK(pipe(p));
  IN_CHILD(pid, {
    setsid();
    OK(ioctl(slave, TIOCSCTTY, 0));
    EXPECT_EQ(tcgetpgrp(slave), getpid());
    EXPECT_EQ(tcgetsid(slave), getpid());
    int t = OK(open("/dev/tty", O_RDWR));
    EXPECT_EQ(isatty(t), 1);
    OK(write(p[1], "r", 1));
    for (;;) pause();
  });
  char c;
  OK(read(p[0], &c, 1));
  OK(write(master, "\003", 1));
  EXPECT_KILLED(pid, SIGINT);
}
TEST(suspend_and_quit_characters) {
  open_pair();
  int p[2];
  OK(pipe(p));
  pid_t leader = OK(fork());
  if (!leader) {
    setsid();
    OK(ioctl(slave, TIOCSCTTY, 0));
    pid_t job = fork();
    if (!job) {
      setpgid(0, 0);
      for (;;) pause();
    }
    setpgid(job, job);
    OK(tcsetpgrp(slave, job));
    OK(write(p[1], "r", 1));
    int status;
    OK(waitpid(job, &status, WUNTRACED));
    EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
    OK(kill(job, SIGCONT));
    OK(write(p[1], "r", 1));
    EXPECT_KILLED(job, SIGQUIT);
    _exit(kit_failed());
  }
  char c;
  OK(read(p[0], &c, 1));
  OK(write(master, "\032", 1));
  OK(read(p[0], &c, 1));
  OK(write(master, "\034", 1));
  EXPECT_EXIT(leader, 0);
}
TEST(background_read_stops) {
  open_pair();
  IN_CHILD(leader, {
    setsid();
    OK(ioctl(slave, TIOCSCTTY, 0));
    IN_CHILD(job, {
      setpgid(0, 0);
      char c;
      read(slave, &c, 1);
    });
    setpgid(job, job);
    int status;
    EXPECT_EQ(waitpid(job, &status, WUNTRACED), job);
    EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
    kill(job, SIGKILL);
    kit_wait(job);
  });
  EXPECT_EXIT(leader, 0);
}
TEST(hangup) {
  open_pair();
  int p[2];
  OK(pipe(p));
  IN_CHILD(pid, {
    close(master);
    setsid();
    OK(ioctl(slave, TIOCSCTTY, 0));
    kit_catch(SIGHUP, 0);
    OK(write(p[1], "r", 1));
    for (int i = 0; i < 400 && !kit_signals[SIGHUP]; i++) kit_sleep_ms(5);
    EXPECT_EQ(kit_signals[SIGHUP], 1);
    char c;
    EXPECT_EQ(read(slave, &c, 1), 0);
    EXPECT_ERR(write(slave, "x", 1), EIO);
  });
  char c;
  OK(read(p[0], &c, 1));
  close(slave);
  close(master);
  EXPECT_EXIT(pid, 0);
}
TEST(master_sees_the_last_close) {
  open_pair();
  close(slave);
  char c;
  EXPECT_ERR(read(master, &c, 1), EIO);
  slave = OK(open(slave_name, O_RDWR | O_NOCTTY));
  OK(write(slave, "x", 1));
  EXPECT_EQ(read(master, &c, 1), 1);
}
TEST(flush_and_counts) {
  open_pair();
  set_flags(ECHO | ICANON, 0);
  int n = 0;
  OK(write(master, "abc", 3));
  kit_sleep_ms(20);
  OK(ioctl(slave, FIONREAD, &n));
  EXPECT_EQ(n, 3);
  OK(tcflush(slave, TCIFLUSH));
  OK(ioctl(slave, FIONREAD, &n));
  EXPECT_EQ(n, 0);
  EXPECT_ERR(ioctl(slave, 0x5499, 0), ENOTTY);
  EXPECT_EFAULT(kBadWrite, 8, p, syscall(SYS_ioctl, slave, TIOCGWINSZ, p));
}
