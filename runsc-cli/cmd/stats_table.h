// SPDX-License-Identifier: Apache-2.0
// The result of the control protocol's `stats` as one screen for a person: where the time of a sandbox goes.
#pragma once

#include <string>
#include <string_view>

#include "base/host/host_error.h"
#include "runsc-cli/cmd/commands.h"

namespace cli {

base::HostResult<std::string> stats_table(std::string_view stats_json);
// A line as `runsc events` prints it.
std::string stats_event(std::string_view id, std::string_view stats_json);

// Where `--stats=FILE` of run and do writes when the container has ended: "-" is a table on stderr, a file gets the line of `runsc events`.
class StatsOutput {
 public:
  // Empty target: nothing is written. Opens the file now, so that a mistake shows before anything runs.
  static base::HostResult<StatsOutput> create(const std::string& target);
  // What the sentry is to write its statistics to, -1 when none are wanted.
  int sink() const { return files_.sink.get(); }
  // When the sandbox has ended. An error if it was killed before it could tell.
  base::HostResult<void> write(std::string_view id) const;

 private:
  bool table_ = false;
  ReportFiles files_;
};

}  // namespace cli
