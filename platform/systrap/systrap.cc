// SPDX-License-Identifier: Apache-2.0
#include "platform/systrap/systrap.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <ctime>

#include <cpuid.h>
#include <linux/futex.h>
#include <sched.h>
#include <x86intrin.h>
#include <sys/syscall.h>

#include "base/core/check.h"
#include "base/log/log.h"
#include "base/stats/stats.h"
#include "platform/common/xstate.h"
#include "platform/filters/sentry_rules.h"
#include "platform/systrap/factory.h"
#include "platform/systrap/stub/blob.h"

namespace platform::systrap {

using base::stats::count;
using base::stats::Counter;

namespace {

constexpr unsigned kPoolTarget = 2;
constexpr uint32_t kSpin = 400;
// In ticks: no call is answered sooner, and no guest that got its answer calls again sooner. Who waits looks from then on: each look
// takes the line of the slot away from the one that will write it.
constexpr uint64_t kAnswerTicks = 350, kReturnTicks = 160;

// An event within this time after a kick brings it along. Waking somebody on another CPU takes longer; with one CPU nobody else
// gets it before anyway.
constexpr uint32_t kFollowTicks = 30'000, kFollowTicksAlone = 200'000;
// How stubs look for answers in place. A thread that sleeps and is woken on another CPU costs both sides some 60,000 ticks.
constexpr Looking kLooking = {.pauses = 10, .longest = 50'000, .stolen = 1'600'000, .alone = 5'000, .soon = 150'000};

// What an executor's thread knows of itself.
struct Self {
  const void* looking = nullptr;  // the platform whose `lookers` counts this thread
  const void* counted = nullptr;  // the platform whose `running_count_` does
  uint32_t bell = 0;
};
thread_local Self self;

// How long a `pause` takes: 10 to 140 ticks, as the CPU has it.
uint64_t pause_ticks() {
  constexpr uint64_t kPauses = 64;
  uint64_t best = ~uint64_t{0};
  for (int round = 0; round < 4; ++round) {
    const uint64_t start = __rdtsc();
    for (uint64_t i = 0; i < kPauses; ++i) __builtin_ia32_pause();
    best = std::min<uint64_t>(best, __rdtsc() - start);
  }
  return std::max<uint64_t>(best / kPauses, 5);
}

bool has_rdpid() {
  unsigned a = 7, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 22));
}

long futex(uint32_t* word, int op, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, word, op, value, timeout, nullptr, 0);
}

// Where a stub says that it posted its last event: a guest may choose it.
uint32_t posted_on(const Slot& slot) { return cpu_of(__atomic_load_n(&slot.head, __ATOMIC_RELAXED)); }

}  // namespace

base::Result<void> SystrapPlatform::init(const PlatformConfig& config) {
  if (auto r = control_.init(); !r) {
    LOG_ERROR("systrap: {}", r.error().message);
    return base::err(abi::Errno::kENOMEM);
  }
  auto listener = zygote_.start(config);
  if (!listener) {
    LOG_ERROR("{}", listener.error().message);
    return base::err(abi::Errno::kEIO);
  }
  supervisor_.set_zygote(zygote_.pid(), std::move(*listener));
  const StubLayout& layout = zygote_.layout();
  reserved_ = {layout.zones.high, layout.zones.low};
  const auto* header = static_cast<const StubHeader*>(static_cast<const void*>(kStubImage));
  trampolines_.init(layout.zones, layout.text() + header->fast_entry, layout.text() + header->cpuid_entry);
  control_.waiting()->of[0] = 1;
  Doorbell* bell = control_.doorbell();
  bell->spin = config.cpus > 1 ? kSpin : 0;
  if (config.cpus > 1) {
    const uint64_t pause = pause_ticks();
    bell->settle = static_cast<uint32_t>(kAnswerTicks / pause);
    settle_ = static_cast<uint32_t>(kReturnTicks / pause);
  }
  bell->follow_ticks = config.cpus > 1 ? kFollowTicks : kFollowTicksAlone;
  bell->looking = kLooking;
  if (config.cpus == 1) bell->looking.pauses = 0;
  bell->has_rdpid = has_rdpid();
  bell->bell_count = std::clamp<unsigned>(config.cpus, 1, kMaxBells);
  bell->vdso_clock_gettime = layout.vdso_clock_gettime;
  place_bells(config.cpus);
  bell->guest[0] = {min_address().value(), layout.zones.low.start.value()};
  bell->guest[1] = {layout.zones.low.end.value(), layout.zones.high.start.value()};
  bell->guest[2] = {layout.zones.high.end.value(), max_address().value()};
  return {};
}

