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
    : ctx_(ctx), ns_(ctx.mount_namespace()), start_(start),
      root_(flags & (kLookupInRoot | kLookupStartIsRoot) ? &start : nullptr), flags_(flags) {}

const Path& Walker::root() {
  if (!root_) {
    own_root_ = ctx_.root();
    root_ = &own_root_;
  }
  return *root_;
}

void Walker::stay_at(const Path& path) {
  mount_ = path.mount.get();
  dentry_ = path.dentry.get();
  held_mount_.reset();
  held_dentry_.reset();
}

void Walker::go_to(Path path) {
  held_mount_ = std::move(path.mount);
  held_dentry_ = std::move(path.dentry);
  mount_ = held_mount_.get();
  dentry_ = held_dentry_.get();
}

void Walker::step_to(base::RefPtr<Dentry> dentry) {
  dentry_ = dentry.get();
  held_dentry_ = std::move(dentry);
}

PathResult Walker::take_result() {
  Path path{held_mount_ ? std::move(held_mount_) : base::RefPtr<Mount>(mount_),
            held_dentry_ ? std::move(held_dentry_) : base::RefPtr<Dentry>(dentry_)};
  return {std::move(path), std::move(last_), trailing_slash_};
}

base::Result<PathResult> Walker::run(std::string_view path) {
  if (path.size() >= kPathMax) return base::err(kENAMETOOLONG);
  if (path.empty()) {
    if (!(flags_ & kLookupEmptyPath)) return base::err(kENOENT);
    return PathResult{start_, "", false};
  }
  stay_at(start_);
  TRY(components(path));
  return take_result();
}

base::Result<PathStat> Walker::stat(std::string_view path) {
  if (path.size() >= kPathMax) return base::err(kENAMETOOLONG);
  if (path.empty() && !(flags_ & kLookupEmptyPath)) return base::err(kENOENT);
  stay_at(start_);
  if (!path.empty()) TRY(components(path));
  if (record_) record_->told = record_->told && mount_->fs().tells_changes() && (peeked_ || dentry_->is_negative() || inode().tells_changes());
  if (peeked_) return PathStat{std::move(*peeked_), mount_->id(), mount_->flags(), false};
  if (dentry_->is_negative()) return base::err(kENOENT);
  return PathStat{TRY(inode().stat(ctx_)), mount_->id(), mount_->flags(), dentry_ == mount_->root().get()};
}

base::Result<void> Walker::begin(std::string_view& path) {
  if (path.empty() || path.front() != '/') return {};
  if (flags_ & kLookupBeneath) return base::err(kEXDEV);
  const Path& root = this->root();
  if ((flags_ & kLookupNoXdev) && mount_ != root.mount.get()) return base::err(kEXDEV);
  if (root.dentry->is_mountpoint()) [[unlikely]] go_to(ns_.cross_mounts(root));
  else stay_at(root);
  return {};
}

base::Result<void> Walker::components(std::string_view path) {
  TRY(begin(path));
  trailing_slash_ = false;
  bool& trailing = trailing_slash_;
  last_.clear();
  for (;;) {
    std::string_view rest = path;
    std::string_view name = next_component(rest);
    if (name.empty()) {
      // "/" or nothing left behind a link.
      if ((flags_ & kLookupParent) && !trailing) {
        last_ = "/";
        return {};
      }
      break;
    }
    Inode& dir = inode();
    if (!dir.is_dir()) return base::err(kENOTDIR);
    TRY(dir.permission(ctx_, 1));
    const bool last = only_slashes(rest);
    trailing = last && !rest.empty();
    if (last && (flags_ & kLookupParent)) {
      last_ = name;
      return {};
    }
    const bool follow = !last || trailing || (flags_ & kLookupFollow) != 0;
    path = rest;
    TRY(step(name, rest, follow, path));
    if (last && path.empty()) break;
    if (last && only_slashes(path)) break;
  }
  if ((trailing || (flags_ & kLookupDirectory)) && !inode().is_dir()) return base::err(kENOTDIR);
  return {};
}

