// SPDX-License-Identifier: Apache-2.0
#include "gofer/server/node_table.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace gofer {

using enum abi::Errno;

namespace {

constexpr uint32_t kIndexBits = 20;  // a million nodes, some 200 bytes each
constexpr uint32_t kMaxNodes = 1u << kIndexBits;
constexpr uint32_t kGenerationMask = (1u << (32 - kIndexBits)) - 1;

}  // namespace

size_t NodeTable::Hash::operator()(const Key& k) const {
  return std::hash<std::string_view>{}(k.name) ^ (size_t{k.parent} * 0x9e3779b97f4a7c15);
}
size_t NodeTable::Hash::operator()(NodeIndex i) const { return (*this)(Key{(*nodes)[i].parent, (*nodes)[i].name}); }
bool NodeTable::Equal::operator()(const Key& k, NodeIndex i) const {
  const Node& n = (*nodes)[i];
  return n.parent == k.parent && n.name == k.name;
}

NodeTable::NodeTable(size_t max_descriptors)
    : by_name_(16, Hash{&nodes_}, Equal{&nodes_}), max_descriptors_(max_descriptors) {}

base::HostResult<void> NodeTable::add_tree(uint16_t tree, base::UniqueFd parent, std::string name) {
  auto fd = open_path(parent.get(), name.c_str());
  if (!fd) return base::HostErr(base::HostError::from_errno("open tree " + name, static_cast<int>(fd.error())));
  auto stat = stat_fd(fd->get());
  if (!stat) return base::HostErr(base::HostError::from_errno("stat tree " + name, static_cast<int>(stat.error())));
  NodeIndex above = *allocate();
  nodes_[above].permanent = true;
  nodes_[above].type = S_IFDIR;
  set_fd(above, std::move(parent));
  NodeIndex root = *allocate();
  Node& n = nodes_[root];
  n.tree = tree;
  n.permanent = true;
  n.type = stat->stx_mode & S_IFMT;
  n.identity = Identity::of(*stat);
  set_place(root, above, name);
  set_fd(root, std::move(*fd));
  trees_.push_back(root);
  return {};
}

base::Result<NodeIndex> NodeTable::find(FileId id) const {
  NodeIndex index = id & (kMaxNodes - 1);
  if (index >= nodes_.size()) return base::err(kEBADF);
  const Node& n = nodes_[index];
  if (!n.in_use || n.refs == 0 || n.generation != id >> kIndexBits) return base::err(kEBADF);
  return index;
}

FileId NodeTable::id_of(NodeIndex index) const { return nodes_[index].generation << kIndexBits | index; }

NodeIndex NodeTable::lookup(NodeIndex parent, std::string_view name) const {
  auto it = by_name_.find(Key{parent, name});
  return it == by_name_.end() ? kNoNode : *it;
}

base::Result<NodeIndex> NodeTable::intern(NodeIndex parent, std::string_view name, const Stat& stat) {
  Identity identity = Identity::of(stat);
  uint32_t type = stat.stx_mode & S_IFMT;
  NodeIndex index = lookup(parent, name);
  if (index != kNoNode) {
    Node& known = nodes_[index];
    if (known.identity == identity && known.type == type) {
      TRY(add_ref(index));
      return index;
    }
    detach(index);
    release_if_unused(index);
  }
  index = TRY(allocate());
  Node& n = nodes_[index];
  n.tree = nodes_[parent].tree;
  n.type = type;
  n.identity = identity;
  n.refs = 1;
  set_place(index, parent, name);
  if (n.is_directory() && identity.device != nodes_[parent].identity.device) {
    auto fd = path_fd(index);
    n.barred = !fd || is_pseudo_file_system(*fd);
  }
  return index;
}

base::Result<void> NodeTable::add_ref(NodeIndex index) {
  if (nodes_[index].refs == std::numeric_limits<uint32_t>::max()) return base::err(kENFILE);
  ++nodes_[index].refs;
  return {};
}

void NodeTable::drop_ref(NodeIndex index) {
  if (nodes_[index].refs == 0) return;
  --nodes_[index].refs;
  release_if_unused(index);
}

base::Result<NodeIndex> NodeTable::allocate() {
  NodeIndex index;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else {
    if (nodes_.size() >= kMaxNodes) return base::err(kENFILE);
    index = static_cast<NodeIndex>(nodes_.size());
    nodes_.emplace_back().generation = 1;  // so that no id is kNoFile
  }
  nodes_[index].in_use = true;
  ++used_;
  return index;
}

void NodeTable::set_place(NodeIndex index, NodeIndex parent, std::string_view name) {
  Node& n = nodes_[index];
  n.name = name;
  n.parent = parent;
  n.attached = true;
  ++nodes_[parent].children;
  by_name_.insert(index);
}

// The parent stays referenced by the caller's path or by nothing: callers release it.
void NodeTable::detach(NodeIndex index) {
  Node& n = nodes_[index];
  if (!n.attached) return;
  by_name_.erase(index);
  n.attached = false;
  NodeIndex parent = n.parent;
  n.parent = kNoNode;
  --nodes_[parent].children;
  release_if_unused(parent);
}

