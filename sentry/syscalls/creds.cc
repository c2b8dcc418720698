// SPDX-License-Identifier: Apache-2.0
// User and group ids, supplementary groups, capabilities: credentials(7), capabilities(7); kernel/sys.c,
// kernel/capability.c and security/commoncap.c of Linux.
#include <algorithm>

#include "sentry/creds/credentials.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::Gid;
using abi::KGid;
using abi::KUid;
using abi::Uid;
using creds::Cap;
using creds::Credentials;

namespace {

constexpr uint32_t kUnchanged = ~0u;
constexpr uint32_t kNgroupsMax = 65536;
constexpr uint32_t kSecureNoSetuidFixup = 1u << 2, kSecureKeepCaps = 1u << 4;

RefPtr<Credentials> prepare(Task& task) { return base::make_ref<Credentials>(*task.credentials()); }

Result<KUid> to_kuid(const Credentials& c, uint32_t uid) {
  auto mapped = c.user_ns->map_uid(Uid(uid));
  if (!mapped) return err(kEINVAL);
  return *mapped;
}

Result<KGid> to_kgid(const Credentials& c, uint32_t gid) {
  auto mapped = c.user_ns->map_gid(Gid(gid));
  if (!mapped) return err(kEINVAL);
  return *mapped;
}

// cap_emulate_setxuid(): what happens to capabilities when user ids move to or from root.
void fix_capabilities(const Credentials& old, Credentials& next) {
  if (next.securebits & kSecureNoSetuidFixup) return;
  auto root = next.user_ns->map_uid(Uid(0));
  auto is_root = [&](KUid u) { return root && u == *root; };
  const bool had_root = is_root(old.uid) || is_root(old.euid) || is_root(old.suid);
  const bool has_root = is_root(next.uid) || is_root(next.euid) || is_root(next.suid);
  if (had_root && !has_root) {
    if (!(next.securebits & kSecureKeepCaps)) next.permitted = next.effective = 0;
    next.ambient = 0;
  }
  if (is_root(old.euid) && !is_root(next.euid)) next.effective = 0;
  if (!is_root(old.euid) && is_root(next.euid)) next.effective = next.permitted;
}

void commit_uids(Task& task, const Credentials& old, RefPtr<Credentials> next) {
  next->fsuid = next->euid;
  fix_capabilities(old, *next);
  task.set_credentials(std::move(next));
}

void commit_gids(Task& task, RefPtr<Credentials> next) {
  next->fsgid = next->egid;
  task.set_credentials(std::move(next));
}

}  // namespace

Result<uint32_t> sys_getuid(Task& task) { return task.creds().user_ns->unmap_uid(task.creds().uid).value(); }
Result<uint32_t> sys_geteuid(Task& task) { return task.creds().user_ns->unmap_uid(task.creds().euid).value(); }
Result<uint32_t> sys_getgid(Task& task) { return task.creds().user_ns->unmap_gid(task.creds().gid).value(); }
Result<uint32_t> sys_getegid(Task& task) { return task.creds().user_ns->unmap_gid(task.creds().egid).value(); }

Result<void> sys_setuid(Task& task, uint32_t uid) {
  const creds::CredPtr old = task.credentials();
  const KUid kuid = TRY(to_kuid(*old, uid));
  auto next = prepare(task);
  if (old->has_cap(Cap::kSETUID)) {
    next->uid = next->suid = kuid;
  } else if (kuid != old->uid && kuid != old->suid) {
    return err(kEPERM);
  }
  next->euid = kuid;
  commit_uids(task, *old, std::move(next));
  return {};
}

Result<void> sys_setgid(Task& task, uint32_t gid) {
  const creds::CredPtr old = task.credentials();
  const KGid kgid = TRY(to_kgid(*old, gid));
  auto next = prepare(task);
  if (old->has_cap(Cap::kSETGID)) {
    next->gid = next->sgid = kgid;
  } else if (kgid != old->gid && kgid != old->sgid) {
    return err(kEPERM);
  }
  next->egid = kgid;
  commit_gids(task, std::move(next));
  return {};
}

