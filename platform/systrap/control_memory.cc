// SPDX-License-Identifier: Apache-2.0
#include "platform/systrap/control_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "abi/types/types.h"
#include "base/host/reopen.h"

namespace platform::systrap {

ControlMemory::~ControlMemory() {
  if (base_) munmap(base_, kSize);
}

base::HostResult<void> ControlMemory::init() {
  fd_.reset(memfd_create("systrap", MFD_CLOEXEC));
  if (!fd_) return base::HostErr(base::HostError::from_errno("memfd_create"));
  if (ftruncate(fd_.get(), kSize) < 0) return base::HostErr(base::HostError::from_errno("ftruncate"));
  fd_ro_ = base::reopen_for_reading(fd_.get());
  if (!fd_ro_) return base::HostErr(base::HostError::from_errno("reopen control memory"));
  void* p = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_.get(), 0);
  if (p == MAP_FAILED) return base::HostErr(base::HostError::from_errno("mmap"));
  madvise(p, kSize, MADV_DONTDUMP);
  base_ = static_cast<char*>(p);
  return {};
}

base::Result<uint64_t> ControlMemory::allocate_unit() {
  base::MutexLock lock(mu_);
  if (!clean_.empty()) {
    uint64_t offset = clean_.back();
    clean_.pop_back();
    return offset;
  }
  if (!free_.empty()) {
    uint64_t offset = free_.back();
    free_.pop_back();
    return offset;
  }
  if (next_ + kUnitSize > kSize) return base::err(abi::Errno::kENOMEM);
  uint64_t offset = next_;
  next_ += kUnitSize;
  return offset;
}

void ControlMemory::free_unit(uint64_t offset) {
  // The next process must not read this one's registers. Filling its pages with zeros costs a tenth of punching a hole and making them anew.
  if (clear_unit(offset)) return;
  fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), kUnitSize);
  base::MutexLock lock(mu_);
  free_.push_back(offset);
}

// False: enough of them are kept.
bool ControlMemory::clear_unit(uint64_t offset) {
  constexpr size_t kKept = 2;
  constexpr uint64_t kPages = kUnitSize / abi::kPageSize;
  {
    base::MutexLock lock(mu_);
    if (clean_.size() >= kKept) return false;
  }
  unsigned char there[kPages];
  if (mincore(base_ + offset, kUnitSize, there) != 0) return false;
  for (uint64_t i = 0; i < kPages; ++i)
    if (there[i] & 1) __builtin_memset(base_ + offset + i * abi::kPageSize, 0, abi::kPageSize);
  base::MutexLock lock(mu_);
  clean_.push_back(offset);
  return true;
}

}  // namespace platform::systrap
