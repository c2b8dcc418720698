// SPDX-License-Identifier: Apache-2.0
#include "base/stats/stats.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>

#include "base/sync/mutex.h"

namespace base::stats {

namespace {

// Plain integers, accessed by the builtins: zero pages of mmap() are valid blocks.
struct alignas(64) TimedRow {
  uint64_t count, ticks, parked, max;
  uint64_t buckets[kBuckets];
};

// Few things of those that could be timed happen in one sandbox, so they get their rows in the order in which they first
// happen, and a block touches two or three pages. Row 0 is not used.
constexpr size_t kRows = kTimedEnd + 1;

struct Block {
  uint64_t counters[kCounters];
  TimedRow rows[kRows];
};

std::atomic<uint16_t> row_of[kTimedEnd];

struct Registry {
  Mutex mu{LockRank::kStats};
  std::vector<Block*> blocks GUARDED_BY(mu);
  std::vector<Block*> idle GUARDED_BY(mu);  // of threads that have ended
  std::vector<Timed> rows GUARDED_BY(mu);   // row - 1 -> what
};

// Never destroyed: threads may count while the process ends.
Registry& registry() {
  static auto* r = new Registry;
  return *r;
}

thread_local Block* my_block = nullptr;

// Gives the block back when its thread ends.
struct Lease {
  Block* block = nullptr;
  ~Lease() {
    if (!block) return;
    my_block = nullptr;
    Registry& r = registry();
    MutexLock lock(r.mu);
    r.idle.push_back(block);
  }
};
thread_local Lease lease;

[[gnu::cold]] Block& take_block() {
  Registry& r = registry();
  Block* block = nullptr;
  {
    MutexLock lock(r.mu);
    if (!r.idle.empty()) {
      block = r.idle.back();
      r.idle.pop_back();
    }
  }
  if (!block) {
    void* p = mmap(nullptr, sizeof(Block), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    // Out of memory: threads share one block, and lose counts to each other.
    static Block shared;
    block = p == MAP_FAILED ? &shared : static_cast<Block*>(p);
    MutexLock lock(r.mu);
    if (std::find(r.blocks.begin(), r.blocks.end(), block) == r.blocks.end()) r.blocks.push_back(block);
    if (block == &shared) return shared;
  }
  lease.block = block;
  my_block = block;
  return *block;
}

Block& block() { return my_block ? *my_block : take_block(); }

// Only the block's thread writes.
void add(uint64_t& to, uint64_t n) { __atomic_store_n(&to, __atomic_load_n(&to, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED); }
uint64_t load(const uint64_t& from) { return __atomic_load_n(&from, __ATOMIC_RELAXED); }

[[gnu::cold]] uint16_t make_row(Timed what) {
  Registry& r = registry();
  MutexLock lock(r.mu);
  uint16_t row = row_of[what].load(std::memory_order_relaxed);
  if (row != 0) return row;
  r.rows.push_back(what);
  row = static_cast<uint16_t>(r.rows.size());
  row_of[what].store(row, std::memory_order_release);
  return row;
}

void record_in(Block& mine, Timed what, uint64_t ticks, uint64_t parked) {
  if (what >= kTimedEnd) return;
  uint16_t at = row_of[what].load(std::memory_order_acquire);
  if (at == 0) [[unlikely]] at = make_row(what);
  TimedRow& row = mine.rows[at];
  add(row.count, 1);
  add(row.ticks, ticks);
  if (parked != 0) add(row.parked, parked);
  if (ticks > load(row.max)) __atomic_store_n(&row.max, ticks, __ATOMIC_RELAXED);
  add(row.buckets[bucket_of(ticks)], 1);
}

}  // namespace

CounterName counter_name(Counter counter) {
  static constexpr CounterName kNames[] = {
#define COUNTER(name, group, text) {group, text},
#include "base/stats/counters.def"
#undef COUNTER
  };
  return kNames[static_cast<size_t>(counter)];
}

size_t bucket_of(uint64_t ticks) {
  const auto width = static_cast<unsigned>(std::bit_width(ticks));
  return std::min<size_t>(width > kFirstBucket ? width - kFirstBucket : 0, kBuckets - 1);
}

[[gnu::noinline]] void count(Counter counter, uint64_t n) { add(block().counters[static_cast<size_t>(counter)], n); }

[[gnu::noinline]] void record(Timed what, uint64_t ticks, uint64_t parked) { record_in(block(), what, ticks, parked); }

[[gnu::noinline]] void record_round(Timed answered, uint64_t ticks, uint64_t parked, uint64_t guest, uint64_t hand_off) {
  Block& mine = block();
  add(mine.counters[static_cast<size_t>(Counter::kHandOffs)], 1);
  add(mine.counters[static_cast<size_t>(Counter::kTicksGuest)], guest);
  if (hand_off != 0) add(mine.counters[static_cast<size_t>(Counter::kTicksHandOff)], hand_off);
  record_in(mine, answered, ticks, parked);
}

uint64_t total(Counter counter) {
  Registry& r = registry();
  MutexLock lock(r.mu);
  uint64_t sum = 0;
  for (const Block* b : r.blocks) sum += load(b->counters[static_cast<size_t>(counter)]);
  return sum;
}

Snapshot snapshot() {
  Snapshot out;
  Registry& r = registry();
  MutexLock lock(r.mu);
  for (const Block* b : r.blocks)
    for (size_t i = 0; i < kCounters; ++i) out.counters[i] += load(b->counters[i]);
  for (size_t i = 0; i < r.rows.size(); ++i) {
    Histogram h;
    for (const Block* b : r.blocks) {
      const TimedRow& row = b->rows[i + 1];
      h.count += load(row.count);
      h.ticks += load(row.ticks);
      h.parked += load(row.parked);
      h.max = std::max(h.max, load(row.max));
      for (size_t k = 0; k < kBuckets; ++k) h.buckets[k] += load(row.buckets[k]);
    }
    if (h.count != 0) out.timed.push_back({r.rows[i], h});
  }
  std::sort(out.timed.begin(), out.timed.end(), [](const auto& a, const auto& b) { return a.what < b.what; });
  return out;
}

}  // namespace base::stats
