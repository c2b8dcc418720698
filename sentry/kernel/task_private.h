// SPDX-License-Identifier: Apache-2.0
// The inside of a Task, for sentry/kernel and the process system calls.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/stats/stats.h"
#include "sentry/kernel/common_answers.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace sentry::kernel {

// Everything a new task starts with.
struct Task::Init {
  base::RefPtr<ThreadGroup> group;
  base::RefPtr<PidNumber> number;
  base::RefPtr<mm::MemoryManager> mm;
  base::RefPtr<FdTable> fds;
  base::RefPtr<FsContext> fs;
  creds::CredPtr creds;
  base::RefPtr<Namespaces> namespaces;
  std::string comm;
};

struct Task::Private final : public vfs::OpContext::Waker {
  explicit Private(Task& t) : task(t) {}
  void wake() override { fiber->wake(); }

  Task& task;
  std::unique_ptr<Fiber> fiber;  // immutable after create
  // Pointer: written with group.signal_mu held by the task itself; object: TASK_ONLY except interrupt().
  std::unique_ptr<platform::Context> context;

  // --- identity ---
  base::RefPtr<PidNumber> number;       // TaskSet::mu (execve of a thread that is not the leader swaps it)
  std::atomic<int32_t> own_tid{0};      // number->own(), readable without the lock
  std::string comm;                     // Task::mu_
  base::RefPtr<Namespaces> namespaces;  // Task::mu_
  int64_t start_ns = 0;

  // --- life, atomics: independent flags read by others at any time ---
  std::atomic<TaskState> state{TaskState::kSleeping};
  std::atomic<const char*> wait_channel{""};
  std::atomic<bool> started{false};         // the fiber runs or has run
  std::atomic<bool> in_guest{false};        // resume() is about to be or has been called
  std::atomic<bool> signal_pending{false};  // something for handle_signals() to look at
  std::atomic<bool> killed{false};          // on its way out: killable waits end

  // --- signals: group.signal_mu (`blocked` is also read by the task itself without) ---
  SignalQueue pending;
  abi::SigSet blocked;  // while the guest runs: see live_mask_locked()
  bool mask_in_place = false;           // the platform lets the guest change it
  // TASK_ONLY:
  bool actions_shown = false;           // the platform answers rt_sigaction, see show_signal_actions()
  std::atomic<bool> mask_held{false};   // ... but not now, as something is pending
  uint64_t shown_mask = ~uint64_t{0};   // TASK_ONLY: what the platform has of it, for all that we know
  abi::SigSet waiting_for;  // sigtimedwait(2): wakes for these although they are blocked
  bool stop_counted = false;
  std::optional<abi::SigSet> saved_mask;  // TASK_ONLY: set_temporary_mask()
  abi::SigAltStack altstack{0, abi::kSS_DISABLE, 0, 0};  // TASK_ONLY
  platform::Event last_fault;             // TASK_ONLY: error code and trap number for sigcontext

  // --- exit: TASK_ONLY ---
  std::atomic<bool> in_place_stale{false};  // any thread sets it and kicks: the parent or group has changed
  bool exiting = false;  // group.signal_mu
  int32_t exit_status = 0;  // as waitpid encodes it
  // vfork(2): the parent's fiber waits until the child has released the shared address space.
  base::RefPtr<Task> vfork_parent;  // TASK_ONLY of the child
  std::atomic<bool> vfork_done{false};  // of the parent

  // --- accounting, in TSC ticks ---
  std::atomic<uint64_t> user_ticks{0}, system_ticks{0};
  std::atomic<uint64_t> guest_since{0};  // tick at which it entered the guest; 0 while it is in the sentry
  uint64_t last_tick = 0;  // TASK_ONLY
  base::stats::Timed answering = base::stats::kTimedNothing;  // TASK_ONLY: what the guest stopped for last
  uint64_t stopped_at = 0;  // TASK_ONLY: when
  std::atomic<uint64_t> minor_faults{0}, major_faults{0}, voluntary{0}, involuntary{0};

