// SPDX-License-Identifier: Apache-2.0
// open(2): do_filp_open() and may_open() of fs/namei.c.
#include "sentry/vfs/devices.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/inotify.h"
#include "sentry/vfs/tree_change.h"
#include "sentry/vfs/walk.h"

namespace sentry::vfs {

using enum abi::Errno;

namespace {

constexpr uint32_t kTmpFileBit = kO_TMPFILE & ~uint32_t{kO_DIRECTORY};

// open(O_PATH): names the object and nothing more.
class PathFile final : public FileDescription {
 public:
  using FileDescription::FileDescription;
};

unsigned wanted_access(uint32_t flags) {
  unsigned want = 0;
  switch (flags & kO_ACCMODE) {
    case kO_RDONLY: want = flags & kFmodeExec ? 1 : 4; break;
    case kO_WRONLY: want = 2; break;
    default: want = 6;  // also 3, which ioctl-only openers use
  }
  if (flags & kO_TRUNC) want |= 2;
  return want;
}

base::Result<void> check_may_open(OpContext& ctx, const Path& path, uint32_t flags) {
  Inode& inode = path.inode();
  const unsigned want = wanted_access(flags);
  switch (inode.type()) {
    case abi::kS_IFLNK: return base::err(kELOOP);
    case abi::kS_IFDIR:
      if (want & 2) return base::err(kEISDIR);
      if (want & 1) return base::err(kEACCES);
      break;
    case abi::kS_IFBLK:
    case abi::kS_IFCHR:
      if (path.mount->flags() & kMsNoDev) return base::err(kEACCES);
      [[fallthrough]];
    case abi::kS_IFIFO:
    case abi::kS_IFSOCK:
      if (want & 1) return base::err(kEACCES);
      break;
    default: break;
  }
  TRY(check_access(ctx, path, want));
  if ((flags & kO_NOATIME) && !creds::is_owner_or_capable(ctx.creds(), inode.owner())) return base::err(kEPERM);
  return {};
}

base::Result<base::RefPtr<FileDescription>> dispatch_open(OpContext& ctx, const Path& path, uint32_t flags) {
  Inode& inode = path.inode();
  switch (inode.type()) {
    case abi::kS_IFCHR:
    case abi::kS_IFBLK: {
      DeviceClass kind = inode.type() == abi::kS_IFCHR ? DeviceClass::kChar : DeviceClass::kBlock;
      return open_device(ctx, path, flags, kind, TRY(inode.stat(ctx)).rdev);
    }
    case abi::kS_IFIFO:
      if (!fifo_opener()) return base::err(kENXIO);
      return fifo_opener()(ctx, path, flags);
    case abi::kS_IFSOCK: return base::err(kENXIO);
    default: return inode.open(ctx, path, flags);
  }
}

// The object is found, and access to it was checked (or it is new).
base::Result<base::RefPtr<FileDescription>> open_checked(OpContext& ctx, const Path& path, uint32_t flags) {
  Inode& inode = path.inode();
  const bool counts = inode.is_regular() && (wanted_access(flags) & 2) != 0;
  if (counts) TRY(get_write_access(inode));
  uint32_t passed = (flags | kO_LARGEFILE) & ~uint32_t{kO_CREAT | kO_EXCL | kO_NOCTTY | kO_TRUNC | kO_CLOEXEC | kFmodeExec};
  if (inode.type() == abi::kS_IFCHR) passed |= flags & kO_NOCTTY;  // terminals
  auto opened = dispatch_open(ctx, path, passed);
  if (!opened) {
    if (counts) put_write_access(inode);
    return base::err(opened.error());
  }
  if (counts) (*opened)->holds_write_access();
  if ((flags & kO_TRUNC) && inode.is_regular()) {
    SetAttr attr;
    attr.size = 0;
    TRY(set_attr(ctx, path, attr));
  }
  notify_event(*path.dentry, kInOpen);
  return opened;
}

base::Result<base::RefPtr<FileDescription>> open_tmpfile(OpContext& ctx, const Path& start, std::string_view path,
                                                         uint32_t flags, uint32_t mode, uint32_t lookup) {
  Path dir = TRY(walk(ctx, start, path, lookup | kLookupDirectory | kLookupFollow)).path;
  TRY(check_access(ctx, dir, 3));
  CreateArgs args = creation_args(ctx, dir.inode(), abi::kS_IFREG | (mode & 07777 & ~ctx.umask()));
  base::RefPtr<Inode> inode = TRY(dir.inode().tmpfile(ctx, args));
  std::string name = "#" + std::to_string(TRY(inode->stat(ctx)).inode);
  Path made{dir.mount, Dentry::create_unlinked(dir.dentry, std::move(name), std::move(inode))};
  return open_checked(ctx, made, flags & ~uint32_t{kO_TRUNC});
}

// open_last_lookups() with O_CREAT.
base::Result<base::RefPtr<FileDescription>> open_creating(OpContext& ctx, const Path& start, std::string_view path,
                                                          uint32_t flags, uint32_t mode, uint32_t lookup) {
  Walker walker(ctx, start, lookup | kLookupParent);
  PathResult at = TRY(walker.run(path));
  for (;;) {
    if (at.trailing_slash || is_special_name(at.last)) return base::err(kEISDIR);
    Path dir = at.path;
    base::RefPtr<Dentry> child = TRY(dir.dentry->child(ctx, at.last));
    if (child->is_negative()) {
      base::Result<NewName> name = lock_new_name(ctx, at);
      if (name) {
        TRY(check_access(ctx, dir, 3));
        CreateArgs args = creation_args(ctx, dir.inode(), abi::kS_IFREG | (mode & 07777 & ~ctx.umask()));
        Path made{dir.mount, name->dentry};
        made.dentry->become_positive(TRY(dir.inode().create(ctx, at.last, args)));
        name->lock.unlock();
        notify_name(dir.inode(), at.last, kInCreate);
        return open_checked(ctx, made, flags & ~uint32_t{kO_TRUNC});
      }
      if (name.error() != kEEXIST) return base::err(name.error());
      continue;  // someone else made it meanwhile
    }
    if (flags & kO_EXCL) return base::err(kEEXIST);
    Path found = ctx.mount_namespace().cross_mounts({dir.mount, std::move(child)});
    if ((lookup & kLookupNoXdev) && found.mount != dir.mount) return base::err(kEXDEV);
    if (found.inode().is_symlink() && !(flags & kO_NOFOLLOW)) {
      if (!TRY(walker.follow_final(dir, found, "", at))) continue;
      found = std::move(at.path);
    }
    if (found.inode().is_dir()) return base::err(kEISDIR);
    TRY(check_may_open(ctx, found, flags));
    return open_checked(ctx, found, flags);
  }
}

}  // namespace

base::Result<base::RefPtr<FileDescription>> open_path(OpContext& ctx, const Path& path, uint32_t flags) {
  if (flags & kO_PATH) return base::RefPtr<FileDescription>(base::make_ref<PathFile>(path, flags & kO_PATH));
  TRY(check_may_open(ctx, path, flags));
  return open_checked(ctx, path, flags);
}

base::Result<base::RefPtr<FileDescription>> open_at(OpContext& ctx, const Path& start, std::string_view path, uint32_t flags,
                                                    uint32_t mode, uint32_t lookup) {
  if (flags & kO_PATH) flags &= kO_DIRECTORY | kO_NOFOLLOW | kO_PATH | kO_CLOEXEC;
  if (flags & kTmpFileBit) {
    if ((flags & kO_TMPFILE) != kO_TMPFILE || (flags & kO_ACCMODE) == kO_RDONLY) return base::err(kEINVAL);
    return open_tmpfile(ctx, start, path, flags, mode, lookup);
  }
  if (flags & kO_CREAT) {
    if (flags & kO_DIRECTORY) return base::err(kEINVAL);
    return open_creating(ctx, start, path, flags, mode, lookup);
  }
  if (!(flags & kO_NOFOLLOW)) lookup |= kLookupFollow;
  if (flags & kO_DIRECTORY) lookup |= kLookupDirectory;
  Path found = TRY(walk(ctx, start, path, lookup)).path;
  return open_path(ctx, found, flags);
}

}  // namespace sentry::vfs
