// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

// Behind seccomp(2) and prctl(PR_SET_SECCOMP).
Result<int32_t> do_seccomp(Task& task, uint32_t operation, uint32_t flags, Addr args);

}  // namespace sentry::syscalls
