// SPDX-License-Identifier: Apache-2.0
// The file system, names and attributes. Data is in overlay_data.cc.
#include "sentry/fs/overlay/overlay.h"

#include <algorithm>

#include "sentry/fs/overlay/overlay_inode.h"
#include "sentry/vfs/changes.h"

namespace sentry::fs::overlay {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr uint64_t kOverlayMagic = 0x794c7630;
constexpr size_t kMaxXattrBytes = 1 << 20;  // of one file

// A chain of directories may be as long as a guest likes: dropping it link by link in destructors would eat the stack.
struct DeferredDrops {
  std::vector<RefPtr<OverlayInode>> pending;
  bool active = false;
};
thread_local DeferredDrops deferred;  // never used across a block: dropping an inode does not block

void drop_without_recursion(RefPtr<OverlayInode> inode) {
  if (!inode) return;
  deferred.pending.push_back(std::move(inode));
  if (deferred.active) return;
  deferred.active = true;
  while (!deferred.pending.empty()) {
    RefPtr<OverlayInode> next = std::move(deferred.pending.back());
    deferred.pending.pop_back();
    next.reset();
  }
  deferred.active = false;
}

}  // namespace

Result<RefPtr<vfs::FileSystem>> create(memory::MemoryFile& memory, RefPtr<vfs::FileSystem> lower) {
  auto fs = base::make_ref<OverlayFs>(memory, std::move(lower));
  fs->make_root();
  return RefPtr<vfs::FileSystem>(fs);
}

// The file system.

void OverlayFs::make_root() {
  auto root = over(lower_->root());
  root->is_root_ = true;
  base::MutexLock lock(mu_);
  root_ = base::WeakRef<OverlayInode>(root);
  unmounted_root_ = std::move(root);
  root_alive_ = true;
}

RefPtr<vfs::Inode> OverlayFs::root() {
  base::MutexLock lock(mu_);
  if (unmounted_root_) return std::exchange(unmounted_root_, nullptr);
  return root_.lock();
}

Result<vfs::StatFs> OverlayFs::statfs(vfs::OpContext& ctx) {
  vfs::StatFs s = TRY(lower_->statfs(ctx));
  s.type = kOverlayMagic;
  s.fsid = device_.encoded();
  return s;
}

RefPtr<OverlayInode> OverlayFs::over(RefPtr<vfs::Inode> lower) {
  const vfs::Inode* key = lower.get();
  {
    base::MutexLock lock(mu_);
    auto it = over_.find(key);
    if (it != over_.end() && it->second->try_ref()) return RefPtr<OverlayInode>::adopt(it->second);
  }
  auto fresh = base::make_ref<OverlayInode>(*this, std::move(lower));
  base::MutexLock lock(mu_);
  auto [it, inserted] = over_.try_emplace(key, fresh.get());
  if (inserted) return fresh;
  if (it->second->try_ref()) return RefPtr<OverlayInode>::adopt(it->second);  // somebody was faster
  it->second = fresh.get();
  return fresh;
}

void OverlayFs::forget(const vfs::Inode* lower, const OverlayInode* inode) {
  base::MutexLock lock(mu_);
  auto it = over_.find(lower);
  if (it != over_.end() && it->second == inode) over_.erase(it);
}

void OverlayFs::pin(OverlayInode& inode) {
  if (!inode.has_lower() || inode.is_root_) return;
  base::MutexLock lock(mu_);
  if (root_alive_) pins_.try_emplace(inode.lower_ptr(), RefPtr<OverlayInode>(inode));
}

void OverlayFs::unpin(OverlayInode& inode) {
  RefPtr<OverlayInode> dropped;
  base::MutexLock lock(mu_);
  auto it = pins_.find(inode.lower_ptr());
  if (it == pins_.end()) return;
  dropped = std::move(it->second);
  pins_.erase(it);
}

void OverlayFs::root_gone() {
  Pins gone;
  {
    base::MutexLock lock(mu_);
    gone.swap(pins_);
    root_alive_ = false;
  }
  for (auto& [lower, inode] : gone) drop_without_recursion(std::move(inode));
}

// Inodes.

OverlayInode::OverlayInode(OverlayFs& fs, RefPtr<vfs::Inode> lower)
    : Inode(fs), lower_(std::move(lower)), type_(lower_->type()), number_(lower_->number()) {}

