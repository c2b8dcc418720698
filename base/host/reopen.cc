// SPDX-License-Identifier: Apache-2.0
#include "base/host/reopen.h"

#include <cstdio>

#include <fcntl.h>

namespace base {

UniqueFd reopen_for_reading(int fd) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return UniqueFd(open(path, O_RDONLY | O_CLOEXEC));
}

}  // namespace base
