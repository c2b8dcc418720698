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

HostResult<void> run_hook(const Hook& hook, const std::string& state, const std::string& bundle, int namespaces_of) {
  UniqueFd input(memfd_create("state", MFD_CLOEXEC)), output(memfd_create("output", MFD_CLOEXEC));
  if (!input || !output) return HostErr(HostError::from_errno("memfd"));
  if (write(input.get(), state.data(), state.size()) != static_cast<ssize_t>(state.size()))
    return HostErr(HostError::from_errno("memfd"));
  lseek(input.get(), 0, SEEK_SET);
  pid_t pid = fork();
  if (pid < 0) return HostErr(HostError::from_errno("fork"));
  if (pid == 0) exec_hook(hook, bundle, input.get(), output.get(), namespaces_of);
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  bool ended = wait_until(pidfd.get(), hook.timeout_sec > 0 ? now_ms() + hook.timeout_sec * int64_t{1000} : -1);
  if (!ended) {
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!ended) return HostErr(HostError::plain(fmt::format("timed out after {} s", hook.timeout_sec)));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  std::string said = first_line_of(output.get());
  std::string how = WIFSIGNALED(status) ? fmt::format("killed by signal {}", WTERMSIG(status))
                                        : fmt::format("exit status {}", WEXITSTATUS(status));
  return HostErr(HostError::plain(said.empty() ? how : how + ", output: " + said));
}

}  // namespace

HostResult<void> run_hooks(const std::vector<Hook>& hooks, const char* kind, const std::string& state,
                           const std::string& bundle, int namespaces_of) {
  for (size_t i = 0; i < hooks.size(); ++i) {
    HostResult<void> done = run_hook(hooks[i], state, bundle, namespaces_of);
    if (!done) return HostErr(std::move(done.error()).wrap(fmt::format("{} hook #{} ({})", kind, i, hooks[i].path)));
  }
  return {};
}

}  // namespace cli
