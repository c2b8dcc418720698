// SPDX-License-Identifier: Apache-2.0
// Mounts, paths and path walking: mount(2), path_resolution(7).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/dentry.h"

namespace sentry::vfs {

class FileDescription;

// MS_* of mount(2) that stay with a mount.
enum : uint64_t {
  kMsRdOnly = 1, kMsNoSuid = 2, kMsNoDev = 4, kMsNoExec = 8, kMsSynchronous = 16, kMsRemount = 32, kMsDirSync = 128,
  kMsNoSymFollow = 256, kMsNoAtime = 1024, kMsNoDirAtime = 2048, kMsBind = 4096, kMsMove = 8192, kMsRec = 16384,
  kMsSilent = 32768, kMsUnbindable = 1 << 17, kMsPrivate = 1 << 18, kMsSlave = 1 << 19, kMsShared = 1 << 20,
  kMsRelAtime = 1 << 21, kMsStrictAtime = 1 << 24, kMsLazyTime = 1 << 25,
};

struct Path;

// One lock for all mount trees (rank kMount), as in Linux: trees change rarely, and paths cross namespaces.
class Mount final : public base::RefCounted {
 public:
  Mount(base::RefPtr<FileSystem> fs, base::RefPtr<Dentry> root, uint64_t flags, std::string source);
  // The first mount of a file system.
  static base::RefPtr<Mount> create(base::RefPtr<FileSystem> fs, uint64_t flags, std::string source);
  ~Mount() override;
  FileSystem& fs() const { return *fs_; }
  const base::RefPtr<Dentry>& root() const { return root_; }
  uint64_t flags() const { return flags_.load(std::memory_order_relaxed); }
  void set_flags(uint64_t f) {
    ChangeScope change(kChangedPaths);
    flags_.store(f, std::memory_order_relaxed);
  }
  bool is_read_only() const { return (flags() & kMsRdOnly) != 0; }
  uint64_t id() const { return id_; }
  const std::string& source() const { return source_; }

 private:
  friend class MountNamespace;
  friend std::string path_string(const Path&, const Path*);
  const base::RefPtr<FileSystem> fs_;
  const base::RefPtr<Dentry> root_;
  std::atomic<uint64_t> flags_;
  const uint64_t id_;
  const std::string source_;
  // Guarded by the lock of the mount trees.
  base::RefPtr<Mount> parent_;
  base::RefPtr<Dentry> mountpoint_;
  MountNamespace* ns_ = nullptr;
};

struct Path {
  base::RefPtr<Mount> mount;
  base::RefPtr<Dentry> dentry;
  bool valid() const { return dentry != nullptr; }
  Inode& inode() const { return *dentry->inode_ptr(); }  // of a positive path
  friend bool operator==(const Path&, const Path&) = default;
};

// Absolute path as seen from `root` (null: from the top of its tree); the bare name of a nameless object;
// "(unreachable)" in front when it is not below `root`. " (deleted)" is not added.
std::string path_string(const Path& path, const Path* root);

class MountNamespace final : public base::RefCounted {
 public:
  explicit MountNamespace(base::RefPtr<Mount> root);
  base::RefPtr<MountNamespace> clone();  // CLONE_NEWNS; paths of the old one are translated with translate()
  Path translate(const Path& of_other) const;

  uint64_t number() const { return number_; }  // of this one and no later one
  Path root() const;
  base::Result<void> attach(base::RefPtr<Mount> mount, const Path& at);
  base::Result<void> bind(const Path& source, const Path& at, bool recursive, uint64_t flags);
  base::Result<void> move(const Path& from, const Path& to);
  enum class Detach : uint8_t { kBusyFails, kLazy };
  // kBusyFails: EBUSY when mounts are below or anybody but `mount_root` itself refers to the mount.
  base::Result<void> detach(const Path& mount_root, Detach mode);
  // The caller then moves the roots and working directories of tasks that were at the old root.
  base::Result<void> pivot_root(OpContext& ctx, const Path& new_root, const Path& put_old);
  // The mount on top of `path`, if there is one (as often as they are stacked).
  Path cross_mounts(Path path) const;
  // Where the root of path.mount sits, for ".."; invalid at the top.
  Path mountpoint_of(const Mount& mount) const;
  std::string path_of(const Path& path, const Path& root) const { return path_string(path, &root); }
  bool contains(const Mount& mount) const;

  struct Entry {
    base::RefPtr<Mount> mount;
    uint64_t parent_id = 0;
    std::string mount_point, root;  // as /proc/PID/mountinfo shows them
  };
  std::vector<Entry> list(const Path& root) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  const uint64_t number_;

