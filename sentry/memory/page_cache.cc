// SPDX-License-Identifier: Apache-2.0
// Page cache. Present pages are extents (file pages -> contiguous memory-file pages); allocation runs ahead of
// sequential writers so that extents stay long, which is what mm maps in one host call.
//
//   observers.mu (kFileMappings)
//     mu (kPageCache)
//       memory file
// Callbacks and sources run with neither held: the pages they see are pinned by a reference.
#include "sentry/memory/page_cache.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "base/core/check.h"

namespace sentry::memory {

using enum abi::Errno;
using abi::kPageShift;
using abi::kPageSize;

namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 62;
constexpr uint64_t kMaxAllocatePages = 4096;
constexpr uint64_t kMaxPages = uint64_t{1} << (63 - kPageShift);
constexpr uint64_t kMinAhead = 16, kMaxAhead = 256;            // pages allocated ahead of a writer
constexpr uint64_t kMinReadAhead = 32, kMaxReadAhead = 512;    // pages read at once
constexpr size_t kBounceBytes = kMinReadAhead * kPageSize;
constexpr uint64_t kTouchedRun = 64;                           // most pages of tmpfs that one fault makes
constexpr uint64_t kMappedRun = 256;  // most pages that one translate() makes in a hole

const std::array<uint8_t, 16 * kPageSize> kZeros{};

constexpr uint64_t page_of(uint64_t offset) { return offset >> kPageShift; }
constexpr uint64_t page_after(uint64_t end) { return (end >> kPageShift) + ((end & (kPageSize - 1)) != 0 ? 1 : 0); }

// Buffers for reading a source: reused, because fresh pages cost more than the copy.
class BouncePool {
 public:
  using Buffer = std::unique_ptr<uint8_t[]>;
  Buffer take() {
    Buffer b;
    pool_.with([&](auto& v) {
      if (!v.empty()) {
        b = std::move(v.back());
        v.pop_back();
      }
    });
    return b ? std::move(b) : Buffer(new uint8_t[kBounceBytes]);
  }
  void give(Buffer b) {
    pool_.with([&](auto& v) {
      if (v.size() < 2) v.push_back(std::move(b));
    });
  }

 private:
  base::Guarded<std::vector<Buffer>> pool_{base::LockRank::kLeaf};
};

BouncePool& bounce_pool() {
  static BouncePool pool;
  return pool;
}

}  // namespace

struct PageCache::Impl {
  struct Extent {
    uint64_t mem = 0, pages = 0;
  };
  struct Run {
    bool present = false;
    uint64_t mem = 0, pages = 0;
  };
  using Drops = std::vector<FileRange>;

  Impl(MemoryFile& file, MemoryKind kind) : file(file), kind(kind) {}

  // What is at `page`: a present run or a hole, at most `max` pages.
  Run run_at(uint64_t page, uint64_t max) const REQUIRES(mu) {
    auto next = extents.upper_bound(page);
    if (next != extents.begin()) {
      auto it = std::prev(next);
      uint64_t in = page - it->first;
      if (in < it->second.pages) return {true, it->second.mem + in * kPageSize, std::min(max, it->second.pages - in)};
    }
    return {false, 0, next == extents.end() ? max : std::min(max, next->first - page)};
  }

  // Inserts pages into a hole.
  void insert(uint64_t page, uint64_t mem, uint64_t pages) REQUIRES(mu) {
    present += pages;
    auto next = extents.lower_bound(page);
    if (next != extents.begin()) {
      auto it = std::prev(next);
      if (it->first + it->second.pages == page && it->second.mem + it->second.pages * kPageSize == mem) {
        it->second.pages += pages;
        join_next(it);
        return;
      }
    }
    join_next(extents.emplace_hint(next, page, Extent{mem, pages}));
  }
  void join_next(std::map<uint64_t, Extent>::iterator it) REQUIRES(mu) {
    auto next = std::next(it);
    if (next == extents.end() || it->first + it->second.pages != next->first ||
        it->second.mem + it->second.pages * kPageSize != next->second.mem)
      return;
    it->second.pages += next->second.pages;
    extents.erase(next);
  }

