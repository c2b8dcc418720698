// SPDX-License-Identifier: Apache-2.0
// /proc/PID/{fd,fdinfo,exe,cwd,root,ns}: links that lead to objects instead of names.
#include <charconv>

#include "sentry/fs/proc/proc_internal.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

std::string visible_name(vfs::OpContext& ctx, const vfs::Path& path) {
  const vfs::Path root = ctx.root();
  std::string name = vfs::path_string(path, &root);
  // d_path() does not tell what is outside of the root; getcwd(2) does.
  constexpr std::string_view kUnreachable = "(unreachable)";
  if (name.starts_with(kUnreachable)) name.erase(0, kUnreachable.size());
  if (path.dentry->is_deleted()) name += " (deleted)";
  return name;
}

std::optional<int32_t> parse_fd(std::string_view name) {
  int32_t fd = 0;
  if (name.empty() || (name.size() > 1 && name[0] == '0')) return std::nullopt;
  auto [end, ec] = std::from_chars(name.data(), name.data() + name.size(), fd);
  if (ec != std::errc{} || end != name.data() + name.size() || fd < 0) return std::nullopt;
  return fd;
}

Result<kernel::FdTable::Entry> entry_of(const TaskHandle& handle, int32_t fd) {
  RefPtr<kernel::FdTable> fds = TRY(handle.get())->fds_ref();
  if (!fds) return err(kENOENT);
  Result<kernel::FdTable::Entry> entry = fds->get_entry(abi::Fd(fd));
  if (!entry) return err(kENOENT);
  return entry;
}

class FdLink final : public SyntheticInode {
 public:
  FdLink(ProcFs& fs, TaskHandle handle, int32_t fd, uint32_t mode)
      : SyntheticInode(fs, abi::kS_IFLNK | mode), handle_(std::move(handle)), fd_(fd), permissions_(mode) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, abi::kS_IFLNK | permissions_); }
  uint64_t size() const override { return 64; }
  bool is_stale(vfs::OpContext&) const override {
    Result<kernel::FdTable::Entry> entry = entry_of(handle_, fd_);
    return !entry || permissions_of(*entry->file) != permissions_;
  }
  Result<std::string> readlink(vfs::OpContext& ctx) override {
    TRY(check_task_access(ctx, *TRY(handle_.get())));
    return visible_name(ctx, TRY(entry_of(handle_, fd_)).file->path());
  }
  Result<std::optional<vfs::Path>> follow_magic(vfs::OpContext& ctx) override {
    TRY(check_task_access(ctx, *TRY(handle_.get())));
    return std::optional<vfs::Path>(TRY(entry_of(handle_, fd_)).file->path());
  }
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext&, const vfs::Path&, uint32_t) override { return err(kELOOP); }

  static uint32_t permissions_of(const vfs::FileDescription& file) {
    return (file.is_readable() ? 0500u : 0u) | (file.is_writable() ? 0300u : 0u);
  }

 private:
  const TaskHandle handle_;
  const int32_t fd_;
  const uint32_t permissions_;
};

class FdInfoFile final : public TextFile {
 public:
  FdInfoFile(ProcFs& fs, TaskHandle handle, int32_t fd)
      : TextFile(fs, abi::kS_IFREG | 0444), handle_(std::move(handle)), fd_(fd) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, TextFile::owner().mode); }
  bool is_stale(vfs::OpContext&) const override { return !entry_of(handle_, fd_); }
  Result<void> check_open(vfs::OpContext& ctx, uint32_t) override { return check_task_access(ctx, *TRY(handle_.get())); }
  Result<void> render(vfs::OpContext& ctx, TextBuffer& out) override {
    kernel::FdTable::Entry entry = TRY(entry_of(handle_, fd_));
    vfs::FileDescription& file = *entry.file;
    uint32_t flags = file.status_flags();
    if (entry.close_on_exec) flags |= vfs::kO_CLOEXEC;
    Result<vfs::Stat> st = file.stat(ctx);
    out.print("pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{}\nino:\t{}\n", file.offset(), flags,
              file.path().mount ? file.path().mount->id() : 0, st ? st->inode : 0);
    out.append(file.fdinfo());
    return {};
  }

 private:
  const TaskHandle handle_;
  const int32_t fd_;
};

