// SPDX-License-Identifier: Apache-2.0
// Fibers, executors and the run queue. Timers and the blocking pool are in timer_heap.h and blocking_pool.h.
//
// A fiber's state word is the whole wake protocol: wake() turns kParked into kQueued, or leaves a token in a running
// fiber (kRunningWoken) that its next park takes. The executor, not the fiber, makes the step to kParked, after it
// has left the fiber's stack, so that nobody can run a fiber that is still on its way out.
#include "sentry/kernel/scheduler.h"

#include <sys/mman.h>

#include <x86intrin.h>

#include <algorithm>
#include <ctime>
#include <thread>
#include <vector>

#include "base/core/check.h"
#include "base/host/host_wait.h"
#include "base/stats/stats.h"
#include "sentry/kernel/blocking_pool.h"
#include "sentry/kernel/timer_heap.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// Boost.Context's assembly entry points, declared here: its header pulls in <cxxabi.h>, which claims the name `abi`.
extern "C" {
using FiberContext = void*;
struct FiberTransfer {
  FiberContext from;
  void* data;
};
FiberTransfer jump_fcontext(FiberContext to, void* data);
FiberContext make_fcontext(void* stack_top, size_t size, void (*entry)(FiberTransfer));
}

namespace sentry::kernel {

using base::stats::count;
using base::stats::Counter;

int64_t monotonic_now_ns() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * int64_t{1'000'000'000} + ts.tv_nsec;
}
int64_t realtime_now_ns() {
  timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  return ts.tv_sec * int64_t{1'000'000'000} + ts.tv_nsec;
}

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackSize = 256 << 10;
#else
constexpr size_t kStackSize = 64 << 10;
#endif
constexpr size_t kGuardSize = 4096;
// Free stacks kept for reuse; the first few stay resident, the others give their pages back.
constexpr size_t kMaxPooledStacks = 64;
constexpr size_t kMaxWarmStacks = 8;
// How long an executor looks for a guest that is about to stop before it sleeps, in ticks of the time-stamp counter (2 to 4
// per ns). A sleeping hand-off costs 5 to 40 us, so looking for about as long is never worse than twice the best choice.
constexpr uint64_t kLookTicks = 75'000;
// It looks only where guests stopped sooner than this lately.
constexpr uint64_t kSoonTicks = 50'000;
// Longer gaps count as this one.
constexpr uint64_t kLongestGapTicks = 4'000'000;
// A look takes some 100 ticks. One that takes this long means that the host ran something else here: other work wants the
// core, and there is no looking for a while, each time longer.
constexpr uint64_t kStolenTicks = 100'000;
constexpr int64_t kFirstPauseNs = 1'000'000, kLongestPauseNs = 64'000'000;
// So many fibers an executor runs sooner than another one is awake, on another CPU: that takes 10 us of its own time already.
constexpr uint32_t kQuickly = 4;
// So many calls in a row from a guest on the executor's own CPU, each soon after the last, are worth another
// executor that looks from another CPU.
constexpr uint32_t kRecruitAfter = 8;

enum FiberState : uint32_t { kNew, kParked, kQueued, kRunning, kRunningWoken, kFinished };
enum class SwitchReason : uint8_t { kPark, kYield, kFinish };

struct Stack {
  uint8_t* base = nullptr;  // the guard page
  uint8_t* top() const { return base + kGuardSize + kStackSize; }
};

class StackPool {
 public:
  ~StackPool() {
    for (Stack s : free_) munmap(s.base, kGuardSize + kStackSize);
  }
  Stack take() {
    {
      base::MutexLock lock(mu_);
      if (!free_.empty()) {
        Stack s = free_.back();
        free_.pop_back();
        return s;
      }
    }
    void* p = mmap(nullptr, kGuardSize + kStackSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED);
    CHECK(mprotect(p, kGuardSize, PROT_NONE) == 0);
    return Stack{static_cast<uint8_t*>(p)};
  }
  void give(Stack s) {
    base::ReleasableLock lock(mu_);
    if (free_.size() >= kMaxPooledStacks) {
      lock.release();
      munmap(s.base, kGuardSize + kStackSize);
      return;
    }
    // The pages below the top one hold nothing: keep the top warm only.
    if (free_.size() >= kMaxWarmStacks) madvise(s.base + kGuardSize, kStackSize, MADV_DONTNEED);
    free_.push_back(s);
  }

 private:
  base::Mutex mu_{base::LockRank::kLeaf};
  std::vector<Stack> free_ GUARDED_BY(mu_);
};

}  // namespace

// Type-stable: an Impl is reused, never freed, while the scheduler lives. So whoever makes a fiber's wait condition true
// may still call wake() on it afterwards, though the fiber may have run on and ended: that wakes someone for nothing.
struct Fiber::Impl {
  explicit Impl(Scheduler& s) : scheduler(s) {}
  void wake();