Result<void> sys_setreuid(Task& task, uint32_t ruid, uint32_t euid) {
  const creds::CredPtr old = task.credentials();
  const bool privileged = old->has_cap(Cap::kSETUID);
  auto next = prepare(task);
  if (ruid != kUnchanged) {
    next->uid = TRY(to_kuid(*old, ruid));
    if (!privileged && next->uid != old->uid && next->uid != old->euid) return err(kEPERM);
  }
  if (euid != kUnchanged) {
    next->euid = TRY(to_kuid(*old, euid));
    if (!privileged && next->euid != old->uid && next->euid != old->euid && next->euid != old->suid) return err(kEPERM);
  }
  if (ruid != kUnchanged || (euid != kUnchanged && next->euid != old->uid)) next->suid = next->euid;
  commit_uids(task, *old, std::move(next));
  return {};
}

Result<void> sys_setregid(Task& task, uint32_t rgid, uint32_t egid) {
  const creds::CredPtr old = task.credentials();
  const bool privileged = old->has_cap(Cap::kSETGID);
  auto next = prepare(task);
  if (rgid != kUnchanged) {
    next->gid = TRY(to_kgid(*old, rgid));
    if (!privileged && next->gid != old->gid && next->gid != old->egid) return err(kEPERM);
  }
  if (egid != kUnchanged) {
    next->egid = TRY(to_kgid(*old, egid));
    if (!privileged && next->egid != old->gid && next->egid != old->egid && next->egid != old->sgid) return err(kEPERM);
  }
  if (rgid != kUnchanged || (egid != kUnchanged && next->egid != old->gid)) next->sgid = next->egid;
  commit_gids(task, std::move(next));
  return {};
}

Result<void> sys_setresuid(Task& task, uint32_t ruid, uint32_t euid, uint32_t suid) {
  const creds::CredPtr old = task.credentials();
  auto next = prepare(task);
  auto set = [&](uint32_t wanted, KUid& field) -> Result<void> {
    if (wanted == kUnchanged) return {};
    KUid k = TRY(to_kuid(*old, wanted));
    if (k != old->uid && k != old->euid && k != old->suid && !old->has_cap(Cap::kSETUID)) return err(kEPERM);
    field = k;
    return {};
  };
  TRY(set(ruid, next->uid));
  TRY(set(euid, next->euid));
  TRY(set(suid, next->suid));
  commit_uids(task, *old, std::move(next));
  return {};
}

Result<void> sys_setresgid(Task& task, uint32_t rgid, uint32_t egid, uint32_t sgid) {
  const creds::CredPtr old = task.credentials();
  auto next = prepare(task);
  auto set = [&](uint32_t wanted, KGid& field) -> Result<void> {
    if (wanted == kUnchanged) return {};
    KGid k = TRY(to_kgid(*old, wanted));
    if (k != old->gid && k != old->egid && k != old->sgid && !old->has_cap(Cap::kSETGID)) return err(kEPERM);
    field = k;
    return {};
  };
  TRY(set(rgid, next->gid));
  TRY(set(egid, next->egid));
  TRY(set(sgid, next->sgid));
  commit_gids(task, std::move(next));
  return {};
}

Result<void> sys_getresuid(Task& task, UserOut<uint32_t> ruid, UserOut<uint32_t> euid, UserOut<uint32_t> suid) {
  const creds::CredPtr c = task.credentials();
  TRY(task.write(ruid, c->user_ns->unmap_uid(c->uid).value()));
  TRY(task.write(euid, c->user_ns->unmap_uid(c->euid).value()));
  return task.write(suid, c->user_ns->unmap_uid(c->suid).value());
}

Result<void> sys_getresgid(Task& task, UserOut<uint32_t> rgid, UserOut<uint32_t> egid, UserOut<uint32_t> sgid) {
  const creds::CredPtr c = task.credentials();
  TRY(task.write(rgid, c->user_ns->unmap_gid(c->gid).value()));
  TRY(task.write(egid, c->user_ns->unmap_gid(c->egid).value()));
  return task.write(sgid, c->user_ns->unmap_gid(c->sgid).value());
}

