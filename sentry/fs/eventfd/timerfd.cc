// SPDX-License-Identifier: Apache-2.0
// The timer's state outlives the file while a callback of the scheduler is under way.
#include <algorithm>

#include <fmt/format.h>

#include "sentry/fs/eventfd/eventfd.h"

namespace sentry::fs::eventfd {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

struct TimerFile::State final : public base::RefCounted {
  State(kernel::Kernel& kernel, Clock clock) : kernel(kernel), clock(clock) {}

  // Counts what has expired by `now` and says when the next one is due.
  void catch_up(int64_t now) REQUIRES(mu) {
    if (next == 0 || now < next) return;
    uint64_t n = 1;
    if (interval > 0) {
      n += static_cast<uint64_t>((now - next) / interval);
      next += static_cast<int64_t>(n) * interval;
    } else {
      next = 0;
    }
    expirations += n;
  }

  // (Re)starts the scheduler's timer for `next`.
  void arm() {
    std::optional<kernel::Scheduler::TimerId> old;
    int64_t deadline;
    {
      base::MutexLock lock(mu);
      old = std::exchange(timer, std::nullopt);
      deadline = next;
    }
    if (old) kernel.scheduler().cancel_timer(*old);
    if (deadline == 0) return;
    auto id = kernel.scheduler().add_timer(deadline, [self = RefPtr<State>(this)] { self->fire(); });
    base::MutexLock lock(mu);
    timer = id;
  }

  void fire() {
    bool again, expired;
    {
      base::MutexLock lock(mu);
      const uint64_t before = expirations;
      catch_up(kernel::monotonic_now_ns());
      expired = expirations != before || expirations != 0;
      again = next != 0 && !closed;
    }
    if (expired) queue.notify(vfs::kPollIn | vfs::kPollRdNorm);
    if (again) arm();
  }

  kernel::Kernel& kernel;
  const Clock clock;
  mutable base::Mutex mu{base::LockRank::kPipe};
  int64_t next GUARDED_BY(mu) = 0;      // monotonic; 0: disarmed
  int64_t interval GUARDED_BY(mu) = 0;
  uint64_t expirations GUARDED_BY(mu) = 0;
  bool closed GUARDED_BY(mu) = false;
  std::optional<kernel::Scheduler::TimerId> timer GUARDED_BY(mu);
  vfs::WaitQueue queue;
};

TimerFile::TimerFile(vfs::Path path, uint32_t flags, kernel::Kernel& kernel, Clock clock)
    : FileDescription(std::move(path), flags), state_(base::make_ref<State>(kernel, clock)) {}

TimerFile::~TimerFile() {
  {
    base::MutexLock lock(state_->mu);
    state_->closed = true;
    state_->next = 0;
  }
  state_->arm();
}

TimerSpec TimerFile::get() const {
  base::MutexLock lock(state_->mu);
  const int64_t now = kernel::monotonic_now_ns();
  state_->catch_up(now);
  return {state_->interval, state_->next == 0 ? 0 : std::max<int64_t>(state_->next - now, 1)};
}

TimerSpec TimerFile::set(TimerSpec next, bool absolute) {
  TimerSpec old = get();
  const int64_t now = kernel::monotonic_now_ns();
  int64_t deadline = 0;
  if (next.value_ns != 0) {
    int64_t offset = absolute ? 0 : now;
    if (absolute && state_->clock == Clock::kRealtime) offset = now - kernel::realtime_now_ns();
    if (__builtin_add_overflow(next.value_ns, offset, &deadline)) deadline = INT64_MAX;
    deadline = std::max<int64_t>(deadline, 1);
  }
  {
    base::MutexLock lock(state_->mu);
    state_->next = deadline;
    state_->interval = next.interval_ns;
    state_->expirations = 0;
  }
  state_->arm();
  return old;
}

Result<size_t> TimerFile::read(vfs::OpContext&, vfs::IoBuffer& dst) {
  uint64_t n;
  if (dst.remaining() < sizeof n) return err(kEINVAL);
  {
    base::MutexLock lock(state_->mu);
    state_->catch_up(kernel::monotonic_now_ns());
    n = std::exchange(state_->expirations, 0);
  }
  if (n == 0) return err(kEAGAIN);
  if (TRY(dst.put(&n, sizeof n)) < sizeof n) return err(kEFAULT);
  return sizeof n;
}

vfs::PollMask TimerFile::readiness(vfs::PollMask) {
  base::MutexLock lock(state_->mu);
  state_->catch_up(kernel::monotonic_now_ns());
  return state_->expirations != 0 ? vfs::kPollIn | vfs::kPollRdNorm : 0;
}

vfs::WaitQueue* TimerFile::wait_queue() { return &state_->queue; }

std::string TimerFile::fdinfo() const {
  TimerSpec now = get();
  base::MutexLock lock(state_->mu);
  constexpr int64_t kSecond = 1'000'000'000;
  return fmt::format("clockid: {}\nticks: {}\nsettime flags: 00\nit_value: ({}, {})\nit_interval: ({}, {})\n",
                     state_->clock == Clock::kRealtime ? 0 : 1, state_->expirations, now.value_ns / kSecond,
                     now.value_ns % kSecond, now.interval_ns / kSecond, now.interval_ns % kSecond);
}

RefPtr<TimerFile> make_timerfd(kernel::Task& task, TimerFile::Clock clock, uint32_t flags) {
  return base::make_ref<TimerFile>(vfs::make_anonymous_path("anon_inode:[timerfd]", 0600, task.creds()),
                                   vfs::kO_RDWR | (flags & vfs::kO_NONBLOCK), task.kernel(), clock);
}

}  // namespace sentry::fs::eventfd
