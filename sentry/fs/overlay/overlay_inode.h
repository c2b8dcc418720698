// SPDX-License-Identifier: Apache-2.0
// Inside of the overlay.
//
// There is no upper file system: an inode keeps the differences itself. A directory has a table of changed names (a new
// object, or none: a whiteout) over its lower directory; a file that was opened for writing has a page cache whose
// missing pages come from the lower file, so that copying up copies no data. Because an inode is found by its lower one,
// hard links of the image stay links after a change, and renaming a directory of the image moves nothing.
//
// Lifetime: an inode without changes lives as long as its dentry; one with changes must not be forgotten, so the
// root inode pins it (or its parent's table holds it, when it has nothing below). Nothing holds the root but its
// mounts, so the whole tree goes with the last of them.
//
// Locks:
//   write_lock_ (sleeping): writes and size changes of one file
//     OverlayInode::mu_ (kInode): never held over a call to the lower file system
//       OverlayFs::mu_ (kLeaf)
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "sentry/fs/overlay/overlay.h"
#include "sentry/memory/page_cache.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/file_time.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/published_owner.h"

namespace sentry::fs::overlay {

class OverlayInode;

using Pins = std::unordered_map<const vfs::Inode*, base::RefPtr<OverlayInode>>;

class OverlayFs final : public vfs::FileSystem {
 public:
  OverlayFs(memory::MemoryFile& memory, base::RefPtr<vfs::FileSystem> lower) : memory_(memory), lower_(std::move(lower)) {
    if (!lower_->revalidates()) set_tells_changes();
  }
  void make_root();
  std::string_view type() const override { return "overlay"; }
  base::RefPtr<vfs::Inode> root() override;
  abi::DeviceId device() const override { return device_; }
  base::Result<vfs::StatFs> statfs(vfs::OpContext& ctx) override;

  memory::MemoryFile& memory() const { return memory_; }
  uint64_t new_number() { return next_number_.fetch_add(1, std::memory_order_relaxed); }
  // The one inode over `lower`.
  base::RefPtr<OverlayInode> over(base::RefPtr<vfs::Inode> lower);
  void forget(const vfs::Inode* lower, const OverlayInode* inode);
  // Keeps a changed inode as long as the root lives.
  void pin(OverlayInode& inode);
  void unpin(OverlayInode& inode);
  void root_gone();

 private:
  memory::MemoryFile& memory_;
  const base::RefPtr<vfs::FileSystem> lower_;
  const abi::DeviceId device_ = vfs::allocate_device();
  std::atomic<uint64_t> next_number_{uint64_t{1} << 40};  // beyond what hosts number their files with
  base::Mutex mu_{base::LockRank::kLeaf};
  std::unordered_map<const vfs::Inode*, OverlayInode*> over_ GUARDED_BY(mu_);
  base::RefPtr<OverlayInode> unmounted_root_ GUARDED_BY(mu_);  // until it is first asked for
  base::WeakRef<OverlayInode> root_ GUARDED_BY(mu_);
  Pins pins_ GUARDED_BY(mu_);
  bool root_alive_ GUARDED_BY(mu_) = false;
};

class OverlayInode final : public vfs::Inode, public memory::PageSource {
 public:
  // Over an inode of the lower layer.
  OverlayInode(OverlayFs& fs, base::RefPtr<vfs::Inode> lower);
  // Something new.
  OverlayInode(OverlayFs& fs, const vfs::CreateArgs& args, int64_t now, std::string target);
  ~OverlayInode() override;

