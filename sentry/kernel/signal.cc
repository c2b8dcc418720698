// SPDX-License-Identifier: Apache-2.0
// Sending signals and choosing what a task does about them: kernel/signal.c of Linux. Frames are in sentry/arch.
//
// The one rule for wakers: change state under signal_mu, then kick_locked(). A task about to enter the guest sets
// in_guest before it looks at signal_pending; the kicker sets signal_pending before it looks at in_guest.
#include <algorithm>

#include "sentry/arch/signal_frame_amd64.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using enum abi::Errno;
using abi::SigAction;
using abi::SigInfo;
using abi::SigSet;
using base::err;
using base::RefPtr;
using base::Result;

DefaultAction default_action(int32_t signo) {
  switch (signo) {
    case abi::kSIGCHLD: case abi::kSIGURG: case abi::kSIGWINCH: return DefaultAction::kIgnore;
    case abi::kSIGCONT: return DefaultAction::kContinue;
    case abi::kSIGSTOP: case abi::kSIGTSTP: case abi::kSIGTTIN: case abi::kSIGTTOU: return DefaultAction::kStop;
    case abi::kSIGQUIT: case abi::kSIGILL: case abi::kSIGTRAP: case abi::kSIGABRT: case abi::kSIGFPE:
    case abi::kSIGSEGV: case abi::kSIGBUS: case abi::kSIGSYS: case abi::kSIGXCPU: case abi::kSIGXFSZ:
      return DefaultAction::kCore;
    default: return DefaultAction::kTerminate;
  }
}

bool is_ignored_by_default(int32_t signo) {
  const DefaultAction d = default_action(signo);
  return d == DefaultAction::kIgnore || d == DefaultAction::kContinue;
}

SigInfo kernel_signal(int32_t signo) {
  SigInfo info;
  info.signo = signo;
  info.code = abi::kSI_KERNEL;
  return info;
}

RefPtr<SignalHandlers> SignalHandlers::fork() const {
  auto copy = base::make_ref<SignalHandlers>();
  base::MutexLock lock(mu_);
  copy->mu_.assert_held();  // nobody else has it yet
  copy->actions_ = actions_;
  return copy;
}

void SignalHandlers::reset_for_exec() {
  base::MutexLock lock(mu_);
  for (SigAction& a : actions_) {
    const uint64_t handler = a.handler == abi::kSIG_IGN ? abi::kSIG_IGN : abi::kSIG_DFL;
    a = SigAction{};
    a.handler = handler;
  }
}

std::optional<SigInfo> SignalQueue::dequeue(SigSet wanted) {
  uint64_t ready = (set & wanted).bits;
  if (ready == 0) return std::nullopt;
  if (ready & kSynchronousSignals.bits) ready &= kSynchronousSignals.bits;
  const int32_t signo = __builtin_ctzll(ready) + 1;
  std::optional<SigInfo> found;
  bool more = false;
  for (auto it = queued.begin(); it != queued.end();) {
    if (it->signo != signo) {
      ++it;
    } else if (!found) {
      found = *it;
      it = queued.erase(it);
    } else {
      more = true;
      break;
    }
  }
  if (!more) set.remove(signo);
  if (!found) {
    // It was sent when no siginfo could be queued.
    found = SigInfo{};
    found->signo = signo;
    found->code = abi::kSI_USER;
  }
  return found;
}

void SignalQueue::remove(SigSet signals) {
  set = set & ~signals;
  std::erase_if(queued, [&](const SigInfo& i) { return signals.has(i.signo); });
}

SigSet live_mask_locked(const Task& task) {
  const Task::Private& p = task.priv();
  if (p.in_guest.load(std::memory_order_seq_cst) && p.mask_in_place && p.context)
    return SigSet{p.context->signal_mask()} & ~abi::kUnblockableSignals;
  return p.blocked;
}

