// SPDX-License-Identifier: Apache-2.0
// What semaphores and message queues share: ids, permissions, lookup by key (ipc/util.c of Linux).
#pragma once

#include <map>

#include "sentry/kernel/namespaces.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls::sysv {

enum : int32_t { kPrivate = 0, kRmid = 0, kSet = 1, kStat = 2, kInfo = 3 };
enum : uint32_t { kCreat = 01000, kExcl = 02000, kNoWait = 04000 };

struct PermAbi {  // struct ipc64_perm
  int32_t key = 0;
  uint32_t uid = 0, gid = 0, cuid = 0, cgid = 0, mode = 0;
  uint16_t seq = 0, pad0 = 0;
  uint32_t pad1 = 0;
  uint64_t unused[2] = {};
};
static_assert(sizeof(PermAbi) == 48);

struct Perm {
  int32_t key = 0;
  abi::KUid uid, cuid;
  abi::KGid gid, cgid;
  uint32_t mode = 0;

  static Perm create(const creds::Credentials& c, int32_t key, uint32_t mode) {
    return {key, c.euid, c.euid, c.egid, c.egid, mode & 0777};
  }
  // ipcperms(): want is 4 read, 2 write. EACCES.
  Result<void> check(const creds::Credentials& c, uint32_t want) const {
    uint32_t granted = mode;
    if (c.euid == uid || c.euid == cuid) granted >>= 6;
    else if (is_member(c, gid) || is_member(c, cgid)) granted >>= 3;
    if ((want & ~granted & 7) == 0 || c.has_cap(creds::Cap::kIPC_OWNER)) return {};
    return err(Errno::kEACCES);
  }
  Result<void> check_owner(const creds::Credentials& c) const {
    if (c.euid == uid || c.euid == cuid || c.has_cap(creds::Cap::kSYS_ADMIN)) return {};
    return err(Errno::kEPERM);
  }
  PermAbi to_abi(const creds::UserNamespace& ns, int32_t id) const {
    PermAbi p;
    p.key = key;
    p.uid = ns.unmap_uid(uid).value();
    p.gid = ns.unmap_gid(gid).value();
    p.cuid = ns.unmap_uid(cuid).value();
    p.cgid = ns.unmap_gid(cgid).value();
    p.mode = mode;
    p.seq = static_cast<uint16_t>(id / kIdStep);
    return p;
  }
  Result<void> set(const creds::UserNamespace& ns, const PermAbi& p) {
    const auto u = ns.map_uid(abi::Uid(p.uid));
    const auto g = ns.map_gid(abi::Gid(p.gid));
    if (!u || !g) return err(Errno::kEINVAL);
    uid = *u;
    gid = *g;
    mode = p.mode & 0777;
    return {};
  }
  static constexpr int32_t kIdStep = 32768;

 private:
  static bool is_member(const creds::Credentials& c, abi::KGid g) {
    if (c.egid == g) return true;
    for (abi::KGid s : c.groups) {
      if (s == g) return true;
    }
    return false;
  }
};

// Objects of one kind by id. Guarded by the owner's lock.
template <typename T>
struct Objects {
  std::map<int32_t, RefPtr<T>> by_id;
  int32_t next = 0;

  RefPtr<T> find(int32_t id) const {
    auto it = by_id.find(id);
    return it == by_id.end() ? nullptr : it->second;
  }
  RefPtr<T> find_key(int32_t key) const {
    for (const auto& [id, object] : by_id) {
      if (object->perm.key == key) return object;
    }
    return nullptr;
  }
  // xget(): the existing object after its checks, or a new one from make(). ENOENT, EEXIST, EACCES, ENOSPC.
  template <typename Check, typename Make>
  Result<int32_t> get(Task& task, int32_t key, uint32_t flags, size_t limit, Check check, Make make) {
    if (key != kPrivate) {
      if (RefPtr<T> found = find_key(key)) {
        if ((flags & kCreat) && (flags & kExcl)) return err(Errno::kEEXIST);
        TRY(check(*found));
        TRY(found->perm.check(task.creds(), (flags | flags >> 3 | flags >> 6) & 7));
        return found->id;
      }
      if (!(flags & kCreat)) return err(Errno::kENOENT);
    }
    if (by_id.size() >= limit) return err(Errno::kENOSPC);
    while (by_id.contains(next)) next = next == INT32_MAX ? 0 : next + 1;
    RefPtr<T> object = TRY(make());
    object->id = next;
    object->perm = Perm::create(task.creds(), key, flags);
    by_id.emplace(next, object);
    next = next == INT32_MAX ? 0 : next + 1;
    return object->id;
  }
};

}  // namespace sentry::syscalls::sysv
