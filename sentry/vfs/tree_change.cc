// SPDX-License-Identifier: Apache-2.0
// mkdir, mknod, symlink, link, unlink, rename. The order of the checks is that of fs/namei.c, since it decides which
// error is seen.
#include "sentry/vfs/tree_change.h"

#include <optional>

#include "sentry/vfs/file_description.h"
#include "sentry/vfs/inotify.h"

namespace sentry::vfs {

using enum abi::Errno;

namespace {

constexpr uint32_t kAtSymlinkFollow = 0x400, kAtEmptyPath = 0x1000;

// check_sticky()
bool sticky_forbids(OpContext& ctx, const Inode& dir, const Inode& victim) {
  const creds::InodeOwner d = dir.owner();
  if (!(d.mode & abi::kS_ISVTX)) return false;
  const creds::Credentials& cred = ctx.creds();
  return cred.fsuid != victim.owner().uid && cred.fsuid != d.uid && !cred.has_cap(creds::Cap::kFOWNER);
}

enum class VictimKind : uint8_t { kFile, kDirectory };

// may_delete()
base::Result<void> check_may_delete(OpContext& ctx, Inode& dir, const Dentry& victim, VictimKind kind) {
  TRY(dir.permission(ctx, 3));
  Inode& inode = *victim.inode_ptr();
  if (sticky_forbids(ctx, dir, inode)) return base::err(kEPERM);
  if (kind == VictimKind::kDirectory) {
    if (!inode.is_dir()) return base::err(kENOTDIR);
    if (victim.is_root()) return base::err(kEBUSY);
  } else if (inode.is_dir()) {
    return base::err(kEISDIR);
  }
  return {};
}

// may_create()
base::Result<void> check_may_create(OpContext& ctx, const Dentry& dir) {
  if (dir.is_deleted()) return base::err(kENOENT);
  return dir.inode_ptr()->permission(ctx, 3);
}

base::Result<Path> finish_new(const PathResult& at, NewName& name, base::RefPtr<Inode> inode) {
  const bool is_dir = inode->is_dir();
  name.dentry->become_positive(std::move(inode));
  Path made{at.path.mount, name.dentry};
  name.lock.unlock();
  notify_name(at.path.inode(), at.last, kInCreate | (is_dir ? uint32_t{kInIsDir} : 0));
  return made;
}

}  // namespace

CreateArgs creation_args(OpContext& ctx, const Inode& dir, uint32_t mode, abi::DeviceId rdev) {
  const creds::InodeOwner d = dir.owner();
  const creds::Credentials& cred = ctx.creds();
  CreateArgs args{mode, cred.fsuid, cred.fsgid, rdev};
  if (d.mode & abi::kS_ISGID) {
    args.gid = d.gid;
    if ((mode & abi::kS_IFMT) == abi::kS_IFDIR) {
      args.mode |= abi::kS_ISGID;
    } else if ((mode & (abi::kS_ISGID | 010)) == (abi::kS_ISGID | 010) && !cred.in_group(d.gid) &&
               !cred.has_cap(creds::Cap::kFSETID)) {
      args.mode &= ~abi::kS_ISGID;
    }
  }
  return args;
}

base::Result<NewName> lock_new_name(OpContext& ctx, const PathResult& at) {
  if (is_special_name(at.last)) return base::err(kEEXIST);
  DirectoryLock lock(ctx, at.path.dentry);
  base::RefPtr<Dentry> child = TRY(at.path.dentry->child(ctx, at.last));
  if (!child->is_negative()) return base::err(kEEXIST);
  if (at.path.mount->is_read_only()) return base::err(kEROFS);
  if (at.path.dentry->is_deleted()) return base::err(kENOENT);
  return NewName{std::move(lock), std::move(child)};
}

base::Result<void> mkdir_at(OpContext& ctx, const Path& start, std::string_view path, uint32_t mode) {
  PathResult at = TRY(walk(ctx, start, path, kLookupParent));
  NewName name = TRY(lock_new_name(ctx, at));
  TRY(check_may_create(ctx, *at.path.dentry));
  CreateArgs args = creation_args(ctx, at.path.inode(), abi::kS_IFDIR | (mode & (0777 | abi::kS_ISVTX) & ~ctx.umask()));
  TRY(finish_new(at, name, TRY(at.path.inode().mkdir(ctx, at.last, args))));
  return {};
}

base::Result<Path> make_node_at(OpContext& ctx, const Path& start, std::string_view path, uint32_t mode, abi::DeviceId rdev) {
  PathResult at = TRY(walk(ctx, start, path, kLookupParent));
  NewName name = TRY(lock_new_name(ctx, at));
  if (at.trailing_slash) return base::err(kENOENT);
  TRY(check_may_create(ctx, *at.path.dentry));
  const uint32_t type = mode & abi::kS_IFMT;
  const bool device = type == abi::kS_IFCHR || type == abi::kS_IFBLK;
  if (device && !(type == abi::kS_IFCHR && rdev == abi::DeviceId{}) && !ctx.creds().has_cap(creds::Cap::kMKNOD)) {
    return base::err(kEPERM);
  }
  Inode& dir = at.path.inode();
  CreateArgs args = creation_args(ctx, dir, type | (mode & 07777 & ~ctx.umask()), device ? rdev : abi::DeviceId{});
  return finish_new(at, name, type == abi::kS_IFREG ? TRY(dir.create(ctx, at.last, args)) : TRY(dir.mknod(ctx, at.last, args)));
}

base::Result<void> mknod_at(OpContext& ctx, const Path& start, std::string_view path, uint32_t mode, abi::DeviceId rdev) {
  switch (mode & abi::kS_IFMT) {
    case 0: mode |= abi::kS_IFREG; break;
    case abi::kS_IFREG:
    case abi::kS_IFCHR:
    case abi::kS_IFBLK:
    case abi::kS_IFIFO:
    case abi::kS_IFSOCK: break;
    case abi::kS_IFDIR: return base::err(kEPERM);
    default: return base::err(kEINVAL);
  }
  TRY(make_node_at(ctx, start, path, mode, rdev));
  return {};
}

base::Result<void> symlink_at(OpContext& ctx, const Path& start, std::string_view path, std::string_view target) {
  if (target.empty()) return base::err(kENOENT);
  PathResult at = TRY(walk(ctx, start, path, kLookupParent));
  NewName name = TRY(lock_new_name(ctx, at));
  if (at.trailing_slash) return base::err(kENOENT);
  TRY(check_may_create(ctx, *at.path.dentry));
  CreateArgs args = creation_args(ctx, at.path.inode(), abi::kS_IFLNK | 0777);
  TRY(finish_new(at, name, TRY(at.path.inode().symlink(ctx, at.last, target, args))));
  return {};
}

base::Result<void> link_at(OpContext& ctx, const Path& old_start, std::string_view old_path, const Path& new_start,
                           std::string_view new_path, uint32_t at_flags) {
  uint32_t lookup = at_flags & kAtSymlinkFollow ? uint32_t{kLookupFollow} : 0;
  if (at_flags & kAtEmptyPath) {
    if (old_path.empty() && !ctx.creds().has_cap(creds::Cap::kDAC_READ_SEARCH)) return base::err(kENOENT);
    lookup |= kLookupEmptyPath;
  }
  Path old = TRY(walk(ctx, old_start, old_path, lookup)).path;
  PathResult at = TRY(walk(ctx, new_start, new_path, kLookupParent));
  NewName name = TRY(lock_new_name(ctx, at));
  if (at.trailing_slash) return base::err(kENOENT);
  if (old.mount != at.path.mount) return base::err(kEXDEV);
  TRY(check_may_create(ctx, *at.path.dentry));
  if (old.inode().is_dir()) return base::err(kEPERM);
  TRY(at.path.inode().link(ctx, at.last, old.inode()));
  TRY(finish_new(at, name, old.dentry->inode()));
  notify_inode(old.inode(), kInAttrib);
  return {};
}

base::Result<void> unlink_at(OpContext& ctx, const Path& start, std::string_view path, bool directory) {
  PathResult at = TRY(walk(ctx, start, path, kLookupParent));
  if (is_special_name(at.last)) {
    if (!directory) return base::err(kEISDIR);
    return base::err(at.last == "." ? kEINVAL : at.last == ".." ? kENOTEMPTY : kEBUSY);
  }
  if (at.path.mount->is_read_only()) return base::err(kEROFS);
  base::RefPtr<Dentry> victim;  // dropped after the locks
  DirectoryLock lock(ctx, at.path.dentry);
  victim = TRY(at.path.dentry->child(ctx, at.last));
  if (victim->is_negative()) return base::err(kENOENT);
  Inode& dir = at.path.inode();
  Inode& inode = *victim->inode_ptr();
  if (!directory && at.trailing_slash) return base::err(inode.is_dir() ? kEISDIR : kENOTDIR);
  TRY(check_may_delete(ctx, dir, *victim, directory ? VictimKind::kDirectory : VictimKind::kFile));
  if (victim->is_mountpoint()) return base::err(kEBUSY);
  {
    std::optional<DirectoryLock> inner;
    if (directory) inner.emplace(ctx, victim);
    TRY(directory ? dir.rmdir(ctx, at.last, inode) : dir.unlink(ctx, at.last, inode));
    victim->become_deleted(Dentry::Forget::kRemember);
  }
  lock.unlock();
  if (inotify_watch_count.load(std::memory_order_relaxed) != 0) {
    if (!directory) notify_inode(inode, kInAttrib);
    notify_name(dir, at.last, kInDelete | (directory ? uint32_t{kInIsDir} : 0));
    base::Result<Stat> st = inode.stat(ctx);
    if (directory || !st || st->nlink == 0) {
      notify_inode(inode, kInDeleteSelf);
      drop_inotify_watches(inode);
    }
  }
  return {};
}

namespace {

// Two directories locked for a rename: lock_rename().
class RenameLock {
 public:
  RenameLock(OpContext& ctx, FileSystem& fs, const base::RefPtr<Dentry>& a, const base::RefPtr<Dentry>& b) {
    if (a == b) {
      first_.emplace(ctx, a);
      return;
    }
    tree_.emplace(ctx, fs.rename_lock());
    const bool b_first = a->is_descendant_of(*b);
    first_.emplace(ctx, b_first ? b : a);
    second_.emplace(ctx, b_first ? a : b);
  }
  // Not inline: g++ 12 then takes the empty optionals for used ones (-Wmaybe-uninitialized).
  [[gnu::noinline]] ~RenameLock() {}

