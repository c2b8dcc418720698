// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/file_description.h"

#include <ctime>

#include "sentry/vfs/changes.h"
#include "sentry/vfs/epoll.h"
#include "sentry/vfs/file_locks.h"
#include "sentry/vfs/file_places.h"
#include "sentry/vfs/inotify.h"

namespace sentry::vfs {

using enum abi::Errno;

namespace {

constexpr uint32_t kChangeableFlags = kO_APPEND | kO_NONBLOCK | kO_DIRECT | kO_NOATIME;
constexpr int32_t kSeekSet = 0, kSeekCur = 1, kSeekEnd = 2, kSeekData = 3, kSeekHole = 4;

bool access_includes(uint32_t flags, uint32_t mode) {
  if (flags & kO_PATH) return false;
  uint32_t access = flags & kO_ACCMODE;
  return access == mode || access == kO_RDWR;
}

base::Result<uint64_t> checked_offset(int64_t base, int64_t offset) {
  int64_t sum;
  if (__builtin_add_overflow(base, offset, &sum) || sum < 0) return base::err(kEINVAL);  // vfs_setpos()
  return static_cast<uint64_t>(sum);
}

}  // namespace

FileDescription::FileDescription(Path path, uint32_t flags)
    : flags_(flags),
      path_(std::move(path)),
      inode_(path_.dentry->inode()),
      readable_(access_includes(flags, kO_RDONLY)),
      writable_(access_includes(flags, kO_WRONLY)) {}

FileDescription::~FileDescription() {
  if (FileLocks* locks = inode_->existing_locks()) locks->release_description(this);
  if (holds_write_access_) put_write_access(*inode_);
  const base::RefPtr<AsyncIo> io = base::RefPtr<AsyncIo>::adopt(async_io());
  if (!(status_flags() & kO_PATH)) notify_event(*path_.dentry, writable_ ? kInCloseWrite : kInCloseNoWrite);
}

uint64_t FileDescription::number() {
  static std::atomic<uint64_t> last{in_place::kFirstDescription};
  uint64_t known = number_.load(std::memory_order_relaxed);
  if (known != 0) return known;
  const uint64_t fresh = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return number_.compare_exchange_strong(known, fresh, std::memory_order_relaxed) ? fresh : known;
}

void FileDescription::destroy() const {
  if (epoll_items_.load(std::memory_order_acquire)) leave_epolls(*const_cast<FileDescription*>(this));
  if (AsyncIo* io = async_io()) io->file_gone();
  delete this;
}

AsyncIo& FileDescription::set_async_io(base::RefPtr<AsyncIo> io) {
  AsyncIo* current = nullptr;
  if (!async_io_.compare_exchange_strong(current, io.get())) return *current;
  return *io.release();
}

base::Result<void> FileDescription::on_descriptor_close(OpContext& ctx) {
  if (FileLocks* locks = inode_->existing_locks()) locks->release_owner(ctx.lock_owner());
  return flush(ctx);
}

base::Result<void> FileDescription::set_status_flags(OpContext& ctx, uint32_t flags) {
  if ((flags & kO_NOATIME) && !(status_flags() & kO_NOATIME) && !creds::is_owner_or_capable(ctx.creds(), inode().owner())) {
    return base::err(kEPERM);
  }
  if (number_if_any() != 0 && endless() == Endless::kNo && ((flags ^ status_flags()) & kChangeableFlags)) {
    base::MutexLock lock(in_place_mutex());
    if (!changed_flags_) changed_flags_.emplace();
  }
  uint32_t old = flags_.load(std::memory_order_relaxed);
  while (!flags_.compare_exchange_weak(old, (old & ~kChangeableFlags) | (flags & kChangeableFlags))) {
  }
  if (InPlaceEnd* end = in_place_end()) {
    base::MutexLock lock(in_place_mutex());
    end->show_locked();
  }
  if ((flags & kO_APPEND) && is_lent()) {
    base::MutexLock lock(in_place_mutex());
    if (FilePlaces* places = lent_.load(std::memory_order_relaxed)) places->forbid_writes_locked(*this);
  }
  return {};
}

void FileDescription::set_async_flag(bool on) {
  on ? flags_.fetch_or(kO_ASYNC) : flags_.fetch_and(~uint32_t{kO_ASYNC});
  InPlaceEnd* end = on ? in_place_end() : nullptr;
  if (!end) return;
  base::MutexLock lock(in_place_mutex());
  end->want_kicks_locked(true);
}

void FileDescription::add_descriptor(const void* table) {
  if (descriptors_.fetch_add(1, std::memory_order_seq_cst) == 0) return;
  InPlaceEnd* end = in_place_end();
  const bool in_view = end && end->view();
  if (!in_view && !is_lent()) return;
  base::MutexLock lock(in_place_mutex());
  if (in_view) end->leave_locked();
  FilePlaces* places = lent_.load(std::memory_order_relaxed);
  if (!places) return;
  if (places->table() != table) places->take_back_locked(*this);
  else places->note_second_locked(*this);
}

void FileDescription::drop_descriptor() {
  if (descriptors_.fetch_sub(1, std::memory_order_seq_cst) != 1 || !is_lent()) return;
  base::MutexLock lock(in_place_mutex());
  if (FilePlaces* places = lent_.load(std::memory_order_relaxed)) places->take_back_locked(*this);
}

uint64_t FileDescription::offset() const {
  if (is_lent()) {
    base::MutexLock lock(in_place_mutex());
    if (const FilePlaces* places = lent_.load(std::memory_order_relaxed)) return places->position_locked(*this);
  }
  return offset_.load(std::memory_order_relaxed);
}

FileDescription::Position::Position(FileDescription& file) : file_(file) {
  file.positions_held_.fetch_add(1, std::memory_order_seq_cst);  // it is not lent from here on
  if (file.is_lent()) {
    base::MutexLock lock(in_place_mutex());
    if (FilePlaces* places = file.lent_.load(std::memory_order_relaxed)) places->hold_position_locked(file);
  }
  at = file.offset_.load(std::memory_order_relaxed);
}

FileDescription::Position::~Position() {
  file_.put_offset(at);
  file_.positions_held_.fetch_sub(1, std::memory_order_seq_cst);
}

void FileDescription::put_offset(uint64_t position) {
  if (is_lent()) {
    base::MutexLock lock(in_place_mutex());
    if (FilePlaces* places = lent_.load(std::memory_order_relaxed)) return places->set_position_locked(*this, position);
  }
  offset_.store(position, std::memory_order_relaxed);
}

void FileDescription::answer_wish(bool granted) {
  constexpr int32_t kPatience = -500;  // uses until the next try
  uses_.store(granted ? 0 : kPatience, std::memory_order_relaxed);
  wants_in_place_.store(false, std::memory_order_relaxed);
}

base::Result<size_t> FileDescription::read(OpContext& ctx, IoBuffer& dst) {
  SleepGuard guard(ctx, offset_lock_);
  Position position(*this);
  base::Result<size_t> done = pread(ctx, dst, position.at);
  // Not a thing that is read(2) at all (epoll and the like): EINVAL, while pread(2) says ESPIPE.
  if (!done) return base::err(done.error() == kESPIPE ? kEINVAL : done.error());
  position.at += *done;
  return *done;
}

base::Result<size_t> FileDescription::write(OpContext& ctx, IoBuffer& src) {
  SleepGuard guard(ctx, offset_lock_);
  Position position(*this);
  if (status_flags() & kO_APPEND) {
    const size_t n = TRY(pwrite(ctx, src, kAtEnd));
    if (base::Result<Stat> st = stat(ctx)) position.at = st->size;
    return n;
  }
  base::Result<size_t> done = pwrite(ctx, src, position.at);
  if (!done) return base::err(done.error() == kESPIPE ? kEINVAL : done.error());
  position.at += *done;
  return *done;
}

// generic_file_llseek(); SEEK_DATA and SEEK_HOLE of a file system that knows no holes.
base::Result<uint64_t> FileDescription::seek(OpContext& ctx, int64_t offset, int32_t whence) {
  if (!is_seekable()) return base::err(kESPIPE);
  SleepGuard guard(ctx, offset_lock_);
  Position position(*this);
  uint64_t next = 0;
  switch (whence) {
    case kSeekSet: next = TRY(checked_offset(0, offset)); break;
    case kSeekCur: next = TRY(checked_offset(static_cast<int64_t>(position.at), offset)); break;
    case kSeekEnd: next = TRY(checked_offset(static_cast<int64_t>(TRY(stat(ctx)).size), offset)); break;
    case kSeekData:
    case kSeekHole: {
      const uint64_t size = TRY(stat(ctx)).size;
      if (offset < 0 || static_cast<uint64_t>(offset) >= size) return base::err(kENXIO);
      next = whence == kSeekData ? static_cast<uint64_t>(offset) : size;
      break;
    }
    default: return base::err(kEINVAL);
  }
  return position.at = next;
}

base::Result<void> FileDescription::truncate(OpContext& ctx, uint64_t size) {
  if (!inode().is_regular()) return base::err(kEINVAL);
  SetAttr attr;
  attr.size = size;
  return set_attr(ctx, path_, attr);
}

memory::MappedFile::Identity FileDescription::mapped_identity() const {
  Identity id;
  id.path = path_string(path_, nullptr);
  if (path_.dentry->is_deleted()) id.path += " (deleted)";
  id.device = inode_->fs().device();
  id.inode = inode_->number();
  return id;
}

namespace {

class AnonymousFs final : public FileSystem {
 public:
  std::string_view type() const override { return "anon_inodefs"; }
  base::RefPtr<Inode> root() override { return nullptr; }
  abi::DeviceId device() const override { return device_; }
  base::Result<StatFs> statfs(OpContext&) override {
    constexpr uint64_t kPipefsMagic = 0x50495045;
    return StatFs{.type = kPipefsMagic};
  }

