// SPDX-License-Identifier: Apache-2.0
// futex(2), futex_waitv(2), futex_wake/wait/requeue, robust lists, set_tid_address(2).
#include "sentry/kernel/futex.h"

#include "sentry/kernel/pid_namespace.h"
#include "sentry/syscalls/clock.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::TimeSpec64;
using kernel::FutexScope;

namespace {

enum : int32_t {
  kWait = 0, kWake = 1, kRequeue = 3, kCmpRequeue = 4, kWakeOp = 5, kLockPi = 6, kUnlockPi = 7, kTrylockPi = 8,
  kWaitBitset = 9, kWakeBitset = 10, kLockPi2 = 13,
  kPrivateFlag = 128, kClockRealtimeFlag = 256,
};

// A deadline on the monotonic clock for a time of `clock`.
Result<int64_t> monotonic_deadline(Task& task, const TimeSpec64& ts, bool absolute, int32_t clock) {
  if (!ts.is_valid()) return err(kEINVAL);
  constexpr int64_t kMax = int64_t{1} << 61;
  const int64_t ns = ts.sec >= kMax / 1'000'000'000 ? kMax : ts.sec * 1'000'000'000 + ts.nsec;
  const int64_t now = task.now_monotonic();
  return absolute ? now + (ns - TRY(read_clock(task, clock))) : now + ns;
}

Result<vfs::Deadline> read_deadline(Task& task, uint64_t addr, bool absolute, int32_t clock) {
  if (addr == 0) return vfs::Deadline();
  const TimeSpec64 ts = TRY(task.read(UserIn<TimeSpec64>(Addr(addr))));
  return vfs::Deadline(TRY(monotonic_deadline(task, ts, absolute, clock)));
}

// FUTEX_WAIT with a timeout goes on where it was after a signal without handler; without one it simply starts again.
Result<int32_t> do_wait(Task& task, kernel::FutexWord word, uint32_t bitset, vfs::Deadline deadline) {
  Result<void> done = kernel::futex_wait(task, word, bitset, deadline);
  if (done) return 0;
  if (done.error() != kERESTARTSYS || !deadline) return err(done.error());
  task.set_restart([word, bitset, deadline](Task& t) -> Result<int64_t> { return TRY(do_wait(t, word, bitset, deadline)); });
  return err(kERESTART_RESTARTBLOCK);
}

}  // namespace

Result<int32_t> sys_futex(Task& task, Addr addr, int32_t op, uint32_t value, uint64_t timeout, Addr addr2, uint32_t value3) {
  const FutexScope scope = op & kPrivateFlag ? FutexScope::kPrivate : FutexScope::kShared;
  const bool realtime = (op & kClockRealtimeFlag) != 0;
  const int32_t command = op & ~(kPrivateFlag | kClockRealtimeFlag);
  if (realtime && command != kWait && command != kWaitBitset && command != kLockPi2) return err(kENOSYS);
  const int32_t clock = realtime ? kClockRealtime : kClockMonotonic;
  const auto count = static_cast<int32_t>(value);
  const auto value2 = static_cast<int32_t>(timeout);
  switch (command) {
    case kWait: return do_wait(task, {addr, value, scope}, kernel::kFutexBitsetAny, TRY(read_deadline(task, timeout, false, clock)));
    case kWaitBitset: return do_wait(task, {addr, value, scope}, value3, TRY(read_deadline(task, timeout, true, clock)));
    case kWake: return kernel::futex_wake(task, addr, scope, count, kernel::kFutexBitsetAny);
    case kWakeBitset: return kernel::futex_wake(task, addr, scope, count, value3);
    case kRequeue: return kernel::futex_requeue(task, addr, addr2, scope, scope, count, value2, std::nullopt);
    case kCmpRequeue: return kernel::futex_requeue(task, addr, addr2, scope, scope, count, value2, value3);
    case kWakeOp: return kernel::futex_wake_op(task, addr, addr2, scope, count, value2, value3);
    case kLockPi:
    case kLockPi2: {
      // FUTEX_LOCK_PI always takes realtime; FUTEX_LOCK_PI2 says which.
      auto deadline = TRY(read_deadline(task, timeout, true, command == kLockPi ? kClockRealtime : clock));
      TRY(kernel::futex_lock_pi(task, addr, scope, kernel::PiLock::kWait, deadline));
      return 0;
    }
    case kTrylockPi: TRY(kernel::futex_lock_pi(task, addr, scope, kernel::PiLock::kTry, std::nullopt)); return 0;
    case kUnlockPi: TRY(kernel::futex_unlock_pi(task, addr, scope)); return 0;
    default: return err(kENOSYS);
  }
}