OverlayInode::OverlayInode(OverlayFs& fs, const vfs::CreateArgs& args, int64_t now, std::string target)
    : Inode(fs), type_(args.mode & abi::kS_IFMT), number_(fs.new_number()), target_(std::move(target)), owned_(true), xattrs_owned_(true) {
  const vfs::TimeSpec time = vfs::timespec_of(now);
  attr_ = {.device = fs.device(),
           .inode = number_,
           .mode = args.mode,
           .nlink = type_ == abi::kS_IFDIR ? 2u : 1u,
           .uid = args.uid,
           .gid = args.gid,
           .rdev = args.rdev,
           .size = target_.size(),
           .atime = time,
           .mtime = time,
           .ctime = time,
           .btime = time};
  owner_.set({args.uid, args.gid, args.mode});
  if (type_ == abi::kS_IFREG) {
    data_ = base::make_ref<memory::PageCache>(fs.memory(), memory::MemoryKind::kTmpfs, nullptr, false);
  }
}

OverlayInode::~OverlayInode() {
  overlay_fs().forget(lower_.get(), this);
  Changes changes;
  RefPtr<memory::PageCache> data;
  {
    base::MutexLock lock(mu_);
    changes.swap(changes_);
    data = data_;
  }
  if (data) data->detach();
  for (auto& [name, change] : changes) drop_without_recursion(std::move(change.inode));
  if (is_root_) overlay_fs().root_gone();
}

creds::InodeOwner OverlayInode::owner() const {
  if (!owned_.load(std::memory_order_acquire)) return lower_->owner();
  if (const auto known = owner_.get()) return *known;
  base::MutexLock lock(mu_);
  return {attr_.uid, attr_.gid, attr_.mode};
}

// What is below is on our device, unless it is a host mount in the lower tree: that keeps its own.
vfs::Stat OverlayInode::stat_over(vfs::Stat s) const {
  if (s.device == lower_->fs().device()) s.device = overlay_fs().device();
  return s;
}

Result<vfs::Stat> OverlayInode::stat(vfs::OpContext& ctx) {
  // Data of its own comes after attributes of its own.
  if (!owned_.load(std::memory_order_acquire)) return stat_over(TRY(lower_->stat(ctx)));
  vfs::Stat s;
  RefPtr<memory::PageCache> data;
  {
    base::MutexLock lock(mu_);
    s = attr_;
    data = data_;
  }
  if (data) {
    s.size = data->size();
    s.blocks = lower_ ? (s.size + 511) / 512 : data->pages() * (abi::kPageSize / 512);
  }
  return s;
}

Result<void> OverlayInode::own(vfs::OpContext& ctx) {
  if (owned_.load(std::memory_order_acquire)) return {};
  vfs::Stat s = stat_over(TRY(lower_->stat(ctx)));
  {
    base::MutexLock lock(mu_);
    if (!owned_.load(std::memory_order_relaxed)) {
      attr_ = s;
      publish_owner_locked();
      owned_.store(true, std::memory_order_release);
    }
  }
  overlay_fs().pin(*this);
  return {};
}

Result<void> OverlayInode::set_attr(vfs::OpContext& ctx, const vfs::SetAttr& attr) {
  TRY(own(ctx));
  if (attr.size) TRY(set_size(ctx, *attr.size));
  const vfs::TimeSpec now = vfs::timespec_of(vfs::exact_time(ctx));
  vfs::ChangeScope change(vfs::change_word(number_));
  base::MutexLock lock(mu_);
  if (attr.mode) attr_.mode = type_ | (*attr.mode & 07777);
  if (attr.uid) attr_.uid = *attr.uid;
  if (attr.gid) attr_.gid = *attr.gid;
  if (attr.mode || attr.uid || attr.gid) publish_owner_locked();
  if (attr.atime) attr_.atime = *attr.atime;
  if (attr.mtime) attr_.mtime = *attr.mtime;
  attr_.ctime = now;
  return {};
}

Result<RefPtr<vfs::Inode>> OverlayInode::lookup(vfs::OpContext& ctx, std::string_view name) {
  if (type_ != abi::kS_IFDIR) return err(kENOTDIR);
  {
    base::MutexLock lock(mu_);
    auto it = changes_.find(name);
    if (it != changes_.end()) {
      if (!it->second.inode) return err(kENOENT);
      return RefPtr<vfs::Inode>(it->second.inode);
    }
  }
  if (!lower_) return err(kENOENT);
  return RefPtr<vfs::Inode>(overlay_fs().over(TRY(lower_->lookup(ctx, name))));
}

// An inode over one of the lower layer's holds that, so of what has none below nothing was changed either.
std::optional<vfs::Stat> OverlayInode::peek(vfs::OpContext& ctx, std::string_view name) {
  if (!lower_) return std::nullopt;
  {
    base::MutexLock lock(mu_);
    if (changes_.contains(name)) return std::nullopt;
  }
  std::optional<vfs::Stat> s = lower_->peek(ctx, name);
  return s ? std::optional(stat_over(*s)) : s;
}

