// SPDX-License-Identifier: Apache-2.0
// The gofer file system and the overlay through the VFS, over a real gofer.
#include <map>
#include <set>

#include <sys/stat.h>
#include <unistd.h>

#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/mount.h"
#include "tests/gofer/gofer_process.h"
#include "tests/util/catch.h"

using base::RefPtr;
using base::Result;
using sentry::fs::gofer::Sharing;
using sentry::fs::gofer::Use;
using test::GoferProcess;
using test::TempDir;
using enum abi::Errno;
namespace vfs = sentry::vfs;
namespace memory = sentry::memory;
namespace creds = sentry::creds;

namespace {

class RootContext final : public vfs::OpContext, public vfs::OpContext::Waker, public memory::UserMemory {
 public:
  explicit RootContext(RefPtr<vfs::MountNamespace> mounts)
      : mounts_(std::move(mounts)), creds_(creds::Credentials::create_root(creds::UserNamespace::create_root())) {}
  const creds::Credentials& creds() const override { return *creds_; }
  memory::UserMemory& user_memory() override { return *this; }
  const creds::Limit rlimit(creds::Resource) const override { return {}; }
  uint32_t umask() const override { return 022; }
  vfs::MountNamespace& mount_namespace() override { return *mounts_; }
  vfs::Path root() const override { return mounts_->root(); }
  vfs::Path cwd() const override { return mounts_->root(); }
  int64_t now_realtime() const override { return 1'700'000'000'000'000'000; }
  int64_t now_monotonic() const override { return 1; }
  OpContext::Waker& waker() override { return *this; }
  void wake() override {}
  vfs::WakeReason block(vfs::Deadline) override { return vfs::WakeReason::kInterrupted; }
  void block_uninterruptible() override { FAIL("nothing to wait for"); }
  bool interrupted() const override { return false; }
  void raise(abi::Signo) override {}
  Result<void> copy_in(void*, abi::Addr, size_t) override { return base::err(kEFAULT); }
  Result<void> copy_out(abi::Addr, const void*, size_t) override { return base::err(kEFAULT); }
  Result<size_t> copy_in_partial(void*, abi::Addr, size_t) override { return base::err(kEFAULT); }
  Result<size_t> copy_out_partial(abi::Addr, const void*, size_t) override { return base::err(kEFAULT); }
  Result<size_t> zero_out(abi::Addr, size_t) override { return base::err(kEFAULT); }
  Result<std::string> read_cstring(abi::Addr, size_t) override { return base::err(kEFAULT); }
  Result<size_t> with_segments(abi::Addr, size_t, memory::Access,
                               base::FunctionRef<Result<size_t>(std::span<const memory::HostSegment>)>) override {
    return base::err(kEFAULT);
  }
  Result<uint32_t> load_u32(abi::Addr) override { return base::err(kEFAULT); }
  Result<bool> cas_u32(abi::Addr, uint32_t&, uint32_t) override { return base::err(kEFAULT); }

