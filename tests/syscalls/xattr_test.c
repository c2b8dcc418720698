// SPDX-License-Identifier: Apache-2.0
// Extended attributes of the user and trusted namespaces.
#include "kit.h"

#include <sys/xattr.h>

static void need_xattr(void) {
  kit_write_file("f", "");
  if (setxattr("f", "user.probe", "x", 1, 0) < 0 && errno == EOPNOTSUPP) SKIP("this file system has no user xattrs");
  removexattr("f", "user.probe");
}

TEST(set_get_list_remove) {
  need_xattr();
  char b[64] = "";
  OK(setxattr("f", "user.a", "hello", 5, 0));
  OK(setxattr("f", "user.b", "", 0, 0));
  EXPECT_EQ(getxattr("f", "user.a", b, sizeof b), 5);
  EXPECT_STR(b, "hello");
  EXPECT_EQ(getxattr("f", "user.a", NULL, 0), 5);
  EXPECT_EQ(getxattr("f", "user.b", b, sizeof b), 0);
  EXPECT_ERR(getxattr("f", "user.a", b, 2), ERANGE);
  EXPECT_ERR(getxattr("f", "user.none", b, 2), ENODATA);
  ssize_t n = OK(listxattr("f", b, sizeof b));
  EXPECT_TRUE(memmem(b, n, "user.a", 7));
  EXPECT_TRUE(memmem(b, n, "user.b", 7));
  EXPECT_EQ(listxattr("f", NULL, 0), n);
  EXPECT_ERR(listxattr("f", b, 3), ERANGE);
  OK(removexattr("f", "user.a"));
  EXPECT_ERR(removexattr("f", "user.a"), ENODATA);
}
TEST(create_and_replace) {
  need_xattr();
  EXPECT_ERR(setxattr("f", "user.a", "1", 1, XATTR_REPLACE), ENODATA);
  OK(setxattr("f", "user.a", "1", 1, XATTR_CREATE));
  EXPECT_ERR(setxattr("f", "user.a", "2", 1, XATTR_CREATE), EEXIST);
  OK(setxattr("f", "user.a", "2", 1, XATTR_REPLACE));
  EXPECT_ERR(setxattr("f", "user.a", "2", 1, 8), EINVAL);
}
TEST(name_errors) {
  need_xattr();
  char name[300] = "user.";
  EXPECT_ERR(setxattr("f", "", "1", 1, 0), ERANGE);
  EXPECT_ERR(setxattr("f", "nonsense", "1", 1, 0), EOPNOTSUPP);
  EXPECT_ERR(setxattr("f", "user.", "1", 1, 0), EINVAL);
  memset(name + 5, 'a', 260);
  EXPECT_ERR(setxattr("f", name, "1", 1, 0), ERANGE);
  EXPECT_ERR(setxattr("f", "user.big", "1", 65537, 0), E2BIG);
  EXPECT_ERR(setxattr("none", "user.a", "1", 1, 0), ENOENT);
  EXPECT_ERR(fsetxattr(-1, "user.a", "1", 1, 0), EBADF);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_setxattr, "f", p, "1", 1, 0));
  EXPECT_EFAULT(kBadRead, 4, p, syscall(SYS_setxattr, "f", "user.a", p, 4, 0));
}
TEST(by_descriptor_and_links) {
  need_xattr();
  int fd = OK(open("f", O_RDONLY));
  char b[8];
  OK(fsetxattr(fd, "user.a", "1", 1, 0));
  EXPECT_EQ(fgetxattr(fd, "user.a", b, 8), 1);
  OK(symlink("f", "s"));
  EXPECT_EQ(getxattr("s", "user.a", b, 8), 1);
  EXPECT_ERR(lgetxattr("s", "user.a", b, 8), EPERM + 0 == EPERM ? ENODATA : 0);
  EXPECT_ERR(lsetxattr("s", "user.a", "1", 1, 0), EPERM);
  OK(fremovexattr(fd, "user.a"));
}
