// SPDX-License-Identifier: Apache-2.0
// Contents of regular files, and open files and directories.
#include <algorithm>
#include <cstring>

#include "sentry/fs/overlay/overlay_inode.h"
#include "sentry/vfs/changes.h"

namespace sentry::fs::overlay {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {
constexpr uint64_t kMaxOffset = INT64_MAX;
constexpr uint64_t page_up(uint64_t n) { return (n + abi::kPageSize - 1) & ~uint64_t{abi::kPageSize - 1}; }
}  // namespace

RefPtr<memory::PageCache> OverlayInode::data() const {
  if (!owned_.load(std::memory_order_acquire)) return nullptr;  // attributes of its own come first
  base::MutexLock lock(mu_);
  return data_;
}

void OverlayInode::note_mapping() {
  if (changes_unseen_.load(std::memory_order_relaxed)) return;
  vfs::ChangeScope change(vfs::change_word(number_));
  if (!lower_) grows_unseen_.store(true, std::memory_order_release);
  changes_unseen_.store(true, std::memory_order_release);
}

uint64_t OverlayInode::lower_limit() const {
  base::MutexLock lock(mu_);
  return lower_limit_;
}

// Copying up: nothing is copied until a page is needed.
Result<RefPtr<memory::PageCache>> OverlayInode::own_data(vfs::OpContext& ctx) {
  if (auto known = data()) return known;
  if (type_ != abi::kS_IFREG) return err(kEINVAL);
  TRY(own(ctx));
  RefPtr<vfs::FileDescription> file = TRY(open_lower(ctx));
  RefPtr<memory::Mappable> pages;
  if (!lower_->page_source()) pages = TRY(file->mappable(ctx));
  const uint64_t size = TRY(lower_->stat(ctx)).size;
  auto fresh = base::make_ref<memory::PageCache>(overlay_fs().memory(), memory::MemoryKind::kTmpfs, this, false);
  fresh->set_size(size);
  vfs::ChangeScope change(vfs::change_word(number_));
  change.pages_too(number_);
  base::MutexLock lock(mu_);
  if (!data_) {
    lower_file_ = std::move(file);
    lower_pages_ = std::move(pages);
    lower_limit_ = size;
    data_ = std::move(fresh);
  }
  return data_;
}

Result<size_t> OverlayInode::read_pages(uint64_t offset, std::span<uint8_t> dst) {
  RefPtr<memory::Mappable> pages;
  RefPtr<vfs::FileDescription> file;
  uint64_t limit;
  {
    base::MutexLock lock(mu_);
    pages = lower_pages_;
    file = lower_file_;
    limit = lower_limit_;
  }
  if (offset >= limit) return size_t{0};
  dst = dst.first(std::min<uint64_t>(dst.size(), limit - offset));
  if (!pages) return lower_->page_source()->read_pages(offset, dst);
  size_t done = 0;
  while (done < dst.size()) {
    auto range = pages->translate(offset + done, page_up(dst.size() - done), false);
    if (!range) return err(range.error());
    for (uint64_t at = 0; at < range->length && done < dst.size();) {
      auto bytes = overlay_fs().memory().bytes(range->offset + at, range->length - at);
      size_t n = std::min(bytes.size(), dst.size() - done);
      std::memcpy(dst.data() + done, bytes.data(), n);
      at += n;
      done += n;
    }
    overlay_fs().memory().drop_ref(*range);
  }
  return done;
}

Result<size_t> OverlayInode::read_data(vfs::OpContext& ctx, memory::PageCache& data, vfs::IoBuffer& dst, uint64_t offset) {
  const uint64_t size = data.size();
  if (offset >= size) return size_t{0};
  uint64_t length = std::min<uint64_t>(dst.remaining(), size - offset);
  RefPtr<vfs::FileDescription> lower;
  {
    base::MutexLock lock(mu_);
    if (offset < lower_limit_ && length <= lower_limit_ - offset) lower = lower_file_;
  }
  if (lower && !data.has_pages(offset, length)) {
    dst.truncate(length);
    return lower->pread(ctx, dst, offset);
  }
  return data.read(offset, length, [&](std::span<const uint8_t> bytes) { return dst.put(bytes.data(), bytes.size()); });
}

Result<size_t> OverlayInode::write_data(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset) {
  vfs::SleepGuard guard(ctx, write_lock_);
  RefPtr<memory::PageCache> data = TRY(own_data(ctx));
  if (offset == vfs::FileDescription::kAtEnd) offset = data->size();
  if (offset > kMaxOffset - src.remaining()) return err(kEFBIG);
  if (src.remaining() == 0) return size_t{0};
  vfs::ChangeScope change(vfs::change_word(number_));
  if (offset + src.remaining() > data->size()) change.pages_too(number_);
  await_writes_in_place();
  auto done = data->write(offset, src.remaining(), [&](std::span<uint8_t> to) { return src.get(to.data(), to.size()); });
  if (!done) return err(done.error() == kENOMEM ? kENOSPC : done.error());
  const vfs::TimeSpec now = vfs::timespec_of(vfs::write_time());
  base::MutexLock lock(mu_);
  attr_.mtime = attr_.ctime = now;
  return done;
}

Result<void> OverlayInode::set_size(vfs::OpContext& ctx, uint64_t size) {
  if (type_ == abi::kS_IFDIR) return err(kEISDIR);
  if (size > kMaxOffset) return err(kEFBIG);
  vfs::SleepGuard guard(ctx, write_lock_);
  RefPtr<memory::PageCache> data = TRY(own_data(ctx));
  const vfs::TimeSpec now = vfs::timespec_of(vfs::exact_time(ctx));
  vfs::ChangeScope change(vfs::change_word(number_));
  change.pages_too(number_);
  await_writes_in_place();
  {
    base::MutexLock lock(mu_);
    // First, so that what is cut off does not come back from below when the file grows again.
    lower_limit_ = std::min(lower_limit_, size);
    attr_.mtime = attr_.ctime = now;
  }
  data->set_size(size);
  return {};
}

Result<void> OverlayInode::zero_range(memory::PageCache& data, uint64_t offset, uint64_t end) {
  // Over the lower file zeros must be written: a hole would show it.
  const uint64_t covered = std::min({end, lower_limit(), data.size()});
  if (offset < covered) {
    TRY(data.write(offset, covered - offset, [](std::span<uint8_t> to) -> Result<size_t> {
      std::memset(to.data(), 0, to.size());
      return to.size();
    }));
    offset = covered;
  }
  if (offset < end) data.punch_hole(offset, end - offset);
  return {};
}

Result<void> OverlayInode::fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) {
  constexpr uint32_t kKeepSize = 1, kPunchHole = 2, kZeroRange = 0x10;
  if ((mode & ~(kKeepSize | kPunchHole | kZeroRange)) != 0) return err(kEOPNOTSUPP);
  if ((mode & kPunchHole) && mode != (kPunchHole | kKeepSize)) return err(kEOPNOTSUPP);
  if (offset > kMaxOffset || length > kMaxOffset - offset) return err(kEFBIG);
  vfs::SleepGuard guard(ctx, write_lock_);
  RefPtr<memory::PageCache> data = TRY(own_data(ctx));
  const uint64_t end = offset + length;
  vfs::ChangeScope change(vfs::change_word(number_));
  change.pages_too(number_);
  await_writes_in_place();
  if (mode & (kPunchHole | kZeroRange)) TRY(zero_range(*data, offset, end));
  if (!(mode & kPunchHole)) {
    // Pages over the lower file are there when they are needed.
    const uint64_t from = std::max(offset, page_up(lower_limit()));
    if (from < end) TRY(data->allocate(from, end - from));
    if (!(mode & kKeepSize) && end > data->size()) data->set_size(end);
  }
  const vfs::TimeSpec now = vfs::timespec_of(vfs::exact_time(ctx));
  base::MutexLock lock(mu_);
  attr_.mtime = attr_.ctime = now;
  return {};
}

