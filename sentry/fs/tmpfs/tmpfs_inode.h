// SPDX-License-Identifier: Apache-2.0
// Objects of tmpfs. Private to sentry/fs/tmpfs.
//
// Locks: TmpfsFile::write_lock() (sleeping; writes, truncation, allocation of one file), then TmpfsInode::mu_ (kInode):
// names of a directory, extended attributes. Changes of one directory are serialised by the VFS.
//
// What stat(2) says changes only inside a ChangeScope (vfs/changes.h).
#pragma once

#include <map>
#include <string>
#include <unordered_map>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/memory/page_cache.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/file_time.h"
#include "sentry/vfs/inode.h"

namespace sentry::fs::tmpfs {

class Tmpfs;

class TmpfsInode : public vfs::Inode {
 public:
  TmpfsInode(Tmpfs& fs, const vfs::CreateArgs& args);
  ~TmpfsInode() override;
  Tmpfs& tmpfs() const;

  creds::InodeOwner owner() const override {
    return {abi::KUid(uid_.load(std::memory_order_relaxed)), abi::KGid(gid_.load(std::memory_order_relaxed)),
            mode_.load(std::memory_order_relaxed)};
  }
  uint64_t number() const override { return number_; }
  base::Result<vfs::Stat> stat(vfs::OpContext& ctx) override;
  base::Result<void> set_attr(vfs::OpContext& ctx, const vfs::SetAttr& attr) override;
  base::Result<base::RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) override;

  base::Result<std::string> get_xattr(vfs::OpContext& ctx, std::string_view name) override;
  base::Result<void> set_xattr(vfs::OpContext& ctx, std::string_view name, std::string_view value,
                               vfs::XattrSetMode mode) override;
  base::Result<std::vector<std::string>> list_xattr(vfs::OpContext& ctx) override;
  base::Result<void> remove_xattr(vfs::OpContext& ctx, std::string_view name) override;

  virtual uint64_t size() const { return 0; }
  virtual uint64_t blocks() const { return 0; }
  virtual base::Result<void> resize(vfs::OpContext& ctx, uint64_t size) { return err(kInval); }

  void change_links(int32_t by) {
    vfs::ChangeScope change(word());
    nlink_.fetch_add(static_cast<uint32_t>(by), std::memory_order_relaxed);
  }
  uint32_t links() const { return nlink_.load(std::memory_order_relaxed); }
  // Times (vfs/file_time.h).
  void touch_changed(int64_t now) {
    vfs::ChangeScope change(word());
    ctime_.store(now, std::memory_order_relaxed);
  }
  void touch_modified(int64_t now) {
    vfs::ChangeScope change(word());
    stamp_modified(now);
  }
  void touch_accessed(vfs::OpContext& ctx);  // relatime
  // Reading it leaves the time of access as it is, for a day at least as touch_accessed() has it.
  bool is_accessed() const {
    const int64_t at = atime_.load(std::memory_order_relaxed);
    return at > mtime_.load(std::memory_order_relaxed) && at > ctime_.load(std::memory_order_relaxed);
  }

 protected:
  uint32_t word() const { return vfs::change_word(number_); }
  // For who is in a scope.
  void stamp_modified(int64_t now) {
    mtime_.store(now, std::memory_order_relaxed);
    ctime_.store(now, std::memory_order_relaxed);
  }
  mutable base::Mutex mu_{base::LockRank::kInode};

 private:
  using Xattrs = std::map<std::string, std::string, std::less<>>;
  const uint64_t number_;
  const abi::DeviceId rdev_;
  std::atomic<uint32_t> mode_, uid_, gid_, nlink_{1};
  std::atomic<int64_t> atime_, mtime_, ctime_;
  const int64_t btime_;
  std::unique_ptr<Xattrs> xattrs_ GUARDED_BY(mu_);
};

class TmpfsDirectory final : public TmpfsInode {
 public:
  TmpfsDirectory(Tmpfs& fs, const vfs::CreateArgs& args) : TmpfsInode(fs, args) { change_links(1); }
  ~TmpfsDirectory() override;

