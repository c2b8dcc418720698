// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/mount.h"

#include <algorithm>
#include <unordered_map>

#include "sentry/vfs/changes.h"

namespace sentry::vfs {

using enum abi::Errno;

namespace {

base::SharedMutex& tree_mutex() {
  static base::SharedMutex& mu = *new base::SharedMutex(base::LockRank::kMount);
  return mu;
}

std::atomic<uint64_t> next_mount_id{1};

constexpr uint64_t kFlagsOfMount = kMsRdOnly | kMsNoSuid | kMsNoDev | kMsNoExec | kMsSynchronous | kMsDirSync |
                                   kMsNoSymFollow | kMsNoAtime | kMsNoDirAtime | kMsRelAtime | kMsStrictAtime |
                                   kMsLazyTime;

struct Place {
  const Mount* mount;
  const Dentry* dentry;
  friend bool operator==(const Place&, const Place&) = default;
};
struct PlaceHash {
  size_t operator()(const Place& p) const {
    return std::hash<const void*>{}(p.mount) * 31 + std::hash<const void*>{}(p.dentry) / 16;
  }
};

constexpr size_t kMaxMounts = 100'000;  // sysctl fs.mount-max

}  // namespace

struct MountNamespace::Impl {
  base::RefPtr<Mount> root;
  std::vector<base::RefPtr<Mount>> mounts;  // in the order they were made, the root first
  std::unordered_map<Place, Mount*, PlaceHash> at;
  std::unordered_map<uint64_t, base::RefPtr<Mount>> cloned_from;  // id in the namespace that this is a copy of
};

Mount::Mount(base::RefPtr<FileSystem> fs, base::RefPtr<Dentry> root, uint64_t flags, std::string source)
    : fs_(std::move(fs)),
      root_(std::move(root)),
      flags_(flags & kFlagsOfMount),
      id_(next_mount_id.fetch_add(1, std::memory_order_relaxed)),
      source_(std::move(source)) {}

base::RefPtr<Mount> Mount::create(base::RefPtr<FileSystem> fs, uint64_t flags, std::string source) {
  base::RefPtr<Dentry> root = Dentry::create_root(fs->root());
  return base::make_ref<Mount>(std::move(fs), std::move(root), flags, std::move(source));
}

Mount::~Mount() {
  // Cached names would keep the file system alive; other mounts of it only lose their cache.
  Dentry::drop_cache(fs_.get());
}

namespace {
std::atomic<uint64_t> last_namespace{0};
}

MountNamespace::MountNamespace(base::RefPtr<Mount> root)
    : impl_(std::make_unique<Impl>()), number_(last_namespace.fetch_add(1, std::memory_order_relaxed) + 1) {
  root->ns_ = this;
  impl_->mounts.push_back(root);
  impl_->root = std::move(root);
}

MountNamespace::~MountNamespace() {
  std::vector<base::RefPtr<RefCounted>> drop;
  {
    ChangeScope change(kChangedPaths);
  base::WriteLock lock(tree_mutex());
    for (base::RefPtr<Mount>& m : impl_->mounts) {
      if (m->mountpoint_) m->mountpoint_->mounts_.fetch_sub(1);
      drop.push_back(std::move(m->parent_));
      drop.push_back(std::move(m->mountpoint_));
      m->ns_ = nullptr;
    }
  }
}

Path MountNamespace::root() const {
  base::ReadLock lock(tree_mutex());
  return {impl_->root, impl_->root->root()};
}

bool MountNamespace::contains(const Mount& mount) const {
  base::ReadLock lock(tree_mutex());
  return mount.ns_ == this;
}

Path MountNamespace::cross_mounts(Path path) const {
  while (path.dentry->is_mountpoint()) {
    base::RefPtr<Mount> top;
    {
      base::ReadLock lock(tree_mutex());
      auto it = impl_->at.find({path.mount.get(), path.dentry.get()});
      if (it == impl_->at.end()) break;
      top = base::RefPtr<Mount>(it->second);
    }
    base::RefPtr<Dentry> root = top->root();
    path = {std::move(top), std::move(root)};
  }
  return path;
}

Path MountNamespace::mountpoint_of(const Mount& mount) const {
  base::ReadLock lock(tree_mutex());
  return {mount.parent_, mount.mountpoint_};
}

base::Result<void> MountNamespace::attach(base::RefPtr<Mount> mount, const Path& at) {
  Path where = cross_mounts(at);
  if (where.inode().is_dir() != mount->root()->inode_ptr()->is_dir()) return base::err(kENOTDIR);
  ChangeScope change(kChangedPaths);
  base::WriteLock lock(tree_mutex());
  if (where.mount->ns_ != this || mount->ns_ != nullptr) return base::err(kEINVAL);
  if (where.dentry->is_deleted()) return base::err(kENOENT);
  if (impl_->mounts.size() >= kMaxMounts) return base::err(kENOSPC);
  mount->ns_ = this;
  mount->parent_ = where.mount;
  mount->mountpoint_ = where.dentry;
  where.dentry->mounts_.fetch_add(1);
  impl_->at[{where.mount.get(), where.dentry.get()}] = mount.get();
  impl_->mounts.push_back(std::move(mount));
  return {};
}

base::Result<void> MountNamespace::bind(const Path& source, const Path& at, bool recursive, uint64_t flags) {
  struct Copy {
    base::RefPtr<Mount> original, mount;
    Path place;  // in the source tree, for those below
  };
  std::vector<Copy> copies;
  auto top = base::make_ref<Mount>(base::RefPtr<FileSystem>(&source.mount->fs()), source.dentry,
                                   source.mount->flags() | flags, source.mount->source());
  copies.push_back({source.mount, top, {}});
  if (recursive) {
    base::ReadLock lock(tree_mutex());
    // mounts are in the order of their making, and a parent is made before its child; a moved one breaks that, so
    // repeat until nothing is added.
    for (size_t before = 0; before != copies.size();) {
      before = copies.size();
      for (const base::RefPtr<Mount>& m : impl_->mounts) {
        if (!m->parent_ || std::ranges::any_of(copies, [&](const Copy& c) { return c.original == m; })) continue;
        auto parent = std::ranges::find_if(copies, [&](const Copy& c) { return c.original == m->parent_; });
        if (parent == copies.end()) continue;
        if (parent == copies.begin() && !m->mountpoint_->is_descendant_of(*source.dentry)) continue;
        base::RefPtr<Mount> under = parent->mount;
        copies.push_back({m, base::make_ref<Mount>(base::RefPtr<FileSystem>(&m->fs()), m->root(), m->flags(), m->source()),
                          {under, m->mountpoint_}});
      }
    }
  }
  TRY(attach(top, at));
  for (size_t i = 1; i < copies.size(); ++i) TRY(attach(copies[i].mount, copies[i].place));
  return {};
}

base::Result<void> MountNamespace::move(const Path& from, const Path& to) {
  if (from.dentry != from.mount->root()) return base::err(kEINVAL);
  Path where = cross_mounts(to);
  if (where.inode().is_dir() != from.inode().is_dir()) return base::err(kENOTDIR);
  Path old;
  ChangeScope change(kChangedPaths);
  base::WriteLock lock(tree_mutex());
  Mount& m = *from.mount;
  if (m.ns_ != this || where.mount->ns_ != this || !m.parent_) return base::err(kEINVAL);
  for (Mount* p = where.mount.get(); p; p = p->parent_.get()) {
    if (p == &m) return base::err(kELOOP);
  }
  impl_->at.erase({m.parent_.get(), m.mountpoint_.get()});
  m.mountpoint_->mounts_.fetch_sub(1);
  old = {std::move(m.parent_), std::move(m.mountpoint_)};
  m.parent_ = where.mount;
  m.mountpoint_ = where.dentry;
  where.dentry->mounts_.fetch_add(1);
  impl_->at[{where.mount.get(), where.dentry.get()}] = &m;
  return {};
}

base::Result<void> MountNamespace::detach(const Path& mount_root, Detach mode) {
  if (mount_root.dentry != mount_root.mount->root()) return base::err(kEINVAL);
  std::vector<base::RefPtr<RefCounted>> drop;  // released after the lock
  ChangeScope change(kChangedPaths);
  base::WriteLock lock(tree_mutex());
  Mount& top = *mount_root.mount;
  if (top.ns_ != this || !top.parent_) return base::err(kEINVAL);
  auto is_below = [&](const Mount* m) {
    for (; m; m = m->parent_.get()) {
      if (m == &top) return true;
    }
    return false;
  };
  std::vector<base::RefPtr<Mount>> gone;
  for (const base::RefPtr<Mount>& m : impl_->mounts) {
    if (is_below(m.get())) gone.push_back(m);
  }
  // References: impl_->mounts, `gone`, and the caller's path.
  if (mode == Detach::kBusyFails && (gone.size() > 1 || top.ref_count_for_debug() > 3)) return base::err(kEBUSY);
  for (base::RefPtr<Mount>& m : gone) {
    impl_->at.erase({m->parent_.get(), m->mountpoint_.get()});
    m->mountpoint_->mounts_.fetch_sub(1);
    std::erase(impl_->mounts, m);
  }
  for (base::RefPtr<Mount>& m : gone) {
    drop.push_back(std::move(m->parent_));
    drop.push_back(std::move(m->mountpoint_));
    m->ns_ = nullptr;
    drop.push_back(std::move(m));
  }
  return {};
}

base::Result<void> MountNamespace::pivot_root(OpContext& ctx, const Path& new_root, const Path& put_old) {
  Path old_root = ctx.root();
  if (!new_root.inode().is_dir() || !put_old.inode().is_dir()) return base::err(kENOTDIR);
  std::vector<base::RefPtr<RefCounted>> drop;
  ChangeScope change(kChangedPaths);
  base::WriteLock lock(tree_mutex());
  Mount &top = *new_root.mount, &old = *old_root.mount;
  if (top.ns_ != this || old.ns_ != this || put_old.mount->ns_ != this) return base::err(kEINVAL);
  if (&top == &old || put_old.mount == old_root.mount) return base::err(kEBUSY);
  if (new_root.dentry != top.root() || !top.parent_ || old_root.dentry != old.root()) return base::err(kEINVAL);
  // put_old at or below new_root, new_root below the old root.
  auto is_below = [](Mount* m, const Dentry* d, const Path& above) {
    for (; m; m = m->parent_.get()) {
      if (m == above.mount.get()) return d->is_descendant_of(*above.dentry);
      d = m->mountpoint_.get();
    }
    return false;
  };
  if (!is_below(put_old.mount.get(), put_old.dentry.get(), new_root)) return base::err(kEINVAL);
  if (!is_below(&top, top.root().get(), old_root)) return base::err(kEINVAL);

  impl_->at.erase({top.parent_.get(), top.mountpoint_.get()});
  top.mountpoint_->mounts_.fetch_sub(1);
  drop.push_back(std::move(top.parent_));
  drop.push_back(std::move(top.mountpoint_));
  if (old.parent_) {  // a chroot into a mount: the new root takes its place
    impl_->at[{old.parent_.get(), old.mountpoint_.get()}] = &top;
    top.parent_ = std::move(old.parent_);
    top.mountpoint_ = std::move(old.mountpoint_);
  } else {
    impl_->root = base::RefPtr<Mount>(&top);
  }
  // On top of whatever is on put_old.
  Mount* under = put_old.mount.get();
  base::RefPtr<Dentry> point = put_old.dentry;
  for (auto it = impl_->at.find({under, point.get()}); it != impl_->at.end(); it = impl_->at.find({under, point.get()})) {
    under = it->second;
    point = under->root();
  }
  old.parent_ = base::RefPtr<Mount>(under);
  old.mountpoint_ = point;
  point->mounts_.fetch_add(1);
  impl_->at[{under, point.get()}] = &old;
  return {};
}

base::RefPtr<MountNamespace> MountNamespace::clone() {
  auto copy_of = [](const Mount& m) {
    return base::make_ref<Mount>(base::RefPtr<FileSystem>(&m.fs()), m.root(), m.flags(), m.source());
  };
  ChangeScope change(kChangedPaths);
  base::WriteLock lock(tree_mutex());
  auto copy = base::make_ref<MountNamespace>(copy_of(*impl_->root));
  Impl& to = *copy->impl_;
  to.cloned_from[impl_->root->id()] = to.root;
  for (const base::RefPtr<Mount>& m : impl_->mounts) {
    if (m == impl_->root) continue;
    base::RefPtr<Mount> twin = copy_of(*m);
    to.cloned_from[m->id()] = twin;
    to.mounts.push_back(std::move(twin));
  }
  for (const base::RefPtr<Mount>& m : impl_->mounts) {
    if (m == impl_->root) continue;
    Mount& twin = *to.cloned_from[m->id()];
    twin.ns_ = copy.get();
    twin.parent_ = to.cloned_from[m->parent_->id()];
    twin.mountpoint_ = m->mountpoint_;
    twin.mountpoint_->mounts_.fetch_add(1);
    to.at[{twin.parent_.get(), twin.mountpoint_.get()}] = &twin;
  }
  return copy;
}

Path MountNamespace::translate(const Path& of_other) const {
  base::ReadLock lock(tree_mutex());
  auto it = impl_->cloned_from.find(of_other.mount->id());
  return it == impl_->cloned_from.end() ? of_other : Path{it->second, of_other.dentry};
}

std::vector<MountNamespace::Entry> MountNamespace::list(const Path& root) const {
  std::vector<Entry> entries;
  {
    base::ReadLock lock(tree_mutex());
    for (const base::RefPtr<Mount>& m : impl_->mounts) {
      entries.push_back({m, m->parent_ ? m->parent_->id() : 0, "", ""});
    }
  }
  std::erase_if(entries, [&](Entry& e) {
    e.mount_point = path_string({e.mount, e.mount->root()}, &root);
    std::string in_fs;
    for (base::RefPtr<Dentry> d = e.mount->root(); d && !d->is_root(); d = d->parent()) in_fs = "/" + d->name() + in_fs;
    e.root = in_fs.empty() ? "/" : in_fs;
    return !e.mount_point.starts_with('/');
  });
  return entries;
}

std::string path_string(const Path& path, const Path* root) {
  if (!path.valid()) return "";
  std::vector<std::string> names;  // last first
  Mount* mount = path.mount.get();
  base::RefPtr<Dentry> dentry = path.dentry;
  bool reached = false;
  {
    base::ReadLock lock(tree_mutex());
    for (;;) {
      if (root && mount == root->mount.get() && dentry == root->dentry) {
        reached = true;
        break;
      }
      if (mount && dentry == mount->root()) {
        if (!mount->parent_) break;
        dentry = mount->mountpoint_;
        mount = mount->parent_.get();
        continue;
      }
      base::RefPtr<Dentry> up = dentry->parent();
      if (!up) break;
      names.push_back(dentry->name());
      dentry = std::move(up);
    }
  }
  if (dentry->is_root() && names.empty()) {
    if (std::string name = dentry->name(); name != "/") return name;
  }
  std::string text = reached || !root ? "" : "(unreachable)";
  if (names.empty()) return text + "/";
  for (auto it = names.rbegin(); it != names.rend(); ++it) text += "/" + *it;
  return text;
}

}  // namespace sentry::vfs
