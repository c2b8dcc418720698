// SPDX-License-Identifier: Apache-2.0
// /proc/PID and /proc/PID/task/TID: what files there are.
#include "sentry/fs/proc/proc_internal.h"

#include <charconv>

#include "sentry/vfs/file_system_registry.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

std::vector<std::pair<std::string, FunctionFile::Render>>& net_files() {
  static std::vector<std::pair<std::string, FunctionFile::Render>> files;
  return files;
}

class PidFile final : public TextFile {
 public:
  PidFile(ProcFs& fs, TaskHandle handle, const PidFileRow& row)
      : TextFile(fs, abi::kS_IFREG | row.mode), handle_(std::move(handle)), row_(row) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, TextFile::owner().mode); }
  Result<void> set_attr(vfs::OpContext& ctx, const vfs::SetAttr& attr) override {
    return attr.mode ? Result<void>(err(kEPERM)) : Result<void>{};
  }
  Result<void> check_open(vfs::OpContext& ctx, uint32_t) override {
    if (row_.guarded == Guarded::kNo) return {};
    return check_task_access(ctx, *TRY(handle_.get()));
  }
  Result<void> render(vfs::OpContext& ctx, TextBuffer& out) override {
    RefPtr<kernel::Task> task = TRY(handle_.get());
    return row_.render({ctx, *task, proc_of(*this).view(ctx), handle_.is_thread()}, out);
  }
  Result<void> store(vfs::OpContext& ctx, std::string_view text) override {
    if (!row_.store) return err(kEINVAL);
    RefPtr<kernel::Task> task = TRY(handle_.get());
    return row_.store({ctx, *task, proc_of(*this).view(ctx), handle_.is_thread()}, text);
  }

 private:
  const TaskHandle handle_;
  const PidFileRow& row_;
};

class TaskDirectory : public Directory {
 public:
  TaskDirectory(ProcFs& fs, TaskHandle handle, uint32_t mode = 0555) : Directory(fs, mode), handle_(std::move(handle)) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, Directory::owner().mode); }
  bool is_stale(vfs::OpContext&) const override { return !handle_.get(); }

 protected:
  // proc_pid_permission()
  Result<void> check_present() const override {
    TRY(handle_.get());
    return {};
  }
  const TaskHandle handle_;
};

RefPtr<SyntheticInode> make_net_directory(ProcFs& fs) {
  auto dir = base::make_ref<Directory>(fs);
  for (const auto& [name, render] : net_files()) dir->add(name, base::make_ref<FunctionFile>(fs, 0444, render));
  return dir;
}

void fill(ProcFs& fs, Directory& dir, const TaskHandle& handle) {
  for (auto rows : {pid_status_files(), pid_memory_files(), pid_mount_files(), pid_attribute_files()})
    for (const PidFileRow& row : rows)
      if (!(handle.is_thread() ? row.process_only : row.thread_only))
        dir.add(row.name, base::make_ref<PidFile>(fs, handle, row));
  dir.add("fd", make_fd_directory(fs, handle));
  dir.add("fdinfo", make_fdinfo_directory(fs, handle));
  dir.add("ns", make_ns_directory(fs, handle));
  for (const char* link : {"cwd", "root", "exe"}) dir.add(link, make_path_link(fs, handle, link));
  dir.add("mem", make_mem_file(fs, handle));
  dir.add("pagemap", make_pagemap_file(fs, handle));
  dir.add("net", make_net_directory(fs));
}

int32_t parse_number(std::string_view name) {
  int32_t n = 0;
  if (name.empty() || name[0] == '0') return 0;
  auto [end, ec] = std::from_chars(name.data(), name.data() + name.size(), n);
  return ec == std::errc{} && end == name.data() + name.size() ? n : 0;
}

// /proc/PID/task
class ThreadsDirectory final : public TaskDirectory {
 public:
  ThreadsDirectory(ProcFs& fs, TaskHandle handle) : TaskDirectory(fs, std::move(handle)) {}

 protected:
  bool has_dynamic() const override { return true; }
  Result<RefPtr<SyntheticInode>> lookup_dynamic(vfs::OpContext& ctx, std::string_view name) override {
    RefPtr<kernel::Task> leader = TRY(handle_.get());
    ProcFs& fs = proc_of(*this);
    const int32_t tid = parse_number(name);
    RefPtr<kernel::Task> task = tid > 0 ? fs.view(ctx).find_task(abi::Tid(tid)) : nullptr;
    if (!task || &task->thread_group() != &leader->thread_group()) return err(kENOENT);
    TaskHandle handle(task->thread_group(), *task);
    auto dir = base::make_ref<TaskDirectory>(fs, handle);
    fill(fs, *dir, handle);
    return RefPtr<SyntheticInode>(std::move(dir));
  }
  void list_dynamic(vfs::OpContext& ctx, std::vector<ListedEntry>& out) override {
    Result<RefPtr<kernel::Task>> leader = handle_.get();
    if (!leader) return;
    kernel::PidNamespace& ns = proc_of(*this).view(ctx);
    for (const RefPtr<kernel::Task>& t : (*leader)->thread_group().tasks())
      if (const int32_t tid = t->tid_in(ns).value(); tid > 0) out.push_back({std::to_string(tid), uint64_t(tid) << 20 | 2, 4});
  }
};

// Linux's inode numbers of /proc are arbitrary; these stay the same for a process.
class RootDirectory final : public Directory {
 public:
  using Directory::Directory;

