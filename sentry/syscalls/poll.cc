// SPDX-License-Identifier: Apache-2.0
// poll(2), ppoll(2), select(2), pselect(2): fs/select.c.
#include <array>
#include <memory>

#include "abi/linux/signal.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::TimeSpec64;
using abi::TimeVal64;
using vfs::PollMask;

struct PollFd {
  int32_t fd = 0;
  int16_t events = 0, revents = 0;
};

namespace {

constexpr int64_t kSecond = 1'000'000'000;

class PollWaiter final : public vfs::Waiter {
 public:
  void notify(PollMask) override { waker->wake(); }
  vfs::OpContext::Waker* waker = nullptr;
};

struct PollItem {
  RefPtr<vfs::FileDescription> file;
  PollMask events = 0, revents = 0;
  PollMask always = vfs::kPollErr | vfs::kPollHup;  // told although not asked for
  vfs::WaitQueue* queue = nullptr;
  PollWaiter waiter;
};

// A few items live in place, so that the common call allocates nothing.
class PollSet {
 public:
  explicit PollSet(size_t n) : size_(n) {
    if (n > kInPlace) heap_ = std::make_unique<PollItem[]>(n);
  }
  std::span<PollItem> items() { return {heap_ ? heap_.get() : few_.data(), size_}; }

  // Waits until something is ready: how many are. 0 at the deadline; kEINTR on a signal.
  Result<size_t> wait(Task& task, vfs::Deadline deadline) {
    for (PollItem& item : items())
      if (item.file) item.file->catch_up(task);
    size_t ready = look();
    if (ready != 0 || (deadline && *deadline <= task.now_monotonic())) return ready;
    const vfs::WaitScope scope(task);
    for (PollItem& item : items()) {
      if (!item.file || !(item.queue = item.file->wait_queue())) continue;
      item.waiter.waker = &task.waker();
      item.queue->add(item.waiter, item.events);
    }
    Result<size_t> result = size_t{0};
    while ((ready = look()) == 0) {
      const vfs::WakeReason reason = task.block(deadline);
      if (reason == vfs::WakeReason::kWoken) continue;
      ready = look();
      if (ready == 0 && reason == vfs::WakeReason::kInterrupted) result = err(kEINTR);
      break;
    }
    if (ready != 0) result = ready;
    for (PollItem& item : items()) {
      if (item.queue) item.queue->remove(item.waiter);
    }
    return result;
  }

 private:
  static constexpr size_t kInPlace = 12;
  size_t look() {
    size_t ready = 0;
    for (PollItem& item : items()) {
      if (item.file) item.revents = item.file->readiness(item.events) & (item.events | item.always);
      if (item.revents != 0) ++ready;
    }
    return ready;
  }
  const size_t size_;
  std::array<PollItem, kInPlace> few_;
  std::unique_ptr<PollItem[]> heap_;
};

Result<size_t> do_poll(Task& task, UserInOut<PollFd> user, uint32_t count, vfs::Deadline deadline) {
  if (count > task.rlimit(creds::Resource::kNOFILE).soft || count > kernel::FdTable::kMaxFds) return err(kEINVAL);
  constexpr size_t kFew = 12;
  std::array<PollFd, kFew> few;
  std::vector<PollFd> many;
  if (count > kFew) many.resize(count);
  std::span<PollFd> fds(count > kFew ? many.data() : few.data(), count);
  TRY(task.user_memory().copy_in(fds.data(), user.addr(), fds.size_bytes()));
  PollSet set(count);
  for (size_t i = 0; i < count; ++i) {
    PollItem& item = set.items()[i];
    if (fds[i].fd < 0) continue;
    auto file = get_open_file(task, Fd(fds[i].fd));
    if (file) item.file = std::move(*file);
    item.events = static_cast<uint16_t>(fds[i].events);
    if (!file) item.revents = vfs::kPollNval;
  }
  const size_t ready = TRY(set.wait(task, deadline));
  for (size_t i = 0; i < count; ++i) {
    fds[i].revents = static_cast<int16_t>(set.items()[i].revents);
    TRY(task.user_memory().copy_out(user.offset(i).addr() + offsetof(PollFd, revents), &fds[i].revents, sizeof fds[i].revents));
  }
  return ready;
}

vfs::Deadline deadline_after(Task& task, int64_t ns) {
  int64_t at;
  if (__builtin_add_overflow(task.now_monotonic(), ns, &at)) return INT64_MAX;
  return at;
}

Result<vfs::Deadline> read_timeout(Task& task, UserIn<TimeSpec64> timeout) {
  if (timeout.is_null()) return vfs::Deadline();
  const TimeSpec64 t = TRY(task.read(timeout));
  if (t.sec < 0 || t.nsec < 0 || t.nsec >= kSecond) return err(kEINVAL);
  int64_t ns;
  if (__builtin_mul_overflow(t.sec, kSecond, &ns) || __builtin_add_overflow(ns, t.nsec, &ns)) ns = INT64_MAX;
  return deadline_after(task, ns);
}

int64_t time_left(Task& task, vfs::Deadline deadline) { return std::max<int64_t>(*deadline - task.now_monotonic(), 0); }

// poll_select_finish(): what is left of the timeout is told; a signal restarts only without a handler.
template <typename T>
Result<size_t> finish_timed(Task& task, Result<size_t> result, vfs::Deadline deadline, UserOut<T> timeout) {
  if (deadline && !timeout.is_null()) {
    const int64_t left = time_left(task, deadline);
    if constexpr (std::is_same_v<T, TimeSpec64>) {
      (void)task.write(timeout, TimeSpec64{left / kSecond, left % kSecond});
    } else {
      (void)task.write(timeout, TimeVal64{left / kSecond, left % kSecond / 1000});
    }
  }
  if (!result && result.error() == kEINTR) return err(kERESTARTNOHAND);
  return result;
}

}  // namespace