void show_mask(Task& task) {
  Task::Private& p = task.priv();
  ThreadGroup& group = task.thread_group();
  base::MutexLock lock(group.signal_mu);
  p.shown_mask = p.blocked.bits;
  p.mask_in_place = p.context->set_signal_mask(p.blocked.bits);
  const bool pending = (p.pending.set | group.shared.set).bits != 0;
  p.mask_held.store(pending, std::memory_order_seq_cst);
  if (p.mask_in_place) p.context->hold_signal_mask(pending);
}

void take_mask(Task& task) {
  Task::Private& p = task.priv();
  const uint64_t mask = (SigSet{p.context->signal_mask()} & ~abi::kUnblockableSignals).bits;
  if (mask == p.shown_mask) return;
  base::MutexLock lock(task.thread_group().signal_mu);
  p.shown_mask = mask;
  p.blocked = SigSet{mask};
}

void show_signal_actions(Task& task, int32_t signo) {
  const auto for_platform = [](const SigAction& a) { return platform::SignalAction{a.handler, a.flags, a.restorer, a.mask.bits}; };
  Task::Private& p = task.priv();
  ThreadGroup& group = task.thread_group();
  RefPtr<SignalHandlers> handlers = group.signal_handlers();
  if (p.actions_shown) return p.context->set_signal_action(signo, for_platform(handlers->get(signo)));
  if (group.thread_count() != 1 || handlers->ref_count_for_debug() > 2) return;  // ours and the group's
  platform::SignalActions shown;
  handlers->for_each([&](int32_t n, const SigAction& a) { shown[static_cast<size_t>(n - 1)] = for_platform(a); });
  p.actions_shown = p.context->show_signal_actions(shown);
}

void take_signal_actions(const Task& task, SignalHandlers& handlers) {
  const Task::Private& p = task.priv();
  if (!p.actions_shown) return;
  handlers.for_each([&](int32_t n, SigAction& action) {
    constexpr uint64_t kChildFlags = abi::kSA_NOCLDSTOP | abi::kSA_NOCLDWAIT;  // the platform leaves them alone
    if (action.handler != abi::kSIG_DFL || abi::kUnblockableSignals.has(n)) return;
    const platform::SignalAction own = p.context->signal_action(n);
    action.flags = (own.flags & abi::kSaFlags & ~kChildFlags) | (action.flags & kChildFlags);
    action.restorer = own.restorer;
    action.mask = SigSet{own.mask} & ~abi::kUnblockableSignals;
  });
}

void hide_signal_actions(Task& task, SignalHandlers& handlers) {
  Task::Private& p = task.priv();
  if (!p.actions_shown) return;
  take_signal_actions(task, handlers);
  p.actions_shown = false;
  p.context->hide_signal_actions();
}

