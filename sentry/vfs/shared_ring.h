// SPDX-License-Identifier: Apache-2.0
// SharedRing: bytes on their way in one direction, in a ring that the stubs of the writer's and of the reader's process work on as well
// (platform/interface/in_place_io.h). Its owner (a direction of a connection, a pipe) keeps further bytes itself, which are behind those
// in the ring; kStreamBehind says so.
//
// At most one task writes and one reads at a time, which the owner's locks see to: from begin_put() to end_put(), begin_get() to end_get().
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "base/core/function_ref.h"
#include "base/core/result.h"
#include "platform/interface/in_place_io.h"
#include "sentry/vfs/io_buffer.h"
#include "sentry/vfs/op_context.h"

namespace sentry::vfs {

class SharedRing {
 public:
  // From now on stubs may work on `half` and its bytes, which live as long as this. `is_behind`: the owner has bytes already. Nobody
  // reads or writes meanwhile.
  void share(platform::in_place::StreamHalf& half, std::span<uint8_t> bytes, bool is_behind);
  bool is_shared() const { return half_.load(std::memory_order_acquire) != nullptr; }
  // Zero while it is not shared.
  size_t used() const;

  // Keeps the writer's stub out, nor is kStreamBehind taken back meanwhile. The rest is for in between.
  void begin_put(OpContext& ctx);
  void end_put();
  size_t room() const;
  // Copies `n` bytes, at most room() and what `src` has; EFAULT when not one could be read. Then publish() what of it is to be seen.
  base::Result<size_t> fill(IoBuffer& src, size_t n);
  void publish(size_t n);
  bool is_behind() const;
  void set_behind(bool on);

  // Keeps the reader's stub out.
  void begin_get(OpContext& ctx);
  void end_get();
  // Copies up to `n` of the used() bytes without taking them; EFAULT when not one could be written to `dst`.
  base::Result<size_t> peek(IoBuffer& dst, size_t n) const;
  void skip(size_t n);
  // The owner's bytes are gone: stubs may write again. Unless somebody writes right now, who sees to it.
  void take_back_behind(base::FunctionRef<bool()> is_empty);

  // Of a pipe: who reads tells of it from now on, said before one looks for the last time whether there is room.
  void want_room();
  // Whether that was so. Before one tells.
  bool take_room_wanted();

  // The locks that the stubs of the writer's and of the reader's process take; null: they do not work on it.
  void set_writer_lock(uint8_t* lock) { writer_lock_.store(lock, std::memory_order_seq_cst); }
  void set_reader_lock(uint8_t* lock) { reader_lock_.store(lock, std::memory_order_seq_cst); }
  // An end was closed or has something to tell: stubs leave everything to the sentry from now on.
  void set_odd();
  // After set_odd(): what a stub is writing right now has arrived when it returns. Without a put under way.
  void settle(OpContext& ctx);
  // The same when the writer's process is not the caller's, who waits for no lock that another process can keep.
  void settle_briefly();
  // Overwrites what was read already. False: somebody writes right now.
  bool clean();
  bool is_being_read() const { return getting_.load(std::memory_order_seq_cst); }
  bool is_being_written() const { return putting_.load(std::memory_order_seq_cst); }

 private:
  using Half = platform::in_place::StreamHalf;
  template <typename F>
  bool try_as_writer(F&& f);

  std::atomic<Half*> half_{nullptr};  // hostile
  std::span<uint8_t> bytes_;          // set before half_; hostile
  std::atomic<uint8_t*> writer_lock_{nullptr}, reader_lock_{nullptr};  // hostile
  uint8_t *writer_locked_ = nullptr, *reader_locked_ = nullptr;        // those that are held; by who writes, by who reads
  // These are set before the lock is looked at: who makes it another one looks at them then.
  std::atomic<bool> putting_{false};  // also while kStreamBehind is taken back
  std::atomic<bool> getting_{false};
};

// Moves up to `n` bytes of a ring of `size`, in pieces that do not cross its end; `move` takes (offset in the ring, length).
base::Result<size_t> move_around(uint64_t position, size_t n, uint64_t size,
                                 base::FunctionRef<base::Result<size_t>(uint64_t, size_t)> move);

}  // namespace sentry::vfs