void OverlayInode::peek_names(vfs::OpContext& ctx, std::string_view after, size_t most, NameSink sink) {
  std::vector<std::pair<std::string, RefPtr<OverlayInode>>> changed;
  bool all_below;
  {
    base::MutexLock lock(mu_);
    all_below = changes_.empty();
    for (auto it = changes_.upper_bound(after); it != changes_.end() && changed.size() < most; ++it)
      if (it->second.inode) changed.emplace_back(it->first, it->second.inode);
  }
  for (auto& [name, inode] : changed) {
    sink(name, [&]() -> std::optional<vfs::Stat> {
      if (!inode->tells_changes()) return std::nullopt;
      auto known = inode->stat(ctx);
      return known ? std::optional(std::move(*known)) : std::nullopt;
    });
    drop_without_recursion(std::move(inode));
  }
  if (!lower_) return;
  lower_->peek_names(ctx, after, most, [&](std::string_view name, base::FunctionRef<std::optional<vfs::Stat>()> stat) {
    if (!all_below) {
      base::MutexLock lock(mu_);
      if (changes_.contains(name)) return;
    }
    sink(name, [&]() -> std::optional<vfs::Stat> {
      std::optional<vfs::Stat> known = stat();
      return known ? std::optional(stat_over(*known)) : known;
    });
  });
}

bool OverlayInode::is_as_below() const {
  base::MutexLock lock(mu_);
  return lower_ && changes_.empty();
}

std::vector<RefPtr<vfs::Inode>> OverlayInode::lookup_chain(vfs::OpContext& ctx, std::span<const std::string_view> names) {
  std::vector<RefPtr<vfs::Inode>> found;
  if (!lower_ || names.empty()) return found;
  auto changed = [](OverlayInode& dir, std::string_view name) {
    base::MutexLock lock(dir.mu_);
    return dir.changes_.contains(name);
  };
  if (changed(*this, names[0])) return found;
  for (auto& lower : lower_->lookup_chain(ctx, names)) {
    RefPtr<OverlayInode> inode = overlay_fs().over(std::move(lower));
    found.push_back(inode);
    // What is below a changed name is not what the lower layer has there.
    if (found.size() < names.size() && changed(*inode, names[found.size()])) break;
  }
  return found;
}

// The name now leads to `inode`; `replaced` is what it led to before.
void OverlayInode::set_name(std::string_view name, OverlayInode& inode, const vfs::Inode* replaced) {
  RefPtr<OverlayInode> old;
  {
    base::MutexLock lock(mu_);
    auto it = changes_.find(name);
    if (it == changes_.end()) {
      changes_.emplace(std::string(name), Change{RefPtr<OverlayInode>(inode), replaced != nullptr});
    } else {
      old = std::exchange(it->second.inode, RefPtr<OverlayInode>(inode));
    }
  }
  overlay_fs().pin(*this);
  drop_without_recursion(std::move(old));
}

void OverlayInode::remove_name(std::string_view name) {
  RefPtr<OverlayInode> old;
  {
    base::MutexLock lock(mu_);
    auto it = changes_.find(name);
    if (it == changes_.end()) {
      changes_.emplace(std::string(name), Change{nullptr, true});
    } else {
      old = std::exchange(it->second.inode, nullptr);
      if (!it->second.hides_lower) changes_.erase(it);
    }
  }
  overlay_fs().pin(*this);
  drop_without_recursion(std::move(old));
}

// With own() done: the times of a changed directory, and its links by what was added or removed in subdirectories.
void OverlayInode::touch_directory(int64_t now, int32_t links) {
  vfs::ChangeScope change(vfs::change_word(number_));
  base::MutexLock lock(mu_);
  attr_.mtime = attr_.ctime = vfs::timespec_of(now);
  attr_.nlink = static_cast<uint64_t>(std::max<int64_t>(1, static_cast<int64_t>(attr_.nlink) + links));
}

// With own() done. A file without links is no longer reachable by its lower one.
void OverlayInode::add_links(int64_t now, int32_t n) {
  vfs::ChangeScope change(vfs::change_word(number_));
  bool gone;
  {
    base::MutexLock lock(mu_);
    attr_.ctime = vfs::timespec_of(now);
    attr_.nlink = static_cast<uint64_t>(std::max<int64_t>(0, static_cast<int64_t>(attr_.nlink) + n));
    if (type_ == abi::kS_IFDIR && n < 0) attr_.nlink = 0;
    gone = attr_.nlink == 0;
  }
  if (gone && lower_) overlay_fs().unpin(*this);
}

