// SPDX-License-Identifier: Apache-2.0
#include "sentry/arch/signal_frame_amd64.h"

#include <cstddef>
#include <cstring>
#include <vector>

#include "sentry/arch/xstate_amd64.h"

namespace sentry::arch {

namespace {

using abi::Addr;

struct SigContext {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
  uint16_t cs, gs, fs, ss;
  uint64_t error_code, trapno, oldmask, cr2, fpstate;
  uint64_t reserved[8];
};
static_assert(sizeof(SigContext) == 256);

struct UContext {
  uint64_t flags = 0, link = 0;
  abi::SigAltStack stack;
  SigContext mcontext = {};
  abi::SigSet sigmask;
};
static_assert(sizeof(UContext) == 304);

struct RtSigFrame {
  uint64_t return_address = 0;
  UContext uc;
  abi::SigInfo info;
};
static_assert(sizeof(RtSigFrame) == 440);

// struct _fpx_sw_bytes at the end of the legacy area.
struct SoftwareBytes {
  uint32_t magic1, extended_size;
  uint64_t features;
  uint32_t xstate_size, padding[7];
};
static_assert(sizeof(SoftwareBytes) == 48);

constexpr uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;
constexpr size_t kSoftwareOffset = 464, kLegacySize = 512;
constexpr uint64_t kUcFlags = 1 | 2 | 4;  // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
constexpr uint64_t kRedZone = 128;
// FIX_EFLAGS: what a handler may change in the flags it returns to.
constexpr uint64_t kUserFlags = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x800 | 0x10000 | 0x40000;
constexpr uint64_t kFlagDf = 0x400, kFlagTf = 0x100, kFlagRf = 0x10000;

void save_registers(SigContext& c, const platform::Registers& r) {
  c.r8 = r.r8, c.r9 = r.r9, c.r10 = r.r10, c.r11 = r.r11, c.r12 = r.r12, c.r13 = r.r13, c.r14 = r.r14, c.r15 = r.r15;
  c.rdi = r.rdi, c.rsi = r.rsi, c.rbp = r.rbp, c.rbx = r.rbx, c.rdx = r.rdx, c.rax = r.rax, c.rcx = r.rcx;
  c.rsp = r.rsp, c.rip = r.rip, c.eflags = r.eflags;
  c.cs = 0x33, c.gs = 0, c.fs = 0, c.ss = 0x2b;
}

void load_registers(platform::Registers& r, const SigContext& c) {
  r.r8 = c.r8, r.r9 = c.r9, r.r10 = c.r10, r.r11 = c.r11, r.r12 = c.r12, r.r13 = c.r13, r.r14 = c.r14, r.r15 = c.r15;
  r.rdi = c.rdi, r.rsi = c.rsi, r.rbp = c.rbp, r.rbx = c.rbx, r.rdx = c.rdx, r.rax = c.rax, r.rcx = c.rcx;
  r.rsp = c.rsp, r.rip = c.rip;
  r.eflags = (r.eflags & ~kUserFlags) | (c.eflags & kUserFlags);
  r.orig_rax = ~uint64_t{0};
}

// The XSAVE area with its software bytes and the second magic number, as one block.
std::vector<uint8_t> make_fpstate(std::span<const uint8_t> xstate) {
  std::vector<uint8_t> block(xstate.size() + sizeof kMagic2);
  std::memcpy(block.data(), xstate.data(), xstate.size());
  SoftwareBytes sw{};
  sw.magic1 = kMagic1;
  sw.extended_size = static_cast<uint32_t>(block.size());
  sw.features = xstate_features();
  sw.xstate_size = static_cast<uint32_t>(xstate.size());
  std::memcpy(block.data() + kSoftwareOffset, &sw, sizeof sw);
  std::memcpy(block.data() + xstate.size(), &kMagic2, sizeof kMagic2);
  return block;
}

// sas_ss_flags() of Linux.
int32_t altstack_flags(const abi::SigAltStack& s, uint64_t sp) {
  if (s.size == 0) return abi::kSS_DISABLE;
  return on_altstack(s, sp) ? abi::kSS_ONSTACK : 0;
}

}  // namespace

bool on_altstack(const abi::SigAltStack& stack, uint64_t sp) {
  // With SS_AUTODISARM the stack is never in use while it is set (the handler starts with it cleared).
  if (stack.flags & abi::kSS_AUTODISARM) return false;
  return stack.size != 0 && sp > stack.sp && sp - stack.sp <= stack.size;
}

base::Result<void> push_signal_frame(const FrameArgs& args) {
  platform::Registers& regs = args.regs;
  uint64_t sp = regs.rsp - kRedZone;
  const bool already_there = on_altstack(args.altstack, regs.rsp);
  const bool switch_stack = (args.action.flags & abi::kSA_ONSTACK) && args.altstack.size != 0 && !already_there;
  if (switch_stack) sp = args.altstack.sp + args.altstack.size;

  uint64_t fp = 0;
  if (!args.xstate.empty()) {
    fp = (sp - args.xstate.size() - sizeof kMagic2) & ~uint64_t{63};
    sp = fp;
  }
  // At the handler's first instruction the stack looks as after a call: 16-byte aligned plus 8.
  sp = ((sp - sizeof(RtSigFrame)) & ~uint64_t{15}) - 8;
  // A frame that leaves the alternate stack at its low end would overwrite what is below it.
  if ((already_there || switch_stack) && (sp < args.altstack.sp || sp >= args.altstack.sp + args.altstack.size))
    return base::err(abi::Errno::kEFAULT);

  RtSigFrame frame;
  frame.return_address = args.action.restorer;
  frame.uc.flags = args.xstate.empty() ? kUcFlags & ~uint64_t{1} : kUcFlags;
  frame.uc.stack = args.altstack;
  frame.uc.stack.flags = altstack_flags(args.altstack, regs.rsp) | (args.altstack.flags & abi::kSS_AUTODISARM);
  save_registers(frame.uc.mcontext, regs);
  frame.uc.mcontext.error_code = args.error_code;
  frame.uc.mcontext.trapno = args.trapno;
  frame.uc.mcontext.cr2 = args.fault_address;
  frame.uc.mcontext.oldmask = args.saved_mask.bits;
  frame.uc.mcontext.fpstate = fp;
  frame.uc.sigmask = args.saved_mask;
  frame.info = args.info;
  // Linux refuses a handler without a restorer on x86-64.
  if (!(args.action.flags & abi::kSA_RESTORER)) return base::err(abi::Errno::kEFAULT);
  if (fp != 0) {
    const std::vector<uint8_t> block = make_fpstate(args.xstate);
    TRY(args.memory.copy_out(Addr(fp), block.data(), block.size()));
  }
  TRY(args.memory.copy_out(Addr(sp), &frame, sizeof frame));

  regs.rdi = static_cast<uint64_t>(args.info.signo);
  regs.rsi = sp + offsetof(RtSigFrame, info);
  regs.rdx = sp + offsetof(RtSigFrame, uc);
  regs.rax = 0;
  regs.rsp = sp;
  regs.rip = args.action.handler;
  regs.eflags &= ~(kFlagDf | kFlagTf | kFlagRf);
  regs.orig_rax = ~uint64_t{0};
  return {};
}

base::Result<RestoredFrame> pop_signal_frame(memory::UserMemory& memory, platform::Registers& regs, std::span<uint8_t> xstate) {
  RtSigFrame frame;
  // The handler's `ret` has popped the return address.
  TRY(memory.copy_in(&frame, Addr(regs.rsp - 8), sizeof frame));
  RestoredFrame restored;
  const uint64_t fp = frame.uc.mcontext.fpstate;
  if (fp == 0) {
    init_xstate(xstate);
    restored.has_xstate = true;
  } else {
    TRY(memory.copy_in(xstate.data(), Addr(fp), std::min(xstate.size(), kLegacySize)));
    SoftwareBytes sw{};
    std::memcpy(&sw, xstate.data() + kSoftwareOffset, sizeof sw);
    uint32_t magic2 = 0;
    const bool extended = sw.magic1 == kMagic1 && sw.xstate_size == xstate.size() && xstate.size() > kLegacySize &&
                          memory.copy_in(&magic2, Addr(fp + xstate.size()), sizeof magic2) && magic2 == kMagic2;
    if (extended) {
      TRY(memory.copy_in(xstate.data() + kLegacySize, Addr(fp + kLegacySize), xstate.size() - kLegacySize));
    } else if (xstate.size() > kLegacySize + 8) {
      // Only the x87 and SSE part is there.
      std::memset(xstate.data() + kLegacySize, 0, xstate.size() - kLegacySize);
      const uint64_t legacy = 3;
      std::memcpy(xstate.data() + kLegacySize, &legacy, sizeof legacy);
    }
    sanitize_xstate(xstate);
    restored.has_xstate = true;
  }
  load_registers(regs, frame.uc.mcontext);
  restored.mask = frame.uc.sigmask;
  restored.altstack = frame.uc.stack;
  return restored;
}

}  // namespace sentry::arch
