// SPDX-License-Identifier: Apache-2.0
// /dev: the memory devices of drivers/char/mem.c and the tree that a container expects. Nodes are ordinary device
// nodes of a tmpfs: opening one goes by its number through vfs/devices.h, so a mknod elsewhere works as well.
#pragma once

#include "base/core/result.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/op_context.h"

namespace sentry::fs {

// null, zero, full, random, urandom. The terminals register themselves (fs/tty, fs/devpts). Once, at boot.
void register_memory_devices();

// Fills an empty directory (a fresh tmpfs at /dev): device nodes, fd, std*, ptmx links, and the directories pts, shm and
// mqueue as mount points. With `console`, also a regular file to mount the container's terminal on. What exists stays.
enum class DevConsole : uint8_t { kNo, kYes };
base::Result<void> populate_dev(vfs::OpContext& ctx, const vfs::Path& dev, DevConsole console);

}  // namespace sentry::fs
