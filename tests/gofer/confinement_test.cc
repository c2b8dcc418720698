// SPDX-License-Identifier: Apache-2.0
// Attempts to reach what is not in the trees, or to do what they do not allow.
#include <atomic>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gofer/server/confine.h"
#include "tests/gofer/gofer_process.h"
#include "tests/util/catch.h"

using namespace gofer;
using test::GoferProcess;
using test::TempDir;
using enum abi::Errno;

namespace {

FileId root_of(Client& c, uint32_t tree = 0) {
  auto r = c.call(AttachRequest{.tree = tree});
  REQUIRE(r.has_value());
  return r->reply.file.id;
}
WalkReply walk(Client& c, FileId from, std::vector<std::string> names, uint32_t open_flags = kNoOpen) {
  auto r = c.call(WalkRequest{.from = from, .names = std::move(names), .open_flags = open_flags});
  REQUIRE(r.has_value());
  return r->reply;
}
CreateRequest create(FileId dir, const std::string& name) {
  CreateRequest r;
  r.dir = dir;
  r.name = name;
  r.mode = 0644;
  r.flags = O_RDWR;
  return r;
}
std::string status_field(pid_t pid, const std::string& key) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key + ":\t")) return line.substr(key.size() + 2);
  }
  return "";
}
std::string link_of(pid_t pid, const std::string& name) {
  char text[256];
  ssize_t n = readlink(("/proc/" + std::to_string(pid) + "/" + name).c_str(), text, sizeof text);
  return std::string(text, n > 0 ? static_cast<size_t>(n) : 0);
}

}  // namespace

