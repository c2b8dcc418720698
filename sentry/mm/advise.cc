// SPDX-License-Identifier: Apache-2.0
// madvise, msync, mlock family, mincore.
#include "sentry/mm/impl.h"
#include "sentry/vfs/changes.h"

namespace sentry::mm {

using enum abi::Errno;
using Impl = MemoryManager::Impl;

namespace {

enum Advice : int32_t {
  kNormal = 0, kRandom = 1, kSequential = 2, kWillNeed = 3, kDontNeed = 4, kFree = 8, kRemove = 9, kDontFork = 10,
  kDoFork = 11, kHwPoison = 100, kMergeable = 12, kUnmergeable = 13, kHugePage = 14, kNoHugePage = 15, kDontDump = 16,
  kDoDump = 17, kWipeOnFork = 18, kKeepOnFork = 19, kCold = 20, kPageOut = 21, kPopulateRead = 22,
  kPopulateWrite = 23, kDontNeedLocked = 24, kCollapse = 25,
};

constexpr uint64_t kFreeAtOnce = 2 << 20;  // MADV_FREE of less is left for the next use of the memory

bool is_known(int32_t advice) { return advice >= 0 && advice <= kCollapse && (advice <= kWillNeed + 1 || advice >= kFree); }

// Private memory reads as zeros (or as the file) again.
void discard_active(Impl& m, uint64_t start, uint64_t end) {
  auto [first, last] = m.pieces.isolate(start, end);
  for (size_t i = last; i-- > first;) {
    Piece p = m.pieces.v[i];
    // Pages that are ours alone lose their memory and stay mapped: the next touch is the host's business only.
    if (p.has(kAnon) && !p.has(kCow) && m.file.is_unique(p.file_range())) {
      m.file.decommit(p.file_range());
    } else {
      m.drop_pieces_active(p.start, p.end);
    }
  }
  // Only now: a joined piece would reach beyond the range.
  for (size_t i = std::min(last, m.pieces.v.size()); i-- > first;) m.pieces.join(i);
}

// The VMAs of [start, end) that are there, clipped; ENOMEM afterwards when there were holes.
template <typename F>
base::Result<void> for_vmas(Impl& m, uint64_t start, uint64_t end, F&& f) {
  bool hole = false;
  uint64_t at = start;
  for (auto it = m.first_ending_above(start); it != m.vmas.end() && it->first < end;) {
    uint64_t lo = std::max(it->first, start), hi = std::min(it->second.end, end);
    if (lo > at) hole = true;
    auto next = std::next(it);
    TRY(f(it, lo, hi));
    at = hi;
    it = next;
  }
  if (at < end || hole) return base::err(kENOMEM);
  return {};
}

template <typename F>
base::Result<void> change_vmas(Impl& m, uint64_t start, uint64_t end, F&& change) {
  auto [first, last] = m.isolate_locked(start, end);
  bool covered = m.covered(start, end);
  for (auto it = first; it != last; ++it) {
    if (it->second.special) continue;
    uint64_t size = it->second.end - it->first;
    m.account(it->second, size, -1);
    auto status = change(it->second);
    m.account(it->second, size, 1);
    if (!status) return status;
  }
  m.merge_around_locked(start, end);
  if (!covered) return base::err(kENOMEM);
  return {};
}

}  // namespace

base::Result<void> MemoryManager::madvise(Addr addr, uint64_t length, int32_t advice) {
  Impl& m = *impl_;
  if (!is_known(advice) || !addr.is_page_aligned()) return base::err(kEINVAL);
  uint64_t start = addr.value(), end = start + round_up(length, kPageSize);
  if (length != 0 && round_up(length, kPageSize) == 0) return base::err(kEINVAL);
  if (end < start) return base::err(kEINVAL);
  if (end == start) return {};
  using Result = base::Result<void>;
  switch (advice) {
    case kDontNeed:
    case kDontNeedLocked:
    case kFree: {
      MappingWrite lock(m);
      return for_vmas(m, start, end, [&](VmaMap::iterator it, uint64_t lo, uint64_t hi) -> Result {
        const Vma& v = it->second;
        if (v.special || (v.locked && advice != kDontNeedLocked)) return base::err(kEINVAL);
        if (advice == kFree && v.object) return base::err(kEINVAL);
        if (advice == kFree && hi - lo < kFreeAtOnce) return {};
        if (v.sharing == Sharing::kShared) {
          m.drop_pieces_active(lo, hi);
        } else {
          discard_active(m, lo, hi);
        }
        return {};
      });
    }
    case kDontFork:
    case kDoFork: {
      MappingWrite lock(m);
      return change_vmas(m, start, end, [&](Vma& v) -> Result { return v.dont_fork = advice == kDontFork, Result{}; });
    }
    case kWipeOnFork:
    case kKeepOnFork: {
      MappingWrite lock(m);
      return change_vmas(m, start, end, [&](Vma& v) -> Result {
        if (advice == kWipeOnFork && v.object) return base::err(kEINVAL);
        v.wipe_on_fork = advice == kWipeOnFork;
        return {};
      });
    }
    case kDontDump:
    case kDoDump: {
      MappingWrite lock(m);
      return change_vmas(m, start, end, [&](Vma& v) -> Result { return v.dont_dump = advice == kDontDump, Result{}; });
    }
    case kRemove:
      return remove_range(start, end);
    case kPopulateRead:
    case kPopulateWrite: {
      auto want = advice == kPopulateWrite ? Impl::Want::kWrite : Impl::Want::kRead;
      if (end - start > m.file.host_memory()) return base::err(kENOMEM);
      for (uint64_t at = start; at < end;) {
        auto status = m.resolve(at, want, Impl::MapIt::kYes);
        if (status) {
          base::ReadLock active(m.active_mu);
          const Piece* p = m.pieces.find_const(at);
          at = p && (advice == kPopulateRead || p->is_writable()) ? p->end : at + kPageSize;
          continue;
        }
        return base::err(status.error() == kEFAULT ? kENOMEM : status.error() == kEACCES ? kEINVAL : kEFAULT);
      }
      return {};
    }
    case kMergeable:
    case kUnmergeable:
      return base::err(kEINVAL);  // as a kernel without KSM
    default: {  // hints
      base::ReadLock lock(m.mapping_mu);
      return for_vmas(m, start, end, [](VmaMap::iterator, uint64_t, uint64_t) { return Result{}; });
    }
  }
}

// MADV_REMOVE: the object is asked without locks, as it will tell everybody who maps it.
base::Result<void> MemoryManager::remove_range(uint64_t start, uint64_t end) {
  Impl& m = *impl_;
  struct Part {
    base::RefPtr<memory::Mappable> object;
    base::RefPtr<MappedFile> file;
    uint64_t offset, length;
  };
  std::vector<Part> parts;
  {
    base::ReadLock lock(m.mapping_mu);
    TRY(for_vmas(m, start, end, [&](VmaMap::iterator it, uint64_t lo, uint64_t hi) -> base::Result<void> {
      const Vma& v = it->second;
      if (v.locked || !v.object) return base::err(kEINVAL);
      if (v.sharing != Sharing::kShared || !v.prot.write) return base::err(kEACCES);
      parts.push_back({v.object, v.file, v.offset + (lo - it->first), hi - lo});
      return {};
    }));
  }
  for (Part& p : parts) {
    const uint64_t inode = p.file ? p.file->mapped_identity().inode : 0;
    vfs::ChangeScope change(vfs::change_word(inode));
    change.pages_too(inode);
    TRY(p.object->remove_pages(p.offset, p.length));
  }
  return {};
}

base::Result<void> MemoryManager::msync(Addr addr, uint64_t length, int32_t flags) {
  constexpr int32_t kAsync = 1, kInvalidate = 2, kSync = 4;
  Impl& m = *impl_;
  if ((flags & ~(kAsync | kInvalidate | kSync)) != 0 || !addr.is_page_aligned()) return base::err(kEINVAL);
  if ((flags & kAsync) != 0 && (flags & kSync) != 0) return base::err(kEINVAL);
  uint64_t start = addr.value(), end = start + round_up(length, kPageSize);
  if (end < start) return base::err(kENOMEM);
  if (end == start) return {};
  struct Part {
    base::RefPtr<memory::Mappable> object;
    uint64_t offset, length;
  };
  std::vector<Part> parts;
  base::Result<void> status{};
  {
    base::ReadLock lock(m.mapping_mu);
    status = for_vmas(m, start, end, [&](VmaMap::iterator it, uint64_t lo, uint64_t hi) -> base::Result<void> {
      const Vma& v = it->second;
      if ((flags & kInvalidate) != 0 && v.locked) return base::err(kEBUSY);
      if ((flags & kSync) != 0 && v.object && v.sharing == Sharing::kShared)
        parts.push_back({v.object, v.offset + (lo - it->first), hi - lo});
      return {};
    });
  }
  if (!status && status.error() == kEBUSY) return status;
  for (Part& p : parts) TRY(p.object->sync(p.offset, p.length));
  return status;
}

base::Result<void> MemoryManager::mlock(Addr addr, uint64_t length, bool on_fault) {
  Impl& m = *impl_;
  uint64_t start = addr.page_down().value(), end = round_up(addr.value() + length, kPageSize);
  if (end < start) return base::err(kEINVAL);
  if (end == start) return {};
  {
    MappingWrite lock(m);
    uint64_t already = 0;
    for (auto it = m.first_ending_above(start); it != m.vmas.end() && it->first < end; ++it)
      if (it->second.locked) already += std::min(it->second.end, end) - std::max(it->first, start);
    uint64_t more = end - start - already;
    if (!m.lock_exempt && m.totals.locked + more > m.limits.get(creds::Resource::kMEMLOCK).soft)
      return base::err(kENOMEM);
    TRY(change_vmas(m, start, end, [&](Vma& v) -> base::Result<void> {
      v.locked = true;
      v.lock_on_fault = on_fault;
      return {};
    }));
  }
  if (!on_fault) populate(start, end);
  return {};
}

base::Result<void> MemoryManager::munlock(Addr addr, uint64_t length) {
  Impl& m = *impl_;
  uint64_t start = addr.page_down().value(), end = round_up(addr.value() + length, kPageSize);
  if (end < start) return base::err(kEINVAL);
  if (end == start) return {};
  MappingWrite lock(m);
  return change_vmas(m, start, end, [](Vma& v) -> base::Result<void> {
    v.locked = v.lock_on_fault = false;
    return {};
  });
}

base::Result<void> MemoryManager::mlockall(int32_t flags) {
  constexpr int32_t kCurrent = 1, kFuture = 2, kOnFault = 4;
  Impl& m = *impl_;
  if (flags == 0 || (flags & ~(kCurrent | kFuture | kOnFault)) != 0 || flags == kOnFault) return base::err(kEINVAL);
  MappingWrite lock(m);
  if ((flags & kCurrent) != 0 && !m.lock_exempt && m.totals.vsize > m.limits.get(creds::Resource::kMEMLOCK).soft)
    return base::err(kENOMEM);
  m.lock_future = (flags & kFuture) != 0;
  m.lock_future_on_fault = m.lock_future && (flags & kOnFault) != 0;
  // Pages come when they are touched: nothing here is ever swapped out by us, so locking is accounting.
  if ((flags & kCurrent) != 0)
    (void)change_vmas(m, 0, m.platform.max_address().value(), [&](Vma& v) -> base::Result<void> {
      v.locked = true;
      v.lock_on_fault = (flags & kOnFault) != 0;
      return {};
    });
  return {};
}

base::Result<void> MemoryManager::munlockall() {
  Impl& m = *impl_;
  MappingWrite lock(m);
  m.lock_future = m.lock_future_on_fault = false;
  (void)change_vmas(m, 0, m.platform.max_address().value(), [](Vma& v) -> base::Result<void> {
    v.locked = v.lock_on_fault = false;
    return {};
  });
  return {};
}

base::Result<std::vector<uint8_t>> MemoryManager::mincore(Addr addr, uint64_t length) {
  constexpr uint64_t kMaxPages = 64 << 10;
  Impl& m = *impl_;
  if (!addr.is_page_aligned()) return base::err(kEINVAL);
  if (length > kMaxPages * kPageSize) return base::err(kEINVAL);
  uint64_t start = addr.value(), end = start + round_up(length, kPageSize);
  if (end < start) return base::err(kENOMEM);
  base::ReadLock lock(m.mapping_mu);
  if (!m.covered(start, end)) return base::err(kENOMEM);
  std::vector<uint8_t> out((end - start) / kPageSize, 0);
  base::ReadLock active(m.active_mu);
  for (size_t i = m.pieces.lower(start); i < m.pieces.v.size() && m.pieces.v[i].start < end; ++i) {
    const Piece& p = m.pieces.v[i];
    uint64_t lo = std::max(p.start, start), hi = std::min(p.end, end);
    std::span<uint8_t> part(out.data() + (lo - start) / kPageSize, (hi - lo) / kPageSize);
    m.file.resident({p.offset_of(lo), hi - lo}, part);
    for (uint8_t& b : part) b &= 1;
  }
  return out;
}

}  // namespace sentry::mm
