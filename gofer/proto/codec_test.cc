// SPDX-License-Identifier: Apache-2.0
#include "gofer/proto/codec.h"

#include <array>
#include <random>

#include <catch2/catch.hpp>

using namespace gofer;

namespace {

using Buffer = std::vector<uint8_t>;

template <class M>
Buffer pack(const M& m) {
  Buffer out(kMaxPacket);
  size_t n = encode(out, Op::kWalk, 7, m);
  out.resize(n);
  return out;
}

std::span<const uint8_t> body(const Buffer& packet) { return std::span(packet).subspan(sizeof(Header)); }

// No prefix of a message and no message with bytes after it is a message.
template <class M>
void check_exact(const M& m) {
  Buffer packet = pack(m);
  REQUIRE(packet.size() >= sizeof(Header));
  M again;
  CHECK(decode(body(packet), again));
  CHECK(pack(again) == packet);
  auto whole = body(packet);
  for (size_t n = 0; n < whole.size(); ++n) {
    Buffer cut(whole.begin(), whole.begin() + n);  // own allocation, so that a sanitizer sees an overrun
    M scratch;
    CHECK_FALSE(decode(cut, scratch));
  }
  Buffer longer(whole.begin(), whole.end());
  longer.push_back(0);
  M scratch;
  CHECK_FALSE(decode(longer, scratch));
}

}  // namespace

TEST_CASE("Codec: every message survives a round trip and no truncation of it is accepted") {
  File link{.id = 9, .attr = {.device = 1, .inode = 2, .mode = 0120777}, .link_target = "../x"};
  check_exact(HelloRequest{});
  check_exact(HelloReply{.version = 1, .trees = 3});
  check_exact(AttachRequest{.tree = 2});
  check_exact(WalkRequest{.from = 3, .names = {"usr", "lib", "x"}, .open_flags = 2});
  check_exact(WalkReply{.files = {link, File{}}, .stop_errno = 2, .opened = 1});
  check_exact(CloseRequest{.ids = {1, 2, 3}});
  check_exact(OpenRequest{.id = 1, .flags = 2});
  check_exact(ReadDirRequest{.id = 1, .cookie = 99});
  check_exact(ReadDirReply{.entries = {{.name = "a", .cookie = 1, .attr = {}, .link_target = "b"}}, .end = 1});
  CreateRequest create;
  create.dir = 4;
  create.name = "new";
  create.flags = 1;
  check_exact(create);
  check_exact(SymlinkRequest{.dir = 1, .name = "n", .target = "t", .uid = 1, .gid = 2});
  check_exact(LinkRequest{.dir = 1, .name = "n", .target = 2});
  check_exact(UnlinkRequest{.dir = 1, .name = "n"});
  check_exact(RenameRequest{.dir = 1, .name = "n", .new_dir = 2, .new_name = "m", .flags = 1});
  check_exact(SetAttrRequest{.id = 1, .set = {.mask = 3}});
  check_exact(SetXattrRequest{.id = 1, .name = "user.x", .value = std::string(300, 'x'), .flags = 1});
  check_exact(BytesReply{.bytes = "abc"});
  check_exact(StringReply{.text = "target"});
  check_exact(StatFsReply{});
  check_exact(AttrReply{});
  check_exact(ErrorReply{.host_errno = 2});
}

TEST_CASE("Codec: limits hold in both directions") {
  CHECK(pack(WalkRequest{.from = 1, .names = std::vector<std::string>(kMaxWalk + 1, "a")}).empty());
  CHECK(pack(UnlinkRequest{.dir = 1, .name = std::string(kMaxName + 1, 'a')}).empty());
  Buffer huge_count = {1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
  WalkRequest walk;
  CHECK_FALSE(decode(huge_count, walk));
  Buffer long_name = pack(UnlinkRequest{.dir = 1, .name = std::string(kMaxName, 'a')});
  long_name[sizeof(Header) + 5] = 0xff;
  UnlinkRequest unlink;
  CHECK_FALSE(decode(body(long_name), unlink));
}

TEST_CASE("Codec: a header must agree with its packet") {
  Buffer packet = pack(HelloRequest{});
  Header h;
  CHECK(decode_header(packet, h));
  CHECK(h.tag == 7);
  packet.push_back(0);
  CHECK_FALSE(decode_header(packet, h));
  packet.resize(sizeof(Header) - 1);
  CHECK_FALSE(decode_header(packet, h));
  packet = pack(HelloRequest{});
  packet[4] = 0xff;
  CHECK_FALSE(decode_header(packet, h));
}

TEST_CASE("Codec: names that could leave their directory are refused") {
  std::array<std::string_view, 7> bad = {"", ".", "..", "a/b", "/", std::string_view("a\0b", 3), "../x"};
  for (auto name : bad) CHECK_FALSE(valid_name(name));
  CHECK_FALSE(valid_name(std::string(256, 'a')));
  CHECK(valid_name("..."));
  CHECK(valid_name(std::string(255, 'a')));
}

TEST_CASE("Codec: random bytes decode to an error or to a message, never worse") {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    Buffer bytes(random() % 200);
    for (auto& b : bytes) b = static_cast<uint8_t>(random() % 4 ? random() % 5 : random());
    WalkRequest a;
    ReadDirReply b;
    WalkReply c;
    SetXattrRequest d;
    decode(bytes, a);
    decode(bytes, b);
    decode(bytes, c);
    decode(bytes, d);
  }
}
