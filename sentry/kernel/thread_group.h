// SPDX-License-Identifier: Apache-2.0
// ThreadGroup: a process. ProcessGroup and Session: job control (credentials(7), setpgid(2), setsid(2)).
//
// Locks, outermost first:
//   TaskSet::mu (kTaskSet)       family, threads, groups, sessions, exit status, numbers
//     signal_mu (kSignalHandlers)  pending signals, masks, stop and exit state
//       SignalHandlers' own lock
// `threads` changes only with both held, so either is enough to read it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi/linux/signal.h"
#include "base/containers/intrusive_list.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/creds/limits.h"
#include "sentry/kernel/pid_namespace.h"
#include "sentry/kernel/signal_state.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::kernel {

class Container;
class Kernel;
class PosixTimers;
class Task;

class Session;

// What can be a session's terminal; implemented by fs/tty.
class ControllingTty : public base::RefCounted {
 public:
  // The session that took it. No lock held.
  virtual void attach(base::RefPtr<Session> session) = 0;
};

class Session final : public base::RefCounted {
 public:
  Session(TaskSet& set, base::RefPtr<PidNumber> id) : set(set), id(std::move(id)) {}
  ~Session() override;
  TaskSet& set;
  const base::RefPtr<PidNumber> id;
  // TaskSet::mu:
  base::RefPtr<base::RefCounted> controlling_tty;  // a ControllingTty
  uint32_t tty_device = 0;                         // its encoded number, for /proc/PID/stat
  base::RefPtr<ProcessGroup> foreground;
  ThreadGroup* leader = nullptr;                   // null once it has exited
  uint32_t groups = 0;                             // process groups with members; the number is free at zero
};

class ProcessGroup final : public base::RefCounted {
 public:
  ProcessGroup(base::RefPtr<PidNumber> id, base::RefPtr<Session> session) : id(std::move(id)), session(std::move(session)) {}
  ~ProcessGroup() override;
  const base::RefPtr<PidNumber> id;
  const base::RefPtr<Session> session;
  std::vector<ThreadGroup*> members;  // TaskSet::mu
  // No member has a parent in another group of the session: job-control stops make no sense here.
  bool is_orphaned_locked(const ThreadGroup* without = nullptr) const;
};

// Resource use, for getrusage(2) and times(2). Nanoseconds and counts.
struct ResourceUse {
  int64_t user_ns = 0, system_ns = 0;
  uint64_t minor_faults = 0, major_faults = 0, voluntary = 0, involuntary = 0;
  uint64_t max_rss = 0;  // bytes; the larger one wins in add()
  void add(const ResourceUse& o);
};

class ThreadGroup final : public base::RefCounted {
 public:
  ThreadGroup(Kernel& kernel, base::RefPtr<Container> container, base::RefPtr<SignalHandlers> handlers,
              const creds::LimitSet& limits);
  ~ThreadGroup() override;

  Kernel& kernel() const { return kernel_; }
  Container& container() const { return *container_; }
  TaskSet& set() const;

  // --- for everybody: each takes the locks it needs ---
  abi::Pid pid() const;                            // in its own namespace
  abi::Pid pid_in(const PidNamespace& ns) const;   // 0 when not visible
  PidNamespace& pid_namespace() const;
  base::RefPtr<Task> leader() const;               // null once reaped
  std::vector<base::RefPtr<Task>> tasks() const;   // live threads
  size_t thread_count() const;
  base::RefPtr<ThreadGroup> parent() const;
  abi::Pid parent_pid_in(const PidNamespace& ns) const;  // 0 for none
  std::vector<base::RefPtr<ThreadGroup>> children() const;
  base::RefPtr<ProcessGroup> process_group() const;
  base::RefPtr<Session> session() const;
  abi::Pid pgid_in(const PidNamespace& ns) const;
  abi::Pid sid_in(const PidNamespace& ns) const;
  bool is_zombie() const;
  creds::Limit limit(creds::Resource r) const;
  creds::LimitSet limits() const;
  void set_limit(creds::Resource r, creds::Limit v);
  ResourceUse own_use() const;       // all threads, dead ones included
  ResourceUse own_use_locked() const REQUIRES(set().mu);  // without max_rss of a live process
  ResourceUse children_use() const;  // of reaped children
  int64_t start_monotonic_ns() const { return start_ns_; }
  abi::SigSet shared_pending() const;
  base::RefPtr<SignalHandlers> signal_handlers() const;