namespace {

void count_queued_locked(ThreadGroup& group) REQUIRES(group.signal_mu) {
  size_t n = group.shared.queued.size();
  for (Task* t : group.threads) n += t->priv().pending.queued.size();
  group.queued_signals = static_cast<uint32_t>(n);
}

bool wants(const Task& task, int32_t signo) {
  const Task::Private& p = task.priv();
  if (p.killed.load(std::memory_order_relaxed)) return false;
  return !live_mask_locked(task).has(signo) || p.waiting_for.has(signo);
}

// From now on changes of their signal masks come to us.
void hold_masks_locked(ThreadGroup& group, Task* only) REQUIRES(group.signal_mu) {
  const auto hold = [](Task& t) {
    Task::Private& p = t.priv();
    p.mask_held.store(true, std::memory_order_seq_cst);
    if (p.context && p.mask_in_place) p.context->hold_signal_mask(true);
  };
  if (only) return hold(*only);
  for (Task* t : group.threads) hold(*t);
}

bool is_ignored_locked(ThreadGroup& group, const Task* target, int32_t signo, SignalForce force) REQUIRES(group.signal_mu) {
  const Task* t = target ? target : group.threads.empty() ? nullptr : group.threads.front();
  const SigAction action = group.handlers->get(signo);
  const bool kernel_only = signo == abi::kSIGKILL || signo == abi::kSIGSTOP;
  if (group.unkillable && action.handler == abi::kSIG_DFL && !(force == SignalForce::kYes && kernel_only)) return true;
  if (t && (live_mask_locked(*t).has(signo) || t->priv().waiting_for.has(signo))) return false;
  if (action.handler == abi::kSIG_IGN) return true;
  if (action.handler != abi::kSIG_DFL) return false;
  return is_ignored_by_default(signo);
}

// Everything stopped goes on; the first thread that runs reports it to the parent.
void continue_group_locked(ThreadGroup& group) REQUIRES(group.signal_mu) {
  if (!group.stopping) return;
  if (group.stopped) {
    group.wait_continued = true;
    group.notify_continued = true;
    group.wait_stopped = false;
  }
  group.stopping = group.stopped = false;
  group.stop_signo = 0;
  for (Task* t : group.threads) {
    t->thread_group().signal_mu.assert_held();
    kick_locked(*t);
  }
}

void begin_group_exit_locked(ThreadGroup& group, int32_t wait_status) REQUIRES(group.signal_mu) {
  if (!group.exiting) {
    group.exiting = true;
    group.group_exit_status = wait_status;
  }
  group.stopping = group.stopped = false;
  for (Task* t : group.threads) {
    t->priv().killed.store(true, std::memory_order_seq_cst);
    t->thread_group().signal_mu.assert_held();
    kick_locked(*t);
    if (t->priv().in_guest.load(std::memory_order_seq_cst) && t->priv().context) t->priv().context->condemn();
  }
}

}  // namespace

void kick_locked(Task& task) {
  Task::Private& p = task.priv();
  p.signal_pending.store(true, std::memory_order_seq_cst);
  if (p.in_guest.load(std::memory_order_seq_cst) && p.context) p.context->interrupt();
  if (p.fiber) p.fiber->wake();
}

void recalculate_pending_locked(Task& task) {
  Task::Private& p = task.priv();
  ThreadGroup& g = task.thread_group();
  g.signal_mu.assert_held();
  const SigSet deliverable = (p.pending.set | g.shared.set) & ~live_mask_locked(task);
  const bool pending = deliverable.bits != 0 || g.exiting || g.stopping || g.frozen || g.notify_continued ||
                       p.killed.load(std::memory_order_relaxed) || (g.exec_task && g.exec_task != &task);
  p.signal_pending.store(pending, std::memory_order_seq_cst);
}

void begin_group_exit(ThreadGroup& group, int32_t wait_status) {
  base::MutexLock lock(group.signal_mu);
  begin_group_exit_locked(group, wait_status);
}

namespace {

bool is_of_timer(const SigInfo& info) { return info.code == abi::kSI_TIMER && info.pad0 != 0; }

// Puts it into a queue; false when it is pending already (standard signals do not pile up).
Result<bool> enqueue_locked(ThreadGroup& group, SignalQueue& queue, const SigInfo& info) REQUIRES(group.signal_mu) {
  if (is_of_timer(info)) {
    // send_sigqueue(): a timer has one place in the queue, its own, whatever else is pending.
    for (const SigInfo& q : queue.queued)
      if (is_of_timer(q) && q.get<int32_t>(0) == info.get<int32_t>(0)) return false;
    queue.queued.push_back(info);
    queue.set.add(info.signo);
    return true;
  }
  if (info.signo < abi::kSIGRTMIN && queue.set.has(info.signo)) return false;
  // DIVERGES: RLIMIT_SIGPENDING counts per process, not per user.
  const uint64_t limit = group.limit(creds::Resource::kSIGPENDING).soft;
  const bool must_fit = info.code >= 0 || info.signo < abi::kSIGRTMIN;
  if (group.queued_signals < limit || (info.signo < abi::kSIGRTMIN && must_fit)) {
    queue.queued.push_back(info);
    ++group.queued_signals;
  } else if (info.signo >= abi::kSIGRTMIN && info.code != abi::kSI_USER) {
    return err(kEAGAIN);  // its siginfo would be lost
  }
  queue.set.add(info.signo);
  return true;
}

Task* pick_thread_locked(ThreadGroup& group, int32_t signo) REQUIRES(group.signal_mu) {
  for (Task* t : group.threads) {
    if (wants(*t, signo)) return t;
  }
  return nullptr;
}

}  // namespace

