// SPDX-License-Identifier: Apache-2.0
// The seccomp program of systrap's stub processes.
#pragma once

#include <cstdint>
#include <vector>

#include <linux/filter.h>

#include "base/host/seccomp.h"

namespace platform::filters {

// The descriptors whose files a stub may map for reading as it likes. A power of two, at a multiple of it.
inline constexpr uint64_t kFirstHostFileFd = 16, kHostFileFds = 16;

// What tells the filter that the zygote calls mmap, or a stub that has run no guest code yet: random numbers that go where the host ignores
// them, in the high halves of arguments. Who runs guest code does not have them any more.
struct ZygoteKey {
  uint32_t first = 0, second = 0;
};

// Calls whose instruction is outside [text_base, text_base + 64 KiB) are the guest's: SIGSYS. From inside, the
// rules of stub_rules() hold, and everything else kills the process.
std::vector<sock_filter> build_stub_filter(uint64_t text_base, ZygoteKey key);

// What the zygote and new stubs may call besides: asked first.
std::vector<base::SeccompRule> zygote_rules(ZygoteKey key);

// What the stub's own code may call.
const std::vector<base::SeccompRule>& stub_rules();

}  // namespace platform::filters
