// SPDX-License-Identifier: Apache-2.0
// Twins of text and their granules.
#include <algorithm>

#include "sentry/mm/impl.h"

namespace sentry::mm {

namespace {

constexpr uint64_t kGranule = 128 << 10;   // copied at once
constexpr uint64_t kTwinSpan = 16 << 20;   // file bytes of one twin
constexpr uint64_t kSmallTwin = 4 << 20;   // copied as a whole once half of it is, or many processes have mapped it
constexpr uint32_t kManyProcesses = 64;    // a mapping less in each saves some 10 us, a page that is copied costs 2 once and 4 KiB

size_t granule_count(uint64_t start, uint64_t end) { return (end - round_down(start, kGranule) + kGranule - 1) / kGranule; }

}  // namespace

TextPatches::~TextPatches() {
  for (auto& [end, twin] : twins_) file_.drop_ref(twin.pages);
}

TextPatches::Run TextPatches::granule(uint64_t offset, uint64_t from, uint64_t to) {
  const uint64_t start = round_down(offset, kGranule);
  return {std::max(start, from), std::min(start + kGranule, to), {}};
}

bool TextPatches::Twin::has(uint64_t offset) const {
  return offset >= start && offset < end && granules[(offset - round_down(start, kGranule)) / kGranule] == State::kCopied;
}

TextPatches::State& TextPatches::Twin::at(uint64_t offset) { return granules[(offset - round_down(start, kGranule)) / kGranule]; }

TextPatches::Twin* TextPatches::twin_at(uint64_t offset, uint64_t version) {
  auto it = twins_.upper_bound(offset);
  if (it == twins_.end() || it->second.start > offset || it->second.version != version) return nullptr;
  return &it->second;
}

bool TextPatches::find(uint64_t offset, const memory::Mappable& object, Run& out) {
  base::MutexLock lock(mu_);
  Twin* twin = twin_at(offset, object.version());
  if (!twin || !twin->has(offset)) return false;
  const Run one = granule(offset, twin->start, twin->end);
  uint64_t lo = one.start, hi = one.end;
  while (lo > twin->start && twin->has(lo - 1)) lo = granule(lo - 1, twin->start, twin->end).start;
  while (hi < twin->end && twin->has(hi)) hi = granule(hi, twin->start, twin->end).end;
  out = {lo, hi, {twin->pages.offset + (lo - twin->start), hi - lo}};
  file_.add_ref(out.pages);
  return true;
}

void TextPatches::clip(uint64_t offset, const memory::Mappable& object, uint64_t& lo, uint64_t& hi) {
  base::MutexLock lock(mu_);
  for (auto& [end, twin] : twins_) {
    if (end <= lo || twin.start >= hi || twin.version != object.version()) continue;
    for (uint64_t at = twin.start; at < twin.end; at = granule(at, twin.start, twin.end).end) {
      const Run g = granule(at, twin.start, twin.end);
      if (!twin.has(at)) continue;
      if (g.end <= offset) lo = std::max(lo, g.end);
      else hi = std::min(hi, g.start);
    }
  }
}

// A twin for the text around `offset`, between those that are there. Those of older versions go.
TextPatches::Twin* TextPatches::make_twin(uint64_t offset, uint64_t from, uint64_t to, uint64_t version,
                                          std::vector<memory::FileRange>& drop) {
  Twin twin;
  twin.version = version;
  twin.start = std::max(round_down(offset, kTwinSpan), from);
  twin.end = std::min(round_down(offset, kTwinSpan) + kTwinSpan, to);
  for (auto it = twins_.upper_bound(twin.start); it != twins_.end() && it->second.start < twin.end;) {
    const Twin& other = it->second;
    if (other.version != version || (other.start <= offset && offset < other.end)) {
      drop.push_back(other.pages);
      it = twins_.erase(it);
      continue;
    }
    if (other.end <= offset) twin.start = other.end;
    else twin.end = std::min(twin.end, other.start);
    ++it;
  }
  auto pages = file_.allocate(twin.end - twin.start, memory::MemoryKind::kPageCache);
  if (!pages) return nullptr;
  twin.pages = *pages;
  twin.granules.resize(granule_count(twin.start, twin.end));
  return &twins_.emplace(twin.end, std::move(twin)).first->second;
}

// Other pages for one granule: a twin of its own between the rests of the one that had it.
void TextPatches::replace_granule(const Run& granule, memory::FileRange pages, uint64_t version,
                                  std::vector<memory::FileRange>& drop) {
  if (Twin* old = twin_at(granule.start, version)) {
    const Twin whole = *old;
    twins_.erase(whole.end);
    const auto part = [&](uint64_t start, uint64_t end) {
      mu_.assert_held();
      const uint64_t lo = std::max(start, whole.start), hi = std::min(end, whole.end);
      if (lo >= hi) return;
      Twin t{lo, hi, {whole.pages.offset + (lo - whole.start), hi - lo}, version, {}};
      const auto first = static_cast<ptrdiff_t>((lo - round_down(whole.start, kGranule)) / kGranule);
      t.granules.assign(whole.granules.begin() + first, whole.granules.begin() + first + static_cast<ptrdiff_t>(granule_count(lo, hi)));
      twins_.emplace(hi, std::move(t));
    };
    part(whole.start, granule.start);
    part(granule.end, whole.end);
    const uint64_t lo = std::max(granule.start, whole.start), hi = std::min(granule.end, whole.end);
    drop.push_back({whole.pages.offset + (lo - whole.start), hi - lo});
  }
  twins_.emplace(granule.end, Twin{granule.start, granule.end, pages, version, {State::kCopied}});
}

// The file's bytes of a granule into its pages.
bool TextPatches::copy_bytes(memory::Mappable& object, const Run& granule) {
  for (uint64_t at = granule.start; at < granule.end;) {
    auto from = object.translate(at, granule.end - at, false);
    if (!from) return false;  // the end of the file was inside
    file_.copy(granule.memory_at(at), from->offset, from->length);
    file_.drop_ref(*from);
    at += from->length;
  }
  return true;
}

bool TextPatches::copy(uint64_t offset, uint64_t from, uint64_t to, memory::Mappable& object,
                       base::FunctionRef<void(uint8_t*, uint64_t)> change) {
  std::vector<memory::FileRange> drop;
  const uint64_t version = object.version();
  if (object.write_windows.load() != 0) return false;
  Run copied;      // what is there already
  Run fresh;
  bool have = find(offset, object, copied);
  {
    base::MutexLock lock(mu_);
    Twin* twin = twin_at(offset, version);
    if (!twin) twin = make_twin(offset, from, to, version, drop);
    if (!twin || twin->at(offset) == State::kCopying || (twin->at(offset) == State::kCopied) != have) {
      if (have) drop.push_back(copied.pages);
      have = false;
    } else {
      fresh = granule(offset, twin->start, twin->end);
      if (!have) {
        twin->at(offset) = State::kCopying;
        fresh.pages = {twin->pages.offset + (fresh.start - twin->start), fresh.end - fresh.start};
        file_.add_ref(fresh.pages);
      }
    }
  }
  for (memory::FileRange r : drop) file_.drop_ref(r);
  drop.clear();
  if (fresh.end == 0) return false;
  bool ok = true;
  if (have) {  // what is there runs and cannot be changed at once
    auto pages = file_.allocate(fresh.end - fresh.start, memory::MemoryKind::kPageCache);
    if (pages) {
      fresh.pages = *pages;
      file_.copy(pages->offset, copied.memory_at(fresh.start), pages->length);
    }
    file_.drop_ref(copied.pages);
    ok = pages.has_value();
  } else {
    ok = copy_bytes(object, fresh);
  }
  if (ok) change(file_.data(fresh.pages.offset), fresh.start);
  {
    base::MutexLock lock(mu_);
    Twin* twin = twin_at(offset, version);
    if (have) {
      if (ok && twin && granule(offset, twin->start, twin->end).start == fresh.start) {
        replace_granule(fresh, fresh.pages, version, drop);
      } else {
        if (ok) drop.push_back(fresh.pages);
        ok = false;
      }
    } else {
      drop.push_back(fresh.pages);
      if (twin) twin->at(offset) = ok ? State::kCopied : State::kEmpty;
      ok = ok && twin;
    }
  }
  for (memory::FileRange r : drop) file_.drop_ref(r);
  if (ok && !have) copy_rest(offset, object);
  return ok;
}

void TextPatches::note_placed(memory::Mappable& object) {
  if (placed_.fetch_add(1, std::memory_order_relaxed) + 1 != kManyProcesses) return;
  std::vector<uint64_t> begun;
  {
    base::MutexLock lock(mu_);
    for (const auto& [end, twin] : twins_) begun.push_back(twin.start);
  }
  for (const uint64_t start : begun) copy_rest(start, object);
}

// Fewer, longer mappings are worth more than the memory once most of a twin is copied anyway, or many processes have them.
void TextPatches::copy_rest(uint64_t offset, memory::Mappable& object) {
  const uint64_t version = object.version();
  if (object.write_windows.load() != 0) return;
  for (uint64_t next = 0;;) {
    Run empty;
    {
      base::MutexLock lock(mu_);
      Twin* twin = twin_at(offset, version);
      if (!twin || twin->end - twin->start > kSmallTwin) return;
      const auto copied = std::count(twin->granules.begin(), twin->granules.end(), State::kCopied);
      if (placed_.load(std::memory_order_relaxed) < kManyProcesses && 2 * static_cast<size_t>(copied) < twin->granules.size()) return;
      for (next = std::max(next, twin->start); next < twin->end && twin->at(next) != State::kEmpty;)
        next = granule(next, twin->start, twin->end).end;
      if (next >= twin->end) return;
      empty = granule(next, twin->start, twin->end);
      empty.pages = {twin->pages.offset + (empty.start - twin->start), empty.end - empty.start};
      file_.add_ref(empty.pages);
      twin->at(next) = State::kCopying;
      next = empty.end;
    }
    const bool ok = copy_bytes(object, empty);
    {
      base::MutexLock lock(mu_);
      if (Twin* twin = twin_at(empty.start, version)) twin->at(empty.start) = ok ? State::kCopied : State::kEmpty;
    }
    file_.drop_ref(empty.pages);
    if (!ok) return;
  }
}

}  // namespace sentry::mm