 private:
  const abi::DeviceId device_ = allocate_device();
};

// Without a name in any directory; open() again through /proc/PID/fd works where the object supports it.
class AnonymousInode final : public Inode {
 public:
  AnonymousInode(FileSystem& fs, uint64_t number, uint32_t mode, abi::KUid uid, abi::KGid gid)
      : Inode(fs), number_(number), mode_(mode), uid_(uid.value()), gid_(gid.value()) {
    timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    created_ = {now.tv_sec, now.tv_nsec};
  }
  creds::InodeOwner owner() const override {
    return {abi::KUid(uid_.load(std::memory_order_relaxed)), abi::KGid(gid_.load(std::memory_order_relaxed)),
            mode_.load(std::memory_order_relaxed)};
  }
  uint64_t number() const override { return number_; }
  base::Result<Stat> stat(OpContext&) override {
    const creds::InodeOwner o = owner();
    Stat st;
    st.device = fs().device();
    st.inode = number_;
    st.mode = o.mode;
    st.uid = o.uid;
    st.gid = o.gid;
    st.atime = st.mtime = st.ctime = created_;
    return st;
  }
  base::Result<void> set_attr(OpContext&, const SetAttr& attr) override {
    if (attr.size) return err(kInval);
    if (attr.mode) mode_.store((mode_.load() & abi::kS_IFMT) | (*attr.mode & 07777));
    if (attr.uid) uid_.store(attr.uid->value());
    if (attr.gid) gid_.store(attr.gid->value());
    return {};
  }
  base::Result<base::RefPtr<FileDescription>> open(OpContext&, const Path&, uint32_t) override { return err(kENXIO); }

 private:
  const uint64_t number_;
  std::atomic<uint32_t> mode_, uid_, gid_;
  TimeSpec created_;
};

}  // namespace

Path make_anonymous_path(std::string name, uint32_t mode, const creds::Credentials& owner) {
  static FileSystem& fs = *base::make_ref<AnonymousFs>().release();
  static std::atomic<uint64_t> next_number{1000};
  static Mount& mount = *[] {
    auto root = base::make_ref<AnonymousInode>(fs, 1, abi::kS_IFDIR | 0755, abi::KUid(0), abi::KGid(0));
    return base::make_ref<Mount>(base::RefPtr<FileSystem>(&fs), Dentry::create_root(std::move(root)), 0, "none").release();
  }();
  const uint64_t number = next_number.fetch_add(1, std::memory_order_relaxed);
  if (name.ends_with(':')) name += "[" + std::to_string(number) + "]";
  auto inode = base::make_ref<AnonymousInode>(fs, number, mode, owner.fsuid, owner.fsgid);
  return {base::RefPtr<Mount>(&mount), Dentry::create_root(std::move(inode), std::move(name))};
}

}  // namespace sentry::vfs
