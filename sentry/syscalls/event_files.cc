// SPDX-License-Identifier: Apache-2.0
// Calls that make a descriptor of something in memory: pipe(2), eventfd(2), timerfd_create(2), inotify_init(2),
// memfd_create(2).
#include "abi/linux/signal.h"
#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/syscalls/clock.h"
#include "sentry/syscalls/file_io.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/file_places.h"
#include "sentry/vfs/inotify.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::TimeSpec64;

namespace {
constexpr uint32_t kCloexec = vfs::kO_CLOEXEC, kNonblock = vfs::kO_NONBLOCK;
}

Result<void> sys_pipe2(Task& task, UserOut<int32_t> fds, uint32_t flags) {
  constexpr uint32_t kNotificationPipe = 0200;  // O_EXCL
  if (flags & kNotificationPipe) return err(kENOSYS);
  if (flags & ~uint32_t{kCloexec | kNonblock | vfs::kO_DIRECT}) return err(kEINVAL);
  auto [reader, writer] = fs::pipe::make_pipe(task, flags);
  const uint64_t limit = task.rlimit(creds::Resource::kNOFILE).soft;
  const std::vector<Fd> made = TRY(task.fds().install_many({reader, writer}, (flags & kCloexec) != 0, limit));
  const int32_t numbers[2] = {made[0].value(), made[1].value()};
  Result<void> copied = task.user_memory().write_array(fds, numbers);
  if (!copied) {
    for (Fd fd : made) (void)task.fds().remove(fd);
  }
  return copied;
}
Result<void> sys_pipe(Task& task, UserOut<int32_t> fds) { return sys_pipe2(task, fds, 0); }

Result<Fd> sys_eventfd2(Task& task, uint32_t initial, uint32_t flags) {
  constexpr uint32_t kSemaphore = 1;
  if (flags & ~(kSemaphore | kCloexec | kNonblock)) return err(kEINVAL);
  auto semaphore = flags & kSemaphore ? fs::eventfd::Semaphore::kYes : fs::eventfd::Semaphore::kNo;
  return task.install_fd(fs::eventfd::make_eventfd(task, initial, semaphore, flags), (flags & kCloexec) != 0);
}
Result<Fd> sys_eventfd(Task& task, uint32_t initial) { return sys_eventfd2(task, initial, 0); }

struct ITimerSpec {
  TimeSpec64 interval, value;
};

namespace {

using fs::eventfd::TimerFile;
using fs::eventfd::TimerSpec;
constexpr int64_t kNsPerSecond = 1'000'000'000;

Result<int64_t> to_ns(const TimeSpec64& t) {
  if (t.sec < 0 || t.nsec < 0 || t.nsec >= kNsPerSecond) return err(kEINVAL);
  int64_t ns;
  if (__builtin_mul_overflow(t.sec, kNsPerSecond, &ns) || __builtin_add_overflow(ns, t.nsec, &ns)) return INT64_MAX;
  return ns;
}

ITimerSpec to_user(const TimerSpec& t) {
  return {{t.interval_ns / kNsPerSecond, t.interval_ns % kNsPerSecond}, {t.value_ns / kNsPerSecond, t.value_ns % kNsPerSecond}};
}

}  // namespace

Result<Fd> sys_timerfd_create(Task& task, int32_t clock, uint32_t flags) {
  if (flags & ~(kCloexec | kNonblock)) return err(kEINVAL);
  TimerFile::Clock kind;
  switch (clock) {
    case kClockMonotonic:
    case kClockBoottime: kind = TimerFile::Clock::kMonotonic; break;
    case kClockRealtime: kind = TimerFile::Clock::kRealtime; break;
    case kClockRealtimeAlarm:
    case kClockBoottimeAlarm: return err(kEPERM);
    default: return err(kEINVAL);
  }
  return task.install_fd(fs::eventfd::make_timerfd(task, kind, flags), (flags & kCloexec) != 0);
}

Result<void> sys_timerfd_settime(Task& task, Fd fd, uint32_t flags, UserIn<ITimerSpec> next, UserOut<ITimerSpec> old) {
  constexpr uint32_t kAbstime = 1, kCancelOnSet = 2;
  const ITimerSpec user = TRY(task.read(next));
  if (flags & ~(kAbstime | kCancelOnSet)) return err(kEINVAL);
  const TimerSpec spec{TRY(to_ns(user.interval)), TRY(to_ns(user.value))};
  auto file = TRY(get_open_file(task, fd));
  TimerFile* timer = file->as<TimerFile>();
  if (!timer) return err(kEINVAL);
  return task.write_if(old, to_user(timer->set(spec, (flags & kAbstime) != 0)));
}

