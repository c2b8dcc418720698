// SPDX-License-Identifier: Apache-2.0
// The systrap platform: guest code runs in stub processes under a seccomp filter. docs/platforms/systrap.md.
//
// Locks: SystrapAddressSpace::mu_ (kPlatform) -> SystrapPlatform::run_mu_ (kPlatformGlobal) -> StubProcess (kLeaf).
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "platform/common/interval_set.h"
#include "platform/interface/platform.h"
#include "platform/systrap/control_memory.h"
#include "platform/systrap/stub/layout.h"
#include "platform/systrap/stub_process.h"
#include "platform/systrap/supervisor.h"
#include "platform/systrap/trampolines.h"
#include "platform/systrap/zygote.h"

namespace platform::systrap {

class SystrapContext;
class SystrapPlatform;

// A host thread of a stub and its slot.
struct StubThread {
  Slot* slot = nullptr;
  uint64_t address = 0;  // of the slot, in the stub
  pid_t tid = -1;
  int cpu = -1;  // the one that it was tied to, -1: any; see SystrapPlatform::place()
};

class SystrapAddressSpace final : public AddressSpace {
 public:
  SystrapAddressSpace(SystrapPlatform& platform, base::RefPtr<StubProcess> process, uint64_t unit);
  ~SystrapAddressSpace() override;
  void map(abi::AddrRange range, uint64_t offset, abi::Prot prot, Populate populate) override;
  void map_file(abi::AddrRange range, const base::RefPtr<base::SharedFd>& file, uint64_t offset, abi::Prot prot) override;
  uint32_t refused_files() const override;
  void unmap(abi::AddrRange range) override;
  void protect(abi::AddrRange range, abi::Prot prot) override;
  void interrupt_running() override;
  bool is_dead() const override { return process_->dead.load(std::memory_order_acquire); }
  HostEnd host_end() const override { return {process_, &process_->dead}; }
  void count_futex_waiter(abi::Addr address, int delta) override;
  bool has_in_place_io() const override { return true; }
  void set_descriptor(uint32_t fd, uint64_t word) override;
  void map_block(uint32_t block, uint64_t offset, uint64_t length, BlockUse use) override;
  void unmap_block(uint32_t block, uint64_t length) override;
  uint64_t map_window(uint64_t at, uint64_t offset, uint64_t length, BlockUse use) override;
  uint64_t map_window(uint64_t at, const base::RefPtr<base::SharedFd>& file, uint64_t offset, uint64_t length) override;
  void unmap_window(uint64_t at, uint64_t length) override;
  in_place::DescriptorLocks* descriptor_locks() override { return &shared_->io_locks; }
  in_place::ClosedDescriptors* closed_descriptors() override { return &shared_->closed; }
  uint32_t waiting_word() const override { return waiting_word_; }
  void count_waiting(int delta) override;

 private:
  friend class SystrapContext;
  friend class SystrapPlatform;

  struct QueuedOp {
    HostOp op;
    base::RefPtr<base::SharedFd> file;  // of a host file's mapping
  };
  void push(const HostOp& op, const base::RefPtr<base::SharedFd>& file = nullptr) REQUIRES(mu_);
  void note_drops() REQUIRES(mu_);
  // Moves queued operations into the ring; true when all fit. `asks`: the validator will be asked for one of them. A thread runs next.
  bool publish(bool& asks);
  void place_file(QueuedOp& queued) REQUIRES(mu_);
  abi::AddrRange window_range(uint64_t at, uint64_t length) const;
  uint64_t ticket_locked() const REQUIRES(mu_);
  bool expect(const QueuedOp& queued, uint64_t sequence) REQUIRES(mu_);  // false: the filter lets it pass
  base::Result<StubThread> take_thread();
  base::Result<StubThread> clone_thread() REQUIRES(mu_);
  void use_slow_trampolines();
  void remove(SystrapContext* context);
  // Nobody in it will run again: a stub that does not answer interrupts cannot hold its threads back.
  void kill_if_condemned() REQUIRES(mu_);

  SystrapPlatform& platform_;
  const base::RefPtr<StubProcess> process_;
  const uint64_t unit_;
  HostOp* const ring_;
  ProcessShared* const shared_;  // hostile
  const uint32_t waiting_word_;
  std::atomic<bool> dirty_{true};  // something is queued, or no thread ran yet

