// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/file_locks.h"

#include <algorithm>
#include <unordered_map>

namespace sentry::vfs {

using enum abi::Errno;

namespace {

constexpr size_t kMaxLocks = 65536;  // per inode; ENOLCK beyond

// Which process waits for which: posix_locks_deadlock(). OFD locks take no part, as in Linux.
class WaitGraph {
 public:
  static WaitGraph& get() {
    static WaitGraph& graph = *new WaitGraph;
    return graph;
  }
  // False: waiting would close a circle.
  bool start(const void* waiter, const void* holder) {
    base::MutexLock lock(mu_);
    const void* at = holder;
    for (size_t i = 0; i <= edges_.size(); ++i) {
      if (at == waiter) return false;
      auto next = edges_.find(at);
      if (next == edges_.end()) break;
      at = next->second;
    }
    edges_[waiter] = holder;
    return true;
  }
  void stop(const void* waiter) {
    base::MutexLock lock(mu_);
    edges_.erase(waiter);
  }

 private:
  base::Mutex mu_{base::LockRank::kLeaf};
  std::unordered_map<const void*, const void*> edges_ GUARDED_BY(mu_);
};

bool overlap(const RecordLock& a, const RecordLock& b) { return a.start <= b.end && b.start <= a.end; }
bool is_ofd(const RecordLock& l) { return l.pid.value() == -1; }

}  // namespace

const RecordLock* FileLocks::find_conflict(const RecordLock& lock) const {
  for (const RecordLock& r : records_) {
    if (r.owner == lock.owner || !overlap(r, lock)) continue;
    if (r.type == LockType::kWrite || lock.type == LockType::kWrite) return &r;
  }
  return nullptr;
}

// Replaces the owner's locks in the range: splits what sticks out, merges neighbours of the same type.
void FileLocks::apply(const RecordLock& lock) {
  RecordLock merged = lock;
  std::vector<RecordLock> next;
  next.reserve(records_.size() + 2);
  for (const RecordLock& r : records_) {
    const bool adjacent = (r.end != ~uint64_t{0} && r.end + 1 == lock.start) ||
                          (lock.end != ~uint64_t{0} && lock.end + 1 == r.start);
    if (r.owner != lock.owner || (!overlap(r, lock) && !(adjacent && r.type == lock.type))) {
      next.push_back(r);
      continue;
    }
    if (r.type == lock.type) {
      merged.start = std::min(merged.start, r.start);
      merged.end = std::max(merged.end, r.end);
      continue;
    }
    if (r.start < lock.start) {
      next.push_back(r);
      next.back().end = lock.start - 1;
    }
    if (r.end > lock.end) {
      next.push_back(r);
      next.back().start = lock.end + 1;
    }
  }
  if (lock.type != LockType::kUnlock) next.push_back(merged);
  std::ranges::stable_sort(next, {}, &RecordLock::start);
  records_ = std::move(next);
  changed_locked();
}

void FileLocks::changed_locked() {
  if (records_.empty() && flocks_.empty()) closes_.reset();
  else if (!closes_) closes_.emplace();
}

base::Result<void> FileLocks::set(OpContext& ctx, const RecordLock& lock, LockWait wait) {
  if (lock.type == LockType::kUnlock) {
    {
      base::MutexLock guard(mu_);
      apply(lock);
    }
    queue_.notify(kPollAll);
    return {};
  }
  bool done = false;
  abi::Errno failure = kEAGAIN;
  auto attempt = [&] {
    base::MutexLock guard(mu_);
    const RecordLock* conflict = find_conflict(lock);
    if (!conflict) {
      done = records_.size() < kMaxLocks;
      if (done) apply(lock);
      failure = kENOLCK;
      return true;
    }
    failure = kEAGAIN;
    if (wait == LockWait::kNoWait) return true;
    if (!is_ofd(lock) && !is_ofd(*conflict) && !WaitGraph::get().start(lock.owner, conflict->owner)) {
      failure = kEDEADLK;
      return true;
    }
    return false;
  };
  base::Result<void> waited = wait_until(ctx, queue_, kPollAll, std::nullopt, attempt);
  if (wait == LockWait::kWait && !is_ofd(lock)) WaitGraph::get().stop(lock.owner);
  TRY(waited);
  if (!done) return base::err(failure);
  queue_.notify(kPollAll);  // a write lock may have become a read lock
  return {};
}

std::optional<RecordLock> FileLocks::conflicting(const RecordLock& lock) const {
  base::MutexLock guard(mu_);
  const RecordLock* found = find_conflict(lock);
  return found ? std::optional(*found) : std::nullopt;
}

bool FileLocks::flock_conflicts(const FileDescription* file, LockType type) const {
  return std::ranges::any_of(flocks_, [&](const Whole& w) {
    return w.file != file && (w.type == LockType::kWrite || type == LockType::kWrite);
  });
}

base::Result<void> FileLocks::flock(OpContext& ctx, FileDescription& file, LockType type, LockWait wait) {
  {
    base::MutexLock guard(mu_);
    auto mine = std::ranges::find(flocks_, &file, &Whole::file);
    if (mine != flocks_.end()) {
      if (mine->type == type) return {};
      flocks_.erase(mine);
      changed_locked();
    }
  }
  queue_.notify(kPollAll);
  if (type == LockType::kUnlock) return {};
  bool done = false;
  auto attempt = [&] {
    base::MutexLock guard(mu_);
    done = !flock_conflicts(&file, type);
    if (done) flocks_.push_back({&file, type, ctx.owner_pid()});
    changed_locked();
    return done || wait == LockWait::kNoWait;
  };
  TRY(wait_until(ctx, queue_, kPollAll, std::nullopt, attempt));
  if (!done) return base::err(kEAGAIN);
  return {};
}

void FileLocks::release_owner(const void* owner) {
  {
    base::MutexLock guard(mu_);
    if (std::erase_if(records_, [&](const RecordLock& r) { return r.owner == owner; }) == 0) return;
    changed_locked();
  }
  queue_.notify(kPollAll);
}

void FileLocks::release_description(const FileDescription* file) {
  release_owner(file);
  {
    base::MutexLock guard(mu_);
    if (std::erase_if(flocks_, [&](const Whole& w) { return w.file == file; }) == 0) return;
    changed_locked();
  }
  queue_.notify(kPollAll);
}

std::vector<FileLocks::Entry> FileLocks::list() const {
  std::vector<Entry> entries;
  base::MutexLock guard(mu_);
  for (const RecordLock& r : records_) entries.push_back({false, r});
  for (const Whole& w : flocks_) entries.push_back({true, {w.file, w.pid, w.type, 0, ~uint64_t{0}}});
  return entries;
}

}  // namespace sentry::vfs
