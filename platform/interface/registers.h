// SPDX-License-Identifier: Apache-2.0
// Guest register state that platforms exchange with the sentry (x86-64). Plain data.
#pragma once

#include <cstddef>
#include <cstdint>

namespace platform {

// General registers in Linux's user_regs_struct order (arch/x86/include/asm/user_64.h), so that PTRACE_GETREGS
// and core files need no translation.
struct Registers {
  uint64_t r15 = 0, r14 = 0, r13 = 0, r12 = 0, rbp = 0, rbx = 0, r11 = 0, r10 = 0, r9 = 0, r8 = 0;
  uint64_t rax = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, orig_rax = 0, rip = 0, cs = 0x33, eflags = 0x202;
  uint64_t rsp = 0, ss = 0x2b, fs_base = 0, gs_base = 0, ds = 0, es = 0, fs = 0, gs = 0;
};
static_assert(sizeof(Registers) == 27 * 8);

// The extended state in the CPU's standard (non-compacted) XSAVE format, `size` bytes of it in use.
// 11 KiB covers AVX-512 and AMX; xstate_size() in platform.h says how much this CPU needs.
inline constexpr size_t kMaxXstate = 11 * 1024;

}  // namespace platform
