// SPDX-License-Identifier: Apache-2.0
// What the sentry and a stub process share: the stub's corner of the address space and the structures in it.
// Included by the freestanding stub and by the sentry's side; no libc.
//
// Everything here that a stub can write is hostile to the sentry: it is copied once, checked, then used.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/common/cpuid_answer.h"
#include "platform/interface/in_place_io.h"
#include "platform/systrap/stub/offsets.h"

namespace platform::systrap {

// --- The stub's corner: [base, base + kAreaSize) near the top of the address space, the same in all stubs. ---
inline constexpr uint64_t kAreaSize = 0x2000'0000;
inline constexpr uint64_t kVdsoOffset = 0;              // the host's vvar pages and vDSO
inline constexpr uint64_t kVdsoRoom = 0x4'0000;
inline constexpr uint64_t kTextOffset = 0x10'0000;      // the blob, r-x; 64 KiB aligned (the filter compares high bits)
inline constexpr uint64_t kTextSize = 0x1'0000;
inline constexpr uint64_t kDoorbellOffset = 0x20'0000;  // Doorbell, r--
inline constexpr uint64_t kWaitingOffset = kDoorbellOffset + 0x1000;  // WaitingWords, r--
inline constexpr uint64_t kChangesOffset = kDoorbellOffset + 0x2000;  // in_place::ChangeWords, r--
inline constexpr uint64_t kCpuidOffset = kDoorbellOffset + 0x3000;    // CpuidBoard, r--
inline constexpr uint64_t kBoardPages = 4;
inline constexpr uint64_t kZygoteOffset = 0x21'0000;    // ZygoteBoard and the zygote's stack: zygote, and stubs before they run guest code
inline constexpr uint64_t kBoardBoot = 0x3000;          // ZygoteBoot in there
inline constexpr uint64_t kRingOffset = 0x40'0000;      // HostOp ring, r--
inline constexpr uint64_t kDescriptorsOffset = kRingOffset + 0x4000;  // in_place words of descriptors, r--
inline constexpr uint64_t kFutexesOffset = kRingOffset + 0x6000;  // FutexCounts, r--
inline constexpr uint64_t kSharedOffset = kRingOffset + 0x7000;  // ProcessShared, rw-
inline constexpr uint64_t kSlotsOffset = kRingOffset + 0x8000;   // thread slots, rw-
inline constexpr uint64_t kSlotSize = SLOT_SIZE;
inline constexpr uint64_t kMaxThreads = 8192;
inline constexpr uint64_t kWindowsOffset = 0x1200'0000;  // in_place windows, r-- or rw-
inline constexpr uint64_t kBlocksOffset = 0x1800'0000;  // in_place blocks, rw-
static_assert(kSlotsOffset + kMaxThreads * kSlotSize <= kWindowsOffset && kWindowsOffset + in_place::kWindowRoom <= kBlocksOffset);
static_assert(kBlocksOffset + in_place::kBlocks * in_place::kBlockSize <= kAreaSize);
static_assert(kSlotsOffset % kSlotSize == 0);

// --- The control file: the doorbell, the zygote's board, the stub's text, trampolines, then units of 64 KiB. ---
inline constexpr uint64_t kDoorbellFileOffset = 0;
inline constexpr uint64_t kWaitingFileOffset = 0x1000;
inline constexpr uint64_t kChangesFileOffset = 0x2000;
inline constexpr uint64_t kCpuidFileOffset = 0x3000;
inline constexpr uint64_t kZygoteFileOffset = 0x1'0000;
inline constexpr uint64_t kTextFileOffset = 0x2'0000;
inline constexpr uint64_t kTrampolineFileOffset = 0x10'0000;
inline constexpr uint64_t kUnitsFileOffset = 0x200'0000;
inline constexpr uint64_t kUnitSize = 0x1'0000;
// A process unit: ring (16 KiB), descriptors (8 KiB), FutexCounts and ProcessShared (4 KiB each), slot 0 (32 KiB), in the order of
// the addresses above.
inline constexpr uint64_t kUnitDescriptors = 0x4000;
inline constexpr uint64_t kUnitFutexes = 0x6000;
inline constexpr uint64_t kUnitShared = 0x7000;
inline constexpr uint64_t kUnitSlot = 0x8000;

// Descriptors of a stub. What it must never write is mapped through those that are open for reading only: no mprotect gives
// such a mapping the right to write.
inline constexpr int kFdMemory = 0;
inline constexpr int kFdMemoryReadOnly = 1;
inline constexpr int kFdControl = 2;
inline constexpr int kFdBootSocket = 3;  // zygote, until the listener is handed over
inline constexpr int kFdListener = 4;    // likewise
inline constexpr int kFdControlReadOnly = 5;
// Host files, kHostFiles of them, which the supervisor puts there on request. The filter compares all but the low bits.
inline constexpr int kFdHostFile = 16;
inline constexpr int kHostFiles = 16;
// With these flags mmap maps nothing: it asks the supervisor for the file of its descriptor, and returns that (MAP_DENYWRITE
// means nothing to the host).
inline constexpr uint32_t kInstallFlags = 0x811;

inline constexpr int kInterruptSignal = 10;  // SIGUSR1

// Slot::state. The low byte is who has the word. kSleeping: the stub thread waits on it in the host. kRelaxed: the
// sentry has seen the event and will need a while, so there is no point in looking for the answer.
enum SlotState : uint32_t {
  kFresh = 0,    // the thread has not started yet
  kEvent = 1,    // stub -> sentry: an event is in the slot
  kRun = 2,      // sentry -> stub: do `reply`
  kCommand = 3,  // sentry -> stub: do `command`, then kDone; the guest does not run
  kDone = 4,     // stub -> sentry: command finished, or thread just started
};
inline constexpr uint32_t kSleeping = 0x8000'0000;
inline constexpr uint32_t kRelaxed = 0x4000'0000;
inline constexpr uint32_t kOwnerMask = 0xff;

enum ReplyOp : uint32_t {
  kReturn = 1,     // rax changed
  kLoadAll = 2,    // every register from the slot
  kReportFp = 3,   // move to a signal frame and report kInterrupted, so that the FP state is in memory
  kBatchOnly = 4,  // work off the ring up to batch_target and report kStubBatchDone
};
enum ReplyFlags : uint32_t {
  kLoadFs = 1,   // fs_base changed (kReturn; kLoadAll always loads it)
  kLoadFp = 2,   // FP state from the slot's xstate area (kLoadAll)
  kResetFp = 4,  // initial FP state (kLoadAll)
};

// Kinds of events beside the values of platform::EventKind (1..4 in this order).
enum StubEvent : uint32_t {
  kStubSyscall = 1,
  kStubFault = 2,
  kStubException = 3,
  kStubInterrupted = 4,
  kStubKick = 5,  // a call that was answered in place: `number` is its descriptor, `reply` its result
  kStubBatchDone = 16,
};

// Bits. kModeSaved: the FP state is in the slot's xstate area as well. kModeTrapped: the call came by SIGSYS, although not in its frame.
enum SlotMode : uint32_t { kModeFast = 0, kModeFrame = 1, kModeSaved = 2, kModeTrapped = 4 };

// Slot::head: kind of the event, mode, CPU where it was posted (a hint).
constexpr uint32_t make_head(uint32_t kind, uint32_t mode, uint32_t cpu) { return (kind & 0xff) | mode << 8 | cpu << 16; }
constexpr uint32_t kind_of(uint32_t head) { return head & 0xff; }
constexpr uint32_t mode_of(uint32_t head) { return head >> 8 & 0xff; }
constexpr uint32_t cpu_of(uint32_t head) { return head >> 16; }
// Slot::reply: ReplyOp and ReplyFlags.
constexpr uint32_t make_reply(uint32_t op, uint32_t flags) { return op | flags << 8; }
constexpr uint32_t op_of(uint32_t reply) { return reply & 0xff; }
constexpr uint32_t flags_of(uint32_t reply) { return reply >> 8; }
// Slot::number when rax does not fit: it is in `regs` then.
inline constexpr uint32_t kWideNumber = ~uint32_t{0};

struct StubRegisters {
  uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, eflags;
  uint64_t fs_base, gs_base;
};

struct InPlaceSlot {
  uint16_t enabled, io;
  int32_t pid, tid, ppid;
  uint32_t uid, euid, gid, egid;
  uint32_t mask_held;  // changes of the signal mask go to the sentry
  uint32_t actions;    // Slot::actions is what rt_sigaction is about
  uint64_t mask;       // signal mask of the guest; the stub writes it too
  uint64_t reader;     // of answers (in_place_io.h); 0: none are given
};

// The calls that a stub answers, for counting them. Index 0 counts those that are not listed.
inline constexpr uint16_t kNotListed = 0xffff;  // Platform::Claims::kOtherCalls
inline constexpr uint16_t kInPlaceCalls[] = {kNotListed, 0,   1,   2,   3,   4,   5,   6,   7,   8,   13,  14,  15,  17,  18,  19,  20,  21,  24,  39, 40, 44, 45,
                                            72, 89, 102, 104, 107, 108, 158, 186, 202, 217, 218, 228, 232, 233, 257, 262, 267, 269, 271, 273, 281, 332, 334, 439};
struct InPlaceIndex {
  static constexpr uint64_t kSize = 512;
  uint8_t of[kSize] = {};
  constexpr InPlaceIndex() {
    for (uint8_t i = 1; i < sizeof kInPlaceCalls / sizeof kInPlaceCalls[0]; ++i) of[kInPlaceCalls[i]] = i;
  }
};
inline constexpr InPlaceIndex kInPlaceIndex;

// Calls that want the FP state, which would take another hand-off: they make a thread that starts with this one's (clone, fork, vfork,
// clone3), or mostly send a signal to their own process (kill, tkill, tgkill).
constexpr bool wants_fp(uint64_t number) {
  return (number >= 56 && number <= 58) || number == 435 || number == 62 || number == 200 || number == 234;
}

// One guest thread's slot, at a multiple of kSlotSize: header, FP area, stack (which is also its signal stack).
//
// What a system call needs in both directions is in the first cache line, because each line that two CPUs pass to each other costs
// as much as a short call. In the second one nothing changes from call to call. The rest is the stub's: the sentry
// reads of it what somebody asks for, and writes it when a call changes more than rax.
struct Slot {
  uint32_t state;
  uint32_t head;      // event: make_head()
  uint64_t value[6];  // event kStubSyscall or kStubKick: the arguments; reply kReturn: rax in the first one
  uint32_t number;    // event kStubSyscall: the low half of rax, or kWideNumber
  uint32_t reply;     // make_reply()

