// SPDX-License-Identifier: Apache-2.0
// Extended state (XSAVE standard format) that comes back from guest memory: made safe to load.
#pragma once

#include <cstdint>
#include <span>

namespace sentry::arch {

// Components that user code may use here (XCR0).
uint64_t xstate_features();
// Clears whatever would make XRSTOR fault: unknown components, reserved header and MXCSR bits.
void sanitize_xstate(std::span<uint8_t> xstate);
// The state of a new program: all components in their initial configuration.
void init_xstate(std::span<uint8_t> xstate);

}  // namespace sentry::arch
