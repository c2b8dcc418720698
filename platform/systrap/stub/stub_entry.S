// SPDX-License-Identifier: Apache-2.0
// Entry and exit of the stub. Nothing here may touch the guest's stack (red zone), nor may anything be wrong with
// arbitrary registers: the guest can jump to every instruction.
#include "platform/systrap/stub/offsets.h"

  .section .header, "ax", @progbits
  // Offsets for the sentry: see struct StubHeader in blob.h.
stub_base:
  .long zygote_entry - stub_base
  .long signal_entry - stub_base
  .long signal_return - stub_base
  .long fast_entry - stub_base
  .long stub_end - stub_base
  .long cpuid_entry - stub_base

  .text
  // rsp: top of a stack outside everything that will be unmapped, rdi: ZygoteBoot.
zygote_entry:
  xor %ebp, %ebp
  call zygote_main
  ud2

  .balign 16
signal_entry:
  mov %rsp, %rcx
  jmp stub_signal

  .balign 16
signal_return:
  mov $15, %eax
  syscall
  ud2

  // Onto the stub's stack; the registers and flags that every entry keeps as they are, into the slot, which rdi is afterwards.
  .macro enter_stub
  mov %rsp, %gs:SLOT_RSP
  mov %gs:SLOT_STACK_TOP, %rsp
  mov %rax, %gs:SLOT_RAX
  mov %rcx, %gs:SLOT_RCX
  mov %rsi, %gs:SLOT_RSI
  mov %rdi, %gs:SLOT_RDI
  mov %r8, %gs:SLOT_R8
  mov %r9, %gs:SLOT_R9
  mov %r10, %gs:SLOT_R10
  mov %rbp, %gs:SLOT_RBP
  mov %r12, %gs:SLOT_R12
  mov %r13, %gs:SLOT_R13
  mov %r14, %gs:SLOT_R14
  mov %r15, %gs:SLOT_R15
  pushfq
  popq %gs:SLOT_EFLAGS
  cld
  rdgsbase %rdi
  .endm

  // A patched call site: rcx = where to go on, r11 free, gs base = Slot. Flags and all else are the guest's.
  .balign 64
fast_entry:
  mov %rcx, %gs:SLOT_RIP
  mov %rdx, %gs:SLOT_RDX
  mov %rbx, %gs:SLOT_RBX
  enter_stub
  call fast_main
  // From here to fast_window_end the interrupt handler may set rip back to fast_window: everything is loaded from
  // the slot and nothing is needed on the stack.
  .globl fast_entry, fast_window, fast_window_end
fast_window:
  mov %gs:SLOT_STACK_TOP, %rsp
  cmpl $0, %gs:SLOT_PENDING
  jne fast_pending
  mov %gs:SLOT_RAX, %rax
  mov %gs:SLOT_RCX, %rcx
  mov %gs:SLOT_RDX, %rdx
  mov %gs:SLOT_RSI, %rsi
  mov %gs:SLOT_RDI, %rdi
  mov %gs:SLOT_R8, %r8
  mov %gs:SLOT_R9, %r9
  mov %gs:SLOT_R10, %r10
  mov %gs:SLOT_R11, %r11
  mov %gs:SLOT_RBX, %rbx
  mov %gs:SLOT_RBP, %rbp
  mov %gs:SLOT_R12, %r12
  mov %gs:SLOT_R13, %r13
  mov %gs:SLOT_R14, %r14
  mov %gs:SLOT_R15, %r15
  pushq %gs:SLOT_EFLAGS
  popfq
  mov %gs:SLOT_RSP, %rsp
  jmp *%gs:SLOT_RIP
fast_window_end:
fast_pending:
  rdgsbase %rdi
  call fast_interrupted
  jmp fast_window

  // A patched `cpuid`: rdx = where to go on, rbx free (cpuid changes both), gs base = Slot. All else is the guest's.
  .balign 64
cpuid_entry:
  mov %rdx, %gs:SLOT_RIP
  mov %r11, %gs:SLOT_R11
  enter_stub
  call cpuid_main
  jmp fast_window

  // long guarded(long (*what)(uint64_t, uint64_t), uint64_t a, uint64_t b, Slot*): what(a, b), or kGuardFailed when it
  // faulted or made a system call.
  .globl guarded, guarded_failed
guarded:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rcx, %rbx
  mov %rsp, SLOT_RECOVER(%rbx)
  mov %rdi, %rax
  mov %rsi, %rdi
  mov %rdx, %rsi
  sub $8, %rsp
  call *%rax
  movq $0, SLOT_RECOVER(%rbx)
  add $8, %rsp
1:
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
guarded_failed:
  mov $-4096, %rax
  jmp 1b

  // Moves the thread into a signal frame: the handler finds rip at fast_trap_after.
  .globl fast_trap, fast_trap_after
fast_trap:
  int3
fast_trap_after:
  ud2

  // long clone_thread(flags, stack, slot): the child starts in thread_main(slot), with nothing else in its registers.
  .globl clone_thread
clone_thread:
  mov %rdx, %r9
  xor %edx, %edx
  xor %r10d, %r10d
  xor %r8d, %r8d
  mov $56, %eax
  syscall
  test %rax, %rax
  jz 1f
  ret
1:
  mov %r9, %rdi
  xor %ebx, %ebx
  xor %ecx, %ecx
  xor %esi, %esi
  xor %ebp, %ebp
  xor %r9d, %r9d
  xor %r10d, %r10d
  xor %r11d, %r11d
  xor %r12d, %r12d
  xor %r13d, %r13d
  xor %r14d, %r14d
  xor %r15d, %r15d
  call thread_main
  ud2

  // long keyed_mmap(address, length, prot, flags, fd, offset, const uint32_t key[2]): the key goes into the high halves of prot and flags,
  // and nowhere else. What had it is cleared before it returns; all signals are blocked meanwhile.
  .globl keyed_mmap
keyed_mmap:
  mov 8(%rsp), %rax
  mov (%rax), %r10d
  shl $32, %r10
  mov %edx, %edx
  or %r10, %rdx
  mov 4(%rax), %r10d
  shl $32, %r10
  mov %ecx, %ecx
  or %rcx, %r10
  mov $9, %eax
  syscall
  xor %edx, %edx
  xor %r10d, %r10d
  ret

  .section .text.zz_end, "ax", @progbits
stub_end:

  .section .note.GNU-stack, "", @progbits
