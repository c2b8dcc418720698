// SPDX-License-Identifier: Apache-2.0
// The end of a task, and of a process with its last task: kernel/exit.c of Linux.
#include <algorithm>

#include "base/log/log.h"
#include "sentry/kernel/futex.h"
#include "sentry/kernel/kernel_impl.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using base::RefPtr;
using Garbage = std::vector<RefPtr<base::RefCounted>>;

void release_vfork_parent(Task& task) {
  RefPtr<Task> parent = std::move(task.priv().vfork_parent);
  if (!parent) return;
  parent->priv().vfork_done.store(true, std::memory_order_seq_cst);
  parent->priv().fiber->wake();
}

namespace {

abi::SigInfo child_signal(const ThreadGroup& child, const PidNamespace& parent_ns, int32_t signo, int32_t code, int32_t status,
                          const creds::Credentials* parent_creds) {
  abi::SigInfo info;
  info.signo = signo;
  info.code = code;
  info.set_pid(child.number->in(parent_ns));
  if (child.leader_task) {
    const creds::CredPtr c = child.leader_task->credentials();
    info.set_uid(parent_creds ? parent_creds->user_ns->unmap_uid(c->uid).value() : c->uid.value());
  }
  info.set_status(status);
  ResourceUse use = child.dead_threads;
  for (const Task* t : child.threads) use.add(t->use());
  info.set_utime(use.user_ns / 10'000'000);
  info.set_stime(use.system_ns / 10'000'000);
  return info;
}

void exit_code_of(int32_t wait_status, int32_t& code, int32_t& status) {
  const int32_t signo = wait_status & 0x7f;
  if (signo == 0) {
    code = abi::kCLD_EXITED;
    status = (wait_status >> 8) & 0xff;
  } else {
    code = (wait_status & 0x80) ? abi::kCLD_DUMPED : abi::kCLD_KILLED;
    status = signo;
  }
}

// Tells a parent of a zombie child. True when nobody will wait for it, so that it goes at once.
bool notify_parent_of_exit_locked(ThreadGroup& child) REQUIRES(child.set().mu) {
  ThreadGroup* parent = child.parent_group;
  if (!parent || parent->zombie) return true;
  bool autoreap = parent->number->ns().closed && parent->number->ns().init == parent;
  int32_t code = 0, status = 0;
  exit_code_of(child.exit_status, code, status);
  if (child.exit_signal != 0) {
    const abi::SigAction action = parent->signal_handlers()->get(abi::kSIGCHLD);
    if (child.exit_signal == abi::kSIGCHLD && (action.handler == abi::kSIG_IGN || (action.flags & abi::kSA_NOCLDWAIT)))
      autoreap = true;
    const creds::CredPtr pc = parent->leader_task ? parent->leader_task->credentials() : nullptr;
    (void)send_signal(*parent, nullptr, child_signal(child, parent->number->ns(), child.exit_signal, code, status, pc.get()),
                      SignalForce::kYes);
  }
  parent->child_events().notify(vfs::kPollIn);
  return autoreap;
}

ThreadGroup* find_reaper_locked(ThreadGroup& dying) REQUIRES(dying.set().mu) {
  PidNamespace& ns = dying.number->ns();
  if (dying.has_child_subreaper) {
    for (ThreadGroup* at = dying.parent_group; at && &at->number->ns() == &ns; at = at->parent_group) {
      if (at->is_child_subreaper && !at->zombie) return at;
    }
  }
  ThreadGroup* init = ns.init;
  return init && init != &dying && !init->zombie ? init : nullptr;
}

void mark_in_place_stale_locked(ThreadGroup& group) REQUIRES(group.set().mu) {
  base::MutexLock lock(group.signal_mu);
  for (Task* t : group.threads) {
    t->priv().in_place_stale.store(true);
    t->thread_group().signal_mu.assert_held();
    kick_locked(*t);
  }
}

void send_death_signals_locked(ThreadGroup& child) REQUIRES(child.set().mu) {
  for (Task* t : child.threads) {
    const int32_t signo = t->parent_death_signal.load();
    if (signo == 0) continue;
    abi::SigInfo info;
    info.signo = signo;
    info.code = abi::kSI_USER;
    (void)send_signal(child, t, info, SignalForce::kNo);
  }
}

// A thread has died: its children belong to another thread of the process, or to a new parent if it was the last.
void hand_children_on_locked(Task& task, bool last, Garbage& garbage) REQUIRES(task.thread_group().set().mu) {
  ThreadGroup& group = task.thread_group();
  group.set().mu.assert_held();
  ThreadGroup* reaper = last ? find_reaper_locked(group) : nullptr;
  const std::vector<ThreadGroup*> children = group.child_groups;
  for (ThreadGroup* child : children) {
    child->set().mu.assert_held();  // one set for all
    if (child->parent_thread == task.priv().number) {
      send_death_signals_locked(*child);
      if (!last) child->parent_thread = group.threads.front()->priv().number;
    }
    if (!last) continue;
    std::erase(group.child_groups, child);
    child->parent_group = reaper;
    child->parent_thread = reaper && !reaper->threads.empty() ? reaper->threads.front()->priv().number : nullptr;
    if (reaper) reaper->child_groups.push_back(child);
    if (!child->zombie) {
      mark_in_place_stale_locked(*child);
      continue;
    }
    child->exit_signal = abi::kSIGCHLD;
    if (notify_parent_of_exit_locked(*child)) reap_locked(*child, garbage);
  }
}

bool has_stopped_member_locked(const ProcessGroup& pg) {
  return std::any_of(pg.members.begin(), pg.members.end(), [](ThreadGroup* m) {
    base::MutexLock lock(m->signal_mu);
    return m->stopped;
  });
}

// Process groups that this exit leaves without anyone to continue them: they get SIGHUP and SIGCONT.
std::vector<RefPtr<ProcessGroup>> newly_orphaned_locked(ThreadGroup& dying) REQUIRES(dying.set().mu) {
  std::vector<RefPtr<ProcessGroup>> found;
  const auto consider = [&](const RefPtr<ProcessGroup>& pg) {
    if (!pg || std::find(found.begin(), found.end(), pg) != found.end()) return;
    if (has_stopped_member_locked(*pg)) found.push_back(pg);
  };
  const ThreadGroup* parent = dying.parent_group;
  if (parent && parent->pgroup && dying.pgroup && parent->pgroup != dying.pgroup &&
      parent->pgroup->session == dying.pgroup->session && dying.pgroup->is_orphaned_locked(&dying)) {
    consider(dying.pgroup);
  }
  for (ThreadGroup* child : dying.child_groups) {
    if (!child->pgroup || child->pgroup == dying.pgroup || !dying.pgroup || child->pgroup->session != dying.pgroup->session) continue;
    // Orphaned once this parent is gone: no other member has a parent outside.
    bool held = false;
    for (ThreadGroup* m : child->pgroup->members) {
      ThreadGroup* p = m->parent_group;
      if (p && p != &dying && !m->zombie && p->pgroup && p->pgroup != child->pgroup && p->pgroup->session == child->pgroup->session) held = true;
    }
    if (!held) consider(child->pgroup);
  }
  return found;
}

void hang_up(ProcessGroup& pg) {
  send_signal_to_group(pg, kernel_signal(abi::kSIGHUP));
  send_signal_to_group(pg, kernel_signal(abi::kSIGCONT));
}

// The leader's death ends the session's hold on its terminal: disassociate_ctty() of Linux.
void leave_terminal(ThreadGroup& group) {
  RefPtr<ProcessGroup> foreground;
  RefPtr<base::RefCounted> tty;
  {
    base::MutexLock lock(group.set().mu);
    if (!group.pgroup) return;
    Session& session = *group.pgroup->session;
    if (session.leader != &group) return;
    session.leader = nullptr;
    tty = std::move(session.controlling_tty);
    session.tty_device = 0;
    foreground = std::move(session.foreground);
  }
  if (tty && foreground) hang_up(*foreground);
}

// The init of a pid namespace takes everything in it along: zap_pid_ns_processes() of Linux.
void close_pid_namespace(Task& task) {
  ThreadGroup& group = task.thread_group();
  PidNamespace& ns = group.pid_namespace();
  Garbage garbage;
  {
    base::MutexLock lock(group.set().mu);
    if (ns.init != &group) return;
    ns.closed = true;
    const std::vector<ThreadGroup*> children = group.child_groups;
    for (ThreadGroup* child : children) {
      child->set().mu.assert_held();
      if (child->zombie) reap_locked(*child, garbage);
    }
  }
  garbage.clear();
  for (const RefPtr<ThreadGroup>& other : ns.groups()) {
    if (other.get() != &group) (void)send_signal(*other, nullptr, kernel_signal(abi::kSIGKILL), SignalForce::kYes);
  }
  vfs::TaskWaiter waiter(task);
  group.child_events().add(waiter, vfs::kPollAll);
  while (ns.groups().size() > 1) task.kernel().scheduler().park();
  group.child_events().remove(waiter);
}

void close_files(Task& task) {
  // The table stays the task's while it is emptied: it is the owner of the locks that go.
  if (!task.fds().is_shared()) {
    for (const RefPtr<vfs::FileDescription>& file : task.fds().remove_range(0, UINT32_MAX)) (void)file->on_descriptor_close(task);
  }
  task.exchange_fds(nullptr);
}

// Gives back what the task used: memory, files, namespaces. Other tasks see null pointers from here on.
void release_resources(Task& task) {
  Task::Private& p = task.priv();
  if (!task.fds().is_shared()) task.fds().drop_view(FdTable::Again::kMaybe);
  futex_task_exit(task);
  std::unique_ptr<platform::Context> context;
  {
    base::MutexLock lock(task.thread_group().signal_mu);
    context = std::move(p.context);
  }
  Scheduler::forget_guest();
  context.reset();
  // The vfork parent may go on only when nothing of the child is left in its memory.
  RefPtr<mm::MemoryManager> mm = task.exchange_mm(nullptr);
  release_vfork_parent(task);
  mm.reset();
  task.kernel().give_memory_back_later();
  close_files(task);
  task.exchange_fs(nullptr);
  task.exchange_namespaces(nullptr);
}

struct Ending {
  bool last = false, reaped = false;
  int32_t status = 0;
  std::vector<RefPtr<ProcessGroup>> orphaned;
  std::vector<std::function<void(int32_t)>> callbacks;
  Garbage garbage;
};

void leave_tables_locked(Task& task, Ending& end) REQUIRES(task.thread_group().set().mu) {
  ThreadGroup& group = task.thread_group();
  Task::Private& p = task.priv();
  TaskSet& set = group.set();
  const bool leader = group.leader_task.get() == &task;
  {
    base::MutexLock lock(group.signal_mu);
    std::erase(group.threads, &task);
    p.pending.clear();
    p.state.store(leader ? TaskState::kZombie : TaskState::kDead);
    // What was meant for this thread goes to another one.
    for (Task* t : group.threads) {
      t->thread_group().signal_mu.assert_held();
      if ((group.shared.set & ~live_mask_locked(*t)).bits != 0) kick_locked(*t);
    }
    if (leader) group.exit_status = p.exit_status;
    if (group.exiting) group.exit_status = group.group_exit_status;
    // A stop that waited for this thread may be complete now.
    if (group.stopping && !group.stopped && !group.threads.empty() && group.stopped_threads >= group.threads.size()) {
      group.stopped = group.wait_stopped = true;
    }
    if (group.exec_task) group.exec_task->priv().fiber->wake();
  }
  group.dead_threads.add(task.use());
  group.live_threads.fetch_sub(1);
  set.mu.assert_held();  // task.thread_group().set()
  group.set().mu.assert_held();
  const uint32_t uid = task.credentials()->uid.value();
  if (--set.tasks_of_user[uid] == 0) set.tasks_of_user.erase(uid);
  --set.tasks;
  end.last = group.threads.empty();
  if (end.last) end.orphaned = newly_orphaned_locked(group);
  hand_children_on_locked(task, end.last, end.garbage);
  if (!leader) {
    p.number->task = nullptr;
    p.number->release_if_unused_locked();
    p.number->exited.notify(vfs::kPollIn);
  }
  if (!end.last) return;
  group.zombie = true;
  end.status = group.exit_status;
  end.callbacks = std::move(group.exit_callbacks);
  group.exit_callbacks.clear();
  group.number->exited.notify(vfs::kPollIn);
  end.reaped = notify_parent_of_exit_locked(group);
  if (end.reaped) reap_locked(group, end.garbage);
}

}  // namespace

