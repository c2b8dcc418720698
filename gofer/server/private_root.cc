// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <string>

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "gofer/server/confine.h"

// <sys/mount.h> and <linux/mount.h> overlap differently in each libc release; these are the kernel's numbers.
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif

namespace gofer {

namespace {

base::HostErr failed(std::string what) { return base::HostErr(base::HostError::from_errno(std::move(what))); }

base::HostResult<base::UniqueFd> clone_tree(const TreeConfig& tree) {
  constexpr unsigned kFlags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
  base::UniqueFd fd(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, tree.path.c_str(), kFlags)));
  if (!fd) return failed("open_tree " + tree.path);
  // nodev: opening a device may have effects by itself, and a name can change between our look and our open. Not
  // noexec: the guest's programs are mapped executable from donated descriptors.
  struct mount_attr attr {};
  attr.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | (tree.readonly ? MOUNT_ATTR_RDONLY : 0);
  if (syscall(SYS_mount_setattr, fd.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr) != 0) {
    return failed("mount_setattr " + tree.path);
  }
  struct stat s;
  if (fstat(fd.get(), &s) != 0) return failed("stat " + tree.path);
  if (S_ISDIR(s.st_mode) == tree.file) {
    return base::HostErr(base::HostError::plain(tree.path + (tree.file ? ": is a directory" : ": not a directory")));
  }
  return fd;
}

// A directory that exists, to put the new root on.
const char* mount_point() {
  for (const char* path : {"/proc", "/tmp", "/dev", "/mnt", "/etc"}) {
    struct stat s;
    if (lstat(path, &s) == 0 && S_ISDIR(s.st_mode)) return path;
  }
  return "/";
}

base::HostResult<void> make_namespaces() {
  if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0) return failed("unshare");
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return failed("make mounts private");
  return {};
}

base::HostResult<std::string> attach(const base::UniqueFd& tree, size_t number, bool file, int root) {
  std::string name = "t" + std::to_string(number);
  if (file) {
    base::UniqueFd point(openat(root, name.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0400));
    if (!point) return failed("create " + name);
  } else if (mkdirat(root, name.c_str(), 0500) != 0) {
    return failed("mkdir " + name);
  }
  constexpr unsigned kFromDescriptor = 4;  // MOVE_MOUNT_F_EMPTY_PATH
  if (syscall(SYS_move_mount, tree.get(), "", root, name.c_str(), kFromDescriptor) != 0) return failed("move_mount " + name);
  return name;
}

}  // namespace

base::HostResult<std::vector<TreeRoot>> enter_private_root(const Config& config) {
  TRY(make_namespaces());
  std::vector<base::UniqueFd> clones;
  for (const TreeConfig& tree : config.trees) clones.push_back(TRY(clone_tree(tree)));

  const char* point = mount_point();
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (mount("gofer", point, "tmpfs", kFlags, "mode=0555,size=64k") != 0) return failed("mount the empty root");
  base::UniqueFd root(open(point, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return failed("open the empty root");
  std::vector<TreeRoot> roots;
  for (size_t i = 0; i < clones.size(); ++i) {
    std::string name = TRY(attach(clones[i], i, config.trees[i].file, root.get()));
    roots.push_back({.parent = {}, .name = std::move(name), .readonly = config.trees[i].readonly});
  }
  if (mount(nullptr, point, nullptr, MS_REMOUNT | MS_RDONLY | kFlags, nullptr) != 0) return failed("remount the empty root");
  // pivot_root(".", ".") stacks the old root on the new one, from where it is unmounted: no directory for it needed.
  if (fchdir(root.get()) != 0) return failed("enter the empty root");
  if (syscall(SYS_pivot_root, ".", ".") != 0) return failed("pivot_root");
  if (umount2(".", MNT_DETACH) != 0) return failed("unmount the host's root");
  if (chdir("/") != 0) return failed("chdir /");
  for (TreeRoot& r : roots) {
    r.parent.reset(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!r.parent) return failed("open /");
  }
  return roots;
}

base::HostResult<std::vector<TreeRoot>> open_trees_in_place(const Config& config) {
  std::vector<TreeRoot> roots;
  for (const TreeConfig& tree : config.trees) {
    std::string path = tree.path;
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    size_t slash = path.rfind('/');
    std::string parent = slash == 0 ? "/" : path.substr(0, slash);
    std::string name = path.substr(slash + 1);
    TreeRoot root{.parent = base::UniqueFd(open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)),
                  .name = name.empty() ? "." : name,
                  .readonly = tree.readonly};
    if (!root.parent) return failed("open " + parent);
    roots.push_back(std::move(root));
  }
  return roots;
}

}  // namespace gofer
