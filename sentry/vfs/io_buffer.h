// SPDX-License-Identifier: Apache-2.0
// IoBuffer: where a read puts its bytes or a write takes them from: guest memory (one buffer or an iovec) or
// kernel memory. A cursor: each call continues where the last one stopped.
#pragma once

#include <span>
#include <vector>

#include "base/core/function_ref.h"
#include "base/core/result.h"
#include "sentry/memory/user_memory.h"

namespace sentry::vfs {

class IoBuffer {
 public:
  virtual ~IoBuffer() = default;
  size_t remaining() const { return remaining_; }
  // Never transfers more than `n` further bytes (RLIMIT_FSIZE, packet sizes).
  void truncate(size_t n) {
    if (n < remaining_) remaining_ = n;
  }

  // To the buffer (read side): bytes taken, fewer than asked only at a bad address or at the end; EFAULT when none.
  virtual base::Result<size_t> put(const void* src, size_t n) = 0;
  virtual base::Result<size_t> put_zeros(size_t n) = 0;
  // From the buffer (write side).
  virtual base::Result<size_t> get(void* dst, size_t n) = 0;
  // Like get, without advancing.
  virtual base::Result<size_t> peek(void* dst, size_t n) = 0;
  // Host-addressable segments for up to n bytes, for host I/O; advances by what f returns.
  virtual base::Result<size_t> with_segments(size_t n, memory::Access access,
                                             base::FunctionRef<base::Result<size_t>(std::span<const memory::HostSegment>)> f) = 0;

 protected:
  size_t remaining_ = 0;
};

struct IoVec {
  abi::Addr addr;
  uint64_t len = 0;
};

class UserIoBuffer final : public IoBuffer {
 public:
  UserIoBuffer(memory::UserMemory& memory, abi::Addr addr, size_t len);
  // Lengths were summed and bounded by the caller (import_iovec of Linux: at most 0x7ffff000 in all).
  UserIoBuffer(memory::UserMemory& memory, std::vector<IoVec> vecs);
  base::Result<size_t> put(const void* src, size_t n) override;
  base::Result<size_t> put_zeros(size_t n) override;
  base::Result<size_t> get(void* dst, size_t n) override;
  base::Result<size_t> peek(void* dst, size_t n) override;
  base::Result<size_t> with_segments(size_t n, memory::Access access,
                                     base::FunctionRef<base::Result<size_t>(std::span<const memory::HostSegment>)> f) override;

 private:
  template <typename F>
  base::Result<size_t> transfer(size_t n, F&& f);
  memory::UserMemory& memory_;
  IoVec first_;               // the single-buffer case allocates nothing
  std::vector<IoVec> vecs_;   // the rest, in order
  size_t index_ = 0;
};

class KernelIoBuffer final : public IoBuffer {
 public:
  explicit KernelIoBuffer(std::span<uint8_t> bytes) : bytes_(bytes) { remaining_ = bytes.size(); }
  size_t done() const { return pos_; }
  base::Result<size_t> put(const void* src, size_t n) override;
  base::Result<size_t> put_zeros(size_t n) override;
  base::Result<size_t> get(void* dst, size_t n) override;
  base::Result<size_t> peek(void* dst, size_t n) override;
  base::Result<size_t> with_segments(size_t n, memory::Access access,
                                     base::FunctionRef<base::Result<size_t>(std::span<const memory::HostSegment>)> f) override;

 private:
  std::span<uint8_t> bytes_;
  size_t pos_ = 0;
};

}  // namespace sentry::vfs
