// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/task_info.h"

#include <algorithm>

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
    info.blocked = live_mask_locked(task);
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

std::string guest_area(mm::MemoryManager& mm, abi::Addr start, abi::Addr end) {
  constexpr uint64_t kMaxArea = 4 << 20;  // of arguments or environment: they may be as long as a quarter of the stack
  if (end <= start) return {};
  std::string bytes(std::min<uint64_t>(end - start, kMaxArea), '\0');
  base::Result<size_t> n = mm.force_read(start, {static_cast<uint8_t*>(static_cast<void*>(bytes.data())), bytes.size()});
  bytes.resize(n ? *n : 0);
  return bytes;
}

// get_mm_cmdline(): a process that wrote over the end of its arguments (setproctitle) shows up to the next NUL,
// which may be in the environment.
std::string command_line(Task& task) {
  base::RefPtr<mm::MemoryManager> mm = task.mm_ref();
  if (!mm) return {};
  const mm::MemoryManager::Layout l = mm->layout();
  std::string text = guest_area(*mm, l.arg_start, l.arg_end);
  if (!text.empty() && text.back() != '\0') {
    if (l.env_start == l.arg_end && l.env_end > l.env_start) text += guest_area(*mm, l.env_start, l.env_end);
    text.resize(std::min(text.size(), text.find('\0')));
  }
  return text;
}

void set_timer_slack(Task& task, uint64_t ns) {
  task.priv().timer_slack_ns.store(ns == 0 ? 50'000 : ns, std::memory_order_relaxed);
}

}  // namespace sentry::kernel
