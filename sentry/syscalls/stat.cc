// SPDX-License-Identifier: Apache-2.0
// stat(2), statx(2), statfs(2), access(2).
#include "abi/linux/stat.h"

#include "abi/linux/statx.h"
#include "sentry/kernel/stat_answers.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::StatX86;

namespace {

StatX86 to_user(Task& task, const vfs::Stat& s) { return kernel::stat_for_user(*task.creds().user_ns, s); }

Result<void> do_stat(Task& task, int32_t dirfd, UserCString path, UserOut<StatX86> out, uint32_t at_flags) {
  kernel::StatAsker asker(task);
  return task.write(out, to_user(task, TRY(stat_at(task, dirfd, path, at_flags, &asker)).stat));
}

}  // namespace

Result<void> sys_stat(Task& task, UserCString path, UserOut<StatX86> out) { return do_stat(task, kAtFdcwd, path, out, 0); }
Result<void> sys_lstat(Task& task, UserCString path, UserOut<StatX86> out) {
  return do_stat(task, kAtFdcwd, path, out, kAtSymlinkNofollow);
}

Result<void> sys_fstat(Task& task, Fd fd, UserOut<StatX86> out) {
  kernel::StatAsker asker(task);
  auto file = TRY(task.get_file(fd));
  const vfs::Stat stat = TRY(file->stat(task));
  asker.keep_description(*file, fd, stat);
  return task.write(out, to_user(task, stat));
}

Result<void> sys_newfstatat(Task& task, int32_t dirfd, UserCString path, UserOut<StatX86> out, uint32_t flags) {
  if (flags & ~(kAtSymlinkNofollow | kAtNoAutomount | kAtEmptyPath)) return err(kEINVAL);
  return do_stat(task, dirfd, path, out, flags);
}

namespace {

abi::StatxTimestamp statx_time(const vfs::TimeSpec& t) { return {t.sec, static_cast<uint32_t>(t.nsec)}; }

abi::Statx to_statx(Task& task, const vfs::Stat& s, uint64_t mount_id, bool is_mount_root) {
  constexpr uint64_t kAttrMountRoot = 0x2000;
  const auto& ns = *task.creds().user_ns;
  abi::Statx x;
  x.mask = abi::kStatxBasicStats | abi::kStatxMntId;
  x.blksize = s.block_size;
  x.attributes_mask = kAttrMountRoot;
  if (is_mount_root) x.attributes = kAttrMountRoot;
  x.nlink = static_cast<uint32_t>(s.nlink);
  x.uid = ns.unmap_uid(s.uid).value();
  x.gid = ns.unmap_gid(s.gid).value();
  x.mode = static_cast<uint16_t>(s.mode);
  x.ino = s.inode;
  x.size = s.size;
  x.blocks = s.blocks;
  x.atime = statx_time(s.atime);
  x.mtime = statx_time(s.mtime);
  x.ctime = statx_time(s.ctime);
  if (s.btime) {
    x.btime = statx_time(*s.btime);
    x.mask |= abi::kStatxBtime;
  }
  x.rdev_major = s.rdev.major;
  x.rdev_minor = s.rdev.minor;
  x.dev_major = s.device.major;
  x.dev_minor = s.device.minor;
  x.mnt_id = mount_id;
  return x;
}

}  // namespace

Result<void> sys_statx(Task& task, int32_t dirfd, UserCString path, uint32_t flags, uint32_t mask, UserOut<abi::Statx> out) {
  constexpr uint32_t kSyncType = 0x6000, kReserved = 0x80000000;
  if ((mask & kReserved) || (flags & kSyncType) == kSyncType) return err(kEINVAL);
  if (flags & ~(kAtSymlinkNofollow | kAtNoAutomount | kAtEmptyPath | kSyncType)) return err(kEINVAL);
  kernel::StatAsker asker(task);
  const vfs::PathStat found = TRY(stat_at(task, dirfd, path, flags, &asker));
  return task.write(out, to_statx(task, found.stat, found.mount_id, found.is_mount_root));
}

struct StatFs64 {
  int64_t type = 0, bsize = 0;
  uint64_t blocks = 0, bfree = 0, bavail = 0, files = 0, ffree = 0;
  uint64_t fsid = 0;
  int64_t namelen = 0, frsize = 0, flags = 0, spare[4] = {};
};
static_assert(sizeof(StatFs64) == 120);

