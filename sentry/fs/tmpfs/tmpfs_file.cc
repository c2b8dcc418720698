// SPDX-License-Identifier: Apache-2.0
// Regular files of tmpfs and memfds: mm/shmem.c, mm/memfd.c.
#include <algorithm>

#include "sentry/fs/tmpfs/tmpfs_inode.h"
#include "sentry/vfs/file_description.h"

namespace sentry::fs::tmpfs {

using enum abi::Errno;
using base::RefPtr;
using base::Result;

namespace {

constexpr uint64_t kMaxFileSize = INT64_MAX;
constexpr uint32_t kAllSeals = vfs::kSealSeal | vfs::kSealShrink | vfs::kSealGrow | vfs::kSealWrite | vfs::kSealFutureWrite |
                               vfs::kSealExec;

uint64_t pages_for(uint64_t bytes) { return bytes / abi::kPageSize + (bytes % abi::kPageSize != 0 ? 1 : 0); }

class TmpfsDescription final : public vfs::FileDescription {
 public:
  TmpfsDescription(const vfs::Path& path, uint32_t flags, TmpfsFile& file) : FileDescription(path, flags), file_(file) {}

  Result<size_t> pread(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t offset) override {
    const size_t n = TRY(file_.read(ctx, dst, offset));
    if (!(status_flags() & vfs::kO_NOATIME) && !(path().mount->flags() & vfs::kMsNoAtime)) file_.touch_accessed(ctx);
    return n;
  }
  Result<size_t> pwrite(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset) override {
    return file_.write(ctx, src, offset);
  }
  bool is_seekable() const override { return true; }
  Result<uint64_t> seek(vfs::OpContext& ctx, int64_t offset, int32_t whence) override {
    constexpr int32_t kSeekData = 3, kSeekHole = 4;
    if (whence != kSeekData && whence != kSeekHole) return FileDescription::seek(ctx, offset, whence);
    const uint64_t from = static_cast<uint64_t>(offset), size = file_.size();
    if (offset < 0 || from >= size) return base::err(kENXIO);
    const uint64_t found = whence == kSeekData ? file_.pages().next_data(from) : file_.pages().next_hole(from);
    if (whence == kSeekData && found >= size) return base::err(kENXIO);
    return FileDescription::seek(ctx, static_cast<int64_t>(found), 0);
  }
  bool closes_later() const override { return !is_writable(); }  // as an overlay's
  bool lends_position() const override { return true; }
  Result<void> fsync(vfs::OpContext&, bool) override { return {}; }
  Result<void> fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) override {
    return file_.fallocate(ctx, mode, offset, length);
  }
  Result<RefPtr<memory::Mappable>> mappable(vfs::OpContext&) override {
    file_.note_mapping();
    return RefPtr<memory::Mappable>(&file_.pages());
  }
  RefPtr<memory::Mappable> pages_to_read(vfs::OpContext&) override { return RefPtr<memory::Mappable>(&file_.pages()); }
  Result<uint32_t> seals() override { return file_.seals(); }
  Result<void> add_seals(uint32_t seals) override {
    if (!is_writable()) return base::err(kEPERM);
    return file_.add_seals(seals);
  }

 private:
  TmpfsFile& file_;  // held by the base
};

}  // namespace

TmpfsFile::TmpfsFile(Tmpfs& fs, const vfs::CreateArgs& args, uint32_t seals)
    : TmpfsInode(fs, args),
      pages_(base::make_ref<memory::PageCache>(fs.memory(), memory::MemoryKind::kTmpfs, nullptr, false)),
      seals_(seals) {}

TmpfsFile::~TmpfsFile() { tmpfs().account_pages(-static_cast<int64_t>(charged_.load())); }

// Brings the file system's count to what the file has now; faults through mappings add pages unseen.
void TmpfsFile::settle() {
  const uint64_t now = pages_->pages();
  if (charged_.load(std::memory_order_relaxed) == now) return;
  const uint64_t before = charged_.exchange(now);
  tmpfs().account_pages(static_cast<int64_t>(now) - static_cast<int64_t>(before));
}

void TmpfsFile::note_mapping() {
  if (grows_unseen_.load(std::memory_order_relaxed)) return;
  vfs::ChangeScope change(word());
  grows_unseen_.store(true, std::memory_order_release);
}

// Not what may be sealed one day.
bool TmpfsFile::may_be_written_in_place() const {
  return (seals() & (vfs::kSealSeal | vfs::kSealWrite | vfs::kSealFutureWrite)) == vfs::kSealSeal;
}

Result<RefPtr<vfs::FileDescription>> TmpfsFile::open(vfs::OpContext&, const vfs::Path& path, uint32_t flags) {
  return RefPtr<vfs::FileDescription>(base::make_ref<TmpfsDescription>(path, flags, *this));
}

Result<size_t> TmpfsFile::read(vfs::OpContext&, vfs::IoBuffer& dst, uint64_t offset) {
  return pages_->read(offset, dst.remaining(), [&](std::span<const uint8_t> bytes) { return dst.put(bytes.data(), bytes.size()); });
}

