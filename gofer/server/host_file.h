// SPDX-License-Identifier: Apache-2.0
// Host calls on one file, as the server uses them: errno in the Result, every name a single component.
#pragma once

#include <cstdint>
#include <string>

#include <linux/stat.h>
#include <sys/stat.h>

#include "base/core/result.h"
#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "gofer/proto/messages.h"

namespace gofer {

using Stat = struct statx;

// What makes a file the same one. Not its birth time: overlayfs changes it when it copies a file up.
struct Identity {
  uint64_t device = 0, inode = 0;
  static Identity of(const Stat& s) { return {uint64_t{s.stx_dev_major} << 32 | s.stx_dev_minor, s.stx_ino}; }
  friend bool operator==(const Identity&, const Identity&) = default;
};

inline base::Err last_error(int e) { return base::err(static_cast<abi::Errno>(e)); }
base::Err last_error();
// A host call's -1 as an error.
base::Result<void> check(int result);

base::Result<Stat> stat_at(int directory, const char* name);  // does not follow
base::Result<Stat> stat_fd(int fd);
base::Result<base::UniqueFd> open_path(int directory, const char* name);
// Never follows, never waits, never makes a terminal ours; close-on-exec.
base::Result<base::UniqueFd> open_io(int directory, const char* name, int flags, mode_t mode = 0);
base::Result<std::string> read_link(int directory, const char* name);
base::Result<void> chmod_fd(int path_fd, uint32_t mode);  // ENOSYS before Linux 6.6

// The extended attributes a container may see and set: only user.*; others have a meaning to the host.
bool valid_xattr(const std::string& name);

Attr to_attr(const Stat& s);
// /proc, /sys and such: what a tree of the host may contain but a container must not see.
bool is_pseudo_file_system(int fd);

}  // namespace gofer
