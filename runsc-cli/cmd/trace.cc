// SPDX-License-Identifier: Apache-2.0
// `runsc trace`, and `--trace` of run and do.
#include "runsc-cli/cmd/trace.h"

#include <cerrno>
#include <csignal>
#include <ctime>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include "runsc-cli/cmd/commands.h"
#include "runsc-cli/container/client.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;

namespace {

constexpr int kReportPatience = 60;  // seconds; a full timeline is some 60 MB of text

// Until the time is over or a person has had enough.
void wait_seconds(double seconds) {
  sigset_t stop;
  sigemptyset(&stop);
  for (int signo : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&stop, signo);
  sigprocmask(SIG_BLOCK, &stop, nullptr);
  timespec left;
  left.tv_sec = static_cast<time_t>(seconds);
  left.tv_nsec = static_cast<long>((seconds - static_cast<double>(left.tv_sec)) * 1e9);
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t end = now.tv_sec * 1'000'000'000 + now.tv_nsec + left.tv_sec * 1'000'000'000 + left.tv_nsec;
  while (sigtimedwait(&stop, nullptr, &left) < 0 && errno == EINTR) {
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t rest = end - (now.tv_sec * 1'000'000'000 + now.tv_nsec);
    if (rest <= 0) return;
    left = {rest / 1'000'000'000, rest % 1'000'000'000};
  }
}

}  // namespace

HostResult<TraceOutput> TraceOutput::create(const std::string& target) {
  TraceOutput output;
  if (target.empty()) return output;
  output.file_.reset(open(target.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!output.file_) return HostErr(HostError::from_errno("trace: " + target));
  output.sink_.reset(memfd_create("runsc-trace", MFD_CLOEXEC));
  if (!output.sink_) return HostErr(HostError::from_errno("trace: memfd_create"));
  return output;
}

HostResult<void> TraceOutput::write() const {
  if (!sink_) return {};
  char part[65536];
  off_t at = 0;
  for (ssize_t n; (n = pread(sink_.get(), part, sizeof part, at)) > 0; at += n) {
    for (ssize_t done = 0; done < n;) {
      const ssize_t wrote = ::write(file_.get(), part + done, static_cast<size_t>(n - done));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return HostErr(HostError::from_errno("trace: write"));
      done += wrote;
    }
  }
  if (at == 0) return HostErr(HostError::plain("trace: the sandbox was killed before it could tell"));
  return {};
}

CommandResult cmd_trace(const Global& global, const TraceOptions& options) {
  ContainerDir dir = TRY(find_container(global, options.id));
  TRY(load_live(dir));
  const TraceOutput output = TRY(TraceOutput::create(options.output));
  const std::string id = json_quoted(options.id);
  ControlClient client(TRY(dir.connect()));
  client.set_timeout(kReportPatience);
  TRY(client.call("trace", fmt::format("{{\"id\":{},\"on\":true}}", id)));
  wait_seconds(options.seconds);
  auto ended = client.call("trace", fmt::format("{{\"id\":{},\"on\":false}}", id), {output.sink()});
  if (!ended) return HostErr(std::move(ended.error()).wrap("trace"));
  TRY(output.write());
  return 0;
}

}  // namespace cli
