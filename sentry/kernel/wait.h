// SPDX-License-Identifier: Apache-2.0
// wait4(2) and waitid(2).
#pragma once

#include "abi/linux/signal.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace sentry::kernel {

enum : uint32_t {
  kWNOHANG = 1, kWUNTRACED = 2, kWSTOPPED = 2, kWEXITED = 4, kWCONTINUED = 8, kWNOWAIT = 0x01000000,
  kWNOTHREAD = 0x20000000, kWALL = 0x40000000, kWCLONE = 0x80000000,
};

struct WaitFor {
  enum class Kind : uint8_t { kAny, kPid, kGroup } kind = Kind::kAny;
  base::RefPtr<PidNumber> number;  // kPid, kGroup; null: matches nothing (ECHILD)
  uint32_t options = 0;            // kWEXITED and kin decide what is looked for
};

struct WaitResult {
  abi::Pid pid;  // 0: nothing yet (WNOHANG)
  abi::Uid uid;
  int32_t wait_status = 0;  // as wait4 encodes it
  int32_t code = 0, status = 0;  // CLD_*, si_status
  ResourceUse use;
};

// ECHILD; kERESTARTSYS on a signal.
base::Result<WaitResult> wait_for_child(Task& task, const WaitFor& what);

}  // namespace sentry::kernel
