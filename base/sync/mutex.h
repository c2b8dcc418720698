// SPDX-License-Identifier: Apache-2.0
// Mutexes with Clang thread-safety annotations and a lock rank. Fibers never park while holding one.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "base/sync/lock_rank.h"
#include "base/sync/thread_annotations.h"

namespace base {

// A mutex on one futex word: spins briefly, then sleeps. Not recursive. 8 bytes in release builds.
class CAPABILITY("mutex") Mutex {
 public:
  explicit constexpr Mutex(LockRank rank) : rank_(rank) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock() ACQUIRE();
  void unlock() RELEASE();
  bool try_lock() TRY_ACQUIRE(true);
  void assert_held() const ASSERT_CAPABILITY(this) {}

 private:
  friend class MutexPairLock;
  void lock_unchecked();
  void lock_slow();
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
  void lock_shared() ACQUIRE_SHARED();
  void unlock_shared() RELEASE_SHARED();

 private:
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
