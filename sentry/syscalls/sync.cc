// SPDX-License-Identifier: Apache-2.0
// sync(2), fsync(2), sync_file_range(2): fs/sync.c.
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;

Result<void> sys_fsync(Task& task, Fd fd) { return TRY(get_open_file(task, fd))->fsync(task, false); }
Result<void> sys_fdatasync(Task& task, Fd fd) { return TRY(get_open_file(task, fd))->fsync(task, true); }
Result<void> sys_syncfs(Task& task, Fd fd) { return TRY(get_open_file(task, fd))->path().mount->fs().sync(); }

Result<void> sys_sync(Task& task) {
  for (const auto& entry : task.mount_namespace().list(task.root())) (void)entry.mount->fs().sync();
  return {};
}

Result<void> sys_sync_file_range(Task& task, Fd fd, int64_t offset, int64_t length, uint32_t flags) {
  constexpr uint32_t kKnown = 7;
  auto file = TRY(get_open_file(task, fd));
  int64_t end;
  if ((flags & ~kKnown) || offset < 0 || length < 0 || __builtin_add_overflow(offset, length, &end)) return err(kEINVAL);
  const uint32_t type = file->inode().type();
  if (type == abi::kS_IFIFO || type == abi::kS_IFCHR || type == abi::kS_IFSOCK) return err(kESPIPE);
  if (flags == 0) return {};
  return file->fsync(task, true);
}

SYSCALL_FAMILY(sync) = {
    ROW(sync, kFull, ""),
    ROW(syncfs, kFull, ""),
    ROW(fsync, kFull, ""),
    ROW(fdatasync, kFull, ""),
    ROW(sync_file_range, kPartial, "writes the whole file"),
};
SYSCALL_FAMILY_END(sync);

}  // namespace sentry::syscalls