  alignas(64) InPlaceSlot in_place;
  uint64_t batch_target;  // operations of the ring that must be done before the guest goes on

  alignas(64) uint64_t recover;  // not 0: the stub does what may fault; where its stack was
  uint32_t interrupt_pending;
  uint32_t by_trap;  // the stub's own: the call that begins came by SIGSYS
  uint64_t stack_top;
  StubRegisters regs;
  int32_t signo, si_code;
  uint64_t address, error_code, trapno;
  uint32_t frame_offset;  // of the FP state in the slot, in kModeFrame
  uint32_t patience;      // the stub's own: see post()
  // The stub's own word, for statistics: what the sentry does not see happen.
  uint64_t in_place_count[48];  // by kInPlaceIndex
  uint64_t in_place_trapped;    // of these, how many came through SIGSYS
  uint64_t slept_count;
  uint64_t woken_at, posted_at;  // time stamps of the last sleep's end and of the last event that rang: hints
  // The stub's own, see look_for_answer(): not before this time stamp; answers in a row that came soon; looks in a row for nothing;
  // how many answers were found; how often lately the CPU was gone for long, of which kLooksPerSteal answers make up for one.
  static constexpr uint32_t kLookFails = 5, kMostSteals = 6, kStealShift = 2, kLooksPerSteal = 16;
  uint64_t look_after;
  uint32_t look_credit, look_fails, look_found, look_steals;
  // Call sites that trapped once: the sentry has had its chance to patch them. See Context::forget_site().
  uint64_t seen_site[64];
  static constexpr uint64_t seen_at(uint64_t site) { return (site ^ site >> 7) % 64; }

