// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/stream_buffer.h"

#include <algorithm>
#include <cstring>

#include <sched.h>

#include "base/log/log.h"

namespace sentry::net {

using enum abi::Errno;
using base::err;
using base::Result;
using platform::in_place::kBytesSize;
using platform::in_place::kStreamBehind;
using platform::in_place::kStreamOdd;

namespace {

template <typename T>
T load(const T& field) { return __atomic_load_n(&field, __ATOMIC_ACQUIRE); }

bool try_lock(uint8_t& lock) {
  uint8_t zero = 0;
  return __atomic_compare_exchange_n(&lock, &zero, uint8_t{1}, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
void unlock(uint8_t& lock) { __atomic_store_n(&lock, uint8_t{0}, __ATOMIC_RELEASE); }

constexpr int kLooks = 100;

// A lock that a stub may hold: for as long as a copy of one ring takes. One that is held for a second was never meant to be given
// back; then it is taken away, and what its holder still does can only harm the holder's own connection.
void lock_against_stub(vfs::OpContext& ctx, uint8_t& lock) {
  constexpr int kNaps = 5000;
  constexpr int64_t kNapNs = 200'000;
  for (int i = 0; i < kLooks + kNaps; ++i) {
    if (try_lock(lock)) return;
    if (i < kLooks) __builtin_ia32_pause();
    else if (ctx.block(ctx.now_monotonic() + kNapNs) == vfs::WakeReason::kInterrupted) sched_yield();
  }
  LOG_WARNING("a process does not give back the lock of a connection");
}

// Moves up to `n` bytes, in pieces that do not cross the end of a ring of `size`; `move` takes (offset in the ring, length).
template <typename F>
Result<size_t> move_around(uint64_t position, size_t n, uint64_t size, F&& move) {
  size_t done = 0;
  while (done < n) {
    const uint64_t at = (position + done) % size;
    const size_t piece = std::min<size_t>(n - done, size - at);
    Result<size_t> moved = move(at, piece);
    if (!moved && done == 0) return moved;
    if (!moved || *moved == 0) break;
    done += *moved;
    if (*moved < piece) break;
  }
  if (done == 0) return err(kEFAULT);
  return done;
}

}  // namespace

// --- the sentry's own ring ---

Result<size_t> StreamBuffer::put_own(vfs::IoBuffer& src) {
  const uint64_t head = head_.load(std::memory_order_relaxed);
  const uint64_t used = head - tail_.load(std::memory_order_acquire);
  if (used >= kSize) return err(kEAGAIN);
  if (!ring_) ring_.reset(new uint8_t[kSize]);
  const size_t room = std::min<size_t>(kSize - used, src.remaining());
  return move_around(head, room, kSize, [&](uint64_t at, size_t n) { return src.get(ring_.get() + at, n); });
}

Result<StreamBuffer::Got> StreamBuffer::get_own(vfs::IoBuffer& dst, size_t limit, Keep keep) {
  const uint64_t tail = tail_.load(std::memory_order_relaxed);
  const uint64_t used = head_.load(std::memory_order_acquire) - tail;
  if (used == 0) return err(kEAGAIN);
  limit = std::min<size_t>({limit, used, dst.remaining()});
  Got got;
  got.own = true;
  got.bytes = TRY(move_around(tail, limit, kSize, [&](uint64_t at, size_t n) { return dst.put(ring_.get() + at, n); }));
  if (keep == Keep::kYes) return got;
  tail_.store(tail + got.bytes, std::memory_order_release);
  got.made_room = used > kWritableLevel && used - got.bytes <= kWritableLevel;
  return got;
}

// --- the ring that stubs work on too ---

size_t StreamBuffer::shared_used() const {
  const Half* half = shared_.load(std::memory_order_acquire);
  if (!half) return 0;
  const uint64_t tail = load(half->tail);
  return platform::in_place::bytes_between(tail, load(half->head));
}

void StreamBuffer::share(Half& half, uint8_t* ring) {
  shared_ring_ = ring;
  if (own_used() != 0) __atomic_fetch_or(&half.flags, kStreamBehind, __ATOMIC_SEQ_CST);
  shared_.store(&half, std::memory_order_release);
}

void StreamBuffer::set_odd() {
  if (Half* half = shared_.load(std::memory_order_acquire)) __atomic_fetch_or(&half->flags, kStreamOdd, __ATOMIC_SEQ_CST);
}

void StreamBuffer::settle(vfs::OpContext& ctx) {
  uint8_t* lock = writer_lock_.load(std::memory_order_seq_cst);
  if (!lock) return;
  lock_against_stub(ctx, *lock);
  unlock(*lock);
}

void StreamBuffer::settle_briefly() {
  uint8_t* lock = writer_lock_.load(std::memory_order_seq_cst);
  if (!lock) return;
  for (int i = 0; i < kLooks; ++i) {
    if (try_lock(*lock)) return unlock(*lock);
    __builtin_ia32_pause();
  }
}

// Does `f` while nobody else can write into the shared ring. False: somebody does right now.
template <typename F>
bool StreamBuffer::try_as_writer(F&& f) {
  if (putting_.exchange(true, std::memory_order_seq_cst)) return false;
  uint8_t* lock = writer_lock_.load(std::memory_order_seq_cst);
  const bool locked = !lock || try_lock(*lock);
  if (locked) {
    f();
    if (lock) unlock(*lock);
  }
  putting_.store(false, std::memory_order_release);
  return locked;
}

bool StreamBuffer::clean() {
  Half* half = shared_.load(std::memory_order_acquire);
  return !half || try_as_writer([&] {
    const uint64_t head = load(half->head), unread = head - platform::in_place::bytes_between(load(half->tail), head);
    const uint64_t from = head > kBytesSize ? head - kBytesSize : 0;  // nothing else was ever written
    (void)move_around(from, unread - from, kBytesSize, [&](uint64_t at, size_t n) -> Result<size_t> {
      std::memset(shared_ring_ + at, 0, n);
      return n;
    });
  });
}

Result<size_t> StreamBuffer::put_shared(Half& half, vfs::IoBuffer& src) {
  const uint64_t head = load(half.head), used = head - load(half.tail);
  if (used >= kBytesSize) return size_t{0};
  const size_t room = std::min<size_t>(kBytesSize - used, src.remaining());
  const size_t done = TRY(move_around(head, room, kBytesSize, [&](uint64_t at, size_t n) { return src.get(shared_ring_ + at, n); }));
  __atomic_store_n(&half.head, head + done, __ATOMIC_SEQ_CST);
  return done;
}

// Nobody else may write into the shared ring from here to end_put(), nor take back kStreamBehind.
void StreamBuffer::begin_put(vfs::OpContext& ctx) {
  while (putting_.exchange(true, std::memory_order_seq_cst)) sched_yield();  // the reader, for an instant
  writer_locked_ = writer_lock_.load(std::memory_order_seq_cst);
  if (writer_locked_) lock_against_stub(ctx, *writer_locked_);
}

void StreamBuffer::end_put() {
  if (writer_locked_) unlock(*std::exchange(writer_locked_, nullptr));
  putting_.store(false, std::memory_order_release);
}

Result<size_t> StreamBuffer::put(vfs::OpContext& ctx, vfs::IoBuffer& src, Lane lane) {
  pending_ = 0;
  Half* half = shared_.load(std::memory_order_acquire);
  if (!half) return pending_ = TRY(put_own(src));
  begin_put(ctx);
  if (own_used() == 0) __atomic_fetch_and(&half->flags, ~kStreamBehind, __ATOMIC_SEQ_CST);
  size_t done = 0;
  bool more = true;
  Result<size_t> part = size_t{0};
  if (lane == Lane::kAny && !(load(half->flags) & kStreamBehind)) {
    part = put_shared(*half, src);
    if (part) done = *part;
    // Room that is left means that the rest of the guest's buffer is not there.
    more = part && (done == 0 || load(half->head) - load(half->tail) >= kBytesSize);
  }
  if (more && src.remaining() != 0) {
    __atomic_fetch_or(&half->flags, kStreamBehind, __ATOMIC_SEQ_CST);
    part = put_own(src);
    if (part) pending_ = *part;
  }
  if (!part && done == 0) {
    end_put();
    return part;
  }
  return done + pending_;
}

void StreamBuffer::publish() {
  if (pending_ != 0) head_.store(head_.load(std::memory_order_relaxed) + std::exchange(pending_, 0), std::memory_order_release);
  if (shared_.load(std::memory_order_acquire)) end_put();
}

// With nothing behind the shared ring any more, it may be written again; unless somebody writes right now, who sees to it.
void StreamBuffer::take_back_behind(Half& half) {
  try_as_writer([&] {
    if (own_used() == 0) __atomic_fetch_and(&half.flags, ~kStreamBehind, __ATOMIC_SEQ_CST);
  });
}

Result<StreamBuffer::Got> StreamBuffer::get(vfs::OpContext& ctx, vfs::IoBuffer& dst, size_t own_limit, Keep keep) {
  Half* half = shared_.load(std::memory_order_acquire);
  if (!half) return get_own(dst, own_limit, keep);
  getting_.store(true, std::memory_order_seq_cst);
  uint8_t* lock = reader_lock_.load(std::memory_order_seq_cst);
  if (lock) lock_against_stub(ctx, *lock);
  const uint64_t tail = load(half->tail), used = platform::in_place::bytes_between(tail, load(half->head));
  Result<Got> result = Got{};
  if (used != 0) {
    const size_t limit = std::min<size_t>(used, dst.remaining());
    Result<size_t> bytes = move_around(tail, limit, kBytesSize, [&](uint64_t at, size_t n) { return dst.put(shared_ring_ + at, n); });
    if (bytes) result->bytes = *bytes;
    else result = err(bytes.error());
    if (bytes && keep == Keep::kNo) __atomic_store_n(&half->tail, tail + *bytes, __ATOMIC_SEQ_CST);
  } else {
    result = get_own(dst, own_limit, keep);
  }
  if (lock) unlock(*lock);
  getting_.store(false, std::memory_order_release);
  if (result && result->own && own_used() == 0) take_back_behind(*half);
  return result;
}

}  // namespace sentry::net
