// SPDX-License-Identifier: Apache-2.0
// Each end against a peer that lies.
#include <random>
#include <thread>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gofer/proto/packed_list.h"
#include "tests/gofer/gofer_process.h"
#include "tests/util/catch.h"

using namespace gofer;
using test::GoferProcess;
using test::TempDir;
using enum abi::Errno;

namespace {

using Buffer = std::vector<uint8_t>;

template <class M>
Buffer pack(Op op, uint64_t tag, const M& m) {
  Buffer out(kMaxPacket);
  out.resize(encode(out, op, tag, m));
  return out;
}

// The reply, or nothing when the gofer dropped the connection.
Buffer exchange(int socket, const Buffer& packet) {
  if (send(socket, packet.data(), packet.size(), MSG_NOSIGNAL) < 0) return {};
  Buffer in(kMaxPacket);
  ssize_t n = recv(socket, in.data(), in.size(), 0);
  in.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return in;
}

bool clean_exit(GoferProcess& gofer) {
  int status = gofer.wait();
  return WIFEXITED(status);
}

}  // namespace

TEST_CASE("Hostile sentry: malformed packets drop the connection without a crash") {
  TempDir dir;
  Buffer good = pack(Op::kWalk, 1, WalkRequest{.from = 1, .names = {"a", "b"}});
  std::vector<Buffer> packets;
  for (size_t n = 1; n < good.size(); ++n) packets.emplace_back(good.begin(), good.begin() + n);
  for (size_t n = sizeof(Header); n < good.size(); ++n) {  // truncated, with a size field that agrees
    Buffer b(good.begin(), good.begin() + n);
    uint32_t size = static_cast<uint32_t>(n);
    memcpy(b.data(), &size, sizeof size);
    packets.push_back(b);
  }
  Buffer op = good;
  op[4] = 0xee;
  packets.push_back(op);
  op[4] = 0;  // an error is no request
  packets.push_back(op);
  packets.push_back(Buffer(kMaxPacket, 0xff));
  for (const Buffer& packet : packets) {
    GoferProcess gofer({{dir.path()}});
    auto socket = gofer.take_socket();
    CHECK(exchange(socket.get(), packet).empty());
    socket.reset();
    CHECK(clean_exit(gofer));
    if (packet.size() > 40) continue;
  }
}

TEST_CASE("Hostile sentry: random requests over real ids are answered, and the gofer lives") {
  TempDir dir;
  dir.mkdir("d");
  dir.write("d/f", "x");
  dir.symlink("f", "d/l");
  GoferProcess gofer({{dir.path()}, {dir / "d", true}});
  auto socket = gofer.take_socket();
  std::mt19937 random(7);
  std::vector<FileId> ids = {0, 1, 0xffffffff};
  auto id = [&] { return ids[random() % ids.size()]; };
  auto name = [&] {
    static const char* names[] = {"d", "f", "l", "x", "..", "", "new", "a/b", "new2"};
    return std::string(names[random() % 9]);
  };
  for (uint64_t i = 1; i < 20'000; ++i) {
    Buffer p;
    uint32_t r = static_cast<uint32_t>(random());
    switch (r % 14) {
      case 0: p = pack(Op::kAttach, i, AttachRequest{.tree = r >> 8 & 3}); break;
      case 1: p = pack(Op::kWalk, i, WalkRequest{.from = id(), .names = {name(), name()}, .open_flags = r >> 8}); break;
      case 2:
        p = r & 0x400 ? pack(Op::kOpenMany, i, OpenManyRequest{.dir = id(), .files = {{{name()}, name()}, {{}, name()}}})
                      : pack(Op::kOpen, i, OpenRequest{.id = id(), .flags = r >> 8 & 3});
        break;
      case 3:
        p = r & 2 ? pack(Op::kReadDir, i, ReadDirRequest{.id = id(), .cookie = r & 1 ? random() : 0})
                  : pack(Op::kReadTree, i, ReadTreeRequest{.dir = id(), .max_entries = static_cast<uint32_t>(random()), .names = {name()}});
        break;
      case 4: p = pack(Op::kUnlink, i, UnlinkRequest{.dir = id(), .name = name(), .flags = r & 0x200}); break;
      case 5: p = pack(Op::kRename, i, RenameRequest{{}, id(), name(), id(), name(), r >> 8 & 7}); break;
      case 6: p = pack(Op::kLink, i, LinkRequest{.dir = id(), .name = name(), .target = id()}); break;
      case 7: p = pack(Op::kSymlink, i, SymlinkRequest{.dir = id(), .name = name(), .target = name()}); break;
      case 8: p = pack(Op::kSetAttr, i, SetAttrRequest{.id = id(), .set = {.mask = r >> 8 & 0xff, .mode = 0755}}); break;
      case 9: p = pack(Op::kConnect, i, ConnectRequest{.id = id(), .type = 1}); break;
      case 10: p = pack(Op::kStat, i, OpenRequest{.id = id()}); break;  // the wrong body: 4 bytes too long
      default: {
        CreateRequest c;
        c.dir = id();
        c.name = name();
        c.mode = r >> 8;
        c.flags = 2;
        p = r & 1 ? pack(Op::kCreate, i, c) : pack(Op::kMkDir, i, static_cast<MakeRequest<Op::kCreate, 1>&>(c));
      }
    }
    if (r % 14 == 10) continue;
    Buffer reply = exchange(socket.get(), p);
    REQUIRE_FALSE(reply.empty());
    Header h;
    REQUIRE(decode_header(reply, h));
    REQUIRE(h.tag == i);
    auto body = std::span(reply).subspan(sizeof h);
    FileReply f;
    WalkReply w;
    if (h.op == static_cast<uint16_t>(Op::kAttach) && decode(body, f) && ids.size() < 50) ids.push_back(f.file.id);
    if (h.op == static_cast<uint16_t>(Op::kWalk) && decode(body, w) && ids.size() < 50) {
      for (auto& file : w.files) ids.push_back(file.id);
    }
    if (r % 50 == 0) {
      Buffer close = pack(Op::kClose, i, CloseRequest{.ids = {id(), id()}});
      REQUIRE(send(socket.get(), close.data(), close.size(), MSG_NOSIGNAL) > 0);
    }
  }
}