  // Kicks that need no answer (kStubKick says the same and waits): descriptors, by count modulo kKicks. The stub counts those it
  // made, the sentry those it has seen. Those up to kicks_rung are to be told at once, the others when the thread sleeps: see kick().
  static constexpr uint32_t kKicks = 32;
  alignas(64) uint32_t kicks_made;
  uint32_t kicks_rung;
  uint32_t kicks[kKicks];
  uint32_t follows;       // the stub's own: how many times in a row an event came soon after a kick, up to kFollows
  uint32_t kick_open;     // the stub's own: a kick was made since the last event
  uint64_t kicked_at;     // the stub's own: when; ticks
  static constexpr uint32_t kFollows = 3;
  alignas(64) uint32_t kicks_seen;

  // The signal actions of a process with one thread; the stub writes them too.
  struct Action {
    uint64_t handler, flags, restorer, mask;
  } actions[64];

  in_place::CommonReader common;  // by the sentry

  // What rt_sigreturn(2) in place needs: the size of an XSAVE area in a signal frame (0: not in place), and the alternate signal stack as it
  // was when the sentry pushed the last frame. By the sentry.
  uint32_t frame_xstate;
  int32_t altstack_flags;
  uint64_t altstack, altstack_size;

  // platform::ThreadWords; the stub writes them too.
  uint64_t robust_list, clear_child_tid;

