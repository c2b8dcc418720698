// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/epoll.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

namespace sentry::vfs {

using enum abi::Errno;

namespace {

constexpr int kMaxNesting = 5;  // EP_MAX_NESTS + 1
constexpr size_t kWords = in_place::kDescriptors / 64;  // of a set of descriptors
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
  bool is_for_sentry() const { return (event_.events & in_place::kPollSentryOnly) != 0; }
  InPlaceEnd* end_ = nullptr;                 // while mirrored
  std::atomic<uint32_t> mask_{0};           // 0: one-shot that has fired; else the poll bits of event_
  bool mirrored_ = false;                   // guarded by the owner's ready_mu_
  base::ListHook ready_hook_;               // guarded by the owner's ready_mu_
  base::ListHook target_hook_;              // guarded by the interest lock
};

namespace {

// What FileDescription::epoll_items_ points to; guarded by the interest lock.
struct ItemsOfTarget {
  base::IntrusiveList<EpollItem, &EpollItem::target_hook_> list;
};

}  // namespace

// What a stub shares of this instance.
struct EpollFile::Mirror {
  class End final : public InPlaceEnd {
   public:
    explicit End(base::RefPtr<InPlaceMemory> memory) : memory_(std::move(memory)) {}
    bool is_poll() const override { return true; }
    InPlaceMemory& memory() const override { return *memory_; }
    uint64_t word_locked() const override { return in_place::kKindPoll | uint64_t{view()->waiting_word()} << 32; }
    void moved_locked() override { stale.store(true); }
    void view_changed_locked() override { stale.store(true); }
    // Into one view only: what the memory has is about the files of that one.
    bool clean_locked() override { return std::exchange(is_fresh_, false); }
    std::atomic<bool> stale{false};  // items may have to be mirrored, or no longer

   private:
    const base::RefPtr<InPlaceMemory> memory_;
    bool is_fresh_ = true;
  };
  explicit Mirror(base::RefPtr<InPlaceMemory> memory) : end(std::move(memory)), page(end.memory().poll()), by_fd(in_place::kDescriptors) {}
  // A thread of the stub may be changing the page; not for long, unless it wants to harm itself. All epoll instances wait meanwhile.
  void lock_page() {
    uint32_t free = 0;
    for (int i = 0; i < 1000 && !__atomic_compare_exchange_n(&page.lock, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED); ++i) {
      free = 0;
      __builtin_ia32_pause();
    }
  }
  void unlock_page() { __atomic_store_n(&page.lock, 0u, __ATOMIC_RELEASE); }
  void forget(int32_t fd) { in_place::clear_bit(page.registered, static_cast<uint32_t>(fd)); }
  void publish(int32_t fd, const EpollEvent& event) {
    in_place::PollEntry& entry = page.entries[fd];
    __atomic_store_n(&entry.events, event.events, __ATOMIC_RELAXED);
    __atomic_store_n(&entry.data, event.data, __ATOMIC_RELAXED);
    __atomic_store_n(&entry.armed, 1u, __ATOMIC_SEQ_CST);
    in_place::set_bit(page.registered, static_cast<uint32_t>(fd));
  }

  End end;
  in_place::PollBlock& page;  // hostile
  // ready_mu_:
  std::vector<EpollItem*> by_fd;
  std::vector<int32_t> fds;  // that have one
  size_t next = 0;           // where the next search begins
  std::atomic<bool> listed_first = false;
};

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
  if (item.mirrored_) unmirror_item(*mirror_.load(), item);
  base::MutexLock lock(ready_mu_);
  item.target_ = nullptr;
  if (!item.ready_hook_.linked()) return;
  ready_->list.remove(item);
  --ready_->count;
  show_count_locked();
}

bool EpollFile::link_locked(EpollItem& item, bool in_front) {
  if (item.ready_hook_.linked()) return false;
  in_front ? ready_->list.push_front(item) : ready_->list.push_back(item);
  ++ready_->count;
  show_count_locked();
  return true;
}

// A stub asks the sentry while there is something on the list.
void EpollFile::show_count_locked() {
  if (Mirror* m = mirror_.load(std::memory_order_acquire))
    __atomic_store_n(&m->page.ready, static_cast<uint32_t>(ready_->count), __ATOMIC_SEQ_CST);
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
  note_use();
  return insert(target, fd, event);
}

