// SPDX-License-Identifier: Apache-2.0
// What the contract suite runs on: one platform, one memfd with tiny guests in it, and a loop that waits for events.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/host/unique_fd.h"
#include "platform/interface/platform.h"

namespace platform_test {

using platform::AddressSpace;
using platform::Context;
using platform::Event;
using platform::EventKind;
using platform::Platform;
using platform::Populate;
using platform::ResumeMode;

inline uint64_t code_at = 0;  // where guests' code is mapped: where the platform wants it, set by Machine
inline constexpr uint64_t kStack = 0x20'0000'0000;  // one page of stack, sp at its end
inline constexpr uint64_t kData = 0x30'0000'0000;
inline constexpr uint64_t kPage = 4096;
inline constexpr abi::Prot kR = {true, false, false};
inline constexpr abi::Prot kRW = {true, true, false};
inline constexpr abi::Prot kRX = {true, false, true};

inline abi::AddrRange pages(uint64_t address, uint64_t count = 1) {
  return {abi::Addr(address), abi::Addr(address + count * kPage)};
}

class Machine {
 public:
  explicit Machine(platform::PlatformFactory& factory, unsigned cpus = 2);
  ~Machine();
  Platform& platform() { return *platform_; }
  // A fresh zeroed run of pages of the memfd: its offset, and its bytes.
  uint64_t allocate(uint64_t pages);
  template <typename T = uint8_t>
  T* bytes(uint64_t offset) { return reinterpret_cast<T*>(base_ + offset); }
  // Puts code at the start of fresh pages.
  uint64_t code(std::string_view code);

  std::unique_ptr<AddressSpace> space();
  std::unique_ptr<Context> context(AddressSpace& as);
  // Resumes and waits for that context's next event.
  Event run(Context& context, ResumeMode mode = ResumeMode::kFull);
  // Waits for any of the running contexts; null after ten seconds.
  Context* wait();
  // False when the platform does not patch; one that does must patch the usual sites.
  bool patch_usual(uint64_t code_offset, uint64_t code_address, uint64_t site);
  bool plan_and_patch(uint64_t code_offset, uint64_t code_address, uint64_t site);

 private:
  base::UniqueFd memory_, memory_ro_;
  char* base_ = nullptr;
  uint64_t next_ = 0;
  int spin_ = 1;
  std::unique_ptr<Platform> platform_;
};

// One address space with one guest: code, a stack page, registers at the start of the code.
struct Guest {
  Guest(Machine& machine, std::string_view code);
  Event run(ResumeMode mode = ResumeMode::kFull) { return machine.run(*context, mode); }
  platform::Registers& regs() { return context->regs(); }
  // Answers a system call and goes on.
  Event answer(uint64_t value) {
    regs().rax = value;
    return run(ResumeMode::kSyscallReturn);
  }
  Machine& machine;
  uint64_t code_offset, stack_offset;
  std::unique_ptr<AddressSpace> as;
  std::unique_ptr<Context> context;
};

// Runs `test` once for each platform of this host.
void on_every_platform(const std::function<void(Machine&)>& test, unsigned cpus = 2);

}  // namespace platform_test

// Guest code as assembly: GUEST(name, "mov $39, %eax; syscall; ...") defines std::string_view name().
#define GUEST(name, text)                                                                                     \
  asm(".pushsection .rodata\n.globl guest_" #name "_start, guest_" #name "_end\nguest_" #name "_start:\n" text \
      "\nguest_" #name "_end:\n.popsection\n");                                                               \
  extern "C" const char guest_##name##_start[], guest_##name##_end[];                                         \
  static std::string_view name() {                                                                            \
    return {guest_##name##_start, static_cast<size_t>(guest_##name##_end - guest_##name##_start)};            \
  }
