// SPDX-License-Identifier: Apache-2.0
// POSIX message queues: mq_open(2) and kin.
#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

struct MqAttr {
  int64_t flags = 0, max_messages = 0, message_size = 0, current = 0;
  int64_t reserved[4] = {};
};
static_assert(sizeof(MqAttr) == 64);

struct MqSigEvent {
  uint64_t value = 0;
  int32_t signo = 0, notify = 0;
  uint64_t pad0[6] = {};
};
static_assert(sizeof(MqSigEvent) == 64);

Result<RefPtr<fs::MqueueFile>> get_queue(Task& task, Fd fd) {
  auto file = TRY(get_open_file(task, fd));
  auto* queue = file->as<fs::MqueueFile>();
  if (!queue) return err(kEBADF);
  return RefPtr<fs::MqueueFile>(queue);
}

// prepare_timeout(): an absolute time of CLOCK_REALTIME.
Result<vfs::Deadline> read_deadline(Task& task, UserIn<abi::TimeSpec64> user) {
  if (user.is_null()) return vfs::Deadline{};
  const abi::TimeSpec64 t = TRY(task.read(user));
  if (!t.is_valid()) return err(kEINVAL);
  constexpr int64_t kSecond = 1'000'000'000, kMost = INT64_MAX / kSecond / 2;
  return vfs::Deadline(task.now_monotonic() + (std::min(t.sec, kMost) * kSecond + t.nsec - task.now_realtime()));
}

Result<fs::MqNotify> read_notify(Task& task, UserIn<MqSigEvent> user) {
  using Kind = fs::MqNotify::Kind;
  const MqSigEvent e = TRY(task.read(user));
  fs::MqNotify n;
  if (e.notify < static_cast<int32_t>(Kind::kSignal) || e.notify > static_cast<int32_t>(Kind::kThread)) return err(kEINVAL);
  n.kind = static_cast<Kind>(e.notify);
  n.value = e.value;
  n.signo = e.signo;
  if (n.kind == Kind::kSignal && (e.signo < 0 || e.signo > abi::kNSIG)) return err(kEINVAL);
  if (n.kind != Kind::kThread) return n;
  TRY(task.user_memory().copy_in(n.cookie.data(), Addr(e.value), n.cookie.size()));
  n.socket = TRY(get_open_file(task, Fd(e.signo)));
  auto* socket = n.socket->as<net::Socket>();
  if (!socket) return err(kENOTSOCK);
  if (socket->family() != net::kAfNetlink) return err(kEINVAL);
  return n;
}

}  // namespace

Result<Fd> sys_mq_open(Task& task, UserCString name, uint32_t flags, uint32_t mode, UserIn<MqAttr> user) {
  fs::MqSize size;
  if (!user.is_null()) {
    const MqAttr attr = TRY(task.read(user));
    size = {attr.max_messages, attr.message_size};
  }
  const std::string path = TRY(task.read_path(name));
  auto file = TRY(fs::open_mqueue(task, path, flags, mode, user.is_null() ? nullptr : &size));
  return task.install_fd(std::move(file), true);
}

Result<void> sys_mq_unlink(Task& task, UserCString name) { return fs::unlink_mqueue(task, TRY(task.read_path(name))); }

Result<void> sys_mq_timedsend(Task& task, Fd fd, Addr text, uint64_t length, uint32_t priority, UserIn<abi::TimeSpec64> timeout) {
  const vfs::Deadline deadline = TRY(read_deadline(task, timeout));
  if (priority >= fs::kMqPrioMax) return err(kEINVAL);
  auto file = TRY(get_queue(task, fd));
  if (!file->is_writable()) return err(kEBADF);
  if (length > static_cast<uint64_t>(file->queue().size.message_size)) return err(kEMSGSIZE);
  std::vector<uint8_t> bytes(length);
  TRY(task.user_memory().copy_in(bytes.data(), text, length));
  return file->queue().send(task, std::move(bytes), priority, file->is_nonblocking(), deadline);
}

Result<size_t> sys_mq_timedreceive(Task& task, Fd fd, Addr text, uint64_t length, UserOut<uint32_t> priority,
                                   UserIn<abi::TimeSpec64> timeout) {
  const vfs::Deadline deadline = TRY(read_deadline(task, timeout));
  auto file = TRY(get_queue(task, fd));
  if (!file->is_readable()) return err(kEBADF);
  if (length < static_cast<uint64_t>(file->queue().size.message_size)) return err(kEMSGSIZE);
  const auto message = TRY(file->queue().receive(task, file->is_nonblocking(), deadline));
  // As in Linux, a message that cannot be copied out is lost.
  TRY(task.write_if(priority, message.priority));
  TRY(task.user_memory().copy_out(text, message.text.data(), message.text.size()));
  return message.text.size();
}

Result<void> sys_mq_notify(Task& task, Fd fd, UserIn<MqSigEvent> event) {
  const RefPtr<kernel::PidNumber> self = task.thread_group().number;
  if (event.is_null()) {
    TRY(get_queue(task, fd))->queue().remove_notify(*self);
    return {};
  }
  fs::MqNotify notify = TRY(read_notify(task, event));
  notify.owner = self;
  return TRY(get_queue(task, fd))->queue().set_notify(std::move(notify));
}

Result<void> sys_mq_getsetattr(Task& task, Fd fd, UserIn<MqAttr> next, UserOut<MqAttr> old) {
  MqAttr wanted;
  if (!next.is_null()) {
    wanted = TRY(task.read(next));
    if (wanted.flags & ~int64_t{vfs::kO_NONBLOCK}) return err(kEINVAL);
  }
  auto file = TRY(get_queue(task, fd));
  const fs::MessageQueue& queue = file->queue();
  const uint32_t flags = file->status_flags();
  const MqAttr now{flags & vfs::kO_NONBLOCK, queue.size.max_messages, queue.size.message_size,
                   static_cast<int64_t>(queue.current_messages()), {}};
  if (!next.is_null()) TRY(file->set_status_flags(task, (flags & ~uint32_t{vfs::kO_NONBLOCK}) | static_cast<uint32_t>(wanted.flags)));
  return task.write_if(old, now);
}

SYSCALL_FAMILY(mq) = {
    ROW(mq_open, kFull, ""),
    ROW(mq_unlink, kFull, ""),
    ROW(mq_timedsend, kFull, ""),
    ROW(mq_timedreceive, kFull, ""),
    ROW(mq_notify, kFull, ""),
    ROW(mq_getsetattr, kFull, ""),
};
SYSCALL_FAMILY_END(mq);

}  // namespace sentry::syscalls
