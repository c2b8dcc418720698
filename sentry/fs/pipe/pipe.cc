// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/pipe/pipe.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>

#include "abi/linux/signal.h"
#include "sentry/vfs/devices.h"

namespace sentry::fs::pipe {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {
constexpr vfs::PollMask kReadable = vfs::kPollIn | vfs::kPollRdNorm, kWritable = vfs::kPollOut | vfs::kPollWrNorm;

// Of a copy that a bad address ended before `wanted` bytes, what came before the page of the pipe where that was.
Result<size_t> whole_pages(Result<size_t> done, size_t wanted) {
  if (!done || *done == wanted) return done;
  *done -= *done % kPipeBuf;
  if (*done == 0) return err(kEFAULT);
  return done;
}

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

void Pipe::add_slot(PipeSlot next) {
  bytes_.fetch_add(next.length);
  slot(used_) = std::move(next);
  used_.fetch_add(1);
}

// Alone on one side, of the sentry's tasks and of stubs. Only a pipe with a ring knows sides.
class Pipe::Side {
 public:
  Side(vfs::OpContext& ctx, Pipe& pipe, End end)
      : guard_(ctx, end == End::kRead ? pipe.read_lock_ : pipe.write_lock_), ring_(pipe.ring_.is_shared() ? &pipe.ring_ : nullptr), end_(end) {
    if (ring_) end == End::kRead ? ring_->begin_get(ctx) : ring_->begin_put(ctx);
  }
  ~Side() {
    if (ring_) end_ == End::kRead ? ring_->end_get() : ring_->end_put();
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

 private:
  vfs::SleepGuard guard_;
  vfs::SharedRing* const ring_;
  const End end_;
};

// What reading or writing one pipe takes.
class Pipe::Hold {
 public:
  Hold(vfs::OpContext& ctx, Pipe& pipe, End end) : pipe_(pipe) {
    if (!pipe.ring_.is_shared()) {
      pipe.lock_.lock(ctx);
      if (!pipe.ring_.is_shared()) return;
      pipe.lock_.unlock();
    }
    side_.emplace(ctx, pipe, end);
    pipe.lock_.lock(ctx);
  }
  ~Hold() { pipe_.lock_.unlock(); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  Pipe& pipe_;
  std::optional<Side> side_;
};

Result<size_t> Pipe::read(vfs::OpContext& ctx, vfs::IoBuffer& dst) {
  if (dst.remaining() == 0) return size_t{0};
  Result<size_t> done = size_t{0};
  bool was_full;
  {
    Hold hold(ctx, *this, End::kRead);
    const bool has_ended = writers_ == 0;  // before the last look at what they wrote
    was_full = is_full();
    if (const size_t n = std::min(ring_.used(), dst.remaining()); n != 0) {
      done = whole_pages(ring_.peek(dst, n), n);
      if (done) ring_.skip(*done);
    } else if (used_ == 0) {
      done = has_ended ? Result<size_t>(0) : err(kEAGAIN);
    }
    if (done && ring_.used() == 0) {
      const Result<size_t> more = read_slots(dst);
      if (more) *done += *more;
      else if (*done == 0) done = more;
    }
    was_full = finish_reading(was_full);
  }
  if (was_full && done) queue_.notify(kWritable);
  return done;
}

Result<size_t> Pipe::read_slots(vfs::IoBuffer& dst) {
  size_t done = 0;
  while (used_ != 0 && dst.remaining() != 0) {
    PipeSlot& s = slot(0);
    const size_t want = std::min<size_t>(s.length, dst.remaining());
    Result<size_t> put = dst.put(s.page.get() + s.offset, want);
    if (!put || *put < want) {
      if (done == 0) return err(kEFAULT);
      break;
    }
    const bool packet = s.packet;
    done += *put;
    s.offset += static_cast<uint32_t>(*put);
    s.length -= static_cast<uint32_t>(*put);
    bytes_.fetch_sub(*put);
    if (packet && s.length != 0) bytes_.fetch_sub(std::exchange(s.length, 0));
    if (s.length == 0) drop_head();
    if (packet) break;
  }
  return done;
}

// Whether writers must be told.
bool Pipe::finish_reading(bool was_full) {
  if (!ring_.is_shared()) return was_full;
  if (used_ == 0 && ring_.is_behind()) ring_.take_back_behind([this] { return used_ == 0; });
  return (!is_full() && ring_.take_room_wanted()) || was_full;
}

// The last page takes what fits whole: small writes do not use up the slots.
Result<size_t> Pipe::merge(vfs::IoBuffer& src) {
  const size_t n = src.remaining() % kPipeBuf;
  if (used_ == 0 || n == 0) return size_t{0};
  PipeSlot& last = slot(used_ - 1);
  const size_t at = last.offset + last.length;
  if (!last.mergeable || last.packet || at + n > kPipeBuf) return size_t{0};
  if (TRY(src.get(last.page.get() + at, n)) < n) return err(kEFAULT);
  last.length += static_cast<uint32_t>(n);
  bytes_.fetch_add(n);
  return n;
}

// At most PIPE_BUF bytes go there whole or not at all, and more only where a page is free.
// `complete`: all that fits was there, so that what is left of `src` may go elsewhere.
Result<size_t> Pipe::write_ring(vfs::IoBuffer& src, bool& complete) {
  complete = true;
  if (!ring_.is_shared()) return size_t{0};
  if (used_ == 0) ring_.set_behind(false);
  if (!may_share_.load() || ring_.is_behind()) return size_t{0};
  const size_t room = ring_.room(), n = std::min(room, src.remaining());
  if (room < std::min(kPipeBuf, src.remaining())) return size_t{0};
  const size_t done = TRY(whole_pages(ring_.fill(src, n), n));
  complete = done == n;
  ring_.publish(done);
  return done;
}

Result<size_t> Pipe::write_slots(vfs::IoBuffer& src, bool packet) {
  size_t done = packet ? 0 : TRY(merge(src));
  while (src.remaining() != 0 && !is_full()) {
    const size_t want = std::min(src.remaining(), kPipeBuf);
    std::shared_ptr<uint8_t[]> page = take_page();
    Result<size_t> got = src.get(page.get(), want);
    if (!got || *got < want) {
      spare_ = std::move(page);
      if (done == 0) return err(kEFAULT);
      break;
    }
    if (ring_.is_shared()) ring_.set_behind(true);
    add_slot({std::move(page), 0, static_cast<uint32_t>(*got), packet, true});
    done += *got;
  }
  return done;
}

Result<size_t> Pipe::write_locked(vfs::IoBuffer& src, bool packet) {
  size_t done = 0;
  bool complete = true;
  // Again while the reader makes room.
  while (!packet && complete && src.remaining() != 0) {
    const Result<size_t> part = write_ring(src, complete);
    if (!part && done == 0) return part;
    if (!part) return done;
    if (*part == 0) break;
    done += *part;
  }
  if (!complete || src.remaining() == 0) return done;
  const Result<size_t> more = write_slots(src, packet);
  if (!more && done == 0) return more;
  return done + more.value_or(0);
}

Result<size_t> Pipe::write(vfs::OpContext& ctx, vfs::IoBuffer& src, bool packet) {
  if (src.remaining() == 0) return size_t{0};
  Result<size_t> done = size_t{0};
  bool broken;
  {
    Hold hold(ctx, *this, End::kWrite);
    broken = readers_ == 0;
    if (!broken) done = write_locked(src, packet);
    if (!broken && done && *done == 0 && ring_.is_shared()) {
      ring_.want_room();
      done = write_locked(src, packet);
    }
  }
  if (broken) {
    ctx.raise(abi::Signo(abi::kSIGPIPE));
    return err(kEPIPE);
  }
  if (!done) return done;
  if (*done == 0) return err(kEAGAIN);
  queue_.notify(kReadable);
  return done;
}

bool Pipe::has_room() {
  if (used_pages() < max_slots_.load()) return true;
  ring_.want_room();
  return used_pages() < max_slots_.load();
}

vfs::PollMask Pipe::readiness(bool reader, bool writer) {
  vfs::PollMask mask = 0;
  if (reader) {
    if (!is_empty()) mask |= kReadable;
    if (writers_.load() == 0 && writer_opens_.load() != 0) mask |= vfs::kPollHup;
  }
  if (writer) {
    if (has_room()) mask |= kWritable;
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
    // What stubs write meanwhile is not much.
    if (size / kPipeBuf < kMinSharedPages) leave_to_sentry();
    if (size / kPipeBuf < used_pages()) return err(kEBUSY);
    const size_t used = used_.load();
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
    Side in(ctx, *this, End::kRead), out(ctx, target, End::kWrite);
    const bool this_first = std::less<Pipe*>{}(this, &target);
    vfs::SleepGuard first(ctx, this_first ? lock_ : target.lock_), second(ctx, this_first ? target.lock_ : lock_);
    const bool has_ended = writers_ == 0;
    if (target.readers_ == 0) return err(kEPIPE);
    if (is_empty()) return has_ended ? Result<size_t>(0) : Result<size_t>(err(kEAGAIN));
    if (target.is_full()) return err(kEAGAIN);
    if (target.ring_.is_shared()) target.ring_.set_behind(true);
    const size_t in_ring = ring_.used();
    if (in_ring != 0) moved = move_ring_to(target, std::min(max, in_ring), keep);
    if (moved == in_ring) moved += move_slots_to(target, max - moved, keep);
    (void)finish_reading(false);
  }
  target.queue_.notify(kReadable);
  if (keep == Keep::kNo) queue_.notify(kWritable);
  return moved;
}

// Copies, as stubs may still write to it.
size_t Pipe::move_ring_to(Pipe& target, size_t max, Keep keep) {
  auto bytes = std::make_unique_for_overwrite<uint8_t[]>(max);
  vfs::KernelIoBuffer all({bytes.get(), max});
  const size_t got = ring_.peek(all, max).value_or(0);
  size_t moved = 0;
  while (moved < got && !target.is_full()) {
    const size_t n = std::min(got - moved, kPipeBuf);
    std::shared_ptr<uint8_t[]> page = take_page();
    std::memcpy(page.get(), bytes.get() + moved, n);
    target.add_slot({std::move(page), 0, static_cast<uint32_t>(n), false, false});
    moved += n;
  }
  if (keep == Keep::kNo) ring_.skip(moved);
  return moved;
}

size_t Pipe::move_slots_to(Pipe& target, size_t max, Keep keep) {
  size_t moved = 0;
  for (size_t i = 0; moved < max && i < used_ && !target.is_full();) {
    PipeSlot& from = slot(i);
    const uint32_t n = static_cast<uint32_t>(std::min<size_t>(from.length, max - moved));
    from.mergeable = false;
    target.add_slot({from.page, from.offset, n, from.packet, false});
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
  return moved;
}

Result<size_t> Pipe::drain(vfs::OpContext& ctx, size_t max, base::FunctionRef<Result<size_t>(std::span<uint8_t>)> f) {
  Result<size_t> done = size_t{0};
  {
    Hold hold(ctx, *this, End::kRead);
    const bool has_ended = writers_ == 0;
    if (is_empty()) return has_ended ? Result<size_t>(0) : Result<size_t>(err(kEAGAIN));
    done = drain_ring(max, f);
    if (done && *done < max && ring_.used() == 0) {
      const Result<size_t> more = drain_slots(max - *done, f);
      if (more) *done += *more;
      else if (*done == 0) done = more;
    }
    (void)finish_reading(false);
  }
  queue_.notify(kWritable);
  return done;
}

// Through a page of our own, as stubs may change what they wrote.
Result<size_t> Pipe::drain_ring(size_t max, base::FunctionRef<Result<size_t>(std::span<uint8_t>)> f) {
  size_t done = 0, left = std::min(max, ring_.used());
  std::shared_ptr<uint8_t[]> page = take_page();
  while (left != 0) {
    vfs::KernelIoBuffer copy({page.get(), kPipeBuf});
    const size_t got = ring_.peek(copy, std::min(left, kPipeBuf)).value_or(0);
    const Result<size_t> n = f({page.get(), got});
    if (!n && done == 0) return n;
    if (!n) break;
    ring_.skip(*n);
    done += *n;
    left -= *n;
    if (*n < kPipeBuf) break;
  }
  spare_ = std::move(page);
  return done;
}

Result<size_t> Pipe::drain_slots(size_t max, base::FunctionRef<Result<size_t>(std::span<uint8_t>)> f) {
  size_t done = 0;
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
  return done;
}

// --- in place ---

Result<vfs::InPlaceEnd*> Pipe::share(vfs::OpContext& ctx, End end) {
  if (must_not_share() || end == End::kBoth || !ctx.memory_file()) return err(kEOPNOTSUPP);
  if (!ring_.is_shared()) {
    vfs::SleepGuard reading(ctx, read_lock_), writing(ctx, write_lock_), guard(ctx, lock_);
    TRY(vfs::SharedHandle::share(*ctx.memory_file(), write_end_, {nullptr, false, queue_}, read_end_, {&ring_, used_ != 0, queue_}));
    // Whoever changes that from now on sees that it is shared.
    if (must_not_share()) leave_to_sentry();
  }
  return in_place_end(end);
}

void Pipe::leave_to_sentry() {
  may_share_.store(false);
  ring_.set_odd();
  write_end_.retire();
}

void Pipe::open_end(End end) {
  if (end != End::kWrite) readers_.fetch_add(1), reader_opens_.fetch_add(1);
  if (end != End::kRead) writers_.fetch_add(1), writer_opens_.fetch_add(1);
  queue_.notify(vfs::kPollIn | vfs::kPollOut);
}

void Pipe::close_end(End end) {
  if (end != End::kWrite) readers_.fetch_sub(1);
  if (end != End::kRead) writers_.fetch_sub(1);
  if (!has_readers() || !has_writers()) leave_to_sentry();
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

Result<size_t> PipeFile::read(vfs::OpContext& ctx, vfs::IoBuffer& dst) {
  note_use();
  return pipe_->read(ctx, dst);
}

Result<size_t> PipeFile::write(vfs::OpContext& ctx, vfs::IoBuffer& src) {
  note_use();
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
  auto pipe = base::make_ref<Pipe>(Pipe::Kind::kAnonymous);
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
  RefPtr<Pipe> fresh = base::make_ref<Pipe>(Pipe::Kind::kFifo);
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
  pipe->leave_to_sentry();  // another reader or writer, with its own descriptor
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
