// SPDX-License-Identifier: Apache-2.0
// The line discipline: n_tty.c.
#include "sentry/fs/tty/tty.h"

#include <algorithm>

#include "sentry/kernel/task.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxInput = 4096;     // N_TTY_BUF_SIZE
constexpr size_t kMaxOutput = 64 << 10;
constexpr size_t kOutputRoom = 16 << 10;  // POLLOUT at and below this much

bool is_continuation(uint8_t c) { return (c & 0xc0) == 0x80; }

}  // namespace

Termios default_termios() {
  Termios t;
  t.iflag = kICRNL | kIXON;
  t.oflag = kOPOST | kONLCR;
  t.cflag = 0277;  // B38400 | CS8 | CREAD
  t.lflag = kISIG | kICANON | kECHO | kECHOE | kECHOK | kECHOCTL | kECHOKE | kIEXTEN;
  t.cc = {3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0};
  return t;
}

void Tty::attach(RefPtr<kernel::Session> session) {
  base::MutexLock lock(mu_);
  session_ = base::WeakRef<kernel::Session>(session);
}

RefPtr<kernel::ProcessGroup> Tty::foreground() const {
  RefPtr<kernel::Session> session = owning_session();
  if (!session) return nullptr;
  base::MutexLock lock(session->set.mu);
  return session->foreground;
}

RefPtr<kernel::Session> Tty::owning_session() const {
  RefPtr<kernel::Session> session;
  {
    base::MutexLock lock(mu_);
    session = session_.lock();
  }
  if (!session) return nullptr;
  base::MutexLock lock(session->set.mu);
  return session->controlling_tty.get() == this ? session : nullptr;
}

void Tty::signal_foreground(int32_t signo) {
  if (RefPtr<kernel::ProcessGroup> group = foreground()) kernel::send_signal_to_group(*group, kernel::kernel_signal(signo));
}

void Tty::apply(const Effects& e) {
  for (unsigned i = 0; i < e.signal_count; ++i) signal_foreground(e.signals[i]);
  if (e.readable) queue_.notify(vfs::kPollIn | vfs::kPollRdNorm);
  if (e.output)
    if (Sink* sink = sink_.load()) sink->output_ready();
}

// --- input ---

size_t Tty::available_locked() const {
  return canonical() ? (lines_.empty() ? 0 : std::max<size_t>(1, lines_.front().size())) : queued_ + edit_.size();
}

size_t Tty::input_room() const {
  base::MutexLock lock(mu_);
  const size_t used = queued_ + edit_.size();
  // A canonical terminal takes everything: what is beyond a full line is dropped with a beep.
  if (canonical()) return queued_ < kMaxInput * 4 ? kMaxInput : 0;
  return used < kMaxInput ? kMaxInput - used : 0;
}

size_t Tty::input(std::string_view bytes) {
  size_t taken = 0;
  // In pieces, as the number of signals that one may cause is bounded.
  while (taken < bytes.size()) {
    Effects e;
    {
      base::MutexLock lock(mu_);
      while (taken < bytes.size() && e.signal_count < std::size(e.signals)) {
        if (!canonical() && queued_ + edit_.size() >= kMaxInput) break;
        input_byte(static_cast<uint8_t>(bytes[taken++]), e);
      }
      if (!canonical() && !edit_.empty()) e.readable = true;
    }
    apply(e);
    if (e.signal_count < std::size(e.signals)) break;
  }
  return taken;
}

