// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/posix_timers.h"

#include <algorithm>
#include <ctime>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace sentry::kernel {

using base::err;
using base::RefPtr;
using base::Result;
using enum abi::Errno;

namespace {

constexpr int32_t kMonotonic = 1, kProcessCpu = 2, kThreadCpu = 3;
constexpr int32_t kUserCpu = -100;  // ITIMER_VIRTUAL: user time of the process; not a clock id of the guest's
constexpr int32_t kSigevNone = 1;
constexpr int32_t kCpuLimitId = -2;
// An expiry costs about a microsecond, so a shorter period only adds to the overrun count.
constexpr int64_t kMinPeriodNs = 50'000;
// A CPU clock is looked at again this soon at the earliest.
constexpr int64_t kMinCpuCheckNs = 1'000'000;

bool is_cpu_clock(int32_t clock) { return clock == kProcessCpu || clock == kThreadCpu || clock == kUserCpu; }

int64_t host_clock_ns(int32_t clock) {
  timespec ts{};
  // The _ALARM clocks (8, 9) are realtime and boottime that may wake a sleeping machine.
  clock_gettime(clock == 8 ? CLOCK_REALTIME : clock == 9 ? CLOCK_BOOTTIME : clock, &ts);
  return ts.tv_sec * 1'000'000'000 + ts.tv_nsec;
}

}  // namespace

struct PosixTimers::Timer final : base::RefCounted {
  int32_t id = -1;  // -1: an interval timer
  int32_t clock = kMonotonic;
  Notify notify;
  base::WeakRef<ThreadGroup> group;
  // PosixTimers::mu_:
  int64_t deadline = 0;  // of its clock; 0: off
  int64_t interval = 0;
  int64_t missed = 0;    // expiries since the last signal that was delivered
  int32_t overrun = 0;   // as timer_getoverrun(2) says
  int32_t setting = 1;   // changes with timer_settime(2), so that a signal of before is told apart; never 0
  Scheduler::TimerId armed = 0;
  bool is_armed = false;
};

PosixTimers::PosixTimers(ThreadGroup& group) : group_(group) {}

PosixTimers::~PosixTimers() { clear_all(); }

int64_t PosixTimers::clock_now(int32_t clock) const {
  if (clock == kProcessCpu) {
    const ResourceUse use = group_.own_use();
    return use.user_ns + use.system_ns;
  }
  if (clock == kUserCpu) return group_.own_use().user_ns;
  return host_clock_ns(clock);
}

PosixTimers::Setting PosixTimers::remaining(const Timer& timer, int64_t now) {
  if (timer.deadline == 0) return {0, timer.interval};
  // A timer that is about to fire still shows one nanosecond.
  return {std::max<int64_t>(timer.deadline - now, 1), timer.interval};
}

// Called with mu_ held; (re)starts the host side for the timer's deadline.
void PosixTimers::arm(RefPtr<Timer> timer) NO_THREAD_SAFETY_ANALYSIS {  // callers hold mu_
  Scheduler& scheduler = group_.kernel().scheduler();
  if (timer->is_armed) scheduler.cancel_timer(timer->armed);
  timer->is_armed = false;
  if (timer->deadline == 0) return;
  int64_t wait = timer->deadline - clock_now(timer->clock);
  wait = std::max(wait, is_cpu_clock(timer->clock) ? kMinCpuCheckNs : int64_t{0});
  if (timer->interval != 0 && timer->missed != 0) wait = std::max(wait, kMinPeriodNs);
  timer->armed = scheduler.add_timer(monotonic_now_ns() + wait, [timer] {
    if (RefPtr<ThreadGroup> group = timer->group.lock()) group->timers->expire(timer);
  });
  timer->is_armed = true;
}

// The deadline has passed: it, and those of the interval since then.
void PosixTimers::count_expiries(Timer& timer, int64_t now) {
  int64_t expiries = 1;
  if (timer.interval != 0) {
    expiries += (now - timer.deadline) / timer.interval;
    timer.deadline += expiries * timer.interval;
  } else {
    timer.deadline = 0;
  }
  timer.missed += expiries;
}

