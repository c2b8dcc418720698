// SPDX-License-Identifier: Apache-2.0
// The gofer protocol: what the sentry asks the gofer of the container's host files. docs/gofer_protocol.md.
//
// One SOCK_SEQPACKET Unix socket per container; a request is one packet, its reply another one with the same `tag`.
// Requests of one connection may be answered in any order, so that a slow one holds up no other. Both ends treat the
// other as hostile: sizes, counts and strings are checked, unknown ids are errors, never crashes.
//
// Files are named by FileId: a number the *gofer* hands out, with a count of references held by the client: every File
// in a reply adds one to its id. Names in requests are single components, never "", ".", ".." nor with a "/", resolved
// beneath the file's tree without following symbolic links (the sentry's VFS follows them itself).
//
// A message on the wire: Header, then the body as wire() lists it: fixed fields little-endian and packed in order,
// strings as u16 length + bytes, blobs as u32 length + bytes, arrays as u32 count + elements. codec.h does it; one
// wire() per message serves both directions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace gofer {

static_assert(std::endian::native == std::endian::little, "the wire format is memory order");

inline constexpr uint32_t kVersion = 4;
inline constexpr size_t kMaxPacket = 128 * 1024;
inline constexpr size_t kMaxWalk = 64;     // components in one walk
inline constexpr size_t kMaxClose = 1024;  // ids in one close
inline constexpr size_t kMaxName = 255;
inline constexpr size_t kMaxPath = 4095;   // a symbolic link's target
inline constexpr size_t kMaxXattr = 64 * 1024;
inline constexpr size_t kMaxEntries = 4096;  // directory entries in one reply
inline constexpr size_t kMaxTrees = 4096;
inline constexpr size_t kMaxTreeNames = 64;  // directories asked for in one ReadTree
inline constexpr size_t kMaxTreeLists = 4096;  // directories listed in its reply
inline constexpr size_t kMaxOpenMany = 32;  // files opened by one message
inline constexpr size_t kMaxOpenDepth = 16;  // of each below the directory that is named

using FileId = uint32_t;
inline constexpr FileId kNoFile = 0;
// WalkRequest::open_flags: only look, open nothing.
inline constexpr uint32_t kNoOpen = 0xffff'ffff;

enum class Op : uint16_t {
  kError = 0,  // reply only
  kHello,
  kAttach,
  kWalk,
  kClose,  // no reply
  kStat,
  kOpen,
  kReadDir,
  kReadLink,
  kCreate,
  kMkDir,
  kSymlink,
  kMkNod,
  kLink,
  kUnlink,
  kRename,
  kSetAttr,
  kStatFs,
  kGetXattr,
  kSetXattr,
  kListXattr,
  kRemoveXattr,
  kConnect,
  kFsync,
  kReadTree,
  kOpenMany,
  kMax,
};

struct Header {
  uint32_t size = 0;  // of the whole packet
  uint16_t op = 0;    // in a reply: the request's op, or kError
  uint16_t cpu = 0;   // in a request: 1 + the CPU on which its sender waits for the reply; 0: on none in particular
  uint64_t tag = 0;
};
static_assert(sizeof(Header) == 16);

struct Attr {
  uint64_t device = 0, inode = 0;
  uint32_t mode = 0, nlink = 0, uid = 0, gid = 0;
  uint64_t rdev = 0, size = 0, blocks = 0;  // blocks of 512 bytes
  uint32_t block_size = 0, pad0 = 0;
  int64_t atime_sec = 0, mtime_sec = 0, ctime_sec = 0, btime_sec = 0;
  uint32_t atime_nsec = 0, mtime_nsec = 0, ctime_nsec = 0, btime_nsec = 0;
};
static_assert(sizeof(Attr) == 112 && std::has_unique_object_representations_v<Attr>);

struct File {
  FileId id = kNoFile;
  Attr attr;
  std::string link_target;  // of a symbolic link, so that following it costs no second message
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
    c.pod(m.attr);
    c.str(m.link_target, kMaxPath);
  }
};

