// SPDX-License-Identifier: Apache-2.0
// The CLI's end of the control protocol.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"

namespace cli {

class ControlClient {
 public:
  explicit ControlClient(base::UniqueFd socket) : socket_(std::move(socket)) {}
  int fd() const { return socket_.get(); }

  // One request; params is the text of a JSON object. Replies come in the order of the requests.
  base::HostResult<void> send(std::string_view method, std::string_view params, const std::vector<int>& fds = {});
  // The text of "result", or the error of the sentry with the guest's errno in host_errno.
  base::HostResult<std::string> receive();
  base::HostResult<std::string> call(std::string_view method, std::string_view params,
                                     const std::vector<int>& fds = {});
  // Gives up on a sentry that does not answer.
  void set_timeout(int seconds);

 private:
  base::UniqueFd socket_;
};

// `text` as a JSON string, quotes included.
std::string json_quoted(std::string_view text);
// An integer member of a result; an error when it is not there.
base::HostResult<int64_t> result_integer(std::string_view result, const char* key);

}  // namespace cli
