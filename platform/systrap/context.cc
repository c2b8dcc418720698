// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <csignal>
#include <cstring>

#include <sched.h>
#include <sys/syscall.h>

#include "base/core/check.h"
#include "base/stats/stats.h"
#include "platform/common/xstate.h"
#include "platform/systrap/systrap.h"

namespace platform::systrap {
namespace {

// A slot is shared with hostile code: each field is read once.
template <typename T>
T peek(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_RELAXED);
}
template <typename T, typename U>
void poke(T& field, U value) {
  __atomic_store_n(&field, static_cast<T>(value), __ATOMIC_RELAXED);
}

constexpr uint64_t kUserLimit = uint64_t{1} << 47;
// Linux's FIX_EFLAGS and the always-one bit: what a guest may choose.
constexpr uint64_t kUserFlags = 0x50dd5;
constexpr uint64_t kFixedFlags = 0x202;

uint64_t base_address(uint64_t value) { return value < kUserLimit ? value : 0; }

}  // namespace

SystrapContext::SystrapContext(SystrapPlatform& platform, SystrapAddressSpace& as, StubThread thread)
    : platform_(platform), as_(as), thread_(thread), xstate_(host_xstate_size()) {
  init_xstate(xstate_);
  poke(thread_.slot->in_place.enabled, 0u);
  poke(thread_.slot->in_place.actions, 0u);
  poke(thread_.slot->frame_xstate, 0u);
  set_thread_words({});
  platform_.enrol(*this);
  base::MutexLock lock(as_.mu_);
  as_.contexts_.push_back(this);
}

SystrapContext::~SystrapContext() {
  CHECK(phase_.load() != kRunning);
  platform_.take_back(*this);
  platform_.tell_all_kicks(*this);
  while (kicks_told_.load(std::memory_order_acquire) != 0) sched_yield();
  platform_.strike_off(*this);
  as_.remove(this);  // waits for a command that this thread executes: it is made under the same lock
}

void SystrapContext::set_fs_base(uint64_t value) {
  regs().fs_base = value;
  fs_changed_ = true;
}

void SystrapContext::set_gs_base(uint64_t value) {
  regs().gs_base = value;
  gs_changed_ = true;
  // The stub uses the gs base in patched calls.
  if (value != 0) as_.use_slow_trampolines();
}

bool SystrapContext::save_xstate() {
  if (fp_valid_ || !fp_live_) return true;
  if (in_frame_ || saved_) {
    fetch_frame_fp();
    return true;
  }
  if (!complete_) complete_registers();  // the next event is none of its own
  want_fp_ = true;
  return false;
}

void SystrapContext::reset_xstate() {
  init_xstate(xstate_);
  load_fp_ = fp_valid_ = true;
}

void SystrapContext::fetch_frame_fp() {
  uint64_t offset = peek(thread_.slot->frame_offset);
  size_t room = xstate_.size();
  init_xstate(xstate_);
  if (offset == kSlotXstate) {
    std::memcpy(xstate_.data(), reinterpret_cast<const uint8_t*>(thread_.slot) + offset, room);
  } else if (offset >= kSlotStack && offset <= kSlotSize - room && offset % 64 == 0) {
    const auto* from = reinterpret_cast<const uint8_t*>(thread_.slot) + offset;
    // _fpx_sw_bytes: the frame may be smaller than what the CPU could have.
    uint32_t size;
    std::memcpy(&size, from + 464 + 16, sizeof size);
    std::memcpy(xstate_.data(), from, std::clamp<size_t>(size, 576, room));
  }
  sanitize_xstate(xstate_);
  fp_valid_ = true;
}

void SystrapContext::interrupt() {
  interrupt_.store(true);
  if (phase_.load() != kRunning || as_.process_->dead.load()) return;
  base::stats::count(base::stats::Counter::kInterrupts);
  syscall(SYS_tgkill, as_.process_->pid, thread_.tid, kInterruptSignal);
}