void Tty::input_byte(uint8_t c, Effects& e) {
  if (termios_.iflag & kISTRIP) c &= 0x7f;
  if ((termios_.iflag & kIUCLC) && (termios_.lflag & kIEXTEN) && c >= 'A' && c <= 'Z') c = static_cast<uint8_t>(c + 32);
  if (!literal_next_) {
    if (input_control(c, e)) return;
    if (c == '\r') {
      if (termios_.iflag & kIGNCR) return;
      if (termios_.iflag & kICRNL) c = '\n';
    } else if (c == '\n' && (termios_.iflag & kINLCR)) {
      c = '\r';
    }
  }
  const bool literal = std::exchange(literal_next_, false);
  if (!canonical()) {
    echo(c, e);
    edit_ += static_cast<char>(c);
    return;
  }
  if (!literal) {
    if (is_char(kVERASE, c)) return erase(false, false, e);
    if (is_char(kVWERASE, c) && (termios_.lflag & kIEXTEN)) return erase(true, false, e);
    if (is_char(kVKILL, c)) return erase(false, true, e);
    if (is_char(kVEOF, c)) return finish_line(e);
  }
  const bool ends = !literal && (c == '\n' || is_char(kVEOL, c) || (is_char(kVEOL2, c) && (termios_.lflag & kIEXTEN)));
  // The last place is for the end of the line.
  if (!ends && edit_.size() >= kMaxInput - 1) {
    if (termios_.iflag & kIMAXBEL) output_byte('\a');
    e.output = true;
    return;
  }
  if (c == '\n' && !(termios_.lflag & kECHO) && (termios_.lflag & kECHONL)) {
    output_byte('\n');
    e.output = true;
  }
  echo(c, e);
  edit_ += static_cast<char>(c);
  if (ends) finish_line(e);
}

// Signals, flow control, literal next. True when the byte is used up.
bool Tty::input_control(uint8_t c, Effects& e) {
  if (termios_.iflag & kIXON) {
    if (is_char(kVSTART, c) || is_char(kVSTOP, c)) {
      stopped_ = is_char(kVSTOP, c) && !(stopped_ && is_char(kVSTART, c));
      e.output = !stopped_;
      return true;
    }
    if (stopped_ && (termios_.iflag & kIXANY)) {
      stopped_ = false;
      e.output = true;
    }
  }
  if (termios_.lflag & kISIG) {
    const int32_t signo = is_char(kVINTR, c) ? abi::kSIGINT : is_char(kVQUIT, c) ? abi::kSIGQUIT
                          : is_char(kVSUSP, c) ? abi::kSIGTSTP : 0;
    if (signo != 0) {
      if (!(termios_.lflag & kNOFLSH)) {
        lines_.clear();
        edit_.clear();
        queued_ = 0;
        output_.clear();
      }
      if (stopped_) stopped_ = false;
      echo(c, e);
      e.signals[e.signal_count++] = signo;
      return true;
    }
  }
  if (canonical() && (termios_.lflag & kIEXTEN) && is_char(kVLNEXT, c)) {
    literal_next_ = true;
    if ((termios_.lflag & kECHO) && (termios_.lflag & kECHOCTL)) {
      for (char x : {'^', '\b'}) output_byte(static_cast<uint8_t>(x));
      e.output = true;
    }
    return true;
  }
  return false;
}

void Tty::finish_line(Effects& e) {
  queued_ += edit_.size();
  lines_.push_back(std::exchange(edit_, {}));
  e.readable = true;
}

void Tty::erase(bool word, bool line, Effects& e) {
  bool seen_word = false;
  while (!edit_.empty()) {
    const auto last = static_cast<uint8_t>(edit_.back());
    if (word) {
      const bool is_word = isalnum(last) || last == '_' || last >= 0x80;
      if (is_word) seen_word = true;
      else if (seen_word) break;
    }
    // A whole character of UTF-8, whose continuation bytes take no column.
    size_t n = 1;
    if (termios_.iflag & kIUTF8)
      while (n < edit_.size() && n < 4 && is_continuation(static_cast<uint8_t>(edit_[edit_.size() - n]))) ++n;
    edit_.resize(edit_.size() - n);
    if ((termios_.lflag & kECHO) && (!line || (termios_.lflag & kECHOKE))) {
      if (termios_.lflag & kECHOE) {
        const unsigned columns = last < 32 && last != '\t' && (termios_.lflag & kECHOCTL) ? 2 : 1;
        for (unsigned i = 0; i < columns; ++i)
          for (char x : {'\b', ' ', '\b'}) output_byte(static_cast<uint8_t>(x));
      } else {
        output_byte(termios_.cc[kVERASE]);
      }
      e.output = true;
    }
    if (!word && !line) break;
  }
  if (line && (termios_.lflag & kECHO) && !(termios_.lflag & kECHOKE)) {
    echo(termios_.cc[kVKILL], e);
    if (termios_.lflag & kECHOK) output_byte('\n');
  }
}

