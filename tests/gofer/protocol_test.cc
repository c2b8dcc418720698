// SPDX-License-Identifier: Apache-2.0
// Every operation against a real gofer.
#include <filesystem>
#include <set>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "gofer/proto/packed_list.h"
#include "tests/gofer/gofer_process.h"
#include "tests/util/catch.h"

using namespace gofer;
using test::GoferProcess;
using test::TempDir;
using enum abi::Errno;

namespace {

template <class T>
T get(base::Result<T> r) {
  if (!r) FAIL("error " << abi::errno_name(r.error()));
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

FileId root_of(Client& c, uint32_t tree = 0) { return get(c.call(AttachRequest{.tree = tree})).reply.file.id; }

WalkReply walk(Client& c, FileId from, std::vector<std::string> names) {
  return get(c.call(WalkRequest{.from = from, .names = std::move(names)})).reply;
}
FileId id_of(Client& c, FileId from, std::vector<std::string> names) {
  WalkReply r = walk(c, from, std::move(names));
  REQUIRE(r.stop_errno == 0);
  return r.files.back().id;
}
CreateRequest create(FileId dir, const std::string& name, uint32_t mode = 0644, uint32_t flags = O_RDWR) {
  CreateRequest r;
  r.dir = dir;
  r.name = name;
  r.mode = mode;
  r.flags = flags;
  return r;
}
template <class R>
R make(FileId dir, const std::string& name, uint32_t mode) {
  R r;
  r.dir = dir;
  r.name = name;
  r.mode = mode;
  return r;
}
template <class R>
R with_id(FileId id) {
  R r;
  r.id = id;
  return r;
}
std::string text_of(int fd) {
  char text[100];
  ssize_t n = pread(fd, text, sizeof text, 0);
  return std::string(text, n > 0 ? static_cast<size_t>(n) : 0);
}

}  // namespace

TEST_CASE("Gofer: a walk is one message, and says how far it came and why") {
  TempDir dir;
  dir.mkdir("a");
  dir.mkdir("a/b");
  dir.write("a/b/file", "hello");
  dir.symlink("b/file", "a/link");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  CHECK(c->trees() == 1);
  FileId root = root_of(*c);

  auto full = walk(*c, root, {"a", "b", "file"});
  REQUIRE(full.files.size() == 3);
  CHECK(full.stop_errno == 0);
  CHECK(full.files[2].attr.size == 5);
  CHECK(S_ISDIR(full.files[0].attr.mode));

  auto missing = walk(*c, root, {"a", "none", "x"});
  CHECK(missing.files.size() == 1);
  CHECK(missing.stop_errno == ENOENT);

  auto link = walk(*c, root, {"a", "link", "x"});
  REQUIRE(link.files.size() == 2);
  CHECK(link.stop_errno == ELOOP);
  CHECK(link.files[1].link_target == "b/file");
  CHECK(get(c->call(with_id<ReadLinkRequest>(link.files[1].id))).reply.text == "b/file");

  auto not_dir = walk(*c, root, {"a", "b", "file", "x"});
  CHECK(not_dir.files.size() == 3);
  CHECK(not_dir.stop_errno == ENOTDIR);

  auto opened = get(c->call(WalkRequest{.from = root, .names = {"a", "b", "file"}, .open_flags = O_RDONLY}));
  CHECK(opened.reply.opened == 1);
  CHECK(text_of(opened.fd.get()) == "hello");
  CHECK(opened.reply.files[2].id == full.files[2].id);
}

TEST_CASE("Gofer: donated descriptors have exactly the asked access") {
  TempDir dir;
  dir.write("file", "hello");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId file = id_of(*c, root_of(*c), {"file"});
  for (uint32_t access : {O_RDONLY, O_WRONLY, O_RDWR}) {
    auto fd = get(c->call(OpenRequest{.id = file, .flags = access})).fd;
    CHECK((fcntl(fd.get(), F_GETFL) & O_ACCMODE) == static_cast<int>(access));
    CHECK((fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  }
  CHECK(c->call(OpenRequest{.id = file, .flags = 3}).error() == kEINVAL);
  CHECK(c->call(OpenRequest{.id = file, .flags = O_CREAT}).error() == kEINVAL);
  CHECK(c->call(OpenRequest{.id = file, .flags = O_RDONLY | O_TRUNC}).error() == kEINVAL);
  get(c->call(OpenRequest{.id = file, .flags = O_RDWR | O_TRUNC}));
  CHECK(get(c->call(with_id<StatRequest>(file))).reply.attr.size == 0);
}

TEST_CASE("Gofer: makes, links, renames and removes") {
  TempDir dir;
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);

  auto made = create(root, "new", 04755, O_RDWR);
  made.uid = 12;
  made.gid = 34;
  auto file = get(c->call(made));
  CHECK(file.reply.file.attr.mode == (S_IFREG | 04755u));
  CHECK(file.reply.file.attr.uid == 12);
  CHECK(file.reply.file.attr.gid == 34);
  REQUIRE(write(file.fd.get(), "data", 4) == 4);
  CHECK(c->call(create(root, "new")).error() == kEEXIST);

  FileId sub = get(c->call(make<MkDirRequest>(root, "sub", 01777))).reply.file.id;
  CHECK(get(c->call(with_id<StatRequest>(sub))).reply.attr.mode == (S_IFDIR | 01777u));
  CHECK(c->call(make<MkDirRequest>(root, "sub", 0755)).error() == kEEXIST);

  auto link = get(c->call(SymlinkRequest{.dir = sub, .name = "s", .target = "../new", .uid = 5, .gid = 6})).reply.file;
  CHECK(link.link_target == "../new");
  CHECK(link.attr.uid == 5);

  for (uint32_t type : {S_IFIFO, S_IFSOCK, S_IFREG}) {
    auto node = get(c->call(make<MkNodRequest>(sub, "n" + std::to_string(type), type | 0622))).reply.file;
    CHECK(node.attr.mode == (type | 0622u));
  }
  CHECK(c->call(make<MkNodRequest>(sub, "dev", S_IFCHR | 0600)).error() == kEPERM);

  auto hard = get(c->call(LinkRequest{.dir = sub, .name = "hard", .target = file.reply.file.id})).reply.file;
  CHECK(hard.attr.nlink == 2);
  CHECK(hard.attr.inode == file.reply.file.attr.inode);

  get(c->call(RenameRequest{.dir = root, .name = "new", .new_dir = sub, .new_name = "moved"}));
  CHECK(get(c->call(with_id<StatRequest>(file.reply.file.id))).reply.attr.nlink == 2);
  CHECK(text_of(get(c->call(OpenRequest{.id = file.reply.file.id, .flags = O_RDONLY})).fd.get()) == "data");
  CHECK(c->call(RenameRequest{.dir = sub, .name = "moved", .new_dir = sub, .new_name = "s", .flags = RENAME_NOREPLACE})
            .error() == kEEXIST);
  get(c->call(RenameRequest{.dir = sub, .name = "moved", .new_dir = sub, .new_name = "s", .flags = RENAME_EXCHANGE}));
  CHECK(get(c->call(with_id<ReadLinkRequest>(link.id))).reply.text == "../new");
  CHECK(walk(*c, sub, {"moved"}).files.at(0).id == link.id);

  // Renaming over a file that is held: the old one stays reachable by its id.
  auto victim = get(c->call(create(root, "victim"))).reply.file;
  get(c->call(RenameRequest{.dir = sub, .name = "hard", .new_dir = root, .new_name = "victim"}));
  CHECK(get(c->call(with_id<StatRequest>(victim.id))).reply.attr.nlink == 0);

  CHECK(c->call(UnlinkRequest{.dir = root, .name = "sub"}).error() == kEISDIR);
  CHECK(c->call(UnlinkRequest{.dir = root, .name = "sub", .flags = AT_REMOVEDIR}).error() == kENOTEMPTY);
  get(c->call(UnlinkRequest{.dir = root, .name = "victim"}));
  CHECK(walk(*c, root, {"victim"}).stop_errno == ENOENT);
  CHECK(c->call(UnlinkRequest{.dir = root, .name = "victim"}).error() == kENOENT);
}

TEST_CASE("Gofer: a removed file stays reachable by its id") {
  TempDir dir;
  dir.write("file", "x");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  FileId file = id_of(*c, root, {"file"});
  get(c->call(UnlinkRequest{.dir = root, .name = "file"}));
  CHECK(get(c->call(with_id<StatRequest>(file))).reply.attr.nlink == 0);
  SetAttrRequest chown{.id = file, .set = {.mask = SetAttr::kUid, .uid = 7}};
  CHECK(get(c->call(chown)).reply.attr.uid == 7);
}

TEST_CASE("Gofer: attributes, statfs, extended attributes, fsync") {
  TempDir dir;
  dir.write("file", "hello");
  dir.symlink("file", "link");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  FileId file = id_of(*c, root, {"file"});

  SetAttrRequest set{.id = file,
                     .set = {.mask = SetAttr::kMode | SetAttr::kUid | SetAttr::kSize | SetAttr::kAtime | SetAttr::kMtime,
                             .mode = 0640, .uid = 3, .size = 2, .atime_sec = 100, .mtime_sec = 200, .mtime_nsec = 5}};
  Attr a = get(c->call(set)).reply.attr;
  CHECK(a.mode == (S_IFREG | 0640u));
  CHECK(a.uid == 3);
  CHECK(a.size == 2);
  CHECK(a.atime_sec == 100);
  CHECK(a.mtime_sec == 200);
  CHECK(a.mtime_nsec == 5);
  CHECK(c->call(SetAttrRequest{.id = file, .set = {.mask = 1u << 20}}).error() == kEINVAL);
  CHECK(c->call(SetAttrRequest{.id = root, .set = {.mask = SetAttr::kSize}}).error() == kEISDIR);
  FileId link = id_of(*c, root, {"link"});
  CHECK(get(c->call(SetAttrRequest{.id = link, .set = {.mask = SetAttr::kUid, .uid = 9}})).reply.attr.uid == 9);
  CHECK(get(c->call(with_id<StatRequest>(file))).reply.attr.uid == 3);

  CHECK(get(c->call(with_id<StatFsRequest>(root))).reply.statfs.block_size > 0);
  get(c->call(with_id<FsyncRequest>(root)));

  CHECK(c->call(SetXattrRequest{.id = file, .name = "security.capability", .value = "x"}).error() == kEPERM);
  CHECK(c->call(SetXattrRequest{.id = file, .name = "trusted.overlay.opaque", .value = "y"}).error() == kEPERM);
  auto done = c->call(SetXattrRequest{.id = file, .name = "user.test", .value = "value"});
  if (!done && done.error() == kEOPNOTSUPP) return;
  get(std::move(done));
  CHECK(get(c->call(GetXattrRequest{.id = file, .name = "user.test"})).reply.bytes == "value");
  CHECK(get(c->call(with_id<ListXattrRequest>(file))).reply.bytes == std::string("user.test\0", 10));
  get(c->call(RemoveXattrRequest{.id = file, .name = "user.test"}));
  CHECK(c->call(GetXattrRequest{.id = file, .name = "user.test"}).error() == kENODATA);
}

TEST_CASE("Gofer: ids are counted, and unknown ones are errors") {
  TempDir dir;
  dir.write("file", "");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  FileId file = id_of(*c, root, {"file"});
  CHECK(id_of(*c, root, {"file"}) == file);
  c->drop(file);
  c->flush_drops();
  get(c->call(with_id<StatRequest>(file)));
  c->drop(file);
  c->flush_drops();
  CHECK(c->call(with_id<StatRequest>(file)).error() == kESTALE);
  CHECK(id_of(*c, root, {"file"}) != file);  // another generation
  for (FileId bad : {0u, 1u, 0xffffffffu, file + 1, 12345u}) CHECK_FALSE(c->call(with_id<StatRequest>(bad)).has_value());
  CHECK_FALSE(c->call(AttachRequest{.tree = 1}).has_value());
}

TEST_CASE("Gofer: a file replaced behind our back is stale, never mistaken") {
  TempDir dir;
  dir.write("file", "one");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  FileId file = id_of(*c, root, {"file"});
  dir.write("other", "two");
  REQUIRE(rename((dir / "other").c_str(), (dir / "file").c_str()) == 0);
  CHECK(c->call(with_id<StatRequest>(file)).error() == kESTALE);
  CHECK(c->call(OpenRequest{.id = file, .flags = O_RDONLY}).error() == kESTALE);
  CHECK(id_of(*c, root, {"file"}) != file);
}

TEST_CASE("Gofer: lists 50,000 files in bulk and walks to them with few descriptors") {
  TempDir dir;
  dir.mkdir("many");
  base::UniqueFd many(open((dir / "many").c_str(), O_RDONLY | O_DIRECTORY));
  constexpr int kFiles = 50'000;
  for (int i = 0; i < kFiles; ++i) {
    REQUIRE(mknodat(many.get(), ("file" + std::to_string(i)).c_str(), S_IFREG | 0644, 0) == 0);
  }
  GoferProcess gofer({{dir.path()}}, {.max_files = 128});
  auto c = gofer.client();
  FileId listing = id_of(*c, root_of(*c), {"many"});
  std::set<std::string> names;
  int messages = 0;
  for (uint64_t cookie = 0;;) {
    auto r = get(c->call(ReadDirRequest{.id = listing, .cookie = cookie})).reply;
    ++messages;
    for (auto& e : r.entries) {
      REQUIRE(S_ISREG(e.attr.mode));
      names.insert(e.name);
      cookie = e.cookie;
    }
    if (r.end) break;
  }
  CHECK(names.size() == kFiles);
  CHECK(messages < 100);
  std::vector<FileId> ids;
  for (int i = 0; i < kFiles; ++i) ids.push_back(id_of(*c, listing, {"file" + std::to_string(i)}));
  for (size_t i = 0; i < ids.size(); i += 97) get(c->call(with_id<StatRequest>(ids[i])));
  get(c->call(OpenRequest{.id = ids[4711], .flags = O_RDWR}));
}

TEST_CASE("Gofer: more directories than descriptors") {
  TempDir dir;
  constexpr int kDirs = 300;
  for (int i = 0; i < kDirs; ++i) {
    dir.mkdir("d" + std::to_string(i));
    dir.write("d" + std::to_string(i) + "/f", std::to_string(i));
  }
  GoferProcess gofer({{dir.path()}}, {.max_files = 100});
  auto c = gofer.client();
  FileId root = root_of(*c);
  std::vector<FileId> ids;
  for (int i = 0; i < kDirs; ++i) ids.push_back(id_of(*c, root, {"d" + std::to_string(i), "f"}));
  std::vector<base::UniqueFd> held;
  for (int i = 0; i < kDirs; ++i) {
    auto fd = get(c->call(OpenRequest{.id = ids[i], .flags = O_RDONLY})).fd;
    CHECK(text_of(fd.get()) == std::to_string(i));
  }
  // Removed files keep theirs, until there are no more: an error, and what was there before still works.
  int errors = 0;
  for (int i = 0; i < kDirs; ++i) {
    FileId d = id_of(*c, root, {"d" + std::to_string(i)});
    get(c->call(UnlinkRequest{.dir = d, .name = "f"}));
    if (!c->call(with_id<StatRequest>(ids[i]))) ++errors;
  }
  CHECK(errors < kDirs);
  get(c->call(with_id<StatRequest>(root)));
}

TEST_CASE("Gofer: a client without a free descriptor gets an error and goes on") {
  TempDir dir;
  dir.write("file", "hello");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId file = id_of(*c, root_of(*c), {"file"});
  std::vector<base::UniqueFd> all;
  for (int fd; (fd = dup(0)) >= 0;) all.emplace_back(fd);
  auto answer = c->call(OpenRequest{.id = file, .flags = O_RDONLY});
  bool dead = c->dead();
  all.clear();
  CHECK(answer.error() == kENFILE);
  CHECK_FALSE(dead);
  CHECK(text_of(get(c->call(OpenRequest{.id = file, .flags = O_RDONLY})).fd.get()) == "hello");
}

TEST_CASE("Gofer: host sockets only when allowed") {
  TempDir dir;
  base::UniqueFd listener(socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, (dir / "sock").c_str());
  REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(listen(listener.get(), 1) == 0);
  {
    GoferProcess gofer({{dir.path()}});
    auto c = gofer.client();
    FileId sock = id_of(*c, root_of(*c), {"sock"});
    CHECK(c->call(ConnectRequest{.id = sock, .type = SOCK_STREAM}).error() == kECONNREFUSED);
    CHECK(c->call(OpenRequest{.id = sock}).error() == kENXIO);
  }
  GoferProcess gofer({{dir.path()}}, {.host_uds = true});
  auto c = gofer.client();
  FileId sock = id_of(*c, root_of(*c), {"sock"});
  auto fd = get(c->call(ConnectRequest{.id = sock, .type = SOCK_STREAM})).fd;
  base::UniqueFd peer(accept(listener.get(), nullptr, nullptr));
  REQUIRE(write(peer.get(), "hi", 2) == 2);
  char text[2];
  CHECK(recv(fd.get(), text, 2, 0) == 2);
}

TEST_CASE("Gofer: replies come to their own waiter in any order") {
  TempDir dir;
  dir.write("a", "1");
  dir.write("b", "22");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  struct Waiter final : Completion {
    StatRequest request;
    uint64_t size = 0;
    int calls = 0;
    void complete(base::Result<Packet> packet) override {
      ++calls;
      if (auto answer = decode_answer(request, std::move(packet))) size = answer->reply.attr.size;
    }
  } a, b;
  a.request.id = id_of(*c, root, {"a"});
  b.request.id = id_of(*c, root, {"b"});
  get(c->submit(a.request, a));
  get(c->submit(b.request, b));
  get(c->call(with_id<StatRequest>(root)));
  CHECK(a.calls == 1);
  CHECK(b.calls == 1);
  CHECK(a.size == 1);
  CHECK(b.size == 2);
}

namespace {

// Names in each list, in the order of the lists.
std::vector<std::set<std::string>> names_of(const ReadTreeReply& reply) {
  std::vector<std::set<std::string>> all;
  for (const TreeList& list : reply.lists) {
    std::set<std::string> names;
    std::span<const uint8_t> rest(reinterpret_cast<const uint8_t*>(list.entries.data()), list.entries.size());
    PackedEntry e;
    for (uint32_t i = 0; i < list.count; ++i) {
      REQUIRE(unpack_entry(rest, list.device, e));
      names.insert(std::string(e.name));
    }
    CHECK(rest.empty());
    all.push_back(std::move(names));
  }
  return all;
}

}  // namespace

TEST_CASE("Gofer: a tree is listed depth first in one message") {
  TempDir dir;
  for (const char* d : {"a", "a/b", "a/b/c", "z"}) dir.mkdir(d);
  dir.write("a/file", "12345");
  dir.write("a/b/c/deep", "");
  dir.write("z/last", "");
  REQUIRE(symlink("/else/where", (dir / "a/b/link").c_str()) == 0);
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  auto reply = get(c->call(ReadTreeRequest{.dir = root, .names = {"a", "gone", "z"}})).reply;
  auto names = names_of(reply);
  REQUIRE(names.size() == 4);
  CHECK(names[0] == std::set<std::string>{"b", "file"});
  CHECK(names[1] == std::set<std::string>{"c", "link"});
  CHECK(names[2] == std::set<std::string>{"deep"});
  CHECK(names[3] == std::set<std::string>{"last"});
  // Attributes are those of a walk.
  for (const TreeList& list : reply.lists) {
    std::span<const uint8_t> rest(reinterpret_cast<const uint8_t*>(list.entries.data()), list.entries.size());
    PackedEntry e;
    while (!rest.empty()) {
      REQUIRE(unpack_entry(rest, list.device, e));
      if (e.name == "link") CHECK(e.link_target == "/else/where");
      if (e.name != "file") continue;
      File known = walk(*c, root, {"a", "file"}).files.back();
      CHECK(memcmp(&known.attr, &e.attr, sizeof e.attr) == 0);
    }
  }
  File a = walk(*c, root, {"a"}).files.back();
  CHECK((reply.lists[0].device == a.attr.device && reply.lists[0].inode == a.attr.inode));
}

TEST_CASE("Gofer: a tree's lists are complete or missing") {
  TempDir dir;
  dir.mkdir("big");
  dir.mkdir("small");
  for (int i = 0; i < 5000; ++i) dir.write("big/" + std::to_string(i), "");
  for (int i = 0; i < 10; ++i) dir.write("small/" + std::to_string(i), "");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  CHECK(get(c->call(ReadTreeRequest{.dir = root, .names = {"big", "small"}})).reply.lists.empty());
  CHECK(get(c->call(ReadTreeRequest{.dir = root, .max_entries = 9, .names = {"small"}})).reply.lists.empty());
  CHECK(get(c->call(ReadTreeRequest{.dir = root, .max_entries = 10, .names = {"small"}})).reply.lists.size() == 1);
  CHECK(get(c->call(ReadTreeRequest{.dir = root, .max_entries = ~0u, .names = {"small"}})).reply.lists.size() == 1);
}

TEST_CASE("Gofer: a tree deeper than it may hold open, and names that are none") {
  TempDir dir;
  std::string path = "d";
  for (int i = 0; i < 100; ++i, path += "/d") dir.mkdir(path);
  dir.write("file", "");
  REQUIRE(symlink("d", (dir / "link").c_str()) == 0);
  GoferProcess gofer({{dir.path()}}, {.max_files = 128});
  auto c = gofer.client();
  FileId root = root_of(*c);
  size_t lists = get(c->call(ReadTreeRequest{.dir = root, .names = {"d"}})).reply.lists.size();
  CHECK((lists > 10 && lists < 100));
  CHECK(get(c->call(ReadTreeRequest{.dir = root, .names = {"file", "link"}})).reply.lists.empty());
  for (const char* name : {"", ".", "..", "d/d", "/"}) {
    CHECK(c->call(ReadTreeRequest{.dir = root, .names = {name}}).error() == kEINVAL);
  }
  CHECK(c->call(ReadTreeRequest{.dir = id_of(*c, root, {"file"}), .names = {"x"}}).error() == kENOTDIR);
  CHECK(c->call(ReadTreeRequest{.dir = 12345, .names = {"x"}}).error() == kESTALE);
}

TEST_CASE("Gofer: with every descriptor cached the one in use stays") {
  TempDir dir;
  constexpr int kDirs = 400;
  for (int i = 0; i < kDirs; ++i) {
    dir.mkdir("d" + std::to_string(i));
    dir.write("d" + std::to_string(i) + "/f", "");
  }
  GoferProcess gofer({{dir.path()}}, {.max_files = 128});
  auto c = gofer.client();
  FileId root = root_of(*c);
  std::vector<FileId> held;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < kDirs; ++i) {
      FileId d = id_of(*c, root, {"d" + std::to_string(i)});
      held.push_back(d);
      CHECK(get(c->call(with_id<ReadDirRequest>(d))).reply.entries.size() == 1);
    }
  }
}

