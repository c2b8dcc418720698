// SPDX-License-Identifier: Apache-2.0
// Operations that change the trees. Every one begins with writable() or writable_dir(): EROFS of a read-only tree comes
// from here, and from its read-only mount should this ever be wrong.
#include <cerrno>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "gofer/server/server.h"

namespace gofer {

using enum abi::Errno;

namespace {
constexpr uint32_t kPermissions = 07777;
}

base::Result<NodeIndex> Server::writable(FileId id) {
  NodeIndex index = TRY(nodes_.find(id));
  if (nodes_.node(index).barred) return base::err(kEACCES);
  if (readonly(index)) return base::err(kEROFS);
  return index;
}

base::Result<NodeIndex> Server::writable_dir(FileId id, const std::string& name) {
  if (!valid_name(name)) return base::err(kEINVAL);
  NodeIndex index = TRY(writable(id));
  if (!nodes_.node(index).is_directory()) return base::err(kENOTDIR);
  return index;
}

base::Result<FileReply> Server::finish_new(NodeIndex dir, const std::string& name, uint32_t uid, uint32_t gid,
                                           uint32_t mode) {
  int dir_fd = TRY(nodes_.path_fd(dir));
  auto made = [&]() -> base::Result<FileReply> {
    base::UniqueFd fd = TRY(open_path(dir_fd, name.c_str()));
    TRY(check(fchownat(fd.get(), "", uid, gid, AT_EMPTY_PATH)));
    Stat stat = TRY(stat_fd(fd.get()));
    if (!S_ISLNK(stat.stx_mode) && (stat.stx_mode & kPermissions) != (mode & kPermissions)) {
      NodeIndex index = TRY(nodes_.intern(dir, name, stat));
      auto changed = change_mode(index, mode & kPermissions);
      nodes_.drop_ref(index);
      TRY(std::move(changed));
      stat = TRY(stat_fd(fd.get()));
    }
    return FileReply{TRY(make_file(dir, name, stat))};
  }();
  return made;
}

base::Result<FileReply> Server::serve(const CreateRequest& request) {
  NodeIndex dir = TRY(writable_dir(request.dir, request.name));
  constexpr uint32_t kFlags = O_ACCMODE | O_APPEND | O_TRUNC;
  if ((request.flags & ~kFlags) != 0 || (request.flags & O_ACCMODE) == O_ACCMODE) return base::err(kEINVAL);
  int dir_fd = TRY(nodes_.path_fd(dir));
  int flags = static_cast<int>(request.flags & (O_ACCMODE | O_APPEND)) | O_CREAT | O_EXCL;
  auto opened = open_io(dir_fd, request.name.c_str(), flags, request.mode & 0777);
  if (!opened && (opened.error() == kEMFILE || opened.error() == kENFILE)) {
    nodes_.evict(nodes_.descriptors() / 2);
    dir_fd = TRY(nodes_.path_fd(dir));
    opened = open_io(dir_fd, request.name.c_str(), flags, request.mode & 0777);
  }
  base::UniqueFd fd = TRY(std::move(opened));
  auto made = [&]() -> base::Result<FileReply> {
    TRY(check(fchown(fd.get(), request.uid, request.gid)));
    Stat stat = TRY(stat_fd(fd.get()));
    if ((stat.stx_mode & kPermissions) != (request.mode & kPermissions)) {
      TRY(check(fchmod(fd.get(), request.mode & kPermissions)));
      stat = TRY(stat_fd(fd.get()));
    }
    return FileReply{TRY(make_file(dir, request.name, stat))};
  }();
  if (!made) {
    (void)unlinkat(TRY(nodes_.path_fd(dir)), request.name.c_str(), 0);
    return made;
  }
  donations_.push_back(std::move(fd));
  return made;
}

base::Result<FileReply> Server::serve(const MkDirRequest& request) {
  NodeIndex dir = TRY(writable_dir(request.dir, request.name));
  TRY(check(mkdirat(TRY(nodes_.path_fd(dir)), request.name.c_str(), request.mode & 0777)));
  auto made = finish_new(dir, request.name, request.uid, request.gid, request.mode);
  if (!made) (void)unlinkat(TRY(nodes_.path_fd(dir)), request.name.c_str(), AT_REMOVEDIR);
  return made;
}

base::Result<FileReply> Server::serve(const SymlinkRequest& request) {
  NodeIndex dir = TRY(writable_dir(request.dir, request.name));
  if (request.target.empty() || request.target.find('\0') != std::string::npos) return base::err(kEINVAL);
  TRY(check(symlinkat(request.target.c_str(), TRY(nodes_.path_fd(dir)), request.name.c_str())));
  auto made = finish_new(dir, request.name, request.uid, request.gid, 0);
  if (!made) (void)unlinkat(TRY(nodes_.path_fd(dir)), request.name.c_str(), 0);
  return made;
}

base::Result<FileReply> Server::serve(const MkNodRequest& request) {
  NodeIndex dir = TRY(writable_dir(request.dir, request.name));
  uint32_t type = request.mode & S_IFMT;
  if (type != S_IFIFO && type != S_IFSOCK && type != S_IFREG) return base::err(kEPERM);
  TRY(check(mknodat(TRY(nodes_.path_fd(dir)), request.name.c_str(), type | (request.mode & 0777), 0)));
  auto made = finish_new(dir, request.name, request.uid, request.gid, request.mode);
  if (!made) (void)unlinkat(TRY(nodes_.path_fd(dir)), request.name.c_str(), 0);
  return made;
}

base::Result<FileReply> Server::serve(const LinkRequest& request) {
  NodeIndex dir = TRY(writable_dir(request.dir, request.name));
  NodeIndex target = TRY(writable(request.target));
  if (nodes_.node(dir).tree != nodes_.node(target).tree) return base::err(kEXDEV);
  if (nodes_.node(target).is_directory()) return base::err(kEPERM);
  // By name, as the descriptor form needs a capability of the host's own user namespace.
  auto place = TRY(nodes_.place(target));
  int dir_fd = TRY(nodes_.path_fd(dir));
  place = TRY(nodes_.place(target));
  if (!nodes_.node(dir).fd) return base::err(kENFILE);
  TRY(check(linkat(place.directory, place.name, dir_fd, request.name.c_str(), 0)));
  Stat stat = TRY(stat_at(dir_fd, request.name.c_str()));
  if (Identity::of(stat) != nodes_.node(target).identity) {
    (void)unlinkat(dir_fd, request.name.c_str(), 0);
    return base::err(kESTALE);
  }
  return FileReply{TRY(make_file(dir, request.name, stat))};
}

base::Result<Empty> Server::serve(const UnlinkRequest& request) {
  NodeIndex dir = TRY(writable_dir(request.dir, request.name));
  if ((request.flags & ~uint32_t{AT_REMOVEDIR}) != 0) return base::err(kEINVAL);
  nodes_.before_removal(dir, request.name);
  TRY(check(unlinkat(TRY(nodes_.path_fd(dir)), request.name.c_str(), static_cast<int>(request.flags))));
  nodes_.removed(dir, request.name);
  return Empty{};
}

base::Result<Empty> Server::serve(const RenameRequest& request) {
  NodeIndex dir = TRY(writable_dir(request.dir, request.name));
  NodeIndex new_dir = TRY(writable_dir(request.new_dir, request.new_name));
  if ((request.flags & ~uint32_t{RENAME_NOREPLACE | RENAME_EXCHANGE}) != 0) return base::err(kEINVAL);
  if (nodes_.node(dir).tree != nodes_.node(new_dir).tree) return base::err(kEXDEV);
  if ((request.flags & RENAME_EXCHANGE) == 0) nodes_.before_removal(new_dir, request.new_name);
  TRY(nodes_.path_fd(new_dir));
  int from = TRY(nodes_.path_fd(dir));
  if (!nodes_.node(new_dir).fd) return base::err(kENFILE);
  int to = nodes_.node(new_dir).fd.get();
  // Not the libc's function: without flags it makes another call, which the filter does not know.
  TRY(check(static_cast<int>(
      syscall(SYS_renameat2, from, request.name.c_str(), to, request.new_name.c_str(), request.flags))));
  if (request.flags & RENAME_EXCHANGE) {
    nodes_.exchanged(dir, request.name, new_dir, request.new_name);
  } else {
    nodes_.renamed(dir, request.name, new_dir, request.new_name);
  }
  return Empty{};
}

base::Result<void> Server::change_mode(NodeIndex index, uint32_t mode) {
  auto changed = chmod_fd(TRY(nodes_.path_fd(index)), mode);
  if (changed || changed.error() != kENOSYS) return changed;
  Node& n = nodes_.node(index);
  if (n.is_directory() || n.type == S_IFREG) {
    base::UniqueFd fd = TRY(open_for_metadata(index));
    return check(fchmod(fd.get(), mode));
  }
  // FIFOs and sockets before Linux 6.6: the name could be swapped for a link, which leads nowhere but into our trees.
  if (n.type == S_IFLNK) return base::err(kEOPNOTSUPP);
  TRY(stat_node(index));
  auto place = TRY(nodes_.place(index));
  return check(fchmodat(place.directory, place.name, mode, 0));
}

base::Result<void> Server::change_size(NodeIndex index, uint64_t size) {
  uint32_t type = nodes_.node(index).type;
  if (type == S_IFDIR) return base::err(kEISDIR);
  if (type != S_IFREG) return base::err(kEINVAL);
  if (size > uint64_t{INT64_MAX}) return base::err(kEFBIG);
  base::UniqueFd fd = TRY(open_node(index, O_WRONLY));
  return check(ftruncate(fd.get(), static_cast<off_t>(size)));
}

base::Result<AttrReply> Server::serve(const SetAttrRequest& request) {
  NodeIndex index = TRY(writable(request.id));
  const SetAttr& set = request.set;
  if ((set.mask & ~SetAttr::kAllMask) != 0) return base::err(kEINVAL);
  if (set.mask & SetAttr::kSize) TRY(change_size(index, set.size));
  int fd = TRY(nodes_.path_fd(index));
  if (set.mask & (SetAttr::kUid | SetAttr::kGid)) {
    uint32_t uid = set.mask & SetAttr::kUid ? set.uid : ~0u;
    uint32_t gid = set.mask & SetAttr::kGid ? set.gid : ~0u;
    TRY(check(fchownat(fd, "", uid, gid, AT_EMPTY_PATH)));
  }
  if (set.mask & SetAttr::kMode) {
    TRY(change_mode(index, set.mode & kPermissions));
    fd = TRY(nodes_.path_fd(index));
  }
  constexpr uint32_t kTimes = SetAttr::kAtime | SetAttr::kAtimeNow | SetAttr::kMtime | SetAttr::kMtimeNow;
  if (set.mask & kTimes) {
    auto time = [&](uint32_t explicit_bit, uint32_t now_bit, int64_t sec, uint32_t nsec) -> timespec {
      if (set.mask & now_bit) return {0, UTIME_NOW};
      if (set.mask & explicit_bit) return {sec, nsec};
      return {0, UTIME_OMIT};
    };
    if (set.atime_nsec >= 1'000'000'000 || set.mtime_nsec >= 1'000'000'000) return base::err(kEINVAL);
    timespec times[2] = {time(SetAttr::kAtime, SetAttr::kAtimeNow, set.atime_sec, set.atime_nsec),
                         time(SetAttr::kMtime, SetAttr::kMtimeNow, set.mtime_sec, set.mtime_nsec)};
    TRY(check(utimensat(fd, "", times, AT_EMPTY_PATH)));
  }
  Stat stat = TRY(stat_fd(fd));
  nodes_.node(index).identity = Identity::of(stat);  // an overlayfs may have copied the file up
  return AttrReply{to_attr(stat)};
}

base::Result<Empty> Server::serve(const SetXattrRequest& request) {
  NodeIndex index = TRY(writable(request.id));
  if (!valid_xattr(request.name)) return base::err(kEPERM);
  if ((request.flags & ~uint32_t{XATTR_CREATE | XATTR_REPLACE}) != 0) return base::err(kEINVAL);
  auto fd = open_for_metadata(index);
  if (!fd) return base::err(fd.error() == kEOPNOTSUPP ? kEPERM : fd.error());
  TRY(check(fsetxattr(fd->get(), request.name.c_str(), request.value.data(), request.value.size(),
                      static_cast<int>(request.flags))));
  return Empty{};
}

base::Result<Empty> Server::serve(const RemoveXattrRequest& request) {
  NodeIndex index = TRY(writable(request.id));
  if (!valid_xattr(request.name)) return base::err(kENODATA);
  auto fd = open_for_metadata(index);
  if (!fd) return base::err(fd.error() == kEOPNOTSUPP ? kEPERM : fd.error());
  TRY(check(fremovexattr(fd->get(), request.name.c_str())));
  return Empty{};
}

}  // namespace gofer
