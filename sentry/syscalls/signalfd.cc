// SPDX-License-Identifier: Apache-2.0
// signalfd(2): fs/signalfd.c.
#include "abi/linux/signal.h"
#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;

Result<Fd> sys_signalfd4(Task& task, Fd fd, UserIn<abi::SigSet> mask, uint64_t mask_size, uint32_t flags) {
  if (mask_size != sizeof(abi::SigSet)) return err(kEINVAL);
  const abi::SigSet wanted = TRY(task.read(mask));
  if (flags & ~uint32_t{vfs::kO_CLOEXEC | vfs::kO_NONBLOCK}) return err(kEINVAL);
  if (fd.value() == -1) {
    return task.install_fd(fs::eventfd::make_signalfd(task, wanted, flags), (flags & vfs::kO_CLOEXEC) != 0);
  }
  auto file = TRY(get_open_file(task, fd));
  TRY(fs::eventfd::set_signalfd_mask(*file, wanted));
  return fd;
}

Result<Fd> sys_signalfd(Task& task, Fd fd, UserIn<abi::SigSet> mask, uint64_t mask_size) {
  return sys_signalfd4(task, fd, mask, mask_size, 0);
}

SYSCALL_FAMILY(signalfd) = {
    ROW(signalfd, kFull, ""),
    ROW(signalfd4, kPartial, "polling looks at the process that made it"),
};
SYSCALL_FAMILY_END(signalfd);

}  // namespace sentry::syscalls
