// SPDX-License-Identifier: Apache-2.0
// ELF files and scripts, well-formed and hostile, against the errors of Linux's fs/exec.c and binfmt_elf.c.
#include "sentry/loader/loader.h"

#include <cstring>
#include <random>

#include "sentry/loader/elf.h"
#include "sentry/loader/fake_file.h"
#include "sentry/mm/fake_platform.h"
#include "tests/util/catch.h"

namespace sentry::loader {
namespace {

using enum abi::Errno;
using abi::kPageSize;
using base::RefPtr;
using base::Result;

struct Elf {
  ElfHeader header;
  std::vector<ElfSegment> segments;
  std::string body = std::string(3 * kPageSize, 'b');
  Elf() {
    memcpy(header.ident, "\177ELF\2\1\1", 8);
    header.type = 2;
    header.machine = 62;
    header.version = 1;
    header.entry = 0x400100;
    header.phoff = 64;
    header.phentsize = sizeof(ElfSegment);
    segments.push_back({1, 5, 0, 0x400000, 0x400000, 2 * kPageSize, 2 * kPageSize, kPageSize});
    segments.push_back({1, 6, 2 * kPageSize, 0x402000, 0x402000, 0x100, 3 * kPageSize, kPageSize});
  }
  std::string bytes() const {
    std::string s = body;
    ElfHeader h = header;
    if (h.phnum == 0) h.phnum = static_cast<uint16_t>(segments.size());
    memcpy(s.data(), &h, sizeof h);
    memcpy(s.data() + 64, segments.data(), segments.size() * sizeof(ElfSegment));
    return s;
  }
};

struct World {
  std::unique_ptr<memory::MemoryFile> file = *memory::MemoryFile::create();
  mm::FakePlatform platform;
  RefPtr<mm::MemoryManager> mm = *mm::MemoryManager::create(*file, platform);
  std::map<std::string, std::string> files;
  std::vector<std::string> argv{"prog", "one"}, envp{"A=b"};
  creds::LimitSet limits;
  bool path_inaccessible = false;

