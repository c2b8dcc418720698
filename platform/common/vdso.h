// SPDX-License-Identifier: Apache-2.0
// The vDSO that the host kernel gave this process.
#pragma once

#include <cstdint>

namespace platform {

// Offset of a function from the start of the ELF image at `image` (AT_SYSINFO_EHDR), 0 when it is not there.
uint64_t vdso_symbol(uint64_t image, const char* name);

}  // namespace platform
