// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "runsc-cli/cmd/commands.h"
#include "runsc-cli/cmd/foreground.h"

namespace cli {

using base::HostErr;
using base::HostError;

CommandResult cmd_run(const Global& global, const CreateOptions& options) {
  StateFiles files = TRY(StateFiles::at(global.root, options.id));
  CreateRequest request;
  request.global = &global;
  request.spec = TRY(load_spec(options.bundle, options.id, global.root_overlay()));
  request.pid_file = options.pid_file;
  request.console_socket = options.console_socket;
  request.start = StartNow::kYes;
  const bool detach = options.detach || !options.console_socket.empty();
  if (options.detach && request.spec.container.process.terminal && options.console_socket.empty())
    return HostErr(HostError::plain("cannot allocate tty if runsc will detach without setting console socket"));
  if (detach && !global.stats.empty()) return HostErr(HostError::plain("--stats: only for containers in the foreground; for others: runsc events --stats ID"));
  if (detach && !global.trace.empty()) return HostErr(HostError::plain("--trace: only for containers in the foreground; for others: runsc trace ID"));
  if (detach) {
    TRY(create_container(files, request));
    return 0;
  }
  if (request.spec.container.process.terminal) {
    if (!isatty(0)) return HostErr(HostError::plain("config.json: process.terminal: standard input is not a terminal"));
    request.terminal = 0;
  }
  return run_in_foreground(files, request, options.keep ? Keep::kYes : Keep::kNo);
}

}  // namespace cli
