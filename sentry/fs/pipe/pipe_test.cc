// SPDX-License-Identifier: Apache-2.0
// Pipes, FIFOs, epoll over them, and file locks.
#include "sentry/fs/pipe/pipe.h"

#include <thread>

#include <catch2/catch.hpp>

#include "abi/linux/signal.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/epoll.h"
#include "sentry/vfs/file_locks.h"
#include "sentry/vfs/test_context.h"

namespace sentry::fs::pipe {
namespace {

using enum abi::Errno;
using base::RefPtr;
using base::Result;
using vfs::FileDescription;
using vfs::KernelIoBuffer;
using vfs::TestContext;

memory::MemoryFile& memory_file() {
  static auto file = memory::MemoryFile::create();
  return **file;
}

struct World {
  TestContext ctx{*tmpfs::create(memory_file(), {})};
  RefPtr<FileDescription> reader, writer;
  explicit World(uint32_t flags = 0) { std::tie(reader, writer) = make_pipe(ctx, flags); }
  Result<size_t> put(std::string text) {
    KernelIoBuffer src({reinterpret_cast<uint8_t*>(text.data()), text.size()});
    return writer->write(ctx, src);
  }
  std::string get(size_t n) {
    std::string text(n, '\0');
    KernelIoBuffer dst({reinterpret_cast<uint8_t*>(text.data()), n});
    auto got = reader->read(ctx, dst);
    if (!got) return abi::errno_name(got.error());
    text.resize(*got);
    return text;
  }
};

TEST_CASE("pipe: order, merging, end of file, SIGPIPE") {
  World w;
  CHECK(w.get(10) == "EAGAIN");
  for (int i = 0; i < 20000; ++i) REQUIRE(w.put("x") == 1u);  // small writes share pages
  CHECK(w.get(20000).size() == 20000);
  CHECK(w.put("hello") == 5u);
  CHECK(w.get(3) == "hel");
  CHECK(w.put(" world") == 6u);
  CHECK(w.get(100) == "lo world");
  CHECK(w.put("last") == 4u);
  w.writer.reset();
  CHECK(w.reader->readiness(vfs::kPollIn) == (vfs::kPollIn | vfs::kPollRdNorm | vfs::kPollHup));
  CHECK(w.get(100) == "last");
  CHECK(w.get(100) == "");
  World broken;
  broken.reader.reset();
  CHECK(broken.put("x").error() == kEPIPE);
  CHECK(broken.ctx.raised == std::vector<int32_t>{abi::kSIGPIPE});
}

TEST_CASE("pipe: a full pipe takes a part, or nothing of an atomic write") {
  World w;
  CHECK(w.put(std::string(100000, 'a')) == kDefaultSize);
  CHECK(w.put("b").error() == kEAGAIN);
  CHECK((w.writer->readiness(vfs::kPollOut) & vfs::kPollOut) == 0);
  CHECK(w.get(100).size() == 100);
  CHECK(w.put("b").error() == kEAGAIN);  // no whole page is free
  CHECK(w.get(4096).size() == 4096);
  CHECK(w.put("b") == 1u);
  Pipe& pipe = w.writer->as<PipeFile>()->pipe();
  CHECK(pipe.set_capacity(w.ctx, 4096).error() == kEBUSY);
  CHECK(pipe.set_capacity(w.ctx, 200000) == 262144u);
}

TEST_CASE("pipe: packets keep their bounds") {
  World w(vfs::kO_DIRECT);
  CHECK(w.put("one") == 3u);
  CHECK(w.put("two") == 3u);
  CHECK(w.get(2) == "on");  // the rest of the packet is gone
  CHECK(w.get(10) == "two");
}

TEST_CASE("pipe: tee shares, splice moves") {
  World a, b;
  CHECK(a.put("0123456789") == 10u);
  Pipe &from = a.writer->as<PipeFile>()->pipe(), &to = b.writer->as<PipeFile>()->pipe();
  CHECK(from.move_to(a.ctx, to, 4, Pipe::Keep::kYes) == 4u);
  CHECK(from.move_to(a.ctx, to, 6, Pipe::Keep::kNo) == 6u);
  CHECK(a.put("!") == 1u);
  CHECK(b.get(100) == "0123012345");
  CHECK(a.get(100) == "6789!");
}

TEST_CASE("pipe: threads see every byte in order") {
  World w;
  TestContext other(w.ctx);
  constexpr size_t kTotal = 8 << 20;
  std::thread reader([&] {
    std::vector<uint8_t> buffer(7001);
    size_t seen = 0;
    while (seen < kTotal) {
      KernelIoBuffer dst(buffer);
      auto n = w.reader->read(other, dst);
      if (!n) {
        auto ready = [&] { return (w.reader->readiness(vfs::kPollIn) & vfs::kPollIn) != 0; };
        (void)vfs::wait_until(other, *w.reader->wait_queue(), vfs::kPollIn, std::nullopt, ready);
        continue;
      }
      for (size_t i = 0; i < *n; ++i, ++seen) {
        if (buffer[i] != static_cast<uint8_t>(seen * 31)) std::abort();
      }
    }
  });
  std::vector<uint8_t> chunk(9001);
  for (size_t sent = 0; sent < kTotal;) {
    const size_t want = std::min(chunk.size(), kTotal - sent);
    for (size_t i = 0; i < want; ++i) chunk[i] = static_cast<uint8_t>((sent + i) * 31);
    KernelIoBuffer src({chunk.data(), want});
    auto n = w.writer->write(w.ctx, src);
    if (n) {
      sent += *n;
      continue;
    }
    auto ready = [&] { return (w.writer->readiness(vfs::kPollOut) & vfs::kPollOut) != 0; };
    (void)vfs::wait_until(w.ctx, *w.writer->wait_queue(), vfs::kPollOut, std::nullopt, ready);
  }
  reader.join();
}

TEST_CASE("fifo: openers meet") {
  register_fifos();
  World w;
  const vfs::Path root = w.ctx.root();
  REQUIRE(vfs::mknod_at(w.ctx, root, "fifo", abi::kS_IFIFO | 0644, {}));
  CHECK(vfs::open_at(w.ctx, root, "fifo", vfs::kO_WRONLY | vfs::kO_NONBLOCK, 0).error() == kENXIO);
  TestContext other(w.ctx);
  std::thread writer([&] {
    auto file = vfs::open_at(other, root, "fifo", vfs::kO_WRONLY, 0);
    if (!file) std::abort();
    uint8_t byte = 'f';
    KernelIoBuffer src({&byte, 1});
    (void)(*file)->write(other, src);
  });
  auto file = vfs::open_at(w.ctx, root, "fifo", vfs::kO_RDONLY, 0);
  writer.join();
  REQUIRE(file);
  w.reader = *file;
  CHECK(w.get(10) == "f");
  CHECK(w.get(10) == "");
}

TEST_CASE("epoll: level, edge, one shot, close") {
  World w;
  auto epoll = vfs::EpollFile::create(w.ctx);
  std::array<vfs::EpollEvent, 4> out;
  REQUIRE(epoll->add(*w.reader, abi::Fd(3), {vfs::kPollIn, 42}));
  CHECK(epoll->add(*w.reader, abi::Fd(3), {vfs::kPollIn, 42}).error() == kEEXIST);
  CHECK(epoll->collect(w.ctx, out) == 0);
  CHECK(w.put("x") == 1u);
  CHECK(epoll->collect(w.ctx, out) == 1);
  CHECK(out[0].data == 42);
  CHECK(epoll->collect(w.ctx, out) == 1);  // level
  REQUIRE(epoll->modify(*w.reader, abi::Fd(3), {uint32_t{vfs::kPollIn} | uint32_t{vfs::kEpollEdge}, 43}));
  CHECK(epoll->collect(w.ctx, out) == 1);
  CHECK(epoll->collect(w.ctx, out) == 0);  // edge
  CHECK(w.put("y") == 1u);
  CHECK(epoll->collect(w.ctx, out) == 1);
  REQUIRE(epoll->modify(*w.reader, abi::Fd(3), {uint32_t{vfs::kPollIn} | uint32_t{vfs::kEpollOneShot}, 44}));
  CHECK(epoll->collect(w.ctx, out) == 1);
  CHECK(w.put("z") == 1u);
  CHECK(epoll->collect(w.ctx, out) == 0);  // spent
  REQUIRE(epoll->modify(*w.reader, abi::Fd(3), {vfs::kPollIn, 45}));
  auto outer = vfs::EpollFile::create(w.ctx);
  REQUIRE(outer->add(*epoll, abi::Fd(4), {vfs::kPollIn, 1}));
  CHECK(epoll->add(*outer, abi::Fd(5), {vfs::kPollIn, 1}).error() == kELOOP);
  CHECK(outer->collect(w.ctx, out) == 1);
  w.reader.reset();  // leaves by itself
  CHECK(epoll->collect(w.ctx, out) == 0);
  CHECK(outer->collect(w.ctx, out) == 0);
  epoll.reset();
  CHECK(outer->collect(w.ctx, out) == 0);
}

TEST_CASE("record locks split, merge, conflict, and see deadlock") {
  World w;
  TestContext other(w.ctx);
  auto a = vfs::open_at(w.ctx, w.ctx.root(), "a", vfs::kO_CREAT | vfs::kO_RDWR, 0644);
  auto b = vfs::open_at(w.ctx, w.ctx.root(), "b", vfs::kO_CREAT | vfs::kO_RDWR, 0644);
  auto lock = [](TestContext& ctx, vfs::LockType type, uint64_t start, uint64_t end) {
    return vfs::RecordLock{ctx.lock_owner(), abi::Pid(1), type, start, end};
  };
  auto set = [&](TestContext& ctx, FileDescription& f, vfs::LockType t, uint64_t s, uint64_t e, vfs::LockWait wait) {
    return f.inode().locks().set(ctx, lock(ctx, t, s, e), wait);
  };
  using enum vfs::LockType;
  constexpr auto kNo = vfs::LockWait::kNoWait, kYes = vfs::LockWait::kWait;
  REQUIRE(set(w.ctx, **a, kWrite, 0, 99, kNo));
  REQUIRE(set(w.ctx, **a, kUnlock, 40, 59, kNo));
  CHECK((*a)->inode().locks().list().size() == 2);
  CHECK(set(other, **a, kRead, 30, 45, kNo).error() == kEAGAIN);
  CHECK(set(other, **a, kRead, 40, 59, kNo));
  CHECK((*a)->inode().locks().conflicting(lock(w.ctx, kWrite, 0, ~uint64_t{0}))->start == 40);
  REQUIRE(set(other, **a, kUnlock, 0, ~uint64_t{0}, kNo));
  REQUIRE(set(w.ctx, **a, kWrite, 40, 59, kNo));
  CHECK((*a)->inode().locks().list().size() == 1);

  REQUIRE(set(other, **b, kWrite, 0, 9, kNo));
  std::thread waits([&] {
    if (!set(other, **a, kWrite, 0, 0, kYes)) std::abort();
  });
  while (true) {
    auto r = set(w.ctx, **b, kWrite, 0, 0, kNo);
    if (!r && r.error() == kEAGAIN) break;
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(set(w.ctx, **b, kWrite, 0, 0, kYes).error() == kEDEADLK);
  REQUIRE((*a)->on_descriptor_close(w.ctx));  // releases what this process holds
  waits.join();

  CHECK((*a)->inode().locks().flock(w.ctx, **a, kWrite, kNo));
  auto a2 = vfs::open_at(w.ctx, w.ctx.root(), "a", vfs::kO_RDWR, 0);
  CHECK((*a)->inode().locks().flock(w.ctx, **a2, kRead, kNo).error() == kEAGAIN);
  RefPtr<vfs::Inode> inode = (*a)->path().dentry->inode();
  a->reset();
  CHECK(inode->locks().flock(w.ctx, **a2, kRead, kNo));
  other.interrupt();
  auto a3 = vfs::open_at(w.ctx, w.ctx.root(), "a", vfs::kO_RDWR, 0);
  CHECK(inode->locks().flock(other, **a3, kWrite, kYes).error() == kERESTARTSYS);
}

}  // namespace
}  // namespace sentry::fs::pipe
