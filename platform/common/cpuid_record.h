// SPDX-License-Identifier: Apache-2.0
// The instruction `cpuid`, which in a virtual machine is a trip to the hypervisor: microseconds, tens of them where virtual machines are nested.
#pragma once

#include <cstddef>
#include <span>

#include "platform/common/cpuid_answer.h"

namespace platform {

// What a C library asks at start, without what differs from CPU to CPU, as far as there is room. How many.
size_t record_cpuid(std::span<CpuidAnswer> out);

// How long it takes, in ticks of the time-stamp counter: the shortest of a few times.
uint64_t cpuid_ticks();

}  // namespace platform
