// SPDX-License-Identifier: Apache-2.0
// Server: the sentry's end of the control protocol. Runs on the reactor's thread; a peer that sends nonsense loses its
// connection and nothing else.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/host/unique_fd.h"
#include "sentry/kernel/reactor.h"

namespace sentry::control {

// One request and its way back. reply_*() may be called from any thread, once; a reply to a closed
// connection is dropped.
class Request {
 public:
  virtual ~Request() = default;
  const std::string& method() const { return method_; }
  const nlohmann::json& params() const { return params_; }  // an object
  std::vector<base::UniqueFd>& fds() { return fds_; }
  virtual void reply_ok(const std::string& result_json) = 0;
  virtual void reply_error(const std::string& text, int guest_errno) = 0;
  // Asks whether the peer is still there (a cancelled wait).
  virtual bool is_cancelled() const = 0;
  // Calls `action` on the reactor's thread when the peer closes the connection. One per connection: the last wins.
  virtual void on_hangup(std::function<void()> action) = 0;

 protected:
  std::string method_;
  nlohmann::json params_;
  std::vector<base::UniqueFd> fds_;
};

using RequestHandler = std::function<void(std::shared_ptr<Request>)>;

class Server {
 public:
  // Takes the listening socket. Requests arrive at `handler` on the reactor's thread.
  Server(kernel::Reactor& reactor, base::UniqueFd listener, RequestHandler handler);
  ~Server();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace sentry::control
