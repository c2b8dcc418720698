// SPDX-License-Identifier: Apache-2.0
// Tty: a terminal with its line discipline (termios(3), drivers/tty/n_tty.c). What is typed comes in through input(); what
// programs write leaves through an OutputSink: a pty master or the host console.
//
// Lock: mu_ (kTty) guards everything here; signals are sent and sinks called after it is released.
#pragma once

#include <array>
#include <deque>
#include <string>

#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/file_description.h"

namespace sentry::fs {

// Kernel's struct termios and termios2.
struct Termios {
  uint32_t iflag = 0, oflag = 0, cflag = 0, lflag = 0;
  uint8_t line = 0;
  std::array<uint8_t, 19> cc{};
};
static_assert(sizeof(Termios) == 36);
Termios default_termios();

struct WindowSize {
  uint16_t rows = 0, columns = 0, x = 0, y = 0;
  friend bool operator==(const WindowSize&, const WindowSize&) = default;
};

enum : uint32_t {
  kISTRIP = 040, kINLCR = 0100, kIGNCR = 0200, kICRNL = 0400, kIUCLC = 01000, kIXON = 02000, kIXANY = 04000, kIMAXBEL = 020000,
  kIUTF8 = 040000,
  kOPOST = 01, kOLCUC = 02, kONLCR = 04, kOCRNL = 010, kONOCR = 020, kONLRET = 040, kTABDLY = 014000,
  kISIG = 01, kICANON = 02, kECHO = 010, kECHOE = 020, kECHOK = 040, kECHONL = 0100, kNOFLSH = 0200, kTOSTOP = 0400,
  kECHOCTL = 01000, kECHOKE = 04000, kIEXTEN = 0100000,
};
enum : size_t {
  kVINTR = 0, kVQUIT = 1, kVERASE = 2, kVKILL = 3, kVEOF = 4, kVTIME = 5, kVMIN = 6, kVSTART = 8, kVSTOP = 9, kVSUSP = 10,
  kVEOL = 11, kVREPRINT = 12, kVWERASE = 14, kVLNEXT = 15, kVEOL2 = 16,
};

class Tty final : public kernel::ControllingTty {
 public:
  // Told when output waits in the terminal, or there is room for input again. Any thread, no lock held.
  class Sink {
   public:
    virtual void output_ready() = 0;
    virtual void input_room() = 0;
    // The last program has closed the terminal.
    virtual void closed() { output_ready(); }

   protected:
    ~Sink() = default;
  };

  explicit Tty(abi::DeviceId device) : device_(device) {}
  abi::DeviceId device() const { return device_; }
  vfs::WaitQueue& queue() { return queue_; }                // the programs' side
  // `owner`, if any, is kept until the last program has closed the terminal.
  void set_sink(Sink* sink, base::RefPtr<base::RefCounted> owner = nullptr);
  void attach(base::RefPtr<kernel::Session> session) override;

  // --- the other end ---
  // Bytes typed: how many were taken (all, unless input is full).
  size_t input(std::string_view bytes);
  size_t input_room() const;
  // Takes up to `max` bytes of output; false in `*open` when no program holds the terminal any more.
  std::string take_output(size_t max);
  size_t output_size() const;
  void hang_up();
  bool is_hung_up() const { return hung_up_.load(std::memory_order_acquire); }
  void set_window(const WindowSize& size);
  WindowSize window() const;

