// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include <sys/auxv.h>
#include <sys/random.h>

#include "base/stats/stats.h"
#include "sentry/mm/impl.h"

namespace sentry::mm {

using Impl = MemoryManager::Impl;

namespace {

constexpr uint64_t kPlaceAlign = 64 << 10;
constexpr uint64_t kCacheLine = 64;

}  // namespace

TextPlaces::TextPlaces(memory::MemoryFile& file, abi::AddrRange window) : file_(file), window_(window) {
  uint64_t random = 0;
  (void)!getrandom(&random, sizeof random, GRND_NONBLOCK);
  uint64_t quarter = window.length() / 4;
  next_ = window.start.value() + (quarter != 0 ? round_down(random % quarter, kPlaceAlign) : 0);
}

base::RefPtr<TextPlaces> TextPlaces::of(memory::MemoryFile& file, platform::Platform& platform) {
  struct Entry {
    platform::Platform* platform = nullptr;
    memory::MemoryFile* file = nullptr;
    base::WeakRef<TextPlaces> places;
  };
  static base::Guarded<std::vector<Entry>> known(base::LockRank::kFileMappings);
  return known.with([&](std::vector<Entry>& v) {
    std::erase_if(v, [](Entry& e) { return !e.places.lock(); });
    for (Entry& e : v)
      if (e.platform == &platform && e.file == &file) return e.places.lock();
    auto places = base::make_ref<TextPlaces>(file, platform.text_window());
    v.push_back({&platform, &file, base::WeakRef<TextPlaces>(places)});
    return places;
  });
}

base::RefPtr<TextPatches> TextPlaces::existing(const memory::Mappable& object) {
  base::MutexLock lock(mu_);
  return base::RefPtr<TextPatches>(static_cast<TextPatches*>(object.text_patches.get()));
}

base::RefPtr<TextPatches> TextPlaces::patches(memory::Mappable& object) {
  base::MutexLock lock(mu_);
  if (!object.text_patches) object.text_patches = base::make_ref<TextPatches>(file_);
  return base::RefPtr<TextPatches>(static_cast<TextPatches*>(object.text_patches.get()));
}

uint64_t TextPlaces::place(memory::Mappable& object, uint64_t length) {
  if (length > window_.length() / 2) return 0;
  auto patches = this->patches(object);
  patches->note_placed(object);
  base::MutexLock lock(mu_);
  uint64_t base = patches->base();
  if (base != 0) return length <= patches->span_ ? base : 0;
  // When the window is used up it starts again: two files at one address meet in one process only by chance, and
  // then one of them goes elsewhere.
  if (next_ + length > window_.end.value()) next_ = window_.start.value();
  base = next_;
  next_ = round_up(next_ + length, kPlaceAlign) + kPlaceAlign;
  patches->span_ = length;
  patches->base_.store(base, std::memory_order_release);
  return base;
}

void TextPlaces::adopt(TextPatches& patches, uint64_t base) {
  base::MutexLock lock(mu_);
  if (patches.base() != 0) return;
  patches.span_ = ~uint64_t{0};
  patches.base_.store(base, std::memory_order_release);
}

// The host's vDSO, which the platform shows to guests, as the sentry has it mapped itself.
base::RefPtr<memory::Mappable> TextPlaces::vdso(uint64_t length) {
  base::MutexLock create(vdso_mu_);
  if (vdso_) return vdso_;
  auto cache = base::make_ref<memory::PageCache>(file_, memory::MemoryKind::kKernel, nullptr, true);
  // UNSAFE: the vDSO of this process is mapped for as long as it lives; the platform gives guests the same image.
  const auto* own = reinterpret_cast<const uint8_t*>(getauxval(AT_SYSINFO_EHDR));
  if (own) {
    (void)cache->write(0, length, [&, at = uint64_t{0}](std::span<uint8_t> dst) mutable -> base::Result<size_t> {
      memcpy(dst.data(), own + at, dst.size());
      at += dst.size();
      return dst.size();
    });
  }
  vdso_ = cache;
  return vdso_;
}

// The patched copies that a VMA may use: those of its object, if it lies at the object's place. Null: none.
base::RefPtr<TextPatches> Impl::patches_for(uint64_t start, const Vma& vma) {
  if (!vma.prot.exec || vma.sharing != Sharing::kPrivate || vma.special || !vma.object) return nullptr;
  auto patches = places->existing(*vma.object);
  if (!patches || patches->base() + vma.offset != start) return nullptr;
  return patches;
}

// For a page of executable file text that is copied: a piece of all that is copied around it. Null when it is not.
Piece* Impl::map_patched_active(VmaMap::iterator it, uint64_t page) {
  Vma& vma = it->second;
  auto patches = patches_for(it->first, vma);
  TextPatches::Run run;
  if (!patches || !patches->find(vma.offset + (page - it->first), *vma.object, run)) return nullptr;
  AddrRange gap = pieces.gap(page, it->first, vma.end);
  const uint64_t gap_start = vma.offset + (gap.start.value() - it->first), gap_end = vma.offset + (gap.end.value() - it->first);
  const uint64_t lo = std::max(gap_start, run.start), hi = std::min(gap_end, run.end);
  FileRange mine{run.memory_at(lo), hi - lo};
  file.add_ref(mine);
  file.drop_ref(run.pages);
  uint16_t guest = static_cast<uint16_t>((vma.prot.read ? kGuestRead : 0) | (vma.prot.write ? kGuestWrite : 0) | kGuestExec);
  const uint64_t start = it->first + (lo - vma.offset);
  pieces.insert({start, start + mine.length, mine.offset, static_cast<uint16_t>(kCow | kPatched | guest)});
  return pieces.find(page);
}

namespace {

// Changes up to 8 bytes of running code at once: one store inside a cache line, which no core fetches half of.
// False when the bytes straddle two lines.
bool store_code(uint8_t* at, const uint8_t* bytes, size_t n) {
  auto address = reinterpret_cast<uintptr_t>(at);
  uintptr_t line = address & ~(kCacheLine - 1);
  if (n > 8 || address + n > line + kCacheLine) return false;
  uintptr_t word_at = std::min(address, line + kCacheLine - 8);
  struct [[gnu::packed]] Word {
    uint64_t value;
  };
  auto* word = reinterpret_cast<Word*>(word_at);
  uint64_t value = 0;
  memcpy(&value, word, 8);
  memcpy(reinterpret_cast<uint8_t*>(&value) + (address - word_at), bytes, n);
  // UNSAFE: may be unaligned, but x86 stores within one cache line are atomic.
  asm volatile("movq %1, %0" : "=m"(*word) : "r"(value) : "memory");
  return true;
}

}  // namespace

namespace {
std::span<const platform::PatchEdit> edits_of(const platform::PatchPlan& plan) { return {plan.edits, plan.count}; }
}  // namespace

// Where the text around a system call comes from.
struct MemoryManager::TextSite {
  base::RefPtr<memory::Mappable> object;
  base::RefPtr<MappedFile> file;
  uint64_t page = 0;
  uint64_t vma_start = 0, vma_end = 0, vma_offset = 0;
  uint64_t memory_offset = 0;  // of the page
  bool anonymous = false;
  // The page, and the second byte of a `syscall` whose first one ends it.
  uint8_t bytes[kPageSize + 1];
  size_t size = 0;  // how many are known
};

void MemoryManager::consider_patching(Addr site) {
  if (site.value() < kPageSize) return;
  TextSite text;
  const PatchOutcome outcome = try_patch(site, text);
  if (outcome == PatchOutcome::kPatched) base::stats::count(base::stats::Counter::kSitesPatched);
  note_trap(site, text, outcome);
}

PatchOutcome MemoryManager::try_patch(Addr site, TextSite& text) {
  Impl& m = *impl_;
  uint64_t instruction = site.value() - 2, page = round_down(instruction, kPageSize);
  text.page = page;
  {
    base::ReadLock mapping(m.mapping_mu);
    base::ReadLock active(m.active_mu);
    auto it = m.find_vma(page);
    if (it == m.vmas.end()) return PatchOutcome::kNotReadOnly;
    const Vma& v = it->second;
    text.object = v.object;
    text.file = v.file;
    text.vma_start = it->first;
    text.vma_end = v.end;
    text.vma_offset = v.offset;
    if (!v.prot.exec || v.prot.write || v.sharing != Sharing::kPrivate || v.special) return PatchOutcome::kNotReadOnly;
    const Piece* p = m.pieces.find_const(page);
    if (!p) return PatchOutcome::kNotReadOnly;
    text.memory_offset = p->offset_of(page);
    text.anonymous = p->has(kAnon);
    memcpy(text.bytes, m.file.data(p->offset_of(page)), kPageSize);
    text.size = kPageSize;
    if (site.value() > page + kPageSize) {
      const Piece* next = page + kPageSize < v.end ? m.pieces.find_const(page + kPageSize) : nullptr;
      if (!next) return PatchOutcome::kAcrossPages;
      text.bytes[text.size++] = *m.file.data(next->offset_of(page + kPageSize));
    }
  }
  const uint8_t* code = text.bytes + (instruction - page);
  if (code[0] != 0x0f || code[1] != 0x05) return PatchOutcome::kNoPattern;
  platform::PatchPlan plan = m.platform.plan_patch({text.bytes, text.size}, Addr(page), site);
  if (plan.count == 0) return PatchOutcome::kNoPattern;
  for (const platform::PatchEdit& edit : edits_of(plan)) {
    uint64_t at = edit.start.value();
    if (at < page || at + edit.length > page + kPageSize) return PatchOutcome::kAcrossPages;
  }
  const bool done = text.anonymous ? patch_private(page, plan) : text.object && patch_file(text, plan);
  return done ? PatchOutcome::kPatched : PatchOutcome::kNotPlaced;
}

void MemoryManager::note_trap(Addr site, const TextSite& text, PatchOutcome outcome) {
  TrapSites& sites = TrapSites::all();
  const bool of_file = text.file != nullptr && text.object != nullptr;
  const void* where = of_file ? static_cast<const void*>(text.object.get()) : impl_.get();
  TrapSite entry;
  entry.offset = of_file ? site.value() - text.vma_start + text.vma_offset : site.value();
  if (sites.count(where, entry.offset, outcome)) return;
  entry.file = of_file ? text.file->mapped_identity().path : "anonymous";
  entry.outcome = outcome;
  if (text.size != 0) {
    const uint64_t at = std::min<uint64_t>(site.value() - text.page, text.size);
    entry.before = static_cast<uint8_t>(std::min<uint64_t>(at, TrapSite::kBefore));
    entry.after = static_cast<uint8_t>(std::min<uint64_t>(text.size - at, TrapSite::kAfter));
    memcpy(entry.text, text.bytes + at - entry.before, size_t{entry.before} + entry.after);
  }
  sites.add(where, std::move(entry));
}

// Pages that only this process has (code made at run time, copied text): changed in place.
bool MemoryManager::patch_private(uint64_t page, const platform::PatchPlan& plan) {
  Impl& m = *impl_;
  if (!m.resolve(page, Impl::Want::kForceWrite, Impl::MapIt::kNo)) return false;
  base::WriteLock active(m.active_mu);
  const Piece* p = m.pieces.find_const(page);
  if (!p || !p->has(kAnon) || p->has(kCow)) return false;
  for (const platform::PatchEdit& edit : edits_of(plan))
    if (!store_code(m.file.data(p->offset_of(edit.start.value())), edit.bytes, edit.length)) return false;
  return true;
}

namespace {

// Puts a copied granule in place of the file's pages in one address space.
bool map_granule(Impl& m, const memory::Mappable& object, uint64_t base, uint64_t page, const TextPatches::Run& granule) {
  MappingWrite lock(m);
  auto it = m.find_vma(page);
  if (it == m.vmas.end() || it->second.object.get() != &object || base + it->second.offset != it->first ||
      !it->second.prot.exec || it->second.prot.write)
    return false;
  uint64_t lo = std::max(it->first, base + granule.start), hi = std::min(it->second.end, base + granule.end);
  if (page < lo || page >= hi) return false;
  // The process's own copies of text stay; what is between them is replaced.
  for (size_t i = m.pieces.lower(lo); i < m.pieces.v.size() && m.pieces.v[i].start < hi; ++i) {
    const Piece& p = m.pieces.v[i];
    if (!p.has(kAnon)) continue;
    if (p.start > page) {
      hi = p.start;
      break;
    }
    if (p.end > page) return false;
    lo = p.end;
  }
  auto [first, last] = m.pieces.isolate(lo, hi);
  for (size_t i = first; i < last; ++i) m.retire_active(m.pieces.v[i].file_range());
  m.pieces.erase(first, last);
  Piece* p = m.map_patched_active(it, page);
  if (p) {
    m.map_piece_active(*p);
    lo = std::max(lo, p->end);  // normally nothing is left
  }
  if (lo < hi) m.space->unmap({Addr(lo), Addr(hi)});
  return p != nullptr;
}

}  // namespace

bool MemoryManager::patch_file(const TextSite& site, const platform::PatchPlan& plan) {
  Impl& m = *impl_;
  memory::Mappable& object = *site.object;
  auto patches = m.places->patches(object);
  // A file without a place gets the one that it has here.
  if (patches->base() == 0 && site.vma_start > site.vma_offset)
    m.places->adopt(*patches, site.vma_start - site.vma_offset);
  const uint64_t base = patches->base();
  if (base == 0 || base + site.vma_offset != site.vma_start) return false;
  const uint64_t offset = plan.edits[0].start.value() - base;  // all are on one page
  const uint64_t text_end = site.vma_offset + (site.vma_end - site.vma_start);
  TextPatches::Run run;
  bool stored = false;
  if (patches->find(offset, object, run)) {
    stored = true;
    for (const platform::PatchEdit& edit : edits_of(plan))
      stored = stored && store_code(m.file.data(run.memory_at(edit.start.value() - base)), edit.bytes, edit.length);
    const bool is_here = site.memory_offset == run.memory_at(site.page - base);
    m.file.drop_ref(run.pages);
    if (stored && is_here) return true;
  }
  if (!stored && !patches->copy(offset, site.vma_offset, text_end, object, [&](uint8_t* bytes, uint64_t start) {
        for (const platform::PatchEdit& edit : edits_of(plan)) memcpy(bytes + (edit.start.value() - base - start), edit.bytes, edit.length);
      }))
    return false;
  return map_granule(m, object, base, site.page, TextPatches::granule(offset, site.vma_offset, text_end));
}

bool MemoryManager::takes_cpuid_patches(Addr text) {
  Impl& m = *impl_;
  base::ReadLock mapping(m.mapping_mu);
  auto it = m.find_vma(text.value());
  if (it == m.vmas.end() || it->first != text.value()) return false;
  auto patches = m.patches_for(it->first, it->second);
  TextPatches::Run run;
  if (!patches || !patches->find(it->second.offset, *it->second.object, run)) return false;
  m.file.drop_ref(run.pages);
  return !patches->cpuid_seen_to.exchange(true);
}

void MemoryManager::patch_cpuid(Addr text, std::span<const platform::PatchEdit> edits) {
  Impl& m = *impl_;
  base::ReadLock mapping(m.mapping_mu);
  auto it = m.find_vma(text.value());
  if (it == m.vmas.end() || it->first != text.value()) return;
  auto patches = m.patches_for(it->first, it->second);
  if (!patches) return;
  for (const platform::PatchEdit& edit : edits) {
    const uint64_t offset = edit.start.value() - patches->base();
    TextPatches::Run run;
    if (!patches->find(offset, *it->second.object, run)) continue;
    uint8_t* at = m.file.data(run.memory_at(offset));
    // The file may be another one by now than the one that was read.
    const bool inside = offset + edit.length <= run.end && offset % kPageSize + edit.length <= kPageSize;
    if (inside && memcmp(at, edit.before, edit.length) == 0) (void)store_code(at, edit.bytes, edit.length);
    m.file.drop_ref(run.pages);
  }
}

}  // namespace sentry::mm
