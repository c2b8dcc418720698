// SPDX-License-Identifier: Apache-2.0
#include "gofer/server/host_file.h"

#include <cerrno>

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "abi/types/types.h"

namespace gofer {

namespace {

constexpr unsigned kStatMask = STATX_BASIC_STATS | STATX_BTIME;
constexpr long kFchmodat2 = 452;  // not in this libc's headers

// <linux/magic.h> and others.
constexpr uint32_t kPseudo[] = {
    0x9fa0,      // proc
    0x62656572,  // sysfs
    0x27e0eb,    // cgroup
    0x63677270,  // cgroup2
    0x64626720,  // debugfs
    0x74726163,  // tracefs
    0x73636673,  // securityfs
    0xcafe4a11,  // bpf
    0x6165676c,  // pstore
    0xde5e81e4,  // efivarfs
    0x1cd1,      // devpts
    0x19800202,  // mqueue
    0x62656570,  // configfs
    0x65735543,  // fusectl
    0x42494e4d,  // binfmt_misc
    0x6e736673,  // nsfs
    0xf97cff8c,  // selinuxfs
    0x43415d53,  // smackfs
    0x67596969,  // rpc_pipefs
    0x6c6f6f70,  // binderfs
};

}  // namespace

base::Err last_error() { return last_error(errno); }

base::Result<void> check(int result) {
  if (result < 0) return last_error();
  return {};
}

base::Result<Stat> stat_at(int directory, const char* name) {
  Stat s;
  TRY(check(statx(directory, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kStatMask, &s)));
  return s;
}

base::Result<Stat> stat_fd(int fd) {
  Stat s;
  TRY(check(statx(fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, kStatMask, &s)));
  return s;
}

base::Result<base::UniqueFd> open_path(int directory, const char* name) {
  base::UniqueFd fd(openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return last_error();
  return fd;
}

base::Result<base::UniqueFd> open_io(int directory, const char* name, int flags, mode_t mode) {
  base::UniqueFd fd(openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, mode));
  if (!fd) return last_error();
  return fd;
}

base::Result<std::string> read_link(int directory, const char* name) {
  char text[kMaxPath + 1];
  ssize_t n = readlinkat(directory, name, text, sizeof text);
  if (n < 0) return last_error();
  if (static_cast<size_t>(n) > kMaxPath) return base::err(abi::Errno::kENAMETOOLONG);
  return std::string(text, static_cast<size_t>(n));
}

base::Result<void> chmod_fd(int path_fd, uint32_t mode) {
  return check(static_cast<int>(syscall(kFchmodat2, path_fd, "", mode, AT_EMPTY_PATH)));
}

bool valid_xattr(const std::string& name) {
  return name.starts_with("user.") && name.size() > 5 && name.find('\0') == std::string::npos;
}

Attr to_attr(const Stat& s) {
  Attr a;
  a.device = abi::DeviceId{s.stx_dev_major, s.stx_dev_minor}.encoded();
  a.inode = s.stx_ino;
  a.mode = s.stx_mode;
  a.nlink = s.stx_nlink;
  a.uid = s.stx_uid;
  a.gid = s.stx_gid;
  a.rdev = abi::DeviceId{s.stx_rdev_major, s.stx_rdev_minor}.encoded();
  a.size = s.stx_size;
  a.blocks = s.stx_blocks;
  a.block_size = s.stx_blksize;
  a.atime_sec = s.stx_atime.tv_sec;
  a.mtime_sec = s.stx_mtime.tv_sec;
  a.ctime_sec = s.stx_ctime.tv_sec;
  a.atime_nsec = s.stx_atime.tv_nsec;
  a.mtime_nsec = s.stx_mtime.tv_nsec;
  a.ctime_nsec = s.stx_ctime.tv_nsec;
  if (s.stx_mask & STATX_BTIME) {
    a.btime_sec = s.stx_btime.tv_sec;
    a.btime_nsec = s.stx_btime.tv_nsec;
  }
  return a;
}

bool is_pseudo_file_system(int fd) {
  struct statfs s;
  if (fstatfs(fd, &s) != 0) return true;
  for (uint32_t magic : kPseudo) {
    if (static_cast<uint32_t>(s.f_type) == magic) return true;
  }
  return false;
}

}  // namespace gofer
