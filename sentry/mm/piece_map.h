// SPDX-License-Identifier: Apache-2.0
// Pieces: address range -> memory-file range with the state of both sides. Sorted by address, never overlapping; plain data, so
// that fork copies them with one memcpy.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "abi/types/types.h"
#include "sentry/memory/memory_file.h"

namespace sentry::mm {

enum PieceFlag : uint16_t {
  // What the guest may do: the protection of the VMA.
  kGuestRead = 1, kGuestWrite = 2, kGuestExec = 4,
  // What the platform's mapping allows now; none of the three means PROT_NONE.
  kHostRead = 8, kHostWrite = 16, kHostExec = 32,
  kMapped = 64,     // the platform was told to map the whole piece
  kMappedRw = 128,  // ... with write access, so that protect() can bring it back
  kAnon = 256,      // private pages of this fork family (else: pages of a file's cache)
  kCow = 512,       // private, and somebody else may see the pages: copy before a write
  kShared = 1024,   // of a shared mapping
  kNotified = 2048, // the shared object knows that the pages are written
  kPatched = 4096,  // a patched copy of text
  kSeen = 8192,     // another address space has had the pages, and may have them mapped for a while even if it is dead
};
inline constexpr uint16_t kGuestBits = kGuestRead | kGuestWrite | kGuestExec;
inline constexpr uint16_t kHostBits = kHostRead | kHostWrite | kHostExec;

struct Piece {
  uint64_t start = 0, end = 0, offset = 0;
  uint16_t flags = 0;

  uint64_t length() const { return end - start; }
  bool has(uint16_t f) const { return (flags & f) == f; }
  memory::FileRange file_range() const { return {offset, end - start}; }
  uint64_t offset_of(uint64_t addr) const { return offset + (addr - start); }
  // Bytes may be stored without asking anybody.
  bool is_writable() const {
    return has(kGuestWrite) && !has(kCow) && (!has(kShared) || has(kNotified));
  }
  // What the platform's mapping should allow.
  uint16_t wanted_host() const {
    if ((flags & kGuestBits) == 0) return 0;
    return static_cast<uint16_t>(kHostRead | (is_writable() ? kHostWrite : 0) | (has(kGuestExec) ? kHostExec : 0));
  }
};

constexpr abi::Prot host_prot(uint16_t flags) {
  return {(flags & kHostRead) != 0, (flags & kHostWrite) != 0, (flags & kHostExec) != 0};
}

class PieceMap {
 public:
  std::vector<Piece> v;

  // Index of the first piece that ends above `addr`.
  size_t lower(uint64_t addr) const {
    return static_cast<size_t>(
        std::partition_point(v.begin(), v.end(), [&](const Piece& p) { return p.end <= addr; }) - v.begin());
  }
  // The piece at `addr`, or null.
  Piece* find(uint64_t addr) {
    size_t i = lower(addr);
    if (i == v.size() || v[i].start > addr) return nullptr;
    return &v[i];
  }
  const Piece* find_const(uint64_t addr) const {
    size_t i = lower(addr);
    return i == v.size() || v[i].start > addr ? nullptr : &v[i];
  }

  // Makes `addr` a border; afterwards no piece straddles it.
  void split_at(uint64_t addr) {
    size_t i = lower(addr);
    if (i == v.size() || v[i].start >= addr) return;
    Piece right = v[i];
    right.offset += addr - right.start;
    right.start = addr;
    v[i].end = addr;
    v.insert(v.begin() + static_cast<ptrdiff_t>(i) + 1, right);
  }
  // Splits at both ends and returns the indices [first, last) of the pieces inside.
  std::pair<size_t, size_t> isolate(uint64_t start, uint64_t end) {
    split_at(start);
    split_at(end);
    size_t first = lower(start), last = first;
    while (last < v.size() && v[last].start < end) ++last;
    return {first, last};
  }
  // Into a gap; joins neighbours. Returns the piece that now covers p.start.
  Piece& insert(const Piece& p) {
    size_t i = lower(p.start);
    v.insert(v.begin() + static_cast<ptrdiff_t>(i), p);
    return v[join(i)];
  }
  // Joins the piece with its neighbours where they continue each other; returns its new index.
  size_t join(size_t i) {
    if (i + 1 < v.size() && continues(v[i], v[i + 1])) {
      v[i].end = v[i + 1].end;
      v.erase(v.begin() + static_cast<ptrdiff_t>(i) + 1);
    }
    if (i > 0 && continues(v[i - 1], v[i])) {
      v[i - 1].end = v[i].end;
      v.erase(v.begin() + static_cast<ptrdiff_t>(i));
      --i;
    }
    return i;
  }
  void erase(size_t first, size_t last) {
    v.erase(v.begin() + static_cast<ptrdiff_t>(first), v.begin() + static_cast<ptrdiff_t>(last));
  }
  // The gap around `addr` (in no piece), within [lo, hi).
  abi::AddrRange gap(uint64_t addr, uint64_t lo, uint64_t hi) const {
    size_t i = lower(addr);
    if (i < v.size()) hi = std::min(hi, v[i].start);
    if (i > 0) lo = std::max(lo, v[i - 1].end);
    return {abi::Addr(lo), abi::Addr(hi)};
  }

 private:
  static bool continues(const Piece& a, const Piece& b) {
    return a.end == b.start && a.flags == b.flags && a.offset + a.length() == b.offset;
  }
};

}  // namespace sentry::mm
