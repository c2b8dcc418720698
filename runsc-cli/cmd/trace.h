// SPDX-License-Identifier: Apache-2.0
// Where the timeline of a sandbox goes: the sentry writes to memory of ours, which is copied to the person's file at the end, be that what it may.
#pragma once

#include <string>

#include "base/host/host_error.h"
#include "runsc-cli/cmd/commands.h"

namespace cli {

class TraceOutput {
 public:
  // Empty: nothing is wanted. Opens the file now, so that a mistake shows before anything runs.
  static base::HostResult<TraceOutput> create(const std::string& target);
  int sink() const { return files_.sink.get(); }  // for the sentry; -1 when none is wanted
  // Copies what the sentry wrote; an error if that is nothing.
  base::HostResult<void> write() const;

 private:
  ReportFiles files_;
};

}  // namespace cli
