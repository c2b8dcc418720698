// SPDX-License-Identifier: Apache-2.0
// The frame a signal handler finds on its stack, and the way back: struct rt_sigframe of arch/x86/include/asm/sigframe.h,
// ucontext and sigcontext of the uapi headers, with the XSAVE area and its magic numbers in front of it.
#pragma once

#include <cstdint>
#include <span>

#include "abi/linux/signal.h"
#include "base/core/result.h"
#include "platform/interface/registers.h"
#include "sentry/memory/user_memory.h"

namespace sentry::arch {

struct FrameArgs {
  memory::UserMemory& memory;
  platform::Registers& regs;     // in: where the guest stopped; out: at the handler
  std::span<const uint8_t> xstate;
  const abi::SigAction& action;
  const abi::SigInfo& info;
  abi::SigSet saved_mask;        // what sigreturn restores
  abi::SigAltStack altstack;     // the task's, before delivery
  uint64_t error_code = 0, trapno = 0, fault_address = 0;  // of the last fault, for sigcontext
};

// Writes the frame and points the registers at the handler. EFAULT when the stack cannot take it.
base::Result<void> push_signal_frame(const FrameArgs& args);

struct RestoredFrame {
  abi::SigSet mask;
  abi::SigAltStack altstack;
  bool has_xstate = false;
};
// rt_sigreturn(2): reads the frame below regs.rsp into regs and xstate (sanitized). EFAULT.
base::Result<RestoredFrame> pop_signal_frame(memory::UserMemory& memory, platform::Registers& regs, std::span<uint8_t> xstate);

// Whether `sp` is on the alternate stack (on_sig_stack of Linux).
bool on_altstack(const abi::SigAltStack& stack, uint64_t sp);

}  // namespace sentry::arch