struct DirEntry {
  std::string name;
  uint64_t cookie = 0;  // continue after this entry
  Attr attr;            // device and inode 0 and only the type in mode when it vanished meanwhile
  std::string link_target;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.str(m.name, kMaxName);
    c.pod(m.cookie);
    c.pod(m.attr);
    c.str(m.link_target, kMaxPath);
  }
  size_t wire_size() const { return 2 + name.size() + 8 + sizeof(Attr) + 2 + link_target.size(); }
};

struct SetAttr {
  enum Mask : uint32_t { kMode = 1, kUid = 2, kGid = 4, kSize = 8, kAtime = 16, kMtime = 32, kAtimeNow = 64, kMtimeNow = 128 };
  static constexpr uint32_t kAllMask = 255;
  uint32_t mask = 0, mode = 0, uid = 0, gid = 0;
  uint64_t size = 0;
  int64_t atime_sec = 0, mtime_sec = 0;
  uint32_t atime_nsec = 0, mtime_nsec = 0;
};
static_assert(sizeof(SetAttr) == 48 && std::has_unique_object_representations_v<SetAttr>);

struct StatFs {
  uint64_t type = 0, block_size = 0, blocks = 0, blocks_free = 0, blocks_available = 0, files = 0, files_free = 0;
  uint64_t name_length = 0, flags = 0;
};
static_assert(std::has_unique_object_representations_v<StatFs>);

// Replies.

struct Empty {
  template <class C, class M>
  static void wire(C&, M&) {}
};

struct ErrorReply {
  uint32_t host_errno = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.host_errno);
  }
};

struct HelloReply {
  uint32_t version = 0, trees = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.version);
    c.pod(m.trees);
  }
};

struct FileReply {
  File file;
  template <class C, class M>
  static void wire(C& c, M& m) {
    File::wire(c, m.file);
  }
};

// The chain as far as it goes. stop_errno says why it is shorter than what was asked: ENOENT, the next name does not
// exist; ELOOP, the last File is a symbolic link; ENOTDIR, the last File (or the start) is no directory; or any other
// error of looking up the next name. 0: complete.
struct WalkReply {
  std::vector<File> files;
  uint32_t stop_errno = 0;
  uint8_t opened = 0;  // 1: the descriptor of the last File is attached
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.array(m.files, kMaxWalk, [](C& c2, auto& f) { File::wire(c2, f); });
    c.pod(m.stop_errno);
    c.pod(m.opened);
  }
};

struct AttrReply {
  Attr attr;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.attr);
  }
};

struct ReadDirReply {
  std::vector<DirEntry> entries;
  uint8_t end = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.array(m.entries, kMaxEntries, [](C& c2, auto& e) { DirEntry::wire(c2, e); });
    c.pod(m.end);
  }
};

// All entries of one directory, which is named by its identity.
struct TreeList {
  uint64_t device = 0, inode = 0;
  uint32_t count = 0;
  std::string entries;  // gofer/proto/packed_list.h
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.device);
    c.pod(m.inode);
    c.pod(m.count);
    c.blob(m.entries, kMaxPacket);
  }
  size_t wire_size() const { return 8 + 8 + 4 + 4 + entries.size(); }
};

struct ReadTreeReply {
  std::vector<TreeList> lists;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.array(m.lists, kMaxTreeLists, [](C& c2, auto& l) { TreeList::wire(c2, l); });
  }
};

struct StringReply {
  std::string text;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.str(m.text, kMaxPath);
  }
};

struct StatFsReply {
  StatFs statfs;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.statfs);
  }
};

struct BytesReply {
  std::string bytes;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.blob(m.bytes, kMaxXattr);
  }
};

// Which file a descriptor leads to.
struct FileIdentity {
  uint64_t device = 0, inode = 0;
};