// One component. `remaining` becomes what is to be walked next.
base::Result<void> Walker::step(std::string_view name, std::string_view rest, bool follow_link, std::string_view& remaining) {
  if (record_) [[unlikely]] record(name, rest);
  if (name == ".") return {};
  if (name == "..") return step_up();
  base::RefPtr<Dentry> child = dentry_->cached_child(name);
  const bool check = mount_->fs().revalidates();
  if (only_stat_ && rest.empty() && (!child || check) && peek(child.get(), name, follow_link)) return {};
  if (child && check && validated_ == 0) validated_ = validate_ahead(child, name, rest);
  if (child && validated_ != 0) {
    --validated_;
  } else if (!child || check) {
    validated_ = 0;
    if (!child && !only_slashes(rest)) prefetch(name, rest);
    child = TRY(dentry_->child(ctx_, name));
  }
  Inode* inode = child->inode_ptr();
  if (!inode) {
    if (record_) record_->directory = base::RefPtr<Dentry>(dentry_);
    return base::err(kENOENT);
  }
  if (inode->is_symlink()) {
    if (!follow_link) {
      step_to(std::move(child));
      return {};
    }
    if (record_ && only_slashes(rest)) record_->followed = true;
    if (TRY(follow(*inode, *mount_, rest))) {
      remaining = buffer_;
      return begin(remaining);
    }
    return {};
  }
  if (child->is_mountpoint()) [[unlikely]] return move_to(ns_.cross_mounts({base::RefPtr<Mount>(mount_), std::move(child)}));
  step_to(std::move(child));
  return {};
}

void Walker::record(std::string_view name, std::string_view rest) {
  record_->told = record_->told && mount_->fs().tells_changes();
  record_->directory.reset();
  if (only_slashes(rest) && name != "." && name != "..") record_->directory = base::RefPtr<Dentry>(dentry_);
}

bool Walker::peek(const Dentry* child, std::string_view name, bool follow_link) {
  if (child && child->is_mountpoint()) return false;
  peeked_ = inode().peek(ctx_, name);
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
  return n < 2 ? 0 : inode().revalidate_chain(ctx_, {names.data(), n}, {inodes.data(), n});
}

base::Result<void> Walker::move_to(Path next) {
  if ((flags_ & kLookupNoXdev) && next.mount.get() != mount_) return base::err(kEXDEV);
  go_to(std::move(next));
  return {};
}

base::Result<void> Walker::step_up() {
  if ((flags_ & kScoped) && is_at(start_)) return (flags_ & kLookupBeneath) ? base::Result<void>(base::err(kEXDEV)) : base::Result<void>();
  Path at = here();
  for (;;) {
    if (at == root()) return move_to(std::move(at));
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
    if (record_) record_->told = false;
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
  go_to(directory);
  if (!TRY(follow(link.inode(), *link.mount, rest))) {
    result = {here(), "", !rest.empty()};
    return true;
  }
  TRY(components(buffer_));
  result = take_result();
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
  std::vector<base::RefPtr<Inode>> found = inode().lookup_chain(ctx_, {names.data(), n});
  if (Dentry::tree_changes() != before) return;
  base::RefPtr<Dentry> at(dentry_);
  for (size_t i = 0; i < found.size() && i < n; ++i) at = at->insert_child(names[i], std::move(found[i]));
}

base::Result<PathStat> walk_stat(OpContext& ctx, const Path& start, std::string_view path, uint32_t flags, WalkRecord* record) {
  Walker walker(ctx, start, flags);
  walker.only_stat(record);
  return walker.stat(path);
}

void peek_siblings(OpContext& ctx, const Dentry& directory, std::string_view after, size_t most,
                   base::FunctionRef<void(std::string_view name, const Stat& stat)> sink) {
  Inode* dir = directory.inode_ptr();
  if (!dir || !dir->is_dir() || !dir->tells_changes()) return;
  dir->peek_names(ctx, after, most, [&](std::string_view name, base::FunctionRef<std::optional<Stat>()> stat) {
    // Who has it knows best; and a mount may be on it.
    if (const base::RefPtr<Dentry> cached = directory.cached_child(name)) {
      Inode* inode = cached->inode_ptr();
      if (!inode || cached->is_mountpoint() || !inode->tells_changes()) return;
      if (auto known = inode->stat(ctx)) sink(name, *known);
      return;
    }
    if (std::optional<Stat> known = stat()) sink(name, *known);
  });
}

base::Result<PathResult> walk(OpContext& ctx, const Path& start, std::string_view path, uint32_t flags) {
  return Walker(ctx, start, flags).run(path);
}

}  // namespace sentry::vfs
