// SPDX-License-Identifier: Apache-2.0
// Attributes, extended attributes and directories of tmpfs.
#include "sentry/fs/tmpfs/tmpfs_inode.h"

#include <ctime>

#include "sentry/vfs/file_description.h"

namespace sentry::fs::tmpfs {

using enum abi::Errno;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxXattrBytes = 64 * 1024;   // of one inode, names and values
constexpr uint64_t kEntrySize = 20;            // what a name adds to st_size of a directory
constexpr int64_t kDay = 86'400'000'000'000;
constexpr uint32_t kMaxLinks = 1u << 30;

int64_t realtime_ns() {
  timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

// A removed mount may hold a tree as deep as a guest likes: its directories are dropped in a loop, not by recursion.
struct DeferredDrops {
  std::vector<RefPtr<TmpfsInode>> pending;
  bool active = false;
};
thread_local DeferredDrops deferred;  // never used across a block

}  // namespace

TmpfsInode::TmpfsInode(Tmpfs& fs, const vfs::CreateArgs& args)
    : Inode(fs),
      number_(fs.next_number()),
      rdev_(args.rdev),
      mode_(args.mode),
      uid_(args.uid.value()),
      gid_(args.gid.value()),
      btime_(realtime_ns()) {
  atime_ = mtime_ = ctime_ = btime_;
  fs.inode_made();
}

TmpfsInode::~TmpfsInode() { tmpfs().inode_gone(); }

Tmpfs& TmpfsInode::tmpfs() const { return static_cast<Tmpfs&>(fs()); }

void TmpfsInode::touch_accessed(vfs::OpContext& ctx) {
  if (is_accessed() && vfs::write_time() - atime_.load(std::memory_order_relaxed) < kDay) return;
  vfs::ChangeScope change(word());
  atime_.store(vfs::exact_time(ctx), std::memory_order_relaxed);
}

Result<vfs::Stat> TmpfsInode::stat(vfs::OpContext&) {
  const creds::InodeOwner o = owner();
  vfs::Stat st;
  st.device = fs().device();
  st.inode = number_;
  st.mode = o.mode;
  st.nlink = links();
  st.uid = o.uid;
  st.gid = o.gid;
  st.rdev = rdev_;
  st.size = size();
  st.blocks = blocks();
  st.atime = vfs::timespec_of(atime_.load(std::memory_order_relaxed));
  st.mtime = vfs::timespec_of(mtime_.load(std::memory_order_relaxed));
  st.ctime = vfs::timespec_of(ctime_.load(std::memory_order_relaxed));
  st.btime = vfs::timespec_of(btime_);
  return st;
}

Result<void> TmpfsInode::set_attr(vfs::OpContext& ctx, const vfs::SetAttr& attr) {
  if (attr.size) TRY(resize(ctx, *attr.size));
  vfs::ChangeScope change(word());
  if (attr.mode) mode_.store((mode_.load() & abi::kS_IFMT) | (*attr.mode & 07777));
  if (attr.uid) uid_.store(attr.uid->value());
  if (attr.gid) gid_.store(attr.gid->value());
  if (attr.atime) atime_.store(vfs::ns_of(*attr.atime));
  if (attr.mtime) mtime_.store(vfs::ns_of(*attr.mtime));
  touch_changed(vfs::exact_time(ctx));
  return {};
}

// Devices, FIFOs and sockets are opened by the VFS, symbolic links never.
Result<RefPtr<vfs::FileDescription>> TmpfsInode::open(vfs::OpContext&, const vfs::Path&, uint32_t) { return err(kENXIO); }

Result<std::string> TmpfsInode::get_xattr(vfs::OpContext&, std::string_view name) {
  base::MutexLock lock(mu_);
  if (!xattrs_) return err(kENODATA);
  auto it = xattrs_->find(name);
  if (it == xattrs_->end()) return err(kENODATA);
  return it->second;
}

Result<void> TmpfsInode::set_xattr(vfs::OpContext& ctx, std::string_view name, std::string_view value, vfs::XattrSetMode mode) {
  {
    base::MutexLock lock(mu_);
    if (!xattrs_) xattrs_ = std::make_unique<Xattrs>();
    auto it = xattrs_->find(name);
    if (it == xattrs_->end() && mode == vfs::XattrSetMode::kReplace) return err(kENODATA);
    if (it != xattrs_->end() && mode == vfs::XattrSetMode::kCreate) return err(kEEXIST);
    size_t used = name.size() + value.size();
    for (const auto& [k, v] : *xattrs_) {
      if (k != name) used += k.size() + v.size();
    }
    if (used > kMaxXattrBytes + 256) return err(kENOSPC);
    if (it == xattrs_->end()) {
      xattrs_->emplace(name, value);
    } else {
      it->second = value;
    }
  }
  touch_changed(vfs::exact_time(ctx));
  return {};
}

Result<std::vector<std::string>> TmpfsInode::list_xattr(vfs::OpContext&) {
  std::vector<std::string> names;
  base::MutexLock lock(mu_);
  if (!xattrs_) return names;
  for (const auto& [k, v] : *xattrs_) names.push_back(k);
  return names;
}

Result<void> TmpfsInode::remove_xattr(vfs::OpContext& ctx, std::string_view name) {
  {
    base::MutexLock lock(mu_);
    if (!xattrs_) return err(kENODATA);
    auto it = xattrs_->find(name);
    if (it == xattrs_->end()) return err(kENODATA);
    xattrs_->erase(it);
  }
  touch_changed(vfs::exact_time(ctx));
  return {};
}

TmpfsDirectory::~TmpfsDirectory() {
  for (auto& [cookie, e] : entries_) deferred.pending.push_back(std::move(e.inode));
  if (deferred.active) return;
  deferred.active = true;
  while (!deferred.pending.empty()) {
    RefPtr<TmpfsInode> next = std::move(deferred.pending.back());
    deferred.pending.pop_back();
    next.reset();
  }
  deferred.active = false;
}

uint64_t TmpfsDirectory::size() const {
  base::MutexLock lock(mu_);
  return (entries_.size() + 2) * kEntrySize;
}

Result<RefPtr<vfs::Inode>> TmpfsDirectory::lookup(vfs::OpContext&, std::string_view name) {
  base::MutexLock lock(mu_);
  auto it = by_name_.find(name);
  if (it == by_name_.end()) return err(kENOENT);
  return RefPtr<vfs::Inode>(entries_.find(it->second)->second.inode);
}

void TmpfsDirectory::add(vfs::OpContext& ctx, std::string_view name, RefPtr<TmpfsInode> inode) {
  vfs::ChangeScope change(word());
  if (inode->is_dir()) change_links(1);
  {
    base::MutexLock lock(mu_);
    auto [it, fresh] = entries_.emplace(next_cookie_++, Entry{std::string(name), std::move(inode)});
    by_name_.emplace(it->second.name, it->first);
  }
  stamp_modified(vfs::exact_time(ctx));
}

RefPtr<TmpfsInode> TmpfsDirectory::take(vfs::OpContext& ctx, std::string_view name) {
  vfs::ChangeScope change(word());
  RefPtr<TmpfsInode> taken;
  {
    base::MutexLock lock(mu_);
    auto it = by_name_.find(name);
    if (it == by_name_.end()) return nullptr;
    auto entry = entries_.find(it->second);
    by_name_.erase(it);
    taken = std::move(entry->second.inode);
    entries_.erase(entry);
  }
  if (taken->is_dir()) change_links(-1);
  stamp_modified(vfs::exact_time(ctx));
  return taken;
}

// Another object under an existing name, without a moment in which the name is missing.
RefPtr<TmpfsInode> TmpfsDirectory::replace(std::string_view name, RefPtr<TmpfsInode> inode) {
  if (inode->is_dir()) change_links(1);
  RefPtr<TmpfsInode> old;
  {
    base::MutexLock lock(mu_);
    old = std::exchange(entries_.find(by_name_.find(name)->second)->second.inode, std::move(inode));
  }
  if (old->is_dir()) change_links(-1);
  return old;
}

bool TmpfsDirectory::is_empty() const {
  base::MutexLock lock(mu_);
  return entries_.empty();
}

Result<RefPtr<vfs::Inode>> TmpfsDirectory::create(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) {
  TRY(tmpfs().charge_inode());
  auto made = base::make_ref<TmpfsFile>(tmpfs(), args, vfs::kSealSeal);
  add(ctx, name, made);
  return RefPtr<vfs::Inode>(std::move(made));
}

Result<RefPtr<vfs::Inode>> TmpfsDirectory::mkdir(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) {
  TRY(tmpfs().charge_inode());
  auto made = base::make_ref<TmpfsDirectory>(tmpfs(), args);
  add(ctx, name, made);
  return RefPtr<vfs::Inode>(std::move(made));
}

Result<RefPtr<vfs::Inode>> TmpfsDirectory::mknod(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) {
  TRY(tmpfs().charge_inode());
  auto made = base::make_ref<TmpfsInode>(tmpfs(), args);
  add(ctx, name, made);
  return RefPtr<vfs::Inode>(std::move(made));
}

Result<RefPtr<vfs::Inode>> TmpfsDirectory::symlink(vfs::OpContext& ctx, std::string_view name, std::string_view target,
                                                   const vfs::CreateArgs& args) {
  TRY(tmpfs().charge_inode());
  auto made = base::make_ref<TmpfsSymlink>(tmpfs(), args, std::string(target));
  add(ctx, name, made);
  return RefPtr<vfs::Inode>(std::move(made));
}

Result<void> TmpfsDirectory::link(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) {
  auto& inode = static_cast<TmpfsInode&>(target);
  if (inode.links() >= kMaxLinks) return err(kEMLINK);
  inode.change_links(1);
  inode.touch_changed(vfs::exact_time(ctx));
  add(ctx, name, RefPtr<TmpfsInode>(inode));
  return {};
}

Result<void> TmpfsDirectory::unlink(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) {
  if (!take(ctx, name)) return err(kENOENT);
  auto& inode = static_cast<TmpfsInode&>(target);
  inode.change_links(-1);
  inode.touch_changed(vfs::exact_time(ctx));
  return {};
}

Result<void> TmpfsDirectory::rmdir(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) {
  auto& victim = static_cast<TmpfsDirectory&>(target);
  if (!victim.is_empty()) return err(kENOTEMPTY);
  if (!take(ctx, name)) return err(kENOENT);
  victim.change_links(-2);
  return {};
}

Result<void> TmpfsDirectory::rename(vfs::OpContext& ctx, std::string_view old_name, vfs::Inode& moved, vfs::Inode& new_dir,
                                    std::string_view new_name, vfs::Inode* replaced, uint32_t flags) {
  auto& to = static_cast<TmpfsDirectory&>(new_dir);
  auto& inode = static_cast<TmpfsInode&>(moved);
  const int64_t now = vfs::exact_time(ctx);
  inode.touch_changed(now);
  touch_modified(now);
  to.touch_modified(now);
  if (flags & vfs::kRenameExchange) {
    auto& other = static_cast<TmpfsInode&>(*replaced);
    other.touch_changed(now);
    to.replace(new_name, RefPtr<TmpfsInode>(inode));
    replace(old_name, RefPtr<TmpfsInode>(other));
    return {};
  }
  if (replaced) {
    auto& victim = static_cast<TmpfsInode&>(*replaced);
    if (victim.is_dir() && !static_cast<TmpfsDirectory&>(victim).is_empty()) return err(kENOTEMPTY);
    to.replace(new_name, RefPtr<TmpfsInode>(inode));
    victim.change_links(victim.is_dir() ? -2 : -1);
    victim.touch_changed(now);
  } else {
    to.add(ctx, new_name, RefPtr<TmpfsInode>(inode));
  }
  take(ctx, old_name);
  return {};
}

Result<RefPtr<vfs::Inode>> TmpfsDirectory::tmpfile(vfs::OpContext&, const vfs::CreateArgs& args) {
  TRY(tmpfs().charge_inode());
  auto made = base::make_ref<TmpfsFile>(tmpfs(), args, vfs::kSealSeal);
  made->change_links(-1);
  return RefPtr<vfs::Inode>(std::move(made));
}

void TmpfsDirectory::list(uint64_t cookie, size_t max, std::vector<Listed>& out) const {
  base::MutexLock lock(mu_);
  for (auto it = entries_.upper_bound(cookie); it != entries_.end() && out.size() < max; ++it) {
    out.push_back({it->second.name, it->second.inode->number(), it->first, it->second.inode->owner().mode});
  }
}

namespace {

class DirectoryDescription final : public vfs::FileDescription {
 public:
  DirectoryDescription(vfs::Path path, uint32_t flags) : FileDescription(std::move(path), flags) {}
  Result<size_t> pread(vfs::OpContext&, vfs::IoBuffer&, uint64_t) override { return base::err(kEISDIR); }
  bool is_seekable() const override { return true; }
  bool closes_later() const override { return true; }
  Result<void> fsync(vfs::OpContext&, bool) override { return {}; }