 public:
  ~MountNamespace() override;
};

// Path lookup.
enum : uint32_t {
  kLookupFollow = 1,         // follow a symlink in the last component
  kLookupParent = 2,         // stop at the parent: PathResult.last names the final component
  kLookupDirectory = 4,      // the result must be a directory
  kLookupNoSymlinks = 8,     // openat2 RESOLVE_NO_SYMLINKS
  kLookupBeneath = 16, kLookupInRoot = 32, kLookupNoXdev = 64, kLookupNoMagicLinks = 128,
  kLookupEmptyPath = 256,    // AT_EMPTY_PATH: "" is the start itself
  kLookupStartIsRoot = 1024,  // the start is what OpContext::root() says, which need not be asked then
  kLookupCreate = 512,       // with kLookupParent: a trailing slash is an error unless the object is a directory
};

struct PathResult {
  Path path;                  // the object; with kLookupParent the directory
  std::string last;           // with kLookupParent: the final component ("." and ".." possible)
  bool trailing_slash = false;
};

// ENOENT for "" (without kLookupEmptyPath), ENAMETOOLONG, ELOOP after 40 links, ENOTDIR, EACCES along the way.
// `start` is where a relative path begins (cwd or a dirfd's path).
base::Result<PathResult> walk(OpContext& ctx, const Path& start, std::string_view path, uint32_t flags);

// walk() and stat() of what was found; it is not cached for that alone.
struct PathStat {
  Stat stat;
  uint64_t mount_id = 0, mount_flags = 0;
  bool is_mount_root = false;
};
// What a walk depended on, for who keeps its answer.
struct WalkRecord {
  bool told = true;       // of all that it depends on one is told when it changes (FileSystem::tells_changes())
  bool followed = false;  // the last name was a symbolic link, which was followed
  base::RefPtr<Dentry> directory;  // where the last name was looked up; null when that was "." or "..", or there was none
};
base::Result<PathStat> walk_stat(OpContext& ctx, const Path& start, std::string_view path, uint32_t flags, WalkRecord* record = nullptr);
// Names of `directory` behind `after`, as a listing has them, and what stat() of each would say; only those that a WalkRecord with
// `told` could have been made for.
void peek_siblings(OpContext& ctx, const Dentry& directory, std::string_view after, size_t most,
                   base::FunctionRef<void(std::string_view name, const Stat& stat)> sink);

// Permission on an object with the mount considered: EROFS for writes to a read-only mount (except devices, FIFOs).
base::Result<void> check_access(OpContext& ctx, const Path& path, unsigned want);

// Operations on paths as the system calls want them (permissions, read-only mounts, sticky bits, notification).
base::Result<base::RefPtr<FileDescription>> open_at(OpContext& ctx, const Path& start, std::string_view path,
                                                    uint32_t flags, uint32_t mode, uint32_t lookup_flags = 0);
base::Result<base::RefPtr<FileDescription>> open_path(OpContext& ctx, const Path& path, uint32_t flags);
base::Result<void> mkdir_at(OpContext&, const Path& start, std::string_view path, uint32_t mode);
base::Result<void> mknod_at(OpContext&, const Path& start, std::string_view path, uint32_t mode, abi::DeviceId rdev);
// Also used by bind(2) of a unix socket: returns the new path.
base::Result<Path> make_node_at(OpContext&, const Path& start, std::string_view path, uint32_t mode, abi::DeviceId rdev);
base::Result<void> symlink_at(OpContext&, const Path& start, std::string_view path, std::string_view target);
base::Result<void> link_at(OpContext&, const Path& old_start, std::string_view old_path, const Path& new_start,
                           std::string_view new_path, uint32_t at_flags);
base::Result<void> unlink_at(OpContext&, const Path& start, std::string_view path, bool directory);
base::Result<void> rename_at(OpContext&, const Path& old_start, std::string_view old_path, const Path& new_start,
                             std::string_view new_path, uint32_t flags);
// chmod/chown/utimes rules of notify_change(): EPERM, EROFS, set-id bits. The right to write (truncate) is the caller's check.
base::Result<void> set_attr(OpContext&, const Path& path, SetAttr attr);
// file_remove_privs(): a write to a set-id file by someone without CAP_FSETID.
base::Result<void> remove_privileges(OpContext&, const Path& path);
TimeSpec timespec_of(int64_t ns);
int64_t ns_of(TimeSpec t);  // as near as there is one

}  // namespace sentry::vfs