void reap_locked(ThreadGroup& group, Garbage& garbage) {
  PidNamespace& ns = group.number->ns();
  group.reaped = true;
  group.container().reaped_use.add(group.dead_threads);
  if (ThreadGroup* parent = std::exchange(group.parent_group, nullptr)) std::erase(parent->child_groups, &group);
  leave_process_group_locked(group, garbage);
  if (ns.init == &group) {
    ns.init = nullptr;
    ns.closed = true;
  }
  group.number->group = nullptr;
  if (group.leader_task) {
    PidNumber& number = *group.leader_task->priv().number;
    number.task = nullptr;
    number.release_if_unused_locked();
  }
  group.number->release_if_unused_locked();
  garbage.push_back(std::move(group.leader_task));
  for (PidNamespace* at = &ns; at; at = at->parent()) {
    if (at->closed && at->init) at->init->child_events().notify(vfs::kPollIn);
  }
}

void notify_parent_of_stop(ThreadGroup& group, int32_t code, int32_t status) {
  base::MutexLock lock(group.set().mu);
  ThreadGroup* parent = group.parent_group;
  if (!parent || parent->zombie) return;
  const abi::SigAction action = parent->signal_handlers()->get(abi::kSIGCHLD);
  if (action.handler != abi::kSIG_IGN && !(action.flags & abi::kSA_NOCLDSTOP)) {
    const creds::CredPtr pc = parent->leader_task ? parent->leader_task->credentials() : nullptr;
    (void)send_signal(*parent, nullptr, child_signal(group, parent->number->ns(), abi::kSIGCHLD, code, status, pc.get()),
                      SignalForce::kYes);
  }
  parent->child_events().notify(vfs::kPollIn);
}

