// SPDX-License-Identifier: Apache-2.0
// Seccomp filters that guests install for themselves: seccomp(2). Classic BPF, checked once, then interpreted.
#pragma once

#include <cstdint>
#include <vector>

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "platform/interface/registers.h"

namespace sentry::kernel {

struct BpfInstruction {
  uint16_t code = 0;
  uint8_t jt = 0, jf = 0;
  uint32_t k = 0;
};
static_assert(sizeof(BpfInstruction) == 8);

enum : uint32_t {
  kSeccompRetKillProcess = 0x80000000, kSeccompRetKillThread = 0, kSeccompRetTrap = 0x00030000,
  kSeccompRetErrno = 0x00050000, kSeccompRetUserNotif = 0x7fc00000, kSeccompRetTrace = 0x7ff00000,
  kSeccompRetLog = 0x7ffc0000, kSeccompRetAllow = 0x7fff0000, kSeccompRetActionFull = 0xffff0000,
  kSeccompRetData = 0x0000ffff,
};

// One installed program and those installed before it.
class SeccompFilter final : public base::RefCounted {
 public:
  static constexpr size_t kMaxInstructions = 4096;         // BPF_MAXINSNS
  static constexpr size_t kMaxPathInstructions = 32768;    // of a whole chain, 4 more counted per program
  // EINVAL for a program that Linux's bpf_check_classic and seccomp_check_filter refuse; ENOMEM for a chain too long.
  static base::Result<base::RefPtr<SeccompFilter>> create(std::vector<BpfInstruction> program, base::RefPtr<SeccompFilter> previous);
  // The action with the highest precedence of all programs in the chain.
  uint32_t evaluate(const platform::Registers& regs) const;
  uint32_t count() const { return count_; }
  SeccompFilter(std::vector<BpfInstruction> program, base::RefPtr<SeccompFilter> previous, uint32_t count, size_t total)
      : program_(std::move(program)), previous_(std::move(previous)), count_(count), total_(total) {}

 private:
  const std::vector<BpfInstruction> program_;
  const base::RefPtr<SeccompFilter> previous_;
  const uint32_t count_;
  const size_t total_;
};

}  // namespace sentry::kernel