 private:
  RefPtr<vfs::MountNamespace> mounts_;
  RefPtr<creds::Credentials> creds_;
};

template <class T>
T get(Result<T> r) {
  if (!r) FAIL("error " << abi::errno_name(r.error()));
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

enum class Kind { kPlain, kShared, kOverlay };

// A container's view of one directory of the host.
class World {
 public:
  World(const TempDir& dir, Kind kind) : gofer_({{dir.path()}}), memory_(get(memory::MemoryFile::create())) {
    Sharing sharing = kind == Kind::kShared ? Sharing::kShared : Sharing::kExclusive;
    fs_ = get(sentry::fs::gofer::create(*memory_, gofer_.client(), 0, sharing,
                                        kind == Kind::kOverlay ? Use::kLowerLayer : Use::kWritable));
    if (kind == Kind::kOverlay) fs_ = get(sentry::fs::overlay::create(*memory_, fs_));
    ctx_ = std::make_unique<RootContext>(base::make_ref<vfs::MountNamespace>(vfs::Mount::create(fs_, 0, "test")));
  }
  ~World() {
    ctx_.reset();
    vfs::Dentry::drop_cache(nullptr);
  }
  vfs::OpContext& ctx() { return *ctx_; }
  vfs::Path root() { return ctx_->root(); }
  memory::MemoryFile& memory() { return *memory_; }

  Result<RefPtr<vfs::FileDescription>> open(const std::string& path, uint32_t flags, uint32_t mode = 0644) {
    return vfs::open_at(ctx(), root(), path, flags, mode);
  }
  Result<std::string> read(const std::string& path) {
    auto file = TRY(open(path, vfs::kO_RDONLY));
    return read(*file);
  }
  Result<std::string> read(vfs::FileDescription& file) {
    std::string text(65536, '\0');
    vfs::KernelIoBuffer buffer({reinterpret_cast<uint8_t*>(text.data()), text.size()});
    text.resize(TRY(file.pread(ctx(), buffer, 0)));
    return text;
  }
  Result<size_t> write(vfs::FileDescription& file, std::string text, uint64_t offset) {
    vfs::KernelIoBuffer buffer({reinterpret_cast<uint8_t*>(text.data()), text.size()});
    return file.pwrite(ctx(), buffer, offset);
  }
  void store(const std::string& path, const std::string& text) {
    auto file = get(open(path, vfs::kO_WRONLY | vfs::kO_CREAT | vfs::kO_TRUNC));
    CHECK(get(write(*file, text, 0)) == text.size());
  }
  Result<vfs::Stat> stat(const std::string& path) {
    auto at = TRY(vfs::walk(ctx(), root(), path, 0));
    if (at.path.dentry->is_negative()) return base::err(kENOENT);
    return at.path.inode().stat(ctx());
  }
  std::set<std::string> list(const std::string& path) {
    auto dir = get(open(path, vfs::kO_RDONLY | vfs::kO_DIRECTORY));
    std::set<std::string> names;
    get(dir->readdir(ctx(), [&](const vfs::DirEntryInfo& e) {
      if (e.name != "." && e.name != "..") CHECK(names.insert(std::string(e.name)).second);
      return true;
    }));
    return names;
  }
  Result<void> unlink(const std::string& path) { return vfs::unlink_at(ctx(), root(), path, false); }
  Result<void> rmdir(const std::string& path) { return vfs::unlink_at(ctx(), root(), path, true); }
  Result<void> mkdir(const std::string& path) { return vfs::mkdir_at(ctx(), root(), path, 0755); }
  Result<void> rename(const std::string& from, const std::string& to, uint32_t flags = 0) {
    return vfs::rename_at(ctx(), root(), from, root(), to, flags);
  }
  Result<void> link(const std::string& from, const std::string& to) {
    return vfs::link_at(ctx(), root(), from, root(), to, 0);
  }
  // What a mapping of the file shows.
  std::string mapped(vfs::FileDescription& file, size_t length) {
    auto pages = get(file.mappable(ctx()));
    auto range = get(pages->translate(0, 4096, false));
    auto bytes = memory().bytes(range.offset, length);
    std::string text(reinterpret_cast<const char*>(bytes.data()), length);
    memory().drop_ref(range);
    return text;
  }

 private:
  GoferProcess gofer_;
  std::unique_ptr<memory::MemoryFile> memory_;
  RefPtr<vfs::FileSystem> fs_;
  std::unique_ptr<RootContext> ctx_;
};

TempDir& fill(TempDir& dir) {
  dir.mkdir("d");
  dir.mkdir("d/sub");
  dir.write("d/file", "hello");
  dir.write("d/sub/deep", "deep");
  dir.write("top", "top");
  dir.symlink("d/file", "link");
  return dir;
}

}  // namespace

// The same behaviour with and without an overlay, shared or not.
TEST_CASE("File systems: reading, writing and changing names") {
  TempDir dir;
  fill(dir);
  Kind kind = GENERATE(Kind::kPlain, Kind::kShared, Kind::kOverlay);
  World w(dir, kind);
  CHECK(get(w.read("d/file")) == "hello");
  CHECK(get(w.read("link")) == "hello");
  CHECK(get(w.read("/d/sub/deep")) == "deep");
  CHECK(w.read("d/none").error() == kENOENT);
  CHECK(w.read("top/x").error() == kENOTDIR);
  CHECK(w.list("d") == std::set<std::string>{"file", "sub"});
  CHECK(get(w.stat("d/file")).size == 5);
  CHECK(get(w.stat("d")).mode == (abi::kS_IFDIR | 0755));

  // Writing in place, through another open description too.
  auto reader = get(w.open("d/file", vfs::kO_RDONLY));
  auto file = get(w.open("d/file", vfs::kO_RDWR));
  CHECK(get(w.write(*file, "J", 0)) == 1);
  CHECK(get(w.write(*file, "!", vfs::FileDescription::kAtEnd)) == 1);
  CHECK(get(w.read(*file)) == "Jello!");
  CHECK(get(w.read(*reader)) == "Jello!");
  CHECK(get(w.stat("d/file")).size == 6);
  get(file->truncate(w.ctx(), 3));
  get(file->truncate(w.ctx(), 6));
  CHECK(get(w.read(*file)) == std::string("Jel\0\0\0", 6));
  CHECK(get(w.write(*file, "far", 10000)) == 3);
  CHECK(get(w.stat("d/file")).size == 10003);

  // New things.
  w.store("new", "fresh");
  CHECK(get(w.read("new")) == "fresh");
  CHECK(w.open("new", vfs::kO_CREAT | vfs::kO_EXCL | vfs::kO_RDWR).error() == kEEXIST);
  get(w.mkdir("dir"));
  CHECK(w.mkdir("dir").error() == kEEXIST);
  get(vfs::symlink_at(w.ctx(), w.root(), "dir/s", "../new"));
  CHECK(get(w.read("dir/s")) == "fresh");
  get(vfs::mknod_at(w.ctx(), w.root(), "dir/fifo", abi::kS_IFIFO | 0600, {}));
  CHECK((get(w.stat("dir/fifo")).mode & abi::kS_IFMT) == abi::kS_IFIFO);
  CHECK(w.list("dir") == std::set<std::string>{"s", "fifo"});

  // Links and names.
  get(w.link("top", "dir/hard"));
  CHECK(get(w.stat("top")).nlink == 2);
  CHECK(get(w.stat("dir/hard")).inode == get(w.stat("top")).inode);
  w.store("dir/hard", "through the link");
  CHECK(get(w.read("top")) == "through the link");
  get(w.unlink("top"));
  CHECK(w.read("top").error() == kENOENT);
  CHECK(get(w.read("dir/hard")) == "through the link");
  CHECK(get(w.stat("dir/hard")).nlink == 1);

  get(w.rename("d", "moved"));
  CHECK(w.stat("d").error() == kENOENT);
  CHECK(get(w.read("moved/sub/deep")) == "deep");
  w.store("moved/sub/deep", "deeper");
  CHECK(get(w.read("moved/sub/deep")) == "deeper");
  get(w.rename("new", "moved/sub/deep"));
  CHECK(get(w.read("moved/sub/deep")) == "fresh");
  CHECK(w.rename("moved/file", "dir").error() == kEISDIR);
  CHECK(w.rename("dir", "moved/sub").error() == kENOTEMPTY);
  get(w.rename("moved/file", "moved/sub", vfs::kRenameExchange));
  CHECK(get(w.read("moved/file/deep")) == "fresh");

  // Removing; an open file lives on.
  CHECK(w.rmdir("moved").error() == kENOTEMPTY);
  CHECK(w.unlink("moved").error() == kEISDIR);
  get(w.unlink("moved/sub"));
  CHECK(get(w.read(*file)).substr(0, 3) == "Jel");
  CHECK(get(w.write(*file, "K", 0)) == 1);
  get(w.unlink("moved/file/deep"));
  get(w.rmdir("moved/file"));
  get(w.rmdir("moved"));
  CHECK(w.list("/") == std::set<std::string>{"dir", "link"});
  get(w.mkdir("moved"));
  CHECK(w.list("moved").empty());
  CHECK(w.stat("moved/file").error() == kENOENT);
}

TEST_CASE("File systems: attributes and extended attributes") {
  TempDir dir;
  fill(dir);
  Kind kind = GENERATE(Kind::kPlain, Kind::kShared, Kind::kOverlay);
  World w(dir, kind);
  auto at = get(vfs::walk(w.ctx(), w.root(), "d/file", 0)).path;
  vfs::SetAttr set;
  set.mode = 0600;
  set.uid = abi::KUid(12);
  set.mtime = vfs::TimeSpec{77, 88};
  get(vfs::set_attr(w.ctx(), at, set));
  vfs::Stat s = get(w.stat("d/file"));
  CHECK(s.mode == (abi::kS_IFREG | 0600));
  CHECK(s.uid.value() == 12);
  CHECK(s.mtime.sec == 77);
  CHECK(s.mtime.nsec == 88);
  CHECK(s.size == 5);
  CHECK(get(w.read("d/file")) == "hello");
  auto& inode = at.inode();
  auto done = inode.set_xattr(w.ctx(), "user.a", "value", vfs::XattrSetMode::kAny);
  if (!done && done.error() == kEOPNOTSUPP) return;
  get(std::move(done));
  CHECK(get(inode.get_xattr(w.ctx(), "user.a")) == "value");
  CHECK(get(inode.list_xattr(w.ctx())) == std::vector<std::string>{"user.a"});
  CHECK(inode.set_xattr(w.ctx(), "user.a", "x", vfs::XattrSetMode::kCreate).error() == kEEXIST);
  get(inode.remove_xattr(w.ctx(), "user.a"));
  CHECK(inode.get_xattr(w.ctx(), "user.a").error() == kENODATA);
}

TEST_CASE("File systems: mappings and descriptions see each other's writes") {
  TempDir dir;
  fill(dir);
  Kind kind = GENERATE(Kind::kPlain, Kind::kOverlay);
  World w(dir, kind);
  auto file = get(w.open("d/file", vfs::kO_RDWR));
  CHECK(w.mapped(*file, 5) == "hello");
  get(w.write(*file, "J", 0));
  CHECK(w.mapped(*file, 5) == "Jello");
  {
    auto pages = get(file->mappable(w.ctx()));
    auto range = get(pages->translate(0, 4096, true));
    w.memory().data(range.offset)[1] = 'E';
    w.memory().drop_ref(range);
  }
  CHECK(get(w.read(*file)) == "JEllo");
  get(file->fsync(w.ctx(), false));
  CHECK(dir.read("d/file") == (kind == Kind::kPlain ? "JEllo" : "hello"));
  get(file->truncate(w.ctx(), 2));
  get(file->truncate(w.ctx(), 5));
  CHECK(w.mapped(*file, 5) == std::string("JE\0\0\0", 5));
}

TEST_CASE("Gofer file system: what the sandbox writes is on the host") {
  TempDir dir;
  fill(dir);
  {
    World w(dir, Kind::kPlain);
    w.store("d/file", "changed");
    w.store("d/made", "made");
    get(w.unlink("top"));
  }
  CHECK(dir.read("d/file") == "changed");
  CHECK(dir.read("d/made") == "made");
  CHECK(access((dir / "top").c_str(), F_OK) == -1);
}

TEST_CASE("Gofer file system: a shared tree shows what others change") {
  TempDir dir;
  fill(dir);
  World w(dir, Kind::kShared);
  CHECK(w.stat("later").error() == kENOENT);
  CHECK(get(w.read("d/file")) == "hello");
  dir.write("later", "now");
  dir.write("d/file", "longer than before");
  CHECK(get(w.read("later")) == "now");
  CHECK(get(w.read("d/file")) == "longer than before");
  CHECK(get(w.stat("d/file")).size == 18);
  REQUIRE(rename((dir / "later").c_str(), (dir / "top").c_str()) == 0);
  CHECK(get(w.read("top")) == "now");
  CHECK(w.stat("later").error() == kENOENT);
  REQUIRE(unlink((dir / "d/file").c_str()) == 0);
  CHECK(w.stat("d/file").error() == kENOENT);
  CHECK(w.list("d") == std::set<std::string>{"sub"});
}

TEST_CASE("Overlay: the lower layer never changes") {
  TempDir dir;
  fill(dir);
  {
    World w(dir, Kind::kOverlay);
    w.store("d/file", "other");
    w.store("d/new", "new");
    get(w.unlink("top"));
    get(w.rename("d/sub", "sub"));
    CHECK(w.list("/") == std::set<std::string>{"d", "link", "sub"});
    CHECK(w.list("d") == std::set<std::string>{"file", "new"});
    // Forgetting every name that can be forgotten loses no change.
    vfs::Dentry::drop_cache(nullptr);
    CHECK(w.list("/") == std::set<std::string>{"d", "link", "sub"});
    CHECK(get(w.read("d/file")) == "other");
    CHECK(get(w.read("d/new")) == "new");
    CHECK(get(w.read("sub/deep")) == "deep");
    CHECK(w.stat("top").error() == kENOENT);
    w.store("top", "again");
    CHECK(get(w.read("top")) == "again");
    get(w.unlink("top"));
    CHECK(w.stat("top").error() == kENOENT);
  }
  CHECK(dir.read("d/file") == "hello");
  CHECK(dir.read("top") == "top");
  CHECK(access((dir / "d/new").c_str(), F_OK) == -1);
  CHECK(access((dir / "d/sub/deep").c_str(), F_OK) == 0);
}

TEST_CASE("Overlay: hard links of the image stay links when one is written") {
  TempDir dir;
  dir.write("a", "one");
  REQUIRE(::link((dir / "a").c_str(), (dir / "b").c_str()) == 0);
  World w(dir, Kind::kOverlay);
  w.store("a", "two");
  vfs::Dentry::drop_cache(nullptr);
  CHECK(get(w.read("b")) == "two");
  get(w.unlink("a"));
  CHECK(get(w.stat("b")).nlink == 1);
  CHECK(get(w.read("b")) == "two");
}

TEST_CASE("Overlay: a small write to a big file copies little") {
  TempDir dir;
  dir.write("big", std::string(8 << 20, 'x'));
  World w(dir, Kind::kOverlay);
  auto before = w.memory().usage().total();
  auto file = get(w.open("big", vfs::kO_RDWR));
  CHECK(get(w.write(*file, "y", 5 << 20)) == 1);
  CHECK(w.memory().usage().total() - before < (1 << 20));
  std::string text(3, '\0');
  vfs::KernelIoBuffer buffer({reinterpret_cast<uint8_t*>(text.data()), text.size()});
  CHECK(get(file->pread(w.ctx(), buffer, (5 << 20) - 1)) == 3);
  CHECK(text == "xyx");
  get(file->fallocate(w.ctx(), 3, 0, 10));
  vfs::KernelIoBuffer again({reinterpret_cast<uint8_t*>(text.data()), text.size()});
  CHECK(get(file->pread(w.ctx(), again, 9)) == 3);
  CHECK(text == std::string("\0xx", 3));
}

TEST_CASE("Overlay: a deep tree of new directories goes without eating the stack") {
  TempDir dir;
  World w(dir, Kind::kOverlay);
  auto at = w.root();
  vfs::CreateArgs args{.mode = abi::kS_IFDIR | 0755};
  RefPtr<vfs::Inode> inode = at.dentry->inode();
  for (int i = 0; i < 100'000; ++i) inode = get(inode->mkdir(w.ctx(), "d", args));
}

TEST_CASE("Gofer file system: a listing answers the stats that follow it") {
  TempDir dir;
  for (int i = 0; i < 500; ++i) dir.write("f" + std::to_string(i), std::string(static_cast<size_t>(i), 'x'));
  World w(dir, Kind::kPlain);
  CHECK(w.list("/").size() == 500);
  for (int i = 0; i < 500; ++i) CHECK(get(w.stat("f" + std::to_string(i))).size == static_cast<uint64_t>(i));
  CHECK(get(w.read("f7")) == "xxxxxxx");
  w.store("f7", "longer than it was");
  vfs::Dentry::drop_cache(nullptr);
  CHECK(get(w.stat("f7")).size == 18);
}

namespace {

// As stat(2) does it: without caching what a listing tells.
Result<vfs::Stat> peek(World& w, const std::string& path) { return TRY(vfs::walk_stat(w.ctx(), w.root(), path, 0)).stat; }

void make_tree(const TempDir& dir) {
  for (int d = 0; d < 20; ++d) {
    std::string name = "d" + std::to_string(d);
    dir.mkdir(name);
    dir.mkdir(name + "/sub");
    for (int f = 0; f < 5; ++f) dir.write(name + "/sub/f" + std::to_string(f), std::string(static_cast<size_t>(f), 'x'));
  }
}
void list_tree(World& w) {
  CHECK(w.list("/").size() == 20);
  for (int d = 0; d < 20; ++d) {
    std::string name = "d" + std::to_string(d);
    CHECK(w.list(name) == std::set<std::string>{"sub"});
    CHECK(w.list(name + "/sub").size() == 5);
    for (int f = 0; f < 5; ++f) {
      auto s = get(peek(w, name + "/sub/f" + std::to_string(f)));
      CHECK((s.size == static_cast<uint64_t>(f) && (s.mode & abi::kS_IFMT) == abi::kS_IFREG && s.nlink == 1));
    }
    CHECK(peek(w, name + "/sub/f5").error() == kENOENT);
  }
}

}  // namespace

TEST_CASE("Trees read ahead show what is there, and changes at once") {
  for (Kind kind : {Kind::kPlain, Kind::kShared, Kind::kOverlay}) {
    TempDir dir;
    make_tree(dir);
    World w(dir, kind);
    list_tree(w);
    w.store("d3/sub/f2", "longer than before");
    CHECK(get(peek(w, "d3/sub/f2")).size == 18);
    get(w.unlink("d4/sub/f1"));
    CHECK(peek(w, "d4/sub/f1").error() == kENOENT);
    get(w.rename("d5/sub/f1", "d5/sub/new"));
    CHECK(peek(w, "d5/sub/f1").error() == kENOENT);
    CHECK(get(peek(w, "d5/sub/new")).size == 1);
    get(w.rename("d6/sub", "d7/moved"));
    CHECK(peek(w, "d6/sub/f1").error() == kENOENT);
    CHECK(get(peek(w, "d7/moved/f4")).size == 4);
    get(w.link("d8/sub/f4", "d9/link"));
    CHECK(get(peek(w, "d8/sub/f4")).nlink == 2);
    auto chmod = [&](const std::string& path, uint32_t mode) {
      vfs::SetAttr set;
      set.mode = mode;
      get(vfs::set_attr(w.ctx(), get(vfs::walk(w.ctx(), w.root(), path, 0)).path, set));
    };
    chmod("d10/sub/f0", 0600);
    vfs::Dentry::drop_cache(nullptr);
    CHECK((get(peek(w, "d10/sub/f0")).mode & 07777) == 0600);
    CHECK(get(peek(w, "d3/sub/f2")).size == 18);
    CHECK(peek(w, "d4/sub/f1").error() == kENOENT);
    CHECK(peek(w, "d5/sub/f1").error() == kENOENT);
    CHECK(get(peek(w, "d9/link")).nlink == 2);
    CHECK(get(peek(w, "d8/sub/f4")).inode == get(peek(w, "d9/link")).inode);
    CHECK(w.list("d7/moved").size() == 5);
    CHECK(w.list("d4/sub").size() == 4);
    CHECK(w.list("d6").empty());
  }
}

TEST_CASE("Shared trees: what others change is seen although the tree was listed") {
  TempDir dir;
  make_tree(dir);
  World w(dir, Kind::kShared);
  list_tree(w);
  dir.write("d1/sub/f1", "by somebody else");
  REQUIRE(unlink((dir / "d2/sub/f2").c_str()) == 0);
  REQUIRE(rename((dir / "d3/sub").c_str(), (dir / "d3/elsewhere").c_str()) == 0);
  CHECK(get(peek(w, "d1/sub/f1")).size == 16);
  CHECK(peek(w, "d2/sub/f2").error() == kENOENT);
  CHECK(peek(w, "d3/sub/f1").error() == kENOENT);
  CHECK(w.list("d3") == std::set<std::string>{"elsewhere"});
}

TEST_CASE("Shared trees: a cached path is checked as a whole") {
  TempDir dir;
  for (const char* d : {"a", "a/b", "a/b/c"}) dir.mkdir(d);
  dir.write("a/b/c/file", "one");
  REQUIRE(symlink("b/c", (dir / "a/link").c_str()) == 0);
  World w(dir, Kind::kShared);
  for (int i = 0; i < 3; ++i) {
    CHECK(get(w.read("a/b/c/file")) == "one");
    CHECK(get(w.read("a/link/file")) == "one");
    CHECK(get(w.read("a/b/../b/./c/file")) == "one");
    CHECK(get(peek(w, "a/b/c/file")).size == 3);
    CHECK(w.read("a/b/c/none").error() == kENOENT);
  }
  REQUIRE(rename((dir / "a/b").c_str(), (dir / "a/old").c_str()) == 0);
  dir.mkdir("a/b");
  dir.mkdir("a/b/c");
  dir.write("a/b/c/file", "another");
  CHECK(get(w.read("a/b/c/file")) == "another");
  CHECK(get(w.read("a/link/file")) == "another");
  REQUIRE(unlink((dir / "a/link").c_str()) == 0);
  REQUIRE(symlink("old/c", (dir / "a/link").c_str()) == 0);
  CHECK(get(w.read("a/link/file")) == "one");
  REQUIRE(unlink((dir / "a/b/c/file").c_str()) == 0);
  CHECK(w.read("a/b/c/file").error() == kENOENT);
  dir.mkdir("a/b/c/file");
  CHECK(w.read("a/b/c/file").error() == kEISDIR);
}

TEST_CASE("Files opened in the order of their directory are the right ones, whatever happens meanwhile") {
  for (Kind kind : {Kind::kPlain, Kind::kShared, Kind::kOverlay}) {
    TempDir dir;
    for (int d = 0; d < 4; ++d) {
      dir.mkdir("d" + std::to_string(d));
      for (int f = 0; f < 50; ++f) dir.write("d" + std::to_string(d) + "/f" + std::to_string(f), std::to_string(d * 100 + f));
    }
    World w(dir, kind);
    for (int d = 0; d < 4; ++d) {
      const std::string base = "d" + std::to_string(d) + "/";
      std::vector<std::string> names;
      auto listed = get(w.open(base, vfs::kO_RDONLY | vfs::kO_DIRECTORY));
      get(listed->readdir(w.ctx(), [&](const vfs::DirEntryInfo& e) {
        if (e.type == abi::kS_IFREG >> 12) names.emplace_back(e.name);
        return true;
      }));
      REQUIRE(names.size() == 50);
      for (size_t i = 0; i < names.size(); ++i) {
        auto text = w.read(base + names[i]);
        // What is changed below lies ahead of what is open.
        if (i == 10) {
          w.store(base + names[12], "changed");
          get(w.unlink(base + names[13]));
          get(w.rename(base + names[14], base + names[15]));
        }
        const std::string original = std::to_string(d * 100 + std::stoi(names[i].substr(1)));
        if (i == 12) CHECK(get(text) == "changed");
        else if (i == 13 || i == 14) CHECK(text.error() == kENOENT);
        else if (i == 15) CHECK(get(text) == std::to_string(d * 100 + std::stoi(names[14].substr(1))));
        else CHECK(get(text) == original);
      }
    }
  }
}