  creds::InodeOwner owner() const override;
  base::Result<vfs::Stat> stat(vfs::OpContext& ctx) override;
  uint64_t number() const override { return number_; }
  bool tells_changes() const override { return Inode::tells_changes() && !grows_unseen_.load(std::memory_order_acquire); }
  bool tells_content() const override { return Inode::tells_changes() && !changes_unseen_.load(std::memory_order_acquire); }
  Reading reading() const override { return Inode::tells_changes() ? Reading::kNeverChangesIt : Reading::kChangesIt; }
  bool may_be_written_in_place() const override { return Inode::tells_changes(); }
  base::Result<void> set_attr(vfs::OpContext& ctx, const vfs::SetAttr& attr) override;
  base::Result<base::RefPtr<vfs::Inode>> lookup(vfs::OpContext& ctx, std::string_view name) override;
  vfs::Stat stat_over(vfs::Stat s) const;
  std::optional<vfs::Stat> peek(vfs::OpContext& ctx, std::string_view name) override;
  void peek_names(vfs::OpContext& ctx, std::string_view after, size_t most, NameSink sink) override;
  std::vector<base::RefPtr<vfs::Inode>> lookup_chain(vfs::OpContext& ctx, std::span<const std::string_view> names) override;
  base::Result<base::RefPtr<vfs::Inode>> create(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) override;
  base::Result<base::RefPtr<vfs::Inode>> mkdir(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) override;
  base::Result<base::RefPtr<vfs::Inode>> mknod(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) override;
  base::Result<base::RefPtr<vfs::Inode>> symlink(vfs::OpContext& ctx, std::string_view name, std::string_view target,
                                                 const vfs::CreateArgs& args) override;
  base::Result<base::RefPtr<vfs::Inode>> tmpfile(vfs::OpContext& ctx, const vfs::CreateArgs& args) override;
  base::Result<void> link(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) override;
  base::Result<void> unlink(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) override;
  base::Result<void> rmdir(vfs::OpContext& ctx, std::string_view name, vfs::Inode& target) override;
  base::Result<void> rename(vfs::OpContext& ctx, std::string_view old_name, vfs::Inode& moved, vfs::Inode& new_dir,
                            std::string_view new_name, vfs::Inode* replaced, uint32_t flags) override;
  base::Result<std::string> readlink(vfs::OpContext& ctx) override;
  base::Result<base::RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) override;
  base::Result<std::string> get_xattr(vfs::OpContext& ctx, std::string_view name) override;
  base::Result<void> set_xattr(vfs::OpContext& ctx, std::string_view name, std::string_view value, vfs::XattrSetMode mode) override;
  base::Result<std::vector<std::string>> list_xattr(vfs::OpContext& ctx) override;
  base::Result<void> remove_xattr(vfs::OpContext& ctx, std::string_view name) override;

  struct Entry {
    std::string name;
    uint64_t inode = 0;
    uint8_t type = 0;  // DT_*
  };
  // A directory in which no name was changed.
  bool is_as_below() const;
  // The merged names, without "." and "..".
  base::Result<std::vector<Entry>> list(vfs::OpContext& ctx);

  // Of open files. Null until the file was opened for writing.
  base::RefPtr<memory::PageCache> data() const;
  // Its data is mapped: pages come, and are counted by stat(), without a call; and may be written to.
  void note_mapping();
  base::Result<size_t> read_data(vfs::OpContext& ctx, memory::PageCache& data, vfs::IoBuffer& dst, uint64_t offset);
  base::Result<size_t> write_data(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset);
  base::Result<void> fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length);
  // A description of the lower file or directory, for reading.
  base::Result<base::RefPtr<vfs::FileDescription>> open_lower(vfs::OpContext& ctx);
  bool has_lower() const { return lower_ != nullptr; }
  const vfs::Inode* lower_ptr() const { return lower_.get(); }

  base::Result<size_t> read_pages(uint64_t offset, std::span<uint8_t> dst) override;
  // Changes stay here.
  base::Result<void> write_pages(uint64_t, std::span<const uint8_t>) override { return {}; }

 private:
  friend class OverlayFs;
  struct Change {
    base::RefPtr<OverlayInode> inode;  // null: a whiteout
    bool hides_lower = false;          // the lower directory has this name too
  };
  using Changes = std::map<std::string, Change, std::less<>>;
  using Xattrs = std::map<std::string, std::string, std::less<>>;

  // From here on the attributes are ours.
  base::Result<void> own(vfs::OpContext& ctx);
  base::Result<base::RefPtr<memory::PageCache>> own_data(vfs::OpContext& ctx);
  base::Result<Xattrs> all_xattrs(vfs::OpContext& ctx);
  base::Result<base::RefPtr<vfs::Inode>> add_new(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args,
                                                 std::string target);
  base::Result<void> check_empty(vfs::OpContext& ctx);
  base::Result<void> set_size(vfs::OpContext& ctx, uint64_t size);
  base::Result<void> zero_range(memory::PageCache& data, uint64_t offset, uint64_t end);
  void set_name(std::string_view name, OverlayInode& inode, const vfs::Inode* replaced);
  void remove_name(std::string_view name);
  void touch_directory(int64_t now, int32_t links);
  void add_links(int64_t now, int32_t n);
  void publish_owner_locked() REQUIRES(mu_) { owner_.set({attr_.uid, attr_.gid, attr_.mode}); }
  uint64_t lower_limit() const;

  OverlayFs& overlay_fs() const { return static_cast<OverlayFs&>(fs()); }
  static OverlayInode& as_overlay(vfs::Inode& inode) { return static_cast<OverlayInode&>(inode); }

  const base::RefPtr<vfs::Inode> lower_;  // null for something new
  const uint32_t type_;
  const uint64_t number_;     // st_ino
  const std::string target_;  // of a new symbolic link
  std::atomic<bool> grows_unseen_{false}, changes_unseen_{false};  // through mappings; set once, inside a ChangeScope
  bool is_root_ = false;  // immutable once reachable
  vfs::SleepLock write_lock_;
  mutable base::Mutex mu_{base::LockRank::kInode};
  std::atomic<bool> owned_{false};  // set once, with mu_ held; read without it: until then the lower inode tells
  vfs::PublishedOwner owner_;       // of attr_, when owned_
  vfs::Stat attr_ GUARDED_BY(mu_);  // when owned_; its size only without data_
  Changes changes_ GUARDED_BY(mu_);
  base::RefPtr<vfs::Dentry> lower_dentry_ GUARDED_BY(mu_);           // where the lower one is opened: made by the first open
  base::RefPtr<memory::PageCache> data_ GUARDED_BY(mu_);
  base::RefPtr<vfs::FileDescription> lower_file_ GUARDED_BY(mu_);    // where data_ reads what it lacks
  base::RefPtr<memory::Mappable> lower_pages_ GUARDED_BY(mu_);       // likewise, when lower_ has no page source
  uint64_t lower_limit_ GUARDED_BY(mu_) = 0;                         // bytes of the lower file that still show
  bool xattrs_owned_ GUARDED_BY(mu_) = false;
  Xattrs xattrs_ GUARDED_BY(mu_);
};