// One bell per executor. With as many executors as CPUs each gets a CPU of its own, and the stubs ring that of the CPU
// they are on; with fewer the host places them.
void SystrapPlatform::place_bells(unsigned executors) {
  bells_ = std::clamp<unsigned>(executors, 1, kMaxBells);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (bells_ < 2 || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &allowed)) cpus_.push_back(cpu);
  if (cpus_.size() == bells_) cpu_of_bell_ = cpus_;
}

SystrapPlatform::~SystrapPlatform() {
  zygote_.close();
  supervisor_.stop();
  stop_watching();
}

size_t SystrapPlatform::xstate_size() const { return host_xstate_size(); }

// Threads start with the first address space, not in init(): by then the caller is in its final namespaces and filter.
void SystrapPlatform::start_once() {
  if (started_.load(std::memory_order_acquire)) return;
  base::MutexLock lock(start_mu_);
  if (started_.load(std::memory_order_relaxed)) return;
  supervisor_.start();
  watcher_ = std::thread([this] { watch(); });
  started_.store(true, std::memory_order_release);
}

// Not for the first process: many sandboxes have no other.
void SystrapPlatform::fill_pool() {
  if (spaces_made_.load(std::memory_order_relaxed) < 2) return;
  while (zygote_.outstanding() < kPoolTarget) zygote_.request();
}

base::Result<std::unique_ptr<AddressSpace>> SystrapPlatform::create_address_space() {
  start_once();
  spaces_made_.fetch_add(1, std::memory_order_relaxed);
  for (;;) {
    if (!supervisor_.zygote_alive()) return base::err(abi::Errno::kENOMEM);
    Zygote::Fork fork = TRY(zygote_.take());
    // Whoever waits for this one has the CPU now. Mostly a process ends before the pool is empty, and the reaper fills it.
    if (zygote_.outstanding() == 0) fill_pool();
    auto process = base::make_ref<StubProcess>(fork.pid, fork.unit);
    supervisor_.add(process);
    if (process->dead.load()) {
      control_.free_unit(fork.unit);
      continue;
    }
    count(Counter::kStubProcesses);
    return std::unique_ptr<AddressSpace>(new SystrapAddressSpace(*this, std::move(process), fork.unit));
  }
}

base::Result<std::unique_ptr<Context>> SystrapPlatform::create_context(AddressSpace& as) {
  auto& space = static_cast<SystrapAddressSpace&>(as);
  StubThread thread = TRY(space.take_thread());
  return std::unique_ptr<Context>(new SystrapContext(*this, space, thread));
}

// --- Running ---

void SystrapPlatform::resume(Context& context, ResumeMode mode) {
  begin(static_cast<SystrapContext&>(context), mode, Wanted::kHandOver);
}

SystrapPlatform::Begun SystrapPlatform::begin(SystrapContext& context, ResumeMode mode, Wanted wanted) {
  uint32_t stopped = SystrapContext::kStopped;
  while (!context.phase_.compare_exchange_weak(stopped, SystrapContext::kRunning)) {
    CHECK(stopped != SystrapContext::kRunning);
    stopped = SystrapContext::kStopped;
    sched_yield();  // its thread makes another one right now
  }
  context.forced_ = {};
  if (context.left_) take_back(context);
  if (context.as_.process_->dead.load()) {
    force(context, EventKind::kDied);
    return Begun::kForced;
  }
  if (!context.want_fp_ && context.interrupt_.load()) {
    force(context, EventKind::kInterrupted);
    return Begun::kForced;
  }
  bool all = true;
  if (context.as_.dirty_.load(std::memory_order_acquire)) {
    all = context.as_.publish(context.asks_);
    if (!all) wanted = Wanted::kHandOver;  // there is more to do before the guest runs, which poll_once() sees to
  }
  context.write_reply(mode, all);
  if (wanted == Wanted::kReplyOnly) return Begun::kReplyWritten;
  hand_over(context);
  return Begun::kHandedOver;
}

