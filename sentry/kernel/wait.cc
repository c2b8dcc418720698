// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/wait.h"

#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

bool eligible_locked(const Task& task, const ThreadGroup& child, const WaitFor& what) {
  switch (what.kind) {
    case WaitFor::Kind::kAny: break;
    case WaitFor::Kind::kPid:
      if (child.number != what.number) return false;
      break;
    case WaitFor::Kind::kGroup:
      if (!child.pgroup || child.pgroup->id != what.number) return false;
  }
  if ((what.options & kWNOTHREAD) && child.parent_thread != task.priv().number) return false;
  // "Clone" children are those that tell of their death by another signal than SIGCHLD.
  if (!(what.options & kWALL)) {
    const bool clone_child = child.exit_signal != abi::kSIGCHLD;
    if (clone_child != ((what.options & kWCLONE) != 0)) return false;
  }
  return true;
}

void fill_locked(const Task& task, const ThreadGroup& child, WaitResult& r) REQUIRES(child.set().mu) {
  r.pid = abi::Pid(child.number->in(task.pid_namespace()));
  if (child.leader_task) r.uid = task.creds().user_ns->unmap_uid(child.leader_task->credentials()->uid);
  r.use = child.own_use_locked();
  r.use.add(child.dead_children);
}

bool take_zombie_locked(Task& task, ThreadGroup& child, const WaitFor& what, WaitResult& r,
                        std::vector<RefPtr<base::RefCounted>>& garbage) REQUIRES(child.set().mu) {
  if (!child.zombie || !(what.options & kWEXITED)) return false;
  fill_locked(task, child, r);
  r.wait_status = child.exit_status;
  const int32_t signo = child.exit_status & 0x7f;
  r.code = signo == 0 ? abi::kCLD_EXITED : (child.exit_status & 0x80) ? abi::kCLD_DUMPED : abi::kCLD_KILLED;
  r.status = signo == 0 ? (child.exit_status >> 8) & 0xff : signo;
  if (what.options & kWNOWAIT) return true;
  task.thread_group().dead_children.add(child.dead_threads);
  task.thread_group().dead_children.add(child.dead_children);
  garbage.emplace_back(RefPtr<ThreadGroup>(&child));
  reap_locked(child, garbage);
  return true;
}

bool take_job_state_locked(Task& task, ThreadGroup& child, const WaitFor& what, WaitResult& r) REQUIRES(child.set().mu) {
  base::MutexLock lock(child.signal_mu);
  if ((what.options & kWSTOPPED) && child.wait_stopped) {
    if (!(what.options & kWNOWAIT)) child.wait_stopped = false;
    r.wait_status = (child.stop_signo << 8) | 0x7f;
    r.code = abi::kCLD_STOPPED;
    r.status = child.stop_signo;
  } else if ((what.options & kWCONTINUED) && child.wait_continued) {
    if (!(what.options & kWNOWAIT)) child.wait_continued = false;
    r.wait_status = 0xffff;
    r.code = abi::kCLD_CONTINUED;
    r.status = abi::kSIGCONT;
  } else {
    return false;
  }
  fill_locked(task, child, r);
  return true;
}

// ECHILD, or a result whose pid is 0 when there are children but nothing to report.
Result<WaitResult> look(Task& task, const WaitFor& what) {
  std::vector<RefPtr<base::RefCounted>> garbage;
  ThreadGroup& group = task.thread_group();
  WaitResult r;
  bool any = false;
  base::MutexLock lock(group.set().mu);
  for (ThreadGroup* child : group.child_groups) {
    if (!eligible_locked(task, *child, what)) continue;
    any = true;
    child->set().mu.assert_held();
    if (take_zombie_locked(task, *child, what, r, garbage) || take_job_state_locked(task, *child, what, r)) return r;
  }
  if (!any) return err(kECHILD);
  return r;
}

}  // namespace

Result<WaitResult> wait_for_child(Task& task, const WaitFor& what) {
  ThreadGroup& group = task.thread_group();
  WaitResult first = TRY(look(task, what));
  if (first.pid.value() != 0 || (what.options & kWNOHANG)) return first;
  vfs::TaskWaiter waiter(task);
  group.child_events().add(waiter, vfs::kPollAll);
  task.set_wait_channel("wait");
  Result<WaitResult> result = err(kECHILD);
  for (;;) {
    result = look(task, what);
    if (!result || result->pid.value() != 0) break;
    if (task.block(std::nullopt) == vfs::WakeReason::kInterrupted) {
      result = err(kERESTARTSYS);
      break;
    }
  }
  task.set_wait_channel("");
  group.child_events().remove(waiter);
  return result;
}

}  // namespace sentry::kernel
