// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/wait_queue.h"

#include "sentry/vfs/op_context.h"

namespace sentry::vfs {

using enum abi::Errno;

void WaitQueue::add(Waiter& waiter, PollMask mask) {
  base::MutexLock lock(mu_);
  waiter.mask_ = mask | kPollErr | kPollHup;
  waiters_.push_back(waiter);
  count_.fetch_add(1, std::memory_order_seq_cst);
}

void WaitQueue::remove(Waiter& waiter) {
  base::MutexLock lock(mu_);
  waiters_.remove(waiter);
  count_.fetch_sub(1, std::memory_order_relaxed);
}

void WaitQueue::notify(PollMask events) {
  // The change that is told of was made before; the waiter was added before it looks at it.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (count_.load(std::memory_order_relaxed) == 0) return;
  base::MutexLock lock(mu_);
  waiters_.for_each([&](Waiter& w) {
    if (w.mask_ & events) w.notify(events);
  });
}

void WaitQueue::notify_one(PollMask events) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (count_.load(std::memory_order_relaxed) == 0) return;
  base::MutexLock lock(mu_);
  for (Waiter* w = waiters_.front(); w; w = waiters_.next(*w)) {
    if (!(w->mask_ & events)) continue;
    w->notify(events);
    // The next one hears of the next event first.
    waiters_.remove(*w);
    waiters_.push_back(*w);
    return;
  }
}

bool WaitQueue::empty() const { return count_.load(std::memory_order_relaxed) == 0; }

base::Result<void> wait_until(OpContext& ctx, WaitQueue& queue, PollMask mask, Deadline deadline,
                              base::FunctionRef<bool()> done) {
  if (done()) return {};
  const WaitScope scope(ctx);
  TaskWaiter waiter(ctx);
  queue.add(waiter, mask);
  base::Result<void> result;
  while (!done()) {
    WakeReason reason = ctx.block(deadline);
    if (reason == WakeReason::kWoken) continue;
    if (done()) break;
    result = base::err(reason == WakeReason::kTimedOut ? kETIMEDOUT : kERESTARTSYS);
    break;
  }
  queue.remove(waiter);
  return result;
}

}  // namespace sentry::vfs
