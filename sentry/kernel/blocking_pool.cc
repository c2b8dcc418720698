// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/blocking_pool.h"

#include <ctime>
#include <thread>

namespace sentry::kernel {

namespace {
constexpr int64_t kIdleNs = 5'000'000'000;  // an idle thread's stay
}

void BlockingPool::post(std::function<void()> work) {
  bool start = false;
  {
    base::MutexLock lock(mu_);
    queue_.push_back(std::move(work));
    if (idle_ < queue_.size() && threads_ < kMaxThreads) {
      ++threads_;
      start = true;
    }
  }
  if (start) {
    std::thread([this] { thread_main(); }).detach();
  } else {
    signal_.fetch_add(1);
    base::futex_wake(signal_, 1);
  }
}

void BlockingPool::thread_main() {
  for (;;) {
    std::function<void()> work;
    const uint32_t seen = signal_.load();
    bool idle = false;
    {
      base::MutexLock lock(mu_);
      if (!queue_.empty()) {
        work = std::move(queue_.front());
        queue_.pop_front();
      } else if (stopping_) {
        break;
      } else {
        ++idle_;
        idle = true;
      }
    }
    if (!idle) {
      work();
      continue;
    }
    base::futex_wait(signal_, seen, kIdleNs);
    base::MutexLock lock(mu_);
    --idle_;
    if (queue_.empty() && (stopping_ || signal_.load() == seen)) break;
  }
  base::ReleasableLock lock(mu_);
  const bool last = --threads_ == 0 && stopping_;
  lock.release();
  if (last) {
    signal_.fetch_add(1);
    base::futex_wake(signal_, 0x7fffffff);
  }
}

void BlockingPool::stop() {
  for (;;) {
    const uint32_t seen = signal_.fetch_add(1) + 1;
    {
      base::MutexLock lock(mu_);
      stopping_ = true;
      if (threads_ == 0) return;
    }
    base::futex_wake(signal_, 0x7fffffff);
    base::futex_wait(signal_, seen, 10'000'000);
  }
}

}  // namespace sentry::kernel
