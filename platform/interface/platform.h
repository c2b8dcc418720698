// SPDX-License-Identifier: Apache-2.0
// The platform: what runs guest code. A Platform makes AddressSpaces (the mappings that guest code sees) and
// Contexts (one per guest thread), runs a context in an address space until it stops, and says why.
// It knows nothing of tasks, files or system calls. Every platform passes tests/platform unchanged.
//
// Threads: executors (host threads of the sentry) call resume(), poll() and sleep(). A context is used by one
// executor at a time (its task's fiber), but may move between executors while it is stopped.
//
// Memory: guest pages live in one memfd of the sandbox (`memory_fd`, given to create()); an address space maps
// ranges of it. Mappings are a cache of what the sentry's mm decides: a platform may drop one at any time, the guest
// then faults and the sentry maps it again. Offsets of the memfd are never used for a second purpose while
// any address space that saw them lives (sentry/memory guarantees it), so that no platform has to prove
// to anyone that an unmap has happened before a page is freed.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/host/seccomp.h"
#include "base/host/shared_fd.h"
#include "platform/interface/in_place_io.h"
#include "platform/interface/registers.h"

namespace platform {

class AddressSpace;

enum class EventKind : uint8_t {
  kNone,         // nothing new (spurious poll)
  kSyscall,      // regs.orig_rax = number, arguments in rdi rsi rdx r10 r8 r9; rip is after the instruction
  kFault,        // page fault at `address`; `access` says what was tried
  kException,    // any other trap: `signo`, `si_code` and `address` as Linux would put them in siginfo
  kInterrupted,  // stopped because of interrupt()
  kKick,         // a call was answered in place and somebody may wait for what it did: `address` is its descriptor
  kDied,         // the host side of the address space is gone (killed by the host); the task must be killed
};

enum class AccessKind : uint8_t { kRead, kWrite, kExecute };

struct Event {
  EventKind kind = EventKind::kNone;
  AccessKind access = AccessKind::kRead;
  bool trapped = false;  // kSyscall: through a trap, so that patching the call site would help
  int32_t signo = 0;
  int32_t si_code = 0;
  uint64_t address = 0;
  uint64_t error_code = 0;  // x86 page-fault error code or trap number, for sigcontext
  uint64_t trapno = 0;
};

// How a context goes on.
enum class ResumeMode : uint8_t {
  kSyscallReturn,  // only rax changed since the event (rcx, r11 as `syscall` leaves them): the fast way back
  kFull,           // load every register from regs()
};

// rt_sigaction(2)'s, one for each of the 64 signals.
struct SignalAction {
  uint64_t handler = 0, flags = 0, restorer = 0, mask = 0;
};
using SignalActions = std::array<SignalAction, 64>;

// What set_robust_list(2) and set_tid_address(2) set: addresses, 0 for none.
struct ThreadWords {
  uint64_t robust_list = 0, clear_child_tid = 0;
};

// One guest thread's machine state. Owned by its task; destroyed only while stopped, and before its address space.
class Context {
 public:
  virtual ~Context() = default;

  // The general registers: a sentry-private copy, valid and writable while the context is stopped. fs_base and
  // gs_base are part of it; set_fs_base() must be used to change fs_base.
  virtual Registers& regs() = 0;
  // The same object where a system call needs no more than itself: after kSyscall and until regs() is called only rax, orig_rax and
  // the arguments' registers are valid in it. A platform may fetch the others when regs() is called.
  virtual Registers& call_regs() { return regs(); }
  virtual void set_fs_base(uint64_t value) = 0;
  virtual void set_gs_base(uint64_t value) = 0;

  // Extended state. It usually stays in the CPU's registers of the host thread, so reading it may need a round
  // trip: call save_xstate(); when it returns true the state is at xstate() at once; when false, the
  // context must be resumed once and will stop again with kInterrupted, after which it is there.
  virtual bool save_xstate() = 0;
  // xstate_size() bytes in standard format; what the guest has after save_xstate() and until resume(). May be
  // written at any time while the context is stopped. Before the first resume(): the initial state.
  virtual std::span<uint8_t> xstate() = 0;
  // The next resume(kFull) loads xstate() into the CPU. Without it the live registers stay as they are.
  virtual void load_xstate() = 0;
  // The same with the CPU's initial state (execve).
  virtual void reset_xstate() = 0;

