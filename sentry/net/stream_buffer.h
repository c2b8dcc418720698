// SPDX-License-Identifier: Apache-2.0
// StreamBuffer: the bytes on their way in one direction of a connection inside the sandbox (unix streams, TCP that does not
// leave it). A ring with one writer and one reader at a time, which the socket's own locks see to; positions are atomics,
// so bytes move guest -> ring -> guest without a mutex, and a copy may fault and sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/core/result.h"
#include "sentry/vfs/io_buffer.h"

namespace sentry::net {

class StreamBuffer {
 public:
  static constexpr size_t kSize = 128 << 10;
  static constexpr size_t kWritableLevel = kSize / 2;  // POLLOUT at and below this much unread

  // Takes what fits. EAGAIN when full, EFAULT when not one byte could be read from `src`. The bytes are seen by the reader after
  // publish(), so that what belongs to them can be put in place first.
  base::Result<size_t> put(vfs::IoBuffer& src);
  void publish(size_t bytes) { head_.store(head_.load(std::memory_order_relaxed) + bytes, std::memory_order_release); }
  // At most `limit` bytes of what is there, which stay until consume(). EFAULT when not one byte could be written to `dst`.
  base::Result<size_t> get(vfs::IoBuffer& dst, size_t limit);
  // True when the writer should hear of the room that this made.
  bool consume(size_t bytes);

  // Positions of the reader and the writer since the connection was made.
  uint64_t tail() const { return tail_.load(std::memory_order_acquire); }
  uint64_t head() const { return head_.load(std::memory_order_acquire); }
  size_t used() const {
    const uint64_t tail = this->tail();  // before head: never more than head
    return head() - tail;
  }
  bool is_empty() const { return head() == tail(); }
  bool is_full() const { return used() >= kSize; }
  bool is_writable() const { return used() <= kWritableLevel; }

 private:
  static constexpr uint64_t kMask = kSize - 1;
  std::unique_ptr<uint8_t[]> ring_;  // made by the first put(), published by head_
  std::atomic<uint64_t> head_{0}, tail_{0};
};

}  // namespace sentry::net
