// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runsc-cli/cmd/commands.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;

HostResult<StateFiles> find_container(const Global& global, const std::string& id) {
  StateFiles files = TRY(StateFiles::at(global.root, id));
  if (!files.exists()) return HostErr(HostError::plain(fmt::format("container \"{}\" does not exist", id)));
  return files;
}

HostResult<State> load_live(const StateFiles& files) {
  State state = TRY(files.load());
  Status status = current_status(state);
  if (status == Status::kStopped || status == Status::kCreating)
    return HostErr(HostError::plain(fmt::format("container {} is not running: {}", files.id(), status_name(status))));
  return state;
}

void print(std::string_view text) { (void)write_all(1, text, "stdout"); }

HostResult<void> write_all(int fd, std::string_view data, const std::string& what) {
  while (!data.empty()) {
    ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return HostErr(HostError::from_errno(what));
    data.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

HostResult<ReportFiles> open_report(const std::string& target, const std::string& option) {
  ReportFiles files;
  if (!target.empty()) {
    files.file.reset(open(target.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!files.file) return HostErr(HostError::from_errno(option + ": " + target));
  }
  files.sink.reset(memfd_create("runsc-report", MFD_CLOEXEC));
  if (!files.sink) return HostErr(HostError::from_errno(option + ": memfd_create"));
  return files;
}

}  // namespace cli
