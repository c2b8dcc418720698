// SPDX-License-Identifier: Apache-2.0
#include "base/stats/stats.h"

#include <thread>

#include "tests/util/catch.h"

using namespace base::stats;

namespace {

const Histogram* find(const Snapshot& s, Timed what) {
  for (const auto& entry : s.timed)
    if (entry.what == what) return &entry.histogram;
  return nullptr;
}

}  // namespace

TEST_CASE("Stats: counts of threads that have ended stay") {
  const uint64_t before = snapshot().get(Counter::kExecs);
  for (int i = 0; i < 3; ++i) std::thread([] { count(Counter::kExecs, 5); }).join();
  count(Counter::kExecs);
  CHECK(snapshot().get(Counter::kExecs) == before + 16);
}

TEST_CASE("Stats: a histogram puts each duration into its power of two") {
  CHECK(bucket_of(0) == 0);
  CHECK(bucket_of(127) == 0);
  CHECK(bucket_of(128) == 1);
  CHECK(bucket_of(255) == 1);
  CHECK(bucket_of(256) == 2);
  CHECK(bucket_of(~uint64_t{0}) == kBuckets - 1);
  record(3, 100);
  record(3, 300, 7);
  std::thread([] { record(3, 1000, 1); }).join();
  const Snapshot s = snapshot();
  const Histogram* h = find(s, 3);
  REQUIRE(h);
  CHECK(h->count == 3);
  CHECK(h->ticks == 1400);
  CHECK(h->parked == 8);
  CHECK(h->max == 1000);
  CHECK(h->buckets[0] == 1);
  CHECK(h->buckets[2] == 1);
  CHECK(h->buckets[3] == 1);
}

TEST_CASE("Stats: a round adds to the guest's and the hand-off's time, and nothing was answered before the first one") {
  const Snapshot before = snapshot();
  record_round(kTimedNothing, 50, 0, 1000, 10);
  record_round(kTimedFault, 500, 20, 2000, 0);
  const Snapshot after = snapshot();
  CHECK(after.get(Counter::kHandOffs) - before.get(Counter::kHandOffs) == 2);
  CHECK(after.get(Counter::kTicksGuest) - before.get(Counter::kTicksGuest) == 3000);
  CHECK(after.get(Counter::kTicksHandOff) - before.get(Counter::kTicksHandOff) == 10);
  CHECK(find(after, kTimedNothing) == nullptr);
  REQUIRE(find(after, kTimedFault));
  CHECK(find(after, kTimedFault)->ticks == 500);
}

TEST_CASE("Stats: every counter has a place of its own") {
  for (size_t i = 0; i < kCounters; ++i)
    for (size_t k = 0; k < i; ++k) {
      const CounterName a = counter_name(static_cast<Counter>(i)), b = counter_name(static_cast<Counter>(k));
      CHECK_FALSE((std::string_view(a.group) == b.group && std::string_view(a.name) == b.name));
    }
}
