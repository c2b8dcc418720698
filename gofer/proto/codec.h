// SPDX-License-Identifier: Apache-2.0
// Bytes <-> messages. Every read and write is bounds-checked; the first violation makes the whole message fail, and
// nothing read after it is used.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "gofer/proto/messages.h"

namespace gofer {

class Writer {
 public:
  explicit Writer(std::span<uint8_t> out) : out_(out) {}
  bool ok() const { return !failed_; }
  size_t size() const { return pos_; }

  template <class T>
  void pod(const T& v) {
    static_assert(std::has_unique_object_representations_v<T>);
    raw(&v, sizeof v);
  }
  void str(const std::string& s, size_t max);
  void blob(const std::string& s, size_t max);
  template <class T, class F>
  void array(const std::vector<T>& v, size_t max, F element) {
    if (v.size() > max) failed_ = true;
    pod(static_cast<uint32_t>(v.size()));
    for (const T& e : v) {
      if (failed_) return;
      element(*this, e);
    }
  }

 private:
  void raw(const void* data, size_t n);
  std::span<uint8_t> out_;
  size_t pos_ = 0;
  bool failed_ = false;
};

class Reader {
 public:
  explicit Reader(std::span<const uint8_t> in) : in_(in) {}
  bool ok() const { return !failed_; }
  bool at_end() const { return pos_ == in_.size(); }

  template <class T>
  void pod(T& v) {
    static_assert(std::has_unique_object_representations_v<T>);
    raw(&v, sizeof v);
  }
  void str(std::string& s, size_t max);
  void blob(std::string& s, size_t max);
  template <class T, class F>
  void array(std::vector<T>& v, size_t max, F element) {
    uint32_t count = 0;
    pod(count);
    // An element takes at least one byte, so a count beyond what is left is a lie, found before allocating.
    if (failed_ || count > max || count > in_.size() - pos_) return fail();
    v.clear();
    v.reserve(count);
    for (uint32_t i = 0; i < count && !failed_; ++i) element(*this, v.emplace_back());
  }

 private:
  void raw(void* data, size_t n);
  void bytes(std::string& s, size_t n, size_t max);
  void fail() { failed_ = true; }
  std::span<const uint8_t> in_;
  size_t pos_ = 0;
  bool failed_ = false;
};

// Packet size, or 0 when the message breaks a limit or does not fit.
template <class M>
size_t encode(std::span<uint8_t> out, Op op, uint64_t tag, const M& message, uint16_t cpu = 0) {
  if (out.size() < sizeof(Header)) return 0;
  Writer w(out.subspan(sizeof(Header)));
  M::wire(w, message);
  if (!w.ok()) return 0;
  Header h{.size = static_cast<uint32_t>(sizeof(Header) + w.size()), .op = static_cast<uint16_t>(op), .cpu = cpu, .tag = tag};
  std::memcpy(out.data(), &h, sizeof h);
  return h.size;
}

// The body after the header. False unless it is exactly one well-formed message.
template <class M>
bool decode(std::span<const uint8_t> body, M& message) {
  Reader r(body);
  M::wire(r, message);
  return r.ok() && r.at_end();
}

// False when the packet is no packet: too short, or its size field disagrees with what arrived.
bool decode_header(std::span<const uint8_t> packet, Header& header);

// For statistics and logs: "Walk"; "?" for what is no request.
const char* op_name(uint16_t op);

// One component of a path that may be handed to the host: not "", ".", "..", no "/" and no NUL, at most kMaxName.
bool valid_name(std::string_view name);

}  // namespace gofer
