// SPDX-License-Identifier: Apache-2.0
// Signals: uapi/asm-generic/{signal,siginfo}.h, arch/x86/include/uapi/asm/{signal,sigcontext,ucontext}.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "abi/types/types.h"

namespace abi {

enum : int32_t {
  kSIGHUP = 1, kSIGINT, kSIGQUIT, kSIGILL, kSIGTRAP, kSIGABRT, kSIGBUS, kSIGFPE, kSIGKILL, kSIGUSR1, kSIGSEGV,
  kSIGUSR2, kSIGPIPE, kSIGALRM, kSIGTERM, kSIGSTKFLT, kSIGCHLD, kSIGCONT, kSIGSTOP, kSIGTSTP, kSIGTTIN, kSIGTTOU,
  kSIGURG, kSIGXCPU, kSIGXFSZ, kSIGVTALRM, kSIGPROF, kSIGWINCH, kSIGIO, kSIGPWR, kSIGSYS,
  kSIGRTMIN = 32, kNSIG = 64,
};

// Bit n-1 = signal n.
struct SigSet {
  uint64_t bits = 0;
  static constexpr SigSet of(int32_t signo) { return {uint64_t{1} << (signo - 1)}; }
  constexpr bool has(int32_t signo) const { return (bits >> (signo - 1)) & 1; }
  constexpr void add(int32_t signo) { bits |= uint64_t{1} << (signo - 1); }
  constexpr void remove(int32_t signo) { bits &= ~(uint64_t{1} << (signo - 1)); }
  friend constexpr SigSet operator|(SigSet a, SigSet b) { return {a.bits | b.bits}; }
  friend constexpr SigSet operator&(SigSet a, SigSet b) { return {a.bits & b.bits}; }
  constexpr SigSet operator~() const { return {~bits}; }
  friend constexpr bool operator==(SigSet, SigSet) = default;
};
inline constexpr SigSet kUnblockableSignals{SigSet::of(kSIGKILL).bits | SigSet::of(kSIGSTOP).bits};

enum : int32_t {
  kSI_USER = 0, kSI_KERNEL = 0x80, kSI_QUEUE = -1, kSI_TIMER = -2, kSI_MESGQ = -3, kSI_ASYNCIO = -4, kSI_SIGIO = -5,
  kSI_TKILL = -6,
  kCLD_EXITED = 1, kCLD_KILLED = 2, kCLD_DUMPED = 3, kCLD_TRAPPED = 4, kCLD_STOPPED = 5, kCLD_CONTINUED = 6,
  kSEGV_MAPERR = 1, kSEGV_ACCERR = 2, kBUS_ADRALN = 1, kBUS_ADRERR = 2,
};

// siginfo_t: 128 bytes; the union is a byte payload with accessors.
struct SigInfo {
  int32_t signo = 0;
  int32_t error = 0;
  int32_t code = 0;
  int32_t pad0 = 0;  // 0 in what a guest sees; si_sys_private while a timer's signal is queued
  uint8_t fields[112] = {};

  template <typename T>
  void put(size_t at, T v) { std::memcpy(fields + at, &v, sizeof v); }
  template <typename T>
  T get(size_t at) const {
    T v;
    std::memcpy(&v, fields + at, sizeof v);
    return v;
  }
  // kill, sigqueue, SIGCHLD: pid 0, uid 4; SIGCHLD: status 8, utime 16, stime 24; sigqueue: value 8.
  void set_pid(int32_t v) { put(0, v); }
  int32_t pid() const { return get<int32_t>(0); }
  void set_uid(uint32_t v) { put(4, v); }
  uint32_t uid() const { return get<uint32_t>(4); }
  void set_status(int32_t v) { put(8, v); }
  int32_t status() const { return get<int32_t>(8); }
  void set_value(uint64_t v) { put(8, v); }
  uint64_t value() const { return get<uint64_t>(8); }
  void set_utime(int64_t v) { put(16, v); }
  void set_stime(int64_t v) { put(24, v); }
  // Faults: address 0. Timers: id 0, overrun 4, value 8. SIGIO: band 0, fd 8. SIGSYS: address 0, syscall 8, arch 12.
  void set_address(uint64_t v) { put(0, v); }
  uint64_t address() const { return get<uint64_t>(0); }
};
static_assert(sizeof(SigInfo) == 128);

enum : uint64_t {
  kSA_NOCLDSTOP = 1, kSA_NOCLDWAIT = 2, kSA_SIGINFO = 4, kSA_EXPOSE_TAGBITS = 0x800, kSA_RESTORER = 0x04000000,
  kSA_ONSTACK = 0x08000000, kSA_RESTART = 0x10000000, kSA_NODEFER = 0x40000000, kSA_RESETHAND = 0x80000000,
};
// UAPI_SA_FLAGS: those that rt_sigaction(2) keeps.
inline constexpr uint64_t kSaFlags = kSA_NOCLDSTOP | kSA_NOCLDWAIT | kSA_SIGINFO | kSA_EXPOSE_TAGBITS | kSA_RESTORER | kSA_ONSTACK |
                                     kSA_RESTART | kSA_NODEFER | kSA_RESETHAND;
inline constexpr uint64_t kSIG_DFL = 0, kSIG_IGN = 1;

struct SigAction {
  uint64_t handler = 0;
  uint64_t flags = 0;
  uint64_t restorer = 0;
  SigSet mask;
};
static_assert(sizeof(SigAction) == 32);

struct SigAltStack {
  uint64_t sp = 0;
  int32_t flags = 0;
  uint32_t pad0 = 0;
  uint64_t size = 0;
};
enum : int32_t { kSS_ONSTACK = 1, kSS_DISABLE = 2, kSS_AUTODISARM = static_cast<int32_t>(1u << 31) };

struct TimeSpec64 {
  int64_t sec = 0;
  int64_t nsec = 0;
  constexpr bool is_valid() const { return sec >= 0 && nsec >= 0 && nsec < 1'000'000'000; }
};
struct TimeVal64 {
  int64_t sec = 0;
  int64_t usec = 0;
};

}  // namespace abi
