// SPDX-License-Identifier: Apache-2.0
// Operations that change nothing: looking up, opening. Listing is in ops_list.cc.
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "gofer/server/server.h"

namespace gofer {

using enum abi::Errno;

namespace {

constexpr uint32_t kOpenFlags = O_ACCMODE | O_TRUNC | O_APPEND;

bool valid_access(uint32_t flags) { return (flags & ~kOpenFlags) == 0 && (flags & O_ACCMODE) != O_ACCMODE; }
bool is_write(uint32_t flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0; }

}  // namespace

base::Result<HelloReply> Server::serve(const HelloRequest& request) {
  if (request.version != kVersion) return base::err(kEPROTO);
  return HelloReply{.version = kVersion, .trees = static_cast<uint32_t>(trees_.size())};
}

base::Result<FileReply> Server::serve(const AttachRequest& request) {
  if (request.tree >= trees_.size()) return base::err(kENOENT);
  NodeIndex root = nodes_.tree_root(request.tree);
  Stat stat = TRY(stat_node(root));
  TRY(nodes_.add_ref(root));
  return FileReply{{.id = nodes_.id_of(root), .attr = to_attr(stat), .link_target = {}}};
}

base::Result<File> Server::make_file(NodeIndex dir, const std::string& name, const Stat& stat) {
  File file{.id = kNoFile, .attr = to_attr(stat), .link_target = {}};
  if (S_ISLNK(stat.stx_mode)) {
    int fd = TRY(nodes_.path_fd(dir));
    file.link_target = TRY(read_link(fd, name.c_str()));
  }
  file.id = nodes_.id_of(TRY(nodes_.intern(dir, name, stat)));
  return file;
}

base::Result<WalkReply> Server::serve(const WalkRequest& request) {
  NodeIndex at = TRY(nodes_.find(request.from));
  for (const std::string& name : request.names) {
    if (!valid_name(name)) return base::err(kEINVAL);
  }
  if (request.open_flags != kNoOpen && !valid_access(request.open_flags)) return base::err(kEINVAL);
  WalkReply reply;
  reply.files.reserve(request.names.size());
  for (const std::string& name : request.names) {
    const Node& dir = nodes_.node(at);
    if (!dir.is_directory()) {
      reply.stop_errno = static_cast<uint32_t>(dir.type == S_IFLNK ? kELOOP : kENOTDIR);
      break;
    }
    auto file = [&]() -> base::Result<File> {
      if (dir.barred) return base::err(kENOENT);
      int fd = TRY(nodes_.path_fd(at));
      return make_file(at, name, TRY(stat_at(fd, name.c_str())));
    }();
    if (!file) {
      reply.stop_errno = static_cast<uint32_t>(file.error());
      break;
    }
    at = *nodes_.find(file->id);
    reply.files.push_back(std::move(*file));
  }
  if (request.open_flags != kNoOpen && reply.stop_errno == 0 && nodes_.node(at).type == S_IFREG) {
    if (is_write(request.open_flags) && readonly(at)) return reply;
    auto fd = open_node(at, static_cast<int>(request.open_flags));
    if (fd) {
      donations_.push_back(std::move(*fd));
      reply.opened = 1;
    }
  }
  return reply;
}

base::Result<Empty> Server::serve(const CloseRequest& request) {
  for (FileId id : request.ids) {
    if (auto index = nodes_.find(id)) nodes_.drop_ref(*index);
  }
  return Empty{};
}

base::Result<Stat> Server::stat_node(NodeIndex index) {
  Node& n = nodes_.node(index);
  if (n.fd) return stat_fd(n.fd.get());
  auto place = TRY(nodes_.place(index));
  auto stat = stat_at(place.directory, place.name);
  if (!stat) return base::err(stat.error() == kENOENT ? kESTALE : stat.error());
  if (Identity::of(*stat) != n.identity) return base::err(kESTALE);
  return stat;
}

base::Result<AttrReply> Server::serve(const StatRequest& request) {
  return AttrReply{to_attr(TRY(stat_node(TRY(nodes_.find(request.id)))))};
}

// Opens by name in the parent and checks that it is the same file, so no path of ours passes through /proc. Devices
// and FIFOs are sorted out by type before; a file that is swapped for a device in between is stopped by the trees'
// nodev mounts, one swapped for a FIFO does not block (O_NONBLOCK) and fails the check.
base::Result<base::UniqueFd> Server::open_node(NodeIndex index, int flags) {
  Node& n = nodes_.node(index);
  if (n.barred) return base::err(kEACCES);
  if (n.is_directory()) {
    int fd = TRY(nodes_.path_fd(index));
    return open_io(fd, ".", flags | O_DIRECTORY);
  }
  if (n.type != S_IFREG) return base::err(kENXIO);
  bool write = is_write(static_cast<uint32_t>(flags));
  // Opening for writing may copy the file up in an overlayfs below us, which may change its number: then only a
  // descriptor opened before tells whether it is the same.
  if (write) TRY(nodes_.path_fd(index));
  auto place = TRY(nodes_.place(index));
  auto fd = open_io(place.directory, place.name, flags & ~O_TRUNC);
  if (!fd && (fd.error() == kEMFILE || fd.error() == kENFILE)) {
    nodes_.evict(nodes_.descriptors() / 2);
    place = TRY(nodes_.place(index));
    fd = open_io(place.directory, place.name, flags & ~O_TRUNC);
  }
  if (!fd) return base::err(fd.error() == kENOENT ? kESTALE : fd.error());
  Stat stat = TRY(stat_fd(fd->get()));
  if (Identity::of(stat) != n.identity) {
    if (!write || !n.fd) return base::err(kESTALE);
    Stat now = TRY(stat_fd(n.fd.get()));
    if (Identity::of(now) != Identity::of(stat)) return base::err(kESTALE);
    n.identity = Identity::of(now);
  }
  if (!S_ISREG(stat.stx_mode)) return base::err(kESTALE);
  if (flags & O_TRUNC) {
    if ((flags & O_ACCMODE) == O_RDONLY) return base::err(kEINVAL);
    TRY(check(ftruncate(fd->get(), 0)));
  }
  return fd;
}

base::Result<Empty> Server::serve(const OpenRequest& request) {
  NodeIndex index = TRY(nodes_.find(request.id));
  if (!valid_access(request.flags)) return base::err(kEINVAL);
  uint32_t type = nodes_.node(index).type;
  if (type == S_IFDIR) return base::err(kEISDIR);
  if (type == S_IFLNK) return base::err(kELOOP);
  if (type != S_IFREG) return base::err(kENXIO);
  if (is_write(request.flags) && readonly(index)) return base::err(kEROFS);
  donations_.push_back(TRY(open_node(index, static_cast<int>(request.flags))));
  return Empty{};
}

namespace {

// Directories below one that is open, which need no nodes. Those on other devices are left out: they might have to look empty.
class Descent {
 public:
  Descent(int top, uint64_t device) : top_(top), device_(device) {}
  // Borrowed until the next one.
  base::Result<int> to(const std::vector<std::string>& names) {
    size_t same = 0;
    while (same < below_.size() && same < names.size() && below_[same].name == names[same]) ++same;
    below_.resize(same);
    while (below_.size() < names.size()) {
      const std::string& name = names[below_.size()];
      base::UniqueFd fd = TRY(open_path(here(), name.c_str()));
      const Stat stat = TRY(stat_fd(fd.get()));
      if (!S_ISDIR(stat.stx_mode)) return base::err(kENOTDIR);
      if (Identity::of(stat).device != device_) return base::err(kEXDEV);
      below_.push_back({name, std::move(fd)});
    }
    return here();
  }

