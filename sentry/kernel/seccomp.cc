// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/seccomp.h"

#include <array>
#include <cstring>

namespace sentry::kernel {

using enum abi::Errno;
using base::err;

namespace {

// Instruction fields of uapi/linux/bpf_common.h.
enum : uint16_t {
  kClassMask = 7, kLd = 0, kLdx = 1, kSt = 2, kStx = 3, kAlu = 4, kJmp = 5, kRet = 6, kMisc = 7,
  kModeMask = 0xe0, kImm = 0, kAbs = 0x20, kMem = 0x60, kLen = 0x80,
  kOpMask = 0xf0, kAdd = 0, kSub = 0x10, kMul = 0x20, kDiv = 0x30, kOr = 0x40, kAnd = 0x50, kLsh = 0x60, kRsh = 0x70, kNeg = 0x80,
  kMod = 0x90, kXor = 0xa0,
  kJa = 0, kJeq = 0x10, kJgt = 0x20, kJge = 0x30, kJset = 0x40,
  kSrcX = 8, kRetA = 0x10, kTxa = 0x80, kMiscMask = 0xf8,
};
constexpr uint32_t kScratchWords = 16;
constexpr uint32_t kAuditArchX86_64 = 0xc000003e;

// struct seccomp_data: what a program sees.
struct SeccompData {
  int32_t number = 0;
  uint32_t arch = kAuditArchX86_64;
  uint64_t instruction_pointer = 0;
  uint64_t args[6] = {};
};
static_assert(sizeof(SeccompData) == 64);

bool is_valid_load(const BpfInstruction& i) {
  const uint16_t mode = i.code & kModeMask;
  const bool word = (i.code & 0x18) == 0;
  if (!word) return false;
  if (mode == kMem) return i.k < kScratchWords;
  if (mode == kImm || mode == kLen) return true;
  return mode == kAbs && (i.code & kClassMask) == kLd && i.k % 4 == 0 && i.k < sizeof(SeccompData);
}

bool is_valid_alu(const BpfInstruction& i) {
  const uint16_t op = i.code & kOpMask;
  const bool immediate = (i.code & kSrcX) == 0;
  if (op > kXor || (i.code & ~uint16_t{kOpMask | kSrcX | kClassMask})) return false;
  if (op == kNeg) return immediate;
  if ((op == kDiv || op == kMod) && immediate) return i.k != 0;
  if ((op == kLsh || op == kRsh) && immediate) return i.k < 32;
  return true;
}

bool is_valid_jump(const BpfInstruction& i, size_t at, size_t length) {
  const size_t left = length - at - 1;
  const uint16_t op = i.code & kOpMask;
  if (op == kJa) return (i.code & kSrcX) == 0 && i.k < left;
  return op <= kJset && i.jt < left && i.jf < left;
}

// Also refuses what can fall off the end: the last instruction must be a return, jumps only go forward and inside.
bool is_valid(const std::vector<BpfInstruction>& program) {
  const size_t n = program.size();
  if (n == 0 || n > SeccompFilter::kMaxInstructions) return false;
  for (size_t at = 0; at < n; ++at) {
    const BpfInstruction& i = program[at];
    if (i.code > 0xff) return false;
    switch (i.code & kClassMask) {
      case kLd: case kLdx:
        if (!is_valid_load(i)) return false;
        break;
      case kSt: case kStx:
        if ((i.code & ~uint16_t{kClassMask}) != 0 || i.k >= kScratchWords) return false;
        break;
      case kAlu:
        if (!is_valid_alu(i)) return false;
        break;
      case kJmp:
        if (!is_valid_jump(i, at, n)) return false;
        break;
      case kRet:
        if (i.code != kRet && i.code != (kRet | kRetA)) return false;
        break;
      default:
        if (i.code != kMisc && i.code != (kMisc | kTxa)) return false;
    }
  }
  return (program.back().code & kClassMask) == kRet;
}

uint32_t alu(uint16_t op, uint32_t a, uint32_t b) {
  switch (op) {
    case kAdd: return a + b;
    case kSub: return a - b;
    case kMul: return a * b;
    case kDiv: return b == 0 ? 0 : a / b;
    case kMod: return b == 0 ? 0 : a % b;
    case kOr: return a | b;
    case kAnd: return a & b;
    case kXor: return a ^ b;
    case kLsh: return b < 32 ? a << b : 0;
    case kRsh: return b < 32 ? a >> b : 0;
    default: return 0 - a;  // kNeg
  }
}

bool jump_taken(uint16_t op, uint32_t a, uint32_t b) {
  switch (op) {
    case kJeq: return a == b;
    case kJgt: return a > b;
    case kJge: return a >= b;
    default: return (a & b) != 0;  // kJset
  }
}

uint32_t load_word(const SeccompData& data, uint32_t offset) {
  uint32_t v;
  std::memcpy(&v, static_cast<const char*>(static_cast<const void*>(&data)) + offset, sizeof v);
  return v;
}

uint32_t load(const BpfInstruction& i, const SeccompData& data, const std::array<uint32_t, kScratchWords>& scratch) {
  switch (i.code & kModeMask) {
    case kImm: return i.k;
    case kMem: return scratch[i.k];
    case kLen: return sizeof(SeccompData);
    default: return load_word(data, i.k);
  }
}

// Every step goes forward, so it ends. The program was validated.
uint32_t interpret(const std::vector<BpfInstruction>& program, const SeccompData& data) {
  uint32_t a = 0, x = 0;
  std::array<uint32_t, kScratchWords> scratch{};
  for (size_t pc = 0; pc < program.size(); ++pc) {
    const BpfInstruction& i = program[pc];
    const uint32_t operand = i.code & kSrcX ? x : i.k;
    switch (i.code & kClassMask) {
      case kLd: a = load(i, data, scratch); break;
      case kLdx: x = load(i, data, scratch); break;
      case kSt: scratch[i.k] = a; break;
      case kStx: scratch[i.k] = x; break;
      case kAlu: a = alu(i.code & kOpMask, a, operand); break;
      case kJmp:
        if ((i.code & kOpMask) == kJa) pc += i.k;
        else pc += jump_taken(i.code & kOpMask, a, operand) ? i.jt : i.jf;
        break;
      case kRet: return i.code & kRetA ? a : i.k;
      default:
        if ((i.code & kMiscMask) == kTxa) a = x;
        else x = a;
    }
  }
  return kSeccompRetKillProcess;
}

}  // namespace

base::Result<base::RefPtr<SeccompFilter>> SeccompFilter::create(std::vector<BpfInstruction> program, base::RefPtr<SeccompFilter> previous) {
  if (!is_valid(program)) return err(kEINVAL);
  const size_t total = program.size() + 4 + (previous ? previous->total_ : 0);
  if (total > kMaxPathInstructions) return err(kENOMEM);
  const uint32_t count = 1 + (previous ? previous->count_ : 0);
  return base::make_ref<SeccompFilter>(std::move(program), std::move(previous), count, total);
}

uint32_t SeccompFilter::evaluate(const platform::Registers& regs) const {
  SeccompData data;
  data.number = static_cast<int32_t>(regs.orig_rax);
  data.instruction_pointer = regs.rip;
  const uint64_t args[6] = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9};
  for (int i = 0; i < 6; ++i) data.args[i] = args[i];
  // The smallest action as a signed number wins: KILL_PROCESS is negative, then KILL_THREAD, TRAP, ERRNO, ... ALLOW.
  uint32_t strictest = kSeccompRetAllow;
  for (const SeccompFilter* f = this; f; f = f->previous_.get()) {
    const uint32_t action = interpret(f->program_, data);
    if (static_cast<int32_t>(action & kSeccompRetActionFull) < static_cast<int32_t>(strictest & kSeccompRetActionFull)) strictest = action;
  }
  return strictest;
}

}  // namespace sentry::kernel
