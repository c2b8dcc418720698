// SPDX-License-Identifier: Apache-2.0
#include "gofer/proto/codec.h"

#include <iterator>

namespace gofer {

void Writer::raw(const void* data, size_t n) {
  if (failed_ || n > out_.size() - pos_) {
    failed_ = true;
    return;
  }
  if (n != 0) std::memcpy(out_.data() + pos_, data, n);
  pos_ += n;
}

void Writer::str(const std::string& s, size_t max) {
  if (s.size() > max) failed_ = true;
  pod(static_cast<uint16_t>(s.size()));
  raw(s.data(), s.size());
}

void Writer::blob(const std::string& s, size_t max) {
  if (s.size() > max) failed_ = true;
  pod(static_cast<uint32_t>(s.size()));
  raw(s.data(), s.size());
}

void Reader::raw(void* data, size_t n) {
  if (failed_ || n > in_.size() - pos_) return fail();
  if (n != 0) std::memcpy(data, in_.data() + pos_, n);
  pos_ += n;
}

void Reader::bytes(std::string& s, size_t n, size_t max) {
  if (failed_ || n > max || n > in_.size() - pos_) return fail();
  s.assign(reinterpret_cast<const char*>(in_.data() + pos_), n);
  pos_ += n;
}

void Reader::str(std::string& s, size_t max) {
  uint16_t n = 0;
  pod(n);
  bytes(s, n, max);
}

void Reader::blob(std::string& s, size_t max) {
  uint32_t n = 0;
  pod(n);
  bytes(s, n, max);
}

bool decode_header(std::span<const uint8_t> packet, Header& header) {
  if (packet.size() < sizeof(Header) || packet.size() > kMaxPacket) return false;
  std::memcpy(&header, packet.data(), sizeof header);
  return header.size == packet.size() && header.op < static_cast<uint16_t>(Op::kMax);
}

const char* op_name(uint16_t op) {
  static constexpr const char* kNames[] = {
      "Error", "Hello",   "Attach",  "Walk",    "Close",  "Stat",     "Open",     "ReadDir",   "ReadLink",    "Create",  "MkDir", "Symlink", "MkNod",
      "Link",  "Unlink",  "Rename",  "SetAttr", "StatFs", "GetXattr", "SetXattr", "ListXattr", "RemoveXattr", "Connect", "Fsync", "ReadTree", "OpenMany",
  };
  static_assert(std::size(kNames) == static_cast<size_t>(Op::kMax));
  return op < std::size(kNames) ? kNames[op] : "?";
}

bool valid_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxName || name == "." || name == "..") return false;
  return name.find('/') == name.npos && name.find('\0') == name.npos;
}

}  // namespace gofer
