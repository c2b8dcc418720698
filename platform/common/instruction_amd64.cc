// SPDX-License-Identifier: Apache-2.0
// Lengths by the opcode maps of the Intel and AMD manuals. Opcodes that 64-bit mode does not have, and XOP, are not known.
#include "platform/common/instruction.h"

namespace platform {
namespace {

// What follows an opcode.
enum Form : uint8_t {
  kBad,
  kNone,
  kModrm,
  kImm8,
  kImm16,
  kImmZ,        // 2 bytes with an operand-size prefix, else 4
  kImmV,        // like kImmZ, 8 bytes with REX.W
  kModrmImm8,
  kModrmImmZ,
  kMoffs,       // an address: 4 bytes with an address-size prefix, else 8
  kEnter,       // 3 bytes
  kGroup3Byte,  // f6: an immediate only for TEST
  kGroup3,      // f7
  kRel32,
};

Form one_byte_form(uint8_t op) {
  if (op < 0x40) {
    const uint8_t low = op & 7;
    return low < 4 ? kModrm : low == 4 ? kImm8 : low == 5 ? kImmZ : kBad;
  }
  if (op >= 0x50 && op <= 0x5f) return kNone;
  if (op >= 0x70 && op <= 0x7f) return kImm8;
  if (op >= 0x84 && op <= 0x8e) return kModrm;
  if (op >= 0x90 && op <= 0x9f) return op == 0x9a ? kBad : kNone;
  if (op >= 0xa0 && op <= 0xa3) return kMoffs;
  if (op >= 0xb0 && op <= 0xb7) return kImm8;
  if (op >= 0xb8 && op <= 0xbf) return kImmV;
  if (op >= 0xd8 && op <= 0xdf) return kModrm;
  switch (op) {
    case 0x63: case 0x8f: case 0xd0: case 0xd1: case 0xd2: case 0xd3: case 0xfe: case 0xff: return kModrm;
    case 0x68: case 0xa9: return kImmZ;
    case 0x69: case 0x81: case 0xc7: return kModrmImmZ;
    case 0x6a: case 0xa8: case 0xcd: case 0xe0: case 0xe1: case 0xe2: case 0xe3: case 0xe4: case 0xe5: case 0xe6:
    case 0xe7: case 0xeb: return kImm8;
    case 0x6b: case 0x80: case 0x83: case 0xc0: case 0xc1: case 0xc6: return kModrmImm8;
    case 0x6c: case 0x6d: case 0x6e: case 0x6f: case 0xa4: case 0xa5: case 0xa6: case 0xa7: case 0xaa: case 0xab:
    case 0xac: case 0xad: case 0xae: case 0xaf: case 0xc3: case 0xc9: case 0xcb: case 0xcc: case 0xcf: case 0xd7:
    case 0xec: case 0xed: case 0xee: case 0xef: case 0xf1: case 0xf4: case 0xf5: case 0xf8: case 0xf9: case 0xfa:
    case 0xfb: case 0xfc: case 0xfd: return kNone;
    case 0xc2: case 0xca: return kImm16;
    case 0xc8: return kEnter;
    case 0xe8: case 0xe9: return kRel32;
    case 0xf6: return kGroup3Byte;
    case 0xf7: return kGroup3;
    default: return kBad;
  }
}

Form two_byte_form(uint8_t op) {
  if (op >= 0x80 && op <= 0x8f) return kRel32;
  if (op >= 0xc8 && op <= 0xcf) return kNone;  // bswap
  if (op >= 0x70 && op <= 0x73) return kModrmImm8;
  switch (op) {
    case 0x05: case 0x06: case 0x07: case 0x08: case 0x09: case 0x0b: case 0x0e: case 0x30: case 0x31: case 0x32: case 0x33:
    case 0x34: case 0x35: case 0x37: case 0x77: case 0xa0: case 0xa1: case 0xa2: case 0xa8: case 0xa9: case 0xaa: return kNone;
    case 0xa4: case 0xac: case 0xba: case 0xc2: case 0xc4: case 0xc5: case 0xc6: return kModrmImm8;
    case 0x04: case 0x0a: case 0x0c: case 0x0f: case 0x24: case 0x25: case 0x26: case 0x27: case 0x36: case 0x38:
    case 0x39: case 0x3a: case 0x3b: case 0x3c: case 0x3d: case 0x3e: case 0x3f: case 0x7a: case 0x7b: case 0xa6:
    case 0xa7: return kBad;
    default: return kModrm;
  }
}

class Reader {
 public:
  explicit Reader(std::span<const uint8_t> code) : code_(code.first(code.size() < 15 ? code.size() : 15)) {}
  bool has(size_t n) const { return at_ + n <= code_.size(); }
  uint8_t peek(size_t ahead = 0) const { return has(ahead + 1) ? code_[at_ + ahead] : 0; }
  uint8_t next() {
    if (!has(1)) {
      failed_ = true;
      return 0;
    }
    return code_[at_++];
  }
  void skip(size_t n) {
    if (!has(n)) failed_ = true;
    at_ += n;
  }
  bool failed() const { return failed_; }
  size_t at() const { return at_; }

