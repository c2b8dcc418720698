// SPDX-License-Identifier: Apache-2.0
// Subcommands that are one call on a container.
#include <fmt/format.h>

#include "base/log/log.h"
#include "runsc-cli/cmd/commands.h"
#include "runsc-cli/container/attend.h"
#include "runsc-cli/container/client.h"
#include "runsc-cli/sandbox/cgroup.h"

namespace cli {

using base::HostErr;
using base::HostError;

CommandResult cmd_start(const Global& global, const std::string& id) {
  StateFiles files = TRY(find_container(global, id));
  TRY(start_container(files));
  return 0;
}

CommandResult cmd_state(const Global& global, const std::string& id) {
  StateFiles files = TRY(find_container(global, id));
  State state = TRY(files.load());
  print(state_json(state, current_status(state), StateFields::kRuntime) + "\n");
  return 0;
}

CommandResult cmd_kill(const Global& global, const KillOptions& options) {
  StateFiles files = TRY(find_container(global, options.id));
  int signo = signal_number(options.signal);
  if (signo < 0) return HostErr(HostError::plain(fmt::format("unknown signal \"{:.40}\"", options.signal)));
  TRY(kill_container(files, signo, options.all));
  return 0;
}

CommandResult cmd_delete(const Global& global, const DeleteOptions& options) {
  base::HostResult<void> result;
  for (const std::string& id : options.ids) {
    StateFiles files = TRY(StateFiles::at(global.root, id));
    base::HostResult<void> deleted = delete_container(files, options.force ? Force::kYes : Force::kNo);
    if (deleted) continue;
    if (!result) LOG_ERROR("{}", result.error().message);
    result = std::move(deleted);
  }
  TRY(std::move(result));
  return 0;
}

CommandResult cmd_wait(const Global& global, const WaitOptions& options) {
  StateFiles files = TRY(find_container(global, options.id));
  TRY(load_live(files));
  ControlClient client(TRY(files.connect()));
  std::string result =
      TRY(client.call("wait", fmt::format("{{\"id\":{},\"pid\":{}}}", json_quoted(options.id), options.pid)));
  int code = exit_code_of_status(TRY(result_integer(result, "status")));
  print(fmt::format("{{\"id\":{},\"exitStatus\":{}}}\n", json_quoted(options.id), code));
  return 0;
}

namespace {

CommandResult set_paused(const Global& global, const std::string& id, Status wanted) {
  StateFiles files = TRY(find_container(global, id));
  base::UniqueFd lock = TRY(files.lock());
  State state = TRY(load_live(files));
  Status before = wanted == Status::kPaused ? Status::kRunning : Status::kPaused;
  if (state.status != before)
    return HostErr(HostError::plain(fmt::format("container {} is not {}", id, status_name(before))));
  ControlClient client(TRY(files.connect()));
  TRY(client.call(wanted == Status::kPaused ? "pause" : "resume", fmt::format("{{\"id\":{}}}", json_quoted(id))));
  state.status = wanted;
  TRY(files.save(state));
  return 0;
}

}  // namespace

CommandResult cmd_pause(const Global& global, const std::string& id) { return set_paused(global, id, Status::kPaused); }
CommandResult cmd_resume(const Global& global, const std::string& id) {
  return set_paused(global, id, Status::kRunning);
}

CommandResult cmd_update(const Global& global, const UpdateOptions& options) {
  StateFiles files = TRY(find_container(global, options.id));
  base::UniqueFd lock = TRY(files.lock());
  State state = TRY(load_live(files));
  std::string path = options.resources_file == "-" ? "/proc/self/fd/0" : options.resources_file;
  std::string text = TRY(read_stream(path, kMaxSpecSize));
  TRY(update_cgroups(state.cgroup_dirs, TRY(parse_resources(text, "resources"))));
  return 0;
}

}  // namespace cli
