// SPDX-License-Identifier: Apache-2.0
// The container's cgroup in every hierarchy that the host has mounted, v1 and v2; a controller that is not there is
// skipped.
#pragma once

#include <string>
#include <vector>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "runsc-cli/spec/spec.h"

namespace cli {

// Makes the directories for `path` (absolute from each hierarchy's root) and writes the limits. Returns the directories,
// also into `made` as far as it got when something fails.
base::HostResult<void> make_cgroups(const std::string& path, const Resources& limits, std::vector<std::string>& made);
base::HostResult<void> update_cgroups(const std::vector<std::string>& dirs, const Resources& limits);

// How a new process gets into them without the host kernel's global lock, whose price is 10 ms and more for each: it is
// cloned into the v2 group, and writes "0" to the `tasks` file of the v1 groups while it has one thread.
struct CgroupEntry {
  base::UniqueFd v2_dir;
  std::vector<base::UniqueFd> v1_tasks;
};
base::HostResult<CgroupEntry> open_cgroup_entry(const std::vector<std::string>& dirs);

// Kills what is left in them and removes them.
void remove_cgroups(const std::vector<std::string>& dirs);

}  // namespace cli
