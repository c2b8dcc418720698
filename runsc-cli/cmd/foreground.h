// SPDX-License-Identifier: Apache-2.0
// Creates, starts, attends and deletes a container: what `run` and `do` share.
#pragma once

#include "runsc-cli/cmd/commands.h"

namespace cli {

enum class Keep : uint8_t { kNo, kYes };
CommandResult run_in_foreground(StateFiles& files, CreateRequest& request, Keep keep);

}  // namespace cli
