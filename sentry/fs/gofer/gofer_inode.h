// SPDX-License-Identifier: Apache-2.0
// Inside of the gofer file system.
//
// An inode is a host file, found by device and number, so that hard links share one inode. What it caches:
// attributes (kept current by our own changes when the tree is exclusive), donated descriptors, and for mapped files a
// page cache. The file system keeps the listings of directories for a while, from which the stats that usually follow a
// listing are answered without a message and, when nobody has the file open, without an inode.
//
// Data goes directly between guest memory and the donated descriptor, except where pages are cached because
// something maps them: those are read from the cache and written to both.
//
// Locks:
//   write_lock_ (sleeping): writes and size changes of one file, as Linux's inode lock
//     GoferInode::mu_ (kInode): what is cached of one file; never held over a message
//       GoferFs::mu_ (kLeaf): the tables
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/host/shared_fd.h"
#include "gofer/proto/packed_list.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/memory/host_file_map.h"
#include "sentry/memory/page_cache.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/published_owner.h"

namespace sentry::fs::gofer {

namespace wire = ::gofer;

class GoferInode;

// Numbers of several host file systems meet in one of ours: mount points inside a tree.
uint64_t number_for(const wire::Attr& attr, uint64_t root_device);

struct FileKey {
  uint64_t device = 0, inode = 0;
  friend bool operator==(const FileKey&, const FileKey&) = default;
};
struct FileKeyHash {
  size_t operator()(const FileKey& k) const { return (k.inode ^ k.device << 40) * 0x9e3779b97f4a7c15; }
};

// A donated descriptor; readers hold a reference while it may be taken out of the inode's cache.
using HostFd = base::SharedFd;

// All entries of one directory as of `epoch`, as they came over the wire. Immutable after add() and finish().
class Listing final : public base::RefCounted {
 public:
  Listing(uint64_t device, uint64_t epoch) : epoch(epoch), device_(device) {}
  const uint64_t epoch;
  void add(const wire::DirEntry& entry);
  // From a ReadTree; its entries have been checked.
  void add(const wire::TreeList& list);
  void finish();
  size_t size() const { return at_.size(); }
  size_t bytes() const { return sizeof *this + packed_.capacity() + (at_.capacity() + slots_.capacity()) * sizeof(uint32_t); }
  wire::PackedEntry entry(size_t i) const;  // views into the listing
  // Npos when there is no such name.
  static constexpr size_t kNpos = ~size_t{0};
  size_t find(std::string_view name) const;

 private:
  std::string_view name_at(uint32_t at) const;

  const uint64_t device_;
  std::string packed_;
  std::vector<uint32_t> at_;     // where each entry starts
  std::vector<uint32_t> slots_;  // hash table of entry numbers + 1; empty when there are few
};

// Those without contents are rarely opened by who has seen their size.
inline bool worth_opening_ahead(const wire::PackedEntry& e) { return (e.attr.mode & abi::kS_IFMT) == abi::kS_IFREG && e.attr.size != 0; }

class GoferFs final : public vfs::FileSystem {
 public:
  GoferFs(memory::MemoryFile& memory, base::RefPtr<wire::Client> client, Sharing sharing, Use use, wire::File root);
  ~GoferFs() override;
  std::string_view type() const override { return "gofer"; }
  base::RefPtr<vfs::Inode> root() override;
  abi::DeviceId device() const override { return device_; }
  base::Result<vfs::StatFs> statfs(vfs::OpContext& ctx) override;
  base::Result<void> sync() override;
  bool revalidates() const override { return sharing_ == Sharing::kShared; }

  wire::Client& client() const { return *client_; }
  memory::MemoryFile& memory() const { return memory_; }
  bool shared() const { return sharing_ == Sharing::kShared; }
  bool immutable() const { return use_ == Use::kLowerLayer && sharing_ == Sharing::kExclusive; }
  uint64_t root_device() const { return root_file_.attr.device; }
  // st_dev of files of a host device: ours for that of the root, one more for each that is mounted somewhere in the tree, so
  // that `find -xdev` and the like stop where they would on the host.
  abi::DeviceId device_of(uint64_t host_device);
  // The reference on it is the file system's, not the root inode's.
  wire::FileId root_id() const { return root_file_.id; }