  base::Result<base::RefPtr<vfs::Inode>> lookup(vfs::OpContext& ctx, std::string_view name) override;
  base::Result<base::RefPtr<vfs::Inode>> create(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) override;
  base::Result<base::RefPtr<vfs::Inode>> mkdir(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) override;
  base::Result<base::RefPtr<vfs::Inode>> mknod(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) override;
  base::Result<base::RefPtr<vfs::Inode>> symlink(vfs::OpContext& ctx, std::string_view name, std::string_view target,
                                                 const vfs::CreateArgs& args) override;
  base::Result<void> link(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) override;
  base::Result<void> unlink(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) override;
  base::Result<void> rmdir(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) override;
  base::Result<void> rename(vfs::OpContext& ctx, std::string_view old_name, vfs::Inode& moved, vfs::Inode& new_dir,
                            std::string_view new_name, vfs::Inode* replaced, uint32_t flags) override;
  base::Result<base::RefPtr<vfs::Inode>> tmpfile(vfs::OpContext& ctx, const vfs::CreateArgs& args) override;
  base::Result<base::RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) override;
  uint64_t size() const override;

  struct Listed {
    std::string name;
    uint64_t number = 0, cookie = 0;
    uint32_t mode = 0;
  };
  // Up to `max` entries behind `cookie`, in the order of their making.
  void list(uint64_t cookie, size_t max, std::vector<Listed>& out) const;

 private:
  struct Entry {
    std::string name;
    base::RefPtr<TmpfsInode> inode;
  };
  void add(vfs::OpContext& ctx, std::string_view name, base::RefPtr<TmpfsInode> inode);
  base::RefPtr<TmpfsInode> take(vfs::OpContext& ctx, std::string_view name);
  base::RefPtr<TmpfsInode> replace(std::string_view name, base::RefPtr<TmpfsInode> inode);
  bool is_empty() const;

  static constexpr uint64_t kFirstCookie = 3;  // behind "." and ".."
  std::map<uint64_t, Entry> entries_ GUARDED_BY(mu_);
  std::unordered_map<std::string_view, uint64_t> by_name_ GUARDED_BY(mu_);  // views into entries_
  uint64_t next_cookie_ GUARDED_BY(mu_) = kFirstCookie;
};

class TmpfsSymlink final : public TmpfsInode {
 public:
  TmpfsSymlink(Tmpfs& fs, const vfs::CreateArgs& args, std::string target)
      : TmpfsInode(fs, args), target_(std::move(target)) {}
  base::Result<std::string> readlink(vfs::OpContext&) override { return target_; }
  uint64_t size() const override { return target_.size(); }

 private:
  const std::string target_;
};

class TmpfsFile final : public TmpfsInode {
 public:
  TmpfsFile(Tmpfs& fs, const vfs::CreateArgs& args, uint32_t seals);
  ~TmpfsFile() override;
  base::Result<base::RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) override;
  uint64_t size() const override { return pages_->size(); }
  uint64_t blocks() const override { return pages_->pages() * 8; }
  base::Result<void> resize(vfs::OpContext& ctx, uint64_t size) override;
  bool tells_changes() const override { return !grows_unseen_.load(std::memory_order_acquire); }
  bool tells_content() const override { return tells_changes() && is_accessed(); }
  Reading reading() const override { return is_accessed() ? Reading::kLeavesIt : Reading::kChangesIt; }
  bool may_be_written_in_place() const override;
  // It is mapped: pages come, and are counted by stat(), without a call.
  void note_mapping();

  base::Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t offset);
  base::Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset);  // kAtEnd appends
  base::Result<void> fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length);
  memory::PageCache& pages() const { return *pages_; }
  uint32_t seals() const { return seals_.load(std::memory_order_acquire); }
  base::Result<void> add_seals(uint32_t seals);

 private:
  base::Result<void> charge_to(uint64_t pages);
  void settle();

  const base::RefPtr<memory::PageCache> pages_;
  vfs::SleepLock write_lock_;
  std::atomic<bool> grows_unseen_{false};  // set once, inside a ChangeScope
  std::atomic<uint64_t> charged_{0};  // pages counted in the file system's use
  base::Mutex seal_mu_{base::LockRank::kLeaf};  // held while seals are added
  std::atomic<uint32_t> seals_;
};

class Tmpfs final : public vfs::FileSystem {
 public:
  Tmpfs(memory::MemoryFile& memory, const Options& options);
  std::string_view type() const override { return "tmpfs"; }
  base::RefPtr<vfs::Inode> root() override;
  abi::DeviceId device() const override { return device_; }
  base::Result<vfs::StatFs> statfs(vfs::OpContext& ctx) override;
  std::string mount_options() const override;

  memory::MemoryFile& memory() const { return memory_; }
  uint64_t next_number() { return next_number_.fetch_add(1, std::memory_order_relaxed); }
  base::Result<void> charge_inode();  // ENOSPC
  void inode_made() { inodes_.fetch_add(1, std::memory_order_relaxed); }
  void inode_gone() { inodes_.fetch_sub(1, std::memory_order_relaxed); }
  // Pages that may still be used.
  uint64_t pages_free() const;
  void account_pages(int64_t by) { pages_.fetch_add(static_cast<uint64_t>(by), std::memory_order_relaxed); }

 private:
  memory::MemoryFile& memory_;
  const Options options_;
  const uint64_t max_pages_;
  const abi::DeviceId device_ = vfs::allocate_device();
  std::atomic<uint64_t> next_number_{1}, inodes_{0}, pages_{0};
  base::Mutex root_mu_{base::LockRank::kLeaf};
  base::WeakRef<vfs::Inode> root_ GUARDED_BY(root_mu_);  // weak: inodes hold their file system
};

}  // namespace sentry::fs::tmpfs
