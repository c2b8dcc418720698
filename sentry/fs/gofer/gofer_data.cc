// SPDX-License-Identifier: Apache-2.0
// Bytes: donated descriptors, reads and writes, the page cache of mapped files.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/host/host_error.h"
#include "base/stats/stats.h"
#include "sentry/fs/gofer/gofer_file.h"
#include "sentry/fs/gofer/gofer_inode.h"

namespace sentry::fs::gofer {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxSegments = 64;
constexpr size_t kBounce = 64 * 1024;
constexpr uint64_t kMaxOffset = INT64_MAX;

base::Err host_error() { return err(base::guest_errno_from_host(errno)); }

// One preadv2 or pwritev2 on host-addressable pieces of a guest's buffer.
template <typename Call>
Result<size_t> transfer(std::span<const memory::HostSegment> segments, uint64_t offset, Call call) {
  std::array<iovec, kMaxSegments> iov;
  size_t n = std::min(segments.size(), kMaxSegments);
  for (size_t i = 0; i < n; ++i) iov[i] = {segments[i].data, segments[i].len};
  for (;;) {
    ssize_t done = call(iov.data(), static_cast<int>(n), static_cast<off_t>(offset));
    if (done >= 0) return static_cast<size_t>(done);
    if (errno != EINTR) return host_error();
  }
}

}  // namespace

RefPtr<memory::PageCache> GoferInode::cache() const {
  base::MutexLock lock(mu_);
  return cache_;
}

Result<RefPtr<HostFd>> GoferInode::host_fd(bool write) {
  {
    base::MutexLock lock(mu_);
    if (write_fd_) return write_fd_;
    if (!write && read_fd_) return read_fd_;
  }
  return open_host(write);
}

// Of a file that is known from a listing only: its id and its descriptor in one message. Null when the name leads
// elsewhere now or the file could not be opened.
Result<RefPtr<HostFd>> GoferInode::walk_and_open(bool write) {
  {
    base::MutexLock lock(mu_);
    if (!ids_.empty()) return RefPtr<HostFd>();
  }
  if (!write) {
    if (RefPtr<HostFd> opened = open_many()) return opened;
  }
  auto answer = TRY(walk({}, write ? vfs::kO_RDWR : vfs::kO_RDONLY));
  if (!answer.fd) return RefPtr<HostFd>();
  return base::make_ref<HostFd>(std::move(answer.fd));
}

// This file, which a listing showed, and those that follow it: there, and where a walk through the tree comes next as far as listings
// are known. Null when it is not to be had like that.
RefPtr<HostFd> GoferInode::open_many() {
  if (gofer_fs().shared()) return nullptr;
  RefPtr<GoferInode> parent;
  std::string name;
  {
    base::MutexLock lock(mu_);
    parent = parent_;
    name = name_;
  }
  RefPtr<Listing> above = parent ? gofer_fs().current_listing(parent->key_) : nullptr;
  const size_t here = above ? above->find(name) : Listing::kNpos;
  if (here == Listing::kNpos) return nullptr;
  if (RefPtr<HostFd> ready = gofer_fs().take_opened_ahead(key_, parent->key_, here)) return ready;
  const uint32_t window = gofer_fs().open_window(parent->key_, *above, here);
  if (window < 2) return nullptr;
  OpenAhead ahead(gofer_fs(), window);
  if (!ahead.begin(*parent, std::move(above)) || !ahead.collect(here)) return nullptr;
  auto answer = gofer_fs().client().call(ahead.request());
  if (!answer) return nullptr;
  RefPtr<HostFd> mine;
  for (size_t i = 0; i < answer->fds.size(); ++i) {
    const FileKey key{answer->reply.opened[i].device, answer->reply.opened[i].inode};
    auto fd = base::make_ref<HostFd>(std::move(answer->fds[i]));
    if (key == key_) mine = std::move(fd);
    else gofer_fs().keep_opened_ahead(key, std::move(fd));
  }
  return mine;
}

Result<RefPtr<HostFd>> GoferInode::open_host(bool write) {
  auto result = try_open_host(write);
  if (!result && result.error() == kENFILE && gofer_fs().close_idle_descriptors()) result = try_open_host(write);
  if (!result) return result;
  {
    base::MutexLock lock(mu_);
    (write ? write_fd_ : read_fd_) = *result;
  }
  gofer_fs().note_descriptor(*this);
  return result;
}

