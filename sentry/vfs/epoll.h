// SPDX-License-Identifier: Apache-2.0
// epoll(7). Cost is by what is ready, not by what is watched.
//
// Locks: one global interest lock (kEpoll) for adding, changing, removing and for teardown of either side; per instance
// ready_mu_ (kEpollReady) for the ready list, taken from notifications.
#pragma once

#include <map>
#include <span>
#include <utility>
#include <vector>

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
  size_t collect(OpContext& ctx, std::span<EpollEvent> out);

  const void* kind() const override { return kKind; }
  PollMask readiness(PollMask interest) override;
  WaitQueue* wait_queue() override { return &queue_; }
  std::string fdinfo() const override;

  // In place (vfs/in_place.h): a stub may add, change and remove connections of its own process, and wait for them. Those are the
  // mirrored items; the stub's word for them is taken over before anybody looks.
  base::Result<InPlaceEnd*> prepare_in_place(OpContext& ctx) override;
  InPlaceEnd* in_place_end() const override;
  void in_place_kick(OpContext& ctx) override;
  void catch_up(OpContext& ctx) override;

 private:
  friend class EpollItem;
  friend void leave_epolls(FileDescription& file);
  using Key = std::pair<FileDescription*, int32_t>;
  void destroy() const override;
  void make_ready(EpollItem& item);
  base::RefPtr<EpollItem> pop_ready(base::RefPtr<FileDescription>& target);
  enum class Back { kNot, kFirst, kLast };
  size_t begin_looking();
  bool looked_locked(EpollItem& item, Back back) REQUIRES(ready_mu_);
  static bool take_event_locked(EpollItem& item, PollMask ready, EpollEvent& out);
  static bool reaches(const EpollFile& from, const EpollFile& target, int depth);
  void detach_locked(EpollItem& item);
  base::Result<void> insert(FileDescription& target, abi::Fd fd, EpollEvent event);

  struct Mirror;
  void take_over(OpContext& ctx, Mirror& mirror);
  void rebuild(Mirror& mirror);
  void mirror_item(Mirror& mirror, EpollItem& item, FileDescription& target);
  void unmirror_item(Mirror& mirror, EpollItem& item);
  std::vector<base::RefPtr<EpollItem>> unmirror_others(Mirror& mirror, std::span<const base::RefPtr<EpollItem>> stay);
  enum class Take : uint8_t { kNo, kYes };
  base::RefPtr<EpollItem> next_mirrored(Mirror& mirror, size_t& at, Take take, base::RefPtr<FileDescription>& target);
  size_t collect_mirrored(Mirror& mirror, std::span<EpollEvent> out, Take take);
  size_t collect_listed(std::span<EpollEvent> out);
  bool link_locked(EpollItem& item, bool in_front) REQUIRES(ready_mu_);
  void show_count_locked() REQUIRES(ready_mu_);
  void leave_view_for_good();

  std::map<Key, base::RefPtr<EpollItem>> items_;  // guarded by the interest lock
  mutable base::Mutex ready_mu_{base::LockRank::kEpollReady};
  struct Ready;
  std::unique_ptr<Ready> ready_;  // guarded by ready_mu_
  WaitQueue queue_{base::LockRank::kEpollQueue};
  std::unique_ptr<Mirror> mirror_owner_;         // set once, with mirror_
  std::atomic<Mirror*> mirror_{nullptr};
  std::atomic<bool> nested_{false};              // in another instance, or was: never in place
};

// The file is on its way out: no epoll instance may know it any more.
void leave_epolls(FileDescription& file);

}  // namespace sentry::vfs
