// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/unix.h"

#include <thread>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/test_context.h"
#include "tests/util/catch.h"

using namespace sentry;
using abi::Errno;
using base::RefPtr;

namespace {

struct World {
  std::unique_ptr<memory::MemoryFile> memory = std::move(*memory::MemoryFile::create());
  vfs::TestContext ctx{*fs::tmpfs::create(*memory, {})};
};

base::Result<size_t> send(vfs::OpContext& ctx, net::Socket& s, std::string text, net::SendArgs args = {}) {
  vfs::KernelIoBuffer src({reinterpret_cast<uint8_t*>(text.data()), text.size()});
  return s.send(ctx, src, args);
}

struct Received {
  std::string text;
  net::RecvResult result;
};
base::Result<Received> receive(vfs::OpContext& ctx, net::Socket& s, size_t n, uint32_t flags = net::kMsgDontWait) {
  std::string bytes(n, '\0');
  vfs::KernelIoBuffer dst({reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()});
  net::RecvResult r = TRY(s.receive(ctx, dst, flags));
  bytes.resize(std::min(n, r.bytes));
  return Received{std::move(bytes), std::move(r)};
}

net::SocketAddress address(std::string_view name) {
  net::SocketAddress a;
  a.bytes[0] = net::kAfUnix;
  std::memcpy(a.bytes.data() + 2, name.data(), name.size());
  a.length = static_cast<uint32_t>(2 + name.size());
  return a;
}

}  // namespace

TEST_CASE("UnixSocket: a stream pair carries bytes, ends and reports broken pipes") {
  World w;
  auto pair = *net::create_unix_pair(w.ctx, net::kSockStream, 0, 0);
  CHECK(*send(w.ctx, *pair.first, "hello") == 5);
  CHECK(*send(w.ctx, *pair.first, " world") == 6);
  CHECK(receive(w.ctx, *pair.second, 4, net::kMsgPeek | net::kMsgDontWait)->text == "hell");
  CHECK(receive(w.ctx, *pair.second, 64)->text == "hello world");
  CHECK(receive(w.ctx, *pair.second, 64).error() == Errno::kEAGAIN);
  CHECK((pair.second->readiness(~0u) & vfs::kPollIn) == 0);
  CHECK((pair.second->readiness(~0u) & vfs::kPollOut) != 0);
  CHECK(*send(w.ctx, *pair.second, "last") == 4);
  pair.second.reset();
  CHECK(receive(w.ctx, *pair.first, 64)->text == "last");
  CHECK(receive(w.ctx, *pair.first, 64)->text == "");
  CHECK((pair.first->readiness(~0u) & vfs::kPollHup) != 0);
  CHECK(send(w.ctx, *pair.first, "x").error() == Errno::kEPIPE);
  CHECK(w.ctx.raised == std::vector<int32_t>{13});
}

TEST_CASE("UnixSocket: a close with unread bytes resets the peer") {
  World w;
  auto pair = *net::create_unix_pair(w.ctx, net::kSockStream, 0, 0);
  CHECK(*send(w.ctx, *pair.first, "unread") == 6);
  pair.second.reset();
  CHECK(receive(w.ctx, *pair.first, 1).error() == Errno::kECONNRESET);
  CHECK(receive(w.ctx, *pair.first, 1)->text == "");
}

TEST_CASE("UnixSocket: a full stream would block and every byte arrives in order") {
  World w;
  auto pair = *net::create_unix_pair(w.ctx, net::kSockStream, 0, vfs::kO_NONBLOCK);
  std::string sent;
  for (int i = 0;; ++i) {
    std::string piece(1000, static_cast<char>('a' + i % 26));
    auto n = send(w.ctx, *pair.first, piece);
    if (!n) {
      CHECK(n.error() == Errno::kEAGAIN);
      break;
    }
    sent += piece.substr(0, *n);
  }
  CHECK((pair.first->readiness(~0u) & vfs::kPollOut) == 0);
  std::string got;
  while (got.size() < sent.size()) got += receive(w.ctx, *pair.second, 777)->text;
  CHECK(got == sent);
  CHECK((pair.first->readiness(~0u) & vfs::kPollOut) != 0);
}

TEST_CASE("UnixSocket: a blocking transfer between two threads is complete") {
  World w;
  vfs::TestContext other(w.ctx);
  auto pair = *net::create_unix_pair(w.ctx, net::kSockStream, 0, 0);
  constexpr size_t kTotal = 4 << 20;
  std::string data(kTotal, '\0');
  for (size_t i = 0; i < kTotal; ++i) data[i] = static_cast<char>(i * 31 >> 7);
  std::thread writer([&] { (void)send(other, *pair.first, data); });
  std::string got;
  while (got.size() < kTotal) {
    auto piece = receive(w.ctx, *pair.second, 10000, 0);
    if (!piece || piece->text.empty()) break;
    got += piece->text;
  }
  writer.join();
  CHECK(got == data);
}

