// SPDX-License-Identifier: Apache-2.0
// exit(2), identity, process groups and sessions, pidfds, kcmp(2).
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/task_private.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using kernel::PidNumber;
using kernel::ProcessGroup;
using kernel::ThreadGroup;

Result<SyscallReturn> sys_exit(Task& task, int32_t code) {
  task.priv().exit_status = (code & 0xff) << 8;
  return SyscallReturn::task_exits();
}

Result<SyscallReturn> sys_exit_group(Task& task, int32_t code) {
  const int32_t status = (code & 0xff) << 8;
  task.priv().exit_status = status;
  kernel::begin_group_exit(task.thread_group(), status);
  return SyscallReturn::task_exits();
}

Result<Pid> sys_getpid(Task& task) { return task.pid(); }
Result<Tid> sys_gettid(Task& task) { return task.tid(); }
Result<Pid> sys_getppid(Task& task) { return task.thread_group().parent_pid_in(task.pid_namespace()); }

namespace {

// The calling process, or another one by number. ESRCH.
Result<RefPtr<ThreadGroup>> process_by(Task& task, Pid pid) {
  if (pid.value() == 0) return RefPtr<ThreadGroup>(&task.thread_group());
  RefPtr<Task> found = task.pid_namespace().find_task(Tid(pid.value()));
  if (!found) return err(kESRCH);
  return RefPtr<ThreadGroup>(&found->thread_group());
}

}  // namespace

Result<Pid> sys_getpgid(Task& task, Pid pid) {
  return TRY(process_by(task, pid))->pgid_in(task.pid_namespace());
}
Result<Pid> sys_getpgrp(Task& task) { return task.thread_group().pgid_in(task.pid_namespace()); }
Result<Pid> sys_getsid(Task& task, Pid pid) {
  return TRY(process_by(task, pid))->sid_in(task.pid_namespace());
}

Result<Pid> sys_setsid(Task& task) {
  TRY(kernel::create_session(task.thread_group()));
  kernel::update_in_place(task);
  return task.pid();
}

namespace {

// Order of checks: setpgid() of kernel/sys.c.
Result<void> change_group_locked(Task& task, PidNumber* number, int32_t pgid, std::vector<RefPtr<base::RefCounted>>& garbage)
    REQUIRES(task.thread_group().set().mu) {
  ThreadGroup& self = task.thread_group();
  if (!number || !number->group) return err(kESRCH);
  ThreadGroup& target = *number->group;
  if (target.parent_group == &self) {
    if (target.pgroup->session != self.pgroup->session) return err(kEPERM);
    if (target.has_execed) return err(kEACCES);
  } else if (&target != &self) {
    return err(kESRCH);
  }
  if (target.pgroup->session->leader == &target) return err(kEPERM);
  RefPtr<ProcessGroup> next;
  PidNumber* wanted = number;
  task.pid_namespace().set_mu_is_held();
  if (pgid != 0) wanted = task.pid_namespace().find_locked(pgid);
  if (wanted == number) {
    next = RefPtr<ProcessGroup>(number->process_group);
    if (!next) {
      next = base::make_ref<ProcessGroup>(RefPtr<PidNumber>(number), target.pgroup->session);
      number->process_group = next.get();
    }
  } else if (wanted) {
    next = RefPtr<ProcessGroup>(wanted->process_group);
  }
  if (!next || next->session != self.pgroup->session) return err(kEPERM);
  if (next == target.pgroup) return {};
  target.set().mu.assert_held();
  kernel::leave_process_group_locked(target, garbage);
  kernel::join_process_group_locked(target, std::move(next));
  base::MutexLock lock(target.signal_mu);
  for (Task* t : target.threads) {
    t->priv().in_place_stale.store(true);
    t->thread_group().signal_mu.assert_held();
    kernel::kick_locked(*t);
  }
  return {};
}

}  // namespace

Result<void> sys_setpgid(Task& task, Pid pid, Pid pgid) {
  if (pgid.value() < 0) return err(kEINVAL);
  std::vector<RefPtr<base::RefCounted>> garbage;
  Result<void> done;
  {
    base::MutexLock lock(task.thread_group().set().mu);
    task.pid_namespace().set_mu_is_held();
    PidNumber* number = pid.value() == 0 ? task.thread_group().number.get() : task.pid_namespace().find_locked(pid.value());
    done = change_group_locked(task, number, pgid.value(), garbage);
  }
  return done;
}

