// SPDX-License-Identifier: Apache-2.0
// One function per subcommand; app.cc fills the option structs from the command line. A command returns the exit
// status of the program, or an error that app.cc reports.
#pragma once

#include <string>
#include <vector>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "runsc-cli/container/container.h"

namespace cli {

using CommandResult = base::HostResult<int>;

struct CreateOptions {
  std::string id, bundle = ".", console_socket, pid_file;
  bool detach = false, keep = false;
};
CommandResult cmd_create(const Global& global, const CreateOptions& options);
CommandResult cmd_run(const Global& global, const CreateOptions& options);

CommandResult cmd_start(const Global& global, const std::string& id);
CommandResult cmd_state(const Global& global, const std::string& id);

struct KillOptions {
  std::string id, signal = "TERM";
  bool all = false;
};
CommandResult cmd_kill(const Global& global, const KillOptions& options);

struct DeleteOptions {
  std::vector<std::string> ids;
  bool force = false;
};
CommandResult cmd_delete(const Global& global, const DeleteOptions& options);

struct ExecOptions {
  std::string id, process_file, console_socket, pid_file, cwd, user;
  std::vector<std::string> env, caps, args;
  std::vector<uint32_t> additional_gids;
  bool tty = false, detach = false, no_new_privs = false;
};
CommandResult cmd_exec(const Global& global, const ExecOptions& options);

struct DoOptions {
  std::string root = "/", cwd, tty = "auto";
  std::vector<std::string> volumes, env, args;
  bool quiet = false;
};
CommandResult cmd_do(const Global& global, const DoOptions& options);

struct ListOptions {
  std::string format = "table";
  bool quiet = false;
};
CommandResult cmd_list(const Global& global, const ListOptions& options);

struct PsOptions {
  std::string id, format = "table";
};
CommandResult cmd_ps(const Global& global, const PsOptions& options);

struct WaitOptions {
  std::string id;
  int64_t pid = 0;
};
CommandResult cmd_wait(const Global& global, const WaitOptions& options);

struct SpecOptions {
  std::string bundle = ".";
};
CommandResult cmd_spec(const Global& global, const SpecOptions& options);
CommandResult cmd_features(const Global& global);

CommandResult cmd_pause(const Global& global, const std::string& id);
CommandResult cmd_resume(const Global& global, const std::string& id);

struct EventsOptions {
  std::string id;
  bool stats = false;
  int interval_sec = 5;
};
CommandResult cmd_events(const Global& global, const EventsOptions& options);

struct UpdateOptions {
  std::string id, resources_file;
};
CommandResult cmd_update(const Global& global, const UpdateOptions& options);

struct DebugOptions {
  std::string id, posture_of;
  bool posture = false, stacks = false, stats = false;
};
CommandResult cmd_debug(const Global& global, const DebugOptions& options);

struct TraceOptions {
  std::string id, output;
  double seconds = 5;
};
CommandResult cmd_trace(const Global& global, const TraceOptions& options);

// A container that exists, and is alive for commands that need it.
base::HostResult<StateFiles> find_container(const Global& global, const std::string& id);
base::HostResult<State> load_live(const StateFiles& files);

// Writes to stdout, all of it.
void print(std::string_view text);
// Writes all of it; `what` begins the error's text.
base::HostResult<void> write_all(int fd, std::string_view data, const std::string& what);

// For what a sandbox reports at its end: the sentry writes to memory of ours, and we to the person's file, be that what it may. The
// file is opened first, so that a mistake shows before anything runs; an empty target means none. `option` begins errors' texts.
struct ReportFiles {
  base::UniqueFd file, sink;
};
base::HostResult<ReportFiles> open_report(const std::string& target, const std::string& option);

}  // namespace cli
