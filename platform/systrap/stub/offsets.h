// SPDX-License-Identifier: Apache-2.0
// Offsets into Slot for the stub's assembly; layout.h asserts each of them.
#pragma once

#define SLOT_SIZE 0x8000
#define SLOT_RECOVER 0x80
#define SLOT_PENDING 0x88
#define SLOT_STACK_TOP 0x90
#define SLOT_RAX 0x98
#define SLOT_RBX 0xa0
#define SLOT_RCX 0xa8
#define SLOT_RDX 0xb0
#define SLOT_RSI 0xb8
#define SLOT_RDI 0xc0
#define SLOT_RBP 0xc8
#define SLOT_RSP 0xd0
#define SLOT_R8 0xd8
#define SLOT_R9 0xe0
#define SLOT_R10 0xe8
#define SLOT_R11 0xf0
#define SLOT_R12 0xf8
#define SLOT_R13 0x100
#define SLOT_R14 0x108
#define SLOT_R15 0x110
#define SLOT_RIP 0x118
#define SLOT_EFLAGS 0x120