class OverlayFile final : public vfs::FileDescription {
 public:
  OverlayFile(vfs::Path path, uint32_t flags, base::RefPtr<vfs::FileDescription> lower);
  base::Result<size_t> pread(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t offset) override;
  base::Result<size_t> pwrite(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset) override;
  base::Result<uint64_t> seek(vfs::OpContext& ctx, int64_t offset, int32_t whence) override;
  bool is_seekable() const override { return true; }
  // Who has it open for writing keeps it from being executed.
  bool closes_later() const override { return inode().fs().tells_changes() && !is_writable(); }
  bool lends_position() const override { return inode().fs().tells_changes(); }
  base::Result<void> fsync(vfs::OpContext&, bool) override { return {}; }
  base::Result<void> fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) override;
  base::Result<base::RefPtr<memory::Mappable>> mappable(vfs::OpContext& ctx) override;
  base::RefPtr<memory::Mappable> pages_to_read(vfs::OpContext& ctx) override;

 private:
  OverlayInode& file() const { return static_cast<OverlayInode&>(inode()); }
  const base::RefPtr<vfs::FileDescription> lower_;  // null when the file had data of its own at open
};

class OverlayDirectory final : public vfs::FileDescription {
 public:
  OverlayDirectory(vfs::Path path, uint32_t flags);
  base::Result<size_t> pread(vfs::OpContext&, vfs::IoBuffer&, uint64_t) override { return base::err(abi::Errno::kEISDIR); }
  base::Result<size_t> read(vfs::OpContext&, vfs::IoBuffer&) override { return base::err(abi::Errno::kEISDIR); }
  base::Result<void> readdir(vfs::OpContext& ctx, vfs::DirSink sink) override;
  bool is_seekable() const override { return true; }
  bool closes_later() const override { return inode().fs().tells_changes(); }
  bool lends_position() const override { return inode().fs().tells_changes(); }
  base::Result<void> fsync(vfs::OpContext&, bool) override { return {}; }

 private:
  OverlayInode& dir() const { return static_cast<OverlayInode&>(inode()); }
  base::Result<void> list_below(vfs::OpContext& ctx, uint64_t& at, vfs::DirSink sink);
  uint64_t number_of_parent(vfs::OpContext& ctx);

  // With offset_lock_ held: a snapshot taken at the first read and again after a rewind. Of a directory that is as below
  // it is the one that `below_` keeps.
  bool listed_ = false;
  base::RefPtr<vfs::FileDescription> below_;
  std::vector<OverlayInode::Entry> entries_;
};

}  // namespace sentry::fs::overlay
