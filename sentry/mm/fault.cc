// SPDX-License-Identifier: Apache-2.0
// Page faults of guests and of user copies: large pieces around what was touched.
#include <bit>
#include <utility>

#include "base/stats/stats.h"
#include "sentry/mm/impl.h"

namespace sentry::mm {

using enum abi::Errno;
using base::stats::Counter;
using platform::AccessKind;

namespace {

// Anonymous memory is only backed when touched, so a window costs nothing but its counts.
constexpr uint64_t kAnonWindow = 2 << 20;
constexpr uint64_t kAnonSequential = 32 << 20;
constexpr uint64_t kFileWindow = 2 << 20;
constexpr uint64_t kDirtyWindow = 64 << 10;  // of a shared file: what is marked dirty at once
// DIVERGES: the pages around a first write to a private file mapping are copied with it, so later changes of the file do
// not show in them (POSIX leaves it open).
constexpr uint64_t kCowWindow = 32 << 10;
constexpr uint64_t kCowWindowFile = 128 << 10;  // of data of a large program: most of it is written, here and there, while it starts
constexpr uint64_t kCowSequential = 512 << 10;  // it doubles up to this while the writes go on where the last copy ended
constexpr uint64_t kCowWhole = 64 << 10;  // smaller pieces (data of a library) are copied in one go: a page costs less than a fault
constexpr int kMaxAttempts = 64;

constexpr int32_t kSIGBUS = 7, kSIGSEGV = 11;
constexpr int32_t kSEGV_MAPERR = 1, kSEGV_ACCERR = 2, kBUS_ADRERR = 2;

constexpr uint16_t guest_bits(Prot prot) {
  return static_cast<uint16_t>((prot.read ? kGuestRead : 0) | (prot.write ? kGuestWrite : 0) |
                               (prot.exec ? kGuestExec : 0));
}

}  // namespace

base::Result<Piece*> MemoryManager::Impl::make_anonymous_active(VmaMap::iterator it, uint64_t page) {
  Vma& vma = it->second;
  AddrRange gap = pieces.gap(page, it->first, vma.end);
  uint64_t lo = gap.start.value(), hi = gap.end.value();
  if (hi - lo > kAnonWindow) {
    bool sequential = page == vma.next_window && page == lo;
    uint64_t window = sequential ? kAnonSequential : kAnonWindow;
    lo = std::max(lo, round_down(page, kAnonWindow));
    hi = std::min(hi, round_down(page, kAnonWindow) + window);
  }
  vma.next_window = hi;
  if (vma.prot.write) {
    if (auto again = take_recycled_active(hi - lo)) {
      made_warm = true;
      pieces.insert({lo, hi, again->offset, static_cast<uint16_t>(kAnon | guest_bits(vma.prot))});
      return pieces.find(page);
    }
  }
  auto range = file.allocate(hi - lo, memory::MemoryKind::kAnonymous);
  if (!range) {
    lo = page;
    hi = page + kPageSize;
    range = file.allocate(kPageSize, memory::MemoryKind::kAnonymous);
  }
  if (!range) return base::err(range.error());
  pieces.insert({lo, hi, range->offset, static_cast<uint16_t>(kAnon | guest_bits(vma.prot))});
  return pieces.find(page);
}

base::Result<Piece*> MemoryManager::Impl::fault_in_object_active(VmaMap::iterator it, uint64_t page, Want want,
                                                                 Pending& pending) {
  Vma& vma = it->second;
  if (Piece* patched = map_patched_active(it, page)) return patched;
  AddrRange gap = pieces.gap(page, it->first, vma.end);
  bool shared = vma.sharing == Sharing::kShared;
  bool notify = shared && want != Want::kRead && vma.object->needs_write_notice();
  uint64_t lo = notify ? round_down(page, kDirtyWindow) : page - std::min(page, kFileWindow / 4);
  uint64_t hi = notify ? lo + kDirtyWindow : page + kFileWindow;
  if (vma.object->is_in_memory()) lo = gap.start.value(), hi = gap.end.value();
  auto offset_of = [&](uint64_t addr) { return vma.offset + (addr - it->first); };
  uint64_t from = offset_of(std::max(gap.start.value(), lo)), to = offset_of(std::min(gap.end.value(), hi));
  if (auto patches = patches_for(it->first, vma)) patches->clip(offset_of(page), *vma.object, from, to);
  auto placed = vma.object->translate_cached(offset_of(page), from, to, shared && want != Want::kRead);
  if (!placed) {
    if (placed.error() == kEAGAIN)
      pending = {vma.object, offset_of(page), hi - page, shared && want != Want::kRead};
    return base::err(placed.error());
  }
  uint64_t start = it->first + (placed->start - vma.offset);
  uint16_t flags = guest_bits(vma.prot);
  if (!shared) {
    flags |= kCow;
  } else {
    flags |= kShared;
    if (want != Want::kRead || !vma.object->needs_write_notice()) flags |= kNotified;
  }
  pieces.insert({start, start + placed->range.length, placed->range.offset, flags});
  return pieces.find(page);
}

base::Result<Piece*> MemoryManager::Impl::fault_in_active(VmaMap::iterator it, uint64_t page, Want want,
                                                          Pending& pending) {
  if (it->second.object) return fault_in_object_active(it, page, want, pending);
  return make_anonymous_active(it, page);
}

// What is copied when `page` of the piece is written.
std::pair<uint64_t, uint64_t> MemoryManager::Impl::cow_window_active(const Piece& p, uint64_t page) {
  if (p.length() <= kCowWhole) return {p.start, p.end};
  const auto it = find_vma(page);  // pieces lie in VMAs
  Vma& vma = it->second;
  const bool sequential = page == vma.next_window && vma.cow_window != 0;
  const uint64_t window = p.has(kAnon) ? kCowWindow : std::clamp(std::bit_floor((vma.end - it->first) / 8), kCowWindow, kCowWindowFile);
  vma.cow_window = static_cast<uint32_t>(sequential ? std::min<uint64_t>(2 * vma.cow_window, kCowSequential) : window);
  const uint64_t from = sequential ? page : round_down(page, window);
  const uint64_t hi = std::min(p.end, from + vma.cow_window);
  vma.next_window = hi;
  return {std::max(p.start, from), hi};
}

base::Result<Piece*> MemoryManager::Impl::break_cow_active(Piece& p, uint64_t page) {
  // Reuse: nobody else has a reference, and nobody else is left who ever had one (and might still map the page).
  if (p.has(kAnon) && family->live.load(std::memory_order_acquire) == 1) {
    uint64_t lo = p.start, hi = p.end;
    bool unique = false;
    if (file.unique_prefix(p.file_range(), unique) != p.length() || !unique) {
      lo = page;
      hi = lo + file.unique_prefix({p.offset_of(page), p.end - page}, unique);
    }
    if (unique) {
      auto [first, last] = pieces.isolate(lo, hi);
      pieces.v[first].flags &= static_cast<uint16_t>(~kCow);
      update_host_active(pieces.v[first]);
      pieces.join(first);
      return pieces.find(page);
    }
  }
  const auto [lo, hi] = cow_window_active(p, page);
  FileRange from{p.offset_of(lo), hi - lo};
  auto to = file.allocate(hi - lo, memory::MemoryKind::kAnonymous);
  if (!to) return base::err(to.error());
  constexpr size_t kPages = kCowSequential / kPageSize;
  uint8_t resident[kPages];
  size_t n = (hi - lo) / kPageSize;
  if (p.has(kAnon)) {
    file.resident(from, {resident, n});
  } else {
    std::fill_n(resident, n, uint8_t{1});
  }
  for (size_t i = 0; i < n;) {
    size_t end = i;
    while (end < n && (resident[end] & 1) != 0) ++end;
    if (end > i) file.copy(to->offset + i * kPageSize, from.offset + i * kPageSize, (end - i) * kPageSize);
    i = end + 1;
  }
  replace_active(lo, hi, {lo, hi, to->offset, static_cast<uint16_t>(kAnon | (p.flags & kGuestBits))});
  return pieces.find(page);
}

// First write to pages of a shared file mapping: the object must know.
base::Result<Piece*> MemoryManager::Impl::notify_write_active(VmaMap::iterator it, Piece& p, uint64_t page,
                                                              Pending& pending) {
  Vma& vma = it->second;
  uint64_t lo = std::max(p.start, round_down(page, kDirtyWindow));
  uint64_t hi = std::min(p.end, round_down(page, kDirtyWindow) + kDirtyWindow);
  auto offset_of = [&](uint64_t addr) { return vma.offset + (addr - it->first); };
  auto placed = vma.object->translate_cached(offset_of(page), offset_of(lo), offset_of(hi), true);
  if (!placed) {
    if (placed.error() == kEAGAIN) pending = {vma.object, offset_of(page), hi - page, true};
    return base::err(placed.error());
  }
  uint64_t start = it->first + (placed->start - vma.offset), end = start + placed->range.length;
  // The object's pages as they are now: the same as before unless it was truncated meanwhile.
  replace_active(start, end, {start, end, placed->range.offset,
                              static_cast<uint16_t>((p.flags & kGuestBits) | kShared | kNotified)});
  return pieces.find(page);
}

base::Result<void> MemoryManager::Impl::try_resolve_active(uint64_t addr, Want want, MapIt map, Pending& pending) {
  auto it = find_vma(addr);
  if (it == vmas.end()) return base::err(kEFAULT);
  Vma& vma = it->second;
  if (want == Want::kRead && !vma.prot.any()) return base::err(kEACCES);
  if (want == Want::kWrite && !vma.prot.write) return base::err(kEACCES);
  // FOLL_FORCE: private memory whatever its protection; shared memory only if it could be written.
  if (want == Want::kForceWrite && vma.sharing == Sharing::kShared && !vma.prot.write) return base::err(kEACCES);
  if (vma.special && (map == MapIt::kYes || !vma.object || want != Want::kRead)) return base::err(kEACCES);
  uint64_t page = round_down(addr, kPageSize);
  Piece* p = pieces.find(page);
  Counter kind = Counter::kFaultsMapping;
  if (!p) {
    auto made = fault_in_active(it, page, want, pending);
    if (!made) return base::err(made.error());
    p = *made;
    kind = vma.object ? Counter::kFaultsFile : Counter::kFaultsAnonymous;
  }
  const bool refused = map == MapIt::kYes && p->has(kMapped) && !p->has(kShared) && p->has(kGuestExec) &&
                       memory::HostFiles::holds(p->offset) && space->refused_files() != 0;
  // A host file that the platform could not map, as it lies on a mount without execution: copies of its pages instead.
  if ((want != Want::kRead && p->has(kCow)) || refused) {
    bool seen = p->has(kMapped);
    auto broken = break_cow_active(*p, page);
    if (!broken) return base::err(broken.error());
    p = *broken;
    kind = Counter::kFaultsCow;
    // We are going to write: threads in the guest must not go on looking at the old page until they happen to come by.
    if (seen && map == MapIt::kNo) space->interrupt_running();
  } else if (want != Want::kRead && p->has(kShared) && !p->has(kNotified)) {
    auto told = notify_write_active(it, *p, page, pending);
    if (!told) return base::err(told.error());
    p = *told;
    kind = Counter::kFaultsDirty;
  }
  const bool warm = std::exchange(made_warm, false);
  if (map == MapIt::kYes) {
    base::stats::count(kind);
    map_piece_active(*p, warm ? Pages::kPresent : Pages::kMaybe);
    pieces.join(static_cast<size_t>(p - pieces.v.data()));
  }
  return {};
}

base::Result<void> MemoryManager::Impl::resolve(uint64_t addr, Want want, MapIt map) {
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    Pending pending;
    base::Result<void> status{};
    {
      base::ReadLock mapping(mapping_mu);
      base::WriteLock active(active_mu);
      status = try_resolve_active(addr, want, map, pending);
    }
    if (status || !pending.object) {
      if (status || status.error() != kEFAULT) return status;
      TRY(grow_stack(addr));
      continue;
    }
    auto pages = pending.object->translate(pending.offset, pending.length, pending.write);
    if (!pages) return base::err(pages.error());
    // Held during the retry would be better still; the cache keeps them anyway.
    file.drop_ref(*pages);
  }
  return base::err(kEIO);
}

