// SPDX-License-Identifier: Apache-2.0
// chmod(2), chown(2), utimensat(2), truncate(2), fallocate(2), fadvise(2): fs/open.c, fs/utimes.c.
#include "abi/linux/signal.h"
#include "sentry/syscalls/file_io.h"
#include "sentry/vfs/file_time.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::TimeSpec64;
using abi::TimeVal64;

namespace {

Result<void> set_mode(Task& task, const vfs::Path& path, uint32_t mode) {
  if (path.inode().is_symlink()) return err(kEOPNOTSUPP);
  vfs::SetAttr attr;
  attr.mode = mode & 07777;
  return vfs::set_attr(task, path, attr);
}

Result<void> set_owner(Task& task, const vfs::Path& path, uint32_t uid, uint32_t gid) {
  constexpr uint32_t kKeep = ~uint32_t{0};
  const creds::UserNamespace& ns = *task.creds().user_ns;
  vfs::SetAttr attr;
  if (uid != kKeep) {
    attr.uid = ns.map_uid(abi::Uid(uid));
    if (!attr.uid) return err(kEINVAL);
  }
  if (gid != kKeep) {
    attr.gid = ns.map_gid(abi::Gid(gid));
    if (!attr.gid) return err(kEINVAL);
  }
  // Even a chown to nobody drops the set-id bits of a file: chown_common().
  if (!attr.uid && !attr.gid) {
    if (path.mount->is_read_only()) return err(kEROFS);
    return {};
  }
  return vfs::set_attr(task, path, attr);
}

}  // namespace

Result<void> sys_fchmodat2(Task& task, int32_t dirfd, UserCString path, uint32_t mode, uint32_t flags) {
  if (flags & ~(kAtSymlinkNofollow | kAtEmptyPath)) return err(kEINVAL);
  return set_mode(task, TRY(lookup_at(task, dirfd, path, flags)), mode);
}
Result<void> sys_fchmodat(Task& task, int32_t dirfd, UserCString path, uint32_t mode) {
  return sys_fchmodat2(task, dirfd, path, mode, 0);
}
Result<void> sys_chmod(Task& task, UserCString path, uint32_t mode) { return sys_fchmodat2(task, kAtFdcwd, path, mode, 0); }
Result<void> sys_fchmod(Task& task, Fd fd, uint32_t mode) {
  return set_mode(task, TRY(get_open_file(task, fd))->path(), mode);
}

Result<void> sys_fchownat(Task& task, int32_t dirfd, UserCString path, uint32_t uid, uint32_t gid, uint32_t flags) {
  if (flags & ~(kAtSymlinkNofollow | kAtEmptyPath)) return err(kEINVAL);
  return set_owner(task, TRY(lookup_at(task, dirfd, path, flags)), uid, gid);
}
Result<void> sys_chown(Task& task, UserCString path, uint32_t uid, uint32_t gid) {
  return sys_fchownat(task, kAtFdcwd, path, uid, gid, 0);
}
Result<void> sys_lchown(Task& task, UserCString path, uint32_t uid, uint32_t gid) {
  return sys_fchownat(task, kAtFdcwd, path, uid, gid, kAtSymlinkNofollow);
}
Result<void> sys_fchown(Task& task, Fd fd, uint32_t uid, uint32_t gid) {
  return set_owner(task, TRY(get_open_file(task, fd))->path(), uid, gid);
}

