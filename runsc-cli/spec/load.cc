// SPDX-License-Identifier: Apache-2.0
// The part of a spec that depends on the host's files.
#include <cerrno>
#include <climits>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include "base/host/unique_fd.h"
#include "runsc-cli/spec/spec.h"

namespace cli {

using abi::oci::RootOverlay;
using base::HostErr;
using base::HostError;
using base::HostResult;

namespace {

HostResult<std::string> read_all(int fd, const std::string& path, size_t limit) {
  std::string out;
  char buffer[16384];
  while (true) {
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return HostErr(HostError::from_errno(path));
    if (n == 0) return out;
    out.append(buffer, static_cast<size_t>(n));
    if (out.size() > limit) return HostErr(HostError::plain(fmt::format("{}: is larger than {} bytes", path, limit)));
  }
}

}  // namespace

HostResult<std::string> read_small_file(const std::string& path, size_t limit) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  base::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return HostErr(HostError::from_errno(path));
  struct stat st {};
  if (fstat(fd.get(), &st) != 0) return HostErr(HostError::from_errno(path));
  if (!S_ISREG(st.st_mode)) return HostErr(HostError::plain(path + ": is not a regular file"));
  return read_all(fd.get(), path, limit);
}

HostResult<std::string> read_stream(const std::string& path, size_t limit) {
  base::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) return HostErr(HostError::from_errno(path));
  return read_all(fd.get(), path, limit);
}

HostResult<void> resolve_trees(Spec& spec, RootOverlay overlay, std::string_view label) {
  struct stat st {};
  if (stat(spec.root_path.c_str(), &st) != 0)
    return HostErr(HostError::from_errno(fmt::format("{}: root.path: {}", label, spec.root_path)));
  if (!S_ISDIR(st.st_mode))
    return HostErr(HostError::plain(fmt::format("{}: root.path: {}: is not a directory", label, spec.root_path)));
  spec.container.root_overlay = overlay;
  // With an upper layer in memory nothing is ever written below.
  spec.trees[0].readonly = spec.container.root_readonly || overlay == RootOverlay::kMemory;
  for (size_t i = 0; i < spec.container.mounts.size(); ++i) {
    abi::oci::Mount& mount = spec.container.mounts[i];
    if (mount.gofer_tree < 0) continue;
    Tree& tree = spec.trees[static_cast<size_t>(mount.gofer_tree)];
    if (stat(tree.path.c_str(), &st) != 0)
      return HostErr(HostError::from_errno(fmt::format("{}: mounts[{}].source: {}", label, i, tree.path)));
    tree.is_file = mount.is_file = !S_ISDIR(st.st_mode);
    mount.shared = true;
  }
  return {};
}

HostResult<Spec> load_spec(const std::string& bundle, const std::string& id, RootOverlay overlay) {
  constexpr const char* kLabel = "config.json";
  char resolved[PATH_MAX];
  if (!realpath(bundle.c_str(), resolved)) return HostErr(HostError::from_errno("bundle " + bundle));
  std::string path = std::string(resolved) + "/config.json";
  std::string text = TRY(read_small_file(path, kMaxSpecSize));
  Spec spec = TRY(parse_spec(text, kLabel, resolved));
  spec.container.id = id;
  TRY(resolve_trees(spec, overlay, kLabel));
  return spec;
}

}  // namespace cli