  // The inode of a file in a reply; takes over the reference on its id (when it has one).
  base::RefPtr<GoferInode> inode_of(const wire::File& file);
  // The same for a listed entry: it gets its id when it needs one, from `parent` and its name.
  base::RefPtr<GoferInode> inode_of(const wire::PackedEntry& entry, GoferInode& parent);
  // Whether there is an inode for it: then that one knows best.
  bool has_inode(const FileKey& key);
  void forget(const FileKey& key, const GoferInode* inode);

  // Any change of ours makes listings old: their attributes may be.
  uint64_t epoch() const { return epoch_.load(std::memory_order_acquire); }
  void changed() { epoch_.fetch_add(1, std::memory_order_acq_rel); }
  void keep_listing(const FileKey& directory, base::RefPtr<Listing> listing);
  void drop_listing(const FileKey& directory);
  // Null when it is not known or no longer true.
  base::RefPtr<Listing> current_listing(const FileKey& directory);
  // How far to read ahead in a tree that seems to be walked: doubled with each such message, halved with each other listing.
  uint32_t widen_tree_window();
  void narrow_tree_window();
  // Files that are opened in the order in which their directory lists them come several in a message. How many this time, when
  // entry `place` of `directory` is opened.
  uint32_t open_window(const FileKey& directory, const Listing& listing, size_t place);
  void keep_opened_ahead(const FileKey& file, base::RefPtr<HostFd> fd);
  // One of those, which is entry `place` of `directory`.
  base::RefPtr<HostFd> take_opened_ahead(const FileKey& file, const FileKey& directory, size_t place);
  // `inode` has got a descriptor: closes idle ones of others when there are too many.
  void note_descriptor(GoferInode& inode);
  // When there are no more: closes all that nobody needs; whether that were any.
  bool close_idle_descriptors();

 private:
  memory::MemoryFile& memory_;
  const base::RefPtr<wire::Client> client_;
  const Sharing sharing_;
  const Use use_;
  const wire::File root_file_;
  const abi::DeviceId device_ = vfs::allocate_device();
  std::atomic<uint64_t> epoch_{1};
  base::Guarded<std::vector<std::pair<uint64_t, abi::DeviceId>>> devices_{base::LockRank::kLeaf};  // device_of()
  base::Mutex mu_{base::LockRank::kLeaf};
  std::unordered_map<FileKey, GoferInode*, FileKeyHash> inodes_ GUARDED_BY(mu_);
  // How many of them have a number like that, so that who asks for one that is not there need not search: of neighbours in a directory
  // the counts are neighbours too. Written with mu_; 255 stays.
  static constexpr size_t kCounts = 1 << 15;
  std::array<std::atomic<uint8_t>, kCounts> like_ = {};
  void count_like_locked(const FileKey& key, int by) REQUIRES(mu_);
  struct Kept {
    base::RefPtr<Listing> listing;
    std::list<FileKey>::iterator age;
  };
  void drop_listing_locked(const FileKey& directory, std::vector<base::RefPtr<Listing>>& gone) REQUIRES(mu_);
  std::unordered_map<FileKey, Kept, FileKeyHash> listings_ GUARDED_BY(mu_);
  std::list<FileKey> listing_ages_ GUARDED_BY(mu_);  // the longest unused first
  size_t listing_bytes_ GUARDED_BY(mu_) = 0;
  std::atomic<uint32_t> tree_window_{64};
  std::deque<base::WeakRef<GoferInode>> with_descriptors_ GUARDED_BY(mu_);
  // Opened before they were asked for, the oldest first. Found by identity, which the descriptor keeps from being used again.
  std::deque<std::pair<FileKey, base::RefPtr<HostFd>>> opened_ahead_ GUARDED_BY(mu_);
  uint32_t open_window_ GUARDED_BY(mu_) = 1;
  FileKey last_opened_in_ GUARDED_BY(mu_);
  size_t last_opened_ GUARDED_BY(mu_) = 0;
};

// Collects the files that one OpenMany opens: from one on, as a walk through the tree in the order of its listings meets them.
class OpenAhead {
 public:
  OpenAhead(GoferFs& fs, size_t most) : fs_(fs), most_(most) {}
  // Finds the nearest directory from `directory` upwards that has an id. False: too far.
  bool begin(GoferInode& directory, base::RefPtr<Listing> listing);
  // From entry `first` of it. False: it is alone.
  bool collect(size_t first);
  const wire::OpenManyRequest& request() const { return request_; }

