// SPDX-License-Identifier: Apache-2.0
// User namespaces: maps are in the sandbox's root ids, so that translation needs no walk up the parents.
#include <algorithm>

#include "sentry/creds/credentials.h"

namespace sentry::creds {

using enum abi::Errno;

namespace {

constexpr int kMaxLevel = 32;         // kernel/user_namespace.c
constexpr size_t kMaxExtents = 340;   // UID_GID_MAP_MAX_EXTENTS
constexpr uint32_t kWholeRange = 0xffffffffu;

std::optional<uint32_t> map_down(const std::vector<IdMapEntry>& map, uint32_t id) {
  for (const IdMapEntry& e : map)
    if (id >= e.first && id - e.first < e.count) return e.parent_first + (id - e.first);
  return std::nullopt;
}

std::optional<uint32_t> map_up(const std::vector<IdMapEntry>& map, uint32_t id) {
  for (const IdMapEntry& e : map)
    if (id >= e.parent_first && id - e.parent_first < e.count) return e.first + (id - e.parent_first);
  return std::nullopt;
}

bool overlaps(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count) {
  return uint64_t{a} < uint64_t{b} + b_count && uint64_t{b} < uint64_t{a} + a_count;
}

// map_write(): no empty, wrapping or overlapping extents.
base::Result<void> validate(const std::vector<IdMapEntry>& map) {
  if (map.empty() || map.size() > kMaxExtents) return base::err(kEINVAL);
  for (size_t i = 0; i < map.size(); ++i) {
    const IdMapEntry& e = map[i];
    if (e.count == 0 || e.first == kWholeRange || e.parent_first == kWholeRange) return base::err(kEINVAL);
    if (uint64_t{e.first} + e.count > kWholeRange || uint64_t{e.parent_first} + e.count > kWholeRange)
      return base::err(kEINVAL);
    for (size_t j = 0; j < i; ++j)
      if (overlaps(e.first, e.count, map[j].first, map[j].count) ||
          overlaps(e.parent_first, e.count, map[j].parent_first, map[j].count))
        return base::err(kEINVAL);
  }
  return {};
}

}  // namespace

UserNamespace::UserNamespace(base::RefPtr<UserNamespace> parent, abi::KUid owner, abi::KGid group, int level)
    : parent_(std::move(parent)), owner_(owner), owner_group_(group), level_(level) {}

base::RefPtr<UserNamespace> UserNamespace::create_root() {
  auto ns = base::make_ref<UserNamespace>(base::RefPtr<UserNamespace>(), abi::KUid(0), abi::KGid(0), 0);
  base::MutexLock lock(ns->mu_);
  ns->uids_ = ns->gids_ = {{0, 0, kWholeRange}};
  return ns;
}

base::Result<base::RefPtr<UserNamespace>> UserNamespace::create_child(base::RefPtr<UserNamespace> parent,
                                                                      abi::KUid owner, abi::KGid owner_group) {
  if (parent->level_ >= kMaxLevel) return base::err(kEUSERS);
  // current_chrooted_and_id check of create_user_ns(): the creator's ids must be known to the parent.
  if (!parent->is_mapped(owner) || !parent->is_mapped(owner_group)) return base::err(kEPERM);
  int level = parent->level_ + 1;
  bool setgroups = parent->setgroups_allowed();
  auto ns = base::make_ref<UserNamespace>(std::move(parent), owner, owner_group, level);
  base::MutexLock lock(ns->mu_);
  ns->setgroups_ = setgroups;
  return ns;
}

bool UserNamespace::is_descendant_of(const UserNamespace& ancestor) const {
  for (const UserNamespace* ns = this; ns; ns = ns->parent())
    if (ns == &ancestor) return true;
  return false;
}

std::optional<abi::KUid> UserNamespace::map_uid(abi::Uid id) const {
  base::MutexLock lock(mu_);
  auto v = map_down(uids_, id.value());
  return v ? std::optional(abi::KUid(*v)) : std::nullopt;
}

std::optional<abi::KGid> UserNamespace::map_gid(abi::Gid id) const {
  base::MutexLock lock(mu_);
  auto v = map_down(gids_, id.value());
  return v ? std::optional(abi::KGid(*v)) : std::nullopt;
}

// The sandbox's root namespace knows every id by its own name, from the start and for good.
abi::Uid UserNamespace::unmap_uid(abi::KUid id) const {
  if (level_ == 0 && id.value() != kWholeRange) return abi::Uid(id.value());
  base::MutexLock lock(mu_);
  return abi::Uid(map_up(uids_, id.value()).value_or(kOverflowId));
}

abi::Gid UserNamespace::unmap_gid(abi::KGid id) const {
  if (level_ == 0 && id.value() != kWholeRange) return abi::Gid(id.value());
  base::MutexLock lock(mu_);
  return abi::Gid(map_up(gids_, id.value()).value_or(kOverflowId));
}

bool UserNamespace::is_mapped(abi::KUid id) const {
  base::MutexLock lock(mu_);
  return map_up(uids_, id.value()).has_value();
}

bool UserNamespace::is_mapped(abi::KGid id) const {
  base::MutexLock lock(mu_);
  return map_up(gids_, id.value()).has_value();
}

// Parent ids -> root ids. EPERM when an extent is not wholly inside one extent of the parent.
base::Result<std::vector<IdMapEntry>> UserNamespace::resolve(std::vector<IdMapEntry> map, bool groups) const {
  TRY(validate(map));
  if (!parent_) return map;
  std::vector<IdMapEntry> above;
  {
    base::MutexLock lock(parent_->mu_);
    above = groups ? parent_->gids_ : parent_->uids_;
  }
  for (IdMapEntry& e : map) {
    auto it = std::find_if(above.begin(), above.end(), [&](const IdMapEntry& p) {
      return e.parent_first >= p.first && uint64_t{e.parent_first} + e.count <= uint64_t{p.first} + p.count;
    });
    if (it == above.end()) return base::err(kEPERM);
    e.parent_first = it->parent_first + (e.parent_first - it->first);
  }
  return map;
}

base::Result<void> UserNamespace::set_uid_map(std::vector<IdMapEntry> map) {
  auto resolved = TRY(resolve(std::move(map), false));
  base::MutexLock lock(mu_);
  if (!uids_.empty()) return base::err(kEPERM);
  uids_ = std::move(resolved);
  return {};
}

base::Result<void> UserNamespace::set_gid_map(std::vector<IdMapEntry> map) {
  auto resolved = TRY(resolve(std::move(map), true));
  base::MutexLock lock(mu_);
  if (!gids_.empty()) return base::err(kEPERM);
  gids_ = std::move(resolved);
  return {};
}

std::vector<IdMapEntry> UserNamespace::uid_map() const {
  base::MutexLock lock(mu_);
  return uids_;
}

std::vector<IdMapEntry> UserNamespace::gid_map() const {
  base::MutexLock lock(mu_);
  return gids_;
}

bool UserNamespace::setgroups_allowed() const {
  base::MutexLock lock(mu_);
  return setgroups_;
}

// "deny" is possible until the group map is written; afterwards only repeating what holds.
base::Result<void> UserNamespace::deny_setgroups() {
  base::MutexLock lock(mu_);
  if (setgroups_ && !gids_.empty()) return base::err(kEPERM);
  setgroups_ = false;
  return {};
}

}  // namespace sentry::creds
