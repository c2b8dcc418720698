// SPDX-License-Identifier: Apache-2.0
// What happens to a container after its creation: start, kill, delete.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log/log.h"
#include "runsc-cli/container/client.h"
#include "runsc-cli/container/container.h"
#include "runsc-cli/container/hooks.h"
#include "runsc-cli/sandbox/cgroup.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

constexpr int kKillPatience = 5;  // seconds a sentry gets to pass a SIGKILL on before it is killed itself

HostErr plain_error(std::string text) { return HostErr(HostError::plain(std::move(text))); }

// A handle on the sentry that cannot come to mean another process; not valid when the sentry is gone.
UniqueFd open_sentry(const State& state) {
  if (state.pid <= 0) return {};
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, state.pid, 0)));
  if (!pidfd || !is_alive(state)) return {};
  return pidfd;
}

void await(const UniqueFd& pidfd) {
  pollfd p{pidfd.get(), POLLIN, 0};
  while (poll(&p, 1, kKillPatience * 1000) < 0 && errno == EINTR) {
  }
}

void end_sentry(const State& state) {
  UniqueFd pidfd = open_sentry(state);
  if (!pidfd) return;
  syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
  await(pidfd);
}

// Without a process to act on it, a signal that ends a process by default ends a container that was not started yet.
bool ends_a_created_container(int signo) {
  for (int harmless : {SIGCHLD, SIGCONT, SIGURG, SIGWINCH, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU})
    if (signo == harmless) return false;
  return true;
}

// After a SIGKILL the container is stopped for whoever comes next.
void await_end(const State& state) {
  if (UniqueFd pidfd = open_sentry(state)) await(pidfd);
}

// Under its lock.
void take_apart(const StateFiles& files, const State& state) {
  end_sentry(state);
  remove_cgroups(state.cgroup_dirs);
  if (!state.hooks.poststop.empty()) {
    HostResult<void> done =
        run_hooks(state.hooks.poststop, "poststop", state_json(state, Status::kStopped, StateFields::kOci), state.bundle);
    if (!done) warn(done.error().message);
  }
  files.remove();
}

}  // namespace

void warn(const std::string& text) {
  LOG_WARNING("{}", text);
  const std::string line = fmt::format("runsc: warning: {}\n", text);
  (void)!write(2, line.data(), line.size());
}

HostResult<void> start_container(StateFiles& files) {
  UniqueFd lock = TRY(files.lock());
  State state = TRY(files.load());
  Status status = current_status(state);
  if (status == Status::kStopped) return plain_error("cannot start a container that has stopped");
  if (status != Status::kCreated)
    return plain_error(fmt::format("cannot start an already {} container", status_name(status)));
  ControlClient client(TRY(files.connect()));
  HostResult<void> started = start_guest(client, files, state);
  if (!started && !state.hooks.start_container.empty()) end_sentry(state);  // a failed hook stops the container
  TRY(std::move(started));
  state.status = Status::kRunning;
  TRY(files.save(state));
  if (state.hooks.poststart.empty()) return {};
  return run_hooks(state.hooks.poststart, "poststart", state_json(state, Status::kRunning, StateFields::kOci), state.bundle);
}

HostResult<void> kill_container(StateFiles& files, int signo, bool all) {
  State state = TRY(files.load());
  Status status = current_status(state);
  if (status == Status::kStopped && all) return {};  // nobody left: as runc
  if (status == Status::kStopped || status == Status::kCreating) return plain_error("container not running");
  if (status == Status::kCreated) {
    if (signo != 0 && ends_a_created_container(signo)) end_sentry(state);
    return {};
  }
  bool was_there = false;
  HostResult<void> done = [&]() -> HostResult<void> {
    ControlClient client(TRY(files.connect()));
    was_there = true;
    if (signo == SIGKILL) client.set_timeout(kKillPatience);
    TRY(client.call("signal", fmt::format("{{\"id\":{},\"signo\":{},\"pid\":0,\"all\":{}}}", json_quoted(files.id()), signo, all)));
    return {};
  }();
  if (done && signo == SIGKILL) await_end(state);
  if (done) return {};
  // It may have ended of this very signal before it could answer.
  if (!is_alive(state)) return was_there ? HostResult<void>() : plain_error("container not running");
  if (signo != SIGKILL) return done;
  LOG_WARNING("the sandbox does not answer ({}): killing it", done.error().message);
  end_sentry(state);
  return {};
}

HostResult<void> delete_container(StateFiles& files, Force force) {
  if (!files.exists() && force == Force::kYes) return {};
  HostResult<UniqueFd> lock = files.lock();
  if (!lock && lock.error().host_errno == ENOENT && force == Force::kYes) return {};
  if (!lock) return HostErr(std::move(lock.error()));
  HostResult<State> loaded = files.load();
  if (!loaded && force == Force::kNo) return HostErr(std::move(loaded.error()));
  if (!loaded) {  // its creator died before it wrote the state, or the state is damaged
    files.remove();
    return {};
  }
  const State& state = *loaded;
  Status status = current_status(state);
  if (force == Force::kNo && (status == Status::kRunning || status == Status::kPaused))
    return plain_error(fmt::format("cannot delete container {} that is not stopped: {}", files.id(), status_name(status)));
  take_apart(files, state);
  return {};
}

HostResult<void> delete_container(StateFiles& files, const State& state) {
  HostResult<UniqueFd> lock = files.lock();
  if (!lock && lock.error().host_errno == ENOENT) return {};
  if (!lock) return HostErr(std::move(lock.error()));
  take_apart(files, state);
  return {};
}

int signal_number(const std::string& text) {
  if (text.empty()) return -1;
  char* end = nullptr;
  long number = strtol(text.c_str(), &end, 10);
  if (*end == '\0') return number >= 0 && number <= 64 ? static_cast<int>(number) : -1;
  std::string name = text;
  for (char& c : name) c = static_cast<char>(toupper(static_cast<unsigned char>(c)));
  if (name.starts_with("SIG")) name.erase(0, 3);
  for (int signo = 1; signo < 32; ++signo) {
    const char* abbreviation = sigabbrev_np(signo);
    if (abbreviation && name == abbreviation) return signo;
  }
  static constexpr std::pair<const char*, int> kAliases[] = {{"IOT", SIGABRT}, {"CLD", SIGCHLD}, {"RTMIN", 34}, {"RTMAX", 64}};
  for (auto [alias, signo] : kAliases)
    if (name == alias) return signo;
  bool from_min = name.starts_with("RTMIN+"), from_max = name.starts_with("RTMAX-");
  if (from_min || from_max) {
    long offset = strtol(name.c_str() + 6, &end, 10);
    long value = from_min ? 34 + offset : 64 - offset;
    if (*end == '\0' && offset >= 0 && value >= 34 && value <= 64) return static_cast<int>(value);
  }
  return -1;
}

}  // namespace cli