  Scheduler& scheduler;
  std::function<void()> body, on_finished;
  Stack stack;
  FiberContext context = nullptr;
  Impl* next = nullptr;  // run queue or free list
  Fiber* owner = nullptr;
  std::atomic<uint32_t> state{kNew};
  std::atomic<bool> guest_stopped{false};
  platform::Context* answering = nullptr;  // its event is being answered on this fiber
  uint64_t parked = 0;                     // see take_parked()
  SwitchReason reason = SwitchReason::kPark;
  TimerNode deadline;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
#if defined(__SANITIZE_THREAD__)
  void* tsan = nullptr;
#endif
};

namespace {

// What an executor thread keeps of itself. Fibers move between threads, so this is only reached through functions
// that are not inlined: a cached address of a thread_local would be the wrong thread's after a park.
struct Executor {
  Scheduler* scheduler = nullptr;
  uint32_t rounds = 0;
  uint64_t asked_until = 0;  // looks although no guest is dense at the moment
  bool looking = false;  // it looked for events since it slept last
  Fiber::Impl* current = nullptr;
  FiberContext context = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
#endif
#if defined(__SANITIZE_THREAD__)
  void* tsan = nullptr;
#endif
};

thread_local Executor tls_executor;

[[gnu::noinline]] Executor& executor() {
  asm volatile("");
  return tls_executor;
}

}  // namespace

struct Scheduler::Impl {
  Impl(platform::Platform& p, unsigned n) : platform(p), executors(n == 0 ? 1 : n) {}

  platform::Platform& platform;
  const unsigned executors;
  StackPool stacks;
  TimerHeap timers;
  BlockingPool pool;
  std::vector<std::thread> threads;
  std::atomic<bool> stopping{false};
  std::atomic<uint32_t> sleepers{0};
  std::atomic<bool> spinning{false};
  std::atomic<int64_t> sleeping_deadline{INT64_MAX};  // the earliest time at which some sleeper wakes by itself
  std::atomic<uint32_t> local_calls{0};  // from guests on the executor's own CPU, each soon after the last
  std::atomic<bool> recruited{false};    // the executor that was woken is to look
  std::atomic<int64_t> no_look_before{0}, look_pause{kFirstPauseNs};

  base::Mutex queue_mu{base::LockRank::kScheduler};
  Fiber::Impl* head GUARDED_BY(queue_mu) = nullptr;
  Fiber::Impl* tail GUARDED_BY(queue_mu) = nullptr;
  std::vector<std::unique_ptr<Fiber::Impl>> all_fibers GUARDED_BY(queue_mu);
  Fiber::Impl* free_fibers GUARDED_BY(queue_mu) = nullptr;
  std::atomic<uint32_t> queued{0};

  uint32_t push(Fiber::Impl& fiber) {
    base::MutexLock lock(queue_mu);
    fiber.next = nullptr;
    (tail ? tail->next : head) = &fiber;
    tail = &fiber;
    return queued.fetch_add(1, std::memory_order_seq_cst) + 1;
  }
  Fiber::Impl* pop() {
    if (queued.load(std::memory_order_seq_cst) == 0) return nullptr;
    base::MutexLock lock(queue_mu);
    Fiber::Impl* f = head;
    if (!f) return nullptr;
    head = f->next;
    if (!head) tail = nullptr;
    queued.fetch_sub(1, std::memory_order_seq_cst);
    return f;
  }
  // Queues a fiber that is in state kQueued. An executor that queues a few will come to them soon; another one is
  // woken when there are more than that, or when the caller is no executor.
  void make_ready(Scheduler* self, Fiber::Impl& fiber) {
    const uint32_t n = push(fiber);
    if (sleepers.load(std::memory_order_seq_cst) == 0) return;
    if (n <= kQuickly && executor().scheduler == self) return;
    count(Counter::kExecutorWakes);
    platform.wake();
  }

