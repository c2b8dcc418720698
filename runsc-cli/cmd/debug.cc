// SPDX-License-Identifier: Apache-2.0
// `runsc debug`: what each process of a sandbox may do on the host, and what the sentry is doing.
#include <climits>
#include <cstdlib>
#include <map>
#include <optional>
#include <sstream>

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/json/reader.h"
#include "runsc-cli/cmd/commands.h"
#include "runsc-cli/cmd/seccomp_count.h"
#include "runsc-cli/cmd/stats_table.h"
#include "runsc-cli/container/client.h"

namespace cli {

using base::Json;

namespace {

// Field -> value of /proc/PID/status.
std::map<std::string, std::string> read_status(int pid) {
  std::map<std::string, std::string> out;
  auto text = read_small_file(fmt::format("/proc/{}/status", pid), 65536);
  if (!text) return out;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    size_t start = line.find_first_not_of(" \t", colon + 1);
    out[line.substr(0, colon)] = start == std::string::npos ? "" : line.substr(start);
  }
  return out;
}

// The sentry first, then everything that descends from it.
std::vector<int> sandbox_processes(int sentry) {
  std::map<int, std::vector<int>> children;
  DIR* proc = opendir("/proc");
  if (!proc) return {sentry};
  while (dirent* entry = readdir(proc)) {
    int pid = atoi(entry->d_name);
    if (pid > 0) children[atoi(read_status(pid)["PPid"].c_str())].push_back(pid);
  }
  closedir(proc);
  std::vector<int> out = {sentry};
  for (size_t i = 0; i < out.size(); ++i)
    if (auto it = children.find(out[i]); it != children.end()) out.insert(out.end(), it->second.begin(), it->second.end());
  return out;
}

std::string namespaces_apart(int pid) {
  std::string out;
  for (const char* kind : {"user", "pid", "mnt", "net", "ipc", "uts", "cgroup"}) {
    char theirs[64] = "", ours[64] = "";
    (void)!readlink(fmt::format("/proc/{}/ns/{}", pid, kind).c_str(), theirs, sizeof theirs - 1);
    (void)!readlink(fmt::format("/proc/self/ns/{}", kind).c_str(), ours, sizeof ours - 1);
    if (std::string(theirs) != ours) out += (out.empty() ? "" : ",") + std::string(kind);
  }
  return out.empty() ? "none" : out;
}

std::string root_of(int pid) {
  DIR* root = opendir(fmt::format("/proc/{}/root", pid).c_str());
  if (!root) return "?";
  int entries = 0;
  while (readdir(root)) ++entries;
  closedir(root);
  return entries <= 2 ? "empty" : fmt::format("{} entries", entries - 2);
}

std::string role_of(int pid, bool first) {
  if (first) return "sentry";
  auto arguments = read_small_file(fmt::format("/proc/{}/cmdline", pid), 65536);
  return arguments && arguments->starts_with("runsc-gofer") ? "gofer" : "stub";
}

std::string posture(int sentry) {
  static const std::map<std::string, std::string> kSeccomp = {{"0", "off"}, {"1", "strict"}, {"2", "filter"}};
  std::string out = fmt::format("{:<8} {:<8} {:<7} {:<12} {:<8} {:<7} {:<6} {:<7} {:<10} {}\n", "PROCESS", "PID", "UID",
                                "CAPS", "NONEWPRV", "SECCOMP", "FILTER", "CALLS", "ROOT", "OWN NAMESPACES");
  bool first = true;
  for (int pid : sandbox_processes(sentry)) {
    auto s = read_status(pid);
    if (s.empty()) continue;
    std::string role = role_of(pid, first);
    first = false;
    std::string caps = s["CapPrm"].find_first_not_of('0') == std::string::npos ? "none" : "0x" + s["CapPrm"].substr(s["CapPrm"].find_first_not_of('0'));
    auto seccomp = kSeccomp.find(s["Seccomp"]);
    std::optional<int> calls = count_allowed_calls(pid);
    out += fmt::format("{:<8} {:<8} {:<7} {:<12} {:<8} {:<7} {:<6} {:<7} {:<10} {}\n", role, pid,
                       s["Uid"].substr(0, s["Uid"].find('\t')), caps, s["NoNewPrivs"] == "1" ? "yes" : "no",
                       seccomp == kSeccomp.end() ? "?" : seccomp->second, s["Seccomp_filters"],
                       calls ? std::to_string(*calls) : "?", root_of(pid),
                       namespaces_apart(pid));
  }
  return out;
}

}  // namespace

CommandResult cmd_debug(const Global& global, const DebugOptions& options) {
  const std::string& id = options.posture_of.empty() ? options.id : options.posture_of;
  StateFiles files = TRY(find_container(global, id));
  State state = TRY(load_live(files));
  ControlClient client(TRY(files.connect()));
  client.set_timeout(10);
  std::string params = fmt::format("{{\"id\":{}}}", json_quoted(id));
  if (options.posture || !options.posture_of.empty()) print(posture(state.pid));
  if (options.stats) print(TRY(stats_table(TRY(client.call("stats", params)))));
  if (options.stacks) {
    Json json = Json::parse(TRY(client.call("stacks", params)), nullptr, false);
    if (json.is_object() && json.contains("text") && json["text"].is_string()) print(json["text"].get<std::string>());
  }
  return 0;
}

}  // namespace cli
