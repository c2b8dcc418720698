// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/sandbox/spawn.h"

#include <cerrno>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json/reader.h"
#include "gofer/main.h"
#include "runsc-cli/sandbox/namespaces.h"
#include "sentry/control/protocol.h"

namespace cli {

using abi::oci::NetworkMode;
using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

constexpr int kStartPatienceMs = 60'000;

// Everything the child needs, opened by the parent; all close-on-exec.
struct ChildFds {
  UniqueFd self_exe, null, proc_self, oom_score;
  UniqueFd sandbox_config, gofer_config;
  UniqueFd gofer_socket;  // the gofer's end
  UniqueFd ready, go;     // write end, read end
  UniqueFd network, ipc, uts;
};

HostResult<UniqueFd> memfd_with(const char* name, const std::string& text) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd) return HostErr(HostError::from_errno("memfd"));
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return HostErr(HostError::from_errno("memfd"));
  lseek(fd.get(), 0, SEEK_SET);
  return fd;
}

std::string gofer_config(const SandboxPlan& plan) {
  base::Json trees = base::Json::array();
  for (const Tree& tree : plan.trees)
    trees.push_back({{"path", tree.path}, {"readonly", tree.readonly}, {"file", tree.is_file}, {"recursive", tree.recursive}});
  return base::dump_json({{"trees", std::move(trees)}, {"host_uds", false}, {"debug", plan.sandbox.debug}});
}

uint64_t namespace_flags(const SandboxPlan& plan) {
  uint64_t flags = CLONE_NEWPID;
  if (plan.namespaces.ipc.path.empty()) flags |= CLONE_NEWIPC;
  if (plan.namespaces.uts.path.empty()) flags |= CLONE_NEWUTS;
  // --network=none is a promise about the sentry's own sockets: always a namespace of its own.
  bool none = plan.sandbox.network == NetworkMode::kNone;
  if (none || (plan.namespaces.network.listed && plan.namespaces.network.path.empty())) flags |= CLONE_NEWNET;
  return flags;
}

HostResult<ChildFds> open_child_fds(const SandboxPlan& plan) {
  ChildFds fds;
  fds.self_exe.reset(open("/proc/self/exe", O_PATH | O_CLOEXEC));
  fds.null.reset(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!fds.self_exe || !fds.null) return HostErr(HostError::from_errno("open /proc/self/exe and /dev/null"));
  fds.sandbox_config = TRY(memfd_with("sandbox", sentry::control::encode_sandbox(plan.sandbox)));
  fds.gofer_config = TRY(memfd_with("trees", gofer_config(plan)));
  const Namespaces& ns = plan.namespaces;
  if (plan.sandbox.network == NetworkMode::kHost && !ns.network.path.empty())
    fds.network = TRY(open_namespace(ns.network.path, CLONE_NEWNET, "network"));
  if (!ns.ipc.path.empty()) fds.ipc = TRY(open_namespace(ns.ipc.path, CLONE_NEWIPC, "ipc"));
  if (!ns.uts.path.empty()) fds.uts = TRY(open_namespace(ns.uts.path, CLONE_NEWUTS, "uts"));
  return fds;
}

pid_t clone_process(uint64_t flags, int* pidfd, int cgroup = -1) {
  clone_args args{};
  args.flags = flags;
  args.exit_signal = SIGCHLD;
  if (pidfd) {
    args.flags |= CLONE_PIDFD;
    args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  }
  if (cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(cgroup);
  }
  return static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
}

// Moves descriptors to 0..n-1 and executes ourselves under another name. Returns only on failure.
void exec_self(const char* name, int exe, std::vector<int> table) {
  // Out of the way first: a descriptor to be moved may sit where another one goes.
  int base = static_cast<int>(table.size()) + 8;
  for (int& fd : table) fd = fcntl(fd, F_DUPFD_CLOEXEC, base);
  exe = fcntl(exe, F_DUPFD_CLOEXEC, base);
  for (size_t i = 0; i < table.size(); ++i)
    if (dup2(table[i], static_cast<int>(i)) < 0) return;
  close_range(static_cast<unsigned>(table.size()), ~0u, CLOSE_RANGE_CLOEXEC);
  char* const argv[] = {const_cast<char*>(name), nullptr};
  char* const envp[] = {nullptr};
  prctl(PR_SET_NAME, name);
  syscall(SYS_execveat, exe, "", argv, envp, AT_EMPTY_PATH);
}