  void switch_in(Fiber::Impl& fiber);
  void switch_in_one_of_many(Fiber::Impl& fiber);
  size_t poll_guests(Scheduler* self);
  bool look_for_guests(Scheduler* self);
  bool may_look();
  void recruit();
  void core_was_stolen();
  void begin_host_wait();
  bool idle(Scheduler* self);
  void loop(Scheduler* self, unsigned index);
  static void entry(FiberTransfer t);
  static void switch_out(Fiber::Impl& fiber, SwitchReason reason);
};

Fiber::Fiber(Impl* impl) : impl_(impl) {}

Fiber::~Fiber() {
  const uint32_t state = impl_->state.load(std::memory_order_acquire);
  // Finished or never started: one that is in the middle of its life has objects on its stack.
  CHECK(state == kFinished || state == kNew);
  Scheduler::Impl& scheduler = *impl_->scheduler.impl_;
  if (impl_->stack.base) scheduler.stacks.give(std::exchange(impl_->stack, Stack{}));
  impl_->body = nullptr;
  impl_->on_finished = nullptr;
  base::MutexLock lock(scheduler.queue_mu);
  impl_->next = std::exchange(scheduler.free_fibers, impl_);
}

void Fiber::start() {
  uint32_t fresh = kNew;
  if (impl_->state.compare_exchange_strong(fresh, kQueued, std::memory_order_seq_cst))
    impl_->scheduler.impl_->make_ready(&impl_->scheduler, *impl_);
}

void Fiber::wake() { impl_->wake(); }
uint64_t Fiber::take_parked() { return std::exchange(impl_->parked, 0); }

void Fiber::Impl::wake() {
  uint32_t now = state.load(std::memory_order_relaxed);
  for (;;) {
    // Even where nothing changes the word is written, so that what the waker did before is seen by the fiber.
    const uint32_t next = now == kParked ? kQueued : now == kRunning ? kRunningWoken : now;
    if (!state.compare_exchange_weak(now, next, std::memory_order_seq_cst)) continue;
    if (now == kParked) scheduler.impl_->make_ready(&scheduler, *this);
    return;
  }
}

Scheduler::Scheduler(platform::Platform& platform, unsigned executors) : impl_(std::make_unique<Impl>(platform, executors)) {}
Scheduler::~Scheduler() = default;

std::unique_ptr<Fiber> Scheduler::create(std::function<void()> body, std::function<void()> on_finished) {
  Fiber::Impl* f = nullptr;
  {
    base::MutexLock lock(impl_->queue_mu);
    if (impl_->free_fibers) {
      f = std::exchange(impl_->free_fibers, impl_->free_fibers->next);
    } else {
      impl_->all_fibers.push_back(std::make_unique<Fiber::Impl>(*this));
      f = impl_->all_fibers.back().get();
    }
  }
  f->state.store(kNew, std::memory_order_release);
  f->answering = nullptr;
  f->parked = 0;
  f->body = std::move(body);
  f->on_finished = std::move(on_finished);
  f->stack = impl_->stacks.take();
  f->context = make_fcontext(f->stack.top(), kStackSize, &Impl::entry);
#if defined(__SANITIZE_THREAD__)
  f->tsan = __tsan_create_fiber(0);
#endif
  std::unique_ptr<Fiber> fiber(new Fiber(f));
  f->owner = fiber.get();
  return fiber;
}

// First code on a fiber's stack.
void Scheduler::Impl::entry(FiberTransfer t) {
  executor().context = t.from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &executor().stack_bottom, &executor().stack_size);
#endif
  Fiber::Impl* fiber = executor().current;
  {
    std::function<void()> body = std::move(fiber->body);
    fiber->body = nullptr;
    body();
  }
  switch_out(*fiber, SwitchReason::kFinish);
  CHECK(!"a finished fiber ran again");
}

void Scheduler::Impl::switch_in(Fiber::Impl& f) {
  Executor& self = executor();
  f.state.exchange(kRunning, std::memory_order_seq_cst);
  for (;;) {
    self.current = &f;
    count(Counter::kFiberSwitches);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&self.fake_stack, f.stack.base + kGuardSize, kStackSize);
#endif
#if defined(__SANITIZE_THREAD__)
    self.tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(f.tsan, 0);
#endif
    FiberTransfer t = jump_fcontext(f.context, nullptr);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self.fake_stack, nullptr, nullptr);
