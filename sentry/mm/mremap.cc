// SPDX-License-Identifier: Apache-2.0
// mremap(2): mm/mremap.c.
#include "sentry/mm/impl.h"

namespace sentry::mm {

using enum abi::Errno;
using Impl = MemoryManager::Impl;

namespace {

constexpr uint32_t kMayMove = 1, kFixed = 2, kDontUnmap = 4;

// Pieces of [from, from + length) go to `to`; the platform maps them there again when they are touched.
void move_pieces_active(Impl& m, uint64_t from, uint64_t length, uint64_t to) {
  auto [first, last] = m.pieces.isolate(from, from + length);
  std::vector<Piece> moved(m.pieces.v.begin() + static_cast<ptrdiff_t>(first),
                           m.pieces.v.begin() + static_cast<ptrdiff_t>(last));
  uint64_t lo = ~uint64_t{0}, hi = 0;
  for (const Piece& p : moved) {
    if (!p.has(kMapped)) continue;
    lo = std::min(lo, p.start);
    hi = std::max(hi, p.end);
  }
  if (lo < hi) m.space->unmap({Addr(lo), Addr(hi)});
  m.pieces.erase(first, last);
  size_t mapped = 0;
  for (Piece& p : moved) {
    bool eager = p.has(kMapped) && ++mapped <= 16;
    p.start = p.start - from + to;
    p.end = p.end - from + to;
    p.flags = static_cast<uint16_t>(p.flags & ~(kHostBits | kMapped | kMappedRw));
    if (eager) m.map_piece_active(p);
    m.pieces.insert(p);
  }
}

struct Request {
  uint64_t old_addr, old_size, new_size, new_addr;
  bool fixed, dont_unmap;
};

// The VMA that holds all of the old range. EFAULT.
base::Result<VmaMap::iterator> vma_to_resize(Impl& m, const Request& r) {
  auto it = m.find_vma(r.old_addr);
  if (it == m.vmas.end()) return base::err(kEFAULT);
  const Vma& v = it->second;
  if (r.old_size == 0 && v.sharing == Sharing::kPrivate) return base::err(kEINVAL);
  if (r.old_size > v.end - r.old_addr) return base::err(kEFAULT);
  if (r.dont_unmap && v.object && v.sharing == Sharing::kShared) return base::err(kEINVAL);
  if (v.special) return base::err(kEFAULT);
  if (r.new_size > r.old_size || r.old_size == 0) {
    uint64_t grow = r.new_size - r.old_size;
    if (v.object && v.offset + (r.old_addr - it->first) + r.new_size < r.new_size) return base::err(kEINVAL);
    bool data = v.sharing == Sharing::kPrivate && v.prot.write;
    TRY(m.check_limits_locked(grow, data, data && !v.no_reserve, v.locked ? grow : 0));
  }
  return it;
}

base::Result<Addr> move_vma(Impl& m, VmaMap::iterator it, const Request& r) {
  uint64_t to = r.new_addr;
  if (!r.fixed) to = TRY(m.find_gap_locked(r.new_size, 0));
  if (m.vmas.size() + 3 > kMaxVmas) return base::err(kENOMEM);
  Vma v = it->second;
  const WritableHold hold(v);
  if (v.object) v.offset += r.old_addr - it->first;
  v.end = to + r.new_size;
  v.grows_down = false;
  if (r.old_size != 0) move_pieces_active(m, r.old_addr, std::min(r.old_size, r.new_size), to);
  if (r.old_size != 0 && !r.dont_unmap) {
    m.unmap_locked(r.old_addr, r.old_addr + r.old_size);
  } else if (r.dont_unmap) {
    m.drop_pieces_active(r.old_addr, r.old_addr + r.old_size);
    auto [first, last] = m.isolate_locked(r.old_addr, r.old_addr + r.old_size);
    for (auto old = first; old != last; ++old) {
      if (!old->second.locked) continue;
      m.account(old->second, old->second.end - old->first, -1);
      old->second.locked = false;
      m.account(old->second, old->second.end - old->first, 1);
    }
  }
  m.insert_vma_locked(to, std::move(v));
  return Addr(to);
}

base::Result<Addr> resize_locked(Impl& m, const Request& r) {
  uint64_t old_end = r.old_addr + r.old_size;
  if (r.fixed) {
    // mremap_to(): the target is cleared first, then the old tail.
    if (m.touches_special(r.new_addr, r.new_addr + r.new_size)) return base::err(kENOMEM);
    TRY(vma_to_resize(m, r));
    m.unmap_locked(r.new_addr, r.new_addr + r.new_size);
    Request rest = r;
    if (r.old_size > r.new_size && !r.dont_unmap) {
      m.unmap_locked(r.old_addr + r.new_size, old_end);
      rest.old_size = r.new_size;
    }
    auto it = TRY(vma_to_resize(m, rest));
    return move_vma(m, it, rest);
  }
  if (r.dont_unmap) return move_vma(m, TRY(vma_to_resize(m, r)), r);
  if (r.old_size >= r.new_size) {
    if (!m.covered(r.old_addr, r.old_addr + 1)) return base::err(kEFAULT);
    if (r.old_size > r.new_size) m.unmap_locked(r.old_addr + r.new_size, old_end);
    return Addr(r.old_addr);
  }
  auto it = TRY(vma_to_resize(m, r));
  uint64_t new_end = r.old_addr + r.new_size;
  if (it->second.end == old_end && r.old_size != 0 && new_end <= m.platform.max_address().value() &&
      m.is_free_locked(old_end, new_end)) {
    m.account(it->second, new_end - old_end, 1);
    it->second.end = new_end;
    m.merge_around_locked(it->first, new_end);
    return Addr(r.old_addr);
  }
  return base::err(kEAGAIN);  // must move
}

}  // namespace

base::Result<Addr> MemoryManager::mremap(Addr old_addr, uint64_t old_size, uint64_t new_size, uint32_t flags,
                                         Addr new_addr) {
  Impl& m = *impl_;
  uint64_t top = m.platform.max_address().value();
  if ((flags & ~(kMayMove | kFixed | kDontUnmap)) != 0) return base::err(kEINVAL);
  if ((flags & (kFixed | kDontUnmap)) != 0 && (flags & kMayMove) == 0) return base::err(kEINVAL);
  if (!old_addr.is_page_aligned()) return base::err(kEINVAL);
  if (old_size > top || new_size > top) return base::err(kEINVAL);
  old_size = round_up(old_size, kPageSize);
  new_size = round_up(new_size, kPageSize);
  if (new_size == 0) return base::err(kEINVAL);
  if (old_addr.value() > top || old_addr.value() + old_size > top) return base::err(kEFAULT);
  bool fixed = (flags & kFixed) != 0, dont_unmap = (flags & kDontUnmap) != 0;
  if (dont_unmap && old_size != new_size) return base::err(kEINVAL);
  if (fixed) {
    if (!new_addr.is_page_aligned() || new_addr.value() > top || new_size > top - new_addr.value())
      return base::err(kEINVAL);
    if (new_addr.value() < m.platform.min_address().value()) return base::err(kEPERM);
    if (new_addr.value() < old_addr.value() + old_size && old_addr.value() < new_addr.value() + new_size)
      return base::err(kEINVAL);
  }
  Request r{old_addr.value(), old_size, new_size, new_addr.value(), fixed, dont_unmap};
  base::Result<Addr> result = base::err(kEFAULT);
  uint64_t populate_from = 0, populate_to = 0;
  {
    MappingWrite lock(m);
    if (m.touches_special(r.old_addr, r.old_addr + std::max(r.old_size, kPageSize))) return base::err(kEFAULT);
    result = resize_locked(m, r);
    if (!result && result.error() == kEAGAIN) {
      if ((flags & kMayMove) == 0) return base::err(kENOMEM);
      auto it = TRY(vma_to_resize(m, r));
      result = move_vma(m, it, r);
    }
    if (result && new_size > old_size) {
      auto it = m.find_vma(result->value());
      if (it != m.vmas.end() && it->second.locked) {
        populate_from = result->value() + old_size;
        populate_to = result->value() + new_size;
      }
    }
  }
  if (populate_to != 0) populate(populate_from, populate_to);
  return result;
}

}  // namespace sentry::mm
