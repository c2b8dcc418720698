// SPDX-License-Identifier: Apache-2.0
// Wait queues: how one that has something to tell (data, a dead child, a free slot) reaches those who wait: fibers,
// epoll instances, poll(2). Notification carries no promise: the woken one looks again.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/containers/intrusive_list.h"
#include "base/sync/mutex.h"

namespace sentry::vfs {

// poll(2) bits; also what a WaitQueue is notified with.
enum : uint32_t {
  kPollIn = 0x001, kPollPri = 0x002, kPollOut = 0x004, kPollErr = 0x008, kPollHup = 0x010, kPollNval = 0x020,
  kPollRdNorm = 0x040, kPollRdBand = 0x080, kPollWrNorm = 0x100, kPollWrBand = 0x200, kPollMsg = 0x400,
  kPollRdHup = 0x2000,
  kPollAll = 0xffffffff,
};
using PollMask = uint32_t;

class WaitQueue;

// One that waits. notify() runs on the notifier's thread with the queue's lock held (kWaitQueue): it may only
// wake a fiber, set flags, or take locks of a higher rank. It must not remove itself.
class Waiter {
 public:
  virtual void notify(PollMask events) = 0;

 protected:
  ~Waiter() = default;

 private:
  friend class WaitQueue;
  base::ListHook hook_;
  PollMask mask_ = 0;
};

class WaitQueue {
 public:
  explicit WaitQueue(base::LockRank rank = base::LockRank::kWaitQueue) : mu_(rank) {}
  // The waiter hears of events in `mask` (POLLERR and POLLHUP always). It must be removed before it or the
  // queue dies.
  void add(Waiter& waiter, PollMask mask);
  void remove(Waiter& waiter);
  void notify(PollMask events);
  // Wakes the first interested waiter only (for accept, exclusive waits).
  void notify_one(PollMask events);
  bool empty() const;

 private:
  mutable base::Mutex mu_;
  base::IntrusiveList<Waiter, &Waiter::hook_> waiters_ GUARDED_BY(mu_);
  std::atomic<uint32_t> count_{0};  // so that notify() of an empty queue is one load; raised before the waiter checks
};

}  // namespace sentry::vfs
