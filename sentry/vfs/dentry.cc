// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/dentry.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "sentry/vfs/changes.h"

namespace sentry::vfs {

using enum abi::Errno;

namespace {

constexpr size_t kNameMax = 255;

// Names removed or moved, anywhere; raised before the name leaves the cache.
std::atomic<uint64_t> removals{0};

template <typename T>
T load(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

uint32_t hash_name(std::string_view name) {
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;
  const char* p = name.data();
  size_t n = name.size();
  uint64_t h = n, last = 0;
  for (; n > 8; n -= 8, p += 8) h = (std::rotl(h, 23) ^ load<uint64_t>(p)) * kFactor;
  // What is left in at most three reads that may overlap.
  if (n >= 4) {
    last = load<uint32_t>(p) | uint64_t{load<uint32_t>(p + n - 4)} << 32;
  } else if (n != 0) {
    last = load<uint8_t>(p) | uint64_t{load<uint8_t>(p + n / 2)} << 8 | uint64_t{load<uint8_t>(p + n - 1)} << 16;
  }
  h = (std::rotl(h, 23) ^ last) * kFactor;
  return static_cast<uint32_t>(h ^ (h >> 32));
}

// What a name depends on that leads to `inode` (null: to nothing) in `directory`: links and directories may be in the middle of any path.
uint32_t word_of(const Inode* inode, const Dentry* directory) {
  if (!directory || (inode && (inode->is_dir() || inode->is_symlink()))) return kChangedPaths;
  return change_word(directory->inode_ptr()->number());
}

// A chain of parents may be as long as a guest likes: dropping it link by link in destructors would eat the stack.
struct DeferredDrops {
  std::vector<base::RefPtr<Dentry>> pending;
  bool active = false;
};
thread_local DeferredDrops deferred;  // never used across a block: dropping a dentry does not block

void drop_without_recursion(base::RefPtr<Dentry> dentry) {
  if (!dentry) return;
  deferred.pending.push_back(std::move(dentry));
  if (deferred.active) return;
  deferred.active = true;
  while (!deferred.pending.empty()) {
    base::RefPtr<Dentry> next = std::move(deferred.pending.back());
    deferred.pending.pop_back();
    next.reset();
  }
  deferred.active = false;
}

}  // namespace

// Names used lately, oldest first; a second chance for what was used since it was last looked at.
struct DentryLru {
  static constexpr size_t kMax = 32768;  // about 10 MiB with their inodes
  static constexpr int kScan = 8;        // per insertion, so that no insertion is slow

  base::Mutex mu{base::LockRank::kLeaf};
  base::IntrusiveList<Dentry, &Dentry::lru_hook_> list GUARDED_BY(mu);
  size_t count GUARDED_BY(mu) = 0;

  static DentryLru& get() {
    static DentryLru& lru = *new DentryLru;  // never destroyed: dentries may outlive static destruction
    return lru;
  }

  void add(Dentry& dentry) {
    std::array<base::RefPtr<Dentry>, kScan> victims;
    base::MutexLock lock(mu);
    if (dentry.lru_hook_.linked() || dentry.is_deleted()) return;
    dentry.ref();
    list.push_back(dentry);
    ++count;
    for (int i = 0; i < kScan && count > kMax; ++i) {
      Dentry& oldest = *list.front();
      list.remove(oldest);
      if (oldest.used_.exchange(false, std::memory_order_relaxed) || oldest.ref_count_for_debug() > 1) {
        list.push_back(oldest);
        continue;
      }
      --count;
      victims[static_cast<size_t>(i)] = base::RefPtr<Dentry>::adopt(&oldest);
    }
    // `victims` was declared before the lock: it is dropped after it.
  }

  void remove(Dentry& dentry) {
    base::RefPtr<Dentry> held;
    base::MutexLock lock(mu);
    if (!dentry.lru_hook_.linked()) return;
    list.remove(dentry);
    --count;
    held = base::RefPtr<Dentry>::adopt(&dentry);
  }

