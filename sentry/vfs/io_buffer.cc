// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/io_buffer.h"

#include <algorithm>
#include <cstring>

namespace sentry::vfs {

using enum abi::Errno;

UserIoBuffer::UserIoBuffer(memory::UserMemory& memory, abi::Addr addr, size_t len) : memory_(memory), first_{addr, len} {
  remaining_ = len;
}

UserIoBuffer::UserIoBuffer(memory::UserMemory& memory, std::vector<IoVec> vecs) : memory_(memory), vecs_(std::move(vecs)) {
  for (const IoVec& v : vecs_) remaining_ += v.len;
}

// Calls f(address, bytes) for consecutive pieces of the buffers until n bytes are done, f takes less than it was
// offered, or f fails. first_ is the piece in hand.
template <typename F>
base::Result<size_t> UserIoBuffer::transfer(size_t n, F&& f) {
  n = std::min(n, remaining_);
  size_t done = 0;
  while (done < n) {
    while (first_.len == 0) first_ = vecs_[index_++];
    size_t want = std::min<size_t>(n - done, first_.len);
    base::Result<size_t> got = f(first_.addr, want, done);
    if (!got) {
      if (done != 0) break;
      return got;
    }
    first_.addr = first_.addr + *got;
    first_.len -= *got;
    remaining_ -= *got;
    done += *got;
    if (*got < want) break;
  }
  return done;
}

base::Result<size_t> UserIoBuffer::put(const void* src, size_t n) {
  return transfer(n, [&](abi::Addr at, size_t len, size_t done) {
    return memory_.copy_out_partial(at, static_cast<const uint8_t*>(src) + done, len);
  });
}

base::Result<size_t> UserIoBuffer::put_zeros(size_t n) {
  return transfer(n, [&](abi::Addr at, size_t len, size_t) { return memory_.zero_out(at, len); });
}

base::Result<size_t> UserIoBuffer::get(void* dst, size_t n) {
  return transfer(n, [&](abi::Addr at, size_t len, size_t done) {
    return memory_.copy_in_partial(static_cast<uint8_t*>(dst) + done, at, len);
  });
}

base::Result<size_t> UserIoBuffer::peek(void* dst, size_t n) {
  const IoVec first = first_;
  const size_t index = index_, remaining = remaining_;
  base::Result<size_t> got = get(dst, n);
  first_ = first;
  index_ = index;
  remaining_ = remaining;
  return got;
}

base::Result<size_t> UserIoBuffer::with_segments(
    size_t n, memory::Access access, base::FunctionRef<base::Result<size_t>(std::span<const memory::HostSegment>)> f) {
  // One piece per call: the callers loop, and a single buffer is the common case.
  n = std::min(n, remaining_);
  if (n == 0) return size_t{0};
  while (first_.len == 0) first_ = vecs_[index_++];
  size_t want = std::min<size_t>(n, first_.len);
  size_t used = TRY(memory_.with_segments(first_.addr, want, access, f));
  first_.addr = first_.addr + used;
  first_.len -= used;
  remaining_ -= used;
  return used;
}

base::Result<size_t> KernelIoBuffer::put(const void* src, size_t n) {
  n = std::min(n, remaining_);
  if (n != 0) std::memcpy(bytes_.data() + pos_, src, n);
  pos_ += n;
  remaining_ -= n;
  return n;
}

base::Result<size_t> KernelIoBuffer::put_zeros(size_t n) {
  n = std::min(n, remaining_);
  if (n != 0) std::memset(bytes_.data() + pos_, 0, n);
  pos_ += n;
  remaining_ -= n;
  return n;
}

base::Result<size_t> KernelIoBuffer::get(void* dst, size_t n) {
  n = TRY(peek(dst, n));
  pos_ += n;
  remaining_ -= n;
  return n;
}

base::Result<size_t> KernelIoBuffer::peek(void* dst, size_t n) {
  n = std::min(n, remaining_);
  if (n != 0) std::memcpy(dst, bytes_.data() + pos_, n);
  return n;
}

base::Result<size_t> KernelIoBuffer::with_segments(
    size_t n, memory::Access, base::FunctionRef<base::Result<size_t>(std::span<const memory::HostSegment>)> f) {
  n = std::min(n, remaining_);
  if (n == 0) return size_t{0};
  memory::HostSegment segment{bytes_.data() + pos_, n};
  size_t used = TRY(f({&segment, 1}));
  pos_ += used;
  remaining_ -= used;
  return used;
}

}  // namespace sentry::vfs
