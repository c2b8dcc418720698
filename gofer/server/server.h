// SPDX-License-Identifier: Apache-2.0
// Answers one sentry's requests. One thread: a request takes a few microseconds of host calls; what may take long (data)
// goes through donated descriptors and never comes here.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/host/unique_fd.h"
#include "gofer/proto/codec.h"
#include "gofer/server/node_table.h"

namespace gofer {

// A tree as the server reaches it: `name` in the directory `parent`.
struct TreeRoot {
  base::UniqueFd parent;
  std::string name;
  bool readonly = false;
};

class Server {
 public:
  struct Options {
    bool host_uds = false;
    size_t max_descriptors = 1024;  // cached O_PATH descriptors
  };

  Server(base::UniqueFd socket, Options options);
  base::HostResult<void> add_tree(TreeRoot tree);

  // Serves until the other end closes or breaks the protocol. The exit status.
  int run();

  // One packet, for tests and fuzzing: the size of the reply in reply(), 0 for none, -1 for a protocol violation.
  int handle(std::span<const uint8_t> packet);
  std::span<const uint8_t> reply() const { return {out_.get(), reply_size_}; }
  const NodeTable& nodes() const { return nodes_; }

 private:
  template <class Request>
  int serve(std::span<const uint8_t> body, uint64_t tag);
  int reply_error(uint64_t tag, abi::Errno error);
  bool send_reply();
  // The sender of a request waits on this CPU (Header::cpu).
  void follow(uint16_t cpu);

  base::Result<HelloReply> serve(const HelloRequest&);
  base::Result<FileReply> serve(const AttachRequest&);
  base::Result<WalkReply> serve(const WalkRequest&);
  base::Result<Empty> serve(const CloseRequest&);
  base::Result<AttrReply> serve(const StatRequest&);
  base::Result<Empty> serve(const OpenRequest&);
  base::Result<ReadDirReply> serve(const ReadDirRequest&);
  base::Result<ReadTreeReply> serve(const ReadTreeRequest&);
  base::Result<OpenManyReply> serve(const OpenManyRequest&);
  base::Result<StringReply> serve(const ReadLinkRequest&);
  base::Result<FileReply> serve(const CreateRequest&);
  base::Result<FileReply> serve(const MkDirRequest&);
  base::Result<FileReply> serve(const SymlinkRequest&);
  base::Result<FileReply> serve(const MkNodRequest&);
  base::Result<FileReply> serve(const LinkRequest&);
  base::Result<Empty> serve(const UnlinkRequest&);
  base::Result<Empty> serve(const RenameRequest&);
  base::Result<AttrReply> serve(const SetAttrRequest&);
  base::Result<StatFsReply> serve(const StatFsRequest&);
  base::Result<BytesReply> serve(const GetXattrRequest&);
  base::Result<Empty> serve(const SetXattrRequest&);
  base::Result<BytesReply> serve(const ListXattrRequest&);
  base::Result<Empty> serve(const RemoveXattrRequest&);
  base::Result<Empty> serve(const ConnectRequest&);
  base::Result<Empty> serve(const FsyncRequest&);

  // A directory the sentry holds, to be changed: EROFS, ENOTDIR.
  base::Result<NodeIndex> writable_dir(FileId id, const std::string& name);
  base::Result<NodeIndex> writable(FileId id);
  bool readonly(NodeIndex index) { return trees_[nodes_.node(index).tree].readonly; }
  base::Result<Stat> stat_node(NodeIndex index);
  base::Result<base::UniqueFd> open_node(NodeIndex index, int flags);
  // Calls entry(name, DT_ type, cookie) for each name of the directory that `fd` is, from where it stands, until that says
  // false. True: there are no more.
  template <class F>
  base::Result<bool> each_name(int fd, F entry);
  class TreeReader;
  // For calls that need a real descriptor of a file or directory: fchmod, xattr, fsync.
  base::Result<base::UniqueFd> open_for_metadata(NodeIndex index);
  base::Result<File> make_file(NodeIndex dir, const std::string& name, const Stat& stat);
  // What was just made in `dir`: sets its owner and, where creation cannot, its mode; undone on failure.
  base::Result<FileReply> finish_new(NodeIndex dir, const std::string& name, uint32_t uid, uint32_t gid, uint32_t mode);
  base::Result<void> change_mode(NodeIndex index, uint32_t mode);
  base::Result<void> change_size(NodeIndex index, uint64_t size);

  base::UniqueFd socket_;
  uint16_t followed_ = 0;   // the CPU we are tied to, as Header::cpu has it
  uint32_t elsewhere_ = 0;  // requests in a row that came from another one
  Options options_;
  NodeTable nodes_;
  struct Tree {
    bool readonly;
  };
  std::vector<Tree> trees_;
  std::vector<base::UniqueFd> donations_;  // go with the reply being made
  size_t reply_size_ = 0;
  std::span<uint8_t> out() { return {out_.get(), kMaxPacket}; }
  std::unique_ptr<uint8_t[]> in_, out_;  // kMaxPacket bytes each, of which small messages never touch most
  std::unique_ptr<char[]> dirents_;      // kDirentBuffer
  static constexpr size_t kDirentBuffer = 64 * 1024;
};

}  // namespace gofer
