// SPDX-License-Identifier: Apache-2.0
// Flags<E>: a set of bits of one flag enum, decoded from what a guest passed.
// E is an enum class whose enumerators are single or combined bits, with
//   template <> struct base::FlagTraits<E> { static constexpr uint64_t kValid = ...; };
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/core/result.h"

namespace base {

template <typename E>
struct FlagTraits;  // { static constexpr uint64_t kValid; }

template <typename E>
class Flags {
 public:
  using Rep = std::underlying_type_t<E>;
  constexpr Flags() = default;
  constexpr Flags(E e) : bits_(static_cast<Rep>(e)) {}  // NOLINT: a single flag is a set of flags
  // EINVAL when a bit is unknown.
  static constexpr Result<Flags> from_bits(Rep bits) {
    if (static_cast<uint64_t>(static_cast<std::make_unsigned_t<Rep>>(bits)) & ~FlagTraits<E>::kValid)
      return err(abi::Errno::kEINVAL);
    return from_bits_unchecked(bits);
  }
  // For calls that ignore unknown bits (open(2) does).
  static constexpr Flags from_bits_lenient(Rep bits) {
    return from_bits_unchecked(static_cast<Rep>(bits & static_cast<Rep>(FlagTraits<E>::kValid)));
  }
  static constexpr Flags from_bits_unchecked(Rep bits) {
    Flags f;
    f.bits_ = bits;
    return f;
  }
  constexpr Rep bits() const { return bits_; }
  constexpr bool has(E e) const { return (bits_ & static_cast<Rep>(e)) == static_cast<Rep>(e); }
  constexpr bool has_any(Flags f) const { return (bits_ & f.bits_) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  friend constexpr Flags operator|(Flags a, Flags b) { return from_bits_unchecked(a.bits_ | b.bits_); }
  friend constexpr Flags operator&(Flags a, Flags b) { return from_bits_unchecked(a.bits_ & b.bits_); }
  constexpr Flags without(Flags f) const { return from_bits_unchecked(bits_ & ~f.bits_); }
  friend constexpr bool operator==(Flags, Flags) = default;

 private:
  Rep bits_ = 0;
};

}  // namespace base