 protected:
  bool has_dynamic() const override { return true; }
  Result<RefPtr<SyntheticInode>> lookup_dynamic(vfs::OpContext& ctx, std::string_view name) override {
    const int32_t pid = parse_number(name);
    if (pid <= 0) return err(kENOENT);
    ProcFs& fs = proc_of(*this);
    // A thread's number leads to its process too, though it is not listed.
    RefPtr<kernel::Task> task = fs.view(ctx).find_task(abi::Tid(pid));
    if (!task) return err(kENOENT);
    return make_pid_directory(fs, task->thread_group());
  }
  void list_dynamic(vfs::OpContext& ctx, std::vector<ListedEntry>& out) override {
    kernel::PidNamespace& ns = proc_of(*this).view(ctx);
    for (const RefPtr<kernel::ThreadGroup>& g : ns.groups())
      if (const int32_t pid = g->pid_in(ns).value(); pid > 0) out.push_back({std::to_string(pid), uint64_t(pid) << 20 | 1, 4});
  }
};

RefPtr<vfs::Inode> make_root(SyntheticFs& base) {
  auto& fs = static_cast<ProcFs&>(base);
  auto root = base::make_ref<RootDirectory>(fs);
  root->add("self", base::make_ref<Symlink>(fs, [](vfs::OpContext& ctx) -> Result<std::string> {
              if (!ctx.task()) return err(kENOENT);
              return std::to_string(ctx.task()->thread_group().pid().value());
            }));
  root->add("thread-self", base::make_ref<Symlink>(fs, [](vfs::OpContext& ctx) -> Result<std::string> {
              if (!ctx.task()) return err(kENOENT);
              return fmt::format("{}/task/{}", ctx.task()->pid().value(), ctx.task()->tid().value());
            }));
  for (const SystemFileRow& row : system_files())
    root->add(row.name, base::make_ref<FunctionFile>(fs, row.mode, [&fs, &row](vfs::OpContext& ctx, TextBuffer& out) {
                return row.render(ctx, fs, out);
              }));
  root->add("mounts", make_symlink(fs, "self/mounts"));
  root->add("net", make_symlink(fs, "self/net"));
  root->add("sys", make_sysctl_tree(fs));
  for (const char* empty : {"bus", "fs", "driver", "tty", "irq", "acpi", "scsi", "asound"})
    root->add(empty, base::make_ref<Directory>(fs));
  return root;
}

}  // namespace

void register_proc_net_file(std::string name, FunctionFile::Render render) {
  net_files().emplace_back(std::move(name), std::move(render));
}

RefPtr<SyntheticInode> make_pid_directory(ProcFs& fs, kernel::ThreadGroup& group) {
  TaskHandle handle(group);
  auto dir = base::make_ref<TaskDirectory>(fs, handle);
  fill(fs, *dir, handle);
  dir->add("task", base::make_ref<ThreadsDirectory>(fs, handle));
  return dir;
}

kernel::PidNamespace& ProcFs::view(vfs::OpContext& ctx) const {
  if (ns_) return *ns_;
  return ctx.task() ? ctx.task()->pid_namespace() : kernel_.root_pid_namespace();
}

void register_proc(kernel::Kernel& kernel) {
  vfs::FileSystemType type;
  type.name = "proc";
  type.create = [&kernel](vfs::OpContext& ctx, const vfs::MountRequest&) -> Result<RefPtr<vfs::FileSystem>> {
    RefPtr<kernel::PidNamespace> ns;
    if (ctx.task()) ns = RefPtr<kernel::PidNamespace>(&ctx.task()->pid_namespace());
    return RefPtr<vfs::FileSystem>(base::make_ref<ProcFs>(kernel, std::move(ns), make_root));
  };
  vfs::register_file_system(std::move(type));
}

Result<RefPtr<kernel::Task>> TaskHandle::get() const {
  RefPtr<kernel::Task> task;
  if (is_thread_) {
    task = task_.lock();
    if (task && task->state() == kernel::TaskState::kDead) task = nullptr;
  } else if (RefPtr<kernel::ThreadGroup> group = group_.lock()) {
    task = group->leader();
  }
  if (!task) return err(kESRCH);
  return task;
}

creds::InodeOwner owner_of_task(const TaskHandle& handle, uint32_t mode) {
  Result<RefPtr<kernel::Task>> task = handle.get();
  if (!task) return {abi::KUid(0), abi::KGid(0), mode};
  // task_dump_owner(): a process that must not be dumped belongs to root, except for its world-readable directories.
  RefPtr<mm::MemoryManager> mm = (*task)->mm_ref();
  if (mode != (abi::kS_IFDIR | 0555) && mm && !mm->dumpable()) return {abi::KUid(0), abi::KGid(0), mode};
  creds::CredPtr cred = (*task)->credentials();
  return {cred->euid, cred->egid, mode};
}

Result<void> check_task_access(vfs::OpContext& ctx, kernel::Task& task) {
  if (ctx.task() && &ctx.task()->thread_group() == &task.thread_group()) return {};
  const creds::Credentials& me = ctx.creds();
  creds::CredPtr it = task.credentials();
  if (me.has_cap_in(creds::Cap::kSYS_PTRACE, *it->user_ns)) return {};
  if (me.fsuid != it->euid || me.fsuid != it->suid || me.fsuid != it->uid || me.fsgid != it->egid ||
      me.fsgid != it->sgid || me.fsgid != it->gid)
    return err(kEACCES);
  if (RefPtr<mm::MemoryManager> mm = task.mm_ref(); mm && !mm->dumpable()) return err(kEACCES);
  if ((it->permitted & ~me.permitted) != 0) return err(kEACCES);
  return {};
}

}  // namespace sentry::fs