Result<size_t> sys_poll(Task& task, UserInOut<PollFd> fds, uint32_t count, int32_t timeout_ms) {
  vfs::Deadline deadline;
  if (timeout_ms >= 0) deadline = deadline_after(task, int64_t{timeout_ms} * 1'000'000);
  Result<size_t> result = do_poll(task, fds, count, deadline);
  if (result || result.error() != kEINTR) return result;
  task.set_restart([fds, count, deadline](Task& t) -> Result<int64_t> {
    Result<size_t> again = do_poll(t, fds, count, deadline);
    if (!again) return err(again.error());
    return static_cast<int64_t>(*again);
  });
  return err(kERESTART_RESTARTBLOCK);
}

namespace {

Result<void> apply_mask(Task& task, UserIn<abi::SigSet> mask, uint64_t size) {
  if (mask.is_null()) return {};
  if (size != sizeof(abi::SigSet)) return err(kEINVAL);
  task.set_temporary_mask(TRY(task.read(mask)));
  return {};
}

}  // namespace

Result<size_t> sys_ppoll(Task& task, UserInOut<PollFd> fds, uint32_t count, UserInOut<TimeSpec64> timeout,
                         UserIn<abi::SigSet> mask, uint64_t mask_size) {
  const vfs::Deadline deadline = TRY(read_timeout(task, UserIn<TimeSpec64>(timeout.addr())));
  TRY(apply_mask(task, mask, mask_size));
  return finish_timed(task, do_poll(task, fds, count, deadline), deadline, UserOut<TimeSpec64>(timeout.addr()));
}

