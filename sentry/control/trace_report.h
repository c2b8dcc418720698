// SPDX-License-Identifier: Apache-2.0
// A timeline as ui.perfetto.dev and chrome://tracing open it: the JSON of Chrome's trace events. A track per guest thread, where
// stretches of guest code and the sentry's answers follow each other; the gofer's messages and the supervisor's approvals below.
#pragma once

#include <string>

#include "base/trace/trace.h"

namespace sentry::control {

inline constexpr size_t kTraceEvents = 400'000;

std::string trace_report(const base::trace::Timeline& timeline);

}  // namespace sentry::control