void SystrapPlatform::hand_over(SystrapContext& context) {
  running_count_.fetch_add(1, std::memory_order_relaxed);
  enlist(context, __atomic_exchange_n(&context.thread_.slot->state, static_cast<uint32_t>(kRun), __ATOMIC_SEQ_CST));
}

// The context runs: from now on poll() sees it. Its event may be there already; the caller polls before it sleeps.
void SystrapPlatform::enlist(SystrapContext& context, uint32_t state_before) {
  const bool asks = std::exchange(context.asks_, false);
  int cpu = -1;
  {
    base::MutexLock lock(run_mu_);
    context.overdue_ = 0;
    if ((state_before & kSleeping) && !cpu_of_bell_.empty()) place(context);
    if (asks) cpu = cpu_of_running(context);
    running_.push_back(&context);
    if (context.thread_.cpu >= 0) ++tied_running_;
  }
  if (asks) send_validator(cpu);  // a host call at times: not with the lock
  if (state_before & kSleeping) futex(&context.thread_.slot->state, FUTEX_WAKE, 1, nullptr);
}

// A thread there makes host calls first that the validator sees to, in turn with it: an executor may look from another CPU meanwhile.
void SystrapPlatform::send_validator(int cpu) {
  if (std::find(cpu_of_bell_.begin(), cpu_of_bell_.end(), cpu) != cpu_of_bell_.end()) supervisor_.follow(cpu);
}

// Where it is, as far as is known: the host may have moved a thread that is not tied.
int SystrapPlatform::cpu_of_running(const SystrapContext& context) {
  return context.thread_.cpu >= 0 ? context.thread_.cpu : static_cast<int>(posted_on(*context.thread_.slot));
}

// How long a thread that is woken on a CPU has to wait there for others of the sandbox, as far as their last stretches tell.
uint64_t SystrapPlatform::wait_on(int cpu, uint64_t now) const {
  constexpr uint64_t kMost = 1'000'000;
  uint64_t sum = 0;
  for (const SystrapContext* other : running_) {
    if (cpu_of_running(*other) != cpu) continue;
    const uint64_t since = now - other->resumed_at.load(std::memory_order_relaxed);
    sum += std::min(std::max(other->pace.load(std::memory_order_relaxed), since), kMost);
  }
  return sum;
}

// Where a thread that is about to be woken goes on. The host would move it to a CPU that is idle, as this one is busy waking
// it; but this one is about to be free, and waking an idle CPU takes longer than the whole call. So the thread is tied to
// the CPU where it called, or to this one if its turn comes sooner here, or to a third one if both are taken. It is let go when its
// process computes for longer, unless others run beside it: see release_long_runs().
void SystrapPlatform::place(SystrapContext& context) {
  constexpr uint64_t kShortTicks = 750'000, kMoveTicks = 7'000, kAwakeTicks = 30'000, kHaltedTicks = 100'000;
  const uint64_t pace = context.pace.load(std::memory_order_relaxed);
  const int here = cpu_of_bell_[self.bell];
  int cpu = static_cast<int>(posted_on(*context.thread_.slot));
  const auto known = std::find(cpu_of_bell_.begin(), cpu_of_bell_.end(), cpu);
  const size_t bell = known == cpu_of_bell_.end() ? self.bell : static_cast<size_t>(known - cpu_of_bell_.begin());
  cpu = cpu_of_bell_[bell];
  const uint64_t now = __rdtsc();
  // An executor that looks for events keeps its CPU.
  if (self.looking == this && cpu == here) cpu = cpu_of_bell_[(self.bell + 1) % bells_];
  uint64_t wait = wait_on(cpu, now);
  if (self.looking != this && cpu != here) {
    const bool halted = wait == 0 && __atomic_load_n(&control_.doorbell()->bells[bell].asleep, __ATOMIC_RELAXED) != 0;
    const uint64_t wait_here = wait_on(here, now) + kMoveTicks;
    if (wait_here < wait + (halted ? kHaltedTicks : kAwakeTicks)) {
      cpu = here;
      wait = wait_here;
    }
  }
  // Guests that compute side by side go to a CPU each, although that has to be woken.
  bool spread = false;
  if (wait > kShortTicks) {
    for (const int other : cpu_of_bell_) {
      if (other == cpu || (other == here && self.looking == this)) continue;
      const uint64_t wait_there = wait_on(other, now) + kHaltedTicks;
      if (wait_there >= wait) continue;
      cpu = other;
      wait = wait_there;
      spread = true;
    }
  }
  // Beside others it is said where to go on: the host would wake it where the one is that wakes it.
  const bool beside = !running_.empty() && running_.size() < cpu_of_bell_.size();
  tie(context, spread || beside || (pace < kShortTicks && wait < kShortTicks) ? cpu : -1);
}

