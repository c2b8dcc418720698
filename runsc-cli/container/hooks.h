// SPDX-License-Identifier: Apache-2.0
// Runs OCI hooks: the state on stdin, a time limit each, in order, the first failure ends it.
#pragma once

#include <string>
#include <vector>

#include "base/host/host_error.h"
#include "runsc-cli/container/client.h"
#include "runsc-cli/container/state.h"
#include "runsc-cli/spec/spec.h"

namespace cli {

// `namespaces_of`: 0, or a process whose network, ipc and uts namespaces the hooks run in.
base::HostResult<void> run_hooks(const std::vector<Hook>& hooks, const char* kind, const std::string& state,
                                 const std::string& bundle, int namespaces_of = 0);

// Starts a created container's program, after its startContainer hooks have been run inside the container.
base::HostResult<void> start_guest(ControlClient& client, const StateFiles& files, const State& state);

}  // namespace cli
