// SPDX-License-Identifier: Apache-2.0
// Address space: mmap(2), munmap(2), mprotect(2), mremap(2), brk(2), madvise(2), msync(2), mlock(2), mincore(2), pkeys(7).
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/dispatch.h"
#include "sentry/vfs/file_description.h"

namespace sentry::syscalls {

using enum abi::Errno;
using abi::kPageSize;
using abi::Prot;
using creds::Resource;

namespace {

enum : uint32_t {
  kProtRead = 1, kProtWrite = 2, kProtExec = 4, kProtSem = 8, kProtGrowsDown = 0x01000000, kProtGrowsUp = 0x02000000,
};
enum : uint32_t {
  kMapShared = 1, kMapPrivate = 2, kMapSharedValidate = 3, kMapType = 0xf, kMapFixed = 0x10, kMapAnonymous = 0x20,
  kMap32Bit = 0x40, kMapGrowsDown = 0x100, kMapLocked = 0x2000, kMapNoReserve = 0x4000, kMapPopulate = 0x8000,
  kMapNonBlock = 0x10000, kMapStack = 0x20000, kMapHugeTlb = 0x40000, kMapSync = 0x80000, kMapFixedNoReplace = 0x100000,
  kMapDenyWrite = 0x800, kMapExecutable = 0x1000,
};
constexpr uint32_t kMapKnown = kMapType | kMapFixed | kMapAnonymous | kMap32Bit | kMapGrowsDown | kMapLocked |
                               kMapNoReserve | kMapPopulate | kMapNonBlock | kMapStack | kMapHugeTlb |
                               kMapFixedNoReplace | kMapDenyWrite | kMapExecutable;
constexpr uint64_t kLowStart = 0x40000000, kLowEnd = 0x80000000, kLowStep = 1 << 20;  // MAP_32BIT

Prot decode_prot(uint32_t prot) {
  return {(prot & kProtRead) != 0, (prot & kProtWrite) != 0, (prot & kProtExec) != 0};
}

bool can_lock(Task& task) {
  bool exempt = task.creds().has_cap(creds::Cap::kIPC_LOCK);
  task.mm().set_lock_exempt(exempt);
  return exempt || task.rlimit(Resource::kMEMLOCK).soft != 0;
}

// The checks of do_mmap() on the file, and what it maps.
Result<void> add_file(Task& task, Fd fd, uint32_t type, mm::MmapOptions& o) {
  RefPtr<vfs::FileDescription> file = TRY(task.get_file(fd));
  const bool shared = type != kMapPrivate;
  if (shared && o.prot.write && !file->is_writable()) return err(kEACCES);
  if (!file->is_readable()) return err(kEACCES);
  if (shared) o.max_prot.write = file->is_writable();
  if (shared && o.max_prot.write && (file->seals().value_or(0) & (vfs::kSealWrite | vfs::kSealFutureWrite)) != 0) {
    if (o.prot.write) return err(kEPERM);
    o.max_prot.write = false;
  }
  if ((file->path().mount->flags() & vfs::kMsNoExec) != 0) {
    if (o.prot.exec) return err(kEPERM);
    o.max_prot.exec = false;
  }
  o.object = TRY(file->mappable(task));
  o.file = file;
  return {};
}

// MAP_32BIT: the first free place in the second gigabyte.
Result<Addr> mmap_low(Task& task, mm::MmapOptions o) {
  o.placement = mm::Placement::kFixedNoReplace;
  const uint64_t step = (o.length + kLowStep - 1) & ~(kLowStep - 1);
  if (step == 0 || step > kLowEnd - kLowStart) return err(kENOMEM);
  for (uint64_t at = kLowStart; at + step <= kLowEnd; at += step) {
    o.addr = Addr(at);
    Result<Addr> r = task.mm().mmap(o);
    if (r || r.error() != kEEXIST) return r;
  }
  return err(kENOMEM);
}

}  // namespace

Result<Addr> sys_mmap(Task& task, Addr addr, uint64_t length, uint32_t prot, uint32_t flags, Fd fd, uint64_t offset) {
  if (offset % kPageSize != 0) return err(kEINVAL);
  const uint32_t type = flags & kMapType;
  mm::MmapOptions o;
  o.addr = addr;
  o.length = length;
  o.prot = decode_prot(prot);
  o.offset = offset;
  o.sharing = type == kMapPrivate ? mm::Sharing::kPrivate : mm::Sharing::kShared;
  if ((flags & kMapFixed) != 0) o.placement = mm::Placement::kFixed;
  if ((flags & kMapFixedNoReplace) != 0) o.placement = mm::Placement::kFixedNoReplace;
  o.no_reserve = (flags & kMapNoReserve) != 0;
  o.populate = (flags & (kMapPopulate | kMapNonBlock)) == kMapPopulate;
  o.locked = (flags & kMapLocked) != 0;
  o.grows_down = (flags & kMapGrowsDown) != 0;
  if ((flags & kMapAnonymous) == 0) {
    // EBADF comes before everything that is wrong with the rest.
    TRY(task.get_file(fd));
  } else if ((flags & kMapHugeTlb) != 0) {
    return err(kENOMEM);  // as a kernel whose pool of huge pages is empty
  }
  if (length == 0) return err(kEINVAL);
  if (o.locked && !can_lock(task)) return err(kEPERM);
  if (type != kMapShared && type != kMapPrivate && type != kMapSharedValidate) return err(kEINVAL);
  if (type == kMapSharedValidate && ((flags & ~kMapKnown) != 0 || (flags & kMapAnonymous) != 0))
    return err((flags & kMapAnonymous) != 0 ? kEINVAL : kEOPNOTSUPP);
  if ((flags & kMapAnonymous) == 0) {
    TRY(add_file(task, fd, type, o));
    if (o.grows_down) return err(kEINVAL);
  } else if (type == kMapShared && o.grows_down) {
    return err(kEINVAL);
  }
  if ((flags & kMap32Bit) != 0 && o.placement == mm::Placement::kAnywhere) return mmap_low(task, o);
  return task.mm().mmap(o);
}

Result<void> sys_munmap(Task& task, Addr addr, uint64_t length) { return task.mm().munmap(addr, length); }

Result<void> sys_mprotect(Task& task, Addr addr, uint64_t length, uint32_t prot) {
  const uint32_t grows = prot & (kProtGrowsDown | kProtGrowsUp);
  if (grows == (kProtGrowsDown | kProtGrowsUp)) return err(kEINVAL);
  prot &= ~grows;
  if (!addr.is_page_aligned()) return err(kEINVAL);
  if (length == 0) return {};
  if ((prot & ~(kProtRead | kProtWrite | kProtExec | kProtSem)) != 0) return err(kEINVAL);
  if (grows == kProtGrowsUp) return err(kEINVAL);
  return task.mm().mprotect(addr, length, decode_prot(prot), grows == kProtGrowsDown);
}

Result<Addr> sys_mremap(Task& task, Addr old_addr, uint64_t old_size, uint64_t new_size, uint32_t flags, Addr new_addr) {
  return task.mm().mremap(old_addr, old_size, new_size, flags, new_addr);
}

Result<Addr> sys_brk(Task& task, Addr addr) { return task.mm().brk(addr); }

Result<void> sys_madvise(Task& task, Addr addr, uint64_t length, int32_t advice) {
  return task.mm().madvise(addr, length, advice);
}

Result<void> sys_msync(Task& task, Addr addr, uint64_t length, int32_t flags) {
  return task.mm().msync(addr, length, flags);
}

Result<void> sys_mlock(Task& task, Addr addr, uint64_t length) {
  if (!can_lock(task)) return err(kEPERM);
  return task.mm().mlock(addr, length, false);
}

Result<void> sys_mlock2(Task& task, Addr addr, uint64_t length, uint32_t flags) {
  constexpr uint32_t kMlockOnFault = 1;
  if ((flags & ~kMlockOnFault) != 0) return err(kEINVAL);
  if (!can_lock(task)) return err(kEPERM);
  return task.mm().mlock(addr, length, (flags & kMlockOnFault) != 0);
}

Result<void> sys_munlock(Task& task, Addr addr, uint64_t length) { return task.mm().munlock(addr, length); }

Result<void> sys_mlockall(Task& task, int32_t flags) {
  constexpr int32_t kKnown = 7, kOnFault = 4;
  if (flags == 0 || flags == kOnFault || (flags & ~kKnown) != 0) return err(kEINVAL);
  if (!can_lock(task)) return err(kEPERM);
  return task.mm().mlockall(flags);
}

Result<void> sys_munlockall(Task& task) { return task.mm().munlockall(); }

Result<void> sys_mincore(Task& task, Addr addr, uint64_t length, UserOut<uint8_t> vec) {
  constexpr uint64_t kStep = 4096 * kPageSize;
  if (!addr.is_page_aligned()) return err(kEINVAL);
  if (addr.value() + length < addr.value()) return err(kENOMEM);
  for (uint64_t done = 0; done < length; done += kStep) {
    std::vector<uint8_t> pages = TRY(task.mm().mincore(addr + done, std::min(kStep, length - done)));
    TRY(task.user_memory().copy_out(vec.offset(done / kPageSize).addr(), pages.data(), pages.size()));
  }
  return {};
}

Result<void> sys_pkey_mprotect(Task& task, Addr addr, uint64_t length, uint32_t prot, int32_t pkey) {
  if (pkey != -1) return err(kEINVAL);  // none can be allocated
  return sys_mprotect(task, addr, length, prot);
}

// arch_set_user_pkey_access() of a CPU without protection keys.
Result<int32_t> sys_pkey_alloc(Task&, uint64_t, uint64_t) { return err(kEINVAL); }

Result<void> sys_pkey_free(Task&, int32_t) { return err(kEINVAL); }

SYSCALL_FAMILY(mmap) = {
    ROW(mmap, kPartial, "MAP_HUGETLB: no pool; MAP_SYNC: not supported"),
    ROW(munmap, kFull, ""),
    ROW(mprotect, kFull, ""),
    ROW(mremap, kFull, ""),
    ROW(brk, kFull, ""),
    ROW(madvise, kPartial, "MADV_FREE below 2 MiB keeps the pages; hints are only checked"),
    ROW(msync, kFull, ""),
    ROW(mlock, kPartial, "accounting only: the host may still swap"),
    ROW(mlock2, kPartial, "accounting only"),
    ROW(munlock, kFull, ""),
    ROW(mlockall, kPartial, "accounting only"),
    ROW(munlockall, kFull, ""),
    ROW(mincore, kFull, ""),
    ROW(pkey_mprotect, kPartial, "only pkey -1, as on a CPU without protection keys"),
    ROW(pkey_alloc, kPartial, "EINVAL, as on a CPU without protection keys"),
    ROW(pkey_free, kPartial, "as on a CPU without protection keys"),
};
SYSCALL_FAMILY_END(mmap);

}  // namespace sentry::syscalls