  base::Mutex mu_{base::LockRank::kPlatform};
  std::vector<QueuedOp> queue_ GUARDED_BY(mu_);
  std::atomic<uint64_t> published_{0};  // written under mu_
  // The stub has run no guest code: what is published until its first thread runs, or makes another one, it maps without asking.
  bool is_new_ GUARDED_BY(mu_) = true;
  uint32_t drops_seen_ GUARDED_BY(mu_) = 0;
  IntervalSet mapped_ GUARDED_BY(mu_);  // a superset of what the stub has
  std::vector<StubThread> parked_ GUARDED_BY(mu_);
  std::vector<SystrapContext*> contexts_ GUARDED_BY(mu_);
  uint64_t next_slot_ GUARDED_BY(mu_) = 1;
  bool slow_trampolines_ GUARDED_BY(mu_) = false;
  // What the stub has at kFdHostFile and on once it has done all that was published.
  struct PlacedFile {
    base::RefPtr<base::SharedFd> file;
    uint64_t last_use = 0;
  };
  PlacedFile files_[kHostFiles] GUARDED_BY(mu_);
  uint64_t file_uses_ GUARDED_BY(mu_) = 0;
  uint32_t failed_installs_seen_ GUARDED_BY(mu_) = 0;
};

class SystrapContext final : public Context {
 public:
  SystrapContext(SystrapPlatform& platform, SystrapAddressSpace& as, StubThread thread);
  ~SystrapContext() override;
  Registers& regs() override {
    if (!complete_) complete_registers();
    return regs_;
  }
  Registers& call_regs() override { return regs_; }
  void set_fs_base(uint64_t value) override;
  void set_gs_base(uint64_t value) override;
  bool save_xstate() override;
  std::span<uint8_t> xstate() override { return xstate_; }
  // From now on xstate() is what the guest has, whatever the CPU holds: a signal may come before the next resume.
  void load_xstate() override { load_fp_ = fp_valid_ = true; }
  void reset_xstate() override;
  void interrupt() override;
  void clear_interrupt() override { interrupt_.store(false); }
  void condemn() override;
  void set_in_place(const InPlaceValues& values) override;
  void set_reader(uint64_t reader) override;
  void set_common_reader(const in_place::CommonReader& reader) override;
  bool set_signal_mask(uint64_t mask) override;
  uint64_t signal_mask() const override;
  void hold_signal_mask(bool held) override;
  void allow_sigreturn(uint64_t altstack, uint64_t size, int32_t flags) override;
  void forbid_sigreturn() override;
  bool show_signal_actions(const SignalActions& actions) override;
  void set_signal_action(int32_t signo, const SignalAction& action) override;
  SignalAction signal_action(int32_t signo) const override;
  void hide_signal_actions() override;
  void forget_site(abi::Addr site) override;
  ThreadWords thread_words() const override;
  void set_thread_words(const ThreadWords& words) override;
  uint64_t guest_ticks(uint64_t resumed, uint64_t stopped) const override;

 private:
  friend class SystrapAddressSpace;
  friend class SystrapPlatform;
  enum Phase : uint32_t { kStopped, kRunning, kCommanded };

  Event read_event();
  void read_arguments();
  bool read_call();  // false: the event is something else
  void read_registers();
  void read_kept_registers();  // all but those that hold a call's number and arguments, rcx and r11
  void complete_registers();
  void write_reply(ResumeMode mode, bool all_published);
  void write_registers();
  void set_reply(uint32_t reply);
  void fetch_frame_fp();

  SystrapPlatform& platform_;
  SystrapAddressSpace& as_;
  StubThread thread_;  // immutable but for its cpu: run_mu_
  Registers regs_;
  bool complete_ = true;        // false: of regs_ only what call_regs() promises is there
  uint64_t batch_target_ = ~uint64_t{0};  // what the slot has
  std::vector<uint8_t> xstate_;
  Event forced_;               // instead of what the slot says
  bool load_fp_ = false;
  bool fp_valid_ = false;      // xstate_ is what the guest has
  bool fp_live_ = false;       // the CPU has a state that belongs to this context
  bool fs_changed_ = false;
  bool gs_changed_ = false;
  bool saved_ = false;         // a stopped one that is not has its FP state in the slot all the same (as it says)
  bool in_frame_ = false;      // the stopped thread is in a signal frame (as it says)
  bool asks_ = false;          // about to be resumed, its thread makes host calls that the validator sees to
  bool trapped_ = false;       // its call came through a signal (as it says)
  bool want_fp_ = false;       // the next resume only fetches FP state
  bool continuation_ = false;  // the queue did not fit the ring: resumed_mode_ waits
  ResumeMode resumed_mode_ = ResumeMode::kFull;
  std::atomic<bool> interrupt_{false};
  bool condemned_ = false;     // as_.mu_
  // Both written under run_mu_, or by the executor that alone has the context in resume_and_look().
  std::atomic<uint32_t> kicks_seen_{0};
  std::atomic<uint64_t> kicks_since_{0};  // ticks, when kicks that can wait were first found; 0: there were none
  bool left_ = false;                     // in left_ of the platform; written under run_mu_, read by who owns the context
  std::atomic<uint32_t> kicks_told_{0};   // kicks that the handler is being told of: the context must stay
  std::atomic<uint32_t> phase_{kStopped};
  uint32_t overdue_ = 0;       // run_mu_: ticks since an interrupt that had no effect
  uint64_t created_at_ = 0;    // ticks
};

class SystrapPlatform final : public Platform {
 public:
  SystrapPlatform() = default;
  ~SystrapPlatform() override;
  base::Result<void> init(const PlatformConfig& config);

