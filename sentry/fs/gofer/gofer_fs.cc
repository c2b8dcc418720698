// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/gofer/gofer_fs.h"

#include "sentry/fs/gofer/gofer_inode.h"

namespace sentry::fs::gofer {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {
constexpr size_t kListingBytes = 32 << 20;  // kept for the stats that follow: some 300,000 entries
constexpr uint32_t kMinTreeWindow = 64;
constexpr size_t kDescriptors = 4096;                       // kept of files that nobody has open
constexpr size_t kMaxOpenedAhead = 2 * wire::kMaxOpenMany;
// Of one message: more save little, and who reads what is opened runs dry while the gofer is at work for long.
constexpr uint32_t kMostAtOnce = 8;
constexpr int kScan = 8;                                    // per new one, so that no open is slow
}  // namespace

Result<RefPtr<vfs::FileSystem>> create(memory::MemoryFile& memory, RefPtr<::gofer::Client> client, uint32_t tree,
                                       Sharing sharing, Use use) {
  wire::AttachRequest attach;
  attach.tree = tree;
  auto root = TRY(client->call(attach));
  return RefPtr<vfs::FileSystem>(base::make_ref<GoferFs>(memory, std::move(client), sharing, use, root.reply.file));
}

GoferFs::GoferFs(memory::MemoryFile& memory, RefPtr<wire::Client> client, Sharing sharing, Use use, wire::File root)
    : memory_(memory), client_(std::move(client)), sharing_(sharing), use_(use), root_file_(std::move(root)) {}

GoferFs::~GoferFs() {
  client_->drop(root_file_.id);
  client_->flush_drops();
}

// Found or made on demand, as an inode holds its file system.
abi::DeviceId GoferFs::device_of(uint64_t host_device) {
  if (host_device == root_device()) return device();
  return devices_.with([&](auto& known) {
    for (auto& [host, ours] : known)
      if (host == host_device) return ours;
    return known.emplace_back(host_device, vfs::allocate_device()).second;
  });
}

RefPtr<vfs::Inode> GoferFs::root() {
  return inode_of(root_file_);
}

Result<vfs::StatFs> GoferFs::statfs(vfs::OpContext&) {
  wire::StatFsRequest request;
  request.id = root_file_.id;
  auto s = TRY(client_->call(request)).reply.statfs;
  return vfs::StatFs{.type = s.type,
                     .block_size = s.block_size,
                     .blocks = s.blocks,
                     .blocks_free = s.blocks_free,
                     .blocks_available = s.blocks_available,
                     .files = s.files,
                     .files_free = s.files_free,
                     .name_length = s.name_length,
                     .fsid = device_.encoded()};
}

Result<void> GoferFs::sync() {
  std::vector<RefPtr<GoferInode>> all;
  {
    base::MutexLock lock(mu_);
    all.reserve(inodes_.size());
    for (auto& [key, inode] : inodes_) {
      if (inode->try_ref()) all.push_back(RefPtr<GoferInode>::adopt(inode));
    }
  }
  Result<void> result;
  for (auto& inode : all) {
    auto done = inode->write_back();
    if (!done) result = done;
  }
  return result;
}

RefPtr<GoferInode> GoferFs::inode_of(const wire::File& file) {
  FileKey key{file.attr.device, file.attr.inode};
  RefPtr<GoferInode> inode;
  bool known = false;
  RefPtr<GoferInode> fresh;
  {
    base::MutexLock lock(mu_);
    auto it = inodes_.find(key);
    if (it != inodes_.end() && it->second->is_same(file) && it->second->try_ref()) {
      inode = RefPtr<GoferInode>::adopt(it->second);
      known = true;
    }
  }
  if (!inode) {
    fresh = base::make_ref<GoferInode>(*this, file.attr, file.link_target);
    base::MutexLock lock(mu_);
    auto [it, inserted] = inodes_.try_emplace(key, fresh.get());
    if (inserted) count_like_locked(key, 1);
    if (!inserted && it->second->is_same(file) && it->second->try_ref()) {
      inode = RefPtr<GoferInode>::adopt(it->second);  // somebody was faster
      known = true;
    } else {
      it->second = fresh.get();
      inode = fresh;
    }
  }
  if (known) inode->update(file.attr);
  if (file.id != wire::kNoFile) inode->add_id(file.id);
  return inode;
}

RefPtr<GoferInode> GoferFs::inode_of(const wire::PackedEntry& entry, GoferInode& parent) {
  wire::File file{.id = wire::kNoFile, .attr = entry.attr, .link_target = std::string(entry.link_target)};
  RefPtr<GoferInode> inode = inode_of(file);
  inode->set_place(parent, entry.name);
  return inode;
}

void GoferFs::forget(const FileKey& key, const GoferInode* inode) {
  base::MutexLock lock(mu_);
  auto it = inodes_.find(key);
  if (it == inodes_.end() || it->second != inode) return;
  inodes_.erase(it);
  count_like_locked(key, -1);
}

void GoferFs::count_like_locked(const FileKey& key, int by) {
  std::atomic<uint8_t>& count = like_[key.inode % kCounts];
  const uint8_t now = count.load(std::memory_order_relaxed);
  if (now != UINT8_MAX) count.store(static_cast<uint8_t>(now + by), std::memory_order_release);
}

bool GoferFs::has_inode(const FileKey& key) {
  if (like_[key.inode % kCounts].load(std::memory_order_acquire) == 0) return false;
  base::MutexLock lock(mu_);
  return inodes_.contains(key);
}

void GoferFs::drop_listing_locked(const FileKey& directory, std::vector<RefPtr<Listing>>& gone) {
  auto it = listings_.find(directory);
  if (it == listings_.end()) return;
  listing_bytes_ -= it->second.listing->bytes();
  listing_ages_.erase(it->second.age);
  gone.push_back(std::move(it->second.listing));
  listings_.erase(it);
}

void GoferFs::keep_listing(const FileKey& directory, RefPtr<Listing> listing) {
  std::vector<RefPtr<Listing>> gone;
  base::MutexLock lock(mu_);
  drop_listing_locked(directory, gone);
  listing_bytes_ += listing->bytes();
  listing_ages_.push_back(directory);
  listings_.emplace(directory, Kept{std::move(listing), std::prev(listing_ages_.end())});
  while (listing_bytes_ > kListingBytes && listings_.size() > 1) {
    const FileKey oldest = listing_ages_.front();
    drop_listing_locked(oldest, gone);
  }
}

void GoferFs::drop_listing(const FileKey& directory) {
  std::vector<RefPtr<Listing>> gone;
  base::MutexLock lock(mu_);
  drop_listing_locked(directory, gone);
}

RefPtr<Listing> GoferFs::current_listing(const FileKey& directory) {
  std::vector<RefPtr<Listing>> gone;
  base::MutexLock lock(mu_);
  auto it = listings_.find(directory);
  if (it == listings_.end()) return nullptr;
  if (it->second.listing->epoch != epoch()) {
    drop_listing_locked(directory, gone);
    return nullptr;
  }
  listing_ages_.splice(listing_ages_.end(), listing_ages_, it->second.age);
  return it->second.listing;
}

uint32_t GoferFs::widen_tree_window() {
  const uint32_t now = tree_window_.load(std::memory_order_relaxed);
  tree_window_.store(std::min<uint32_t>(now * 2, wire::kMaxEntries), std::memory_order_relaxed);
  return now;
}

void GoferFs::narrow_tree_window() {
  const uint32_t now = tree_window_.load(std::memory_order_relaxed);
  tree_window_.store(std::max(now / 2, kMinTreeWindow), std::memory_order_relaxed);
}

// In order: the first regular file of a directory, or the one that follows what was opened last. Each such message opens twice
// as many as the one before; descriptors that nobody came for halve it.
uint32_t GoferFs::open_window(const FileKey& directory, const Listing& listing, size_t place) {
  std::deque<std::pair<FileKey, RefPtr<HostFd>>> unused;
  base::MutexLock lock(mu_);
  size_t next = directory == last_opened_in_ ? last_opened_ + 1 : 0;
  while (next < place && !worth_opening_ahead(listing.entry(next))) ++next;
  last_opened_in_ = directory;
  last_opened_ = place;
  if (opened_ahead_.size() * 4 > open_window_) {
    open_window_ = std::max<uint32_t>(open_window_ / 2, 1);
    unused.swap(opened_ahead_);
  } else if (next == place) {
    open_window_ = std::min(open_window_ * 2, kMostAtOnce);
  }
  return next == place ? open_window_ : 1;
}

void GoferFs::keep_opened_ahead(const FileKey& file, RefPtr<HostFd> fd) {
  std::pair<FileKey, RefPtr<HostFd>> oldest;
  base::MutexLock lock(mu_);
  opened_ahead_.emplace_back(file, std::move(fd));
  if (opened_ahead_.size() <= kMaxOpenedAhead) return;
  oldest = std::move(opened_ahead_.front());
  opened_ahead_.pop_front();
}

RefPtr<HostFd> GoferFs::take_opened_ahead(const FileKey& file, const FileKey& directory, size_t place) {
  base::MutexLock lock(mu_);
  for (auto it = opened_ahead_.begin(); it != opened_ahead_.end(); ++it) {
    if (it->first != file) continue;
    RefPtr<HostFd> fd = std::move(it->second);
    opened_ahead_.erase(it);
    last_opened_in_ = directory;
    last_opened_ = place;
    return fd;
  }
  return nullptr;
}

void GoferFs::note_descriptor(GoferInode& inode) {
  std::vector<base::WeakRef<GoferInode>> candidates;
  {
    base::MutexLock lock(mu_);
    with_descriptors_.emplace_back(inode);
    for (int i = 0; i < kScan && with_descriptors_.size() > kDescriptors; ++i) {
      candidates.push_back(std::move(with_descriptors_.front()));
      with_descriptors_.pop_front();
    }
  }
  for (auto& weak : candidates) {
    RefPtr<GoferInode> other = weak.lock();
    if (!other || !other->close_idle_descriptors()) continue;
    base::MutexLock lock(mu_);
    with_descriptors_.push_back(std::move(weak));
  }
}

bool GoferFs::close_idle_descriptors() {
  std::deque<base::WeakRef<GoferInode>> all;
  {
    base::MutexLock lock(mu_);
    all.swap(with_descriptors_);
  }
  bool closed = false;
  for (auto& weak : all) {
    RefPtr<GoferInode> inode = weak.lock();
    if (!inode) continue;
    if (!inode->close_idle_descriptors()) {
      closed = true;
      continue;
    }
    base::MutexLock lock(mu_);
    with_descriptors_.push_back(std::move(weak));
  }
  return closed;
}

}  // namespace sentry::fs::gofer
