// SPDX-License-Identifier: Apache-2.0
// An overlay whose upper layer is in memory: changes are seen in the sandbox only and vanish with it.
#pragma once

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/memory/memory_file.h"
#include "sentry/vfs/inode.h"

namespace sentry::fs::overlay {

// `lower` is never written.
base::Result<base::RefPtr<vfs::FileSystem>> create(memory::MemoryFile& memory, base::RefPtr<vfs::FileSystem> lower);

}  // namespace sentry::fs::overlay
