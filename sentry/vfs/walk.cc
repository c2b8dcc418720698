// SPDX-License-Identifier: Apache-2.0
// path_resolution(7). A walk along cached names takes one short lock per component and allocates nothing.
#include "sentry/vfs/walk.h"

#include <array>
#include <optional>

namespace sentry::vfs {

using enum abi::Errno;

namespace {

constexpr size_t kPathMax = 4096;
constexpr int kMaxLinks = 40;  // MAXSYMLINKS
constexpr size_t kMaxPrefetch = 32;
constexpr uint32_t kScoped = kLookupBeneath | kLookupInRoot;

// Splits the first component off; `path` keeps the rest with its leading slashes.
std::string_view next_component(std::string_view& path) {
  size_t begin = path.find_first_not_of('/');
  if (begin == std::string_view::npos) {
    path = {};
    return {};
  }
  size_t end = path.find('/', begin);
  std::string_view name = path.substr(begin, end == std::string_view::npos ? end : end - begin);
  path = end == std::string_view::npos ? std::string_view() : path.substr(end);
  return name;
}

bool only_slashes(std::string_view s) { return s.find_first_not_of('/') == std::string_view::npos; }

}  // namespace

Walker::Walker(OpContext& ctx, const Path& start, uint32_t flags)
    : ctx_(ctx), ns_(ctx.mount_namespace()), root_(flags & kLookupInRoot ? start : ctx.root()), start_(start), flags_(flags) {}

base::Result<PathResult> Walker::run(std::string_view path) {
  if (path.size() >= kPathMax) return base::err(kENAMETOOLONG);
  if (path.empty()) {
    if (!(flags_ & kLookupEmptyPath)) return base::err(kENOENT);
    return PathResult{start_, "", false};
  }
  current_ = start_;
  return components(path);
}

base::Result<void> Walker::begin(std::string_view& path) {
  if (path.empty() || path.front() != '/') return {};
  if (flags_ & kLookupBeneath) return base::err(kEXDEV);
  if ((flags_ & kLookupNoXdev) && current_.mount != root_.mount) return base::err(kEXDEV);
  current_ = ns_.cross_mounts(root_);
  return {};
}

base::Result<PathResult> Walker::components(std::string_view path) {
  TRY(begin(path));
  bool trailing = false;
  for (;;) {
    std::string_view rest = path;
    std::string_view name = next_component(rest);
    if (name.empty()) {
      // "/" or nothing left behind a link.
      if ((flags_ & kLookupParent) && !trailing) return PathResult{current_, "/", false};
      break;
    }
    Inode& dir = current_.inode();
    if (!dir.is_dir()) return base::err(kENOTDIR);
    TRY(dir.permission(ctx_, 1));
    const bool last = only_slashes(rest);
    trailing = last && !rest.empty();
    if (last && (flags_ & kLookupParent)) return PathResult{current_, std::string(name), trailing};
    const bool follow = !last || trailing || (flags_ & kLookupFollow) != 0;
    path = rest;
    TRY(step(name, rest, follow, path));
    if (last && path.empty()) break;
    if (last && only_slashes(path)) break;
  }
  if ((trailing || (flags_ & kLookupDirectory)) && !current_.inode().is_dir()) return base::err(kENOTDIR);
  return PathResult{std::move(current_), "", trailing};
}

// One component. `remaining` becomes what is to be walked next.
base::Result<void> Walker::step(std::string_view name, std::string_view rest, bool follow_link, std::string_view& remaining) {
  if (name == ".") return {};
  if (name == "..") return step_up();
  base::RefPtr<Dentry> child = current_.dentry->cached_child(name);
  const bool check = current_.mount->fs().revalidates();
  if (only_stat_ && rest.empty() && (!child || check) && peek(child.get(), name, follow_link)) return {};
  if (child && check && validated_ == 0) validated_ = validate_ahead(child, name, rest);
  if (child && validated_ != 0) {
    --validated_;
  } else if (!child || check) {
    validated_ = 0;
    if (!child && !only_slashes(rest)) prefetch(name, rest);
    child = TRY(current_.dentry->child(ctx_, name));
  }
  Inode* inode = child->inode_ptr();
  if (!inode) return base::err(kENOENT);
  if (inode->is_symlink()) {
    if (!follow_link) {
      current_.dentry = std::move(child);
      return {};
    }
    if (TRY(follow(*inode, *current_.mount, rest))) {
      remaining = buffer_;
      return begin(remaining);
    }
    return {};
  }
  if (child->is_mountpoint()) [[unlikely]] return move_to(ns_.cross_mounts({current_.mount, std::move(child)}));
  current_.dentry = std::move(child);
  return {};
}

bool Walker::peek(const Dentry* child, std::string_view name, bool follow_link) {
  if (child && child->is_mountpoint()) return false;
  peeked_ = current_.inode().peek(ctx_, name);
  if (peeked_ && follow_link && (peeked_->mode & abi::kS_IFMT) == abi::kS_IFLNK) peeked_.reset();
  return peeked_.has_value();
}

size_t Walker::validate_ahead(const base::RefPtr<Dentry>& child, std::string_view name, std::string_view rest) {
  std::array<std::string_view, kMaxPrefetch> names;
  std::array<base::RefPtr<Dentry>, kMaxPrefetch> chain;
  std::array<Inode*, kMaxPrefetch> inodes;
  size_t n = 0;
  for (base::RefPtr<Dentry> at = child; at && at->inode_ptr() && !at->is_mountpoint() && n < kMaxPrefetch;) {
    names[n] = name;
    inodes[n] = at->inode_ptr();
    chain[n++] = at;
    name = next_component(rest);
    // The last name of a stat is looked at anyway.
    if (name.empty() || name == "." || name == ".." || (only_stat_ && rest.empty())) break;
    if (!inodes[n - 1]->is_dir()) break;
    at = at->cached_child(name);
  }
  return n < 2 ? 0 : current_.inode().revalidate_chain(ctx_, {names.data(), n}, {inodes.data(), n});
}

base::Result<void> Walker::move_to(Path next) {
  if ((flags_ & kLookupNoXdev) && next.mount != current_.mount) return base::err(kEXDEV);
  current_ = std::move(next);
  return {};
}

base::Result<void> Walker::step_up() {
  if ((flags_ & kScoped) && current_ == start_) return (flags_ & kLookupBeneath) ? base::Result<void>(base::err(kEXDEV)) : base::Result<void>();
  Path at = current_;
  for (;;) {
    if (at == root_) return move_to(std::move(at));
    if (at.dentry != at.mount->root()) break;
    Path up = ns_.mountpoint_of(*at.mount);
    if (!up.valid()) return move_to(std::move(at));
    at = std::move(up);
  }
  if (base::RefPtr<Dentry> parent = at.dentry->parent()) at.dentry = std::move(parent);
  return move_to(ns_.cross_mounts(std::move(at)));
}

base::Result<bool> Walker::follow(Inode& link, const Mount& link_mount, std::string_view rest) {
  if (++links_ > kMaxLinks || (flags_ & kLookupNoSymlinks) || (link_mount.flags() & kMsNoSymFollow)) return base::err(kELOOP);
  if (std::optional<Path> target = TRY(link.follow_magic(ctx_))) {
    if (flags_ & (kLookupNoMagicLinks)) return base::err(kELOOP);
    if (flags_ & kScoped) return base::err(kEXDEV);
    TRY(move_to(std::move(*target)));
    return false;
  }
  std::string text = TRY(link.readlink(ctx_));
  if (text.empty()) return base::err(kENOENT);
  text.append(rest);  // `rest` may lie in buffer_
  buffer_ = std::move(text);
  return true;
}

base::Result<bool> Walker::follow_final(const Path& directory, const Path& link, std::string_view rest, PathResult& result) {
  current_ = directory;
  if (!TRY(follow(link.inode(), *link.mount, rest))) {
    result = {current_, "", !rest.empty()};
    return true;
  }
  std::string_view path = buffer_;
  result = TRY(components(path));
  return false;
}

// A name that is not cached with more names behind it: let the file system fetch them at once.
void Walker::prefetch(std::string_view name, std::string_view rest) {
  std::array<std::string_view, kMaxPrefetch> names;
  size_t n = 0;
  for (std::string_view next = name; n < kMaxPrefetch; next = next_component(rest)) {
    if (next.empty() || next == ".." || next.size() > 255) break;
    if (next != ".") names[n++] = next;
  }
  if (n == 0) return;
  const uint64_t before = Dentry::tree_changes();
  std::vector<base::RefPtr<Inode>> found = current_.inode().lookup_chain(ctx_, {names.data(), n});
  if (Dentry::tree_changes() != before) return;
  base::RefPtr<Dentry> at = current_.dentry;
  for (size_t i = 0; i < found.size() && i < n; ++i) at = at->insert_child(names[i], std::move(found[i]));
}

base::Result<PathStat> walk_stat(OpContext& ctx, const Path& start, std::string_view path, uint32_t flags) {
  Walker walker(ctx, start, flags);
  walker.only_stat();
  PathResult found = TRY(walker.run(path));
  if (walker.peeked()) return PathStat{*walker.peeked(), std::move(found.path.mount), false};
  if (found.path.dentry->is_negative()) return base::err(kENOENT);
  Stat stat = TRY(found.path.inode().stat(ctx));
  const bool is_root = found.path.dentry == found.path.mount->root();
  return PathStat{std::move(stat), std::move(found.path.mount), is_root};
}

base::Result<PathResult> walk(OpContext& ctx, const Path& start, std::string_view path, uint32_t flags) {
  return Walker(ctx, start, flags).run(path);
}

}  // namespace sentry::vfs