 private:
  // From entry `first` of a listing of the directory that `at_` names on, and below.
  void take(const Listing& listing, size_t first);
  bool is_full() const { return request_.files.size() >= most_ || looked_at_ >= kMostLooked; }

  static constexpr size_t kMostLooked = 256;  // entries
  GoferFs& fs_;
  const size_t most_;
  size_t looked_at_ = 0;
  std::vector<std::string> at_;
  std::vector<base::RefPtr<Listing>> above_;  // of the directories that at_ goes through, from the one with the id on
  wire::OpenManyRequest request_;
};

class GoferInode final : public vfs::Inode, public memory::PageSource {
 public:
  GoferInode(GoferFs& fs, const wire::Attr& attr, std::string link_target);
  ~GoferInode() override;

  creds::InodeOwner owner() const override;
  base::Result<vfs::Stat> stat(vfs::OpContext& ctx) override;
  base::Result<void> set_attr(vfs::OpContext& ctx, const vfs::SetAttr& attr) override;
  base::Result<base::RefPtr<vfs::Inode>> lookup(vfs::OpContext& ctx, std::string_view name) override;
  std::optional<vfs::Stat> peek(vfs::OpContext& ctx, std::string_view name) override;
  void peek_names(vfs::OpContext& ctx, std::string_view after, size_t most, NameSink sink) override;
  base::Result<bool> revalidate(vfs::OpContext& ctx, std::string_view name, vfs::Inode* cached) override;
  size_t revalidate_chain(vfs::OpContext& ctx, std::span<const std::string_view> names, std::span<vfs::Inode* const> cached) override;
  std::vector<base::RefPtr<vfs::Inode>> lookup_chain(vfs::OpContext& ctx, std::span<const std::string_view> names) override;
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
  base::Result<std::string> readlink(vfs::OpContext& ctx) override;
  base::Result<base::RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) override;
  base::Result<std::string> get_xattr(vfs::OpContext& ctx, std::string_view name) override;
  base::Result<void> set_xattr(vfs::OpContext& ctx, std::string_view name, std::string_view value, vfs::XattrSetMode mode) override;
  base::Result<std::vector<std::string>> list_xattr(vfs::OpContext& ctx) override;
  base::Result<void> remove_xattr(vfs::OpContext& ctx, std::string_view name) override;
  memory::PageSource* page_source() override { return this; }

