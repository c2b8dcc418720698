// SPDX-License-Identifier: Apache-2.0
// io_setup(2) and kin, as libaio calls them.
#include "kit.h"

#include <linux/aio_abi.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>

static int setup(unsigned n, aio_context_t *c) { return syscall(SYS_io_setup, n, c); }
static int destroy(aio_context_t c) { return syscall(SYS_io_destroy, c); }
static int submit(aio_context_t c, long n, struct iocb **list) { return syscall(SYS_io_submit, c, n, list); }
static int getevents(aio_context_t c, long least, long most, struct io_event *e, struct timespec *t) {
  return syscall(SYS_io_getevents, c, least, most, e, t);
}
static struct iocb op(int opcode, int fd, void *buf, size_t n, long long offset) {
  return (struct iocb){.aio_lio_opcode = opcode, .aio_fildes = fd, .aio_buf = (uintptr_t)buf, .aio_nbytes = n, .aio_offset = offset, .aio_data = 7};
}
static aio_context_t context(unsigned n) {
  aio_context_t c = 0;
  OK(setup(n, &c));
  return c;
}

TEST(write_read_sync) {
  aio_context_t c = context(8);
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  char text[] = "hello world", back[12] = "";
  struct iovec v[2] = {{back, 5}, {back + 5, 6}};
  struct iocb w = op(IOCB_CMD_PWRITE, fd, text, 11, 100), s = op(IOCB_CMD_FSYNC, fd, NULL, 0, 0);
  struct iocb r = op(IOCB_CMD_PREADV, fd, v, 2, 100), end = op(IOCB_CMD_PREAD, fd, text, 5, 1000);
  struct iocb *one[] = {&w}, *two[] = {&s, &r, &end};
  struct io_event e[8];
  EXPECT_EQ(submit(c, 1, one), 1);
  EXPECT_EQ(getevents(c, 1, 8, e, NULL), 1);
  EXPECT_EQ(e[0].res, 11);
  EXPECT_EQ(e[0].data, 7);
  EXPECT_EQ(e[0].obj, (uintptr_t)&w);
  EXPECT_EQ(submit(c, 3, two), 3);
  int got = 0;
  while (got < 3) got += OK(getevents(c, 1, 3 - got, e + got, NULL));
  for (int i = 0; i < 3; i++) EXPECT_EQ(e[i].res, e[i].obj == (uintptr_t)&r ? 11 : 0);
  EXPECT_STR(back, "hello world");
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
  struct timespec none = {0, 0}, brief = {0, 20000000};
  EXPECT_EQ(getevents(c, 1, 8, e, &none), 0);
  EXPECT_EQ(getevents(c, 1, 8, e, &brief), 0);
  OK(destroy(c));
  EXPECT_ERR(destroy(c), EINVAL);
  EXPECT_ERR(getevents(c, 0, 1, e, &none), EINVAL);
}
TEST(errors) {
  aio_context_t c = 0, other = 5;
  EXPECT_ERR(setup(0, &c), EINVAL);
  EXPECT_ERR(setup(1, &other), EINVAL);
  EXPECT_ERR(setup(~0u, &c), EINVAL);
  EXPECT_EFAULT(kBadWrite, 8, p, setup(1, p));
  c = context(2);
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600)), ro = OK(open("f", O_RDONLY));
  char b[8];
  struct io_event e[4];
  struct iocb bad = op(99, fd, b, 1, 0), *list[] = {&bad, NULL};
  EXPECT_ERR(submit(c, 1, list), EINVAL);
  bad = op(IOCB_CMD_PREAD, 999, b, 1, 0);
  EXPECT_ERR(submit(c, 1, list), EBADF);
  bad = op(IOCB_CMD_PWRITE, ro, b, 1, 0);
  EXPECT_ERR(submit(c, 1, list), EBADF);
  bad = op(IOCB_CMD_PREAD, fd, b, ~0ul, 0);
  EXPECT_ERR(submit(c, 1, list), EINVAL);
  bad = op(IOCB_CMD_PREAD, fd, b, 1, 0);
  bad.aio_reserved2 = 1;
  EXPECT_ERR(submit(c, 1, list), EINVAL);
  bad = op(IOCB_CMD_PREAD, fd, b, 1, 0);
  bad.aio_flags = IOCB_FLAG_RESFD, bad.aio_resfd = fd;
  EXPECT_ERR(submit(c, 1, list), EINVAL);
  EXPECT_ERR(submit(c, -1, list), EINVAL);
  EXPECT_ERR(submit(c + 4096 * 1000, 1, list), EINVAL);
  EXPECT_EQ(submit(c, 0, list), 0);
  EXPECT_EFAULT(kBadRead, 8, p, submit(c, 1, p));
  bad = op(IOCB_CMD_PREAD, fd, b, 1, 0);
  EXPECT_EQ(submit(c, 2, list), 1);  // the second one is at NULL
  EXPECT_EQ(getevents(c, 1, 1, e, NULL), 1);
  EXPECT_ERR(getevents(c, 2, 1, e, NULL), EINVAL);
  EXPECT_ERR(getevents(c, -1, 1, e, NULL), EINVAL);
  EXPECT_EFAULT(kBadRead, sizeof(struct timespec), p, p ? getevents(c, 0, 1, e, p) : (errno = EFAULT, -1));
  EXPECT_ERR(syscall(SYS_io_cancel, c, &bad, e), EINVAL);
  OK(destroy(c));
}
TEST(eventfd_counts) {
  aio_context_t c = context(8);
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600)), event = OK(eventfd(0, EFD_NONBLOCK));
  struct iocb a = op(IOCB_CMD_PWRITE, fd, "x", 1, 0), b = op(IOCB_CMD_PWRITE, fd, "y", 1, 1), *list[] = {&a, &b};
  a.aio_flags = b.aio_flags = IOCB_FLAG_RESFD;
  a.aio_resfd = b.aio_resfd = event;
  EXPECT_EQ(submit(c, 2, list), 2);
  struct io_event e[2];
  EXPECT_EQ(getevents(c, 2, 2, e, NULL), 2);
  uint64_t n = 0;
  EXPECT_EQ(read(event, &n, 8), 8);
  EXPECT_EQ(n, 2);
  OK(destroy(c));
}
static void *submit_later(void *argument) {
  aio_context_t c = *(aio_context_t *)argument;
  kit_sleep_ms(50);
  struct iocb w = op(IOCB_CMD_PWRITE, open("f", O_RDWR | O_CREAT, 0600), "x", 1, 0), *list[] = {&w};
  submit(c, 1, list);
  return NULL;
}
TEST(waiting) {
  aio_context_t c = context(4);
  pthread_t t;
  struct io_event e;
  pthread_create(&t, NULL, submit_later, &c);
  EXPECT_EQ(getevents(c, 1, 1, &e, NULL), 1);
  EXPECT_EQ(e.res, 1);
  pthread_join(t, NULL);
  kit_catch(SIGALRM, 0);
  alarm(1);
  EXPECT_ERR(getevents(c, 1, 1, &e, NULL), EINTR);
  // Its events in a child are nobody's.
  IN_CHILD(pid, EXPECT_ERR(getevents(c, 0, 1, &e, NULL), EINVAL));
  EXPECT_EXIT(pid, 0);
  OK(destroy(c));
}