TEST_CASE("Hostile sentry: descriptors sent to the gofer are dropped") {
  TempDir dir;
  GoferProcess gofer({{dir.path()}});
  auto socket = gofer.take_socket();
  int pipes[2];
  REQUIRE(pipe(pipes) == 0);
  Buffer p = pack(Op::kHello, 1, HelloRequest{});
  iovec iov{p.data(), p.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &pipes[1], sizeof(int));
  REQUIRE(sendmsg(socket.get(), &msg, 0) > 0);
  Buffer in(kMaxPacket);
  REQUIRE(recv(socket.get(), in.data(), in.size(), 0) > 0);
  close(pipes[1]);
  char byte;
  CHECK(read(pipes[0], &byte, 1) == 0);  // nobody holds the other end
  close(pipes[0]);
}

namespace {

// A gofer that says hello properly and then answers everything with `answer`.
template <class F>
void with_lying_gofer(F answer, auto test) {
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  std::thread peer([fd = pair[1], answer] {
    Buffer in(kMaxPacket);
    Header h;
    if (recv(fd, in.data(), in.size(), 0) > 0) {
      memcpy(&h, in.data(), sizeof h);
      Buffer hello = pack(Op::kHello, h.tag, HelloReply{.version = kVersion, .trees = 1});
      send(fd, hello.data(), hello.size(), MSG_NOSIGNAL);
    }
    while (recv(fd, in.data(), in.size(), 0) > 0) {
      memcpy(&h, in.data(), sizeof h);
      if (!answer(fd, h)) break;
    }
    close(fd);
  });
  {
    auto client = Client::create(base::UniqueFd(pair[0]));
    REQUIRE(client.has_value());
    test(**client);
  }
  peer.join();
}

auto send_bytes(Buffer b) {
  return [b](int fd, Header) { return send(fd, b.data(), b.size(), MSG_NOSIGNAL) > 0; };
}

File regular(FileId id) { return {.id = id, .attr = {.mode = S_IFREG | 0644}, .link_target = {}}; }

}  // namespace

TEST_CASE("Hostile gofer: broken packets and unknown tags end the connection with EIO") {
  auto check = [](Client& c) {
    CHECK(c.call(AttachRequest{}).error() == kEIO);
    CHECK(c.call(AttachRequest{}).error() == kEIO);
    CHECK(c.dead());
  };
  with_lying_gofer(send_bytes(Buffer{1, 2, 3}), check);
  with_lying_gofer(send_bytes(Buffer(100, 0xff)), check);
  with_lying_gofer(send_bytes(pack(Op::kAttach, 999, FileReply{regular(1)})), check);
  with_lying_gofer([](int, Header) { return false; }, check);
}