#endif
    f.context = t.from;
    self.current = nullptr;
    if (f.reason != SwitchReason::kPark) break;
    uint32_t running = kRunning;
    if (f.state.compare_exchange_strong(running, kParked, std::memory_order_seq_cst)) return;
    f.state.exchange(kRunning, std::memory_order_seq_cst);  // woken meanwhile: take the token and go on
  }
  if (f.reason == SwitchReason::kYield) {
    f.state.exchange(kQueued, std::memory_order_seq_cst);
    push(f);
    return;
  }
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(f.tsan);
#endif
  std::function<void()> done = std::move(f.on_finished);
  stacks.give(std::exchange(f.stack, Stack{}));
  f.state.store(kFinished, std::memory_order_release);
  if (done) done();  // the fiber may be gone after this
}

// One that takes its time shows that the next ones are better off with another executor.
void Scheduler::Impl::switch_in_one_of_many(Fiber::Impl& fiber) {
  if (queued.load(std::memory_order_relaxed) == 0) return switch_in(fiber);
  const uint64_t start = __rdtsc();
  switch_in(fiber);
  if (__rdtsc() - start < kSoonTicks || queued.load(std::memory_order_seq_cst) == 0 || sleepers.load(std::memory_order_seq_cst) == 0) return;
  count(Counter::kExecutorWakes);
  platform.wake();
}

void Scheduler::Impl::switch_out(Fiber::Impl& fiber, SwitchReason reason) {
  fiber.reason = reason;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(reason == SwitchReason::kFinish ? nullptr : &fiber.fake_stack,
                                 executor().stack_bottom, executor().stack_size);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(executor().tsan, 0);
#endif
  FiberTransfer t = jump_fcontext(executor().context, nullptr);
  // Possibly on another thread now.
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &executor().stack_bottom, &executor().stack_size);
#endif
  executor().context = t.from;
}

namespace {
Fiber::Impl& current_impl() {
  Fiber::Impl* f = executor().current;
  CHECK(f != nullptr);
  return *f;
}
}  // namespace

Fiber* Scheduler::current() {
  Fiber::Impl* f = executor().current;
  return f ? f->owner : nullptr;
}

// What a handler waits for is counted apart from what it does.
void Scheduler::park_now(Fiber::Impl& f) {
  const uint64_t from = f.answering ? __rdtsc() : 0;
  Impl::switch_out(f, SwitchReason::kPark);
  if (from != 0) f.parked += __rdtsc() - from;
}

bool Scheduler::park(std::optional<int64_t> deadline) {
  Fiber::Impl& f = current_impl();
  uint32_t woken = kRunningWoken;
  if (f.state.compare_exchange_strong(woken, kRunning, std::memory_order_seq_cst)) return true;
  if (f.answering) impl_->platform.relax(*f.answering);
  if (!deadline) {
    park_now(f);
    return true;
  }
  if (monotonic_now_ns() >= *deadline) return false;
  f.deadline.deadline = *deadline;
  f.deadline.fiber = f.owner;
  impl_->timers.add(f.deadline);
  park_now(f);
  impl_->timers.remove(f.deadline);
  return monotonic_now_ns() < *deadline;
}

void Scheduler::yield() {
  Impl::switch_out(current_impl(), SwitchReason::kYield);
}

Scheduler::GuestRun Scheduler::run_guest(platform::Context& context, platform::ResumeMode mode) {
  Fiber::Impl& f = current_impl();
  f.guest_stopped.store(false, std::memory_order_relaxed);
  f.answering = nullptr;
  context.owner = &f;
  GuestRun run{{}, __rdtsc(), 0, 0};
  context.resumed_at.store(run.resumed, std::memory_order_relaxed);
  const uint64_t pace = context.pace.load(std::memory_order_relaxed);
  bool stopped = false;
  if (impl_->executors > 1 && pace < kSoonTicks && impl_->may_look()) {
    stopped = impl_->platform.resume_and_look(context, mode, {impl_->queued, run.resumed + kLookTicks});
  } else {
    impl_->platform.resume(context, mode);
  }
  if (stopped) {
    executor().looking = true;
    count(Counter::kHandOffsLooked);
  } else if (impl_->executors > 1 && pace < kSoonTicks) {
    impl_->recruit();
  }
  if (!stopped) {
    while (!f.guest_stopped.load(std::memory_order_acquire)) park();
  }
  run.stopped = __rdtsc();
  uint64_t gap = run.stopped - run.resumed;
  if (gap >= kSoonTicks / 4) {
    const uint64_t guest = std::min(context.guest_ticks(run.resumed, run.stopped), gap);
    run.handed_off = gap - guest;
    gap = std::min(guest, kLongestGapTicks);
  }
  // The platform may have raised it meanwhile.
  const uint64_t before = std::min(context.pace.load(std::memory_order_relaxed), 2 * kSoonTicks);
  context.pace.store(before - before / 4 + gap / 4, std::memory_order_relaxed);
  f.answering = &context;
  run.event = impl_->platform.take_event(context);
  return run;
}