  // --- programs ---
  base::Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst, bool nonblocking);
  base::Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src, bool nonblocking);
  vfs::PollMask readiness() const;
  base::Result<int64_t> ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg);
  // The ioctls that work on either end of a pty.
  base::Result<int64_t> common_ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg);
  // open(2) without O_NOCTTY by a session leader that has no terminal.
  void maybe_acquire(vfs::OpContext& ctx);
  void opened() { openers_.fetch_add(1); was_opened_.store(true); }
  void closed();
  // Its foreground process group, if it is anybody's terminal.
  base::RefPtr<kernel::ProcessGroup> foreground() const;
  bool has_openers() const { return openers_.load() != 0 || !was_opened_.load(); }
  std::atomic<bool> locked{false};  // TIOCSPTLCK

 private:
  struct Effects {  // what to do once the lock is released
    int32_t signals[8];
    unsigned signal_count = 0;
    bool readable = false, output = false;
  };
  void input_byte(uint8_t c, Effects& e) REQUIRES(mu_);
  bool input_control(uint8_t c, Effects& e) REQUIRES(mu_);
  void erase(bool word, bool line, Effects& e) REQUIRES(mu_);
  void finish_line(Effects& e) REQUIRES(mu_);
  void echo(uint8_t c, Effects& e) REQUIRES(mu_);
  void output_byte(uint8_t c) REQUIRES(mu_);
  bool is_char(size_t which, uint8_t c) const REQUIRES(mu_) { return termios_.cc[which] == c && c != 0; }
  bool canonical() const REQUIRES(mu_) { return (termios_.lflag & kICANON) != 0; }
  size_t available_locked() const REQUIRES(mu_);
  std::string take_input(size_t max, size_t min, bool& ready) REQUIRES(mu_);
  void apply(const Effects& e);
  void signal_foreground(int32_t signo);
  base::RefPtr<kernel::Session> owning_session() const;
  base::Result<void> check_job_control(vfs::OpContext& ctx, int32_t signo);
  base::Result<int64_t> set_termios(vfs::OpContext& ctx, const Termios& t, bool flush);

  const abi::DeviceId device_;
  vfs::WaitQueue queue_;
  std::atomic<Sink*> sink_{nullptr};
  std::atomic<bool> hung_up_{false};
  std::atomic<int32_t> openers_{0};
  std::atomic<bool> was_opened_{false};

  mutable base::Mutex mu_{base::LockRank::kTty};
  Termios termios_ GUARDED_BY(mu_) = default_termios();
  WindowSize window_ GUARDED_BY(mu_);
  std::deque<std::string> lines_ GUARDED_BY(mu_);  // finished; "" is an end of file
  std::string edit_ GUARDED_BY(mu_);               // the line being typed, or raw bytes
  size_t queued_ GUARDED_BY(mu_) = 0;              // bytes in lines_
  std::string output_ GUARDED_BY(mu_);
  uint32_t column_ GUARDED_BY(mu_) = 0;
  bool stopped_ GUARDED_BY(mu_) = false;           // ^S
  bool literal_next_ GUARDED_BY(mu_) = false;      // ^V
  base::WeakRef<kernel::Session> session_ GUARDED_BY(mu_);
  base::RefPtr<base::RefCounted> sink_owner_ GUARDED_BY(mu_);
};

// The open file of a terminal's program side.
class TtyFile final : public vfs::FileDescription {
 public:
  TtyFile(vfs::Path path, uint32_t flags, base::RefPtr<Tty> tty);
  ~TtyFile() override { tty_->closed(); }
  base::Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst) override { return tty_->read(ctx, dst, is_nonblocking()); }
  base::Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src) override { return tty_->write(ctx, src, is_nonblocking()); }
  bool waits_itself() const override { return true; }
  vfs::PollMask readiness(vfs::PollMask) override { return tty_->readiness(); }
  vfs::WaitQueue* wait_queue() override { return &tty_->queue(); }
  bool sends_sigio() const override { return true; }
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  const void* kind() const override { return kKind; }
  Tty& tty() const { return *tty_; }
  base::Result<int64_t> ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) override { return tty_->ioctl(ctx, request, arg); }
  base::Result<vfs::Stat> stat(vfs::OpContext& ctx) override;

 private:
  const base::RefPtr<Tty> tty_;
};

// /dev/ptmx and devpts: sentry/fs/devpts.
void register_devpts();

// A terminal in the devpts instance mounted at `devpts` whose other end is not a PtyMaster but the caller's sink. Its name is
// there, owned by `uid`, until remove_pts(). ENODEV when that is no devpts.
struct Pts {
  vfs::Path path;
  base::RefPtr<Tty> tty;
};
base::Result<Pts> create_pts(vfs::OpContext& ctx, const vfs::Path& devpts, abi::KUid uid);
// Again or for a terminal that is not in `fs` any more: without effect.
void remove_pts(vfs::FileSystem& fs, const Tty& tty);

}  // namespace sentry::fs
