// SPDX-License-Identifier: Apache-2.0
// The sentry process from its first instruction to its exit status.
//
//   config -> memory file -> platform (forks its processes) -> kernel -> seccomp -> control server -> executors
#include "sentry/main.h"

#include <algorithm>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/unique_fd.h"
#include "base/log/log.h"
#include "platform/interface/platform.h"
#include "sentry/boot/container_factory.h"
#include "sentry/boot/filter.h"
#include "sentry/control/protocol.h"
#include "sentry/control/requests.h"
#include "sentry/control/server.h"
#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry {

namespace {

using base::HostErr;
using base::HostError;
using base::HostResult;

constexpr int kOwnFailure = 128;

HostResult<std::string> read_all(int fd) {
  std::string text;
  char data[16384];
  for (off_t at = 0;;) {
    ssize_t n = pread(fd, data, sizeof data, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return HostErr(HostError::from_errno("read sandbox configuration"));
    if (n == 0) return text;
    if (text.size() + static_cast<size_t>(n) > control::kMaxMessage) return HostErr(HostError::plain("sandbox configuration is too large"));
    text.append(data, static_cast<size_t>(n));
    at += n;
  }
}

unsigned usable_cpus(const abi::oci::Sandbox& config) {
  cpu_set_t set;
  unsigned n = sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<unsigned>(CPU_COUNT(&set)) : 1;
  return config.cpus != 0 && config.cpus < n ? config.cpus : n;
}

HostError host_error(std::string what, abi::Errno e) { return HostError::from_errno(std::move(what), static_cast<int>(e)); }

HostResult<std::unique_ptr<kernel::Kernel>> make_kernel(const abi::oci::Sandbox& config) {
  auto memory = memory::MemoryFile::create();
  if (!memory) return HostErr(host_error("create guest memory", memory.error()));
  platform::PlatformFactory* factory = platform::find_platform(config.platform);
  if (!factory) return HostErr(HostError::plain("platform " + config.platform + " does not exist"));
  if (std::string why = factory->unavailable_reason(); !why.empty())
    return HostErr(HostError::plain("platform " + config.platform + ": " + why));
  const unsigned cpus = usable_cpus(config);
  auto platform = factory->create({(*memory)->fd(), (*memory)->fd_read_only(), cpus});
  if (!platform) return HostErr(host_error("start platform " + config.platform, platform.error()));
  kernel::KernelConfig kernel_config;
  kernel_config.executors = cpus;
  kernel_config.memory_limit = config.memory_limit;
  kernel_config.strace = config.strace;
  return std::make_unique<kernel::Kernel>(std::move(*memory), std::move(*platform), kernel_config, &syscalls::dispatch);
}

constexpr int kMostArenas = 8;

void raise_fd_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

void ignore_signals() {
  // A host socket or pipe that closes early must not end the sentry.
  signal(SIGPIPE, SIG_IGN);
  for (int signo : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU}) signal(signo, SIG_IGN);
}

int exit_code_of(int32_t wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

// Tells the CLI that requests are accepted (one zero byte) or why not (the message).
void report_ready(std::string_view error) {
  base::UniqueFd ready(control::kReadyFd);
  if (error.empty()) {
    (void)!write(ready.get(), "", 1);
  } else {
    (void)!write(ready.get(), error.data(), error.size());
  }
}

HostResult<int> run_sandbox() {
  auto text = read_all(control::kBootConfigFd);
  if (!text) return HostErr(std::move(text).error());
  close(control::kBootConfigFd);
  auto config = control::decode_sandbox(*text);
  if (!config) return HostErr(std::move(config).error());
  base::log_init(control::kLogFd, config->debug || config->strace ? base::LogLevel::kDebug : base::LogLevel::kInfo,
                 config->log_format == "json" ? base::LogFormat::kJson : base::LogFormat::kText, "sentry");
  // Without a limit the allocator counts CPUs through /sys when a thread first needs an arena, which the filter answers with death; and
  // every arena keeps memory of its own.
  mallopt(M_ARENA_MAX, std::clamp(static_cast<int>(usable_cpus(*config)), 2, kMostArenas));
  ignore_signals();
  raise_fd_limit();
  auto kernel = make_kernel(*config);
  if (!kernel) return HostErr(std::move(kernel).error());
  boot::register_file_systems(**kernel);

  std::atomic<int32_t> status{0};
  boot::DefaultContainerFactory factory(**kernel);
  control::Requests requests(**kernel, factory, [&](int32_t wait_status) {
    status.store(wait_status);
    (*kernel)->stop();
  });
  (*kernel)->reactor().start();
  control::Server server((*kernel)->reactor(), base::UniqueFd(control::kControlListenFd),
                         [&](std::shared_ptr<control::Request> request) { requests.handle(std::move(request)); });
  auto program = base::assemble_seccomp(boot::sentry_policy(*platform::find_platform(config->platform)));
  if (auto installed = base::install_seccomp(program); !installed) return HostErr(std::move(installed).error());
  report_ready("");
  (*kernel)->run();
  requests.hang_up();
  // Nothing is torn down: the pid namespace dies with this process, and the host frees the rest faster than we could.
  fflush(nullptr);
  _exit(exit_code_of(status.load()));
}

}  // namespace

int boot_main(int argc, char** argv) {
  (void)argc;
  (void)argv;
  auto result = run_sandbox();
  if (!result) {
    base::log_write(base::LogLevel::kError, result.error().message);
    report_ready(result.error().message);
    return kOwnFailure;
  }
  return *result;
}

}  // namespace sentry
