// SPDX-License-Identifier: Apache-2.0
// The watches on one inode; owned by it. Private to sentry/vfs.
#pragma once

#include <vector>

#include "sentry/vfs/inotify.h"

namespace sentry::vfs {

struct InotifyWatch;

class InotifyWatches {
 public:
  std::vector<InotifyWatch*> list;  // guarded by the one lock of inotify.cc
};

}  // namespace sentry::vfs
