// SPDX-License-Identifier: Apache-2.0
// Clocks and sleeping: clock_gettime(2), clock_nanosleep(2), nanosleep(2), times(2), time(2). Timers are in timer.cc.
#include <ctime>

#include "abi/linux/signal.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/clock.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::TimeSpec64;
using abi::TimeVal64;

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kUserHz = 100;

TimeSpec64 to_timespec(int64_t ns) { return {ns / kSecond, ns % kSecond}; }

Result<int64_t> host_clock(clockid_t id) {
  timespec ts{};
  if (::clock_gettime(id, &ts) != 0) return err(kEINVAL);
  return ts.tv_sec * kSecond + ts.tv_nsec;
}

int64_t cpu_ns(const kernel::ResourceUse& use) { return use.user_ns + use.system_ns; }

// Ids below zero name the CPU clock of a process or thread: MAKE_PROCESS_CPUCLOCK of include/linux/posix-timers.h.
Result<int64_t> dynamic_cpu_clock(Task& task, int32_t id) {
  constexpr int32_t kPerThread = 4, kClockMask = 3, kClockFd = 3;
  if ((id & kClockMask) == kClockFd) return err(kEINVAL);
  const int32_t pid = ~(id >> 3);
  RefPtr<Task> target = pid == 0 ? RefPtr<Task>(&task) : task.pid_namespace().find_task(Tid(pid));
  if (!target) return err(kEINVAL);
  if (id & kPerThread) {
    if (&target->thread_group() != &task.thread_group()) return err(kEINVAL);
    return cpu_ns(target->use());
  }
  return cpu_ns(target->thread_group().own_use());
}

}  // namespace

Result<int64_t> read_clock(Task& task, int32_t id) {
  switch (id) {
    case kClockRealtime:
    case kClockMonotonic:
    case kClockMonotonicRaw:
    case kClockRealtimeCoarse:
    case kClockMonotonicCoarse:
    case kClockBoottime:
    case kClockTai: return host_clock(id);
    case kClockRealtimeAlarm: return host_clock(CLOCK_REALTIME);
    case kClockBoottimeAlarm: return host_clock(CLOCK_BOOTTIME);
    case kClockProcessCpu: return cpu_ns(task.thread_group().own_use());
    case kClockThreadCpu: return cpu_ns(task.use());
    default: return id < 0 ? dynamic_cpu_clock(task, id) : err(kEINVAL);
  }
}

Result<void> sys_clock_gettime(Task& task, int32_t id, UserOut<TimeSpec64> out) {
  return task.write(out, to_timespec(TRY(read_clock(task, id))));
}

Result<void> sys_clock_getres(Task& task, int32_t id, UserOut<TimeSpec64> out) {
  TRY(read_clock(task, id));
  const bool coarse = id == kClockRealtimeCoarse || id == kClockMonotonicCoarse;
  return task.write_if(out, TimeSpec64{0, coarse ? 4'000'000 : 1});
}

Result<void> sys_clock_settime(Task& task, int32_t id, UserIn<TimeSpec64> in) {
  if (id != kClockRealtime) return err(kEINVAL);
  const TimeSpec64 ts = TRY(task.read(in));
  if (!ts.is_valid()) return err(kEINVAL);
  return err(kEPERM);  // the clock is the host's
}

struct Timezone {
  int32_t minutes_west = 0, dst = 0;
};

Result<void> sys_gettimeofday(Task& task, UserOut<TimeVal64> tv, UserOut<Timezone> tz) {
  const int64_t now = task.now_realtime();
  TRY(task.write_if(tv, TimeVal64{now / kSecond, now % kSecond / 1000}));
  return task.write_if(tz, Timezone{});
}

Result<int64_t> sys_time(Task& task, UserOut<int64_t> out) {
  const int64_t seconds = task.now_realtime() / kSecond;
  TRY(task.write_if(out, seconds));
  return seconds;
}

struct Tms {
  int64_t utime = 0, stime = 0, cutime = 0, cstime = 0;
};

Result<int64_t> sys_times(Task& task, UserOut<Tms> out) {
  const auto own = task.thread_group().own_use(), children = task.thread_group().children_use();
  auto ticks = [](int64_t ns) { return ns / (kSecond / kUserHz); };
  TRY(task.write_if(out, Tms{ticks(own.user_ns), ticks(own.system_ns), ticks(children.user_ns), ticks(children.system_ns)}));
  return ticks(task.now_monotonic());
}

namespace {

// Sleeps until `deadline` of the monotonic clock. Interrupted: the rest goes to *remaining and the call is restarted by
// restart_syscall(2) unless a handler ran.
Result<void> sleep_until(Task& task, int64_t deadline, UserOut<TimeSpec64> remaining) {
  for (;;) {
    const vfs::WakeReason why = task.block(deadline);
    const int64_t left = deadline - task.now_monotonic();
    if (why == vfs::WakeReason::kTimedOut || left <= 0) return {};
    if (why == vfs::WakeReason::kInterrupted) {
      TRY(task.write_if(remaining, to_timespec(left)));
      task.set_restart([deadline, remaining](Task& t) -> Result<int64_t> {
        TRY(sleep_until(t, deadline, remaining));
        return 0;
      });
      return err(kERESTART_RESTARTBLOCK);
    }
  }
}

int64_t saturating_ns(const TimeSpec64& ts) {
  constexpr int64_t kMax = int64_t{1} << 62;
  return ts.sec >= kMax / kSecond ? kMax : ts.sec * kSecond + ts.nsec;
}

}  // namespace