 private:
  std::span<const uint8_t> code_;
  size_t at_ = 0;
  bool failed_ = false;
};

struct Prefixes {
  bool operand_size = false, address_size = false, rex_w = false;
};

// The ModRM byte with its SIB byte and displacement; returns the byte.
uint8_t skip_modrm(Reader& r) {
  const uint8_t modrm = r.next(), mod = modrm >> 6, rm = modrm & 7;
  if (mod == 3) return modrm;
  uint8_t sib = 0;
  if (rm == 4) sib = r.next();
  if (mod == 1) r.skip(1);
  else if (mod == 2 || rm == 5 || (rm == 4 && (sib & 7) == 5)) r.skip(4);
  return modrm;
}

// Returns the ModRM byte, where there is one.
uint8_t skip_operands(Reader& r, Form form, const Prefixes& p) {
  const size_t z = p.operand_size ? 2 : 4;
  uint8_t modrm = 0;
  switch (form) {
    case kBad: r.skip(16); break;
    case kNone: break;
    case kModrm: modrm = skip_modrm(r); break;
    case kImm8: r.skip(1); break;
    case kImm16: r.skip(2); break;
    case kImmZ: r.skip(p.rex_w ? 4 : z); break;
    case kImmV: r.skip(p.rex_w ? 8 : z); break;
    case kModrmImm8: modrm = skip_modrm(r), r.skip(1); break;
    case kModrmImmZ: modrm = skip_modrm(r), r.skip(p.rex_w ? 4 : z); break;
    case kMoffs: r.skip(p.address_size ? 4 : 8); break;
    case kEnter: r.skip(3); break;
    case kGroup3Byte: modrm = skip_modrm(r), r.skip((modrm & 0x30) == 0 ? 1 : 0); break;
    case kGroup3: modrm = skip_modrm(r), r.skip((modrm & 0x30) != 0 ? 0 : p.rex_w ? 4 : z); break;
    case kRel32: r.skip(4); break;
  }
  return modrm;
}

// VEX and EVEX: their opcode maps are those of the legacy instructions, but for the immediates listed here.
void skip_vector(Reader& r, uint8_t map) {
  const uint8_t op = r.next();
  if (map == 1 && op == 0x77) return;  // vzeroupper
  const bool imm8 = map == 3 || (map == 1 && ((op >= 0x70 && op <= 0x73) || op == 0xc2 || (op >= 0xc4 && op <= 0xc6)));
  if (map == 0 || map == 4 || map > 6) r.skip(16);
  skip_modrm(r);
  if (imm8) r.skip(1);
}

Flow flow_of(uint8_t op, uint8_t modrm, bool rep) {
  switch (op) {
    case 0xc2: case 0xc3: case 0xe9: case 0xeb: case 0xf4: return Flow::kNever;
    case 0xff: return (modrm >> 3 & 7) == 4 ? Flow::kNever : Flow::kNext;  // jmp *
    case 0x90: return rep ? Flow::kNext : Flow::kPadding;
    case 0xcc: return Flow::kPadding;
    default: return Flow::kNext;
  }
}

}  // namespace

Instruction decode_instruction(std::span<const uint8_t> code) {
  Reader r(code);
  Prefixes p;
  bool rep = false, lock = false;
  for (;; r.next()) {
    const uint8_t byte = r.peek();
    if (byte == 0x66) p.operand_size = true;
    else if (byte == 0x67) p.address_size = true;
    else if (byte == 0xf2 || byte == 0xf3) rep = true;
    else if (byte == 0xf0) lock = true;
    else if (byte != 0x2e && byte != 0x36 && byte != 0x3e && byte != 0x26 && byte != 0x64 && byte != 0x65) break;
  }
  Flow flow = Flow::kNext;
  uint8_t rex = 0;
  if ((r.peek() & 0xf0) == 0x40) rex = r.next();
  p.rex_w = (rex & 8) != 0;
  const uint8_t op = r.next();
  if (op == 0xc5 && rex == 0) {
    r.skip(1);
    skip_vector(r, 1);
  } else if (op == 0xc4 && rex == 0) {
    const uint8_t map = r.next() & 0x1f;
    r.skip(1);
    skip_vector(r, map);
  } else if (op == 0x62 && rex == 0) {
    const uint8_t map = r.next() & 7;
    r.skip(2);
    skip_vector(r, map);
  } else if (op == 0x0f) {
    const uint8_t second = r.next();
    if (second == 0x38 || second == 0x3a) {
      r.next();
      skip_modrm(r);
      if (second == 0x3a) r.skip(1);
    } else {
      skip_operands(r, two_byte_form(second), p);
      if (second == 0x0b) flow = Flow::kNever;
      if (second == 0x1f && !rep && !lock) flow = Flow::kPadding;
    }
  } else {
    if (op == 0x8f && (r.peek() >> 3 & 7) != 0) return {};  // XOP
    const uint8_t modrm = skip_operands(r, one_byte_form(op), p);
    flow = flow_of(op, modrm, rep || (rex & 1) != 0);
  }
  if (r.failed()) return {};
  return {static_cast<uint8_t>(r.at()), flow};
}

}  // namespace platform
