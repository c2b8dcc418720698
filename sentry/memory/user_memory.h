// SPDX-License-Identifier: Apache-2.0
// Guest memory as everything above it sees it: typed addresses that cannot be dereferenced, and the one interface
// through which bytes cross. sentry/mm implements UserMemory; only its *_unsafe.cc files touch guest bytes.
//
// Rules: read an object once into a local, never re-read it; no user copy while holding a lock whose rank is not on the
// "may fault" list of docs/locking.md.
#pragma once

#include <concepts>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "abi/types/types.h"
#include "base/core/function_ref.h"
#include "base/core/result.h"

namespace sentry::memory {

// Types that may cross: no padding (leaks kernel bytes), no pointers-with-meaning. Floats and unions fail the
// unique-representation test; ABI structs use byte payloads for them.
template <typename T>
concept AbiSafe = std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T> &&
                  std::has_unique_object_representations_v<T>;

enum class Access : uint8_t { kRead, kWrite };  // of guest memory, by the sentry on the guest's behalf

enum class Direction : uint8_t { kIn, kOut, kInOut };

// Address of a T in the guest. Null is allowed and testable; validity is found out when it is used.
template <typename T, Direction D>
class UserPtr {
 public:
  using value_type = T;
  constexpr UserPtr() = default;
  constexpr explicit UserPtr(abi::Addr a) : addr_(a) {}
  constexpr abi::Addr addr() const { return addr_; }
  constexpr bool is_null() const { return addr_.is_null(); }
  // The n-th element of an array; wraps like the guest's own arithmetic would, and then faults.
  constexpr UserPtr offset(uint64_t n) const { return UserPtr(addr_ + n * sizeof(T)); }

 private:
  abi::Addr addr_;
};
template <typename T>
using UserIn = UserPtr<T, Direction::kIn>;
template <typename T>
using UserOut = UserPtr<T, Direction::kOut>;
template <typename T>
using UserInOut = UserPtr<T, Direction::kInOut>;

// A path or name: read with UserMemory::read_cstring.
struct UserCString {
  abi::Addr addr;
  constexpr bool is_null() const { return addr.is_null(); }
};

// Payload of read/write and kin.
struct UserBuffer {
  abi::Addr addr;
  uint64_t len = 0;
};

// A piece of guest memory that the sentry can address, pinned while a callback runs.
struct HostSegment {
  uint8_t* data = nullptr;
  size_t len = 0;
};

class UserMemory {
 public:
  virtual ~UserMemory() = default;

  // All or nothing from the caller's view: EFAULT when any byte is not accessible. The bytes before the bad
  // one may have been copied.
  virtual base::Result<void> copy_in(void* dst, abi::Addr src, size_t n) = 0;
  virtual base::Result<void> copy_out(abi::Addr dst, const void* src, size_t n) = 0;
  // As much as is accessible: bytes copied; EFAULT only when that is none (and n > 0).
  virtual base::Result<size_t> copy_in_partial(void* dst, abi::Addr src, size_t n) = 0;
  virtual base::Result<size_t> copy_out_partial(abi::Addr dst, const void* src, size_t n) = 0;
  virtual base::Result<size_t> zero_out(abi::Addr dst, size_t n) = 0;
  // Up to `max` bytes without the terminating NUL; ENAMETOOLONG when there is none within max + 1 bytes.
  virtual base::Result<std::string> read_cstring(abi::Addr src, size_t max) = 0;
  // The same into `dst`, which has no more room: how many bytes came before the NUL. The rest of `dst` may be written too.
  virtual base::Result<size_t> read_cstring_into(std::span<char> dst, abi::Addr src) {
    if (dst.empty()) return base::err(abi::Errno::kENAMETOOLONG);
    const std::string text = TRY(read_cstring(src, dst.size() - 1));
    std::memcpy(dst.data(), text.data(), text.size());
    return text.size();
  }
  // Calls f with host-addressable, pinned segments for up to `n` bytes at `addr`, faulting pages in first. f returns
  // how many bytes it used. Used for host I/O straight into guest pages. May hand over fewer bytes than n
  // (never 0 without an error); the caller loops.
  virtual base::Result<size_t> with_segments(abi::Addr addr, size_t n, Access access,
                                             base::FunctionRef<base::Result<size_t>(std::span<const HostSegment>)> f) = 0;
  // Atomic access to an aligned word, for futexes and robust lists. EFAULT, or EINVAL when misaligned.
  virtual base::Result<uint32_t> load_u32(abi::Addr addr) = 0;
  // *addr == expected ? (*addr = desired, true) : (expected = *addr, false)
  virtual base::Result<bool> cas_u32(abi::Addr addr, uint32_t& expected, uint32_t desired) = 0;

  template <typename T, Direction D>
    requires AbiSafe<T>
  base::Result<T> read(UserPtr<T, D> p) {
    static_assert(D != Direction::kOut);
    T v;
    TRY(copy_in(&v, p.addr(), sizeof v));
    return v;
  }
  template <typename T, Direction D>
    requires AbiSafe<T>
  base::Result<void> write(UserPtr<T, D> p, const std::type_identity_t<T>& v) {
    static_assert(D != Direction::kIn);
    return copy_out(p.addr(), &v, sizeof v);
  }
  // Nothing when the pointer is null: the many optional results of Linux calls.
  template <typename T, Direction D>
    requires AbiSafe<T>
  base::Result<void> write_if(UserPtr<T, D> p, const std::type_identity_t<T>& v) {
    if (p.is_null()) return {};
    return write(p, v);
  }
  // n is bounded by the caller before this allocates.
  template <typename T, Direction D>
    requires AbiSafe<T>
  base::Result<std::vector<T>> read_array(UserPtr<T, D> p, size_t n) {
    std::vector<T> v(n);
    if (n != 0) TRY(copy_in(v.data(), p.addr(), n * sizeof(T)));
    return v;
  }
  template <typename T, Direction D>
    requires AbiSafe<T>
  base::Result<void> write_array(UserPtr<T, D> p, std::span<const std::type_identity_t<T>> v) {
    if (v.empty()) return {};
    return copy_out(p.addr(), v.data(), v.size_bytes());
  }
};

// The text of a path argument: those of usual length take no memory of their own.
class UserPath {
 public:
  static constexpr size_t kMaxLength = 4095;  // PATH_MAX with the NUL
  UserPath() = default;
  UserPath(const UserPath&) = delete;
  UserPath& operator=(const UserPath&) = delete;

  // EFAULT, ENAMETOOLONG.
  base::Result<void> read(UserMemory& memory, UserCString path) {
    if (const base::Result<size_t> length = memory.read_cstring_into(short_, path.addr)) {
      text_ = {short_.data(), *length};
      return {};
    } else if (length.error() != abi::Errno::kENAMETOOLONG) {
      return base::err(length.error());
    }
    long_ = TRY(memory.read_cstring(path.addr, kMaxLength));
    text_ = long_;
    return {};
  }
  std::string_view text() const { return text_; }

 private:
  std::string_view text_;
  std::string long_;
  std::array<char, 192> short_;  // not initialised: only what was read of it is looked at
};

}  // namespace sentry::memory