Result<RefPtr<vfs::FileDescription>> OverlayInode::open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) {
  if (type_ == abi::kS_IFDIR) return RefPtr<vfs::FileDescription>(base::make_ref<OverlayDirectory>(path, flags));
  if (type_ != abi::kS_IFREG) return err(kENXIO);
  RefPtr<vfs::FileDescription> lower;
  if ((flags & vfs::kO_ACCMODE) != vfs::kO_RDONLY) {
    TRY(own_data(ctx));
  } else if (!data()) {
    lower = TRY(open_lower(ctx));
  }
  return RefPtr<vfs::FileDescription>(base::make_ref<OverlayFile>(path, flags, std::move(lower)));
}

// Open files.

OverlayFile::OverlayFile(vfs::Path path, uint32_t flags, RefPtr<vfs::FileDescription> lower)
    : FileDescription(std::move(path), flags), lower_(std::move(lower)) {}

// Data of its own may have come after this was opened for reading: it is what counts then.
Result<size_t> OverlayFile::pread(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t offset) {
  if (RefPtr<memory::PageCache> data = file().data()) return file().read_data(ctx, *data, dst, offset);
  return lower_->pread(ctx, dst, offset);
}

Result<size_t> OverlayFile::pwrite(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset) {
  return file().write_data(ctx, src, offset);
}