// A guest that calls all the time was answered without being looked at: after some of these in a row another executor is
// woken to look from its own CPU, where it may.
void Scheduler::Impl::recruit() {
  // It would take the fibers that are ready here, such as a child that its parent is about to wait for.
  if (executor().looking || spinning.load(std::memory_order_relaxed) || queued.load(std::memory_order_relaxed) != 0) return;
  if (local_calls.fetch_add(1, std::memory_order_relaxed) < kRecruitAfter) return;
  local_calls.store(0, std::memory_order_relaxed);
  if (sleepers.load(std::memory_order_relaxed) == 0 || monotonic_now_ns() < no_look_before.load(std::memory_order_relaxed)) return;
  recruited.store(true);
  count(Counter::kLookersRecruited);
  platform.wake();
}

void Scheduler::forget_guest() { current_impl().answering = nullptr; }

// With nothing else to do, and not all the time: due timers and other fibers are seen to by the loop.
bool Scheduler::Impl::may_look() {
  if (queued.load(std::memory_order_relaxed) != 0 || stopping.load(std::memory_order_relaxed)) return false;
  if ((++executor().rounds & 15) != 0) return true;
  const int64_t now = monotonic_now_ns();
  return now < timers.next_deadline() && now >= no_look_before.load(std::memory_order_relaxed);
}

size_t Scheduler::Impl::poll_guests(Scheduler* self) {
  platform::Context* stopped[16];
  const size_t n = platform.poll(stopped);
  for (size_t i = 0; i < n; ++i) {
    auto* fiber = static_cast<Fiber::Impl*>(stopped[i]->owner);
    fiber->guest_stopped.store(true, std::memory_order_release);
    fiber->wake();
  }
  return n;
}

void Scheduler::Impl::core_was_stolen() {
  count(Counter::kCoreStolen);
  const int64_t pause = look_pause.load(std::memory_order_relaxed);
  no_look_before.store(monotonic_now_ns() + pause, std::memory_order_relaxed);
  look_pause.store(std::min(2 * pause, kLongestPauseNs), std::memory_order_relaxed);
}

// Looks for a little while if guests run, on other CPUs, and are likely to call soon. True when there is something to do.
bool Scheduler::Impl::look_for_guests(Scheduler* self) {
  if (executors < 2 || monotonic_now_ns() < no_look_before.load(std::memory_order_relaxed)) return false;
  // For the whole of a look, which may end early for work that another executor then takes.
  if (recruited.load(std::memory_order_relaxed) && recruited.exchange(false)) executor().asked_until = __rdtsc() + kLookTicks;
  const bool asked = __rdtsc() < executor().asked_until;
  const platform::Platform::Running guests = platform.survey(kSoonTicks);
  // Guests that call all the time make do with one CPU among them: what they call takes place on another one.
  if (guests.busy + 1 >= executors || guests.dense_here || (guests.dense == 0 && !asked)) return false;
  bool expected = false;
  if (!spinning.compare_exchange_strong(expected, true, std::memory_order_acquire)) return false;
  executor().looking = true;
  platform.start_looking();
  bool found = false;
  uint64_t last = __rdtsc();
  const uint64_t end = last + kLookTicks;
  while (!found && !stopping.load(std::memory_order_relaxed)) {
    for (int i = 0; i < 16 && !found; ++i) {
      __builtin_ia32_pause();
      const size_t guests_found = poll_guests(self);
      if (guests_found != 0) count(Counter::kHandOffsLooked, guests_found);
      found = guests_found != 0 || queued.load(std::memory_order_relaxed) != 0;
    }
    const uint64_t now = __rdtsc();
    if (now - last > kStolenTicks) core_was_stolen();
    last = now;
    if (now >= end) break;
  }
  if (found && last < end) look_pause.store(kFirstPauseNs, std::memory_order_relaxed);
  spinning.store(false, std::memory_order_release);
  return found;
}

