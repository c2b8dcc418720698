// SPDX-License-Identifier: Apache-2.0
// System V shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2). A segment is a file of the memory file system that
// address spaces map; its registry hangs off the IPC namespace.
#include <map>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/memory/page_cache.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::kPageSize;

struct IpcPerm {
  int32_t key = 0;
  uint32_t uid = 0, gid = 0, cuid = 0, cgid = 0, mode = 0;
  uint16_t seq = 0, pad0 = 0;
  uint32_t pad1 = 0;
  uint64_t unused[2] = {};
};
static_assert(sizeof(IpcPerm) == 48);

struct ShmidDs {
  IpcPerm perm;
  uint64_t size = 0;
  int64_t atime = 0, dtime = 0, ctime = 0;
  int32_t cpid = 0, lpid = 0;
  uint64_t nattch = 0, unused[2] = {};
};
static_assert(sizeof(ShmidDs) == 112);

struct ShmInfo64 {
  uint64_t shmmax = ~uint64_t{0} - (uint64_t{1} << 24), shmmin = 1, shmmni = 4096, shmseg = 4096,
           shmall = ~uint64_t{0} - (uint64_t{1} << 24), unused[4] = {};
};
struct ShmUsage {
  int32_t used_ids = 0, pad0 = 0;
  uint64_t total = 0, resident = 0, swapped = 0, swap_attempts = 0, swap_successes = 0;
};

