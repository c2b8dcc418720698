// SPDX-License-Identifier: Apache-2.0
// Device registry: which code answers for a device number. The VFS opens every character and block special file, of
// whatever file system, through open_device(). Rows are added at boot, before the first task runs, and stay.
#pragma once

#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/op_context.h"

namespace sentry::vfs {

class FileDescription;

enum class DeviceClass : uint8_t { kChar, kBlock };

using OpenDevice = base::Result<base::RefPtr<FileDescription>> (*)(OpContext& ctx, const Path& path, uint32_t flags,
                                                                   abi::DeviceId device);

struct DeviceRange {
  DeviceClass kind = DeviceClass::kChar;
  uint32_t major = 0, first_minor = 0, minors = 1;
  const char* name = "";  // as /proc/devices lists the major
  OpenDevice open = nullptr;
};

// Immutable once tasks run.
inline std::vector<DeviceRange>& device_ranges() {
  static std::vector<DeviceRange> ranges;
  return ranges;
}
inline void register_device(const DeviceRange& range) { device_ranges().push_back(range); }

// ENXIO when nobody answers for the number.
inline base::Result<base::RefPtr<FileDescription>> open_device(OpContext& ctx, const Path& path, uint32_t flags,
                                                               DeviceClass kind, abi::DeviceId device) {
  for (const DeviceRange& r : device_ranges())
    if (r.kind == kind && r.major == device.major && device.minor >= r.first_minor &&
        device.minor - r.first_minor < r.minors)
      return r.open(ctx, path, flags, device);
  return base::err(abi::Errno::kENXIO);
}

// fs/pipe opens FIFOs of every file system; set at boot.
using OpenFifo = base::Result<base::RefPtr<FileDescription>> (*)(OpContext& ctx, const Path& path, uint32_t flags);
inline OpenFifo& fifo_opener() {
  static OpenFifo opener = nullptr;
  return opener;
}

}  // namespace sentry::vfs