TEST_CASE("Confinement: no name leads upwards or through a path") {
  TempDir dir;
  dir.mkdir("root");
  dir.write("secret", "s");
  GoferProcess gofer({{dir / "root"}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  for (std::string name : {"..", ".", "", "/", "../secret", "a/b", "/etc/passwd"}) {
    CHECK(c->call(WalkRequest{.from = root, .names = {name}}).error() == kEINVAL);
    CHECK(c->call(create(root, name)).error() == kEINVAL);
    CHECK(c->call(UnlinkRequest{.dir = root, .name = name}).error() == kEINVAL);
    CHECK(c->call(RenameRequest{.dir = root, .name = name, .new_dir = root, .new_name = "x"}).error() == kEINVAL);
    CHECK(c->call(RenameRequest{.dir = root, .name = "x", .new_dir = root, .new_name = name}).error() == kEINVAL);
    CHECK(c->call(LinkRequest{.dir = root, .name = name, .target = root}).error() == kEINVAL);
  }
}

TEST_CASE("Confinement: symbolic links are shown, never followed") {
  TempDir dir;
  dir.mkdir("root");
  dir.write("secret", "s");
  dir.symlink("/etc", "root/absolute");
  dir.symlink("../secret", "root/relative");
  dir.symlink("/proc/self/root", "root/magic");
  GoferProcess gofer({{dir / "root"}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  CHECK(walk(*c, root, {"absolute", "passwd"}).stop_errno == ELOOP);
  for (std::string name : {"absolute", "relative", "magic"}) {
    auto link = walk(*c, root, {name}, O_RDONLY);
    REQUIRE(link.files.size() == 1);
    CHECK(link.opened == 0);
    FileId id = link.files[0].id;
    CHECK(S_ISLNK(link.files[0].attr.mode));
    CHECK(c->call(OpenRequest{.id = id, .flags = O_RDONLY}).error() == kELOOP);
    CHECK(c->call(ReadDirRequest{.id = id}).error() == kENOTDIR);
    CHECK(c->call(create(id, "passwd")).error() == kENOTDIR);
    CHECK_FALSE(c->call(SetAttrRequest{.id = id, .set = {.mask = SetAttr::kMode, .mode = 0}}).has_value());
    CHECK_FALSE(c->call(SetAttrRequest{.id = id, .set = {.mask = SetAttr::kSize}}).has_value());
    CHECK(c->call(create(root, name)).error() == kEEXIST);
  }
  CHECK(dir.read("secret") == "s");
}

TEST_CASE("Confinement: devices and FIFOs are never opened") {
  TempDir dir;
  REQUIRE(mknod((dir / "null").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0);
  REQUIRE(mkfifo((dir / "fifo").c_str(), 0666) == 0);
  GoferProcess gofer({{dir.path()}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  for (std::string name : {"null", "fifo"}) {
    auto r = walk(*c, root, {name}, O_RDWR);
    CHECK(r.opened == 0);
    CHECK(c->call(OpenRequest{.id = r.files.at(0).id, .flags = O_RDONLY}).error() == kENXIO);
    CHECK_FALSE(c->call(SetXattrRequest{.id = r.files.at(0).id, .name = "user.x", .value = "y"}).has_value());
    SetAttrRequest chmod{.id = r.files.at(0).id, .set = {.mask = SetAttr::kMode, .mode = 0600}};
    CHECK(c->call(chmod).has_value());
  }
}

TEST_CASE("Confinement: a read-only tree refuses every change, and the writable one beside it does not") {
  TempDir dir;
  dir.mkdir("ro");
  dir.mkdir("rw");
  dir.write("ro/file", "x");
  GoferProcess gofer({{dir / "ro", true}, {dir / "rw"}});
  auto c = gofer.client();
  FileId ro = root_of(*c, 0), rw = root_of(*c, 1);
  FileId file = walk(*c, ro, {"file"}).files.at(0).id;
  CHECK(c->call(create(ro, "n")).error() == kEROFS);
  CHECK(c->call(OpenRequest{.id = file, .flags = O_RDWR}).error() == kEROFS);
  CHECK(c->call(OpenRequest{.id = file, .flags = O_WRONLY}).error() == kEROFS);
  CHECK(walk(*c, ro, {"file"}, O_RDWR).opened == 0);
  CHECK(walk(*c, ro, {"file"}, O_RDONLY).opened == 1);
  CHECK(c->call(UnlinkRequest{.dir = ro, .name = "file"}).error() == kEROFS);
  CHECK(c->call(RenameRequest{.dir = ro, .name = "file", .new_dir = rw, .new_name = "f"}).error() == kEROFS);
  CHECK(c->call(RenameRequest{.dir = rw, .name = "f", .new_dir = ro, .new_name = "f"}).error() == kEROFS);
  CHECK(c->call(LinkRequest{.dir = rw, .name = "f", .target = file}).error() == kEROFS);
  CHECK(c->call(SymlinkRequest{.dir = ro, .name = "s", .target = "t"}).error() == kEROFS);
  MkDirRequest mkdir;
  mkdir.dir = ro;
  mkdir.name = "d";
  CHECK(c->call(mkdir).error() == kEROFS);
  for (uint32_t mask : {SetAttr::kMode, SetAttr::kUid, SetAttr::kSize, SetAttr::kMtimeNow}) {
    CHECK(c->call(SetAttrRequest{.id = file, .set = {.mask = mask}}).error() == kEROFS);
  }
  CHECK(c->call(SetXattrRequest{.id = file, .name = "user.x", .value = "y"}).error() == kEROFS);
  CHECK(c->call(RemoveXattrRequest{.id = file, .name = "user.x"}).error() == kEROFS);
  CHECK(c->call(create(rw, "n")).has_value());
  CHECK(dir.read("ro/file") == "x");
  // The donated descriptor of the read-only tree cannot be widened either.
  auto fd = c->call(OpenRequest{.id = file, .flags = O_RDONLY});
  REQUIRE(fd.has_value());
  std::string self = "/proc/self/fd/" + std::to_string(fd->fd.get());
  CHECK(open(self.c_str(), O_WRONLY) == -1);
  CHECK(errno == EROFS);
}

TEST_CASE("Confinement: trees are apart") {
  TempDir dir;
  dir.mkdir("a");
  dir.mkdir("b");
  dir.write("a/file", "x");
  dir.write("single", "one");
  dir.write("sibling", "two");
  GoferProcess gofer({{dir / "a"}, {dir / "b"}, {dir / "single", false, true}});
  auto c = gofer.client();
  FileId a = root_of(*c, 0), b = root_of(*c, 1), single = root_of(*c, 2);
  FileId file = walk(*c, a, {"file"}).files.at(0).id;
  CHECK(c->call(RenameRequest{.dir = a, .name = "file", .new_dir = b, .new_name = "file"}).error() == kEXDEV);
  CHECK(c->call(LinkRequest{.dir = b, .name = "file", .target = file}).error() == kEXDEV);
  auto opened = c->call(OpenRequest{.id = single, .flags = O_RDWR});
  REQUIRE(opened.has_value());
  REQUIRE(pwrite(opened->fd.get(), "ONE", 3, 0) == 3);
  CHECK(dir.read("single") == "ONE");
  CHECK(c->call(SetAttrRequest{.id = single, .set = {.mask = SetAttr::kMode, .mode = 0600}}).has_value());
  CHECK(walk(*c, single, {"sibling"}).stop_errno == ENOTDIR);
}

TEST_CASE("Confinement: bind mounts inside a tree are entered, the host's pseudo file systems are empty") {
  TempDir dir;
  dir.mkdir("root");
  dir.mkdir("root/bind");
  dir.mkdir("root/proc");
  dir.mkdir("other");
  dir.write("other/file", "there");
  REQUIRE(mount((dir / "other").c_str(), (dir / "root/bind").c_str(), nullptr, MS_BIND, nullptr) == 0);
  REQUIRE(mount("proc", (dir / "root/proc").c_str(), "proc", 0, nullptr) == 0);
  {
    GoferProcess gofer({{dir / "root"}});
    auto c = gofer.client();
    FileId root = root_of(*c);
    CHECK(walk(*c, root, {"bind", "file"}).files.size() == 2);
    auto proc = walk(*c, root, {"proc", "1", "root"});
    CHECK(proc.files.size() == 1);
    CHECK(proc.stop_errno == ENOENT);
    auto listing = c->call(ReadDirRequest{.id = proc.files[0].id});
    REQUIRE(listing.has_value());
    CHECK(listing->reply.entries.empty());
    CHECK(c->call(create(proc.files[0].id, "x")).error() == kEACCES);
    CHECK(c->call(RenameRequest{.dir = root, .name = "bind", .new_dir = root, .new_name = "x"}).error() == kEBUSY);
  }
  umount((dir / "root/bind").c_str());
  umount((dir / "root/proc").c_str());
}

TEST_CASE("Confinement: a directory swapped for a link while it is walked never leads outside") {
  TempDir dir;
  dir.mkdir("root");
  dir.mkdir("root/d");
  dir.write("root/d/name", "inside");
  dir.mkdir("outside");
  dir.write("outside/name", "outside");
  dir.symlink("../outside", "root/l");
  GoferProcess gofer({{dir / "root"}});
  auto c = gofer.client();
  FileId root = root_of(*c);
  std::atomic<bool> stop{false};
  std::thread swapper([&] {
    std::string d = dir / "root/d", l = dir / "root/l";
    while (!stop) renameat2(AT_FDCWD, d.c_str(), AT_FDCWD, l.c_str(), RENAME_EXCHANGE);
  });
  int opened = 0;
  for (int i = 0; i < 3000; ++i) {
    auto r = c->call(WalkRequest{.from = root, .names = {"d", "name"}, .open_flags = O_RDONLY});
    if (!r) continue;
    if (r->reply.opened) {
      ++opened;
      char text[10] = {};
      CHECK(pread(r->fd.get(), text, 9, 0) == 6);
      CHECK(std::string(text) == "inside");
    }
    for (auto& f : r->reply.files) c->drop(f.id);
  }
  stop = true;
  swapper.join();
  CHECK(opened > 0);
}

TEST_CASE("Confinement: the process has namespaces, a filter and few capabilities of its own") {
  TempDir dir;
  GoferProcess gofer({{dir.path()}});
  pid_t pid = gofer.pid();
  auto c = gofer.client();
  CHECK(status_field(pid, "Seccomp") == "2");
  CHECK(status_field(pid, "NoNewPrivs") == "1");
  CHECK(status_field(pid, "CapEff") == "000000000000001f");
  CHECK(status_field(pid, "CapBnd") == "000000000000001f");
  for (std::string ns : {"mnt", "net", "ipc", "uts"}) CHECK(link_of(pid, "ns/" + ns) != link_of(getpid(), "ns/" + ns));
  CHECK(link_of(pid, "root") == "/");
  CHECK(access(("/proc/" + std::to_string(pid) + "/root/etc").c_str(), F_OK) == -1);
}

TEST_CASE("Confinement: few host calls are left") {
  CHECK(base::count_allowed_calls(gofer_policy(false)) <= 36);
  CHECK(base::count_allowed_calls(gofer_policy(true)) <= 40);
}

TEST_CASE("Confinement: the gofer ends with its connection") {
  TempDir dir;
  GoferProcess gofer({{dir.path()}});
  { auto c = gofer.client(); }
  int status = gofer.wait();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("Confinement: a set-up that fails says why and closes the connection") {
  GoferProcess gofer({{"/nonexistent/tree"}});
  CHECK_FALSE(Client::create(gofer.take_socket()).has_value());
  int status = gofer.wait();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  CHECK(gofer.log().find("/nonexistent/tree") != std::string::npos);
}
