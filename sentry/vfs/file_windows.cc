// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/file_windows.h"

namespace sentry::vfs {

using memory::Mappable;

namespace {

constexpr uint64_t kFirstReach = 8 << 20;
constexpr size_t kFirstPieces = 8;

uint64_t page_down(uint64_t n) { return n & ~(abi::kPageSize - 1); }

}  // namespace

WindowPlan::WindowPlan(memory::MemoryFile& memory, Mappable& pages, uint64_t at, uint64_t size, uint32_t level, Use use)
    : memory_(&memory), use_(use) {
  const uint64_t reach = kFirstReach << level;
  const size_t most = kFirstPieces << level;
  const uint64_t lo = at > reach / 4 ? page_down(at - reach / 4) : 0, hi = std::min(page_down(size + abi::kPageSize - 1), lo + reach);
  if (at >= size) return;
  auto first = pages.find_pages(at, lo, hi);
  if (!first) return;
  uint64_t start = first->start, end = start + first->range.length;
  pieces_.push_back(*first);
  while (pieces_.size() < most && end < hi) {
    auto next = pages.find_pages(end, end, hi);
    if (!next) break;
    end += next->range.length;
    pieces_.push_back(*next);
  }
  while (pieces_.size() < most && start > lo) {
    auto before = pages.find_pages(start - abi::kPageSize, lo, start);
    if (!before) break;
    start = before->start;
    pieces_.insert(pieces_.begin(), *before);
  }
}

WindowPlan::~WindowPlan() {
  for (const Mappable::Placed& piece : pieces_) memory_->drop_ref(piece.range);
}

uint64_t WindowPlan::map(Mappable& pages, platform::AddressSpace& space, uint64_t at) const {
  uint64_t ticket = 0;
  for (const Mappable::Placed& piece : pieces_) {
    const uint64_t to = at + (piece.start - start());
    if (writes()) {
      // Changed from now on, as through a shared mapping.
      if (auto same = pages.translate_cached(piece.start, piece.start, piece.start + piece.range.length, true)) memory_->drop_ref(same->range);
    }
    if (memory::HostFiles::holds(piece.range.offset)) {
      const memory::HostFiles::Place place = memory_->host_files().place(piece.range.offset);
      ticket = space.map_window(to, place.fd, place.offset, piece.range.length);
    } else {
      ticket = space.map_window(to, piece.range.offset, piece.range.length, use_);
    }
  }
  return ticket;
}

}  // namespace sentry::vfs
