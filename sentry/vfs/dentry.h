// SPDX-License-Identifier: Apache-2.0
// Dentries: the cache of names. A dentry without an inode is negative: the name is known not to exist. A child holds
// its parent; a parent only knows its children; what was used lately is kept by an LRU list of bounded size.
//
// An inode is set once (negative to positive) and stays for the dentry's life: unlinking takes the dentry out of its
// directory and marks it deleted, so whoever holds a positive dentry may use inode_ptr() without a lock.
//
// Locks:
//   change_lock() (sleeping): one directory's changes, held over the file system's operation
//     names_mu_ (kDentryCache): the cached names of one directory, held for a hash lookup
//       id_mu_ (kLeaf): parent and name of one dentry
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/sleep_lock.h"

namespace sentry::vfs {

class Dentry final : public base::RefCounted {
 public:
  // A root, or a nameless object (pipe, socket, memfd): `name` is then what /proc/PID/fd shows, "pipe:[12]".
  static base::RefPtr<Dentry> create_root(base::RefPtr<Inode> inode, std::string name = "/");
  ~Dentry() override;

  base::RefPtr<Dentry> parent() const;  // null for a root
  std::string name() const;
  base::RefPtr<Inode> inode() const { return base::RefPtr<Inode>(inode_ptr()); }
  Inode* inode_ptr() const { return inode_.load(std::memory_order_acquire); }
  bool is_negative() const { return inode_ptr() == nullptr; }
  bool is_deleted() const { return deleted_.load(std::memory_order_acquire); }
  bool is_root() const { return is_root_; }
  // Some mount, in any namespace, sits on it.
  bool is_mountpoint() const { return mounts_.load(std::memory_order_acquire) != 0; }
  // This or one above it.
  bool is_descendant_of(const Dentry& ancestor) const;

  // The cached child, asking the file system when it is not cached (the result may be negative). `name` is neither
  // "." nor "..". ENOTDIR, ENAMETOOLONG, and the file system's errors.
  base::Result<base::RefPtr<Dentry>> child(OpContext& ctx, std::string_view name);
  base::RefPtr<Dentry> cached_child(std::string_view name) const;

  // Changes: with the directory's change_lock() held.
  SleepLock& change_lock() { return change_lock_; }
  void become_positive(base::RefPtr<Inode> inode);
  // Leaves its directory's names. With kRemember the name is known as not existing from now on.
  enum class Forget : uint8_t { kForget, kRemember };
  void become_deleted(Forget forget);
  // `moved` gets a new place; what was cached under the new name is dropped.
  static void move(Dentry& moved, Dentry& new_parent, std::string_view new_name);
  static void exchange(Dentry& a, Dentry& b);
  // Drops cached names below (the file system changed by itself). Names in use stay valid for their holders.
  void forget_children();
  // A child from a bulk lookup; keeps one that exists. Only when tree_changes() is what it was before the file system
  // was asked: the answer may be older than a change.
  base::RefPtr<Dentry> insert_child(std::string_view name, base::RefPtr<Inode> inode);
  static uint64_t tree_changes();
  // Not in its parent's names (O_TMPFILE): deleted from birth.
  static base::RefPtr<Dentry> create_unlinked(base::RefPtr<Dentry> parent, std::string name, base::RefPtr<Inode> inode);

  // Drops what the LRU list holds of `fs` (its last mount is gone), or of all.
  static void drop_cache(const FileSystem* fs);

 private:
  friend class MountNamespace;
  friend struct DentryLru;
  template <typename T, typename... A>
  friend base::RefPtr<T> base::make_ref(A&&...);
  struct Names;
  Dentry(base::RefPtr<Dentry> parent, std::string name, base::RefPtr<Inode> inode, const FileSystem* fs);
  void unhash();
  base::RefPtr<Dentry> find_locked(std::string_view name, uint32_t hash) const REQUIRES(names_mu_);
  void hash_locked(Dentry& child) REQUIRES(names_mu_);
  void touch() const;
  base::Result<base::RefPtr<Dentry>> lookup(OpContext& ctx, std::string_view name);

  SleepLock change_lock_;
  mutable base::Mutex names_mu_{base::LockRank::kDentryCache};
  std::unique_ptr<Names> names_ GUARDED_BY(names_mu_);
  uint64_t changes_ GUARDED_BY(names_mu_) = 0;  // so that a lookup that ran beside a change is repeated
  Dentry* hash_next_ = nullptr;                 // guarded by the parent's names_mu_
  uint32_t hash_ = 0;                           // likewise
  bool hashed_ = false;                         // likewise

  mutable base::Mutex id_mu_{base::LockRank::kLeaf};
  base::RefPtr<Dentry> parent_ GUARDED_BY(id_mu_);
  std::string name_;  // written under id_mu_ and while not hashed; read under either that or the parent's names_mu_
  std::atomic<Inode*> inode_;
  const FileSystem* const fs_;
  std::atomic<bool> deleted_{false};
  mutable std::atomic<bool> used_{false};  // since the LRU list looked last
  const bool is_root_;
  std::atomic<uint32_t> mounts_{0};
  base::ListHook lru_hook_;  // guarded by the LRU list's lock; linked = the list holds a reference
};

}  // namespace sentry::vfs