TEST_CASE("Hostile gofer: replies that contradict their request are EIO") {
  auto reply = [](auto message, Op op) {
    return [message, op](int fd, Header h) {
      Buffer b = pack(op, h.tag, message);
      return send(fd, b.data(), b.size(), MSG_NOSIGNAL) > 0;
    };
  };
  auto attach_fails = [](Client& c) { CHECK(c.call(AttachRequest{}).error() == kEIO); };
  auto walk_fails = [](Client& c) { CHECK(c.call(WalkRequest{.from = 1, .names = {"a"}}).error() == kEIO); };
  auto list_fails = [](Client& c) { CHECK(c.call(ReadDirRequest{.id = 1}).error() == kEIO); };

  with_lying_gofer(reply(FileReply{regular(0)}, Op::kAttach), attach_fails);
  with_lying_gofer(reply(FileReply{regular(1)}, Op::kMkDir), attach_fails);
  with_lying_gofer(reply(FileReply{{.id = 1, .attr = {.mode = 0644}, .link_target = {}}}, Op::kAttach), attach_fails);
  with_lying_gofer(reply(FileReply{{.id = 1, .attr = {.mode = S_IFREG}, .link_target = "x"}}, Op::kAttach), attach_fails);
  with_lying_gofer(reply(FileReply{{.id = 1, .attr = {.mode = S_IFREG, .size = ~0ull}, .link_target = {}}}, Op::kAttach),
                   attach_fails);
  with_lying_gofer(reply(ErrorReply{0}, Op::kError), attach_fails);
  with_lying_gofer(reply(ErrorReply{512}, Op::kError), attach_fails);
  with_lying_gofer(reply(ErrorReply{0xffffffff}, Op::kError), attach_fails);
  with_lying_gofer(reply(WalkReply{}, Op::kWalk), walk_fails);
  with_lying_gofer(reply(WalkReply{.files = {regular(1), regular(2)}}, Op::kWalk), walk_fails);
  with_lying_gofer(reply(WalkReply{.files = {regular(1)}, .opened = 1}, Op::kWalk), walk_fails);
  for (std::string name : {"..", ".", "a/b", ""}) {
    with_lying_gofer(reply(ReadDirReply{.entries = {{.name = name, .attr = {.mode = S_IFREG}}}, .end = 1}, Op::kReadDir),
                     list_fails);
  }
  with_lying_gofer(reply(ReadDirReply{}, Op::kReadDir), list_fails);  // would be listed for ever
}

TEST_CASE("Hostile gofer: lists of a tree that make no sense are EIO") {
  auto reply = [](ReadTreeReply message) {
    return [message](int fd, Header h) {
      Buffer b = pack(Op::kReadTree, h.tag, message);
      return send(fd, b.data(), b.size(), MSG_NOSIGNAL) > 0;
    };
  };
  const ReadTreeRequest request{.dir = 1, .names = {"d"}};
  auto fails = [&](Client& c) { CHECK(c.call(request).error() == kEIO); };
  auto works = [&](Client& c) { CHECK(c.call(request).has_value()); };
  auto entry = [](std::string_view name, Attr attr, std::string_view target = "") {
    std::string packed;
    pack_entry(packed, 5, name, attr, target);
    return packed;
  };
  const Attr file{.device = 5, .inode = 7, .mode = S_IFREG, .nlink = 1};
  auto list = [](std::string entries, uint32_t count) {
    return ReadTreeReply{{TreeList{.device = 5, .inode = 6, .count = count, .entries = std::move(entries)}}};
  };
  const std::string good = entry("f", file);
  with_lying_gofer(reply(ReadTreeReply{}), works);
  with_lying_gofer(reply(list("", 0)), works);
  with_lying_gofer(reply(list(good, 1)), works);
  with_lying_gofer(reply(list(good, 0)), fails);                                      // bytes behind the last one
  with_lying_gofer(reply(list(good, 2)), fails);                                      // fewer than it says
  with_lying_gofer(reply(list(good, ~0u)), fails);
  for (size_t cut = 0; cut < good.size(); ++cut) with_lying_gofer(reply(list(good.substr(0, cut), 1)), fails);
  for (std::string_view name : {"", ".", "..", "a/b"}) with_lying_gofer(reply(list(entry(name, file), 1)), fails);
  with_lying_gofer(reply(list(entry("f", file, "target"), 1)), fails);                // a link's target of no link
  Attr odd = file;
  odd.mode = 0644;
  with_lying_gofer(reply(list(entry("f", odd), 1)), fails);
  odd = file;
  odd.size = ~uint64_t{0};
  with_lying_gofer(reply(list(entry("f", odd), 1)), fails);
  odd = file;
  odd.mtime_nsec = 1'000'000'000;
  with_lying_gofer(reply(list(entry("f", odd), 1)), fails);
  std::string flags = good;
  flags[2] = static_cast<char>(0x80);
  with_lying_gofer(reply(list(flags, 1)), fails);
}

