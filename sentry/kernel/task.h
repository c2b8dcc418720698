// SPDX-License-Identifier: Apache-2.0
// Task: one guest thread. A fiber runs its life: guest code -> event -> system call, fault or signal -> guest code.
//
// State is immutable after create, TASK_ONLY (touched only by the task's own fiber), or guarded as marked. The lock
// order inside sentry/kernel: pid and family tables (kTaskSet) -> signal handlers (kSignalHandlers) -> task (kTask).
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "abi/linux/signal.h"
#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "platform/interface/platform.h"
#include "sentry/creds/credentials.h"
#include "sentry/kernel/fd_table.h"
#include "sentry/kernel/fs_context.h"
#include "sentry/kernel/scheduler.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/op_context.h"

namespace sentry::kernel {

class Container;
class Kernel;
class PidNamespace;
class ThreadGroup;
struct ResourceUse;  // kernel/thread_group.h
struct Namespaces;  // uts, ipc, mnt, pid-for-children, net, cgroup, user: kernel/namespaces.h

// One letter as /proc/PID/stat shows it.
enum class TaskState : char { kRunning = 'R', kSleeping = 'S', kStopped = 'T', kTraced = 't', kZombie = 'Z', kDead = 'X' };

void offer_in_place(Task& task, abi::Fd fd, vfs::FileDescription& file);  // in_place_view.h

class Task final : public base::RefCounted, public vfs::OpContext {
 public:
  // --- identity (immutable) ---
  Kernel& kernel() const { return kernel_; }
  ThreadGroup& thread_group() const { return *group_; }
  Container& container() const;
  PidNamespace& pid_namespace() const;  // the one it lives in
  abi::Tid tid() const;                 // in its own pid namespace
  abi::Tid tid_in(const PidNamespace& ns) const;  // 0 when not visible there
  abi::Pid pid() const;                 // thread group id in its own namespace

  // --- resources ---
  mm::MemoryManager& mm() const { return *mm_; }             // TASK_ONLY
  base::RefPtr<mm::MemoryManager> mm_ref() const;            // any thread; null for a zombie
  FdTable& fds() const { return *fds_; }                     // TASK_ONLY
  base::RefPtr<FdTable> fds_ref() const;                     // any thread; null for a zombie
  FsContext& fs() const { return *fs_; }                     // TASK_ONLY
  base::RefPtr<FsContext> fs_ref() const;
  base::RefPtr<Namespaces> namespaces() const;
  creds::CredPtr credentials() const;                        // any thread
  void set_credentials(creds::CredPtr next);                 // commit_creds(): also dumpable, pdeath signal
  // access(2) and kin: other credentials for the span of one operation, without what a commit does. TASK_ONLY.
  void override_credentials(creds::CredPtr next);
  void kick(abi::Fd fd);                                     // FdTable::kick(), any thread
  bool has_stat_answers() const;                             // its stub answers stat(2), see stat_answers.h. TASK_ONLY
  void unshare_fds();                                        // a private copy of the descriptor table, TASK_ONLY
  platform::Registers& regs();                               // TASK_ONLY, while not in the guest
  platform::Registers& call_regs();                          // likewise: number, arguments and result of a system call
  platform::Context& context();                              // TASK_ONLY
  std::string comm() const;
  void set_comm(std::string_view name);
  TaskState state() const;
  void set_wait_channel(const char* static_text);
  const char* wait_channel() const;  // for `runsc debug` and /proc/PID/wchan: static text

  // --- OpContext ---
  const creds::Credentials& creds() const override;
  memory::UserMemory& user_memory() override { return *mm_; }
  const creds::Limit rlimit(creds::Resource) const override;
  uint32_t umask() const override { return fs_->umask(); }
  vfs::MountNamespace& mount_namespace() override;
  vfs::Path root() const override { return fs_->root(); }
  vfs::Path cwd() const override { return fs_->cwd(); }
  int64_t now_realtime() const override;
  int64_t now_monotonic() const override;
  vfs::OpContext::Waker& waker() override;
  vfs::WakeReason block(vfs::Deadline deadline) override;
  bool interrupted() const override;
  void block_uninterruptible() override;
  void count_waiting(int delta) override;
  memory::MemoryFile* memory_file() override;
  vfs::FileDescription* ref_descriptor(abi::Fd fd) override;
  void raise(abi::Signo signo) override;
  Task* task() override { return this; }
  abi::Pid owner_pid() const override { return pid(); }
  const void* lock_owner() const override { return fds_.get(); }

