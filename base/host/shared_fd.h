// SPDX-License-Identifier: Apache-2.0
// SharedFd: a host descriptor with several owners; it is closed when the last one lets go.
#pragma once

#include "base/host/unique_fd.h"
#include "base/ref/ref.h"

namespace base {

class SharedFd final : public RefCounted {
 public:
  explicit SharedFd(UniqueFd fd) : fd_(std::move(fd)) {}
  int get() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace base
