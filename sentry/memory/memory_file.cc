// SPDX-License-Identifier: Apache-2.0
// The memory file. Locks: `mu_` (kMemoryFile) guards counts and the bump pointer; host calls are made without it.
#include "sentry/memory/memory_file.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/host/reopen.h"
#include "base/core/check.h"

namespace sentry::memory {

using enum abi::Errno;
using abi::kPageSize;

namespace {

// A chunk is what the sentry maps at once; allocations up to this size never straddle two.
constexpr unsigned kChunkShift = 28;
constexpr uint64_t kChunkSize = uint64_t{1} << kChunkShift;
constexpr uint64_t kChunkPages = kChunkSize / kPageSize;
// Two levels of chunk pointers: 2^(28 + 12 + 18) bytes of offsets, years at a gigabyte a second.
constexpr unsigned kLeafShift = 12;
constexpr uint64_t kLeafEntries = uint64_t{1} << kLeafShift;
constexpr uint64_t kRootEntries = uint64_t{1} << 18;
constexpr uint64_t kFileSize = uint64_t{1} << (kChunkShift + kLeafShift + 18);
// Two host mappings each; the host's default limit of mappings is 65530.
constexpr size_t kMaxChunks = 24000;
// Freed ranges wait until they are worth a host call: nobody can reach them any more.
constexpr uint64_t kPendingBytes = 4 << 20;
constexpr size_t kPendingRanges = 512;
constexpr uint64_t kSpareBytes = 1 << 20;

struct Chunk {
  uint8_t* data = nullptr;
  uint32_t* counts = nullptr;  // one per page
  uint64_t live = 0;           // pages with a count above zero
};

struct Spare {
  FileRange range;
  base::RefPtr<base::RefCounted> owner;
  const std::atomic<bool>* gone = nullptr;  // null: it is long known
};

struct Leaf {  // zero pages of the host's, as of the root: few of them are ever touched
  std::array<std::atomic<Chunk*>, kLeafEntries> chunks;
};

void* map_private(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(p != MAP_FAILED);
  return p;
}

}  // namespace

struct MemoryFile::Impl {
  explicit Impl(int fd) : fd(fd), root(static_cast<std::atomic<Leaf*>*>(map_private(kRootEntries * sizeof(void*)))) {}
  ~Impl();

  Chunk* chunk_at(uint64_t offset) const {
    uint64_t n = offset >> kChunkShift;
    Leaf* leaf = root[n >> kLeafShift].load(std::memory_order_acquire);
    return leaf ? leaf->chunks[n & (kLeafEntries - 1)].load(std::memory_order_acquire) : nullptr;
  }
  bool make_chunk(uint64_t number) REQUIRES(mu);
  void free_chunk(uint64_t number) REQUIRES(mu);
  // Calls f(count, chunk) for each page.
  template <typename F>
  void for_counts(FileRange range, F&& f) {
    for (uint64_t at = range.offset; at < range.end();) {
      Chunk* chunk = chunk_at(at);
      CHECK(chunk != nullptr);
      uint64_t stop = std::min(range.end(), (at & ~(kChunkSize - 1)) + kChunkSize);
      f(*chunk, (at & (kChunkSize - 1)) / kPageSize, (stop - at) / kPageSize, at);
      at = stop;
    }
  }
  void queue_free(FileRange range) REQUIRES(mu);
  uint64_t committed() const;