Result<void> sys_nanosleep(Task& task, UserIn<TimeSpec64> request, UserOut<TimeSpec64> remaining) {
  const TimeSpec64 ts = TRY(task.read(request));
  if (!ts.is_valid()) return err(kEINVAL);
  return sleep_until(task, task.now_monotonic() + saturating_ns(ts), remaining);
}

Result<void> sys_clock_nanosleep(Task& task, int32_t id, int32_t flags, UserIn<TimeSpec64> request, UserOut<TimeSpec64> remaining) {
  constexpr int32_t kAbsolute = 1;
  if (id == kClockThreadCpu) return err(kEINVAL);
  if (id == kClockMonotonicRaw || id == kClockRealtimeCoarse || id == kClockMonotonicCoarse) return err(kEOPNOTSUPP);
  const int64_t now = TRY(read_clock(task, id));
  const TimeSpec64 ts = TRY(task.read(request));
  if (!ts.is_valid()) return err(kEINVAL);
  if (!(flags & kAbsolute)) return sleep_until(task, task.now_monotonic() + saturating_ns(ts), remaining);
  // An absolute sleep is restarted as it was, so it reports no remainder.
  const int64_t delta = saturating_ns(ts) - now;
  if (delta <= 0) return {};
  Result<void> done = sleep_until(task, task.now_monotonic() + delta, UserOut<TimeSpec64>());
  if (!done && done.error() == kERESTART_RESTARTBLOCK) return err(kERESTARTNOHAND);
  return done;
}

namespace {

struct Timex {
  uint32_t modes = 0, pad0 = 0;
  int64_t offset = 0, freq = 0, maxerror = 0, esterror = 0;
  int32_t status = 0, pad1 = 0;
  int64_t constant = 0, precision = 0, tolerance = 0;
  TimeVal64 time;
  int64_t tick = 0, ppsfreq = 0, jitter = 0;
  int32_t shift = 0, pad2 = 0;
  int64_t stabil = 0, jitcnt = 0, calcnt = 0, errcnt = 0, stbcnt = 0;
  int32_t tai = 0, pad3[11] = {};
};
static_assert(sizeof(Timex) == 208);

// do_adjtimex(). The clock is the host's: who reads it sees one that nobody disciplines, and nobody can begin to.
Result<int32_t> do_adjtimex(Task& task, UserInOut<Timex> user) {
  constexpr uint32_t kAdjtime = 0x8000, kSingleShot = 0x8001, kReadOnly = 0x2000;
  constexpr int32_t kStaUnsync = 0x40, kTimeError = 5;
  constexpr int64_t kMaxError = 16'000'000, kTolerance = 500 << 16, kTimeConstant = 2;
  const uint32_t modes = TRY(task.read(user)).modes;
  if ((modes & kAdjtime) && (modes & kSingleShot) != kSingleShot) return err(kEINVAL);
  if (modes & kAdjtime ? !(modes & kReadOnly) : modes != 0) return err(kEPERM);
  const int64_t now = TRY(host_clock(CLOCK_REALTIME));
  Timex x;
  x.modes = modes;
  x.maxerror = x.esterror = kMaxError;
  x.status = kStaUnsync;
  x.constant = kTimeConstant;
  x.precision = 1;
  x.tolerance = kTolerance;
  x.time = {now / kSecond, now % kSecond / 1000};
  x.tick = 1'000'000 / kUserHz;
  TRY(task.write(user, x));
  return kTimeError;
}

}  // namespace

Result<int32_t> sys_adjtimex(Task& task, UserInOut<Timex> user) { return do_adjtimex(task, user); }

Result<int32_t> sys_clock_adjtime(Task& task, int32_t clock, UserInOut<Timex> user) {
  TRY(task.read(user));
  TRY(read_clock(task, clock));
  return clock == kClockRealtime ? do_adjtimex(task, user) : err(kEOPNOTSUPP);
}

SYSCALL_FAMILY(time) = {
    ROW(clock_gettime, kFull, ""),
    ROW(clock_getres, kFull, ""),
    ROW(clock_settime, kStub, "EPERM: the clock is the host's"),
    ROW(gettimeofday, kFull, ""),
    ROW(time, kFull, ""),
    ROW(times, kFull, ""),
    ROW(nanosleep, kFull, ""),
    ROW(clock_nanosleep, kPartial, "CPU-time clocks sleep in real time"),
    ROW(clock_adjtime, kPartial, "reads an undisciplined clock; changes are EPERM: the clock is the host's"),
    ROW(adjtimex, kPartial, "as clock_adjtime"),
};
SYSCALL_FAMILY_END(time);

}  // namespace sentry::syscalls
