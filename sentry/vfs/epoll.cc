// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/epoll.h"

#include <fmt/format.h>

#include <vector>

namespace sentry::vfs {

using enum abi::Errno;

namespace {

constexpr int kMaxNesting = 5;  // EP_MAX_NESTS + 1
constexpr uint32_t kModeBits = kEpollExclusive | kEpollWakeUp | kEpollOneShot | kEpollEdge;

base::Mutex& interest_mutex() {
  static base::Mutex& mu = *new base::Mutex(base::LockRank::kEpoll);
  return mu;
}

}  // namespace

class EpollItem final : public base::RefCounted, public Waiter {
 public:
  EpollItem(EpollFile& owner, FileDescription& target, int32_t fd, EpollEvent event)
      : owner_(owner), target_(&target), fd_(fd), event_(event) {}
  void notify(PollMask events) override {
    if (events & mask_.load(std::memory_order_relaxed)) owner_.make_ready(*this);
  }
  void set_event(EpollEvent event) {
    event_ = event;
    mask_.store((event.events & ~kModeBits) | kPollErr | kPollHup, std::memory_order_relaxed);
  }

  EpollFile& owner_;         // valid while the item is in its items_
  FileDescription* target_;  // guarded by the owner's ready_mu_; null once it went away
  const int32_t fd_;
  EpollEvent event_;                        // guarded by the owner's ready_mu_
  std::atomic<uint32_t> mask_{0};           // 0: one-shot that has fired; else the poll bits of event_
  base::ListHook ready_hook_;               // guarded by the owner's ready_mu_
  base::ListHook target_hook_;              // guarded by the interest lock
};

namespace {

// What FileDescription::epoll_items_ points to; guarded by the interest lock.
struct ItemsOfTarget {
  base::IntrusiveList<EpollItem, &EpollItem::target_hook_> list;
};

}  // namespace

struct EpollFile::Ready {
  base::IntrusiveList<EpollItem, &EpollItem::ready_hook_> list;
  size_t count = 0;
  // An item is off the list while somebody looks at its target. Who finds the list empty meanwhile would wait although the
  // item may come back: it leaves a note, and is woken when one does (ep_done_scan of Linux wakes then, too).
  size_t looked_at = 0;
  bool missed = false;
};

base::RefPtr<EpollFile> EpollFile::create(OpContext& ctx) {
  return base::make_ref<EpollFile>(make_anonymous_path("anon_inode:[eventpoll]", 0600, ctx.creds()));
}

EpollFile::EpollFile(Path path) : FileDescription(std::move(path), kO_RDWR), ready_(std::make_unique<Ready>()) {}

EpollFile::~EpollFile() = default;

// Takes the item out of everything but items_, with the interest lock held; its target still exists.
void EpollFile::detach_locked(EpollItem& item) {
  FileDescription& target = *item.target_;
  if (WaitQueue* queue = target.wait_queue()) queue->remove(item);
  static_cast<ItemsOfTarget*>(target.epoll_items_.load(std::memory_order_relaxed))->list.remove(item);
  base::MutexLock lock(ready_mu_);
  item.target_ = nullptr;
  if (!item.ready_hook_.linked()) return;
  ready_->list.remove(item);
  --ready_->count;
}

void EpollFile::destroy() const {
  EpollFile& self = *const_cast<EpollFile*>(this);
  {
    base::MutexLock lock(interest_mutex());
    for (auto& [key, item] : self.items_) self.detach_locked(*item);
    self.items_.clear();
  }
  if (epoll_items_.load(std::memory_order_acquire)) leave_epolls(self);
  delete this;
}

void leave_epolls(FileDescription& file) {
  std::vector<base::RefPtr<EpollItem>> gone;
  std::unique_ptr<ItemsOfTarget> items;
  base::MutexLock lock(interest_mutex());
  items.reset(static_cast<ItemsOfTarget*>(file.epoll_items_.load(std::memory_order_relaxed)));
  while (EpollItem* item = items->list.front()) {
    EpollFile& owner = item->owner_;
    auto it = owner.items_.find({&file, item->fd_});
    gone.push_back(std::move(it->second));
    owner.items_.erase(it);
    owner.detach_locked(*item);
  }
  file.epoll_items_.store(nullptr, std::memory_order_relaxed);
}

bool EpollFile::reaches(const EpollFile& from, const EpollFile& target, int depth) {
  if (&from == &target || depth > kMaxNesting) return true;
  for (const auto& [key, item] : from.items_) {
    EpollFile* inner = key.first->as<EpollFile>();
    if (inner && reaches(*inner, target, depth + 1)) return true;
  }
  return false;
}

base::Result<void> EpollFile::add(FileDescription& target, abi::Fd fd, EpollEvent event) {
  if (&target == this) return base::err(kEINVAL);
  WaitQueue* queue = target.wait_queue();
  if (!queue && (target.inode().is_regular() || target.inode().is_dir())) return base::err(kEPERM);
  EpollFile* nested = target.as<EpollFile>();
  if ((event.events & kEpollExclusive) && nested) return base::err(kEINVAL);
  auto item = base::make_ref<EpollItem>(*this, target, fd.value(), event);
  item->set_event(event);
  {
    base::MutexLock lock(interest_mutex());
    auto [slot, fresh] = items_.try_emplace({&target, fd.value()}, item);
    if (!fresh) return base::err(kEEXIST);
    if (nested && reaches(*nested, *this, 1)) {
      items_.erase(slot);
      return base::err(kELOOP);
    }
    auto* items = static_cast<ItemsOfTarget*>(target.epoll_items_.load(std::memory_order_relaxed));
    if (!items) target.epoll_items_.store(items = new ItemsOfTarget, std::memory_order_release);
    items->list.push_back(*item);
    if (queue) queue->add(*item, kPollAll);
  }
  if (target.readiness(event.events & ~kModeBits) & item->mask_.load()) make_ready(*item);
  return {};
}

base::Result<void> EpollFile::modify(FileDescription& target, abi::Fd fd, EpollEvent event) {
  base::RefPtr<EpollItem> item;
  {
    base::MutexLock lock(interest_mutex());
    auto it = items_.find({&target, fd.value()});
    if (it == items_.end()) return base::err(kENOENT);
    if ((event.events | it->second->event_.events) & kEpollExclusive) return base::err(kEINVAL);
    item = it->second;
    base::MutexLock ready(ready_mu_);
    item->set_event(event);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);  // who changes the target sees the mask, or we see the change
  if (target.readiness(event.events & ~kModeBits) & item->mask_.load()) make_ready(*item);
  return {};
}

base::Result<void> EpollFile::remove(FileDescription& target, abi::Fd fd) {
  base::RefPtr<EpollItem> item;  // dropped after the lock
  base::MutexLock lock(interest_mutex());
  auto it = items_.find({&target, fd.value()});
  if (it == items_.end()) return base::err(kENOENT);
  item = std::move(it->second);
  items_.erase(it);
  detach_locked(*item);
  return {};
}

void EpollFile::make_ready(EpollItem& item) {
  {
    base::MutexLock lock(ready_mu_);
    if (!item.target_) return;
    if (!item.ready_hook_.linked()) {
      ready_->list.push_back(item);
      ++ready_->count;
    }
  }
  queue_.notify(kPollIn | kPollRdNorm);
}

base::RefPtr<EpollItem> EpollFile::pop_ready(base::RefPtr<FileDescription>& target) {
  base::MutexLock lock(ready_mu_);
  EpollItem* item = ready_->list.pop_front();
  if (!item) return nullptr;
  --ready_->count;
  ++ready_->looked_at;
  // A target whose last reference is gone waits for our lock in detach_locked(): the pointer is good, the object is not.
  if (item->target_->try_ref()) target = base::RefPtr<FileDescription>::adopt(item->target_);
  return base::RefPtr<EpollItem>(item);
}

// The end of what pop_ready() began; `back` tells where the item goes. True when somebody must be woken for it.
bool EpollFile::looked_locked(EpollItem& item, Back back) {
  if (back != Back::kNot && item.target_ && !item.ready_hook_.linked()) {
    if (back == Back::kFirst) ready_->list.push_front(item);
    else ready_->list.push_back(item);
    ++ready_->count;
  }
  const bool wake = ready_->missed && ready_->count != 0;
  if (--ready_->looked_at == 0 || wake) ready_->missed = false;
  return wake;
}

// Which event the item gives, if any: ready_mu_ is held, `ready` was seen without it.
bool EpollFile::take_event_locked(EpollItem& item, PollMask ready, EpollEvent& out) {
  // Another thread may have taken a one-shot event meanwhile.
  if (ready == 0 || !item.target_ || item.mask_.load(std::memory_order_relaxed) == 0) return false;
  out = {ready, item.event_.data};
  if (item.event_.events & kEpollOneShot) item.mask_.store(0, std::memory_order_relaxed);
  return true;
}

size_t EpollFile::collect(std::span<EpollEvent> out) {
  const size_t most = begin_looking();  // each item once, although level-triggered ones come back to the list
  size_t n = 0;
  bool wake = false;
  for (size_t left = most; left != 0 && n < out.size(); --left) {
    base::RefPtr<FileDescription> target;
    base::RefPtr<EpollItem> item = pop_ready(target);
    if (!item) break;
    const uint32_t mask = item->mask_.load(std::memory_order_relaxed);
    const PollMask ready = target && mask != 0 ? target->readiness(mask) & mask : 0;
    base::MutexLock lock(ready_mu_);
    const bool taken = take_event_locked(*item, ready, out[n]);
    n += taken;
    const bool level = taken && !(item->event_.events & (kEpollOneShot | kEpollEdge));
    wake |= looked_locked(*item, level ? Back::kLast : Back::kNot);
  }
  if (n == 0 && most != 0) wake |= begin_looking() != 0;  // others were faster, and gave some back
  if (wake) queue_.notify(kPollIn | kPollRdNorm);
  return n;
}

// How many items there are to look at; with none, whoever gives one back wakes the caller.
size_t EpollFile::begin_looking() {
  base::MutexLock lock(ready_mu_);
  if (ready_->count == 0 && ready_->looked_at != 0) ready_->missed = true;
  return ready_->count;
}

PollMask EpollFile::readiness(PollMask) {
  PollMask result = 0;
  bool wake = false;
  for (size_t left = begin_looking(); left != 0 && result == 0; --left) {
    base::RefPtr<FileDescription> target;
    base::RefPtr<EpollItem> item = pop_ready(target);
    if (!item) break;
    const uint32_t mask = item->mask_.load(std::memory_order_relaxed);
    if (target && target->readiness(mask) & mask) result = kPollIn | kPollRdNorm;
    base::MutexLock lock(ready_mu_);
    wake |= looked_locked(*item, result ? Back::kFirst : Back::kNot);
  }
  if (wake) queue_.notify(kPollIn | kPollRdNorm);
  return result;
}

std::string EpollFile::fdinfo() const {
  std::string text;
  base::MutexLock lock(interest_mutex());
  for (const auto& [key, item] : items_) {
    base::MutexLock ready(ready_mu_);
    fmt::format_to(std::back_inserter(text), "tfd: {:8} events: {:8x} data: {:16x}  pos:0 ino:{:x} sdev:{:x}\n", item->fd_,
                   item->event_.events, item->event_.data, key.first->inode().number(), 0);
  }
  return text;
}

}  // namespace sentry::vfs
