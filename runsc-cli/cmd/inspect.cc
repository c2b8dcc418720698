// SPDX-License-Identifier: Apache-2.0
// Subcommands that show something: list, ps, spec, features, events.
#include <cerrno>
#include <cstdlib>
#include <ctime>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json/reader.h"
#include "runsc-cli/cmd/commands.h"
#include "runsc-cli/cmd/stats_table.h"
#include "runsc-cli/container/client.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::Json;
using Ordered = nlohmann::ordered_json;

namespace {

// Columns as wide as their widest cell.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      if (i == widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], row[i].size());
    }
  std::string out;
  for (const auto& row : rows) {
    for (size_t i = 0; i + 1 < row.size(); ++i) out += fmt::format("{:<{}}   ", row[i], widths[i]);
    out += row.back() + "\n";
  }
  return out;
}

std::string text_of(const Json& object, const char* key) {
  auto it = object.find(key);
  if (it == object.end()) return "-";
  std::string text = it->is_string() ? it->get<std::string>() : it->dump();
  for (char& c : text)  // the guest's words must not talk to our terminal
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

}  // namespace

CommandResult cmd_list(const Global& global, const ListOptions& options) {
  Ordered documents = Ordered::array();
  std::vector<std::vector<std::string>> rows = {{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}};
  std::string ids;
  for (const std::string& id : list_ids(global.root)) {
    auto files = StateFiles::at(global.root, id);
    HostResult<State> state = files->load();
    if (!state) continue;  // being made, or just deleted
    Status status = current_status(*state);
    ids += id + "\n";
    documents.push_back(Ordered::parse(state_json(*state, status, StateFields::kRuntime), nullptr, false));
    rows.push_back({id, std::to_string(status == Status::kStopped ? 0 : state->pid), status_name(status), state->bundle,
                    state->created, state->owner == 0 ? "root" : std::to_string(state->owner)});
  }
  if (options.quiet) {
    print(ids);
  } else if (options.format == "json") {
    print((documents.empty() ? "null" : documents.dump(-1, ' ', false, Json::error_handler_t::replace)) + "\n");
  } else {
    print(table(rows));
  }
  return 0;
}

CommandResult cmd_ps(const Global& global, const PsOptions& options) {
  StateFiles files = TRY(find_container(global, options.id));
  State state = TRY(load_live(files));
  ControlClient client(TRY(files.connect()));
  std::string result = TRY(client.call("ps", fmt::format("{{\"id\":{}}}", json_quoted(options.id))));
  Json json = TRY(base::parse_json(result));
  Json processes = json.is_object() && json.contains("processes") ? json["processes"] : Json::array();
  if (options.format == "json") {
    // Callers of `ps --format json` look these numbers up on the host, where the sentry stands for the container.
    print(fmt::format("[{}]\n", state.pid));
    return 0;
  }
  if (options.format == "json-full") {
    print(base::dump_json(processes) + "\n");
    return 0;
  }
  std::vector<std::vector<std::string>> rows = {{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}};
  for (const Json& p : processes) {
    if (!p.is_object()) continue;
    std::vector<std::string> row;
    for (const char* key : {"uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"}) row.push_back(text_of(p, key));
    rows.push_back(std::move(row));
  }
  print(table(rows));
  return 0;
}

CommandResult cmd_spec(const Global&, const SpecOptions& options) {
  std::string path = options.bundle + "/config.json";
  base::UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd) return HostErr(HostError::from_errno(path));
  std::string text = default_spec_json();
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return HostErr(HostError::from_errno(path));
  return 0;
}

CommandResult cmd_features(const Global&) {
  Ordered capabilities = Ordered::array();
  for (int i = 0; capability_name(i); ++i) capabilities.push_back(std::string("CAP_") + capability_name(i));
  Ordered features = {
      {"ociVersionMin", "1.0.0"},
      {"ociVersionMax", kOciVersion},
      {"hooks", {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}},
      {"mountOptions",
       {"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "lazytime", "noatime", "nodev",
        "nodiratime", "noexec", "nolazytime", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "rbind",
        "relatime", "ro", "rprivate", "rro", "rrw", "rslave", "rw", "slave", "strictatime", "suid", "symfollow", "sync"}},
      {"linux",
       {{"namespaces", {"cgroup", "ipc", "mount", "network", "pid", "uts"}},
        {"capabilities", capabilities},
        {"cgroup", {{"v1", true}, {"v2", true}, {"systemd", false}, {"systemdUser", false}, {"rdma", false}}},
        {"seccomp", {{"enabled", false}}},
        {"apparmor", {{"enabled", false}}},
        {"selinux", {{"enabled", false}}},
        {"intelRdt", {{"enabled", false}}},
        {"mountExtensions", {{"idmap", {{"enabled", false}}}}}}},
      {"annotations", {{"org.runsc.platforms", "systrap"}}},
  };
  print(features.dump(2) + "\n");
  return 0;
}

CommandResult cmd_events(const Global& global, const EventsOptions& options) {
  StateFiles files = TRY(find_container(global, options.id));
  TRY(load_live(files));
  ControlClient client(TRY(files.connect()));
  while (true) {
    HostResult<std::string> stats = client.call("stats", fmt::format("{{\"id\":{}}}", json_quoted(options.id)));
    if (!stats && !options.stats) return 0;  // the container has ended
    if (!stats) return HostErr(std::move(stats.error()));
    print(stats_event(options.id, *stats));
    if (options.stats) return 0;
    pollfd p{client.fd(), POLLIN, 0};
    poll(&p, 1, options.interval_sec * 1000);
  }
}

}  // namespace cli
