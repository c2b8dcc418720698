// SPDX-License-Identifier: Apache-2.0
// What `runsc events --stats` and `runsc debug --stats` show.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "sentry/kernel/kernel.h"

namespace sentry::control {

// `started_ns`: when the sandbox did, monotonic. Counters are of the whole sandbox, tasks and processes of the container.
nlohmann::json stats_report(kernel::Kernel& kernel, const kernel::Container& container, int64_t started_ns);

}  // namespace sentry::control