void SystrapContext::condemn() {
  interrupt();
  base::MutexLock lock(as_.mu_);
  condemned_ = true;
  as_.kill_if_condemned();
}

bool SystrapContext::set_signal_mask(uint64_t mask) {
  __atomic_store_n(&thread_.slot->in_place.mask, mask, __ATOMIC_SEQ_CST);
  return true;
}

uint64_t SystrapContext::signal_mask() const { return __atomic_load_n(&thread_.slot->in_place.mask, __ATOMIC_SEQ_CST); }

void SystrapContext::hold_signal_mask(bool held) {
  __atomic_store_n(&thread_.slot->in_place.mask_held, held ? 1 : 0, __ATOMIC_SEQ_CST);
}

void SystrapContext::allow_sigreturn(uint64_t altstack, uint64_t size, int32_t flags) {
  Slot& slot = *thread_.slot;
  poke(slot.altstack, altstack);
  poke(slot.altstack_size, size);
  poke(slot.altstack_flags, flags);
  poke(slot.frame_xstate, xstate_.size());
}

void SystrapContext::forbid_sigreturn() { poke(thread_.slot->frame_xstate, 0u); }

bool SystrapContext::show_signal_actions(const SignalActions& actions) {
  static_assert(sizeof(SignalActions) == sizeof(Slot::actions));
  for (size_t i = 0; i < actions.size(); ++i) set_signal_action(static_cast<int32_t>(i) + 1, actions[i]);
  poke(thread_.slot->in_place.actions, 1u);
  return true;
}

void SystrapContext::set_signal_action(int32_t signo, const SignalAction& action) {
  Slot::Action& to = thread_.slot->actions[signo - 1];
  poke(to.handler, action.handler);
  poke(to.flags, action.flags);
  poke(to.restorer, action.restorer);
  poke(to.mask, action.mask);
}

SignalAction SystrapContext::signal_action(int32_t signo) const {
  const Slot::Action& a = thread_.slot->actions[signo - 1];
  return {peek(a.handler), peek(a.flags), peek(a.restorer), peek(a.mask)};
}

void SystrapContext::hide_signal_actions() { poke(thread_.slot->in_place.actions, 0u); }

void SystrapContext::forget_site(abi::Addr site) { poke(thread_.slot->seen_site[Slot::seen_at(site.value())], uint64_t{0}); }

ThreadWords SystrapContext::thread_words() const {
  return {peek(thread_.slot->robust_list), peek(thread_.slot->clear_child_tid)};
}

void SystrapContext::set_thread_words(const ThreadWords& words) {
  poke(thread_.slot->robust_list, words.robust_list);
  poke(thread_.slot->clear_child_tid, words.clear_child_tid);
}

void SystrapContext::set_in_place(const InPlaceValues& v) {
  InPlaceSlot& to = thread_.slot->in_place;
  poke(to.io, v.io ? 1u : 0u);
  poke(to.pid, v.pid);
  poke(to.tid, v.tid);
  poke(to.ppid, v.ppid);
  poke(to.uid, v.uid);
  poke(to.euid, v.euid);
  poke(to.gid, v.gid);
  poke(to.egid, v.egid);
  poke(to.reader, uint64_t{0});
  set_common_reader({});
  __atomic_store_n(&to.enabled, static_cast<uint16_t>(v.enabled), __ATOMIC_RELEASE);
}

void SystrapContext::set_common_reader(const in_place::CommonReader& reader) {
  in_place::CommonReader& to = thread_.slot->common;
  poke(to.word, reader.word);
  poke(to.count, reader.count);
  poke(to.reader, reader.reader);
}

void SystrapContext::set_reader(uint64_t reader) { poke(thread_.slot->in_place.reader, reader); }