  // Of open files.
  base::Result<size_t> read(vfs::IoBuffer& dst, uint64_t offset);
  base::Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset);
  base::Result<void> fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length);
  base::Result<void> fsync(bool data_only);
  base::Result<uint64_t> size();
  base::Result<base::RefPtr<HostFd>> host_fd(bool write);
  base::Result<base::RefPtr<memory::Mappable>> mapping();
  base::Result<base::RefPtr<Listing>> listing();
  void description_opened() { descriptions_.fetch_add(1, std::memory_order_relaxed); }
  void description_closed();
  base::Result<void> write_back();
  uint64_t number() const override { return number_; }
  // Closes its cached descriptors when nothing needs them: whether it still has some.
  bool close_idle_descriptors();

  // Of the file system.
  GoferFs& gofer_fs() const { return static_cast<GoferFs&>(fs()); }
  uint32_t file_type() const { return type_; }
  bool is_same(const wire::Attr& attr) const {
    return key_ == FileKey{attr.device, attr.inode} && type_ == (attr.mode & abi::kS_IFMT);
  }
  // Numbers are used again: a link with another target is another link.
  bool is_same(const wire::File& file) const { return is_same(file.attr) && file.link_target == link_target_; }
  void update(const wire::Attr& attr);
  void add_id(wire::FileId id);
  void set_place(GoferInode& parent, std::string_view name);
  base::Result<wire::FileId> id();

  base::Result<size_t> read_pages(uint64_t offset, std::span<uint8_t> dst) override;
  base::Result<void> write_pages(uint64_t offset, std::span<const uint8_t> src) override;

 private:
  friend class OpenAhead;
  base::RefPtr<memory::PageCache> cache() const;
  // A walk from here. Where this has no id yet it starts at the nearest directory above that has one, and gives ids to all
  // between: the reply is as if it had started here.
  base::Result<wire::Answer<wire::WalkReply>> walk(std::span<const std::string_view> names, uint32_t open_flags = wire::kNoOpen);
  base::Result<wire::WalkReply> walk_one(std::string_view name);
  base::RefPtr<Listing> listing_for_lookup();
  base::Result<base::RefPtr<Listing>> list_tree();
  base::Result<base::RefPtr<HostFd>> walk_and_open(bool write);
  base::RefPtr<HostFd> open_many();
  base::Result<base::RefPtr<vfs::Inode>> adopt_new(base::Result<wire::Answer<wire::FileReply>> answer);
  base::Result<void> set_size(vfs::OpContext& ctx, uint64_t size);
  base::Result<void> remove(std::string_view name, vfs::Inode& target, uint32_t flags);
  base::Result<size_t> write_through(vfs::IoBuffer& src, uint64_t offset, HostFd& fd, memory::PageCache& cache);
  base::Result<base::RefPtr<HostFd>> open_host(bool write);
  base::Result<base::RefPtr<HostFd>> try_open_host(bool write);
  enum class AskFor : uint8_t { kAll, kSizeAndTimes };
  base::Result<wire::Attr> fresh_attr(AskFor what);
  void grown_to(uint64_t size);
  void directory_changed();
  void lost_name();
  creds::InodeOwner owner_locked() const REQUIRES(mu_) { return {abi::KUid(attr_.uid), abi::KGid(attr_.gid), attr_.mode}; }

  const FileKey key_;
  const uint32_t type_;
  const uint64_t number_;
  const std::string link_target_;
  vfs::SleepLock write_lock_;
  std::atomic<int32_t> descriptions_{0};  // no lock: only says whether descriptors are worth keeping
  mutable base::Mutex mu_{base::LockRank::kInode};
  wire::Attr attr_ GUARDED_BY(mu_);
  vfs::PublishedOwner owner_;  // of attr_
  bool stale_ GUARDED_BY(mu_) = false;  // attr_ is older than a change of ours: times and blocks
  std::vector<wire::FileId> ids_ GUARDED_BY(mu_);  // one for each name we know, the last one tried first
  base::RefPtr<GoferInode> parent_ GUARDED_BY(mu_);  // with name_: until there is an id
  std::string name_ GUARDED_BY(mu_);
  base::RefPtr<HostFd> read_fd_ GUARDED_BY(mu_), write_fd_ GUARDED_BY(mu_);
  // What mapping() gives: one of these.
  base::RefPtr<memory::PageCache> cache_ GUARDED_BY(mu_);
  base::RefPtr<memory::HostFileMap> host_map_ GUARDED_BY(mu_);
  uint32_t asked_ GUARDED_BY(mu_) = 0;  // names looked up one by one since there was a listing
};

}  // namespace sentry::fs::gofer
