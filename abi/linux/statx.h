// SPDX-License-Identifier: Apache-2.0
// struct statx: uapi/linux/stat.h.
#pragma once

#include <cstdint>

namespace abi {

inline constexpr uint32_t kStatxBasicStats = 0x7ff, kStatxBtime = 0x800, kStatxMntId = 0x1000;

struct StatxTimestamp {
  int64_t sec = 0;
  uint32_t nsec = 0;
  int32_t pad0 = 0;
};

struct Statx {
  uint32_t mask = 0, blksize = 0;
  uint64_t attributes = 0;
  uint32_t nlink = 0, uid = 0, gid = 0;
  uint16_t mode = 0, pad0 = 0;
  uint64_t ino = 0, size = 0, blocks = 0, attributes_mask = 0;
  StatxTimestamp atime, btime, ctime, mtime;
  uint32_t rdev_major = 0, rdev_minor = 0, dev_major = 0, dev_minor = 0;
  uint64_t mnt_id = 0;
  uint32_t dio_mem_align = 0, dio_offset_align = 0;
  uint64_t spare[12] = {};
};
static_assert(sizeof(Statx) == 256);

}  // namespace abi
