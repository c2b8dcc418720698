// SPDX-License-Identifier: Apache-2.0
// Deadlines of the scheduler: a binary heap whose nodes know their place, so that removing one costs O(log n) and
// nothing dead stays behind. Thread-safe (LockRank::kTimer).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/sync/mutex.h"

namespace sentry::kernel {

class Fiber;

struct TimerNode {
  int64_t deadline = 0;
  Fiber* fiber = nullptr;          // woken, or
  std::function<void()> callback;  // called
  uint64_t id = 0;                 // of a callback
  size_t index = SIZE_MAX;         // place in the heap
};

class TimerHeap {
 public:
  // A node of the caller's (a parked fiber). remove() returns after a wake that is under way has ended.
  void add(TimerNode& node);
  void remove(TimerNode& node);

  uint64_t add_callback(int64_t deadline, std::function<void()> callback);
  // False when it has fired or is firing.
  bool cancel_callback(uint64_t id);

  // INT64_MAX when there is none. One load.
  int64_t next_deadline() const { return next_.load(std::memory_order_seq_cst); }
  // Fires what is due; true when something was.
  bool run_due(int64_t now);

 private:
  void insert_locked(TimerNode& node) REQUIRES(mu_);
  void remove_locked(TimerNode& node) REQUIRES(mu_);
  void sift_up(size_t i) REQUIRES(mu_);
  void sift_down(size_t i) REQUIRES(mu_);
  void place(size_t i, TimerNode* node) REQUIRES(mu_);
  void publish() REQUIRES(mu_);

  base::Mutex mu_{base::LockRank::kTimer};
  std::vector<TimerNode*> heap_ GUARDED_BY(mu_);
  std::unordered_map<uint64_t, std::unique_ptr<TimerNode>> callbacks_ GUARDED_BY(mu_);
  uint64_t next_id_ GUARDED_BY(mu_) = 1;
  std::atomic<int64_t> next_{INT64_MAX};
};

}  // namespace sentry::kernel