Result<RefPtr<vfs::Inode>> OverlayInode::add_new(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args,
                                                 std::string target) {
  TRY(own(ctx));
  const int64_t now = vfs::exact_time(ctx);
  auto inode = base::make_ref<OverlayInode>(overlay_fs(), args, now, std::move(target));
  set_name(name, *inode, nullptr);
  touch_directory(now, (args.mode & abi::kS_IFMT) == abi::kS_IFDIR ? 1 : 0);
  return RefPtr<vfs::Inode>(inode);
}

Result<RefPtr<vfs::Inode>> OverlayInode::create(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) {
  return add_new(ctx, name, args, "");
}

Result<RefPtr<vfs::Inode>> OverlayInode::mkdir(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) {
  return add_new(ctx, name, args, "");
}

Result<RefPtr<vfs::Inode>> OverlayInode::mknod(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) {
  return add_new(ctx, name, args, "");
}

Result<RefPtr<vfs::Inode>> OverlayInode::symlink(vfs::OpContext& ctx, std::string_view name, std::string_view target,
                                                 const vfs::CreateArgs& args) {
  return add_new(ctx, name, args, std::string(target));
}

Result<RefPtr<vfs::Inode>> OverlayInode::tmpfile(vfs::OpContext& ctx, const vfs::CreateArgs& args) {
  auto inode = base::make_ref<OverlayInode>(overlay_fs(), args, vfs::exact_time(ctx), "");
  inode->add_links(vfs::exact_time(ctx), -1);
  return RefPtr<vfs::Inode>(inode);
}

Result<void> OverlayInode::link(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) {
  OverlayInode& file = as_overlay(target);
  TRY(own(ctx));
  TRY(file.own(ctx));
  const int64_t now = vfs::exact_time(ctx);
  set_name(name, file, nullptr);
  file.add_links(now, 1);
  touch_directory(now, 0);
  return {};
}

Result<void> OverlayInode::unlink(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) {
  OverlayInode& file = as_overlay(target);
  TRY(own(ctx));
  TRY(file.own(ctx));
  const int64_t now = vfs::exact_time(ctx);
  remove_name(name);
  file.add_links(now, -1);
  touch_directory(now, 0);
  return {};
}

Result<void> OverlayInode::rmdir(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) {
  OverlayInode& dir = as_overlay(target);
  TRY(dir.check_empty(ctx));
  TRY(own(ctx));
  TRY(dir.own(ctx));
  const int64_t now = vfs::exact_time(ctx);
  remove_name(name);
  dir.add_links(now, -2);
  touch_directory(now, -1);
  return {};
}

Result<void> OverlayInode::rename(vfs::OpContext& ctx, std::string_view old_name, vfs::Inode& moved, vfs::Inode& new_dir,
                                  std::string_view new_name, vfs::Inode* replaced, uint32_t flags) {
  if (flags & vfs::kRenameWhiteout) return err(kEINVAL);
  if (replaced && (flags & vfs::kRenameNoReplace)) return err(kEEXIST);
  OverlayInode& from = as_overlay(moved);
  OverlayInode& to_dir = as_overlay(new_dir);
  OverlayInode* over = replaced ? &as_overlay(*replaced) : nullptr;
  const bool exchange = (flags & vfs::kRenameExchange) != 0;
  if (exchange && !over) return err(kENOENT);
  if (over == &from) return {};
  const bool replaces_dir = over && over->type_ == abi::kS_IFDIR;
  if (replaces_dir && !exchange) TRY(over->check_empty(ctx));
  TRY(own(ctx));
  TRY(to_dir.own(ctx));
  TRY(from.own(ctx));
  if (over) TRY(over->own(ctx));
  const int64_t now = vfs::exact_time(ctx);
  RefPtr<OverlayInode> hold_from(&from), hold_over(over);
  to_dir.set_name(new_name, from, replaced);
  if (exchange) {
    set_name(old_name, *over, &moved);
  } else {
    remove_name(old_name);
    if (over) over->add_links(now, -1);
  }
  const int32_t leaving = from.type_ == abi::kS_IFDIR ? 1 : 0;
  const int32_t coming = replaces_dir ? 1 : 0;
  touch_directory(now, exchange ? coming - leaving : -leaving);
  to_dir.touch_directory(now, leaving - coming);
  from.add_links(now, 0);
  if (exchange) over->add_links(now, 0);
  return {};
}

