// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/cmd/commands.h"

namespace cli {

CommandResult cmd_create(const Global& global, const CreateOptions& options) {
  StateFiles files = TRY(StateFiles::at(global.root, options.id));
  CreateRequest request;
  request.global = &global;
  request.spec = TRY(load_spec(options.bundle, options.id, global.root_overlay()));
  request.pid_file = options.pid_file;
  request.console_socket = options.console_socket;
  TRY(create_container(files, request));
  return 0;
}

}  // namespace cli
