// SPDX-License-Identifier: Apache-2.0
// POSIX message queues: mq_overview(7).
#include "kit.h"

#include <dirent.h>
#include <grp.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <time.h>

static char name[64];
static mqd_t make(int flags, long max, long size) {
  struct mq_attr a = {.mq_maxmsg = max, .mq_msgsize = size};
  sprintf(name, "/guest-mq-%d", getpid());
  mq_unlink(name);
  return OK(mq_open(name, O_CREAT | O_EXCL | flags, 0600, &a));
}
static struct timespec in_ms(int ms) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  long long ns = t.tv_nsec + ms * 1000000LL;
  return (struct timespec){t.tv_sec + ns / 1000000000, ns % 1000000000};
}

TEST(priorities_and_order) {
  mqd_t q = make(O_RDWR, 8, 16);
  OK(mq_send(q, "a1", 2, 1));
  OK(mq_send(q, "b1", 2, 5));
  OK(mq_send(q, "a2", 2, 1));
  OK(mq_send(q, "b2", 2, 5));
  OK(mq_send(q, "", 0, 31000));
  char b[17] = "";
  unsigned p;
  EXPECT_EQ(mq_receive(q, b, 16, &p), 0);
  EXPECT_EQ(p, 31000);
  const char *order[] = {"b1", "b2", "a1", "a2"};
  for (int i = 0; i < 4; i++) {
    EXPECT_EQ(mq_receive(q, b, 16, &p), 2);
    EXPECT_STR(b, order[i]);
    EXPECT_EQ(p, i < 2 ? 5 : 1);
  }
  OK(mq_unlink(name));
}
TEST(open_errors) {
  mqd_t q = make(O_RDWR, 4, 16);
  struct mq_attr a = {.mq_maxmsg = 4, .mq_msgsize = 16};
  EXPECT_ERR(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &a), EEXIST);
  EXPECT_ERR(mq_open("/guest-no-such", O_RDWR), ENOENT);
  EXPECT_ERR(mq_unlink("/guest-no-such"), ENOENT);
  EXPECT_ERR(mq_open("noslash", O_RDWR), EINVAL);  // glibc's own
  EXPECT_ERR(syscall(SYS_mq_open, "a/b", O_RDWR, 0, NULL), EACCES);
  EXPECT_ERR(syscall(SYS_mq_open, "/ab", O_RDWR, 0, NULL), EACCES);
  EXPECT_ERR(syscall(SYS_mq_open, ".", O_RDWR, 0, NULL), EACCES);
  EXPECT_ERR(syscall(SYS_mq_open, "", O_RDWR, 0, NULL), ENOENT);
  char longname[300];
  memset(longname, 'x', 299);
  longname[299] = 0;
  EXPECT_ERR(syscall(SYS_mq_open, longname, O_RDWR | O_CREAT, 0600, NULL), ENAMETOOLONG);
  EXPECT_ERR(syscall(SYS_mq_open, name + 1, 3, 0, NULL), EINVAL);
  a.mq_maxmsg = 0;
  EXPECT_ERR(mq_open("/guest-bad", O_CREAT | O_RDWR, 0600, &a), EINVAL);
  a.mq_maxmsg = 1, a.mq_msgsize = -1;
  EXPECT_ERR(mq_open("/guest-bad", O_CREAT | O_RDWR, 0600, &a), EINVAL);
  a.mq_maxmsg = 65537, a.mq_msgsize = 1;
  EXPECT_ERR(mq_open("/guest-bad", O_CREAT | O_RDWR, 0600, &a), EINVAL);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_mq_open, p, O_RDWR, 0, NULL));
  EXPECT_EFAULT(kBadRead, sizeof a, p, p ? syscall(SYS_mq_open, name + 1, O_RDWR, 0, p) : (errno = EFAULT, -1));
  EXPECT_EQ(fcntl(q, F_GETFD), FD_CLOEXEC);
  // Open queues outlive their name.
  OK(mq_unlink(name));
  OK(mq_send(q, "x", 1, 0));
  EXPECT_ERR(mq_open(name, O_RDWR), ENOENT);
}
TEST(send_and_receive_errors) {
  mqd_t q = make(O_RDWR | O_NONBLOCK, 2, 8);
  char b[8];
  EXPECT_ERR(mq_receive(q, b, 8, NULL), EAGAIN);
  EXPECT_ERR(mq_send(q, "123456789", 9, 0), EMSGSIZE);
  EXPECT_ERR(mq_send(q, "1", 1, 32768), EINVAL);
  OK(mq_send(q, "1", 1, 32767));
  EXPECT_ERR(mq_receive(q, b, 7, NULL), EMSGSIZE);
  OK(mq_send(q, "2", 1, 0));
  EXPECT_ERR(mq_send(q, "3", 1, 0), EAGAIN);
  struct timespec bad = {0, 1000000000}, negative = {-1, 0};
  EXPECT_ERR(mq_timedsend(q, "3", 1, 0, &bad), EINVAL);
  EXPECT_ERR(mq_timedreceive(q, b, 8, NULL, &negative), EINVAL);
  EXPECT_EFAULT(kBadRead, 8, p, syscall(SYS_mq_timedsend, q, p, 8, 0, NULL));
  EXPECT_ERR(syscall(SYS_mq_timedreceive, q, NULL, 8, NULL, NULL), EFAULT);  // and the message is gone
  EXPECT_EQ(mq_receive(q, b, 8, NULL), 1);
  mqd_t reader = OK(mq_open(name, O_RDONLY)), writer = OK(mq_open(name, O_WRONLY));
  EXPECT_ERR(mq_send(reader, "x", 1, 0), EBADF);
  EXPECT_ERR(mq_receive(writer, b, 8, NULL), EBADF);
  EXPECT_ERR(mq_send(0, "x", 1, 0), EBADF);
  EXPECT_ERR(mq_send(999, "x", 1, 0), EBADF);
  OK(mq_unlink(name));
}
TEST(attributes) {
  mqd_t q = make(O_RDWR, 3, 100);
  struct mq_attr a, old;
  OK(mq_send(q, "x", 1, 0));
  OK(mq_getattr(q, &a));
  EXPECT_EQ(a.mq_flags, 0);
  EXPECT_EQ(a.mq_maxmsg, 3);
  EXPECT_EQ(a.mq_msgsize, 100);
  EXPECT_EQ(a.mq_curmsgs, 1);
  a.mq_flags = O_NONBLOCK, a.mq_maxmsg = 9;
  OK(mq_setattr(q, &a, &old));
  EXPECT_EQ(old.mq_flags, 0);
  OK(mq_getattr(q, &a));
  EXPECT_EQ(a.mq_flags, O_NONBLOCK);
  EXPECT_EQ(a.mq_maxmsg, 3);
  EXPECT_EQ(fcntl(q, F_GETFL), O_RDWR | O_NONBLOCK);
  a.mq_flags = O_APPEND;
  EXPECT_ERR(mq_setattr(q, &a, NULL), EINVAL);
  EXPECT_EFAULT(kBadWrite, sizeof a, p, p ? syscall(SYS_mq_getsetattr, q, NULL, p) : (errno = EFAULT, -1));
  OK(mq_unlink(name));
  // Without any: the defaults.
  q = OK(mq_open(name, O_CREAT | O_RDWR, 0600, NULL));
  OK(mq_getattr(q, &a));
  EXPECT_EQ(a.mq_maxmsg, atoi(kit_read_file("/proc/sys/fs/mqueue/msg_default")));
  EXPECT_EQ(a.mq_msgsize, atoi(kit_read_file("/proc/sys/fs/mqueue/msgsize_default")));
  OK(mq_unlink(name));
}
TEST(blocking_and_timeouts) {
  mqd_t q = make(O_RDWR, 1, 8);
  char b[8];
  struct timespec t = in_ms(50);
  long long start = kit_now_ns();
  EXPECT_ERR(mq_timedreceive(q, b, 8, NULL, &t), ETIMEDOUT);
  EXPECT_GE(kit_now_ns() - start, 40000000);
  IN_CHILD(pid, {
    kit_sleep_ms(50);
    OK(mq_send(q, "child", 5, 3));
    OK(mq_send(q, "again", 5, 3));  // waits for the reader
  });
  unsigned p = 0;
  EXPECT_EQ(mq_receive(q, b, 8, &p), 5);
  EXPECT_EQ(p, 3);
  EXPECT_EQ(mq_receive(q, b, 8, &p), 5);
  EXPECT_EXIT(pid, 0);
  OK(mq_send(q, "full", 4, 0));
  t = in_ms(30);
  EXPECT_ERR(mq_timedsend(q, "x", 1, 0, &t), ETIMEDOUT);
  t = (struct timespec){1, 0};  // long past
  EXPECT_ERR(mq_timedsend(q, "x", 1, 0, &t), ETIMEDOUT);
  kit_catch(SIGALRM, 0);
  alarm(1);
  EXPECT_ERR(mq_send(q, "x", 1, 0), EINTR);
  OK(mq_unlink(name));
}
TEST(poll_tells) {
  mqd_t q = make(O_RDWR, 1, 8);
  struct pollfd p = {q, POLLIN | POLLOUT, 0};
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents, POLLOUT);
  OK(mq_send(q, "x", 1, 0));
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents, POLLIN);
  char b[8];
  OK(mq_receive(q, b, 8, NULL));
  IN_CHILD(pid, {
    kit_sleep_ms(30);
    OK(mq_send(q, "x", 1, 0));
  });
  p.events = POLLIN;
  EXPECT_EQ(poll(&p, 1, 5000), 1);
  EXPECT_EXIT(pid, 0);
  OK(mq_unlink(name));
}
TEST(notify_by_signal) {
  mqd_t q = make(O_RDWR, 4, 8);
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, SIGUSR2);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 77};
  OK(mq_notify(q, &e));
  EXPECT_ERR(mq_notify(q, &e), EBUSY);
  IN_CHILD(other, EXPECT_ERR(mq_notify(q, &e), EBUSY));
  EXPECT_EXIT(other, 0);
  IN_CHILD(pid, OK(mq_send(q, "x", 1, 0)));
  EXPECT_EXIT(pid, 0);
  siginfo_t i;
  struct timespec t = {2, 0}, now = {0, 0};
  ASSERT_EQ(sigtimedwait(&s, &i, &t), SIGUSR2);
  EXPECT_EQ(i.si_code, SI_MESGQ);
  EXPECT_EQ(i.si_value.sival_int, 77);
  EXPECT_EQ(i.si_pid, pid);
  EXPECT_EQ(i.si_uid, getuid());
  // Once, and only for a message in an empty queue.
  OK(mq_notify(q, &e));
  OK(mq_send(q, "y", 1, 0));
  EXPECT_ERR(sigtimedwait(&s, &i, &now), EAGAIN);
  char b[8];
  OK(mq_receive(q, b, 8, NULL));
  OK(mq_receive(q, b, 8, NULL));
  OK(mq_notify(q, NULL));
  OK(mq_send(q, "z", 1, 0));
  EXPECT_ERR(sigtimedwait(&s, &i, &now), EAGAIN);
  OK(mq_receive(q, b, 8, NULL));
  // A waiting reader is served instead.
  OK(mq_notify(q, &e));
  IN_CHILD(reader, EXPECT_EQ(mq_receive(q, b, 8, NULL), 1));
  kit_wait_asleep(reader);
  OK(mq_send(q, "w", 1, 0));
  EXPECT_EXIT(reader, 0);
  EXPECT_ERR(sigtimedwait(&s, &i, &now), EAGAIN);
  // It ends with any descriptor of the process.
  close(dup(q));
  OK(mq_notify(q, &e));
  e.sigev_notify = 9;
  EXPECT_ERR(mq_notify(q, &e), EINVAL);
  e.sigev_notify = SIGEV_SIGNAL, e.sigev_signo = 65;
  EXPECT_ERR(mq_notify(q, &e), EINVAL);
  EXPECT_ERR(mq_notify(999, NULL), EBADF);
  OK(mq_unlink(name));
}
static volatile int called;
static void on_message(union sigval v) { called = v.sival_int; }
TEST(notify_by_thread) {
  mqd_t q = make(O_RDWR, 4, 8);
  struct sigevent e = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_message, .sigev_value.sival_int = 5};
  OK(mq_notify(q, &e));
  OK(mq_send(q, "x", 1, 0));
  for (int i = 0; i < 200 && !called; i++) kit_sleep_ms(10);
  EXPECT_EQ(called, 5);
  OK(mq_unlink(name));
}
TEST(limit_of_the_user) {
  struct mq_attr a = {.mq_maxmsg = 10, .mq_msgsize = 8192};
  sprintf(name, "/guest-mq-%d", getpid());
  struct rlimit l = {10 * (8192 + 96) * 2 - 1, 10 * (8192 + 96) * 2 - 1};
  IN_CHILD(pid, {
    if (getuid() == 0) OK(setresuid(54321, 54321, 54321));  // whose queues are none yet
    OK(setrlimit(RLIMIT_MSGQUEUE, &l));
    mqd_t first = OK(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &a));
    EXPECT_ERR(mq_open("/guest-too-much", O_CREAT | O_EXCL | O_RDWR, 0600, &a), EMFILE);
    OK(mq_unlink(name));
    mq_close(first);
    first = OK(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &a));
    OK(mq_unlink(name));
    a.mq_maxmsg = atoi(kit_read_file("/proc/sys/fs/mqueue/msg_max")) + 1;
    EXPECT_ERR(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &a), EINVAL);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(permissions) {
  NEEDS_ROOT();
  mqd_t q = make(O_RDWR, 4, 8);
  OK(fchmod(q, 0640));
  IN_CHILD(pid, {
    OK(setresgid(777, 777, 777));
    OK(setgroups(0, NULL));
    OK(setresuid(777, 777, 777));
    EXPECT_ERR(mq_open(name, O_RDONLY), EACCES);
    EXPECT_ERR(syscall(SYS_mq_unlink, name + 1), EPERM);  // the root directory is sticky
  });
  EXPECT_EXIT(pid, 0);
  OK(fchown(q, 777, -1));
  IN_CHILD(owner, {
    OK(setresuid(777, 777, 777));
    OK(mq_open(name, O_RDWR));
    OK(mq_unlink(name));
  });
  EXPECT_EXIT(owner, 0);
}
TEST(file_system) {
  struct statfs s;
  if (statfs("/dev/mqueue", &s) != 0 || s.f_type != 0x19800202) SKIP("no mqueue file system at /dev/mqueue");
  mqd_t q = make(O_RDWR | O_NONBLOCK, 4, 8);
  OK(mq_send(q, "four", 4, 0));
  OK(mq_send(q, "sixsix", 6, 0));
  char path[128], link[128] = "";
  sprintf(path, "/dev/mqueue%s", name);
  struct stat st;
  OK(stat(path, &st));
  EXPECT_EQ(st.st_mode, S_IFREG | 0600);
  EXPECT_EQ(st.st_size, 80);
  char *text = kit_read_file(path);
  EXPECT_TRUE(strncmp(text, "QSIZE:10 ", 9) == 0 && strstr(text, "NOTIFY:0") && strstr(text, "NOTIFY_PID:0"));
  struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
  OK(mq_notify(q, &e));
  char want[64];
  sprintf(want, "SIGNO:%-5d NOTIFY_PID:%-6d\n", SIGUSR1, getpid());
  EXPECT_TRUE(strstr(kit_read_file(path), want));
  DIR *d = opendir("/dev/mqueue");
  bool found = false;
  for (struct dirent *entry; (entry = readdir(d));) found |= strcmp(entry->d_name, name + 1) == 0;
  EXPECT_TRUE(found);
  sprintf(path, "/proc/self/fd/%d", q);
  OK(readlink(path, link, sizeof link - 1));
  EXPECT_STR(link, name);
  sprintf(path, "/dev/mqueue%s", name);
  OK(unlink(path));
  EXPECT_ERR(mq_open(name, O_RDWR), ENOENT);
  EXPECT_ERR(stat(path, &st), ENOENT);
  // Made as a file, used as a queue.
  int fd = OK(open(path, O_CREAT | O_RDWR, 0600));
  OK(mq_send(fd, "x", 1, 0));
  mqd_t same = OK(mq_open(name, O_RDWR));
  struct mq_attr a;
  OK(mq_getattr(same, &a));
  EXPECT_EQ(a.mq_curmsgs, 1);
  EXPECT_ERR(write(fd, "x", 1), EINVAL);
  EXPECT_ERR(mkdir("/dev/mqueue/dir", 0700), EPERM);
  OK(mq_unlink(name));
}
TEST(many_at_once) {
  mqd_t q = make(O_RDWR, 4, 8);
  pid_t writers[4], readers[4];
  for (int i = 0; i < 4; i++) {
    IN_CHILD(w, for (int n = 0; n < 200; n++) OK(mq_send(q, "12345678", 8, n % 7)));
    IN_CHILD(r, {
      char b[8];
      for (int n = 0; n < 200; n++) EXPECT_EQ(mq_receive(q, b, 8, NULL), 8);
    });
    writers[i] = w, readers[i] = r;
  }
  for (int i = 0; i < 4; i++) {
    EXPECT_EXIT(writers[i], 0);
    EXPECT_EXIT(readers[i], 0);
  }
  struct mq_attr a;
  OK(mq_getattr(q, &a));
  EXPECT_EQ(a.mq_curmsgs, 0);
  OK(mq_unlink(name));
}