void PosixTimers::delivered(abi::SigInfo& info) {
  const int32_t setting = std::exchange(info.pad0, 0);
  base::MutexLock lock(mu_);
  auto it = timers_.find(info.get<int32_t>(0));
  if (it == timers_.end() || it->second->setting != setting) return;
  Timer& timer = *it->second;
  if (timer.interval != 0 && timer.deadline != 0) {
    // Those that are due but have not been seen count as well.
    if (const int64_t now = clock_now(timer.clock); now >= timer.deadline) {
      count_expiries(timer, now);
      arm(it->second);
    }
  }
  timer.overrun = static_cast<int32_t>(std::clamp<int64_t>(timer.missed - 1, 0, 0x7fffffff));
  timer.missed = 0;
  info.put<int32_t>(4, timer.overrun);
}

void PosixTimers::expire(RefPtr<Timer> timer) {
  abi::SigInfo info;
  {
    base::MutexLock lock(mu_);
    timer->is_armed = false;
    const int64_t now = clock_now(timer->clock);
    if (timer->deadline == 0) return;
    if (now < timer->deadline) {  // a CPU clock that has not got there
      arm(timer);
      return;
    }
    count_expiries(*timer, now);
    arm(timer);
    info.pad0 = timer->setting;
  }
  if (timer->id == kCpuLimitId) {
    enforce_cpu_limit(std::move(timer));
    return;
  }
  if (timer->notify.kind == kSigevNone) return;
  // One signal per timer is queued at a time; further expiries are its overrun.
  info.signo = timer->notify.signo;
  if (timer->id < 0) {
    info.code = abi::kSI_KERNEL;
    info.pad0 = 0;
  } else {
    info.code = abi::kSI_TIMER;
    info.put<int32_t>(0, timer->id);
    info.set_value(timer->notify.value);
  }
  if (timer->notify.thread) (void)timer->notify.thread->send_signal(info);
  else (void)group_.send_signal(info);
}

void PosixTimers::watch_cpu_limit() {
  const creds::Limit limit = group_.limit(creds::Resource::kCPU);
  base::MutexLock lock(mu_);
  if (!cpu_limit_) {
    if (limit.soft == creds::kInfinity) return;
    cpu_limit_ = base::make_ref<Timer>();
    cpu_limit_->id = kCpuLimitId;
    cpu_limit_->clock = kProcessCpu;
    cpu_limit_->group = base::WeakRef<ThreadGroup>(group_);
  }
  constexpr uint64_t kMaxSeconds = uint64_t{1} << 32;
  cpu_limit_->deadline = limit.soft == creds::kInfinity ? 0 : static_cast<int64_t>(std::min(std::max<uint64_t>(limit.soft, 1), kMaxSeconds)) * 1'000'000'000;
  arm(cpu_limit_);
}

void PosixTimers::enforce_cpu_limit(RefPtr<Timer> timer) {
  const creds::Limit limit = group_.limit(creds::Resource::kCPU);
  const auto used = static_cast<uint64_t>(clock_now(kProcessCpu)) / 1'000'000'000;
  abi::SigInfo info;
  info.signo = used >= limit.hard ? abi::kSIGKILL : abi::kSIGXCPU;
  info.code = abi::kSI_KERNEL;
  {
    base::MutexLock lock(mu_);
    timer->deadline = static_cast<int64_t>(used + 1) * 1'000'000'000;
    arm(timer);
  }
  (void)group_.send_signal(info);
}

PosixTimers::Setting PosixTimers::get_interval(IntervalTimer which) {
  base::MutexLock lock(mu_);
  const RefPtr<Timer>& timer = intervals_[static_cast<size_t>(which)];
  return timer ? remaining(*timer, clock_now(timer->clock)) : Setting{};
}