void task_exit(Task& task) {
  ThreadGroup& group = task.thread_group();
  Task::Private& p = task.priv();
  p.killed.store(true);
  // Only the last thread of a process does what the process as a whole has to do.
  bool last_thread = false;
  {
    base::MutexLock lock(group.signal_mu);
    p.exiting = true;
    last_thread = std::all_of(group.threads.begin(), group.threads.end(), [](Task* t) { return t->priv().exiting; });
  }
  // The size only matters of a process; asking for it takes host calls.
  const uint64_t peak_rss = last_thread ? task.mm().stats().peak_rss : 0;
  release_resources(task);
  if (last_thread) {
    group.timers->clear_all();
    for (const auto& hook : group.exit_hooks.with([](auto& hooks) { return std::exchange(hooks, {}); })) hook(group.number->own());
    leave_terminal(group);
    close_pid_namespace(task);
  }
  Ending end;
  const RefPtr<ThreadGroup> keep(&group);
  const RefPtr<Container> container(&group.container());
  bool was_init = false;
  {
    base::MutexLock lock(group.set().mu);
    group.dead_threads.max_rss = std::max(group.dead_threads.max_rss, peak_rss);
    was_init = container->pid_namespace && container->pid_namespace->init == &group;
    task.thread_group().set().mu.assert_held();
    leave_tables_locked(task, end);
  }
  end.garbage.clear();
  if (!end.last) return;
  for (const RefPtr<ProcessGroup>& pg : end.orphaned) hang_up(*pg);
  for (const auto& callback : end.callbacks) callback(end.status);
  if (was_init && container->on_exit) container->on_exit(end.status);
}

}  // namespace sentry::kernel
