// SPDX-License-Identifier: Apache-2.0
// struct stat, statx, statfs of x86-64 and file mode bits: arch/x86/include/uapi/asm/stat.h, uapi/linux/stat.h.
#pragma once

#include <cstdint>

namespace abi {

enum : uint32_t {
  kS_IFMT = 0170000, kS_IFSOCK = 0140000, kS_IFLNK = 0120000, kS_IFREG = 0100000, kS_IFBLK = 0060000,
  kS_IFDIR = 0040000, kS_IFCHR = 0020000, kS_IFIFO = 0010000, kS_ISUID = 04000, kS_ISGID = 02000, kS_ISVTX = 01000,
};

struct StatX86 {
  uint64_t dev = 0, ino = 0, nlink = 0;
  uint32_t mode = 0, uid = 0, gid = 0, pad0 = 0;
  uint64_t rdev = 0;
  int64_t size = 0, blksize = 0, blocks = 0;
  int64_t atime_sec = 0, atime_nsec = 0, mtime_sec = 0, mtime_nsec = 0, ctime_sec = 0, ctime_nsec = 0;
  int64_t unused[3] = {};
};
static_assert(sizeof(StatX86) == 144);

}  // namespace abi