// expand_downwards() of mm/mmap.c.
base::Result<void> MemoryManager::Impl::grow_stack(uint64_t addr) {
  MappingWrite lock(*this);
  uint64_t page = round_down(addr, kPageSize);
  auto it = first_ending_above(addr);
  if (it == vmas.end()) return base::err(kEFAULT);
  if (it->first <= addr) return {};  // another thread was faster
  if (!it->second.grows_down || page < platform.min_address().value()) return base::err(kEFAULT);
  if (it->second.end - page > limits.get(creds::Resource::kSTACK).soft) return base::err(kEFAULT);
  if (it != vmas.begin()) {
    auto prev = std::prev(it);
    bool guarded = !prev->second.grows_down && prev->second.prot.any();
    if (guarded && page < prev->second.end + kStackGuard) return base::err(kEFAULT);
  }
  uint64_t grow = it->first - page;
  if (!check_limits_locked(grow, false, false, it->second.locked ? grow : 0)) return base::err(kEFAULT);
  account(it->second, grow, 1);
  auto node = vmas.extract(it);
  node.mapped().offset -= node.mapped().object ? grow : 0;
  node.key() = page;
  vmas.insert(std::move(node));
  return {};
}

std::expected<void, FaultSignal> MemoryManager::handle_fault(Addr addr, AccessKind access) {
  Impl& m = *impl_;
  uint64_t a = addr.value();
  if (access == AccessKind::kExecute) {
    base::ReadLock lock(m.mapping_mu);
    auto it = m.find_vma(a);
    if (it != m.vmas.end() && !it->second.prot.exec) return std::unexpected(FaultSignal{kSIGSEGV, kSEGV_ACCERR});
  }
  auto status =
      m.resolve(a, access == AccessKind::kWrite ? Impl::Want::kWrite : Impl::Want::kRead, Impl::MapIt::kYes);
  if (status) return {};
  base::stats::count(Counter::kFaultsBad);
  switch (status.error()) {
    case kEFAULT: return std::unexpected(FaultSignal{kSIGSEGV, kSEGV_MAPERR});
    case kEACCES: return std::unexpected(FaultSignal{kSIGSEGV, kSEGV_ACCERR});
    default: return std::unexpected(FaultSignal{kSIGBUS, kBUS_ADRERR});
  }
}

void Invalidator::invalidate(const memory::Mappable& object, uint64_t start, uint64_t end) {
  base::ReadLock self(mu_);
  if (!mm_) return;
  base::ReadLock mapping(mm_->mapping_mu);
  base::WriteLock active(mm_->active_mu);
  for (auto& [vma_start, vma] : mm_->vmas) {
    if (vma.object.get() != &object) continue;
    uint64_t vma_last = vma.offset + (vma.end - vma_start);
    uint64_t lo = std::max(start, vma.offset), hi = std::min(end, vma_last);
    if (lo >= hi) continue;
    uint64_t from = vma_start + (lo - vma.offset), to = vma_start + (hi - vma.offset);
    if (vma.sharing == Sharing::kShared) {
      mm_->drop_pieces_active(from, to);
      continue;
    }
    // Private copies stay; pages of the file go.
    auto [first, last] = mm_->pieces.isolate(from, to);
    for (size_t i = last; i-- > first;) {
      Piece p = mm_->pieces.v[i];
      if (!p.has(kAnon)) mm_->drop_pieces_active(p.start, p.end);
    }
  }
}

}  // namespace sentry::mm
