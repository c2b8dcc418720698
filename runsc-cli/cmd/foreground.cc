// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/cmd/foreground.h"

#include <cerrno>
#include <cstdio>

#include <poll.h>
#include <sys/wait.h>

#include "base/log/log.h"
#include "runsc-cli/cmd/stats_table.h"
#include "runsc-cli/cmd/trace.h"
#include "runsc-cli/container/attend.h"
#include "runsc-cli/sandbox/console.h"

namespace cli {

namespace {
constexpr int kEndPatienceMs = 10'000;
}

CommandResult run_in_foreground(StateFiles& files, CreateRequest& request, Keep keep) {
  StatsOutput stats = TRY(StatsOutput::create(request.global->stats));
  request.stats_fd = stats.sink();
  TraceOutput trace = TRY(TraceOutput::create(request.global->trace));
  request.trace_fd = trace.sink();
  hold_signals();
  RawTerminal raw(request.terminal);  // before the guest's first output
  base::HostResult<Created> created = create_container(files, request);
  if (!created) return base::HostErr(std::move(created.error()));
  Attendance what;
  what.files = &files;
  what.tty = request.terminal;
  what.sentry_pidfd = created->pidfd.get();
  CommandResult code = attend(what);
  raw.restore();
  // The sentry ends by itself, after it has written back what the guest left dirty; not killed unless it hangs.
  pollfd ended{created->pidfd.get(), POLLIN, 0};
  while (poll(&ended, 1, kEndPatienceMs) < 0 && errno == EINTR) {
  }
  base::HostResult<void> deleted = keep == Keep::kYes ? base::HostResult<void>() : delete_container(files, created->state);
  if (!deleted) LOG_WARNING("{}", deleted.error().message);
  while (waitpid(created->pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  // The exit status is the guest's all the same.
  if (auto written = trace.write(); !written) dprintf(2, "runsc: %s\n", written.error().message.c_str());
  if (auto written = stats.write(files.id()); !written) dprintf(2, "runsc: %s\n", written.error().message.c_str());
  return code;
}

}  // namespace cli
