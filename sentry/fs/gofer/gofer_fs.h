// SPDX-License-Identifier: Apache-2.0
// The gofer file system: one tree of a container's host files, reached through its gofer.
#pragma once

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "gofer/client/client.h"
#include "sentry/memory/memory_file.h"
#include "sentry/vfs/inode.h"

namespace sentry::fs::gofer {

// kExclusive: only this container changes the tree, names and attributes are cached without asking again.
enum class Sharing : uint8_t { kExclusive, kShared };
// kLowerLayer: nobody changes it at all (an overlay lies above): what is mapped of it may be treated as immutable.
enum class Use : uint8_t { kWritable, kLowerLayer };

// Attaches to `tree`. Errors: EIO when the gofer is gone, ENOENT for a tree that it does not have.
base::Result<base::RefPtr<vfs::FileSystem>> create(memory::MemoryFile& memory, base::RefPtr<::gofer::Client> client,
                                                   uint32_t tree, Sharing sharing, Use use = Use::kWritable);

}  // namespace sentry::fs::gofer