Result<uint64_t> OverlayFile::seek(vfs::OpContext& ctx, int64_t offset, int32_t whence) {
  constexpr int32_t kSeekData = 3, kSeekHole = 4;
  RefPtr<memory::PageCache> data = file().data();
  // What comes from below is taken for data without holes.
  if ((whence != kSeekData && whence != kSeekHole) || !data || file().has_lower()) {
    return FileDescription::seek(ctx, offset, whence);
  }
  if (offset < 0 || static_cast<uint64_t>(offset) >= data->size()) return err(kENXIO);
  const uint64_t at = static_cast<uint64_t>(offset);
  const uint64_t found = whence == kSeekData ? data->next_data(at) : data->next_hole(at);
  if (whence == kSeekData && found >= data->size()) return err(kENXIO);
  return FileDescription::seek(ctx, static_cast<int64_t>(found), 0);
}

Result<void> OverlayFile::fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) {
  return file().fallocate(ctx, mode, offset, length);
}

Result<RefPtr<memory::Mappable>> OverlayFile::mappable(vfs::OpContext& ctx) {
  if (RefPtr<memory::PageCache> data = file().data()) {
    file().note_mapping();
    return RefPtr<memory::Mappable>(data);
  }
  return lower_->mappable(ctx);
}

RefPtr<memory::Mappable> OverlayFile::pages_to_read(vfs::OpContext& ctx) {
  if (RefPtr<memory::PageCache> data = file().data()) return data;
  auto lower = lower_->mappable(ctx);
  return lower ? std::move(*lower) : nullptr;
}

OverlayDirectory::OverlayDirectory(vfs::Path path, uint32_t flags)
    : FileDescription(std::move(path), flags) {}

uint64_t OverlayDirectory::number_of_parent(vfs::OpContext& ctx) {
  RefPtr<vfs::Dentry> parent = path().dentry->parent();
  auto stat = (parent ? parent->inode_ptr() : &dir())->stat(ctx);
  return stat ? stat->inode : 0;
}

// Without a copy of the names.
Result<void> OverlayDirectory::list_below(vfs::OpContext& ctx, uint64_t& at, vfs::DirSink sink) {
  TRY(below_->seek(ctx, static_cast<int64_t>(at), 0));
  TRY(below_->readdir(ctx, [&](const vfs::DirEntryInfo& e) {
    if (e.name != "..") return sink(e);
    vfs::DirEntryInfo up = e;
    up.inode = number_of_parent(ctx);
    return sink(up);
  }));
  at = below_->offset();
  return {};
}

Result<void> OverlayDirectory::readdir(vfs::OpContext& ctx, vfs::DirSink sink) {
  vfs::SleepGuard guard(ctx, offset_lock_);
  Position position(*this);
  uint64_t& at = position.at;
  if (!listed_ || at == 0) {
    below_ = dir().is_as_below() ? TRY(dir().open_lower(ctx)) : nullptr;
    if (!below_) entries_ = TRY(dir().list(ctx));
    listed_ = true;
  }
  if (below_) return list_below(ctx, at, sink);
  for (; at < entries_.size() + 2; ++at) {
    vfs::DirEntryInfo info;
    info.next_offset = at + 1;
    if (at < 2) {
      info.name = at == 0 ? "." : "..";
      info.inode = at == 1 ? number_of_parent(ctx) : TRY(dir().stat(ctx)).inode;
      info.type = abi::kS_IFDIR >> 12;
    } else {
      const OverlayInode::Entry& e = entries_[at - 2];
      info.name = e.name;
      info.inode = e.inode;
      info.type = e.type;
    }
    if (!sink(info)) break;
  }
  return {};
}

}  // namespace sentry::fs::overlay
