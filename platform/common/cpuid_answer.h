// SPDX-License-Identifier: Apache-2.0
// What the instruction `cpuid` answered. No libc: stubs include this.
#pragma once

#include <cstdint>

namespace platform {

struct CpuidAnswer {
  uint32_t leaf = 0, subleaf = 0;  // eax and ecx of the question
  uint32_t any_subleaf = 0;        // 1: ecx does not matter
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

}  // namespace platform
