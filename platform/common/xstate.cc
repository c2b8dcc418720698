// SPDX-License-Identifier: Apache-2.0
#include "platform/common/xstate.h"

#include <algorithm>
#include <cstring>

#include <cpuid.h>
#include <sys/auxv.h>

#include "platform/interface/registers.h"

namespace platform {
namespace {

constexpr uint64_t kAmx = uint64_t{3} << 17;
constexpr size_t kMxcsr = 24;
constexpr size_t kMxcsrMask = 28;
constexpr size_t kSoftwareReserved = 464;
constexpr size_t kHeader = 512;
constexpr size_t kHeaderEnd = 576;

uint64_t xgetbv0() {
  uint32_t a, d;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (uint64_t{d} << 32) | a;
}

uint32_t host_mxcsr_mask() {
  alignas(16) uint8_t area[512] = {};
  asm volatile("fxsave %0" : "=m"(area));
  uint32_t mask;
  std::memcpy(&mask, area + kMxcsrMask, 4);
  return mask ? mask : 0xffbf;
}

}  // namespace

uint64_t host_xstate_features() {
  // Once: in a virtual machine cpuid leaves for the hypervisor, which takes tens of microseconds.
  static const uint64_t features = [] {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return uint64_t{3};
    return xgetbv0() & ~kAmx;
  }();
  return features;
}

size_t host_xstate_size() {
  static const size_t size = [] {
    uint64_t features = host_xstate_features();
    size_t end = kHeaderEnd;
    for (unsigned i = 2; i < 63; ++i) {
      uint32_t a, b, c, d;
      if ((features >> i & 1) && __get_cpuid_count(0xd, i, &a, &b, &c, &d) && !(c & 1)) end = std::max<size_t>(end, a + b);
    }
    return std::min(end, kMaxXstate);
  }();
  return size;
}

bool host_has_fsgsbase() { return getauxval(AT_HWCAP2) & 2; }

void init_xstate(std::span<uint8_t> state) {
  std::memset(state.data(), 0, state.size());
  const uint16_t fcw = 0x37f;
  const uint32_t mxcsr = 0x1f80;
  std::memcpy(state.data(), &fcw, sizeof fcw);
  std::memcpy(state.data() + kMxcsr, &mxcsr, sizeof mxcsr);
}

void sanitize_xstate(std::span<uint8_t> state) {
  static const uint32_t mask = host_mxcsr_mask();
  uint32_t mxcsr;
  std::memcpy(&mxcsr, state.data() + kMxcsr, sizeof mxcsr);
  mxcsr &= mask;
  std::memcpy(state.data() + kMxcsr, &mxcsr, sizeof mxcsr);
  std::memset(state.data() + kSoftwareReserved, 0, kHeader - kSoftwareReserved);
  uint64_t features;
  std::memcpy(&features, state.data() + kHeader, sizeof features);
  features &= host_xstate_features();
  std::memcpy(state.data() + kHeader, &features, sizeof features);
  std::memset(state.data() + kHeader + 8, 0, kHeaderEnd - kHeader - 8);
}

}  // namespace platform