void Tty::echo(uint8_t c, Effects& e) {
  if (!(termios_.lflag & kECHO)) return;
  e.output = true;
  if ((termios_.lflag & kECHOCTL) && (c < 32 || c == 127) && c != '\t' && c != '\n') {
    output_byte('^');
    output_byte(c ^ 0100);
  } else {
    output_byte(c);
  }
}

// --- output ---

void Tty::output_byte(uint8_t c) {
  if (output_.size() >= kMaxOutput) return;
  if (!(termios_.oflag & kOPOST)) {
    output_ += static_cast<char>(c);
    return;
  }
  switch (c) {
    case '\n':
      if (termios_.oflag & kONLRET) column_ = 0;
      if (termios_.oflag & kONLCR) {
        column_ = 0;
        output_ += '\r';
      }
      break;
    case '\r':
      if ((termios_.oflag & kONOCR) && column_ == 0) return;
      if (termios_.oflag & kOCRNL) {
        c = '\n';
        if (termios_.oflag & kONLRET) column_ = 0;
        break;
      }
      column_ = 0;
      break;
    case '\t': {
      const uint32_t blanks = 8 - (column_ & 7);
      column_ += blanks;
      if ((termios_.oflag & kTABDLY) == kTABDLY) {
        output_.append(blanks, ' ');
        return;
      }
      break;
    }
    case '\b':
      if (column_ > 0) --column_;
      break;
    default:
      if (c >= 32 && c != 127 && !((termios_.iflag & kIUTF8) && is_continuation(c))) ++column_;
      if ((termios_.oflag & kOLCUC) && c >= 'a' && c <= 'z') c = static_cast<uint8_t>(c - 32);
  }
  output_ += static_cast<char>(c);
}

std::string Tty::take_output(size_t max) {
  std::string out;
  bool room;
  {
    base::MutexLock lock(mu_);
    if (stopped_) return out;
    const bool was_low = output_.size() <= kOutputRoom;
    out = output_.substr(0, max);
    output_.erase(0, out.size());
    room = !was_low && output_.size() <= kOutputRoom;
  }
  if (room) queue_.notify(vfs::kPollOut | vfs::kPollWrNorm);
  return out;
}

size_t Tty::output_size() const {
  base::MutexLock lock(mu_);
  return stopped_ ? 0 : output_.size();
}

// --- programs ---

std::string Tty::take_input(size_t max, size_t min, bool& ready) {
  std::string out;
  if (canonical()) {
    ready = !lines_.empty();
    if (!ready) return out;
    std::string& line = lines_.front();
    out = line.substr(0, max);
    queued_ -= out.size();
    line.erase(0, out.size());
    if (line.empty()) lines_.pop_front();
    return out;
  }
  ready = queued_ + edit_.size() >= min;
  if (!ready) return out;
  while (out.size() < max && !lines_.empty()) {
    const size_t n = std::min(max - out.size(), lines_.front().size());
    out.append(lines_.front(), 0, n);
    lines_.front().erase(0, n);
    queued_ -= n;
    if (lines_.front().empty()) lines_.pop_front();
  }
  const size_t n = std::min(max - out.size(), edit_.size());
  out.append(edit_, 0, n);
  edit_.erase(0, n);
  return out;
}