namespace {

// cap_task_fix_setuid(LSM_SETID_FS): the capabilities over files go and come with a file user id of 0.
void fix_file_capabilities(const creds::Credentials& old, creds::Credentials& next) {
  constexpr uint32_t kSecureNoSetuidFixup = 1u << 2;
  constexpr creds::CapSet kFileCaps = creds::cap_bit(Cap::kCHOWN) | creds::cap_bit(Cap::kMKNOD) | creds::cap_bit(Cap::kDAC_OVERRIDE) |
                                      creds::cap_bit(Cap::kDAC_READ_SEARCH) | creds::cap_bit(Cap::kFOWNER) |
                                      creds::cap_bit(Cap::kFSETID) | creds::cap_bit(Cap::kLINUX_IMMUTABLE) |
                                      creds::cap_bit(Cap::kMAC_OVERRIDE);
  const auto root = old.user_ns->map_uid(Uid(0));
  if (!root || (old.securebits & kSecureNoSetuidFixup)) return;
  if (old.fsuid == *root && next.fsuid != *root) next.effective &= ~kFileCaps;
  if (old.fsuid != *root && next.fsuid == *root) next.effective |= next.permitted & kFileCaps;
}

}  // namespace

// Both return the old id and never fail: setfsuid(2).
Result<uint32_t> sys_setfsuid(Task& task, uint32_t uid) {
  const creds::CredPtr old = task.credentials();
  const uint32_t before = old->user_ns->unmap_uid(old->fsuid).value();
  auto k = old->user_ns->map_uid(Uid(uid));
  if (!k) return before;
  if (*k == old->uid || *k == old->euid || *k == old->suid || *k == old->fsuid || old->has_cap(Cap::kSETUID)) {
    auto next = prepare(task);
    next->fsuid = *k;
    fix_file_capabilities(*old, *next);
    task.set_credentials(std::move(next));
  }
  return before;
}

Result<uint32_t> sys_setfsgid(Task& task, uint32_t gid) {
  const creds::CredPtr old = task.credentials();
  const uint32_t before = old->user_ns->unmap_gid(old->fsgid).value();
  auto k = old->user_ns->map_gid(Gid(gid));
  if (!k) return before;
  if (*k == old->gid || *k == old->egid || *k == old->sgid || *k == old->fsgid || old->has_cap(Cap::kSETGID)) {
    auto next = prepare(task);
    next->fsgid = *k;
    task.set_credentials(std::move(next));
  }
  return before;
}

Result<int32_t> sys_getgroups(Task& task, int32_t size, UserOut<uint32_t> list) {
  if (size < 0) return err(kEINVAL);
  const creds::CredPtr c = task.credentials();
  const auto count = static_cast<int32_t>(c->groups.size());
  if (size == 0) return count;
  if (size < count) return err(kEINVAL);
  std::vector<uint32_t> out;
  for (KGid g : c->groups) out.push_back(c->user_ns->unmap_gid(g).value());
  TRY(task.user_memory().write_array(list, out));
  return count;
}

Result<void> sys_setgroups(Task& task, int32_t size, UserIn<uint32_t> list) {
  const creds::CredPtr old = task.credentials();
  if (!old->has_cap(Cap::kSETGID) || !old->user_ns->setgroups_allowed()) return err(kEPERM);
  if (size < 0 || static_cast<uint32_t>(size) > kNgroupsMax) return err(kEINVAL);
  std::vector<uint32_t> raw = TRY(task.read_array(list, static_cast<size_t>(size)));
  auto next = prepare(task);
  next->groups.clear();
  for (uint32_t g : raw) next->groups.push_back(TRY(to_kgid(*old, g)));
  std::sort(next->groups.begin(), next->groups.end());
  task.set_credentials(std::move(next));
  return {};
}

// capget(2), capset(2). Version 3 (two words) is what everybody uses; 1 and 2 are still accepted.
struct CapUserHeader {
  uint32_t version = 0;
  int32_t pid = 0;
};
struct CapUserData {
  uint32_t effective = 0, permitted = 0, inheritable = 0;
};

