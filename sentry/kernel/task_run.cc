// SPDX-License-Identifier: Apache-2.0
// The life of a task: guest code, event, answer, signals, guest code, ...
#include <x86intrin.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/log/log.h"
#include "base/trace/trace.h"
#include "sentry/kernel/kernel_impl.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using platform::EventKind;
using platform::ResumeMode;

uint64_t cpu_ticks() { return __rdtsc(); }

int64_t ticks_to_ns(uint64_t ticks) {
  // The rate is measured against the clock since the first call, at least over a millisecond; 0 ticks take no time.
  struct Start {
    uint64_t tsc = __rdtsc();
    int64_t ns = monotonic_now_ns();
  };
  static const Start start;
  if (ticks == 0) return 0;
  int64_t ns = monotonic_now_ns() - start.ns;
  while (ns < 1'000'000) ns = monotonic_now_ns() - start.ns;
  const uint64_t elapsed = __rdtsc() - start.tsc;
  if (elapsed == 0) return 0;
  return static_cast<int64_t>(static_cast<unsigned __int128>(ticks) * static_cast<uint64_t>(ns) / elapsed);
}

void update_in_place(Task& task) {
  Task::Private& p = task.priv();
  if (!p.context) return;
  ThreadGroup& group = task.thread_group();
  PidNamespace& ns = task.pid_namespace();
  const creds::Credentials& c = task.creds();
  platform::InPlaceValues v;
  v.enabled = p.in_place_ok && p.seccomp_mode.load() == 0 && !task.kernel().config().strace;
  v.io = !p.descriptors_foreign;
  v.pid = task.pid().value();
  v.tid = task.tid().value();
  v.uid = c.user_ns->unmap_uid(c.uid).value();
  v.euid = c.user_ns->unmap_uid(c.euid).value();
  v.gid = c.user_ns->unmap_gid(c.gid).value();
  v.egid = c.user_ns->unmap_gid(c.egid).value();
  // These can change from outside (a parent that dies, setpgid by the parent); the platform gets no answer for them.
  v.ppid = group.parent_pid_in(ns).value();
  v.pgid = group.pgid_in(ns).value();
  v.sid = group.sid_in(ns).value();
  p.context->set_in_place(v);
  p.reader = 0;  // credentials may be others now
  p.common.reset();
}

void forget_reader(Task& task) {
  Task::Private& p = task.priv();
  p.reader = 0;
  p.common.reset();
  if (!p.context) return;
  p.context->set_reader(0);
  p.context->set_common_reader({});
}

void install_seccomp(Task& task, base::RefPtr<SeccompFilter> filter) {
  Task::Private& p = task.priv();
  p.seccomp.with([&](auto& f) { std::swap(f, filter); });
  p.seccomp_mode.store(2);
  p.in_place_stale.store(true);
  base::MutexLock lock(task.thread_group().signal_mu);
  kick_locked(task);
}

