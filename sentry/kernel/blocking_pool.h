// SPDX-License-Identifier: Apache-2.0
// A few host threads for work that may block in the host kernel. They start when needed and leave when idle.
#pragma once

#include <deque>
#include <functional>

#include "base/sync/mutex.h"

namespace sentry::kernel {

class BlockingPool {
 public:
  ~BlockingPool() { stop(); }
  void post(std::function<void()> work);
  // Finishes what is queued and waits for the threads.
  void stop();

 private:
  void thread_main();

  static constexpr unsigned kMaxThreads = 32;
  base::Mutex mu_{base::LockRank::kScheduler};
  std::deque<std::function<void()>> queue_ GUARDED_BY(mu_);
  unsigned threads_ GUARDED_BY(mu_) = 0;
  unsigned idle_ GUARDED_BY(mu_) = 0;
  bool stopping_ GUARDED_BY(mu_) = false;
  std::atomic<uint32_t> signal_{0};  // bumped for every change that a thread may wait for
};

}  // namespace sentry::kernel
