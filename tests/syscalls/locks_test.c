// SPDX-License-Identifier: Apache-2.0
// fcntl record locks, open-file-description locks, flock.
#include "kit.h"

#include <sys/file.h>

static int set(int fd, int command, int type, long start, long length) {
  struct flock l = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
  return fcntl(fd, command, &l);
}
static struct flock get(int fd, int command, int type, long start, long length) {
  struct flock l = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
  OK(fcntl(fd, command, &l));
  return l;
}

TEST(write_lock_excludes_another_process) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(set(fd, F_SETLK, F_WRLCK, 0, 10));
  IN_CHILD(pid, {
    EXPECT_ERR(set(fd, F_SETLK, F_WRLCK, 5, 1), EAGAIN);
    EXPECT_ERR(set(fd, F_SETLK, F_RDLCK, 0, 0), EAGAIN);
    EXPECT_EQ(set(fd, F_SETLK, F_WRLCK, 10, 5), 0);
    struct flock l = get(fd, F_GETLK, F_WRLCK, 0, 100);
    EXPECT_EQ(l.l_type, F_WRLCK);
    EXPECT_EQ(l.l_pid, getppid());
    EXPECT_EQ(l.l_start, 0);
    EXPECT_EQ(l.l_len, 10);
  });
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(get(fd, F_GETLK, F_WRLCK, 0, 0).l_type, F_UNLCK);  // one's own do not count, the child's are gone
}
TEST(read_locks_share) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(set(fd, F_SETLK, F_RDLCK, 0, 0));
  IN_CHILD(pid, {
    EXPECT_EQ(set(fd, F_SETLK, F_RDLCK, 0, 0), 0);
    EXPECT_ERR(set(fd, F_SETLK, F_WRLCK, 0, 0), EAGAIN);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(unlock_splits_a_range) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(set(fd, F_SETLK, F_WRLCK, 0, 100));
  OK(set(fd, F_SETLK, F_UNLCK, 40, 20));
  IN_CHILD(pid, {
    EXPECT_ERR(set(fd, F_SETLK, F_WRLCK, 39, 1), EAGAIN);
    EXPECT_EQ(set(fd, F_SETLK, F_WRLCK, 40, 20), 0);
    EXPECT_ERR(set(fd, F_SETLK, F_WRLCK, 60, 1), EAGAIN);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(close_of_any_descriptor_drops_the_locks) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600)), other = OK(open("f", O_RDWR));
  OK(set(fd, F_SETLK, F_WRLCK, 0, 0));
  close(other);
  IN_CHILD(pid, EXPECT_EQ(set(fd, F_SETLK, F_WRLCK, 0, 0), 0));
  EXPECT_EXIT(pid, 0);
}
TEST(setlkw_waits) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600)), p[2];
  OK(pipe(p));
  OK(set(fd, F_SETLK, F_WRLCK, 0, 0));
  IN_CHILD(pid, {
    OK(set(fd, F_SETLKW, F_WRLCK, 0, 0));
    OK(write(p[1], "x", 1));
  });
  kit_wait_asleep(pid);
  OK(write(p[1], "a", 1));
  OK(set(fd, F_SETLK, F_UNLCK, 0, 0));
  EXPECT_EXIT(pid, 0);
  char b[2];
  EXPECT_EQ(read(p[0], b, 2), 2);
  EXPECT_EQ(b[0], 'a');
}
TEST(setlkw_interrupted) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(set(fd, F_SETLK, F_WRLCK, 0, 0));
  IN_CHILD(pid, {
    kit_catch(SIGALRM, 0);
    ualarm(50000, 0);
    EXPECT_ERR(set(fd, F_SETLKW, F_WRLCK, 0, 0), EINTR);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(deadlock_is_found) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(set(fd, F_SETLK, F_WRLCK, 0, 1));
  int p[2];
  OK(pipe(p));
  IN_CHILD(pid, {
    OK(set(fd, F_SETLK, F_WRLCK, 1, 1));
    OK(write(p[1], "x", 1));
    OK(set(fd, F_SETLKW, F_WRLCK, 0, 1));
  });
  char c;
  OK(read(p[0], &c, 1));
  kit_wait_asleep(pid);
  EXPECT_ERR(set(fd, F_SETLKW, F_WRLCK, 1, 1), EDEADLK);
  OK(set(fd, F_SETLK, F_UNLCK, 0, 1));
  EXPECT_EXIT(pid, 0);
}
TEST(lock_errors) {
  int ro, fd = OK(open("f", O_WRONLY | O_CREAT, 0600));
  ro = OK(open("f", O_RDONLY));
  EXPECT_ERR(set(ro, F_SETLK, F_WRLCK, 0, 0), EBADF);
  EXPECT_ERR(set(fd, F_SETLK, F_RDLCK, 0, 0), EBADF);
  EXPECT_ERR(set(fd, F_SETLK, 77, 0, 0), EINVAL);
  EXPECT_ERR(set(fd, F_SETLK, F_WRLCK, -5, 1), EINVAL);
  EXPECT_ERR(set(-1, F_SETLK, F_WRLCK, 0, 1), EBADF);
  EXPECT_EFAULT(kBadRead, sizeof(struct flock), p, syscall(SYS_fcntl, fd, F_SETLK, p));
  EXPECT_EFAULT(kBadWrite, sizeof(struct flock), p, syscall(SYS_fcntl, fd, F_GETLK, p));
}
TEST(ofd_locks_belong_to_the_description) {
  int a = OK(open("f", O_RDWR | O_CREAT, 0600)), b = OK(open("f", O_RDWR));
  OK(set(a, F_OFD_SETLK, F_WRLCK, 0, 0));
  EXPECT_ERR(set(b, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN);
  EXPECT_EQ(get(b, F_OFD_GETLK, F_WRLCK, 0, 0).l_pid, -1);
  int c = OK(dup(a));
  EXPECT_EQ(set(c, F_OFD_SETLK, F_WRLCK, 0, 0), 0);
  close(a);
  EXPECT_ERR(set(b, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN);
  close(c);
  EXPECT_EQ(set(b, F_OFD_SETLK, F_WRLCK, 0, 0), 0);
}
TEST(flock_basics) {
  int a = OK(open("f", O_RDWR | O_CREAT, 0600)), b = OK(open("f", O_RDWR));
  OK(flock(a, LOCK_EX));
  EXPECT_ERR(flock(b, LOCK_EX | LOCK_NB), EAGAIN);
  EXPECT_ERR(flock(b, LOCK_SH | LOCK_NB), EAGAIN);
  OK(flock(a, LOCK_SH));
  EXPECT_EQ(flock(b, LOCK_SH | LOCK_NB), 0);
  EXPECT_ERR(flock(a, LOCK_EX | LOCK_NB), EAGAIN);
  OK(flock(b, LOCK_UN));
  EXPECT_EQ(flock(a, LOCK_EX | LOCK_NB), 0);
  EXPECT_ERR(flock(a, 0), EINVAL);
  EXPECT_ERR(flock(-1, LOCK_SH), EBADF);
}
TEST(flock_is_inherited_and_waits) {
  int a = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(flock(a, LOCK_EX));
  IN_CHILD(holder, { kit_sleep_ms(100); });
  close(a);
  int b = OK(open("f", O_RDWR));
  EXPECT_ERR(flock(b, LOCK_EX | LOCK_NB), EAGAIN);
  EXPECT_EQ(flock(b, LOCK_EX), 0);
  EXPECT_EXIT(holder, 0);
}