void reset_signals() {
  for (int signo = 1; signo < 32; ++signo) signal(signo, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

void no_core_dumps() {
  rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

[[noreturn]] void run_gofer(const SandboxPlan& plan, ChildFds& fds) {
  int log = plan.log_fd >= 0 ? plan.log_fd : fds.null.get();
  umask(0);
  exec_self(gofer::kProcessName, fds.self_exe.get(),
            {fds.null.get(), fds.null.get(), log, fds.gofer_socket.get(), fds.gofer_config.get(), log});
  _exit(127);
}

HostResult<void> enter_namespaces(const SandboxPlan& plan, ChildFds& fds, uint64_t made) {
  for (const UniqueFd* fd : {&fds.network, &fds.ipc, &fds.uts})
    if (*fd && setns(fd->get(), 0) != 0) return HostErr(HostError::from_errno("join a namespace"));
  if (made & CLONE_NEWNET) TRY(raise_loopback());
  if ((made & CLONE_NEWUTS) && !plan.hostname.empty() && sethostname(plan.hostname.data(), plan.hostname.size()) != 0)
    return HostErr(HostError::from_errno("set the host name"));
  return {};
}

HostResult<void> prepare_sentry(const SandboxPlan& plan, ChildFds& fds, uint64_t made) {
  setsid();
  reset_signals();
  no_core_dumps();
  for (const UniqueFd& tasks : plan.cgroup.v1_tasks)
    if (write(tasks.get(), "0", 1) != 1) return HostErr(HostError::from_errno("join the cgroup"));
  if (plan.oom_score_adj != 0) {
    // A wish: lowering it needs a capability that many hosts withhold.
    UniqueFd oom(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
    std::string text = std::to_string(plan.oom_score_adj);
    if (oom) (void)!write(oom.get(), text.data(), text.size());
  }
  TRY(enter_namespaces(plan, fds, made));
  fds.proc_self.reset(open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fds.proc_self) return HostErr(HostError::from_errno("open /proc/self"));
  pid_t gofer = clone_process(CLONE_NEWPID, nullptr);
  if (gofer < 0) return HostErr(HostError::from_errno("start the gofer"));
  if (gofer == 0) run_gofer(plan, fds);
  fds.gofer_socket.reset();
  if (unshare(CLONE_NEWNS) != 0) return HostErr(HostError::from_errno("mount namespace"));
  TRY(enter_empty_root());
  TRY(drop_privileges(fds.proc_self.get()));
  return {};
}

[[noreturn]] void run_sentry(const SandboxPlan& plan, ChildFds& fds, uint64_t made) {
  HostResult<void> prepared = prepare_sentry(plan, fds, made);
  if (!prepared) {
    const std::string& text = prepared.error().message;
    (void)!write(fds.ready.get(), text.data(), text.size());
    _exit(128);
  }
  char go = 0;
  ssize_t n;
  do {
    n = read(fds.go.get(), &go, 1);
  } while (n < 0 && errno == EINTR);
  if (n != 1) _exit(128);
  int log = plan.log_fd >= 0 ? plan.log_fd : fds.null.get();
  int ready = fds.ready.get();
  exec_self("runsc-sentry", fds.self_exe.get(),
            {fds.null.get(), fds.null.get(), log, fds.sandbox_config.get(), plan.control_listener, log, ready});
  std::string text = fmt::format("execute the sentry: {}", strerror(errno));
  (void)!write(sentry::control::kReadyFd, text.data(), text.size());
  _exit(128);
}

}  // namespace

HostResult<SandboxProcesses> spawn_sandbox(const SandboxPlan& plan) {
  ChildFds fds = TRY(open_child_fds(plan));
  SandboxProcesses out;
  int sockets[2], ready[2], go[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
    return HostErr(HostError::from_errno("socketpair"));
  out.gofer.reset(sockets[0]);
  const timeval silence_limit{120, 0};  // of gofer::Client, which waits for replies in recvmsg
  if (setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &silence_limit, sizeof silence_limit) != 0)
    return HostErr(HostError::from_errno("SO_RCVTIMEO"));
  fds.gofer_socket.reset(sockets[1]);
  if (pipe2(ready, O_CLOEXEC) != 0) return HostErr(HostError::from_errno("pipe"));
  out.ready.reset(ready[0]);
  fds.ready.reset(ready[1]);
  if (pipe2(go, O_CLOEXEC) != 0) return HostErr(HostError::from_errno("pipe"));
  fds.go.reset(go[0]);
  out.go.reset(go[1]);

  uint64_t flags = namespace_flags(plan);
  int pidfd = -1;
  out.pid = clone_process(flags, &pidfd, plan.cgroup.v2_dir.get());
  if (out.pid < 0) return HostErr(HostError::from_errno("start the sandbox (namespaces)"));
  if (out.pid == 0) {
    // The parent's ends would keep the pipes open: the sentry would not notice the CLI's death.
    out.go.reset();
    out.gofer.reset();
    out.ready.reset();
    run_sentry(plan, fds, flags);
  }
  out.pidfd.reset(pidfd);
  return out;
}

HostResult<void> release_sandbox(SandboxProcesses& processes) {
  // The write can only fail when the child is gone, and then `ready` has the reason.
  signal(SIGPIPE, SIG_IGN);
  (void)!write(processes.go.get(), "g", 1);
  processes.go.reset();
  return {};
}

HostResult<void> await_ready(SandboxProcesses& processes) {
  std::string text;
  char buffer[4096];
  while (text.size() < sizeof buffer) {
    pollfd p{processes.ready.get(), POLLIN, 0};
    int waited = poll(&p, 1, kStartPatienceMs);
    if (waited == 0) return HostErr(HostError::plain("the sandbox does not start: no sign of life for a minute"));
    if (waited < 0) continue;
    ssize_t n = read(processes.ready.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (text.empty() && buffer[0] == '\0') return {};
    text.append(buffer, static_cast<size_t>(n));
  }
  if (text.empty()) return HostErr(HostError::plain("the sandbox ended while it was starting"));
  return HostErr(HostError::plain(text).wrap("start the sandbox"));
}

}  // namespace cli
