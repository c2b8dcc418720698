// SPDX-License-Identifier: Apache-2.0
// StreamBuffer: the bytes on their way in one direction of a connection inside the sandbox (unix streams, TCP that does not
// leave it). A ring with one writer and one reader at a time, which the socket's own locks see to; positions are atomics,
// so bytes move guest -> ring -> guest without a mutex, and a copy may fault and sleep.
//
// It may be given a second ring that stubs work on as well (vfs/shared_ring.h). Then the bytes in that one are older than those in the
// sentry's own, which is used when the other is full or when something goes with the bytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/core/result.h"
#include "sentry/vfs/shared_ring.h"

namespace sentry::net {

class StreamBuffer {
 public:
  static constexpr size_t kSize = 128 << 10;
  static constexpr size_t kWritableLevel = kSize / 2;  // POLLOUT at and below this much unread

  // Takes what fits. EAGAIN when full, EFAULT when not one byte could be read from `src`. After success publish() must follow:
  // what belongs to the bytes is put in place before it, at [head(), ...) if `lane` is kOwn.
  enum class Lane : uint8_t { kAny, kOwn };
  base::Result<size_t> put(vfs::OpContext& ctx, vfs::IoBuffer& src, Lane lane);
  void publish();

  struct Got {
    size_t bytes = 0;
    bool own = false;        // they came from the own ring, at tail() as it was before, or the last of them did
    bool made_room = false;  // the writer should hear of it
  };
  // What is there; at most `own_limit` bytes of the own ring. EAGAIN when there is nothing, EFAULT when not one byte could be
  // written to `dst`.
  enum class Keep : uint8_t { kNo, kYes };
  // kYes: from both rings. A program that reads less than it asked for takes it that there is no more, and with POLLHUP for the end.
  enum class Join : uint8_t { kNo, kYes };
  base::Result<Got> get(vfs::OpContext& ctx, vfs::IoBuffer& dst, size_t own_limit, Keep keep, Join join);

  // Positions of the reader and the writer in the own ring.
  uint64_t tail() const { return tail_.load(std::memory_order_acquire); }
  uint64_t head() const { return head_.load(std::memory_order_acquire); }
  size_t used() const { return own_used() + shared_.used(); }
  bool is_empty() const { return !has_own() && shared_.used() == 0; }
  bool has_own() const { return own_used() != 0; }
  bool is_writable() const { return own_used() <= kWritableLevel; }

  vfs::SharedRing& shared() { return shared_; }

 private:
  size_t own_used() const {
    const uint64_t tail = this->tail();  // before head: never more than head
    return head() - tail;
  }
  base::Result<size_t> put_own(vfs::IoBuffer& src);
  base::Result<Got> get_own(vfs::IoBuffer& dst, size_t limit, Keep keep);

  std::unique_ptr<uint8_t[]> ring_;  // made by the first put(), published by head_
  std::atomic<uint64_t> head_{0}, tail_{0};
  size_t pending_ = 0;  // between put() and publish()
  vfs::SharedRing shared_;
};

}  // namespace sentry::net
