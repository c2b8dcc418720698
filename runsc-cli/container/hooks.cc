// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/container/hooks.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/unique_fd.h"
#include "runsc-cli/container/attend.h"
#include "sentry/control/protocol.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

std::vector<char*> pointers(const std::vector<std::string>& list) {
  std::vector<char*> out;
  for (const std::string& s : list) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

[[noreturn]] void exec_hook(const Hook& hook, const std::string& bundle, int input, int output, int namespaces_of) {
  auto fail = [&](const char* what) {
    dprintf(output, "%s: %s", what, strerror(errno));
    _exit(127);
  };
  for (const char* kind : {"net", "ipc", "uts"}) {
    if (namespaces_of == 0) break;
    int fd = open(fmt::format("/proc/{}/ns/{}", namespaces_of, kind).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, 0) != 0) fail(kind);
  }
  if (chdir(bundle.c_str()) != 0) fail("chdir to the bundle");
  setpgid(0, 0);  // a time limit ends whatever the hook has started
  dup2(input, 0);
  dup2(output, 1);
  dup2(output, 2);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  std::vector<std::string> args = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
  execve(hook.path.c_str(), pointers(args).data(), pointers(hook.env).data());
  fail("exec");
  _exit(127);
}

int64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1'000'000;
}

// True when the process ended before the deadline (-1: none).
bool wait_until(int pidfd, int64_t deadline) {
  while (true) {
    int timeout = deadline < 0 ? -1 : static_cast<int>(std::max<int64_t>(0, deadline - now_ms()));
    pollfd p{pidfd, POLLIN, 0};
    int n = poll(&p, 1, timeout);
    if (n > 0) return true;
    if (n == 0) return false;
    if (errno != EINTR) return true;
  }
}

std::string first_line_of(int fd) {
  char text[256];
  ssize_t n = pread(fd, text, sizeof text, 0);
  std::string out(text, n > 0 ? static_cast<size_t>(n) : 0);
  out.resize(std::min(out.size(), out.find('\n')));
  return out;
}

// What a hook reads and writes.
struct HookFiles {
  UniqueFd input, output;
};

HostResult<HookFiles> hook_files(const std::string& state) {
  HookFiles files{UniqueFd(memfd_create("state", MFD_CLOEXEC)), UniqueFd(memfd_create("output", MFD_CLOEXEC))};
  if (!files.input || !files.output) return HostErr(HostError::from_errno("memfd"));
  if (write(files.input.get(), state.data(), state.size()) != static_cast<ssize_t>(state.size()))
    return HostErr(HostError::from_errno("memfd"));
  lseek(files.input.get(), 0, SEEK_SET);
  return files;
}

HostErr timed_out(const Hook& hook) { return HostErr(HostError::plain(fmt::format("timed out after {} s", hook.timeout_sec))); }

HostResult<void> result_of(int status, int output) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  std::string said = first_line_of(output);
  std::string how = WIFSIGNALED(status) ? fmt::format("killed by signal {}", WTERMSIG(status))
                                        : fmt::format("exit status {}", WEXITSTATUS(status));
  return HostErr(HostError::plain(said.empty() ? how : how + ", output: " + said));
}

HostErr name_hook(HostError error, const char* kind, size_t number, const Hook& hook) {
  return HostErr(std::move(error).wrap(fmt::format("{} hook #{} ({})", kind, number, hook.path)));
}

HostResult<void> run_hook(const Hook& hook, const std::string& state, const std::string& bundle, int namespaces_of) {
  HookFiles files = TRY(hook_files(state));
  pid_t pid = fork();
  if (pid < 0) return HostErr(HostError::from_errno("fork"));
  if (pid == 0) exec_hook(hook, bundle, files.input.get(), files.output.get(), namespaces_of);
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  bool ended = wait_until(pidfd.get(), hook.timeout_sec > 0 ? now_ms() + hook.timeout_sec * int64_t{1000} : -1);
  if (!ended) {
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!ended) return timed_out(hook);
  return result_of(status, files.output.get());
}

// As a process of the container, with its user, capabilities and directory; the environment is the hook's own.
HostResult<void> run_hook_inside(const Hook& hook, const std::string& state_text, const StateFiles& files, const State& state) {
  HookFiles ends = TRY(hook_files(state_text));
  abi::oci::Process process = state.process;
  process.program = hook.path;
  process.args = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
  process.env = hook.env;
  process.terminal = false;
  const std::string id = json_quoted(files.id());
  ControlClient client(TRY(files.connect()));
  const std::string started = TRY(client.call("exec", fmt::format("{{\"id\":{},\"process\":{}}}", id, sentry::control::encode_process(process)),
                                              {ends.input.get(), ends.output.get(), ends.output.get()}));
  const int64_t pid = TRY(result_integer(started, "pid"));
  const int64_t deadline = hook.timeout_sec > 0 ? now_ms() + hook.timeout_sec * int64_t{1000} : -1;
  TRY(client.send("wait", fmt::format("{{\"id\":{},\"pid\":{},\"kill_on_hangup\":true}}", id, pid)));
  if (!wait_until(client.fd(), deadline)) return timed_out(hook);
  return result_of(static_cast<int>(TRY(result_integer(TRY(client.receive()), "status"))), ends.output.get());
}

}  // namespace

HostResult<void> start_guest(ControlClient& client, const StateFiles& files, const State& state) {
  const std::string params = fmt::format("{{\"id\":{}}}", json_quoted(files.id()));
  const std::vector<Hook>& hooks = state.hooks.start_container;
  if (!hooks.empty()) {
    TRY(client.call("prepare", params));
    State inside = state;
    inside.pid = 1;  // what the hook can see
    const std::string text = state_json(inside, Status::kCreated, StateFields::kOci);
    for (size_t i = 0; i < hooks.size(); ++i) {
      HostResult<void> done = run_hook_inside(hooks[i], text, files, state);
      if (!done) return name_hook(std::move(done.error()), "startContainer", i, hooks[i]);
    }
  }
  TRY(client.call("start", params));
  return {};
}

HostResult<void> run_hooks(const std::vector<Hook>& hooks, const char* kind, const std::string& state,
                           const std::string& bundle, int namespaces_of) {
  for (size_t i = 0; i < hooks.size(); ++i) {
    HostResult<void> done = run_hook(hooks[i], state, bundle, namespaces_of);
    if (!done) return name_hook(std::move(done.error()), kind, i, hooks[i]);
  }
  return {};
}

}  // namespace cli