Result<RefPtr<HostFd>> GoferInode::try_open_host(bool write) {
  std::vector<wire::FileId> ids;
  RefPtr<HostFd> opened = TRY(walk_and_open(write));
  if (!opened) TRY(id());
  {
    base::MutexLock lock(mu_);
    ids = ids_;
  }
  // The newest name first; an older one helps when that has been removed.
  Result<RefPtr<HostFd>> result = err(kESTALE);
  if (opened) result = opened;
  for (auto it = ids.rbegin(); it != ids.rend() && !result; ++it) {
    wire::OpenRequest request;
    request.id = *it;
    request.flags = write ? vfs::kO_RDWR : vfs::kO_RDONLY;
    auto answer = gofer_fs().client().call(request);
    if (answer) result = base::make_ref<HostFd>(std::move(answer->fd));
    else result = err(answer.error());
    if (!result && result.error() != kESTALE && result.error() != kENOENT) break;
  }
  return result;
}

bool GoferInode::close_idle_descriptors() {
  RefPtr<HostFd> read, write;
  RefPtr<memory::HostFileMap> map;
  base::MutexLock lock(mu_);
  if (host_map_ && host_map_->has_one_ref()) std::swap(map, host_map_);  // which has the descriptor too
  const bool dirty_pages = cache_ && write_fd_;  // they could not be written back otherwise
  if (descriptions_.load(std::memory_order_relaxed) != 0 || dirty_pages || attr_.nlink == 0) return read_fd_ || write_fd_;
  std::swap(read, read_fd_);
  std::swap(write, write_fd_);
  return false;
}

void GoferInode::description_closed() { descriptions_.fetch_sub(1, std::memory_order_relaxed); }

Result<uint64_t> GoferInode::size() {
  if (gofer_fs().shared()) update(TRY(fresh_attr(AskFor::kSizeAndTimes)));
  base::MutexLock lock(mu_);
  return attr_.size;
}

Result<size_t> GoferInode::read(vfs::IoBuffer& dst, uint64_t offset) {
  if (offset > kMaxOffset) return err(kEINVAL);
  RefPtr<memory::PageCache> cache = this->cache();
  if (cache && cache->has_pages(offset, dst.remaining())) {
    return cache->read(offset, dst.remaining(), [&](std::span<const uint8_t> bytes) { return dst.put(bytes.data(), bytes.size()); });
  }
  RefPtr<HostFd> fd = TRY(host_fd(false));
  size_t total = 0;
  while (dst.remaining() != 0) {
    size_t asked = 0;
    auto done = dst.with_segments(dst.remaining(), memory::Access::kWrite, [&](std::span<const memory::HostSegment> segments) {
      for (const memory::HostSegment& s : segments.first(std::min(segments.size(), kMaxSegments))) asked += s.len;
      return transfer(segments, offset + total,
                      [&](const iovec* iov, int n, off_t at) {
                        base::stats::count(base::stats::Counter::kHostReads);
                        return preadv2(fd->get(), iov, n, at, 0);
                      });
    });
    if (!done) return total != 0 ? Result<size_t>(total) : err(done.error());
    total += *done;
    if (*done < asked) break;
  }
  return total;
}

void GoferInode::grown_to(uint64_t size) {
  RefPtr<memory::PageCache> cache;
  {
    base::MutexLock lock(mu_);
    attr_.size = std::max(attr_.size, size);
    attr_.mode &= attr_.mode & 010 ? ~uint32_t{06000} : ~uint32_t{04000};  // what the host did to a set-id file
    owner_.set(owner_locked());
    stale_ = true;
    cache = cache_;
  }
  if (cache && cache->size() < size) cache->set_size(size);
  gofer_fs().changed();
}

// Both the host file and the cached pages, through a buffer of ours: the guest's bytes are read once.
Result<size_t> GoferInode::write_through(vfs::IoBuffer& src, uint64_t offset, HostFd& fd, memory::PageCache& cache) {
  std::vector<uint8_t> bounce(std::min(src.remaining(), kBounce));
  size_t total = 0;
  while (src.remaining() != 0) {
    auto got = src.get(bounce.data(), bounce.size());
    if (!got) return total != 0 ? Result<size_t>(total) : got;
    ssize_t n;
    do {
      n = ::pwrite(fd.get(), bounce.data(), *got, static_cast<off_t>(offset + total));
    } while (n < 0 && errno == EINTR);
    if (n < 0) return total != 0 ? Result<size_t>(total) : host_error();
    size_t done = static_cast<size_t>(n);
    if (cache.has_pages(offset + total, done)) {
      size_t copied = 0;
      TRY(cache.write(offset + total, done, [&](std::span<uint8_t> to) -> Result<size_t> {
        std::memcpy(to.data(), bounce.data() + copied, to.size());
        copied += to.size();
        return to.size();
      }));
    }
    total += done;
    if (done < *got || *got < bounce.size()) break;
  }
  return total;
}

