// SPDX-License-Identifier: Apache-2.0
// setitimer(2), alarm(2), timer_create(2) and kin.
#include <algorithm>

#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/clock.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using kernel::IntervalTimer;
using kernel::PosixTimers;

struct ITimerVal {
  abi::TimeVal64 interval, value;
};
struct ITimerSpec {
  abi::TimeSpec64 interval, value;
};
struct SigEvent {
  uint64_t value = 0;
  int32_t signo = 0, notify = 0, tid = 0, pad0 = 0;
  uint64_t pad1[5] = {};
};
static_assert(sizeof(SigEvent) == 64);

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kMaxSeconds = (int64_t{1} << 61) / kSecond;

PosixTimers& timers(Task& task) { return *task.thread_group().timers; }

Result<int64_t> to_ns(const abi::TimeVal64& tv) {
  if (tv.sec < 0 || tv.usec < 0 || tv.usec >= 1'000'000) return err(kEINVAL);
  return std::min(tv.sec, kMaxSeconds) * kSecond + tv.usec * 1000;
}
Result<int64_t> to_ns(const abi::TimeSpec64& ts) {
  if (!ts.is_valid()) return err(kEINVAL);
  return std::min(ts.sec, kMaxSeconds) * kSecond + ts.nsec;
}
abi::TimeVal64 to_timeval(int64_t ns) {
  const int64_t us = (ns + 999) / 1000;  // a running timer never reads as zero
  return {us / 1'000'000, us % 1'000'000};
}
ITimerVal to_timerval(const PosixTimers::Setting& s) { return {to_timeval(s.interval_ns), to_timeval(s.value_ns)}; }
ITimerSpec to_timerspec(const PosixTimers::Setting& s) {
  return {{s.interval_ns / kSecond, s.interval_ns % kSecond}, {s.value_ns / kSecond, s.value_ns % kSecond}};
}

Result<IntervalTimer> decode_which(int32_t which) {
  if (which < 0 || which > 2) return err(kEINVAL);
  return static_cast<IntervalTimer>(which);
}

}  // namespace

Result<void> sys_getitimer(Task& task, int32_t which, UserOut<ITimerVal> out) {
  return task.write(out, to_timerval(timers(task).get_interval(TRY(decode_which(which)))));
}

Result<void> sys_setitimer(Task& task, int32_t which, UserIn<ITimerVal> in, UserOut<ITimerVal> out) {
  ITimerVal next;
  if (!in.is_null()) next = TRY(task.read(in));
  const PosixTimers::Setting setting{TRY(to_ns(next.value)), TRY(to_ns(next.interval))};
  const auto old = timers(task).set_interval(TRY(decode_which(which)), setting);
  return task.write_if(out, to_timerval(old));
}

Result<uint32_t> sys_alarm(Task& task, uint32_t seconds) {
  const auto old = timers(task).set_interval(IntervalTimer::kReal, {int64_t{seconds} * kSecond, 0});
  // Rounded to the nearest second, but never down to zero: alarm_setitimer() of kernel/time/itimer.c.
  auto left = static_cast<uint32_t>((old.value_ns + kSecond / 2) / kSecond);
  return left == 0 && old.value_ns != 0 ? 1 : left;
}

Result<void> sys_timer_create(Task& task, int32_t clock, UserIn<SigEvent> event, UserOut<int32_t> id_out) {
  constexpr int32_t kSignal = 0, kNone = 1, kThreadId = 4;
  TRY(read_clock(task, clock));
  if (clock == kClockMonotonicRaw || clock == kClockRealtimeCoarse || clock == kClockMonotonicCoarse) return err(kEOPNOTSUPP);
  if ((clock == kClockRealtimeAlarm || clock == kClockBoottimeAlarm) && !task.creds().has_cap(creds::Cap::kWAKE_ALARM))
    return err(kEPERM);
  PosixTimers::Notify notify;
  notify.signo = abi::kSIGALRM;
  if (!event.is_null()) {
    const SigEvent e = TRY(task.read(event));
    notify.kind = e.notify;
    notify.signo = e.signo;
    notify.value = e.value;
    if (e.notify == kThreadId) {
      notify.thread = task.pid_namespace().find_task(Tid(e.tid));
      if (!notify.thread || &notify.thread->thread_group() != &task.thread_group()) return err(kEINVAL);
    } else if (e.notify != kSignal && e.notify != kNone && e.notify != 2) {
      return err(kEINVAL);
    }
    if (e.notify != kNone && (e.signo < 1 || e.signo > abi::kNSIG)) return err(kEINVAL);
  }
  const int32_t id = TRY(timers(task).create(clock, std::move(notify)));
  Result<void> written = task.write(id_out, id);
  if (!written) (void)timers(task).remove(id);
  return written;
}

Result<void> sys_timer_settime(Task& task, int32_t id, int32_t flags, UserIn<ITimerSpec> in, UserOut<ITimerSpec> out) {
  constexpr int32_t kAbsolute = 1;
  if (in.is_null()) return err(kEINVAL);
  const ITimerSpec next = TRY(task.read(in));
  const PosixTimers::Setting setting{TRY(to_ns(next.value)), TRY(to_ns(next.interval))};
  const auto old = TRY(timers(task).set(id, setting, flags & kAbsolute ? PosixTimers::Start::kAbsolute : PosixTimers::Start::kRelative));
  return task.write_if(out, to_timerspec(old));
}

Result<void> sys_timer_gettime(Task& task, int32_t id, UserOut<ITimerSpec> out) {
  return task.write(out, to_timerspec(TRY(timers(task).get(id))));
}

Result<int32_t> sys_timer_getoverrun(Task& task, int32_t id) { return timers(task).overrun(id); }

Result<void> sys_timer_delete(Task& task, int32_t id) { return timers(task).remove(id); }

SYSCALL_FAMILY(timer) = {
    ROW(getitimer, kFull, ""),
    ROW(setitimer, kPartial, "ITIMER_VIRTUAL and ITIMER_PROF are checked at least once per millisecond of the time left"),
    ROW(alarm, kFull, ""),
    ROW(timer_create, kPartial, "thread CPU-time timers count the process's time"),
    ROW(timer_settime, kFull, ""),
    ROW(timer_gettime, kFull, ""),
    ROW(timer_getoverrun, kFull, ""),
    ROW(timer_delete, kFull, ""),
};
SYSCALL_FAMILY_END(timer);

}  // namespace sentry::syscalls
