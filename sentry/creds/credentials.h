// SPDX-License-Identifier: Apache-2.0
// Credentials and user namespaces: credentials(7), capabilities(7), user_namespaces(7). Credentials are immutable once
// published; a change makes a new object (as Linux's prepare_creds/commit_creds).
#pragma once

#include <array>
#include <optional>
#include <cstdint>
#include <string>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"

namespace sentry::creds {

enum class Cap : uint8_t {
  kCHOWN = 0, kDAC_OVERRIDE, kDAC_READ_SEARCH, kFOWNER, kFSETID, kKILL, kSETGID, kSETUID, kSETPCAP,
  kLINUX_IMMUTABLE, kNET_BIND_SERVICE, kNET_BROADCAST, kNET_ADMIN, kNET_RAW, kIPC_LOCK, kIPC_OWNER, kSYS_MODULE,
  kSYS_RAWIO, kSYS_CHROOT, kSYS_PTRACE, kSYS_PACCT, kSYS_ADMIN, kSYS_BOOT, kSYS_NICE, kSYS_RESOURCE, kSYS_TIME,
  kSYS_TTY_CONFIG, kMKNOD, kLEASE, kAUDIT_WRITE, kAUDIT_CONTROL, kSETFCAP, kMAC_OVERRIDE, kMAC_ADMIN, kSYSLOG,
  kWAKE_ALARM, kBLOCK_SUSPEND, kAUDIT_READ, kPERFMON, kBPF, kCHECKPOINT_RESTORE,
  kLast = kCHECKPOINT_RESTORE,
};

// One bit per capability.
using CapSet = uint64_t;
constexpr CapSet cap_bit(Cap c) { return CapSet{1} << static_cast<unsigned>(c); }
inline constexpr CapSet kAllCaps = (CapSet{1} << (static_cast<unsigned>(Cap::kLast) + 1)) - 1;

inline constexpr uint32_t kOverflowId = 65534;

// One line of uid_map or gid_map.
struct IdMapEntry {
  uint32_t first = 0, parent_first = 0, count = 0;
};

class UserNamespace final : public base::RefCounted {
 public:
  static base::RefPtr<UserNamespace> create_root();  // identity map, owner root
  // A child of `parent` created by `owner` (its euid and egid in the root namespace). EUSERS below 32 levels.
  static base::Result<base::RefPtr<UserNamespace>> create_child(base::RefPtr<UserNamespace> parent, abi::KUid owner,
                                                               abi::KGid owner_group);
  UserNamespace* parent() const { return parent_.get(); }
  abi::KUid owner() const { return owner_; }
  bool is_descendant_of(const UserNamespace& ancestor) const;  // or the same

  // Guest id -> sandbox id; nullopt when it has no mapping.
  std::optional<abi::KUid> map_uid(abi::Uid) const;
  std::optional<abi::KGid> map_gid(abi::Gid) const;
  // Sandbox id -> guest id; kOverflowId when there is none.
  abi::Uid unmap_uid(abi::KUid) const;
  abi::Gid unmap_gid(abi::KGid) const;
  bool is_mapped(abi::KUid) const;
  bool is_mapped(abi::KGid) const;
  // Writes of /proc/PID/{uid_map,gid_map,setgroups}; EPERM on the second. Checks of the writer are the caller's.
  base::Result<void> set_uid_map(std::vector<IdMapEntry>);
  base::Result<void> set_gid_map(std::vector<IdMapEntry>);
  // Extents with `parent_first` in the sandbox's root ids.
  std::vector<IdMapEntry> uid_map() const;
  std::vector<IdMapEntry> gid_map() const;
  bool setgroups_allowed() const;
  base::Result<void> deny_setgroups();

 private:
  template <typename T, typename... A>
  friend base::RefPtr<T> base::make_ref(A&&...);
  UserNamespace(base::RefPtr<UserNamespace> parent, abi::KUid owner, abi::KGid group, int level);
  base::Result<std::vector<IdMapEntry>> resolve(std::vector<IdMapEntry> map, bool groups) const;
  const base::RefPtr<UserNamespace> parent_;
  const abi::KUid owner_;
  const abi::KGid owner_group_;
  const int level_;
  mutable base::Mutex mu_{base::LockRank::kLeaf};
  std::vector<IdMapEntry> uids_ GUARDED_BY(mu_), gids_ GUARDED_BY(mu_);
  bool setgroups_ GUARDED_BY(mu_) = true;
};

struct Credentials final : public base::RefCounted {
  abi::KUid uid, euid, suid, fsuid;
  abi::KGid gid, egid, sgid, fsgid;
  std::vector<abi::KGid> groups;  // sorted
  CapSet effective = 0, permitted = 0, inheritable = 0, bounding = kAllCaps, ambient = 0;
  uint32_t securebits = 0;
  bool no_new_privs = false;
  base::RefPtr<UserNamespace> user_ns;

  Credentials() = default;
  Credentials(const Credentials& o);  // a fresh object with one reference
  static base::RefPtr<Credentials> create_root(base::RefPtr<UserNamespace> ns);

  // capable(7) in this credential's own namespace / in `ns` (ns_capable: also the owner of a descendant).
  bool has_cap(Cap c) const { return (effective & cap_bit(c)) != 0; }
  bool has_cap_in(Cap c, const UserNamespace& ns) const;
  bool in_group(abi::KGid g) const;  // fsgid or supplementary
};

using CredPtr = base::RefPtr<const Credentials>;

// access(2): file ids are the real ones, and capabilities are those that a root or non-root real user would have
// (access_override_creds() of fs/open.c).
CredPtr for_access(const Credentials& c);
// Whether that makes any difference.
bool access_differs(const Credentials& c);

// generic_permission() of fs/namei.c on mode bits. `want`: 4 read, 2 write, 1 execute. EACCES.
struct InodeOwner {
  abi::KUid uid;
  abi::KGid gid;
  uint32_t mode = 0;
};
base::Result<void> check_permission(const Credentials&, const InodeOwner&, unsigned want);
// inode_owner_or_capable().
bool is_owner_or_capable(const Credentials&, const InodeOwner&);

}  // namespace sentry::creds
