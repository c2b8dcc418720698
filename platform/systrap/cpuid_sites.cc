// SPDX-License-Identifier: Apache-2.0
// `cpuid` in guest text: docs/decisions/0040.
#include <algorithm>
#include <array>

#include "platform/common/cpuid_record.h"
#include "platform/common/instruction.h"
#include "platform/systrap/systrap.h"

namespace platform::systrap {
namespace {

// A breakpoint takes some 6,000 ticks, a trampoline a hundred, and about two of three go through trampolines. Where cpuid takes less than
// this nothing is gained.
constexpr uint64_t kWorthTicks = 5'000;

constexpr uint8_t kBreakpoint = 0xcc;
constexpr size_t kJump = Trampolines::kJump;
constexpr uint8_t kCpuid[] = {0x0f, 0xa2};

// Does the same wherever it stands: some forms of mov, xor and add, on registers and memory that is not given relative to rip.
bool is_movable(std::span<const uint8_t> instruction) {
  size_t at = (instruction[0] & 0xf0) == 0x40 ? 1 : 0;
  const uint8_t opcode = instruction[at];
  if ((opcode & 0xf8) == 0xb8) return true;
  if (opcode != 0x31 && opcode != 0x33 && opcode != 0x83 && opcode != 0x89 && opcode != 0x8b && opcode != 0xc6 && opcode != 0xc7) return false;
  if (++at == instruction.size()) return false;
  return (instruction[at] & 0xc7) != 5;
}

PatchEdit make_edit(abi::Addr start, std::span<const uint8_t> before, std::span<const uint8_t> after) {
  PatchEdit edit;
  edit.start = start;
  edit.length = static_cast<uint8_t>(after.size());
  std::copy(before.begin(), before.end(), edit.before);
  std::copy(after.begin(), after.end(), edit.bytes);
  return edit;
}

}  // namespace

void SystrapPlatform::plan_cpuid(std::span<const uint8_t> code, abi::Addr start, std::vector<PatchEdit>& edits) {
  base::MutexLock lock(cpuid_mu_);
  CpuidBoard* board = control_.cpuid();
  if (cpuid_ == Cpuid::kUnknown) {
    cpuid_ = cpuid_ticks() >= kWorthTicks ? Cpuid::kSlow : Cpuid::kQuick;
    if (cpuid_ == Cpuid::kSlow) __atomic_store_n(&board->answer_count, static_cast<uint32_t>(record_cpuid(board->answers)), __ATOMIC_RELEASE);
  }
  if (cpuid_ == Cpuid::kQuick) return;
  std::vector<uint8_t> lengths;  // of the movable instructions before `at`, the last one last
  for (size_t at = 0; at < code.size();) {
    const Instruction i = decode_instruction(code.subspan(at));
    if (i.length == 0) return;
    const auto instruction = code.subspan(at, i.length);
    if (std::equal(instruction.begin(), instruction.end(), std::begin(kCpuid), std::end(kCpuid))) {
      const abi::Addr site(start.value() + at);
      if (!add_cpuid_site(site)) return;
      edits.push_back(make_edit(site, kCpuid, std::array{kBreakpoint, kCpuid[1]}));
      // A jump in place of an instruction that is long enough, to a trampoline with that one and those up to `cpuid`.
      size_t moved = 0, first = 0;
      while (first < kJump && !lengths.empty()) {
        first = lengths.back();
        moved += first;
        lengths.pop_back();
      }
      const auto jump = first < kJump ? std::nullopt : trampolines_.plan_cpuid(site, code.subspan(at - moved, moved));
      if (jump) edits.push_back(make_edit(abi::Addr(site.value() - moved), code.subspan(at - moved, kJump), *jump));
      lengths.clear();
    } else if (is_movable(instruction)) {
      lengths.push_back(i.length);
    } else {
      lengths.clear();
    }
    at += i.length;
  }
}

// Stubs know it from now on; false: no room.
bool SystrapPlatform::add_cpuid_site(abi::Addr site) {
  CpuidBoard* board = control_.cpuid();
  const uint32_t count = board->site_count;
  if (std::find(board->sites, board->sites + count, site.value()) != board->sites + count) return true;
  if (count == CpuidBoard::kSites) return false;
  board->sites[count] = site.value();
  __atomic_store_n(&board->site_count, count + 1, __ATOMIC_RELEASE);
  return true;
}

}  // namespace platform::systrap
