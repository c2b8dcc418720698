// SPDX-License-Identifier: Apache-2.0
// A queue: sending, receiving, notification.
#include "sentry/fs/mqueue/mqueue.h"

#include <fmt/format.h>

#include "sentry/fs/mqueue/mqueue_fs.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/netlink.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr vfs::PollMask kReadable = vfs::kPollIn | vfs::kPollRdNorm, kWritable = vfs::kPollOut | vfs::kPollWrNorm;
// Text in all queues of the sandbox. Limits of queues are about what could be in them; a guest that may raise those has
// this one still.
constexpr uint64_t kMaxQueuedBytes = 256 << 20;
std::atomic<uint64_t> queued_bytes{0};

enum : uint8_t { kNotifyWokenUp = 1, kNotifyRemoved = 2 };  // the last byte of a cookie

void send_cookie(const MqNotify& n, uint8_t what) {
  std::array<uint8_t, MqNotify::kCookieSize> cookie = n.cookie;
  cookie.back() = what;
  net::push_to_netlink(*n.socket, cookie);
}

void tell_removed(const MqNotify& n) {
  if (n.owner && n.kind == MqNotify::Kind::kThread) send_cookie(n, kNotifyRemoved);
}

}  // namespace

MessageQueue::MessageQueue(uint64_t number, MqSize size, const vfs::CreateArgs& args, uint64_t charged, abi::KUid payer)
    : number(number), size(size), mode(args.mode), uid(args.uid.value()), gid(args.gid.value()),
      changed_ns(kernel::realtime_now_ns()), charged_(charged), payer_(payer) {}

MessageQueue::~MessageQueue() {
  queued_bytes.fetch_sub(bytes_);
  release_mqueue_charge(payer_, charged_);
}

Result<bool> MessageQueue::try_send_locked(std::vector<uint8_t>& text, uint32_t priority, MqNotify& fired) {
  if (count_ >= static_cast<size_t>(size.max_messages)) return false;
  if (queued_bytes.fetch_add(text.size()) + text.size() > kMaxQueuedBytes) {
    queued_bytes.fetch_sub(text.size());
    return err(kENOMEM);
  }
  bytes_ += text.size();
  messages_[priority].push_back(std::move(text));
  ++count_;
  // __do_notify(): it was empty, and nobody waits for the message anyway.
  if (notify_.owner && count_ == receivers_ + 1) fired = std::exchange(notify_, {});
  return true;
}

Result<void> MessageQueue::send(kernel::Task& task, std::vector<uint8_t> text, uint32_t priority, bool nonblocking,
                                vfs::Deadline deadline) {
  MqNotify fired;
  Result<bool> sent = false;
  const auto attempt = [&] {
    base::MutexLock lock(mu_);
    sent = try_send_locked(text, priority, fired);
    return !sent || *sent;
  };
  if (!attempt()) {
    if (nonblocking) return err(kEAGAIN);
    TRY(vfs::wait_until(task, queue_, kWritable, deadline, attempt));
  }
  TRY(std::move(sent));
  changed_ns.store(task.now_realtime(), std::memory_order_relaxed);
  queue_.notify(kReadable);
  if (fired.owner) tell(task, fired);
  return {};
}

Result<MessageQueue::Message> MessageQueue::receive(kernel::Task& task, bool nonblocking, vfs::Deadline deadline) {
  Message message;
  bool waiting = false;
  const auto attempt = [&] {
    base::MutexLock lock(mu_);
    if (count_ == 0) return false;
    auto first = messages_.begin();
    message = {first->first, std::move(first->second.front())};
    first->second.pop_front();
    if (first->second.empty()) messages_.erase(first);
    --count_;
    bytes_ -= message.text.size();
    if (std::exchange(waiting, false)) --receivers_;
    return true;
  };
  if (!attempt()) {
    if (nonblocking) return err(kEAGAIN);
    {
      base::MutexLock lock(mu_);
      ++receivers_;
      waiting = true;
    }
    const Result<void> waited = vfs::wait_until(task, queue_, kReadable, deadline, attempt);
    if (waiting) {
      base::MutexLock lock(mu_);
      --receivers_;
    }
    TRY(waited);
  }
  queued_bytes.fetch_sub(message.text.size());
  changed_ns.store(task.now_realtime(), std::memory_order_relaxed);
  queue_.notify(kWritable);
  return message;
}

void MessageQueue::tell(kernel::Task& sender, const MqNotify& fired) {
  if (fired.kind == MqNotify::Kind::kThread) return send_cookie(fired, kNotifyWokenUp);
  if (fired.kind != MqNotify::Kind::kSignal || fired.signo == 0) return;
  RefPtr<kernel::ThreadGroup> group;
  {
    base::MutexLock lock(fired.owner->ns().set().mu);
    group = RefPtr<kernel::ThreadGroup>(fired.owner->group);
  }
  if (!group) return;
  abi::SigInfo info;
  info.signo = fired.signo;
  info.code = abi::kSI_MESGQ;
  info.set_pid(sender.thread_group().pid_in(fired.owner->ns()).value());
  info.set_uid(sender.creds().user_ns->unmap_uid(sender.creds().uid).value());
  info.set_value(fired.value);
  (void)group->send_signal(info);
}

Result<void> MessageQueue::set_notify(MqNotify notify) {
  base::MutexLock lock(mu_);
  if (notify_.owner) return err(kEBUSY);
  std::swap(notify_, notify);
  return {};
}

void MessageQueue::remove_notify(const kernel::PidNumber& owner) {
  MqNotify removed;
  {
    base::MutexLock lock(mu_);
    if (notify_.owner.get() != &owner) return;
    std::swap(removed, notify_);
  }
  tell_removed(removed);
}

size_t MessageQueue::current_messages() const {
  base::MutexLock lock(mu_);
  return count_;
}

vfs::PollMask MessageQueue::readiness() const {
  base::MutexLock lock(mu_);
  return (count_ != 0 ? kReadable : 0) | (count_ < static_cast<size_t>(size.max_messages) ? kWritable : 0);
}

// mqueue_read_file()
std::string MessageQueue::status(const kernel::PidNamespace& view) const {
  base::MutexLock lock(mu_);
  const bool owned = notify_.owner != nullptr;
  return fmt::format("QSIZE:{:<10} NOTIFY:{:<5} SIGNO:{:<5} NOTIFY_PID:{:<6}\n", bytes_,
                     owned ? static_cast<int32_t>(notify_.kind) : 0,
                     owned && notify_.kind == MqNotify::Kind::kSignal ? notify_.signo : 0, owned ? notify_.owner->in(view) : 0);
}

Result<size_t> MqueueFile::pread(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t offset) {
  if (!ctx.task()) return err(kEINVAL);
  const std::string text = queue_->status(ctx.task()->pid_namespace());
  if (offset >= text.size()) return size_t{0};
  return dst.put(text.data() + offset, std::min<size_t>(text.size() - offset, dst.remaining()));
}

Result<void> MqueueFile::flush(vfs::OpContext& ctx) {
  if (ctx.task()) queue_->remove_notify(*ctx.task()->thread_group().number);
  return {};
}

}  // namespace sentry::fs
