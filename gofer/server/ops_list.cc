// SPDX-License-Identifier: Apache-2.0
// Listing directories, one by one and whole trees ahead of the sentry's walk.
#include <algorithm>
#include <cstring>
#include <optional>

#include <dirent.h>
#include <fcntl.h>

#include "gofer/proto/packed_list.h"
#include "gofer/server/server.h"

namespace gofer {

using enum abi::Errno;

namespace {

// Leaves room for a header and the reply's fixed fields.
constexpr size_t kBudget = kMaxPacket - 1024;
constexpr size_t kMaxDepth = 32;  // directories that a ReadTree has open

struct LinuxDirent64 {
  uint64_t ino;
  int64_t off;
  uint16_t reclen;
  uint8_t type;
};
constexpr size_t kDirentName = 19;  // the name starts before the struct's padding ends

struct Listed {
  Attr attr;
  std::string link_target;
};

// What a listing says of `name`; nothing when it has vanished since.
std::optional<Listed> look_at(int directory, const char* name, uint8_t type) {
  Listed entry;
  auto stat = stat_at(directory, name);
  if (!stat && stat.error() == kENOENT) return std::nullopt;
  if (stat) {
    entry.attr = to_attr(*stat);
    if (S_ISLNK(stat->stx_mode)) entry.link_target = read_link(directory, name).value_or("");
  } else {
    entry.attr.mode = type == DT_UNKNOWN ? uint32_t{S_IFREG} : DTTOIF(type);
  }
  return entry;
}

}  // namespace

template <class F>
base::Result<bool> Server::each_name(int fd, F entry) {
  for (;;) {
    ssize_t n = getdents64(fd, dirents_.get(), kDirentBuffer);
    if (n < 0) return last_error();
    if (n == 0) return true;
    for (size_t pos = 0; pos < static_cast<size_t>(n);) {
      LinuxDirent64 d;
      std::memcpy(&d, dirents_.get() + pos, sizeof d);
      const char* name = dirents_.get() + pos + kDirentName;
      pos += d.reclen;
      if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0 || std::strlen(name) > kMaxName) continue;
      if (!entry(name, d.type, static_cast<uint64_t>(d.off))) return false;
    }
  }
}

base::Result<ReadDirReply> Server::serve(const ReadDirRequest& request) {
  NodeIndex index = TRY(nodes_.find(request.id));
  if (!nodes_.node(index).is_directory()) return base::err(kENOTDIR);
  ReadDirReply reply;
  if (nodes_.node(index).barred) {
    reply.end = 1;
    return reply;
  }
  base::UniqueFd fd = TRY(open_node(index, O_RDONLY));
  if (request.cookie != 0 && lseek(fd.get(), static_cast<off_t>(request.cookie), SEEK_SET) < 0) return last_error();
  size_t used = 0;
  reply.end = TRY(each_name(fd.get(), [&](const char* name, uint8_t type, uint64_t cookie) {
    auto listed = look_at(fd.get(), name, type);
    if (!listed) return true;
    DirEntry entry{.name = name, .cookie = cookie, .attr = listed->attr, .link_target = std::move(listed->link_target)};
    used += entry.wire_size();
    if (used > kBudget || reply.entries.size() == kMaxEntries) return false;
    reply.entries.push_back(std::move(entry));
    return true;
  }));
  return reply;
}

// One ReadTree: depth first, so that the lists come in the order in which a walk wants them.
class Server::TreeReader {
 public:
  TreeReader(Server& server, uint32_t max_entries) : server_(server), entries_left_(std::min<size_t>(max_entries, kMaxEntries)) {}

  // `name` in `directory` and all below. False: the reply is full.
  bool read(int directory, const std::string& name, uint64_t device, uint64_t inode) {
    if (!list(directory, name, device, inode)) return false;
    while (!open_.empty()) {
      Open& top = open_.back();
      if (top.next == top.below.size()) {
        open_.pop_back();
        continue;
      }
      const Below& next = top.below[top.next++];
      if (!list(top.fd.get(), next.name, top.device, next.inode)) return false;
    }
    return true;
  }
  ReadTreeReply take() { return std::move(reply_); }

 private:
  struct Below {
    std::string name;
    uint64_t inode;
  };
  struct Open {
    base::UniqueFd fd;
    uint64_t device;
    std::vector<Below> below;
    size_t next = 0;
  };

  // A directory that cannot be read has no list, and is no reason to stop.
  bool list(int directory, const std::string& name, uint64_t device, uint64_t inode) {
    auto fd = open_io(directory, name.c_str(), O_RDONLY | O_DIRECTORY);
    if (!fd) return true;
    auto stat = stat_fd(fd->get());
    // Something else by now, or another file system on it.
    if (!stat || stat->stx_ino != inode || to_attr(*stat).device != device) return true;
    TreeList list{.device = device, .inode = inode, .count = 0, .entries = {}};
    Open open{std::move(*fd), device, {}};
    auto complete = server_.each_name(open.fd.get(), [&](const char* entry, uint8_t type, uint64_t) {
      auto listed = look_at(open.fd.get(), entry, type);
      if (!listed) return true;
      if (list.count == entries_left_) return false;
      pack_entry(list.entries, device, entry, listed->attr, listed->link_target);
      if (bytes_ + list.wire_size() > kBudget) return false;
      ++list.count;
      if (S_ISDIR(listed->attr.mode) && listed->attr.device == device) open.below.push_back({entry, listed->attr.inode});
      return true;
    });
    if (!complete) return true;
    if (!*complete || reply_.lists.size() == kMaxTreeLists) return false;
    entries_left_ -= list.count;
    bytes_ += list.wire_size();
    reply_.lists.push_back(std::move(list));
    if (!open.below.empty() && open_.size() < kMaxDepth) open_.push_back(std::move(open));
    return entries_left_ != 0;
  }

  Server& server_;
  size_t entries_left_, bytes_ = 0;
  ReadTreeReply reply_;
  std::vector<Open> open_;
};

base::Result<ReadTreeReply> Server::serve(const ReadTreeRequest& request) {
  NodeIndex dir = TRY(nodes_.find(request.dir));
  for (const std::string& name : request.names) {
    if (!valid_name(name)) return base::err(kEINVAL);
  }
  if (!nodes_.node(dir).is_directory()) return base::err(kENOTDIR);
  if (nodes_.node(dir).barred) return ReadTreeReply{};
  int fd = TRY(nodes_.path_fd(dir));
  const uint64_t device = to_attr(TRY(stat_fd(fd))).device;
  TreeReader reader(*this, request.max_entries);
  for (const std::string& name : request.names) {
    auto stat = stat_at(fd, name.c_str());
    if (!stat || !S_ISDIR(stat->stx_mode) || to_attr(*stat).device != device) continue;
    if (!reader.read(fd, name, device, stat->stx_ino)) break;
  }
  return reader.take();
}

}  // namespace gofer
