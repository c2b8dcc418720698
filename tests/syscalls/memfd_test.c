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
TEST(exec_from_memfd) {
  int fd = OK(memfd_create("prog", 0)), in = OK(open("/bin/true", O_RDONLY));
  static char b[1 << 20];
  ssize_t n = OK(read(in, b, sizeof b));
  EXPECT_EQ(write(fd, b, n), n);
  IN_CHILD(pid, { char *v[] = {"t", NULL}; fexecve(fd, v, v + 1); });
  EXPECT_EXIT(pid, 0);
}