  // Makes a running context stop soon with kInterrupted (or whatever else it does first). Any thread may call it,
  // at any time; a context that is not running reports kInterrupted at its next resume() instead of entering
  // the guest, unless clear_interrupt() is called first.
  virtual void interrupt() = 0;
  virtual void clear_interrupt() = 0;

  // interrupt(), and the promise that the context is never resumed again. It also reaches a guest that evades
  // interrupts: once every context of an address space is condemned (or destroyed), the platform may end it by force.
  // Those that were running then report kDied.
  virtual void condemn() = 0;

  // Values that the stub may answer calls from in place (identity of the task, see InPlaceValues).
  virtual void set_in_place(const struct InPlaceValues& values) = 0;

  // Whose answers of stat(2) the stub gives (in_place_io.h) until the next set_in_place(); 0: none.
  virtual void set_reader(uint64_t reader) { (void)reader; }
  // The same for the answers that it has in common with others.
  virtual void set_common_reader(const in_place::CommonReader& reader) { (void)reader; }

  // The guest's signal mask, so that a platform can change it in place (rt_sigprocmask) while in-place answers are on: what the
  // guest has from the next resume() on. False: this platform does not, and neither of the other two is called.
  virtual bool set_signal_mask(uint64_t mask) { (void)mask; return false; }
  // What the guest has now; any thread, at any time. The guest's own word.
  virtual uint64_t signal_mask() const { return 0; }
  // Held: the sentry must see the guest's changes of the mask. Any thread, at any time; who holds and then reads
  // signal_mask() either sees a change or gets the call that makes it.
  virtual void hold_signal_mask(bool held) { (void)held; }
  // A signal frame was pushed: rt_sigreturn may be answered in place if it leaves the alternate stack as it is now, and the mask may be
  // changed in place. Until forbid_sigreturn(), which whoever changes that stack calls.
  virtual void allow_sigreturn(uint64_t altstack, uint64_t size, int32_t flags) { (void)altstack, (void)size, (void)flags; }
  virtual void forbid_sigreturn() {}

  // The guest's signal actions, so that a platform can answer rt_sigaction(2) in place where nothing comes of it: questions, and what leaves
  // a signal at its default action, other than to be ignored, or changes nothing. Only for the one thread of a process, with the guest
  // stopped. False: this platform does not.
  virtual bool show_signal_actions(const SignalActions& actions) { (void)actions; return false; }
  virtual void set_signal_action(int32_t signo, const SignalAction& action) { (void)signo, (void)action; }
  // What the guest has made of it. The guest's own word; only where the handler is the default may it differ.
  virtual SignalAction signal_action(int32_t signo) const { (void)signo; return {}; }
  virtual void hide_signal_actions() {}

  // Kept here because a platform may answer both calls in place; nothing in a new context. With the guest stopped; its own word.
  virtual ThreadWords thread_words() const { return thread_words_; }
  virtual void set_thread_words(const ThreadWords& words) { thread_words_ = words; }

  // The call that just trapped at `site` is to come here when it traps again, as it may be patched then: it is not answered in place.
  virtual void forget_site(abi::Addr site) { (void)site; }

  // How much of the time between the last resume() and its event, both in ticks of the time-stamp counter, the guest ran:
  // without what waking host threads took. A hint, which a hostile guest can choose.
  virtual uint64_t guest_ticks(uint64_t resumed, uint64_t stopped) const { return stopped - resumed; }

  // Kept by the scheduler, in ticks: when the context was resumed last, and a moving average of how long the guest runs
  // between events. Atomic because executors look at each other's contexts.
  std::atomic<uint64_t> resumed_at{0}, pace{~uint64_t{0}};
  // Whether its next event is likely to come within `soon` ticks. Longer ago it may have been resumed: it may wait for a CPU.
  bool is_dense(uint64_t now, uint64_t soon) const {
    return pace.load(std::memory_order_relaxed) < soon && now - resumed_at.load(std::memory_order_relaxed) < 8 * soon;
  }

  void *owner = nullptr, *task = nullptr;  // free for the sentry: the scheduler's, and the task that owns this context