namespace {
constexpr uint32_t kPidfdNonblock = vfs::kO_NONBLOCK;
}

Result<Fd> sys_pidfd_open(Task& task, Pid pid, uint32_t flags) {
  if (flags & ~kPidfdNonblock) return err(kEINVAL);
  if (pid.value() <= 0) return err(kEINVAL);
  RefPtr<PidNumber> number = task.pid_namespace().find(pid.value());
  if (!number) return err(kESRCH);
  {
    base::MutexLock lock(task.thread_group().set().mu);
    if (!number->group) return err(number->task ? kEINVAL : kESRCH);
  }
  return task.install_fd(kernel::make_pidfd(task, std::move(number), flags), true);
}

Result<Fd> sys_pidfd_getfd(Task& task, Fd pidfd, Fd target, uint32_t flags) {
  if (flags != 0) return err(kEINVAL);
  RefPtr<vfs::FileDescription> file = TRY(task.get_file(pidfd));
  auto* pid_file = file->as<kernel::PidFile>();
  if (!pid_file) return err(kEBADF);
  RefPtr<ThreadGroup> group = pid_file->group();
  RefPtr<Task> leader = group ? group->leader() : nullptr;
  if (!leader) return err(kESRCH);
  // ptrace_may_access(PTRACE_MODE_ATTACH) without a tracer: the same ids, or the capability.
  const creds::CredPtr theirs = leader->credentials();
  const creds::Credentials& mine = task.creds();
  const bool same = mine.uid == theirs->uid && mine.uid == theirs->euid && mine.uid == theirs->suid && mine.gid == theirs->gid &&
                    mine.gid == theirs->egid && mine.gid == theirs->sgid;
  if (!same && !mine.has_cap_in(creds::Cap::kSYS_PTRACE, *theirs->user_ns)) return err(kEPERM);
  RefPtr<kernel::FdTable> fds = leader->fds_ref();
  if (!fds) return err(kESRCH);
  return task.install_fd(TRY(fds->get(target)), true);
}

namespace {

enum : int32_t { kKcmpFile, kKcmpVm, kKcmpFiles, kKcmpFs, kKcmpSighand, kKcmpIo, kKcmpSysvsem };

Result<const void*> comparable(Task& task, int32_t type, uint64_t index) {
  switch (type) {
    case kKcmpFile: {
      RefPtr<kernel::FdTable> fds = task.fds_ref();
      if (!fds) return err(kEBADF);
      return static_cast<const void*>(TRY(fds->get(Fd(static_cast<int32_t>(index)))).get());
    }
    case kKcmpVm: return static_cast<const void*>(task.mm_ref().get());
    case kKcmpFiles: return static_cast<const void*>(task.fds_ref().get());
    case kKcmpFs: return static_cast<const void*>(task.fs_ref().get());
    case kKcmpSighand: return static_cast<const void*>(task.thread_group().signal_handlers().get());
    default: return err(kEINVAL);
  }
}

}  // namespace

Result<int32_t> sys_kcmp(Task& task, Pid pid1, Pid pid2, int32_t type, uint64_t index1, uint64_t index2) {
  RefPtr<Task> a = task.pid_namespace().find_task(Tid(pid1.value())), b = task.pid_namespace().find_task(Tid(pid2.value()));
  if (!a || !b) return err(kESRCH);
  const void* x = TRY(comparable(*a, type, index1));
  const void* y = TRY(comparable(*b, type, index2));
  return x == y ? 0 : x < y ? 1 : 2;
}

SYSCALL_FAMILY(process) = {
    ROW(exit, kFull, ""),
    ROW(exit_group, kFull, ""),
    ROW(getpgid, kFull, ""),
    ROW(getpgrp, kFull, ""),
    ROW(getpid, kFull, ""),
    ROW(getppid, kFull, ""),
    ROW(getsid, kFull, ""),
    ROW(gettid, kFull, ""),
    ROW(kcmp, kPartial, "no KCMP_IO, KCMP_SYSVSEM, KCMP_EPOLL_TFD"),
    ROW(pidfd_getfd, kFull, ""),
    ROW(pidfd_open, kFull, ""),
    ROW(setpgid, kFull, ""),
    ROW(setsid, kFull, ""),
};
SYSCALL_FAMILY_END(process);

}  // namespace sentry::syscalls
