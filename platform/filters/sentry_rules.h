// SPDX-License-Identifier: Apache-2.0
// What the sentry's own filter must let through for each platform at run time.
#pragma once

#include <vector>

#include "base/host/seccomp.h"

namespace platform::filters {

std::vector<base::SeccompRule> systrap_host_calls();

}  // namespace platform::filters
