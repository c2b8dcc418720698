// SPDX-License-Identifier: Apache-2.0
// What uname(2), /proc/version and syslog(2) say we are.
#pragma once

#include <string_view>

namespace sentry::kernel {

inline constexpr std::string_view kRelease = "6.6.0-runsc";
inline constexpr std::string_view kVersion = "#1 SMP PREEMPT_DYNAMIC runsc";
inline constexpr std::string_view kBootMessage = "<6>[    0.000000] Linux version 6.6.0-runsc (runsc application kernel)\n";

}  // namespace sentry::kernel