  // The run at `page`, with what its extent has before that from `lo` on.
  Mappable::Placed around(uint64_t page, const Run& run, uint64_t lo) const REQUIRES(mu) {
    const uint64_t before = page - std::max(std::min(page, page_of(lo)), std::prev(extents.upper_bound(page))->first);
    return {(page - before) << kPageShift, {run.mem - before * kPageSize, (run.pages + before) * kPageSize}};
  }

  // How many pages the extent has that ends at `page`.
  uint64_t pages_before(uint64_t page) const REQUIRES(mu) {
    auto it = extents.lower_bound(page);
    if (it == extents.begin()) return 0;
    --it;
    return it->first + it->second.pages == page ? it->second.pages : 0;
  }

  // Takes pages [first, end) out; the caller drops the references when the lock is free.
  void erase(uint64_t first, uint64_t end, Drops& drops) REQUIRES(mu) {
    auto it = extents.upper_bound(first);
    if (it != extents.begin()) --it;
    while (it != extents.end() && it->first < end) {
      uint64_t start = it->first, stop = start + it->second.pages, mem = it->second.mem;
      uint64_t lo = std::max(start, first), hi = std::min(stop, end);
      if (lo >= hi) {
        ++it;
        continue;
      }
      it = extents.erase(it);
      if (start < lo) extents.emplace(start, Extent{mem, lo - start});
      if (hi < stop) extents.emplace(hi, Extent{mem + (hi - start) * kPageSize, stop - hi});
      drops.push_back({mem + (lo - start) * kPageSize, (hi - lo) * kPageSize});
      present -= hi - lo;
    }
    mark_clean(first, end);
  }

  // Up to `want` fresh pages for the hole at `page` (`hole` pages long), inserted; where and how many.
  base::Result<Run> make_pages(uint64_t page, uint64_t want, uint64_t hole, Drops& drops) REQUIRES(mu) {
    if (ahead_pages == 0 || ahead_page != page) {
      uint64_t ahead = std::clamp(present / 4, kMinAhead, kMaxAhead);
      uint64_t count = std::min(std::max(want, ahead), hole);
      auto range = file.allocate(count * kPageSize, kind);
      if (!range && count > want) {
        count = want;
        range = file.allocate(count * kPageSize, kind);
      }
      if (!range) return base::err(range.error());
      drop_ahead(drops);
      ahead_page = page;
      ahead_mem = range->offset;
      ahead_pages = count;
    }
    Run run{true, ahead_mem, std::min({want, ahead_pages, hole})};
    ahead_page += run.pages;
    ahead_mem += run.pages * kPageSize;
    ahead_pages -= run.pages;
    insert(page, run.mem, run.pages);
    return run;
  }
  void drop_ahead(Drops& drops) REQUIRES(mu) {
    if (ahead_pages != 0) drops.push_back({ahead_mem, ahead_pages * kPageSize});
    ahead_pages = 0;
  }

  void mark_dirty(uint64_t first, uint64_t end) REQUIRES(mu) {
    auto it = dirty.upper_bound(first);
    if (it != dirty.begin() && std::prev(it)->second >= first) {
      --it;
      if (it->second >= end) return;
      first = it->first;
      it = dirty.erase(it);
    }
    while (it != dirty.end() && it->first <= end) {
      end = std::max(end, it->second);
      it = dirty.erase(it);
    }
    dirty.emplace(first, end);
  }
  void mark_clean(uint64_t first, uint64_t end) REQUIRES(mu) {
    auto it = dirty.upper_bound(first);
    if (it != dirty.begin()) --it;
    while (it != dirty.end() && it->first < end) {
      auto [s, e] = *it;
      if (e <= first) {
        ++it;
        continue;
      }
      it = dirty.erase(it);
      if (s < first) dirty.emplace(s, first);
      if (e > end) dirty.emplace(end, e);
    }
  }

