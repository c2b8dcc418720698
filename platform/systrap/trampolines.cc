// SPDX-License-Identifier: Apache-2.0
#include "platform/systrap/trampolines.h"

#include <cstring>

#include "platform/common/patch_site.h"

namespace platform::systrap {
namespace {

class Code {
 public:
  Code(uint8_t* at) : at_(at) {}
  Code& bytes(std::initializer_list<uint8_t> list) {
    for (uint8_t b : list) *at_++ = b;
    return *this;
  }
  template <typename T>
  Code& value(T v) {
    std::memcpy(at_, &v, sizeof v);
    at_ += sizeof v;
    return *this;
  }
  Code& copy(const uint8_t* from, size_t n) {
    std::memcpy(at_, from, n);
    at_ += n;
    return *this;
  }
  uint8_t* here() const { return at_; }

 private:
  uint8_t* at_;
};

bool reaches(uint64_t from, uint64_t to) {
  int64_t distance = static_cast<int64_t>(to - from);
  constexpr int64_t kReach = 0x7fff'0000;
  return distance > -kReach && distance < kReach;
}

}  // namespace

void Trampolines::init(const TrampolineZones& zones, uint64_t fast_entry, uint64_t cpuid_entry) {
  zones_ = zones;
  fast_entry_ = fast_entry;
  cpuid_entry_ = cpuid_entry;
  base::MutexLock lock(mu_);
  zone_[0] = {zones.high, kHighZoneFile, kHighZoneSlowFile};
  zone_[1] = {zones.low, kLowZoneFile, kLowZoneSlowFile};
}

// The instruction as it must be at `address`; false when what it refers to is out of reach from there.
bool Trampolines::relocate(const Entry& entry, uint64_t address, uint8_t* to) {
  std::memcpy(to, entry.bytes, entry.length);
  if (entry.is_cpuid || !is_lea_of_rip({entry.bytes, entry.length})) return true;
  int32_t displacement;
  std::memcpy(&displacement, entry.bytes + entry.length - 4, sizeof displacement);
  const uint64_t target = entry.site - 2 + static_cast<uint64_t>(int64_t{displacement});
  const auto moved = static_cast<int64_t>(target - (address + entry.length));
  displacement = static_cast<int32_t>(moved);
  std::memcpy(to + entry.length - 4, &displacement, sizeof displacement);
  return displacement == moved;
}

void Trampolines::write(const Zone& zone, uint32_t index, const Entry& entry) {
  uint64_t address = zone.range.start.value() + index * kEntrySize;
  uint8_t moved[sizeof entry.bytes];
  relocate(entry, address, moved);
  uint8_t* fast = control_.at<uint8_t>(zone.fast_file + index * kEntrySize);
  Code code(fast);
  const auto after_lea = static_cast<uint32_t>(entry.site - (address + entry.length + 7));
  if (entry.is_cpuid) {
    code.copy(moved, entry.length).bytes({0x48, 0x8d, 0x15}).value(after_lea);  // lea site(%rip),%rdx
    code.bytes({0x48, 0xbb}).value(cpuid_entry_);                               // movabs $cpuid_entry,%rbx
    code.bytes({0xff, 0xe3});                                                   // jmp *%rbx
  } else {
    code.copy(moved, entry.length).bytes({0x48, 0x8d, 0x0d}).value(after_lea);  // lea site(%rip),%rcx
    code.bytes({0x49, 0xbb}).value(fast_entry_);                                // movabs $fast_entry,%r11
    code.bytes({0x41, 0xff, 0xe3});                                             // jmp *%r11
  }
  Code slow(control_.at<uint8_t>(zone.slow_file + index * kEntrySize));
  slow.copy(moved, entry.length).bytes({0x0f, static_cast<uint8_t>(entry.is_cpuid ? 0xa2 : 0x05)});
  slow.bytes({0xff, 0x25, 0, 0, 0, 0}).value(entry.site);  // jmp *(%rip)
}

uint64_t Trampolines::make_trampoline(const Entry& entry, uint64_t start) {
  auto [it, last] = by_site_.equal_range(entry.site);
  for (; it != last; ++it) {
    const Entry& known = entries_[it->second];
    if (known.length == entry.length && std::memcmp(known.bytes, entry.bytes, entry.length) == 0) return it->second;
  }
  for (Zone& zone : zone_) {
    uint64_t address = zone.range.start.value() + zone.used * kEntrySize;
    if ((zone.used + 1) * kEntrySize > zone.range.length()) continue;
    uint8_t moved[sizeof entry.bytes];
    if (!reaches(start, address) || !reaches(address, entry.site) || !relocate(entry, address, moved)) continue;
    write(zone, zone.used++, entry);
    entries_[address] = entry;
    by_site_.emplace(entry.site, address);
    return address;
  }
  return 0;
}

std::optional<std::array<uint8_t, Trampolines::kJump>> Trampolines::plan_cpuid(abi::Addr site, std::span<const uint8_t> moved) {
  Entry entry;
  if (moved.size() > sizeof entry.bytes) return std::nullopt;
  entry.site = site.value() + 2;
  entry.length = static_cast<uint8_t>(moved.size());
  entry.is_cpuid = true;
  std::memcpy(entry.bytes, moved.data(), moved.size());
  const uint64_t start = site.value() - moved.size();
  base::MutexLock lock(mu_);
  const uint64_t target = make_trampoline(entry, start);
  if (target == 0) return std::nullopt;
  std::array<uint8_t, kJump> jump;
  Code(jump.data()).bytes({0xe9}).value(static_cast<uint32_t>(target - (start + kJump)));
  return jump;
}

PatchPlan Trampolines::plan(std::span<const uint8_t> text, abi::Addr text_start, abi::Addr site) {
  PatchPlan none;
  if (site < text_start || site - text_start > text.size()) return none;
  size_t before = site - text_start;
  // The jump takes the place of the instruction before the call, or stands in a hole to which a short jump in place of
  // the call itself leads: nothing is relocated then.
  size_t length = relocatable_before_syscall(text.first(before));
  size_t hole = length != 0 ? SIZE_MAX : hole_after_syscall(text.subspan(before));
  if (length == 0 && hole == SIZE_MAX) return none;
  Entry entry;
  entry.site = site.value();
  entry.length = static_cast<uint8_t>(length);
  std::memcpy(entry.bytes, text.data() + before - 2 - length, length);
  uint64_t start = length != 0 ? site.value() - 2 - length : site.value() + hole;

  base::MutexLock lock(mu_);
  const uint64_t target = make_trampoline(entry, start);
  if (!target) return none;
  PatchPlan plan;
  PatchEdit& jump = plan.edits[plan.count++];
  jump.start = abi::Addr(start);
  jump.length = 5;
  Code code(jump.bytes);
  code.bytes({0xe9}).value(static_cast<uint32_t>(target - (start + 5)));
  if (length != 0) return plan;
  PatchEdit& call = plan.edits[plan.count++];
  call.start = abi::Addr(site.value() - 2);
  call.length = 2;
  Code(call.bytes).bytes({0xeb, static_cast<uint8_t>(hole)});
  return plan;
}

std::optional<abi::Addr> Trampolines::original(abi::Addr rip) const {
  if (!in_zone(rip)) return std::nullopt;
  uint64_t entry_address = rip.value() & ~(kEntrySize - 1);
  uint64_t offset = rip.value() - entry_address;
  base::MutexLock lock(mu_);
  auto it = entries_.find(entry_address);
  if (it == entries_.end()) return std::nullopt;
  const Entry& entry = it->second;
  if (offset == 0 || (entry.is_cpuid && offset < entry.length)) return abi::Addr(entry.site - 2 - entry.length + offset);
  // Slow trampolines: behind their system call.
  if (offset == entry.length + 2u) return abi::Addr(entry.site);
  return abi::Addr(entry.site - 2);
}

}  // namespace platform::systrap