 private:
  ThreadWords thread_words_;
};

// What getpid and kin return, so that a platform can answer them without a hand-off. `enabled` is off while every call must reach the sentry.
struct InPlaceValues {
  bool enabled = false;
  bool io = false;  // descriptors too: the task uses the table that the address space's descriptors are from
  int32_t pid = 0, tid = 0, ppid = 0;
  uint32_t uid = 0, euid = 0, gid = 0, egid = 0;
  int32_t pgid = 0, sid = 0;
};

enum class Populate : uint8_t { kNo, kYes };  // kYes: the pages exist, put them into the page tables at once

// The mappings of one guest address space. Calls queue; everything queued takes effect before any context of this
// address space next returns to guest code through resume(), and at the latest when flush_running() has stopped and
// restarted the running ones. Thread-safe (LockRank::kPlatform inside). Ranges are page-aligned and inside
// [min_address(), max_address()) of the platform: violating that is a bug of the caller.
class AddressSpace {
 public:
  virtual ~AddressSpace() = default;
  // Maps [range) to the memfd from `offset`, MAP_SHARED | MAP_FIXED. prot.write asks for a mapping that may be
  // written; without it the mapping can never be made writable from inside the guest.
  virtual void map(abi::AddrRange range, uint64_t offset, abi::Prot prot, Populate populate) = 0;
  // The same with the bytes of a host file from `offset`. `file` is open for reading only; prot.write is false. The platform keeps
  // `file` for as long as it needs it. A host that refuses (a mount without execution) leaves a hole, counted below.
  virtual void map_file(abi::AddrRange range, const base::RefPtr<base::SharedFd>& file, uint64_t offset, abi::Prot prot) = 0;
  // How many mappings of map_file() the host refused so far. A hint: a hostile guest can make it up.
  virtual uint32_t refused_files() const { return 0; }
  virtual void unmap(abi::AddrRange range) = 0;
  // Takes rights away or gives them on what is mapped in [range); pages not mapped stay unmapped.
  virtual void protect(abi::AddrRange range, abi::Prot prot) = 0;
  // For changes that other running threads of this address space must see before the caller goes on (none of
  // the common calls need it): stops every running context; they apply the queue when they are resumed.
  virtual void interrupt_running() = 0;
  // The host side is gone, although nobody here ended it: see Platform::set_death_listener(). Any thread.
  virtual bool is_dead() const { return false; }
  // `reached` becomes true, at some time after the address space was destroyed, when nothing is left on the host that could map anything for
  // it: no guest maps a page then that was mapped only here. Null: nobody can tell.
  struct HostEnd {
    base::RefPtr<base::RefCounted> owner;  // of `reached`
    const std::atomic<bool>* reached = nullptr;
  };
  virtual HostEnd host_end() const { return {}; }
  // A thread begins (+1) or ends (-1) to wait on the process-private futex word at `address`; begun before the word is
  // compared. With it a platform can answer a wake that finds nobody. Atomic, any thread, no lock.
  virtual void count_futex_waiter(abi::Addr address, int delta) { (void)address, (void)delta; }

  // Input and output in place: in_place_io.h. False: none of the rest is called.
  virtual bool has_in_place_io() const { return false; }
  // What the stub knows of a descriptor below in_place::kDescriptors; 0: nothing. Atomic; calls under way may still use the old word.
  virtual void set_descriptor(uint32_t fd, uint64_t word) { (void)fd, (void)word; }
  // Puts memory [offset, offset + length) where the stub looks for a block. Queued like map(). What is longer than a block takes the
  // ones that follow it.
  enum class BlockUse : uint8_t { kWrite, kReadOnly };
  virtual void map_block(uint32_t block, uint64_t offset, uint64_t length, BlockUse use = BlockUse::kWrite) {
    (void)block, (void)offset, (void)length, (void)use;
  }
  virtual void unmap_block(uint32_t block, uint64_t length) { (void)block, (void)length; }
  // Puts pages of a file at `at` in the room for windows: those of the memory file at `offset`, or of a host file as in map_file(), for reading. Queued
  // like map(); what stood there goes. The result is FilePlace::window_ticket: with it the stub does not look there before it is done.
  virtual uint64_t map_window(uint64_t at, uint64_t offset, uint64_t length, BlockUse use = BlockUse::kReadOnly) { return (void)at, (void)offset, (void)length, (void)use, uint64_t{0}; }
  virtual uint64_t map_window(uint64_t at, const base::RefPtr<base::SharedFd>& file, uint64_t offset, uint64_t length) {
    return (void)at, (void)file, (void)offset, (void)length, uint64_t{0};
  }
  virtual void unmap_window(uint64_t at, uint64_t length) { (void)at, (void)length; }
  // Shared with the stub, for as long as the address space lives; hostile.
  virtual in_place::DescriptorLocks* descriptor_locks() { return nullptr; }
  virtual in_place::ClosedDescriptors* closed_descriptors() { return nullptr; }  // likewise; reading it later does no harm
  // The word that says whether a task of this address space waits for input: its number, for the descriptors of others.
  // 0 when there are too many address spaces: that one always says yes.
  virtual uint32_t waiting_word() const { return 0; }
  // A task begins (+1) or ends (-1) to wait; begun before it looks whether there is something to wait for. Atomic, any thread.
  virtual void count_waiting(int delta) { (void)delta; }
};

// A system call instruction that trapped and could be entered through a trampoline instead. The sentry's mm owns
// guest text, so it does the writing: it asks plan_patch() for the new bytes and writes them to a copy of the text page
// that is mapped in place of the file's page. Edits are made in their order: each is complete, and nobody executes
// it, before the one that leads there.
struct PatchEdit {
  abi::Addr start;        // first byte to replace
  uint8_t bytes[8] = {};  // what to write there
  uint8_t length = 0;
  uint8_t before[8] = {};  // plan_cpuid(): what is there
};
struct PatchPlan {
  PatchEdit edits[2];
  uint8_t count = 0;  // 0: leave this site alone
};

// How long resume_and_look() goes on: until `work` is not zero, or to this value of the time-stamp counter.
struct Look {
  const std::atomic<uint32_t>& work;
  uint64_t until;
};

class Platform {
 public:
  virtual ~Platform() = default;
  virtual std::string_view name() const = 0;

