// SPDX-License-Identifier: Apache-2.0
// StreamBuffer: the bytes on their way in one direction of a connection inside the sandbox (unix streams, TCP that does not
// leave it). A ring with one writer and one reader at a time, which the socket's own locks see to; positions are atomics,
// so bytes move guest -> ring -> guest without a mutex, and a copy may fault and sleep.
//
// It may be given a second ring that stubs work on as well (platform/interface/in_place_io.h). Then the bytes in that one are
// older than those in the sentry's own, which is used when the other is full or when something goes with the bytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/core/result.h"
#include "platform/interface/in_place_io.h"
#include "sentry/vfs/io_buffer.h"
#include "sentry/vfs/op_context.h"

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
    bool own = false;        // they came from the own ring, at tail() as it was before
    bool made_room = false;  // the writer should hear of it
  };
  // What is there; at most `own_limit` bytes of the own ring. EAGAIN when there is nothing, EFAULT when not one byte could be
  // written to `dst`.
  enum class Keep : uint8_t { kNo, kYes };
  base::Result<Got> get(vfs::OpContext& ctx, vfs::IoBuffer& dst, size_t own_limit, Keep keep);

  // Positions of the reader and the writer in the own ring.
  uint64_t tail() const { return tail_.load(std::memory_order_acquire); }
  uint64_t head() const { return head_.load(std::memory_order_acquire); }
  size_t used() const { return own_used() + shared_used(); }
  bool is_empty() const { return own_used() == 0 && shared_used() == 0; }
  bool is_writable() const { return own_used() <= kWritableLevel; }

  // From now on stubs may work on `half` and its ring, which live as long as this. With the writer's lock held.
  void share(platform::in_place::StreamHalf& half, uint8_t* ring);
  // The locks that the stubs of the writer's and of the reader's process take; null: they do not work on it.
  void set_writer_lock(uint8_t* lock) { writer_lock_.store(lock, std::memory_order_seq_cst); }
  void set_reader_lock(uint8_t* lock) { reader_lock_.store(lock, std::memory_order_seq_cst); }
  // An end was closed or has something to tell: stubs leave everything to the sentry from now on.
  void set_odd();
  // After set_odd(): what a stub is writing right now has arrived when it returns. Without a put() under way.
  void settle(vfs::OpContext& ctx);
  // The same when the writer's process is not the caller's, who waits for no lock that another process can keep.
  void settle_briefly();
  // Overwrites what was read already in the ring that stubs share. False: somebody writes right now.
  bool clean();
  // Of the shared ring, by the sentry, right now.
  bool is_being_read() const { return getting_.load(std::memory_order_seq_cst); }
  bool is_being_written() const { return putting_.load(std::memory_order_seq_cst); }

 private:
  using Half = platform::in_place::StreamHalf;

  size_t own_used() const {
    const uint64_t tail = this->tail();  // before head: never more than head
    return head() - tail;
  }
  size_t shared_used() const;
  base::Result<size_t> put_own(vfs::IoBuffer& src);
  base::Result<size_t> put_shared(Half& half, vfs::IoBuffer& src);
  void begin_put(vfs::OpContext& ctx);
  void end_put();
  void take_back_behind(Half& half);
  template <typename F>
  bool try_as_writer(F&& f);
  base::Result<Got> get_own(vfs::IoBuffer& dst, size_t limit, Keep keep);

  std::unique_ptr<uint8_t[]> ring_;  // made by the first put(), published by head_
  std::atomic<uint64_t> head_{0}, tail_{0};
  size_t pending_ = 0;  // between put() and publish()

  std::atomic<Half*> shared_{nullptr};  // hostile
  uint8_t* shared_ring_ = nullptr;      // set before shared_
  std::atomic<uint8_t*> writer_lock_{nullptr}, reader_lock_{nullptr};  // hostile
  uint8_t* writer_locked_ = nullptr;    // between put() and publish(): the one that is held
  // These are set before the lock is looked at: who makes it another one looks at them then.
  std::atomic<bool> putting_{false};    // from put() to publish(), and while kStreamBehind is taken back
  std::atomic<bool> getting_{false};    // in get()
};

}  // namespace sentry::net
