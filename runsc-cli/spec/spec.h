// SPDX-License-Identifier: Apache-2.0
// An OCI config.json, parsed, validated and resolved: what goes to the sentry (abi::oci::Container) and what the CLI
// itself acts on (trees for the gofer, hooks, namespaces, cgroup).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "abi/oci/sandbox_config.h"
#include "base/host/host_error.h"

namespace cli {

struct Hook {
  std::string path;
  std::vector<std::string> args, env;
  int timeout_sec = 0;  // 0: none
};

struct Hooks {
  std::vector<Hook> prestart, create_runtime, create_container, start_container, poststart, poststop;
};

// How the sandbox gets one kind of namespace.
struct NamespaceChoice {
  bool listed = false;  // in linux.namespaces
  std::string path;     // join this one instead of making one
};

struct Namespaces {
  NamespaceChoice network, ipc, uts, pid, mount, cgroup;
};

struct HugepageLimit {
  std::string page_size;
  uint64_t limit = 0;
};

struct Resources {
  std::optional<int64_t> memory_limit, memory_reservation, memory_swap, pids_limit, cpu_quota;
  std::optional<uint64_t> cpu_shares, cpu_period, memory_swappiness, blkio_weight;
  std::optional<int64_t> cpu_idle;
  std::optional<bool> disable_oom_killer;
  std::string cpuset_cpus, cpuset_mems;
  std::vector<HugepageLimit> hugepages;
  std::map<std::string, std::string> unified;
};

// A host directory or file that the gofer serves. Tree 0 is the root.
struct Tree {
  std::string path;  // absolute
  bool readonly = false;
  bool is_file = false;
  bool recursive = true;
};

struct Spec {
  std::string oci_version;
  std::string bundle;     // absolute
  std::string root_path;  // absolute
  abi::oci::Container container;
  std::vector<Tree> trees;
  Hooks hooks;
  Namespaces namespaces;
  Resources resources;
  std::string cgroups_path;
};

inline constexpr size_t kMaxSpecSize = 4 << 20;
inline constexpr const char* kOciVersion = "1.1.0";

// Reads and validates BUNDLE/config.json; also checks that the root and bind sources exist.
base::HostResult<Spec> load_spec(const std::string& bundle, const std::string& id, abi::oci::RootOverlay overlay);
// The same from text, without touching the file system; `label` names the document in errors.
base::HostResult<Spec> parse_spec(std::string_view text, std::string_view label, const std::string& bundle);
// Decides about the trees: stat of root and sources.
base::HostResult<void> resolve_trees(Spec& spec, abi::oci::RootOverlay overlay, std::string_view label);

// A process document as `exec --process` takes it.
base::HostResult<abi::oci::Process> parse_process(std::string_view text, std::string_view label);

// linux.resources of a config, or the body of `update --resources`.
base::HostResult<Resources> parse_resources(std::string_view text, std::string_view label);

// "CAP_NET_RAW", "net_raw" -> 13; -1 when unknown.
int capability_number(std::string_view name);
const char* capability_name(int number);
uint64_t all_capabilities();
uint64_t default_capabilities();  // what containers get by convention
int rlimit_number(std::string_view name);  // -1 when unknown

// The flags and file-system data of mount options; "bind" and "rbind" are reported apart.
struct MountOptions {
  uint64_t flags = 0;
  bool bind = false, recursive = false;
  std::vector<std::string> data;
};
MountOptions parse_mount_options(const std::vector<std::string>& options);

// A file no larger than `limit`; only regular files, so that a FIFO cannot hang us.
base::HostResult<std::string> read_small_file(const std::string& path, size_t limit);
// The same for pipes and the like: reads to the end.
base::HostResult<std::string> read_stream(const std::string& path, size_t limit);

// "/a/../b//c" -> "/b/c": never above the root.
std::string clean_path(std::string_view path);

// config.json for `runsc spec`.
std::string default_spec_json();

}  // namespace cli
