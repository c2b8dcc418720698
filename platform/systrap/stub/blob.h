// SPDX-License-Identifier: Apache-2.0
// The stub's code as the sentry embeds it: a flat image, built by build_stub.py.
#pragma once

#include <cstdint>

namespace platform::systrap {

// At the start of the image: offsets of its entry points (stub_entry.S).
struct StubHeader {
  uint32_t zygote_entry;
  uint32_t signal_entry;
  uint32_t signal_return;
  uint32_t fast_entry;
  uint32_t end;
  uint32_t cpuid_entry;
};

extern const unsigned char kStubImage[];
extern const unsigned long kStubImageSize;

}  // namespace platform::systrap