Result<void> OverlayInode::check_empty(vfs::OpContext& ctx) {
  if (!TRY(list(ctx)).empty()) return err(kENOTEMPTY);
  return {};
}

Result<RefPtr<vfs::FileDescription>> OverlayInode::open_lower(vfs::OpContext& ctx) {
  vfs::Path path;
  {
    base::MutexLock lock(mu_);
    if (!lower_dentry_) lower_dentry_ = vfs::Dentry::create_root(lower_);
    path.dentry = lower_dentry_;
  }
  return lower_->open(ctx, path, vfs::kO_RDONLY);
}

Result<std::vector<OverlayInode::Entry>> OverlayInode::list(vfs::OpContext& ctx) {
  std::vector<Entry> entries;
  Changes changes;
  {
    base::MutexLock lock(mu_);
    changes = changes_;
  }
  for (auto& [name, change] : changes) {
    if (!change.inode) continue;
    vfs::Stat s = TRY(change.inode->stat(ctx));
    entries.push_back({name, s.inode, static_cast<uint8_t>((s.mode & abi::kS_IFMT) >> 12)});
  }
  if (lower_) {
    RefPtr<vfs::FileDescription> lower = TRY(open_lower(ctx));
    TRY(lower->readdir(ctx, [&](const vfs::DirEntryInfo& e) {
      if (e.name != "." && e.name != ".." && !changes.contains(e.name)) entries.push_back({std::string(e.name), e.inode, e.type});
      return true;
    }));
  }
  return entries;
}

Result<std::string> OverlayInode::readlink(vfs::OpContext& ctx) {
  if (type_ != abi::kS_IFLNK) return err(kEINVAL);
  if (lower_) return lower_->readlink(ctx);
  return target_;
}

// Extended attributes: the lower file's until the first change, then a copy.

Result<std::string> OverlayInode::get_xattr(vfs::OpContext& ctx, std::string_view name) {
  {
    base::MutexLock lock(mu_);
    if (xattrs_owned_) {
      auto it = xattrs_.find(name);
      if (it == xattrs_.end()) return err(kENODATA);
      return it->second;
    }
  }
  return lower_->get_xattr(ctx, name);
}

Result<OverlayInode::Xattrs> OverlayInode::all_xattrs(vfs::OpContext& ctx) {
  {
    base::MutexLock lock(mu_);
    if (xattrs_owned_) return xattrs_;
  }
  Xattrs all;
  auto names = lower_->list_xattr(ctx);
  if (!names && names.error() != kEOPNOTSUPP) return err(names.error());
  if (!names) return all;
  for (std::string& name : *names) {
    auto value = lower_->get_xattr(ctx, name);
    if (value) all.emplace(std::move(name), std::move(*value));
  }
  return all;
}

Result<void> OverlayInode::set_xattr(vfs::OpContext& ctx, std::string_view name, std::string_view value,
                                     vfs::XattrSetMode mode) {
  if (name.starts_with("system.")) return err(kEOPNOTSUPP);
  TRY(own(ctx));
  Xattrs all = TRY(all_xattrs(ctx));
  auto it = all.find(name);
  if (mode == vfs::XattrSetMode::kCreate && it != all.end()) return err(kEEXIST);
  if (mode == vfs::XattrSetMode::kReplace && it == all.end()) return err(kENODATA);
  all.insert_or_assign(std::string(name), std::string(value));
  size_t bytes = 0;
  for (auto& [n, v] : all) bytes += n.size() + v.size();
  if (bytes > kMaxXattrBytes) return err(kENOSPC);
  vfs::ChangeScope change(vfs::change_word(number_));
  base::MutexLock lock(mu_);
  xattrs_ = std::move(all);
  xattrs_owned_ = true;
  attr_.ctime = vfs::timespec_of(vfs::exact_time(ctx));
  return {};
}

Result<std::vector<std::string>> OverlayInode::list_xattr(vfs::OpContext& ctx) {
  std::vector<std::string> names;
  for (auto& [name, value] : TRY(all_xattrs(ctx))) names.push_back(name);
  return names;
}

Result<void> OverlayInode::remove_xattr(vfs::OpContext& ctx, std::string_view name) {
  TRY(own(ctx));
  Xattrs all = TRY(all_xattrs(ctx));
  auto it = all.find(name);
  if (it == all.end()) return err(kENODATA);
  all.erase(it);
  vfs::ChangeScope change(vfs::change_word(number_));
  base::MutexLock lock(mu_);
  xattrs_ = std::move(all);
  xattrs_owned_ = true;
  attr_.ctime = vfs::timespec_of(vfs::exact_time(ctx));
  return {};
}

}  // namespace sentry::fs::overlay
