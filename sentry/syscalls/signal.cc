// SPDX-License-Identifier: Apache-2.0
// Signal dispositions, masks, waiting and sending: signal(7).
#include <algorithm>

#include "sentry/arch/signal_frame_amd64.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/task_private.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::SigAction;
using abi::SigInfo;
using abi::SigSet;
using kernel::ThreadGroup;

namespace {

Result<SigSet> read_mask(Task& task, UserIn<SigSet> set, uint64_t size) {
  if (size != sizeof(SigSet)) return err(kEINVAL);
  return task.read(set);
}

bool is_valid(Signo s) { return s.value() >= 1 && s.value() <= abi::kNSIG; }

}  // namespace

Result<void> sys_rt_sigaction(Task& task, Signo signo, UserIn<SigAction> action, UserOut<SigAction> old, uint64_t size) {
  if (size != sizeof(SigSet)) return err(kEINVAL);
  SigAction next;
  if (!action.is_null()) next = TRY(task.read(action));
  if (!is_valid(signo)) return err(kEINVAL);
  const int32_t n = signo.value();
  if (!action.is_null() && abi::kUnblockableSignals.has(n)) return err(kEINVAL);
  RefPtr<kernel::SignalHandlers> handlers = task.thread_group().signal_handlers();
  kernel::take_signal_actions(task, *handlers);
  if (action.is_null()) {
    const SigAction now = handlers->get(n);
    handlers.reset();
    kernel::show_signal_actions(task, n);
    return task.write_if(old, now);
  }
  next.mask = next.mask & ~abi::kUnblockableSignals;
  // UAPI_SA_FLAGS: unknown bits are cleared, so that programs can ask which ones are known.
  next.flags &= abi::kSaFlags;
  const SigAction previous = handlers->exchange(n, next);
  handlers.reset();
  kernel::show_signal_actions(task, n);
  const bool ignores = next.handler == abi::kSIG_IGN || (next.handler == abi::kSIG_DFL && kernel::is_ignored_by_default(n));
  if (ignores) {
    // What is pending is thrown away, even if it is blocked (POSIX 3.3.1.3).
    ThreadGroup& group = task.thread_group();
    base::MutexLock lock(group.signal_mu);
    group.shared.remove(SigSet::of(n));
    for (Task* t : group.threads) t->priv().pending.remove(SigSet::of(n));
    task.thread_group().signal_mu.assert_held();
    kernel::recalculate_pending_locked(task);
  }
  return task.write_if(old, previous);
}

Result<void> sys_rt_sigprocmask(Task& task, int32_t how, UserIn<SigSet> set, UserOut<SigSet> old, uint64_t size) {
  if (size != sizeof(SigSet)) return err(kEINVAL);
  const SigSet before = task.signal_mask();
  if (!set.is_null()) {
    const SigSet change = TRY(task.read(set));
    switch (how) {
      case 0: task.set_signal_mask(before | change); break;
      case 1: task.set_signal_mask(before & ~change); break;
      case 2: task.set_signal_mask(change); break;
      default: return err(kEINVAL);
    }
  }
  return task.write_if(old, before);
}

Result<void> sys_rt_sigpending(Task& task, UserOut<SigSet> set, uint64_t size) {
  if (size > sizeof(SigSet)) return err(kEINVAL);
  const SigSet pending = task.pending_signals() & task.signal_mask();
  return task.user_memory().copy_out(set.addr(), &pending, size);
}

Result<void> sys_rt_sigsuspend(Task& task, UserIn<SigSet> set, uint64_t size) {
  const SigSet mask = TRY(read_mask(task, set, size));
  task.set_temporary_mask(mask);
  while (!task.interrupted()) task.block(std::nullopt);
  return err(kERESTARTNOHAND);
}

Result<void> sys_pause(Task& task) {
  while (!task.interrupted()) task.block(std::nullopt);
  return err(kERESTARTNOHAND);
}

