// SPDX-License-Identifier: Apache-2.0
// What the source files of proc share.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/pid_namespace.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace sentry::fs {

class ProcFs final : public SyntheticFs {
 public:
  ProcFs(kernel::Kernel& kernel, base::RefPtr<kernel::PidNamespace> ns, MakeRoot make_root)
      : SyntheticFs("proc", 0x9fa0, make_root), kernel_(kernel), ns_(std::move(ns)) {}
  bool revalidates() const override { return true; }
  kernel::Kernel& kernel() const { return kernel_; }
  kernel::PidNamespace& view(vfs::OpContext& ctx) const;

 private:
  kernel::Kernel& kernel_;
  const base::RefPtr<kernel::PidNamespace> ns_;
};
inline ProcFs& proc_of(const vfs::Inode& inode) { return static_cast<ProcFs&>(inode.fs()); }

// A process (files of /proc/PID) or one thread of it (/proc/PID/task/TID). Weak: the dentry cache keeps no task alive.
class TaskHandle {
 public:
  explicit TaskHandle(kernel::ThreadGroup& group) : group_(group) {}
  TaskHandle(kernel::ThreadGroup& group, kernel::Task& task) : group_(group), task_(task), is_thread_(true) {}
  base::Result<base::RefPtr<kernel::Task>> get() const;  // ESRCH when it has been reaped
  bool is_thread() const { return is_thread_; }

 private:
  base::WeakRef<kernel::ThreadGroup> group_;
  base::WeakRef<kernel::Task> task_;
  bool is_thread_ = false;
};

// ptrace_may_access() with PTRACE_MODE_READ_FSCREDS. EACCES.
base::Result<void> check_task_access(vfs::OpContext& ctx, kernel::Task& task);
creds::InodeOwner owner_of_task(const TaskHandle& handle, uint32_t mode);

struct PidFileArgs {
  vfs::OpContext& ctx;
  kernel::Task& task;
  kernel::PidNamespace& ns;  // the view
  bool is_thread;
};
using PidRender = base::Result<void> (*)(const PidFileArgs&, TextBuffer&);
using PidStore = base::Result<void> (*)(const PidFileArgs&, std::string_view);

enum class Guarded : uint8_t { kNo, kYes };  // needs check_task_access() at open
struct PidFileRow {
  const char* name;
  uint32_t mode;
  PidRender render;
  PidStore store = nullptr;
  Guarded guarded = Guarded::kNo;
  bool process_only = false, thread_only = false;
};

struct SystemFileRow {
  const char* name;
  uint32_t mode;
  base::Result<void> (*render)(vfs::OpContext&, ProcFs&, TextBuffer&);
};
std::span<const SystemFileRow> system_files();

// Tables by topic.
std::span<const PidFileRow> pid_status_files();
std::span<const PidFileRow> pid_memory_files();
std::span<const PidFileRow> pid_mount_files();
std::span<const PidFileRow> pid_attribute_files();

base::RefPtr<SyntheticInode> make_sysctl_tree(ProcFs& fs);
base::RefPtr<SyntheticInode> make_pid_directory(ProcFs& fs, kernel::ThreadGroup& group);
base::RefPtr<Directory> make_fd_directory(ProcFs& fs, TaskHandle handle);
base::RefPtr<Directory> make_fdinfo_directory(ProcFs& fs, TaskHandle handle);
base::RefPtr<Directory> make_ns_directory(ProcFs& fs, TaskHandle handle);
base::RefPtr<SyntheticInode> make_path_link(ProcFs& fs, TaskHandle handle, std::string_view which);  // exe, cwd, root
base::RefPtr<SyntheticInode> make_mem_file(ProcFs& fs, TaskHandle handle);
base::RefPtr<SyntheticInode> make_pagemap_file(ProcFs& fs, TaskHandle handle);

void render_mounts(vfs::MountNamespace& mounts, const vfs::Path& root, TextBuffer& out);

// Nanoseconds as USER_HZ ticks.
inline uint64_t clock_ticks(int64_t ns) { return ns <= 0 ? 0 : static_cast<uint64_t>(ns) / 10'000'000; }
int64_t boottime_now_ns();
unsigned cpu_count(const kernel::Kernel& kernel);
// CPU time of all processes that are or were in the sandbox.
kernel::ResourceUse total_use(kernel::Kernel& kernel);

}  // namespace sentry::fs
