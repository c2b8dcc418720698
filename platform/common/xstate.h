// SPDX-License-Identifier: Apache-2.0
// The CPU's extended state in standard XSAVE format: its size, its initial value, and making bytes from a guest
// safe to load (a bad header or MXCSR would fault in the host's XRSTOR).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace platform {

// Without components that a process must ask the host for (AMX).
size_t host_xstate_size();
uint64_t host_xstate_features();
bool host_has_fsgsbase();

void init_xstate(std::span<uint8_t> state);
void sanitize_xstate(std::span<uint8_t> state);

}  // namespace platform
