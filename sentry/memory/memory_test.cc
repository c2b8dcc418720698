// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <map>
#include <random>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>

#include "sentry/memory/host_file_map.h"
#include "sentry/memory/memory_file.h"
#include "sentry/memory/page_cache.h"

#undef CHECK
#include <catch2/catch.hpp>

namespace sentry::memory {
namespace {

using enum abi::Errno;
constexpr uint64_t kPage = abi::kPageSize;

struct FakeSource final : PageSource {
  std::string bytes;
  int reads = 0;
  base::Result<size_t> read_pages(uint64_t offset, std::span<uint8_t> dst) override {
    ++reads;
    if (offset >= bytes.size()) return 0;
    size_t n = std::min(dst.size(), bytes.size() - offset);
    memcpy(dst.data(), bytes.data() + offset, n);
    return n;
  }
  base::Result<void> write_pages(uint64_t offset, std::span<const uint8_t> src) override {
    if (bytes.size() < offset + src.size()) bytes.resize(offset + src.size());
    memcpy(bytes.data() + offset, src.data(), src.size());
    return {};
  }
};

struct Recorder final : MappingObserver {
  std::vector<std::pair<uint64_t, uint64_t>> calls;
  void invalidate(const Mappable&, uint64_t start, uint64_t end) override { calls.emplace_back(start, end); }
};

base::Result<size_t> write_string(PageCache& cache, uint64_t offset, std::string_view s) {
  size_t at = 0;
  return cache.write(offset, s.size(), [&](std::span<uint8_t> dst) -> base::Result<size_t> {
    memcpy(dst.data(), s.data() + at, dst.size());
    at += dst.size();
    return dst.size();
  });
}

std::string read_string(PageCache& cache, uint64_t offset, uint64_t length) {
  std::string s;
  (void)cache.read(offset, length, [&](std::span<const uint8_t> src) -> base::Result<size_t> {
    s.append(reinterpret_cast<const char*>(src.data()), src.size());
    return src.size();
  });
  return s;
}

TEST_CASE("Pages are zero, counted, and never handed out twice", "[memory]") {
  auto file = *MemoryFile::create();
  auto a = *file->allocate(4 * kPage, MemoryKind::kAnonymous);
  memset(file->data(a.offset), 7, a.length);
  file->add_ref({a.offset + kPage, kPage});
  CHECK_FALSE(file->is_unique(a));
  bool unique = false;
  CHECK(file->unique_prefix(a, unique) == kPage);
  CHECK(unique);
  file->drop_ref(a);
  CHECK(file->is_unique({a.offset + kPage, kPage}));
  CHECK(file->data(a.offset + kPage)[5] == 7);
  file->flush();
  CHECK(file->data(a.offset)[5] == 0);
  auto b = *file->allocate(kPage, MemoryKind::kAnonymous);
  CHECK(b.offset >= a.end());
  file->drop_ref({a.offset + kPage, kPage});
  file->drop_ref(b);
}

TEST_CASE("Chunks come and go while offsets grow", "[memory]") {
  auto file = *MemoryFile::create();
  uint64_t last = 0;
  for (int i = 0; i < 40; ++i) {
    auto r = *file->allocate(100 << 20, MemoryKind::kAnonymous);
    CHECK(r.offset > last);
    last = r.offset;
    CHECK(file->bytes(r.offset, r.length).size() == r.length);
    file->data(r.offset)[0] = 1;
    file->drop_ref(r);
  }
  file->flush();
  CHECK(file->usage().total() < (8 << 20));
  auto big = *file->allocate(600 << 20, MemoryKind::kAnonymous);
  CHECK(file->bytes(big.offset + (500 << 20), 1 << 20).size() == 1 << 20);
  file->drop_ref(big);
}

TEST_CASE("The read-only twin cannot write and the file cannot shrink", "[memory]") {
  auto file = *MemoryFile::create();
  CHECK(fcntl(file->fd_read_only(), F_GETFL) % 4 == O_RDONLY);
  CHECK(ftruncate(file->fd(), 0) != 0);
}

TEST_CASE("Spares serve again once their last owner is gone, and only what nobody else has", "[memory]") {
  auto file = std::move(*MemoryFile::create());
  struct Owner final : base::RefCounted {
    std::atomic<bool> gone{false};
  };
  const auto owner = base::make_ref<Owner>();
  const auto fill = [&](FileRange r) { memset(file->data(r.offset), 0xee, r.length); };
  const FileRange range = *file->allocate(12 * kPage, MemoryKind::kAnonymous);
  fill({range.offset, 8 * kPage});  // the rest is not in memory
  file->give_spare(range, owner, owner->gone);
  REQUIRE(file->take_spare().length == 0);
  owner->gone = true;
  const FileRange again = file->take_spare();
  REQUIRE(again == FileRange{range.offset, 8 * kPage});
  REQUIRE(file->take_spare().length == 0);
  REQUIRE(file->is_unique(again));

  const FileRange source = *file->allocate(2 * kPage, MemoryKind::kAnonymous);
  memset(file->data(source.offset), 5, 2 * kPage);
  file->overwrite(again.offset, source.offset, 2 * kPage);
  REQUIRE(file->data(again.offset)[2 * kPage - 1] == 5);
  file->give_back_spare({again.offset + 2 * kPage, 6 * kPage});
  REQUIRE(file->take_spare().length == 6 * kPage);

  const FileRange shared = *file->allocate(8 * kPage, MemoryKind::kAnonymous);
  fill(shared);
  file->add_ref({shared.offset, kPage});
  file->give_spare(shared, owner, owner->gone);
  REQUIRE(file->take_spare().length == 0);

  const FileRange idle = *file->allocate(8 * kPage, MemoryKind::kAnonymous);
  fill(idle);
  file->give_spare(idle, owner, owner->gone);
  file->flush();
  REQUIRE(file->take_spare().length == 0);
}

TEST_CASE("The limit counts what the host holds", "[memory]") {
  auto file = *MemoryFile::create();
  file->set_limit(8 << 20);
  auto lazy = file->allocate(64 << 20, MemoryKind::kAnonymous);
  REQUIRE(lazy);
  CHECK_FALSE(file->allocate(16 << 20, MemoryKind::kTmpfs));
  memset(file->data(lazy->offset), 1, 9 << 20);
  CHECK(file->allocate(kPage, MemoryKind::kAnonymous).error() == kENOMEM);
  file->drop_ref(*lazy);
}

TEST_CASE("tmpfs data survives writes, holes and truncation", "[page_cache]") {
  auto file = *MemoryFile::create();
  auto cache = base::make_ref<PageCache>(*file, MemoryKind::kTmpfs, nullptr, false);
  CHECK(*write_string(*cache, 10000, "hello") == 5);
  CHECK(cache->size() == 10005);
  CHECK(read_string(*cache, 9998, 100) == std::string("\0\0hello", 7));
  CHECK(cache->next_data(0) == 8192);
  CHECK(cache->next_hole(8192) == 10005);
  CHECK(cache->next_hole(0) == 0);
  cache->set_size(10002);
  cache->set_size(20000);
  CHECK(read_string(*cache, 10000, 5) == std::string("he\0\0\0", 5));
  CHECK(read_string(*cache, 19999, 5).size() == 1);
  cache->punch_hole(10001, 1);
  CHECK(read_string(*cache, 10000, 2) == std::string("h\0", 2));
  cache->punch_hole(0, 20000);
  CHECK(cache->pages() == 0);
  CHECK(cache->allocate(0, 3 * kPage));
  CHECK(cache->pages() == 3);
}

TEST_CASE("Sequential writes stay contiguous in the memory file", "[page_cache]") {
  auto file = *MemoryFile::create();
  auto cache = base::make_ref<PageCache>(*file, MemoryKind::kTmpfs, nullptr, false);
  std::string page(kPage, 'x');
  for (int i = 0; i < 16; ++i) REQUIRE(write_string(*cache, i * kPage, page));
  auto r = *cache->translate(0, 16 * kPage, false);
  CHECK(r.length == 16 * kPage);
  file->drop_ref(r);
}

TEST_CASE("Holes that are touched in order are filled by more and more pages, others by one", "[page_cache]") {
  auto file = *MemoryFile::create();
  auto cache = base::make_ref<PageCache>(*file, MemoryKind::kTmpfs, nullptr, false);
  cache->set_size(4096 * kPage);
  auto touch = [&](uint64_t page) {
    auto r = *cache->translate(page * kPage, (4096 - page) * kPage, true);
    file->drop_ref(r);
    return r.length / kPage;
  };
  CHECK(touch(1000) == 1);
  CHECK(touch(2000) == 1);
  CHECK(cache->pages() == 2);
  uint64_t page = 0, times = 0;
  for (; page < 512; ++times) page += touch(page);
  CHECK(times < 20);
  CHECK(cache->pages() == page + 2);
  CHECK(touch(999) == 1);
}

TEST_CASE("A source is read ahead, once, and gets dirty pages back", "[page_cache]") {
  auto file = *MemoryFile::create();
  FakeSource source;
  for (int i = 0; i < 300000; ++i) source.bytes.push_back(static_cast<char>(i * 7));
  auto cache = base::make_ref<PageCache>(*file, MemoryKind::kPageCache, &source, false);
  cache->set_size(source.bytes.size());
  CHECK(read_string(*cache, 5, 1000) == source.bytes.substr(5, 1000));
  int reads = source.reads;
  CHECK(read_string(*cache, 50000, 1000) == source.bytes.substr(50000, 1000));
  CHECK(source.reads == reads);
  CHECK(read_string(*cache, 0, 1 << 20) == source.bytes);
  CHECK(*write_string(*cache, 299998, "ABCDEF") == 6);
  CHECK(cache->size() == 300004);
  CHECK(source.bytes.size() == 300000);
  REQUIRE(cache->sync(0, ~uint64_t{0}));
  CHECK(source.bytes.size() == 300004);
  CHECK(source.bytes.substr(299998) == "ABCDEF");
  cache->drop_clean();
  CHECK(cache->pages() == 0);
  auto r = *cache->translate(4096, 8192, true);
  file->data(r.offset)[0] = '!';
  file->drop_ref(r);
  REQUIRE(cache->sync(0, 1 << 20));
  CHECK(source.bytes[4096] == '!');
}

TEST_CASE("Pages beyond the end are ENXIO and truncation tells the observers", "[page_cache]") {
  auto file = *MemoryFile::create();
  auto cache = base::make_ref<PageCache>(*file, MemoryKind::kTmpfs, nullptr, false);
  auto recorder = base::make_ref<Recorder>();
  cache->add_observer(*recorder);
  cache->set_size(3 * kPage);
  CHECK(cache->translate(3 * kPage, kPage, false).error() == kENXIO);
  cache->set_size(kPage + 1);
  REQUIRE(recorder->calls.size() == 1);
  CHECK(recorder->calls[0].first == 2 * kPage);
  cache->remove_observer(*recorder);
  cache->set_size(0);
  CHECK(recorder->calls.size() == 1);
}

TEST_CASE("Random operations agree with a string", "[page_cache]") {
  auto file = *MemoryFile::create();
  for (bool with_source : {false, true}) {
    FakeSource source;
    auto cache = base::make_ref<PageCache>(*file, MemoryKind::kTmpfs, with_source ? &source : nullptr, false);
    std::string model;
    std::mt19937 rng(with_source ? 1 : 2);
    for (int i = 0; i < 4000; ++i) {
      uint64_t at = rng() % 200000, n = rng() % 20000;
      switch (rng() % 4) {
        case 0: {
          std::string s(n, static_cast<char>('a' + rng() % 26));
          REQUIRE(*write_string(*cache, at, s) == n);
          if (n != 0 && model.size() < at + n) model.resize(at + n);
          model.replace(std::min(at, model.size()), n, s);
          break;
        }
        case 1:
          REQUIRE(read_string(*cache, at, n) == (at < model.size() ? model.substr(at, n) : ""));
          break;
        case 2:
          if (rng() % 8 == 0) {
            cache->set_size(at);
            model.resize(at);
            source.bytes.resize(std::min<size_t>(source.bytes.size(), at));
          }
          break;
        case 3:
          if (with_source) {
            if (rng() % 4 == 0) REQUIRE(cache->sync(0, ~uint64_t{0}));
            if (rng() % 8 == 0) cache->drop_clean();
          } else {
            cache->punch_hole(at, n);
            if (at < model.size()) std::fill(model.begin() + at, model.begin() + std::min(model.size(), at + n), 0);
          }
          break;
      }
      REQUIRE(cache->size() == model.size());
    }
  }
  file->flush();
  CHECK(file->usage().total() == 0);
}

// A host file of `size` bytes, each the number of its page, opened with `flags`.
base::RefPtr<base::SharedFd> host_file(uint64_t size, int flags, int* also_writable = nullptr) {
  const int fd = memfd_create("host", MFD_CLOEXEC);
  std::string bytes(size, 0);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>('A' + i / kPage);
  REQUIRE(::write(fd, bytes.data(), size) == static_cast<ssize_t>(size));
  auto file = base::make_ref<base::SharedFd>(base::UniqueFd(open(("/proc/self/fd/" + std::to_string(fd)).c_str(), flags | O_CLOEXEC)));
  if (also_writable) *also_writable = fd;
  else close(fd);
  return file;
}

TEST_CASE("A host file's pages have offsets of their own", "[memory]") {
  auto file = *MemoryFile::create();
  CHECK(HostFileMap::create(*file, host_file(kPage, O_RDWR), kPage).error() == kEACCES);
  CHECK(HostFileMap::create(*file, host_file(kPage, O_RDONLY), 0).error() == kEFBIG);
  const uint64_t size = 3 * kPage + 100;
  auto map = *HostFileMap::create(*file, host_file(size, O_RDONLY), size);
  auto other = *HostFileMap::create(*file, host_file(kPage, O_RDONLY), kPage);
  CHECK(map->translate(4 * kPage, kPage, false).error() == kENXIO);
  CHECK(map->translate(0, kPage, true).error() == kEACCES);
  FileRange range = *map->translate(kPage, 100 * kPage, false);
  CHECK(range.length == 3 * kPage);
  CHECK(file->data(range.offset)[5] == 'B');
  CHECK(file->data(range.offset + 2 * kPage)[99] == 'D');
  CHECK(file->data(range.offset + 2 * kPage)[100] == 0);
  auto placed = *map->translate_cached(2 * kPage, kPage, 8 * kPage, false);
  CHECK(placed.start == kPage);
  CHECK(placed.range == range);
  CHECK(file->host_files().place(range.offset + kPage).offset == 2 * kPage);
  FileRange own = *file->allocate(2 * kPage, MemoryKind::kAnonymous);
  file->copy(own.offset, range.offset, 2 * kPage);
  CHECK(file->data(own.offset + kPage)[0] == 'C');
  file->drop_ref(own);
  file->drop_ref(range);
  map = nullptr;  // `placed` keeps the pages
  CHECK(file->data(placed.range.offset)[0] == 'B');
  file->drop_ref(placed.range);
}

TEST_CASE("A host file that becomes shorter reads as zeros", "[memory]") {
  auto file = *MemoryFile::create();
  int writable = -1;
  auto map = *HostFileMap::create(*file, host_file(4 * kPage, O_RDONLY, &writable), 4 * kPage);
  FileRange range = *map->translate(0, 4 * kPage, false);
  CHECK(file->data(range.offset + 3 * kPage)[0] == 'D');
  REQUIRE(ftruncate(writable, kPage) == 0);
  CHECK(file->data(range.offset)[0] == 'A');
  CHECK(file->data(range.offset + 3 * kPage)[0] == 0);
  FileRange own = *file->allocate(4 * kPage, MemoryKind::kAnonymous);
  file->copy(own.offset, range.offset, 4 * kPage);
  CHECK(file->data(own.offset)[0] == 'A');
  CHECK(file->data(own.offset + 2 * kPage)[0] == 0);
  file->drop_ref(own);
  file->drop_ref(range);
  close(writable);
}

}  // namespace
}  // namespace sentry::memory
