// SPDX-License-Identifier: Apache-2.0
// Lock implementations on futexes, and the debug check of the lock order.
#include "base/sync/mutex.h"

#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/check.h"

namespace base {

namespace {

constexpr int kSpins = 100;

}  // namespace

#ifndef NDEBUG
namespace {

struct Held {
  LockRank ranks[32];
  int count = 0;
};
thread_local Held held;

}  // namespace

namespace detail {

void note_acquire(LockRank rank) {
  for (int i = 0; i < held.count; ++i) {
    if (held.ranks[i] > rank || (held.ranks[i] == rank && rank != LockRank::kEpollQueue)) {
      check_failed_ranks(static_cast<int>(held.ranks[i]), static_cast<int>(rank));
    }
  }
  CHECK(held.count < 32);
  held.ranks[held.count++] = rank;
}

void note_release(LockRank rank) {
  for (int i = held.count - 1; i >= 0; --i) {
    if (held.ranks[i] != rank) continue;
    for (int k = i; k + 1 < held.count; ++k) held.ranks[k] = held.ranks[k + 1];
    --held.count;
    return;
  }
  CHECK(!"released a mutex that this thread does not hold");
}

}  // namespace detail
#endif

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected, int64_t timeout_ns) {
  timespec ts{};
  if (timeout_ns >= 0) {
    ts.tv_sec = timeout_ns / 1'000'000'000;
    ts.tv_nsec = timeout_ns % 1'000'000'000;
  }
  syscall(SYS_futex, &word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, expected, timeout_ns >= 0 ? &ts : nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, int count) {
  syscall(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, nullptr, nullptr, 0);
}

void Mutex::lock_slow() {
  for (int i = 0; i < kSpins; ++i) {
    uint32_t free = 0;
    if (state_.load(std::memory_order_relaxed) == 0 &&
        state_.compare_exchange_strong(free, 1, std::memory_order_acquire)) {
      return;
    }
    __builtin_ia32_pause();
  }
  while (state_.exchange(2, std::memory_order_acquire) != 0) futex_wait(state_, 2);
}

void Mutex::wake_one() { futex_wake(state_, 1); }

bool Mutex::try_lock() {
  uint32_t free = 0;
  if (!state_.compare_exchange_strong(free, 1, std::memory_order_acquire)) return false;
  detail::note_acquire(rank_);
  return true;
}

// The second one is taken with the first one's rank in force, so only the first is noted.
void MutexPairLock::lock_pair(Mutex& a, Mutex& b) NO_THREAD_SAFETY_ANALYSIS {
  Mutex& first = &a < &b ? a : b;
  Mutex& second = &a < &b ? b : a;
  first.lock();
  second.lock_unchecked();
}

void MutexPairLock::unlock_pair(Mutex& a, Mutex& b) NO_THREAD_SAFETY_ANALYSIS {
  Mutex& first = &a < &b ? a : b;
  Mutex& second = &a < &b ? b : a;
  second.unlock_unchecked();
  first.unlock();
}

SharedMutex::SharedMutex(LockRank rank) : rank_(rank) {}
SharedMutex::~SharedMutex() = default;

void SharedMutex::lock() {
  detail::note_acquire(rank_);
  for (int i = 0;; ++i) {
    uint32_t free = 0;
    if (state_.compare_exchange_strong(free, kWriter, std::memory_order_acquire)) return;
    if (i < kSpins) {
      __builtin_ia32_pause();
      continue;
    }
    waiters_.fetch_add(1);
    uint32_t now = state_.load();
    if (now != 0) futex_wait(state_, now);
    waiters_.fetch_sub(1);
  }
}

void SharedMutex::unlock() {
  detail::note_release(rank_);
  state_.store(0);
  if (waiters_.load() != 0) futex_wake(state_, 0x7fffffff);
}

void SharedMutex::lock_shared_slow() {
  for (int i = 0;; ++i) {
    uint32_t now = state_.load();
    if (now != kWriter) {
      if (state_.compare_exchange_weak(now, now + 1, std::memory_order_acquire)) return;
      continue;
    }
    if (i < kSpins) {
      __builtin_ia32_pause();
      continue;
    }
    waiters_.fetch_add(1);
    if (state_.load() == kWriter) futex_wait(state_, kWriter);
    waiters_.fetch_sub(1);
  }
}

void SharedMutex::wake_all() { futex_wake(state_, 0x7fffffff); }

}  // namespace base