base::Result<void> EpollFile::insert(FileDescription& target, abi::Fd fd, EpollEvent event) {
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
    if (!items) target.epoll_items_.store(items = new ItemsOfTarget, std::memory_order_seq_cst);
    items->list.push_back(*item);
    if (queue) queue->add(*item, kPollAll);
    if (nested) nested->leave_view_for_good();
    if (InPlaceEnd* end = target.in_place_end(); end && end->view()) {
      // Until catch_up() has seen that only its own process is watching.
      base::MutexLock in_place(in_place_mutex());
      end->want_kicks_locked(true);
      if (Mirror* m = mirror_.load(std::memory_order_acquire)) m->end.stale.store(true);
    }
  }
  if (target.readiness(event.events & ~kModeBits) & item->mask_.load()) make_ready(*item);
  return {};
}

base::Result<void> EpollFile::modify(FileDescription& target, abi::Fd fd, EpollEvent event) {
  note_use();
  base::RefPtr<EpollItem> item;
  {
    base::MutexLock lock(interest_mutex());
    auto it = items_.find({&target, fd.value()});
    if (it == items_.end()) return base::err(kENOENT);
    if ((event.events | it->second->event_.events) & kEpollExclusive) return base::err(kEINVAL);
    item = it->second;
    base::MutexLock ready(ready_mu_);
    item->set_event(event);
    if (item->mirrored_) mirror_.load()->end.stale.store(true);
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
  if (item->mirrored_) mirror_.load()->forget(fd.value());
  detach_locked(*item);
  return {};
}

void EpollFile::make_ready(EpollItem& item) {
  {
    base::MutexLock lock(ready_mu_);
    if (!item.target_) return;
    if (item.mirrored_) __atomic_store_n(&mirror_.load()->page.entries[item.fd_].armed, 1u, __ATOMIC_SEQ_CST);
    else link_locked(item, false);
  }
  queue_.notify(kPollIn | kPollRdNorm);
}

base::RefPtr<EpollItem> EpollFile::pop_ready(base::RefPtr<FileDescription>& target) {
  base::MutexLock lock(ready_mu_);
  EpollItem* item = ready_->list.pop_front();
  if (!item) return nullptr;
  --ready_->count;
  ++ready_->looked_at;
  show_count_locked();
  // A target whose last reference is gone waits for our lock in detach_locked(): the pointer is good, the object is not.
  if (item->target_->try_ref()) target = base::RefPtr<FileDescription>::adopt(item->target_);
  return base::RefPtr<EpollItem>(item);
}

// The end of what pop_ready() began; `back` tells where the item goes. True when somebody must be woken for it.
bool EpollFile::looked_locked(EpollItem& item, Back back) {
  if (back != Back::kNot && item.target_) {
    if (item.mirrored_) __atomic_store_n(&mirror_.load()->page.entries[item.fd_].armed, 1u, __ATOMIC_SEQ_CST);
    else link_locked(item, back == Back::kFirst);
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

size_t EpollFile::collect(OpContext& ctx, std::span<EpollEvent> out) {
  note_use();
  Mirror* m = mirror_.load(std::memory_order_acquire);
  if (!m) return collect_listed(out);
  catch_up(ctx);
  const bool listed_first = !m->listed_first.load(std::memory_order_relaxed);
  m->listed_first.store(listed_first, std::memory_order_relaxed);
  size_t n = listed_first ? collect_listed(out) : 0;
  n += collect_mirrored(*m, out.subspan(n), Take::kYes);
  if (!listed_first) n += collect_listed(out.subspan(n));
  return n;
}

size_t EpollFile::collect_listed(std::span<EpollEvent> out) {
  if (out.empty()) return 0;
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
  if (Mirror* m = mirror_.load(std::memory_order_acquire)) {
    std::array<EpollEvent, 1> one;
    if (collect_mirrored(*m, one, Take::kNo) != 0) return kPollIn | kPollRdNorm;
  }
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

// --- in place ---

base::Result<InPlaceEnd*> EpollFile::prepare_in_place(OpContext& ctx) {
  if (!ctx.memory_file() || nested_.load()) return base::err(kEOPNOTSUPP);
  if (!mirror_.load()) {
    auto fresh = std::make_unique<Mirror>(TRY(InPlaceMemory::create(*ctx.memory_file(), in_place::kPollBlockSize)));
    base::MutexLock interest(interest_mutex());
    base::MutexLock lock(ready_mu_);
    if (!mirror_owner_) {
      mirror_owner_ = std::move(fresh);
      mirror_.store(mirror_owner_.get(), std::memory_order_seq_cst);
      show_count_locked();
    }
  }
  return &mirror_.load()->end;
}

InPlaceEnd* EpollFile::in_place_end() const {
  Mirror* m = mirror_.load(std::memory_order_acquire);
  return m ? &m->end : nullptr;
}

void EpollFile::leave_view_for_good() {
  nested_.store(true);
  Mirror* m = mirror_.load();
  if (!m) return;
  base::MutexLock lock(in_place_mutex());
  m->end.leave_locked();
}

void EpollFile::in_place_kick(OpContext& ctx) {
  catch_up(ctx);
  if (readiness(kPollAll)) queue_.notify(kPollIn | kPollRdNorm);
}

void EpollFile::catch_up(OpContext& ctx) {
  Mirror* m = mirror_.load(std::memory_order_acquire);
  if (!m) return;
  take_over(ctx, *m);
  if (m->end.stale.load(std::memory_order_relaxed) && m->end.stale.exchange(false)) rebuild(*m);
}

// What the stub has changed since. Its numbers are those of its own process.
void EpollFile::take_over(OpContext& ctx, Mirror& m) {
  if (!m.end.is_of(ctx.lock_owner())) return;
  for (size_t i = 0; i < kWords; ++i) {
    if (__atomic_load_n(&m.page.dirty[i], __ATOMIC_RELAXED) == 0) continue;
    uint64_t bits = __atomic_exchange_n(&m.page.dirty[i], uint64_t{0}, __ATOMIC_SEQ_CST);
    for (; bits != 0; bits &= bits - 1) {
      const int32_t fd = static_cast<int32_t>(i * 64) + __builtin_ctzll(bits);
      auto file = base::RefPtr<FileDescription>::adopt(ctx.ref_descriptor(abi::Fd(fd)));
      if (!file) continue;
      const in_place::PollEntry& entry = m.page.entries[fd];
      const bool registered = in_place::test_bit(m.page.registered, static_cast<uint32_t>(fd));
      const EpollEvent event{__atomic_load_n(&entry.events, __ATOMIC_ACQUIRE) & ~in_place::kPollSentryOnly,
                             __atomic_load_n(&entry.data, __ATOMIC_ACQUIRE)};
      bool there = false;
      {
        base::RefPtr<EpollItem> gone;  // dropped after the locks
        base::MutexLock interest(interest_mutex());
        auto it = items_.find({file.get(), fd});
        there = it != items_.end();
        if (there && registered) {
          base::MutexLock lock(ready_mu_);
          it->second->set_event(event);
        } else if (there) {
          gone = std::move(it->second);
          items_.erase(it);
          detach_locked(*gone);
        }
      }
      // Refused only where the stub has made it up.
      if (!there && registered) (void)insert(*file, abi::Fd(fd), event);
    }
  }
}

// With the interest lock and the page's. The page has the event already when the stub put it there; else it gets it now.
void EpollFile::mirror_item(Mirror& m, EpollItem& item, FileDescription& target) {
  base::MutexLock lock(ready_mu_);
  const bool newer = item.mirrored_ && in_place::test_bit(m.page.dirty, static_cast<uint32_t>(item.fd_));
  if (!newer) m.publish(item.fd_, item.event_);
  if (item.mirrored_) return;
  item.mirrored_ = true;
  item.end_ = target.in_place_end();
  m.by_fd[static_cast<size_t>(item.fd_)] = &item;
  m.fds.push_back(item.fd_);
  if (!item.ready_hook_.linked()) return;
  ready_->list.remove(item);
  --ready_->count;
  show_count_locked();
}

void EpollFile::unmirror_item(Mirror& m, EpollItem& item) {
  base::MutexLock lock(ready_mu_);
  if (!item.mirrored_) return;
  item.mirrored_ = false;
  m.by_fd[static_cast<size_t>(item.fd_)] = nullptr;
  std::erase(m.fds, item.fd_);
}

// Mirrors the items whose file is in the same view, and no others.
void EpollFile::rebuild(Mirror& m) {
  uint64_t known[kWords] = {};
  std::vector<base::RefPtr<EpollItem>> stay, left;
  base::MutexLock interest(interest_mutex());
  m.lock_page();
  {
    base::MutexLock in_place(in_place_mutex());
    if (InPlaceView* view = m.end.view()) {
      view->for_each([&](int32_t fd, FileDescription& file, InPlaceEnd& end) {
        if (end.is_poll()) return;
        auto it = items_.find({&file, fd});
        if (it != items_.end() && it->second->is_for_sentry()) return end.want_kicks_locked(true);
        auto* watchers = static_cast<ItemsOfTarget*>(file.epoll_items_.load(std::memory_order_seq_cst));
        const bool alone = !watchers || !watchers->list.front() ||
                           (it != items_.end() && watchers->list.front() == it->second.get() && !watchers->list.next(*it->second));
        if (alone && !(file.status_flags() & kO_ASYNC)) end.want_kicks_locked(false);
        if (it != items_.end()) {
          // The number may have been another file's, whose item is there still.
          if (EpollItem* before = m.by_fd[static_cast<size_t>(fd)]; before && before != it->second.get()) {
            left.emplace_back(before);
            unmirror_item(m, *before);
          }
          mirror_item(m, *it->second, file);
          stay.push_back(it->second);
        }
        known[fd / 64] |= uint64_t{1} << (fd % 64);
      });
    }
  }
  for (const base::RefPtr<EpollItem>& item : unmirror_others(m, stay)) left.push_back(item);
  for (size_t i = 0; i < kWords; ++i) __atomic_store_n(&m.page.known[i], known[i], __ATOMIC_SEQ_CST);
  m.unlock_page();
  base::MutexLock lock(ready_mu_);
  for (const base::RefPtr<EpollItem>& item : left)
    if (item->target_ && item->mask_.load() != 0) link_locked(*item, false);  // collect() finds out whether it is ready
}

// Those that are not in `stay`.
std::vector<base::RefPtr<EpollItem>> EpollFile::unmirror_others(Mirror& m, std::span<const base::RefPtr<EpollItem>> stay) {
  std::vector<base::RefPtr<EpollItem>> left;
  std::array<bool, in_place::kDescriptors> stays{};
  for (const base::RefPtr<EpollItem>& item : stay) stays[static_cast<size_t>(item->fd_)] = true;
  {
    base::MutexLock lock(ready_mu_);
    for (int32_t fd : m.fds)
      if (!stays[static_cast<size_t>(fd)]) left.emplace_back(m.by_fd[static_cast<size_t>(fd)]);
  }
  for (const base::RefPtr<EpollItem>& item : left) {
    m.forget(item->fd_);
    unmirror_item(m, *item);
  }
  return left;
}

// The next mirrored item, `at` places after the last one that gave an event, that may have something to tell. Null: none any more.
base::RefPtr<EpollItem> EpollFile::next_mirrored(Mirror& m, size_t& at, Take take, base::RefPtr<FileDescription>& target) {
  base::MutexLock lock(ready_mu_);
  while (at < m.fds.size()) {
    const int32_t fd = m.fds[(m.next + at++) % m.fds.size()];
    EpollItem& item = *m.by_fd[static_cast<size_t>(fd)];
    const uint32_t mask = item.mask_.load(std::memory_order_relaxed);
    const InPlaceEnd::Look look = item.end_->look((mask & kPollOut) != 0);
    if (!item.target_ || mask == 0 || (look.is_quiet && !(mask & kPollOut))) continue;
    if (item.event_.events & kEpollEdge) {
      in_place::PollEntry& entry = m.page.entries[fd];
      const bool armed = take == Take::kYes ? __atomic_exchange_n(&entry.armed, 0u, __ATOMIC_SEQ_CST) != 0
                                            : __atomic_load_n(&entry.armed, __ATOMIC_SEQ_CST) != 0;
      if (!armed && __atomic_load_n(&entry.seen, __ATOMIC_RELAXED) == look.edges) continue;
      if (take == Take::kYes) __atomic_store_n(&entry.seen, look.edges, __ATOMIC_RELAXED);
    }
    if (!item.target_->try_ref()) continue;
    target = base::RefPtr<FileDescription>::adopt(item.target_);
    return base::RefPtr<EpollItem>(item);
  }
  return nullptr;
}

// As collect(), of the mirrored items. Take::kNo: tells only whether there are any.
size_t EpollFile::collect_mirrored(Mirror& m, std::span<EpollEvent> out, Take take) {
  size_t n = 0, at = 0, last = 0;
  while (n < out.size()) {
    base::RefPtr<FileDescription> target;
    const base::RefPtr<EpollItem> item = next_mirrored(m, at, take, target);
    if (!item) break;
    const uint32_t mask = item->mask_.load(std::memory_order_relaxed);
    const PollMask ready = target->readiness(mask) & mask;
    if (!ready) continue;
    base::MutexLock lock(ready_mu_);
    if (!item->target_) continue;
    out[n++] = {ready, item->event_.data};
    last = at;
  }
  if (n == 0 || take == Take::kNo) return n;
  base::MutexLock lock(ready_mu_);
  m.next = (m.next + last) % std::max<size_t>(m.fds.size(), 1);
  return n;
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
