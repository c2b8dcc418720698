// SPDX-License-Identifier: Apache-2.0
#include "platform/common/cpuid_record.h"

#include <algorithm>

#include <cpuid.h>
#include <x86intrin.h>

namespace platform {
namespace {

constexpr uint32_t kExtended = 0x8000'0000;

CpuidAnswer ask(uint32_t leaf, uint32_t subleaf) {
  CpuidAnswer a{leaf, subleaf};
  __cpuid_count(leaf, subleaf, a.eax, a.ebx, a.ecx, a.edx);
  return a;
}

// The caches of leaves 4 and 0x8000001d end with one of type 0; the states of leaf 0xd have holes.
constexpr uint32_t kMostCaches = 8, kStates = 10;

}  // namespace

size_t record_cpuid(std::span<CpuidAnswer> out) {
  size_t count = 0;
  const auto keep = [&](CpuidAnswer answer, bool any) {
    answer.any_subleaf = any ? 1 : 0;
    if (count < out.size()) out[count++] = answer;
    return answer;
  };
  const auto keep_caches = [&](uint32_t leaf) {
    for (uint32_t i = 0; i < kMostCaches && (keep(ask(leaf, i), false).eax & 0x1f) != 0; ++i) {}
  };
  const uint32_t basic = ask(0, 0).eax, extended = ask(kExtended, 0).eax;
  if (basic >= 2) keep(ask(2, 0), true);
  if (basic >= 4) keep_caches(4);
  keep(ask(0, 0), true);
  keep(ask(1, 0), true);
  if (basic >= 7)
    for (uint32_t i = 0; i < 2; ++i) keep(ask(7, i), false);
  if (basic >= 0xd)
    for (uint32_t i = 0; i < kStates; ++i) keep(ask(0xd, i), false);
  if (basic >= 0x14) keep(ask(0x14, 0), false);
  if (basic >= 0x19) keep(ask(0x19, 0), true);
  for (uint32_t leaf = kExtended; leaf <= std::min(extended, kExtended + 8); ++leaf) keep(ask(leaf, 0), true);
  if (extended >= kExtended + 0x1d && extended < kExtended + 0x100) keep_caches(kExtended + 0x1d);
  return count;
}

uint64_t cpuid_ticks() {
  uint64_t best = ~uint64_t{0};
  for (int i = 0; i < 4; ++i) {
    const uint64_t start = __rdtsc();
    ask(0, 0);
    best = std::min<uint64_t>(best, __rdtsc() - start);
  }
  return best;
}

}  // namespace platform