Result<size_t> Tty::read(vfs::OpContext& ctx, vfs::IoBuffer& dst, bool nonblocking) {
  if (dst.remaining() == 0) return size_t{0};
  const size_t max = std::min(dst.remaining(), kMaxInput);
  vfs::TaskWaiter waiter(ctx);
  queue_.add(waiter, vfs::kPollIn);
  std::string bytes;
  size_t seen = 0;
  vfs::Deadline deadline;
  const Result<void> waited = [&]() -> Result<void> {
    for (;;) {
      TRY(check_job_control(ctx, abi::kSIGTTIN));
      bool ready = false, timed = false;
      {
        base::MutexLock lock(mu_);
        const bool canon = canonical();
        const size_t vmin = termios_.cc[kVMIN];
        const int64_t vtime = canon ? 0 : termios_.cc[kVTIME] * int64_t{100'000'000};
        const size_t available = queued_ + edit_.size();
        bytes = take_input(max, std::min(std::max<size_t>(vmin, canon || vtime > 0 ? 1 : vmin), max), ready);
        if (!canon && ready && bytes.empty() && vmin > 0) ready = false;
        // TIME runs from the call with MIN 0, and between bytes otherwise.
        if (vtime > 0 && (vmin == 0 ? !deadline : available > seen)) deadline = ctx.now_monotonic() + vtime;
        timed = deadline && ctx.now_monotonic() >= *deadline;
        if (timed && !ready) bytes = take_input(max, 0, ready);
        seen = available;
        if (!canon && vmin == 0 && vtime == 0) ready = true;
      }
      if (ready || timed || is_hung_up()) return {};
      if (nonblocking) return err(kEAGAIN);
      if (ctx.block(deadline) == vfs::WakeReason::kInterrupted) return err(kERESTARTSYS);
    }
  }();
  queue_.remove(waiter);
  TRY(waited);
  if (Sink* sink = sink_.load()) sink->input_room();
  if (bytes.empty()) return size_t{0};
  return dst.put(bytes.data(), bytes.size());
}

Result<size_t> Tty::write(vfs::OpContext& ctx, vfs::IoBuffer& src, bool nonblocking) {
  bool to_stop;
  {
    base::MutexLock lock(mu_);
    to_stop = (termios_.lflag & kTOSTOP) != 0;
  }
  if (to_stop) TRY(check_job_control(ctx, abi::kSIGTTOU));
  size_t done = 0;
  vfs::TaskWaiter waiter(ctx);
  queue_.add(waiter, vfs::kPollOut);
  const Result<void> written = [&]() -> Result<void> {
    while (src.remaining() != 0) {
      if (is_hung_up()) return err(kEIO);
      char chunk[2048];
      size_t room;
      {
        base::MutexLock lock(mu_);
        // A byte becomes at most eight.
        room = output_.size() < kMaxOutput / 2 ? sizeof chunk : 0;
      }
      if (room == 0) {
        if (nonblocking) return err(kEAGAIN);
        if (ctx.block(std::nullopt) == vfs::WakeReason::kInterrupted) return err(kERESTARTSYS);
        continue;
      }
      const size_t n = TRY(src.get(chunk, std::min(room, src.remaining())));
      {
        base::MutexLock lock(mu_);
        for (size_t i = 0; i < n; ++i) output_byte(static_cast<uint8_t>(chunk[i]));
      }
      done += n;
      if (Sink* sink = sink_.load()) sink->output_ready();
    }
    return {};
  }();
  queue_.remove(waiter);
  if (done == 0) TRY(written);
  return done;
}

vfs::PollMask Tty::readiness() const {
  vfs::PollMask mask = 0;
  if (is_hung_up()) return vfs::kPollIn | vfs::kPollRdNorm | vfs::kPollHup | vfs::kPollErr | vfs::kPollOut | vfs::kPollWrNorm;
  base::MutexLock lock(mu_);
  const size_t min = canonical() || termios_.cc[kVTIME] != 0 ? 1 : std::max<size_t>(1, termios_.cc[kVMIN]);
  if (available_locked() >= min) mask |= vfs::kPollIn | vfs::kPollRdNorm;
  if (output_.size() <= kOutputRoom) mask |= vfs::kPollOut | vfs::kPollWrNorm;
  return mask;
}

