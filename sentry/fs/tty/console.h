// SPDX-License-Identifier: Apache-2.0
// A guest terminal whose other end is a host terminal that the CLI has put into raw mode.
#pragma once

#include "base/core/result.h"
#include "base/host/unique_fd.h"
#include "base/ref/ref.h"
#include "sentry/kernel/kernel.h"
#include "sentry/vfs/file_description.h"

namespace sentry::fs {

struct Console {
  // For descriptors 0 to 2.
  base::RefPtr<vfs::FileDescription> file;
  // For CreateProcessArgs::controlling_tty.
  base::RefPtr<base::RefCounted> controlling_tty;
  uint32_t device = 0;    // its encoded number, for CreateProcessArgs::tty_device
  bool has_node = false;  // the file has a path that can be opened again
};

struct ConsoleArgs {
  base::UniqueFd host_fd;
  uint16_t columns = 0, rows = 0;  // both 0: those of the host terminal
  abi::KUid owner{0};
};

// A terminal with a name in the devpts that the context sees at /dev/pts; nameless when there is none. Bytes are pumped by
// the reactor until either side hangs up.
base::Result<Console> create_console(kernel::Kernel& kernel, vfs::OpContext& ctx, ConsoleArgs args);

// TIOCSWINSZ from outside: SIGWINCH to the foreground group when it differs.
void resize_console(base::RefCounted& controlling_tty, uint16_t columns, uint16_t rows);

// /dev/tty, /dev/console and the file system "devpts" with its /dev/ptmx. Once, at boot.
void register_terminals(kernel::Kernel& kernel);

}  // namespace sentry::fs