template <typename Make>
class FdDirectory final : public Directory {
 public:
  FdDirectory(ProcFs& fs, TaskHandle handle, uint32_t mode, uint8_t type, Make make)
      : Directory(fs, mode), handle_(std::move(handle)), type_(type), make_(std::move(make)) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, Directory::owner().mode); }
  bool is_stale(vfs::OpContext&) const override { return !handle_.get(); }
  // proc_fd_permission(): a process always reaches its own.
  Result<void> permission(vfs::OpContext& ctx, unsigned want) const override {
    Result<void> ordinary = Directory::permission(ctx, want);
    if (ordinary) return ordinary;
    Result<RefPtr<kernel::Task>> task = handle_.get();
    if (task && ctx.task() && &ctx.task()->thread_group() == &(*task)->thread_group()) return {};
    return ordinary;
  }
  // What st_size says since Linux 6.2: the number of open descriptors.
  uint64_t size() const override {
    Result<RefPtr<kernel::Task>> task = handle_.get();
    RefPtr<kernel::FdTable> fds = task ? (*task)->fds_ref() : nullptr;
    return fds ? fds->list().size() : 0;
  }

 protected:
  bool has_dynamic() const override { return true; }
  Result<RefPtr<SyntheticInode>> lookup_dynamic(vfs::OpContext&, std::string_view name) override {
    const std::optional<int32_t> fd = parse_fd(name);
    if (!fd) return err(kENOENT);
    kernel::FdTable::Entry entry = TRY(entry_of(handle_, *fd));
    return make_(proc_of(*this), handle_, *fd, *entry.file);
  }
  void list_dynamic(vfs::OpContext& ctx, std::vector<ListedEntry>& out) override {
    Result<RefPtr<kernel::Task>> task = handle_.get();
    if (!task || !check_task_access(ctx, **task)) return;
    RefPtr<kernel::FdTable> fds = (*task)->fds_ref();
    if (!fds) return;
    for (const auto& [fd, entry] : fds->list())
      out.push_back({std::to_string(fd.value()), number() << 20 | static_cast<uint64_t>(fd.value() + 3), type_});
  }

 private:
  const TaskHandle handle_;
  const uint8_t type_;
  const Make make_;
};

enum class PathLinkKind : uint8_t { kExe, kCwd, kRoot };

class PathLink final : public SyntheticInode {
 public:
  PathLink(ProcFs& fs, TaskHandle handle, PathLinkKind kind)
      : SyntheticInode(fs, abi::kS_IFLNK | 0777), handle_(std::move(handle)), kind_(kind) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, abi::kS_IFLNK | 0777); }
  Result<std::string> readlink(vfs::OpContext& ctx) override { return visible_name(ctx, TRY(target(ctx))); }
  Result<std::optional<vfs::Path>> follow_magic(vfs::OpContext& ctx) override {
    return std::optional<vfs::Path>(TRY(target(ctx)));
  }
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext&, const vfs::Path&, uint32_t) override { return err(kELOOP); }

 private:
  Result<vfs::Path> target(vfs::OpContext& ctx) {
    RefPtr<kernel::Task> task = TRY(handle_.get());
    TRY(check_task_access(ctx, *task));
    if (kind_ == PathLinkKind::kExe) {
      RefPtr<mm::MemoryManager> mm = task->mm_ref();
      RefPtr<mm::MappedFile> exe = mm ? mm->exe() : nullptr;
      if (!exe) return err(kENOENT);
      // Executables are always opened through the VFS.
      return static_cast<vfs::FileDescription*>(exe.get())->path();
    }
    RefPtr<kernel::FsContext> fs = task->fs_ref();
    if (!fs) return err(kENOENT);
    return kind_ == PathLinkKind::kCwd ? fs->cwd() : fs->root();
  }
  const TaskHandle handle_;
  const PathLinkKind kind_;
};