  const int fd;
  std::atomic<Leaf*>* const root;
  base::Mutex mu{base::LockRank::kMemoryFile};
  uint64_t next GUARDED_BY(mu) = kPageSize;  // offset 0 stays unused: it makes bugs visible
  uint64_t limit GUARDED_BY(mu) = 0;
  std::array<uint64_t, 4> allocated GUARDED_BY(mu){};
  uint64_t total GUARDED_BY(mu) = 0;
  size_t chunks GUARDED_BY(mu) = 0;
  std::vector<FileRange> pending GUARDED_BY(mu);
  uint64_t pending_bytes GUARDED_BY(mu) = 0;
  std::vector<Spare> spares GUARDED_BY(mu);  // oldest first
  uint64_t spare_bytes GUARDED_BY(mu) = 0;
};

MemoryFile::Impl::~Impl() {
  for (uint64_t n = 0; n <= next >> kChunkShift; ++n)
    if (chunk_at(n << kChunkShift)) free_chunk(n);
  for (uint64_t i = 0; i <= next >> (kChunkShift + kLeafShift); ++i)
    if (Leaf* leaf = root[i].load()) munmap(leaf, sizeof(Leaf));
  munmap(root, kRootEntries * sizeof(void*));
}

bool MemoryFile::Impl::make_chunk(uint64_t number) {
  if (chunks >= kMaxChunks) return false;
  std::atomic<Leaf*>& slot = root[number >> kLeafShift];
  Leaf* leaf = slot.load(std::memory_order_relaxed);
  if (!leaf) {
    leaf = static_cast<Leaf*>(map_private(sizeof(Leaf)));
    slot.store(leaf, std::memory_order_release);
  }
  void* data = mmap(nullptr, kChunkSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                    static_cast<off_t>(number << kChunkShift));
  if (data == MAP_FAILED) return false;
  auto* chunk = new Chunk;
  ++chunks;
  chunk->data = static_cast<uint8_t*>(data);
  chunk->counts = static_cast<uint32_t*>(map_private(kChunkPages * sizeof(uint32_t)));
  leaf->chunks[number & (kLeafEntries - 1)].store(chunk, std::memory_order_release);
  return true;
}

void MemoryFile::Impl::free_chunk(uint64_t number) {
  Chunk* chunk = chunk_at(number << kChunkShift);
  root[number >> kLeafShift].load()->chunks[number & (kLeafEntries - 1)].store(nullptr, std::memory_order_release);
  munmap(chunk->data, kChunkSize);
  munmap(chunk->counts, kChunkPages * sizeof(uint32_t));
  delete chunk;
  --chunks;
}

void MemoryFile::Impl::queue_free(FileRange range) {
  pending_bytes += range.length;
  if (!pending.empty()) {
    FileRange& last = pending.back();
    if (last.end() == range.offset) {
      last.length += range.length;
      return;
    }
    if (range.end() == last.offset) {
      last = {range.offset, last.length + range.length};
      return;
    }
  }
  pending.push_back(range);
}

// What the host really holds for the file.
uint64_t MemoryFile::Impl::committed() const {
  struct stat st;
  if (fstat(fd, &st) != 0) return 0;
  return static_cast<uint64_t>(st.st_blocks) * 512;
}

MemoryFile::MemoryFile() = default;
MemoryFile::~MemoryFile() = default;

base::Result<std::unique_ptr<MemoryFile>> MemoryFile::create() {
  base::UniqueFd fd(memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return base::err(kENOMEM);
  if (ftruncate(fd.get(), static_cast<off_t>(kFileSize)) != 0) return base::err(kENOMEM);
  // Nobody, not even a stub that holds the descriptor, can take pages away from under the sentry's mappings by shrinking.
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return base::err(kEPERM);
  base::UniqueFd ro = base::reopen_for_reading(fd.get());
  if (!ro) return base::err(kENOENT);
  std::unique_ptr<MemoryFile> file(new MemoryFile);
  file->fd_ = std::move(fd);
  file->fd_ro_ = std::move(ro);
  file->impl_ = std::make_unique<Impl>(file->fd_.get());
  struct sysinfo info;
  if (sysinfo(&info) == 0) file->host_memory_ = (uint64_t{info.totalram} + info.totalswap) * info.mem_unit;
  return file;
}

base::Result<FileRange> MemoryFile::allocate(uint64_t length, MemoryKind kind) {
  DCHECK(length != 0 && length % kPageSize == 0);
  Impl& m = *impl_;
  base::MutexLock lock(m.mu);
  if (m.limit != 0 && m.total + length > m.limit) {
    // `total` counts what was promised; only what the host holds is limited.
    if (!m.pending.empty()) decommit_all(m.pending);
    m.pending.clear();
    m.pending_bytes = 0;
    uint64_t real = m.committed();
    if (real >= m.limit || (kind != MemoryKind::kAnonymous && length > m.limit - real)) return base::err(kENOMEM);
  }
  // Large ranges are aligned like huge pages.
  uint64_t start = m.next;
  if (length >= (2 << 20)) start = (start + (2 << 20) - 1) & ~uint64_t{(2 << 20) - 1};
  uint64_t chunk_left = kChunkSize - (start & (kChunkSize - 1));
  if (length > chunk_left && length <= kChunkSize) start += chunk_left;
  if (length > kFileSize - start) return base::err(kENOMEM);
  for (uint64_t n = start >> kChunkShift; n <= (start + length - 1) >> kChunkShift; ++n)
    if (!m.chunk_at(n << kChunkShift) && !m.make_chunk(n)) return base::err(kENOMEM);
  // A chunk that the bump pointer leaves for good with nothing alive in it goes away at once.
  uint64_t old_chunk = (m.next - 1) >> kChunkShift;
  m.next = start + length;
  if (old_chunk < start >> kChunkShift) {
    Chunk* old = m.chunk_at(old_chunk << kChunkShift);
    if (old && old->live == 0) m.free_chunk(old_chunk);
  }
  FileRange range{start, length};
  m.for_counts(range, [](Chunk& c, uint64_t first, uint64_t n, uint64_t) {
    std::fill_n(c.counts + first, n, 1u);
    c.live += n;
  });
  m.allocated[static_cast<size_t>(kind)] += length;
  m.total += length;
  return range;
}

void MemoryFile::add_ref(FileRange range) {
  if (HostFiles::holds(range.offset)) return host_files_.add_ref(range);
  base::MutexLock lock(impl_->mu);
  impl_->for_counts(range, [](Chunk& c, uint64_t first, uint64_t n, uint64_t) {
    for (uint64_t i = 0; i < n; ++i) {
      DCHECK(c.counts[first + i] != 0);
      ++c.counts[first + i];
    }
  });
}

void MemoryFile::drop_ref(FileRange range) {
  if (range.length == 0) return;
  if (HostFiles::holds(range.offset)) return host_files_.drop_ref(range);
  Impl& m = *impl_;
  std::vector<FileRange> punch;
  {
    base::MutexLock lock(m.mu);
    uint64_t freed = 0;
    m.for_counts(range, [&](Chunk& c, uint64_t first, uint64_t n, uint64_t at) NO_THREAD_SAFETY_ANALYSIS {
      uint64_t run = 0;
      for (uint64_t i = 0; i < n; ++i) {
        DCHECK(c.counts[first + i] != 0);
        if (--c.counts[first + i] == 0) {
          ++run;
          continue;
        }
        if (run) m.queue_free({at + (i - run) * kPageSize, run * kPageSize});
        freed += run;
        c.live -= run;
        run = 0;
      }
      if (run) m.queue_free({at + (n - run) * kPageSize, run * kPageSize});
      freed += run;
      c.live -= run;
      uint64_t number = at >> kChunkShift;
      if (c.live == 0 && number < (m.next - 1) >> kChunkShift) m.free_chunk(number);
    });
    m.total -= freed * kPageSize;
    if (m.pending_bytes >= kPendingBytes || m.pending.size() >= kPendingRanges) {
      punch.swap(m.pending);
      m.pending_bytes = 0;
    }
  }
  if (!punch.empty()) decommit_all(punch);
}

// What a process had was allocated together, but is given back in the order of its addresses: few calls instead of many.
void MemoryFile::decommit_all(std::vector<FileRange>& ranges) {
  std::sort(ranges.begin(), ranges.end(), [](FileRange a, FileRange b) { return a.offset < b.offset; });
  FileRange joined = ranges.front();
  for (FileRange r : ranges) {
    if (r.offset <= joined.end()) {
      joined.length = std::max(joined.end(), r.end()) - joined.offset;
      continue;
    }
    decommit(joined);
    joined = r;
  }
  decommit(joined);
}

bool MemoryFile::is_unique(FileRange range) const {
  base::MutexLock lock(impl_->mu);
  bool unique = true;
  impl_->for_counts(range, [&](Chunk& c, uint64_t first, uint64_t n, uint64_t) {
    for (uint64_t i = 0; i < n; ++i) unique &= c.counts[first + i] == 1;
  });
  return unique;
}

uint64_t MemoryFile::unique_prefix(FileRange range, bool& unique) const {
  base::MutexLock lock(impl_->mu);
  uint64_t pages = 0;
  bool stop = false, first_page = true;
  impl_->for_counts(range, [&](Chunk& c, uint64_t first, uint64_t n, uint64_t) {
    for (uint64_t i = 0; i < n && !stop; ++i) {
      bool one = c.counts[first + i] == 1;
      if (first_page) unique = one;
      first_page = false;
      if (one != unique) stop = true;
      if (!stop) ++pages;
    }
  });
  return pages * kPageSize;
}

uint8_t* MemoryFile::data(uint64_t offset) {
  if (HostFiles::holds(offset)) return host_files_.bytes(offset, kPageSize).data();
  Chunk* chunk = impl_->chunk_at(offset);
  DCHECK(chunk != nullptr);
  return chunk->data + (offset & (kChunkSize - 1));
}

std::span<uint8_t> MemoryFile::bytes(uint64_t offset, uint64_t max) {
  if (HostFiles::holds(offset)) return host_files_.bytes(offset, max);
  return {data(offset), static_cast<size_t>(std::min(max, kChunkSize - (offset & (kChunkSize - 1))))};
}

void MemoryFile::decommit(FileRange range) {
  fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.offset),
            static_cast<off_t>(range.length));
}

