// SPDX-License-Identifier: Apache-2.0
// truncate, ftruncate, fallocate, sendfile, splice, tee, vmsplice, copy_file_range.
#include "kit.h"

#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

TEST(truncate_both_ways) {
  kit_write_file("f", "hello");
  OK(truncate("f", 2));
  EXPECT_STR(kit_read_file("f"), "he");
  int fd = OK(open("f", O_RDWR));
  OK(ftruncate(fd, 4));
  char b[8] = "xxxxxxx";
  EXPECT_EQ(read(fd, b, 8), 4);
  EXPECT_EQ(memcmp(b, "he\0\0", 4), 0);
}
TEST(truncate_errors) {
  kit_write_file("f", "hello");
  OK(mkdir("d", 0755));
  int ro = OK(open("f", O_RDONLY)), p[2];
  OK(pipe(p));
  EXPECT_ERR(truncate("f", -1), EINVAL);
  EXPECT_ERR(truncate("none", 0), ENOENT);
  EXPECT_ERR(truncate("d", 0), EISDIR);
  EXPECT_ERR(ftruncate(ro, 0), EINVAL);
  EXPECT_ERR(ftruncate(p[1], 0), EINVAL);
  EXPECT_ERR(ftruncate(-1, 0), EBADF);
  EXPECT_EFAULT(kBadRead, 1, q, syscall(SYS_truncate, q, 0));
}
TEST(file_size_limit) {
  struct rlimit l = {4096, 8192};
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  char b[8192] = {0};
  OK(setrlimit(RLIMIT_FSIZE, &l));
  kit_catch(SIGXFSZ, 0);
  EXPECT_EQ(write(fd, b, 8192), 4096);
  EXPECT_ERR(write(fd, b, 1), EFBIG);
  EXPECT_EQ(kit_signals[SIGXFSZ], 1);
  EXPECT_ERR(ftruncate(fd, 5000), EFBIG);
  EXPECT_EQ(kit_signals[SIGXFSZ], 2);
}
TEST(fallocate_modes) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  struct stat st;
  if (fallocate(fd, 0, 0, 10000) < 0 && errno == EOPNOTSUPP) SKIP("fallocate is not supported here");
  OK(fstat(fd, &st));
  EXPECT_EQ(st.st_size, 10000);
  OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20000));
  OK(fstat(fd, &st));
  EXPECT_EQ(st.st_size, 10000);
  OK(pwrite(fd, "abc", 3, 5000));
  OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
  char b[3];
  OK(pread(fd, b, 3, 5000));
  EXPECT_EQ(b[0], 0);
  EXPECT_ERR(fallocate(fd, 0, -1, 10), EINVAL);
  EXPECT_ERR(fallocate(fd, 0, 0, 0), EINVAL);
  EXPECT_ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096), EOPNOTSUPP);
  EXPECT_ERR(fallocate(OK(open("f", O_RDONLY)), 0, 0, 10), EBADF);
  int p[2];
  OK(pipe(p));
  EXPECT_ERR(fallocate(p[1], 0, 0, 10), ESPIPE);
}
TEST(sendfile_between_files) {
  kit_write_file("in", "0123456789");
  int in = OK(open("in", O_RDONLY)), out = OK(open("out", O_RDWR | O_CREAT, 0600));
  off_t at = 3;
  EXPECT_EQ(sendfile(out, in, &at, 4), 4);
  EXPECT_EQ(at, 7);
  EXPECT_EQ(lseek(in, 0, SEEK_CUR), 0);
  EXPECT_EQ(sendfile(out, in, NULL, 100), 10);
  EXPECT_EQ(sendfile(out, in, NULL, 100), 0);
  EXPECT_STR(kit_read_file("out"), "34560123456789");
  EXPECT_ERR(sendfile(out, -1, NULL, 1), EBADF);
  EXPECT_ERR(sendfile(in, out, NULL, 1), EBADF);
  at = -1;
  EXPECT_ERR(sendfile(out, in, &at, 1), EINVAL);
}
TEST(sendfile_to_a_pipe) {
  kit_write_file("in", "0123456789");
  int in = OK(open("in", O_RDONLY)), p[2];
  OK(pipe(p));
  EXPECT_EQ(sendfile(p[1], in, NULL, 10), 10);
  char b[11] = "";
  EXPECT_EQ(read(p[0], b, 10), 10);
  EXPECT_STR(b, "0123456789");
}
TEST(copy_file_range_copies) {
  kit_write_file("in", "0123456789");
  int in = OK(open("in", O_RDONLY)), out = OK(open("out", O_RDWR | O_CREAT, 0600));
  off_t from = 2, to = 1;
  EXPECT_EQ(copy_file_range(in, &from, out, &to, 5, 0), 5);
  EXPECT_EQ(from, 7);
  EXPECT_EQ(to, 6);
  char b[7] = "";
  EXPECT_EQ(pread(out, b, 6, 0), 6);
  EXPECT_EQ(memcmp(b, "\00023456", 6), 0);
  EXPECT_ERR(copy_file_range(in, NULL, out, NULL, 1, 9), EINVAL);
  EXPECT_ERR(copy_file_range(out, NULL, in, NULL, 1, 0), EBADF);
  EXPECT_EQ(copy_file_range(in, &(off_t){100}, out, NULL, 5, 0), 0);
}
TEST(splice_file_to_pipe_to_file) {
  kit_write_file("in", "0123456789");
  int in = OK(open("in", O_RDONLY)), out = OK(open("out", O_RDWR | O_CREAT, 0600)), p[2];
  OK(pipe(p));
  loff_t at = 2;
  EXPECT_EQ(splice(in, &at, p[1], NULL, 5, 0), 5);
  EXPECT_EQ(at, 7);
  EXPECT_EQ(splice(p[0], NULL, out, NULL, 100, 0), 5);
  EXPECT_STR(kit_read_file("out"), "23456");
  EXPECT_ERR(splice(in, NULL, out, NULL, 1, 0), EINVAL);
  EXPECT_ERR(splice(in, NULL, p[1], &at, 1, 0), ESPIPE);
  EXPECT_ERR(splice(p[0], NULL, out, NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
}
TEST(tee_keeps_the_data) {
  int a[2], b[2];
  char x[4] = "", y[4] = "";
  OK(pipe(a));
  OK(pipe(b));
  OK(write(a[1], "abc", 3));
  EXPECT_EQ(tee(a[0], b[1], 100, 0), 3);
  EXPECT_EQ(read(a[0], x, 3), 3);
  EXPECT_EQ(read(b[0], y, 3), 3);
  EXPECT_STR(x, "abc");
  EXPECT_STR(y, "abc");
  EXPECT_ERR(tee(a[0], a[1], 1, 0), EINVAL);
}
TEST(vmsplice_writes_memory) {
  int p[2];
  char b[8] = "";
  OK(pipe(p));
  struct iovec v = {"hello", 5};
  EXPECT_EQ(vmsplice(p[1], &v, 1, 0), 5);
  EXPECT_EQ(read(p[0], b, 5), 5);
  EXPECT_STR(b, "hello");
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  EXPECT_ERR(vmsplice(fd, &v, 1, 0), EBADF);
}
