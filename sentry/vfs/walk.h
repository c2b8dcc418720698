// SPDX-License-Identifier: Apache-2.0
// Walker: one path lookup in progress, so that open(O_CREAT) can go on behind a final symbolic link with the same count
// of links. Private to sentry/vfs; others call walk().
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sentry/vfs/mount.h"

namespace sentry::vfs {

class Walker {
 public:
  Walker(OpContext& ctx, const Path& start, uint32_t flags);
  base::Result<PathResult> run(std::string_view path);
  // After a run with kLookupParent: follows `link`, found as the final component in the directory of that result.
  // `rest` is what came behind it ("" or slashes). True: the link was magic and `result.path` is the object itself.
  base::Result<bool> follow_final(const Path& directory, const Path& link, std::string_view rest, PathResult& result);
  // Before a run: a final name that is not cached need not be, when what stat() would say of it is known (peeked()).
  void only_stat() { only_stat_ = true; }
  const std::optional<Stat>& peeked() const { return peeked_; }

 private:
  base::Result<PathResult> components(std::string_view path);
  base::Result<void> begin(std::string_view& path);
  base::Result<void> step(std::string_view name, std::string_view rest, bool follow, std::string_view& remaining);
  base::Result<void> step_up();
  // Text to walk next, in `buffer_`; nullopt: magic, current_ has moved.
  base::Result<bool> follow(Inode& link, const Mount& link_mount, std::string_view rest);
  void prefetch(std::string_view name, std::string_view rest);
  // Where others change the tree: cached names from `name` on, checked at once. How many are still true.
  size_t validate_ahead(const base::RefPtr<Dentry>& child, std::string_view name, std::string_view rest);
  bool peek(const Dentry* child, std::string_view name, bool follow_link);
  base::Result<void> move_to(Path next);

  OpContext& ctx_;
  MountNamespace& ns_;
  const Path root_;   // what ".." and "/" stop at
  const Path start_;
  Path current_;
  uint32_t flags_;
  int links_ = 0;
  size_t validated_ = 0;  // of the names that come next
  bool only_stat_ = false;
  std::optional<Stat> peeked_;
  std::string buffer_;  // the expanded rest of the path; only when a link was met
};

}  // namespace sentry::vfs
