// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <climits>
#include <csignal>
#include <ctime>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log/log.h"
#include "runsc-cli/container/attend.h"
#include "runsc-cli/container/client.h"
#include "runsc-cli/container/container.h"
#include "runsc-cli/container/hooks.h"
#include "runsc-cli/sandbox/cgroup.h"
#include "runsc-cli/sandbox/console.h"
#include "runsc-cli/sandbox/spawn.h"
#include "sentry/control/protocol.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

constexpr int kPatience = 60;  // seconds for what takes milliseconds: signals are held meanwhile

std::string cgroup_path(const Global& global, const Spec& spec) {
  if (global.ignore_cgroups) return "";
  if (!global.systemd_cgroup) return spec.cgroups_path;
  // "slice:prefix:name", as systemd's driver has it; we have no systemd to ask and make the same directory.
  size_t first = spec.cgroups_path.find(':');
  size_t second = spec.cgroups_path.find(':', first == std::string::npos ? first : first + 1);
  if (second == std::string::npos) return spec.cgroups_path;
  std::string slice = spec.cgroups_path.substr(0, first);
  return fmt::format("/{}/{}-{}.scope", slice.empty() ? "system.slice" : slice,
                     spec.cgroups_path.substr(first + 1, second - first - 1), spec.cgroups_path.substr(second + 1));
}

// One attempt to create a container; what it has made so far goes away with it unless keep() is called.
class Creation {
 public:
  Creation(StateFiles& files, CreateRequest& request) : files_(files), request_(request), spec_(request.spec) {}
  ~Creation() {
    if (!kept_) undo();
  }

  HostResult<Created> run() {
    lock_ = TRY(files_.create());
    made_files_ = true;
    UniqueFd listener = TRY(files_.listen());
    fill_state();
    if (std::string path = cgroup_path(*request_.global, spec_); !path.empty())
      TRY(make_cgroups(path, spec_.resources, state_.cgroup_dirs));
    TRY(spawn(listener.get()));
    listener.reset();
    state_.pid = processes_.pid;
    state_.pid_start_time = process_start_time(state_.pid);
    TRY(files_.save(state_));
    TRY(release_sandbox(processes_));
    TRY(run_create_hooks());
    TRY(tell_sentry());
    if (request_.start == StartNow::kNo) {
      state_.status = Status::kCreated;
      TRY(files_.save(state_));
    }
    TRY(write_pid_file(request_.pid_file, state_.pid));
    if (request_.start == StartNow::kYes) TRY(start());
    if (console_) TRY(attend_to_console());
    kept_ = true;
    Created created;
    created.pid = state_.pid;
    created.pidfd = std::move(processes_.pidfd);
    created.state = std::move(state_);
    return created;
  }

 private:
  void fill_state() {
    state_.id = files_.id();
    state_.oci_version = spec_.oci_version;
    state_.bundle = spec_.bundle;
    state_.rootfs = spec_.root_path;
    state_.created = rfc3339_now();
    state_.owner = geteuid();
    state_.annotations = spec_.container.annotations;
    state_.process = spec_.container.process;
    state_.hooks = spec_.hooks;
  }

  HostResult<void> spawn(int listener) {
    const Global& g = *request_.global;
    SandboxPlan plan;
    plan.sandbox.id = files_.id();
    plan.sandbox.platform = g.platform;
    plan.sandbox.network = g.network == "host" ? abi::oci::NetworkMode::kHost : abi::oci::NetworkMode::kNone;
    plan.sandbox.strace = g.strace;
    plan.sandbox.debug = g.debug;
    plan.sandbox.log_format = g.log_format;
    if (auto limit = spec_.resources.memory_limit; limit && *limit > 0)
      plan.sandbox.memory_limit = static_cast<uint64_t>(*limit);
    plan.trees = spec_.trees;
    plan.namespaces = spec_.namespaces;
    plan.hostname = spec_.container.hostname;
    plan.control_listener = listener;
    plan.log_fd = base::log_fd();
    plan.oom_score_adj = spec_.container.process.oom_score_adj;
    plan.cgroup = TRY(open_cgroup_entry(state_.cgroup_dirs));
    processes_ = TRY(spawn_sandbox(plan));
    return {};
  }

  HostResult<void> run_create_hooks() {
    const Hooks& h = spec_.hooks;
    if (h.prestart.empty() && h.create_runtime.empty() && h.create_container.empty()) return {};
    // The hooks may look at the sandbox's namespaces: it has to be past making them.
    TRY(await_ready(processes_));
    ready_ = true;
    std::string state = state_json(state_, Status::kCreating, StateFields::kOci);
    TRY(run_hooks(h.prestart, "prestart", state, spec_.bundle));
    TRY(run_hooks(h.create_runtime, "createRuntime", state, spec_.bundle));
    return run_hooks(h.create_container, "createContainer", state, spec_.bundle, state_.pid);
  }

