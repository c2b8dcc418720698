// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: bytes as every kind of message, in both directions. What decodes must encode to the same bytes.
#include <cstdlib>
#include <vector>

#include "gofer/proto/codec.h"

namespace {

template <class M>
void try_message(std::span<const uint8_t> body) {
  M message;
  if (!gofer::decode(body, message)) return;
  std::vector<uint8_t> packet(gofer::kMaxPacket);
  size_t n = gofer::encode(packet, gofer::Op::kHello, 1, message);
  if (n != body.size() + sizeof(gofer::Header)) abort();
  if (!body.empty() && std::memcmp(packet.data() + sizeof(gofer::Header), body.data(), body.size()) != 0) abort();
}

template <class... M>
void try_all(std::span<const uint8_t> body) {
  (try_message<M>(body), ...);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace gofer;
  if (size > kMaxPacket - sizeof(Header)) return 0;
  std::span<const uint8_t> body(data, size);
  Header header;
  (void)decode_header(body, header);
  try_all<HelloRequest, AttachRequest, WalkRequest, CloseRequest, StatRequest, OpenRequest, ReadDirRequest, ReadTreeRequest, OpenManyRequest, CreateRequest,
          MkDirRequest, SymlinkRequest, LinkRequest, UnlinkRequest, RenameRequest, SetAttrRequest, GetXattrRequest,
          SetXattrRequest, RemoveXattrRequest, ConnectRequest>(body);
  try_all<ErrorReply, HelloReply, FileReply, WalkReply, AttrReply, ReadDirReply, ReadTreeReply, OpenManyReply, StringReply, StatFsReply, BytesReply>(body);
  return 0;
}
