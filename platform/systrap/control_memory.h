// SPDX-License-Identifier: Apache-2.0
// The memfd that the sentry shares with its stubs: doorbell, zygote's board, stub text, trampolines, and units of 64 KiB (the
// ring and slot of a process, or the slot of a further thread). The sentry maps all of it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/core/result.h"
#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "base/sync/mutex.h"
#include "platform/systrap/stub/layout.h"

namespace platform::systrap {

class ControlMemory {
 public:
  ControlMemory() = default;
  ~ControlMemory();
  ControlMemory(const ControlMemory&) = delete;
  ControlMemory& operator=(const ControlMemory&) = delete;

  base::HostResult<void> init();
  int fd() const { return fd_.get(); }
  int fd_read_only() const { return fd_ro_.get(); }

  template <typename T>
  T* at(uint64_t offset) const { return static_cast<T*>(static_cast<void*>(base_ + offset)); }
  Doorbell* doorbell() const { return at<Doorbell>(kDoorbellFileOffset); }
  WaitingWords* waiting() const { return at<WaitingWords>(kWaitingFileOffset); }
  in_place::ChangeWords* changes() const { return at<in_place::ChangeWords>(kChangesFileOffset); }
  CpuidBoard* cpuid() const { return at<CpuidBoard>(kCpuidFileOffset); }
  ZygoteBoard* board() const { return at<ZygoteBoard>(kZygoteFileOffset); }

  // A zeroed unit's file offset; ENOMEM when all are in use.
  base::Result<uint64_t> allocate_unit();
  // Only when nobody but the sentry maps it any more: what it held is erased.
  void free_unit(uint64_t offset);

 private:
  bool clear_unit(uint64_t offset);
  static constexpr uint64_t kSize = uint64_t{4} << 30;
  base::UniqueFd fd_, fd_ro_;
  char* base_ = nullptr;
  base::Mutex mu_{base::LockRank::kLeaf};
  uint64_t next_ GUARDED_BY(mu_) = kUnitsFileOffset;
  std::vector<uint64_t> free_ GUARDED_BY(mu_);
  std::vector<uint64_t> clean_ GUARDED_BY(mu_);  // with pages, full of zeros
};

}  // namespace platform::systrap
