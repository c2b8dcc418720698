// SPDX-License-Identifier: Apache-2.0
// dup(2), dup2(2), dup3(2), umask(2).
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

Result<Fd> do_dup_to(Task& task, Fd old_fd, Fd new_fd, bool close_on_exec) {
  auto file = TRY(task.get_file(old_fd));
  const uint64_t limit = task.rlimit(creds::Resource::kNOFILE).soft;
  auto replaced = TRY(task.fds().install_at(new_fd, std::move(file), close_on_exec, limit));
  if (replaced) (void)replaced->on_descriptor_close(task);
  return new_fd;
}

}  // namespace

Result<Fd> sys_dup(Task& task, Fd fd) { return task.install_fd(TRY(task.get_file(fd)), false); }

Result<Fd> sys_dup2(Task& task, Fd old_fd, Fd new_fd) {
  if (old_fd == new_fd) {
    TRY(task.get_file(old_fd));
    return new_fd;
  }
  return do_dup_to(task, old_fd, new_fd, false);
}

Result<Fd> sys_dup3(Task& task, Fd old_fd, Fd new_fd, uint32_t flags) {
  if ((flags & ~uint32_t{vfs::kO_CLOEXEC}) != 0 || old_fd == new_fd) return err(kEINVAL);
  return do_dup_to(task, old_fd, new_fd, flags != 0);
}

Result<uint32_t> sys_umask(Task& task, uint32_t mask) { return task.fs().exchange_umask(mask); }

SYSCALL_FAMILY(dup) = {
    ROW(dup, kFull, ""),
    ROW(dup2, kFull, ""),
    ROW(dup3, kFull, ""),
    ROW(umask, kFull, ""),
};
SYSCALL_FAMILY_END(dup);

}  // namespace sentry::syscalls