namespace {

using Bits = std::vector<uint64_t>;

bool test(const Bits& bits, size_t i) { return !bits.empty() && (bits[i / 64] >> (i % 64) & 1) != 0; }

Result<Bits> read_bits(Task& task, Addr addr, size_t n) {
  if (addr.is_null()) return Bits();
  Bits bits((n + 63) / 64);
  TRY(task.user_memory().copy_in(bits.data(), addr, bits.size() * 8));
  return bits;
}

// core_sys_select()
Result<size_t> do_select(Task& task, int32_t n, Addr in, Addr out, Addr except, vfs::Deadline deadline) {
  constexpr PollMask kInSet = vfs::kPollRdNorm | vfs::kPollRdBand | vfs::kPollIn | vfs::kPollHup | vfs::kPollErr;
  constexpr PollMask kOutSet = vfs::kPollWrBand | vfs::kPollWrNorm | vfs::kPollOut | vfs::kPollErr;
  constexpr PollMask kExceptSet = vfs::kPollPri;
  if (n < 0) return err(kEINVAL);
  const size_t count = std::min<size_t>(static_cast<size_t>(n), std::max<size_t>(task.fds().capacity(), 256));
  const Bits want_in = TRY(read_bits(task, in, count)), want_out = TRY(read_bits(task, out, count)),
             want_except = TRY(read_bits(task, except, count));
  std::vector<size_t> numbers;
  for (size_t i = 0; i < count; ++i) {
    if (test(want_in, i) || test(want_out, i) || test(want_except, i)) numbers.push_back(i);
  }
  PollSet set(numbers.size());
  for (size_t k = 0; k < numbers.size(); ++k) {
    PollItem& item = set.items()[k];
    const size_t i = numbers[k];
    item.file = TRY(get_open_file(task, Fd(static_cast<int32_t>(i))));
    item.always = 0;  // ERR and HUP are in the sets that care
    item.events = (test(want_in, i) ? kInSet : 0) | (test(want_out, i) ? kOutSet : 0) | (test(want_except, i) ? kExceptSet : 0);
  }
  TRY(set.wait(task, deadline));
  Bits got_in(want_in.size()), got_out(want_out.size()), got_except(want_except.size());
  size_t ready = 0;
  auto mark = [&](const Bits& want, Bits& got, size_t i, bool yes) {
    if (!yes || !test(want, i)) return;
    got[i / 64] |= uint64_t{1} << (i % 64);
    ++ready;
  };
  for (size_t k = 0; k < numbers.size(); ++k) {
    const PollMask r = set.items()[k].revents;
    mark(want_in, got_in, numbers[k], (r & kInSet) != 0);
    mark(want_out, got_out, numbers[k], (r & kOutSet) != 0);
    mark(want_except, got_except, numbers[k], (r & kExceptSet) != 0);
  }
  if (!in.is_null()) TRY(task.user_memory().copy_out(in, got_in.data(), got_in.size() * 8));
  if (!out.is_null()) TRY(task.user_memory().copy_out(out, got_out.data(), got_out.size() * 8));
  if (!except.is_null()) TRY(task.user_memory().copy_out(except, got_except.data(), got_except.size() * 8));
  return ready;
}

}  // namespace

Result<size_t> sys_select(Task& task, int32_t n, Addr in, Addr out, Addr except, UserInOut<TimeVal64> timeout) {
  vfs::Deadline deadline;
  if (!timeout.is_null()) {
    const TimeVal64 t = TRY(task.read(timeout));
    if (t.sec < 0 || t.usec < 0) return err(kEINVAL);
    int64_t ns;
    if (__builtin_mul_overflow(t.sec, kSecond, &ns) || __builtin_add_overflow(ns, t.usec * 1000, &ns)) ns = INT64_MAX;
    deadline = deadline_after(task, ns);
  }
  return finish_timed(task, do_select(task, n, in, out, except, deadline), deadline, UserOut<TimeVal64>(timeout.addr()));
}

struct MaskArgument {
  uint64_t mask = 0, size = 0;
};
Result<size_t> sys_pselect6(Task& task, int32_t n, Addr in, Addr out, Addr except, UserInOut<TimeSpec64> timeout,
                            UserIn<MaskArgument> mask) {
  const vfs::Deadline deadline = TRY(read_timeout(task, UserIn<TimeSpec64>(timeout.addr())));
  if (!mask.is_null()) {
    const MaskArgument m = TRY(task.read(mask));
    TRY(apply_mask(task, UserIn<abi::SigSet>(Addr(m.mask)), m.size));
  }
  return finish_timed(task, do_select(task, n, in, out, except, deadline), deadline, UserOut<TimeSpec64>(timeout.addr()));
}

SYSCALL_FAMILY(poll) = {
    ROW(poll, kFull, ""),
    ROW(ppoll, kFull, ""),
    ROW(select, kFull, ""),
    ROW(pselect6, kFull, ""),
};
SYSCALL_FAMILY_END(poll);

}  // namespace sentry::syscalls
