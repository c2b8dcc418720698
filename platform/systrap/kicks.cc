// SPDX-License-Identifier: Apache-2.0
// Kicks: a stub did something in place, and somebody who sleeps may wait for it. docs/decisions/0035.
//
// A kick for which the stub rang is told at once. The others are told when the stub's thread goes to sleep, because only then has the
// one who is woken a CPU to run on; or when an executor finds them old. Meanwhile the watcher sees to it that a guest which
// computes on after all holds nobody up: it looks every millisecond for as long as there are kicks often, and stubs leave kicks
// for later only meanwhile.
#include <algorithm>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/stats/stats.h"
#include "platform/systrap/systrap.h"

namespace platform::systrap {
namespace {

// How long who waits is let wait for the sake of one that goes on, in ticks. Waking somebody on another CPU takes half of it.
constexpr uint64_t kOldTicks = 200'000;
// The watcher begins after so many kicks of which none came later than this after the one before, and ends when there were hardly
// any for a few rounds.
constexpr uint32_t kManyKicks = 16, kFewKicks = 4, kQuietRounds = 8;
constexpr uint64_t kRareTicks = 5'000'000;
constexpr timespec kRound = {0, 1'000'000};

void futex(uint32_t* word, int op, uint32_t value, const timespec* timeout) { syscall(SYS_futex, word, op, value, timeout, nullptr, 0); }

}  // namespace

bool SystrapPlatform::has_kicks(const SystrapContext& context) {
  return __atomic_load_n(&context.thread_.slot->kicks_made, __ATOMIC_ACQUIRE) != context.kicks_seen_.load(std::memory_order_relaxed);
}

// Of a context that has some: whether they are to be told now, though its thread goes on.
bool SystrapPlatform::kicks_due(SystrapContext& context) const {
  const uint32_t rung = __atomic_load_n(&context.thread_.slot->kicks_rung, __ATOMIC_SEQ_CST);
  if (static_cast<int32_t>(rung - context.kicks_seen_.load(std::memory_order_relaxed)) > 0) return true;
  if (__atomic_load_n(&control_.doorbell()->watched, __ATOMIC_RELAXED) == 0) return true;
  const uint64_t now = __rdtsc(), since = context.kicks_since_.load(std::memory_order_relaxed);
  if (since == 0) context.kicks_since_.store(now, std::memory_order_relaxed);
  return since != 0 && now - since > kOldTicks;
}

// Whether the event that a context has stopped with is a call that takes no time or makes the thread sleep, which tells what is left
// then. No call that may end the thread or give up its descriptors: who asks for those is told first.
bool SystrapPlatform::leaves_kicks(const SystrapContext& context) {
  const Slot& slot = *context.thread_.slot;
  if (kind_of(__atomic_load_n(&slot.head, __ATOMIC_RELAXED)) != kStubSyscall) return false;
  constexpr uint64_t kLong = 0x1'0000;
  switch (__atomic_load_n(&slot.number, __ATOMIC_RELAXED)) {
    case 0: case 1: case 17: case 18: case 44: case 45:  // read, write, pread64, pwrite64, sendto, recvfrom
      return __atomic_load_n(&slot.value[2], __ATOMIC_RELAXED) <= kLong;
    case 2: case 3: case 4: case 5: case 6: case 7: case 8:  // open, close, stat, fstat, lstat, poll, lseek
    case 202: case 232: case 257: case 262: case 271: case 281:  // futex, epoll_wait, openat, newfstatat, ppoll, epoll_pwait
      return true;
    default:
      return false;
  }
}

bool SystrapPlatform::find_kicks(SystrapContext& context, Kicks& kicks) {
  Slot& slot = *context.thread_.slot;
  const uint32_t seen = context.kicks_seen_.load(std::memory_order_relaxed);
  const uint32_t made = __atomic_load_n(&slot.kicks_made, __ATOMIC_ACQUIRE);
  if (made == seen) return true;
  if (!kicks.has_room()) return false;
  // A guest that claims more than there is room for loses what it overwrote.
  const uint32_t first = made - seen <= Slot::kKicks ? seen : made - Slot::kKicks;
  for (uint32_t i = first; i != made; ++i)
    kicks.kicks[kicks.count++] = {&context, __atomic_load_n(&slot.kicks[i % Slot::kKicks], __ATOMIC_RELAXED)};
  context.kicks_told_.fetch_add(made - first, std::memory_order_relaxed);
  context.kicks_seen_.store(made, std::memory_order_relaxed);
  context.kicks_since_.store(0, std::memory_order_relaxed);
  // Before anybody is told: a stub whose kick is not seen yet makes no second one for the same descriptor.
  __atomic_store_n(&slot.kicks_seen, made, __ATOMIC_SEQ_CST);
  return true;
}

void SystrapPlatform::tell_kicks(const Kicks& kicks) {
  if (kicks.count == 0) return;
  const uint64_t now = __rdtsc();
  if (now - last_kick_.exchange(now, std::memory_order_relaxed) > kRareTicks) recent_kicks_.store(0, std::memory_order_relaxed);
  const auto n = static_cast<uint32_t>(kicks.count);
  if (recent_kicks_.fetch_add(n, std::memory_order_relaxed) + n >= kManyKicks) {
    uint32_t not_yet = kNotWatching;
    if (__atomic_load_n(&watch_, __ATOMIC_RELAXED) == kNotWatching &&
        __atomic_compare_exchange_n(&watch_, &not_yet, static_cast<uint32_t>(kWatching), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
      futex(&watch_, FUTEX_WAKE_PRIVATE, 1, nullptr);
  }
  for (size_t i = 0; i < kicks.count; ++i) {
    const Kicks::Kick& kick = kicks.kicks[i];
    base::stats::count(base::stats::Counter::kKicks);
    if (kick_handler_ && kick.context->task) kick_handler_(kick.context->task, kick.fd);
    kick.context->kicks_told_.fetch_sub(1, std::memory_order_release);
  }
}

void SystrapPlatform::tell_all_kicks(SystrapContext& context) {
  if (!has_kicks(context)) return;
  Kicks kicks;
  {
    base::MutexLock lock(run_mu_);
    find_kicks(context, kicks);
  }
  tell_kicks(kicks);
}

// Its thread is about to sleep. Who is woken has its CPU then; and is woken first, so that the CPU does not halt in between.
void SystrapPlatform::relax(Context& c) {
  auto& context = static_cast<SystrapContext&>(c);
  tell_all_kicks(context);
  uint32_t event = kEvent;
  __atomic_compare_exchange_n(&context.thread_.slot->state, &event, kEvent | kRelaxed, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

// Of a context that resume_and_look() found stopped.
void SystrapPlatform::see_to_kicks(SystrapContext& context) {
  Kicks kicks;
  {
    base::MutexLock lock(run_mu_);
    if (kicks_due(context) || !leaves_kicks(context)) find_kicks(context, kicks);
    else leave_kicks(context);
  }
  tell_kicks(kicks);
}

void SystrapPlatform::leave_kicks(SystrapContext& context) {
  context.left_ = true;
  left_.push_back(&context);
}

void SystrapPlatform::take_back(SystrapContext& context) {
  if (!context.left_) return;
  base::MutexLock lock(run_mu_);
  std::erase(left_, &context);
  context.left_ = false;
}

// --- The watcher ---

void SystrapPlatform::tell_overdue() {
  bool crowded = true;
  while (crowded) {
    Kicks kicks;
    crowded = false;
    {
      base::MutexLock lock(run_mu_);
      for (const auto* list : {&running_, &left_})
        for (SystrapContext* context : *list)
          if (has_kicks(*context) && kicks_due(*context)) crowded |= !find_kicks(*context, kicks);
    }
    tell_kicks(kicks);
  }
}

void SystrapPlatform::watch() {
  for (;;) {
    futex(&watch_, FUTEX_WAIT_PRIVATE, kNotWatching, nullptr);
    if (__atomic_load_n(&watch_, __ATOMIC_SEQ_CST) == kEnding) return;
    if (__atomic_load_n(&watch_, __ATOMIC_SEQ_CST) == kNotWatching) continue;
    __atomic_store_n(&control_.doorbell()->watched, 1u, __ATOMIC_SEQ_CST);
    for (uint32_t quiet = 0; quiet < kQuietRounds && __atomic_load_n(&watch_, __ATOMIC_SEQ_CST) == kWatching;) {
      futex(&watch_, FUTEX_WAIT_PRIVATE, kWatching, &kRound);
      tell_overdue();
      quiet = recent_kicks_.exchange(0, std::memory_order_relaxed) < kFewKicks ? quiet + 1 : 0;
    }
    // A stub makes a kick and then looks whether it is watched; here it is the other way round, so one of the two sees the other.
    // From here on every kick that somebody finds is due; one that resume_and_look() has is found when it gives the context up.
    __atomic_store_n(&control_.doorbell()->watched, 0u, __ATOMIC_SEQ_CST);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    uint32_t watching = kWatching;
    __atomic_compare_exchange_n(&watch_, &watching, static_cast<uint32_t>(kNotWatching), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    tell_overdue();
  }
}

void SystrapPlatform::stop_watching() {
  if (!watcher_.joinable()) return;
  __atomic_store_n(&watch_, static_cast<uint32_t>(kEnding), __ATOMIC_SEQ_CST);
  futex(&watch_, FUTEX_WAKE_PRIVATE, 1, nullptr);
  watcher_.join();
}

}  // namespace platform::systrap
