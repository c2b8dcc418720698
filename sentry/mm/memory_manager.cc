// SPDX-License-Identifier: Apache-2.0
// Birth, fork and death of an address space; layout, limits, statistics.
#include "sentry/mm/memory_manager.h"

#include <algorithm>

#include <sys/random.h>

#include "sentry/mm/impl.h"

namespace sentry::mm {

using enum abi::Errno;
using Impl = MemoryManager::Impl;

namespace {

// Copied by one fork at most: of all pieces, of one. More where children come and go one after the other, as those of a shell: their pages
// serve again, and neither side has page faults.
struct CopyLimits {
  uint64_t all, one;
};
constexpr CopyLimits kForkCopies{64, 12}, kForkCopiesInTurns{160, 96};
constexpr uint32_t kForksInTurns = 2;    // so many before
constexpr int kForkMapped = 20;          // pieces that a child has mapped from the start
constexpr int kForkHostFiles = 16;       // likewise, of host files, whose mapping costs little
constexpr uint64_t kRandomPages = uint64_t{1} << 20;  // 4 GiB of randomness for mmap_base
constexpr uint64_t kStackRoom = uint64_t{1} << 30;    // from the top of the address space to mmap_base, at least

uint64_t random_u64() {
  uint64_t v = 0;
  (void)!getrandom(&v, sizeof v, GRND_NONBLOCK);
  return v;
}

}  // namespace

Impl::Impl(memory::MemoryFile& f, platform::Platform& p, std::unique_ptr<platform::AddressSpace> s,
           base::RefPtr<TextPlaces> t)
    : file(f), platform(p), space(std::move(s)), places(std::move(t)), family(base::make_ref<Family>()),
      invalidator(base::make_ref<Invalidator>(this)) {}

Impl::~Impl() {
  invalidator->detach();
  for (auto& [start, vma] : vmas) detach_object(vma);
  // The guest's view goes before the pages do.
  const platform::AddressSpace::HostEnd end = space->host_end();
  space.reset();
  family->live.fetch_sub(1, std::memory_order_acq_rel);
  if (end.reached) leave_spares(end.owner, *end.reached);
  for (const Piece& p : pieces.v) file.drop_ref(p.file_range());
  for (const Retired& r : retired) file.drop_ref(r.range);
  for (FileRange r : recycled) file.drop_ref(r);
}

MemoryManager::MemoryManager(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MemoryManager::~MemoryManager() = default;

Addr MemoryManager::address_limit() const { return impl_->platform.max_address(); }
Addr MemoryManager::vdso_elf() const { return impl_->platform.vdso_elf(); }

base::Result<base::RefPtr<MemoryManager>> MemoryManager::create(memory::MemoryFile& file,
                                                                platform::Platform& platform) {
  auto space = TRY(platform.create_address_space());
  auto impl = std::make_unique<Impl>(file, platform, std::move(space), TextPlaces::of(file, platform));
  uint64_t low = platform.min_address().value(), top = platform.max_address().value();
  uint64_t room = std::min(kStackRoom, (top - low) / 4);
  uint64_t jitter = random_u64() % std::max<uint64_t>(1, std::min(kRandomPages, (top - low) / 8 / kPageSize));
  impl->mmap_base = round_down(top - room - jitter * kPageSize, kPageSize);
  for (abi::AddrRange taken : platform.reserved_ranges()) {
    MappingWrite lock(*impl);
    Vma vma;
    vma.special = true;
    vma.prot = {true, false, true};
    vma.name = "[sandbox]";
    vma.end = taken.end.value();
    impl->insert_vma_locked(taken.start.value(), std::move(vma));
  }
  abi::AddrRange vdso = platform.vdso_range();
  for (abi::AddrRange r : platform.reserved_ranges()) {
    if (r.empty() || r.overlaps(vdso)) continue;
    Vma own;
    own.special = own.hidden = true;
    own.end = r.end.value();
    MappingWrite lock(*impl);
    impl->insert_vma_locked(r.start.value(), std::move(own));
  }
  if (!vdso.empty()) {
    // The platform has them mapped; these VMAs are what /proc and user copies see.
    uint64_t elf = platform.vdso_elf().value();
    MappingWrite lock(*impl);
    Vma data;
    data.special = true;
    data.prot = {true, false, false};
    data.name = "[vvar]";
    data.end = elf;
    if (elf > vdso.start.value()) impl->insert_vma_locked(vdso.start.value(), data);
    Vma code = data;
    code.prot = {true, false, true};
    code.name = "[vdso]";
    code.end = vdso.end.value();
    code.object = impl->places->vdso(vdso.end.value() - elf);
    impl->insert_vma_locked(elf, std::move(code));
  }
  return base::make_ref<MemoryManager>(std::move(impl));
}

base::Result<base::RefPtr<MemoryManager>> MemoryManager::fork() {
  Impl& m = *impl_;
  auto space = TRY(m.platform.create_address_space());
  auto impl = std::make_unique<Impl>(m.file, m.platform, std::move(space), m.places);
  Impl& c = *impl;
  // The child's observer is known to the objects before it is complete: it waits here until it is.
  c.invalidator->hold();
  {
    MappingWrite lock(m);
    m.family->live.fetch_add(1, std::memory_order_acq_rel);
    c.family = m.family;
    c.brk_start = m.brk_start;
    c.brk_end = m.brk_end;
    c.mmap_base = m.mmap_base;
    c.limits = m.limits;
    c.layout = m.layout;
    c.dumpable = m.dumpable.load();
    for (auto& [start, vma] : m.vmas) {
      if (vma.dont_fork) continue;
      auto it = c.vmas.emplace_hint(c.vmas.end(), start, vma);
      it->second.locked = it->second.lock_on_fault = false;  // locks are not inherited
      c.attach_object(vma);
      c.account(it->second, vma.end - start, 1);
    }
    m.share_pieces_with(c);
  }
  c.invalidator->release();
  auto child = base::make_ref<MemoryManager>(std::move(impl));
  child->membarrier_registrations = membarrier_registrations;
  return child;
}

// What may be copied for a child of fork, and where to.
struct Impl::CopyRoom {
  CopyRoom(memory::MemoryFile& f, CopyLimits l) : file(f), spare(f.take_spare()), limits(l), budget(l.all) {}
  ~CopyRoom() { file.give_back_spare(spare); }
  CopyRoom(const CopyRoom&) = delete;
  CopyRoom& operator=(const CopyRoom&) = delete;

  memory::MemoryFile& file;
  FileRange spare;
  const CopyLimits limits;
  uint64_t budget;
};

// Writable memory of which little is in use (stack, data of a small program) is copied at once: two page faults cost
// more than a few pages. False: share it.
bool Impl::copy_for_child(const Piece& p, Impl& c, CopyRoom& room) {
  constexpr uint64_t kMost = 512;
  uint64_t pages = p.length() / kPageSize;
  if (!p.has(kAnon) || p.has(kCow) || !p.has(kGuestWrite) || pages > kMost || room.budget == 0) return false;
  uint8_t resident[kMost];
  file.resident(p.file_range(), {resident, pages});
  uint64_t used = 0;
  for (uint64_t i = 0; i < pages; ++i) used += resident[i] & 1;
  if (used > std::min(room.limits.one, room.budget)) return false;
  // Where most of it is in use the rest may become real.
  const bool on_spare = 2 * used >= pages && p.length() <= room.spare.length;
  FileRange to{room.spare.offset, p.length()};
  if (on_spare) {
    room.spare = {to.end(), room.spare.length - to.length};
  } else {
    auto fresh = file.allocate(p.length(), memory::MemoryKind::kAnonymous);
    if (!fresh) return false;
    to = *fresh;
  }
  room.budget -= used;
  for (uint64_t i = 0; i < pages;) {
    uint64_t end = i;
    while (end < pages && (resident[end] & 1) == (resident[i] & 1)) ++end;
    const uint64_t at = i * kPageSize, length = (end - i) * kPageSize;
    if ((resident[i] & 1) == 0) {
      if (on_spare) file.clear({to.offset + at, length});
    } else if (on_spare) {
      file.overwrite(to.offset + at, p.offset + at, length);
    } else {
      file.copy(to.offset + at, p.offset + at, length);
    }
    i = end;
  }
  Piece copy{p.start, p.end, to.offset, static_cast<uint16_t>(p.flags & ~(kHostBits | kMapped | kMappedRw | kSeen))};
  if (p.has(kMapped) && used != 0) c.map_piece_active(copy, on_spare || used == pages ? Pages::kPresent : Pages::kMaybe);
  c.pieces.v.push_back(copy);
  return true;
}

// Pages that nobody but this address space ever had may serve others when its mappings are gone. At its end.
void Impl::leave_spares(const base::RefPtr<base::RefCounted>& owner, const std::atomic<bool>& gone) {
  constexpr int kMost = 32;  // looking at one costs host calls
  int room = kMost;
  std::vector<FileRange> own;
  std::erase_if(pieces.v, [&](const Piece& p) {
    if (!p.has(kAnon) || (p.flags & (kCow | kShared | kSeen)) != 0) return false;
    own.push_back(p.file_range());
    return true;
  });
  std::sort(own.begin(), own.end(), [](FileRange a, FileRange b) { return a.offset < b.offset; });
  for (size_t i = 0; i < own.size();) {
    FileRange range = own[i];
    for (++i; i < own.size() && own[i].offset == range.end(); ++i) range.length += own[i].length;
    if (room-- > 0) file.give_spare(range, owner, gone);
    else file.drop_ref(range);
  }
}

namespace {

// What a forked child needs for its first steps: code, and the tables of addresses that code jumps through. Mapping it
// costs half of what a fault would, and that of a host file a tenth.
bool is_used_at_once(const Piece& p) {
  constexpr uint64_t kTable = 64 << 10;
  return p.has(kGuestExec) || (p.has(kAnon | kGuestRead) && !p.has(kGuestWrite) && p.length() <= kTable);
}

}  // namespace

// Private pages become copy-on-write on both sides: one pass, one reference per page, one protect per run.
void Impl::share_pieces_with(Impl& c) {
  uint64_t run_start = 0, run_end = 0;
  uint16_t run_prot = 0;
  bool protected_any = false;
  const bool in_turns = family->live.load(std::memory_order_acquire) == 2 && ++forks > kForksInTurns;  // the two are this one and `c`
  CopyRoom copies(file, in_turns ? kForkCopiesInTurns : kForkCopies);
  int eager = kForkMapped, eager_host_files = kForkHostFiles;
  auto flush = [&] {
    if (run_end != 0) {
      space->protect({Addr(run_start), Addr(run_end)}, host_prot(run_prot));
      protected_any = true;
    }
    run_end = 0;
  };
  c.pieces.v.reserve(pieces.v.size());
  auto vma = vmas.begin();
  // Of a program or library: what else is mapped of it lies beside it.
  const auto is_image = [&] {
    if (vma->second.prot.exec) return true;
    const auto next = std::next(vma);
    if (next != vmas.end() && next->second.prot.exec && next->second.object == vma->second.object) return true;
    if (vma == vmas.begin()) return false;
    const auto before = std::prev(vma);
    return before->second.prot.exec && before->second.object == vma->second.object;
  };
  for (Piece& p : pieces.v) {
    while (vma != vmas.end() && vma->second.end <= p.start) ++vma;
    bool inherit = vma != vmas.end() && !vma->second.dont_fork && !vma->second.wipe_on_fork;
    if (!inherit) continue;
    if (copy_for_child(p, c, copies)) continue;
    if (p.has(kAnon)) p.flags |= kSeen;
    if (!p.has(kShared) && !p.has(kCow)) {
      p.flags |= kCow;
      if (p.has(kHostWrite)) {
        p.flags = static_cast<uint16_t>(p.flags & ~kHostWrite);
        auto now = static_cast<uint16_t>(p.flags & kHostBits);
        if (run_end != p.start || run_prot != now) {
          flush();
          run_start = p.start;
          run_prot = now;
        }
        run_end = p.end;
      }
    }
    file.add_ref(p.file_range());
    Piece copy = p;
    copy.flags = static_cast<uint16_t>(copy.flags & ~(kHostBits | kMapped | kMappedRw));
    const bool of_host = memory::HostFiles::holds(p.offset);
    int& room = of_host ? eager_host_files : eager;
    if (p.has(kMapped) && room > 0 && (of_host ? is_image() : is_used_at_once(p))) {
      c.map_piece_active(copy);
      --room;
    }
    c.pieces.v.push_back(copy);
  }
  flush();
  // Other threads of the parent must not go on writing into what is now the child's as well.
  if (protected_any) space->interrupt_running();
}

platform::AddressSpace& MemoryManager::platform_space() { return *impl_->space; }
platform::Platform& MemoryManager::platform() { return impl_->platform; }

MemoryManager::Layout MemoryManager::layout() const {
  base::ReadLock lock(impl_->mapping_mu);
  return impl_->layout;
}

void MemoryManager::set_layout(Layout layout) {
  base::WriteLock lock(impl_->mapping_mu);
  uint64_t start = layout.brk_start.value();
  if (start != impl_->brk_start) impl_->brk_start = impl_->brk_end = start;
  std::swap(impl_->layout, layout);  // the old one dies after the lock
}

base::RefPtr<MappedFile> MemoryManager::exe() const {
  base::ReadLock lock(impl_->mapping_mu);
  return impl_->layout.exe;
}

void MemoryManager::set_exe(base::RefPtr<MappedFile> file) {
  base::WriteLock lock(impl_->mapping_mu);
  std::swap(impl_->layout.exe, file);
}

void MemoryManager::set_limits(const creds::LimitSet& limits) {
  base::WriteLock lock(impl_->mapping_mu);
  impl_->limits = limits;
}

void MemoryManager::set_lock_exempt(bool exempt) {
  base::WriteLock lock(impl_->mapping_mu);
  impl_->lock_exempt = exempt;
}

bool MemoryManager::dumpable() const { return impl_->dumpable.load(std::memory_order_relaxed); }
void MemoryManager::set_dumpable(bool v) { impl_->dumpable.store(v, std::memory_order_relaxed); }

namespace {

uint64_t resident_bytes(const Impl& m, const Piece& p, uint64_t lo, uint64_t hi) {
  // Pages of a cache exist; anonymous windows are mostly promises.
  if (!p.has(kAnon) && !p.has(kShared)) return hi - lo;
  uint64_t pages = 0;
  uint8_t buffer[1024];
  for (uint64_t at = lo; at < hi;) {
    uint64_t n = std::min<uint64_t>(hi - at, sizeof buffer * kPageSize);
    m.file.resident({p.offset_of(at), n}, {buffer, n / kPageSize});
    for (size_t i = 0; i < n / kPageSize; ++i) pages += buffer[i] & 1;
    at += n;
  }
  return pages * kPageSize;
}

// The same for many pieces: those that were made together are neighbours in the memory file, so that few host calls
// answer for all of them. Adds to *sum of each.
struct Asked {
  uint64_t start, end;  // in the memory file
  uint64_t* sum;
};

void count_resident(Impl& m, std::vector<Asked>& asked) {
  constexpr uint64_t kNear = 64 * kPageSize, kMost = 1024 * kPageSize, kChunk = uint64_t{1} << 28;
  std::sort(asked.begin(), asked.end(), [](const Asked& a, const Asked& b) { return a.start < b.start; });
  uint8_t buffer[kMost / kPageSize];
  for (size_t i = 0; i < asked.size();) {
    const uint64_t lo = asked[i].start;
    const uint64_t limit = std::min(lo + kMost, (lo & ~(kChunk - 1)) + kChunk);
    uint64_t hi = std::min(asked[i].end, limit);
    for (size_t k = i + 1; k < asked.size() && asked[k].start <= hi + kNear && asked[k].start < limit; ++k)
      hi = std::max(hi, std::min(asked[k].end, limit));
    m.file.resident({lo, hi - lo}, {buffer, (hi - lo) / kPageSize});
    size_t done = i;
    for (; done < asked.size() && asked[done].start < hi; ++done) {
      Asked& a = asked[done];
      for (; a.start < std::min(a.end, hi); a.start += kPageSize) *a.sum += (buffer[(a.start - lo) / kPageSize] & 1) * kPageSize;
    }
    // What is left of some of them starts at `hi`, before all that follow.
    for (size_t k = done; k-- > i;)
      if (asked[k].start < asked[k].end) asked[--done] = asked[k];
    i = done;
  }
}

}  // namespace

MmStats MemoryManager::stats() const {
  Impl& m = *impl_;
  base::ReadLock mapping(m.mapping_mu);
  base::ReadLock active(m.active_mu);
  MmStats s;
  s.vsize = m.totals.vsize;
  s.data = m.totals.data;
  s.stack = m.totals.stack;
  s.text = m.totals.text;
  s.locked = m.totals.locked;
  s.peak_vsize = m.peak_vsize;
  std::vector<Asked> asked;
  for (const Piece& p : m.pieces.v) {
    if (!p.has(kAnon) && !p.has(kShared)) {
      s.rss_file += p.length();
      continue;
    }
    uint64_t* sum = p.has(kAnon) ? &s.rss_anon : p.has(kNotified) ? &s.rss_shmem : &s.rss_file;
    asked.push_back({p.offset, p.offset + p.length(), sum});
  }
  count_resident(m, asked);
  s.rss = s.rss_anon + s.rss_file + s.rss_shmem;
  uint64_t peak = m.peak_rss.load(std::memory_order_relaxed);
  while (s.rss > peak && !m.peak_rss.compare_exchange_weak(peak, s.rss)) {
  }
  s.peak_rss = std::max(peak, s.rss);
  return s;
}

std::vector<VmaInfo> MemoryManager::vmas() const {
  Impl& m = *impl_;
  std::vector<VmaInfo> out;
  std::vector<base::RefPtr<MappedFile>> files;
  {
    base::ReadLock mapping(m.mapping_mu);
    base::ReadLock active(m.active_mu);
    out.reserve(m.vmas.size());
    files.reserve(m.vmas.size());
    size_t piece = 0;
    for (auto& [start, vma] : m.vmas) {
      if (vma.hidden) continue;
      VmaInfo info;
      info.range = {Addr(start), Addr(vma.end)};
      info.prot = vma.prot;
      info.sharing = vma.sharing;
      info.offset = vma.object && vma.file ? vma.offset : 0;
      if (vma.name) {
        info.name = vma.name;
      } else if (!vma.object && start < round_up(m.brk_end, kPageSize) && vma.end > m.brk_start) {
        info.name = "[heap]";
      }
      while (piece < m.pieces.v.size() && m.pieces.v[piece].end <= start) ++piece;
      for (size_t i = piece; i < m.pieces.v.size() && m.pieces.v[i].start < vma.end; ++i) {
        const Piece& p = m.pieces.v[i];
        uint64_t bytes = resident_bytes(m, p, std::max(start, p.start), std::min(vma.end, p.end));
        info.rss += bytes;
        if (p.has(kAnon)) info.anonymous += bytes;
      }
      if (vma.locked) info.locked = vma.end - start;
      out.push_back(std::move(info));
      files.push_back(vma.file);
    }
  }
  // Names are asked for without locks: file systems have their own.
  for (size_t i = 0; i < out.size(); ++i) {
    if (!files[i]) continue;
    MappedFile::Identity id = files[i]->mapped_identity();
    out[i].device = id.device;
    out[i].inode = id.inode;
    if (out[i].name.empty()) out[i].name = std::move(id.path);
  }
  return out;
}

base::Result<MemoryManager::FutexKey> MemoryManager::futex_key(Addr addr, bool is_private) {
  Impl& m = *impl_;
  if (addr.value() >= m.platform.max_address().value()) return base::err(kEFAULT);
  if (!is_private) {
    base::ReadLock lock(m.mapping_mu);
    auto it = m.find_vma(addr.value());
    if (it == m.vmas.end() || !it->second.prot.any()) return base::err(kEFAULT);
    const Vma& v = it->second;
    if (v.sharing == Sharing::kShared && v.object)
      return FutexKey{v.object.get(), v.offset + (addr.value() - it->first), v.object};
  }
  return FutexKey{this, addr.value(), base::RefPtr<base::RefCounted>(this)};
}

}  // namespace sentry::mm