 private:
  std::optional<SleepGuard> tree_;
  std::optional<DirectoryLock> first_, second_;
};

struct Rename {
  Path old_dir, new_dir;
  base::RefPtr<Dentry> moved, target;  // target may be negative
  uint32_t flags;
  bool exchange() const { return (flags & kRenameExchange) != 0; }
};

// vfs_rename(): everything may be done that is about to be done.
base::Result<void> check_rename(OpContext& ctx, const Rename& r) {
  Inode &old_dir = r.old_dir.inode(), &new_dir = r.new_dir.inode();
  const bool is_dir = r.moved->inode_ptr()->is_dir();
  const bool target_is_dir = !r.target->is_negative() && r.target->inode_ptr()->is_dir();
  auto kind = [](bool dir) { return dir ? VictimKind::kDirectory : VictimKind::kFile; };
  TRY(check_may_delete(ctx, old_dir, *r.moved, kind(is_dir)));
  if (r.target->is_negative()) {
    TRY(check_may_create(ctx, *r.new_dir.dentry));
  } else {
    TRY(check_may_delete(ctx, new_dir, *r.target, kind(r.exchange() ? target_is_dir : is_dir)));
  }
  if (r.old_dir.dentry != r.new_dir.dentry) {
    // ".." of a moved directory changes.
    if (is_dir) TRY(r.moved->inode_ptr()->permission(ctx, 2));
    if (r.exchange() && target_is_dir) TRY(r.target->inode_ptr()->permission(ctx, 2));
  }
  if (r.moved->is_mountpoint() || r.target->is_mountpoint()) return base::err(kEBUSY);
  return {};
}

void notify_rename(const Rename& r, const std::string& old_name, const std::string& new_name) {
  if (inotify_watch_count.load(std::memory_order_relaxed) == 0) return;
  Inode& moved = *r.moved->inode_ptr();
  const uint32_t dir = moved.is_dir() ? uint32_t{kInIsDir} : 0;
  const uint32_t cookie = next_move_cookie();
  notify_name(r.old_dir.inode(), old_name, kInMovedFrom | dir, cookie);
  notify_name(r.new_dir.inode(), new_name, kInMovedTo | dir, cookie);
  notify_inode(moved, kInMoveSelf);
  if (r.target->is_negative() || r.exchange()) return;
  notify_inode(*r.target->inode_ptr(), kInDeleteSelf);
  drop_inotify_watches(*r.target->inode_ptr());
}

}  // namespace

// do_renameat2()
base::Result<void> rename_at(OpContext& ctx, const Path& old_start, std::string_view old_path, const Path& new_start,
                             std::string_view new_path, uint32_t flags) {
  if (flags & ~uint32_t{kRenameNoReplace | kRenameExchange}) return base::err(kEINVAL);
  if (flags == (kRenameNoReplace | kRenameExchange)) return base::err(kEINVAL);
  PathResult from = TRY(walk(ctx, old_start, old_path, kLookupParent));
  PathResult to = TRY(walk(ctx, new_start, new_path, kLookupParent));
  if (from.path.mount != to.path.mount) return base::err(kEXDEV);
  if (is_special_name(from.last)) return base::err(kEBUSY);
  if (is_special_name(to.last)) return base::err(flags & kRenameNoReplace ? kEEXIST : kEBUSY);
  if (from.path.mount->is_read_only()) return base::err(kEROFS);

  Rename r{from.path, to.path, nullptr, nullptr, flags};
  {
    RenameLock lock(ctx, from.path.mount->fs(), from.path.dentry, to.path.dentry);
    r.moved = TRY(from.path.dentry->child(ctx, from.last));
    if (r.moved->is_negative()) return base::err(kENOENT);
    r.target = TRY(to.path.dentry->child(ctx, to.last));
    if ((flags & kRenameNoReplace) && !r.target->is_negative()) return base::err(kEEXIST);
    if (r.exchange() && r.target->is_negative()) return base::err(kENOENT);
    Inode& moved = *r.moved->inode_ptr();
    if (r.exchange() && !r.target->inode_ptr()->is_dir() && to.trailing_slash) return base::err(kENOTDIR);
    if (!moved.is_dir() && (from.trailing_slash || (to.trailing_slash && !r.exchange()))) return base::err(kENOTDIR);
    if (to.path.dentry->is_descendant_of(*r.moved)) return base::err(kEINVAL);
    if (from.path.dentry->is_descendant_of(*r.target)) return base::err(r.exchange() ? kEINVAL : kENOTEMPTY);
    Inode* target = r.target->inode_ptr();
    if (&moved == target) return {};  // two names of one file: nothing to do, as POSIX wants
    TRY(check_rename(ctx, r));
    std::optional<DirectoryLock> victim;
    if (target && target->is_dir() && !r.exchange()) victim.emplace(ctx, r.target);
    TRY(from.path.inode().rename(ctx, from.last, moved, to.path.inode(), to.last, target, flags));
    if (r.exchange()) {
      Dentry::exchange(*r.moved, *r.target);
    } else {
      if (target) r.target->become_deleted(Dentry::Forget::kForget);
      Dentry::move(*r.moved, *to.path.dentry, to.last);
    }
  }
  notify_rename(r, from.last, to.last);
  return {};
}

}  // namespace sentry::vfs
