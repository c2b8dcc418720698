// SPDX-License-Identifier: Apache-2.0
// What the starter tells the gofer: the JSON of gofer/main.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/host/host_error.h"

namespace gofer {

struct TreeConfig {
  std::string path;  // absolute, the host's
  bool readonly = false;
  bool file = false;
};

struct Config {
  std::vector<TreeConfig> trees;
  bool host_uds = false;
  bool debug = false;
  bool confine = true;
};

// The error names the field.
base::HostResult<Config> parse_config(std::string_view json);
base::HostResult<std::string> read_config(int fd);

}  // namespace gofer
