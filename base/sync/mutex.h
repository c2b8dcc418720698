// SPDX-License-Identifier: Apache-2.0
// Mutexes with Clang thread-safety annotations and a lock rank. Fibers never park while holding one.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "base/sync/lock_rank.h"
#include "base/sync/thread_annotations.h"

namespace base {

namespace detail {
#ifdef NDEBUG
inline void note_acquire(LockRank) {}
inline void note_release(LockRank) {}
#else
void note_acquire(LockRank rank);
void note_release(LockRank rank);
#endif
}  // namespace detail

// A mutex on one futex word: spins briefly, then sleeps. Not recursive. 8 bytes in release builds.
class CAPABILITY("mutex") Mutex {
 public:
  explicit constexpr Mutex(LockRank rank) : rank_(rank) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock() ACQUIRE() {
    detail::note_acquire(rank_);
    lock_unchecked();
  }
  void unlock() RELEASE() {
    detail::note_release(rank_);
    unlock_unchecked();
  }
  bool try_lock() TRY_ACQUIRE(true);
  void assert_held() const ASSERT_CAPABILITY(this) {}

 private:
  friend class MutexPairLock;
  void lock_unchecked() {
    uint32_t free = 0;
    if (!state_.compare_exchange_strong(free, 1, std::memory_order_acquire)) [[unlikely]] lock_slow();
  }
  void unlock_unchecked() {
    if (state_.exchange(0, std::memory_order_release) == 2) [[unlikely]] wake_one();
  }
  void lock_slow();
  void wake_one();
  std::atomic<uint32_t> state_{0};  // 0 free, 1 held, 2 held with waiters
  LockRank rank_;
};

// Readers and one writer; writers are not starved for long. On a host rwlock.
class CAPABILITY("shared_mutex") SharedMutex {
 public:
  explicit SharedMutex(LockRank rank);
  ~SharedMutex();
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;
  void lock() ACQUIRE();
  void unlock() RELEASE();
  void lock_shared() ACQUIRE_SHARED() {
    detail::note_acquire(rank_);
    uint32_t now = state_.load(std::memory_order_relaxed);
    if (now == kWriter || !state_.compare_exchange_strong(now, now + 1, std::memory_order_acquire)) [[unlikely]] lock_shared_slow();
  }
  void unlock_shared() RELEASE_SHARED() {
    detail::note_release(rank_);
    if (state_.fetch_sub(1) == 1 && waiters_.load() != 0) [[unlikely]] wake_all();
  }

 private:
  void lock_shared_slow();
  void wake_all();
  // 0 free, n readers, kWriter held by a writer. Waiters sleep on it as a futex.
  static constexpr uint32_t kWriter = 0x8000'0000;
  std::atomic<uint32_t> state_{0};
  std::atomic<uint32_t> waiters_{0};
  LockRank rank_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mu) ACQUIRE(mu) : mu_(mu) { mu_.lock(); }
  ~MutexLock() RELEASE() { mu_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mu_;
};

// Two mutexes of one rank, locked by address so that two threads never take them in opposite order.
class SCOPED_CAPABILITY MutexPairLock {
 public:
  MutexPairLock(Mutex& a, Mutex& b) ACQUIRE(a, b) : a_(a), b_(b) { lock_pair(a_, b_); }
  ~MutexPairLock() RELEASE() { unlock_pair(a_, b_); }
  MutexPairLock(const MutexPairLock&) = delete;
  MutexPairLock& operator=(const MutexPairLock&) = delete;

 private:
  static void lock_pair(Mutex& a, Mutex& b);
  static void unlock_pair(Mutex& a, Mutex& b);
  Mutex& a_;
  Mutex& b_;
};

// A scoped lock that can be dropped early (to release references or wake someone outside it).
class SCOPED_CAPABILITY ReleasableLock {
 public:
  explicit ReleasableLock(Mutex& mu) ACQUIRE(mu) : mu_(&mu) { mu_->lock(); }
  ~ReleasableLock() RELEASE() {
    if (mu_) mu_->unlock();
  }
  void release() RELEASE() {
    mu_->unlock();
    mu_ = nullptr;
  }
  ReleasableLock(const ReleasableLock&) = delete;
  ReleasableLock& operator=(const ReleasableLock&) = delete;

 private:
  Mutex* mu_;
};

class SCOPED_CAPABILITY WriteLock {
 public:
  explicit WriteLock(SharedMutex& mu) ACQUIRE(mu) : mu_(mu) { mu_.lock(); }
  ~WriteLock() RELEASE() { mu_.unlock(); }
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;

 private:
  SharedMutex& mu_;
};

class SCOPED_CAPABILITY ReadLock {
 public:
  explicit ReadLock(SharedMutex& mu) ACQUIRE_SHARED(mu) : mu_(mu) { mu_.lock_shared(); }
  ~ReadLock() RELEASE() { mu_.unlock_shared(); }
  ReadLock(const ReadLock&) = delete;
  ReadLock& operator=(const ReadLock&) = delete;

 private:
  SharedMutex& mu_;
};

// Small state behind one lock: `count.with([](auto& v) { ++v; })`.
template <typename T>
class Guarded {
 public:
  template <typename... Args>
  explicit Guarded(LockRank rank, Args&&... args) : mu_(rank), value_(std::forward<Args>(args)...) {}
  template <typename F>
  decltype(auto) with(F&& f) NO_THREAD_SAFETY_ANALYSIS {  // the type system guards value_
    MutexLock lock(mu_);
    return std::forward<F>(f)(value_);
  }

 private:
  Mutex mu_;
  T value_;
};

// futex(2) on a word private to this process. Returns when woken, when *word != expected, on a signal, or at the
// relative timeout (negative: none).
void futex_wait(std::atomic<uint32_t>& word, uint32_t expected, int64_t timeout_ns = -1);
void futex_wake(std::atomic<uint32_t>& word, int count);

}  // namespace base
