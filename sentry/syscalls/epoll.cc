// SPDX-License-Identifier: Apache-2.0
// epoll_create(2), epoll_ctl(2), epoll_wait(2): fs/eventpoll.c.
#include <array>

#include "abi/linux/signal.h"
#include "sentry/syscalls/file_io.h"
#include "sentry/vfs/epoll.h"

namespace sentry::syscalls {

using enum abi::Errno;
using vfs::EpollFile;

// Packed on x86-64, and there only.
struct __attribute__((packed)) UserEpollEvent {
  uint32_t events = 0;
  uint64_t data = 0;
};
static_assert(sizeof(UserEpollEvent) == 12);

namespace {

constexpr uint32_t kAdd = 1, kDelete = 2, kModify = 3;

Result<size_t> do_epoll_wait(Task& task, Fd epfd, UserOut<UserEpollEvent> out, int32_t max, vfs::Deadline deadline) {
  constexpr int32_t kMaxEvents = INT32_MAX / static_cast<int32_t>(sizeof(UserEpollEvent));
  if (max <= 0 || max > kMaxEvents) return err(kEINVAL);
  auto file = TRY(get_open_file(task, epfd));
  EpollFile* epoll = file->as<EpollFile>();
  if (!epoll) return err(kEINVAL);
  constexpr size_t kBatch = 64;  // more wait for the next call, as maxevents allows
  std::array<vfs::EpollEvent, kBatch> events;
  const std::span<vfs::EpollEvent> room(events.data(), std::min<size_t>(static_cast<size_t>(max), kBatch));
  size_t n = 0;
  if (deadline && *deadline <= task.now_monotonic()) {
    n = epoll->collect(task, room);
  } else {
    auto done = [&] { return (n = epoll->collect(task, room)) != 0; };
    Result<void> waited = vfs::wait_until(task, *epoll->wait_queue(), vfs::kPollIn, deadline, done);
    if (!waited && waited.error() != kETIMEDOUT) return err(kEINTR);
  }
  std::array<UserEpollEvent, kBatch> user;
  for (size_t i = 0; i < n; ++i) {
    user[i].events = events[i].events;
    user[i].data = events[i].data;
  }
  TRY(task.user_memory().copy_out(out.addr(), user.data(), n * sizeof(UserEpollEvent)));
  return n;
}

vfs::Deadline deadline_of(Task& task, int64_t ns) {
  int64_t at;
  if (__builtin_add_overflow(task.now_monotonic(), ns, &at)) return INT64_MAX;
  return at;
}

Result<void> apply_mask(Task& task, UserIn<abi::SigSet> mask, uint64_t size) {
  if (mask.is_null()) return {};
  if (size != sizeof(abi::SigSet)) return err(kEINVAL);
  task.set_temporary_mask(TRY(task.read(mask)));
  return {};
}

}  // namespace

Result<Fd> sys_epoll_create1(Task& task, uint32_t flags) {
  if (flags & ~uint32_t{vfs::kO_CLOEXEC}) return err(kEINVAL);
  return task.install_fd(EpollFile::create(task), flags != 0);
}
Result<Fd> sys_epoll_create(Task& task, int32_t size) {
  if (size <= 0) return err(kEINVAL);
  return sys_epoll_create1(task, 0);
}

Result<void> sys_epoll_ctl(Task& task, Fd epfd, uint32_t op, Fd fd, UserIn<UserEpollEvent> event) {
  UserEpollEvent user;
  if (op != kDelete) user = TRY(task.read(event));
  auto file = TRY(get_open_file(task, epfd));
  auto target = TRY(get_open_file(task, fd));
  if (!target->wait_queue() && (target->inode().is_regular() || target->inode().is_dir())) return err(kEPERM);
  EpollFile* epoll = file->as<EpollFile>();
  if (!epoll || file == target) return err(kEINVAL);
  const vfs::EpollEvent wanted{user.events, user.data};
  epoll->catch_up(task);
  Result<void> done;
  switch (op) {
    case kAdd: done = epoll->add(*target, fd, wanted); break;
    case kModify: done = epoll->modify(*target, fd, wanted); break;
    case kDelete: done = epoll->remove(*target, fd); break;
    default: return err(kEINVAL);
  }
  epoll->catch_up(task);
  return done;
}

Result<size_t> sys_epoll_wait(Task& task, Fd epfd, UserOut<UserEpollEvent> events, int32_t max, int32_t timeout_ms) {
  vfs::Deadline deadline;
  if (timeout_ms >= 0) deadline = deadline_of(task, int64_t{timeout_ms} * 1'000'000);
  return do_epoll_wait(task, epfd, events, max, deadline);
}

Result<size_t> sys_epoll_pwait(Task& task, Fd epfd, UserOut<UserEpollEvent> events, int32_t max, int32_t timeout_ms,
                               UserIn<abi::SigSet> mask, uint64_t mask_size) {
  TRY(apply_mask(task, mask, mask_size));
  return sys_epoll_wait(task, epfd, events, max, timeout_ms);
}

Result<size_t> sys_epoll_pwait2(Task& task, Fd epfd, UserOut<UserEpollEvent> events, int32_t max,
                                UserIn<abi::TimeSpec64> timeout, UserIn<abi::SigSet> mask, uint64_t mask_size) {
  constexpr int64_t kSecond = 1'000'000'000;
  vfs::Deadline deadline;
  if (!timeout.is_null()) {
    const abi::TimeSpec64 t = TRY(task.read(timeout));
    if (t.sec < 0 || t.nsec < 0 || t.nsec >= kSecond) return err(kEINVAL);
    int64_t ns;
    if (__builtin_mul_overflow(t.sec, kSecond, &ns) || __builtin_add_overflow(ns, t.nsec, &ns)) ns = INT64_MAX;
    deadline = deadline_of(task, ns);
  }
  TRY(apply_mask(task, mask, mask_size));
  return do_epoll_wait(task, epfd, events, max, deadline);
}

SYSCALL_FAMILY(epoll) = {
    ROW(epoll_create, kFull, ""),
    ROW(epoll_create1, kFull, ""),
    ROW(epoll_ctl, kPartial, "EPOLLEXCLUSIVE wakes all, EPOLLWAKEUP is ignored"),
    ROW(epoll_wait, kFull, ""),
    ROW(epoll_pwait, kFull, ""),
    ROW(epoll_pwait2, kFull, ""),
};
SYSCALL_FAMILY_END(epoll);

}  // namespace sentry::syscalls
