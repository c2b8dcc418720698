// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/sleep_lock.h"

#include "sentry/vfs/op_context.h"

namespace sentry::vfs {

struct SleepLock::Sleeper {
  OpContext::Waker* waker;
  bool granted = false;  // guarded by the lock's mu_
};

void SleepLock::lock_slow(OpContext& ctx) {
  Sleeper sleeper{&ctx.waker()};
  Node node;
  node.sleeper = &sleeper;
  {
    base::MutexLock lock(mu_);
    // Either it became free, or state 2 makes the holder come to unlock_slow().
    if (state_.exchange(2, std::memory_order_acquire) == 0) {
      state_.store(sleepers_.empty() ? 1 : 2, std::memory_order_relaxed);
      return;
    }
    sleepers_.push_back(node);
  }
  for (;;) {
    ctx.block_uninterruptible();
    base::MutexLock lock(mu_);
    if (sleeper.granted) return;
  }
}

void SleepLock::unlock_slow() {
  base::MutexLock lock(mu_);
  Node* next = sleepers_.pop_front();
  if (!next) {
    state_.store(0, std::memory_order_release);
    return;
  }
  // Handed over: the state stays held.
  state_.store(sleepers_.empty() ? 1 : 2, std::memory_order_release);
  next->sleeper->granted = true;
  next->sleeper->waker->wake();  // under mu_: the sleeper's stack lives until it has seen `granted`
}

}  // namespace sentry::vfs