// The CPU of an executor that sleeps where no guest runs either; -1: none.
int SystrapPlatform::unused_cpu() const {
  const uint64_t now = __rdtsc();
  base::MutexLock lock(run_mu_);
  for (size_t i = 0; i < cpu_of_bell_.size(); ++i) {
    const bool asleep = __atomic_load_n(&control_.doorbell()->bells[i].asleep, __ATOMIC_RELAXED) != 0;
    if (asleep && wait_on(cpu_of_bell_[i], now) == 0) return cpu_of_bell_[i];
  }
  return -1;
}

// A thread that is about to be killed: what the host has to tear down keeps a CPU busy that nobody uses, rather than this one.
void SystrapPlatform::send_away(const StubThread& thread) const {
  const int cpu = unused_cpu();
  if (cpu < 0 || cpu == thread.cpu) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(thread.tid, sizeof set, &set);
}

void SystrapPlatform::tie(SystrapContext& context, int cpu) {
  if (context.thread_.cpu == cpu) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int c : cpu_of_bell_)
    if (cpu < 0 || c == cpu) CPU_SET(c, &set);
  // Where the host refuses, the thread stays as it is.
  if (sched_setaffinity(context.thread_.tid, sizeof set, &set) == 0) context.thread_.cpu = cpu;
}

// How many of the running guests are on each CPU of the executors, as far as is known.
SystrapPlatform::GuestsOnCpus SystrapPlatform::count_guests() const {
  GuestsOnCpus guests = {};
  for (const SystrapContext* context : running_) {
    const auto at = std::find(cpu_of_bell_.begin(), cpu_of_bell_.end(), cpu_of_running(*context));
    if (at != cpu_of_bell_.end()) ++guests[static_cast<size_t>(at - cpu_of_bell_.begin())];
  }
  return guests;
}

// Lets go threads whose guest has been computing for a while, unless there is a CPU for each of those that run; one that shares its CPU then
// goes to a free one, which the host would find late. Until when to look again, in nanoseconds, if some are still tied and running; otherwise 0.
int64_t SystrapPlatform::release_long_runs() {
  constexpr uint64_t kLongTicks = 2'000'000;
  // A timer that comes before all others makes each sleep several microseconds longer.
  constexpr int64_t kAlone = 50'000'000, kSharing = 10'000'000;
  const uint64_t now = __rdtsc();
  int64_t again = 0;
  base::MutexLock lock(run_mu_);
  if (tied_running_ == 0) return 0;
  const bool beside = running_.size() > 1 && running_.size() <= cpu_of_bell_.size();
  GuestsOnCpus guests = beside ? count_guests() : GuestsOnCpus{};
  for (SystrapContext* context : running_) {
    int cpu = context->thread_.cpu;
    if (cpu < 0) continue;
    run_mu_.assert_held();
    const auto here = static_cast<size_t>(std::find(cpu_of_bell_.begin(), cpu_of_bell_.end(), cpu) - cpu_of_bell_.begin());
    const auto free = std::find(guests.begin(), guests.begin() + static_cast<ptrdiff_t>(cpu_of_bell_.size()), 0);
    const auto to = static_cast<size_t>(free - guests.begin());
    const bool shares = beside && here < guests.size() && guests[here] > 1 && to < cpu_of_bell_.size();
    if (now - context->resumed_at.load(std::memory_order_relaxed) < kLongTicks) {
      again = shares || again == kSharing ? kSharing : kAlone;
      continue;
    }
    // Beside others each stays on its own: the host would move one to where the other has just gone to sleep.
    if (shares) {
      --guests[here];
      ++guests[to];
      cpu = cpu_of_bell_[to];
    }
    tie(*context, beside ? cpu : -1);
    if (context->thread_.cpu < 0) --tied_running_;
    else again = again == kSharing ? kSharing : kAlone;
  }
  return again;
}

