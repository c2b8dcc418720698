// SPDX-License-Identifier: Apache-2.0
// What `runsc events --stats` and `runsc debug --stats` show.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "base/stats/stats.h"
#include "sentry/kernel/kernel.h"

namespace sentry::control {

// The name of what is timed: a call, "page fault", a gofer message.
std::string timed_name(base::stats::Timed what);
// `started_ns`: when the sandbox did, monotonic. Counters are of the whole sandbox, tasks and processes of the container.
nlohmann::json stats_report(kernel::Kernel& kernel, const kernel::Container& container, int64_t started_ns);

}  // namespace sentry::control