  void release(const Drops& drops) {
    for (FileRange r : drops) {
      file.drop_ref(r);
      file.account_free(r.length, kind);
    }
  }

  void notify(const Mappable& self, uint64_t start, uint64_t end) {
    std::vector<base::RefPtr<MappingObserver>> list;
    observers.with([&](auto& map) {
      list.reserve(map.size());
      for (auto& [key, entry] : map) list.push_back(entry.first);
    });
    for (auto& o : list) o->invalidate(self, start, end);
  }

  MemoryFile& file;
  const MemoryKind kind;
  mutable base::Mutex mu{base::LockRank::kPageCache};
  std::atomic<uint64_t> changes{0};  // see version()
  std::map<uint64_t, Extent> extents GUARDED_BY(mu);
  std::map<uint64_t, uint64_t> dirty GUARDED_BY(mu);  // pages [first, second)
  // Changed with `mu`. Read without it by who wants one of them alone, as it was a moment ago.
  std::atomic<uint64_t> size{0}, present{0};
  uint64_t removals GUARDED_BY(mu) = 0;  // counts truncations and holes, so that a fill in flight notices
  uint64_t ahead_page GUARDED_BY(mu) = 0, ahead_mem GUARDED_BY(mu) = 0, ahead_pages GUARDED_BY(mu) = 0;
  uint64_t fill_end GUARDED_BY(mu) = 0, fill_window GUARDED_BY(mu) = kMinReadAhead;
  base::Guarded<std::map<MappingObserver*, std::pair<base::RefPtr<MappingObserver>, unsigned>>> observers{
      base::LockRank::kFileMappings};
};

PageCache::PageCache(MemoryFile& file, MemoryKind kind, PageSource* source, bool immutable)
    : file_(file), kind_(kind), source_(source), immutable_(immutable), impl_(std::make_unique<Impl>(file, kind)) {}

PageCache::~PageCache() {
  Impl::Drops drops;
  {
    base::MutexLock lock(impl_->mu);
    impl_->erase(0, kMaxPages, drops);
    impl_->drop_ahead(drops);
  }
  impl_->release(drops);
}

uint64_t PageCache::size() const { return impl_->size.load(std::memory_order_acquire); }

void PageCache::set_size(uint64_t size) {
  Impl& m = *impl_;
  Impl::Drops drops;
  FileRange tail;
  uint64_t old = 0;
  {
    base::MutexLock lock(m.mu);
    old = m.size;
    m.size = size;
    if (size >= old) return;
    ++m.removals;
    m.changes.fetch_add(1, std::memory_order_relaxed);
    uint64_t keep = page_after(size);
    m.erase(keep, kMaxPages, drops);
    m.drop_ahead(drops);
    if (size % kPageSize != 0) {
      Impl::Run run = m.run_at(page_of(size), 1);
      if (run.present) {
        tail = {run.mem, kPageSize};
        file_.add_ref(tail);
      }
    }
  }
  if (tail.length != 0) {
    memset(file_.data(tail.offset) + size % kPageSize, 0, kPageSize - size % kPageSize);
    file_.drop_ref(tail);
  }
  if (page_after(size) < page_after(old)) m.notify(*this, page_after(size) << kPageShift, ~uint64_t{0} & ~(kPageSize - 1));
  m.release(drops);
}