bool SystrapPlatform::resume_and_look(Context& c, ResumeMode mode, const Look& look) {
  auto& context = static_cast<SystrapContext&>(c);
  Slot* slot = context.thread_.slot;
  // A thread that sleeps, or that needs this CPU, does not run while it is looked at.
  const bool near = !cpu_of_bell_.empty() && posted_on(*slot) == static_cast<uint32_t>(cpu_of_bell_[self.bell]);
  const bool asleep = (__atomic_load_n(&slot->state, __ATOMIC_RELAXED) & kSleeping) != 0;
  if (begin(context, mode, near || asleep ? Wanted::kHandOver : Wanted::kReplyOnly) != Begun::kReplyWritten) return false;
  start_looking();
  count_self();
  if (std::exchange(context.asks_, false)) send_validator(static_cast<int>(posted_on(*slot)));
  const uint32_t before = __atomic_exchange_n(&slot->state, static_cast<uint32_t>(kRun), __ATOMIC_SEQ_CST);
  // Others that run must be looked at as well.
  if (!(before & kSleeping) && running_count_.load(std::memory_order_relaxed) == 1) {
    for (uint32_t n = settle_; n != 0; --n) __builtin_ia32_pause();
    for (uint32_t n = 1;; ++n) {
      if ((__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) & kOwnerMask) == kEvent) {
        if (has_kicks(context)) [[unlikely]] see_to_kicks(context);
        context.phase_.store(SystrapContext::kStopped, std::memory_order_release);
        return true;
      }
      __builtin_ia32_pause();
      if (has_kicks(context) && kicks_due(context)) break;
      if (look.work.load(std::memory_order_relaxed) != 0 || running_count_.load(std::memory_order_relaxed) > 1) break;
      if (n % 16 == 0 && (__rdtsc() > look.until || context.as_.process_->dead.load(std::memory_order_relaxed))) break;
    }
  }
  self.counted = nullptr;  // from now on it is the context that counts
  enlist(context, before);
  return false;
}

// An executor that looks at one context after the other counts as one that runs until it does something else: so counting
// costs nothing from call to call.
void SystrapPlatform::count_self() {
  if (self.counted == this) return;
  self.counted = this;
  running_count_.fetch_add(1, std::memory_order_relaxed);
}

void SystrapPlatform::discount_self() {
  if (self.counted != this) return;
  self.counted = nullptr;
  running_count_.fetch_sub(1, std::memory_order_relaxed);
}

void SystrapPlatform::force(SystrapContext& context, EventKind kind) {
  context.forced_.kind = kind;
  base::MutexLock lock(run_mu_);
  ready_.push_back(&context);
  ready_count_.fetch_add(1, std::memory_order_seq_cst);
}

size_t SystrapPlatform::poll(std::span<Context*> out) {
  discount_self();
  size_t n = 0;
  // Who makes more kicks than there is room for delays those of others only until all had their turn.
  for (size_t passes = 0; passes <= running() / Kicks::kContexts; ++passes) {
    bool crowded = false;
    n += poll_once(out.subspan(n), crowded);
    if (!crowded || n == out.size()) break;
  }
  return n;
}

// `crowded`: some have kicks that there was no room for. They come first in the next pass, and run until then.
size_t SystrapPlatform::poll_once(std::span<Context*> out, bool& crowded) {
  size_t n = 0;
  Kicks kicks;
  SystrapContext* again[8];
  size_t again_count = 0;
  if (running_count_.load(std::memory_order_seq_cst) != 0 || ready_count_.load(std::memory_order_seq_cst) != 0) {
    base::MutexLock lock(run_mu_);
    while (n < out.size() && !ready_.empty()) {
      SystrapContext* context = ready_.back();
      ready_.pop_back();
      ready_count_.fetch_sub(1, std::memory_order_relaxed);
      context->phase_.store(SystrapContext::kStopped);
      out[n++] = context;
    }
    size_t left = running_.size();
    for (size_t i = 0; i < running_.size() && n < out.size();) {
      SystrapContext* context = running_[i];
      uint32_t state = __atomic_load_n(&context->thread_.slot->state, __ATOMIC_ACQUIRE) & kOwnerMask;
      const bool dead = context->as_.process_->dead.load(std::memory_order_acquire), stopped = state == kEvent || dead;
      if (has_kicks(*context) && (kicks_due(*context) || (stopped && !leaves_kicks(*context))) && !find_kicks(*context, kicks)) {
        left = std::min(left, i++);
        continue;
      }
      const bool more = state == kEvent && context->continuation_ && !dead;
      if (!stopped || (more && again_count == std::size(again))) {
        ++i;
        continue;
      }
      running_[i] = running_.back();
      running_.pop_back();
      running_count_.fetch_sub(1, std::memory_order_relaxed);
      if (context->thread_.cpu >= 0) --tied_running_;
      if (more) {
        again[again_count++] = context;
        continue;
      }
      if (dead) context->forced_.kind = EventKind::kDied;
      if (has_kicks(*context)) leave_kicks(*context);
      context->phase_.store(SystrapContext::kStopped);
      out[n++] = context;
    }
    crowded = left < running_.size();
    if (crowded) std::rotate(running_.begin(), running_.begin() + static_cast<ptrdiff_t>(left), running_.end());
  }
  if (kicks.count != 0) tell_kicks(kicks);
  for (size_t i = 0; i < again_count; ++i) {
    again[i]->phase_.store(SystrapContext::kStopped);
    begin(*again[i], again[i]->resumed_mode_, Wanted::kHandOver);
  }
  return n;
}

