// SPDX-License-Identifier: Apache-2.0
// SleepLock: a lock that a fiber may hold while it blocks; waiting for it parks the fiber. First come, first served. For
// directory changes, renames and file positions. It is not in the rank order: order among several is by the rule of
// whoever takes them (directories: ancestor first, renames under the file system's rename lock). No base::Mutex may
// be held when taking one.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/containers/intrusive_list.h"
#include "base/sync/mutex.h"

namespace sentry::vfs {

class OpContext;

class SleepLock {
 public:
  SleepLock() = default;
  SleepLock(const SleepLock&) = delete;
  SleepLock& operator=(const SleepLock&) = delete;
  void lock(OpContext& ctx) {
    uint32_t free = 0;
    if (!state_.compare_exchange_strong(free, 1, std::memory_order_acquire)) lock_slow(ctx);
  }
  void unlock() {
    uint32_t held = 1;
    if (!state_.compare_exchange_strong(held, 0, std::memory_order_release)) unlock_slow();
  }

 private:
  struct Sleeper;
  struct Node {
    base::ListHook hook;
    Sleeper* sleeper = nullptr;
  };
  void lock_slow(OpContext& ctx);
  void unlock_slow();
  std::atomic<uint32_t> state_{0};  // 0 free, 1 held, 2 held with sleepers
  base::Mutex mu_{base::LockRank::kSleepLock};
  base::IntrusiveList<Node, &Node::hook> sleepers_ GUARDED_BY(mu_);
};

class SleepGuard {
 public:
  SleepGuard(OpContext& ctx, SleepLock& lock) : lock_(&lock) { lock.lock(ctx); }
  ~SleepGuard() { unlock(); }
  void unlock() {
    if (lock_) lock_->unlock();
    lock_ = nullptr;
  }
  SleepGuard(const SleepGuard&) = delete;
  SleepGuard& operator=(const SleepGuard&) = delete;

 private:
  SleepLock* lock_;
};

}  // namespace sentry::vfs