  HostResult<void> tell_sentry() {
    abi::oci::Process& process = spec_.container.process;
    std::vector<int> fds = {processes_.gofer.get()};
    if (process.terminal) {
      if (!request_.console_socket.empty()) {
        console_ = TRY(send_new_console(request_.console_socket, process.columns, process.rows));
        fds.push_back(console_.get());
      } else {
        fds.push_back(request_.terminal);
      }
      WindowSize size = window_size(fds.back());
      if (size.columns != 0) {
        process.columns = size.columns;
        process.rows = size.rows;
      }
    } else {
      fds.insert(fds.end(), {0, 1, 2});
    }
    if (request_.stats_fd >= 0) fds.push_back(request_.stats_fd);
    if (request_.trace_fd >= 0) fds.push_back(request_.trace_fd);
    std::string params = fmt::format("{{\"container\":{},\"gofer_trees\":{},\"stats\":{},\"trace\":{}}}",
                                     sentry::control::encode_container(spec_.container), spec_.trees.size(), request_.stats_fd >= 0,
                                     request_.trace_fd >= 0);
    if (params.size() > sentry::control::kMaxMessage - 256)
      return HostErr(HostError::plain("config.json: is too large for the sandbox"));
    HostResult<void> made = request_container(params, fds);
    if (!made && !ready_) TRY(await_ready(processes_));  // where it did not come up it says why
    TRY(std::move(made));
    processes_.gofer.reset();
    return {};
  }

  // The sentry need not be up: what we send waits for it.
  HostResult<void> request_container(const std::string& params, const std::vector<int>& fds) {
    client_.emplace(TRY(files_.connect()));
    client_->set_timeout(kPatience);
    TRY(client_->send("create", params, fds));
    if (starts_at_once()) TRY(client_->send("start", id_params()));  // refused if `create` is
    HostResult<std::string> reply = client_->receive();
    if (!reply) return HostErr(std::move(reply.error()).wrap("create"));
    return {};
  }

  HostResult<void> start() {
    client_->set_timeout(0);
    if (starts_at_once()) {
      TRY(client_->receive());
    } else {
      TRY(start_guest(*client_, files_, state_));
    }
    state_.status = Status::kRunning;
    TRY(files_.save(state_));
    if (spec_.hooks.poststart.empty()) return {};
    return run_hooks(spec_.hooks.poststart, "poststart", state_json(state_, Status::kRunning, StateFields::kOci), spec_.bundle);
  }

  // Nothing is done between `create` and `start`.
  bool starts_at_once() const {
    return request_.start == StartNow::kYes && spec_.hooks.start_container.empty() && request_.pid_file.empty();
  }
  std::string id_params() const { return fmt::format("{{\"id\":{}}}", json_quoted(files_.id())); }

  HostResult<void> attend_to_console() {
    Attendance what;
    what.files = &files_;
    what.tty = console_.get();
    TRY(attend_in_background(what));
    return {};
  }

  void undo() {
    if (processes_.pid > 0) {
      kill(processes_.pid, SIGKILL);
      while (waitpid(processes_.pid, nullptr, 0) < 0 && errno == EINTR) {
      }
    }
    remove_cgroups(state_.cgroup_dirs);
    if (made_files_) files_.remove();
  }

  StateFiles& files_;
  CreateRequest& request_;
  Spec& spec_;
  UniqueFd lock_;
  State state_;
  SandboxProcesses processes_;
  std::optional<ControlClient> client_;
  UniqueFd console_;
  bool made_files_ = false, ready_ = false, kept_ = false;
};

}  // namespace

HostResult<Created> create_container(StateFiles& files, CreateRequest& request) {
  const bool terminal = request.spec.container.process.terminal;
  if (!request.console_socket.empty() && !terminal)
    return HostErr(HostError::plain("config.json: process.terminal: must be true for --console-socket"));
  if (terminal && request.console_socket.empty() && request.terminal < 0)
    return HostErr(HostError::plain("config.json: process.terminal: needs --console-socket or a terminal in the foreground"));
  return Creation(files, request).run();
}

HostResult<void> write_pid_file(const std::string& path, int pid) {
  if (path.empty()) return {};
  std::string temporary = path + ".tmp";
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  std::string text = std::to_string(pid);
  if (!fd || write(fd.get(), text.data(), text.size()) < 0 || rename(temporary.c_str(), path.c_str()) != 0)
    return HostErr(HostError::from_errno("pid file " + path));
  return {};
}

}  // namespace cli