namespace {

Result<SigInfo> wait_for_signal(Task& task, SigSet wanted, vfs::Deadline deadline) {
  ThreadGroup& group = task.thread_group();
  const auto listen = [&](SigSet set) {
    base::MutexLock lock(group.signal_mu);
    task.priv().waiting_for = set;
  };
  listen(wanted);
  Result<SigInfo> result = err(kEAGAIN);
  for (;;) {
    if (std::optional<SigInfo> info = task.dequeue_signal(wanted)) {
      result = *info;
      break;
    }
    const vfs::WakeReason why = task.block(deadline);
    if (why == vfs::WakeReason::kWoken) continue;
    if (std::optional<SigInfo> info = task.dequeue_signal(wanted)) {
      result = *info;
    } else {
      result = err(why == vfs::WakeReason::kTimedOut ? kEAGAIN : kEINTR);
    }
    break;
  }
  listen(SigSet{});
  return result;
}

}  // namespace

Result<int32_t> sys_rt_sigtimedwait(Task& task, UserIn<SigSet> set, UserOut<SigInfo> info, UserIn<abi::TimeSpec64> timeout, uint64_t size) {
  const SigSet wanted = TRY(read_mask(task, set, size)) & ~abi::kUnblockableSignals;
  vfs::Deadline deadline;
  if (!timeout.is_null()) {
    const abi::TimeSpec64 ts = TRY(task.read(timeout));
    if (!ts.is_valid()) return err(kEINVAL);
    const int64_t ns = ts.sec > 9'000'000'000 ? INT64_MAX / 2 : ts.sec * 1'000'000'000 + ts.nsec;
    deadline = task.now_monotonic() + ns;
  }
  const SigInfo found = TRY(wait_for_signal(task, wanted, deadline));
  TRY(task.write_if(info, found));
  return found.signo;
}

namespace {

void set_altstack(Task& task, const abi::SigAltStack& stack) {
  abi::SigAltStack& current = task.priv().altstack;
  if (current.sp == stack.sp && current.size == stack.size && current.flags == stack.flags) return;
  current = stack;
  task.context().forbid_sigreturn();
}

}  // namespace

Result<void> sys_sigaltstack(Task& task, UserIn<abi::SigAltStack> stack, UserOut<abi::SigAltStack> old) {
  constexpr uint64_t kMinSigStack = 2048;
  abi::SigAltStack& current = task.priv().altstack;
  const uint64_t sp = task.regs().rsp;
  const bool in_use = arch::on_altstack(current, sp);
  abi::SigAltStack shown = current;
  shown.flags = (current.size == 0 ? abi::kSS_DISABLE : in_use ? abi::kSS_ONSTACK : 0) | (current.flags & abi::kSS_AUTODISARM);
  if (!stack.is_null()) {
    abi::SigAltStack next = TRY(task.read(stack));
    if (in_use) return err(kEPERM);
    const int32_t mode = next.flags & ~abi::kSS_AUTODISARM;
    if (mode != 0 && mode != abi::kSS_ONSTACK && mode != abi::kSS_DISABLE) return err(kEINVAL);
    if (mode == abi::kSS_DISABLE) {
      next.sp = next.size = 0;
    } else if (next.size < kMinSigStack) {
      return err(kENOMEM);
    }
    next.flags &= abi::kSS_AUTODISARM | abi::kSS_DISABLE;
    next.pad0 = 0;
    set_altstack(task, next);
  }
  return task.write_if(old, shown);
}

Result<SyscallReturn> sys_rt_sigreturn(Task& task) {
  platform::Context& context = task.context();
  // The live state is about to be replaced: no need to fetch it first.
  auto frame = arch::pop_signal_frame(task.user_memory(), context.regs(), context.xstate());
  if (!frame) {
    kernel::force_signal(task, kernel::kernel_signal(abi::kSIGSEGV));
    return SyscallReturn::registers_set();
  }
  if (frame->has_xstate) context.load_xstate();
  task.set_signal_mask(frame->mask);
  // As restore_altstack(): errors of sigaltstack(2) do not matter here.
  abi::SigAltStack stack = frame->altstack;
  const int32_t mode = stack.flags & ~abi::kSS_AUTODISARM;
  if (mode == 0 || mode == abi::kSS_ONSTACK) {
    stack.flags &= abi::kSS_AUTODISARM;
    if (!arch::on_altstack(task.priv().altstack, context.regs().rsp)) set_altstack(task, stack);
  } else if (mode == abi::kSS_DISABLE && !arch::on_altstack(task.priv().altstack, context.regs().rsp)) {
    set_altstack(task, {0, abi::kSS_DISABLE, 0, 0});
  }
  return SyscallReturn::registers_set();
}