void MemoryFile::copy(uint64_t to, uint64_t from, uint64_t length) {
  // Through the file and not through the sentry's mapping of it: fresh pages are then neither zeroed first
  // nor mapped here by a fault each.
  while (length != 0) {
    std::span<uint8_t> src = bytes(from, length);
    ssize_t n = pwrite(fd_.get(), src.data(), src.size(), static_cast<off_t>(to));
    if (n <= 0) {  // no memory, or a filter without pwrite: the slow way says the same
      std::span<uint8_t> dst = bytes(to, src.size());
      __builtin_memcpy(dst.data(), src.data(), dst.size());
      n = static_cast<ssize_t>(dst.size());
    }
    to += static_cast<uint64_t>(n);
    from += static_cast<uint64_t>(n);
    length -= static_cast<uint64_t>(n);
  }
}

void MemoryFile::store(uint64_t to, const uint8_t* src, uint64_t length) {
  while (length != 0) {
    ssize_t n = pwrite(fd_.get(), src, length, static_cast<off_t>(to));
    if (n <= 0) {
      std::span<uint8_t> dst = bytes(to, length);
      __builtin_memcpy(dst.data(), src, dst.size());
      n = static_cast<ssize_t>(dst.size());
    }
    to += static_cast<uint64_t>(n);
    src += n;
    length -= static_cast<uint64_t>(n);
  }
}

