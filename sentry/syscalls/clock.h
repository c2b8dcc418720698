// SPDX-License-Identifier: Apache-2.0
// Clock ids of uapi/linux/time.h and reading one.
#pragma once

#include "base/core/result.h"
#include "sentry/kernel/task.h"

namespace sentry::syscalls {

enum : int32_t {
  kClockRealtime = 0, kClockMonotonic = 1, kClockProcessCpu = 2, kClockThreadCpu = 3, kClockMonotonicRaw = 4,
  kClockRealtimeCoarse = 5, kClockMonotonicCoarse = 6, kClockBoottime = 7, kClockRealtimeAlarm = 8,
  kClockBoottimeAlarm = 9, kClockTai = 11,
};

// Nanoseconds; EINVAL for an unknown clock or a CPU clock of a process that is not there.
base::Result<int64_t> read_clock(kernel::Task& task, int32_t id);

}  // namespace sentry::syscalls