 private:
  struct Level {
    std::string name;
    base::UniqueFd fd;
  };
  int here() const { return below_.empty() ? top_ : below_.back().fd.get(); }
  const int top_;
  const uint64_t device_;
  std::vector<Level> below_;
};

}  // namespace

// As open_node does it, for names that have no node.
base::Result<OpenManyReply> Server::serve(const OpenManyRequest& request) {
  NodeIndex dir = TRY(nodes_.find(request.dir));
  for (const OpenManyRequest::Place& place : request.files) {
    if (!valid_name(place.name)) return base::err(kEINVAL);
    for (const std::string& name : place.directories) {
      if (!valid_name(name)) return base::err(kEINVAL);
    }
  }
  OpenManyReply reply;
  if (!nodes_.node(dir).is_directory()) return base::err(kENOTDIR);
  if (nodes_.node(dir).barred) return reply;
  Descent descent(TRY(nodes_.path_fd(dir)), nodes_.node(dir).identity.device);
  for (const OpenManyRequest::Place& place : request.files) {
    auto fd = descent.to(place.directories);
    if (!fd) continue;
    auto known = stat_at(*fd, place.name.c_str());
    if (!known || !S_ISREG(known->stx_mode)) continue;
    auto file = open_io(*fd, place.name.c_str(), O_RDONLY);
    if (!file && (file.error() == kEMFILE || file.error() == kENFILE)) break;
    if (!file) continue;
    auto stat = stat_fd(file->get());
    if (!stat || !S_ISREG(stat->stx_mode) || Identity::of(*stat) != Identity::of(*known)) continue;
    const Attr attr = to_attr(*stat);
    reply.opened.push_back({.device = attr.device, .inode = attr.inode});
    donations_.push_back(std::move(*file));
  }
  return reply;
}

base::Result<StringReply> Server::serve(const ReadLinkRequest& request) {
  NodeIndex index = TRY(nodes_.find(request.id));
  if (nodes_.node(index).type != S_IFLNK) return base::err(kEINVAL);
  // The empty name reads the link that the O_PATH descriptor is.
  return StringReply{TRY(read_link(TRY(nodes_.path_fd(index)), ""))};
}

base::Result<StatFsReply> Server::serve(const StatFsRequest& request) {
  struct statfs s;
  TRY(check(fstatfs(TRY(nodes_.path_fd(TRY(nodes_.find(request.id)))), &s)));
  return StatFsReply{{.type = static_cast<uint64_t>(s.f_type),
                      .block_size = static_cast<uint64_t>(s.f_bsize),
                      .blocks = s.f_blocks,
                      .blocks_free = s.f_bfree,
                      .blocks_available = s.f_bavail,
                      .files = s.f_files,
                      .files_free = s.f_ffree,
                      .name_length = static_cast<uint64_t>(s.f_namelen),
                      .flags = static_cast<uint64_t>(s.f_flags)}};
}

base::Result<base::UniqueFd> Server::open_for_metadata(NodeIndex index) {
  uint32_t type = nodes_.node(index).type;
  if (type != S_IFREG && type != S_IFDIR) return base::err(kEOPNOTSUPP);
  return open_node(index, O_RDONLY);
}

base::Result<BytesReply> Server::serve(const GetXattrRequest& request) {
  NodeIndex index = TRY(nodes_.find(request.id));
  if (!valid_xattr(request.name)) return base::err(kENODATA);
  auto fd = open_for_metadata(index);
  if (!fd) return base::err(fd.error() == kEOPNOTSUPP ? kENODATA : fd.error());
  BytesReply reply;
  reply.bytes.resize(kMaxXattr);
  ssize_t n = fgetxattr(fd->get(), request.name.c_str(), reply.bytes.data(), reply.bytes.size());
  if (n < 0) return last_error();
  reply.bytes.resize(static_cast<size_t>(n));
  return reply;
}

base::Result<BytesReply> Server::serve(const ListXattrRequest& request) {
  NodeIndex index = TRY(nodes_.find(request.id));
  BytesReply reply;
  auto fd = open_for_metadata(index);
  if (!fd && fd.error() == kEOPNOTSUPP) return reply;
  if (!fd) return base::err(fd.error());
  std::string all(kMaxXattr, '\0');
  ssize_t n = flistxattr(fd->get(), all.data(), all.size());
  if (n < 0) return last_error();
  for (size_t pos = 0; pos < static_cast<size_t>(n);) {
    std::string name(all.c_str() + pos);
    pos += name.size() + 1;
    if (valid_xattr(name)) reply.bytes.append(name.c_str(), name.size() + 1);
  }
  return reply;
}

// connect(2) takes a path only: by its name in the directory that is made current for it.
base::Result<Empty> Server::serve(const ConnectRequest& request) {
  NodeIndex index = TRY(nodes_.find(request.id));
  if (!options_.host_uds) return base::err(kECONNREFUSED);
  if (nodes_.node(index).type != S_IFSOCK) return base::err(kECONNREFUSED);
  int type = static_cast<int>(request.type);
  if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET) return base::err(kEPROTOTYPE);
  auto place = TRY(nodes_.place(index));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (std::strlen(place.name) >= sizeof address.sun_path) return base::err(kENAMETOOLONG);
  std::strcpy(address.sun_path, place.name);
  Stat stat = TRY(stat_at(place.directory, place.name));
  if (Identity::of(stat) != nodes_.node(index).identity) return base::err(kESTALE);
  base::UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return last_error();
  TRY(check(fchdir(place.directory)));
  auto connected = check(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
  if (chdir("/") != 0) return last_error();
  TRY(std::move(connected));
  donations_.push_back(std::move(fd));
  return Empty{};
}

base::Result<Empty> Server::serve(const FsyncRequest& request) {
  base::UniqueFd fd = TRY(open_for_metadata(TRY(nodes_.find(request.id))));
  TRY(check(fsync(fd.get())));
  return Empty{};
}

}  // namespace gofer