TEST_CASE("Gofer: opens many regular files with one message, and nothing else") {
  TempDir dir;
  dir.mkdir("d");
  dir.mkdir("d/sub");
  for (int i = 0; i < 40; ++i) dir.write("d/f" + std::to_string(i), std::to_string(i));
  dir.symlink("f1", "d/link");
  REQUIRE(mkfifo((dir / "d/fifo").c_str(), 0600) == 0);
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  const FileId d = id_of(*c, root_of(*c), {"d"});
  auto many = get(c->call(OpenManyRequest{.dir = d, .files = {{{}, "f3"}, {{}, "gone"}, {{}, "link"}, {{}, "sub"}, {{}, "fifo"}, {{}, "f1"}}}));
  REQUIRE((many.fds.size() == 2 && many.reply.opened.size() == 2));
  CHECK(text_of(many.fds[0].get()) == "3");
  CHECK(text_of(many.fds[1].get()) == "1");
  const File f1 = walk(*c, d, {"f1"}).files.back();
  CHECK((many.reply.opened[1].device == f1.attr.device && many.reply.opened[1].inode == f1.attr.inode));
  OpenManyRequest request{.dir = d, .files = {}};
  for (size_t i = 0; i < kMaxOpenMany; ++i) request.files.push_back({{}, "f" + std::to_string(i)});
  CHECK(get(c->call(request)).fds.size() == kMaxOpenMany);
  request.files.push_back({{}, "f39"});
  CHECK(c->call(request).error() == kEINVAL);
  CHECK(get(c->call(OpenManyRequest{.dir = d, .files = {{{}, "link"}}})).fds.empty());
  for (const char* name : {"", ".", "..", "sub/x", "/"}) {
    CHECK(c->call(OpenManyRequest{.dir = d, .files = {{{}, name}}}).error() == kEINVAL);
    CHECK(c->call(OpenManyRequest{.dir = d, .files = {{{}, "f1"}, {{"sub", name}, "x"}}}).error() == kEINVAL);
  }
  CHECK(c->call(OpenManyRequest{.dir = f1.id, .files = {{{}, "x"}}}).error() == kENOTDIR);
  CHECK(c->call(OpenManyRequest{.dir = 12345, .files = {{{}, "x"}}}).error() == kESTALE);
}

