// SPDX-License-Identifier: Apache-2.0
// Walker: one path lookup in progress, so that open(O_CREAT) can go on behind a final symbolic link with the same count
// of links. Private to sentry/vfs; others call walk().
//
// Where it is needs no reference of its own as long as that is where it began or the root: it takes one per name that it steps to.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sentry/vfs/mount.h"

namespace sentry::vfs {

class Walker {
 public:
  // `start` stays valid as long as this.
  Walker(OpContext& ctx, const Path& start, uint32_t flags);
  base::Result<PathResult> run(std::string_view path);
  // After a run with kLookupParent: follows `link`, found as the final component in the directory of that result.
  // `rest` is what came behind it ("" or slashes). True: the link was magic and `result.path` is the object itself.
  base::Result<bool> follow_final(const Path& directory, const Path& link, std::string_view rest, PathResult& result);
  // Before a run: a final name that is not cached need not be, when what stat() would say of it is known (stat()).
  void only_stat(WalkRecord* record) {
    only_stat_ = true;
    record_ = record;
  }
  // run() without kLookupParent, and then stat() of what it found.
  base::Result<PathStat> stat(std::string_view path);

 private:
  // Whether `last` and `trailing_slash` are set instead of the path gone to its end: with kLookupParent.
  base::Result<void> components(std::string_view path);
  PathResult take_result();
  base::Result<void> begin(std::string_view& path);
  base::Result<void> step(std::string_view name, std::string_view rest, bool follow, std::string_view& remaining);
  base::Result<void> step_up();
  // True: the text to walk next is in `buffer_`. False: magic, and this has moved.
  base::Result<bool> follow(Inode& link, const Mount& link_mount, std::string_view rest);
  void prefetch(std::string_view name, std::string_view rest);
  void record(std::string_view name, std::string_view rest);
  // Where others change the tree: cached names from `name` on, checked at once. How many are still true.
  size_t validate_ahead(const base::RefPtr<Dentry>& child, std::string_view name, std::string_view rest);
  bool peek(const Dentry* child, std::string_view name, bool follow_link);
  base::Result<void> move_to(Path next);
  void stay_at(const Path& path);   // borrows
  void go_to(Path path);
  void step_to(base::RefPtr<Dentry> dentry);
  Path here() const { return {base::RefPtr<Mount>(mount_), base::RefPtr<Dentry>(dentry_)}; }
  bool is_at(const Path& path) const { return mount_ == path.mount.get() && dentry_ == path.dentry.get(); }
  Inode& inode() const { return *dentry_->inode_ptr(); }
  const Path& root();  // what ".." and "/" stop at

  OpContext& ctx_;
  MountNamespace& ns_;
  const Path& start_;
  const Path* root_;  // null: not asked for yet
  Path own_root_;
  // Where it is, and what it holds of that.
  Mount* mount_ = nullptr;
  Dentry* dentry_ = nullptr;
  base::RefPtr<Mount> held_mount_;
  base::RefPtr<Dentry> held_dentry_;
  uint32_t flags_;
  bool trailing_slash_ = false;
  std::string last_;
  int links_ = 0;
  size_t validated_ = 0;  // of the names that come next
  bool only_stat_ = false;
  WalkRecord* record_ = nullptr;
  std::optional<Stat> peeked_;
  std::string buffer_;  // the expanded rest of the path; only when a link was met
};

}  // namespace sentry::vfs