// The files that were opened, in the order of their descriptors.
struct OpenManyReply {
  std::vector<FileIdentity> opened;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.array(m.opened, kMaxOpenMany, [](C& c2, auto& f) { c2.pod(f); });
  }
};

// Requests. kFds: descriptors that a successful reply carries (walk: 0 or 1, as `opened` says; OpenMany: one for each in `opened`).

template <Op kOpcode, class R, int kFdCount = 0>
struct RequestOf {
  static constexpr Op kOp = kOpcode;
  static constexpr int kFds = kFdCount;
  using Reply = R;
};

// First message of a connection.
struct HelloRequest : RequestOf<Op::kHello, HelloReply> {
  uint32_t version = kVersion;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.version);
  }
};

// The root of a tree.
struct AttachRequest : RequestOf<Op::kAttach, FileReply> {
  uint32_t tree = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.tree);
  }
};

// With open_flags (as in OpenRequest) the last file is opened too when the walk is complete, it is a regular file and
// the open succeeds; a failing open is no error of the walk.
struct WalkRequest : RequestOf<Op::kWalk, WalkReply> {
  FileId from = kNoFile;
  std::vector<std::string> names;
  uint32_t open_flags = kNoOpen;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.from);
    c.array(m.names, kMaxWalk, [](C& c2, auto& s) { c2.str(s, kMaxName); });
    c.pod(m.open_flags);
  }
};

// Gives back one reference of each id. Unknown ids are ignored.
struct CloseRequest : RequestOf<Op::kClose, Empty> {
  std::vector<FileId> ids;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.array(m.ids, kMaxClose, [](C& c2, auto& id) { c2.pod(id); });
  }
};

template <Op kOpcode, class R, int kFdCount = 0>
struct IdRequest : RequestOf<kOpcode, R, kFdCount> {
  FileId id = kNoFile;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
  }
};
struct StatRequest : IdRequest<Op::kStat, AttrReply> {};
struct ReadLinkRequest : IdRequest<Op::kReadLink, StringReply> {};
struct StatFsRequest : IdRequest<Op::kStatFs, StatFsReply> {};
struct ListXattrRequest : IdRequest<Op::kListXattr, BytesReply> {};
struct FsyncRequest : IdRequest<Op::kFsync, Empty> {};

// A regular file; flags: O_ACCMODE, O_TRUNC, O_APPEND.
struct OpenRequest : RequestOf<Op::kOpen, Empty, 1> {
  FileId id = kNoFile;
  uint32_t flags = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
    c.pod(m.flags);
  }
};

// These regular files of a directory, for reading: what a program will open that opens one after the other. A name that is no
// regular file or cannot be opened is left out, and the first that fails for want of descriptors ends it. No FileId is made.
struct OpenManyRequest : RequestOf<Op::kOpenMany, OpenManyReply> {
  struct Place {
    std::vector<std::string> directories;  // from `dir` downwards
    std::string name;
    template <class C, class M>
    static void wire(C& c, M& m) {
      c.array(m.directories, kMaxOpenDepth, [](C& c2, auto& s) { c2.str(s, kMaxName); });
      c.str(m.name, kMaxName);
    }
  };
  FileId dir = kNoFile;
  std::vector<Place> files;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.dir);
    c.array(m.files, kMaxOpenMany, [](C& c2, auto& f) { std::remove_cvref_t<decltype(f)>::wire(c2, f); });
  }
};

// Attributes in bulk, no FileId made. "." and ".." are left out. cookie 0: from the start.
struct ReadDirRequest : RequestOf<Op::kReadDir, ReadDirReply> {
  FileId id = kNoFile;
  uint64_t cookie = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
    c.pod(m.cookie);
  }
};

