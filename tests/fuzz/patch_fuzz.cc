// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any bytes in front of a `syscall`. The instruction that is found must lie within them.
#include <cstdlib>

#include "platform/common/patch_site.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  size_t length = platform::relocatable_before_syscall({data, size});
  if (length != 0 && (length < 5 || length > 15 || length + 2 > size)) abort();
  return 0;
}