Result<void> sys_timerfd_gettime(Task& task, Fd fd, UserOut<ITimerSpec> out) {
  auto file = TRY(get_open_file(task, fd));
  TimerFile* timer = file->as<TimerFile>();
  if (!timer) return err(kEINVAL);
  return task.write(out, to_user(timer->get()));
}

Result<Fd> sys_inotify_init1(Task& task, uint32_t flags) {
  if (flags & ~(kCloexec | kNonblock)) return err(kEINVAL);
  return task.install_fd(vfs::make_inotify(task, flags & kNonblock), (flags & kCloexec) != 0);
}
Result<Fd> sys_inotify_init(Task& task) { return sys_inotify_init1(task, 0); }

Result<int32_t> sys_inotify_add_watch(Task& task, Fd fd, UserCString path, uint32_t mask) {
  if ((mask & (vfs::kInMaskAdd | vfs::kInMaskCreate)) == (vfs::kInMaskAdd | vfs::kInMaskCreate)) return err(kEINVAL);
  auto file = TRY(get_open_file(task, fd));
  const vfs::Path found = TRY(lookup_at(task, kAtFdcwd, path, mask & vfs::kInDontFollow ? uint32_t{kAtSymlinkNofollow} : 0));
  if ((mask & vfs::kInOnlyDir) && !found.inode().is_dir()) return err(kENOTDIR);
  TRY(vfs::check_access(task, found, 4));
  // What was closed before is not told of.
  const vfs::CloseWatcher from_now_on;
  task.kernel().settle_descriptors();
  const int32_t wd = TRY(vfs::add_inotify_watch(*file, found, mask));
  // What is written from now on is told of; who looks at the file now finds the rest.
  vfs::FilePlaces::await_all_writers();
  return wd;
}

Result<void> sys_inotify_rm_watch(Task& task, Fd fd, int32_t wd) {
  auto file = TRY(get_open_file(task, fd));
  return vfs::remove_inotify_watch(*file, wd);
}

Result<Fd> sys_memfd_create(Task& task, UserCString name, uint32_t flags) {
  constexpr uint32_t kMfdCloexec = 1, kAllowSealing = 2, kHugetlb = 4, kNoexecSeal = 8, kExec = 16;
  constexpr size_t kMaxName = 249;  // NAME_MAX - strlen("memfd:")
  if (flags & kHugetlb) return err(kENOSYS);
  if (flags & ~(kMfdCloexec | kAllowSealing | kNoexecSeal | kExec)) return err(kEINVAL);
  if ((flags & kNoexecSeal) && (flags & kExec)) return err(kEINVAL);
  Result<std::string> text = task.user_memory().read_cstring(name.addr, kMaxName);
  if (!text) return err(text.error() == kENAMETOOLONG ? kEINVAL : text.error());
  const bool sealable = (flags & (kAllowSealing | kNoexecSeal)) != 0;
  const uint32_t mode = flags & kNoexecSeal ? 0666 : 0777;
  auto file = TRY(fs::tmpfs::create_memfd(task, task.kernel().memory(), *text, sealable, mode));
  if (flags & kNoexecSeal) TRY(file->add_seals(vfs::kSealExec));
  return task.install_fd(std::move(file), (flags & kMfdCloexec) != 0);
}

SYSCALL_FAMILY(event_files) = {
    ROW(pipe, kFull, ""),
    ROW(pipe2, kPartial, "no notification pipes"),
    ROW(eventfd, kFull, ""),
    ROW(eventfd2, kFull, ""),
    ROW(timerfd_create, kPartial, "no alarm clocks"),
    ROW(timerfd_settime, kPartial, "TFD_TIMER_CANCEL_ON_SET never cancels: guests cannot set the clock"),
    ROW(timerfd_gettime, kFull, ""),
    ROW(inotify_init, kFull, ""),
    ROW(inotify_init1, kFull, ""),
    ROW(inotify_add_watch, kFull, ""),
    ROW(inotify_rm_watch, kFull, ""),
    ROW(memfd_create, kPartial, "no MFD_HUGETLB"),
};
SYSCALL_FAMILY_END(event_files);

}  // namespace sentry::syscalls
