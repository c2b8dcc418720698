// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/exec.h"

#include "sentry/kernel/futex.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/program.h"
#include "sentry/kernel/stat_answers.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

// Kills the other threads and waits until they are gone: de_thread() of fs/exec.c.
Result<void> become_only_thread(Task& task) {
  ThreadGroup& group = task.thread_group();
  {
    base::MutexLock lock(group.signal_mu);
    if (group.exiting || group.exec_task) return err(kERESTARTNOINTR);  // somebody else's exec or exit ends this thread
    group.exec_task = &task;
    for (Task* t : group.threads) {
      if (t == &task) continue;
      t->priv().killed.store(true, std::memory_order_seq_cst);
      t->thread_group().signal_mu.assert_held();  // one group
      kick_locked(*t);
    }
  }
  for (;;) {
    {
      base::MutexLock lock(group.signal_mu);
      if (group.exiting) {
        group.exec_task = nullptr;
        return err(kERESTARTNOINTR);
      }
      if (group.threads.size() == 1) return {};
    }
    task.kernel().scheduler().park();
  }
}

// The survivor takes the leader's number, so that the process keeps its pid.
void take_over_leadership(Task& task) {
  ThreadGroup& group = task.thread_group();
  std::vector<RefPtr<base::RefCounted>> garbage;
  base::MutexLock lock(group.set().mu);
  if (group.leader_task.get() != &task) {
    Task::Private& p = task.priv();
    Task::Private& old = group.leader_task->priv();
    RefPtr<PidNumber> mine = std::move(p.number);
    p.number = old.number;
    p.number->task = &task;
    p.own_tid.store(p.number->own());
    old.number = mine;
    old.state.store(TaskState::kDead);
    mine->task = nullptr;
    mine->release_if_unused_locked();
    for (ThreadGroup* child : group.child_groups) {
      if (child->parent_thread == mine) child->parent_thread = p.number;
    }
    garbage.push_back(std::move(mine));
    garbage.push_back(std::move(group.leader_task));
    group.leader_task = RefPtr<Task>(&task);
  }
  group.has_execed = true;
  group.exit_signal = abi::kSIGCHLD;
  base::MutexLock signal_lock(group.signal_mu);
  group.exec_task = nullptr;
}

// Nothing below fails.
void switch_memory(Task& task, Program& program, std::unique_ptr<platform::Context> context) {
  ThreadGroup& group = task.thread_group();
  futex_task_exit(task);
  std::unique_ptr<platform::Context> old_context;
  context->task = &task;
  {
    base::MutexLock lock(group.signal_mu);
    old_context = std::exchange(task.priv().context, std::move(context));
    task.priv().shown_mask = ~uint64_t{0};  // the new one has none yet
  }
  Scheduler::forget_guest();
  old_context.reset();
  RefPtr<mm::MemoryManager> old = task.exchange_mm(std::move(program.mm));
  release_vfork_parent(task);
  old.reset();
  task.kernel().give_memory_back_later();
}

void reset_signals(Task& task) {
  ThreadGroup& group = task.thread_group();
  RefPtr<SignalHandlers> handlers = group.signal_handlers();
  if (handlers->ref_count_for_debug() > 2) {  // ours and the group's: anything more is another process
    handlers = handlers->fork();
    RefPtr<SignalHandlers> old = handlers;
    base::MutexLock lock(group.signal_mu);
    std::swap(group.handlers, old);
  }
  handlers->reset_for_exec();
  task.priv().altstack = {0, abi::kSS_DISABLE, 0, 0};
  group.timers->clear_posix();
}

void close_on_exec(Task& task) {
  if (task.fds().is_shared()) task.exchange_fds(task.fds().fork());
  for (const RefPtr<vfs::FileDescription>& file : task.fds().remove_close_on_exec()) (void)file->on_descriptor_close(task);
}

}  // namespace

Result<void> exec_task(Task& task, ExecArgs args) {
  ProgramArgs load;
  load.file = std::move(args.file);
  load.filename = std::move(args.filename);
  load.argv = std::move(args.argv);
  load.envp = std::move(args.envp);
  load.limits = task.thread_group().limits();
  load.path_inaccessible = args.path_inaccessible;
  // check_unsafe_exec(): another process that shares our root directory could swap it under a set-id program.
  load.set_id = task.fs().ref_count_for_debug() > task.thread_group().thread_count() ? SetId::kIgnored : SetId::kHonoured;
  Program program = TRY(load_program(task, task.kernel(), std::move(load)));
  std::unique_ptr<platform::Context> context = TRY(task.kernel().platform().create_context(program.mm->platform_space()));
  TRY(become_only_thread(task));
  take_over_leadership(task);

  platform::Registers& regs = context->regs();
  regs.rip = program.entry.value();
  regs.rsp = program.stack_pointer.value();
  // Whoever looks at the table right now, through /proc: the old address space must end.
  task.fds().catch_up(task);
  task.fds().drop_view(FdTable::Again::kMaybe);
  task.priv().descriptors_foreign = false;
  hide_signal_actions(task, *task.thread_group().signal_handlers());
  switch_memory(task, program, std::move(context));
  close_on_exec(task);
  reset_signals(task);
  task.set_comm(program.comm);
  const bool dumpable = task.mm().dumpable();
  task.set_credentials(program.creds);
  task.mm().set_dumpable(dumpable);  // of the new image: what the loader decided
  if (program.secure) task.parent_death_signal.store(0);
  task.priv().stats_asked = 0;
  update_in_place(task);
  begin_with_answers(task);
  base::stats::count(base::stats::Counter::kExecs);
  return {};
}

}  // namespace sentry::kernel
