// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/container/attend.h"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/program_pages.h"
#include "runsc-cli/container/client.h"
#include "runsc-cli/sandbox/console.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

sigset_t forwarded_signals() {
  sigset_t set;
  sigfillset(&set);
  // Faults of our own, children, and what stops or continues this process alone.
  for (int signo : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS, SIGCHLD, SIGPIPE, SIGTSTP, SIGTTIN,
                    SIGTTOU, SIGCONT, SIGURG})
    sigdelset(&set, signo);
  return set;
}

void request_once(const StateFiles& files, const char* method, const std::string& params) {
  HostResult<UniqueFd> socket = files.connect();
  if (!socket) return;
  ControlClient client(std::move(*socket));
  client.set_timeout(10);
  (void)client.call(method, params);
}

void forward(const Attendance& what, int signo) {
  const std::string id = json_quoted(what.files->id());
  if (signo == SIGWINCH) {
    WindowSize size = window_size(what.tty);
    if (size.columns == 0) return;
    request_once(*what.files, "resize", fmt::format("{{\"id\":{},\"pid\":{},\"columns\":{},\"rows\":{}}}", id, what.pid,
                                                  size.columns, size.rows));
    return;
  }
  request_once(*what.files, "signal",
               fmt::format("{{\"id\":{},\"signo\":{},\"pid\":{},\"all\":false}}", id, signo, what.pid));
}

// The sentry ends with its init's status; only our child can be asked.
HostResult<int> status_of_sentry(const Attendance& what) {
  siginfo_t info{};
  if (what.sentry_pidfd < 0 || waitid(P_PIDFD, static_cast<id_t>(what.sentry_pidfd), &info, WEXITED | WNOWAIT) != 0)
    return HostErr(HostError::plain("the sandbox has ended"));
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

}  // namespace

void hold_signals() {
  sigset_t set = forwarded_signals();
  sigprocmask(SIG_BLOCK, &set, nullptr);
}

int exit_code_of_status(int64_t wait_status) {
  int status = static_cast<int>(wait_status);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

HostResult<int> attend(const Attendance& what) {
  sigset_t set = forwarded_signals();
  UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return HostErr(HostError::from_errno("signalfd"));
  HostResult<UniqueFd> socket = what.files->connect();
  if (!socket) return status_of_sentry(what);
  ControlClient client(std::move(*socket));
  HostResult<void> asked = client.send("wait", fmt::format("{{\"id\":{},\"pid\":{},\"kill_on_hangup\":{}}}",
                                                           json_quoted(what.files->id()), what.pid,
                                                           what.on_hangup == OnHangup::kKill));
  if (!asked) return status_of_sentry(what);
  // The terminal may have changed between its guest being told the size and us being told of changes.
  if (what.tty >= 0) forward(what, SIGWINCH);
  bool settled = false;
  while (true) {
    constexpr int kSettledMs = 1000;
    pollfd fds[] = {{client.fd(), POLLIN, 0}, {signals.get(), POLLIN, 0}};
    const int n = poll(fds, 2, settled ? -1 : kSettledMs);
    if (n < 0 && errno != EINTR) return HostErr(HostError::from_errno("poll"));
    if (n == 0) {
      base::drop_program_pages();
      settled = true;
    }
    signalfd_siginfo info{};
    while (fds[1].revents && read(signals.get(), &info, sizeof info) == sizeof info)
      forward(what, static_cast<int>(info.ssi_signo));
    if (!fds[0].revents) continue;
    HostResult<std::string> result = client.receive();
    if (!result && what.sentry_pidfd >= 0) return status_of_sentry(what);
    if (!result) return HostErr(std::move(result.error()));
    return exit_code_of_status(TRY(result_integer(*result, "status")));
  }
}

HostResult<int> attend_in_background(const Attendance& what) {
  // What happens before the child has blocked its signals would be lost.
  hold_signals();
  pid_t pid = fork();
  if (pid < 0) return HostErr(HostError::from_errno("fork"));
  if (pid > 0) return pid;
  prctl(PR_SET_NAME, "runsc-attend");
  setsid();
  signal(SIGHUP, SIG_DFL);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  // Keep the terminal and nothing else: whoever reads our caller's pipes to their end must not wait for us.
  Attendance mine = what;
  if (what.tty >= 0) {
    dup2(what.tty, 3);
    mine.tty = 3;
    ioctl(3, TIOCSCTTY, 0);
  }
  for (int fd : {0, 1, 2}) dup2(null, fd);
  close_range(what.tty >= 0 ? 4 : 3, ~0u, 0);
  mine.sentry_pidfd = -1;
  (void)!chdir("/");
  HostResult<int> code = attend(mine);
  _exit(code ? *code : 128 + SIGKILL);  // a process whose sandbox is gone was killed
}

}  // namespace cli
