// SPDX-License-Identifier: Apache-2.0
// How long an x86-64 instruction is and whether it can be followed by what comes after it: enough to walk through code
// from an address that is known to start an instruction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace platform {

enum class Flow : uint8_t {
  kNext,     // may go on with the next instruction
  kNever,    // ret, jmp, ud2, hlt: the next bytes are not reached from here
  kPadding,  // does nothing: what assemblers fill holes with
};

struct Instruction {
  uint8_t length = 0;  // 0: not known, or cut off
  Flow flow = Flow::kNext;
};

Instruction decode_instruction(std::span<const uint8_t> code);

}  // namespace platform
