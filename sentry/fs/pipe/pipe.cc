// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/pipe/pipe.h"

#include <algorithm>
#include <functional>

#include "abi/linux/signal.h"
#include "sentry/vfs/devices.h"

namespace sentry::fs::pipe {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {
constexpr vfs::PollMask kReadable = vfs::kPollIn | vfs::kPollRdNorm, kWritable = vfs::kPollOut | vfs::kPollWrNorm;
}  // namespace

std::shared_ptr<uint8_t[]> Pipe::take_page() {
  return spare_ ? std::move(spare_) : std::make_shared_for_overwrite<uint8_t[]>(kPipeBuf);
}

void Pipe::drop_head() {
  PipeSlot gone = std::exchange(slot(0), {});
  if (gone.mergeable && !spare_) spare_ = std::move(gone.page);
  head_ = (head_ + 1) % slots_.size();
  used_.fetch_sub(1);
}

Result<size_t> Pipe::read(vfs::OpContext& ctx, vfs::IoBuffer& dst) {
  if (dst.remaining() == 0) return size_t{0};
  size_t done = 0;
  bool was_full;
  {
    vfs::SleepGuard guard(ctx, lock_);
    was_full = is_full();
    if (used_ == 0) return writers_ != 0 ? Result<size_t>(err(kEAGAIN)) : Result<size_t>(0);
    while (used_ != 0 && dst.remaining() != 0) {
      PipeSlot& s = slot(0);
      const size_t want = std::min<size_t>(s.length, dst.remaining());
      Result<size_t> put = dst.put(s.page.get() + s.offset, want);
      if (!put) {
        if (done == 0) return put;
        break;
      }
      const bool packet = s.packet;
      done += *put;
      s.offset += static_cast<uint32_t>(*put);
      s.length -= static_cast<uint32_t>(*put);
      bytes_.fetch_sub(*put);
      if (packet && s.length != 0) bytes_.fetch_sub(std::exchange(s.length, 0));
      if (s.length == 0) drop_head();
      if (packet || *put < want) break;
    }
  }
  if (was_full) queue_.notify(kWritable);
  return done;
}

// The last page takes what fits whole: small writes do not use up the slots.
Result<size_t> Pipe::merge(vfs::IoBuffer& src) {
  const size_t n = src.remaining() % kPipeBuf;
  if (used_ == 0 || n == 0) return size_t{0};
  PipeSlot& last = slot(used_ - 1);
  const size_t at = last.offset + last.length;
  if (!last.mergeable || last.packet || at + n > kPipeBuf) return size_t{0};
  const size_t got = TRY(src.get(last.page.get() + at, n));
  last.length += static_cast<uint32_t>(got);
  bytes_.fetch_add(got);
  return got;
}

Result<size_t> Pipe::write(vfs::OpContext& ctx, vfs::IoBuffer& src, bool packet) {
  if (src.remaining() == 0) return size_t{0};
  size_t done = 0;
  bool broken = false;
  {
    vfs::SleepGuard guard(ctx, lock_);
    if (readers_ == 0) {
      broken = true;
    } else if (!packet) {
      done = TRY(merge(src));
    }
    while (!broken && src.remaining() != 0 && !is_full()) {
      const size_t want = std::min(src.remaining(), kPipeBuf);
      std::shared_ptr<uint8_t[]> page = take_page();
      Result<size_t> got = src.get(page.get(), want);
      if (!got || *got == 0) {
        spare_ = std::move(page);
        if (done == 0) return got;
        break;
      }
      slot(used_) = {std::move(page), 0, static_cast<uint32_t>(*got), packet, true};
      used_.fetch_add(1);
      bytes_.fetch_add(*got);
      done += *got;
      if (*got < want) break;
    }
  }
  if (broken) {
    ctx.raise(abi::Signo(abi::kSIGPIPE));
    return err(kEPIPE);
  }
  if (done == 0) return err(kEAGAIN);
  queue_.notify(kReadable);
  return done;
}

vfs::PollMask Pipe::readiness(bool reader, bool writer) const {
  vfs::PollMask mask = 0;
  const size_t used = used_.load();
  if (reader) {
    if (used != 0) mask |= kReadable;
    if (writers_.load() == 0 && writer_opens_.load() != 0) mask |= vfs::kPollHup;
  }
  if (writer) {
    if (used < max_slots_.load()) mask |= kWritable;
    if (readers_.load() == 0) mask |= vfs::kPollErr;
  }
  return mask;
}

// F_SETPIPE_SZ: round_pipe_size(), EPERM above the system's limit, EBUSY when the data does not fit.
Result<size_t> Pipe::set_capacity(vfs::OpContext& ctx, size_t bytes) {
  if (bytes > (size_t{1} << 31)) return err(kEINVAL);
  size_t size = kPipeBuf;
  while (size < bytes) size *= 2;
  if (size > kMaxSize && !ctx.creds().has_cap(creds::Cap::kSYS_RESOURCE)) return err(kEPERM);
  if (size > kMaxSize * 64) return err(kENOMEM);
  {
    vfs::SleepGuard guard(ctx, lock_);
    const size_t used = used_.load();
    if (size / kPipeBuf < used) return err(kEBUSY);
    std::vector<PipeSlot> next(size / kPipeBuf);
    for (size_t i = 0; i < used; ++i) next[i] = std::move(slot(i));
    slots_ = std::move(next);
    head_ = 0;
    max_slots_.store(slots_.size());
  }
  queue_.notify(kWritable);
  return size;
}

Result<size_t> Pipe::move_to(vfs::OpContext& ctx, Pipe& target, size_t max, Keep keep) {
  size_t moved = 0;
  {
    const bool this_first = std::less<Pipe*>{}(this, &target);
    vfs::SleepGuard first(ctx, this_first ? lock_ : target.lock_), second(ctx, this_first ? target.lock_ : lock_);
    if (target.readers_ == 0) return err(kEPIPE);
    if (used_ == 0) return writers_ != 0 ? Result<size_t>(err(kEAGAIN)) : Result<size_t>(0);
    if (target.is_full()) return err(kEAGAIN);
    for (size_t i = 0; moved < max && i < used_ && !target.is_full();) {
      PipeSlot& from = slot(i);
      const uint32_t n = static_cast<uint32_t>(std::min<size_t>(from.length, max - moved));
      from.mergeable = false;
      target.slot(target.used_) = {from.page, from.offset, n, from.packet, false};
      target.used_.fetch_add(1);
      target.bytes_.fetch_add(n);
      moved += n;
      if (keep == Keep::kYes) {
        ++i;
        continue;
      }
      from.offset += n;
      from.length -= n;
      bytes_.fetch_sub(n);
      if (from.length == 0) drop_head();
    }
  }
  target.queue_.notify(kReadable);
  if (keep == Keep::kNo) queue_.notify(kWritable);
  return moved;
}

Result<size_t> Pipe::drain(vfs::OpContext& ctx, size_t max, base::FunctionRef<Result<size_t>(std::span<uint8_t>)> f) {
  size_t done = 0;
  {
    vfs::SleepGuard guard(ctx, lock_);
    if (used_ == 0) return writers_ != 0 ? Result<size_t>(err(kEAGAIN)) : Result<size_t>(0);
    while (used_ != 0 && done < max) {
      PipeSlot& s = slot(0);
      const size_t want = std::min<size_t>(s.length, max - done);
      Result<size_t> n = f({s.page.get() + s.offset, want});
      if (!n && done == 0) return n;
      if (!n) break;
      s.offset += static_cast<uint32_t>(*n);
      s.length -= static_cast<uint32_t>(*n);
      bytes_.fetch_sub(*n);
      done += *n;
      if (s.length == 0) drop_head();
      if (*n < want) break;
    }
  }
  queue_.notify(kWritable);
  return done;
}

void Pipe::open_end(End end) {
  if (end != End::kWrite) readers_.fetch_add(1), reader_opens_.fetch_add(1);
  if (end != End::kRead) writers_.fetch_add(1), writer_opens_.fetch_add(1);
  queue_.notify(vfs::kPollIn | vfs::kPollOut);
}

void Pipe::close_end(End end) {
  if (end != End::kWrite) readers_.fetch_sub(1);
  if (end != End::kRead) writers_.fetch_sub(1);
  queue_.notify(kReadable | kWritable | vfs::kPollErr | vfs::kPollHup);
}

PipeFile::PipeFile(vfs::Path path, uint32_t flags, RefPtr<Pipe> pipe)
    : FileDescription(std::move(path), flags), pipe_(std::move(pipe)) {
  pipe_->open_end(end());
}

PipeFile::~PipeFile() { pipe_->close_end(end()); }

Pipe::End PipeFile::end() const {
  if (is_readable() && is_writable()) return Pipe::End::kBoth;
  return is_writable() ? Pipe::End::kWrite : Pipe::End::kRead;
}

Result<size_t> PipeFile::read(vfs::OpContext& ctx, vfs::IoBuffer& dst) { return pipe_->read(ctx, dst); }

Result<size_t> PipeFile::write(vfs::OpContext& ctx, vfs::IoBuffer& src) {
  return pipe_->write(ctx, src, (status_flags() & vfs::kO_DIRECT) != 0);
}

Result<int64_t> PipeFile::ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) {
  constexpr uint32_t kFioNRead = 0x541b;
  if (request != kFioNRead) return err(kENOTTY);
  const int32_t n = static_cast<int32_t>(pipe_->readable_bytes());
  TRY(ctx.user_memory().copy_out(abi::Addr(arg), &n, sizeof n));
  return 0;
}