// Reads the hole at `page` from the source, as far as it is worth. Returns when the page is present (someone
// may have been faster) or the object has shrunk; the caller looks again.
base::Result<void> PageCache::fill(uint64_t page, uint64_t want) {
  Impl& m = *impl_;
  uint64_t pages = 0, removals = 0;
  {
    base::MutexLock lock(m.mu);
    uint64_t end = page_after(m.size);
    if (page >= end) return {};
    m.fill_window = page == m.fill_end ? std::min(m.fill_window * 2, kMaxReadAhead) : kMinReadAhead;
    Impl::Run run = m.run_at(page, std::min(end - page, std::max(std::min(want, kMaxReadAhead), m.fill_window)));
    if (run.present) return {};
    pages = run.pages;
    m.fill_end = page + pages;
    removals = m.removals;
  }
  FileRange range = TRY(file_.allocate(pages * kPageSize, kind_));
  auto buffer = bounce_pool().take();
  base::Result<void> status{};
  uint64_t done = 0;
  while (done < range.length && status) {
    uint64_t step = std::min<uint64_t>(kBounceBytes, range.length - done);
    PageSource* source = source_;
    base::Result<size_t> got =
        source ? source->read_pages((page << kPageShift) + done, {buffer.get(), step}) : base::err(kEIO);
    if (!got) {
      status = base::err(got.error());
      break;
    }
    size_t n = std::min<size_t>(*got, step);
    size_t whole = (n + kPageSize - 1) & ~(kPageSize - 1);
    memset(buffer.get() + n, 0, whole - n);
    file_.store(range.offset + done, buffer.get(), whole);
    done += step;
    if (n < step) done = range.length;  // end of file: the rest is zeros
  }
  bounce_pool().give(std::move(buffer));
  // What was read before an error still serves.
  uint64_t usable = status ? pages : done / kPageSize;
  uint64_t used = 0;
  {
    base::MutexLock lock(m.mu);
    if (removals == m.removals && usable != 0) {
      Impl::Run run = m.run_at(page, usable);
      if (!run.present) used = run.pages;
      if (used != 0) m.insert(page, range.offset, used);
    }
  }
  if (used < pages) m.release({{range.offset + used * kPageSize, (pages - used) * kPageSize}});
  if (used != 0) return {};
  return status;
}

base::Result<size_t> PageCache::read(uint64_t offset, uint64_t length,
                                     base::FunctionRef<base::Result<size_t>(std::span<const uint8_t>)> f) {
  Impl& m = *impl_;
  size_t total = 0;
  while (length != 0) {
    FileRange pin;
    uint64_t here = 0;
    bool missing = false;
    {
      base::MutexLock lock(m.mu);
      if (offset >= m.size) break;
      length = std::min(length, m.size - offset);
      Impl::Run run = m.run_at(page_of(offset), page_after(offset + length) - page_of(offset));
      here = std::min(length, run.pages * kPageSize - offset % kPageSize);
      if (run.present) {
        pin = {run.mem, run.pages * kPageSize};
        file_.add_ref(pin);
      } else {
        missing = true;
      }
    }
    if (missing && source_) {
      auto filled = fill(page_of(offset), page_after(offset + here) - page_of(offset));
      if (!filled) return total != 0 ? base::Result<size_t>(total) : base::err(filled.error());
      continue;
    }
    std::span<const uint8_t> bytes;
    if (missing) {
      bytes = {kZeros.data(), static_cast<size_t>(std::min<uint64_t>(here, kZeros.size()))};
    } else {
      bytes = file_.bytes(pin.offset + offset % kPageSize, here);
    }
    auto taken = f(bytes);
    if (pin.length != 0) file_.drop_ref(pin);
    if (!taken) return total != 0 ? base::Result<size_t>(total) : base::err(taken.error());
    total += *taken;
    offset += *taken;
    length -= *taken;
    if (*taken < bytes.size()) break;
  }
  return total;
}