PosixTimers::Setting PosixTimers::set_interval(IntervalTimer which, Setting next) {
  base::MutexLock lock(mu_);
  RefPtr<Timer>& timer = intervals_[static_cast<size_t>(which)];
  if (!timer) {
    timer = base::make_ref<Timer>();
    timer->group = base::WeakRef<ThreadGroup>(group_);
    timer->clock = which == IntervalTimer::kReal ? kMonotonic : which == IntervalTimer::kVirtual ? kUserCpu : kProcessCpu;
    timer->notify.signo = which == IntervalTimer::kReal      ? abi::kSIGALRM
                          : which == IntervalTimer::kVirtual ? abi::kSIGVTALRM
                                                             : abi::kSIGPROF;
  }
  const int64_t now = clock_now(timer->clock);
  const Setting old = remaining(*timer, now);
  timer->deadline = next.value_ns == 0 ? 0 : now + next.value_ns;
  timer->interval = next.interval_ns;
  timer->missed = 0;
  arm(timer);
  return old;
}

Result<int32_t> PosixTimers::create(int32_t clock, Notify notify) {
  auto timer = base::make_ref<Timer>();
  timer->clock = clock == kThreadCpu ? kProcessCpu : clock;
  timer->notify = std::move(notify);
  timer->group = base::WeakRef<ThreadGroup>(group_);
  base::MutexLock lock(mu_);
  if (timers_.size() >= kMaxTimers) return err(kEAGAIN);
  while (timers_.contains(next_id_)) next_id_ = (next_id_ + 1) & 0x7fffffff;
  timer->id = next_id_;
  next_id_ = (next_id_ + 1) & 0x7fffffff;
  timers_[timer->id] = timer;
  return timer->id;
}

Result<PosixTimers::Setting> PosixTimers::get(int32_t id) {
  base::MutexLock lock(mu_);
  auto it = timers_.find(id);
  if (it == timers_.end()) return err(kEINVAL);
  return remaining(*it->second, clock_now(it->second->clock));
}

Result<PosixTimers::Setting> PosixTimers::set(int32_t id, Setting next, Start start) {
  base::MutexLock lock(mu_);
  auto it = timers_.find(id);
  if (it == timers_.end()) return err(kEINVAL);
  RefPtr<Timer> timer = it->second;
  const int64_t now = clock_now(timer->clock);
  Setting old = remaining(*timer, now);
  if (next.value_ns == 0) {
    timer->deadline = 0;
  } else {
    timer->deadline = start == Start::kAbsolute ? next.value_ns : now + next.value_ns;
  }
  timer->interval = next.interval_ns;
  timer->missed = 0;
  timer->overrun = 0;
  timer->setting = timer->setting == INT32_MAX ? 1 : timer->setting + 1;
  arm(timer);
  return old;
}

Result<int32_t> PosixTimers::overrun(int32_t id) {
  base::MutexLock lock(mu_);
  auto it = timers_.find(id);
  if (it == timers_.end()) return err(kEINVAL);
  return it->second->overrun;
}

Result<void> PosixTimers::remove(int32_t id) {
  RefPtr<Timer> gone;  // may hold the last reference to a thread: dropped outside the lock
  base::MutexLock lock(mu_);
  auto it = timers_.find(id);
  if (it == timers_.end()) return err(kEINVAL);
  gone = std::move(it->second);
  timers_.erase(it);
  gone->deadline = 0;
  arm(gone);
  return {};
}

void PosixTimers::clear_posix() {
  std::map<int32_t, RefPtr<Timer>> gone;
  base::MutexLock lock(mu_);
  gone.swap(timers_);
  for (auto& [id, timer] : gone) {
    timer->deadline = 0;
    arm(timer);
  }
}

void PosixTimers::clear_all() {
  clear_posix();
  base::MutexLock lock(mu_);
  if (cpu_limit_) {
    cpu_limit_->deadline = 0;
    arm(cpu_limit_);
  }
  for (RefPtr<Timer>& timer : intervals_) {
    if (!timer) continue;
    timer->deadline = 0;
    arm(timer);
  }
}

}  // namespace sentry::kernel