void Tty::hang_up() {
  if (hung_up_.exchange(true)) return;
  RefPtr<kernel::Session> session = owning_session();
  queue_.notify(vfs::kPollAll);
  if (!session) return;
  RefPtr<kernel::ProcessGroup> foreground;
  RefPtr<kernel::ThreadGroup> leader;
  RefPtr<base::RefCounted> self;  // dropped outside the lock
  {
    base::MutexLock lock(session->set.mu);
    foreground = std::move(session->foreground);
    if (session->leader && session->leader->try_ref()) leader = RefPtr<kernel::ThreadGroup>::adopt(session->leader);
    self = std::move(session->controlling_tty);
    session->tty_device = 0;
  }
  for (int32_t signo : {abi::kSIGHUP, abi::kSIGCONT}) {
    if (leader) (void)leader->send_signal(kernel::kernel_signal(signo));
    if (foreground) kernel::send_signal_to_group(*foreground, kernel::kernel_signal(signo));
  }
}

void Tty::set_sink(Sink* sink, RefPtr<base::RefCounted> owner) {
  base::MutexLock lock(mu_);
  sink_.store(sink);
  sink_owner_ = std::move(owner);
}

void Tty::closed() {
  if (openers_.fetch_sub(1) != 1) return;
  if (Sink* sink = sink_.load()) sink->closed();
  RefPtr<base::RefCounted> owner;
  {
    base::MutexLock lock(mu_);
    owner = std::move(sink_owner_);
    if (owner) sink_.store(nullptr);
  }
}

void Tty::set_window(const WindowSize& size) {
  {
    base::MutexLock lock(mu_);
    if (window_ == size) return;
    window_ = size;
  }
  signal_foreground(abi::kSIGWINCH);
}

WindowSize Tty::window() const {
  base::MutexLock lock(mu_);
  return window_;
}

void Tty::maybe_acquire(vfs::OpContext& ctx) {
  if (!ctx.task()) return;
  kernel::ThreadGroup& group = ctx.task()->thread_group();
  if (owning_session() || group.controlling_tty()) return;
  (void)group.set_controlling_tty(RefPtr<Tty>(this), static_cast<uint32_t>(device_.encoded()));
}

// __tty_check_change() and job_control() of drivers/tty.
Result<void> Tty::check_job_control(vfs::OpContext& ctx, int32_t signo) {
  if (!ctx.task()) return {};
  kernel::Task& task = *ctx.task();
  kernel::ThreadGroup& group = task.thread_group();
  if (group.controlling_tty().get() != this || group.is_in_foreground() || !group.foreground_group()) return {};
  const bool ignored = group.signal_handlers()->get(signo).handler == abi::kSIG_IGN || task.signal_mask().has(signo);
  if (ignored) return signo == abi::kSIGTTIN ? err(kEIO) : Result<void>{};
  RefPtr<kernel::ProcessGroup> own = group.process_group();
  if (!own) return {};
  {
    base::MutexLock lock(group.set().mu);
    if (own->is_orphaned_locked()) return err(kEIO);
  }
  kernel::send_signal_to_group(*own, kernel::kernel_signal(signo));
  return err(kERESTARTSYS);
}

TtyFile::TtyFile(vfs::Path path, uint32_t flags, RefPtr<Tty> tty)
    : FileDescription(std::move(path), flags & ~uint32_t{vfs::kO_NOCTTY}), tty_(std::move(tty)) {
  tty_->opened();
}

Result<vfs::Stat> TtyFile::stat(vfs::OpContext& ctx) {
  vfs::Stat st = TRY(FileDescription::stat(ctx));
  // A console without a node.
  if (st.rdev == abi::DeviceId{}) st.rdev = tty_->device();
  return st;
}

}  // namespace sentry::fs