namespace {

SigInfo user_signal(Task& task, Signo signo, int32_t code) {
  SigInfo info;
  info.signo = signo.value();
  info.code = code;
  info.set_pid(task.pid().value());
  info.set_uid(task.creds().user_ns->unmap_uid(task.creds().uid).value());
  return info;
}

// From a namespace above the target's, SIGKILL and SIGSTOP reach even its init.
kernel::SignalForce force_of(Task& task, ThreadGroup& target) {
  return &task.pid_namespace() != &target.pid_namespace() ? kernel::SignalForce::kYes : kernel::SignalForce::kNo;
}

Result<void> signal_group(Task& task, ThreadGroup& target, const SigInfo& info) {
  if (info.signo != 0 || &target != &task.thread_group()) {
    if (!kernel::may_signal(task, target, info.signo)) return err(kEPERM);
  }
  if (info.signo == 0) return {};
  return kernel::send_signal(target, nullptr, info, force_of(task, target));
}

// kill(-pgid) and kill(-1): success if one could be signalled, else the last error.
Result<void> signal_many(Task& task, const std::vector<RefPtr<ThreadGroup>>& targets, const SigInfo& info) {
  bool any = false;
  abi::Errno last = kESRCH;
  for (const RefPtr<ThreadGroup>& t : targets) {
    Result<void> sent = signal_group(task, *t, info);
    if (sent) any = true;
    else last = sent.error();
  }
  if (!any) return err(last);
  return {};
}

std::vector<RefPtr<ThreadGroup>> members_of(Task& task, int32_t pgid) {
  std::vector<RefPtr<ThreadGroup>> members;
  base::MutexLock lock(task.thread_group().set().mu);
  kernel::ProcessGroup* pg = task.thread_group().pgroup.get();
  if (pgid != 0) {
    task.pid_namespace().set_mu_is_held();
    kernel::PidNumber* number = task.pid_namespace().find_locked(pgid);
    pg = number ? number->process_group : nullptr;
  }
  if (!pg) return members;
  for (ThreadGroup* m : pg->members) members.emplace_back(m);
  return members;
}

Result<void> check_signo(Signo signo) {
  if (signo.value() < 0 || signo.value() > abi::kNSIG) return err(kEINVAL);
  return {};
}

Result<void> kill_by_number(Task& task, int32_t pid, const SigInfo& info) {
  if (pid > 0) {
    RefPtr<Task> found = task.pid_namespace().find_task(Tid(pid));
    if (!found) return err(kESRCH);
    return signal_group(task, found->thread_group(), info);
  }
  if (pid != -1) return signal_many(task, members_of(task, pid == 0 ? 0 : -pid), info);
  std::vector<RefPtr<ThreadGroup>> all = task.pid_namespace().groups();
  std::erase_if(all, [&](const RefPtr<ThreadGroup>& g) {
    return g.get() == &task.thread_group() || g->pid_in(task.pid_namespace()) == Pid(1);
  });
  return signal_many(task, all, info);
}

}  // namespace

Result<void> sys_kill(Task& task, int32_t pid, Signo signo) {
  if (pid == INT32_MIN) return err(kESRCH);
  TRY(check_signo(signo));
  return kill_by_number(task, pid, user_signal(task, signo, abi::kSI_USER));
}

namespace {

Result<void> signal_thread(Task& task, int32_t tgid, int32_t tid, const SigInfo& info) {
  RefPtr<Task> target = task.pid_namespace().find_task(Tid(tid));
  if (!target) return err(kESRCH);
  if (tgid > 0 && target->thread_group().pid_in(task.pid_namespace()) != Pid(tgid)) return err(kESRCH);
  if (!kernel::may_signal(task, target->thread_group(), info.signo)) return err(kEPERM);
  if (info.signo == 0) return {};
  return kernel::send_signal(target->thread_group(), target.get(), info, force_of(task, target->thread_group()));
}

}  // namespace