  // User memory in short: task.read(ptr), task.write(ptr, value), ...
  template <typename P>
  auto read(P p) { return user_memory().read(p); }
  template <typename P, typename V>
  base::Result<void> write(P p, const V& v) { return user_memory().write(p, v); }
  template <typename P, typename V>
  base::Result<void> write_if(P p, const V& v) { return user_memory().write_if(p, v); }
  template <typename P>
  auto read_array(P p, size_t n) { return user_memory().read_array(p, n); }
  base::Result<std::string> read_path(memory::UserCString s) { return user_memory().read_cstring(s.addr, memory::UserPath::kMaxLength); }

  // RLIMIT_NOFILE applied.
  base::Result<abi::Fd> install_fd(base::RefPtr<vfs::FileDescription> file, bool close_on_exec);
  base::Result<base::RefPtr<vfs::FileDescription>> get_file(abi::Fd fd) {
    base::Result<base::RefPtr<vfs::FileDescription>> file = fds_->get(fd);
    if (file && (*file)->wants_in_place()) [[unlikely]] offer_in_place(*this, fd, **file);
    return file;
  }

  // --- signals (kernel/signal.cc) ---
  // Queues for this thread. EAGAIN at RLIMIT_SIGPENDING for queued signals.
  base::Result<void> send_signal(const abi::SigInfo& info);
  abi::SigSet signal_mask() const;        // TASK_ONLY to change
  void set_signal_mask(abi::SigSet mask);
  // sigsuspend, ppoll, pselect, epoll_pwait: this mask until the handler has been set up or the call ends.
  void set_temporary_mask(abi::SigSet mask);
  // What must be done when the call ends: restart_syscall(2) continues with it (nanosleep, futex, poll).
  void set_restart(std::function<base::Result<int64_t>(Task&)> fn) { restart_ = std::move(fn); }

  // CPU time of this thread; any thread may ask.
  ResourceUse use() const;

  // What sched(7) calls keep; copied by clone.
  struct SchedState {
    int32_t policy = 0, priority = 0, nice = 0, io_priority = 0;
    bool reset_on_fork = false;
    uint64_t affinity[16] = {};  // all zero: every CPU
  };
  base::Guarded<SchedState> sched{base::LockRank::kLeaf};

  // prctl(PR_SET_PDEATHSIG); cleared by set-id exec and by credential changes.
  std::atomic<int32_t> parent_death_signal{0};
  uint32_t personality TASK_ONLY = 0;  // personality(2); copied by clone

  // Signals that may be read by signalfd(2) or sigtimedwait(2): takes one of `wanted` from this thread's or the
  // group's queue.
  std::optional<abi::SigInfo> dequeue_signal(abi::SigSet wanted);
  abi::SigSet pending_signals() const;

  // --- accounting ---
  int64_t user_ns() const;
  int64_t system_ns() const;
  int64_t start_monotonic_ns() const;

  // --- lifecycle, see task_*.cc ---
  struct Init;
  // Makes the fiber and the platform's context; nobody sees the task before attach(). ENOMEM, EAGAIN.
  static base::Result<base::RefPtr<Task>> create(Kernel& kernel, Init init);
  // Lets it run. Call once.
  void start();
  // TASK_ONLY: replaces a resource; the old one is returned so that it dies outside the lock.
  base::RefPtr<mm::MemoryManager> exchange_mm(base::RefPtr<mm::MemoryManager> next);
  base::RefPtr<FdTable> exchange_fds(base::RefPtr<FdTable> next);
  base::RefPtr<FsContext> exchange_fs(base::RefPtr<FsContext> next);
  base::RefPtr<Namespaces> exchange_namespaces(base::RefPtr<Namespaces> next);
  // block() that only SIGKILL and kin interrupt.
  vfs::WakeReason block_killable(vfs::Deadline deadline);
  std::function<base::Result<int64_t>(Task&)> take_restart() { return std::exchange(restart_, nullptr); }

  struct Private;  // the rest, for sentry/kernel only
  Private& priv() { return *private_; }
  const Private& priv() const { return *private_; }

 private:
  friend class Kernel;
  template <typename T, typename... A>
  friend base::RefPtr<T> base::make_ref(A&&...);
  Task(Kernel& kernel, base::RefPtr<ThreadGroup> group);
  ~Task() override;

  Kernel& kernel_;
  const base::RefPtr<ThreadGroup> group_;
  mutable base::Mutex mu_{base::LockRank::kTask};
  // Written by the task's fiber under mu_; read by it without, by others with mu_.
  base::RefPtr<mm::MemoryManager> mm_;
  base::RefPtr<FdTable> fds_;
  base::RefPtr<FsContext> fs_;
  creds::CredPtr creds_;
  std::function<base::Result<int64_t>(Task&)> restart_ TASK_ONLY;
  std::unique_ptr<Private> private_;
};

}  // namespace sentry::kernel
