// SPDX-License-Identifier: Apache-2.0
// getdents64, mkdir, rmdir, rename, link, symlink, readlink, unlink, chdir, getcwd, mknod.
#include "kit.h"

#include <dirent.h>
#include <sys/sysmacros.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#endif

static int count_entries(const char *path) {
  DIR *d = opendir(path);
  int n = 0;
  while (d && readdir(d)) n++;
  if (d) closedir(d);
  return d ? n : -1;
}

TEST(mkdir_rmdir) {
  OK(mkdir("d", 0755));
  EXPECT_ERR(mkdir("d", 0755), EEXIST);
  EXPECT_ERR(mkdir("none/d", 0755), ENOENT);
  EXPECT_ERR(mkdir("", 0755), ENOENT);
  OK(mkdir("slash/", 0755));
  struct stat st;
  OK(stat("d", &st));
  EXPECT_EQ(st.st_mode, S_IFDIR | 0755);
  kit_write_file("d/f", "");
  EXPECT_ERR(rmdir("d"), ENOTEMPTY);
  EXPECT_ERR(unlink("d"), EISDIR);
  OK(unlink("d/f"));
  EXPECT_ERR(rmdir("d/."), EINVAL);
  EXPECT_ERR(rmdir("d/.."), ENOTEMPTY);
  OK(rmdir("d"));
  EXPECT_ERR(rmdir("d"), ENOENT);
  kit_write_file("f", "");
  EXPECT_ERR(rmdir("f"), ENOTDIR);
  EXPECT_ERR(mkdir("f/d", 0755), ENOTDIR);
  EXPECT_ERR(unlink("f/"), ENOTDIR);
  EXPECT_ERR(unlink("none"), ENOENT);
}
TEST(paths_efault) {
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_mkdir, p, 0755));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_rmdir, p));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_unlink, p));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_rename, p, "x"));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_link, p, "x"));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_symlink, p, "x"));
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_chdir, p));
}
TEST(getdents_lists_all) {
  for (int i = 0; i < 300; i++) {
    char name[32];
    sprintf(name, "file-%d", i);
    kit_write_file(name, "");
  }
  OK(mkdir("sub", 0755));
  DIR *d = opendir(".");
  ASSERT_TRUE(d);
  int files = 0, dirs = 0, dots = 0;
  struct dirent *e;
  while ((e = readdir(d))) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) dots++;
    else if (e->d_type == DT_DIR) dirs++;
    else if (e->d_type == DT_REG) files++;
    EXPECT_NE(e->d_ino, 0);
  }
  EXPECT_EQ(files, 300);
  EXPECT_EQ(dirs, 1);
  EXPECT_EQ(dots, 2);
  rewinddir(d);
  int again = 0;
  while (readdir(d)) again++;
  EXPECT_EQ(again, 303);
}
TEST(getdents_errors) {
  char b[1024];
  int d = OK(open(".", O_RDONLY));
  kit_write_file("f", "");
  int f = OK(open("f", O_RDONLY));
  EXPECT_ERR(syscall(SYS_getdents64, d, b, 4), EINVAL);
  EXPECT_ERR(syscall(SYS_getdents64, f, b, sizeof b), ENOTDIR);
  EXPECT_ERR(syscall(SYS_getdents64, -1, b, sizeof b), EBADF);
  EXPECT_EFAULT(kBadWrite, 0, p, syscall(SYS_getdents64, d, p, 1024));
  EXPECT_GT(syscall(SYS_getdents, d, b, sizeof b), 0);
}
TEST(getdents_of_a_removed_directory) {
  OK(mkdir("d", 0755));
  int d = OK(open("d", O_RDONLY));
  OK(rmdir("d"));
  char b[1024];
  EXPECT_ERR(syscall(SYS_getdents64, d, b, sizeof b), ENOENT);
  EXPECT_ERR(openat(d, "f", O_CREAT | O_RDWR, 0600), ENOENT);
}
TEST(removal_while_reading) {
  for (int i = 0; i < 100; i++) {
    char name[32];
    sprintf(name, "f%d", i);
    kit_write_file(name, "");
  }
  DIR *d = opendir(".");
  struct dirent *e;
  while ((e = readdir(d)))
    if (e->d_name[0] == 'f') OK(unlink(e->d_name));
  closedir(d);
  EXPECT_EQ(count_entries("."), 2);
}
TEST(seekdir_returns_to_the_same_entry) {
  for (int i = 0; i < 20; i++) {
    char name[32];
    sprintf(name, "f%d", i);
    kit_write_file(name, "");
  }
  DIR *d = opendir(".");
  for (int i = 0; i < 10; i++) readdir(d);
  long at = telldir(d);
  char name[256];
  strcpy(name, readdir(d)->d_name);
  while (readdir(d)) {
  }
  seekdir(d, at);
  struct dirent *e = readdir(d);
  ASSERT_TRUE(e);
  EXPECT_STR(e->d_name, name);
}
TEST(rename_files) {
  kit_write_file("a", "A");
  kit_write_file("b", "B");
  OK(rename("a", "b"));
  EXPECT_STR(kit_read_file("b"), "A");
  EXPECT_ERR(access("a", F_OK), ENOENT);
  EXPECT_ERR(rename("a", "c"), ENOENT);
  EXPECT_EQ(rename("b", "b"), 0);
  OK(link("b", "c"));
  EXPECT_EQ(rename("b", "c"), 0);  // two names of one file: nothing happens
  EXPECT_EQ(access("b", F_OK), 0);
  OK(mkdir("d", 0755));
  EXPECT_ERR(rename("b", "d"), EISDIR);
  EXPECT_ERR(rename("d", "b"), ENOTDIR);
  OK(rename("b", "d/x"));
  EXPECT_STR(kit_read_file("d/x"), "A");
}
TEST(rename_directories) {
  OK(mkdir("a", 0755));
  OK(mkdir("a/sub", 0755));
  OK(mkdir("empty", 0755));
  OK(mkdir("full", 0755));
  kit_write_file("full/f", "");
  EXPECT_ERR(rename("a", "full"), ENOTEMPTY);
  EXPECT_ERR(rename("a", "a/sub/x"), EINVAL);
  OK(rename("a", "empty"));
  EXPECT_EQ(access("empty/sub", F_OK), 0);
  struct stat up, here;
  OK(rename("empty/sub", "moved"));
  OK(stat("moved/..", &up));
  OK(stat(".", &here));
  EXPECT_EQ(up.st_ino, here.st_ino);
  EXPECT_ERR(rename(".", "x"), EBUSY);
  EXPECT_ERR(rename("moved/..", "x"), EBUSY);
}
TEST(renameat2_flags) {
  kit_write_file("a", "A");
  kit_write_file("b", "B");
  EXPECT_ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
  OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
  OK(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE));
  EXPECT_STR(kit_read_file("b"), "A");
  EXPECT_STR(kit_read_file("c"), "B");
  EXPECT_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
  EXPECT_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
  EXPECT_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 1 << 10), EINVAL);
}
TEST(links) {
  kit_write_file("f", "abc");
  OK(link("f", "g"));
  EXPECT_ERR(link("f", "g"), EEXIST);
  EXPECT_ERR(link("none", "x"), ENOENT);
  OK(mkdir("d", 0755));
  EXPECT_ERR(link("d", "e"), EPERM);
  OK(symlink("f", "s"));
  OK(link("s", "s2"));  // a link to the symlink itself
  struct stat st;
  OK(lstat("s2", &st));
  EXPECT_TRUE(S_ISLNK(st.st_mode));
  OK(linkat(AT_FDCWD, "s", AT_FDCWD, "h", AT_SYMLINK_FOLLOW));
  OK(lstat("h", &st));
  EXPECT_TRUE(S_ISREG(st.st_mode));
  EXPECT_ERR(linkat(AT_FDCWD, "f", AT_FDCWD, "x", 0x4), EINVAL);
}
TEST(symlinks) {
  char b[16];
  OK(symlink("target", "s"));
  EXPECT_EQ(readlink("s", b, sizeof b), 6);
  EXPECT_EQ(readlink("s", b, 3), 3);
  EXPECT_ERR(readlink("s", b, 0), EINVAL);
  kit_write_file("f", "");
  EXPECT_ERR(readlink("f", b, sizeof b), EINVAL);
  EXPECT_ERR(symlink("x", "s"), EEXIST);
  EXPECT_ERR(symlink("", "empty"), ENOENT);
  EXPECT_EFAULT(kBadWrite, 6, p, syscall(SYS_readlink, "s", p, 6));
  OK(unlink("s"));
}
TEST(chdir_getcwd) {
  char b[4096], c[4096];
  OK(mkdir("d", 0755));
  getcwd(b, sizeof b);
  OK(chdir("d"));
  strcat(b, "/d");
  EXPECT_STR(getcwd(c, sizeof c), b);
  EXPECT_EQ(syscall(SYS_getcwd, c, sizeof c), strlen(b) + 1);
  EXPECT_ERR(syscall(SYS_getcwd, c, 2), ERANGE);
  EXPECT_ERR(syscall(SYS_getcwd, c, 0), ERANGE);
  EXPECT_EFAULT(kBadWrite, 2, p, syscall(SYS_getcwd, p, 4096));
  kit_write_file("f", "");
  EXPECT_ERR(chdir("f"), ENOTDIR);
  EXPECT_ERR(chdir("none"), ENOENT);
  EXPECT_ERR(fchdir(OK(open("f", O_RDONLY))), ENOTDIR);
  OK(unlink("f"));
  OK(rmdir("../d"));
  EXPECT_ERR(syscall(SYS_getcwd, c, sizeof c), ENOENT);
  OK(chdir(".."));
}
TEST(dot_dot_stops_at_the_root) {
  struct stat a, b;
  OK(stat("/", &a));
  OK(stat("/../../..", &b));
  EXPECT_EQ(a.st_ino, b.st_ino);
}
TEST(mknod_kinds) {
  OK(mknod("reg", S_IFREG | 0600, 0));
  OK(mknod("fifo", S_IFIFO | 0600, 0));
  OK(mknod("sock", S_IFSOCK | 0600, 0));
  EXPECT_ERR(mknod("reg", S_IFREG | 0600, 0), EEXIST);
  EXPECT_ERR(mknod("dir", S_IFDIR | 0600, 0), EPERM);
  EXPECT_ERR(mknod("bad", 0170000 | 0600, 0), EINVAL);
  EXPECT_ERR(open("sock", O_RDWR), ENXIO);
}
TEST(unlinkat_flags) {
  OK(mkdir("d", 0755));
  kit_write_file("f", "");
  EXPECT_ERR(unlinkat(AT_FDCWD, "d", 0), EISDIR);
  EXPECT_ERR(unlinkat(AT_FDCWD, "f", AT_REMOVEDIR), ENOTDIR);
  EXPECT_ERR(unlinkat(AT_FDCWD, "f", 0x8000), EINVAL);
  EXPECT_EQ(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR), 0);
}
TEST(sticky_directory) {
  NEEDS_ROOT();
  OK(mkdir("t", 0777));
  OK(chmod("t", 01777));
  OK(chmod(".", 0755));
  kit_write_file("t/f", "");
  IN_CHILD(pid, {
    OK(setuid(1000));
    EXPECT_ERR(unlink("t/f"), EPERM);
    EXPECT_ERR(rename("t/f", "t/g"), EPERM);
  });
  EXPECT_EXIT(pid, 0);
}
