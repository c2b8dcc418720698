// SPDX-License-Identifier: Apache-2.0
// The OCI operations on one container: what the subcommands are made of.
//   creating -> created -> running -> stopped
#pragma once

#include <string>
#include <vector>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "runsc-cli/container/state.h"
#include "runsc-cli/spec/spec.h"

namespace cli {

struct Global {
  std::string root, log, log_format = "text", debug_log, stats, trace, platform = "systrap", network = "none", overlay = "memory";
  bool debug = false, ignore_cgroups = false, strace = false, systemd_cgroup = false;
  abi::oci::RootOverlay root_overlay() const {
    return overlay == "none" ? abi::oci::RootOverlay::kNone : abi::oci::RootOverlay::kMemory;
  }
};

enum class StartNow : uint8_t { kNo, kYes };

struct CreateRequest {
  const Global* global = nullptr;
  Spec spec;
  std::string pid_file, console_socket;
  int terminal = -1;             // the user's own terminal, for a foreground run with process.terminal
  StartNow start = StartNow::kNo;  // create and start under one lock
  int stats_fd = -1, trace_fd = -1;  // get the statistics and the timeline when it ends
};

struct Created {
  int pid = 0;
  base::UniqueFd pidfd;  // of the sentry, our child
  State state;
};

// On failure nothing is left behind.
base::HostResult<Created> create_container(StateFiles& files, CreateRequest& request);
base::HostResult<void> start_container(StateFiles& files);
base::HostResult<void> kill_container(StateFiles& files, int signo, bool all);
enum class Force : uint8_t { kNo, kYes };
base::HostResult<void> delete_container(StateFiles& files, Force force);
// By force, of whoever made it and need not read what its state is.
base::HostResult<void> delete_container(StateFiles& files, const State& state);

// Writes `pid` to `path` by rename, when a path is given.
base::HostResult<void> write_pid_file(const std::string& path, int pid);

// For what went wrong without keeping the command from its end: to stderr and the debug log.
void warn(const std::string& text);

// "TERM", "SIGTERM" or "15"; 0 asks only whether there is a process; -1 when it is none.
int signal_number(const std::string& text);

}  // namespace cli