TEST_CASE("Gofer: opens files below several directories with one message, through no link") {
  TempDir dir;
  for (const char* name : {"a", "a/b", "a/b/c", "d", "outside"}) dir.mkdir(name);
  for (const char* name : {"a/1", "a/b/2", "a/b/c/3", "d/4", "outside/5"}) dir.write(name, name);
  dir.symlink("../outside", "a/link");
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  const FileId root = root_of(*c);
  auto many = get(c->call(OpenManyRequest{
      .dir = root,
      .files = {{{"a"}, "1"}, {{"a", "b"}, "2"}, {{"a", "b", "c"}, "3"}, {{"a", "link"}, "5"}, {{"gone"}, "x"}, {{"a", "1"}, "x"}, {{"d"}, "4"}, {{"a"}, "1"}}}));
  REQUIRE(many.fds.size() == 5);
  const char* const wanted[] = {"a/1", "a/b/2", "a/b/c/3", "d/4", "a/1"};
  for (size_t i = 0; i < 5; ++i) CHECK(text_of(many.fds[i].get()) == wanted[i]);
  OpenManyRequest deep{.dir = root, .files = {{std::vector<std::string>(kMaxOpenDepth, "a"), "1"}}};
  CHECK(get(c->call(deep)).fds.empty());
  deep.files[0].directories.push_back("a");
  CHECK(c->call(deep).error() == kEINVAL);
}

TEST_CASE("Gofer: opens as many as it has descriptors for, and goes on") {
  TempDir dir;
  for (int i = 0; i < 32; ++i) dir.write("f" + std::to_string(i), "");
  GoferProcess gofer({{dir.path()}}, {.max_files = 24});
  auto c = gofer.client();
  OpenManyRequest request{.dir = root_of(*c), .files = {}};
  for (int i = 0; i < 32; ++i) request.files.push_back({{}, "f" + std::to_string(i)});
  const size_t opened = get(c->call(request)).fds.size();
  CHECK((opened > 4 && opened < 24));
  CHECK(get(c->call(request)).fds.size() == opened);
}
