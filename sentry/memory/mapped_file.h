// SPDX-License-Identifier: Apache-2.0
// What a file mapping shows in /proc/PID/maps and keeps alive; vfs::FileDescription implements it.
#pragma once

#include <string>

#include "abi/types/types.h"
#include "base/ref/ref.h"

namespace sentry::memory {

class MappedFile : public base::RefCounted {
 public:
  struct Identity {
    std::string path;
    abi::DeviceId device;
    uint64_t inode = 0;
  };
  virtual Identity mapped_identity() const = 0;
};

}  // namespace sentry::memory
