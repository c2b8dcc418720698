// SPDX-License-Identifier: Apache-2.0
// Takes away from this process everything but its trees. docs/gofer_protocol.md, "Confinement".
#pragma once

#include <vector>

#include "base/host/host_error.h"
#include "base/host/seccomp.h"
#include "gofer/server/config.h"
#include "gofer/server/server.h"

namespace gofer {

// Own mount, network, ipc and uts namespaces; each tree cloned, without device nodes and set-id programs, read-only
// where it is, and attached below an otherwise empty, read-only root, which becomes ours.
base::HostResult<std::vector<TreeRoot>> enter_private_root(const Config& config);
// The trees as they are, for tests and debugging.
base::HostResult<std::vector<TreeRoot>> open_trees_in_place(const Config& config);

// Capabilities, no_new_privs, Landlock (where the host has it), seccomp. In this order, at the end of the set-up.
base::HostResult<void> drop_privileges(const std::vector<TreeRoot>& trees, const Config& config);
base::HostResult<void> restrict_with_landlock(const std::vector<TreeRoot>& trees, const Config& config);
base::SeccompPolicy gofer_policy(bool host_uds);
base::HostResult<void> install_filter(bool host_uds);

}  // namespace gofer