struct FutexWaitV {
  uint64_t value = 0, addr = 0;
  uint32_t flags = 0, reserved = 0;
};

namespace {

constexpr uint32_t kFutex2Size32 = 2, kFutex2Private = 128, kMaxWaitV = 128;

Result<FutexScope> decode_futex2(uint32_t flags) {
  if ((flags & ~(kFutex2Private | 3u)) != 0 || (flags & 3) != kFutex2Size32) return err(kEINVAL);
  return flags & kFutex2Private ? FutexScope::kPrivate : FutexScope::kShared;
}

}  // namespace

Result<int32_t> sys_futex_waitv(Task& task, UserIn<FutexWaitV> waiters, uint32_t count, uint32_t flags,
                                UserIn<TimeSpec64> timeout, int32_t clock) {
  if (flags != 0 || count == 0 || count > kMaxWaitV || waiters.is_null()) return err(kEINVAL);
  vfs::Deadline deadline;
  if (!timeout.is_null()) {
    if (clock != kClockMonotonic && clock != kClockRealtime) return err(kEINVAL);
    deadline = TRY(monotonic_deadline(task, TRY(task.read(timeout)), true, clock));
  }
  std::vector<kernel::FutexWord> words;
  for (const FutexWaitV& w : TRY(task.read_array(waiters, count))) {
    if (w.reserved != 0) return err(kEINVAL);
    words.push_back({Addr(w.addr), static_cast<uint32_t>(w.value), TRY(decode_futex2(w.flags))});
  }
  return kernel::futex_wait_any(task, words, deadline);
}

Result<int32_t> sys_futex_wake(Task& task, Addr addr, uint64_t mask, int32_t count, uint32_t flags) {
  const kernel::FutexScope scope = TRY(decode_futex2(flags));
  if (count == 0 && addr.value() % 4 == 0 && mask != 0) return 0;  // FLAGS_STRICT
  return kernel::futex_wake(task, addr, scope, count, static_cast<uint32_t>(mask));
}

Result<void> sys_futex_wait(Task& task, Addr addr, uint64_t value, uint64_t mask, uint32_t flags, UserIn<TimeSpec64> timeout,
                            int32_t clock) {
  vfs::Deadline deadline;
  if (!timeout.is_null()) deadline = TRY(monotonic_deadline(task, TRY(task.read(timeout)), true, clock));
  return kernel::futex_wait(task, {addr, static_cast<uint32_t>(value), TRY(decode_futex2(flags))}, static_cast<uint32_t>(mask), deadline);
}

Result<void> sys_set_robust_list(Task& task, Addr head, size_t length) {
  if (length != 24) return err(kEINVAL);
  platform::ThreadWords words = task.context().thread_words();
  words.robust_list = head.value();
  task.context().set_thread_words(words);
  return {};
}

Result<void> sys_get_robust_list(Task& task, int32_t pid, UserOut<uint64_t> head, UserOut<uint64_t> length) {
  const uint64_t list = task.context().thread_words().robust_list;
  if (pid != 0 && pid != task.tid().value()) {
    if (!task.pid_namespace().find_task(Tid(pid))) return err(kESRCH);
    return err(kEPERM);
  }
  TRY(task.write(length, uint64_t{24}));
  return task.write(head, list);
}

Result<Tid> sys_set_tid_address(Task& task, Addr addr) {
  platform::ThreadWords words = task.context().thread_words();
  words.clear_child_tid = addr.value();
  task.context().set_thread_words(words);
  return task.tid();
}

SYSCALL_FAMILY(futex) = {
    ROW(futex, kPartial, "no FUTEX_WAIT_REQUEUE_PI, FUTEX_FD"),
    ROW(futex_waitv, kFull, ""),
    ROW(futex_wake, kFull, ""),
    ROW(futex_wait, kFull, ""),
    ROW(set_robust_list, kFull, ""),
    ROW(get_robust_list, kPartial, "of the calling thread"),
    ROW(set_tid_address, kFull, ""),
};
SYSCALL_FAMILY_END(futex);

}  // namespace sentry::syscalls
