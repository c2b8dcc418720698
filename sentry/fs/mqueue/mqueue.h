// SPDX-License-Identifier: Apache-2.0
// POSIX message queues: mq_overview(7), ipc/mqueue.c. A queue is a file of the IPC namespace's mqueue file system, which
// mq_open(2) reaches without a mount of it.
//
// Lock: MessageQueue::mu_ (kPipe). Signals and wakeups happen after it is released.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/inode.h"

namespace sentry::fs {

inline constexpr uint32_t kMqPrioMax = 32768;

// fs/mqueue/* of an IPC namespace, with what Linux lets them be set to.
struct MqueueLimits {
  std::atomic<int64_t> queues_max{256}, msg_max{10}, msgsize_max{8192}, msg_default{10}, msgsize_default{8192};
};
struct MqueueLimitRow {
  const char* name;
  std::atomic<int64_t> MqueueLimits::*value;
  int64_t min, max;
};
std::span<const MqueueLimitRow> mqueue_limit_rows();
MqueueLimits& mqueue_limits(kernel::IpcNamespace& ipc);

struct MqSize {
  int64_t max_messages = 0, message_size = 0;
};

// Who hears of a message in an empty queue: struct sigevent of mq_notify(2).
struct MqNotify {
  enum class Kind : int32_t { kSignal = 0, kNone = 1, kThread = 2 };  // SIGEV_*
  static constexpr size_t kCookieSize = 32;                           // NOTIFY_COOKIE_LEN
  Kind kind = Kind::kNone;
  int32_t signo = 0;
  uint64_t value = 0;
  base::RefPtr<kernel::PidNumber> owner;
  // SIGEV_THREAD: a netlink socket that gets the cookie; glibc's helper thread reads it.
  base::RefPtr<vfs::FileDescription> socket;
  std::array<uint8_t, kCookieSize> cookie{};
};

class MessageQueue final : public base::RefCounted {
 public:
  MessageQueue(uint64_t number, MqSize size, const vfs::CreateArgs& args, uint64_t charged, abi::KUid payer);
  ~MessageQueue() override;

  // The deadline is of the monotonic clock. EAGAIN, ETIMEDOUT, ERESTARTSYS; ENOMEM.
  base::Result<void> send(kernel::Task& task, std::vector<uint8_t> text, uint32_t priority, bool nonblocking, vfs::Deadline deadline);
  struct Message {
    uint32_t priority = 0;
    std::vector<uint8_t> text;
  };
  base::Result<Message> receive(kernel::Task& task, bool nonblocking, vfs::Deadline deadline);

  // EBUSY when somebody is registered.
  base::Result<void> set_notify(MqNotify notify);
  // Of this process; another's stays.
  void remove_notify(const kernel::PidNumber& owner);

  const uint64_t number;
  const MqSize size;
  size_t current_messages() const;
  vfs::PollMask readiness() const;
  vfs::WaitQueue& queue() { return queue_; }
  // What read(2) of the file says.
  std::string status(const kernel::PidNamespace& view) const;

  std::atomic<uint32_t> mode, uid, gid, links{1};
  std::atomic<int64_t> changed_ns;

 private:
  base::Result<bool> try_send_locked(std::vector<uint8_t>& text, uint32_t priority, MqNotify& fired) REQUIRES(mu_);
  static void tell(kernel::Task& sender, const MqNotify& fired);

  const uint64_t charged_;  // of the payer's RLIMIT_MSGQUEUE
  const abi::KUid payer_;
  vfs::WaitQueue queue_;
  mutable base::Mutex mu_{base::LockRank::kPipe};
  std::map<uint32_t, std::deque<std::vector<uint8_t>>, std::greater<>> messages_ GUARDED_BY(mu_);  // by priority
  size_t count_ GUARDED_BY(mu_) = 0, bytes_ GUARDED_BY(mu_) = 0;
  size_t receivers_ GUARDED_BY(mu_) = 0;  // waiting: each takes the next message that comes
  MqNotify notify_ GUARDED_BY(mu_);       // without an owner: nobody
};

class MqueueFile final : public vfs::FileDescription {
 public:
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  MqueueFile(vfs::Path path, uint32_t flags, base::RefPtr<MessageQueue> queue)
      : FileDescription(std::move(path), flags), queue_(std::move(queue)) {}
  MessageQueue& queue() const { return *queue_; }
  const void* kind() const override { return kKind; }
  base::Result<size_t> pread(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t offset) override;
  bool is_seekable() const override { return true; }
  vfs::PollMask readiness(vfs::PollMask) override { return queue_->readiness(); }
  vfs::WaitQueue* wait_queue() override { return &queue_->queue(); }
  // The registration of a process ends with any of its descriptors: mqueue_flush_file().
  base::Result<void> flush(vfs::OpContext& ctx) override;

 private:
  const base::RefPtr<MessageQueue> queue_;
};

// mq_open(2) without the descriptor; `size` only matters for a queue that is made.
base::Result<base::RefPtr<vfs::FileDescription>> open_mqueue(kernel::Task& task, std::string_view name, uint32_t flags, uint32_t mode,
                                                             const MqSize* size);
base::Result<void> unlink_mqueue(kernel::Task& task, std::string_view name);

// Makes "mqueue" known to mount(2). Once, at boot.
void register_mqueue();
// The file system that a container was given before it had a namespace.
void adopt_mqueue(kernel::IpcNamespace& ipc, base::RefPtr<vfs::FileSystem> fs);

}  // namespace sentry::fs