TEST_CASE("Hostile gofer: as many descriptors as files were opened, each for reading, and not more than asked for") {
  TempDir dir;
  dir.write("f", "x");
  auto donate = [](std::vector<int> give, size_t claimed) {
    return [give, claimed](int fd, Header h) {
      Buffer b = pack(Op::kOpenMany, h.tag, OpenManyReply{.opened = std::vector<FileIdentity>(claimed)});
      iovec iov{b.data(), b.size()};
      alignas(cmsghdr) char control[CMSG_SPACE(100 * sizeof(int))] = {};
      msghdr msg{};
      msg.msg_iov = &iov;
      msg.msg_iovlen = 1;
      if (!give.empty()) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(give.size() * sizeof(int));
        cmsghdr* c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(give.size() * sizeof(int));
        memcpy(CMSG_DATA(c), give.data(), give.size() * sizeof(int));
      }
      return sendmsg(fd, &msg, MSG_NOSIGNAL) > 0;
    };
  };
  base::UniqueFd readable(open((dir / "f").c_str(), O_RDONLY)), writable(open((dir / "f").c_str(), O_RDWR));
  const int r = readable.get(), w = writable.get();
  const OpenManyRequest request{.dir = 1, .files = {{{}, "a"}, {{}, "b"}, {{"d"}, "c"}}};
  auto fails = [&](Client& c) { CHECK(c.call(request).error() == kEIO); };
  with_lying_gofer(donate({r, r}, 2), [&](Client& c) { CHECK(c.call(request).value().fds.size() == 2); });
  with_lying_gofer(donate({}, 0), [&](Client& c) { CHECK(c.call(request).value().fds.empty()); });
  with_lying_gofer(donate({r, r}, 3), fails);
  with_lying_gofer(donate({r, r}, 1), fails);
  with_lying_gofer(donate({}, 1), fails);
  with_lying_gofer(donate({r}, 0), fails);
  with_lying_gofer(donate({r, r, r, r}, 4), fails);
  with_lying_gofer(donate({r, w}, 2), fails);
  // More than there is room for: whether our table is full or the gofer lies cannot be told apart.
  with_lying_gofer(donate(std::vector<int>(100, r), 3), [&](Client& c) { CHECK(c.call(request).error() == kENFILE); });
  for (int fd = 3; fd < 256; ++fd) {  // none of them is left open
    struct stat s, f;
    REQUIRE(fstat(r, &f) == 0);
    CHECK((fd == r || fd == w || fstat(fd, &s) != 0 || s.st_ino != f.st_ino || s.st_dev != f.st_dev));
  }
}

TEST_CASE("Hostile gofer: only the descriptor that was asked for is accepted") {
  auto donate = [](int give) {
    return [give](int fd, Header h) {
      Buffer b = pack(Op::kOpen, h.tag, Empty{});
      iovec iov{b.data(), b.size()};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
      msghdr msg{};
      msg.msg_iov = &iov;
      msg.msg_iovlen = 1;
      if (give >= 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        cmsghdr* c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &give, sizeof give);
      }
      return sendmsg(fd, &msg, MSG_NOSIGNAL) > 0;
    };
  };
  TempDir dir;
  dir.write("f", "x");
  base::UniqueFd directory(open(dir.path().c_str(), O_RDONLY)), writable(open((dir / "f").c_str(), O_RDWR)),
      readable(open((dir / "f").c_str(), O_RDONLY)), path(open((dir / "f").c_str(), O_PATH));
  int pipes[2];
  REQUIRE(pipe(pipes) == 0);
  auto fails = [](Client& c) { CHECK(c.call(OpenRequest{.id = 1, .flags = O_RDONLY}).error() == kEIO); };
  for (int fd : {-1, directory.get(), writable.get(), path.get(), pipes[0]}) with_lying_gofer(donate(fd), fails);
  with_lying_gofer(donate(readable.get()), [](Client& c) { CHECK(c.call(OpenRequest{.id = 1, .flags = O_RDONLY}).has_value()); });
  close(pipes[0]);
  close(pipes[1]);
}
