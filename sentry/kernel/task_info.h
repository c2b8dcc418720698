// SPDX-License-Identifier: Apache-2.0
// A consistent copy of what /proc and wait channels show of one thread, taken in one go and formatted outside any lock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sentry/kernel/task.h"

namespace sentry::kernel {

struct TaskInfo {
  std::string comm;
  TaskState state = TaskState::kDead;
  abi::SigSet pending, blocked;
  int64_t user_ns = 0, system_ns = 0, start_monotonic_ns = 0;
  uint64_t minor_faults = 0, major_faults = 0, voluntary = 0, involuntary = 0;
  int32_t nice = 0, policy = 0, rt_priority = 0;
  uint32_t personality = 0, seccomp_mode = 0;
  uint64_t timer_slack_ns = 50'000;
  std::vector<uint64_t> affinity;  // empty: all CPUs
};

TaskInfo task_info(Task& task);
// Bytes of an area that its layout names, as far as they can be read. On a fiber.
std::string guest_area(mm::MemoryManager& mm, abi::Addr start, abi::Addr end);
// The arguments, each with a NUL behind it, as /proc/PID/cmdline shows them; empty for a task without memory. On a fiber.
std::string command_line(Task& task);
// PR_SET_TIMERSLACK of another thread: 0 is the default.
void set_timer_slack(Task& task, uint64_t ns);

}  // namespace sentry::kernel
