// SPDX-License-Identifier: Apache-2.0
// CHECK: an invariant of ours, not of the guest's. Failing one ends the process with a message.
#pragma once

namespace base {
[[noreturn]] void check_failed(const char* file, int line, const char* what);
[[noreturn]] void check_failed_ranks(int held, int wanted);  // lock order broken
}  // namespace base

#define CHECK(cond)                                                     \
  do {                                                                  \
    if (!(cond)) [[unlikely]] ::base::check_failed(__FILE__, __LINE__, #cond); \
  } while (0)

#ifdef NDEBUG
#define DCHECK(cond) \
  do {               \
  } while (0)
#else
#define DCHECK(cond) CHECK(cond)
#endif
