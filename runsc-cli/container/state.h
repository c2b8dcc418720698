// SPDX-License-Identifier: Apache-2.0
// A container's state on disk: ROOT/ID.json, ID.lock, ID.sock. ID.json is replaced by rename, so that
// readers need no lock; commands that change the state hold the flock. Which status a container has is derived: a
// dead sentry means stopped, whatever the file says.
//
// No directory for each container: where /run is on a disk, its block costs each start up to 4 ms when it is freed (ext4 with `discard`),
// while files this small and short-lived never reach the disk.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "abi/oci/sandbox_config.h"
#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "runsc-cli/spec/spec.h"

namespace cli {

enum class Status : uint8_t { kCreating, kCreated, kRunning, kPaused, kStopped };
const char* status_name(Status status);

struct State {
  std::string id, oci_version, bundle, rootfs;
  Status status = Status::kCreating;  // as the last command left it: see current_status()
  int pid = 0;                        // of the sentry; 0 before it exists
  uint64_t pid_start_time = 0;        // tells it from a later process with the same number
  std::string created;                // RFC 3339
  uint32_t owner = 0;
  std::map<std::string, std::string> annotations;
  std::vector<std::string> cgroup_dirs;  // made for the container, to be removed with it
  abi::oci::Process process;             // defaults of exec
  Hooks hooks;
};

class StateFiles {
 public:
  // Checks the id; touches nothing.
  static base::HostResult<StateFiles> at(const std::string& root, const std::string& id);

  // Makes the lock file; an error when the container exists. Returns the held lock.
  base::HostResult<base::UniqueFd> create();
  // Waits for the lock; an error when the container does not exist (any more).
  base::HostResult<base::UniqueFd> lock();
  bool exists() const;
  base::HostResult<State> load() const;
  base::HostResult<void> save(const State& state) const;
  void remove() const;

  const std::string& id() const { return id_; }
  base::HostResult<base::UniqueFd> listen() const;   // the control socket, for the sentry
  base::HostResult<base::UniqueFd> connect() const;  // to it

 private:
  base::HostResult<base::UniqueFd> open_lock(int flags);
  std::string path(const char* which) const;
  std::string root_, id_;
};

// Ids below root that have a state, in name order.
std::vector<std::string> list_ids(const std::string& root);

// 0 when there is no such process; a zombie counts as dead.
uint64_t process_start_time(int pid);
bool is_alive(const State& state);
Status current_status(const State& state);

// The OCI state document; `runtime_fields` adds rootfs, created and owner as runc's state and list show them.
enum class StateFields : uint8_t { kOci, kRuntime };
std::string state_json(const State& state, Status status, StateFields fields);

std::string rfc3339_now();

}  // namespace cli