  void drop(const FileSystem* fs) {
    std::vector<base::RefPtr<Dentry>> victims;
    base::MutexLock lock(mu);
    list.for_each([&](Dentry& d) {
      mu.assert_held();
      if (fs && d.fs_ != fs) return;
      list.remove(d);
      --count;
      victims.push_back(base::RefPtr<Dentry>::adopt(&d));
    });
  }
};

struct Dentry::Names {
  std::vector<Dentry*> buckets = std::vector<Dentry*>(8);
  size_t count = 0;
};

Dentry::Dentry(base::RefPtr<Dentry> parent, std::string name, base::RefPtr<Inode> inode, const FileSystem* fs)
    : parent_(std::move(parent)), name_(std::move(name)), inode_(inode.get()), fs_(fs), is_root_(parent_ == nullptr) {
  (void)inode.release();  // inode_ owns it
}

Dentry::~Dentry() {
  unhash();
  base::RefPtr<Inode> inode = base::RefPtr<Inode>::adopt(inode_.load(std::memory_order_relaxed));
  drop_without_recursion(std::move(parent_));
}

base::RefPtr<Dentry> Dentry::create_root(base::RefPtr<Inode> inode, std::string name) {
  const FileSystem* fs = &inode->fs();
  return base::make_ref<Dentry>(nullptr, std::move(name), std::move(inode), fs);
}

base::RefPtr<Dentry> Dentry::create_unlinked(base::RefPtr<Dentry> parent, std::string name, base::RefPtr<Inode> inode) {
  const FileSystem* fs = parent->fs_;
  auto dentry = base::make_ref<Dentry>(std::move(parent), std::move(name), std::move(inode), fs);
  dentry->deleted_.store(true, std::memory_order_release);
  return dentry;
}

base::RefPtr<Dentry> Dentry::parent() const {
  base::MutexLock lock(id_mu_);
  return parent_;
}

std::string Dentry::name() const {
  base::MutexLock lock(id_mu_);
  return name_;
}

bool Dentry::is_descendant_of(const Dentry& ancestor) const {
  if (this == &ancestor) return true;
  for (base::RefPtr<Dentry> d = parent(); d; d = d->parent()) {
    if (d.get() == &ancestor) return true;
  }
  return false;
}

void Dentry::touch() const {
  if (!used_.load(std::memory_order_relaxed)) used_.store(true, std::memory_order_relaxed);
}

base::RefPtr<Dentry> Dentry::cached_child(std::string_view name) const {
  const uint32_t hash = hash_name(name);
  base::MutexLock lock(names_mu_);
  return find_locked(name, hash);
}

base::RefPtr<Dentry> Dentry::find_locked(std::string_view name, uint32_t hash) const {
  if (!names_) return nullptr;
  for (Dentry* d = names_->buckets[hash & (names_->buckets.size() - 1)]; d; d = d->hash_next_) {
    if (d->hash_ != hash || d->name_ != name || !d->try_ref()) continue;
    d->touch();
    return base::RefPtr<Dentry>::adopt(d);
  }
  return nullptr;
}

base::Result<base::RefPtr<Dentry>> Dentry::child(OpContext& ctx, std::string_view name) {
  if (base::RefPtr<Dentry> cached = cached_child(name)) {
    if (!fs_->revalidates() || cached->is_mountpoint()) return cached;
    if (TRY(inode_ptr()->revalidate(ctx, name, cached->inode_ptr()))) return cached;
    cached->become_deleted(Forget::kForget);
  }
  Inode* dir = inode_ptr();
  if (!dir || !dir->is_dir()) return base::err(kENOTDIR);
  if (name.size() > kNameMax) return base::err(kENAMETOOLONG);
  return lookup(ctx, name);
}

base::Result<base::RefPtr<Dentry>> Dentry::lookup(OpContext& ctx, std::string_view name) {
  // What was learnt beside a change may be stale and would stay so in the cache. A bound, as others may change a directory all the time.
  constexpr int kTries = 1000;
  const uint32_t hash = hash_name(name);
  for (int tries = 0;; ++tries) {
    uint64_t before;
    {
      base::MutexLock lock(names_mu_);
      before = changes_;
    }
    base::Result<base::RefPtr<Inode>> found = inode_ptr()->lookup(ctx, name);
    if (!found && found.error() != kENOENT) return base::err(found.error());
    base::RefPtr<Inode> inode = found ? std::move(*found) : nullptr;
    base::RefPtr<Dentry> fresh = base::make_ref<Dentry>(base::RefPtr<Dentry>(this), std::string(name), std::move(inode), fs_);
    if (is_deleted()) return fresh;
    {
      base::MutexLock lock(names_mu_);
      // Who looked the name up at the same time may be about to create it: both must have the same dentry.
      if (base::RefPtr<Dentry> other = find_locked(name, hash)) return other;
      if (changes_ != before && tries < kTries) continue;
      hash_locked(*fresh);
    }
    DentryLru::get().add(*fresh);
    return fresh;
  }
}

// Whoever had the name before is no longer found under it.
void Dentry::hash_locked(Dentry& child) {
  if (!names_) names_ = std::make_unique<Names>();
  if (names_->count >= names_->buckets.size()) {
    std::vector<Dentry*> grown(names_->buckets.size() * 2);
    for (Dentry* d : names_->buckets) {
      while (d) {
        Dentry* next = d->hash_next_;
        Dentry*& slot = grown[d->hash_ & (grown.size() - 1)];
        d->hash_next_ = slot;
        slot = d;
        d = next;
      }
    }
    names_->buckets = std::move(grown);
  }
  child.hash_ = hash_name(child.name_);
  Dentry** slot = &names_->buckets[child.hash_ & (names_->buckets.size() - 1)];
  for (Dentry** at = slot; *at;) {
    Dentry* d = *at;
    if (d->hash_ == child.hash_ && d->name_ == child.name_) {
      *at = d->hash_next_;
      d->hashed_ = false;
      --names_->count;
    } else {
      at = &d->hash_next_;
    }
  }
  child.hash_next_ = *slot;
  *slot = &child;
  child.hashed_ = true;
  ++names_->count;
}

void Dentry::unhash() {
  base::RefPtr<Dentry> up = parent();
  if (!up) return;
  {
    base::MutexLock lock(up->names_mu_);
    if (hashed_) {
      Dentry** at = &up->names_->buckets[hash_ & (up->names_->buckets.size() - 1)];
      while (*at != this) at = &(*at)->hash_next_;
      *at = hash_next_;
      hashed_ = false;
      --up->names_->count;
      ++up->changes_;
    }
  }
  drop_without_recursion(std::move(up));
}

void Dentry::become_positive(base::RefPtr<Inode> inode) {
  CHECK(is_negative());
  base::RefPtr<Dentry> up = parent();
  ChangeScope change(word_of(nullptr, up.get()));
  inode_.store(inode.release(), std::memory_order_release);
  if (!up) return;
  base::MutexLock lock(up->names_mu_);
  ++up->changes_;
}

uint64_t Dentry::tree_changes() { return removals.load(std::memory_order_acquire); }

void Dentry::become_deleted(Forget forget) {
  base::RefPtr<Dentry> up = parent();
  ChangeScope change(word_of(inode_ptr(), up.get()));
  removals.fetch_add(1, std::memory_order_acq_rel);
  deleted_.store(true, std::memory_order_release);
  unhash();
  DentryLru::get().remove(*this);
  if (forget == Forget::kForget || fs_->revalidates()) return;
  if (up && !up->is_deleted()) up->insert_child(name(), nullptr);
}

void Dentry::move(Dentry& moved, Dentry& new_parent, std::string_view new_name) {
  base::RefPtr<Dentry> old_parent = moved.parent();
  ChangeScope there(word_of(moved.inode_ptr(), old_parent.get())), here(word_of(moved.inode_ptr(), &new_parent));
  removals.fetch_add(1, std::memory_order_acq_rel);
  moved.unhash();
  old_parent = base::RefPtr<Dentry>(&new_parent);
  {
    base::MutexLock lock(moved.id_mu_);
    std::swap(moved.parent_, old_parent);
    moved.name_ = new_name;
  }
  base::MutexLock lock(new_parent.names_mu_);
  ++new_parent.changes_;
  new_parent.hash_locked(moved);
}

void Dentry::exchange(Dentry& a, Dentry& b) {
  base::RefPtr<Dentry> parent_a = a.parent(), parent_b = b.parent();
  std::string name_a = a.name(), name_b = b.name();
  ChangeScope change(kChangedPaths);
  b.unhash();
  move(a, *parent_b, name_b);
  move(b, *parent_a, name_a);
}

void Dentry::forget_children() {
  std::vector<base::RefPtr<Dentry>> gone;
  ChangeScope change(kChangedPaths);
  {
    base::MutexLock lock(names_mu_);
    ++changes_;
    if (!names_) return;
    for (Dentry*& head : names_->buckets) {
      for (Dentry* d = head; d; d = d->hash_next_) {
        if (!d->is_mountpoint() && d->try_ref()) gone.push_back(base::RefPtr<Dentry>::adopt(d));
      }
    }
  }
  for (base::RefPtr<Dentry>& d : gone) {
    d->unhash();
    DentryLru::get().remove(*d);
  }
}

base::RefPtr<Dentry> Dentry::insert_child(std::string_view name, base::RefPtr<Inode> inode) {
  if (base::RefPtr<Dentry> existing = cached_child(name)) return existing;
  auto fresh = base::make_ref<Dentry>(base::RefPtr<Dentry>(this), std::string(name), std::move(inode), fs_);
  {
    base::MutexLock lock(names_mu_);
    if (base::RefPtr<Dentry> other = find_locked(name, hash_name(name))) return other;
    hash_locked(*fresh);
  }
  DentryLru::get().add(*fresh);
  return fresh;
}

void Dentry::drop_cache(const FileSystem* fs) { DentryLru::get().drop(fs); }

}  // namespace sentry::vfs
