// SPDX-License-Identifier: Apache-2.0
// `runsc trace`, and `--trace` of run and do.
#include "runsc-cli/cmd/trace.h"

#include <cerrno>
#include <csignal>
#include <ctime>

#include <fmt/format.h>
#include <unistd.h>

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
  output.files_ = TRY(open_report(target, "trace"));
  return output;
}

HostResult<void> TraceOutput::write() const {
  if (!files_.sink) return {};
  char part[65536];
  off_t at = 0;
  for (ssize_t n; (n = pread(files_.sink.get(), part, sizeof part, at)) > 0; at += n)
    TRY(write_all(files_.file.get(), {part, static_cast<size_t>(n)}, "trace: write"));
  if (at == 0) return HostErr(HostError::plain("trace: the sandbox was killed before it could tell"));
  return {};
}

CommandResult cmd_trace(const Global& global, const TraceOptions& options) {
  StateFiles files = TRY(find_container(global, options.id));
  TRY(load_live(files));
  const TraceOutput output = TRY(TraceOutput::create(options.output));
  const std::string id = json_quoted(options.id);
  ControlClient client(TRY(files.connect()));
  client.set_timeout(kReportPatience);
  TRY(client.call("trace", fmt::format("{{\"id\":{},\"on\":true}}", id)));
  wait_seconds(options.seconds);
  auto ended = client.call("trace", fmt::format("{{\"id\":{},\"on\":false}}", id), {output.sink()});
  if (!ended) return HostErr(std::move(ended.error()).wrap("trace"));
  TRY(output.write());
  return 0;
}

}  // namespace cli