Event SystrapPlatform::take_event(Context& context) {
  auto& c = static_cast<SystrapContext&>(context);
  if (c.forced_.kind != EventKind::kNone) {
    if (c.forced_.kind == EventKind::kInterrupted) c.interrupt_.store(false);
    return std::exchange(c.forced_, {});
  }
  if (!c.read_call()) [[unlikely]] return c.read_event();
  count(c.trapped_ ? Counter::kCallsTrapped : Counter::kCallsPatched);
  // Whole constants: an event put together bit by bit would stall whoever copies it.
  static constexpr Event kTrapped = {.kind = EventKind::kSyscall, .trapped = true}, kPatched = {.kind = EventKind::kSyscall};
  return c.trapped_ ? kTrapped : kPatched;
}

// --- Idle executors ---

int SystrapPlatform::enter_executor(unsigned index) {
  self = {};
  self.bell = index % bells_;
  // Until an executor has said where it is, that of index 0 is rung.
  Doorbell* doorbell = control_.doorbell();
  for (size_t i = self.bell; i < cpus_.size(); i += bells_)
    __atomic_store_n(&doorbell->bell_of_cpu[static_cast<size_t>(cpus_[i]) % std::size(doorbell->bell_of_cpu)], static_cast<uint8_t>(self.bell), __ATOMIC_RELAXED);
  if (cpu_of_bell_.empty()) return -1;
  cpu_set_t mine;
  CPU_ZERO(&mine);
  CPU_SET(cpu_of_bell_[self.bell], &mine);
  // Refused where the host has taken that CPU away meanwhile: the host places the thread then.
  return sched_setaffinity(0, sizeof mine, &mine) == 0 ? cpu_of_bell_[self.bell] : -1;
}

void SystrapPlatform::set_away(Away away) {
  __atomic_store_n(&control_.doorbell()->bells[self.bell].away, away == Away::kYes ? 1u : 0u, __ATOMIC_SEQ_CST);
  if (away == Away::kYes) stop_looking();
}

void SystrapPlatform::start_looking() {
  if (self.looking == this) return;
  self.looking = this;
  __atomic_add_fetch(&control_.doorbell()->lookers, 1, __ATOMIC_SEQ_CST);
}

void SystrapPlatform::stop_looking() {
  discount_self();
  if (self.looking != this) return;
  self.looking = nullptr;
  __atomic_sub_fetch(&control_.doorbell()->lookers, 1, __ATOMIC_SEQ_CST);
}

Platform::Running SystrapPlatform::survey(uint64_t soon) const {
  Running result;
  const uint32_t here = cpu_of_bell_.empty() ? ~0u : static_cast<uint32_t>(cpu_of_bell_[self.bell]);
  const uint64_t now = __rdtsc();
  base::MutexLock lock(run_mu_);
  for (const SystrapContext* context : running_) {
    if (!context->is_dense(now, soon)) {
      ++result.busy;
      continue;
    }
    ++result.dense;
    result.dense_here |= posted_on(*context->thread_.slot) == here;
  }
  return result;
}