void NodeTable::release_if_unused(NodeIndex index) {
  while (index != kNoNode) {
    Node& n = nodes_[index];
    if (!n.in_use || n.permanent || n.refs != 0 || n.children != 0) return;
    NodeIndex parent = kNoNode;
    if (n.attached) {
      by_name_.erase(index);
      parent = n.parent;
      --nodes_[parent].children;
    }
    if (n.fd) --open_count_;
    uint32_t generation = (n.generation + 1) & kGenerationMask;
    n = Node{};
    n.generation = generation == 0 ? 1 : generation;
    free_.push_back(index);
    --used_;
    index = parent;
  }
}

void NodeTable::set_fd(NodeIndex index, base::UniqueFd fd) {
  if (!nodes_[index].fd) ++open_count_;
  nodes_[index].fd = std::move(fd);
  nodes_[index].recently_used = true;
}

base::Result<int> NodeTable::path_fd(NodeIndex index) {
  nodes_[index].recently_used = true;
  if (nodes_[index].fd) return nodes_[index].fd.get();
  // The chain from the first ancestor that is open, without recursion: a tree may be deeper than our stack.
  std::vector<NodeIndex> chain;
  for (NodeIndex i = index; !nodes_[i].fd; i = nodes_[i].parent) {
    if (!nodes_[i].attached) return base::err(kESTALE);
    chain.push_back(i);
  }
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    Node& n = nodes_[*it];
    nodes_[n.parent].recently_used = true;
    if (open_count_ >= max_descriptors_) evict(max_descriptors_ - max_descriptors_ / 8, n.parent);
    auto fd = open_path(nodes_[n.parent].fd.get(), n.name.c_str());
    if (!fd && (fd.error() == kEMFILE || fd.error() == kENFILE)) {
      evict(open_count_ / 2, n.parent);
      fd = open_path(nodes_[n.parent].fd.get(), n.name.c_str());
    }
    if (!fd) return base::err(fd.error() == kENOENT ? kESTALE : fd.error());
    Stat stat = TRY(stat_fd(fd->get()));
    if (Identity::of(stat) != n.identity) return base::err(kESTALE);
    set_fd(*it, std::move(*fd));
  }
  return nodes_[index].fd.get();
}

base::Result<NodeTable::Place> NodeTable::place(NodeIndex index) {
  Node& n = nodes_[index];
  if (!n.attached) return base::err(kENOENT);
  int directory = TRY(path_fd(n.parent));
  return Place{directory, n.name.c_str()};
}

// Clock with a second chance. A detached node's descriptor is the only way to its file and stays.
void NodeTable::evict(size_t keep, NodeIndex spared) {
  size_t scans = 2 * nodes_.size();
  while (open_count_ > keep && scans-- > 0) {
    clock_hand_ = (clock_hand_ + 1) % nodes_.size();
    Node& n = nodes_[clock_hand_];
    if (!n.fd || n.permanent || !n.attached || clock_hand_ == spared) continue;
    if (n.recently_used) {
      n.recently_used = false;
      continue;
    }
    n.fd.reset();
    --open_count_;
  }
}

void NodeTable::before_removal(NodeIndex parent, std::string_view name) {
  NodeIndex index = lookup(parent, name);
  if (index == kNoNode) return;
  // Failing means that the sentry's id is stale afterwards, which is what it will be told.
  (void)path_fd(index);
}

void NodeTable::removed(NodeIndex parent, std::string_view name) {
  NodeIndex index = lookup(parent, name);
  if (index == kNoNode) return;
  detach(index);
  release_if_unused(index);
}

void NodeTable::renamed(NodeIndex parent, std::string_view name, NodeIndex new_parent, std::string_view new_name) {
  NodeIndex moved = lookup(parent, name);
  NodeIndex replaced = lookup(new_parent, new_name);
  if (moved != kNoNode && moved == replaced) return;
  // Hard links of one file: rename(2) does nothing then, both names stay.
  if (moved != kNoNode && replaced != kNoNode && nodes_[moved].identity == nodes_[replaced].identity) return;
  if (replaced != kNoNode) {
    detach(replaced);
    release_if_unused(replaced);
  }
  if (moved == kNoNode) return;
  ++nodes_[moved].refs;  // keeps it over the gap
  detach(moved);
  set_place(moved, new_parent, new_name);
  --nodes_[moved].refs;
}

void NodeTable::exchanged(NodeIndex parent, std::string_view name, NodeIndex new_parent, std::string_view new_name) {
  NodeIndex a = lookup(parent, name);
  NodeIndex b = lookup(new_parent, new_name);
  if (a == b) return;
  if (a != kNoNode) ++nodes_[a].refs;
  if (b != kNoNode) ++nodes_[b].refs;
  if (a != kNoNode) detach(a);
  if (b != kNoNode) detach(b);
  if (a != kNoNode) set_place(a, new_parent, new_name);
  if (b != kNoNode) set_place(b, parent, name);
  if (a != kNoNode) --nodes_[a].refs;
  if (b != kNoNode) --nodes_[b].refs;
}

}  // namespace gofer
