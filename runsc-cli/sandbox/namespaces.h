// SPDX-License-Identifier: Apache-2.0
// What a sandbox process does to itself before it executes its program. Runs in the forked child.
#pragma once

#include <string>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"

namespace cli {

// Replaces the mount namespace's tree by a read-only directory that is empty but for the pid namespace's own /proc.
base::HostResult<void> enter_empty_root();

// Raises lo in the current network namespace.
base::HostResult<void> raise_loopback();

// Becomes an unprivileged user in a user namespace of its own, without capabilities and for good. `proc_self`: an
// O_PATH descriptor of /proc/self, because the root is empty by now.
base::HostResult<void> drop_privileges(int proc_self);

// An open namespace file, checked to be one.
base::HostResult<base::UniqueFd> open_namespace(const std::string& path, int clone_flag, const char* kind);

}  // namespace cli
