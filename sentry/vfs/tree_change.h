// SPDX-License-Identifier: Apache-2.0
// What creating, removing and renaming share. Private to sentry/vfs.
#pragma once

#include <memory>
#include <string_view>

#include "sentry/vfs/mount.h"

namespace sentry::vfs {

// Not a name that can be made or removed: ".", ".." or the root.
inline bool is_special_name(std::string_view name) { return name == "." || name == ".." || name == "/"; }

// A directory locked for change, released at the end of its life.
class DirectoryLock {
 public:
  DirectoryLock(OpContext& ctx, base::RefPtr<Dentry> dir) : dir_(std::move(dir)) { dir_->change_lock().lock(ctx); }
  DirectoryLock(DirectoryLock&& o) noexcept : dir_(std::move(o.dir_)) {}
  DirectoryLock& operator=(DirectoryLock&&) = delete;
  ~DirectoryLock() { unlock(); }
  void unlock() {
    if (dir_) dir_->change_lock().unlock();
    dir_.reset();
  }

 private:
  base::RefPtr<Dentry> dir_;
};

struct NewName {
  DirectoryLock lock;
  base::RefPtr<Dentry> dentry;  // negative
};
// Locks the directory of `at` with at.last known not to exist. filename_create(): EEXIST, then EROFS.
base::Result<NewName> lock_new_name(OpContext& ctx, const PathResult& at);

// Owner, group (set-gid directories) and mode of something new in `dir`.
CreateArgs creation_args(OpContext& ctx, const Inode& dir, uint32_t mode, abi::DeviceId rdev = {});

}  // namespace sentry::vfs