Result<void> sys_tgkill(Task& task, int32_t tgid, int32_t tid, Signo signo) {
  if (tid <= 0 || tgid <= 0) return err(kEINVAL);
  TRY(check_signo(signo));
  return signal_thread(task, tgid, tid, user_signal(task, signo, abi::kSI_TKILL));
}

Result<void> sys_tkill(Task& task, int32_t tid, Signo signo) {
  if (tid <= 0) return err(kEINVAL);
  TRY(check_signo(signo));
  return signal_thread(task, 0, tid, user_signal(task, signo, abi::kSI_TKILL));
}

namespace {

// Codes >= 0 and SI_TKILL are the kernel's: nobody may forge them for another process.
Result<SigInfo> read_info(Task& task, UserIn<SigInfo> user, Signo signo, bool to_self) {
  SigInfo info = TRY(task.read(user));
  info.signo = signo.value();
  info.pad0 = 0;
  if ((info.code >= 0 || info.code == abi::kSI_TKILL) && !to_self) return err(kEPERM);
  return info;
}

}  // namespace

Result<void> sys_rt_sigqueueinfo(Task& task, Pid pid, Signo signo, UserIn<SigInfo> user) {
  const SigInfo info = TRY(read_info(task, user, signo, task.pid() == pid));
  TRY(check_signo(signo));
  return kill_by_number(task, pid.value(), info);
}

Result<void> sys_rt_tgsigqueueinfo(Task& task, int32_t tgid, int32_t tid, Signo signo, UserIn<SigInfo> user) {
  const SigInfo info = TRY(read_info(task, user, signo, task.pid().value() == tgid));
  if (tid <= 0 || tgid <= 0) return err(kEINVAL);
  TRY(check_signo(signo));
  return signal_thread(task, tgid, tid, info);
}

Result<void> sys_pidfd_send_signal(Task& task, Fd fd, Signo signo, UserIn<SigInfo> user, uint32_t flags) {
  if (flags != 0) return err(kEINVAL);
  RefPtr<vfs::FileDescription> file = TRY(task.get_file(fd));
  auto* pidfd = file->as<kernel::PidFile>();
  if (!pidfd) return err(kEBADF);
  RefPtr<ThreadGroup> group = pidfd->group();
  TRY(check_signo(signo));
  SigInfo info = user_signal(task, signo, abi::kSI_USER);
  if (!user.is_null()) {
    info = TRY(task.read(user));
    if (info.signo != signo.value()) return err(kEINVAL);
    if ((info.code >= 0 || info.code == abi::kSI_TKILL) && group.get() != &task.thread_group()) return err(kEPERM);
  }
  if (!group) return err(kESRCH);
  return signal_group(task, *group, info);
}

Result<int64_t> sys_restart_syscall(Task& task) {
  auto restart = task.take_restart();
  if (!restart) return err(kEINTR);
  return restart(task);
}

SYSCALL_FAMILY(signal) = {
    ROW(kill, kFull, ""),
    ROW(pause, kFull, ""),
    ROW(pidfd_send_signal, kFull, ""),
    ROW(restart_syscall, kFull, ""),
    ROW(rt_sigaction, kFull, ""),
    ROW(rt_sigpending, kFull, ""),
    ROW(rt_sigprocmask, kFull, ""),
    ROW(rt_sigqueueinfo, kFull, ""),
    ROW(rt_sigreturn, kFull, ""),
    ROW(rt_sigsuspend, kFull, ""),
    ROW(rt_sigtimedwait, kFull, ""),
    ROW(rt_tgsigqueueinfo, kFull, ""),
    ROW(sigaltstack, kFull, ""),
    ROW(tgkill, kFull, ""),
    ROW(tkill, kFull, ""),
};
SYSCALL_FAMILY_END(signal);

}  // namespace sentry::syscalls