namespace {

constexpr int64_t kUtimeNow = (1 << 30) - 1, kUtimeOmit = (1 << 30) - 2, kSecond = 1'000'000'000;

struct Times {
  TimeSpec64 atime, mtime;
};

Result<void> set_times(Task& task, const vfs::Path& path, std::optional<Times> times) {
  vfs::SetAttr attr;
  const vfs::TimeSpec now = vfs::timespec_of(vfs::exact_time(task));
  if (!times) {
    attr.atime = attr.mtime = now;
    attr.times_are_now = true;
    return vfs::set_attr(task, path, attr);
  }
  auto pick = [&](const TimeSpec64& t) -> std::optional<vfs::TimeSpec> {
    if (t.nsec == kUtimeOmit) return std::nullopt;
    return t.nsec == kUtimeNow ? now : vfs::TimeSpec{t.sec, t.nsec};
  };
  attr.atime = pick(times->atime);
  attr.mtime = pick(times->mtime);
  attr.times_are_now = times->atime.nsec == kUtimeNow && times->mtime.nsec == kUtimeNow;
  if (!attr.atime && !attr.mtime) return {};
  return vfs::set_attr(task, path, attr);
}

bool valid_nsec(int64_t nsec) { return (nsec >= 0 && nsec < kSecond) || nsec == kUtimeNow || nsec == kUtimeOmit; }

Result<std::optional<Times>> read_timevals(Task& task, UserIn<TimeVal64> times) {
  if (times.is_null()) return std::nullopt;
  const TimeVal64 a = TRY(task.read(times)), m = TRY(task.read(times.offset(1)));
  if (a.usec < 0 || a.usec >= 1'000'000 || m.usec < 0 || m.usec >= 1'000'000) return err(kEINVAL);
  return Times{{a.sec, a.usec * 1000}, {m.sec, m.usec * 1000}};
}

}  // namespace

Result<void> sys_utimensat(Task& task, int32_t dirfd, UserCString path, UserIn<TimeSpec64> times, uint32_t flags) {
  std::optional<Times> t;
  if (!times.is_null()) {
    t = Times{TRY(task.read(times)), TRY(task.read(times.offset(1)))};
    if (t->atime.nsec == kUtimeOmit && t->mtime.nsec == kUtimeOmit) return {};
    if (!valid_nsec(t->atime.nsec) || !valid_nsec(t->mtime.nsec)) return err(kEINVAL);
  }
  if (flags & ~(kAtSymlinkNofollow | kAtEmptyPath)) return err(kEINVAL);
  if (path.is_null() && dirfd != kAtFdcwd) {  // futimens(3)
    if (flags & kAtSymlinkNofollow) return err(kEINVAL);
    return set_times(task, TRY(get_open_file(task, Fd(dirfd)))->path(), t);
  }
  return set_times(task, TRY(lookup_at(task, dirfd, path, flags)), t);
}

Result<void> sys_futimesat(Task& task, int32_t dirfd, UserCString path, UserIn<TimeVal64> times) {
  std::optional<Times> t = TRY(read_timevals(task, times));
  if (path.is_null() && dirfd != kAtFdcwd) return set_times(task, TRY(get_open_file(task, Fd(dirfd)))->path(), t);
  return set_times(task, TRY(lookup_at(task, dirfd, path, 0)), t);
}
Result<void> sys_utimes(Task& task, UserCString path, UserIn<TimeVal64> times) {
  return sys_futimesat(task, kAtFdcwd, path, times);
}

struct UtimBuf {
  int64_t actime = 0, modtime = 0;
};
Result<void> sys_utime(Task& task, UserCString path, UserIn<UtimBuf> times) {
  std::optional<Times> t;
  if (!times.is_null()) {
    const UtimBuf b = TRY(task.read(times));
    t = Times{{b.actime, 0}, {b.modtime, 0}};
  }
  return set_times(task, TRY(lookup_at(task, kAtFdcwd, path, 0)), t);
}

namespace {

Result<void> check_size_limit(Task& task, const vfs::Inode& inode, uint64_t size) {
  if (!inode.is_regular() || size <= task.rlimit(creds::Resource::kFSIZE).soft) return {};
  task.raise(Signo(abi::kSIGXFSZ));
  return err(kEFBIG);
}

}  // namespace

Result<void> sys_truncate(Task& task, UserCString path, int64_t length) {
  if (length < 0) return err(kEINVAL);
  const vfs::Path found = TRY(lookup_at(task, kAtFdcwd, path, 0));
  vfs::Inode& inode = found.inode();
  if (inode.is_dir()) return err(kEISDIR);
  if (!inode.is_regular()) return err(kEINVAL);
  TRY(vfs::check_access(task, found, 2));
  TRY(check_size_limit(task, inode, static_cast<uint64_t>(length)));
  TRY(vfs::get_write_access(inode));
  vfs::SetAttr attr;
  attr.size = static_cast<uint64_t>(length);
  Result<void> done = vfs::set_attr(task, found, attr);
  vfs::put_write_access(inode);
  return done;
}

