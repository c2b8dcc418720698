// SPDX-License-Identifier: Apache-2.0
// One lock (kPipe, since last closes happen under many locks) covers all watches and queues: they are few, and telling is rare. A watch pins the dentry, so that
// the inode stays the one that path walks find.
#include "sentry/vfs/inotify.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

#include "sentry/vfs/changes.h"
#include "sentry/vfs/inotify_watches.h"

namespace sentry::vfs {

using enum abi::Errno;

std::atomic<uint32_t> inotify_watch_count{0};

namespace {

constexpr size_t kMaxQueuedEvents = 16384;  // /proc/sys/fs/inotify/max_queued_events
constexpr size_t kMaxWatches = 65536;       // max_user_watches, per instance here

base::Mutex& inotify_mutex() {
  static base::Mutex& mu = *new base::Mutex(base::LockRank::kPipe);
  return mu;
}

struct EventHeader {
  int32_t wd = 0;
  uint32_t mask = 0, cookie = 0, len = 0;
};
static_assert(sizeof(EventHeader) == 16);

struct Event {
  EventHeader header;
  std::string name;
  friend bool operator==(const Event& a, const Event& b) {
    return std::memcmp(&a.header, &b.header, sizeof a.header) == 0 && a.name == b.name;
  }
};

}  // namespace

struct InotifyWatch {
  InotifyFile* file;
  base::RefPtr<Dentry> dentry;
  int32_t wd;
  uint32_t mask;
  CloseWatcher closes = {};
  ReadWatcher reads = {};
  WriteWatcher writes = {};
};

class InotifyFile final : public FileDescription {
 public:
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  InotifyFile(Path path, uint32_t flags) : FileDescription(std::move(path), flags) {}

  ~InotifyFile() override {
    std::vector<base::RefPtr<Dentry>> drop;
    base::MutexLock lock(inotify_mutex());
    while (!watches_.empty()) drop.push_back(remove_locked(*watches_.begin()->second));
  }

  const void* kind() const override { return kKind; }
  WaitQueue* wait_queue() override { return &queue_; }
  bool sends_sigio() const override { return true; }

  PollMask readiness(PollMask) override {
    base::MutexLock lock(inotify_mutex());
    return events_.empty() ? 0 : kPollIn | kPollRdNorm;
  }

  base::Result<size_t> read(OpContext&, IoBuffer& dst) override {
    size_t done = 0;
    for (;;) {
      Event event;
      {
        base::MutexLock lock(inotify_mutex());
        if (events_.empty()) break;
        if (sizeof(EventHeader) + events_.front().header.len > dst.remaining()) {
          if (done == 0) return base::err(kEINVAL);
          break;
        }
        event = std::move(events_.front());
        events_.pop_front();
      }
      event.name.resize(event.header.len);
      done += TRY(dst.put(&event.header, sizeof event.header));
      if (!event.name.empty()) done += TRY(dst.put(event.name.data(), event.name.size()));
    }
    if (done == 0) return base::err(kEAGAIN);
    return done;
  }

  base::Result<int64_t> ioctl(OpContext& ctx, uint32_t request, uint64_t arg) override {
    constexpr uint32_t kFioNRead = 0x541b;
    if (request != kFioNRead) return base::err(kENOTTY);
    int32_t bytes = 0;
    {
      base::MutexLock lock(inotify_mutex());
      for (const Event& e : events_) bytes += static_cast<int32_t>(sizeof e.header + e.header.len);
    }
    TRY(ctx.user_memory().copy_out(abi::Addr(arg), &bytes, sizeof bytes));
    return 0;
  }

  void push_locked(Event event) {
    if (events_.size() > kMaxQueuedEvents) return;
    if (events_.size() == kMaxQueuedEvents) event = {{-1, kInQOverflow, 0, 0}, ""};
    if (!events_.empty() && events_.back() == event) return;
    events_.push_back(std::move(event));
    queue_.notify(kPollIn | kPollRdNorm);
  }

  // What the watch pinned, to be dropped outside the lock.
  base::RefPtr<Dentry> remove_locked(InotifyWatch& watch) {
    std::erase(watch.dentry->inode_ptr()->make_watches().list, &watch);
    inotify_watch_count.fetch_sub(1);
    base::RefPtr<Dentry> pinned = std::move(watch.dentry);
    watches_.erase(watch.wd);
    return pinned;
  }

  std::map<int32_t, std::unique_ptr<InotifyWatch>> watches_;
  int32_t next_wd_ = 1;

