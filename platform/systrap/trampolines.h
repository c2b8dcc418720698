// SPDX-License-Identifier: Apache-2.0
// Trampolines of patched call sites: two zones of executable memory that every stub maps at the same place, one within
// reach of the text window and one within reach of programs linked at a fixed low address. Each zone exists twice in the
// control file: `fast` trampolines jump into the stub, `slow` ones contain a real system call instruction; an address
// space whose guest uses the gs base itself maps the slow ones.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <unordered_map>

#include "abi/types/types.h"
#include "base/sync/mutex.h"
#include "platform/interface/platform.h"
#include "platform/systrap/control_memory.h"

namespace platform::systrap {

inline constexpr uint64_t kHighZoneSize = 0x40'0000;
inline constexpr uint64_t kLowZoneSize = 0x8'0000;
inline constexpr uint64_t kHighZoneFile = kTrampolineFileOffset;
inline constexpr uint64_t kHighZoneSlowFile = kHighZoneFile + kHighZoneSize;
inline constexpr uint64_t kLowZoneFile = kHighZoneSlowFile + kHighZoneSize;
inline constexpr uint64_t kLowZoneSlowFile = kLowZoneFile + kLowZoneSize;
static_assert(kLowZoneSlowFile + kLowZoneSize <= kUnitsFileOffset);
// Below where linkers put programs without PIE: 0x400000 (GNU, Go), 0x200000 (lld).
inline constexpr uint64_t kLowZone = 0x10'0000;

struct TrampolineZones {
  abi::AddrRange high;
  abi::AddrRange low;
  abi::AddrRange window;  // text within reach of `high`
};

class Trampolines {
 public:
  Trampolines(ControlMemory& control) : control_(control) {}
  void init(const TrampolineZones& zones, uint64_t fast_entry, uint64_t cpuid_entry);

  PatchPlan plan(std::span<const uint8_t> text, abi::Addr text_start, abi::Addr site);
  // A jump that takes the place of the first of `moved`: the instructions before a `cpuid` at `site`, which mean the same wherever they stand.
  static constexpr size_t kJump = 5;
  std::optional<std::array<uint8_t, kJump>> plan_cpuid(abi::Addr site, std::span<const uint8_t> moved);
  // For an address inside a trampoline: the guest's own address that has the same meaning.
  std::optional<abi::Addr> original(abi::Addr rip) const;
  bool in_zone(abi::Addr a) const { return zones_.high.contains(a) || zones_.low.contains(a); }

 private:
  struct Zone {
    abi::AddrRange range;
    uint64_t fast_file, slow_file;
    uint32_t used = 0;
  };
  struct Entry {
    uint64_t site = 0;      // address of the instruction after `syscall` or `cpuid`
    uint8_t bytes[15] = {};
    uint8_t length = 0;     // of the relocated instruction, or instructions where it is `cpuid`
    bool is_cpuid = false;
  };
  static constexpr uint64_t kEntrySize = 64;

  static bool relocate(const Entry& entry, uint64_t address, uint8_t* to);
  void write(const Zone& zone, uint32_t index, const Entry& entry);
  // Of a trampoline for a jump from `start`; 0: none.
  uint64_t make_trampoline(const Entry& entry, uint64_t start) REQUIRES(mu_);

  ControlMemory& control_;
  TrampolineZones zones_;
  uint64_t fast_entry_ = 0, cpuid_entry_ = 0;
  mutable base::Mutex mu_{base::LockRank::kLeaf};
  Zone zone_[2] GUARDED_BY(mu_);
  std::unordered_map<uint64_t, Entry> entries_ GUARDED_BY(mu_);       // by trampoline address
  std::unordered_multimap<uint64_t, uint64_t> by_site_ GUARDED_BY(mu_);  // site -> trampoline address
};

}  // namespace platform::systrap
