// SPDX-License-Identifier: Apache-2.0
#include "sentry/control/server.h"

#include <cerrno>
#include <cstring>
#include <map>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>

#include "base/log/log.h"
#include "base/sync/mutex.h"
#include "sentry/control/protocol.h"

namespace sentry::control {

namespace {

using Json = nlohmann::json;

constexpr size_t kReadChunk = 64 << 10;
constexpr size_t kMaxConnections = 256;

}  // namespace

// Connections are touched on the reactor's thread only, except `alive` and sending, which replies from other
// threads share under `send_mu`.
struct Connection : std::enable_shared_from_this<Connection> {
  explicit Connection(base::UniqueFd socket) : fd(std::move(socket)) {}
  base::UniqueFd fd;
  kernel::Reactor::WatchId watch = 0;
  std::string in;
  std::vector<base::UniqueFd> in_fds;
  base::Mutex send_mu{base::LockRank::kControl};
  bool alive GUARDED_BY(send_mu) = true;
  std::function<void()> hangup;  // reactor's thread

  void send_json(const std::string& json) {
    base::MutexLock lock(send_mu);
    if (!alive) return;
    // A peer that does not read its (small) reply is cut off rather than waited for.
    if (auto sent = send_message(fd.get(), json); !sent) LOG_DEBUG("control reply: {}", sent.error().message);
  }
};

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  kernel::Reactor& reactor;
  base::UniqueFd listener;
  RequestHandler handler;
  kernel::Reactor::WatchId watch = 0;
  std::map<Connection*, std::shared_ptr<Connection>> connections;

  Impl(kernel::Reactor& r, base::UniqueFd l, RequestHandler h) : reactor(r), listener(std::move(l)), handler(std::move(h)) {}
  void accept_all();
  void readable(const std::shared_ptr<Connection>& connection);
  bool read_some(Connection& connection);
  bool handle_frames(const std::shared_ptr<Connection>& connection);
  bool handle_one(const std::shared_ptr<Connection>& connection, std::string_view text);
  void drop(Connection& connection);
};

namespace {

class SocketRequest final : public Request {
 public:
  SocketRequest(std::shared_ptr<Connection> connection, std::string method, Json params,
                std::vector<base::UniqueFd> fds)
      : connection_(std::move(connection)) {
    method_ = std::move(method);
    params_ = std::move(params);
    fds_ = std::move(fds);
  }
  void reply_ok(const std::string& result_json) override {
    connection_->send_json("{\"ok\":true,\"result\":" + (result_json.empty() ? "{}" : result_json) + "}");
  }
  void reply_error(const std::string& text, int guest_errno) override {
    Json reply = {{"ok", false}, {"error", text}, {"errno", guest_errno}};
    connection_->send_json(reply.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  bool is_cancelled() const override {
    base::MutexLock lock(connection_->send_mu);
    return !connection_->alive;
  }
  void on_hangup(std::function<void()> action) override { connection_->hangup = std::move(action); }

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace

void Server::Impl::accept_all() {
  for (;;) {
    base::UniqueFd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) return;
    if (connections.size() >= kMaxConnections) continue;
    auto connection = std::make_shared<Connection>(std::move(fd));
    connections[connection.get()] = connection;
    std::weak_ptr<Connection> weak = connection;
    connection->watch = reactor.on_readable(connection->fd.get(), [this, weak] {
      if (auto strong = weak.lock()) readable(strong);
    });
  }
}

void Server::Impl::readable(const std::shared_ptr<Connection>& connection) {
  bool open = read_some(*connection);
  if (!handle_frames(connection) || !open) drop(*connection);
}

bool Server::Impl::read_some(Connection& connection) {
  for (;;) {
    char data[kReadChunk];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
    iovec iov{data, sizeof data};
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control;
    msg.msg_controllen = sizeof control;
    ssize_t n = recvmsg(connection.fd.get(), &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    for (cmsghdr* c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int fd;
        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
        connection.in_fds.emplace_back(fd);
      }
    }
    if (n == 0) return false;
    if (connection.in.size() + static_cast<size_t>(n) > kMaxMessage + 4 || connection.in_fds.size() > kMaxFds) return false;
    connection.in.append(data, static_cast<size_t>(n));
  }
}

bool Server::Impl::handle_frames(const std::shared_ptr<Connection>& connection) {
  std::string& in = connection->in;
  while (in.size() >= 4) {
    uint32_t length;
    memcpy(&length, in.data(), sizeof length);
    if (length == 0 || length > kMaxMessage) return false;
    if (in.size() - 4 < length) return true;
    std::string text = in.substr(4, length);
    in.erase(0, 4 + size_t{length});
    if (!handle_one(connection, text)) return false;
  }
  return true;
}

bool Server::Impl::handle_one(const std::shared_ptr<Connection>& connection, std::string_view text) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return false;
  auto method = json.find("method");
  if (method == json.end() || !method->is_string()) return false;
  auto version = json.find("version");
  auto params = json.find("params");
  auto request = std::make_shared<SocketRequest>(
      connection, method->get<std::string>(), params != json.end() && params->is_object() ? std::move(*params) : Json::object(),
      std::exchange(connection->in_fds, {}));
  if (version == json.end() || !version->is_number_integer() || version->get<int64_t>() != kProtocolVersion) {
    request->reply_error("control protocol version differs: the sandbox was started by another runsc", 0);
    return true;
  }
  handler(std::move(request));
  return true;
}

void Server::Impl::drop(Connection& connection) {
  reactor.unwatch(connection.watch);
  {
    base::MutexLock lock(connection.send_mu);
    connection.alive = false;
  }
  if (auto action = std::exchange(connection.hangup, nullptr)) action();
  connections.erase(&connection);
}

Server::Server(kernel::Reactor& reactor, base::UniqueFd listener, RequestHandler handler)
    : impl_(std::make_shared<Impl>(reactor, std::move(listener), std::move(handler))) {
  int flags = fcntl(impl_->listener.get(), F_GETFL);
  fcntl(impl_->listener.get(), F_SETFL, flags | O_NONBLOCK);
  impl_->watch = reactor.on_readable(impl_->listener.get(), [impl = impl_.get()] { impl->accept_all(); });
}

Server::~Server() { impl_->reactor.unwatch(impl_->watch); }

}  // namespace sentry::control
