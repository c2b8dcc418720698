// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/container/client.h"

#include <cctype>
#include <cstring>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/json/reader.h"
#include "sentry/control/protocol.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::Json;

namespace {

// "program /x: ENOENT" -> "program /x: no such file or directory": the words that callers look for.
void name_errno(HostError& error) {
  size_t colon = error.message.rfind(": E");
  if (colon == std::string::npos ||
      error.message.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", colon + 2) != std::string::npos)
    return;
  std::string reason = strerror(error.host_errno);
  reason[0] = static_cast<char>(tolower(static_cast<unsigned char>(reason[0])));
  error.message.replace(colon + 2, std::string::npos, reason);
}

}  // namespace

HostResult<void> ControlClient::send(std::string_view method, std::string_view params, const std::vector<int>& fds) {
  std::string text = fmt::format("{{\"version\":{},\"method\":\"{}\",\"params\":{}}}", sentry::control::kProtocolVersion,
                                 method, params);
  return sentry::control::send_message(socket_.get(), text, fds);
}

HostResult<std::string> ControlClient::receive() {
  sentry::control::Message message = TRY(sentry::control::recv_message(socket_.get()));
  if (message.json.empty()) return HostErr(HostError::plain("the sandbox has ended"));
  HostResult<Json> json = base::parse_json(message.json);
  if (!json) return HostErr(std::move(json.error()).wrap("reply of the sandbox"));
  std::string problem;
  base::JsonReader r(*json, &problem);
  bool ok = false;
  r.boolean("ok", ok);
  if (ok) return r.has("result") ? base::dump_json((*json)["result"]) : std::string("{}");
  HostError error;
  r.string("error", error.message);
  r.integer("errno", error.host_errno);
  if (error.host_errno > 0) name_errno(error);
  if (error.message.empty()) error.message = "the sandbox refused without a reason";
  return HostErr(std::move(error));
}

HostResult<std::string> ControlClient::call(std::string_view method, std::string_view params,
                                            const std::vector<int>& fds) {
  TRY(send(method, params, fds));
  return receive();
}

void ControlClient::set_timeout(int seconds) {
  timeval tv{seconds, 0};
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
  setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
}

std::string json_quoted(std::string_view text) { return base::dump_json(Json(std::string(text))); }

HostResult<int64_t> result_integer(std::string_view result, const char* key) {
  HostResult<Json> json = base::parse_json(result);
  if (!json) return HostErr(std::move(json.error()));
  std::string error;
  int64_t value = 0;
  base::JsonReader(*json, &error).integer(key, value, base::JsonReader::Need::kRequired);
  if (!error.empty()) return HostErr(HostError::plain("reply of the sandbox: " + error));
  return value;
}

}  // namespace cli
