// SPDX-License-Identifier: Apache-2.0
#include "platform/common/patch_site.h"

#include <cstring>

#include "platform/common/instruction.h"

namespace platform {
namespace {

// System call numbers are small; anything else in such a place is not a number, hence not what it seems.
bool is_call_number(const uint8_t* imm) {
  uint32_t value;
  std::memcpy(&value, imm, sizeof value);
  return value < 1024;
}

// Could the byte before the supposed first one be part of the same instruction?
bool may_be_prefix(uint8_t byte) {
  switch (byte) {
    case 0x0f: case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x62: case 0x64: case 0x65: case 0x66: case 0x67:
    case 0xc4: case 0xc5: case 0xd5: case 0xf0: case 0xf2: case 0xf3: return true;
    default: return false;
  }
}

// Whether an instruction starts `length` bytes before the end of the code, judged by decoding from many places further ahead: x86 code
// read from a wrong place falls into step after a few instructions. Every reading that has an instruction end at the end must agree.
bool starts_instruction(std::span<const uint8_t> code, size_t length) {
  constexpr size_t kFarthest = 40, kNearest = 12, kEnough = 8;
  if (code.size() < length + kFarthest) return false;
  const size_t start = code.size() - length;
  size_t agreeing = 0;
  for (size_t from = start - kFarthest; from <= start - kNearest; ++from) {
    bool through = false;
    size_t at = from;
    while (at < code.size()) {
      through |= at == start;
      const Instruction i = decode_instruction(code.subspan(at));
      if (i.length == 0) break;
      at += i.length;
    }
    if (at != code.size()) continue;
    if (!through) return false;
    ++agreeing;
  }
  return agreeing >= kEnough;
}

// The length of an instruction at the end of the code whose bytes alone do not tell that it is one: mov of a constant to an argument
// register, movups to memory, lea of an address relative to rip. 0: none of them.
size_t argument_setup(const uint8_t* end) {
  if (end[-5] == 0xba || end[-5] == 0xbe || end[-5] == 0xbf) return 5;  // mov $imm32,%edx, %esi or %edi
  if (end[-7] == 0x0f && end[-6] == 0x11 && (end[-5] & 0xc0) == 0x80 && (end[-5] & 7) != 4) return 7;  // movups %xmm,disp32(%reg)
  if (is_lea_of_rip({end - 7, 7})) return 7;
  return 0;
}

}  // namespace

bool is_lea_of_rip(std::span<const uint8_t> instruction) {
  return instruction.size() == 7 && (instruction[0] & 0xfb) == 0x48 && instruction[1] == 0x8d && (instruction[2] & 0xc7) == 5;
}

size_t relocatable_before_syscall(std::span<const uint8_t> text) {
  if (text.size() < 8 || text[text.size() - 2] != 0x0f || text[text.size() - 1] != 0x05) return 0;
  const uint8_t* end = text.data() + text.size() - 2;
  size_t room = text.size() - 2;
  // mov $imm32,%rax: 48 c7 c0 imm32
  if (room >= 8 && end[-7] == 0x48 && end[-6] == 0xc7 && end[-5] == 0xc0 && is_call_number(end - 4) && !may_be_prefix(end[-8]))
    return 7;
  // mov $imm32,%eax: b8 imm32. With REX.B in front it is %r8d.
  if (end[-5] == 0xb8 && is_call_number(end - 4) && !may_be_prefix(end[-6]) && (end[-6] & 0xf9) != 0x41) return 5;
  // mov or lea with a SIB byte and disp8: REX 89|8b|8d mod=01,rm=100 SIB disp8
  if ((end[-5] & 0xf0) == 0x40 && (end[-4] == 0x89 || end[-4] == 0x8b || end[-4] == 0x8d) && (end[-3] & 0xc7) == 0x44 &&
      !may_be_prefix(end[-6]))
    return 5;
  if (room < 8) return 0;
  const size_t length = argument_setup(end);
  if (length == 0 || may_be_prefix(*(end - length - 1)) || (end[-static_cast<ptrdiff_t>(length) - 1] & 0xf0) == 0x40) return 0;
  return starts_instruction(text.first(room), length) ? length : 0;
}

size_t hole_after_syscall(std::span<const uint8_t> code) {
  constexpr size_t kReach = 127, kJump = 5;
  bool reached = true;
  size_t hole = 0, hole_length = 0;
  for (size_t at = 0; at < code.size() && at <= kReach + kJump;) {
    const Instruction i = decode_instruction(code.subspan(at));
    if (i.length == 0) return SIZE_MAX;
    if (i.flow == Flow::kPadding && !reached) {
      if (hole_length == 0) hole = at;
      hole_length += i.length;
      if (hole_length >= kJump) return hole <= kReach ? hole : SIZE_MAX;
    } else {
      reached = i.flow != Flow::kNever;
      hole_length = 0;
    }
    at += i.length;
  }
  return SIZE_MAX;
}

}  // namespace platform
