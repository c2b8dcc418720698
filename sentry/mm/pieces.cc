// SPDX-License-Identifier: Apache-2.0
// Pieces and what the platform's address space is told about them. active_mu is held exclusively throughout.
#include <ctime>

#include "sentry/mm/impl.h"

namespace sentry::mm {

namespace {

// Far longer than any thread stays in the guest without passing the platform once more after a change was queued.
constexpr int64_t kRetireNs = 2'000'000'000;

int64_t coarse_now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

}  // namespace

void MemoryManager::Impl::retire_active(FileRange range) {
  release_retired_active();
  retired.push_back({range, coarse_now_ns()});
}

void MemoryManager::Impl::release_retired_active() {
  if (retired.empty()) return;
  int64_t limit = coarse_now_ns() - kRetireNs;
  size_t n = 0;
  while (n < retired.size() && retired[n].when_ns < limit) file.drop_ref(retired[n++].range);
  retired.erase(retired.begin(), retired.begin() + static_cast<ptrdiff_t>(n));
}

void MemoryManager::Impl::drop_pieces_active(uint64_t start, uint64_t end) {
  auto [first, last] = pieces.isolate(start, end);
  if (first == last) return;
  uint64_t lo = ~uint64_t{0}, hi = 0;
  for (size_t i = first; i < last; ++i) {
    const Piece& p = pieces.v[i];
    if (!p.has(kMapped)) continue;
    lo = std::min(lo, p.start);
    hi = std::max(hi, p.end);
  }
  // One host call for all of it: what lies between mapped pieces of the range goes too.
  if (lo < hi) space->unmap({Addr(lo), Addr(hi)});
  for (size_t i = first; i < last; ++i) give_back_active(pieces.v[i]);
  pieces.erase(first, last);
}

// A fresh page costs the host three times as much as one that is there. What a process keeps is little, and was in use.
void MemoryManager::Impl::give_back_active(const Piece& p) {
  constexpr uint64_t kLargest = 256 << 10, kMost = 256 << 10;
  const FileRange range = p.file_range();
  const uint64_t pages = range.length / kPageSize;
  if (!p.has(kAnon | kGuestWrite | kMapped) || p.has(kCow) || range.length > kLargest || !file.is_unique(range))
    return file.drop_ref(range);
  uint8_t resident[kLargest / kPageSize];
  file.resident(range, {resident, pages});
  for (uint64_t i = 0; i < pages; ++i)
    if ((resident[i] & 1) == 0) return file.drop_ref(range);
  recycled.push_back(range);
  recycled_bytes += range.length;
  while (recycled_bytes > kMost) {
    file.drop_ref(recycled.front());
    recycled_bytes -= recycled.front().length;
    recycled.erase(recycled.begin());
  }
}

std::optional<FileRange> MemoryManager::Impl::take_recycled_active(uint64_t length) {
  for (size_t i = recycled.size(); i-- > 0;) {
    if (recycled[i].length != length) continue;
    const FileRange range = recycled[i];
    recycled.erase(recycled.begin() + static_cast<ptrdiff_t>(i));
    recycled_bytes -= length;
    file.clear(range);
    return range;
  }
  return std::nullopt;
}

void MemoryManager::Impl::reprotect_active(uint64_t start, uint64_t end, Prot prot) {
  auto guest = static_cast<uint16_t>((prot.read ? kGuestRead : 0) | (prot.write ? kGuestWrite : 0) |
                                     (prot.exec ? kGuestExec : 0));
  auto [first, last] = pieces.isolate(start, end);
  uint64_t run_start = 0, run_end = 0;
  uint16_t run_prot = 0;
  auto flush = [&] {
    if (run_end != 0) space->protect({Addr(run_start), Addr(run_end)}, host_prot(run_prot));
    run_end = 0;
  };
  for (size_t i = first; i < last; ++i) {
    Piece& p = pieces.v[i];
    p.flags = static_cast<uint16_t>((p.flags & ~kGuestBits) | guest);
    uint16_t want = p.wanted_host();
    if (!p.has(kMapped) || want == (p.flags & kHostBits)) continue;
    if ((want & kHostWrite) != 0 && !p.has(kMappedRw)) {
      flush();
      update_host_active(p);
      continue;
    }
    p.flags = static_cast<uint16_t>((p.flags & ~kHostBits) | want);
    if (run_end == p.start && run_prot == want) {
      run_end = p.end;
      continue;
    }
    flush();
    run_start = p.start;
    run_end = p.end;
    run_prot = want;
  }
  flush();
  // What the splits cut apart may fit together again.
  for (size_t i = last; i-- > first;) pieces.join(i);
}

// Makes the platform's mapping of a mapped piece what it should be.
void MemoryManager::Impl::update_host_active(Piece& p) {
  uint16_t want = p.wanted_host();
  if (!p.has(kMapped) || want == (p.flags & kHostBits)) return;
  if ((want & kHostWrite) != 0 && !p.has(kMappedRw)) {
    space->map({Addr(p.start), Addr(p.end)}, p.offset, host_prot(want), platform::Populate::kNo);  // never of a host file
    p.flags |= kMappedRw;
  } else {
    space->protect({Addr(p.start), Addr(p.end)}, host_prot(want));
  }
  p.flags = static_cast<uint16_t>((p.flags & ~kHostBits) | want);
}

// Puts a piece into the platform's space, all of it. Also answers faults on pieces that are mapped already: platforms
// may drop mappings.
void MemoryManager::Impl::map_piece_active(Piece& p, Pages pages) {
  uint16_t want = p.wanted_host();
  if (memory::HostFiles::holds(p.offset) && host_prot(want).any()) {
    const memory::HostFiles::Place place = file.host_files().place(p.offset);
    space->map_file({Addr(p.start), Addr(p.end)}, place.fd, place.offset, host_prot(want));
    p.flags = static_cast<uint16_t>((p.flags & ~(kHostBits | kMappedRw)) | want | kMapped);
    return;
  }
  bool small = p.length() <= 16 * kPageSize;
  // Pages of a cache or copied ones exist; anonymous ones may never have been touched.
  bool there = pages == Pages::kPresent || (small && !(p.has(kAnon) && p.length() > kPageSize));
  auto populate = there ? platform::Populate::kYes : platform::Populate::kNo;
  space->map({Addr(p.start), Addr(p.end)}, p.offset, host_prot(want), populate);
  p.flags = static_cast<uint16_t>((p.flags & ~(kHostBits | kMappedRw)) | want | kMapped |
                                  ((want & kHostWrite) != 0 ? kMappedRw : 0));
}

// Other pages for a part of the address space; takes over the reference on them, drops those on the old ones. Mapped if
// the old ones were.
void MemoryManager::Impl::replace_active(uint64_t start, uint64_t end, const Piece& with) {
  auto [first, last] = pieces.isolate(start, end);
  bool mapped = false;
  for (size_t i = first; i < last; ++i) mapped |= pieces.v[i].has(kMapped);
  for (size_t i = first; i < last; ++i) {
    if (pieces.v[i].has(kMapped)) {
      retire_active(pieces.v[i].file_range());
    } else {
      file.drop_ref(pieces.v[i].file_range());
    }
  }
  pieces.erase(first, last);
  Piece p = with;
  p.flags = static_cast<uint16_t>(p.flags & ~(kHostBits | kMapped | kMappedRw));
  if (mapped) map_piece_active(p);
  pieces.insert(p);
}

}  // namespace sentry::mm
