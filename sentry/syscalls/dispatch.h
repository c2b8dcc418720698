// SPDX-License-Identifier: Apache-2.0
// From a Linux system call to a typed handler.
//
//   Result<R> sys_name(Task& task, A0 a0, ... A5 a5);   // namespace sentry::syscalls
//
// A family file (read_write.cc, ...) defines its handlers and ends with its rows:
//   SYSCALL_FAMILY(read_write) = {
//       ROW(read, kFull, ""),
//       ROW(preadv2, kPartial, "RWF_HIPRI is ignored"),
//   };
//   SYSCALL_FAMILY_END(read_write);
// and table.cc names the family once. Arity, decoding and strace printing come from the handler's type. A call without a row
// is ENOSYS, counted, and logged once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <type_traits>

#include "abi/types/types.h"
#include "base/core/flags.h"
#include "base/core/result.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/memory/user_memory.h"

namespace sentry::syscalls {

using abi::Addr;
using abi::Errno;
using abi::Fd;
using abi::Pid;
using abi::Signo;
using abi::Tid;
using base::err;
using base::RefPtr;
using base::Result;
using kernel::Task;
using memory::UserCString;
using memory::UserIn;
using memory::UserInOut;
using memory::UserOut;

// For the few calls that do more than return a value.
struct SyscallReturn {
  enum class Kind : uint8_t { kValue, kRegistersSet, kTaskExits };
  Kind kind = Kind::kValue;
  int64_t value = 0;
  static constexpr SyscallReturn of(int64_t v) { return {Kind::kValue, v}; }
  static constexpr SyscallReturn registers_set() { return {Kind::kRegistersSet, 0}; }  // execve, rt_sigreturn
  static constexpr SyscallReturn task_exits() { return {Kind::kTaskExits, 0}; }
};

// What strace prints an argument as.
enum class ArgKind : uint8_t { kNone, kSigned, kUnsigned, kHex, kFd, kPid, kSigno, kPointer, kCString, kId };
enum class SupportLevel : uint8_t { kFull, kPartial, kStub };

// Decoding of one register into one argument type.
template <typename T>
struct Decode;
template <std::integral T>
struct Decode<T> {
  static constexpr ArgKind kKind = std::is_signed_v<T> ? ArgKind::kSigned : ArgKind::kUnsigned;
  static Result<T> from(uint64_t v) { return static_cast<T>(v); }  // high bits are dropped, as the ABI says
};
template <typename Tag, typename Rep>
struct Decode<abi::StrongId<Tag, Rep>> {
  using T = abi::StrongId<Tag, Rep>;
  static constexpr ArgKind kKind = std::is_same_v<T, Fd> ? ArgKind::kFd
                                   : std::is_same_v<T, Signo> ? ArgKind::kSigno
                                   : (std::is_same_v<T, Pid> || std::is_same_v<T, Tid>) ? ArgKind::kPid : ArgKind::kId;
  static Result<T> from(uint64_t v) { return T(static_cast<Rep>(v)); }
};
template <>
struct Decode<Addr> {
  static constexpr ArgKind kKind = ArgKind::kPointer;
  static Result<Addr> from(uint64_t v) { return Addr(v); }
};
template <typename T, memory::Direction D>
struct Decode<memory::UserPtr<T, D>> {
  static constexpr ArgKind kKind = ArgKind::kPointer;
  static Result<memory::UserPtr<T, D>> from(uint64_t v) { return memory::UserPtr<T, D>(Addr(v)); }
};
template <>
struct Decode<UserCString> {
  static constexpr ArgKind kKind = ArgKind::kCString;
  static Result<UserCString> from(uint64_t v) { return UserCString{Addr(v)}; }
};
template <typename E>
struct Decode<base::Flags<E>> {
  static constexpr ArgKind kKind = ArgKind::kHex;
  static Result<base::Flags<E>> from(uint64_t v) {
    return base::Flags<E>::from_bits(static_cast<typename base::Flags<E>::Rep>(v));
  }
};

inline SyscallReturn to_return(SyscallReturn r) { return r; }
template <std::integral T>
SyscallReturn to_return(T v) { return SyscallReturn::of(static_cast<int64_t>(v)); }
template <typename Tag, typename Rep>
SyscallReturn to_return(abi::StrongId<Tag, Rep> v) { return SyscallReturn::of(static_cast<int64_t>(v.value())); }
inline SyscallReturn to_return(Addr v) { return SyscallReturn::of(static_cast<int64_t>(v.value())); }

using Args = std::array<uint64_t, 6>;
using Thunk = Result<SyscallReturn> (*)(Task&, const Args&);

template <auto F>
struct HandlerOf;
template <typename R, typename... A, Result<R> (*F)(Task&, A...)>
struct HandlerOf<F> {
  static_assert(sizeof...(A) <= 6);
  static constexpr uint8_t kArity = sizeof...(A);
  static constexpr std::array<ArgKind, 6> kKinds = {Decode<A>::kKind...};

  static Result<SyscallReturn> call(Task& task, const Args& args) {
    return call_indexed(task, args, std::index_sequence_for<A...>{});
  }

 private:
  template <size_t... I>
  static Result<SyscallReturn> call_indexed(Task& task, const Args& args, std::index_sequence<I...>) {
    std::tuple<Result<A>...> decoded{Decode<A>::from(args[I])...};
    Errno bad{};
    bool failed = false;
    ((std::get<I>(decoded) || failed ? void() : (void)(failed = true, bad = std::get<I>(decoded).error())), ...);
    if (failed) return err(bad);
    if constexpr (std::is_void_v<R>) {
      TRY(F(task, *std::get<I>(decoded)...));
      return SyscallReturn::of(0);
    } else {
      return to_return(TRY(F(task, *std::get<I>(decoded)...)));
    }
  }
};

struct SyscallRow {
  uint16_t number;
  const char* name;
  SupportLevel level;
  const char* note;
  Thunk thunk;
  uint8_t arity;
  std::array<ArgKind, 6> kinds;
};

// Numbers of every Linux call: kNr_read, ...
enum SyscallNumber : uint16_t {
#define SYSCALL(number, name) kNr_##name = number,
#include "abi/syscalls/amd64.def"
#undef SYSCALL
};

template <auto F>
constexpr SyscallRow make_row(uint16_t number, const char* name, SupportLevel level, const char* note) {
  return {number, name, level, note, &HandlerOf<F>::call, HandlerOf<F>::kArity, HandlerOf<F>::kKinds};
}

#define ROW(name, level, note) \
  ::sentry::syscalls::make_row<&sys_##name>(::sentry::syscalls::kNr_##name, #name, ::sentry::syscalls::SupportLevel::level, note)
#define SYSCALL_FAMILY(family)                                  \
  extern const std::span<const SyscallRow> k_##family##_family; \
  static const SyscallRow family##_rows[]
#define SYSCALL_FAMILY_END(family) const std::span<const SyscallRow> k_##family##_family(family##_rows)

// Null for a number without a handler.
const SyscallRow* find_row(uint64_t number);
const char* syscall_name(uint64_t number);  // of any Linux call, or null

kernel::SyscallOutcome dispatch(Task& task);

}  // namespace sentry::syscalls