namespace {

constexpr uint32_t kCapVersion1 = 0x19980330, kCapVersion2 = 0x20071026, kCapVersion3 = 0x20080522;

// How many CapUserData elements go with the header. An unknown version is answered with the newest one.
Result<size_t> check_cap_version(Task& task, UserInOut<CapUserHeader> header, CapUserHeader& h, bool data_is_null) {
  h = TRY(task.read(header));
  if (h.version == kCapVersion1) return 1;
  if (h.version == kCapVersion2 || h.version == kCapVersion3) return 2;
  h.version = kCapVersion3;
  TRY(task.write(header, h));
  if (data_is_null) return size_t{0};
  return err(kEINVAL);
}

constexpr uint32_t word(creds::CapSet set, size_t i) { return static_cast<uint32_t>(set >> (32 * i)); }

}  // namespace

Result<void> sys_capget(Task& task, UserInOut<CapUserHeader> header, UserOut<CapUserData> data) {
  CapUserHeader h;
  const size_t words = TRY(check_cap_version(task, header, h, data.is_null()));
  if (words == 0) return {};
  if (h.pid < 0) return err(kEINVAL);
  creds::CredPtr c = task.credentials();
  if (h.pid != 0 && h.pid != task.tid().value()) {
    RefPtr<Task> target = task.pid_namespace().find_task(Tid(h.pid));
    if (!target) return err(kESRCH);
    c = target->credentials();
  }
  if (data.is_null()) return {};
  for (size_t i = 0; i < words; ++i)
    TRY(task.write(data.offset(i), CapUserData{word(c->effective, i), word(c->permitted, i), word(c->inheritable, i)}));
  return {};
}

Result<void> sys_capset(Task& task, UserInOut<CapUserHeader> header, UserIn<CapUserData> data) {
  CapUserHeader h;
  const size_t words = TRY(check_cap_version(task, header, h, false));
  if (h.pid != 0 && h.pid != task.tid().value()) return err(kEPERM);
  creds::CapSet effective = 0, permitted = 0, inheritable = 0;
  for (size_t i = 0; i < words; ++i) {
    const CapUserData d = TRY(task.read(data.offset(i)));
    effective |= creds::CapSet{d.effective} << (32 * i);
    permitted |= creds::CapSet{d.permitted} << (32 * i);
    inheritable |= creds::CapSet{d.inheritable} << (32 * i);
  }
  effective &= creds::kAllCaps;
  permitted &= creds::kAllCaps;
  inheritable &= creds::kAllCaps;
  // cap_capset() of security/commoncap.c.
  const creds::CredPtr old = task.credentials();
  if (!old->has_cap(Cap::kSETPCAP) && (inheritable & ~(old->inheritable | old->permitted)) != 0) return err(kEPERM);
  if ((inheritable & ~(old->inheritable | old->bounding)) != 0) return err(kEPERM);
  if ((permitted & ~old->permitted) != 0 || (effective & ~permitted) != 0) return err(kEPERM);
  auto next = prepare(task);
  next->effective = effective;
  next->permitted = permitted;
  next->inheritable = inheritable;
  next->ambient &= permitted & inheritable;
  task.set_credentials(std::move(next));
  return {};
}

SYSCALL_FAMILY(creds) = {
    ROW(getuid, kFull, ""),    ROW(geteuid, kFull, ""),   ROW(getgid, kFull, ""),    ROW(getegid, kFull, ""),
    ROW(setuid, kFull, ""),    ROW(setgid, kFull, ""),    ROW(setreuid, kFull, ""),  ROW(setregid, kFull, ""),
    ROW(setresuid, kFull, ""), ROW(setresgid, kFull, ""), ROW(getresuid, kFull, ""), ROW(getresgid, kFull, ""),
    ROW(setfsuid, kFull, ""),  ROW(setfsgid, kFull, ""),  ROW(getgroups, kFull, ""), ROW(setgroups, kFull, ""),
    ROW(capget, kFull, ""),    ROW(capset, kFull, ""),
};
SYSCALL_FAMILY_END(creds);

}  // namespace sentry::syscalls