TEST_CASE("UnixSocket: descriptors travel with their bytes and bound one read") {
  World w;
  auto pair = *net::create_unix_pair(w.ctx, net::kSockStream, 0, 0);
  auto carried = *net::create_unix_pair(w.ctx, net::kSockDgram, 0, 0);
  CHECK(*send(w.ctx, *pair.first, "plain") == 5);
  net::SendArgs args;
  args.control.files.push_back(carried.first);
  CHECK(*send(w.ctx, *pair.first, "with", std::move(args)) == 4);
  CHECK(*send(w.ctx, *pair.first, "after") == 5);
  CHECK(receive(w.ctx, *pair.second, 64)->text == "plain");
  auto with = receive(w.ctx, *pair.second, 64);
  CHECK(with->text == "with");
  REQUIRE(with->result.control.files.size() == 1);
  CHECK(with->result.control.files[0].get() == carried.first.get());
  CHECK(receive(w.ctx, *pair.second, 64)->text == "after");
}

TEST_CASE("UnixSocket: a deep chain of sockets inside sockets is closed without recursion") {
  World w;
  auto keep = *net::create_unix_pair(w.ctx, net::kSockStream, 0, 0);
  for (int i = 0; i < 10000; ++i) {
    auto next = *net::create_unix_pair(w.ctx, net::kSockStream, 0, 0);
    net::SendArgs args;
    args.control.files.push_back(keep.first);
    args.control.files.push_back(keep.second);
    REQUIRE(*send(w.ctx, *next.first, "x", std::move(args)) == 1);
    keep = std::move(next);
    if (i == 8000) break;  // below the bound of descriptors in flight
  }
  keep = {};
  SUCCEED();
}

TEST_CASE("UnixSocket: datagrams keep their borders, truncate and name their sender") {
  World w;
  auto a = *net::create_unix_socket(w.ctx, net::kSockDgram, 0, 0);
  auto b = *net::create_unix_socket(w.ctx, net::kSockDgram, 0, 0);
  REQUIRE(a->bind(w.ctx, address(std::string_view("\0left", 5))));
  REQUIRE(b->bind(w.ctx, address("/right")));
  CHECK(b->bind(w.ctx, address("/again")).error() == Errno::kEINVAL);
  net::SendArgs args;
  const net::SocketAddress to = address("/right");
  args.to = &to;
  CHECK(*send(w.ctx, *a, "first message", args) == 13);
  CHECK(*send(w.ctx, *a, "", args) == 0);
  auto got = receive(w.ctx, *b, 5);
  CHECK(got->text == "first");
  CHECK((got->result.flags & net::kMsgTrunc) != 0);
  CHECK(got->result.from.length == 7);
  CHECK(receive(w.ctx, *b, 5)->text == "");
  CHECK(receive(w.ctx, *b, 5).error() == Errno::kEAGAIN);
  auto c = *net::create_unix_socket(w.ctx, net::kSockDgram, 0, 0);
  CHECK(c->bind(w.ctx, address("/right")).error() == Errno::kEADDRINUSE);
  b.reset();
  CHECK(send(w.ctx, *a, "x", args).error() == Errno::kECONNREFUSED);
  const net::SocketAddress missing = address("/missing");
  args.to = &missing;
  CHECK(send(w.ctx, *a, "x", args).error() == Errno::kENOENT);
}

TEST_CASE("UnixSocket: listen, connect, accept") {
  World w;
  for (std::string_view name : {std::string_view("/server"), std::string_view("\0server", 7)}) {
    auto server = *net::create_unix_socket(w.ctx, net::kSockStream, 0, vfs::kO_NONBLOCK);
    CHECK(server->listen(w.ctx, 1).error() == Errno::kEINVAL);
    REQUIRE(server->bind(w.ctx, address(name)));
    auto early = *net::create_unix_socket(w.ctx, net::kSockStream, 0, 0);
    CHECK(early->connect(w.ctx, address(name)).error() == Errno::kECONNREFUSED);
    REQUIRE(server->listen(w.ctx, 1));
    CHECK(server->accept(w.ctx, 0, nullptr).error() == Errno::kEAGAIN);
    auto client = *net::create_unix_socket(w.ctx, net::kSockStream, 0, 0);
    REQUIRE(client->connect(w.ctx, address(name)));
    CHECK(client->connect(w.ctx, address(name)).error() == Errno::kEISCONN);
    CHECK((server->readiness(~0u) & vfs::kPollIn) != 0);
    CHECK(*send(w.ctx, *client, "early bytes") == 11);
    RefPtr<net::Socket> accepted = *server->accept(w.ctx, 0, nullptr);
    CHECK(receive(w.ctx, *accepted, 64)->text == "early bytes");
    auto second = *net::create_unix_socket(w.ctx, net::kSockStream, 0, vfs::kO_NONBLOCK);
    auto third = *net::create_unix_socket(w.ctx, net::kSockStream, 0, vfs::kO_NONBLOCK);
    auto fourth = *net::create_unix_socket(w.ctx, net::kSockStream, 0, vfs::kO_NONBLOCK);
    CHECK(second->connect(w.ctx, address(name)));
    CHECK(third->connect(w.ctx, address(name)));
    CHECK(fourth->connect(w.ctx, address(name)).error() == Errno::kEAGAIN);
    server.reset();
    CHECK(receive(w.ctx, *second, 1).error() == Errno::kECONNRESET);
    auto dgram = *net::create_unix_socket(w.ctx, net::kSockDgram, 0, 0);
    CHECK(dgram->listen(w.ctx, 1).error() == Errno::kEOPNOTSUPP);
  }
}
