// SPDX-License-Identifier: Apache-2.0
#include "sentry/creds/credentials.h"

#include <algorithm>

namespace sentry::creds {

using enum abi::Errno;

namespace {

constexpr unsigned kExec = 1, kWrite = 2;
constexpr uint32_t kTypeMask = 0170000, kDirectory = 0040000;

}  // namespace

Credentials::Credentials(const Credentials& o)
    : base::RefCounted(),
      uid(o.uid), euid(o.euid), suid(o.suid), fsuid(o.fsuid),
      gid(o.gid), egid(o.egid), sgid(o.sgid), fsgid(o.fsgid),
      groups(o.groups),
      effective(o.effective), permitted(o.permitted), inheritable(o.inheritable), bounding(o.bounding),
      ambient(o.ambient), securebits(o.securebits), no_new_privs(o.no_new_privs), user_ns(o.user_ns) {}

base::RefPtr<Credentials> Credentials::create_root(base::RefPtr<UserNamespace> ns) {
  auto c = base::make_ref<Credentials>();
  c->effective = c->permitted = kAllCaps;
  c->user_ns = std::move(ns);
  return c;
}

// cap_capable() of security/commoncap.c: walks from the target namespace towards the root.
bool Credentials::has_cap_in(Cap c, const UserNamespace& target) const {
  for (const UserNamespace* ns = &target; ns; ns = ns->parent()) {
    if (ns == user_ns.get()) return has_cap(c);
    // The owner of a namespace, seen from its parent, has every capability in it.
    if (ns->parent() == user_ns.get() && ns->owner() == euid) return true;
  }
  return false;
}

bool Credentials::in_group(abi::KGid g) const {
  return g == fsgid || std::binary_search(groups.begin(), groups.end(), g);
}

namespace {
// capable_wrt_inode_uidgid(): the capability counts only over owners that the namespace knows.
bool has_cap_over(const Credentials& c, Cap cap, const InodeOwner& o) {
  if (!c.has_cap(cap)) return false;
  const UserNamespace& ns = *c.user_ns;
  return !ns.parent() || (ns.is_mapped(o.uid) && ns.is_mapped(o.gid));
}
}  // namespace

base::Result<void> check_permission(const Credentials& c, const InodeOwner& o, unsigned want) {
  unsigned granted = 0;
  if (c.fsuid == o.uid) {
    granted = (o.mode >> 6) & 7;
  } else if (c.in_group(o.gid)) {
    granted = (o.mode >> 3) & 7;
  } else {
    granted = o.mode & 7;
  }
  want &= 7;
  if ((want & ~granted) == 0) return {};
  bool directory = (o.mode & kTypeMask) == kDirectory;
  // Reading anything and searching directories.
  if ((directory ? (want & kWrite) == 0 : (want & (kWrite | kExec)) == 0) &&
      has_cap_over(c, Cap::kDAC_READ_SEARCH, o))
    return {};
  // Execution needs one x bit somewhere, even for root.
  bool overridable = directory || (want & kExec) == 0 || (o.mode & 0111) != 0;
  if (overridable && has_cap_over(c, Cap::kDAC_OVERRIDE, o)) return {};
  return base::err(kEACCES);
}

bool is_owner_or_capable(const Credentials& c, const InodeOwner& o) {
  if (c.fsuid == o.uid) return true;
  if (!c.has_cap(Cap::kFOWNER)) return false;
  return !c.user_ns->parent() || c.user_ns->is_mapped(o.uid);
}

namespace {

// What access(2) asks with: of the real user.
uint64_t access_capabilities(const Credentials& c) {
  constexpr uint32_t kSecureNoSetuidFixup = 1u << 2;
  if (c.securebits & kSecureNoSetuidFixup) return c.effective;
  auto root = c.user_ns->map_uid(abi::Uid(0));
  return root && c.uid == *root ? c.permitted : 0;
}

}  // namespace

// access_need_override_creds() of fs/open.c.
bool access_differs(const Credentials& c) { return c.fsuid != c.uid || c.fsgid != c.gid || c.effective != access_capabilities(c); }

CredPtr for_access(const Credentials& c) {
  auto next = base::make_ref<Credentials>(c);
  next->fsuid = c.uid;
  next->fsgid = c.gid;
  next->effective = access_capabilities(c);
  return next;
}

}  // namespace sentry::creds