Result<size_t> GoferInode::write(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset) {
  vfs::SleepGuard guard(ctx, write_lock_);
  if (offset == vfs::FileDescription::kAtEnd) offset = TRY(size());
  if (offset > kMaxOffset - src.remaining()) return err(kEFBIG);
  RefPtr<HostFd> fd = TRY(host_fd(true));
  RefPtr<memory::PageCache> cache = this->cache();
  Result<size_t> result = size_t{0};
  if (cache && cache->pages() != 0) {
    result = write_through(src, offset, *fd, *cache);
  } else {
    size_t total = 0;
    while (src.remaining() != 0) {
      size_t asked = 0;
      auto done = src.with_segments(src.remaining(), memory::Access::kRead, [&](std::span<const memory::HostSegment> segments) {
        for (const memory::HostSegment& s : segments.first(std::min(segments.size(), kMaxSegments))) asked += s.len;
        return transfer(segments, offset + total,
                        [&](const iovec* iov, int n, off_t at) {
                          base::stats::count(base::stats::Counter::kHostWrites);
                          return pwritev2(fd->get(), iov, n, at, 0);
                        });
      });
      if (!done) {
        if (total == 0) return done;
        break;
      }
      total += *done;
      if (*done < asked) break;
    }
    result = total;
  }
  if (result && *result != 0) grown_to(offset + *result);
  return result;
}

Result<void> GoferInode::set_size(vfs::OpContext& ctx, uint64_t size) {
  vfs::SleepGuard guard(ctx, write_lock_);
  if (size > kMaxOffset) return err(kEFBIG);
  RefPtr<HostFd> fd;
  {
    base::MutexLock lock(mu_);
    fd = write_fd_;
  }
  if (fd) {
    if (ftruncate(fd->get(), static_cast<off_t>(size)) != 0) return host_error();
  } else {
    wire::SetAttrRequest request;
    request.id = TRY(id());
    request.set.mask = wire::SetAttr::kSize;
    request.set.size = size;
    update(TRY(gofer_fs().client().call(request)).reply.attr);
  }
  RefPtr<memory::PageCache> cache;
  {
    base::MutexLock lock(mu_);
    attr_.size = size;
    stale_ = true;
    cache = cache_;
  }
  if (cache) cache->set_size(size);
  gofer_fs().changed();
  return {};
}

Result<void> GoferInode::fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) {
  constexpr uint32_t kKeepSize = 1, kPunchHole = 2, kZeroRange = 0x10;
  if ((mode & ~(kKeepSize | kPunchHole | kZeroRange)) != 0) return err(kEOPNOTSUPP);
  if (offset > kMaxOffset || length > kMaxOffset - offset) return err(kEFBIG);
  vfs::SleepGuard guard(ctx, write_lock_);
  RefPtr<HostFd> fd = TRY(host_fd(true));
  RefPtr<memory::PageCache> cache = this->cache();
  // Dirty pages of the range go first, so that they do not come back over the hole.
  if (cache) TRY(cache->sync(offset, length));
  while (::fallocate(fd->get(), static_cast<int>(mode), static_cast<off_t>(offset), static_cast<off_t>(length)) != 0) {
    if (errno != EINTR) return host_error();
  }
  if (cache && (mode & (kPunchHole | kZeroRange))) cache->punch_hole(offset, length);
  if (mode & kKeepSize) {
    gofer_fs().changed();
    base::MutexLock lock(mu_);
    stale_ = true;
    return {};
  }
  grown_to(offset + length);
  return {};
}

Result<void> GoferInode::write_back() {
  RefPtr<memory::PageCache> cache;
  {
    base::MutexLock lock(mu_);
    if (!write_fd_ || !cache_) return {};  // nothing can have been changed through a mapping
    cache = cache_;
  }
  return cache->sync(0, ~uint64_t{0});
}

Result<void> GoferInode::fsync(bool data_only) {
  if (type_ == abi::kS_IFDIR) {
    wire::FsyncRequest request;
    request.id = TRY(id());
    TRY(gofer_fs().client().call(request));
    return {};
  }
  TRY(write_back());
  RefPtr<HostFd> fd = TRY(host_fd(false));
  if ((data_only ? ::fdatasync(fd->get()) : ::fsync(fd->get())) != 0) return host_error();
  return {};
}

