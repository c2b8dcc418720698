// SPDX-License-Identifier: Apache-2.0
// What stubs say that their guests did without the sentry: read when somebody asks, and when a context goes.
#include <algorithm>

#include <x86intrin.h>

#include "platform/systrap/systrap.h"

namespace platform::systrap {
namespace {

// No call takes less: a guest that claims more of them than its thread had time for is not believed.
constexpr uint64_t kShortestCallTicks = 16;

}  // namespace

void SystrapPlatform::Tally::add(const Tally& other) {
  for (size_t i = 0; i < std::size(in_place); ++i) in_place[i] += other.in_place[i];
  in_place_trapped += other.in_place_trapped;
  slept += other.slept;
}

SystrapPlatform::Tally SystrapPlatform::tally_of(const SystrapContext& context) {
  const Slot& slot = *context.thread_.slot;
  const uint64_t most = (__rdtsc() - context.created_at_) / kShortestCallTicks;
  const auto claimed = [&](const uint64_t& field) { return std::min(__atomic_load_n(&field, __ATOMIC_RELAXED), most); };
  Tally tally;
  for (size_t i = 0; i < std::size(tally.in_place); ++i) tally.in_place[i] = claimed(slot.in_place_count[i]);
  tally.in_place_trapped = claimed(slot.in_place_trapped);
  tally.slept = claimed(slot.slept_count);
  return tally;
}

void SystrapPlatform::enrol(SystrapContext& context) {
  // The slot may have served another thread of the process, which is stopped now.
  Slot& slot = *context.thread_.slot;
  for (uint64_t& field : slot.in_place_count) __atomic_store_n(&field, uint64_t{0}, __ATOMIC_RELAXED);
  __atomic_store_n(&slot.in_place_trapped, uint64_t{0}, __ATOMIC_RELAXED);
  __atomic_store_n(&slot.slept_count, uint64_t{0}, __ATOMIC_RELAXED);
  context.kicks_seen_ = __atomic_load_n(&slot.kicks_made, __ATOMIC_RELAXED);
  __atomic_store_n(&slot.kicks_seen, context.kicks_seen_.load(), __ATOMIC_RELAXED);
  context.created_at_ = __rdtsc();
  base::MutexLock lock(census_mu_);
  census_.push_back(&context);
}

void SystrapPlatform::strike_off(SystrapContext& context) {
  const Tally last = tally_of(context);
  base::MutexLock lock(census_mu_);
  departed_.add(last);
  auto it = std::find(census_.begin(), census_.end(), &context);
  *it = census_.back();
  census_.pop_back();
}

Platform::Claims SystrapPlatform::claims() const {
  Tally sum;
  {
    base::MutexLock lock(census_mu_);
    sum = departed_;
    for (const SystrapContext* context : census_) sum.add(tally_of(*context));
  }
  Claims claims;
  for (size_t i = 0; i < std::size(sum.in_place); ++i)
    if (sum.in_place[i] != 0) claims.in_place.push_back({kInPlaceCalls[i], sum.in_place[i]});
  claims.in_place_trapped = sum.in_place_trapped;
  claims.slept = sum.slept;
  return claims;
}

}  // namespace platform::systrap
