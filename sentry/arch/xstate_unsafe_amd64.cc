// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "sentry/arch/xstate_amd64.h"

namespace sentry::arch {

namespace {

constexpr size_t kMxcsrOffset = 24, kMxcsrMaskOffset = 28, kHeaderOffset = 512, kHeaderSize = 64;
constexpr uint32_t kDefaultMxcsr = 0x1f80;
constexpr uint16_t kDefaultFcw = 0x37f;

template <typename T>
T get(std::span<uint8_t> s, size_t at) {
  T v;
  std::memcpy(&v, s.data() + at, sizeof v);
  return v;
}
template <typename T>
void put(std::span<uint8_t> s, size_t at, T v) {
  std::memcpy(s.data() + at, &v, sizeof v);
}

uint32_t host_mxcsr_mask() {
  // UNSAFE: fxsave writes exactly the 512 aligned bytes it is given.
  static const uint32_t mask = [] {
    alignas(16) uint8_t area[512] = {};
    asm volatile("fxsave %0" : "=m"(area));
    uint32_t m;
    std::memcpy(&m, area + kMxcsrMaskOffset, sizeof m);
    return m == 0 ? 0xffbfu : m;
  }();
  return mask;
}

}  // namespace

uint64_t xstate_features() {
  // UNSAFE: xgetbv(0) reads a register; every CPU that runs this has OSXSAVE.
  static const uint64_t features = [] {
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t{high} << 32) | low;
  }();
  return features;
}

void sanitize_xstate(std::span<uint8_t> xstate) {
  if (xstate.size() < kHeaderOffset) return;
  put<uint32_t>(xstate, kMxcsrOffset, get<uint32_t>(xstate, kMxcsrOffset) & host_mxcsr_mask());
  if (xstate.size() < kHeaderOffset + kHeaderSize) return;
  const uint64_t present = get<uint64_t>(xstate, kHeaderOffset) & xstate_features();
  std::memset(xstate.data() + kHeaderOffset, 0, kHeaderSize);
  put<uint64_t>(xstate, kHeaderOffset, present);
}

void init_xstate(std::span<uint8_t> xstate) {
  std::fill(xstate.begin(), xstate.end(), uint8_t{0});
  if (xstate.size() < kHeaderOffset) return;
  put<uint16_t>(xstate, 0, kDefaultFcw);
  put<uint32_t>(xstate, kMxcsrOffset, kDefaultMxcsr);
}

}  // namespace sentry::arch
