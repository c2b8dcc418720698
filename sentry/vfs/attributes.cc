// SPDX-License-Identifier: Apache-2.0
// Permissions with the mount considered, and the rules of notify_change() (fs/attr.c).
#include <optional>

#include "sentry/vfs/changes.h"
#include "sentry/vfs/inotify.h"
#include "sentry/vfs/mount.h"

namespace sentry::vfs {

using enum abi::Errno;

TimeSpec timespec_of(int64_t ns) {
  constexpr int64_t kSecond = 1'000'000'000;
  int64_t sec = ns / kSecond, rest = ns % kSecond;
  if (rest < 0) {
    rest += kSecond;
    --sec;
  }
  return {sec, rest};
}

int64_t ns_of(TimeSpec t) {
  int64_t ns;
  if (__builtin_mul_overflow(t.sec, int64_t{1'000'000'000}, &ns) || __builtin_add_overflow(ns, t.nsec, &ns)) {
    return t.sec < 0 ? INT64_MIN : INT64_MAX;
  }
  return ns;
}

base::Result<void> check_access(OpContext& ctx, const Path& path, unsigned want) {
  Inode& inode = path.inode();
  if ((want & 2) && path.mount->is_read_only()) {
    uint32_t type = inode.type();
    if (type == abi::kS_IFREG || type == abi::kS_IFDIR || type == abi::kS_IFLNK) return base::err(kEROFS);
  }
  if ((want & 1) && (path.mount->flags() & kMsNoExec) && inode.is_regular()) return base::err(kEACCES);
  return inode.permission(ctx, want);
}

namespace {

base::Result<void> check_owner_change(const creds::Credentials& cred, const creds::InodeOwner& owner, const SetAttr& attr) {
  if (attr.uid && !(cred.fsuid == owner.uid && *attr.uid == owner.uid) && !cred.has_cap(creds::Cap::kCHOWN)) return base::err(kEPERM);
  if (attr.gid) {
    bool own = cred.fsuid == owner.uid && (*attr.gid == owner.gid || cred.in_group(*attr.gid));
    if (!own && !cred.has_cap(creds::Cap::kCHOWN)) return base::err(kEPERM);
  }
  return {};
}

// setattr_should_drop_suidgid()
uint32_t without_set_id(uint32_t mode) {
  uint32_t kill = abi::kS_ISUID;
  if (mode & 010) kill |= abi::kS_ISGID;
  return mode & 07777 & ~kill;
}

}  // namespace

base::Result<void> set_attr(OpContext& ctx, const Path& path, SetAttr attr) {
  if (path.mount->is_read_only()) return base::err(kEROFS);
  Inode& inode = path.inode();
  const creds::InodeOwner owner = inode.owner();
  const creds::Credentials& cred = ctx.creds();
  TRY(check_owner_change(cred, owner, attr));
  if (attr.mode) {
    if (!creds::is_owner_or_capable(cred, owner)) return base::err(kEPERM);
    abi::KGid group = attr.gid.value_or(owner.gid);
    if ((*attr.mode & abi::kS_ISGID) && !cred.in_group(group) && !cred.has_cap(creds::Cap::kFSETID)) *attr.mode &= ~abi::kS_ISGID;
    *attr.mode &= 07777;
  } else if ((attr.uid || attr.gid) && !inode.is_dir() && (owner.mode & (abi::kS_ISUID | abi::kS_ISGID))) {
    attr.mode = without_set_id(owner.mode);
  } else if (attr.size && (owner.mode & (abi::kS_ISUID | abi::kS_ISGID)) && !cred.has_cap(creds::Cap::kFSETID)) {
    attr.mode = without_set_id(owner.mode);
  }
  if ((attr.atime || attr.mtime) && !creds::is_owner_or_capable(cred, owner)) {
    if (!attr.times_are_now) return base::err(kEPERM);
    TRY(inode.permission(ctx, 2));
  }
  {
    std::optional<ChangeScope> rights;
    if (inode.is_dir() && (attr.mode || attr.uid || attr.gid)) rights.emplace(kChangedPaths);
    TRY(inode.set_attr(ctx, attr));
  }
  if (attr.size) {
    notify_event(*path.dentry, kInModify);
  } else {
    notify_event(*path.dentry, attr.atime && !attr.mtime ? kInAccess : kInAttrib);
  }
  return {};
}

base::Result<void> remove_privileges(OpContext& ctx, const Path& path) {
  const creds::InodeOwner owner = path.inode().owner();
  if (!(owner.mode & (abi::kS_ISUID | abi::kS_ISGID)) || (owner.mode & abi::kS_IFMT) != abi::kS_IFREG) return {};
  const uint32_t mode = without_set_id(owner.mode);
  if (mode == (owner.mode & 07777) || ctx.creds().has_cap(creds::Cap::kFSETID)) return {};
  SetAttr attr;
  attr.mode = mode;
  return path.inode().set_attr(ctx, attr);
}

}  // namespace sentry::vfs
