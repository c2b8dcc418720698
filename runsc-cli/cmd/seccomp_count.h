// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

namespace cli {

// How many system calls the host lets a process make, whatever their arguments: read from its seccomp filters. Nothing
// when it has none or the host does not show them (it takes CAP_SYS_ADMIN and CONFIG_CHECKPOINT_RESTORE).
std::optional<int> count_allowed_calls(int pid);

}  // namespace cli