  // Process-directed signal: picks a thread. EAGAIN at RLIMIT_SIGPENDING; ESRCH when it is gone.
  base::Result<void> send_signal(const abi::SigInfo& info);
  // Notified (kPollIn) with every signal queued for the group or one of its threads: signalfd(2).
  vfs::WaitQueue& signal_queue() { return signal_queue_; }
  // Notified when a child changes state: wait4(2).
  vfs::WaitQueue& child_events() { return child_events_; }
  // Freezes (pause) or thaws: threads stop before they next enter the guest.
  void set_frozen(bool on);

  // Runs once when the last thread exits, with the pid in its own namespace: what the process has to give back.
  void add_exit_hook(std::function<void(int32_t)> hook);

  // --- terminals (fs/tty): see job_control.cc ---
  // The session's leader takes the terminal (TIOCSCTTY). EPERM unless it is a leader without one.
  base::Result<void> set_controlling_tty(base::RefPtr<base::RefCounted> tty, uint32_t device);
  base::RefPtr<base::RefCounted> controlling_tty() const;
  void drop_controlling_tty();  // TIOCNOTTY
  base::RefPtr<ProcessGroup> foreground_group() const;  // of its session
  base::Result<void> set_foreground_group(abi::Pid pgid, const PidNamespace& ns);  // tcsetpgrp: EPERM, ESRCH
  bool is_in_foreground() const;

  // --- sentry/kernel and the process system calls only; guards as named ---
  // TaskSet::mu:
  base::RefPtr<PidNumber> number;           // set once, before anyone can see the group
  base::RefPtr<Task> leader_task;           // cycle with Task::group_, broken when the group is reaped
  std::vector<Task*> threads;               // live ones
  ThreadGroup* parent_group = nullptr;      // null: nobody waits for it
  base::RefPtr<PidNumber> parent_thread;    // the thread that made it: __WNOTHREAD, PR_SET_PDEATHSIG
  std::vector<ThreadGroup*> child_groups;
  base::RefPtr<ProcessGroup> pgroup;
  int32_t exit_signal = abi::kSIGCHLD;
  int32_t exit_status = 0;                  // as waitpid(2) encodes it, valid when zombie
  bool zombie = false, reaped = false;
  bool is_child_subreaper = false, has_child_subreaper = false;
  bool has_execed = false;                  // setpgid(2) of a child: EACCES
  ResourceUse dead_threads, dead_children;
  std::vector<std::function<void(int32_t)>> exit_callbacks;
  base::Guarded<std::vector<std::function<void(int32_t)>>> exit_hooks{base::LockRank::kLeaf};

  mutable base::Mutex signal_mu{base::LockRank::kSignalHandlers};
  base::RefPtr<SignalHandlers> handlers GUARDED_BY(signal_mu);
  SignalQueue shared GUARDED_BY(signal_mu);
  uint32_t queued_signals GUARDED_BY(signal_mu) = 0;  // siginfos of the group and its threads, for RLIMIT_SIGPENDING
  bool exiting GUARDED_BY(signal_mu) = false;         // every thread is on its way out
  int32_t group_exit_status GUARDED_BY(signal_mu) = 0;
  Task* exec_task GUARDED_BY(signal_mu) = nullptr;    // the one that survives: execve kills the others
  bool stopping GUARDED_BY(signal_mu) = false;        // a stop is under way or in effect
  bool stopped GUARDED_BY(signal_mu) = false;         // all threads have stopped
  int32_t stop_signo GUARDED_BY(signal_mu) = 0;
  uint32_t stopped_threads GUARDED_BY(signal_mu) = 0;
  bool wait_stopped GUARDED_BY(signal_mu) = false;    // not yet reported by wait4(WUNTRACED)
  bool wait_continued GUARDED_BY(signal_mu) = false;
  bool notify_continued GUARDED_BY(signal_mu) = false;
  bool frozen GUARDED_BY(signal_mu) = false;
  bool unkillable GUARDED_BY(signal_mu) = false;      // init of a pid namespace

  std::atomic<uint32_t> live_threads{0};
  std::unique_ptr<PosixTimers> timers;      // itimers and POSIX timers: own lock inside
  std::atomic<int32_t> oom_score_adj{0};

 private:
  friend class Task;
  Kernel& kernel_;
  const base::RefPtr<Container> container_;
  const int64_t start_ns_;
  mutable base::Mutex limits_mu_{base::LockRank::kLeaf};
  creds::LimitSet limits_ GUARDED_BY(limits_mu_);
  std::optional<vfs::WriteWatcher> limits_writes_ GUARDED_BY(limits_mu_);  // RLIMIT_FSIZE is one
  vfs::WaitQueue signal_queue_, child_events_;
};

// kill(-pgid): ESRCH when the group is empty; `allowed` says whether the sender may signal one member.
void send_signal_to_group(ProcessGroup& group, const abi::SigInfo& info);

}  // namespace sentry::kernel