namespace {

// flags_by_mnt() of fs/statfs.c: the low MS_ bits have the same values.
int64_t statfs_flags(const vfs::Mount& mount) {
  constexpr int64_t kValid = 0x20, kRelatime = 0x1000;
  const uint64_t f = mount.flags();
  int64_t flags = kValid | static_cast<int64_t>(f & (vfs::kMsRdOnly | vfs::kMsNoSuid | vfs::kMsNoDev | vfs::kMsNoExec | vfs::kMsNoAtime | vfs::kMsNoDirAtime));
  if (!(f & (vfs::kMsNoAtime | vfs::kMsStrictAtime))) flags |= kRelatime;
  return flags;
}

Result<void> do_statfs(Task& task, const vfs::Path& path, UserOut<StatFs64> out) {
  const vfs::StatFs s = TRY(path.mount->fs().statfs(task));
  StatFs64 u;
  u.type = static_cast<int64_t>(s.type);
  u.bsize = u.frsize = static_cast<int64_t>(s.block_size);
  u.blocks = s.blocks;
  u.bfree = s.blocks_free;
  u.bavail = s.blocks_available;
  u.files = s.files;
  u.ffree = s.files_free;
  u.fsid = s.fsid;
  u.namelen = static_cast<int64_t>(s.name_length);
  u.flags = statfs_flags(*path.mount);
  return task.write(out, u);
}

}  // namespace

Result<void> sys_statfs(Task& task, UserCString path, UserOut<StatFs64> out) {
  return do_statfs(task, TRY(lookup_at(task, kAtFdcwd, path, 0)), out);
}
Result<void> sys_fstatfs(Task& task, Fd fd, UserOut<StatFs64> out) { return do_statfs(task, TRY(task.get_file(fd))->path(), out); }

namespace {

// access(2) asks with the real ids: a context whose file ids are those.
Result<void> do_access(Task& task, int32_t dirfd, UserCString path, uint32_t mode, uint32_t flags) {
  if ((mode & ~7u) != 0 || (flags & ~(kAtSymlinkNofollow | kAtEaccess | kAtEmptyPath)) != 0) return err(kEINVAL);
  const creds::Credentials& own = task.creds();
  const bool swap = !(flags & kAtEaccess) && creds::access_differs(own);
  creds::CredPtr saved;
  if (swap) {
    saved = task.credentials();
    task.override_credentials(creds::for_access(own));
  } else {
    kernel::StatAsker asker(task);
    if (asker.record()) {
      const auto known = stat_at(task, dirfd, path, flags & (kAtSymlinkNofollow | kAtEmptyPath), &asker);
      if (!known) return err(known.error());
      if (mode == 0) return {};
    }
  }
  Result<void> result = [&]() -> Result<void> {
    const vfs::Path found = TRY(lookup_at(task, dirfd, path, flags & (kAtSymlinkNofollow | kAtEmptyPath)));
    if (mode == 0) return {};
    if ((mode & 1) && found.inode().is_regular() && (found.mount->flags() & vfs::kMsNoExec)) return err(kEACCES);
    return vfs::check_access(task, found, mode);
  }();
  if (swap) task.override_credentials(saved);
  return result;
}

}  // namespace

Result<void> sys_access(Task& task, UserCString path, uint32_t mode) { return do_access(task, kAtFdcwd, path, mode, 0); }
Result<void> sys_faccessat(Task& task, int32_t dirfd, UserCString path, uint32_t mode) { return do_access(task, dirfd, path, mode, 0); }
Result<void> sys_faccessat2(Task& task, int32_t dirfd, UserCString path, uint32_t mode, uint32_t flags) {
  return do_access(task, dirfd, path, mode, flags);
}

SYSCALL_FAMILY(stat) = {
    ROW(stat, kFull, ""),       ROW(lstat, kFull, ""),     ROW(fstat, kFull, ""),
    ROW(newfstatat, kFull, ""), ROW(statx, kFull, ""),     ROW(statfs, kFull, ""),
    ROW(fstatfs, kFull, ""),    ROW(access, kFull, ""),    ROW(faccessat, kFull, ""),
    ROW(faccessat2, kFull, ""),
};
SYSCALL_FAMILY_END(stat);

}  // namespace sentry::syscalls
