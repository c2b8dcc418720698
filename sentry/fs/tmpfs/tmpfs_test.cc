// SPDX-License-Identifier: Apache-2.0
// The VFS on tmpfs: walks, tree changes, files, mounts.
#include "sentry/fs/tmpfs/tmpfs.h"

#include <thread>

#include <catch2/catch.hpp>

#include "sentry/vfs/inotify.h"
#include "sentry/vfs/published_owner.h"
#include "sentry/vfs/test_context.h"

namespace sentry::vfs {
namespace {

using enum abi::Errno;
using base::RefPtr;
using base::Result;

memory::MemoryFile& memory_file() {
  static auto file = memory::MemoryFile::create();
  return **file;
}

struct World {
  TestContext ctx{*fs::tmpfs::create(memory_file(), {.mode = 0755})};
  Path root = ctx.root();

  Result<RefPtr<FileDescription>> open(std::string_view path, uint32_t flags, uint32_t mode = 0644) {
    return open_at(ctx, root, path, flags, mode);
  }
  void put(std::string_view path, std::string_view text = "") {
    auto file = open(path, kO_CREAT | kO_WRONLY | kO_TRUNC);
    REQUIRE(file);
    std::string copy(text);
    KernelIoBuffer src({reinterpret_cast<uint8_t*>(copy.data()), copy.size()});
    if (!text.empty()) REQUIRE((*file)->write(ctx, src) == text.size());
  }
  std::string get(std::string_view path) {
    auto file = open(path, kO_RDONLY);
    if (!file) return abi::errno_name(file.error());
    std::string text(1 << 16, '\0');
    KernelIoBuffer dst({reinterpret_cast<uint8_t*>(text.data()), text.size()});
    auto n = (*file)->read(ctx, dst);
    REQUIRE(n);
    text.resize(*n);
    return text;
  }
  Result<void> mkdir(std::string_view path, uint32_t mode = 0755) { return mkdir_at(ctx, root, path, mode); }
  Result<void> rename(std::string_view a, std::string_view b, uint32_t flags = 0) { return rename_at(ctx, root, a, root, b, flags); }
  Result<void> unlink(std::string_view path) { return unlink_at(ctx, root, path, false); }
  Result<void> rmdir(std::string_view path) { return unlink_at(ctx, root, path, true); }
  abi::Errno walk_error(std::string_view path, uint32_t flags = kLookupFollow) {
    auto found = walk(ctx, root, path, flags);
    return found ? abi::Errno{} : found.error();
  }
  Stat stat(std::string_view path) {
    auto found = walk(ctx, root, path, 0);
    REQUIRE(found);
    return *found->path.inode().stat(ctx);
  }
};

Result<void> fails(abi::Errno e) { return base::err(e); }

TEST_CASE("walk follows links and counts them") {
  World w;
  REQUIRE(w.mkdir("a"));
  REQUIRE(w.mkdir("a/b"));
  w.put("a/b/f", "text");
  REQUIRE(symlink_at(w.ctx, w.root, "a/link", "b"));
  REQUIRE(symlink_at(w.ctx, w.root, "abs", "/a/link/f"));
  REQUIRE(symlink_at(w.ctx, w.root, "loop", "loop"));
  REQUIRE(symlink_at(w.ctx, w.root, "rootlink", "/"));
  CHECK(w.get("a/link/f") == "text");
  CHECK(w.get("abs") == "text");
  CHECK(w.get("rootlink/a/../abs") == "text");
  CHECK(w.get("a//b/././f") == "text");
  CHECK(w.get("../../../abs") == "text");
  CHECK(w.walk_error("loop") == kELOOP);
  CHECK(w.walk_error("") == kENOENT);
  CHECK(w.walk_error("a/b/f/") == kENOTDIR);
  CHECK(w.walk_error("a/b/f/x") == kENOTDIR);
  CHECK(w.walk_error("a/none/x") == kENOENT);
  CHECK(w.walk_error(std::string(256, 'x')) == kENAMETOOLONG);
  CHECK(w.walk_error(std::string(4096, '/')) == kENAMETOOLONG);
  CHECK(w.walk_error("a/link", kLookupNoSymlinks | kLookupFollow) == kELOOP);
  CHECK(w.walk_error("abs", kLookupBeneath | kLookupFollow) == kEXDEV);
  CHECK(w.walk_error("..", kLookupBeneath) == kEXDEV);
  CHECK(w.walk_error("a/link/", 0) == abi::Errno{});
  auto parent = walk(w.ctx, w.root, "a/b/new/", kLookupParent);
  REQUIRE(parent);
  CHECK(parent->last == "new");
  CHECK(parent->trailing_slash);
}

TEST_CASE("the root of a walk is asked for when it is needed, unless the start is it") {
  World w;
  REQUIRE(w.mkdir("a"));
  REQUIRE(w.mkdir("a/b"));
  w.put("a/b/f");
  w.put("f");
  REQUIRE(symlink_at(w.ctx, w.root, "a/abs", "/f"));
  const Path a = walk(w.ctx, w.root, "a", 0)->path, f = walk(w.ctx, w.root, "f", 0)->path;
  CHECK(walk(w.ctx, a, "/f", 0)->path == f);
  CHECK(walk(w.ctx, a, "abs", kLookupFollow)->path == f);
  CHECK(walk(w.ctx, a, "../../../f", 0)->path == f);
  CHECK(walk(w.ctx, w.root, "/a/abs", kLookupFollow | kLookupStartIsRoot)->path == f);
  CHECK(walk(w.ctx, w.root, "/../a/../f", kLookupStartIsRoot)->path == f);
  CHECK(walk(w.ctx, a, "/../b/../abs", kLookupInRoot)->path.dentry == walk(w.ctx, a, "abs", 0)->path.dentry);
  CHECK(walk(w.ctx, a, "abs", kLookupInRoot | kLookupFollow).error() == kENOENT);
  CHECK(walk(w.ctx, w.root, "/", kLookupStartIsRoot)->path == w.root);
}

TEST_CASE("names of every length are found") {
  World w;
  for (size_t n = 1; n <= 255; ++n) {
    w.put(std::string(n, 'x'));
    if (n > 1) w.put(std::string(n - 1, 'x') + "y");
  }
  for (size_t n = 1; n <= 255; ++n) {
    CHECK(w.walk_error(std::string(n, 'x')) == abi::Errno{});
    if (n > 1) CHECK(w.walk_error(std::string(n - 1, 'x') + "y") == abi::Errno{});
    CHECK(w.walk_error(std::string(n - 1, 'x') + "z") == kENOENT);
  }
}

TEST_CASE("an owner that is read beside changes is one that was set") {
  PublishedOwner published;
  CHECK(!published.get());
  published.set({abi::KUid(1), abi::KGid(1), 1});
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (uint32_t i = 2; i < 100'000; ++i) published.set({abi::KUid(i), abi::KGid(i), i});
    done = true;
  });
  bool mixed = false;
  while (!done) {
    const auto o = published.get();
    mixed = mixed || (o && (o->uid.value() != o->mode || o->gid.value() != o->mode));
  }
  writer.join();
  CHECK(!mixed);
  CHECK(published.get()->mode == 99'999);
}

TEST_CASE("permissions along a path and the sticky bit") {
  World w;
  REQUIRE(w.mkdir("closed", 0700));
  w.put("closed/f");
  REQUIRE(w.mkdir("tmp", 0777));
  SetAttr mode;
  mode.mode = 01777;
  REQUIRE(set_attr(w.ctx, walk(w.ctx, w.root, "tmp", 0)->path, mode));
  w.put("tmp/f");
  w.ctx.become_user(1000);
  CHECK(w.walk_error("closed/f") == kEACCES);
  CHECK(w.unlink("tmp/f") == fails(kEPERM));
  CHECK(w.rename("tmp/f", "tmp/g") == fails(kEPERM));
  CHECK(w.mkdir("x") == fails(kEACCES));
  REQUIRE(w.mkdir("tmp/mine"));
  CHECK(w.rmdir("tmp/mine"));
  CHECK(set_attr(w.ctx, walk(w.ctx, w.root, "tmp/f", 0)->path, mode) == fails(kEPERM));
}

TEST_CASE("open and its flags") {
  World w;
  w.put("f", "12345");
  REQUIRE(w.mkdir("d"));
  REQUIRE(symlink_at(w.ctx, w.root, "s", "fresh"));
  CHECK(w.open("f", kO_CREAT | kO_EXCL | kO_RDWR).error() == kEEXIST);
  CHECK(w.open("d", kO_WRONLY).error() == kEISDIR);
  CHECK(w.open("d", kO_CREAT | kO_RDONLY).error() == kEISDIR);
  CHECK(w.open("d/", kO_CREAT | kO_RDONLY).error() == kEISDIR);
  CHECK(w.open("f", kO_DIRECTORY).error() == kENOTDIR);
  CHECK(w.open("s", kO_NOFOLLOW).error() == kELOOP);
  CHECK(w.open("s", kO_CREAT | kO_EXCL | kO_WRONLY).error() == kEEXIST);
  CHECK(w.open("s", kO_CREAT | kO_WRONLY));  // makes the target
  CHECK(w.get("fresh") == "");
  CHECK(w.open("f", kO_WRONLY | kO_TRUNC));
  CHECK(w.get("f") == "");
  auto path_only = w.open("f", kO_PATH | kO_RDWR);
  REQUIRE(path_only);
  CHECK_FALSE((*path_only)->is_readable());
  CHECK(w.open("d", kO_TMPFILE | kO_RDONLY).error() == kEINVAL);
  auto tmp = w.open("d", kO_TMPFILE | kO_RDWR);
  REQUIRE(tmp);
  CHECK((*tmp)->stat(w.ctx)->nlink == 0);
  REQUIRE(deny_write_access(w.stat("f").inode ? walk(w.ctx, w.root, "f", 0)->path.inode() : w.root.inode()));
  CHECK(w.open("f", kO_WRONLY).error() == kETXTBSY);
}

TEST_CASE("rename matrix") {
  World w;
  REQUIRE(w.mkdir("d1"));
  REQUIRE(w.mkdir("d2"));
  REQUIRE(w.mkdir("d2/sub"));
  w.put("a", "A");
  w.put("b", "B");
  CHECK(w.rename("a", "b", kRenameNoReplace) == fails(kEEXIST));
  REQUIRE(w.rename("a", "b", kRenameExchange));
  CHECK(w.get("a") == "B");
  CHECK(w.get("b") == "A");
  CHECK(w.rename("a", "d1") == fails(kEISDIR));
  CHECK(w.rename("d1", "a") == fails(kENOTDIR));
  CHECK(w.rename("d1", "d2") == fails(kENOTEMPTY));
  CHECK(w.rename("d2", "d2/sub/x") == fails(kEINVAL));
  CHECK(w.rename("d2/sub", "d2") == fails(kENOTEMPTY));
  CHECK(w.rename("none", "x") == fails(kENOENT));
  CHECK(w.rename("a/", "x") == fails(kENOTDIR));
  CHECK(w.rename(".", "x") == fails(kEBUSY));
  REQUIRE(w.rename("d2/sub", "d1"));
  CHECK(w.stat("d1").nlink == 2);
  CHECK(w.stat("d2").nlink == 2);
  REQUIRE(w.rename("d1", "d2/moved"));
  CHECK(w.stat("d2").nlink == 3);
  REQUIRE(w.rename("a", "b"));
  CHECK(w.get("b") == "B");
  CHECK(w.walk_error("a") == kENOENT);
  REQUIRE(link_at(w.ctx, w.root, "b", w.root, "c", 0));
  CHECK(w.rename("b", "c"));  // two names of one file: both stay
  CHECK(w.stat("b").nlink == 2);
  CHECK(link_at(w.ctx, w.root, "d2", w.root, "dlink", 0) == fails(kEPERM));
}

TEST_CASE("unlinked files live while open, removed directories take nothing new") {
  World w;
  w.put("f", "still");
  auto file = w.open("f", kO_RDWR);
  REQUIRE(w.unlink("f"));
  CHECK(w.walk_error("f") == kENOENT);
  CHECK((*file)->stat(w.ctx)->nlink == 0);
  REQUIRE(w.mkdir("d"));
  Path dir = walk(w.ctx, w.root, "d", 0)->path;
  CHECK(w.unlink("d") == fails(kEISDIR));
  REQUIRE(w.rmdir("d"));
  CHECK(mkdir_at(w.ctx, dir, "x", 0755) == fails(kENOENT));
  CHECK(w.rmdir("/") == fails(kEBUSY));
  CHECK(w.rmdir(".") == fails(kEINVAL));
  w.put("f", "new");
  CHECK(w.get("f") == "new");
}

TEST_CASE("holes, append, limits and directory listing") {
  World w;
  auto file = w.open("f", kO_CREAT | kO_RDWR);
  uint8_t byte = 'x';
  KernelIoBuffer one({&byte, 1});
  REQUIRE((*file)->pwrite(w.ctx, one, 1 << 20) == 1u);
  CHECK(w.stat("f").size == (1 << 20) + 1);
  CHECK((*file)->seek(w.ctx, 0, 3) == uint64_t{1} << 20);
  CHECK((*file)->seek(w.ctx, 0, 4) == uint64_t{0});
  auto append = w.open("f", kO_WRONLY | kO_APPEND);
  KernelIoBuffer more({&byte, 1});
  REQUIRE((*append)->write(w.ctx, more) == 1u);
  CHECK(w.stat("f").size == (1 << 20) + 2);

  auto small = fs::tmpfs::create(memory_file(), {.size = 8192});
  REQUIRE(w.mkdir("m"));
  REQUIRE(w.ctx.mount_namespace().attach(Mount::create(*small, 0, "none"), walk(w.ctx, w.root, "m", 0)->path));
  auto full = w.open("m/f", kO_CREAT | kO_WRONLY);
  std::vector<uint8_t> big(20000, 1);
  KernelIoBuffer src(big);
  CHECK((*full)->write(w.ctx, src) == 8192u);
  CHECK((*full)->write(w.ctx, src).error() == kENOSPC);

  for (int i = 0; i < 300; ++i) w.put("m/n" + std::to_string(i));
  auto dir = w.open("m", kO_DIRECTORY);
  size_t seen = 0, in_call = 0;
  do {
    in_call = 0;
    REQUIRE((*dir)->readdir(w.ctx, [&](const DirEntryInfo&) { return in_call < 50 && ++in_call != 0; }));
    seen += in_call;
  } while (in_call != 0);
  CHECK(seen == 303);
}

TEST_CASE("mounts cross, move, and come off") {
  World w;
  REQUIRE(w.mkdir("m"));
  REQUIRE(w.mkdir("other"));
  w.put("m/hidden");
  auto& ns = w.ctx.mount_namespace();
  auto at = [&](std::string_view p) { return walk(w.ctx, w.root, p, kLookupFollow)->path; };
  REQUIRE(ns.attach(Mount::create(*fs::tmpfs::create(memory_file(), {}), 0, "none"), at("m")));
  CHECK(w.walk_error("m/hidden") == kENOENT);
  w.put("m/inside", "i");
  CHECK(w.get("m/../m/inside") == "i");
  CHECK(w.rename("m/inside", "outside") == fails(kEXDEV));
  CHECK(w.rmdir("m") == fails(kEBUSY));
  CHECK(w.walk_error("m", kLookupNoXdev) == kEXDEV);
  CHECK(path_string(at("m/inside"), &w.root) == "/m/inside");
  REQUIRE(ns.bind(at("m"), at("other"), false, 0));
  CHECK(w.get("other/inside") == "i");
  auto copy = ns.clone();
  CHECK(copy->list(copy->root()).size() == 3);
  {
    auto held = w.open("m/inside", kO_RDONLY);
    CHECK(ns.detach(at("m"), MountNamespace::Detach::kBusyFails) == fails(kEBUSY));
  }
  {
    Path m = at("m");
    CHECK(ns.detach(m, MountNamespace::Detach::kBusyFails));
  }
  CHECK(w.walk_error("m/hidden") == abi::Errno{});
  w.ctx.mount_namespace().root().mount->set_flags(kMsRdOnly);
  CHECK(w.mkdir("ro") == fails(kEROFS));
  CHECK(w.unlink("none") == fails(kEROFS));
  CHECK(w.open("m/hidden", kO_WRONLY).error() == kEROFS);
}

// One of those who look a name up may create it: the others must not leave a dentry in the cache that says it is missing.
TEST_CASE("a missing name that several look up at once has one dentry") {
  World w;
  constexpr int kNames = 20000;
  std::vector<RefPtr<Dentry>> found[2];
  std::atomic<int> reached[2] = {0, 0};
  auto look = [&](int side) {
    TestContext ctx{w.ctx};
    for (int i = 0; i < kNames; ++i) {
      reached[side] = i;
      while (reached[1 - side] < i) {
      }
      found[side].push_back(*w.root.dentry->child(ctx, std::to_string(i)));
    }
    reached[side] = kNames;
  };
  std::thread other(look, 1);
  look(0);
  other.join();
  int differ = 0;
  for (size_t i = 0; i < kNames; ++i) differ += found[0][i].get() != found[1][i].get();
  CHECK(differ == 0);
}

TEST_CASE("a deep tree dies without deep recursion") {
  World w;
  Path at = w.root;
  for (int i = 0; i < 20000; ++i) {
    REQUIRE(mkdir_at(w.ctx, at, "d", 0755));
    at = {at.mount, *at.dentry->child(w.ctx, "d")};
  }
}

TEST_CASE("inotify tells of names and of the thing itself") {
  World w;
  REQUIRE(w.mkdir("d"));
  auto in = make_inotify(w.ctx, kO_NONBLOCK);
  REQUIRE(add_inotify_watch(*in, walk(w.ctx, w.root, "d", 0)->path, kInAllEvents) == 1);
  w.put("d/f", "x");
  CHECK(in->readiness(kPollIn) != 0);
  REQUIRE(w.unlink("d/f"));
  std::vector<uint8_t> bytes(4096);
  KernelIoBuffer dst(bytes);
  auto n = in->read(w.ctx, dst);
  REQUIRE(n);
  uint32_t all = 0;
  for (size_t p = 0; p < *n;) {
    uint32_t header[4];
    std::memcpy(header, bytes.data() + p, sizeof header);
    all |= header[1];
    p += 16 + header[3];
  }
  CHECK((all & (kInCreate | kInOpen | kInCloseWrite | kInDelete)) == (kInCreate | kInOpen | kInCloseWrite | kInDelete));
  REQUIRE(remove_inotify_watch(*in, 1));
  CHECK(remove_inotify_watch(*in, 1) == fails(kEINVAL));
}

}  // namespace
}  // namespace sentry::vfs