  Result<LoadedImage> load(const std::string& bytes) {
    FakeContext ctx(*mm);
    auto open = [&](const std::string& path) -> Result<RefPtr<vfs::FileDescription>> {
      auto it = files.find(path);
      if (it == files.end()) return base::err(kENOENT);
      return RefPtr<vfs::FileDescription>(base::make_ref<BytesFile>(*file, it->second));
    };
    auto identity = [](vfs::FileDescription&) -> Result<Identity> { return Identity{1, 2, 3, 4, false}; };
    mm->set_limits(limits);
    LoadArgs args{ctx, *mm, base::make_ref<BytesFile>(*file, bytes), "/bin/prog", argv, envp, limits, path_inaccessible, open, identity};
    return loader::load(args);
  }
  uint64_t word(uint64_t at) {
    uint64_t v = 0;
    REQUIRE(mm->copy_in(&v, abi::Addr(at), 8));
    return v;
  }
  std::string text(uint64_t at) { return *mm->read_cstring(abi::Addr(at), 4096); }
};

TEST_CASE("A static program: segments, zeroed bss, stack", "[loader]") {
  World w;
  auto image = w.load(Elf().bytes());
  REQUIRE(image);
  CHECK(image->entry.value() == 0x400100);
  uint64_t sp = image->stack_pointer.value();
  CHECK(sp % 16 == 0);
  CHECK(w.word(sp) == 2);
  CHECK(w.text(w.word(sp + 8)) == "prog");
  CHECK(w.text(w.word(sp + 16)) == "one");
  CHECK(w.word(sp + 24) == 0);
  CHECK(w.text(w.word(sp + 32)) == "A=b");
  CHECK(w.word(sp + 40) == 0);
  std::map<uint64_t, uint64_t> aux;
  for (uint64_t at = sp + 48; w.word(at) != 0; at += 16) aux[w.word(at)] = w.word(at + 8);
  CHECK(aux[3] == 0x400040);
  CHECK(aux[4] == 56);
  CHECK(aux[5] == 2);
  CHECK(aux[6] == kPageSize);
  CHECK(aux[9] == 0x400100);
  CHECK(aux[11] == 1);
  CHECK(aux[12] == 2);
  CHECK((aux[26] & 2) == 0);
  CHECK(w.text(aux[31]) == "/bin/prog");
  CHECK(w.text(aux[15]) == "x86_64");
  uint8_t byte = 1;
  REQUIRE(w.mm->copy_in(&byte, abi::Addr(0x4020ff), 1));
  CHECK(byte == 'b');
  REQUIRE(w.mm->copy_in(&byte, abi::Addr(0x402100), 1));
  CHECK(byte == 0);
  REQUIRE(w.mm->copy_in(&byte, abi::Addr(0x404fff), 1));
  CHECK(byte == 0);
  CHECK(w.mm->brk(abi::Addr(0))->value() >= 0x405000);
}

TEST_CASE("Malformed files give Linux's errors", "[loader]") {
  struct Case {
    const char* name;
    void (*change)(Elf&);
    abi::Errno error;
  };
  const Case cases[] = {
      {"no magic", [](Elf& e) { e.header.ident[1] = 'X'; }, kENOEXEC},
      {"other machine", [](Elf& e) { e.header.machine = 183; }, kENOEXEC},
      {"relocatable", [](Elf& e) { e.header.type = 1; }, kENOEXEC},
      {"odd header size", [](Elf& e) { e.header.phentsize = 55; }, kENOEXEC},
      {"headers beyond the end", [](Elf& e) { e.header.phoff = 1 << 20; }, kENOEXEC},
      {"headers that wrap", [](Elf& e) { e.header.phoff = ~uint64_t{0} - 10; }, kENOEXEC},
      {"too many headers", [](Elf& e) { e.header.phnum = 0xffff; }, kENOEXEC},
      {"file part larger than memory", [](Elf& e) { e.segments[0].filesz = 1 << 20; }, kEINVAL},
      {"offset and address differ in the page", [](Elf& e) { e.segments[1].offset += 8; }, kEINVAL},
      {"segments out of order", [](Elf& e) { std::swap(e.segments[0], e.segments[1]); }, kEINVAL},
      {"interpreter path without NUL", [](Elf& e) { e.segments.push_back({3, 4, 0x1000, 0, 0, 16, 16, 1}); }, kENOEXEC},
      {"interpreter path too long", [](Elf& e) { e.segments.push_back({3, 4, 0x1000, 0, 0, 5000, 5000, 1}); }, kENOEXEC},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    World w;
    Elf e;
    c.change(e);
    auto r = w.load(e.bytes());
    REQUIRE_FALSE(r);
    CHECK(abi::errno_name(r.error()) == std::string(abi::errno_name(c.error)));
  }
  World w;
  CHECK(w.load("").error() == kENOEXEC);
  CHECK(w.load("\177ELF").error() == kENOEXEC);
  Elf huge;
  huge.segments[1].memsz = ~uint64_t{0} - 0x402000;
  CHECK_FALSE(w.load(huge.bytes()));
}

TEST_CASE("Interpreters: found, missing, broken", "[loader]") {
  Elf e;
  e.segments.push_back({3, 4, 0x1000, 0, 0, 7, 7, 1});
  e.body.replace(0x1000, 7, std::string("/ld.so\0", 7));
  {
    World w;
    CHECK(w.load(e.bytes()).error() == kENOENT);
    w.files["/ld.so"] = "not an ELF file, but long enough to hold the header of one, or so it seems";
    CHECK(w.load(e.bytes()).error() == kELIBBAD);
  }
  World w;
  Elf ld;
  ld.header.type = 3;
  ld.header.entry = 0x10;
  ld.segments[0].vaddr = 0;
  ld.segments[1].vaddr = 0x2000;
  w.files["/ld.so"] = ld.bytes();
  auto image = w.load(e.bytes());
  REQUIRE(image);
  CHECK(image->entry.value() % kPageSize == 0x10);
  CHECK(image->entry.value() >= 0x10000000);
}

TEST_CASE("Scripts: arguments, nesting, inaccessible paths", "[loader]") {
  World w;
  w.files["/sh"] = Elf().bytes();
  auto image = w.load("#! /sh  -e x \t\necho");
  REQUIRE(image);
  uint64_t sp = image->stack_pointer.value();
  CHECK(w.word(sp) == 4);
  CHECK(w.text(w.word(sp + 8)) == "/sh");
  CHECK(w.text(w.word(sp + 16)) == "-e x");
  CHECK(w.text(w.word(sp + 24)) == "/bin/prog");
  CHECK(w.text(w.word(sp + 32)) == "one");
  World v;
  CHECK(v.load("#!\n").error() == kENOEXEC);
  CHECK(v.load("#!   \t ").error() == kENOEXEC);
  CHECK(v.load("#!/missing\n").error() == kENOENT);
  CHECK(v.load("#!" + std::string(300, 'x')).error() == kENOEXEC);
  v.files["/loop"] = "#!/loop\n";
  CHECK(v.load("#!/loop\n").error() == kELOOP);
  v.path_inaccessible = true;
  CHECK(v.load("#!/sh\n").error() == kENOENT);
}

TEST_CASE("Too many arguments are E2BIG", "[loader]") {
  World w;
  w.argv = {std::string(kMaxArgStrlen, 'x')};
  CHECK(w.load(Elf().bytes()).error() == kE2BIG);
  w.argv.assign(40, std::string(64 << 10, 'x'));
  CHECK(w.load(Elf().bytes()).error() == kE2BIG);
  World v;
  v.argv.assign(20, std::string(64 << 10, 'x'));
  CHECK(v.load(Elf().bytes()));
}

TEST_CASE("Mutated files are loaded or refused, never more", "[loader]") {
  std::mt19937_64 rng(7);
  for (int i = 0; i < 3000; ++i) {
    Elf e;
    if (i % 2) {
      e.header.type = 3;
      e.segments.push_back({3, 4, 0x1000, 0, 0, 7, 7, 1});
      e.body.replace(0x1000, 7, std::string("/ld.so\0", 7));
    }
    std::string bytes = e.bytes();
    size_t limit = 64 + e.segments.size() * sizeof(ElfSegment);
    for (uint64_t n = 1 + rng() % 4; n > 0; --n) {
      size_t at = 16 + rng() % (limit - 24);
      uint64_t value = rng() % 3 == 0 ? rng() : uint64_t{1} << (rng() % 64);
      if (rng() % 4 == 0) value = ~uint64_t{0} - rng() % 8192;
      memcpy(bytes.data() + at, &value, 1 + rng() % 8);
    }
    World w;
    w.files["/ld.so"] = bytes;
    (void)w.load(bytes);
  }
}

}  // namespace
}  // namespace sentry::loader