Result<size_t> TmpfsFile::write(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset) {
  vfs::SleepGuard guard(ctx, write_lock_);
  const uint64_t size = pages_->size();
  if (offset == vfs::FileDescription::kAtEnd) offset = size;
  uint64_t length = src.remaining();
  if (length == 0) return size_t{0};
  if (offset >= kMaxFileSize) return err(kEFBIG);
  length = std::min(length, kMaxFileSize - offset);
  const uint32_t seals = this->seals();
  if (seals & (vfs::kSealWrite | vfs::kSealFutureWrite)) return err(kEPERM);
  if ((seals & vfs::kSealGrow) && offset + length > size) return err(kEPERM);
  // Pages that exist already cost nothing; when space is short, count exactly.
  const uint64_t free = tmpfs().pages_free();
  if (pages_for(length) + 1 > free) {
    uint64_t have = 0;
    for (uint64_t at = offset & ~(abi::kPageSize - 1); at < offset + length; at += abi::kPageSize) {
      if (pages_->has_pages(at, 1)) continue;
      if (have == free) {
        if (at <= offset) return err(kENOSPC);
        length = at - offset;
        break;
      }
      ++have;
    }
  }
  vfs::ChangeScope change(word());
  if (offset + length > size) change.pages_too(number());
  await_writes_in_place();
  auto written = pages_->write(offset, length, [&](std::span<uint8_t> bytes) { return src.get(bytes.data(), bytes.size()); });
  settle();
  if (!written) return err(written.error() == kENOMEM ? kENOSPC : written.error());
  stamp_modified(vfs::write_time());
  return written;
}

Result<void> TmpfsFile::resize(vfs::OpContext& ctx, uint64_t size) {
  if (size > kMaxFileSize) return err(kEFBIG);
  vfs::SleepGuard guard(ctx, write_lock_);
  const uint64_t old = pages_->size();
  const uint32_t seals = this->seals();
  if (((seals & vfs::kSealShrink) && size < old) || ((seals & vfs::kSealGrow) && size > old)) return err(kEPERM);
  vfs::ChangeScope change(word());
  change.pages_too(number());
  await_writes_in_place();
  pages_->set_size(size);
  settle();
  stamp_modified(vfs::exact_time(ctx));
  return {};
}

Result<void> TmpfsFile::fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) {
  if (mode & ~uint32_t{vfs::kFallocKeepSize | vfs::kFallocPunchHole}) return err(kEOPNOTSUPP);
  vfs::SleepGuard guard(ctx, write_lock_);
  const uint32_t seals = this->seals();
  vfs::ChangeScope change(word());
  change.pages_too(number());
  if (mode & vfs::kFallocPunchHole) {
    if (seals & (vfs::kSealWrite | vfs::kSealFutureWrite)) return err(kEPERM);
    await_writes_in_place();
    pages_->punch_hole(offset, length);
    settle();
    stamp_modified(vfs::exact_time(ctx));
    return {};
  }
  const uint64_t end = offset + length;
  const bool grows = end > pages_->size() && !(mode & vfs::kFallocKeepSize);
  if (grows && (seals & vfs::kSealGrow)) return err(kEPERM);
  if (pages_for(length) > tmpfs().pages_free() + pages_->pages()) return err(kENOSPC);
  Result<void> done = pages_->allocate(offset, length);
  settle();
  if (!done) return err(kENOSPC);
  if (grows) pages_->set_size(end);
  touch_changed(vfs::exact_time(ctx));
  return {};
}

Result<void> TmpfsFile::add_seals(uint32_t seals) {
  if (seals & ~kAllSeals) return err(kEINVAL);
  base::MutexLock lock(seal_mu_);
  const uint32_t old = seals_.load();
  if (old & vfs::kSealSeal) return err(kEPERM);
  if ((seals & vfs::kSealWrite) && !pages_->deny_writable()) return err(kEBUSY);
  seals_.store(old | seals, std::memory_order_release);
  return {};
}

Result<RefPtr<vfs::FileDescription>> create_memfd(vfs::OpContext& ctx, memory::MemoryFile& memory, std::string_view name,
                                                  bool sealable, uint32_t mode) {
  struct Hidden {
    RefPtr<Tmpfs> fs;
    RefPtr<vfs::Mount> mount;
  };
  static const Hidden& hidden = *[&] {  // one sandbox has one memory file
    auto* h = new Hidden;
    h->fs = base::make_ref<Tmpfs>(memory, Options{});
    h->mount = vfs::Mount::create(h->fs, 0, "none");
    return h;
  }();
  vfs::CreateArgs args{abi::kS_IFREG | mode, ctx.creds().fsuid, ctx.creds().fsgid, {}};
  auto file = base::make_ref<TmpfsFile>(*hidden.fs, args, sealable ? 0 : uint32_t{vfs::kSealSeal});
  file->change_links(-1);
  vfs::Path path{hidden.mount, vfs::Dentry::create_root(file, "/memfd:" + std::string(name) + " (deleted)")};
  return RefPtr<vfs::FileDescription>(base::make_ref<TmpfsDescription>(path, vfs::kO_RDWR, *file));
}

}  // namespace sentry::fs::tmpfs
