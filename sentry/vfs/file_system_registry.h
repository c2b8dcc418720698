// SPDX-License-Identifier: Apache-2.0
// The file system types that mount(2) and the boot code know, by name. Filled once at boot, before any guest runs; read-only
// afterwards, so no lock.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/op_context.h"

namespace sentry::vfs {

struct MountRequest {
  std::string_view source;
  std::string_view data;  // comma-separated options, flags already taken out
  uint64_t flags = 0;     // MS_*
};

struct FileSystemType {
  std::string name;
  bool nodev = true;           // as /proc/filesystems says
  bool mountable = true;       // by mount(2) of a guest with CAP_SYS_ADMIN in its user namespace
  std::function<base::Result<base::RefPtr<FileSystem>>(OpContext&, const MountRequest&)> create;
};

void register_file_system(FileSystemType type);
const FileSystemType* find_file_system(std::string_view name);  // null: ENODEV
const std::vector<FileSystemType>& all_file_systems();

}  // namespace sentry::vfs
