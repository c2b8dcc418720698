// SPDX-License-Identifier: Apache-2.0
// config.json -> Spec. What is wrong is reported in one line that names the field.
#include <set>

#include <climits>

#include <fmt/format.h>
#include <sys/mount.h>

#include "base/json/reader.h"
#include "base/log/log.h"
#include "runsc-cli/spec/spec.h"

namespace cli {

using abi::oci::CapabilitySets;
using abi::oci::Mount;
using abi::oci::Process;
using abi::oci::Rlimit;
using base::HostErr;
using base::HostError;
using base::HostResult;
using base::JsonReader;
using Need = JsonReader::Need;

namespace {

constexpr size_t kMaxArgs = 1 << 17, kMaxGroups = 65536, kMaxMounts = 1024, kMaxHooks = 256;
constexpr size_t kMaxHostname = 64;

void check_absolute(const JsonReader& r, const char* key, const std::string& path) {
  if (!path.empty() && path[0] != '/') r.fail(key, "must be an absolute path");
  if (path.size() >= PATH_MAX) r.fail(key, "is longer than a path may be");
}

uint64_t read_capability_set(const JsonReader& r, const char* key) {
  uint64_t set = 0;
  for (const JsonReader& item : r.array(key, 256)) {
    std::string name;
    item.own_string(name);
    int number = capability_number(name);
    if (number >= 0) {
      set |= uint64_t{1} << number;
    } else if (r.ok() && !name.starts_with("CAP_")) {
      item.fail("is not the name of a capability");
    } else {
      LOG_WARNING("{}: unknown capability ignored", item.path());  // newer than we are
    }
  }
  return set;
}

void read_rlimits(const JsonReader& r, std::vector<Rlimit>& out) {
  std::set<int> seen;
  for (const JsonReader& item : r.array("rlimits", 64)) {
    item.must_be_object();
    std::string type;
    item.string("type", type, Need::kRequired);
    Rlimit limit;
    limit.resource = rlimit_number(type);
    if (limit.resource < 0) item.fail("type", "is not the name of a resource limit");
    if (!seen.insert(limit.resource).second) item.fail("type", "is listed twice");
    item.integer("soft", limit.soft, Need::kRequired);
    item.integer("hard", limit.hard, Need::kRequired);
    if (limit.soft > limit.hard) item.fail("soft", "must not be above the hard limit");
    out.push_back(limit);
  }
}

void read_user(const JsonReader& user, Process& p) {
  user.integer("uid", p.uid, 0u, 0xffff'fffeu);
  user.integer("gid", p.gid, 0u, 0xffff'fffeu);
  user.integer("umask", p.umask, 0u, 0777u);
  user.integers("additionalGids", p.additional_gids, kMaxGroups);
}

void read_process(const JsonReader& r, Process& p) {
  if (!r.present()) return;
  r.must_be_object();
  r.boolean("terminal", p.terminal);
  JsonReader console = r.object("consoleSize");
  console.integer("height", p.rows);
  console.integer("width", p.columns);
  read_user(r.object("user"), p);
  r.strings("args", p.args, kMaxArgs);
  if (p.args.empty()) r.fail("args", "must not be empty");
  if (!p.args.empty() && p.args[0].empty()) r.fail("args[0]", "must not be empty");
  r.strings("env", p.env, kMaxArgs);
  for (size_t i = 0; i < p.env.size(); ++i)
    if (p.env[i].find('=') == std::string::npos || p.env[i][0] == '=')
      r.fail(fmt::format("env[{}]", i), "must have the form NAME=value");
  p.cwd.clear();
  r.string("cwd", p.cwd, Need::kRequired);
  if (p.cwd.empty()) r.fail("cwd", "must not be empty");
  check_absolute(r, "cwd", p.cwd);
  JsonReader caps = r.object("capabilities");
  CapabilitySets& sets = p.capabilities;
  sets.bounding = read_capability_set(caps, "bounding");
  sets.effective = read_capability_set(caps, "effective");
  sets.permitted = read_capability_set(caps, "permitted");
  sets.inheritable = read_capability_set(caps, "inheritable");
  sets.ambient = read_capability_set(caps, "ambient");
  if (sets.effective & ~sets.permitted) caps.fail("effective", "has a capability that is not in permitted");
  sets.ambient &= sets.permitted & sets.inheritable;  // as the kernel would
  r.boolean("noNewPrivileges", p.no_new_privileges);
  read_rlimits(r, p.rlimits);
  r.integer("oomScoreAdj", p.oom_score_adj, -1000, 1000);
  for (const char* key : {"apparmorProfile", "selinuxLabel", "ioPriority", "scheduler", "execCPUAffinity"})
    if (r.has(key)) LOG_DEBUG("process.{}: has no meaning inside the sandbox, ignored", key);
}

void read_mount(const JsonReader& r, Mount& m, Tree& tree) {
  r.must_be_object();
  r.string("destination", m.destination, Need::kRequired);
  if (m.destination.empty()) r.fail("destination", "must not be empty");
  if (m.destination.size() >= PATH_MAX) r.fail("destination", "is longer than a path may be");
  m.destination = clean_path(m.destination);
  r.string("type", m.type);
  r.string("source", m.source);
  std::vector<std::string> options;
  r.strings("options", options, 1024);
  MountOptions parsed = parse_mount_options(options);
  m.flags = parsed.flags;
  m.options = std::move(parsed.data);
  if (parsed.bind || m.type == "bind" || m.type == "none") {
    m.type = "bind";
    if (m.source.empty()) r.fail("source", "must not be empty for a bind mount");
    tree.path = m.source;
    tree.recursive = parsed.recursive;
    tree.readonly = (m.flags & MS_RDONLY) != 0;
    return;
  }
  if (m.type == "cgroup2") m.type = "cgroup";
  static const std::set<std::string> kKnown = {"tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "devtmpfs"};
  if (m.type.empty()) r.fail("type", "is missing");
  if (!kKnown.contains(m.type)) r.fail("type", fmt::format("\"{:.40}\" is not supported", m.type));
}

void read_hook_list(const JsonReader& hooks, const char* key, std::vector<Hook>& out) {
  for (const JsonReader& item : hooks.array(key, kMaxHooks)) {
    item.must_be_object();
    Hook& hook = out.emplace_back();
    item.string("path", hook.path, Need::kRequired);
    if (hook.path.empty()) item.fail("path", "must not be empty");
    check_absolute(item, "path", hook.path);
    item.strings("args", hook.args, kMaxArgs);
    item.strings("env", hook.env, kMaxArgs);
    item.integer("timeout", hook.timeout_sec, 1, 1 << 20);
  }
}

void read_hooks(const JsonReader& r, Hooks& hooks) {
  read_hook_list(r, "prestart", hooks.prestart);
  read_hook_list(r, "createRuntime", hooks.create_runtime);
  read_hook_list(r, "createContainer", hooks.create_container);
  read_hook_list(r, "startContainer", hooks.start_container);
  read_hook_list(r, "poststart", hooks.poststart);
  read_hook_list(r, "poststop", hooks.poststop);
}

void read_namespaces(const JsonReader& linux, Namespaces& out) {
  const std::map<std::string, NamespaceChoice*> kinds = {
      {"network", &out.network}, {"ipc", &out.ipc},     {"uts", &out.uts},
      {"pid", &out.pid},         {"mount", &out.mount}, {"cgroup", &out.cgroup}};
  for (const JsonReader& item : linux.array("namespaces", 32)) {
    item.must_be_object();
    std::string type, path;
    item.string("type", type, Need::kRequired);
    item.string("path", path);
    check_absolute(item, "path", path);
    auto kind = kinds.find(type);
    if (type == "user" || type == "time") {
      item.fail("type", fmt::format("{} namespaces are not supported", type));
    } else if (kind == kinds.end()) {
      item.fail("type", "is not the name of a namespace");
    } else if (kind->second->listed) {
      item.fail("type", "is listed twice");
    } else {
      *kind->second = {true, path};
    }
  }
}

template <typename T>
void optional_integer(const JsonReader& r, const char* key, std::optional<T>& out, T min) {
  T value{};
  if (r.integer(key, value, min, std::numeric_limits<T>::max())) out = value;
}

void read_resources(const JsonReader& r, Resources& out) {
  JsonReader memory = r.object("memory");
  optional_integer<int64_t>(memory, "limit", out.memory_limit, -1);
  optional_integer<int64_t>(memory, "reservation", out.memory_reservation, -1);
  optional_integer<int64_t>(memory, "swap", out.memory_swap, -1);
  optional_integer<uint64_t>(memory, "swappiness", out.memory_swappiness, 0);
  bool disable = false;
  if (memory.boolean("disableOOMKiller", disable)) out.disable_oom_killer = disable;
  JsonReader cpu = r.object("cpu");
  optional_integer<uint64_t>(cpu, "shares", out.cpu_shares, 0);
  optional_integer<int64_t>(cpu, "quota", out.cpu_quota, -1);
  optional_integer<uint64_t>(cpu, "period", out.cpu_period, 0);
  optional_integer<int64_t>(cpu, "idle", out.cpu_idle, 0);
  cpu.string("cpus", out.cpuset_cpus);
  cpu.string("mems", out.cpuset_mems);
  for (const auto& [key, text] : {std::pair{"cpus", &out.cpuset_cpus}, std::pair{"mems", &out.cpuset_mems}})
    if (text->find_first_not_of("0123456789,-") != std::string::npos) cpu.fail(key, "must be a list of numbers and ranges");
  optional_integer<int64_t>(r.object("pids"), "limit", out.pids_limit, -1);
  optional_integer<uint64_t>(r.object("blockIO"), "weight", out.blkio_weight, 0);
  for (const JsonReader& item : r.array("hugepageLimits", 64)) {
    HugepageLimit limit;
    item.must_be_object();
    item.string("pageSize", limit.page_size, Need::kRequired);
    item.integer("limit", limit.limit, Need::kRequired);
    if (limit.page_size.empty() || limit.page_size.find('/') != std::string::npos)
      item.fail("pageSize", "is not a page size");
    out.hugepages.push_back(std::move(limit));
  }
  r.string_map("unified", out.unified);
  for (const auto& [key, value] : out.unified)
    if (key.empty() || key.find('/') != std::string::npos || key.find("..") != std::string::npos)
      r.fail("unified", "a key must be the name of a cgroup file");
}

void check_paths(const JsonReader& r, const char* key, const std::vector<std::string>& paths) {
  for (size_t i = 0; i < paths.size(); ++i)
    if (paths[i].empty() || paths[i][0] != '/' || paths[i].size() >= PATH_MAX)
      r.fail(fmt::format("{}[{}]", key, i), "must be an absolute path");
}

void read_linux(const JsonReader& r, Spec& spec) {
  if (!r.present()) return;
  read_namespaces(r, spec.namespaces);
  read_resources(r.object("resources"), spec.resources);
  r.string("cgroupsPath", spec.cgroups_path);
  if (("/" + spec.cgroups_path + "/").find("/../") != std::string::npos) r.fail("cgroupsPath", "must not contain ..");
  if (spec.cgroups_path.size() >= PATH_MAX / 2) r.fail("cgroupsPath", "is too long");
  r.strings("maskedPaths", spec.container.masked_paths, kMaxArgs);
  check_paths(r, "maskedPaths", spec.container.masked_paths);
  r.strings("readonlyPaths", spec.container.readonly_paths, kMaxArgs);
  check_paths(r, "readonlyPaths", spec.container.readonly_paths);
  r.string_map("sysctl", spec.container.sysctl);
  for (const auto& [key, value] : spec.container.sysctl)
    if (key.empty() || key.find("..") != std::string::npos) r.fail("sysctl", "a key must be the name of a kernel parameter");
  std::string propagation;
  r.string("rootfsPropagation", propagation);
  static const std::set<std::string> kPropagations = {"",        "private", "rprivate",   "slave",      "rslave",
                                                      "shared",  "rshared", "unbindable", "runbindable"};
  if (!kPropagations.contains(propagation)) r.fail("rootfsPropagation", "is not a kind of propagation");
  r.object("seccomp");
  if (r.has("seccomp")) LOG_DEBUG("linux.seccomp: the guest never reaches the host's system calls, ignored");
  for (const char* key : {"uidMappings", "gidMappings"})
    if (!r.array(key, 1024).empty()) r.fail(key, "user namespaces are not supported");
}

void read_spec(const JsonReader& r, Spec& spec) {
  r.string("ociVersion", spec.oci_version, Need::kRequired);
  if (r.ok() && !spec.oci_version.starts_with("1.")) r.fail("ociVersion", "must be 1.x");
  read_process(r.object("process", Need::kRequired), spec.container.process);
  JsonReader root = r.object("root", Need::kRequired);
  root.string("path", spec.root_path, Need::kRequired);
  if (spec.root_path.empty()) root.fail("path", "must not be empty");
  if (spec.root_path.size() >= PATH_MAX) root.fail("path", "is longer than a path may be");
  root.boolean("readonly", spec.container.root_readonly);
  r.string("hostname", spec.container.hostname);
  r.string("domainname", spec.container.domainname);
  if (spec.container.hostname.size() > kMaxHostname) r.fail("hostname", "is longer than 64 bytes");
  if (spec.container.domainname.size() > kMaxHostname) r.fail("domainname", "is longer than 64 bytes");
  for (const JsonReader& item : r.array("mounts", kMaxMounts)) {
    Mount& mount = spec.container.mounts.emplace_back();
    Tree tree;
    read_mount(item, mount, tree);
    if (tree.path.empty()) continue;
    mount.gofer_tree = static_cast<int32_t>(spec.trees.size());
    spec.trees.push_back(std::move(tree));
  }
  read_hooks(r.object("hooks"), spec.hooks);
  r.string_map("annotations", spec.container.annotations);
  read_linux(r.object("linux"), spec);
}

// Parses and lets `read` fill `out`; one error line with the document's name in front.
template <typename T, typename Read>
HostResult<T> parse_document(std::string_view text, std::string_view label, T out, Read read) {
  HostResult<base::Json> json = base::parse_json(text);
  if (!json) return HostErr(std::move(json.error()).wrap(label));
  std::string error;
  JsonReader root(*json, &error);
  root.must_be_object();
  read(root, out);
  if (!error.empty()) return HostErr(HostError::plain(fmt::format("{}: {}", label, error)));
  return out;
}

std::string beneath(const std::string& bundle, const std::string& path) {
  return path.starts_with("/") ? path : bundle + "/" + path;
}

}  // namespace

HostResult<Spec> parse_spec(std::string_view text, std::string_view label, const std::string& bundle) {
  Spec initial;
  initial.bundle = bundle;
  initial.trees.emplace_back();  // the root
  Spec spec = TRY(parse_document(text, label, std::move(initial), read_spec));
  spec.root_path = beneath(bundle, spec.root_path);
  spec.trees[0].path = spec.root_path;
  for (size_t i = 1; i < spec.trees.size(); ++i) spec.trees[i].path = beneath(bundle, spec.trees[i].path);
  return spec;
}

HostResult<Process> parse_process(std::string_view text, std::string_view label) {
  return parse_document(text, label, Process{}, read_process);
}

HostResult<Resources> parse_resources(std::string_view text, std::string_view label) {
  return parse_document(text, label, Resources{}, read_resources);
}

}  // namespace cli
