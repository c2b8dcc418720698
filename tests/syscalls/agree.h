// SPDX-License-Identifier: Apache-2.0
// For tests of what is asked of a path again and again: the answer to a name is compared with what is said of the same name in more letters,
// for which no answer is kept.
#pragma once

#include "kit.h"

#include <sys/sysmacros.h>

// The same name in so many letters that no answer is kept for it: what is asked for by it is asked of whoever knows.
static const char *longer(const char *path, char out[512]) {
  char *at = out;
  *at = 0;
  if (*path == 0) return path;
  if (*path == '/') at = stpcpy(at, "/");
  for (int i = 0; i < 60; ++i) at = stpcpy(at, "./");
  strcpy(at, *path == '/' ? path + 1 : path);
  return out;
}

static int same_stat(const struct stat *s, const struct statx *x) {
  return s->st_ino == x->stx_ino && s->st_mode == x->stx_mode && s->st_nlink == x->stx_nlink && s->st_uid == x->stx_uid &&
         s->st_gid == x->stx_gid && (uint64_t)s->st_size == x->stx_size && (uint64_t)s->st_blocks == x->stx_blocks &&
         s->st_mtim.tv_sec == x->stx_mtime.tv_sec && s->st_mtim.tv_nsec == x->stx_mtime.tv_nsec &&
         s->st_ctim.tv_sec == x->stx_ctime.tv_sec && s->st_ctim.tv_nsec == x->stx_ctime.tv_nsec &&
         s->st_atim.tv_sec == x->stx_atime.tv_sec && s->st_atim.tv_nsec == x->stx_atime.tv_nsec &&
         s->st_dev == makedev(x->stx_dev_major, x->stx_dev_minor) && s->st_rdev == makedev(x->stx_rdev_major, x->stx_rdev_minor) &&
         s->st_blksize == x->stx_blksize;
}
static int agree_stat(int dirfd, const char *path, const char *same, int flags) {
  struct statx x, y;
  struct stat s;
  memset(&s, 1, sizeof s), memset(&x, 2, sizeof x), memset(&y, 3, sizeof y);
  const int a = fstatat(dirfd, path, &s, flags) == 0 ? 0 : errno;
  const int b = statx(dirfd, same, flags, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &x) == 0 ? 0 : errno;
  const int c = statx(dirfd, path, flags, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &y) == 0 ? 0 : errno;
  if (a == b && a == c && (a != 0 || (same_stat(&s, &x) && memcmp(&x, &y, sizeof x) == 0))) return 1;
  fprintf(stderr, "%d %s %x: errno %d, %d and %d, size %lld and %lld\n", dirfd, path, flags, a, b, c, (long long)s.st_size, (long long)x.stx_size);
  return 0;
}
static int agree_link(int dirfd, const char *path, const char *same) {
  char x[64] = "", y[64] = "";
  const size_t size = *path % 2 != 0 ? sizeof x - 1 : 3;
  const int a = readlinkat(dirfd, path, x, size), b = a < 0 ? errno : 0;
  const int c = readlinkat(dirfd, same, y, size), d = c < 0 ? errno : 0;
  if (a == c && b == d && memcmp(x, y, sizeof x) == 0) return 1;
  fprintf(stderr, "readlink %d %s: %d %d %s, and %d %d %s\n", dirfd, path, a, b, x, c, d, y);
  return 0;
}
static int agree_open(int dirfd, const char *path, const char *same, int flags) {
  const int x = openat(dirfd, path, flags | O_NONBLOCK | O_CLOEXEC), a = x < 0 ? errno : 0;
  const int y = openat(dirfd, same, flags | O_NONBLOCK | O_CLOEXEC), b = y < 0 ? errno : 0;
  if (x >= 0) close(x);
  if (y >= 0) close(y);
  if (a == b) return 1;
  fprintf(stderr, "open %d %s %x: errno %d and %d\n", dirfd, path, flags, a, b);
  return 0;
}
static int agree_access(int dirfd, const char *path, const char *same, int mode, int flags) {
  const int a = syscall(SYS_faccessat, dirfd, path, mode) == 0 ? 0 : errno;
  const int b = syscall(SYS_faccessat, dirfd, same, mode) == 0 ? 0 : errno;
  const int c = syscall(SYS_faccessat2, dirfd, path, mode, flags) == 0 ? 0 : errno;
  const int d = syscall(SYS_faccessat2, dirfd, same, mode, flags) == 0 ? 0 : errno;
  if (a == b && c == d) return 1;
  fprintf(stderr, "access %d %s %d %x: errno %d and %d, %d and %d\n", dirfd, path, mode, flags, a, b, c, d);
  return 0;
}
enum { kWays = 5 };
static int agree_in(int way, int dirfd, const char *path, int flags) {
  static int modes;  // one after the other
  char text[512];
  const char *same = longer(path, text);
  const int mode = modes++ % 8, nofollow = flags & AT_SYMLINK_NOFOLLOW;
  switch (way) {
    case 0: return agree_stat(dirfd, path, same, flags);
    case 1: return *path == 0 || agree_link(dirfd, path, same);
    case 2: return *path == 0 || agree_open(dirfd, path, same, O_RDONLY | (nofollow ? O_NOFOLLOW : 0));
    case 3: return *path == 0 || agree_open(dirfd, path, same, O_PATH | (nofollow ? O_NOFOLLOW : O_DIRECTORY));
    default: return *path == 0 || agree_access(dirfd, path, same, mode, nofollow | (mode & 1 ? 0 : AT_EACCESS));
  }
}
__attribute__((unused)) static int agree(int dirfd, const char *path, int flags) {
  int good = 1;
  for (int way = 0; way < kWays; ++way) good &= agree_in(way, dirfd, path, flags);
  return good;
}
