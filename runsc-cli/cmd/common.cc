// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include <fmt/format.h>
#include <unistd.h>

#include "runsc-cli/cmd/commands.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;

HostResult<ContainerDir> find_container(const Global& global, const std::string& id) {
  ContainerDir dir = TRY(ContainerDir::at(global.root, id));
  if (!dir.exists()) return HostErr(HostError::plain(fmt::format("container \"{}\" does not exist", id)));
  return dir;
}

HostResult<State> load_live(const ContainerDir& dir) {
  State state = TRY(dir.load());
  Status status = current_status(state);
  if (status == Status::kStopped || status == Status::kCreating)
    return HostErr(HostError::plain(fmt::format("container {} is not running: {}", dir.id(), status_name(status))));
  return state;
}

void print(std::string_view text) {
  while (!text.empty()) {
    ssize_t n = write(1, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace cli