// A pinned run of pages at `offset` for writing up to `length` bytes; those made here are fresh.
base::Result<PageCache::WriteRun> PageCache::writable_run(uint64_t offset, uint64_t length) {
  Impl& m = *impl_;
  uint64_t page = page_of(offset), want = page_after(offset + length) - page;
  for (;;) {
    Impl::Drops drops;
    std::optional<WriteRun> done;
    {
      base::MutexLock lock(m.mu);
      Impl::Run run = m.run_at(page, want);
      bool fresh = !run.present;
      bool fill_first = fresh && source_ != nullptr && (page << kPageShift) < m.size;
      if (fill_first && offset % kPageSize == 0 && length >= kPageSize) {
        // Pages that are overwritten as a whole need no reading; a partial last one is left for the next round.
        run.pages = std::min(run.pages, length / kPageSize);
        fill_first = false;
      }
      if (!fill_first) {
        if (fresh) {
          auto made = m.make_pages(page, run.pages, run.pages, drops);
          if (!made) return base::err(made.error());
          run = *made;
        }
        FileRange pin{run.mem, run.pages * kPageSize};
        file_.add_ref(pin);
        if (source_) m.mark_dirty(page, page + run.pages);
        done = WriteRun{pin, fresh};
      }
    }
    m.release(drops);
    if (done) return *done;
    TRY(fill(page, 1));
  }
}

base::Result<size_t> PageCache::write(uint64_t offset, uint64_t length,
                                      base::FunctionRef<base::Result<size_t>(std::span<uint8_t>)> f) {
  Impl& m = *impl_;
  if (offset > kMaxBytes || length > kMaxBytes - offset) return base::err(kEFBIG);
  size_t total = 0;
  while (length != 0) {
    m.changes.fetch_add(1, std::memory_order_relaxed);
    auto run = writable_run(offset, length);
    if (!run) return total != 0 ? base::Result<size_t>(total) : base::err(run.error());
    uint64_t in = offset % kPageSize;
    auto bytes = file_.bytes(run->pin.offset + in, std::min(length, run->pin.length - in));
    // Several fresh pages at once: one host call instead of a fault for each.
    if (run->fresh && run->pin.length >= 2 * kPageSize) file_.populate(run->pin);
    auto taken = f(bytes);
    file_.drop_ref(run->pin);
    if (!taken) return total != 0 ? base::Result<size_t>(total) : base::err(taken.error());
    total += *taken;
    offset += *taken;
    length -= *taken;
    if (*taken != 0 && offset > m.size) {
      base::MutexLock lock(m.mu);
      m.size = std::max(m.size.load(), offset);
    }
    if (*taken < bytes.size()) break;
  }
  return total;
}

bool PageCache::has_pages(uint64_t offset, uint64_t length) const {
  if (length == 0) return false;
  base::MutexLock lock(impl_->mu);
  if (impl_->present == 0) return false;
  uint64_t first = page_of(offset), count = page_after(offset + length) - first;
  Impl::Run run = impl_->run_at(first, count);
  return run.present || run.pages < count;
}

uint64_t PageCache::next_data(uint64_t offset) const {
  base::MutexLock lock(impl_->mu);
  Impl::Run run = impl_->run_at(page_of(offset), kMaxPages);
  if (run.present) return offset;
  auto it = impl_->extents.upper_bound(page_of(offset));
  const uint64_t size = impl_->size;
  return it == impl_->extents.end() ? size : std::min(size, it->first << kPageShift);
}

uint64_t PageCache::next_hole(uint64_t offset) const {
  base::MutexLock lock(impl_->mu);
  uint64_t page = page_of(offset);
  if (!impl_->run_at(page, 1).present) return offset;
  while (page < page_after(impl_->size)) {
    Impl::Run run = impl_->run_at(page, kMaxPages);
    if (!run.present) break;
    page += run.pages;
  }
  return std::min(impl_->size.load(), page << kPageShift);
}

// Zeroes part of one page, if it is there.
void PageCache::zero_part(uint64_t offset, uint64_t length) {
  if (length == 0) return;
  FileRange pin;
  {
    base::MutexLock lock(impl_->mu);
    Impl::Run run = impl_->run_at(page_of(offset), 1);
    if (!run.present) return;
    pin = {run.mem, kPageSize};
    file_.add_ref(pin);
    if (source_) impl_->mark_dirty(page_of(offset), page_of(offset) + 1);
  }
  memset(file_.data(pin.offset) + offset % kPageSize, 0, length);
  file_.drop_ref(pin);
}

