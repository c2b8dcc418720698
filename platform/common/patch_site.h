// SPDX-License-Identifier: Apache-2.0
// Finds the instruction in front of a `syscall` that can be replaced by a jump. Strict: what is not recognised is
// left alone and keeps trapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace platform {

// lea disp32(%rip),%r64: whoever moves it must correct the displacement, its last four bytes.
bool is_lea_of_rip(std::span<const uint8_t> instruction);

// `text` ends with the two bytes of the trapped `syscall`. The length of the one instruction directly before it when
// it has at least five bytes and means the same elsewhere (no branch, and nothing relative to rip but is_lea_of_rip()); else 0.
// The trap proves that an instruction ends where `syscall` starts.
size_t relocatable_before_syscall(std::span<const uint8_t> text);

// `code` starts with the instruction after the trapped `syscall`. The offset of at least five bytes of padding behind an
// instruction that never goes on (ret, jmp), within reach of a two-byte jump in place of the `syscall`; SIZE_MAX: none.
// Walked instruction by instruction from an address that is known to start one.
size_t hole_after_syscall(std::span<const uint8_t> code);

}  // namespace platform
