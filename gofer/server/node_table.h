// SPDX-License-Identifier: Apache-2.0
// The files that the sentry holds a FileId of.
//
// A node is a name in its parent's directory and the identity (device, inode) that was found there. Descriptors are a
// cache: a directory's is opened when something below it is asked for, a file's only when its name goes away while the
// sentry holds it; when too many are open, old ones are closed. A node without descriptor is found again through its
// parent and name, and is ESTALE when something else has taken its place. So a tree of any size needs few descriptors.
//
// A FileId is an index and a generation: an id given back, or one never given out, is EBADF.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include <sys/stat.h>

#include "base/core/result.h"
#include "base/host/unique_fd.h"
#include "gofer/proto/messages.h"
#include "gofer/server/host_file.h"

namespace gofer {

using NodeIndex = uint32_t;
inline constexpr NodeIndex kNoNode = ~uint32_t{0};

struct Node {
  std::string name;
  Identity identity;
  base::UniqueFd fd;         // O_PATH, maybe none
  NodeIndex parent = kNoNode;
  uint32_t refs = 0;         // the sentry's; 0: here only as a parent of others
  uint32_t children = 0;     // nodes with this parent
  uint32_t generation = 0;
  uint32_t type = 0;         // S_IFMT bits
  uint16_t tree = 0;
  bool in_use = false;
  bool attached = false;     // its name leads to it, as far as we know
  bool barred = false;       // a pseudo file system of the host is mounted here: shown as empty
  bool recently_used = false;
  bool permanent = false;    // tree roots and their parents keep their descriptor

  bool is_directory() const { return type == S_IFDIR; }
};

class NodeTable {
 public:
  explicit NodeTable(size_t max_descriptors);

  // The root of tree `tree`: `name` in `parent`.
  base::HostResult<void> add_tree(uint16_t tree, base::UniqueFd parent, std::string name);
  size_t tree_count() const { return trees_.size(); }
  NodeIndex tree_root(size_t tree) const { return trees_[tree]; }

  // EBADF unless the sentry holds the id.
  base::Result<NodeIndex> find(FileId id) const;
  Node& node(NodeIndex index) { return nodes_[index]; }
  FileId id_of(NodeIndex index) const;

  // The node of `name` in `parent`, which was just looked up as `stat`; with one more reference of the sentry.
  base::Result<NodeIndex> intern(NodeIndex parent, std::string_view name, const Stat& stat);
  base::Result<void> add_ref(NodeIndex index);
  void drop_ref(NodeIndex index);

  // Its O_PATH descriptor, verified to be the same file. Valid until the next call that opens another one.
  base::Result<int> path_fd(NodeIndex index);
  // The directory and name to reach it by, for the calls that take no O_PATH descriptor. ENOENT when it was removed.
  struct Place {
    int directory;
    const char* name;
  };
  base::Result<Place> place(NodeIndex index);

  // Names change. before_removal keeps the file reachable for the sentry although its name goes.
  void before_removal(NodeIndex parent, std::string_view name);
  void removed(NodeIndex parent, std::string_view name);
  void renamed(NodeIndex parent, std::string_view name, NodeIndex new_parent, std::string_view new_name);
  void exchanged(NodeIndex parent, std::string_view name, NodeIndex new_parent, std::string_view new_name);

  size_t size_for_test() const { return used_; }
  size_t descriptors() const { return open_count_; }
  // Closes cached descriptors, but not that of `spared`, until at most `keep` are open; called before a donation too.
  void evict(size_t keep, NodeIndex spared = kNoNode);

 private:
  struct Key {
    NodeIndex parent;
    std::string_view name;
  };
  struct Hash {
    using is_transparent = void;
    const std::deque<Node>* nodes;
    size_t operator()(const Key& k) const;
    size_t operator()(NodeIndex i) const;
  };
  struct Equal {
    using is_transparent = void;
    const std::deque<Node>* nodes;
    bool operator()(NodeIndex a, NodeIndex b) const { return a == b; }
    bool operator()(const Key& k, NodeIndex i) const;
    bool operator()(NodeIndex i, const Key& k) const { return (*this)(k, i); }
  };

  NodeIndex lookup(NodeIndex parent, std::string_view name) const;
  base::Result<NodeIndex> allocate();
  void set_place(NodeIndex index, NodeIndex parent, std::string_view name);
  void detach(NodeIndex index);
  void release_if_unused(NodeIndex index);
  void set_fd(NodeIndex index, base::UniqueFd fd);

  std::deque<Node> nodes_;  // stable addresses
  std::vector<NodeIndex> free_;
  std::vector<NodeIndex> trees_;
  std::unordered_set<NodeIndex, Hash, Equal> by_name_;
  size_t max_descriptors_;
  size_t open_count_ = 0;
  size_t used_ = 0;
  size_t clock_hand_ = 0;
};

}  // namespace gofer
