// SPDX-License-Identifier: Apache-2.0
// memfd_create and seals.
#include "kit.h"

TEST(a_file_without_a_name) {
  int fd = OK(memfd_create("thing", MFD_CLOEXEC));
  OK(ftruncate(fd, 8192));
  char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  strcpy(m + 4096, "text");
  char b[5];
  EXPECT_EQ(pread(fd, b, 5, 4096), 5);
  EXPECT_STR(b, "text");
  char link[64], target[64] = "";
  sprintf(link, "/proc/self/fd/%d", fd);
  OK(readlink(link, target, 63));
  EXPECT_STR(target, "/memfd:thing (deleted)");
}
TEST(errors) {
  char name[300];
  memset(name, 'a', 299);
  name[299] = 0;
  EXPECT_ERR(memfd_create(name, 0), EINVAL);
  EXPECT_ERR(memfd_create("x", 0x80000), EINVAL);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_memfd_create, p, 0));
}
TEST(seals) {
  int fd = OK(memfd_create("x", MFD_ALLOW_SEALING));
  OK(ftruncate(fd, 4096));
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), 0);
  OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
  EXPECT_ERR(ftruncate(fd, 10), EPERM);
  EXPECT_EQ(ftruncate(fd, 8192), 0);
  OK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
  EXPECT_ERR(ftruncate(fd, 9000), EPERM);
  EXPECT_ERR(pwrite(fd, "x", 1, 8192), EPERM);
  char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  EXPECT_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
  munmap(m, 4096);
  OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL));
  EXPECT_ERR(pwrite(fd, "x", 1, 0), EPERM);
  EXPECT_ERR(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
  EXPECT_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
  int plain = OK(memfd_create("y", 0));
  EXPECT_EQ(fcntl(plain, F_GET_SEALS), F_SEAL_SEAL);
  EXPECT_ERR(fcntl(plain, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
}
#define SEAL_WRITE(fd) fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)
static int sealable(void) {
  int fd = OK(memfd_create("x", MFD_ALLOW_SEALING));
  OK(ftruncate(fd, 4 * 4096));
  return fd;
}
TEST(write_seal_counts_mappings) {
  const size_t page = 4096;
  int fd = sealable();
  // In parts, and protected in between: what may be made writable again counts.
  char *m = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ASSERT_TRUE(m != MAP_FAILED);
  OK(mprotect(m + page, page, PROT_READ));
  OK(munmap(m, page));
  EXPECT_ERR(SEAL_WRITE(fd), EBUSY);
  OK(mprotect(m + page, page, PROT_READ | PROT_WRITE));
  OK(mprotect(m + page, 3 * page, PROT_READ));
  EXPECT_ERR(SEAL_WRITE(fd), EBUSY);
  OK(munmap(m + 2 * page, page));
  EXPECT_ERR(SEAL_WRITE(fd), EBUSY);
  // Moved and grown.
  char *moved = mremap(m + 3 * page, page, 2 * page, MREMAP_MAYMOVE);
  ASSERT_TRUE(moved != MAP_FAILED);
  OK(munmap(m + page, page));
  EXPECT_ERR(SEAL_WRITE(fd), EBUSY);
  OK(munmap(moved, 2 * page));
  OK(SEAL_WRITE(fd));
}
TEST(write_seal_and_other_processes) {
  int fd = sealable(), p[2];
  char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  OK(pipe(p));
  IN_CHILD(pid, {
    char c;
    close(p[1]);
    read(p[0], &c, 1);
  });
  OK(munmap(m, 4096));
  EXPECT_ERR(SEAL_WRITE(fd), EBUSY);
  close(p[0]);
  close(p[1]);
  EXPECT_EXIT(pid, 0);
  OK(SEAL_WRITE(fd));
}
TEST(write_seal_ignores_what_cannot_write) {
  int fd = sealable();
  char path[64];
  sprintf(path, "/proc/self/fd/%d", fd);
  int reader = OK(open(path, O_RDONLY));
  EXPECT_TRUE(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) != MAP_FAILED);
  EXPECT_TRUE(mmap(NULL, 4096, PROT_READ, MAP_SHARED, reader, 0) != MAP_FAILED);
  // Its place is taken by something else.
  char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  EXPECT_ERR(SEAL_WRITE(fd), EBUSY);
  EXPECT_TRUE(mmap(m, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == m);
  OK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
  EXPECT_ERR(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
  OK(SEAL_WRITE(fd));
  OK(SEAL_WRITE(fd));
}
TEST(exec_from_memfd) {
  int fd = OK(memfd_create("prog", 0)), in = OK(open("/bin/true", O_RDONLY));
  static char b[1 << 20];
  ssize_t n = OK(read(in, b, sizeof b));
  EXPECT_EQ(write(fd, b, n), n);
  IN_CHILD(pid, { char *v[] = {"t", NULL}; fexecve(fd, v, v + 1); });
  EXPECT_EXIT(pid, 0);
}
