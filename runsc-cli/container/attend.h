// SPDX-License-Identifier: Apache-2.0
// A host process that stands for a guest process: forwards signals and window sizes to it and ends with its status.
// Used in the foreground by run, exec and do, and in a background process of its own by detached ones.
#pragma once

#include <cstdint>
#include <string>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "runsc-cli/container/state.h"

namespace cli {

// Blocks every signal that attend() forwards, so that none is lost before it runs. Call once, early.
void hold_signals();

enum class OnHangup : uint8_t { kLeave, kKill };

struct Attendance {
  const StateFiles* files = nullptr;
  int64_t pid = 0;   // as the container sees it; 0: init
  int tty = -1;      // its host terminal
  OnHangup on_hangup = OnHangup::kLeave;
  int sentry_pidfd = -1;  // when it is our child
};

// Returns the status as an exit code: 128 + signal for a killed process.
base::HostResult<int> attend(const Attendance& what);

// Forks a process that attends in the background, with `tty` as its controlling terminal, so that it hears about new
// sizes. Returns its pid.
base::HostResult<int> attend_in_background(const Attendance& what);

int exit_code_of_status(int64_t wait_status);

}  // namespace cli