  // Guest addresses usable for mappings: [min_address(), max_address()).
  virtual abi::Addr min_address() const = 0;
  virtual abi::Addr max_address() const = 0;
  // The address at which every address space already has the vDSO (code) with its data pages in front of it, or an
  // empty range when the sentry must provide its own. Nothing may be mapped over vdso_range().
  virtual abi::AddrRange vdso_range() const = 0;
  virtual abi::Addr vdso_elf() const = 0;
  // Parts of [min_address(), max_address()) that the platform uses itself: the guest cannot have them (as if something
  // else were mapped there). Operations of AddressSpace skip them.
  virtual std::span<const abi::AddrRange> reserved_ranges() const = 0;
  virtual size_t xstate_size() const = 0;

  // ENOMEM or EAGAIN when the host cannot give another process.
  virtual base::Result<std::unique_ptr<AddressSpace>> create_address_space() = 0;
  // A context for a new guest thread in `as` (which must outlive it). ENOMEM/EAGAIN.
  virtual base::Result<std::unique_ptr<Context>> create_context(AddressSpace& as) = 0;

  // Starts the context; returns at once. It shows up in poll() when it has stopped.
  virtual void resume(Context& context, ResumeMode mode) = 0;
  // The same, and looks for its next event for a little while: true when it has stopped (poll() will not report it,
  // take_event() may be called). For executors that have nothing else to do and a core to themselves.
  virtual bool resume_and_look(Context& context, ResumeMode mode, const Look& look) {
    (void)look;
    resume(context, mode);
    return false;
  }
  // The answer to this stopped context's event will take longer: its host thread need not look for it.
  virtual void relax(Context& context) { (void)context; }
  // Fills `out` with contexts that have stopped since they were resumed; each is reported once. Any number of
  // executors may poll; never blocks.
  virtual size_t poll(std::span<Context*> out) = 0;
  // `told` is called, on any thread and without a lock, when the host side of an address space has ended that is still in use. Its
  // contexts report kDied when they run or are resumed, but their tasks may be waiting for something else. Set before the first
  // address space is made.
  virtual void set_death_listener(std::function<void()> told) { (void)told; }
  // Where the stubs see changes; null: nowhere. As long as the platform.
  virtual in_place::ChangeWords* change_words() { return nullptr; }
  // Called by poll() and resume_and_look() for what a running context did in place and somebody may wait for: the context's `task`
  // and the descriptor that was written. The context stays until it returns; nothing is locked. Before the first context.
  using KickHandler = void (*)(void* task, uint32_t fd);
  virtual void set_kick_handler(KickHandler handler) { (void)handler; }
  // What happened; regs() is up to date after it. Called once after poll() reported the context.
  virtual Event take_event(Context& context) = 0;