namespace {

constexpr int32_t kIpcPrivate = 0, kIpcRmid = 0, kIpcSet = 1, kIpcStat = 2, kIpcInfo = 3;
constexpr int32_t kShmLock = 11, kShmUnlock = 12, kShmStat = 13, kShmInfo = 14, kShmStatAny = 15;
constexpr uint32_t kIpcCreat = 01000, kIpcExcl = 02000, kShmHugeTlb = 04000;
constexpr uint32_t kShmReadOnly = 010000, kShmRound = 020000, kShmRemap = 040000, kShmExec = 0100000;
constexpr uint32_t kShmDest = 01000, kShmLocked = 02000;
constexpr uint64_t kMaxSize = uint64_t{1} << 46;
constexpr size_t kMaxSegments = 4096;

class Segment final : public memory::MappedFile {
 public:
  Segment(int32_t id, RefPtr<memory::PageCache> pages, uint64_t size) : id(id), size(size), pages(std::move(pages)) {}
  Identity mapped_identity() const override {
    char name[32];
    snprintf(name, sizeof name, "/SYSV%08x (deleted)", static_cast<unsigned>(key));
    return {name, {0, 1}, static_cast<uint64_t>(id)};
  }
  const int32_t id;
  const uint64_t size;
  const RefPtr<memory::PageCache> pages;
  // Set when made; the rest is guarded by the registry.
  int32_t key = 0;
  abi::KUid owner, creator;
  abi::KGid group, creator_group;
  uint32_t mode = 0;
  int64_t atime = 0, dtime = 0, ctime = 0;
  int32_t cpid = 0, lpid = 0;
};

// A removed segment lives as long as it is mapped and is still found by its id, as in Linux.
class Registry final : public base::RefCounted {
 public:
  struct Entry {
    RefPtr<Segment> strong;  // null once removed
    base::WeakRef<Segment> weak;
  };
  struct State {
    std::map<int32_t, Entry> segments;
    int32_t next = 0;
  };
  // Ranks above the page cache, because a segment may die with its entry.
  base::Guarded<State> state{base::LockRank::kFileMappings};
};

RefPtr<Registry> registry_of(Task& task) {
  kernel::IpcNamespace& ipc = *task.namespaces()->ipc;
  return ipc.objects.with([](auto& o) {
    if (!o.shared_memory) o.shared_memory = base::make_ref<Registry>();
    return RefPtr<Registry>(static_cast<Registry*>(o.shared_memory.get()));
  });
}

// References that are not mappings: the registry's, if it has one, and the caller's.
uint64_t attached(const Segment& s, bool in_registry) {
  const uint32_t refs = s.ref_count_for_debug(), own = in_registry ? 2 : 1;
  return refs > own ? refs - own : 0;
}

struct Found {
  RefPtr<Segment> segment;
  bool removed = false;
};
Result<Found> find_segment(Registry& r, int32_t id) {
  return r.state.with([&](Registry::State& s) -> Result<Found> {
    auto it = s.segments.find(id);
    if (it == s.segments.end()) return err(kEINVAL);
    Found f{it->second.weak.lock(), !it->second.strong};
    if (!f.segment) {
      s.segments.erase(it);
      return err(kEINVAL);
    }
    return f;
  });
}

// ipcperms() of ipc/util.c. EACCES.
Result<void> check_access(Task& task, const Segment& s, uint32_t want) {
  const creds::Credentials& c = task.creds();
  uint32_t granted = s.mode & 7;
  if (c.euid == s.owner || c.euid == s.creator) {
    granted = (s.mode >> 6) & 7;
  } else if (c.in_group(s.group) || c.in_group(s.creator_group)) {
    granted = (s.mode >> 3) & 7;
  }
  if ((want & ~granted) == 0) return {};
  const creds::UserNamespace& ns = *task.namespaces()->ipc->user_ns;
  return c.has_cap_in(creds::Cap::kIPC_OWNER, ns) ? Result<void>{} : err(kEACCES);
}

Result<void> check_owner(Task& task, const Segment& s) {
  const creds::Credentials& c = task.creds();
  if (c.euid == s.owner || c.euid == s.creator) return {};
  return c.has_cap_in(creds::Cap::kSYS_ADMIN, *task.namespaces()->ipc->user_ns) ? Result<void>{} : err(kEPERM);
}

int64_t now_seconds(Task& task) { return task.now_realtime() / 1'000'000'000; }

ShmidDs describe(Task& task, const Found& f) {
  const Segment& s = *f.segment;
  const creds::UserNamespace& ns = *task.creds().user_ns;
  ShmidDs d;
  d.perm.key = f.removed ? kIpcPrivate : s.key;
  d.perm.uid = ns.unmap_uid(s.owner).value();
  d.perm.gid = ns.unmap_gid(s.group).value();
  d.perm.cuid = ns.unmap_uid(s.creator).value();
  d.perm.cgid = ns.unmap_gid(s.creator_group).value();
  d.perm.mode = s.mode | (f.removed ? kShmDest : 0);
  d.size = s.size;
  d.atime = s.atime;
  d.dtime = s.dtime;
  d.ctime = s.ctime;
  d.cpid = s.cpid;
  d.lpid = s.lpid;
  d.nattch = attached(s, !f.removed);
  return d;
}

Result<RefPtr<Segment>> create_segment(Task& task, Registry::State& s, int32_t key, uint64_t size, uint32_t flags) {
  if (size == 0 || size > kMaxSize) return err(kEINVAL);
  std::erase_if(s.segments, [](auto& e) { return !e.second.strong && !e.second.weak.lock(); });
  if (s.segments.size() >= kMaxSegments) return err(kENOSPC);
  const int32_t id = s.next;
  s.next = s.next == INT32_MAX ? 0 : s.next + 1;
  auto pages = base::make_ref<memory::PageCache>(task.kernel().memory(), memory::MemoryKind::kAnonymous, nullptr, false);
  pages->set_size((size + kPageSize - 1) & ~(kPageSize - 1));
  auto segment = base::make_ref<Segment>(id, std::move(pages), size);
  segment->key = key;
  segment->owner = segment->creator = task.creds().euid;
  segment->group = segment->creator_group = task.creds().egid;
  segment->mode = flags & 0777;
  segment->ctime = now_seconds(task);
  segment->cpid = task.pid().value();
  s.segments[id] = {segment, base::WeakRef<Segment>(segment)};
  return segment;
}

}  // namespace

Result<int32_t> sys_shmget(Task& task, int32_t key, uint64_t size, uint32_t flags) {
  if ((flags & kShmHugeTlb) != 0) return err(kENOMEM);
  RefPtr<Registry> r = registry_of(task);
  RefPtr<Segment> segment;
  Result<int32_t> id = r->state.with([&](Registry::State& s) -> Result<int32_t> {
    if (key != kIpcPrivate) {
      for (auto& [n, e] : s.segments) {
        if (!e.strong || e.strong->key != key) continue;
        if ((flags & kIpcCreat) != 0 && (flags & kIpcExcl) != 0) return err(kEEXIST);
        if (size > e.strong->size) return err(kEINVAL);
        segment = e.strong;
        return n;
      }
      if ((flags & kIpcCreat) == 0) return err(kENOENT);
    }
    return TRY(create_segment(task, s, key, size, flags))->id;
  });
  if (id && segment) TRY(check_access(task, *segment, ((flags >> 6) | (flags >> 3) | flags) & 7));
  return id;
}

Result<Addr> sys_shmat(Task& task, int32_t id, Addr addr, uint32_t flags) {
  Found f = TRY(find_segment(*registry_of(task), id));
  mm::MmapOptions o;
  o.sharing = mm::Sharing::kShared;
  if (!addr.is_null()) {
    if (!addr.is_page_aligned()) {
      if ((flags & kShmRound) == 0) return err(kEINVAL);
      addr = addr.page_down();
      if (addr.is_null() && (flags & kShmRemap) != 0) return err(kEINVAL);
    }
    o.placement = (flags & kShmRemap) != 0 ? mm::Placement::kFixed : mm::Placement::kFixedNoReplace;
  } else if ((flags & kShmRemap) != 0) {
    return err(kEINVAL);
  }
  const bool read_only = (flags & kShmReadOnly) != 0;
  TRY(check_access(task, *f.segment, (read_only ? 4 : 6) | ((flags & kShmExec) != 0 ? 1 : 0)));
  o.addr = addr;
  o.length = f.segment->size;
  o.prot = {true, !read_only, (flags & kShmExec) != 0};
  o.max_prot.write = !read_only;
  o.object = f.segment->pages;
  o.file = f.segment;
  Result<Addr> at = task.mm().mmap(o);
  if (!at) return err(at.error() == kEEXIST ? kEINVAL : at.error());
  registry_of(task)->state.with([&](Registry::State&) {
    f.segment->atime = now_seconds(task);
    f.segment->lpid = task.pid().value();
  });
  return at;
}

Result<void> sys_shmdt(Task& task, Addr addr) {
  if (!addr.is_page_aligned()) return err(kEINVAL);
  RefPtr<Registry> r = registry_of(task);
  RefPtr<Segment> segment;
  TRY(task.mm().detach(addr, [&](const memory::MappedFile& file) {
    return r->state.with([&](Registry::State& s) {
      for (auto& [n, e] : s.segments) {
        RefPtr<Segment> known = e.weak.lock();
        if (static_cast<const memory::MappedFile*>(known.get()) != &file) continue;
        segment = std::move(known);
        return true;
      }
      return false;
    });
  }));
  r->state.with([&](Registry::State&) {
    segment->dtime = now_seconds(task);
    segment->lpid = task.pid().value();
  });
  return {};
}

Result<int32_t> sys_shmctl(Task& task, int32_t id, int32_t command, UserInOut<ShmidDs> buf) {
  if (id < 0 || command < 0) return err(kEINVAL);
  RefPtr<Registry> r = registry_of(task);
  if (command == kIpcInfo || command == kShmInfo) {
    ShmUsage usage;
    int32_t highest = 0;
    r->state.with([&](Registry::State& s) {
      for (auto& [n, e] : s.segments) {
        RefPtr<Segment> segment = e.weak.lock();
        if (!segment) continue;
        highest = n;
        ++usage.used_ids;
        usage.total += (segment->size + kPageSize - 1) / kPageSize;
        usage.resident += segment->pages->pages();
      }
    });
    if (command == kIpcInfo) {
      TRY(task.write(UserOut<ShmInfo64>(buf.addr()), ShmInfo64{}));
    } else {
      TRY(task.write(UserOut<ShmUsage>(buf.addr()), usage));
    }
    return highest;
  }
  Found f = TRY(find_segment(*r, id));
  Segment& s = *f.segment;
  switch (command) {
    case kIpcStat:
    case kShmStat:
    case kShmStatAny: {
      if (command != kShmStatAny) TRY(check_access(task, s, 4));
      TRY(task.write(buf, describe(task, f)));
      return command == kIpcStat ? 0 : id;
    }
    case kIpcSet: {
      const ShmidDs d = TRY(task.read(buf));
      TRY(check_owner(task, s));
      const creds::UserNamespace& ns = *task.creds().user_ns;
      auto uid = ns.map_uid(abi::Uid(d.perm.uid));
      auto gid = ns.map_gid(abi::Gid(d.perm.gid));
      if (!uid || !gid) return err(kEINVAL);
      r->state.with([&](Registry::State&) {
        s.owner = *uid;
        s.group = *gid;
        s.mode = (s.mode & ~0777u) | (d.perm.mode & 0777);
        s.ctime = now_seconds(task);
      });
      return 0;
    }
    case kIpcRmid: {
      TRY(check_owner(task, s));
      RefPtr<Segment> dropped = r->state.with([&](Registry::State& state) { return std::move(state.segments[id].strong); });
      return 0;
    }
    case kShmLock:
    case kShmUnlock:
      TRY(check_owner(task, s));
      r->state.with([&](Registry::State&) {
        s.mode = command == kShmLock ? s.mode | kShmLocked : s.mode & ~kShmLocked;
      });
      return 0;
    default: return err(kEINVAL);
  }
}

SYSCALL_FAMILY(shm) = {
    ROW(shmget, kPartial, "SHM_HUGETLB: no pool"),
    ROW(shmat, kFull, ""),
    ROW(shmdt, kFull, ""),
    ROW(shmctl, kPartial, "SHM_STAT takes ids, SHM_LOCK only marks"),
};
SYSCALL_FAMILY_END(shm);

}  // namespace sentry::syscalls