void PageCache::punch_hole(uint64_t offset, uint64_t length) {
  Impl& m = *impl_;
  if (offset > kMaxBytes) return;
  uint64_t end = offset + std::min(length, kMaxBytes - offset);
  uint64_t first = page_after(offset), last = page_of(end);
  if (first > last) {  // inside one page
    zero_part(offset, end - offset);
    return;
  }
  if (offset % kPageSize != 0) zero_part(offset, kPageSize - offset % kPageSize);
  if (end % kPageSize != 0) zero_part(end & ~(kPageSize - 1), end % kPageSize);
  if (first >= last) return;
  Impl::Drops drops;
  {
    base::MutexLock lock(m.mu);
    ++m.removals;
    m.changes.fetch_add(1, std::memory_order_relaxed);
    m.erase(first, last, drops);
    m.drop_ahead(drops);
  }
  m.notify(*this, first << kPageShift, last << kPageShift);
  m.release(drops);
}

base::Result<void> PageCache::allocate(uint64_t offset, uint64_t length) {
  Impl& m = *impl_;
  if (offset > kMaxBytes || length > kMaxBytes - offset) return base::err(kEFBIG);
  uint64_t page = page_of(offset), end = page_after(offset + length);
  Impl::Drops drops;
  base::Result<void> status{};
  {
    base::MutexLock lock(m.mu);
    while (page < end && status) {
      Impl::Run run = m.run_at(page, end - page);
      if (!run.present) {
        auto made = m.make_pages(page, std::min(run.pages, kMaxAllocatePages), run.pages, drops);
        if (!made) {
          status = base::err(kENOSPC);
          break;
        }
        run = *made;
        if (source_) m.mark_dirty(page, page + run.pages);
      }
      page += run.pages;
    }
  }
  m.release(drops);
  return status;
}

uint64_t PageCache::pages() const { return impl_->present.load(std::memory_order_acquire); }

void PageCache::drop_clean() {
  Impl& m = *impl_;
  if (!source_) return;
  // A mapped page must stay the page that everybody sees; immutable files have only private mappings.
  if (!immutable_ && !m.observers.with([](auto& map) { return map.empty(); })) return;
  Impl::Drops drops;
  {
    base::MutexLock lock(m.mu);
    ++m.removals;
    m.changes.fetch_add(1, std::memory_order_relaxed);
    auto keep = m.dirty;
    uint64_t at = 0;
    for (auto [s, e] : keep) {
      m.erase(at, s, drops);
      at = e;
    }
    m.erase(at, kMaxPages, drops);
    m.drop_ahead(drops);
  }
  m.release(drops);
}

base::Result<Mappable::Placed> PageCache::translate_cached(uint64_t offset, uint64_t lo, uint64_t hi, bool write) {
  Impl& m = *impl_;
  uint64_t page = page_of(offset);
  Impl::Drops drops;
  base::Result<Placed> result = base::err(kEAGAIN);
  {
    base::MutexLock lock(m.mu);
    uint64_t end = page_after(m.size);
    if (page >= end) return base::err(kENXIO);
    end = std::min(end, page_of(hi));
    Impl::Run run = m.run_at(page, std::max(end, page + 1) - page);
    if (!run.present && source_) return result;
    if (!run.present) {
      // Shared anonymous memory costs nothing until it is touched; in tmpfs a page counts as a block, so that more than one come only where
      // the pages before were touched too, and no more than those.
      const uint64_t most = kind_ == MemoryKind::kAnonymous ? kMappedRun * 2 : std::clamp<uint64_t>(m.pages_before(page), 1, kTouchedRun);
      auto made = m.make_pages(page, std::min(run.pages, most), run.pages, drops);
      if (made) {
        run = *made;
      } else {
        result = base::err(made.error());
      }
    }
    if (run.present) {
      const Placed placed = m.around(page, run, lo);
      file_.add_ref(placed.range);
      result = placed;
      if (write) m.changes.fetch_add(1, std::memory_order_relaxed);
      if (write && source_) m.mark_dirty(page_of(placed.start), page + run.pages);
    }
  }
  m.release(drops);
  return result;
}

