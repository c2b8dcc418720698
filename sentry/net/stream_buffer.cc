// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/stream_buffer.h"

#include <algorithm>

namespace sentry::net {

using enum abi::Errno;
using base::err;
using base::Result;

Result<size_t> StreamBuffer::put(vfs::IoBuffer& src) {
  const uint64_t head = head_.load(std::memory_order_relaxed);
  const uint64_t used = head - tail_.load(std::memory_order_acquire);
  if (used >= kSize) return err(kEAGAIN);
  if (!ring_) ring_.reset(new uint8_t[kSize]);
  const size_t room = std::min<size_t>(kSize - used, src.remaining());
  size_t done = 0;
  while (done < room) {
    const uint64_t at = (head + done) & kMask;
    const size_t piece = std::min<size_t>(room - done, kSize - at);
    Result<size_t> got = src.get(ring_.get() + at, piece);
    if (!got && done == 0) return got;
    if (!got || *got == 0) break;
    done += *got;
    if (*got < piece) break;
  }
  if (done == 0) return err(kEFAULT);
  return done;
}

Result<size_t> StreamBuffer::get(vfs::IoBuffer& dst, size_t limit) {
  const uint64_t tail = tail_.load(std::memory_order_relaxed);
  limit = std::min<size_t>({limit, head_.load(std::memory_order_acquire) - tail, dst.remaining()});
  size_t done = 0;
  while (done < limit) {
    const uint64_t at = (tail + done) & kMask;
    const size_t piece = std::min<size_t>(limit - done, kSize - at);
    Result<size_t> put = dst.put(ring_.get() + at, piece);
    if (!put && done == 0) return put;
    if (!put || *put == 0) break;
    done += *put;
    if (*put < piece) break;
  }
  if (done == 0) return err(kEFAULT);
  return done;
}

bool StreamBuffer::consume(size_t bytes) {
  const uint64_t tail = tail_.load(std::memory_order_relaxed);
  const uint64_t used = head_.load(std::memory_order_acquire) - tail;
  tail_.store(tail + bytes, std::memory_order_release);
  return used > kWritableLevel && used - bytes <= kWritableLevel;
}

}  // namespace sentry::net
