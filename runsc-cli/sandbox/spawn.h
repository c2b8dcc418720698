// SPDX-License-Identifier: Apache-2.0
// Starts the two processes of a sandbox. The sentry is made first, as pid 1 of a new pid namespace; the gofer is its
// child in that namespace, so that nothing of a sandbox outlives its sentry and the host kernel reaps it all.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "abi/oci/sandbox_config.h"
#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "runsc-cli/sandbox/cgroup.h"
#include "runsc-cli/spec/spec.h"

namespace cli {

struct SandboxPlan {
  abi::oci::Sandbox sandbox;
  std::vector<Tree> trees;
  Namespaces namespaces;
  std::string hostname;
  int control_listener = -1;
  int log_fd = -1;  // -1: none
  CgroupEntry cgroup;
  int oom_score_adj = 0;
};

struct SandboxProcesses {
  pid_t pid = -1;           // of the sentry, as the host counts
  base::UniqueFd pidfd;
  base::UniqueFd gofer;     // the sentry's end of its socket, to be sent with "create"
  base::UniqueFd ready;     // readable when the sentry is up, or says why not
  base::UniqueFd go;        // the sentry's program starts when a byte comes; it ends when this closes instead
};

base::HostResult<SandboxProcesses> spawn_sandbox(const SandboxPlan& plan);

// Lets the sentry run: call it when its pid is on disk.
base::HostResult<void> release_sandbox(SandboxProcesses& processes);

// Blocks until the sentry accepts requests.
base::HostResult<void> await_ready(SandboxProcesses& processes);

}  // namespace cli