Result<RefPtr<memory::Mappable>> GoferInode::mapping() {
  {
    base::MutexLock lock(mu_);
    if (host_map_) return RefPtr<memory::Mappable>(host_map_);
  }
  RefPtr<HostFd> fd = TRY(host_fd(false));
  uint64_t size = TRY(this->size());
  if (gofer_fs().immutable()) {
    // The host's own pages, where it can map them; else copies.
    if (auto map = memory::HostFileMap::create(gofer_fs().memory(), fd, size)) {
      base::MutexLock lock(mu_);
      if (!host_map_ && !cache_) host_map_ = *map;
      if (host_map_) return RefPtr<memory::Mappable>(host_map_);
    }
  }
  RefPtr<memory::PageCache> cache = this->cache();
  if (!cache) {
    auto fresh = base::make_ref<memory::PageCache>(gofer_fs().memory(), memory::MemoryKind::kPageCache, this,
                                                   gofer_fs().immutable());
    fresh->set_size(size);
    base::MutexLock lock(mu_);
    if (!cache_) cache_ = fresh;
    cache = cache_;
  }
  return RefPtr<memory::Mappable>(cache);
}

Result<size_t> GoferInode::read_pages(uint64_t offset, std::span<uint8_t> dst) {
  RefPtr<HostFd> fd = TRY(host_fd(false));
  size_t total = 0;
  while (total < dst.size()) {
    base::stats::count(base::stats::Counter::kHostReads);
    ssize_t n = ::pread(fd->get(), dst.data() + total, dst.size() - total, static_cast<off_t>(offset + total));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return host_error();
    if (n == 0) break;
    total += static_cast<size_t>(n);
  }
  return total;
}

Result<void> GoferInode::write_pages(uint64_t offset, std::span<const uint8_t> src) {
  RefPtr<HostFd> fd = TRY(host_fd(true));
  for (size_t total = 0; total < src.size();) {
    base::stats::count(base::stats::Counter::kHostWrites);
    ssize_t n = ::pwrite(fd->get(), src.data() + total, src.size() - total, static_cast<off_t>(offset + total));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return host_error();
    total += static_cast<size_t>(n);
  }
  base::MutexLock lock(mu_);
  stale_ = true;
  return {};
}

// Open files.

GoferFile::GoferFile(vfs::Path path, uint32_t flags)
    : FileDescription(std::move(path), flags) {}

GoferFile::~GoferFile() {
  if (is_writable()) (void)file().write_back();
  file().description_closed();
}

Result<size_t> GoferFile::pread(vfs::OpContext&, vfs::IoBuffer& dst, uint64_t offset) { return file().read(dst, offset); }

Result<size_t> GoferFile::pwrite(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset) {
  return file().write(ctx, src, offset);
}

Result<void> GoferFile::fsync(vfs::OpContext&, bool data_only) { return file().fsync(data_only); }

Result<void> GoferFile::fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) {
  return file().fallocate(ctx, mode, offset, length);
}

Result<RefPtr<memory::Mappable>> GoferFile::mappable(vfs::OpContext&) { return file().mapping(); }

GoferDirectory::GoferDirectory(vfs::Path path, uint32_t flags)
    : FileDescription(std::move(path), flags) {}

Result<void> GoferDirectory::readdir(vfs::OpContext& ctx, vfs::DirSink sink) {
  vfs::SleepGuard guard(ctx, offset_lock_);
  RefPtr<Listing> listing;
  {
    base::MutexLock lock(mu_);
    listing = listing_;
  }
  uint64_t at = offset();
  if (!listing || at == 0) {
    listing = TRY(dir().listing());
    base::MutexLock lock(mu_);
    listing_ = listing;
  }
  for (; at < listing->size() + 2; ++at) {
    vfs::DirEntryInfo info;
    info.next_offset = at + 1;
    if (at < 2) {
      info.name = at == 0 ? "." : "..";
      RefPtr<vfs::Dentry> parent = path().dentry->parent();
      info.inode = at == 1 && parent ? TRY(parent->inode_ptr()->stat(ctx)).inode : dir().number();
      info.type = abi::kS_IFDIR >> 12;
    } else {
      const wire::PackedEntry e = listing->entry(at - 2);
      info.name = e.name;
      info.inode = number_for(e.attr, dir().gofer_fs().root_device());
      info.type = static_cast<uint8_t>((e.attr.mode & abi::kS_IFMT) >> 12);
    }
    if (!sink(info)) break;
  }
  offset_.store(at, std::memory_order_relaxed);
  return {};
}

Result<void> GoferDirectory::fsync(vfs::OpContext&, bool data_only) { return dir().fsync(data_only); }

}  // namespace sentry::fs::gofer