void MemoryFile::clear(FileRange range) {
  static const uint8_t zeros[64 << 10] = {};
  for (uint64_t at = range.offset; at < range.end();) {
    const uint64_t n = std::min<uint64_t>(range.end() - at, sizeof zeros);
    store(at, zeros, n);
    at += n;
  }
}

void MemoryFile::give_spare(FileRange range, base::RefPtr<base::RefCounted> owner, const std::atomic<bool>& gone) {
  constexpr uint64_t kLeast = 4 * kPageSize, kMost = kSpareBytes / 2;
  uint8_t there[kMost / kPageSize];
  if (range.length < kLeast || range.length > kMost || !is_unique(range)) return drop_ref(range);
  const uint64_t pages = range.length / kPageSize;
  resident(range, {there, pages});
  for (uint64_t i = 0; i < pages;) {
    uint64_t end = i;
    while (end < pages && (there[end] & 1) == (there[i] & 1)) ++end;
    const FileRange run{range.offset + i * kPageSize, (end - i) * kPageSize};
    std::vector<Spare> old;
    bool kept = (there[i] & 1) != 0 && run.length >= kLeast;
    if (kept) {
      Impl& m = *impl_;
      base::MutexLock lock(m.mu);
      kept = m.limit == 0 || m.total + kSpareBytes < m.limit;
      if (kept) {
        m.spares.push_back({run, owner, &gone});
        m.spare_bytes += run.length;
      }
      while (m.spare_bytes > kSpareBytes) {
        m.spare_bytes -= m.spares.front().range.length;
        old.push_back(std::move(m.spares.front()));
        m.spares.erase(m.spares.begin());
      }
    }
    if (!kept) drop_ref(run);
    for (const Spare& spare : old) drop_ref(spare.range);
    i = end;
  }
}

