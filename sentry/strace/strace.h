// SPDX-License-Identifier: Apache-2.0
// --strace: one line per system call in the debug log, printed from the table's argument kinds.
#pragma once

#include "sentry/syscalls/dispatch.h"

namespace sentry::strace {

void log_enter(kernel::Task& task, const syscalls::SyscallRow& row, const syscalls::Args& args);
void log_exit(kernel::Task& task, const syscalls::SyscallRow& row, const syscalls::Args& args,
              const base::Result<syscalls::SyscallReturn>& result);

}  // namespace sentry::strace
