// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/dev/dev.h"

#include <algorithm>

#include "sentry/vfs/inode.h"

namespace sentry::fs {

using base::Result;

namespace {

struct Node {
  const char* name;
  uint32_t mode;
  abi::DeviceId device;
};

constexpr Node kNodes[] = {
    {"null", abi::kS_IFCHR | 0666, {1, 3}},   {"zero", abi::kS_IFCHR | 0666, {1, 5}},
    {"full", abi::kS_IFCHR | 0666, {1, 7}},   {"random", abi::kS_IFCHR | 0666, {1, 8}},
    {"urandom", abi::kS_IFCHR | 0666, {1, 9}}, {"tty", abi::kS_IFCHR | 0666, {5, 0}},
};

struct Link {
  const char* name;
  const char* target;
};
constexpr Link kLinks[] = {
    {"fd", "/proc/self/fd"},         {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
    {"stderr", "/proc/self/fd/2"},   {"ptmx", "pts/ptmx"},         {"core", "/proc/kcore"},
};

struct SubDirectory {
  const char* name;
  uint32_t mode;
};
constexpr SubDirectory kDirectories[] = {{"pts", 0755}, {"shm", 01777}, {"mqueue", 01777}};

Result<void> unless_exists(Result<void> r) {
  if (!r && r.error() == abi::Errno::kEEXIST) return {};
  return r;
}

// Creation applies the umask; these modes are exact.
Result<void> force_mode(vfs::OpContext& ctx, const vfs::Path& dev, const char* name, uint32_t mode) {
  vfs::PathResult made = TRY(vfs::walk(ctx, dev, name, 0));
  vfs::SetAttr attr;
  attr.mode = mode & 07777;
  return vfs::set_attr(ctx, made.path, attr);
}

}  // namespace

Result<void> populate_dev(vfs::OpContext& ctx, const vfs::Path& dev, DevConsole console) {
  for (const Node& n : kNodes) {
    TRY(unless_exists(vfs::mknod_at(ctx, dev, n.name, n.mode, n.device)));
    TRY(force_mode(ctx, dev, n.name, n.mode));
  }
  for (const SubDirectory& d : kDirectories) {
    TRY(unless_exists(vfs::mkdir_at(ctx, dev, d.name, d.mode)));
    TRY(force_mode(ctx, dev, d.name, d.mode));
  }
  for (const Link& l : kLinks) TRY(unless_exists(vfs::symlink_at(ctx, dev, l.name, l.target)));
  if (console == DevConsole::kYes) TRY(unless_exists(vfs::mknod_at(ctx, dev, "console", abi::kS_IFREG | 0600, {})));
  return {};
}

}  // namespace sentry::fs