Result<void> send_signal(ThreadGroup& group, Task* thread, const SigInfo& info, SignalForce force) {
  const int32_t signo = info.signo;
  if (signo < 1 || signo > abi::kNSIG) return err(kEINVAL);
  base::MutexLock lock(group.signal_mu);
  if (thread && thread->priv().state.load() == TaskState::kDead) return err(kESRCH);
  if (group.threads.empty()) return {};  // a zombie: accepted, without effect

  if (signo == abi::kSIGCONT || signo == abi::kSIGKILL) {
    // Pending stops are undone; a stopped process goes on even if SIGCONT is blocked or ignored.
    group.shared.remove(kStopSignals);
    for (Task* t : group.threads) t->priv().pending.remove(kStopSignals);
  } else if (kStopSignals.has(signo)) {
    group.shared.remove(SigSet::of(abi::kSIGCONT));
    for (Task* t : group.threads) t->priv().pending.remove(SigSet::of(abi::kSIGCONT));
  }
  count_queued_locked(group);
  if (signo == abi::kSIGCONT) continue_group_locked(group);

  if (is_ignored_locked(group, thread, signo, force)) return {};
  if (signo == abi::kSIGKILL) {
    begin_group_exit_locked(group, abi::kSIGKILL);
    return {};
  }
  SignalQueue& queue = thread ? thread->priv().pending : group.shared;
  const bool fresh = TRY(enqueue_locked(group, queue, info));
  hold_masks_locked(group, thread);
  group.signal_queue().notify(vfs::kPollIn);
  if (!fresh) return {};
  Task* target = thread ? (wants(*thread, signo) ? thread : nullptr) : pick_thread_locked(group, signo);
  if (!target) return {};
  if (live_mask_locked(*target).has(signo)) {
    target->priv().fiber->wake();  // in sigtimedwait(2)
  } else {
    target->thread_group().signal_mu.assert_held();
    kick_locked(*target);
  }
  return {};
}

void force_signal(Task& task, const SigInfo& info) {
  ThreadGroup& group = task.thread_group();
  Task::Private& p = task.priv();
  base::MutexLock lock(group.signal_mu);
  const SigAction action = group.handlers->get(info.signo);
  const bool blocked = p.blocked.has(info.signo);
  if (blocked || action.handler == abi::kSIG_IGN) {
    hide_signal_actions(task, *group.handlers);
    group.handlers->exchange(info.signo, SigAction{});
    p.blocked.remove(info.signo);
  }
  // A fault kills init as well unless it handles it.
  if (group.handlers->get(info.signo).handler == abi::kSIG_DFL) group.unkillable = false;
  p.pending.remove(SigSet::of(info.signo));
  p.pending.queued.push_back(info);
  p.pending.set.add(info.signo);
  count_queued_locked(group);
  task.thread_group().signal_mu.assert_held();
  kick_locked(task);
}

Result<void> Task::send_signal(const SigInfo& info) { return kernel::send_signal(*group_, this, info, SignalForce::kNo); }

SigSet Task::signal_mask() const {
  base::MutexLock lock(group_->signal_mu);
  return private_->blocked;
}

void Task::set_signal_mask(SigSet mask) {
  mask = mask & ~abi::kUnblockableSignals;
  Private& p = *private_;
  base::MutexLock lock(group_->signal_mu);
  const SigSet newly = mask & ~p.blocked;
  p.blocked = mask;
  // Another thread takes over what was on its way to this one.
  uint64_t moved = (group_->shared.set & newly).bits;
  for (; moved != 0; moved &= moved - 1) {
    Task* other = pick_thread_locked(*group_, __builtin_ctzll(moved) + 1);
    if (!other || other == this) continue;
    other->thread_group().signal_mu.assert_held();
    kick_locked(*other);
  }
  thread_group().signal_mu.assert_held();
  recalculate_pending_locked(*this);
}