// What a walk through a tree will ask for: the entries of each of these directories of `dir` and of all below it, depth first,
// until `max_entries` or the packet is full. Every list in the reply is complete; a directory that cannot be read, does not
// fit, or on which something is mounted has none. No FileId is made.
struct ReadTreeRequest : RequestOf<Op::kReadTree, ReadTreeReply> {
  FileId dir = kNoFile;
  uint32_t max_entries = kMaxEntries;
  std::vector<std::string> names;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.dir);
    c.pod(m.max_entries);
    c.array(m.names, kMaxTreeNames, [](C& c2, auto& s) { c2.str(s, kMaxName); });
  }
};

template <Op kOpcode, int kFdCount = 0>
struct MakeRequest : RequestOf<kOpcode, FileReply, kFdCount> {
  FileId dir = kNoFile;
  std::string name;
  uint32_t mode = 0, uid = 0, gid = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.dir);
    c.str(m.name, kMaxName);
    c.pod(m.mode);
    c.pod(m.uid);
    c.pod(m.gid);
  }
};
struct MkDirRequest : MakeRequest<Op::kMkDir> {};
// mode: the type, FIFO, socket or regular only, and permissions.
struct MkNodRequest : MakeRequest<Op::kMkNod> {};
// A new regular file, opened; EEXIST when the name is taken.
struct CreateRequest : MakeRequest<Op::kCreate, 1> {
  uint32_t flags = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    MakeRequest::wire(c, m);
    c.pod(m.flags);
  }
};

struct SymlinkRequest : RequestOf<Op::kSymlink, FileReply> {
  FileId dir = kNoFile;
  std::string name, target;
  uint32_t uid = 0, gid = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.dir);
    c.str(m.name, kMaxName);
    c.str(m.target, kMaxPath);
    c.pod(m.uid);
    c.pod(m.gid);
  }
};

struct LinkRequest : RequestOf<Op::kLink, FileReply> {
  FileId dir = kNoFile;
  std::string name;
  FileId target = kNoFile;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.dir);
    c.str(m.name, kMaxName);
    c.pod(m.target);
  }
};

// flags: AT_REMOVEDIR.
struct UnlinkRequest : RequestOf<Op::kUnlink, Empty> {
  FileId dir = kNoFile;
  std::string name;
  uint32_t flags = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.dir);
    c.str(m.name, kMaxName);
    c.pod(m.flags);
  }
};

// flags: RENAME_NOREPLACE, RENAME_EXCHANGE.
struct RenameRequest : RequestOf<Op::kRename, Empty> {
  FileId dir = kNoFile;
  std::string name;
  FileId new_dir = kNoFile;
  std::string new_name;
  uint32_t flags = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.dir);
    c.str(m.name, kMaxName);
    c.pod(m.new_dir);
    c.str(m.new_name, kMaxName);
    c.pod(m.flags);
  }
};

struct SetAttrRequest : RequestOf<Op::kSetAttr, AttrReply> {
  FileId id = kNoFile;
  SetAttr set;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
    c.pod(m.set);
  }
};

// The whole value, at most kMaxXattr.
struct GetXattrRequest : RequestOf<Op::kGetXattr, BytesReply> {
  FileId id = kNoFile;
  std::string name;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
    c.str(m.name, kMaxName);
  }
};

struct SetXattrRequest : RequestOf<Op::kSetXattr, Empty> {
  FileId id = kNoFile;
  std::string name, value;
  uint32_t flags = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
    c.str(m.name, kMaxName);
    c.blob(m.value, kMaxXattr);
    c.pod(m.flags);
  }
};

struct RemoveXattrRequest : RequestOf<Op::kRemoveXattr, Empty> {
  FileId id = kNoFile;
  std::string name;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
    c.str(m.name, kMaxName);
  }
};

// A socket in the tree; type: SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET. Only if host Unix sockets are allowed.
struct ConnectRequest : RequestOf<Op::kConnect, Empty, 1> {
  FileId id = kNoFile;
  uint32_t type = 0;
  template <class C, class M>
  static void wire(C& c, M& m) {
    c.pod(m.id);
    c.pod(m.type);
  }
};

}  // namespace gofer
