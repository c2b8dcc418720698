// SPDX-License-Identifier: Apache-2.0
// chmod, chown, umask, the permission checks of open, exec and directories, set-id bits.
#include "kit.h"

#include <sys/fsuid.h>

TEST(umask_returns_the_old_one) {
  umask(022);
  EXPECT_EQ(umask(077), 022);
  EXPECT_EQ(umask(07777), 077);
  EXPECT_EQ(umask(022), 0777);
}
TEST(umask_applies) {
  struct stat st;
  umask(057);
  OK(mkdir("d", 0777));
  OK(stat("d", &st));
  EXPECT_EQ(st.st_mode & 0777, 0720);
  OK(mkfifo("p", 0666));
  OK(stat("p", &st));
  EXPECT_EQ(st.st_mode & 0777, 0620);
}
TEST(chmod_family) {
  kit_write_file("f", "");
  struct stat st;
  int fd = OK(open("f", O_RDONLY));
  OK(chmod("f", 04711));
  OK(fstat(fd, &st));
  EXPECT_EQ(st.st_mode & 07777, 04711);
  OK(fchmod(fd, 0600));
  OK(stat("f", &st));
  EXPECT_EQ(st.st_mode & 07777, 0600);
  OK(fchmodat(AT_FDCWD, "f", 0644, 0));
  EXPECT_ERR(chmod("none", 0644), ENOENT);
  EXPECT_ERR(fchmod(-1, 0644), EBADF);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_chmod, p, 0644));
}
TEST(chown_by_root) {
  NEEDS_ROOT();
  kit_write_file("f", "");
  struct stat st;
  OK(chmod("f", 06755));
  OK(chown("f", 1000, 1001));
  OK(stat("f", &st));
  EXPECT_EQ(st.st_uid, 1000);
  EXPECT_EQ(st.st_gid, 1001);
  EXPECT_EQ(st.st_mode & 07777, 0755);  // set-id bits go
  OK(chown("f", -1, 5));
  OK(stat("f", &st));
  EXPECT_EQ(st.st_uid, 1000);
  EXPECT_EQ(st.st_gid, 5);
  OK(symlink("f", "s"));
  OK(lchown("s", 7, 7));
  OK(stat("f", &st));
  EXPECT_EQ(st.st_uid, 1000);
  OK(fchownat(AT_FDCWD, "s", 8, 8, AT_SYMLINK_NOFOLLOW));
  OK(lstat("s", &st));
  EXPECT_EQ(st.st_uid, 8);
  EXPECT_ERR(fchownat(AT_FDCWD, "s", 8, 8, 0x40000), EINVAL);
}
TEST(chown_by_others) {
  NEEDS_ROOT();
  kit_write_file("f", "");
  kit_write_file("mine", "");
  OK(chown("mine", 1000, 1000));
  OK(chmod(".", 0777));
  IN_CHILD(pid, {
    OK(setgid(1000));
    OK(setuid(1000));
    EXPECT_ERR(chown("f", 1000, -1), EPERM);
    EXPECT_ERR(chown("mine", 1001, -1), EPERM);
    EXPECT_ERR(chown("mine", -1, 1001), EPERM);
    EXPECT_EQ(chown("mine", 1000, 1000), 0);
    EXPECT_ERR(chmod("f", 0777), EPERM);
    EXPECT_EQ(chmod("mine", 0600), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(open_checks_mode) {
  NEEDS_ROOT();
  kit_write_file("f", "x");
  OK(chmod("f", 0640));
  OK(chown("f", 1000, 2000));
  OK(chmod(".", 0755));
  EXPECT_GE(open("f", O_RDWR), 0);
  IN_CHILD(owner, {
    OK(setuid(1000));
    EXPECT_GE(open("f", O_RDWR), 0);
  });
  EXPECT_EXIT(owner, 0);
  IN_CHILD(member, {
    gid_t g = 2000;
    OK(syscall(SYS_setgroups, 1, &g));
    OK(setgid(3000));
    OK(setuid(1001));
    EXPECT_GE(open("f", O_RDONLY), 0);
    EXPECT_ERR(open("f", O_RDWR), EACCES);
  });
  EXPECT_EXIT(member, 0);
  IN_CHILD(other, {
    OK(syscall(SYS_setgroups, 0, NULL));
    OK(setgid(3000));
    OK(setuid(1001));
    EXPECT_ERR(open("f", O_RDONLY), EACCES);
    EXPECT_ERR(open("new", O_CREAT | O_RDWR, 0600), EACCES);
    EXPECT_ERR(unlink("f"), EACCES);
    EXPECT_ERR(mkdir("d", 0755), EACCES);
  });
  EXPECT_EXIT(other, 0);
}
TEST(search_permission) {
  NEEDS_ROOT();
  OK(mkdir("d", 0700));
  kit_write_file("d/f", "");
  OK(mkdir("r", 0744));
  kit_write_file("r/f", "");
  OK(mkdir("x", 0711));
  kit_write_file("x/f", "");
  OK(chmod(".", 0755));
  IN_CHILD(pid, {
    OK(setgid(1000));
    OK(setuid(1000));
    struct stat st;
    EXPECT_ERR(stat("d/f", &st), EACCES);
    EXPECT_ERR(chdir("d"), EACCES);
    EXPECT_GE(open("r", O_RDONLY), 0);
    EXPECT_ERR(stat("r/f", &st), EACCES);
    EXPECT_ERR(open("x", O_RDONLY), EACCES);
    EXPECT_EQ(stat("x/f", &st), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(access_uses_the_real_ids) {
  NEEDS_ROOT();
  kit_write_file("f", "");
  OK(chmod("f", 0600));
  OK(chmod(".", 0755));
  IN_CHILD(pid, {
    OK(setreuid(1000, 0));
    EXPECT_ERR(access("f", R_OK), EACCES);
    EXPECT_EQ(faccessat(AT_FDCWD, "f", R_OK, AT_EACCESS), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(exec_needs_an_x_bit_even_for_root) {
  kit_write_file("f", "#!/bin/sh\n");
  OK(chmod("f", 0644));
  char *argv[] = {"f", NULL};
  EXPECT_ERR(execve("f", argv, NULL), EACCES);
  EXPECT_ERR(execve(".", argv, NULL), EACCES);
}
TEST(setgid_directory_gives_its_group) {
  NEEDS_ROOT();
  OK(mkdir("d", 0755));
  OK(chown("d", 0, 1234));
  OK(chmod("d", 02755));
  kit_write_file("d/f", "");
  OK(mkdir("d/sub", 0755));
  struct stat st;
  OK(stat("d/f", &st));
  EXPECT_EQ(st.st_gid, 1234);
  OK(stat("d/sub", &st));
  EXPECT_EQ(st.st_gid, 1234);
  EXPECT_TRUE(st.st_mode & S_ISGID);
}
TEST(write_drops_set_id_bits) {
  NEEDS_ROOT();
  kit_write_file("f", "x");
  OK(chown("f", 1000, 1000));
  OK(chmod("f", 06777));
  OK(chmod(".", 0755));
  IN_CHILD(pid, {
    OK(setgid(2000));
    OK(setuid(2000));
    int fd = OK(open("f", O_WRONLY));
    OK(write(fd, "y", 1));
  });
  EXPECT_EXIT(pid, 0);
  struct stat st;
  OK(stat("f", &st));
  EXPECT_EQ(st.st_mode & 07777, 0777);
}
TEST(fsuid) {
  NEEDS_ROOT();
  kit_write_file("f", "");
  OK(chmod("f", 0600));
  OK(chmod(".", 0755));
  IN_CHILD(pid, {
    EXPECT_EQ(setfsuid(1000), 0);
    EXPECT_EQ(setfsuid(-1), 1000);
    EXPECT_ERR(open("f", O_RDONLY), EACCES);
    setfsuid(0);
    EXPECT_GE(open("f", O_RDONLY), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(o_noatime_is_for_the_owner) {
  NEEDS_ROOT();
  kit_write_file("f", "");
  OK(chmod(".", 0755));
  EXPECT_GE(open("f", O_RDONLY | O_NOATIME), 0);
  IN_CHILD(pid, {
    OK(setuid(1000));
    EXPECT_ERR(open("f", O_RDONLY | O_NOATIME), EPERM);
  });
  EXPECT_EXIT(pid, 0);
}
