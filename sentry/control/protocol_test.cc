// SPDX-License-Identifier: Apache-2.0
#include "sentry/control/protocol.h"

#include <cstring>
#include <thread>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

namespace sentry::control {
namespace {

struct Pair {
  base::UniqueFd a, b;
  Pair() {
    int fds[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    a.reset(fds[0]);
    b.reset(fds[1]);
  }
};

void put(int fd, const void* data, size_t size) { REQUIRE(write(fd, data, size) == static_cast<ssize_t>(size)); }

TEST_CASE("Protocol: a container survives the round trip") {
  abi::oci::Container c;
  c.id = "c1";
  c.process.args = {"/bin/sh", "-c", "echo \"hi\"\n"};
  c.process.env = {"PATH=/bin", "X="};
  c.process.additional_gids = {1, 4294967295u};
  c.process.capabilities.bounding = ~uint64_t{0};
  c.process.rlimits = {{7, 1024, ~uint64_t{0}}};
  c.process.oom_score_adj = -500;
  c.process.program = "/bin/busybox";
  c.process.terminal = true;
  c.process.columns = 80;
  c.root_overlay = abi::oci::RootOverlay::kNone;
  c.mounts.push_back({"/proc", "proc", "proc", {}, 14, false, -1, false, false});
  c.mounts.push_back({"/etc/hosts", "bind", "/h", {"x=1"}, 1, true, 3, true, true});
  c.masked_paths = {"/proc/kcore"};
  c.annotations = {{"a.b", "c"}};
  c.sysctl = {{"net.x", "1"}};
  auto back = decode_container(encode_container(c));
  REQUIRE(back.has_value());
  CHECK(encode_container(*back) == encode_container(c));
  CHECK(back->process.additional_gids[1] == 4294967295u);
  CHECK(back->process.rlimits[0].hard == ~uint64_t{0});
  CHECK(back->mounts[1].gofer_tree == 3);
  CHECK(back->process.oom_score_adj == -500);
  CHECK(back->process.program == "/bin/busybox");
}

TEST_CASE("Protocol: decoding names the field that is wrong") {
  struct Row {
    const char* json;
    const char* expected;
  };
  const Row rows[] = {
      {"", "not valid JSON"},
      {"[]", "must be an object"},
      {R"({"id":1})", "id: must be a string"},
      {R"({"process":{}})", "id: is missing"},
      {R"({"id":"x"})", "process: is missing"},
      {R"({"id":"x","process":[]})", "process: must be an object"},
      {R"({"id":"x","process":{"args":"sh"}})", "process.args: must be an array"},
      {R"({"id":"x","process":{"args":[1]}})", "process.args[0]: must be a string"},
      {R"({"id":"x","process":{"args":["a\u0000b"]}})", "process.args[0]: must not contain a NUL byte"},
      {R"({"id":"x","process":{"uid":-1}})", "process.uid: must be from 0"},
      {R"({"id":"x","process":{"uid":4294967296}})", "process.uid: must be from 0"},
      {R"({"id":"x","process":{"uid":1.5}})", "process.uid: must be an integer"},
      {R"({"id":"x","process":{"rlimits":[{"resource":99}]}})", "process.rlimits[0].resource: must be from 0 to 15"},
      {R"({"id":"x","process":{},"mounts":[{}]})", "mounts[0].destination: is missing"},
      {R"({"id":"x","process":{},"mounts":[{"destination":"/","type":"bind","gofer_tree":-2}]})", "gofer_tree"},
      {R"({"id":"x","process":{},"root_overlay":"disk"})", "root_overlay: must be memory or none"},
      {R"({"id":"x","process":{},"annotations":{"k":1}})", "annotations.k: must be a string"},
  };
  for (const Row& row : rows) {
    auto got = decode_container(row.json);
    INFO(row.json);
    REQUIRE_FALSE(got.has_value());
    CHECK(got.error().message.find(row.expected) != std::string::npos);
  }
}

TEST_CASE("Protocol: absurdly deep documents are refused without a crash") {
  CHECK_FALSE(decode_container(std::string(2'000'000, '[')).has_value());
  std::string closed = std::string(200'000, '[') + std::string(200'000, ']');
  CHECK_FALSE(decode_container("{\"id\":" + closed + "}").has_value());
}

TEST_CASE("Protocol: a message carries its descriptors") {
  Pair p;
  REQUIRE(send_message(p.a.get(), "{\"x\":1}", {0, 1}).has_value());
  auto m = recv_message(p.b.get());
  REQUIRE(m.has_value());
  CHECK(m->json == "{\"x\":1}");
  CHECK(m->fds.size() == 2);
  CHECK((fcntl(m->fds[0].get(), F_GETFD) & FD_CLOEXEC) != 0);
  p.a.reset();
  m = recv_message(p.b.get());
  REQUIRE(m.has_value());
  CHECK(m->json.empty());
}

TEST_CASE("Protocol: large messages pass whole") {
  Pair p;
  std::string big(3 << 20, 'x');
  std::thread sender([&] { CHECK(send_message(p.a.get(), big, {1}).has_value()); });
  auto m = recv_message(p.b.get());
  sender.join();
  REQUIRE(m.has_value());
  CHECK(m->json == big);
  CHECK(m->fds.size() == 1);
  CHECK_FALSE(send_message(p.a.get(), std::string(kMaxMessage + 1, 'x')).has_value());
  CHECK_FALSE(send_message(p.a.get(), "x", std::vector<int>(kMaxFds + 1, 0)).has_value());
}

TEST_CASE("Protocol: hostile framing is an error") {
  SECTION("promised more than allowed") {
    Pair p;
    put(p.a.get(), "\xff\xff\xff\xff", 4);
    CHECK_FALSE(recv_message(p.b.get()).has_value());
  }
  SECTION("an empty message") {
    Pair p;
    put(p.a.get(), "\0\0\0\0", 4);
    CHECK_FALSE(recv_message(p.b.get()).has_value());
  }
  SECTION("cut inside the length") {
    Pair p;
    put(p.a.get(), "\x05", 1);
    p.a.reset();
    CHECK_FALSE(recv_message(p.b.get()).has_value());
  }
  SECTION("cut inside the text") {
    Pair p;
    put(p.a.get(), "\x05\0\0\0ab", 6);
    p.a.reset();
    CHECK_FALSE(recv_message(p.b.get()).has_value());
  }
  SECTION("one byte at a time") {
    Pair p;
    const char bytes[] = {3, 0, 0, 0, 'a', 'b', 'c'};
    std::thread sender([&] {
      for (char c : bytes) put(p.a.get(), &c, 1);
    });
    auto m = recv_message(p.b.get());
    sender.join();
    REQUIRE(m.has_value());
    CHECK(m->json == "abc");
  }
  SECTION("more descriptors than allowed are closed, not kept") {
    Pair p;
    int fds[kMaxFds + 8];
    for (int& fd : fds) fd = 0;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)] = {};
    char data[4] = {1, 0, 0, 0};
    iovec iov{data, sizeof data};
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control;
    msg.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(c), fds, sizeof fds);
    REQUIRE(sendmsg(p.a.get(), &msg, 0) == 4);
    int probe_before = dup(0);
    close(probe_before);
    CHECK_FALSE(recv_message(p.b.get()).has_value());
    int probe_after = dup(0);
    close(probe_after);
    CHECK(probe_before == probe_after);
  }
}

}  // namespace
}  // namespace sentry::control
