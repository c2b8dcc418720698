// SPDX-License-Identifier: Apache-2.0
// read, write, pread, pwrite, readv, writev, preadv2, lseek.
#include "kit.h"

#include <sys/uio.h>

static int file_with(const char *text) {
  kit_write_file("f", text);
  return OK(open("f", O_RDWR));
}

TEST(read_gives_what_was_written) {
  int fd = file_with("hello world");
  char b[64] = "";
  EXPECT_EQ(read(fd, b, 5), 5);
  EXPECT_STR(b, "hello");
  EXPECT_EQ(read(fd, b, sizeof b), 6);
  EXPECT_EQ(read(fd, b, sizeof b), 0);
}
TEST(read_zero_bytes) {
  int fd = file_with("x");
  EXPECT_EQ(read(fd, NULL, 0), 0);
  EXPECT_EQ(write(fd, NULL, 0), 0);
}
TEST(read_errors) {
  char c;
  int wronly = OK(open("w", O_WRONLY | O_CREAT, 0600)), dir = OK(open(".", O_RDONLY));
  int path = OK(open(".", O_PATH));
  EXPECT_ERR(read(wronly, &c, 1), EBADF);
  EXPECT_ERR(read(-1, &c, 1), EBADF);
  EXPECT_ERR(read(9999, &c, 1), EBADF);
  EXPECT_ERR(read(dir, &c, 1), EISDIR);
  EXPECT_ERR(read(path, &c, 1), EBADF);
  EXPECT_ERR(write(dir, &c, 1), EBADF);
}
TEST(write_errors) {
  kit_write_file("r", "abc");
  int rdonly = OK(open("r", O_RDONLY));
  EXPECT_ERR(write(rdonly, "x", 1), EBADF);
  EXPECT_ERR(write(-1, "x", 1), EBADF);
}
TEST(read_efault) {
  int fd = file_with("some text longer than a few bytes");
  EXPECT_EFAULT(kBadWrite, 1, p, syscall(SYS_pread64, fd, p, 1, 0));
  EXPECT_EFAULT(kBadWrite, 1, p, syscall(SYS_read, fd, p, 1));
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
}
TEST(write_efault) {
  int fd = file_with("");
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_write, fd, p, 1));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_pwrite64, fd, p, 1, 0));
}
TEST(read_stops_at_the_bad_page) {
  char *m = OK(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  munmap(m + 4096, 4096);
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  char block[8192];
  memset(block, 'a', sizeof block);
  ASSERT_EQ(write(fd, block, sizeof block), 8192);
  EXPECT_EQ(pread(fd, m + 4000, 200, 0), 96);
  EXPECT_EQ(m[4095], 'a');
  EXPECT_EQ(pwrite(fd, m + 4000, 200, 0), 96);
}
TEST(pread_pwrite_keep_the_position) {
  int fd = file_with("0123456789");
  char b[8] = "";
  EXPECT_EQ(pread(fd, b, 3, 4), 3);
  EXPECT_STR(b, "456");
  EXPECT_EQ(pwrite(fd, "XY", 2, 8), 2);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
  EXPECT_EQ(pread(fd, b, 3, 100), 0);
  EXPECT_ERR(pread(fd, b, 3, -1), EINVAL);
  EXPECT_ERR(pwrite(fd, b, 3, -1), EINVAL);
  int p[2];
  OK(pipe(p));
  EXPECT_ERR(pread(p[0], b, 1, 0), ESPIPE);
  EXPECT_ERR(pwrite(p[1], b, 1, 0), ESPIPE);
}
TEST(append_writes_at_the_end) {
  kit_write_file("f", "abc");
  int fd = OK(open("f", O_RDWR | O_APPEND));
  EXPECT_EQ(write(fd, "de", 2), 2);
  EXPECT_EQ(lseek(fd, 0, SEEK_SET), 0);
  EXPECT_EQ(write(fd, "f", 1), 1);
  EXPECT_STR(kit_read_file("f"), "abcdef");
  EXPECT_EQ(pwrite(fd, "g", 1, 0), 1);  // Linux appends whatever the offset
  EXPECT_STR(kit_read_file("f"), "abcdefg");
}
TEST(lseek_all_ways) {
  int fd = file_with("0123456789");
  EXPECT_EQ(lseek(fd, 3, SEEK_SET), 3);
  EXPECT_EQ(lseek(fd, 2, SEEK_CUR), 5);
  EXPECT_EQ(lseek(fd, -1, SEEK_END), 9);
  EXPECT_EQ(lseek(fd, 100, SEEK_END), 110);
  EXPECT_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
  EXPECT_ERR(lseek(fd, -200, SEEK_CUR), EINVAL);
  EXPECT_ERR(lseek(fd, 0, 99), EINVAL);
  EXPECT_ERR(lseek(-1, 0, SEEK_SET), EBADF);
  EXPECT_EQ(lseek(fd, 0, SEEK_DATA), 0);
  EXPECT_EQ(lseek(fd, 0, SEEK_HOLE), 10);
  EXPECT_ERR(lseek(fd, 10, SEEK_DATA), ENXIO);
  EXPECT_ERR(lseek(fd, 11, SEEK_HOLE), ENXIO);
  int p[2];
  OK(pipe(p));
  EXPECT_ERR(lseek(p[0], 0, SEEK_CUR), ESPIPE);
}
TEST(write_beyond_the_end_leaves_zeros) {
  int fd = file_with("ab");
  EXPECT_EQ(pwrite(fd, "z", 1, 10000), 1);
  char b[3] = {1, 1, 1};
  EXPECT_EQ(pread(fd, b, 3, 5000), 3);
  EXPECT_TRUE(!b[0] && !b[1] && !b[2]);
  EXPECT_EQ(lseek(fd, 0, SEEK_END), 10001);
}
TEST(readv_writev) {
  int fd = file_with("");
  struct iovec out[3] = {{"ab", 2}, {NULL, 0}, {"cde", 3}};
  EXPECT_EQ(writev(fd, out, 3), 5);
  char x[3] = "", y[8] = "";
  struct iovec in[2] = {{x, 2}, {y, 7}};
  EXPECT_EQ(preadv(fd, in, 2, 0), 5);
  EXPECT_STR(x, "ab");
  EXPECT_STR(y, "cde");
  EXPECT_EQ(pwritev(fd, out, 3, 5), 5);
  EXPECT_EQ(lseek(fd, 0, SEEK_SET), 0);
  EXPECT_EQ(readv(fd, in, 2), 9);
}
TEST(iovec_errors) {
  int fd = file_with("abcdef");
  char b[8];
  struct iovec v = {b, 8};
  static struct iovec many[1025];
  EXPECT_ERR(readv(fd, &v, -1), EINVAL);
  for (int i = 0; i < 1025; i++) many[i] = (struct iovec){b, 1};
  EXPECT_ERR(syscall(SYS_readv, fd, many, 1025), EINVAL);
  EXPECT_EQ(readv(fd, many, 1024), 6);
  EXPECT_EQ(readv(fd, &v, 0), 0);
  struct iovec negative = {b, (size_t)-1};
  EXPECT_ERR(readv(fd, &negative, 1), EINVAL);
  EXPECT_EFAULT(kBadRead, sizeof v, p, syscall(SYS_readv, fd, p, 1));
  EXPECT_EFAULT(kBadRead, sizeof v, p, syscall(SYS_writev, fd, p, 1));
}
TEST(preadv2_flags) {
  int fd = file_with("abc");
  char b[8] = "";
  struct iovec v = {b, 8};
  EXPECT_EQ(preadv2(fd, &v, 1, 1, 0), 2);
  EXPECT_EQ(preadv2(fd, &v, 1, -1, 0), 3);  // -1: the file position
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 3);
  EXPECT_ERR(preadv2(fd, &v, 1, 0, 0x4000000), EOPNOTSUPP);
  v.iov_len = 1;
  EXPECT_EQ(pwritev2(fd, &v, 1, 0, RWF_APPEND), 1);
  EXPECT_EQ(lseek(fd, 0, SEEK_END), 4);
}
TEST(dev_zero_null_full) {
  char b[16];
  memset(b, 1, sizeof b);
  int zero = OK(open("/dev/zero", O_RDWR)), null = OK(open("/dev/null", O_RDWR)), full = OK(open("/dev/full", O_RDWR));
  EXPECT_EQ(read(zero, b, 16), 16);
  EXPECT_EQ(b[0] | b[15], 0);
  EXPECT_EQ(read(null, b, 16), 0);
  EXPECT_EQ(write(null, b, 16), 16);
  EXPECT_EQ(write(zero, b, 16), 16);
  EXPECT_ERR(write(full, b, 1), ENOSPC);
  EXPECT_EQ(read(full, b, 16), 16);
}
TEST(large_transfer) {
  size_t size = 8 << 20;
  char *a = malloc(size), *b = malloc(size);
  for (size_t i = 0; i < size; i++) a[i] = (char)(i * 2654435761u >> 13);
  int fd = OK(open("big", O_RDWR | O_CREAT, 0600));
  EXPECT_EQ(write(fd, a, size), size);
  EXPECT_EQ(pread(fd, b, size, 0), size);
  EXPECT_EQ(memcmp(a, b, size), 0);
  EXPECT_EQ(pread(fd, b, size, 12345), size - 12345);
  EXPECT_EQ(memcmp(a + 12345, b, size - 12345), 0);
}
TEST(fsync_family) {
  int fd = file_with("abc"), p[2];
  EXPECT_EQ(fsync(fd), 0);
  EXPECT_EQ(fdatasync(fd), 0);
  EXPECT_EQ(syncfs(fd), 0);
  EXPECT_EQ(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE), 0);
  EXPECT_ERR(sync_file_range(fd, -1, 0, 0), EINVAL);
  OK(pipe(p));
  EXPECT_ERR(fsync(p[0]), EINVAL);
  EXPECT_ERR(fsync(-1), EBADF);
}
TEST(fadvise_readahead) {
  int fd = file_with("abc"), p[2];
  EXPECT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL), 0);
  EXPECT_EQ(posix_fadvise(fd, 0, 0, 99), EINVAL);
  EXPECT_EQ(readahead(fd, 0, 4096), 0);
  OK(pipe(p));
  EXPECT_EQ(posix_fadvise(p[0], 0, 0, POSIX_FADV_NORMAL), ESPIPE);
}
TEST(shared_position_over_fork_and_dup) {
  int fd = file_with("0123456789"), copy = OK(dup(fd));
  char c;
  IN_CHILD(pid, EXPECT_EQ(read(fd, &c, 1), 1));
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(read(copy, &c, 1), 1);
  EXPECT_EQ(c, '1');
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 2);
}
