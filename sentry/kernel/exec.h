// SPDX-License-Identifier: Apache-2.0
// execve(2): the task's side of it; loading is kernel/program.h.
#pragma once

#include <string>
#include <vector>

#include "base/core/result.h"
#include "sentry/kernel/task.h"

namespace sentry::kernel {

struct ExecArgs {
  base::RefPtr<vfs::FileDescription> file;
  std::string filename;
  std::vector<std::string> argv, envp;
  bool path_inaccessible = false;
};

// On success the registers are those of the new program. An error leaves the old one as it was, except that other
// threads may be gone (the caller is being killed then).
base::Result<void> exec_task(Task& task, ExecArgs args);

}  // namespace sentry::kernel
