// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/host/unique_fd.h"

namespace base {

// The same file, open for reading only, close-on-exec; through /proc, so not behind a filter. Invalid, with errno, when the host refuses.
UniqueFd reopen_for_reading(int fd);

}  // namespace base
