// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/shared_ring.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <sched.h>

#include "base/log/log.h"

namespace sentry::vfs {

using enum abi::Errno;
using base::err;
using base::Result;
using platform::in_place::bytes_between;
using platform::in_place::kStreamBehind;
using platform::in_place::kStreamOdd;
using platform::in_place::kStreamRoomWanted;

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
void lock_against_stub(OpContext& ctx, uint8_t& lock) {
  constexpr int kNaps = 5000;
  constexpr int64_t kNapNs = 200'000;
  for (int i = 0; i < kLooks + kNaps; ++i) {
    if (try_lock(lock)) return;
    if (i < kLooks) __builtin_ia32_pause();
    else if (ctx.block(ctx.now_monotonic() + kNapNs) == WakeReason::kInterrupted) sched_yield();
  }
  LOG_WARNING("a process does not give back the lock of a connection");
}

}  // namespace

Result<size_t> move_around(uint64_t position, size_t n, uint64_t size, base::FunctionRef<Result<size_t>(uint64_t, size_t)> move) {
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

void SharedRing::share(Half& half, std::span<uint8_t> bytes, bool is_behind) {
  bytes_ = bytes;
  if (is_behind) __atomic_fetch_or(&half.flags, kStreamBehind, __ATOMIC_SEQ_CST);
  half_.store(&half, std::memory_order_release);
}

size_t SharedRing::used() const {
  const Half* half = half_.load(std::memory_order_acquire);
  if (!half) return 0;
  const uint64_t tail = load(half->tail);
  return bytes_between(tail, load(half->head), bytes_.size());
}

void SharedRing::set_odd() {
  if (Half* half = half_.load(std::memory_order_acquire)) __atomic_fetch_or(&half->flags, kStreamOdd, __ATOMIC_SEQ_CST);
}

void SharedRing::settle(OpContext& ctx) {
  uint8_t* lock = writer_lock_.load(std::memory_order_seq_cst);
  if (!lock) return;
  lock_against_stub(ctx, *lock);
  unlock(*lock);
}

void SharedRing::settle_briefly() {
  uint8_t* lock = writer_lock_.load(std::memory_order_seq_cst);
  if (!lock) return;
  for (int i = 0; i < kLooks; ++i) {
    if (try_lock(*lock)) return unlock(*lock);
    __builtin_ia32_pause();
  }
}

// Does `f` while nobody else can write into the ring. False: somebody does right now.
template <typename F>
bool SharedRing::try_as_writer(F&& f) {
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

bool SharedRing::clean() {
  Half* half = half_.load(std::memory_order_acquire);
  return !half || try_as_writer([&] {
    const uint64_t head = load(half->head), unread = head - bytes_between(load(half->tail), head, bytes_.size());
    const uint64_t from = head > bytes_.size() ? head - bytes_.size() : 0;  // nothing else was ever written
    const size_t read = std::min<uint64_t>(unread - from, bytes_.size());
    (void)move_around(from, read, bytes_.size(), [&](uint64_t at, size_t n) -> Result<size_t> {
      std::memset(&bytes_[at], 0, n);
      return n;
    });
  });
}

void SharedRing::want_room() {
  if (Half* half = half_.load(std::memory_order_acquire)) __atomic_fetch_or(&half->flags, kStreamRoomWanted, __ATOMIC_SEQ_CST);
}

bool SharedRing::take_room_wanted() {
  Half* half = half_.load(std::memory_order_acquire);
  return half && (load(half->flags) & kStreamRoomWanted) && (__atomic_fetch_and(&half->flags, ~kStreamRoomWanted, __ATOMIC_SEQ_CST) & kStreamRoomWanted);
}

// --- the writer ---

void SharedRing::begin_put(OpContext& ctx) {
  while (putting_.exchange(true, std::memory_order_seq_cst)) sched_yield();  // the reader, for an instant
  writer_locked_ = writer_lock_.load(std::memory_order_seq_cst);
  if (writer_locked_) lock_against_stub(ctx, *writer_locked_);
}

void SharedRing::end_put() {
  if (writer_locked_) unlock(*std::exchange(writer_locked_, nullptr));
  putting_.store(false, std::memory_order_release);
}

size_t SharedRing::room() const {
  const Half* half = half_.load(std::memory_order_acquire);
  const uint64_t used = half ? load(half->head) - load(half->tail) : bytes_.size();
  return used < bytes_.size() ? bytes_.size() - used : 0;
}

Result<size_t> SharedRing::fill(IoBuffer& src, size_t n) {
  if (n == 0) return size_t{0};
  const Half& half = *half_.load(std::memory_order_acquire);
  return move_around(load(half.head), n, bytes_.size(), [&](uint64_t at, size_t piece) { return src.get(&bytes_[at], piece); });
}

void SharedRing::publish(size_t n) {
  Half& half = *half_.load(std::memory_order_acquire);
  __atomic_store_n(&half.head, load(half.head) + n, __ATOMIC_SEQ_CST);
}

bool SharedRing::is_behind() const { return (load(half_.load(std::memory_order_acquire)->flags) & kStreamBehind) != 0; }

void SharedRing::set_behind(bool on) {
  Half& half = *half_.load(std::memory_order_acquire);
  on ? __atomic_fetch_or(&half.flags, kStreamBehind, __ATOMIC_SEQ_CST) : __atomic_fetch_and(&half.flags, ~kStreamBehind, __ATOMIC_SEQ_CST);
}

// --- the reader ---

void SharedRing::begin_get(OpContext& ctx) {
  getting_.store(true, std::memory_order_seq_cst);
  reader_locked_ = reader_lock_.load(std::memory_order_seq_cst);
  if (reader_locked_) lock_against_stub(ctx, *reader_locked_);
}

void SharedRing::end_get() {
  if (reader_locked_) unlock(*std::exchange(reader_locked_, nullptr));
  getting_.store(false, std::memory_order_release);
}

Result<size_t> SharedRing::peek(IoBuffer& dst, size_t n) const {
  n = std::min<size_t>({n, bytes_.size(), dst.remaining()});
  if (n == 0) return size_t{0};
  const Half& half = *half_.load(std::memory_order_acquire);
  return move_around(load(half.tail), n, bytes_.size(), [&](uint64_t at, size_t piece) { return dst.put(&bytes_[at], piece); });
}

void SharedRing::skip(size_t n) {
  Half& half = *half_.load(std::memory_order_acquire);
  __atomic_store_n(&half.tail, load(half.tail) + n, __ATOMIC_SEQ_CST);
}

void SharedRing::take_back_behind(base::FunctionRef<bool()> is_empty) {
  try_as_writer([&] {
    if (is_empty()) set_behind(false);
  });
}

}  // namespace sentry::vfs
