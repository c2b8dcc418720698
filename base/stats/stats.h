// SPDX-License-Identifier: Apache-2.0
// Counters and latency histograms of this process: why is a program slow?
//
// Each host thread adds to a block of its own with plain loads and stores, so counting costs a few instructions and no cache line
// is shared. Readers add the blocks up: what they see is at most a moment old. A block outlives its thread and is given to
// the next one, so no count is lost.
//
// Nothing here is inlined into callers: fibers move between threads, and a thread_local's address that the compiler kept across
// a park would be another thread's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace base::stats {

enum class Counter : uint8_t {
#define COUNTER(name, group, text) name,
#include "base/stats/counters.def"
#undef COUNTER
  kEnd,
};
inline constexpr size_t kCounters = static_cast<size_t>(Counter::kEnd);

struct CounterName {
  const char *group, *name;
};
CounterName counter_name(Counter counter);

void count(Counter counter, uint64_t n = 1);

// What is timed, as one index: system calls by number, other events of guests, gofer messages by op.
using Timed = uint16_t;
inline constexpr Timed kTimedCalls = 0, kTimedCallsEnd = 512;
inline constexpr Timed kTimedFault = 512, kTimedException = 513, kTimedInterrupt = 514;
inline constexpr Timed kTimedGofer = 520, kTimedEnd = 584;
inline constexpr Timed kTimedNothing = kTimedEnd;

// Bucket i counts what took less than 2^(i + kFirstBucket) ticks of the time-stamp counter, the last one all that is longer.
inline constexpr size_t kBuckets = 20;
inline constexpr unsigned kFirstBucket = 7;

struct Histogram {
  uint64_t count = 0, ticks = 0, parked = 0, max = 0;
  uint64_t buckets[kBuckets] = {};
};
size_t bucket_of(uint64_t ticks);

// `ticks` counts into the histogram, `parked` (waiting on purpose: no host thread is busy meanwhile) is only added up.
void record(Timed what, uint64_t ticks, uint64_t parked = 0);
// One round of a guest thread: the sentry answered its last event (kTimedNothing: there was none), then the guest ran until the next
// one. `hand_off`: what of that the waking of host threads took.
void record_round(Timed answered, uint64_t ticks, uint64_t parked, uint64_t guest, uint64_t hand_off);

struct Snapshot {
  uint64_t counters[kCounters] = {};
  struct Entry {
    Timed what;
    Histogram histogram;
  };
  std::vector<Entry> timed;  // those that happened, by index
  uint64_t get(Counter c) const { return counters[static_cast<size_t>(c)]; }
};
Snapshot snapshot();
uint64_t total(Counter counter);

}  // namespace base::stats