base::Result<Mappable::Placed> PageCache::find_pages(uint64_t offset, uint64_t lo, uint64_t hi) {
  Impl& m = *impl_;
  const uint64_t page = page_of(offset);
  base::MutexLock lock(m.mu);
  const uint64_t end = std::min(page_after(m.size), page_of(hi));
  if (page >= end) return base::err(kENXIO);
  const Impl::Run run = m.run_at(page, end - page);
  if (!run.present) return base::err(kEAGAIN);
  const Placed placed = m.around(page, run, lo);
  file_.add_ref(placed.range);
  return placed;
}

uint64_t PageCache::removals() const {
  base::MutexLock lock(impl_->mu);
  return impl_->removals;
}

base::Result<FileRange> PageCache::translate(uint64_t offset, uint64_t length, bool write) {
  uint64_t start = offset & ~(kPageSize - 1);
  for (;;) {
    auto placed = translate_cached(start, start, start + std::max(length, kPageSize), write);
    if (placed) return placed->range;
    if (placed.error() != kEAGAIN) return base::err(placed.error());
    TRY(fill(page_of(offset), std::min(std::max<uint64_t>(length >> kPageShift, 1), kMappedRun)));
  }
}

uint64_t PageCache::version() const { return impl_->changes.load(std::memory_order_relaxed); }

void PageCache::add_observer(MappingObserver& observer) {
  if (immutable_) return;
  impl_->observers.with([&](auto& map) {
    auto& entry = map[&observer];
    if (entry.second++ == 0) entry.first = base::RefPtr<MappingObserver>(observer);
  });
}

void PageCache::remove_observer(MappingObserver& observer) {
  if (immutable_) return;
  base::RefPtr<MappingObserver> last;
  impl_->observers.with([&](auto& map) {
    auto it = map.find(&observer);
    if (it == map.end() || --it->second.second != 0) return;
    last = std::move(it->second.first);
    map.erase(it);
  });
}

base::Result<void> PageCache::sync(uint64_t offset, uint64_t length) {
  Impl& m = *impl_;
  if (!source_ || length == 0) return {};
  uint64_t page = page_of(offset), end = length > kMaxBytes - offset ? kMaxPages : page_after(offset + length);
  bool mapped = !m.observers.with([](auto& map) { return map.empty(); });
  while (page < end) {
    FileRange pin;
    uint64_t bytes = 0;
    {
      base::MutexLock lock(m.mu);
      auto it = m.dirty.upper_bound(page);
      if (it != m.dirty.begin() && std::prev(it)->second > page) --it;
      if (it == m.dirty.end() || it->first >= end) break;
      page = std::max(page, it->first);
      uint64_t stop = std::min(it->second, end);
      Impl::Run run = m.run_at(page, stop - page);
      uint64_t start = page << kPageShift;
      // Cleaned before the write, so that a change during it counts; pages that are mapped may change unseen.
      if (!mapped) m.mark_clean(page, page + run.pages);
      if (!run.present || start >= m.size) {
        page += run.pages;
        continue;
      }
      pin = {run.mem, run.pages * kPageSize};
      bytes = std::min(m.size - start, pin.length);
      file_.add_ref(pin);
    }
    base::Result<void> status{};
    for (uint64_t done = 0; done < bytes && status;) {
      auto view = file_.bytes(pin.offset + done, bytes - done);
      PageSource* source = source_;
      status = source ? source->write_pages((page << kPageShift) + done, view) : base::err(kEIO);
      done += view.size();
    }
    file_.drop_ref(pin);
    if (!status) {
      base::MutexLock lock(m.mu);
      m.mark_dirty(page, page + pin.length / kPageSize);
      return status;
    }
    page += pin.length / kPageSize;
  }
  return {};
}

}  // namespace sentry::memory
