// SPDX-License-Identifier: Apache-2.0
// execve(2), execveat(2).
#include "sentry/kernel/exec.h"

#include "sentry/kernel/program.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/loader/loader.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

constexpr int32_t kAtFdCwd = -100;
constexpr uint32_t kAtSymlinkNoFollow = 0x100, kAtEmptyPath = 0x1000;

// argv or envp: a null-terminated array of strings; `budget` is what is left of the total.
Result<std::vector<std::string>> read_strings(Task& task, Addr array, uint64_t& budget) {
  std::vector<std::string> strings;
  if (array.is_null()) return strings;
  for (uint64_t i = 0;; ++i) {
    const uint64_t pointer = TRY(task.read(UserIn<uint64_t>(array).offset(i)));
    if (pointer == 0) return strings;
    Result<std::string> text = task.user_memory().read_cstring(Addr(pointer), loader::kMaxArgStrlen - 1);
    if (!text) return err(text.error() == kENAMETOOLONG ? kE2BIG : text.error());
    const uint64_t cost = text->size() + 1 + sizeof pointer;
    if (cost > budget) return err(kE2BIG);
    budget -= cost;
    strings.push_back(std::move(*text));
  }
}

// What a relative name starts from, and how the program sees its own name afterwards.
struct Target {
  RefPtr<vfs::FileDescription> file;
  std::string filename;
  bool inaccessible = false;
};

Result<Target> open_target(Task& task, int32_t dirfd, UserCString path, uint32_t flags) {
  if (flags & ~(kAtSymlinkNoFollow | kAtEmptyPath)) return err(kEINVAL);
  const std::string name = TRY(task.read_path(path));
  uint32_t lookup = flags & kAtSymlinkNoFollow ? 0u : uint32_t{vfs::kLookupFollow};
  if (flags & kAtEmptyPath) lookup |= vfs::kLookupEmptyPath;
  if (dirfd == kAtFdCwd || name.starts_with('/'))
    return Target{TRY(kernel::open_for_exec(task, task.cwd(), name, lookup)), name, false};
  const kernel::FdTable::Entry entry = TRY(task.fds().get_entry(Fd(dirfd)));
  Target target;
  target.file = TRY(kernel::open_for_exec(task, entry.file->path(), name, lookup));
  target.filename = "/dev/fd/" + std::to_string(dirfd) + (name.empty() ? "" : "/" + name);
  target.inaccessible = entry.close_on_exec;
  return target;
}

Result<SyscallReturn> do_execveat(Task& task, int32_t dirfd, UserCString path, Addr argv, Addr envp, uint32_t flags) {
  Target target = TRY(open_target(task, dirfd, path, flags));
  uint64_t budget = loader::max_arg_bytes(task.thread_group().limits());
  kernel::ExecArgs args;
  args.argv = TRY(read_strings(task, argv, budget));
  args.envp = TRY(read_strings(task, envp, budget));
  args.file = std::move(target.file);
  args.filename = std::move(target.filename);
  args.path_inaccessible = target.inaccessible;
  TRY(kernel::exec_task(task, std::move(args)));
  return SyscallReturn::registers_set();
}

}  // namespace

Result<SyscallReturn> sys_execve(Task& task, UserCString path, Addr argv, Addr envp) {
  return do_execveat(task, kAtFdCwd, path, argv, envp, 0);
}

Result<SyscallReturn> sys_execveat(Task& task, int32_t dirfd, UserCString path, Addr argv, Addr envp, uint32_t flags) {
  return do_execveat(task, dirfd, path, argv, envp, flags);
}

SYSCALL_FAMILY(exec) = {
    ROW(execve, kPartial, "file capabilities are not honoured"),
    ROW(execveat, kPartial, "file capabilities are not honoured"),
};
SYSCALL_FAMILY_END(exec);

}  // namespace sentry::syscalls