Result<void> sys_ftruncate(Task& task, Fd fd, int64_t length) {
  if (length < 0) return err(kEINVAL);
  auto file = TRY(get_open_file(task, fd));
  if (!file->is_writable()) return err(kEINVAL);
  TRY(check_size_limit(task, file->inode(), static_cast<uint64_t>(length)));
  return file->truncate(task, static_cast<uint64_t>(length));
}

Result<void> sys_fallocate(Task& task, Fd fd, uint32_t mode, int64_t offset, int64_t length) {
  auto file = TRY(get_open_file(task, fd));
  if (offset < 0 || length <= 0) return err(kEINVAL);
  constexpr uint32_t kKnown = vfs::kFallocKeepSize | vfs::kFallocPunchHole | vfs::kFallocCollapse | vfs::kFallocZeroRange |
                              vfs::kFallocInsert | 0x40;
  if (mode & ~kKnown) return err(kEOPNOTSUPP);
  if ((mode & (vfs::kFallocPunchHole | vfs::kFallocZeroRange)) == (vfs::kFallocPunchHole | vfs::kFallocZeroRange)) return err(kEOPNOTSUPP);
  if ((mode & vfs::kFallocPunchHole) && !(mode & vfs::kFallocKeepSize)) return err(kEOPNOTSUPP);
  if (!file->is_writable()) return err(kEBADF);
  const uint32_t type = file->inode().type();
  if (type == abi::kS_IFIFO) return err(kESPIPE);
  if (type == abi::kS_IFDIR) return err(kEISDIR);
  if (type != abi::kS_IFREG) return err(kENODEV);
  if (length > INT64_MAX - offset) return err(kEFBIG);
  if (!(mode & vfs::kFallocKeepSize)) TRY(check_size_limit(task, file->inode(), static_cast<uint64_t>(offset + length)));
  return file->fallocate(task, mode, static_cast<uint64_t>(offset), static_cast<uint64_t>(length));
}

// Advice only: checked, then nothing.
Result<void> sys_fadvise64(Task& task, Fd fd, int64_t offset, int64_t length, int32_t advice) {
  constexpr int32_t kMaxAdvice = 5;  // POSIX_FADV_NOREUSE
  auto file = TRY(get_open_file(task, fd));
  if (file->inode().type() == abi::kS_IFIFO) return err(kESPIPE);
  if (length < 0 || advice < 0 || advice > kMaxAdvice) return err(kEINVAL);
  return {};
}

Result<void> sys_readahead(Task& task, Fd fd, int64_t offset, uint64_t count) {
  auto file = TRY(get_open_file(task, fd));
  if (!file->is_readable()) return err(kEBADF);
  if (!file->inode().is_regular()) return err(kEINVAL);
  return {};
}

SYSCALL_FAMILY(attr) = {
    ROW(chmod, kFull, ""),
    ROW(fchmod, kFull, ""),
    ROW(fchmodat, kFull, ""),
    ROW(fchmodat2, kFull, ""),
    ROW(chown, kFull, ""),
    ROW(fchown, kFull, ""),
    ROW(lchown, kFull, ""),
    ROW(fchownat, kFull, ""),
    ROW(utimensat, kFull, ""),
    ROW(futimesat, kFull, ""),
    ROW(utimes, kFull, ""),
    ROW(utime, kFull, ""),
    ROW(truncate, kFull, ""),
    ROW(ftruncate, kFull, ""),
    ROW(fallocate, kFull, ""),
    ROW(fadvise64, kPartial, "advice is checked and not acted upon"),
    ROW(readahead, kPartial, "checked, reads nothing ahead"),
};
SYSCALL_FAMILY_END(attr);

}  // namespace sentry::syscalls