uint64_t namespace_inode(kernel::Task& task, std::string_view kind) {
  RefPtr<kernel::Namespaces> ns = task.namespaces();
  if (kind == "pid") return task.pid_namespace().inode();
  if (!ns) return 0;
  if (kind == "uts") return ns->uts->inode;
  if (kind == "ipc") return ns->ipc->inode;
  if (kind == "net") return ns->net->inode;
  if (kind == "cgroup") return ns->cgroup->inode;
  if (kind == "time" || kind == "time_for_children") return ns->time->inode;
  if (kind == "pid_for_children") return ns->pid_for_children->inode();
  return 0;
}

// An open namespace file. setns(2) finds what it stands for by the task it was opened from.
class NsLink final : public SyntheticInode {
 public:
  NsLink(ProcFs& fs, TaskHandle handle, std::string kind)
      : SyntheticInode(fs, abi::kS_IFLNK | 0777), handle_(std::move(handle)), kind_(std::move(kind)) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, abi::kS_IFLNK | 0777); }
  Result<std::string> readlink(vfs::OpContext& ctx) override {
    RefPtr<kernel::Task> task = TRY(handle_.get());
    TRY(check_task_access(ctx, *task));
    std::string_view type = kind_;
    type = type.substr(0, type.find('_'));
    return fmt::format("{}:[{}]", type, TRY(number_of(*task)));
  }
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext&, const vfs::Path&, uint32_t) override { return err(kELOOP); }

 private:
  // Mount and user namespaces have no number of their own: their address in disguise would leak, so a constant base.
  Result<uint64_t> number_of(kernel::Task& task) const {
    if (kind_ == "user") return uint64_t{4026531837};
    if (kind_ == "mnt") return uint64_t{4026531841};
    return namespace_inode(task, kind_);
  }
  const TaskHandle handle_;
  const std::string kind_;
};

template <typename Make>
RefPtr<Directory> make_directory_of_fds(ProcFs& fs, TaskHandle handle, uint32_t mode, uint8_t type, Make make) {
  return base::make_ref<FdDirectory<Make>>(fs, std::move(handle), mode, type, std::move(make));
}

}  // namespace

RefPtr<Directory> make_fd_directory(ProcFs& fs, TaskHandle handle) {
  return make_directory_of_fds(fs, std::move(handle), 0500, 10,
                               [](ProcFs& fs, const TaskHandle& h, int32_t fd, const vfs::FileDescription& file) {
                                 return RefPtr<SyntheticInode>(
                                     base::make_ref<FdLink>(fs, h, fd, FdLink::permissions_of(file)));
                               });
}

RefPtr<Directory> make_fdinfo_directory(ProcFs& fs, TaskHandle handle) {
  return make_directory_of_fds(fs, std::move(handle), 0555, 8,
                               [](ProcFs& fs, const TaskHandle& h, int32_t fd, const vfs::FileDescription&) {
                                 return RefPtr<SyntheticInode>(base::make_ref<FdInfoFile>(fs, h, fd));
                               });
}

RefPtr<Directory> make_ns_directory(ProcFs& fs, TaskHandle handle) {
  auto dir = base::make_ref<Directory>(fs, 0511);
  for (const char* kind : {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"})
    dir->add(kind, base::make_ref<NsLink>(fs, handle, kind));
  return dir;
}

RefPtr<SyntheticInode> make_path_link(ProcFs& fs, TaskHandle handle, std::string_view which) {
  const PathLinkKind kind = which == "exe" ? PathLinkKind::kExe : which == "cwd" ? PathLinkKind::kCwd : PathLinkKind::kRoot;
  return base::make_ref<PathLink>(fs, std::move(handle), kind);
}

}  // namespace sentry::fs
