// SPDX-License-Identifier: Apache-2.0
// The VMA structure: lookup, splitting, merging, free ranges, limits.
#include "sentry/mm/impl.h"

namespace sentry::mm {

using enum abi::Errno;
using creds::Resource;

VmaMap::iterator MemoryManager::Impl::first_ending_above(uint64_t addr) {
  auto it = vmas.upper_bound(addr);
  if (it != vmas.begin()) {
    auto prev = std::prev(it);
    if (prev->second.end > addr) return prev;
  }
  return it;
}

VmaMap::iterator MemoryManager::Impl::find_vma(uint64_t addr) {
  auto it = first_ending_above(addr);
  return it != vmas.end() && it->first <= addr ? it : vmas.end();
}

bool MemoryManager::Impl::covered(uint64_t start, uint64_t end) {
  for (auto it = find_vma(start); it != vmas.end() && it->first <= start; ++it) {
    start = it->second.end;
    if (start >= end) return true;
  }
  return start >= end;
}

bool MemoryManager::Impl::touches_special(uint64_t start, uint64_t end) {
  auto it = first_ending_above(start);
  for (; it != vmas.end() && it->first < end; ++it)
    if (it->second.special) return true;
  return false;
}

VmaMap::iterator MemoryManager::Impl::split_vma_locked(VmaMap::iterator it, uint64_t at) {
  Vma right = it->second;
  if (right.object) right.offset += at - it->first;
  attach_object(right);
  right.grows_down = false;
  it->second.end = at;
  return vmas.emplace_hint(std::next(it), at, std::move(right));
}

std::pair<VmaMap::iterator, VmaMap::iterator> MemoryManager::Impl::isolate_locked(uint64_t start, uint64_t end) {
  auto first = first_ending_above(start);
  if (first != vmas.end() && first->first < start) first = split_vma_locked(first, start);
  auto last = first;
  while (last != vmas.end() && last->second.end <= end) ++last;
  if (last != vmas.end() && last->first < end) last = split_vma_locked(last, end);
  return {first, last};
}

void MemoryManager::Impl::attach_object(const Vma& vma) {
  if (!vma.object) return;
  vma.object->add_observer(*invalidator);
  // Never denied: another VMA or a WritableHold counts already.
  if (vma.may_write_shared()) (void)vma.object->map_writable();
}

void MemoryManager::Impl::detach_object(const Vma& vma) {
  if (!vma.object) return;
  if (vma.may_write_shared()) vma.object->unmap_writable();
  vma.object->remove_observer(*invalidator);
}

VmaMap::iterator MemoryManager::Impl::insert_vma_locked(uint64_t start, Vma vma) {
  account(vma, vma.end - start, 1);
  attach_object(vma);
  uint64_t end = vma.end;
  vmas.emplace(start, std::move(vma));
  merge_around_locked(start, end);
  return find_vma(start);
}

// Joins VMAs that touch within [start, end], borders included.
void MemoryManager::Impl::merge_around_locked(uint64_t start, uint64_t end) {
  auto it = first_ending_above(start);
  if (it != vmas.begin()) --it;
  while (it != vmas.end() && it->first <= end) {
    auto next = std::next(it);
    if (next == vmas.end()) break;
    if (!Vma::can_merge(it->first, it->second, next->first, next->second)) {
      it = next;
      continue;
    }
    it->second.end = next->second.end;
    detach_object(next->second);
    dead.push_back(std::move(next->second));
    vmas.erase(next);
  }
}

void MemoryManager::Impl::account(const Vma& vma, uint64_t length, int sign) {
  if (vma.special) return;
  uint64_t delta = sign > 0 ? length : -length;
  totals.vsize += delta;
  peak_vsize = std::max(peak_vsize, totals.vsize);
  if (vma.stack) {
    totals.stack += delta;
  } else if (vma.sharing == Sharing::kPrivate && vma.prot.write) {
    totals.data += delta;
  }
  if (vma.prot.exec && !vma.prot.write) totals.text += delta;
  if (vma.locked) totals.locked += delta;
}

void MemoryManager::Impl::unmap_locked(uint64_t start, uint64_t end) {
  // DIVERGES: what the platform needs (the vDSO among it) stays.
  for (auto it = first_ending_above(start); it != vmas.end() && it->first < end; ++it) {
    if (!it->second.special) continue;
    uint64_t stop = it->first, go_on = it->second.end;
    if (start < stop) unmap_locked(start, stop);
    if (go_on < end) unmap_locked(go_on, end);
    return;
  }
  auto [first, last] = isolate_locked(start, end);
  if (first == last) return;
  drop_pieces_active(start, end);
  for (auto it = first; it != last; ++it) {
    account(it->second, it->second.end - it->first, -1);
    detach_object(it->second);
    if (it->second.object) dead.push_back(std::move(it->second));
  }
  vmas.erase(first, last);
}

bool MemoryManager::Impl::is_free_locked(uint64_t start, uint64_t end) {
  auto it = first_ending_above(start);
  if (it == vmas.end()) return true;
  // A growing stack keeps its distance.
  uint64_t next = it->first;
  if (it->second.grows_down) next = next > kStackGuard ? next - kStackGuard : 0;
  return next >= end;
}

base::Result<uint64_t> MemoryManager::Impl::find_gap_locked(uint64_t length, uint64_t hint) {
  uint64_t low = platform.min_address().value(), high = platform.max_address().value();
  if (length > high - low) return base::err(kENOMEM);
  if (hint != 0 && hint >= low && hint <= high - length && is_free_locked(hint, hint + length)) return hint;
  // From mmap_base downwards; then, if that is full, anywhere above.
  for (uint64_t top : {mmap_base, high}) {
    uint64_t end = top;
    auto it = vmas.lower_bound(top);
    if (it != vmas.end() && top != high) {
      uint64_t next = it->second.grows_down ? it->first - std::min(it->first, kStackGuard) : it->first;
      end = std::min(end, next);
    }
    while (true) {
      uint64_t floor = low;
      if (it != vmas.begin()) floor = std::max(low, std::prev(it)->second.end);
      if (end > floor && end - floor >= length) return end - length;
      if (it == vmas.begin()) break;
      --it;
      uint64_t start = it->second.grows_down ? it->first - std::min(it->first, kStackGuard) : it->first;
      end = std::min(end, start);
    }
  }
  return base::err(kENOMEM);
}

// may_expand_vm() and __vm_enough_memory() with the default heuristic: only what can never work is refused.
base::Result<void> MemoryManager::Impl::check_limits_locked(uint64_t grow, bool data, bool accountable,
                                                            uint64_t locked) {
  if (totals.vsize + grow > limits.get(Resource::kAS).soft) return base::err(kENOMEM);
  if (data && totals.data + grow > limits.get(Resource::kDATA).soft) return base::err(kENOMEM);
  if (locked != 0 && !lock_exempt && totals.locked + locked > limits.get(Resource::kMEMLOCK).soft)
    return base::err(kEAGAIN);
  if (vmas.size() >= kMaxVmas) return base::err(kENOMEM);
  if (accountable && grow > file.host_memory()) return base::err(kENOMEM);
  return {};
}

}  // namespace sentry::mm