  // kCommand: map a slot and clone a thread that runs on it.
  uint64_t command_slot;    // address
  uint64_t command_offset;  // in the control file
  int64_t command_result;   // tid or -errno
};
inline constexpr uint64_t kSlotXstate = 0x1000;
inline constexpr uint64_t kSlotXstateSize = 0x3000;
inline constexpr uint64_t kSlotStack = 0x4000;
static_assert(sizeof(Slot) <= 0x1000);
static_assert(sizeof kInPlaceCalls / sizeof kInPlaceCalls[0] <= sizeof(Slot::in_place_count) / sizeof(uint64_t));
static_assert(offsetof(Slot, in_place) == 64 && offsetof(Slot, recover) == 128);
static_assert(offsetof(Slot, recover) == SLOT_RECOVER && offsetof(Slot, interrupt_pending) == SLOT_PENDING);
static_assert(offsetof(Slot, stack_top) == SLOT_STACK_TOP);
static_assert(offsetof(Slot, regs.rax) == SLOT_RAX && offsetof(Slot, regs.rbx) == SLOT_RBX);
static_assert(offsetof(Slot, regs.rcx) == SLOT_RCX && offsetof(Slot, regs.rdx) == SLOT_RDX);
static_assert(offsetof(Slot, regs.rsi) == SLOT_RSI && offsetof(Slot, regs.rdi) == SLOT_RDI);
static_assert(offsetof(Slot, regs.rbp) == SLOT_RBP && offsetof(Slot, regs.rsp) == SLOT_RSP);
static_assert(offsetof(Slot, regs.r8) == SLOT_R8 && offsetof(Slot, regs.r15) == SLOT_R15);
static_assert(offsetof(Slot, regs.rip) == SLOT_RIP && offsetof(Slot, regs.eflags) == SLOT_EFLAGS);

// A change of mappings, in the ring that the stub reads only. Index = sequence number modulo kRingOps.
enum HostOpKind : uint32_t { kOpMap = 1, kOpUnmap = 2, kOpProtect = 3 };
struct HostOp {
  uint64_t address, length, offset;
  uint32_t kind;
  uint16_t prot;      // PROT_*
  uint8_t fd;         // kOpMap: which descriptor
  uint8_t flags;      // kOpMap: HostOpFlags
};
enum HostOpFlags : uint8_t { kPopulate = 1, kInstall = 2 /* the descriptor's file first */ };
static_assert(sizeof(HostOp) == 32);
inline constexpr uint64_t kRingOps = kUnitDescriptors / sizeof(HostOp);

// How many threads wait on private futex words, by a hash of the address; the sentry alone writes.
struct FutexCounts {
  uint32_t waiters[1024];
  static constexpr uint64_t index(uint64_t address) { return (address >> 2 ^ address >> 12) % 1024; }
};
static_assert(sizeof(FutexCounts) == 4096);

// By AddressSpace::waiting_word(): how many tasks wait for input. The sentry alone writes; every stub sees it.
struct WaitingWords {
  uint32_t of[in_place::kWaitingWords];
};
static_assert(sizeof(in_place::ChangeWords) == 4096 && kChangesOffset + 4096 <= kDoorbellOffset + kBoardPages * 4096);
static_assert(sizeof(WaitingWords) == 4096 && in_place::kDescriptors * 8 == kUnitFutexes - kUnitDescriptors);

// Written by the threads of one stub process.
struct ProcessShared {
  uint32_t lock;     // 0 free, 1 held, 2 held and waited for
  uint32_t dropped;  // times that all guest mappings were dropped because the host refused one
  uint32_t refused;  // mappings of host files that the host refused
  uint64_t done;     // sequence number: operations before it are done
  in_place::DescriptorLocks io_locks;
  in_place::ClosedDescriptors closed;
  uint64_t no_places;  // there was no block of places when so many operations were done, less one
};
static_assert(sizeof(ProcessShared) <= kUnitSlot - kUnitShared);

// What one executor sleeps on. `asleep` is not zero from before its last look until it runs again. `away`: it waits in the
// host for something else, so any other one may be rung instead.
struct alignas(64) Bell {
  uint32_t word;
  uint32_t asleep;
  uint32_t away;
};
inline constexpr uint32_t kMaxBells = 32;

// How a stub looks for an answer in place before it sleeps: see look_for_answer(). Ticks, but for the first.
struct Looking {
  uint32_t pauses;   // iterations of `pause` between two looks
  uint32_t longest;  // so much of the CPU may be spent that nobody else wanted
  uint32_t stolen;   // others kept the CPU for longer
  uint32_t alone;    // nobody else wanted it
  uint32_t soon;     // an answer that took longer would not have been found
};

// Written by the sentry; every stub sees it read-only.
struct Doorbell {
  uint32_t lookers;      // executors that look at the slots all the time, each on a CPU of its own
  uint32_t spin;         // iterations of `pause` to wait for the reply of one of those
  uint32_t has_rdpid;
  uint32_t bell_count;
  uint32_t settle;       // iterations of `pause` before it is worth while to look for that reply at all
  uint32_t watched;      // not 0: kicks that nobody was rung for are found all the same, before long
  uint32_t follow_ticks; // an event so soon after a kick brings it along
  Looking looking;
  uint64_t vdso_clock_gettime;  // address, 0: none
  // The guest's part of the address space without the reserved ranges: what to unmap to start afresh.
  struct Range {
    uint64_t start, end;
  } guest[4];
  // Which executor to ring for an event on a CPU: the one that runs there.
  uint8_t bell_of_cpu[512];
  Bell bells[kMaxBells];
};
static_assert(sizeof(Doorbell) <= 4096);

// What `cpuid` says, and where guests ask by another instruction in its place: docs/decisions/0040. The sentry alone writes; each count
// covers what was written before.
struct CpuidBoard {
  static constexpr uint32_t kSites = 128;
  uint32_t answer_count;
  uint32_t site_count;
  CpuidAnswer answers[96];
  uint64_t sites[kSites];  // addresses
};
static_assert(sizeof(CpuidBoard) <= 4096 && kCpuidOffset + 4096 <= kDoorbellOffset + kBoardPages * 4096);

// Requests to the zygote: it is trusted, and no stub maps this.
struct ZygoteBoard {
  uint32_t requested;  // sentry
  uint32_t completed;  // zygote
  uint64_t unit[64];   // file offset of the process unit
  int32_t pid[64];     // or -errno
};

// Handed to the zygote.
struct ZygoteBoot {
  uint64_t area;
  uint64_t filter_count;
  uint64_t filter;  // address of the BPF program
  struct Zone {
    uint64_t address, length, offset;
  } zones[2];  // trampolines, r-x
  uint32_t key[2];  // filters::ZygoteKey
};

}  // namespace platform::systrap
