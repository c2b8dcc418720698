// SPDX-License-Identifier: Apache-2.0
// mmap, munmap, mprotect, brk: mm/mmap.c and mm/mprotect.c. Alignment and flag checks that need the raw arguments are the
// system-call layer's; everything about addresses is checked here.
#include "sentry/mm/impl.h"

namespace sentry::mm {

using enum abi::Errno;
using creds::Resource;
using Impl = MemoryManager::Impl;

namespace {

// Page-aligned end of a range inside the guest's addresses; EINVAL/ENOMEM as the caller says.
base::Result<uint64_t> checked_end(const Impl& m, uint64_t start, uint64_t length, abi::Errno error) {
  uint64_t top = m.platform.max_address().value();
  if (length > top || start > top) return base::err(error);
  uint64_t rounded = round_up(length, kPageSize);
  if (rounded > top - start) return base::err(error);
  return start + rounded;
}

Vma vma_of(const MmapOptions& o) {
  Vma vma;
  vma.prot = o.prot;
  vma.max_prot = o.max_prot;
  vma.sharing = o.sharing;
  vma.grows_down = o.grows_down;
  vma.stack = o.stack || o.grows_down;
  vma.no_reserve = o.no_reserve;
  vma.object = o.object;
  vma.file = o.file;
  vma.offset = o.offset;
  vma.name = o.name;
  return vma;
}

constexpr uint64_t kSmallAnonymous = 1 << 20;
enum class Image : uint8_t { kNo, kYes };

bool is_data(const MmapOptions& o) { return o.sharing == Sharing::kPrivate && o.prot.write && !o.stack; }

// Small memory and the segments of program images are mapped at once: the host call goes along with the return from mmap,
// while a fault would have to come to us first.
bool is_touched_soon(const MmapOptions& o, uint64_t length, Image image) {
  constexpr uint64_t kSmallData = 64 << 10;
  if (!o.prot.any() || o.grows_down) return false;
  if (!o.object) return o.prot.write && !o.no_reserve && length <= kSmallAnonymous;
  // A small file that is mapped is going to be read; of a library only its segments, which come later.
  if (!o.prot.write && length <= kSmallData && image == Image::kNo) return true;
  return o.sharing == Sharing::kPrivate && o.placement != Placement::kAnywhere && (!o.prot.write || length <= kSmallData);
}

// A program image or library that ld.so is about to map: it starts with an ELF header.
bool is_elf_image(memory::MemoryFile& file, memory::Mappable& object) {
  auto pages = object.translate(0, kPageSize, false);
  if (!pages) return false;
  bool elf = __builtin_memcmp(file.data(pages->offset), "\177ELF", 4) == 0;
  file.drop_ref(*pages);
  return elf;
}

}  // namespace

base::Result<Addr> MemoryManager::mmap(const MmapOptions& o) {
  Impl& m = *impl_;
  if (o.length == 0) return base::err(kEINVAL);
  bool fixed = o.placement != Placement::kAnywhere;
  uint64_t low = m.platform.min_address().value(), top = m.platform.max_address().value();
  if (o.length > top) return base::err(kENOMEM);
  uint64_t length = round_up(o.length, kPageSize);
  uint64_t wanted = fixed ? o.addr.value() : o.addr.page_down().value();
  if (fixed) {
    if (!o.addr.is_page_aligned()) return base::err(kEINVAL);
    if (length > top || wanted > top - length) return base::err(kENOMEM);
    if (wanted < low) return base::err(kEPERM);  // mmap_min_addr
  } else if (wanted != 0 && wanted < low) {
    wanted = low;
  }
  if (o.object) {
    if (o.offset % kPageSize != 0) return base::err(kEINVAL);
    if (o.offset + length < o.offset || o.offset + length > uint64_t{1} << 63) return base::err(kEOVERFLOW);
  }
  Vma vma = vma_of(o);
  if (!vma.object && o.sharing == Sharing::kShared) {
    auto cache = base::make_ref<memory::PageCache>(m.file, memory::MemoryKind::kAnonymous, nullptr, false);
    cache->set_size(length);
    vma.object = cache;
    vma.name = "/dev/zero (deleted)";
    vma.offset = 0;
  }
  const WritableHold hold(vma);
  if (!hold) return base::err(kEPERM);  // sealed since the caller looked
  // The one place per sandbox for text (see text_patch.h), unless the caller has a wish.
  Image image = Image::kNo;
  if (!fixed && wanted == 0 && vma.object && vma.file && o.sharing == Sharing::kPrivate && o.offset == 0 &&
      length >= 2 * kPageSize && is_elf_image(m.file, *vma.object)) {
    wanted = m.places->place(*vma.object, length);
    image = Image::kYes;
  }
  uint64_t start = 0;
  bool lock_it = false;
  {
    MappingWrite lock(m);
    lock_it = o.locked || m.lock_future;
    uint64_t replaced = 0;
    if (fixed) {
      start = wanted;
      if (o.placement == Placement::kFixedNoReplace) {
        auto it = m.first_ending_above(start);
        if (it != m.vmas.end() && it->first < start + length) return base::err(kEEXIST);
      } else {
        if (m.touches_special(start, start + length)) return base::err(kENOMEM);
        for (auto it = m.first_ending_above(start); it != m.vmas.end() && it->first < start + length; ++it)
          replaced += std::min(it->second.end, start + length) - std::max(it->first, start);
      }
    } else {
      start = TRY(m.find_gap_locked(length, wanted));
    }
    bool accountable = is_data(o) && !o.no_reserve;
    TRY(m.check_limits_locked(length - std::min(length, replaced), is_data(o), accountable, lock_it ? length : 0));
    if (fixed) m.unmap_locked(start, start + length);
    vma.locked = lock_it;
    vma.lock_on_fault = m.lock_future_on_fault && !o.locked;
    vma.end = start + length;
    m.insert_vma_locked(start, std::move(vma));
  }
  if (o.populate || (lock_it && o.prot.any())) {
    populate(start, start + length);
  } else if (is_touched_soon(o, length, image)) {
    map_at_once(start, start + length, o.prot.write ? Touch::kWrite : Touch::kRead);
    // ld.so maps a library as a whole and then its segments over that: what is left in front are its headers and symbols.
    if (o.object && o.placement == Placement::kFixed && o.offset != 0) map_headers_before(start, *o.object);
  }
  return Addr(start);
}

// As far as a few host calls go.
void MemoryManager::map_at_once(uint64_t start, uint64_t end, Touch touch) {
  constexpr uint64_t kWhole = 4 << 20;
  constexpr int kMostPieces = 16;
  Impl& m = *impl_;
  int most = end - start <= kWhole ? kMostPieces : 1;
  for (uint64_t at = start; at < end && most > 0; --most) {
    if (!m.resolve(at, touch == Touch::kWrite ? Impl::Want::kWrite : Impl::Want::kRead, Impl::MapIt::kYes)) return;
    base::ReadLock lock(m.active_mu);
    const Piece* p = m.pieces.find_const(at);
    at = p ? p->end : end;
  }
}

void MemoryManager::map_headers_before(uint64_t addr, const memory::Mappable& object) {
  constexpr uint64_t kMost = 1 << 20;
  Impl& m = *impl_;
  uint64_t start = 0;
  {
    base::ReadLock lock(m.mapping_mu);
    auto it = m.find_vma(addr - 1);
    if (it == m.vmas.end() || it->second.object.get() != &object || it->second.offset != 0 || !it->second.prot.read ||
        it->second.sharing != Sharing::kPrivate || addr - it->first > kMost)
      return;
    start = it->first;
    base::ReadLock active(m.active_mu);
    if (m.pieces.find_const(start)) return;
  }
  (void)m.resolve(start, Impl::Want::kRead, Impl::MapIt::kYes);
}

void MemoryManager::prepare_write(Addr addr) { (void)impl_->resolve(addr.value(), Impl::Want::kWrite, Impl::MapIt::kYes); }

// Faults pages in, as far as it goes.
void MemoryManager::populate(uint64_t start, uint64_t end) {
  Impl& m = *impl_;
  end = start + std::min(end - start, m.file.host_memory());  // more cannot be in memory anyway
  for (uint64_t at = start; at < end;) {
    auto want = Impl::Want::kRead;
    {
      base::ReadLock lock(m.mapping_mu);
      auto it = m.find_vma(at);
      if (it == m.vmas.end() || !it->second.prot.any()) return;
      if (it->second.prot.write && it->second.sharing == Sharing::kPrivate) want = Impl::Want::kWrite;
    }
    if (!m.resolve(at, want, Impl::MapIt::kYes)) return;
    base::ReadLock lock(m.active_mu);
    const Piece* p = m.pieces.find_const(at);
    at = p ? p->end : at + kPageSize;
  }
}

base::Result<void> MemoryManager::munmap(Addr addr, uint64_t length) {
  Impl& m = *impl_;
  if (!addr.is_page_aligned() || length == 0) return base::err(kEINVAL);
  uint64_t end = TRY(checked_end(m, addr.value(), length, kEINVAL));
  MappingWrite lock(m);
  auto it = m.first_ending_above(addr.value());
  bool splits = it != m.vmas.end() && it->first < addr.value() && it->second.end > end;
  if (splits && m.vmas.size() >= kMaxVmas) return base::err(kENOMEM);
  m.unmap_locked(addr.value(), end);
  return {};
}

base::Result<void> MemoryManager::detach(Addr addr, base::FunctionRef<bool(const MappedFile&)> is_wanted) {
  Impl& m = *impl_;
  MappingWrite lock(m);
  auto it = m.find_vma(addr.value());
  if (it == m.vmas.end() || it->first != addr.value() || it->second.offset != 0 || !it->second.file ||
      !is_wanted(*it->second.file))
    return base::err(kEINVAL);
  const MappedFile* file = it->second.file.get();
  uint64_t end = it->second.end;
  for (++it; it != m.vmas.end() && it->first == end && it->second.file.get() == file &&
             it->second.offset == it->first - addr.value();
       ++it)
    end = it->second.end;
  m.unmap_locked(addr.value(), end);
  return {};
}

base::Result<void> MemoryManager::mprotect(Addr addr, uint64_t length, Prot prot, bool grows_down) {
  Impl& m = *impl_;
  if (!addr.is_page_aligned()) return base::err(kEINVAL);
  if (length == 0) return {};
  uint64_t start = addr.value(), end = TRY(checked_end(m, start, length, kENOMEM));
  MappingWrite lock(m);
  auto it = m.first_ending_above(start);
  if (it == m.vmas.end()) return base::err(kENOMEM);
  if (grows_down) {
    if (it->first >= end) return base::err(kENOMEM);
    if (!it->second.grows_down) return base::err(kEINVAL);
    start = it->first;
  } else if (it->first > start) {
    return base::err(kENOMEM);
  }
  if (m.touches_special(start, end)) return base::err(kEACCES);
  if (m.vmas.size() + 2 > kMaxVmas) return base::err(kENOMEM);
  // Like Linux: what comes before the first problem is changed.
  base::Result<void> status{};
  uint64_t stop = start;
  uint64_t new_data = 0;
  for (; it != m.vmas.end() && it->first <= stop && stop < end; ++it) {
    const Vma& v = it->second;
    if ((prot.write && !v.max_prot.write) || (prot.exec && !v.max_prot.exec) || (prot.read && !v.max_prot.read)) {
      status = base::err(kEACCES);
      break;
    }
    uint64_t part = std::min(v.end, end) - std::max(it->first, start);
    if (prot.write && !v.prot.write && v.sharing == Sharing::kPrivate) {
      new_data += part;
      if (m.totals.data + new_data > m.limits.get(Resource::kDATA).soft) {
        status = base::err(kENOMEM);
        break;
      }
    }
    stop = std::min(v.end, end);
  }
  if (status && stop < end) status = base::err(kENOMEM);
  if (stop == start) return status;
  // A growing area that changes as a whole keeps growing.
  auto [first, last] = m.isolate_locked(start, stop);
  for (auto v = first; v != last; ++v) {
    if (v->second.prot == prot) continue;
    uint64_t size = v->second.end - v->first;
    m.account(v->second, size, -1);
    v->second.prot = prot;
    m.account(v->second, size, 1);
  }
  m.reprotect_active(start, stop, prot);
  m.merge_around_locked(start, stop);
  return status;
}

base::Result<Addr> MemoryManager::brk(Addr wanted) {
  Impl& m = *impl_;
  uint64_t old = 0, now = 0;
  bool lock_it = false;
  {
    MappingWrite lock(m);
    old = m.brk_end;
    if (wanted.value() < m.brk_start || wanted.value() > m.platform.max_address().value()) return Addr(old);
    uint64_t limit = m.limits.get(Resource::kDATA).soft;
    if (limit != creds::kInfinity && wanted.value() - m.brk_start > limit) return Addr(old);
    uint64_t old_page = round_up(old, kPageSize), new_page = round_up(wanted.value(), kPageSize);
    if (new_page < old_page) {
      m.unmap_locked(new_page, old_page);
    } else if (new_page > old_page) {
      uint64_t grow = new_page - old_page;
      // Keeps the stack's distance to whatever is above.
      if (!m.is_free_locked(old_page, new_page + kPageSize)) return Addr(old);
      if (!m.check_limits_locked(grow, true, true, m.lock_future ? grow : 0)) return Addr(old);
      Vma vma;
      vma.end = new_page;
      vma.prot = {true, true, false};
      vma.locked = lock_it = m.lock_future;
      m.insert_vma_locked(old_page, std::move(vma));
    }
    m.brk_end = now = wanted.value();
  }
  const uint64_t from = round_up(old, kPageSize), to = round_up(now, kPageSize);
  if (lock_it) populate(from, to);
  else if (from < to && to - from <= kSmallAnonymous) map_at_once(from, to, Touch::kWrite);
  return Addr(now);
}

Addr MemoryManager::pick_text_address(memory::Mappable& object, uint64_t length) {
  Impl& m = *impl_;
  length = round_up(length, kPageSize);
  uint64_t wanted = m.places->place(object, length);
  base::ReadLock lock(m.mapping_mu);
  auto gap = m.find_gap_locked(length, wanted);
  return gap ? Addr(*gap) : Addr();
}

}  // namespace sentry::mm