uint64_t SystrapContext::guest_ticks(uint64_t resumed, uint64_t stopped) const {
  const uint64_t from = std::max(resumed, peek(thread_.slot->woken_at));
  const uint64_t posted = peek(thread_.slot->posted_at);
  const uint64_t to = posted > resumed ? std::min(stopped, posted) : stopped;
  return to > from ? to - from : 0;
}

// --- Events ---

Event SystrapContext::read_event() {
  const Slot& slot = *thread_.slot;
  Event event;
  if (want_fp_) {
    // It only moved to a signal frame; the registers are here already.
    want_fp_ = saved_ = false;
    in_frame_ = mode_of(peek(slot.head)) & kModeFrame;
    fetch_frame_fp();
    event.kind = EventKind::kInterrupted;
    return event;
  }
  const uint32_t head = peek(slot.head), kind = kind_of(head);
  in_frame_ = mode_of(head) & kModeFrame;
  saved_ = false;
  if (kind == kStubKick) {
    read_arguments();
    event.kind = EventKind::kKick;
    event.address = peek(slot.number);
    regs_.orig_rax = ~uint64_t{0};
    regs_.rax = static_cast<uint64_t>(static_cast<int32_t>(peek(slot.reply)));
    return event;
  }
  read_registers();
  switch (kind) {
    case kStubFault: event.kind = EventKind::kFault; break;
    case kStubException: event.kind = EventKind::kException; break;
    case kStubInterrupted:
      event.kind = EventKind::kInterrupted;
      interrupt_.store(false);
      break;
    default:
      as_.process_->kill();
      event.kind = EventKind::kDied;
      return event;
  }
  if (kind == kStubInterrupted) return event;
  event.signo = peek(slot.signo);
  event.si_code = peek(slot.si_code);
  event.address = peek(slot.address);
  event.error_code = peek(slot.error_code);
  event.trapno = peek(slot.trapno);
  if (event.signo < 1 || event.signo > 64) event.signo = SIGSEGV;
  constexpr uint64_t kWriteFault = 2, kFetchFault = 16;
  event.access = event.error_code & kFetchFault   ? AccessKind::kExecute
                 : event.error_code & kWriteFault ? AccessKind::kWrite
                                                  : AccessKind::kRead;
  return event;
}

// Of a system call or kick. The other registers stay where they are until somebody asks for them.
void SystrapContext::read_arguments() {
  const Slot& slot = *thread_.slot;
  regs_.rdi = peek(slot.value[0]); regs_.rsi = peek(slot.value[1]); regs_.rdx = peek(slot.value[2]);
  regs_.r10 = peek(slot.value[3]); regs_.r8 = peek(slot.value[4]); regs_.r9 = peek(slot.value[5]);
  complete_ = false;
}

bool SystrapContext::read_call() {
  const Slot& slot = *thread_.slot;
  const uint32_t head = peek(slot.head);
  if (kind_of(head) != kStubSyscall || want_fp_) return false;
  in_frame_ = mode_of(head) & kModeFrame;
  saved_ = mode_of(head) & kModeSaved;
  trapped_ = mode_of(head) & (kModeFrame | kModeTrapped);
  read_arguments();
  const uint32_t number = peek(slot.number);
  regs_.orig_rax = number == kWideNumber ? peek(slot.regs.rax) : number;
  regs_.rax = static_cast<uint64_t>(-int64_t{38});  // -ENOSYS, as Linux has it at this point
  asm volatile("prefetchw %0" : : "m"(slot.state));  // the answer goes into this line
  return true;
}

// What read_arguments() left. The thread is stopped, so it is there still; each register is read once all the same.
void SystrapContext::complete_registers() {
  read_kept_registers();
  regs_.rcx = regs_.rip;
  regs_.r11 = regs_.eflags;
  complete_ = true;
}