  // --- attributes ---
  std::atomic<uint64_t> timer_slack_ns{50'000};
  bool descriptors_foreign = false;       // TASK_ONLY: another table than that of others in this address space
  uint64_t reader = 0;                    // TASK_ONLY: whose stat answers the stub gives; 0: none
  base::RefPtr<CommonAnswers> common;     // TASK_ONLY: what the stub gives too; null: not asked for yet, or there is none
  uint64_t common_count = 0;              // TASK_ONLY: change_count() of its place then
  uint32_t paths_asked = 0;               // TASK_ONLY: without `common`
  uint32_t opens_kept = 0;                // TASK_ONLY: how many more to leave an answer for
  uint32_t stats_asked = 0;               // TASK_ONLY: without a table of answers
  bool in_place_ok = true;                // TASK_ONLY: identity calls may be answered by the stub
  std::atomic<uint32_t> seccomp_mode{0};
  base::Guarded<base::RefPtr<SeccompFilter>> seccomp{base::LockRank::kLeaf};  // looked at when seccomp_mode is not 0
  std::atomic<uint64_t> self_exec_id{0};
};

// A fiber switches between user, system and parked time; these close the current piece (task_run.cc).
uint64_t cpu_ticks();

// --- task_run.cc ---
void task_main(Task& task);
// Tells the platform what it may answer in place.
void update_in_place(Task& task);
// Paths may lead elsewhere now, or other rights count: the stub gives no answers of before.
void forget_reader(Task& task);

// After a call of rt_sigaction(2) that was not answered in place: the platform may answer the next ones, if this task is the only one that
// the actions are about. The handlers keep all that somebody else could notice; the rest comes back with take_signal_actions().
void show_signal_actions(Task& task, int32_t signo);
// Before the actions (`handlers` are the task's) are read for more than their handlers.
void take_signal_actions(const Task& task, SignalHandlers& handlers);
// Before they change in another way than by that call, or are shared.
void hide_signal_actions(Task& task, SignalHandlers& handlers);

// A task's filters from now on; the stub answers nothing by itself any more.
void install_seccomp(Task& task, base::RefPtr<SeccompFilter> filter);

// --- signal.cc ---
enum class SignalForce : uint8_t { kNo, kYes };  // kYes: from the kernel or an ancestor namespace: init dies of SIGKILL
base::Result<void> send_signal(ThreadGroup& group, Task* thread, const abi::SigInfo& info, SignalForce force);
// A fault: delivered even if blocked or ignored (the disposition becomes the default one then).
void force_signal(Task& task, const abi::SigInfo& info);
// Delivers, stops, dies. `after_syscall`: rax may hold a restart code of the call `number`.
// Returns true when registers other than rax have changed.
enum class SignalOutcome : uint8_t { kNothing, kRegistersChanged, kRestartCall, kExit };
SignalOutcome handle_signals(Task& task, bool after_syscall);
// The extended state of the stopped guest; when it is still in the CPU that takes one trip. EFAULT when the guest is gone.
base::Result<std::span<uint8_t>> fetch_xstate(Task& task);
// All threads die with this status (exit_group, fatal signals). The caller still has to leave by itself.
void begin_group_exit(ThreadGroup& group, int32_t wait_status);
// Recomputes signal_pending after a change of the mask or queues.
// The signal mask of a task, which the guest may be changing while it runs (platform::Context::signal_mask()). group.signal_mu;
// who is about to rely on it for a signal holds the mask first.
abi::SigSet live_mask_locked(const Task& task);
// The task itself, before it enters the guest and after: tells the platform the mask, and takes over what the guest made of it.
void show_mask(Task& task);
void take_mask(Task& task);
void recalculate_pending_locked(Task& task) REQUIRES(task.thread_group().signal_mu);
void kick_locked(Task& task) REQUIRES(task.thread_group().signal_mu);
// May `sender` signal `target`: kill(2)'s rules.
bool may_signal(const Task& sender, ThreadGroup& target, int32_t signo);

// --- exit.cc ---
void task_exit(Task& task);
void notify_parent_of_stop(ThreadGroup& group, int32_t code, int32_t status);
// Detaches a dead group from the family and the tables.
void reap_locked(ThreadGroup& group, std::vector<base::RefPtr<base::RefCounted>>& garbage) REQUIRES(group.set().mu);
void release_vfork_parent(Task& task);

// --- thread_group.cc ---
// Puts a new task (and its group, if it is the first) into the tables.
struct AttachOptions {
  ThreadGroup* parent = nullptr;
  Task* parent_thread = nullptr;
  ThreadGroup* inherit = nullptr;  // whose process group it joins; null: a new session is made for a first task
};
// EAGAIN (limits), ENOMEM (namespace closed), EINTR-like kERESTARTNOINTR when the group is exiting.
base::Result<void> attach_task(Task& task, const AttachOptions& options);
void leave_process_group_locked(ThreadGroup& group, std::vector<base::RefPtr<base::RefCounted>>& garbage)
    REQUIRES(group.set().mu);
void join_process_group_locked(ThreadGroup& group, base::RefPtr<ProcessGroup> pgroup) REQUIRES(group.set().mu);
base::Result<abi::Pid> create_session(ThreadGroup& group);  // setsid(2)

}  // namespace sentry::kernel
