// SPDX-License-Identifier: Apache-2.0
// inotify(7): watches on inodes, and the hooks through which the VFS tells of changes. While no watch exists a hook costs
// one load.
#pragma once

#include <atomic>
#include <string>
#include <string_view>

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/vfs/file_description.h"

namespace sentry::vfs {

enum : uint32_t {
  kInAccess = 0x1, kInModify = 0x2, kInAttrib = 0x4, kInCloseWrite = 0x8, kInCloseNoWrite = 0x10, kInOpen = 0x20,
  kInMovedFrom = 0x40, kInMovedTo = 0x80, kInCreate = 0x100, kInDelete = 0x200, kInDeleteSelf = 0x400,
  kInMoveSelf = 0x800, kInAllEvents = 0xfff, kInUnmount = 0x2000, kInQOverflow = 0x4000, kInIgnored = 0x8000,
  kInOnlyDir = 0x0100'0000, kInDontFollow = 0x0200'0000, kInExclUnlink = 0x0400'0000, kInMaskCreate = 0x1000'0000,
  kInMaskAdd = 0x2000'0000, kInIsDir = 0x4000'0000, kInOneShot = 0x8000'0000,
};

class InotifyFile;

extern std::atomic<uint32_t> inotify_watch_count;

// Something happened to the object: its own watches hear of it, and the watches of its directory, with its name.
void notify_event_slow(const Dentry& dentry, uint32_t mask);
inline void notify_event(const Dentry& dentry, uint32_t mask) {
  if (inotify_watch_count.load(std::memory_order_relaxed) != 0) [[unlikely]] notify_event_slow(dentry, mask);
}
// Something happened to a name in `dir` (create, delete, moved).
void notify_name(Inode& dir, std::string_view name, uint32_t mask, uint32_t cookie = 0);
// To the watches of the inode itself only.
void notify_inode(Inode& inode, uint32_t mask);
uint32_t next_move_cookie();

// inotify_init1(2).
base::RefPtr<FileDescription> make_inotify(OpContext& ctx, uint32_t flags);
// EINVAL when `file` is not an inotify instance.
base::Result<int32_t> add_inotify_watch(FileDescription& file, const Path& path, uint32_t mask);
base::Result<void> remove_inotify_watch(FileDescription& file, int32_t wd);
// The inode goes: IN_IGNORED to its watches, which end.
void drop_inotify_watches(Inode& inode);

}  // namespace sentry::vfs
