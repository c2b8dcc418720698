// SPDX-License-Identifier: Apache-2.0
// setitimer(2), alarm(2) and timer_create(2) timers of a process. Lock: mu_ (kProcessTimers); expiries run on an executor and send
// their signal without it.
#pragma once

#include <array>
#include <map>
#include <memory>

#include "abi/linux/signal.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/kernel/scheduler.h"

namespace sentry::kernel {

class Task;
class ThreadGroup;

enum class IntervalTimer : uint8_t { kReal, kVirtual, kProf };

class PosixTimers {
 public:
  explicit PosixTimers(ThreadGroup& group);
  ~PosixTimers();

  struct Setting {
    int64_t value_ns = 0;     // until the next expiry, 0: off
    int64_t interval_ns = 0;  // 0: one shot
  };
  Setting get_interval(IntervalTimer which);
  Setting set_interval(IntervalTimer which, Setting next);

  // RLIMIT_CPU has a new value: SIGXCPU at the soft limit and each second after it, SIGKILL at the hard one.
  void watch_cpu_limit();

  // How an expiry is announced: struct sigevent.
  struct Notify {
    int32_t kind = 0;  // SIGEV_*
    int32_t signo = 0;
    uint64_t value = 0;
    base::RefPtr<Task> thread;  // SIGEV_THREAD_ID
  };
  // EAGAIN when the process has too many.
  base::Result<int32_t> create(int32_t clock, Notify notify);
  base::Result<Setting> get(int32_t id);
  enum class Start : uint8_t { kRelative, kAbsolute };
  base::Result<Setting> set(int32_t id, Setting next, Start start);
  base::Result<int32_t> overrun(int32_t id);  // of the last signal that was delivered
  // A timer's signal has been taken from the queue: it says how many expiries it stands for (posixtimer_rearm()).
  void delivered(abi::SigInfo& info);
  base::Result<void> remove(int32_t id);
  // execve and exit: all POSIX timers go (interval timers survive execve).
  void clear_posix();
  void clear_all();

 private:
  struct Timer;
  void arm(base::RefPtr<Timer> timer);
  void expire(base::RefPtr<Timer> timer);
  static void count_expiries(Timer& timer, int64_t now);
  static Setting remaining(const Timer& timer, int64_t now);
  int64_t clock_now(int32_t clock) const;

  static constexpr size_t kMaxTimers = 1024;
  ThreadGroup& group_;
  base::Mutex mu_{base::LockRank::kProcessTimers};
  void enforce_cpu_limit(base::RefPtr<Timer> timer);
  std::array<base::RefPtr<Timer>, 3> intervals_ GUARDED_BY(mu_);
  base::RefPtr<Timer> cpu_limit_ GUARDED_BY(mu_);
  std::map<int32_t, base::RefPtr<Timer>> timers_ GUARDED_BY(mu_);
  int32_t next_id_ GUARDED_BY(mu_) = 0;
};

}  // namespace sentry::kernel
