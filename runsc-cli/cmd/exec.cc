// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include <fmt/format.h>
#include <unistd.h>

#include "base/json/reader.h"
#include "runsc-cli/cmd/commands.h"
#include "runsc-cli/container/attend.h"
#include "runsc-cli/container/client.h"
#include "runsc-cli/sandbox/console.h"
#include "sentry/control/protocol.h"

namespace cli {

using abi::oci::Process;
using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

HostErr usage(std::string text) { return HostErr(HostError::plain(std::move(text))); }

HostResult<void> set_user(const std::string& text, Process& process) {
  // UID[:GID]; names would need the container's /etc/passwd, which is not ours to trust.
  char* end = nullptr;
  unsigned long uid = strtoul(text.c_str(), &end, 10);
  if (end == text.c_str() || uid > 0xffff'fffeul || (*end && *end != ':'))
    return usage(fmt::format("--user: \"{:.40}\" must have the form UID[:GID]", text));
  process.uid = static_cast<uint32_t>(uid);
  if (*end == '\0') return {};
  const char* group = end + 1;
  unsigned long gid = strtoul(group, &end, 10);
  if (end == group || *end || gid > 0xffff'fffeul)
    return usage(fmt::format("--user: \"{:.40}\" must have the form UID[:GID]", text));
  process.gid = static_cast<uint32_t>(gid);
  return {};
}

HostResult<void> add_capabilities(const std::vector<std::string>& names, Process& process) {
  for (const std::string& name : names) {
    int number = capability_number(name);
    if (number < 0 && !name.starts_with("CAP_")) return usage(fmt::format("--cap: \"{:.40}\" is not the name of a capability", name));
    if (number < 0) {  // newer than we are
      warn(fmt::format("--cap: unknown capability {:.40} ignored", name));
      continue;
    }
    uint64_t bit = uint64_t{1} << number;
    for (uint64_t* set : {&process.capabilities.bounding, &process.capabilities.effective, &process.capabilities.permitted})
      *set |= bit;
  }
  return {};
}

// What the new process is: from a file as containerd writes it, or the container's own with the flags applied.
HostResult<Process> process_of(const ExecOptions& options, const State& state) {
  if (!options.process_file.empty()) {
    std::string text = TRY(read_small_file(options.process_file, kMaxSpecSize));
    Process process = TRY(parse_process(text, "process"));
    process.terminal = process.terminal || options.tty;
    return process;
  }
  Process process = state.process;
  process.args = options.args;
  if (process.args.empty()) return usage("exec: a command or --process is needed");
  for (const std::string& arg : process.args)
    if (!base::is_utf8(arg)) return usage("exec: arguments must be UTF-8");
  process.env.insert(process.env.end(), options.env.begin(), options.env.end());
  for (const std::string& env : options.env)
    if (env.find('=') == std::string::npos) return usage("--env: must have the form NAME=value");
  if (!options.cwd.empty()) process.cwd = options.cwd;
  if (process.cwd[0] != '/') return usage("--cwd: must be an absolute path");
  if (!options.user.empty()) TRY(set_user(options.user, process));
  if (!options.additional_gids.empty()) process.additional_gids = options.additional_gids;
  TRY(add_capabilities(options.caps, process));
  if (options.no_new_privs) process.no_new_privileges = true;
  process.terminal = options.tty;
  process.columns = process.rows = 0;
  return process;
}

}  // namespace

CommandResult cmd_exec(const Global& global, const ExecOptions& options) {
  StateFiles files = TRY(find_container(global, options.id));
  State state = TRY(load_live(files));
  if (state.status == Status::kPaused) return usage("cannot exec in a paused container");
  Process process = TRY(process_of(options, state));
  const bool background = options.detach || !options.console_socket.empty();
  UniqueFd console;
  int tty = -1;
  if (process.terminal && !options.console_socket.empty()) {
    console = TRY(send_new_console(options.console_socket, process.columns, process.rows));
    tty = console.get();
  } else if (process.terminal) {
    if (background) return usage("cannot allocate tty if runsc will detach without setting console socket");
    if (!isatty(0)) return usage("exec: standard input is not a terminal");
    tty = 0;
  } else if (!options.console_socket.empty()) {
    return usage("--console-socket: the process has no terminal");
  }
  if (WindowSize size = window_size(tty); size.columns != 0) {
    process.columns = size.columns;
    process.rows = size.rows;
  }
  hold_signals();
  RawTerminal raw(background ? -1 : tty);
  ControlClient client(TRY(files.connect()));
  std::string params = fmt::format("{{\"id\":{},\"process\":{}}}", json_quoted(options.id), sentry::control::encode_process(process));
  std::vector<int> fds = tty >= 0 ? std::vector<int>{tty} : std::vector<int>{0, 1, 2};
  std::string result = TRY(client.call("exec", params, fds));
  Attendance what;
  what.files = &files;
  what.pid = TRY(result_integer(result, "pid"));
  what.tty = tty;
  if (background) {
    what.on_hangup = OnHangup::kKill;
    int pid = TRY(attend_in_background(what));
    TRY(write_pid_file(options.pid_file, pid));
    return 0;
  }
  TRY(write_pid_file(options.pid_file, getpid()));
  return attend(what);
}

}  // namespace cli