  std::string_view name() const override { return "systrap"; }
  void set_death_listener(std::function<void()> told) override { death_listener_ = std::move(told); }
  abi::Addr min_address() const override { return abi::Addr(0x1'0000); }
  abi::Addr max_address() const override { return abi::Addr(zygote_.layout().area); }
  abi::AddrRange vdso_range() const override { return zygote_.layout().vdso; }
  abi::Addr vdso_elf() const override { return zygote_.layout().vdso_elf; }
  std::span<const abi::AddrRange> reserved_ranges() const override { return reserved_; }
  size_t xstate_size() const override;
  base::Result<std::unique_ptr<AddressSpace>> create_address_space() override;
  base::Result<std::unique_ptr<Context>> create_context(AddressSpace& as) override;
  void resume(Context& context, ResumeMode mode) override;
  bool resume_and_look(Context& context, ResumeMode mode, const Look& look) override;
  void relax(Context& context) override;
  size_t poll(std::span<Context*> out) override;
  Event take_event(Context& context) override;
  int enter_executor(unsigned index) override;
  void set_away(Away away) override;
  void start_looking() override;
  Running survey(uint64_t soon) const override;
  in_place::ChangeWords* change_words() override { return control_.changes(); }
  void set_kick_handler(KickHandler handler) override { kick_handler_ = handler; }
  uint32_t prepare_sleep() override;
  void sleep(uint32_t token, int64_t timeout_ns) override;
  void cancel_sleep() override;
  void wake() override;
  void wake_all() override;
  PatchPlan plan_patch(std::span<const uint8_t> text, abi::Addr text_start, abi::Addr site) override;
  void plan_cpuid(std::span<const uint8_t> code, abi::Addr start, std::vector<PatchEdit>& edits) override;
  abi::AddrRange text_window() const override { return zygote_.layout().zones.window; }
  size_t running() const override { return running_count_.load(std::memory_order_relaxed); }
  Claims claims() const override;

 private:
  friend class SystrapAddressSpace;
  friend class SystrapContext;

  void place_bells(unsigned executors);
  void start_once();
  void fill_pool();
  // Kicks of contexts, from where they are found (with run_mu_) to where nothing is locked.
  struct Kicks {
    struct Kick {
      SystrapContext* context;
      uint32_t fd;
    };
    static constexpr size_t kContexts = 4;  // at least
    Kick kicks[kContexts * Slot::kKicks];
    size_t count = 0;
    bool has_room() const { return count + Slot::kKicks <= std::size(kicks); }
  };
  static bool has_kicks(const SystrapContext& context);
  bool find_kicks(SystrapContext& context, Kicks& kicks) REQUIRES(run_mu_);  // false: no room for its kicks
  bool kicks_due(SystrapContext& context) const;
  static bool leaves_kicks(const SystrapContext& context);
  void leave_kicks(SystrapContext& context) REQUIRES(run_mu_);
  void take_back(SystrapContext& context);
  void see_to_kicks(SystrapContext& context);
  void tell_all_kicks(SystrapContext& context);
  size_t poll_once(std::span<Context*> out, bool& crowded);
  void tell_kicks(const Kicks& kicks);
  void watch();
  void stop_watching();
  void tell_overdue();
  // What resume() did: nothing that needs the guest (the context is ready), handed over, or only written the reply.
  enum class Begun : uint8_t { kForced, kHandedOver, kReplyWritten };
  enum class Wanted : uint8_t { kHandOver, kReplyOnly };
  Begun begin(SystrapContext& context, ResumeMode mode, Wanted wanted);
  void hand_over(SystrapContext& context);
  void enlist(SystrapContext& context, uint32_t state_before);
  void place(SystrapContext& context) REQUIRES(run_mu_);
  int unused_cpu() const;
  void send_away(const StubThread& thread) const;
  static int cpu_of_running(const SystrapContext& context);
  void send_validator(int cpu);
  uint64_t wait_on(int cpu, uint64_t now) const REQUIRES(run_mu_);
  void tie(SystrapContext& context, int cpu) REQUIRES(run_mu_);
  int64_t release_long_runs();
  using GuestsOnCpus = std::array<uint32_t, kMaxBells>;  // by bell
  GuestsOnCpus count_guests() const REQUIRES(run_mu_);
  void force(SystrapContext& context, EventKind kind);
  void stop_looking();
  void count_self();
  void discount_self();
  void wake_bell(uint32_t index, int count);
  bool interrupt_unanswered();
  void punish_overdue();
  // What the slot of a context says that its guest did, in bounds.
  struct Tally {
    uint64_t in_place[std::size(kInPlaceCalls)] = {};
    uint64_t in_place_trapped = 0, slept = 0;
    void add(const Tally& other);
  };
  static Tally tally_of(const SystrapContext& context);
  void enrol(SystrapContext& context);
  void strike_off(SystrapContext& context);
  void on_death();
  std::function<void()> death_listener_;  // immutable once there are address spaces

  ControlMemory control_;
  Zygote zygote_{control_};
  Supervisor supervisor_{control_, [this] { on_death(); }, [this] { fill_pool(); }};
  Trampolines trampolines_{control_};
  std::vector<abi::AddrRange> reserved_;
  std::atomic<bool> started_{false};
  std::atomic<uint32_t> spaces_made_{0};

  mutable base::Mutex run_mu_{base::LockRank::kPlatformGlobal};
  base::Mutex start_mu_{base::LockRank::kPlatform};
  std::vector<SystrapContext*> running_ GUARDED_BY(run_mu_);
  int64_t last_tick_ GUARDED_BY(run_mu_) = 0;  // of punish_overdue()
  std::vector<SystrapContext*> ready_ GUARDED_BY(run_mu_);  // stopped without their stub's doing
  std::vector<SystrapContext*> left_ GUARDED_BY(run_mu_);   // stopped with kicks that nobody was told of

  // The watcher: kicks.cc.
  enum Watch : uint32_t { kNotWatching, kWatching, kEnding };
  std::thread watcher_;
  uint32_t watch_ = kNotWatching;  // Watch; a futex word, so by __atomic functions
  std::atomic<uint64_t> last_kick_{0};
  std::atomic<uint32_t> recent_kicks_{0};

  KickHandler kick_handler_ = nullptr;  // set before the first context
  std::atomic<size_t> ready_count_{0};
  std::atomic<size_t> running_count_{0};  // running_ and the executors in resume_and_look(): see count_self()

  uint32_t settle_ = 0;            // Doorbell::settle, for guests; immutable after init()
  uint32_t bells_ = 1;             // executors; immutable after init()
  std::vector<int> cpus_;          // that the sandbox may use; empty with one executor; immutable after init()
  std::vector<int> cpu_of_bell_;   // empty: executors are not tied to CPUs; immutable after init()
  size_t tied_running_ GUARDED_BY(run_mu_) = 0;  // contexts in running_ whose thread is tied to a CPU

  // Numbers of waiting words; 0 is for the address spaces that get none.
  uint32_t take_waiting_word();
  void give_waiting_word(uint32_t word);
  base::Mutex waiting_mu_{base::LockRank::kLeaf};
  uint32_t next_waiting_ GUARDED_BY(waiting_mu_) = 1;
  std::vector<uint32_t> free_waiting_ GUARDED_BY(waiting_mu_);

  enum class Cpuid : uint8_t { kUnknown, kQuick, kSlow };
  bool add_cpuid_site(abi::Addr site) REQUIRES(cpuid_mu_);
  base::Mutex cpuid_mu_{base::LockRank::kPlatform};
  Cpuid cpuid_ GUARDED_BY(cpuid_mu_) = Cpuid::kUnknown;

  mutable base::Mutex census_mu_{base::LockRank::kLeaf};
  std::vector<SystrapContext*> census_ GUARDED_BY(census_mu_);  // every context
  Tally departed_ GUARDED_BY(census_mu_);                       // of those that are gone
};

}  // namespace platform::systrap
