// SPDX-License-Identifier: Apache-2.0
// The code of a stub process. Freestanding, position-independent, without writable globals, thread-local storage
// or a libc; general registers only, so that the guest's FP and vector state stays in the CPU.
//
// A host thread of a stub runs one guest thread. It is in one of two modes when the guest is stopped: inside a
// signal handler (kModeFrame: the guest's state is in the signal frame) or on its stub stack after a patched call site or a
// trap that came again (kModeFast: general registers in the slot, the rest still in the CPU).
//
// The host filter lets through, from this text only, what is harmless with any argument; the rest is compared by
// the sentry with what it asked for. See docs/platforms/systrap.md.
#include "platform/systrap/stub/layout.h"

using namespace platform::systrap;  // NOLINT: one freestanding file

namespace {

constexpr long kMmap = 9, kMprotect = 10, kMunmap = 11, kSigprocmask = 14, kSigaltstack = 131, kSchedYield = 24, kFutex = 202, kSendmsg = 46,
               kClose = 3, kSeccomp = 317, kForbidden = 60 /* exit: the filter kills */;
constexpr long kErrEINTR = -4, kErrEAGAIN = -11, kErrENOMEM = -12, kErrENOSYS = -38;
constexpr uint64_t kTrapFlag = 0x100;       // of rflags
constexpr uint64_t kRobustListHead = 24;    // sizeof(struct robust_list_head)

inline long call(long nr, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0, uint64_t f = 0) {
  long ret;
  register uint64_t r10 asm("r10") = d;
  register uint64_t r8 asm("r8") = e;
  register uint64_t r9 asm("r9") = f;
  asm volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return ret;
}

template <typename T>
uint64_t addr(T* p) { return reinterpret_cast<uint64_t>(p); }

extern "C" char fast_entry[], fast_window[], fast_window_end[], fast_trap_after[], guarded_failed[];
extern "C" long guarded(long (*what)(uint64_t, uint64_t), uint64_t a, uint64_t b, Slot* slot);
constexpr long kGuardFailed = -4096;
extern "C" [[noreturn]] void fast_trap();
extern "C" long clone_thread(uint64_t flags, uint64_t stack, uint64_t slot);
extern "C" long keyed_mmap(uint64_t address, uint64_t length, uint64_t prot, uint64_t flags, uint64_t fd, uint64_t offset, const uint32_t* key);

inline uint64_t text_base() { return addr(&fast_window[0]) & ~(kTextSize - 1); }
inline uint64_t area() { return text_base() - kTextOffset; }
inline bool in_text(uint64_t rip) { return rip - text_base() < kTextSize; }
inline const Doorbell* doorbell() { return reinterpret_cast<const Doorbell*>(area() + kDoorbellOffset); }
inline ProcessShared* shared() { return reinterpret_cast<ProcessShared*>(area() + kSharedOffset); }
inline const FutexCounts* futexes() { return reinterpret_cast<const FutexCounts*>(area() + kFutexesOffset); }
inline bool in_vdso(uint64_t rip) { return rip - (area() + kVdsoOffset) < kVdsoRoom; }
inline const HostOp* ring() { return reinterpret_cast<const HostOp*>(area() + kRingOffset); }

inline void copy_bytes(uint64_t to, uint64_t from, uint64_t n) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

template <typename T>
T load(const T* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

inline uint64_t rdfs() { uint64_t v; asm volatile("rdfsbase %0" : "=r"(v)); return v; }
inline void wrfs(uint64_t v) { asm volatile("wrfsbase %0" : : "r"(v)); }
inline uint64_t rdgs() { uint64_t v; asm volatile("rdgsbase %0" : "=r"(v)); return v; }
inline void wrgs(uint64_t v) { asm volatile("wrgsbase %0" : : "r"(v)); }

[[noreturn]] void die() {
  for (;;) {
    call(kForbidden, 20);
    asm volatile("ud2");
  }
}

long futex_wait(uint32_t* word, uint32_t value, const int64_t* timeout) { return call(kFutex, addr(word), 0, value, addr(timeout)); }
long futex_wake(const uint32_t* word, int n) { return call(kFutex, addr(word), 1, n); }

// --- Mappings ---

void drop_all() {
  const Doorbell* bell = doorbell();
  for (const auto& range : bell->guest)
    if (range.end > range.start) call(kMunmap, range.start, range.end - range.start);
  __atomic_fetch_add(&shared()->dropped, 1, __ATOMIC_RELEASE);
}

// With a key no mapping of memory needs approval.
void do_host_op(const HostOp& op, const uint32_t* key) {
  long r;
  switch (op.kind) {
    case kOpMap:
      for (int tries = 0;; ++tries) {
        r = op.flags & kInstall ? call(kMmap, op.address, op.length, op.prot, kInstallFlags, op.fd, op.offset) : 0;
        if (r >= 0) {
          const uint64_t flags = op.flags & kPopulate ? 0x8011 : 0x11;  // MAP_SHARED | MAP_FIXED (| MAP_POPULATE)
          r = key ? keyed_mmap(op.address, op.length, op.prot, flags, op.fd, op.offset, key)
                  : call(kMmap, op.address, op.length, op.prot, flags, op.fd, op.offset);
        }
        if (r != kErrEINTR && (r >= 0 || r < -4095)) return;
        if (r == kErrEINTR || r == kErrEAGAIN) continue;
        // The host's limit of mappings: mappings are a cache, start with an empty one.
        if (r == kErrENOMEM && tries < 4) {
          drop_all();
        } else if (op.fd >= kFdHostFile) {
          call(kMunmap, op.address, op.length);
          __atomic_fetch_add(&shared()->refused, 1, __ATOMIC_RELEASE);
          return;
        } else {
          die();
        }
      }
    case kOpUnmap:
      call(kMunmap, op.address, op.length);
      return;
    case kOpProtect:
      do r = call(kMprotect, op.address, op.length, op.prot);
      while (r == kErrEINTR);
      // A hole stops mprotect half way; without the mapping the guest faults, which is always right.
      if (r < 0) call(kMunmap, op.address, op.length);
      return;
  }
}

// Everything up to `target` is done when it returns, by this thread or another one.
void work_off(uint64_t target, const uint32_t* key = nullptr) {
  ProcessShared* s = shared();
  if (load(&s->done) >= target) return;
  uint32_t zero = 0;
  if (!__atomic_compare_exchange_n(&s->lock, &zero, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
    while (__atomic_exchange_n(&s->lock, 2, __ATOMIC_ACQUIRE) != 0) futex_wait(&s->lock, 2, nullptr);
  }
  for (uint64_t seq = s->done; seq < target; ++seq) {
    do_host_op(ring()[seq % kRingOps], key);
    __atomic_store_n(&s->done, seq + 1, __ATOMIC_RELEASE);
  }
  if (__atomic_exchange_n(&s->lock, 0, __ATOMIC_RELEASE) == 2) futex_wake(&s->lock, 1);
}

// --- Hand-off ---

inline uint64_t ticks() {
  uint32_t low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return uint64_t{high} << 32 | low;
}

inline uint32_t current_cpu(const Doorbell* bell) {
  uint64_t value;
  if (bell->has_rdpid) asm volatile("rdpid %0" : "=r"(value));
  else asm volatile("lsl %1, %0" : "=r"(value) : "r"(uint64_t{0x7b}));  // Linux's per-CPU segment: node << 12 | cpu
  return value & 0xfff;
}

// Wakes the executor of this CPU. One that is about to sleep may not be in the futex yet, and the word is not
// ours to change: ring until somebody was woken or nobody needs it.
void ring(Slot* slot) {
  const Bell* bells = doorbell()->bells;
  const Bell* bell = &bells[doorbell()->bell_of_cpu[cpu_of(slot->head) & 511] % kMaxBells];
  if (load(&bell->away)) {
    for (uint32_t i = 0; i < doorbell()->bell_count; ++i)
      if (load(&bells[i].asleep)) bell = &bells[i];
  }
  for (int tries = 0; load(&bell->asleep) && (load(&slot->state) & ~kSleeping) == kEvent; ++tries) {
    if (futex_wake(&bell->word, 1) > 0) return;
    if (tries < 16) {
      call(kSchedYield);
    } else {
      int64_t nap[2] = {0, 500'000};
      futex_wait(&slot->state, kEvent, nap);
    }
  }
}

// Whoever waits for what was kicked so far is to hear of it now. False: the sentry does not wake up.
bool ring_for_kicks(Slot* slot) {
  const Doorbell* board = doorbell();
  const uint32_t made = slot->kicks_made;
  __atomic_store_n(&slot->kicks_rung, made, __ATOMIC_SEQ_CST);
  // As in post(): whoever sleeps after this looks first.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (load(&board->lookers)) return true;
  const Bell* bell = &board->bells[board->bell_of_cpu[current_cpu(board) & 511] % kMaxBells];
  for (int tries = 0; load(&bell->asleep) && load(&slot->kicks_seen) != made; ++tries) {
    if (futex_wake(&bell->word, 1) > 0) return true;
    if (tries == 16) return false;
    call(kSchedYield);
  }
  return true;
}

// An event comes: did it follow the last kick soon?
inline void learn_from_kick(Slot* slot) {
  if (!slot->kick_open) return;
  slot->kick_open = 0;
  const bool soon = ticks() - slot->kicked_at < doorbell()->follow_ticks;
  slot->follows = !soon ? 0 : slot->follows < Slot::kFollows ? slot->follows + 1 : Slot::kFollows;
}

// Tells the sentry, and waits for its reply for a little while where an executor is looking for events on another CPU. Each look
// at the slot takes its line from who is about to write the reply, so the first one waits until a reply may be there: for
// the shortest time that any call takes, and then as long as the last calls teach. Short calls count more, as they lose more.
// Otherwise the executor of this CPU is woken: it runs when this thread sleeps.
void post(Slot* slot, uint32_t kind, uint32_t mode) {
  const Doorbell* bell = doorbell();
  const uint32_t head = make_head(kind, mode, current_cpu(bell));
  slot->interrupt_pending = 0;
  learn_from_kick(slot);
  if (kind == kStubSyscall || kind == kStubKick) {
    const StubRegisters& r = slot->regs;
    slot->value[0] = r.rdi; slot->value[1] = r.rsi; slot->value[2] = r.rdx;
    slot->value[3] = r.r10; slot->value[4] = r.r8; slot->value[5] = r.r9;
    if (kind == kStubKick) {
      slot->number = static_cast<uint32_t>(slot->address);
      slot->reply = static_cast<uint32_t>(r.rax);
    } else {
      slot->number = r.rax >> 32 ? kWideNumber : static_cast<uint32_t>(r.rax);
    }
  }
  slot->head = head;
  __atomic_store_n(&slot->state, static_cast<uint32_t>(kEvent), __ATOMIC_RELEASE);
  if (load(&bell->lookers)) {
    const uint32_t longest = 4 * bell->settle, known = slot->patience, patience = known < longest ? known : longest;
    for (uint32_t n = bell->settle + patience; n; --n) asm volatile("pause");
    if (load(&slot->state) != kEvent) {
      slot->patience = patience < 4 ? 0 : patience - 4;
      return;
    }
    for (uint32_t n = bell->spin; n; --n) {
      asm volatile("pause");
      if (load(&slot->state) == kEvent) continue;
      slot->patience = patience + 1;
      return;
    }
  }
  // The event is there for all before we look who sleeps: see prepare_sleep() of the sentry.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  slot->posted_at = ticks();
  ring(slot);
}

uint32_t wait_state(Slot* slot) {
  for (;;) {
    uint32_t state = load(&slot->state);
    if (state == kRun || state == kCommand) return state;
    if (!(state & kSleeping) &&
        !__atomic_compare_exchange_n(&slot->state, &state, state | kSleeping, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
      continue;
    ++slot->slept_count;
    futex_wait(&slot->state, state | kSleeping, nullptr);
    slot->woken_at = ticks();
  }
}

void do_command(Slot* slot) {
  // PROT_READ|PROT_WRITE, MAP_SHARED|MAP_FIXED
  long r;
  do r = call(kMmap, slot->command_slot, kSlotSize, 3, 0x11, kFdControl, slot->command_offset);
  while (r == kErrEINTR);
  if (r > 0) {
    // CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM
    do r = clone_thread(0x50f00, slot->command_slot + kSlotSize, slot->command_slot);
    while (r == kErrEINTR);
  }
  slot->command_result = r;
  __atomic_store_n(&slot->state, static_cast<uint32_t>(kDone), __ATOMIC_SEQ_CST);
  futex_wake(&slot->state, 1);
}

// Waits for the sentry's reply and does what needs no guest state; returns `reply`: how to go on.
uint32_t wait_reply(Slot* slot) {
  for (;;) {
    if (wait_state(slot) == kCommand) {
      do_command(slot);
      continue;
    }
    work_off(slot->batch_target);
    const uint32_t reply = slot->reply;
    if (op_of(reply) != kBatchOnly) return reply;
    post(slot, kStubBatchDone, kModeFast);
  }
}

// --- Answers in place ---

bool clock_in_place(Slot* slot, int64_t& result) {
  constexpr uint64_t kAnswered = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7;  // what a vDSO answers
  const uint64_t function = doorbell()->vdso_clock_gettime, id = static_cast<uint32_t>(slot->regs.rdi);
  if (function == 0 || id > 7 || !(kAnswered >> id & 1)) return false;
  struct Time {
    uint64_t seconds, nanoseconds;
  } now;
  if (guarded(reinterpret_cast<long (*)(uint64_t, uint64_t)>(function), id, addr(&now), slot) != 0) return false;
  const auto copy = [](uint64_t to, uint64_t from) -> long {
    auto* out = reinterpret_cast<volatile uint64_t*>(to);
    out[0] = reinterpret_cast<const Time*>(from)->seconds;
    out[1] = reinterpret_cast<const Time*>(from)->nanoseconds;
    return 0;
  };
  if (slot->regs.rsi >> 47 || guarded(copy, slot->regs.rsi, addr(&now), slot) != 0) return false;
  result = 0;
  return true;
}

// arch_prctl(ARCH_SET_FS). The sentry reads the base when it needs it.
bool set_fs_in_place(const Slot* slot, int64_t& result) {
  constexpr uint32_t kSetFs = 0x1002;
  if (static_cast<uint32_t>(slot->regs.rdi) != kSetFs || slot->regs.rsi >= area()) return false;
  wrfs(slot->regs.rsi);
  result = 0;
  return true;
}

}  // namespace

#include "platform/systrap/stub/stub_signal.inc"  // NOLINT: a part of this file

#include "platform/systrap/stub/stub_io.inc"  // NOLINT: likewise

#include "platform/systrap/stub/stub_futex.inc"  // NOLINT: likewise
#include "platform/systrap/stub/stub_files.inc"  // NOLINT: likewise
#include "platform/systrap/stub/stub_stat.inc"  // NOLINT: likewise

namespace {

// Tells the sentry of a write, and goes on at once. False: the sentry is behind, or does not wake up.
//
// Where the last kicks were soon followed by an event, nobody is rung for this one: the event brings it along, which saves waking
// the executor twice. It also keeps the one that is woken from taking the CPU of a thread that is about to sleep.
bool kick(Slot* slot, uint32_t fd, Answer when) {
  const uint32_t made = slot->kicks_made, seen = load(&slot->kicks_seen);
  // One for the same descriptor that nobody has seen yet is as good: who sees it looks at the bytes afterwards.
  if (made == seen || slot->kicks[(made - 1) % Slot::kKicks] != fd) {
    if (made - seen >= Slot::kKicks) return false;
    slot->kicks[made % Slot::kKicks] = fd;
    __atomic_store_n(&slot->kicks_made, made + 1, __ATOMIC_RELEASE);
  }
  if (!slot->kick_open) {
    slot->kick_open = 1;
    slot->kicked_at = ticks();
  }
  // The kick is there before we look whether somebody would find it: see the sentry's watch().
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (when == Answer::kKickLater && slot->follows >= Slot::kFollows && load(&doorbell()->watched)) return true;
  return ring_for_kicks(slot);
}

Answer in_place(Slot* slot) {
  const InPlaceSlot& v = slot->in_place;
  if (!v.enabled) return Answer::kNo;
  int64_t result;
  Answer answer = Answer::kYes;
  const uint64_t number = slot->regs.rax;
  switch (number) {
    case 202:
      answer = futex_in_place(slot, result);
      if (answer == Answer::kWait) answer = look_for_answer(slot, futex_in_place, result);
      if (answer != Answer::kYes) return answer;
      break;
    case 13:
      if (!sigaction_in_place(slot, result)) return Answer::kNo;
      break;
    case 14:
      if (!sigmask_in_place(slot, result)) return Answer::kNo;
      break;
    case 15:
      if (!sigreturn_in_place(slot, result)) return Answer::kNo;
      break;
    case 228:
      if (!clock_in_place(slot, result)) return Answer::kNo;
      break;
    case 158:
      if (!set_fs_in_place(slot, result)) return Answer::kNo;
      break;
    case 218:
      slot->clear_child_tid = slot->regs.rdi;
      result = v.tid;
      break;
    case 273:
      if (slot->regs.rsi != kRobustListHead) return Answer::kNo;
      slot->robust_list = slot->regs.rdi;
      result = 0;
      break;
    case 334: result = kErrENOSYS; break;  // rseq(2): docs/decisions/0030
    case 24: call(kSchedYield); result = 0; break;
    case 39: result = v.pid; break;
    case 102: result = v.uid; break;
    case 104: result = v.gid; break;
    case 107: result = v.euid; break;
    case 108: result = v.egid; break;
    case 186: result = v.tid; break;
    case 3:
      if (!v.io || !close_in_place(slot, result)) return Answer::kNo;
      break;
    case 8: case 17: case 18: case 217:
      if (!v.io || !place_in_place(slot, result)) return Answer::kNo;
      break;
    case 72:
      if (!v.io || !fcntl_in_place(slot, result)) return Answer::kNo;
      break;
    case 2: case 4: case 5: case 6: case 21: case 89: case 257: case 262: case 267: case 269: case 332: case 439:
      if (!v.io || !stat_in_place(slot, result)) return Answer::kNo;
      break;
    default:
      if (!v.io) return Answer::kNo;
      if (number <= 1 && place_in_place(slot, result)) break;
      answer = io_in_place(slot, result);
      if (answer == Answer::kWait) answer = look_for_answer(slot, io_in_place, result);
      if (answer == Answer::kNo || answer == Answer::kWait) return answer;
      // The descriptor whose other end is to hear of it.
      if (answer == Answer::kKick || answer == Answer::kKickLater) slot->address = static_cast<uint32_t>(slot->regs.rdi);
  }
  slot->regs.rax = static_cast<uint64_t>(result);
  ++slot->in_place_count[kInPlaceIndex.of[number % InPlaceIndex::kSize]];
  return answer;
}

// --- Signal frames (arch/x86/include/uapi/asm/sigcontext.h, asm-generic/ucontext.h) ---

struct SigContext {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
  uint16_t cs, gs, fs, ss;
  uint64_t err, trapno, oldmask, cr2, fpstate;
};
struct UContext {
  uint64_t flags, link, stack[3];
  SigContext mc;
};
struct SigInfo {
  int32_t signo, err, code, pad;
  uint64_t address;
  int32_t syscall;
  uint32_t arch;
};

void save_registers(Slot* slot, const UContext* uc) {
  StubRegisters& r = slot->regs;
  const SigContext& m = uc->mc;
  r.rax = m.rax; r.rbx = m.rbx; r.rcx = m.rcx; r.rdx = m.rdx; r.rsi = m.rsi; r.rdi = m.rdi; r.rbp = m.rbp; r.rsp = m.rsp;
  r.r8 = m.r8; r.r9 = m.r9; r.r10 = m.r10; r.r11 = m.r11; r.r12 = m.r12; r.r13 = m.r13; r.r14 = m.r14; r.r15 = m.r15;
  r.rip = m.rip; r.eflags = m.eflags;
  r.fs_base = rdfs();
  uint64_t gs = rdgs();
  r.gs_base = gs == addr(slot) ? 0 : gs;
}

void load_registers(const Slot* slot, UContext* uc) {
  const StubRegisters& r = slot->regs;
  SigContext& m = uc->mc;
  m.rax = r.rax; m.rbx = r.rbx; m.rcx = r.rcx; m.rdx = r.rdx; m.rsi = r.rsi; m.rdi = r.rdi; m.rbp = r.rbp; m.rsp = r.rsp;
  m.r8 = r.r8; m.r9 = r.r9; m.r10 = r.r10; m.r11 = r.r11; m.r12 = r.r12; m.r13 = r.r13; m.r14 = r.r14; m.r15 = r.r15;
  m.rip = r.rip; m.eflags = r.eflags;
}

// FP state in the frame: legacy area, then the XSAVE header at 512. The frame's own size is at 464+16.
void load_fp(Slot* slot, UContext* uc, bool reset) {
  auto* to = reinterpret_cast<uint8_t*>(uc->mc.fpstate);
  if (!to) return;
  auto* words = reinterpret_cast<uint32_t*>(to);
  uint32_t size = words[(464 + 16) / 4];
  uint64_t features = *reinterpret_cast<uint64_t*>(to + 464 + 8);
  if (reset) {
    words[0] = 0x37f;
    words[1] = 0;
    for (int i = 2; i < 6; ++i) words[i] = 0;
    words[6] = 0x1f80;
    for (int i = 8; i < 416 / 4; ++i) words[i] = 0;
    for (int i = 0; i < 16; ++i) words[512 / 4 + i] = 0;
    return;
  }
  const uint8_t* from = reinterpret_cast<uint8_t*>(slot) + kSlotXstate;
  if (size > kSlotXstateSize || size < 576) return;
  // 464..511 belong to the kernel.
  uint64_t n = 464;
  const uint8_t* src = from;
  uint8_t* dst = to;
  asm volatile("rep movsb" : "+S"(src), "+D"(dst), "+c"(n) : : "memory");
  n = size - 512;
  src = from + 512;
  dst = to + 512;
  asm volatile("rep movsb" : "+S"(src), "+D"(dst), "+c"(n) : : "memory");
  *reinterpret_cast<uint64_t*>(to + 512) &= features;
}

// The guest is stopped in this frame, its registers and the event are in the slot: tell the sentry, do as it says.
void report(Slot* slot, UContext* uc, uint32_t kind, bool complete_frame) {
  slot->frame_offset = static_cast<uint32_t>(uc->mc.fpstate - addr(slot));
  post(slot, kind, kModeFrame);
  uint32_t reply = wait_reply(slot);
  while (op_of(reply) == kReportFp) {
    post(slot, kStubInterrupted, kModeFrame);
    reply = wait_reply(slot);
  }
  const uint32_t flags = flags_of(reply);
  if (op_of(reply) == kReturn && complete_frame) {
    uc->mc.rax = slot->value[0];
    if (flags & kLoadFs) wrfs(slot->regs.fs_base);
    return;
  }
  load_registers(slot, uc);
  wrfs(slot->regs.fs_base);
  wrgs(slot->regs.gs_base ? slot->regs.gs_base : addr(slot));
  if (flags & (kLoadFp | kResetFp)) load_fp(slot, uc, flags & kResetFp);
}

// A fast-mode thread came here with the reply already in the slot.
void continue_in_frame(Slot* slot, UContext* uc) {
  const uint32_t reply = slot->reply, flags = flags_of(reply);
  if (op_of(reply) == kReportFp) {
    report(slot, uc, kStubInterrupted, false);
    return;
  }
  load_registers(slot, uc);
  wrfs(slot->regs.fs_base);
  wrgs(slot->regs.gs_base ? slot->regs.gs_base : addr(slot));
  if (flags & (kLoadFp | kResetFp)) load_fp(slot, uc, flags & kResetFp);
  // An interrupt that came on the way here, before the handler blocked them.
  if (slot->interrupt_pending) report(slot, uc, kStubInterrupted, true);
}

// A signal while stub code was running. True: return from the handler.
bool signal_in_stub(int sig, Slot* slot, UContext* uc) {
  uint64_t rip = uc->mc.rip;
  if (slot->recover && sig != kInterruptSignal && sig != 5) {
    uc->mc.rsp = slot->recover;
    uc->mc.rip = addr(&guarded_failed[0]);
    slot->recover = 0;
    return true;
  }
  if (sig == kInterruptSignal) {
    slot->interrupt_pending = 1;
    if (rip > addr(&fast_window[0]) && rip < addr(&fast_window_end[0])) uc->mc.rip = addr(&fast_window[0]);
    return true;
  }
  if (sig == 5 && rip == addr(&fast_trap_after[0])) {
    continue_in_frame(slot, uc);
    return true;
  }
  if (sig == 5) {  // the guest's trap flag was set on entry
    uc->mc.eflags &= ~kTrapFlag;
    return true;
  }
  die();
}

}  // namespace

#include "platform/systrap/stub/stub_cpuid.inc"  // NOLINT: likewise

extern "C" void stub_signal(int sig, SigInfo* info, UContext* uc, uint64_t rsp) {
  // The kernel chose this stack, whatever the guest did to its registers.
  Slot* slot = reinterpret_cast<Slot*>(rsp & ~(kSlotSize - 1));
  if (slot->recover ? in_text(uc->mc.rip) || in_vdso(uc->mc.rip) : in_text(uc->mc.rip) && sig != 31) {
    if (signal_in_stub(sig, slot, uc)) return;
  }
  if (sig == 5 && info->code == 0x80 && uc->mc.trapno == 3 && is_cpuid_site(uc->mc.rip - 1)) {
    // A breakpoint that stands in the first byte of a `cpuid`.
    answer_cpuid(uc->mc);
    uc->mc.rip += 1;
    return;
  }
  save_registers(slot, uc);
  slot->signo = sig;
  slot->si_code = info->code;
  slot->address = info->address;
  slot->error_code = uc->mc.err;
  slot->trapno = uc->mc.trapno;
  if (sig == 31) {
    if (info->arch != 0xc000003e) {  // int $0x80
      slot->signo = 11;
      slot->si_code = 0x80;
      slot->address = 0;
      slot->error_code = 0x402;
      slot->trapno = 13;
      slot->regs.rip -= 2;
      return report(slot, uc, kStubException, false);
    }
    // The first call at a site goes to the sentry, which may patch it. Those that come here again go on as if it had.
    uint64_t* seen = &slot->seen_site[Slot::seen_at(uc->mc.rip)];
    if (*seen == uc->mc.rip && slot->regs.gs_base == 0 && !(uc->mc.eflags & kTrapFlag)) {
      slot->by_trap = 1;
      uc->mc.rcx = uc->mc.rip;
      uc->mc.rip = addr(&fast_entry[0]);
      return;
    }
    *seen = uc->mc.rip;
    return report(slot, uc, kStubSyscall, true);
  }
  if (sig == kInterruptSignal) return report(slot, uc, kStubInterrupted, true);
  if (sig == 11 && uc->mc.trapno == 14) {
    slot->address = uc->mc.cr2;
    return report(slot, uc, kStubFault, true);
  }
  report(slot, uc, kStubException, true);
}

namespace {

// Waits for the reply and does it; then fast_window may load the guest's registers from the slot.
void obey(Slot* slot) {
  for (;;) {
    const uint32_t reply = wait_reply(slot), op = op_of(reply), flags = flags_of(reply);
    if (op == kReportFp) {
      xsave(reinterpret_cast<uint8_t*>(slot) + kSlotXstate);
      slot->frame_offset = kSlotXstate;
      post(slot, kStubInterrupted, kModeFast);
      continue;
    }
    if (op == kReturn) {
      slot->regs.rax = slot->value[0];
      asm volatile("prefetchw %0" : : "m"(slot->state));  // for the next event
      if (flags & kLoadFs) wrfs(slot->regs.fs_base);
      return;
    }
    // A gs base of the guest's and its trap flag can only be loaded by leaving a signal handler.
    if (slot->regs.gs_base != 0 || slot->regs.eflags & kTrapFlag) fast_trap();
    wrfs(slot->regs.fs_base);
    if (flags & kLoadFp) xrstor(reinterpret_cast<uint8_t*>(slot) + kSlotXstate);
    else if (flags & kResetFp) xrstor(kInitialXstate);
    return;
  }
}

void report_fast(Slot* slot, uint32_t kind, uint32_t by_trap = 0) {
  slot->regs.fs_base = rdfs();
  slot->regs.gs_base = 0;
  uint32_t mode = by_trap ? kModeTrapped : kModeFast;
  if (kind == kStubSyscall && wants_fp(slot->regs.rax)) {
    xsave(reinterpret_cast<uint8_t*>(slot) + kSlotXstate);
    slot->frame_offset = kSlotXstate;
    mode |= kModeSaved;
  }
  post(slot, kind, mode);
  obey(slot);
}

}  // namespace

// fast_entry calls it with every general register in the slot.
extern "C" void fast_main(Slot* slot) {
  slot->regs.r11 = slot->regs.eflags;
  const uint64_t number = slot->regs.rax;
  const uint32_t by_trap = slot->by_trap;
  slot->by_trap = 0;
  const Answer answer = in_place(slot);
  if (by_trap && answer != Answer::kNo && answer != Answer::kWait) ++slot->in_place_trapped;
  const bool kicks = answer == Answer::kKick || answer == Answer::kKickLater;
  // An epoll instance is looked at by the thread that changed it.
  if (kicks && number != 233 && kick(slot, static_cast<uint32_t>(slot->address), answer)) return;
  if (answer == Answer::kYes) return;
  const uint64_t since = answer == Answer::kWait ? ticks() : 0;
  report_fast(slot, kicks ? kStubKick : kStubSyscall, by_trap);
  if (since != 0) learn_from_sleep(slot, since);
}

// cpuid_entry calls it likewise.
extern "C" void cpuid_main(Slot* slot) { answer_cpuid(slot->regs); }

extern "C" void fast_interrupted(Slot* slot) { report_fast(slot, kStubInterrupted); }

// Start of every host thread that runs guest code.
extern "C" [[noreturn]] void thread_main(Slot* slot) {
  const bool is_first = addr(slot) == area() + kSlotsOffset;
  if (!is_first) {
    // Threads do not inherit the signal stack; the process's first one has it from the zygote.
    uint64_t stack[3] = {addr(slot) + kSlotStack, 0, kSlotSize - kSlotStack};
    if (call(kSigaltstack, addr(&stack[0]), 0) < 0) die();
  }
  slot->stack_top = addr(slot) + kSlotSize - 64;
  uint32_t fresh = kFresh;
  if (__atomic_compare_exchange_n(&slot->state, &fresh, kDone, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) futex_wake(&slot->state, 1);
  if (is_first) {
    // No guest code ran here yet, and what the ring says is the sentry's word: with the zygote's key it needs no approval. The sentry counts on
    // exactly this: see SystrapAddressSpace::is_new_.
    if (wait_state(slot) == kRun)
      work_off(slot->batch_target, reinterpret_cast<const ZygoteBoot*>(area() + kZygoteOffset + kBoardBoot)->key);
    if (call(kMunmap, area() + kZygoteOffset, kUnitSize) < 0) die();
  }
  wrgs(addr(slot));
  // The zygote has all signals blocked; a thread that made this one may have been in a handler.
  uint64_t all = ~uint64_t{0};
  call(kSigprocmask, 1 /* SIG_UNBLOCK */, addr(&all), 0, sizeof all);
  obey(slot);
  asm volatile("jmp fast_window");
  __builtin_unreachable();
}

// --- The zygote ---

namespace {

// SCM_RIGHTS with one descriptor.
void send_listener(int listener) {
  struct {
    uint64_t len;
    int32_t level, type;
    int32_t fd, pad;
  } control = {20, 1, 1, listener, 0};
  char byte = 'L';
  uint64_t iov[2] = {addr(&byte), 1};
  uint64_t msg[7] = {0, 0, addr(&iov[0]), 1, addr(&control), sizeof control, 0};
  if (call(kSendmsg, kFdBootSocket, addr(&msg[0]), 0) < 0) die();
}

// The key goes where the host ignores it. What a stub starts with has nothing of it: its registers are empty, and it leaves the zygote's
// memory behind before it runs guest code.
long spawn(uint64_t unit, const uint32_t (&key)[2]) {
  const uint64_t base = area(), first = uint64_t{key[0]} << 32, second = uint64_t{key[1]} << 32;
  long r = call(kMmap, base + kRingOffset, kUnitShared, first | 1, second | 0x11, kFdControlReadOnly, unit);
  if (r < 0) return r;
  r = call(kMmap, base + kSharedOffset, kUnitSize - kUnitShared, first | 3, second | 0x11, kFdControl, unit + kUnitShared);
  if (r < 0) return r;
  // CLONE_PARENT | SIGCHLD: a child of the sentry, which reaps it.
  return clone_thread(0x8000 | 17, base + kSlotsOffset + kSlotSize, base + kSlotsOffset);
}

}  // namespace

extern "C" [[noreturn]] void zygote_main(const ZygoteBoot* boot) {
  uint64_t base = boot->area;
  // Everything that came from the sentry goes away.
  call(kMunmap, 0, base);
  call(kMunmap, base + kAreaSize, 0x7fff'ffff'f000 - (base + kAreaSize));
  // What the sentry's thread had is gone; a signal may reach a stub before it sets its own.
  uint64_t stack[3] = {base + kSlotsOffset + kSlotStack, 0, kSlotSize - kSlotStack};
  if (call(kSigaltstack, addr(&stack[0]), 0) < 0) die();
  for (const auto& zone : boot->zones)
    if (call(kMmap, zone.address, zone.length, 5, 0x11, kFdControlReadOnly, zone.offset) < 0) die();
  struct {
    uint16_t len;
    uint64_t filter;
  } program = {static_cast<uint16_t>(boot->filter_count), boot->filter};
  // SECCOMP_SET_MODE_FILTER, NEW_LISTENER | WAIT_KILLABLE_RECV (5.19), then without the latter
  long listener = call(kSeccomp, 1, 8 | 32, addr(&program));
  if (listener < 0) listener = call(kSeccomp, 1, 8, addr(&program));
  if (listener != kFdListener) die();
  send_listener(static_cast<int>(listener));
  call(kClose, kFdBootSocket);
  call(kClose, kFdListener);  // a stub with the listener could approve its own calls
  auto* board = reinterpret_cast<ZygoteBoard*>(base + kZygoteOffset);
  for (uint32_t n = 0;; ++n) {
    while (load(&board->requested) == n) futex_wait(&board->requested, n, nullptr);
    board->pid[n % 64] = static_cast<int32_t>(spawn(board->unit[n % 64], boot->key));
    __atomic_store_n(&board->completed, n + 1, __ATOMIC_SEQ_CST);
    futex_wake(&board->completed, 1);
  }
}
