// SPDX-License-Identifier: Apache-2.0
#include "sentry/control/protocol.h"

#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/json/reader.h"

namespace sentry::control {

using abi::oci::CapabilitySets;
using abi::oci::Container;
using abi::oci::Mount;
using abi::oci::NetworkMode;
using abi::oci::Process;
using abi::oci::Rlimit;
using abi::oci::RootOverlay;
using abi::oci::Sandbox;
using base::HostErr;
using base::HostError;
using base::HostResult;
using base::Json;
using base::JsonReader;

namespace {

constexpr size_t kMaxGroups = 65536;  // NGROUPS_MAX
constexpr size_t kMaxRlimits = 64;
constexpr size_t kMaxMounts = 4096;

Json to_json(const Mount& m) {
  return {
      {"destination", m.destination}, {"type", m.type},       {"source", m.source},
      {"options", m.options},         {"flags", m.flags},     {"is_file", m.is_file},
      {"gofer_tree", m.gofer_tree},   {"overlay", m.overlay}, {"shared", m.shared},
  };
}

void read_process(const JsonReader& r, Process& p) {
  r.must_be_object();
  r.strings("args", p.args);
  r.strings("env", p.env);
  r.string("cwd", p.cwd);
  r.integer("uid", p.uid);
  r.integer("gid", p.gid);
  r.integers("additional_gids", p.additional_gids, kMaxGroups);
  r.integer("umask", p.umask, 0u, 0777u);
  JsonReader caps = r.object("capabilities");
  caps.integer("effective", p.capabilities.effective);
  caps.integer("permitted", p.capabilities.permitted);
  caps.integer("inheritable", p.capabilities.inheritable);
  caps.integer("bounding", p.capabilities.bounding);
  caps.integer("ambient", p.capabilities.ambient);
  r.boolean("no_new_privileges", p.no_new_privileges);
  for (const JsonReader& item : r.array("rlimits", kMaxRlimits)) {
    item.must_be_object();
    Rlimit limit;
    item.integer("resource", limit.resource, 0, 15, JsonReader::Need::kRequired);
    item.integer("soft", limit.soft);
    item.integer("hard", limit.hard);
    p.rlimits.push_back(limit);
  }
  r.integer("oom_score_adj", p.oom_score_adj, -1000, 1000);
  r.string("program", p.program);
  r.boolean("terminal", p.terminal);
  r.integer("columns", p.columns);
  r.integer("rows", p.rows);
}

void read_mount(const JsonReader& r, Mount& m) {
  r.must_be_object();
  r.string("destination", m.destination, JsonReader::Need::kRequired);
  r.string("type", m.type, JsonReader::Need::kRequired);
  r.string("source", m.source);
  r.strings("options", m.options);
  r.integer("flags", m.flags);
  r.boolean("is_file", m.is_file);
  r.integer("gofer_tree", m.gofer_tree, -1, 1 << 20);
  r.boolean("overlay", m.overlay);
  r.boolean("shared", m.shared);
}

// Lets `read` fill a T, and turns the reader's error into ours.
template <typename T, typename Read>
HostResult<T> decode(const Json& json, const char* what, Read read) {
  T out;
  std::string error;
  JsonReader root(json, &error);
  root.must_be_object();
  read(root, out);
  if (!error.empty()) return HostErr(HostError::plain(fmt::format("{}: {}", what, error)));
  return out;
}

HostResult<Json> parse(std::string_view text, const char* what) {
  HostResult<Json> json = base::parse_json(text);
  if (!json) return HostErr(std::move(json.error()).wrap(what));
  return json;
}

}  // namespace

Json json_of(const Process& p) {
  Json rlimits = Json::array();
  for (const Rlimit& r : p.rlimits)
    rlimits.push_back({{"resource", r.resource}, {"soft", r.soft}, {"hard", r.hard}});
  const CapabilitySets& c = p.capabilities;
  return {
      {"args", p.args},
      {"env", p.env},
      {"cwd", p.cwd},
      {"uid", p.uid},
      {"gid", p.gid},
      {"additional_gids", p.additional_gids},
      {"umask", p.umask},
      {"capabilities",
       {{"effective", c.effective},
        {"permitted", c.permitted},
        {"inheritable", c.inheritable},
        {"bounding", c.bounding},
        {"ambient", c.ambient}}},
      {"no_new_privileges", p.no_new_privileges},
      {"rlimits", std::move(rlimits)},
      {"oom_score_adj", p.oom_score_adj},
      {"program", p.program},
      {"terminal", p.terminal},
      {"columns", p.columns},
      {"rows", p.rows},
  };
}

std::string encode_process(const Process& p) { return base::dump_json(json_of(p)); }

HostResult<Process> process_from(const Json& json) { return decode<Process>(json, "process", read_process); }
HostResult<Process> decode_process(std::string_view text) { return process_from(TRY(parse(text, "process"))); }

std::string encode_sandbox(const Sandbox& s) {
  return base::dump_json(Json{
      {"id", s.id},
      {"platform", s.platform},
      {"network", s.network == NetworkMode::kHost ? "host" : "none"},
      {"cpus", s.cpus},
      {"memory_limit", s.memory_limit},
      {"strace", s.strace},
      {"debug", s.debug},
      {"log_format", s.log_format},
  });
}

HostResult<Sandbox> decode_sandbox(std::string_view text) {
  return decode<Sandbox>(TRY(parse(text, "sandbox")), "sandbox", [](const JsonReader& r, Sandbox& s) {
    r.string("id", s.id, JsonReader::Need::kRequired);
    r.string("platform", s.platform);
    std::string network = "none";
    r.string("network", network);
    if (network != "none" && network != "host") r.fail("network", "must be none or host");
    s.network = network == "host" ? NetworkMode::kHost : NetworkMode::kNone;
    r.integer("cpus", s.cpus);
    r.integer("memory_limit", s.memory_limit);
    r.boolean("strace", s.strace);
    r.boolean("debug", s.debug);
    r.string("log_format", s.log_format);
  });
}

std::string encode_container(const Container& c) {
  Json mounts = Json::array();
  for (const Mount& m : c.mounts) mounts.push_back(to_json(m));
  return base::dump_json(Json{
      {"id", c.id},
      {"process", json_of(c.process)},
      {"root_readonly", c.root_readonly},
      {"root_overlay", c.root_overlay == RootOverlay::kMemory ? "memory" : "none"},
      {"init_ordinary", c.init_ordinary},
      {"hostname", c.hostname},
      {"domainname", c.domainname},
      {"mounts", std::move(mounts)},
      {"masked_paths", c.masked_paths},
      {"readonly_paths", c.readonly_paths},
      {"annotations", c.annotations},
      {"sysctl", c.sysctl},
  });
}

HostResult<Container> decode_container(std::string_view text) { return container_from(TRY(parse(text, "container"))); }

HostResult<Container> container_from(const Json& json) {
  return decode<Container>(json, "container", [](const JsonReader& r, Container& c) {
    r.string("id", c.id, JsonReader::Need::kRequired);
    JsonReader process = r.object("process", JsonReader::Need::kRequired);
    if (process.present()) read_process(process, c.process);
    r.boolean("root_readonly", c.root_readonly);
    std::string overlay = "memory";
    r.string("root_overlay", overlay);
    if (overlay != "memory" && overlay != "none") r.fail("root_overlay", "must be memory or none");
    c.root_overlay = overlay == "memory" ? RootOverlay::kMemory : RootOverlay::kNone;
    r.boolean("init_ordinary", c.init_ordinary);
    r.string("hostname", c.hostname);
    r.string("domainname", c.domainname);
    for (const JsonReader& item : r.array("mounts", kMaxMounts)) read_mount(item, c.mounts.emplace_back());
    r.strings("masked_paths", c.masked_paths);
    r.strings("readonly_paths", c.readonly_paths);
    r.string_map("annotations", c.annotations);
    r.string_map("sysctl", c.sysctl);
  });
}

namespace {

HostResult<void> send_rest(int socket, const char* data, size_t size) {
  while (size > 0) {
    ssize_t n = ::send(socket, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return HostErr(HostError::from_errno("send to the control socket"));
    data += n;
    size -= static_cast<size_t>(n);
  }
  return {};
}

// The first bytes of a message, with its descriptors. Returns how many bytes came (0: end of stream).
HostResult<size_t> receive_first(int socket, char* data, size_t size, std::vector<base::UniqueFd>& fds) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  iovec iov{data, size};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  ssize_t n;
  do {
    n = ::recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return HostErr(HostError::from_errno("receive from the control socket"));
  for (cmsghdr* c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  if (msg.msg_flags & MSG_CTRUNC) return HostErr(HostError::plain("control message: too many descriptors"));
  return static_cast<size_t>(n);
}

HostResult<void> receive_exactly(int socket, char* data, size_t size) {
  while (size > 0) {
    ssize_t n = ::recv(socket, data, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return HostErr(HostError::from_errno("receive from the control socket"));
    if (n == 0) return HostErr(HostError::plain("control message: cut short"));
    data += n;
    size -= static_cast<size_t>(n);
  }
  return {};
}

}  // namespace

HostResult<void> send_message(int socket, std::string_view json, const std::vector<int>& fds) {
  if (json.size() > kMaxMessage) return HostErr(HostError::plain("control message: too large"));
  if (fds.size() > kMaxFds) return HostErr(HostError::plain("control message: too many descriptors"));
  auto length = static_cast<uint32_t>(json.size());
  unsigned char prefix[4];
  for (int i = 0; i < 4; ++i) prefix[i] = static_cast<unsigned char>(length >> (8 * i));
  iovec iov[2] = {{prefix, sizeof prefix}, {const_cast<char*>(json.data()), json.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)] = {};
  msghdr msg{};
  msg.msg_iov = iov;
  msg.msg_iovlen = 2;
  if (!fds.empty()) {
    msg.msg_control = control;
    msg.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
  }
  ssize_t n;
  do {
    n = ::sendmsg(socket, &msg, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return HostErr(HostError::from_errno("send to the control socket"));
  auto sent = static_cast<size_t>(n);
  if (sent < sizeof prefix) {  // descriptors went with the first byte already
    TRY(send_rest(socket, reinterpret_cast<const char*>(prefix) + sent, sizeof prefix - sent));
    sent = sizeof prefix;
  }
  return send_rest(socket, json.data() + (sent - sizeof prefix), json.size() - (sent - sizeof prefix));
}

HostResult<Message> recv_message(int socket) {
  Message message;
  unsigned char prefix[4];
  size_t got = TRY(receive_first(socket, reinterpret_cast<char*>(prefix), sizeof prefix, message.fds));
  if (got == 0) return message;
  TRY(receive_exactly(socket, reinterpret_cast<char*>(prefix) + got, sizeof prefix - got));
  uint32_t length = 0;
  for (int i = 0; i < 4; ++i) length |= uint32_t{prefix[i]} << (8 * i);
  if (length == 0) return HostErr(HostError::plain("control message: empty"));
  if (length > kMaxMessage) return HostErr(HostError::plain("control message: too large"));
  // Memory grows with what arrives, not with what the length promises.
  constexpr size_t kStep = 64 * 1024;
  while (message.json.size() < length) {
    size_t have = message.json.size();
    size_t step = std::min(kStep, length - have);
    message.json.resize(have + step);
    TRY(receive_exactly(socket, message.json.data() + have, step));
  }
  return message;
}

}  // namespace sentry::control
