// SPDX-License-Identifier: Apache-2.0
#include <random>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>

#include "sentry/memory/host_file_map.h"
#include "sentry/memory/page_cache.h"
#include "sentry/mm/fake_platform.h"
#include "tests/util/catch.h"

namespace sentry::mm {
namespace {

using enum abi::Errno;
using abi::Addr;
using abi::Prot;
constexpr uint64_t kPage = abi::kPageSize;
constexpr Prot kRw{true, true, false}, kRo{true, false, false}, kNone{}, kRx{true, false, true};

struct World {
  std::unique_ptr<memory::MemoryFile> file = *memory::MemoryFile::create();
  FakePlatform platform;
  base::RefPtr<MemoryManager> mm = *MemoryManager::create(*file, platform);
  base::RefPtr<memory::PageCache> cache(uint64_t size, uint8_t fill = 0) {
    auto c = base::make_ref<memory::PageCache>(*file, memory::MemoryKind::kTmpfs, nullptr, false);
    c->set_size(size);
    if (fill)
      (void)c->write(0, size, [&](std::span<uint8_t> dst) -> base::Result<size_t> {
        memset(dst.data(), fill, dst.size());
        return dst.size();
      });
    return c;
  }
};

uint64_t map_at(MemoryManager& mm, uint64_t addr, uint64_t length, Prot prot, Sharing sharing = Sharing::kPrivate,
                base::RefPtr<memory::Mappable> object = nullptr, uint64_t offset = 0) {
  MmapOptions o;
  o.addr = Addr(addr);
  o.length = length;
  o.prot = prot;
  o.sharing = sharing;
  o.placement = addr ? Placement::kFixed : Placement::kAnywhere;
  o.object = std::move(object);
  o.offset = offset;
  return mm.mmap(o)->value();
}

TEST_CASE("Small anonymous memory faults once and reads zero", "[mm]") {
  World w;
  FakeGuest g(*w.file, *w.mm);
  uint64_t a = map_at(*w.mm, 0, 64 << 10, kRw);
  uint8_t v = 9;
  CHECK(g.load(a + 5000, v) == 0);
  CHECK(v == 0);
  for (uint64_t i = 0; i < 16; ++i) CHECK(g.store(a + i * kPage, 1) == 0);
  CHECK(g.faults <= 1);
  CHECK(w.mm->munmap(Addr(a), 64 << 10));
  CHECK(g.load(a, v) == 11);
  CHECK(g.last_code == 1);
  CHECK(g.space().unmaps == 1);
}

TEST_CASE("A process gets its own pages again, as zeros, unless somebody else may have seen them", "[mm]") {
  World w;
  FakeGuest g(*w.file, *w.mm);
  const uint64_t size = 16 * kPage;
  auto use = [&](FakeGuest& guest, MemoryManager& mm) {
    uint64_t a = map_at(mm, 0, size, kRw);
    const uint64_t offset = guest.space().pages.at(a).offset;
    for (uint64_t i = 0; i < size; i += kPage) {
      uint8_t v = 1;
      REQUIRE(guest.load(a + i, v) == 0);
      CHECK(v == 0);
      REQUIRE(guest.store(a + i, 7) == 0);
    }
    return std::pair(a, offset);
  };
  auto [a, first] = use(g, *w.mm);
  REQUIRE(w.mm->munmap(Addr(a), size));
  auto [b, second] = use(g, *w.mm);
  CHECK(second == first);
  // Untouched memory is not kept.
  uint64_t untouched = map_at(*w.mm, 0, 4 * kPage, kRw);
  REQUIRE(w.mm->munmap(Addr(untouched), 4 * kPage));
  auto child = *w.mm->fork();
  FakeGuest c(*w.file, *child);
  REQUIRE(w.mm->munmap(Addr(b), size));
  auto [d, third] = use(g, *w.mm);
  CHECK(third != first);
  uint8_t v = 0;
  CHECK(c.load(b, v) == 0);
  CHECK(v == 7);
  auto [e, fourth] = use(c, *child);
  CHECK(fourth != third);
  CHECK(fourth != first);
}

TEST_CASE("Protections are enforced and split the mapping", "[mm]") {
  World w;
  FakeGuest g(*w.file, *w.mm);
  uint64_t a = map_at(*w.mm, 0, 8 * kPage, kRw);
  uint8_t v = 0;
  REQUIRE(g.store(a, 1) == 0);
  REQUIRE(w.mm->mprotect(Addr(a + 2 * kPage), 2 * kPage, kRo, false));
  CHECK(g.store(a + 2 * kPage, 1) == 11);
  CHECK(g.last_code == 2);
  CHECK(g.load(a + 3 * kPage, v) == 0);
  CHECK(w.mm->vmas().size() == 3);
  CHECK(w.mm->copy_out(Addr(a + kPage), "0123456789abcdef", 16));
  CHECK(w.mm->copy_out(Addr(a + 2 * kPage - 8), "0123456789abcdef", 16).error() == kEFAULT);
  CHECK(*w.mm->copy_out_partial(Addr(a + 2 * kPage - 8), "0123456789abcdef", 16) == 8);
  REQUIRE(w.mm->mprotect(Addr(a), 8 * kPage, kRw, false));
  CHECK(w.mm->vmas().size() == 1);
  size_t faults = g.faults;
  CHECK(g.store(a + 2 * kPage, 1) == 0);
  CHECK(g.faults == faults);
  REQUIRE(w.mm->mprotect(Addr(a), 8 * kPage, kNone, false));
  CHECK(g.load(a, v) == 11);
  CHECK(w.mm->copy_in(&v, Addr(a), 1).error() == kEFAULT);
  CHECK(w.mm->mprotect(Addr(a), 9 * kPage, kRw, false).error() == kENOMEM);
  CHECK_FALSE(g.space().bad_protect);
}

TEST_CASE("Fork copies on write, reuses when alone", "[mm]") {
  World w;
  FakeGuest g(*w.file, *w.mm);
  uint64_t a = map_at(*w.mm, 0, 4 * kPage, kRw);
  uint64_t s = map_at(*w.mm, 0, 4 * kPage, kRw, Sharing::kShared);
  REQUIRE(g.store(a, 1) == 0);
  REQUIRE(g.store(s, 1) == 0);
  uint8_t v = 0;
  {
    auto child = *w.mm->fork();
    FakeGuest c(*w.file, *child);
    CHECK(c.load(a, v) == 0);
    CHECK(v == 1);
    CHECK(c.store(a, 2) == 0);
    CHECK(g.load(a, v) == 0);
    CHECK(v == 1);
    CHECK(g.store(a, 3) == 0);
    CHECK(c.load(a, v) == 0);
    CHECK(v == 2);
    CHECK(c.store(s, 7) == 0);
    CHECK(g.load(s, v) == 0);
    CHECK(v == 7);
    CHECK_FALSE(c.space().bad_protect);
  }
  auto child = *w.mm->fork();
  child.reset();
  size_t maps = g.space().maps;
  CHECK(g.store(a, 4) == 0);
  CHECK(g.load(a, v) == 0);
  CHECK(v == 4);
  CHECK(g.space().maps <= maps + 1);
  CHECK_FALSE(g.space().bad_protect);
}

TEST_CASE("File mappings: private copies, shared writes, SIGBUS past the end, truncation", "[mm]") {
  World w;
  FakeGuest g(*w.file, *w.mm);
  auto cache = w.cache(3 * kPage, 'f');
  uint64_t p = map_at(*w.mm, 0, 5 * kPage, kRw, Sharing::kPrivate, cache);
  uint64_t s = map_at(*w.mm, 0, 5 * kPage, kRw, Sharing::kShared, cache);
  uint8_t v = 0;
  CHECK(g.load(p, v) == 0);
  CHECK(v == 'f');
  CHECK(g.store(p + kPage, 'p') == 0);
  CHECK(g.store(s, 's') == 0);
  CHECK(g.load(s + kPage, v) == 0);
  CHECK(v == 'f');
  CHECK(g.load(p + 3 * kPage, v) == 7);
  CHECK(w.mm->copy_in(&v, Addr(s + 4 * kPage), 1).error() == kEFAULT);
  cache->set_size(kPage);
  CHECK(g.load(s + kPage, v) == 7);
  cache->set_size(2 * kPage);
  CHECK(g.load(s + kPage, v) == 0);
  CHECK(v == 0);
  w.mm.reset();
}

TEST_CASE("The stack grows to its limit and keeps its distance", "[mm]") {
  World w;
  FakeGuest g(*w.file, *w.mm);
  creds::LimitSet limits;
  limits.get(creds::Resource::kSTACK).soft = 1 << 20;
  w.mm->set_limits(limits);
  MmapOptions o;
  o.addr = Addr(0x700000000000);
  o.length = 128 << 10;
  o.prot = kRw;
  o.placement = Placement::kFixed;
  o.grows_down = o.stack = true;
  auto mapped = w.mm->mmap(o);
  INFO(abi::errno_name(mapped ? abi::Errno{} : mapped.error()));
  REQUIRE(mapped);
  uint64_t a = mapped->value();
  uint64_t top = a + (128 << 10);
  CHECK(g.store(a - 1, 1) == 0);
  CHECK(g.store(top - (1 << 20), 1) == 0);
  CHECK(g.store(top - (1 << 20) - 1, 1) == 11);
  CHECK(w.mm->copy_out(Addr(top - (1 << 20) - 8), "12345678", 8).error() == kEFAULT);
}

TEST_CASE("brk grows, shrinks and says where it is", "[mm]") {
  World w;
  FakeGuest g(*w.file, *w.mm);
  MemoryManager::Layout l;
  l.brk_start = Addr(0x5000800);
  w.mm->set_layout(l);
  CHECK(w.mm->brk(Addr(0))->value() == 0x5000800);
  CHECK(w.mm->brk(Addr(0x5100010))->value() == 0x5100010);
  CHECK(g.store(0x5100fff, 1) == 0);
  CHECK(g.store(0x5101000, 1) == 11);
  CHECK(w.mm->brk(Addr(0x5003000))->value() == 0x5003000);
  CHECK(g.store(0x5003000, 1) == 11);
  CHECK(w.mm->vmas()[0].name == "[heap]");
}

TEST_CASE("mremap grows in place, moves with its content, and duplicates shared memory", "[mm]") {
  World w;
  FakeGuest g(*w.file, *w.mm);
  uint64_t a = map_at(*w.mm, 0x20000000, 4 * kPage, kRw);
  REQUIRE(g.store(a + 3 * kPage, 42) == 0);
  CHECK(w.mm->mremap(Addr(a), 4 * kPage, 8 * kPage, 0, Addr())->value() == a);
  map_at(*w.mm, a + 8 * kPage, kPage, kRo);
  CHECK(w.mm->mremap(Addr(a), 8 * kPage, 16 * kPage, 0, Addr()).error() == kENOMEM);
  uint64_t b = w.mm->mremap(Addr(a), 8 * kPage, 16 * kPage, 1, Addr())->value();
  CHECK(b != a);
  uint8_t v = 0;
  CHECK(g.load(b + 3 * kPage, v) == 0);
  CHECK(v == 42);
  CHECK(g.load(a + 3 * kPage, v) == 11);
  CHECK(w.mm->mremap(Addr(b), 16 * kPage, 2 * kPage, 0, Addr())->value() == b);
  CHECK(g.load(b + 3 * kPage, v) == 11);
  CHECK(w.mm->mremap(Addr(b), 64 * kPage, 128 * kPage, 1, Addr()).error() == kEFAULT);
  CHECK(w.mm->mremap(Addr(b + 1), kPage, kPage, 1, Addr()).error() == kEINVAL);
  CHECK(w.mm->mremap(Addr(b), kPage, 0, 1, Addr()).error() == kEINVAL);
  uint64_t s = map_at(*w.mm, 0, 2 * kPage, kRw, Sharing::kShared);
  uint64_t d = w.mm->mremap(Addr(s), 0, 2 * kPage, 1, Addr())->value();
  CHECK(g.store(s, 5) == 0);
  CHECK(g.load(d, v) == 0);
  CHECK(v == 5);
}

TEST_CASE("Limits and arguments give Linux's errors", "[mm]") {
  World w;
  MmapOptions o;
  o.prot = kRw;
  CHECK(w.mm->mmap(o).error() == kEINVAL);
  o.length = uint64_t{1} << 60;
  CHECK(w.mm->mmap(o).error() == kENOMEM);
  o.length = kPage;
  o.placement = Placement::kFixed;
  o.addr = Addr(0x30001);
  CHECK(w.mm->mmap(o).error() == kEINVAL);
  o.addr = Addr(0x1000);
  CHECK(w.mm->mmap(o).error() == kEPERM);
  o.addr = Addr(0x7ffffffff000);
  CHECK(w.mm->mmap(o).error() == kENOMEM);
  o.addr = Addr(0x40000);
  CHECK(w.mm->mmap(o));
  o.placement = Placement::kFixedNoReplace;
  CHECK(w.mm->mmap(o).error() == kEEXIST);
  creds::LimitSet limits;
  limits.get(creds::Resource::kAS).soft = 2 * kPage;
  w.mm->set_limits(limits);
  o.addr = Addr(0x50000);
  o.length = 2 * kPage;
  CHECK(w.mm->mmap(o).error() == kENOMEM);
  CHECK(w.mm->munmap(Addr(0x40001), 1).error() == kEINVAL);
  CHECK(w.mm->munmap(Addr(0x40000), 0).error() == kEINVAL);
  CHECK(w.mm->madvise(Addr(0x40000), kPage, 7).error() == kEINVAL);
  CHECK(w.mm->madvise(Addr(0x90000), kPage, 4).error() == kENOMEM);
  CHECK(w.mm->mlock(Addr(0x40000), kPage, false));
  CHECK(w.mm->madvise(Addr(0x40000), kPage, 4).error() == kEINVAL);
}

TEST_CASE("Strings stop at NUL, at the limit and at bad memory", "[mm]") {
  World w;
  uint64_t a = map_at(*w.mm, 0, 2 * kPage, kRw);
  REQUIRE(w.mm->copy_out(Addr(a + 2 * kPage - 6), "hello", 6));
  CHECK(*w.mm->read_cstring(Addr(a + 2 * kPage - 6), 100) == "hello");
  CHECK(*w.mm->read_cstring(Addr(a + 2 * kPage - 6), 5) == "hello");
  CHECK(w.mm->read_cstring(Addr(a + 2 * kPage - 6), 4).error() == kENAMETOOLONG);
  char room[100];
  CHECK(*w.mm->read_cstring_into(room, Addr(a + 2 * kPage - 6)) == 5);
  CHECK(std::string_view(room, 5) == "hello");
  CHECK(*w.mm->read_cstring_into(std::span(room).first(6), Addr(a + 2 * kPage - 6)) == 5);
  CHECK(w.mm->read_cstring_into(std::span(room).first(5), Addr(a + 2 * kPage - 6)).error() == kENAMETOOLONG);
  REQUIRE(w.mm->copy_out(Addr(a + kPage - 4), "across", 7));
  CHECK(*w.mm->read_cstring_into(room, Addr(a + kPage - 4)) == 6);
  CHECK(std::string_view(room, 6) == "across");
  REQUIRE(w.mm->copy_out(Addr(a + 2 * kPage - 1), "x", 1));
  CHECK(w.mm->read_cstring(Addr(a + 2 * kPage - 3), 100).error() == kEFAULT);
  CHECK(w.mm->read_cstring_into(room, Addr(a + 2 * kPage - 3)).error() == kEFAULT);
  CHECK(w.mm->read_cstring(Addr(~uint64_t{0} - 2), 100).error() == kEFAULT);
  CHECK(w.mm->load_u32(Addr(a + 2)).error() == kEINVAL);
  uint32_t expected = 0;
  CHECK(*w.mm->cas_u32(Addr(a), expected, 7));
  CHECK(*w.mm->load_u32(Addr(a)) == 7);
}

TEST_CASE("A patched site is shared by every process that maps the file", "[mm]") {
  World w;
  auto text = w.cache(8 * kPage, 0x90);
  const uint8_t call[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05};
  (void)text->write(3 * kPage + 0x50, 7, [&](std::span<uint8_t> dst) -> base::Result<size_t> {
    memcpy(dst.data(), call, dst.size());
    return dst.size();
  });
  uint64_t base = w.mm->pick_text_address(*text, 8 * kPage).value();
  CHECK(base >= 0x10000000);
  auto other = *MemoryManager::create(*w.file, w.platform);
  CHECK(other->pick_text_address(*text, 8 * kPage).value() == base);
  map_at(*w.mm, base + kPage, 7 * kPage, kRx, Sharing::kPrivate, text, kPage);
  FakeGuest g(*w.file, *w.mm);
  uint64_t site = base + 3 * kPage + 0x57;
  uint8_t v = 0;
  REQUIRE(g.load(site - 2, v, platform::AccessKind::kExecute) == 0);
  CHECK(v == 0x0f);
  w.platform.next_plan = {{{Addr(site - 7), {0xe9, 1, 2, 3, 4}, 5}, {Addr(site + 16), {0xeb, 0x10}, 2}}, 2};
  w.mm->consider_patching(Addr(site));
  REQUIRE(g.load(site - 7, v, platform::AccessKind::kExecute) == 0);
  CHECK(v == 0xe9);
  REQUIRE(g.load(site + 16, v, platform::AccessKind::kExecute) == 0);
  CHECK(v == 0xeb);
  map_at(*other, base + kPage, 7 * kPage, kRx, Sharing::kPrivate, text, kPage);
  FakeGuest o(*w.file, *other);
  REQUIRE(o.load(site - 7, v, platform::AccessKind::kExecute) == 0);
  CHECK(v == 0xe9);
  auto child = *w.mm->fork();
  FakeGuest c(*w.file, *child);
  REQUIRE(c.load(site - 7, v, platform::AccessKind::kExecute) == 0);
  CHECK(v == 0xe9);
  // The file's own bytes stay.
  uint64_t plain = map_at(*w.mm, 0, 8 * kPage, kRo, Sharing::kPrivate, text);
  REQUIRE(g.load(plain + 3 * kPage + 0x50, v) == 0);
  CHECK(v == 0xb8);
}

// Text of `pages` pages with a call site at byte 0x50 of each, in a host file.
base::RefPtr<memory::HostFileMap> host_text(World& w, uint64_t pages) {
  const int fd = memfd_create("text", MFD_CLOEXEC);
  std::string bytes(pages * kPage, '\x90');
  for (uint64_t i = 0; i < pages; ++i) bytes.replace(i * kPage + 0x50, 7, std::string("\xb8\x27\0\0\0\x0f\x05", 7));
  REQUIRE(::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  base::UniqueFd ro(open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
  close(fd);
  return *memory::HostFileMap::create(*w.file, base::make_ref<base::SharedFd>(std::move(ro)), bytes.size());
}

TEST_CASE("Text of a host file is mapped as it is, and copied only where it is patched", "[mm]") {
  World w;
  constexpr uint64_t kPages = 256, kGranulePages = 32;
  auto text = host_text(w, kPages);
  const uint64_t base = w.mm->pick_text_address(*text, kPages * kPage).value();
  map_at(*w.mm, base, kPages * kPage, kRx, Sharing::kPrivate, text);
  FakeGuest g(*w.file, *w.mm);
  uint8_t v = 0;
  REQUIRE(g.load(base, v, platform::AccessKind::kExecute) == 0);
  CHECK(v == 0x90);
  CHECK(w.file->usage().total() == 0);
  const auto from_host = [&](uint64_t page) { return g.space().pages.at(base + page * kPage).file != nullptr; };
  const auto patch = [&](MemoryManager& mm, uint64_t page, uint64_t at = 0x50) {
    const uint64_t site = base + page * kPage + 0x57;
    w.platform.next_plan = {{{Addr(base + page * kPage + at), {0xe9, 1, 2, 3, 4}, 5}}, 1};
    mm.consider_patching(Addr(site));
    REQUIRE(g.load(base + page * kPage + at, v, platform::AccessKind::kExecute) == 0);
    CHECK(v == 0xe9);
  };
  patch(*w.mm, 40);
  CHECK(!from_host(kGranulePages));
  CHECK(!from_host(2 * kGranulePages - 1));
  CHECK(from_host(kGranulePages - 1));
  CHECK(from_host(2 * kGranulePages));
  // Another site of the granule needs no other mapping.
  const size_t maps = g.space().maps;
  patch(*w.mm, 41);
  CHECK(g.space().maps == maps);
  // A store across cache lines cannot be made in text that runs: the granule is copied again.
  patch(*w.mm, 42, 0x3e);
  CHECK(!from_host(42));
  REQUIRE(g.load(base + 40 * kPage + 0x50, v, platform::AccessKind::kExecute) == 0);
  CHECK(v == 0xe9);
  // A new process starts with what is patched.
  auto other = *MemoryManager::create(*w.file, w.platform);
  map_at(*other, base, kPages * kPage, kRx, Sharing::kPrivate, text);
  FakeGuest o(*w.file, *other);
  for (uint64_t page : {40, 41, 42}) {
    REQUIRE(o.load(base + page * kPage + (page == 42 ? 0x3e : 0x50), v, platform::AccessKind::kExecute) == 0);
    CHECK(v == 0xe9);
  }
  CHECK(o.faults == 0);  // all was mapped with mmap()
  // Most of it patched: all of it copied.
  for (uint64_t page : {3, 70, 100, 130}) patch(*w.mm, page);
  auto third = *MemoryManager::create(*w.file, w.platform);
  map_at(*third, base, kPages * kPage, kRx, Sharing::kPrivate, text);
  FakeGuest t(*w.file, *third);
  REQUIRE(t.load(base + 200 * kPage, v, platform::AccessKind::kExecute) == 0);
  CHECK(t.space().pages.at(base + 200 * kPage).file == nullptr);
}

TEST_CASE("Text that the host refuses to map is copied", "[mm]") {
  World w;
  auto text = host_text(w, 64);
  const uint64_t a = map_at(*w.mm, 0x40000000, 64 * kPage, kRx, Sharing::kPrivate, text);
  FakeGuest g(*w.file, *w.mm);
  uint8_t v = 0;
  REQUIRE(g.load(a, v, platform::AccessKind::kExecute) == 0);
  g.space().pages.clear();
  g.space().refused = 1;
  REQUIRE(g.load(a + 9 * kPage + 0x50, v, platform::AccessKind::kExecute) == 0);
  CHECK(v == 0xb8);
  CHECK(g.space().pages.at(a + 9 * kPage).file == nullptr);
}

// A page-by-page model.
struct ModelPage {
  std::shared_ptr<std::vector<uint8_t>> bytes;
  Prot prot;
  bool shared = false;
};
struct Process {
  base::RefPtr<MemoryManager> mm;
  std::map<uint64_t, ModelPage> pages;
};

TEST_CASE("Random operations agree with a page-by-page model", "[mm]") {
  constexpr uint64_t kBase = 0x40000000, kPages = 48;
  for (unsigned seed = 0; seed < 12; ++seed) {
    World w;
    std::mt19937 rng(seed);
    std::vector<Process> all;
    all.push_back({w.mm, {}});
    auto fresh = [] { return std::make_shared<std::vector<uint8_t>>(kPage, 0); };
    for (int step = 0; step < 6000; ++step) {
      Process& p = all[rng() % all.size()];
      FakeGuest g(*w.file, *p.mm);
      uint64_t first = rng() % kPages, n = 1 + rng() % std::min<uint64_t>(8, kPages - first);
      uint64_t start = kBase + first * kPage, end = start + n * kPage;
      uint64_t addr = start + rng() % kPage;
      auto it = p.pages.find(start);
      Prot prots[] = {kRw, kRw, kRo, kNone};
      INFO("seed " << seed << " step " << step);
      switch (rng() % 14) {
        case 0: {
          bool shared = rng() % 3 == 0;
          Prot prot = prots[rng() % 4];
          map_at(*p.mm, start, n * kPage, prot, shared ? Sharing::kShared : Sharing::kPrivate);
          for (uint64_t a = start; a < end; a += kPage) p.pages[a] = {fresh(), prot, shared};
          break;
        }
        case 1:
          REQUIRE(p.mm->munmap(Addr(start), n * kPage));
          for (uint64_t a = start; a < end; a += kPage) p.pages.erase(a);
          break;
        case 2: {
          Prot prot = prots[rng() % 4];
          bool whole = true;
          for (uint64_t a = start; a < end; a += kPage) {
            auto page = p.pages.find(a);
            if (page == p.pages.end()) {
              whole = false;
              break;
            }
            page->second.prot = prot;
          }
          REQUIRE(p.mm->mprotect(Addr(start), n * kPage, prot, false).has_value() == whole);
          break;
        }
        case 3:
          if (all.size() < 5) {
            Process child{*p.mm->fork(), {}};
            for (auto& [a, page] : p.pages) {
              child.pages[a] = page;
              if (!page.shared) child.pages[a].bytes = std::make_shared<std::vector<uint8_t>>(*page.bytes);
            }
            all.push_back(std::move(child));
          }
          break;
        case 4:
          if (all.size() > 1) all.erase(all.begin() + static_cast<ptrdiff_t>(rng() % all.size()));
          continue;
        case 5: {
          (void)p.mm->madvise(Addr(start), n * kPage, 4);
          for (uint64_t a = start; a < end; a += kPage)
            if (auto page = p.pages.find(a); page != p.pages.end() && !page->second.shared) page->second.bytes = fresh();
          break;
        }
        case 6: {
          uint64_t to = kBase + (rng() % (kPages - n)) * kPage;
          bool whole = true, same = true;
          for (uint64_t a = start; a < end; a += kPage) {
            auto page = p.pages.find(a);
            if (page == p.pages.end()) whole = false;
          }
          if (!whole || (to < end && start < to + n * kPage)) break;
          auto moved = p.mm->mremap(Addr(start), n * kPage, n * kPage, 3, Addr(to));
          (void)same;
          // A range of several VMAs is EFAULT; the target is unmapped only afterwards.
          if (!moved) break;
          std::vector<ModelPage> pages;
          for (uint64_t a = start; a < end; a += kPage) {
            pages.push_back(p.pages[a]);
            p.pages.erase(a);
          }
          for (uint64_t i = 0; i < n; ++i) p.pages[to + i * kPage] = pages[i];
          break;
        }
        case 7:
        case 8:
        case 9: {
          uint8_t v = static_cast<uint8_t>(rng());
          bool ok = it != p.pages.end() && it->second.prot.write;
          REQUIRE((g.store(addr, v) == 0) == ok);
          if (ok) (*it->second.bytes)[addr % kPage] = v;
          break;
        }
        case 10:
        case 11: {
          uint8_t v = 0;
          bool ok = it != p.pages.end() && it->second.prot.any();
          REQUIRE((g.load(addr, v) == 0) == ok);
          if (ok) REQUIRE(v == (*it->second.bytes)[addr % kPage]);
          break;
        }
        case 12: {
          std::vector<uint8_t> data(rng() % (3 * kPage), static_cast<uint8_t>(rng()));
          auto done = p.mm->copy_out_partial(Addr(addr), data.data(), data.size());
          size_t expect = 0;
          while (expect < data.size()) {
            auto page = p.pages.find((addr + expect) & ~(kPage - 1));
            if (page == p.pages.end() || !page->second.prot.write) break;
            (*page->second.bytes)[(addr + expect) % kPage] = data[expect];
            ++expect;
          }
          if (expect == 0 && !data.empty()) {
            REQUIRE(done.error() == kEFAULT);
          } else {
            REQUIRE(*done == expect);
          }
          break;
        }
        case 13: {
          std::vector<uint8_t> data(rng() % (3 * kPage));
          auto done = p.mm->copy_in_partial(data.data(), Addr(addr), data.size());
          for (size_t i = 0; done && i < *done; ++i) {
            uint64_t a = addr + i;
            REQUIRE(data[i] == (*p.pages.at(a & ~(kPage - 1)).bytes)[a % kPage]);
          }
          break;
        }
      }
      REQUIRE_FALSE(g.space().bad_protect);
    }
    w.mm.reset();
    all.clear();
    w.file->flush();
    CHECK(w.file->usage().total() == 0);
  }
}

}  // namespace
}  // namespace sentry::mm