void Task::set_temporary_mask(SigSet mask) {
  if (!private_->saved_mask) private_->saved_mask = signal_mask();
  set_signal_mask(mask);
}

std::optional<SigInfo> Task::dequeue_signal(SigSet wanted) {
  std::optional<SigInfo> info;
  {
    base::MutexLock lock(group_->signal_mu);
    info = private_->pending.dequeue(wanted);
    if (!info) info = group_->shared.dequeue(wanted);
    if (!info) return info;
    count_queued_locked(*group_);
    thread_group().signal_mu.assert_held();
    recalculate_pending_locked(*this);
  }
  if (is_of_timer(*info)) group_->timers->delivered(*info);
  return info;
}

SigSet Task::pending_signals() const {
  base::MutexLock lock(group_->signal_mu);
  return private_->pending.set | group_->shared.set;
}

void send_signal_to_group(ProcessGroup& group, const SigInfo& info) {
  std::vector<RefPtr<ThreadGroup>> members;
  {
    base::MutexLock lock(group.session->set.mu);
    for (ThreadGroup* m : group.members) members.emplace_back(m);
  }
  for (const RefPtr<ThreadGroup>& m : members) (void)send_signal(*m, nullptr, info, SignalForce::kNo);
}

bool may_signal(const Task& sender, ThreadGroup& target, int32_t signo) {
  if (&sender.thread_group() == &target) return true;
  RefPtr<Task> leader = target.leader();
  if (!leader) return false;
  const creds::CredPtr mine = sender.credentials(), theirs = leader->credentials();
  if (mine->euid == theirs->suid || mine->euid == theirs->uid || mine->uid == theirs->suid || mine->uid == theirs->uid) return true;
  if (mine->has_cap_in(creds::Cap::kKILL, *theirs->user_ns)) return true;
  return signo == abi::kSIGCONT && sender.thread_group().session() == target.session();
}