namespace {

// For the debug log: file and offset of an address, so that a crash can be looked up.
std::string place_of(Task& task, uint64_t address) {
  for (const mm::VmaInfo& v : task.mm().vmas()) {
    if (v.range.contains(abi::Addr(address)))
      return fmt::format("{}+{:#x}", v.name.empty() ? "anonymous" : v.name, address - v.range.start.value() + v.offset);
  }
  return "nowhere";
}

base::stats::Timed timed_as(const platform::Event& event, platform::Context& context) {
  switch (event.kind) {
    case EventKind::kSyscall:
      return static_cast<base::stats::Timed>(std::min<uint64_t>(context.call_regs().orig_rax, base::stats::kTimedCallsEnd - 1));
    case EventKind::kFault: return base::stats::kTimedFault;
    case EventKind::kException: return base::stats::kTimedException;
    default: return base::stats::kTimedInterrupt;
  }
}

// For the timeline: the answer to the last event, then the stretch of guest code that followed.
void trace_round(Task& task, base::stats::Timed answered, uint64_t since, uint64_t parked, const Scheduler::GuestRun& run) {
  base::trace::Event e;
  e.pid = task.pid().value();
  e.tid = task.tid().value();
  const std::string name = task.comm();
  memcpy(e.name, name.data(), std::min(name.size(), sizeof e.name));
  if (answered != base::stats::kTimedNothing) {
    e.kind = base::trace::Kind::kAnswer;
    e.start = since;
    e.end = run.resumed;
    e.parked = parked;
    e.what = answered;
    base::trace::add(e);
  }
  e.kind = base::trace::Kind::kGuest;
  e.start = run.resumed;
  e.end = run.stopped;
  e.parked = 0;
  base::trace::add(e);
}

// One stretch of guest code. Time goes to the user's account while the guest has it.
platform::Event run_guest(Task& task, ResumeMode mode) {
  Task::Private& p = task.priv();
  p.guest_since.store(p.last_tick, std::memory_order_relaxed);
  const uint64_t parked = p.fiber->take_parked();
  const Scheduler::GuestRun run = task.kernel().scheduler().run_guest(*p.context, mode);
  if (p.mask_in_place) take_mask(task);
  p.in_guest.store(false, std::memory_order_release);
  const uint64_t answered = run.resumed - p.stopped_at, ran = run.stopped - run.resumed;
  base::stats::record_round(p.answering, answered - std::min(answered, parked), parked, ran - run.handed_off, run.handed_off);
  if (base::trace::is_on()) [[unlikely]] trace_round(task, p.answering, p.stopped_at, parked, run);
  p.answering = timed_as(run.event, *p.context);
  p.stopped_at = run.stopped;
  // Only this task writes these.
  p.system_ticks.store(p.system_ticks.load(std::memory_order_relaxed) + (run.resumed - p.last_tick), std::memory_order_relaxed);
  p.user_ticks.store(p.user_ticks.load(std::memory_order_relaxed) + (run.stopped - run.resumed), std::memory_order_relaxed);
  p.last_tick = run.stopped;
  p.guest_since.store(0, std::memory_order_relaxed);
  return run.event;
}

void handle_page_fault(Task& task, const platform::Event& event) {
  Task::Private& p = task.priv();
  p.minor_faults.fetch_add(1, std::memory_order_relaxed);
  auto result = task.mm().handle_fault(abi::Addr(event.address), event.access);
  if (result) return;
  p.last_fault = event;
  abi::SigInfo info;
  info.signo = result.error().signo;
  info.code = result.error().si_code;
  info.set_address(event.address);
  LOG_DEBUG("[{}] {}: fault at {:#x}, rip {:#x} ({}), rsp {:#x}, trap {} error {:#x}: signal {}", task.tid().value(), task.comm(), event.address,
            task.regs().rip, place_of(task, task.regs().rip), task.regs().rsp, event.trapno, event.error_code, info.signo);
  force_signal(task, info);
}

void handle_exception(Task& task, const platform::Event& event) {
  task.priv().last_fault = event;
  abi::SigInfo info;
  info.signo = event.signo >= 1 && event.signo <= abi::kNSIG ? event.signo : abi::kSIGSEGV;
  info.code = event.si_code;
  info.set_address(event.address);
  LOG_DEBUG("[{}] {}: exception, rip {:#x}: signal {}", task.tid().value(), task.comm(), task.regs().rip, info.signo);
  force_signal(task, info);
}

enum class Filtered : uint8_t { kAllowed, kAnswered, kKilled };

// Runs the guest's own filters: seccomp(2).
Filtered apply_seccomp(Task& task) {
  Task::Private& p = task.priv();
  platform::Registers& regs = task.regs();
  const base::RefPtr<SeccompFilter> filter = p.seccomp.with([](auto& f) { return f; });
  if (!filter) return Filtered::kAllowed;
  const uint32_t verdict = filter->evaluate(regs);
  const uint32_t data = verdict & kSeccompRetData;
  constexpr int32_t kCoreOf = abi::kSIGSYS;
  switch (verdict & kSeccompRetActionFull) {
    case kSeccompRetAllow:
    case kSeccompRetLog: return Filtered::kAllowed;
    case kSeccompRetErrno:
      regs.rax = static_cast<uint64_t>(-static_cast<int64_t>(std::min(data, 4095u)));
      return Filtered::kAnswered;
    case kSeccompRetTrace:
    case kSeccompRetUserNotif:
      regs.rax = static_cast<uint64_t>(-static_cast<int64_t>(abi::Errno::kENOSYS));
      return Filtered::kAnswered;
    case kSeccompRetTrap: {
      abi::SigInfo info;
      info.signo = abi::kSIGSYS;
      info.code = 1;  // SYS_SECCOMP
      info.error = static_cast<int32_t>(data);
      info.set_address(regs.rip);
      info.put(8, static_cast<int32_t>(regs.orig_rax));
      info.put(12, uint32_t{0xc000003e});  // AUDIT_ARCH_X86_64
      regs.rax = regs.orig_rax;
      force_signal(task, info);
      return Filtered::kAnswered;
    }
    case kSeccompRetKillThread:
      p.exit_status = kCoreOf;
      if (task.thread_group().thread_count() > 1) return Filtered::kKilled;
      [[fallthrough]];
    default:
      p.exit_status = kCoreOf;
      begin_group_exit(task.thread_group(), kCoreOf);
      return Filtered::kKilled;
  }
}

// Answers a system call; false when the task is to end.
bool handle_syscall(Task& task, ResumeMode& mode) {
  Task::Private& p = task.priv();
  mode = ResumeMode::kSyscallReturn;
  Filtered filtered = Filtered::kAllowed;
  if (p.seccomp_mode.load(std::memory_order_relaxed) != 0) [[unlikely]] filtered = apply_seccomp(task);
  if (filtered == Filtered::kKilled) return false;
  if (filtered == Filtered::kAllowed) switch (task.kernel().dispatcher()(task)) {
    case SyscallOutcome::kResult: break;
    case SyscallOutcome::kRegistersSet: mode = ResumeMode::kFull; break;
    case SyscallOutcome::kExit: return false;
  }
  const bool restartable = mode == ResumeMode::kSyscallReturn;
  const uint64_t result = task.call_regs().rax;
  const bool restart_code = restartable && result >= static_cast<uint64_t>(-516L) && result <= static_cast<uint64_t>(-512L);
  if (!p.signal_pending.load(std::memory_order_seq_cst) && !p.saved_mask && !restart_code) [[likely]] return true;
  switch (handle_signals(task, restartable)) {
    case SignalOutcome::kNothing: return true;
    case SignalOutcome::kRegistersChanged:
    case SignalOutcome::kRestartCall: mode = ResumeMode::kFull; return true;
    case SignalOutcome::kExit: return false;
  }
  return false;
}

void consider_patching(Task& task, abi::Addr site) {
  if (task.kernel().patches_calls()) task.mm().consider_patching(site);
  else task.context().forget_site(site);
}

bool handle_event(Task& task, const platform::Event& event, ResumeMode& mode) {
  Task::Private& p = task.priv();
  mode = ResumeMode::kFull;
  switch (event.kind) {
    case EventKind::kSyscall:
      if (event.trapped) consider_patching(task, abi::Addr(task.regs().rip));
      return handle_syscall(task, mode);
    case EventKind::kFault: handle_page_fault(task, event); break;
    case EventKind::kException: handle_exception(task, event); break;
    case EventKind::kDied:
      // Killing ends it by force (condemn()); anything else is news.
      if (!p.killed.load(std::memory_order_relaxed))
        LOG_WARNING("[{}] {}: the host side of the process is gone", task.tid().value(), task.comm());
      begin_group_exit(task.thread_group(), abi::kSIGKILL);
      p.exit_status = abi::kSIGKILL;
      return false;
    case EventKind::kInterrupted:
      p.involuntary.fetch_add(1, std::memory_order_relaxed);
      break;
    case EventKind::kKick:
      mode = ResumeMode::kSyscallReturn;
      task.kick(abi::Fd(static_cast<int32_t>(event.address)));
      if (auto file = task.fds().get(abi::Fd(static_cast<int32_t>(event.address)))) (*file)->in_place_kick(task);
      break;
    case EventKind::kNone: break;
  }
  // Signals are looked at in the loop, before the guest goes on.
  return true;
}

}  // namespace