 private:
  std::deque<Event> events_;
  WaitQueue queue_;
};

namespace {

// Names are padded with zeros to a multiple of the header, with at least one.
uint32_t padded(std::string_view name) {
  return name.empty() ? 0 : static_cast<uint32_t>((name.size() + sizeof(EventHeader)) / sizeof(EventHeader) * sizeof(EventHeader));
}

void tell(Inode& inode, uint32_t mask, std::string_view name, uint32_t cookie) {
  if (!inode.watches()) return;
  std::vector<base::RefPtr<Dentry>> drop;
  base::MutexLock lock(inotify_mutex());
  std::vector<InotifyWatch*> list = inode.watches()->list;
  for (InotifyWatch* w : list) {
    if (!(w->mask & mask & kInAllEvents) && !(mask & (kInUnmount | kInIgnored))) continue;
    w->file->push_locked({{w->wd, mask, cookie, padded(name)}, std::string(name)});
    if (!(w->mask & kInOneShot)) continue;
    w->file->push_locked({{w->wd, kInIgnored, 0, 0}, ""});
    drop.push_back(w->file->remove_locked(*w));
  }
}

}  // namespace

void notify_inode(Inode& inode, uint32_t mask) {
  tell(inode, mask | (inode.is_dir() ? uint32_t{kInIsDir} : 0), "", 0);
}

void notify_name(Inode& dir, std::string_view name, uint32_t mask, uint32_t cookie) { tell(dir, mask, name, cookie); }

void notify_event_slow(const Dentry& dentry, uint32_t mask) {
  Inode* inode = dentry.inode_ptr();
  if (!inode) return;
  if (inode->is_dir()) mask |= kInIsDir;
  base::RefPtr<Dentry> parent = dentry.parent();
  if (parent && parent->inode_ptr() && parent->inode_ptr()->watches()) tell(*parent->inode_ptr(), mask, dentry.name(), 0);
  tell(*inode, mask, "", 0);
}

uint32_t next_move_cookie() {
  static std::atomic<uint32_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

base::RefPtr<FileDescription> make_inotify(OpContext& ctx, uint32_t flags) {
  return base::make_ref<InotifyFile>(make_anonymous_path("anon_inode:inotify", 0600, ctx.creds()), kO_RDONLY | flags);
}

base::Result<int32_t> add_inotify_watch(FileDescription& file, const Path& path, uint32_t mask) {
  InotifyFile* inotify = file.as<InotifyFile>();
  if (!inotify || !(mask & kInAllEvents)) return base::err(kEINVAL);
  const uint32_t kept = mask & (kInAllEvents | kInOneShot | kInExclUnlink);
  Inode& inode = path.inode();
  std::vector<InotifyWatch*>& list = inode.make_watches().list;
  base::MutexLock lock(inotify_mutex());
  auto mine = std::ranges::find(list, inotify, &InotifyWatch::file);
  if (mine != list.end()) {
    if (mask & kInMaskCreate) return base::err(kEEXIST);
    (*mine)->mask = mask & kInMaskAdd ? (*mine)->mask | kept : kept;
    return (*mine)->wd;
  }
  if (inotify->watches_.size() >= kMaxWatches) return base::err(kENOSPC);
  const int32_t wd = inotify->next_wd_++;
  auto watch = std::unique_ptr<InotifyWatch>(new InotifyWatch{inotify, path.dentry, wd, kept});
  list.push_back(watch.get());
  inotify->watches_[wd] = std::move(watch);
  inotify_watch_count.fetch_add(1);
  return wd;
}

base::Result<void> remove_inotify_watch(FileDescription& file, int32_t wd) {
  InotifyFile* inotify = file.as<InotifyFile>();
  if (!inotify) return base::err(kEINVAL);
  base::RefPtr<Dentry> drop;
  base::MutexLock lock(inotify_mutex());
  auto it = inotify->watches_.find(wd);
  if (it == inotify->watches_.end()) return base::err(kEINVAL);
  inotify->push_locked({{wd, kInIgnored, 0, 0}, ""});
  drop = inotify->remove_locked(*it->second);
  return {};
}

void drop_inotify_watches(Inode& inode) {
  if (!inode.watches()) return;
  std::vector<base::RefPtr<Dentry>> drop;
  base::MutexLock lock(inotify_mutex());
  std::vector<InotifyWatch*>& list = inode.watches()->list;
  while (!list.empty()) {
    InotifyWatch& w = *list.back();
    w.file->push_locked({{w.wd, kInIgnored, 0, 0}, ""});
    drop.push_back(w.file->remove_locked(w));
  }
}

}  // namespace sentry::vfs