  // The calling thread is executor `index` (below PlatformConfig::cpus) from now on. A platform may tie it to a CPU, so that
  // guests and the executor that answers them share one. Threads that never say so share index 0. The CPU, or -1.
  virtual int enter_executor(unsigned index) {
    (void)index;
    return -1;
  }
  // The calling executor waits in the host for something (kYes) or is back (kNo): events on its CPU go to another one.
  enum class Away : uint8_t { kNo, kYes };
  virtual void set_away(Away away) { (void)away; }
  // Before poll() is called again and again: events need not wake anybody. Ends with prepare_sleep().
  virtual void start_looking() {}
  // What the running contexts are doing, for an executor that has nothing to do.
  struct Running {
    size_t busy = 0;         // they compute: each wants a CPU
    size_t dense = 0;        // their next event is likely to come within `soon` ticks
    bool dense_here = false; // one of the latter was last seen on the calling executor's own CPU
  };
  virtual Running survey(uint64_t soon) const {
    (void)soon;
    return {running(), 0, false};
  }

  // Idle executors: token = prepare_sleep(); check poll() and the run queue once more; sleep(token, timeout).
  // sleep() returns when a context stopped that this executor should see to, when wake() chose it since
  // prepare_sleep(), or at the timeout (relative ns; negative: none). Spurious returns are allowed.
  virtual uint32_t prepare_sleep() = 0;
  virtual void sleep(uint32_t token, int64_t timeout_ns) = 0;
  virtual void cancel_sleep() = 0;  // instead of sleep(), when the check found work
  // Wakes one sleeping executor (if any sleeps), on the caller's CPU rather than elsewhere.
  virtual void wake() = 0;
  virtual void wake_all() = 0;

  // `text` holds the guest bytes around a trapped system call, starting at `text_start`; `site` is the address of the
  // instruction after it. The trampoline it makes works in every address space that has the same bytes at the same
  // address (text of a file is mapped at one address per sandbox where possible). Platforms that do not patch
  // return no edits.
  virtual PatchPlan plan_patch(std::span<const uint8_t> text, abi::Addr text_start, abi::Addr site) = 0;
  // `code` is a function, which will be at `start`: adds what to change in it so that its `cpuid` instructions cost less. Each edit is whole
  // without the others, may be made while the function runs, and may be left out.
  virtual void plan_cpuid(std::span<const uint8_t> code, abi::Addr start, std::vector<PatchEdit>& edits) {
    (void)code, (void)start, (void)edits;
  }
  // Where the sentry should place executable file mappings so that trampolines reach them; empty: anywhere.
  virtual abi::AddrRange text_window() const = 0;

  // How many contexts are running guest code now.
  virtual size_t running() const = 0;

  // What only the guest's side sees; everything else is in base/stats. A hostile guest can claim anything here, as long as it
  // is possible in the time that its threads lived.
  struct Claims {
    static constexpr uint64_t kOtherCalls = 0xffff;
    struct InPlace {
      uint64_t number, count;  // number: of the call, kOtherCalls: any that has no line of its own
    };
    std::vector<InPlace> in_place;  // calls answered without the sentry
    uint64_t in_place_trapped = 0;  // of these, how many came through a trap
    uint64_t slept = 0;             // hand-offs for which the guest's thread slept
  };
  virtual Claims claims() const { return {}; }
};

struct PlatformConfig {
  int memory_fd = -1;     // the sandbox's memfd, opened read-write
  int memory_fd_ro = -1;  // the same file, opened read-only: what read-only mappings go through
  unsigned cpus = 1;      // host CPUs that the sandbox may use: one means never spin
};

// A stage that runs before the sentry drops what it needs for making processes (fork, namespaces, ptrace). The
// result is handed to create().
class PlatformFactory {
 public:
  virtual ~PlatformFactory() = default;
  virtual std::string_view name() const = 0;
  // The host calls that the platform makes in the sentry at run time, for the sentry's own filter.
  virtual std::vector<base::SeccompRule> host_calls() const = 0;
  // Why this host cannot run it, or empty.
  virtual std::string unavailable_reason() const = 0;
  // Single-threaded sentry, before seccomp: forks whatever processes the platform starts from.
  virtual base::Result<std::unique_ptr<Platform>> create(const PlatformConfig& config) = 0;
};

// platform/registry.cc alone names every platform. Null when there is none of that name.
PlatformFactory* find_platform(std::string_view name);
std::span<PlatformFactory* const> all_platforms();

}  // namespace platform
