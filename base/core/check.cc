// SPDX-License-Identifier: Apache-2.0
#include "base/core/check.h"

#include <cstdio>
#include <cstdlib>

#include <unistd.h>

namespace base {

namespace {
// Written with write(2) alone: the process may be inside malloc or a signal handler.
[[noreturn]] void die(const char* text, int length) {
  (void)!write(STDERR_FILENO, text, static_cast<size_t>(length));
  abort();
}
}  // namespace

void check_failed(const char* file, int line, const char* what) {
  char text[512];
  int n = snprintf(text, sizeof text, "runsc: check failed: %s:%d: %s\n", file, line, what);
  die(text, n < static_cast<int>(sizeof text) ? n : static_cast<int>(sizeof text));
}

void check_failed_ranks(int held, int wanted) {
  char text[128];
  int n = snprintf(text, sizeof text, "runsc: lock order: rank %d is held while %d is taken\n", held, wanted);
  die(text, n);
}

}  // namespace base
