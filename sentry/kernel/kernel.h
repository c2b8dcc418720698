// SPDX-License-Identifier: Apache-2.0
// Kernel: what a sandbox has one of. Containers of a pod share it; nothing container-wide lives here.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "abi/oci/sandbox_config.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "platform/interface/platform.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/pid_namespace.h"
#include "sentry/kernel/reactor.h"
#include "sentry/kernel/scheduler.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/memory/memory_file.h"
#include "sentry/vfs/mount.h"

namespace sentry::kernel {

struct KernelConfig {
  unsigned executors = 1;
  uint64_t memory_limit = 0;
  bool strace = false;
};

// The dispatch function of sentry/syscalls, given at start so that kernel does not depend on it.
// Runs one system call of the task: decodes regs(), leaves the result in regs(). Returns how to go on.
enum class SyscallOutcome : uint8_t { kResult, kRegistersSet, kExit };
using SyscallDispatcher = SyscallOutcome (*)(Task& task);

// A container: its first process, its root, its limits and what `runsc` asks of it.
class Container final : public base::RefCounted {
 public:
  std::string id;                            // immutable
  base::RefPtr<PidNamespace> pid_namespace;  // immutable
  base::RefPtr<Namespaces> namespaces;       // immutable: of the init process
  vfs::Path root;                            // immutable
  std::function<void(int32_t wait_status)> on_exit;  // immutable after start: called once on an executor
  ResourceUse reaped_use;                            // TaskSet::mu: of its processes that are gone
};

struct CreateProcessArgs {
  base::RefPtr<Container> container;
  abi::oci::Process spec;
  base::RefPtr<FdTable> fds;  // descriptors 0..2 installed
  // exec: null = new init of the container; otherwise the process joins this one's namespaces.
  bool is_init = false;
  base::RefPtr<base::RefCounted> controlling_tty;  // fs/tty object or null
  uint32_t tty_device = 0;                         // its encoded device number
};

class Kernel {
 public:
  Kernel(std::unique_ptr<memory::MemoryFile> memory, std::unique_ptr<platform::Platform> platform, KernelConfig config,
         SyscallDispatcher dispatcher);
  ~Kernel();

  memory::MemoryFile& memory() { return *memory_; }
  platform::Platform& platform() { return *platform_; }
  Scheduler& scheduler() { return *scheduler_; }
  Reactor& reactor() { return *reactor_; }
  const KernelConfig& config() const { return config_; }
  SyscallDispatcher dispatcher() const { return dispatcher_; }
  PidNamespace& root_pid_namespace();
  // Bytes that the sandbox may use: its limit, or the host's memory. What /proc/meminfo shows as MemTotal.
  uint64_t total_memory() const;
  // An address space has ended: what it had goes back to the host within a second, if no more of that comes before. Any thread.
  void give_memory_back_later();
  base::RefPtr<creds::UserNamespace> root_user_namespace();
  // For the init of a container: a child of the root namespace, so that the sandbox sees every container's processes.
  base::RefPtr<PidNamespace> create_pid_namespace();

  // Makes a process from an OCI process spec: resolves args[0] in PATH, loads it, does not run it. The error is the
  // guest errno of the failing step (ENOENT, EACCES, ENOEXEC, ...) with a text in *what. May be called from any host
  // thread (not a fiber): runs the work on a kernel fiber and waits for it.
  base::Result<base::RefPtr<ThreadGroup>> create_process(CreateProcessArgs args, std::string* what);
  void start_process(ThreadGroup& group);
  // From a fiber or host thread. signo to one process, or to all of a container.
  base::Result<void> signal_process(ThreadGroup& group, abi::Signo signo);
  // Closes what stubs closed in place (FdTable::settle()), of all processes: before somebody comes to see which files are open.
  void settle_descriptors();
  // SIGKILL for the processes whose address space the host has ended.
  void kill_those_without_host();
  void signal_container(Container& container, abi::Signo signo);
  // Calls back on an executor when the process has exited (at once if it has); status as waitpid(2) encodes it.
  void on_process_exit(ThreadGroup& group, std::function<void(int32_t)> callback);
  // Kills what is left and waits until it is gone (host thread only).
  void destroy_container(Container& container);
  void pause_container(Container& container, bool on);

  struct ProcessInfo {
    int32_t pid = 0, ppid = 0;
    uint32_t uid = 0;
    std::string tty, command;
    int64_t start_realtime_ns = 0, cpu_ns = 0, user_ns = 0;
    size_t threads = 0;
    char state = 'S';
    std::string wait_channel;
  };
  // kLine: with the arguments, which reads guest memory on a fiber: not under a lock that an executor may want.
  enum class Command : uint8_t { kName, kLine };
  std::vector<ProcessInfo> processes(const Container& container, Command command = Command::kName);
  // What its processes have used, those that are gone included: never less than at an earlier question.
  ResourceUse use_of(const Container& container);

  // Runs a function as a kernel fiber with a root OpContext and waits for it (host threads that are no executors only):
  // mounting at boot. Paths are seen from `root`; `mounts` may be null for work that walks no path.
  void run_in_kernel(std::function<void(vfs::OpContext&)> work, const vfs::Path& root,
                     base::RefPtr<vfs::MountNamespace> mounts = nullptr);

  // Counted misses: a call without a handler, by number and program; logged once each.
  void note_missing_syscall(Task& task, uint64_t number);

  // Whether call sites are patched by now: not for the first calls that trap, as a sandbox that runs one small program is over before
  // copies of its libraries' text pay.
  bool patches_calls() {
    constexpr uint32_t kTrapsBefore = 32;
    return traps_.load(std::memory_order_relaxed) >= kTrapsBefore || traps_.fetch_add(1, std::memory_order_relaxed) >= kTrapsBefore;
  }

  // Blocks the calling thread as an executor until stop().
  void run();
  void stop();

  struct Impl;  // pid tables, timekeeping, futexes, SysV IPC: for sentry/kernel only
  Impl& impl() { return *impl_; }

 private:
  struct Creation;  // create_process() at work
  KernelConfig config_;
  std::unique_ptr<memory::MemoryFile> memory_;
  std::unique_ptr<platform::Platform> platform_;
  SyscallDispatcher dispatcher_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<Impl> impl_;
  std::atomic<bool> giving_back_{false};  // the timer is set
  std::atomic<uint32_t> traps_{0};        // of patches_calls()
};

}  // namespace sentry::kernel