FileRange MemoryFile::take_spare() {
  Impl& m = *impl_;
  Spare best;
  base::MutexLock lock(m.mu);
  const auto is_free = [](const Spare& s) { return !s.gone || s.gone->load(std::memory_order_acquire); };
  auto found = m.spares.end();
  for (auto it = m.spares.begin(); it != m.spares.end(); ++it)
    if ((found == m.spares.end() || it->range.length > found->range.length) && is_free(*it)) found = it;
  if (found == m.spares.end()) return {};
  best = std::move(*found);
  m.spares.erase(found);
  m.spare_bytes -= best.range.length;
  return best.range;
}

void MemoryFile::give_back_spare(FileRange range) {
  if (range.length == 0) return;
  base::MutexLock lock(impl_->mu);
  impl_->spares.insert(impl_->spares.begin(), {range, nullptr, nullptr});
  impl_->spare_bytes += range.length;
}

void MemoryFile::drop_spares() {
  std::vector<Spare> all;
  {
    base::MutexLock lock(impl_->mu);
    all.swap(impl_->spares);
    impl_->spare_bytes = 0;
  }
  for (const Spare& spare : all) drop_ref(spare.range);
}

void MemoryFile::overwrite(uint64_t to, uint64_t from, uint64_t length) {
  while (length != 0) {
    const std::span<uint8_t> src = bytes(from, length), dst = bytes(to, src.size());
    __builtin_memcpy(dst.data(), src.data(), dst.size());
    to += dst.size();
    from += dst.size();
    length -= dst.size();
  }
}

void MemoryFile::populate(FileRange range) {
  for (uint64_t at = range.offset; at < range.end();) {
    std::span<uint8_t> view = bytes(at, range.end() - at);
    madvise(view.data(), view.size(), MADV_POPULATE_WRITE);
    at += view.size();
  }
}

void MemoryFile::resident(FileRange range, std::span<uint8_t> out) {
  uint8_t* dst = out.data();
  for (uint64_t at = range.offset; at < range.end();) {
    std::span<uint8_t> view = bytes(at, range.end() - at);
    size_t pages = view.size() / kPageSize;
    if (mincore(view.data(), view.size(), dst) != 0) std::fill_n(dst, pages, uint8_t{1});
    dst += pages;
    at += view.size();
  }
}

MemoryFile::Usage MemoryFile::usage() {
  flush();
  Impl& m = *impl_;
  const uint64_t real = m.committed();
  base::MutexLock lock(m.mu);
  Usage u;
  u.page_cache = m.allocated[static_cast<size_t>(MemoryKind::kPageCache)];
  u.tmpfs = m.allocated[static_cast<size_t>(MemoryKind::kTmpfs)];
  u.kernel = m.allocated[static_cast<size_t>(MemoryKind::kKernel)];
  // Kinds count what was handed out; frees are known by total only, and the host knows what is really there.
  uint64_t rest = std::min(real, m.total);
  for (uint64_t* part : {&u.kernel, &u.tmpfs, &u.page_cache}) {
    *part = std::min(*part, rest);
    rest -= *part;
  }
  u.anonymous = rest;
  return u;
}

void MemoryFile::account_free(uint64_t length, MemoryKind kind) {
  base::MutexLock lock(impl_->mu);
  uint64_t& n = impl_->allocated[static_cast<size_t>(kind)];
  n -= std::min(n, length);
}

void MemoryFile::flush() {
  drop_spares();
  std::vector<FileRange> punch;
  {
    base::MutexLock lock(impl_->mu);
    punch.swap(impl_->pending);
    impl_->pending_bytes = 0;
  }
  if (!punch.empty()) decommit_all(punch);
}

void MemoryFile::set_limit(uint64_t bytes) {
  base::MutexLock lock(impl_->mu);
  impl_->limit = bytes;
}

}  // namespace sentry::memory