bool Scheduler::Impl::idle(Scheduler* self) {
  if (look_for_guests(self)) return true;
  executor().looking = false;
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  const uint32_t token = platform.prepare_sleep();
  if (queued.load(std::memory_order_seq_cst) != 0 || stopping.load(std::memory_order_seq_cst) || poll_guests(self) != 0) {
    platform.cancel_sleep();
    sleepers.fetch_sub(1, std::memory_order_seq_cst);
    return true;
  }
  // One sleeper keeps the time for all.
  const int64_t next = timers.next_deadline();
  int64_t timeout = -1;
  bool keeper = false;
  int64_t kept = sleeping_deadline.load(std::memory_order_seq_cst);
  if (next != INT64_MAX && next < kept) {
    keeper = sleeping_deadline.compare_exchange_strong(kept, next, std::memory_order_seq_cst);
    const int64_t left = next - monotonic_now_ns();
    timeout = left > 0 ? left : 0;
  }
  if (timeout == 0) {
    platform.cancel_sleep();
  } else {
    count(Counter::kExecutorSleeps);
    platform.sleep(token, timeout);
  }
  if (keeper) {
    int64_t mine = next;
    sleeping_deadline.compare_exchange_strong(mine, INT64_MAX, std::memory_order_seq_cst);
  }
  sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return false;
}

void Scheduler::Impl::loop(Scheduler* self, unsigned index) {
  executor() = Executor{};
  executor().scheduler = self;
  const int cpu = platform.enter_executor(index);
  base::set_host_wait_hook({[](void* impl) { static_cast<Impl*>(impl)->begin_host_wait(); },
                            [](void* impl) { static_cast<Impl*>(impl)->platform.set_away(platform::Platform::Away::kNo); }, this, cpu});
  uint32_t rounds = 0;
  while (!stopping.load(std::memory_order_acquire)) {
    Fiber::Impl* fiber = pop();
    if (fiber) switch_in_one_of_many(*fiber);
    // Due timers are looked for when there is nothing else, and now and then when there is.
    const bool polled = poll_guests(self) != 0;
    bool fired = false;
    if ((!fiber && !polled) || (++rounds & 15) == 0) fired = timers.run_due(monotonic_now_ns());
    if (!fiber && !polled && !fired) idle(self);
  }
  executor().scheduler = nullptr;
  base::set_host_wait_hook({});
}

// The calling executor is about to wait in the host: what it would have seen to goes to another one.
void Scheduler::Impl::begin_host_wait() {
  if (executors < 2) return;
  platform.set_away(platform::Platform::Away::kYes);
  executor().looking = false;
  local_calls.store(0, std::memory_order_relaxed);  // what waits here anyway gains nothing from one that looks
  if ((queued.load(std::memory_order_seq_cst) != 0 || platform.running() != 0) && sleepers.load(std::memory_order_seq_cst) != 0)
    platform.wake();
}

Scheduler::TimerId Scheduler::add_timer(int64_t deadline_monotonic_ns, std::function<void()> callback) {
  const TimerId id = impl_->timers.add_callback(deadline_monotonic_ns, std::move(callback));
  // An executor looks at the timers before it sleeps; those already asleep only matter to other threads.
  if (executor().scheduler != this && impl_->sleepers.load(std::memory_order_seq_cst) != 0) impl_->platform.wake();
  return id;
}
bool Scheduler::cancel_timer(TimerId id) { return impl_->timers.cancel_callback(id); }

void Scheduler::run_blocking(std::function<void()> work) {
  count(Counter::kBlockingWork);
  impl_->pool.post(std::move(work));
}

void Scheduler::block_on(std::function<void()> work) {
  Fiber::Impl& f = current_impl();
  std::atomic<bool> done{false};
  run_blocking([&done, &work, fiber = &f] {
    Fiber::Impl* waiting = fiber;  // the captures die with `done`'s frame
    work();
    done.store(true, std::memory_order_release);
    waiting->wake();
  });
  while (!done.load(std::memory_order_acquire)) park();
}

void Scheduler::run() {
  for (unsigned i = 1; i < impl_->executors; ++i) impl_->threads.emplace_back([this, i] { impl_->loop(this, i); });
  impl_->loop(this, 0);
  for (std::thread& t : impl_->threads) t.join();
  impl_->threads.clear();
  impl_->pool.stop();
}

void Scheduler::stop() {
  impl_->stopping.store(true, std::memory_order_seq_cst);
  impl_->platform.wake_all();
}

}  // namespace sentry::kernel
