// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/futex.h"

#include <algorithm>
#include <functional>

#include "sentry/kernel/pid_namespace.h"

namespace sentry::kernel {

using base::err;
using base::Result;
using enum abi::Errno;

namespace {

constexpr size_t kBuckets = 1024;

// Where the platform counts a waiter: nowhere unless the word is private to the process.
struct Place {
  platform::AddressSpace* space = nullptr;
  abi::Addr address;

  void count(int delta) const {
    if (space) space->count_futex_waiter(address, delta);
  }
};

struct Waiter {
  base::ListHook hook;
  FutexKey key;  // changed by requeue under both buckets' locks
  uint32_t bitset = kFutexBitsetAny;
  vfs::OpContext::Waker* waker = nullptr;
  int32_t pi_tid = 0;                         // != 0: waits for a priority-inheritance lock
  std::atomic<struct Bucket*> bucket{nullptr};  // null: not queued (woken)
  Place place;  // changed together with the key
};

struct Bucket {
  base::Mutex mu{base::LockRank::kFutexBucket};
  base::IntrusiveList<Waiter, &Waiter::hook> waiters GUARDED_BY(mu);
  std::atomic<uint32_t> count{0};  // raised before the word is compared: a wake of an empty bucket takes no lock
};

bool same(const FutexKey& a, const FutexKey& b) { return a.object == b.object && a.offset == b.offset; }

struct Table {
  std::array<Bucket, kBuckets> buckets;
  base::Mutex pi_mu{base::LockRank::kFutexPi};
};

Table& table() {
  static Table t;
  return t;
}

Bucket& bucket_of(const FutexKey& key) {
  size_t h = std::hash<const void*>{}(key.object) ^ (key.offset >> 2) * 0x9e3779b97f4a7c15ull;
  return table().buckets[(h ^ h >> 32) % kBuckets];
}

Result<FutexKey> key_of(Task& task, abi::Addr addr, FutexScope scope) {
  if (addr.value() % 4 != 0) return err(kEINVAL);
  return task.mm().futex_key(addr, scope == FutexScope::kPrivate);
}

Place place_of(Task& task, abi::Addr addr, FutexScope scope) {
  return scope == FutexScope::kPrivate ? Place{&task.mm().platform_space(), addr} : Place{};
}

void enqueue(Waiter& w) {
  Bucket& b = bucket_of(w.key);
  b.count.fetch_add(1, std::memory_order_seq_cst);
  w.place.count(1);
  base::MutexLock lock(b.mu);
  b.waiters.push_back(w);
  w.bucket.store(&b, std::memory_order_release);
}

void unlink_locked(Bucket& b, Waiter& w) REQUIRES(b.mu) {
  b.waiters.remove(w);
  b.count.fetch_sub(1, std::memory_order_relaxed);
  w.place.count(-1);
  w.bucket.store(nullptr, std::memory_order_release);
}

// Takes the waiter off its queue. False: a wake had done so already. After it nobody touches the waiter.
bool dequeue(Waiter& w) {
  for (;;) {
    Bucket* b = w.bucket.load(std::memory_order_acquire);
    if (!b) return false;
    base::MutexLock lock(b->mu);
    if (w.bucket.load(std::memory_order_relaxed) != b) continue;  // requeued meanwhile
    unlink_locked(*b, w);
    return true;
  }
}

// The waker is called under the bucket's lock: once the waiter sees itself unlinked it may be gone.
int32_t wake_key(const FutexKey& key, int32_t count, uint32_t bitset) {
  Bucket& b = bucket_of(key);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (b.count.load(std::memory_order_relaxed) == 0) return 0;
  int32_t woken = 0;
  base::MutexLock lock(b.mu);
  b.waiters.for_each([&](Waiter& w) NO_THREAD_SAFETY_ANALYSIS {  // a lambda: b.mu is held
    if (woken >= count || !same(w.key, key) || (w.bitset & bitset) == 0 || w.pi_tid != 0) return;
    vfs::OpContext::Waker* waker = w.waker;
    unlink_locked(b, w);
    waker->wake();
    ++woken;
  });
  return woken;
}

Result<bool> is_expected(Task& task, const FutexWord& word) {
  return TRY(task.mm().load_u32(word.addr)) == word.expected;
}

// Sleeps until `done()`; the caller dequeues.
Result<void> sleep(Task& task, vfs::Deadline deadline, base::FunctionRef<bool()> done) {
  while (!done()) {
    switch (task.block(deadline)) {
      case vfs::WakeReason::kWoken: break;
      case vfs::WakeReason::kTimedOut: return err(kETIMEDOUT);
      case vfs::WakeReason::kInterrupted: return err(kERESTARTSYS);
    }
  }
  return {};
}

}  // namespace

Result<void> futex_wait(Task& task, const FutexWord& word, uint32_t bitset, vfs::Deadline deadline) {
  if (bitset == 0) return err(kEINVAL);
  Waiter w;
  w.key = TRY(key_of(task, word.addr, word.scope));
  w.place = place_of(task, word.addr, word.scope);
  w.bitset = bitset;
  w.waker = &task.waker();
  enqueue(w);
  Result<bool> expected = is_expected(task, word);
  if (!expected || !*expected) {
    const FutexKey key = w.key;
    if (!dequeue(w)) wake_key(key, 1, bitset);  // not ours: pass it on
    return err(expected ? kEAGAIN : expected.error());
  }
  Result<void> slept = sleep(task, deadline, [&] { return w.bucket.load(std::memory_order_acquire) == nullptr; });
  // A wake that came together with the timeout or signal counts.
  if (!dequeue(w)) return {};
  return slept;
}

Result<int32_t> futex_wait_any(Task& task, const std::vector<FutexWord>& words, vfs::Deadline deadline) {
  std::vector<Waiter> waiters(words.size());
  for (size_t i = 0; i < words.size(); ++i) {
    waiters[i].key = TRY(key_of(task, words[i].addr, words[i].scope));
    waiters[i].place = place_of(task, words[i].addr, words[i].scope);
    waiters[i].waker = &task.waker();
  }
  for (Waiter& w : waiters) enqueue(w);
  auto woken_index = [&]() -> int32_t {
    for (size_t i = 0; i < waiters.size(); ++i)
      if (!waiters[i].bucket.load(std::memory_order_acquire)) return static_cast<int32_t>(i);
    return -1;
  };
  Result<void> outcome{};
  for (size_t i = 0; i < words.size() && outcome; ++i) {
    Result<bool> expected = is_expected(task, words[i]);
    if (!expected) outcome = err(expected.error());
    else if (!*expected) outcome = err(kEAGAIN);
  }
  if (outcome) outcome = sleep(task, deadline, [&] { return woken_index() >= 0; });
  int32_t woken = -1;
  for (size_t i = 0; i < waiters.size(); ++i)
    if (!dequeue(waiters[i])) woken = static_cast<int32_t>(i);
  if (woken >= 0) return woken;
  return err(outcome ? kEAGAIN : outcome.error());
}

Result<int32_t> futex_wake(Task& task, abi::Addr addr, FutexScope scope, int32_t count, uint32_t bitset) {
  if (bitset == 0) return err(kEINVAL);
  const FutexKey key = TRY(key_of(task, addr, scope));
  return wake_key(key, std::max(count, 1), bitset);
}

namespace {

void move_waiter(Bucket& from, Bucket& to, Waiter& w, const FutexKey& key, const Place& place) NO_THREAD_SAFETY_ANALYSIS {  // both held
  from.waiters.remove(w);
  from.count.fetch_sub(1, std::memory_order_relaxed);
  place.count(1);
  w.place.count(-1);
  w.key = key;
  w.place = place;
  to.count.fetch_add(1, std::memory_order_relaxed);
  to.waiters.push_back(w);
  w.bucket.store(&to, std::memory_order_release);
}

// Two buckets are locked by address; the second has a rank of its own kind, so lock it outside the rank check's view by
// taking turns: with equal buckets there is one lock.
int32_t requeue_keys(const FutexKey& from_key, const FutexKey& to_key, const Place& place, int32_t wake, int32_t requeue) {
  std::vector<Waiter*> moving;
  int32_t done = wake_key(from_key, wake, kFutexBitsetAny);
  if (requeue <= 0) return done;
  Bucket& from = bucket_of(from_key);
  Bucket& to = bucket_of(to_key);
  // A waiter off both queues for a moment must not look woken: it stays linked to `from` until it is on `to`.
  if (&from == &to) {
    base::MutexLock lock(from.mu);
    from.waiters.for_each([&](Waiter& w) {
      if (requeue > 0 && same(w.key, from_key) && w.pi_tid == 0) {
        moving.push_back(&w);
        --requeue;
      }
    });
    for (Waiter* w : moving) move_waiter(from, to, *w, to_key, place);
    return done + static_cast<int32_t>(moving.size());
  }
  base::MutexPairLock lock(from.mu, to.mu);
  from.waiters.for_each([&](Waiter& w) {
    if (requeue > 0 && same(w.key, from_key) && w.pi_tid == 0) {
      moving.push_back(&w);
      --requeue;
    }
  });
  for (Waiter* w : moving) move_waiter(from, to, *w, to_key, place);
  return done + static_cast<int32_t>(moving.size());
}

}  // namespace

Result<int32_t> futex_requeue(Task& task, abi::Addr from, abi::Addr to, FutexScope from_scope, FutexScope to_scope,
                              int32_t wake, int32_t requeue, std::optional<uint32_t> expected) {
  if (wake < 0 || requeue < 0) return err(kEINVAL);
  const FutexKey from_key = TRY(key_of(task, from, from_scope));
  const FutexKey to_key = TRY(key_of(task, to, to_scope));
  if (expected && TRY(task.mm().load_u32(from)) != *expected) return err(kEAGAIN);
  return requeue_keys(from_key, to_key, place_of(task, to, to_scope), wake, requeue);
}

Result<int32_t> futex_wake_op(Task& task, abi::Addr a, abi::Addr b, FutexScope scope, int32_t wake_a, int32_t wake_b, uint32_t op) {
  // FUTEX_OP(op, oparg, cmp, cmparg) of uapi/linux/futex.h.
  const uint32_t operation = op >> 28 & 7, compare = op >> 24 & 15;
  const bool shifted = (op >> 31) != 0;
  auto sign12 = [](uint32_t v) { return static_cast<int32_t>(v << 20) >> 20; };
  int32_t operand = sign12(op >> 12 & 0xfff);
  const int32_t compared_with = sign12(op & 0xfff);
  if (shifted) operand = static_cast<int32_t>(1u << (operand & 31));
  const FutexKey key_a = TRY(key_of(task, a, scope));
  const FutexKey key_b = TRY(key_of(task, b, scope));
  uint32_t old = TRY(task.mm().load_u32(b));
  for (;;) {
    uint32_t next = 0;
    const auto arg = static_cast<uint32_t>(operand);
    switch (operation) {
      case 0: next = arg; break;
      case 1: next = old + arg; break;
      case 2: next = old | arg; break;
      case 3: next = old & ~arg; break;
      case 4: next = old ^ arg; break;
      default: return err(kENOSYS);
    }
    if (TRY(task.mm().cas_u32(b, old, next))) break;
  }
  int32_t woken = wake_key(key_a, std::max(wake_a, 1), kFutexBitsetAny);
  const auto before = static_cast<int32_t>(old);
  bool wake_second = false;
  switch (compare) {
    case 0: wake_second = before == compared_with; break;
    case 1: wake_second = before != compared_with; break;
    case 2: wake_second = before < compared_with; break;
    case 3: wake_second = before <= compared_with; break;
    case 4: wake_second = before > compared_with; break;
    case 5: wake_second = before >= compared_with; break;
    default: return err(kENOSYS);
  }
  if (wake_second) woken += wake_key(key_b, std::max(wake_b, 1), kFutexBitsetAny);
  return woken;
}

namespace {

// One attempt to take a free lock, or to mark it contended. True: it is ours.
Result<bool> try_pi(Task& task, abi::Addr addr, PiLock how) REQUIRES(table().pi_mu) {
  const auto tid = static_cast<uint32_t>(task.tid().value());
  uint32_t word = TRY(task.mm().load_u32(addr));
  for (;;) {
    const uint32_t owner = word & kFutexTidMask;
    if (owner == tid) return err(kEDEADLK);
    if (owner == 0) {
      if (TRY(task.mm().cas_u32(addr, word, tid | (word & (kFutexWaiters | kFutexOwnerDied))))) return true;
      continue;
    }
    if (how == PiLock::kTry) return err(kEAGAIN);
    if (!task.pid_namespace().find_task(abi::Tid(static_cast<int32_t>(owner)))) return err(kESRCH);
    if (word & kFutexWaiters) return false;
    if (TRY(task.mm().cas_u32(addr, word, word | kFutexWaiters))) return false;
  }
}

// Gives the lock at `key` to its first waiter, or frees it. pi_mu is held.
Result<void> hand_over_pi(mm::MemoryManager& mm, abi::Addr addr, const FutexKey& key, uint32_t keep_bits) {
  Bucket& b = bucket_of(key);
  Waiter* next = nullptr;
  bool more = false;
  int32_t tid = 0;
  {
    base::MutexLock lock(b.mu);
    b.waiters.for_each([&](Waiter& w) {
      if (w.pi_tid == 0 || !same(w.key, key)) return;
      if (next) more = true;
      else next = &w;
    });
    if (next) tid = next->pi_tid;
  }
  if (!next && keep_bits != 0) return {};  // owner died with nobody waiting here: the word says so already
  // Only pi_mu holders queue or unqueue PI waiters, so `next` stays while the word is written.
  uint32_t word = TRY(mm.load_u32(addr));
  while (!TRY(mm.cas_u32(addr, word, static_cast<uint32_t>(tid) | (more ? kFutexWaiters : 0) | keep_bits))) {
  }
  if (next) {
    base::MutexLock lock(b.mu);
    vfs::OpContext::Waker* waker = next->waker;
    unlink_locked(b, *next);
    waker->wake();
  }
  return {};
}

}  // namespace

Result<void> futex_lock_pi(Task& task, abi::Addr addr, FutexScope scope, PiLock how, vfs::Deadline deadline) {
  Waiter w;
  w.key = TRY(key_of(task, addr, scope));
  w.place = place_of(task, addr, scope);
  w.waker = &task.waker();
  w.pi_tid = task.tid().value();
  {
    base::MutexLock lock(table().pi_mu);
    if (TRY(try_pi(task, addr, how))) return {};
    enqueue(w);
  }
  Result<void> slept = sleep(task, deadline, [&] { return w.bucket.load(std::memory_order_acquire) == nullptr; });
  base::MutexLock lock(table().pi_mu);
  if (!dequeue(w)) return {};  // the lock was handed to us
  if (!slept && slept.error() == kERESTARTSYS) return err(kERESTARTNOINTR);
  return slept;
}

Result<void> futex_unlock_pi(Task& task, abi::Addr addr, FutexScope scope) {
  const FutexKey key = TRY(key_of(task, addr, scope));
  base::MutexLock lock(table().pi_mu);
  const uint32_t word = TRY(task.mm().load_u32(addr));
  if ((word & kFutexTidMask) != static_cast<uint32_t>(task.tid().value())) return err(kEPERM);
  return hand_over_pi(task.mm(), addr, key, 0);
}

namespace {

constexpr int kRobustListLimit = 2048;  // ROBUST_LIST_LIMIT

struct RobustHead {
  uint64_t next = 0;
  int64_t futex_offset = 0;
  uint64_t pending = 0;
};

// handle_futex_death() of kernel/futex/core.c.
void mark_owner_died(Task& task, uint64_t entry, int64_t offset) {
  const bool is_pi = (entry & 1) != 0;
  const abi::Addr addr((entry & ~uint64_t{1}) + static_cast<uint64_t>(offset));
  if (addr.value() % 4 != 0) return;
  auto word = task.mm().load_u32(addr);
  if (!word) return;
  uint32_t v = *word;
  for (;;) {
    if ((v & kFutexTidMask) != static_cast<uint32_t>(task.tid().value())) return;
    auto swapped = task.mm().cas_u32(addr, v, (v & kFutexWaiters) | kFutexOwnerDied);
    if (!swapped) return;
    if (*swapped) break;
  }
  if (!(v & kFutexWaiters)) return;
  if (!is_pi) {
    (void)futex_wake(task, addr, FutexScope::kShared, 1, kFutexBitsetAny);
    (void)futex_wake(task, addr, FutexScope::kPrivate, 1, kFutexBitsetAny);
    return;
  }
  base::MutexLock lock(table().pi_mu);
  for (FutexScope scope : {FutexScope::kShared, FutexScope::kPrivate})
    if (auto key = key_of(task, addr, scope)) (void)hand_over_pi(task.mm(), addr, *key, kFutexOwnerDied);
}

void walk_robust_list(Task& task, abi::Addr head_addr) {
  if (head_addr.is_null()) return;
  auto head = task.read(memory::UserIn<RobustHead>(head_addr));
  if (!head) return;
  uint64_t entry = head->next;
  for (int i = 0; i < kRobustListLimit && (entry & ~uint64_t{1}) != head_addr.value(); ++i) {
    auto next = task.read(memory::UserIn<uint64_t>(abi::Addr(entry & ~uint64_t{1})));
    if (entry != head->pending) mark_owner_died(task, entry, head->futex_offset);
    if (!next) return;
    entry = *next;
  }
  if (head->pending) mark_owner_died(task, head->pending, head->futex_offset);
}

}  // namespace

void futex_task_exit(Task& task) {
  const platform::ThreadWords words = task.context().thread_words();
  task.context().set_thread_words({});
  walk_robust_list(task, abi::Addr(words.robust_list));
  const abi::Addr tid_addr(words.clear_child_tid);
  // With no other user of the memory nobody can look at the word any more.
  if (tid_addr.is_null() || task.mm().ref_count_for_debug() == 1) return;
  if (!task.write(memory::UserOut<int32_t>(tid_addr), 0)) return;
  (void)futex_wake(task, tid_addr, FutexScope::kShared, 1, kFutexBitsetAny);
  (void)futex_wake(task, tid_addr, FutexScope::kPrivate, 1, kFutexBitsetAny);
}

}  // namespace sentry::kernel