namespace {

// Takes part in a stop: counts itself, tells the parent when it is the last, waits for SIGCONT or death.
void stop_here(Task& task) {
  ThreadGroup& group = task.thread_group();
  Task::Private& p = task.priv();
  bool last = false;
  int32_t signo = 0;
  {
    base::MutexLock lock(group.signal_mu);
    if (!group.stopping || group.exiting) return;
    p.stop_counted = true;
    ++group.stopped_threads;
    signo = group.stop_signo;
    if (group.stopped_threads >= group.threads.size() && !group.stopped) {
      group.stopped = last = true;
      group.wait_stopped = true;
      group.wait_continued = false;
    }
    p.state.store(TaskState::kStopped, std::memory_order_relaxed);
  }
  if (last) notify_parent_of_stop(group, abi::kCLD_STOPPED, signo);
  for (;;) {
    {
      base::MutexLock lock(group.signal_mu);
      if (!group.stopping || group.exiting || p.killed.load(std::memory_order_relaxed)) {
        p.stop_counted = false;
        --group.stopped_threads;
        break;
      }
    }
    task.kernel().scheduler().park();
  }
  p.state.store(TaskState::kRunning, std::memory_order_relaxed);
}

void freeze_here(Task& task) {
  ThreadGroup& group = task.thread_group();
  for (;;) {
    {
      base::MutexLock lock(group.signal_mu);
      if (!group.frozen || group.exiting) return;
    }
    task.priv().state.store(TaskState::kStopped, std::memory_order_relaxed);
    task.kernel().scheduler().park();
    task.priv().state.store(TaskState::kRunning, std::memory_order_relaxed);
  }
}

enum class Next : uint8_t { kNothing, kExit, kHandler };

bool orphaned(ThreadGroup& group) {
  base::MutexLock lock(group.set().mu);
  return !group.pgroup || group.pgroup->is_orphaned_locked();
}

void begin_stop(ThreadGroup& group, int32_t signo) {
  if (signo != abi::kSIGSTOP && orphaned(group)) return;
  base::MutexLock lock(group.signal_mu);
  if (group.exiting || group.stopping) return;
  group.stopping = true;
  group.stop_signo = signo;
  for (Task* t : group.threads) {
    t->thread_group().signal_mu.assert_held();
    kick_locked(*t);
  }
}

// get_signal() of Linux: the next thing with a handler, after stops and default actions.
Next next_signal(Task& task, SigInfo& info, SigAction& action) {
  ThreadGroup& group = task.thread_group();
  Task::Private& p = task.priv();
  for (;;) {
    bool stop = false, freeze = false, report_continue = false;
    int32_t begin_stop_with = 0;
    {
      base::MutexLock lock(group.signal_mu);
      if (group.exiting || p.killed.load(std::memory_order_relaxed) || (group.exec_task && group.exec_task != &task)) {
        p.exit_status = group.exiting ? group.group_exit_status : 0;
        return Next::kExit;
      }
      report_continue = std::exchange(group.notify_continued, false);
      stop = group.stopping;
      freeze = group.frozen;
      if (!stop && !freeze && !report_continue) {
        std::optional<SigInfo> next = p.pending.dequeue(~p.blocked);
        if (!next) next = group.shared.dequeue(~p.blocked);
        if (!next) {
          task.thread_group().signal_mu.assert_held();
          recalculate_pending_locked(task);
          return Next::kNothing;
        }
        count_queued_locked(group);
        info = *next;
        action = group.handlers->get(info.signo);
        if (action.handler == abi::kSIG_IGN) continue;
        if (action.handler != abi::kSIG_DFL) {
          if (action.flags & abi::kSA_RESETHAND) {
            hide_signal_actions(task, *group.handlers);
            SigAction reset = action;
            reset.handler = abi::kSIG_DFL;
            group.handlers->exchange(info.signo, reset);
          }
          task.thread_group().signal_mu.assert_held();
          recalculate_pending_locked(task);
          return Next::kHandler;
        }
        if (group.unkillable) continue;
        const DefaultAction d = default_action(info.signo);
        if (is_ignored_by_default(info.signo)) continue;
        if (d == DefaultAction::kStop) {
          begin_stop_with = info.signo;
        } else {
          // No core is written, but the status says that there would have been one if the limit allows it.
          const bool core = d == DefaultAction::kCore && group.limit(creds::Resource::kCORE).soft != 0;
          begin_group_exit_locked(group, info.signo | (core ? 0x80 : 0));
          p.exit_status = group.group_exit_status;
          return Next::kExit;
        }
      }
    }
    if (report_continue) notify_parent_of_stop(group, abi::kCLD_CONTINUED, abi::kSIGCONT);
    if (begin_stop_with != 0) begin_stop(group, begin_stop_with);
    if (stop) stop_here(task);
    if (freeze) freeze_here(task);
  }
}

}  // namespace

Result<std::span<uint8_t>> fetch_xstate(Task& task) {
  platform::Context& context = task.context();
  for (int tries = 0; !context.save_xstate(); ++tries) {
    const platform::Event e = task.kernel().scheduler().run_guest(context, platform::ResumeMode::kFull).event;
    if (e.kind != platform::EventKind::kInterrupted || tries > 8) return err(kEFAULT);
  }
  return context.xstate();
}

