// SPDX-License-Identifier: Apache-2.0
#include "gofer/proto/packed_list.h"

#include <cstring>

namespace gofer {

namespace {

enum : uint8_t { kDevice = 1, kLinks = 2, kOwner = 4, kSpecial = 8, kBlocks = 16, kBirth = 32, kTarget = 64, kAllFlags = 127 };

constexpr uint32_t kUsualBlock = 4096;
constexpr uint64_t usual_blocks(uint64_t size) { return size > uint64_t{INT64_MAX} ? 0 : (size + kUsualBlock - 1) / kUsualBlock * (kUsualBlock / 512); }

template <class T>
void put(std::string& out, T v) {
  out.append(reinterpret_cast<const char*>(&v), sizeof v);  // UNSAFE: bytes of a scalar
}

struct Cursor {
  std::span<const uint8_t>& rest;
  bool ok = true;
  const uint8_t* take(size_t n) {
    if (!ok || n > rest.size()) {
      ok = false;
      return nullptr;
    }
    const uint8_t* at = rest.data();
    rest = rest.subspan(n);
    return at;
  }
  template <class T>
  void get(T& v) {
    if (const uint8_t* at = take(sizeof v)) std::memcpy(&v, at, sizeof v);
  }
  void text(std::string_view& v, size_t n) {
    // UNSAFE: characters are bytes
    if (const uint8_t* at = take(n)) v = {reinterpret_cast<const char*>(at), n};
  }
};

}  // namespace

// UNSAFE: characters are bytes.
std::span<const uint8_t> bytes_of(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

void pack_entry(std::string& out, uint64_t device, std::string_view name, const Attr& a, std::string_view link_target) {
  uint8_t flags = 0;
  if (a.device != device) flags |= kDevice;
  if (a.nlink != 1) flags |= kLinks;
  if (a.uid != 0 || a.gid != 0) flags |= kOwner;
  if (a.rdev != 0) flags |= kSpecial;
  if (a.blocks != usual_blocks(a.size) || a.block_size != kUsualBlock) flags |= kBlocks;
  if (a.btime_sec != 0 || a.btime_nsec != 0) flags |= kBirth;
  if (!link_target.empty()) flags |= kTarget;
  put(out, static_cast<uint8_t>(name.size()));
  out.append(name);
  put(out, flags);
  put(out, static_cast<uint16_t>(a.mode));
  put(out, a.inode);
  put(out, a.size);
  put(out, a.atime_sec), put(out, a.mtime_sec), put(out, a.ctime_sec);
  put(out, a.atime_nsec), put(out, a.mtime_nsec), put(out, a.ctime_nsec);
  if (flags & kDevice) put(out, a.device);
  if (flags & kLinks) put(out, a.nlink);
  if (flags & kOwner) put(out, a.uid), put(out, a.gid);
  if (flags & kSpecial) put(out, a.rdev);
  if (flags & kBlocks) put(out, a.blocks), put(out, a.block_size);
  if (flags & kBirth) put(out, a.btime_sec), put(out, a.btime_nsec);
  if (flags & kTarget) {
    put(out, static_cast<uint16_t>(link_target.size()));
    out.append(link_target);
  }
}

bool unpack_entry(std::span<const uint8_t>& rest, uint64_t device, PackedEntry& e) {
  Cursor c{rest};
  uint8_t name_size = 0, flags = 0;
  uint16_t mode = 0, target_size = 0;
  e = {};
  Attr& a = e.attr;
  c.get(name_size);
  c.text(e.name, name_size);
  c.get(flags);
  if (flags & ~kAllFlags) return false;
  c.get(mode);
  c.get(a.inode);
  c.get(a.size);
  c.get(a.atime_sec), c.get(a.mtime_sec), c.get(a.ctime_sec);
  c.get(a.atime_nsec), c.get(a.mtime_nsec), c.get(a.ctime_nsec);
  a.mode = mode;
  a.device = device;
  a.nlink = 1;
  a.blocks = usual_blocks(a.size);
  a.block_size = kUsualBlock;
  if (flags & kDevice) c.get(a.device);
  if (flags & kLinks) c.get(a.nlink);
  if (flags & kOwner) c.get(a.uid), c.get(a.gid);
  if (flags & kSpecial) c.get(a.rdev);
  if (flags & kBlocks) c.get(a.blocks), c.get(a.block_size);
  if (flags & kBirth) c.get(a.btime_sec), c.get(a.btime_nsec);
  if (flags & kTarget) {
    c.get(target_size);
    c.text(e.link_target, target_size);
  }
  return c.ok;
}

}  // namespace gofer
