// SPDX-License-Identifier: Apache-2.0
// Directory entries packed tightly: 85 bytes or so instead of the 190 of a DirEntry, so that one reply holds the entries of
// many directories, and what the sentry keeps of them is what was sent.
//
// An entry: u8 length and name; u8 flags of what differs from the usual; u16 mode, u64 inode, u64 size; three times of i64
// seconds and u32 nanoseconds; then what the flags say, in the order of the flags.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "gofer/proto/messages.h"

namespace gofer {

struct PackedEntry {
  std::string_view name;
  Attr attr;
  std::string_view link_target;
};

std::span<const uint8_t> bytes_of(std::string_view text);

// Appends one entry of a directory on `device`.
void pack_entry(std::string& out, uint64_t device, std::string_view name, const Attr& attr, std::string_view link_target);

// Takes the first entry off `rest`. False when it is cut short or has a flag that is not known; whether its contents make
// sense is for the caller to say. The views point into `rest`.
bool unpack_entry(std::span<const uint8_t>& rest, uint64_t device, PackedEntry& entry);

}  // namespace gofer