  // Position: 0 is ".", 1 is "..", else the cookie of the last entry told (2: none yet).
  Result<void> readdir(vfs::OpContext& ctx, vfs::DirSink sink) override {
    constexpr size_t kBatch = 128;
    constexpr uint8_t kDirType = 4;
    auto& dir = static_cast<TmpfsDirectory&>(inode());
    vfs::SleepGuard guard(ctx, offset_lock_);
    uint64_t at = offset_.load();
    if (at == 0 && sink({".", dir.number(), kDirType, 1})) at = 1;
    if (at == 1) {
      RefPtr<vfs::Dentry> parent = path().dentry->parent();
      if (sink({"..", parent ? parent->inode_ptr()->number() : dir.number(), kDirType, 2})) at = 2;
    }
    bool room = at >= 2;
    while (room) {
      std::vector<TmpfsDirectory::Listed> batch;
      dir.list(at, kBatch, batch);
      if (batch.empty()) break;
      for (const TmpfsDirectory::Listed& e : batch) {
        room = sink({e.name, e.number, static_cast<uint8_t>((e.mode & abi::kS_IFMT) >> 12), e.cookie});
        if (!room) break;
        at = e.cookie;
      }
    }
    offset_.store(at);
    dir.touch_accessed(ctx);
    return {};
  }
};

}  // namespace

Result<RefPtr<vfs::FileDescription>> TmpfsDirectory::open(vfs::OpContext&, const vfs::Path& path, uint32_t flags) {
  return RefPtr<vfs::FileDescription>(base::make_ref<DirectoryDescription>(path, flags));
}

}  // namespace sentry::fs::tmpfs
