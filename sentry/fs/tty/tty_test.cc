// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/tty/tty.h"

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/test_context.h"
#include "tests/util/catch.h"

using namespace sentry;
using abi::Errno;
using base::RefPtr;

namespace {

struct Terminal {
  std::unique_ptr<memory::MemoryFile> memory = std::move(*memory::MemoryFile::create());
  vfs::TestContext ctx{*fs::tmpfs::create(*memory, {})};
  RefPtr<fs::Tty> tty = base::make_ref<fs::Tty>(abi::DeviceId{136, 0});

  base::Result<std::string> read(size_t n = 4096) {
    std::string bytes(n, '\0');
    vfs::KernelIoBuffer dst({reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()});
    bytes.resize(TRY(tty->read(ctx, dst, true)));
    return bytes;
  }
  void write(std::string text) {
    vfs::KernelIoBuffer src({reinterpret_cast<uint8_t*>(text.data()), text.size()});
    REQUIRE(*tty->write(ctx, src, true) == text.size());
  }
  std::string output() { return tty->take_output(1 << 20); }
  void change(base::FunctionRef<void(fs::Termios&)> f) {
    constexpr uint64_t kAt = vfs::TestMemory::kBase;
    REQUIRE(tty->ioctl(ctx, 0x5401, kAt));
    fs::Termios t;
    REQUIRE(ctx.user_memory().copy_in(&t, abi::Addr(kAt), sizeof t));
    f(t);
    REQUIRE(ctx.user_memory().copy_out(abi::Addr(kAt), &t, sizeof t));
    REQUIRE(tty->ioctl(ctx, 0x5402, kAt));
  }
};

}  // namespace

TEST_CASE("Tty: a canonical terminal hands out whole lines and echoes") {
  Terminal t;
  t.tty->input("hel");
  CHECK(t.read().error() == Errno::kEAGAIN);
  t.tty->input("lo\rnext\n");
  CHECK(t.output() == "hello\r\nnext\r\n");
  CHECK((t.tty->readiness() & vfs::kPollIn) != 0);
  CHECK(*t.read(3) == "hel");
  CHECK(*t.read() == "lo\n");
  CHECK(*t.read() == "next\n");
  CHECK(t.read().error() == Errno::kEAGAIN);
}

TEST_CASE("Tty: erase, word erase, kill and end of file") {
  Terminal t;
  t.tty->input("abX\x7f" "c\n");
  CHECK(*t.read() == "abc\n");
  CHECK(t.output() == "abX\b \bc\r\n");
  t.tty->input("one two\x17" "three\n");
  CHECK(*t.read() == "one three\n");
  t.tty->input("gone\x15" "kept\n");
  CHECK(*t.read() == "kept\n");
  t.tty->input("part\x04");
  CHECK(*t.read() == "part");
  t.tty->input("\x04");
  CHECK(*t.read() == "");
  CHECK(t.read().error() == Errno::kEAGAIN);
  t.tty->input("\x16\x03\n");
  CHECK(*t.read() == "\x03\n");
}

TEST_CASE("Tty: raw mode delivers bytes as they come, MIN applies") {
  Terminal t;
  t.change([](fs::Termios& x) {
    x.lflag &= ~(fs::kICANON | fs::kECHO | fs::kISIG);
    x.iflag &= ~fs::kICRNL;
    x.cc[fs::kVMIN] = 3;
    x.cc[fs::kVTIME] = 0;
  });
  t.tty->input("a\r");
  CHECK(t.read().error() == Errno::kEAGAIN);
  CHECK((t.tty->readiness() & vfs::kPollIn) == 0);
  t.tty->input("\x03");
  CHECK(*t.read() == "a\r\x03");
  CHECK(t.output() == "");
  t.change([](fs::Termios& x) { x.cc[fs::kVMIN] = 0; });
  CHECK(*t.read() == "");
  t.tty->input("zz");
  CHECK(*t.read(1) == "z");
  CHECK(*t.read(1) == "z");
}

TEST_CASE("Tty: output processing, flow control, bounded input") {
  Terminal t;
  t.write("a\nb\tc");
  CHECK(t.output() == "a\r\nb\tc");
  t.tty->input("\x13");
  t.write("held");
  CHECK(t.output() == "");
  t.tty->input("\x11");
  CHECK(t.output() == "held");
  t.change([](fs::Termios& x) { x.oflag &= ~fs::kOPOST; });
  t.write("x\n");
  CHECK(t.output() == "x\n");
  t.change([](fs::Termios& x) { x.lflag &= ~fs::kECHO; });
  t.tty->input(std::string(100000, 'q'));
  t.tty->input("\n");
  CHECK(t.read(10000)->size() == 4096);
}

TEST_CASE("Tty: hanging up ends reads and fails writes") {
  Terminal t;
  t.tty->hang_up();
  CHECK(*t.read() == "");
  std::string text = "x";
  vfs::KernelIoBuffer src({reinterpret_cast<uint8_t*>(text.data()), 1});
  CHECK(t.tty->write(t.ctx, src, true).error() == Errno::kEIO);
  CHECK((t.tty->readiness() & vfs::kPollHup) != 0);
}
