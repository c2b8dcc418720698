// SPDX-License-Identifier: Apache-2.0
// epoll(7). Cost is by what is ready, not by what is watched.
//
// Locks: one global interest lock (kEpoll) for adding, changing, removing and for teardown of either side; per instance
// ready_mu_ (kEpollReady) for the ready list, taken from notifications.
#pragma once

#include <map>
#include <span>
#include <utility>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "sentry/vfs/file_description.h"

namespace sentry::vfs {

enum : uint32_t {
  kEpollExclusive = 1u << 28, kEpollWakeUp = 1u << 29, kEpollOneShot = 1u << 30, kEpollEdge = 1u << 31,
};

struct EpollEvent {
  uint32_t events = 0;
  uint64_t data = 0;
};

class EpollItem;

class EpollFile final : public FileDescription {
 public:
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  static base::RefPtr<EpollFile> create(OpContext& ctx);
  explicit EpollFile(Path path);
  ~EpollFile() override;

  // epoll_ctl(2). EEXIST, ENOENT, EPERM (file cannot be polled), ELOOP, EINVAL.
  base::Result<void> add(FileDescription& target, abi::Fd fd, EpollEvent event);
  base::Result<void> modify(FileDescription& target, abi::Fd fd, EpollEvent event);
  base::Result<void> remove(FileDescription& target, abi::Fd fd);
  // What is ready now, at most out.size(); takes edge-triggered and one-shot events. Allocates nothing.
  size_t collect(std::span<EpollEvent> out);

  const void* kind() const override { return kKind; }
  PollMask readiness(PollMask interest) override;
  WaitQueue* wait_queue() override { return &queue_; }
  std::string fdinfo() const override;

 private:
  friend class EpollItem;
  friend void leave_epolls(FileDescription& file);
  using Key = std::pair<FileDescription*, int32_t>;
  void destroy() const override;
  void make_ready(EpollItem& item);
  base::RefPtr<EpollItem> pop_ready(base::RefPtr<FileDescription>& target);
  enum class Back { kNot, kFirst, kLast };
  size_t begin_looking();
  bool looked_locked(EpollItem& item, Back back);
  static bool take_event_locked(EpollItem& item, PollMask ready, EpollEvent& out);
  static bool reaches(const EpollFile& from, const EpollFile& target, int depth);
  void detach_locked(EpollItem& item);

  std::map<Key, base::RefPtr<EpollItem>> items_;  // guarded by the interest lock
  mutable base::Mutex ready_mu_{base::LockRank::kEpollReady};
  struct Ready;
  std::unique_ptr<Ready> ready_;  // guarded by ready_mu_
  WaitQueue queue_{base::LockRank::kEpollQueue};
};

// The file is on its way out: no epoll instance may know it any more.
void leave_epolls(FileDescription& file);

}  // namespace sentry::vfs