std::pair<RefPtr<vfs::FileDescription>, RefPtr<vfs::FileDescription>> make_pipe(vfs::OpContext& ctx, uint32_t flags) {
  vfs::Path path = vfs::make_anonymous_path("pipe:", abi::kS_IFIFO | 0600, ctx.creds());
  auto pipe = base::make_ref<Pipe>();
  {
    // So that opening /proc/PID/fd/N finds the same pipe.
    base::MutexLock lock(path.inode().special_mu);
    path.inode().special = pipe;
  }
  auto reader = base::make_ref<PipeFile>(path, vfs::kO_RDONLY | (flags & vfs::kO_NONBLOCK), pipe);
  auto writer = base::make_ref<PipeFile>(path, vfs::kO_WRONLY | (flags & (vfs::kO_NONBLOCK | vfs::kO_DIRECT)), pipe);
  return {std::move(reader), std::move(writer)};
}

namespace {

RefPtr<Pipe> pipe_of(vfs::Inode& inode) {
  RefPtr<Pipe> fresh = base::make_ref<Pipe>();
  base::MutexLock lock(inode.special_mu);
  if (!inode.special) inode.special = fresh;
  return base::static_ref_cast<Pipe>(inode.special);
}

// fifo_open(): a reader waits for a writer and the other way round, unless O_NONBLOCK or O_RDWR.
Result<RefPtr<vfs::FileDescription>> open_fifo(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) {
  RefPtr<Pipe> pipe = pipe_of(path.inode());
  const uint32_t access = flags & vfs::kO_ACCMODE;
  if (access == vfs::kO_WRONLY && (flags & vfs::kO_NONBLOCK) && !pipe->has_readers()) return err(kENXIO);
  const uint64_t writers = pipe->writer_opens(), readers = pipe->reader_opens();
  auto file = base::make_ref<PipeFile>(path, flags, pipe);
  // A pipe(2) opened again through /proc/PID/fd waits for nobody.
  const bool is_anonymous = path.inode().fs().type() == "anon_inodefs";
  if (access == vfs::kO_RDWR || (flags & vfs::kO_NONBLOCK) || is_anonymous) return RefPtr<vfs::FileDescription>(std::move(file));
  if (access == vfs::kO_RDONLY) {
    TRY(vfs::wait_until(ctx, pipe->queue(), vfs::kPollAll, std::nullopt,
                        [&] { return pipe->has_writers() || pipe->writer_opens() != writers; }));
  } else {
    TRY(vfs::wait_until(ctx, pipe->queue(), vfs::kPollAll, std::nullopt,
                        [&] { return pipe->has_readers() || pipe->reader_opens() != readers; }));
  }
  return RefPtr<vfs::FileDescription>(std::move(file));
}

}  // namespace

void register_fifos() { vfs::fifo_opener() = open_fifo; }

}  // namespace sentry::fs::pipe