namespace {

bool push_frame(Task& task, const SigInfo& info, const SigAction& action) {
  Task::Private& p = task.priv();
  const SigSet current = p.blocked;
  const SigSet saved = p.saved_mask ? *p.saved_mask : current;
  Result<std::span<uint8_t>> xstate = fetch_xstate(task);
  if (!xstate) return false;
  const arch::FrameArgs args = {task.user_memory(), task.regs(), *xstate, action, info, saved, p.altstack,
                                p.last_fault.error_code, p.last_fault.trapno, p.last_fault.address};
  if (!arch::push_signal_frame(args)) return false;
  if (p.altstack.flags & abi::kSS_AUTODISARM) p.altstack = {0, abi::kSS_DISABLE, 0, 0};
  if (p.mask_in_place) task.context().allow_sigreturn(p.altstack.sp, p.altstack.size, p.altstack.flags);
  p.saved_mask.reset();
  SigSet mask = current | action.mask;
  if (!(action.flags & abi::kSA_NODEFER)) mask.add(info.signo);
  task.set_signal_mask(mask);
  return true;
}

constexpr uint64_t kRestartSyscallNumber = 219;

// What the end of an interrupted call means, given the handler that runs next (null: none does).
enum class Restart : uint8_t { kNo, kAgain };
Restart finish_interrupted_call(Task& task, uint64_t number, const SigAction* action) {
  platform::Registers& regs = task.regs();
  const int64_t code = -static_cast<int64_t>(regs.rax);
  const auto restart_at_call = [&] {
    regs.rax = number;
    regs.rip -= 2;
    return Restart::kAgain;
  };
  const auto interrupted = [&] {
    regs.rax = static_cast<uint64_t>(-static_cast<int64_t>(kEINTR));
    return Restart::kNo;
  };
  switch (static_cast<abi::Errno>(code)) {
    case kERESTARTNOINTR: return restart_at_call();
    case kERESTARTSYS: return action && !(action->flags & abi::kSA_RESTART) ? interrupted() : restart_at_call();
    case kERESTARTNOHAND: return action ? interrupted() : restart_at_call();
    case kERESTART_RESTARTBLOCK:
      if (action) {
        (void)task.take_restart();
        return interrupted();
      }
      regs.rax = kRestartSyscallNumber;
      regs.rip -= 2;
      return Restart::kAgain;
    default: return Restart::kNo;
  }
}

bool holds_restart_code(uint64_t rax) { return rax >= static_cast<uint64_t>(-516L) && rax <= static_cast<uint64_t>(-512L); }

}  // namespace

SignalOutcome handle_signals(Task& task, bool after_syscall) {
  Task::Private& p = task.priv();
  platform::Registers& regs = task.regs();
  const uint64_t number = regs.orig_rax;
  bool changed = false;
  bool interrupted_call = after_syscall && holds_restart_code(regs.rax);
  while (p.signal_pending.load(std::memory_order_seq_cst)) {
    SigInfo info;
    SigAction action;
    const Next next = next_signal(task, info, action);
    if (next == Next::kExit) return SignalOutcome::kExit;
    if (next == Next::kNothing) break;
    if (is_of_timer(info)) task.thread_group().timers->delivered(info);
    if (interrupted_call) {
      finish_interrupted_call(task, number, &action);
      interrupted_call = false;
    }
    changed = true;
    if (!push_frame(task, info, action)) {
      // The stack is unusable: SIGSEGV, by its default action if that was the one that failed.
      if (info.signo == abi::kSIGSEGV) {
        RefPtr<SignalHandlers> handlers = task.thread_group().signal_handlers();
        hide_signal_actions(task, *handlers);
        handlers->exchange(abi::kSIGSEGV, SigAction{});
      }
      force_signal(task, kernel_signal(abi::kSIGSEGV));
    }
  }
  if (!changed && p.saved_mask) {
    // No handler ran: the call's temporary mask ends here.
    const SigSet mask = *p.saved_mask;
    p.saved_mask.reset();
    task.set_signal_mask(mask);
    if (p.signal_pending.load(std::memory_order_seq_cst)) return handle_signals(task, after_syscall);
  }
  if (interrupted_call) {
    finish_interrupted_call(task, number, nullptr);
    return SignalOutcome::kRestartCall;
  }
  return changed ? SignalOutcome::kRegistersChanged : SignalOutcome::kNothing;
}

}  // namespace sentry::kernel