void task_main(Task& task) {
  Task::Private& p = task.priv();
  p.last_tick = cpu_ticks();
  update_in_place(task);
  ResumeMode mode = ResumeMode::kFull;
  bool alive = true;
  while (alive) {
    if (p.blocked.bits != p.shown_mask || p.mask_held.load(std::memory_order_relaxed)) show_mask(task);
    // Announce first, then look: see signal.cc.
    p.in_guest.store(true, std::memory_order_seq_cst);
    if (p.signal_pending.load(std::memory_order_seq_cst)) [[unlikely]] {
      p.in_guest.store(false, std::memory_order_relaxed);
      if (p.in_place_stale.exchange(false)) update_in_place(task);
      const SignalOutcome outcome = handle_signals(task, false);
      if (outcome == SignalOutcome::kExit) break;
      if (outcome == SignalOutcome::kRegistersChanged) mode = ResumeMode::kFull;
      continue;
    }
    alive = handle_event(task, run_guest(task, mode), mode);
  }
  p.in_guest.store(false, std::memory_order_relaxed);
  const uint64_t answered = cpu_ticks() - p.stopped_at, parked = std::min(answered, p.fiber->take_parked());
  base::stats::record(p.answering, answered - parked, parked);
  task_exit(task);
}

}  // namespace sentry::kernel