// A stub posts its event, then looks whether somebody looks for it or sleeps; an executor says that it sleeps, then
// looks for events. So one of the two sees the other.
uint32_t SystrapPlatform::prepare_sleep() {
  Bell& bell = control_.doorbell()->bells[self.bell];
  stop_looking();
  __atomic_add_fetch(&bell.asleep, 1, __ATOMIC_SEQ_CST);
  uint32_t token = __atomic_load_n(&bell.word, __ATOMIC_SEQ_CST);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return token;
}

void SystrapPlatform::cancel_sleep() {
  __atomic_sub_fetch(&control_.doorbell()->bells[self.bell].asleep, 1, __ATOMIC_SEQ_CST);
}

void SystrapPlatform::sleep(uint32_t token, int64_t timeout_ns) {
  constexpr int64_t kCheck = 500'000'000;
  bool watch = interrupt_unanswered() && (timeout_ns < 0 || timeout_ns > kCheck);
  if (watch) timeout_ns = kCheck;
  // One that sleeps sees to threads that are tied to a CPU and compute on.
  if (const int64_t again = release_long_runs(); again != 0 && (timeout_ns < 0 || timeout_ns > again)) timeout_ns = again;
  timespec timeout = {timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
  futex(&control_.doorbell()->bells[self.bell].word, FUTEX_WAIT, token, timeout_ns < 0 ? nullptr : &timeout);
  if (watch) punish_overdue();
  cancel_sleep();
}

void SystrapPlatform::wake_bell(uint32_t index, int count) {
  Bell& bell = control_.doorbell()->bells[index];
  __atomic_add_fetch(&bell.word, 1, __ATOMIC_SEQ_CST);
  futex(&bell.word, FUTEX_WAKE, static_cast<uint32_t>(count), nullptr);
}

void SystrapPlatform::wake() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const Doorbell* doorbell = control_.doorbell();
  const int cpu = sched_getcpu();
  const uint32_t here = cpu < 0 ? 0 : doorbell->bell_of_cpu[static_cast<size_t>(cpu) % std::size(doorbell->bell_of_cpu)];
  for (uint32_t i = 0; i < bells_; ++i) {
    const uint32_t index = (here + i) % bells_;
    if (__atomic_load_n(&doorbell->bells[index].asleep, __ATOMIC_SEQ_CST) != 0) return wake_bell(index, 1);
  }
}

void SystrapPlatform::wake_all() {
  for (uint32_t i = 0; i < bells_; ++i) wake_bell(i, INT_MAX);
}

// A hostile guest can block the interrupt signal and never stop again. Its process dies after that many ticks of half
// a second, which count when an executor comes by (so that a frozen sandbox, whose stubs cannot answer, does not age).
bool SystrapPlatform::interrupt_unanswered() {
  base::MutexLock lock(run_mu_);
  return std::any_of(running_.begin(), running_.end(),
                     [](SystrapContext* context) { return context->interrupt_.load(std::memory_order_relaxed); });
}

void SystrapPlatform::punish_overdue() {
  constexpr uint32_t kPatience = 20;
  constexpr int64_t kTick = 500'000'000;
  timespec time;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
  const int64_t now = time.tv_sec * 1'000'000'000 + time.tv_nsec;
  base::MutexLock lock(run_mu_);
  if (now - last_tick_ < kTick) return;
  last_tick_ = now;
  for (SystrapContext* context : running_)
    if (context->interrupt_.load(std::memory_order_relaxed) && ++context->overdue_ == kPatience) context->as_.process_->kill();
}

void SystrapPlatform::on_death() {
  wake();
  if (death_listener_) death_listener_();
}

// --- The rest ---

PatchPlan SystrapPlatform::plan_patch(std::span<const uint8_t> text, abi::Addr text_start, abi::Addr site) {
  return trampolines_.plan(text, text_start, site);
}

// --- Factory ---

std::vector<base::SeccompRule> SystrapFactory::host_calls() const { return filters::systrap_host_calls(); }

std::string SystrapFactory::unavailable_reason() const {
  if (!host_has_fsgsbase()) return "systrap needs a CPU and a kernel with FSGSBASE (Linux 5.9)";
  return {};
}

base::Result<std::unique_ptr<Platform>> SystrapFactory::create(const PlatformConfig& config) {
  auto platform = std::make_unique<SystrapPlatform>();
  TRY(platform->init(config));
  return std::unique_ptr<Platform>(std::move(platform));
}

}  // namespace platform::systrap
