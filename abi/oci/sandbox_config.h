// SPDX-License-Identifier: Apache-2.0
// What the CLI tells the sentry: a container and its processes, resolved from the OCI config.json (names looked up,
// defaults filled in, everything validated). Data only; sentry/control/protocol.h has the wire form.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace abi::oci {

struct Rlimit {
  int32_t resource = 0;  // RLIMIT_* of x86-64 Linux
  uint64_t soft = ~uint64_t{0};
  uint64_t hard = ~uint64_t{0};
};

struct CapabilitySets {  // bit n = capability n of <linux/capability.h>
  uint64_t effective = 0, permitted = 0, inheritable = 0, bounding = 0, ambient = 0;
};

struct Process {
  std::string program;  // what is executed, when that is not args[0]
  std::vector<std::string> args;
  std::vector<std::string> env;
  std::string cwd = "/";
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> additional_gids;
  uint32_t umask = 022;
  CapabilitySets capabilities;
  bool no_new_privileges = false;
  std::vector<Rlimit> rlimits;
  int32_t oom_score_adj = 0;
  bool terminal = false;  // the passed descriptor is a host terminal; the process gets a guest pty as controlling tty
  uint16_t columns = 0, rows = 0;
};

// How the root or a bind mount is reached: which connection to the gofer serves it.
struct Mount {
  std::string destination;           // absolute, inside the container
  std::string type;                  // "bind", "tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "devtmpfs"
  std::string source;                // as in config.json, for /proc/mounts
  std::vector<std::string> options;  // file-system data ("size=64m", "mode=1777"), flags already taken out
  uint64_t flags = 0;                // MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, MS_RELATIME, ...
  bool is_file = false;              // bind of something that is not a directory
  int32_t gofer_tree = -1;           // binds: number of the tree in the gofer (0 is the root)
  bool overlay = false;              // an in-memory upper above this bind
  bool shared = false;               // others may change it on the host: revalidate
};

enum class RootOverlay : uint8_t { kMemory, kNone };

struct Container {
  std::string id;
  Process process;
  bool root_readonly = false;
  RootOverlay root_overlay = RootOverlay::kMemory;
  bool init_ordinary = false;  // signals end pid 1 as any process (a person at `do` presses Ctrl-C)
  std::string hostname, domainname;
  std::vector<Mount> mounts;
  std::vector<std::string> masked_paths, readonly_paths;
  std::map<std::string, std::string> annotations;
  std::map<std::string, std::string> sysctl;
};

enum class NetworkMode : uint8_t { kNone, kHost };  // both: host sockets of the namespace the sentry is in

// What the sentry needs to start, before any container exists.
struct Sandbox {
  std::string id;
  std::string platform = "systrap";
  NetworkMode network = NetworkMode::kNone;
  uint32_t cpus = 0;          // 0: as many as the sentry's affinity allows
  uint64_t memory_limit = 0;  // bytes, 0: the host's; what /proc/meminfo shows as total
  bool strace = false;
  bool debug = false;
  std::string log_format = "text";
};

}  // namespace abi::oci