void SystrapContext::read_kept_registers() {
  const StubRegisters& r = thread_.slot->regs;
  regs_.rbx = peek(r.rbx); regs_.rbp = peek(r.rbp); regs_.rsp = peek(r.rsp);
  regs_.r12 = peek(r.r12); regs_.r13 = peek(r.r13); regs_.r14 = peek(r.r14); regs_.r15 = peek(r.r15);
  regs_.rip = peek(r.rip);
  regs_.eflags = (peek(r.eflags) & kUserFlags) | kFixedFlags;
  regs_.fs_base = peek(r.fs_base);
  regs_.gs_base = peek(r.gs_base);
  if (auto rip = platform_.trampolines_.original(abi::Addr(regs_.rip))) regs_.rip = rip->value();
}

void SystrapContext::read_registers() {
  const StubRegisters& r = thread_.slot->regs;
  read_kept_registers();
  regs_.rax = peek(r.rax); regs_.rcx = peek(r.rcx); regs_.rdx = peek(r.rdx);
  regs_.rsi = peek(r.rsi); regs_.rdi = peek(r.rdi);
  regs_.r8 = peek(r.r8); regs_.r9 = peek(r.r9); regs_.r10 = peek(r.r10); regs_.r11 = peek(r.r11);
  regs_.orig_rax = ~uint64_t{0};
  complete_ = true;
}

// --- Replies ---

void SystrapContext::write_reply(ResumeMode mode, bool all_published) {
  Slot& slot = *thread_.slot;
  const uint64_t target = as_.published_.load(std::memory_order_acquire);
  if (target != batch_target_) {
    poke(slot.batch_target, target);
    batch_target_ = target;
  }
  continuation_ = !all_published;
  resumed_mode_ = mode;
  if (continuation_) return set_reply(make_reply(kBatchOnly, 0));
  if (want_fp_ && fp_live_) return set_reply(make_reply(kReportFp, 0));
  want_fp_ = false;
  if (load_fp_) {
    sanitize_xstate(xstate_);
    std::memcpy(reinterpret_cast<uint8_t*>(thread_.slot) + kSlotXstate, xstate_.data(), xstate_.size());
  }
  uint32_t flags = 0;
  const bool full = mode == ResumeMode::kFull || gs_changed_ || load_fp_ || !fp_live_;
  if (full) {
    write_registers();
    if (load_fp_) flags |= kLoadFp;
    else if (!fp_live_) flags |= kResetFp;
  } else {
    poke(slot.value[0], regs_.rax);
    if (fs_changed_) {
      poke(slot.regs.fs_base, base_address(regs_.fs_base));
      flags |= kLoadFs;
    }
  }
  fs_changed_ = gs_changed_ = load_fp_ = fp_valid_ = false;
  fp_live_ = true;
  set_reply(make_reply(full ? kLoadAll : kReturn, flags));
}

// Mostly it is what it was the last time.
void SystrapContext::set_reply(uint32_t reply) {
  if (peek(thread_.slot->reply) != reply) poke(thread_.slot->reply, reply);
}

void SystrapContext::write_registers() {
  if (!complete_) complete_registers();
  StubRegisters& r = thread_.slot->regs;
  poke(r.rax, regs_.rax); poke(r.rbx, regs_.rbx); poke(r.rcx, regs_.rcx); poke(r.rdx, regs_.rdx);
  poke(r.rsi, regs_.rsi); poke(r.rdi, regs_.rdi); poke(r.rbp, regs_.rbp); poke(r.rsp, regs_.rsp);
  poke(r.r8, regs_.r8); poke(r.r9, regs_.r9); poke(r.r10, regs_.r10); poke(r.r11, regs_.r11);
  poke(r.r12, regs_.r12); poke(r.r13, regs_.r13); poke(r.r14, regs_.r14); poke(r.r15, regs_.r15);
  poke(r.rip, regs_.rip);
  poke(r.eflags, (regs_.eflags & kUserFlags) | kFixedFlags);
  poke(r.fs_base, base_address(regs_.fs_base));
  poke(r.gs_base, base_address(regs_.gs_base));
}

}  // namespace platform::systrap
