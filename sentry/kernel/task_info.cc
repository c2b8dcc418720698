// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/task_info.h"

#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

TaskInfo task_info(Task& task) {
  const Task::Private& p = task.priv();
  TaskInfo info;
  info.comm = task.comm();
  info.state = task.state();
  {
    base::MutexLock lock(task.thread_group().signal_mu);
    info.pending = p.pending.set;
    info.blocked = p.blocked;
  }
  info.user_ns = ticks_to_ns(p.user_ticks.load(std::memory_order_relaxed));
  info.system_ns = ticks_to_ns(p.system_ticks.load(std::memory_order_relaxed));
  info.start_monotonic_ns = p.start_ns;
  info.minor_faults = p.minor_faults.load(std::memory_order_relaxed);
  info.major_faults = p.major_faults.load(std::memory_order_relaxed);
  info.voluntary = p.voluntary.load(std::memory_order_relaxed);
  info.involuntary = p.involuntary.load(std::memory_order_relaxed);
  task.sched.with([&](const Task::SchedState& sched) {
    info.nice = sched.nice;
    info.policy = sched.policy;
    info.rt_priority = sched.priority;
    for (uint64_t word : sched.affinity) {
      if (word != 0) info.affinity.assign(std::begin(sched.affinity), std::end(sched.affinity));
    }
  });
  info.personality = task.personality;
  info.seccomp_mode = p.seccomp_mode.load(std::memory_order_relaxed);
  info.timer_slack_ns = p.timer_slack_ns.load(std::memory_order_relaxed);
  return info;
}

void set_timer_slack(Task& task, uint64_t ns) {
  task.priv().timer_slack_ns.store(ns == 0 ? 50'000 : ns, std::memory_order_relaxed);
}

}  // namespace sentry::kernel
