// SPDX-License-Identifier: Apache-2.0
// Fibers and executors. A fiber is a kernel stack (Boost.Context); executors are a few host threads that run ready
// fibers, poll the platform for guest contexts that stopped, run due timers, and sleep when there is nothing.
// A fiber parks with no lock held; thread_local values do not survive a park.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/containers/intrusive_list.h"
#include "base/sync/mutex.h"
#include "platform/interface/platform.h"

namespace sentry::kernel {

class Scheduler;

class Fiber {
 public:
  ~Fiber();
  // Runs it for the first time. Before that wake() does nothing.
  void start();
  // Makes a parked (or about to park) fiber run; a wake before the park makes the park return at once.
  // Any thread, any lock of rank below kScheduler may be held.
  void wake();
  // Ticks that it was parked while it answered events of its guest, since it was asked last. Its own thread only.
  uint64_t take_parked();

  Fiber(const Fiber&) = delete;
  struct Impl;

 private:
  friend class Scheduler;
  explicit Fiber(Impl* impl);
  Impl* const impl_;  // the scheduler's
};

class Scheduler {
 public:
  Scheduler(platform::Platform& platform, unsigned executors);
  ~Scheduler();

  // The fiber's stack is made now; it runs once start() is called, and deletes nothing itself: the owner destroys the Fiber
  // after `body` has returned and on_finished() has been called on an executor.
  std::unique_ptr<Fiber> create(std::function<void()> body, std::function<void()> on_finished);
  // Parks the calling fiber until wake(). Returns true when woken, false at the deadline (monotonic ns).
  bool park(std::optional<int64_t> deadline = std::nullopt);
  // Lets other ready fibers run.
  void yield();
  // Runs guest code of `context` until it stops; parks the fiber meanwhile. `resumed` and `stopped` are time stamps
  // (__rdtsc) of both ends. `handed_off`: how much of the time between them was the waking of host threads, as far as that can
  // be told.
  struct GuestRun {
    platform::Event event;
    uint64_t resumed, stopped, handed_off;
  };
  GuestRun run_guest(platform::Context& context, platform::ResumeMode mode);
  // The context that the calling fiber ran last is about to be destroyed.
  static void forget_guest();
  static Fiber* current();

  // Timers: callback runs on an executor (or the caller of run_timers), outside locks of this class, at or after the
  // deadline. cancel() returns false when it has fired or is firing. Ids are never reused.
  using TimerId = uint64_t;
  TimerId add_timer(int64_t deadline_monotonic_ns, std::function<void()> callback);
  bool cancel_timer(TimerId id);

  // Work that may block in the host runs here (a small pool of threads), then `wake` the fiber yourself.
  void run_blocking(std::function<void()> work);
  // From a fiber: runs `work` on the pool and parks until it is done.
  void block_on(std::function<void()> work);

  // The calling thread becomes an executor until stop(); the others are started by it.
  void run();
  void stop();

 private:
  friend class Fiber;
  struct Impl;
  static void park_now(Fiber::Impl& fiber);
  std::unique_ptr<Impl> impl_;
};

int64_t monotonic_now_ns();
int64_t realtime_now_ns();
// Of the time-stamp counter.
int64_t ticks_to_ns(uint64_t ticks);

}  // namespace sentry::kernel
