// SPDX-License-Identifier: Apache-2.0
// tmpfs(5): files in the memory file.
#pragma once

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/creds/credentials.h"
#include "sentry/memory/memory_file.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/inode.h"

namespace sentry::fs::tmpfs {

struct Options {
  uint64_t size = 0;    // bytes, 0: half of the machine's memory
  uint64_t inodes = 0;  // 0: no limit of its own
  uint32_t mode = 01777;
  abi::KUid uid;
  abi::KGid gid;
};

base::Result<base::RefPtr<vfs::FileSystem>> create(memory::MemoryFile& memory, const Options& options);

// memfd_create(2): an open, nameless file. `name` as the guest gave it; `sealable`: MFD_ALLOW_SEALING; mode 0777 or 0666.
base::Result<base::RefPtr<vfs::FileDescription>> create_memfd(vfs::OpContext& ctx, memory::MemoryFile& memory,
                                                              std::string_view name, bool sealable, uint32_t mode);

// Makes "tmpfs" known to mount(2).
void register_tmpfs(memory::MemoryFile& memory);

}  // namespace sentry::fs::tmpfs
