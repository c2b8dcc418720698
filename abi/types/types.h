// SPDX-License-Identifier: Apache-2.0
// Strong scalars for Linux's own identifiers, so that a guest descriptor never passes for a host one, nor a pid
// for a uid. Construction is explicit, and comparison is all that they do.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

namespace abi {

template <typename Tag, typename Rep>
class StrongId {
 public:
  using rep = Rep;
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep v) : value_(v) {}
  constexpr Rep value() const { return value_; }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;

 private:
  Rep value_{};
};

using Fd = StrongId<struct FdTag, int32_t>;        // guest descriptor number
using Pid = StrongId<struct PidTag, int32_t>;      // thread group id, in some pid namespace
using Tid = StrongId<struct TidTag, int32_t>;      // thread id, in some pid namespace
using Uid = StrongId<struct UidTag, uint32_t>;     // as the guest says it (its user namespace)
using Gid = StrongId<struct GidTag, uint32_t>;
using KUid = StrongId<struct KUidTag, uint32_t>;   // mapped to the sandbox's root user namespace
using KGid = StrongId<struct KGidTag, uint32_t>;
using Signo = StrongId<struct SignoTag, int32_t>;  // 1..64
using InodeNumber = StrongId<struct InoTag, uint64_t>;

inline constexpr size_t kPageSize = 4096;
inline constexpr unsigned kPageShift = 12;

// A guest virtual address. Not a pointer: only sentry/mm turns it into bytes.
class Addr {
 public:
  constexpr Addr() = default;
  constexpr explicit Addr(uint64_t v) : value_(v) {}
  constexpr uint64_t value() const { return value_; }
  constexpr bool is_null() const { return value_ == 0; }
  constexpr bool is_page_aligned() const { return (value_ & (kPageSize - 1)) == 0; }
  constexpr uint64_t page_offset() const { return value_ & (kPageSize - 1); }
  constexpr Addr page_down() const { return Addr(value_ & ~uint64_t{kPageSize - 1}); }
  // nullopt when rounding up overflows.
  constexpr std::optional<Addr> page_up() const {
    uint64_t v = value_ + (kPageSize - 1);
    if (v < value_) return std::nullopt;
    return Addr(v & ~uint64_t{kPageSize - 1});
  }
  // nullopt on overflow.
  constexpr std::optional<Addr> add(uint64_t n) const {
    uint64_t v = value_ + n;
    if (v < value_) return std::nullopt;
    return Addr(v);
  }
  // Unchecked arithmetic for addresses already known to be inside a validated range.
  constexpr Addr operator+(uint64_t n) const { return Addr(value_ + n); }
  constexpr Addr operator-(uint64_t n) const { return Addr(value_ - n); }
  constexpr uint64_t operator-(Addr o) const { return value_ - o.value_; }
  friend constexpr auto operator<=>(Addr, Addr) = default;

 private:
  uint64_t value_ = 0;
};

// [start, end). Empty when start == end; start <= end always holds.
struct AddrRange {
  Addr start;
  Addr end;
  constexpr uint64_t length() const { return end - start; }
  constexpr bool empty() const { return start == end; }
  constexpr bool contains(Addr a) const { return start <= a && a < end; }
  constexpr bool contains(AddrRange r) const { return start <= r.start && r.end <= end; }
  constexpr bool overlaps(AddrRange r) const { return start < r.end && r.start < end; }
  constexpr AddrRange intersect(AddrRange r) const {
    Addr s = start > r.start ? start : r.start;
    Addr e = end < r.end ? end : r.end;
    return s < e ? AddrRange{s, e} : AddrRange{s, s};
  }
  friend constexpr bool operator==(const AddrRange&, const AddrRange&) = default;
};

// Page protections as in mmap(2).
struct Prot {
  bool read = false;
  bool write = false;
  bool exec = false;
  constexpr uint32_t bits() const { return (read ? 1u : 0u) | (write ? 2u : 0u) | (exec ? 4u : 0u); }
  constexpr bool any() const { return read || write || exec; }
  friend constexpr bool operator==(const Prot&, const Prot&) = default;
};

// A device number in the kernel's encoding of struct stat (new_encode_dev).
struct DeviceId {
  uint32_t major = 0;
  uint32_t minor = 0;
  constexpr uint64_t encoded() const {
    return (minor & 0xffu) | (uint64_t{major & 0xfffu} << 8) | (uint64_t{minor & ~0xffu} << 12) |
           (uint64_t{major & ~0xfffu} << 32);
  }
  static constexpr DeviceId decode(uint64_t v) {
    return {static_cast<uint32_t>(((v >> 8) & 0xfff) | ((v >> 32) & ~uint64_t{0xfff})),
            static_cast<uint32_t>((v & 0xff) | ((v >> 12) & ~uint64_t{0xff}))};
  }
  friend constexpr bool operator==(const DeviceId&, const DeviceId&) = default;
};

}  // namespace abi

template <typename Tag, typename Rep>
struct std::hash<abi::StrongId<Tag, Rep>> {
  size_t operator()(abi::StrongId<Tag, Rep> v) const noexcept { return std::hash<Rep>{}(v.value()); }
};
template <>
struct std::hash<abi::Addr> {
  size_t operator()(abi::Addr v) const noexcept { return std::hash<uint64_t>{}(v.value()); }
};
