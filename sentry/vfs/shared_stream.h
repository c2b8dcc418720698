// SPDX-License-Identifier: Apache-2.0
// SharedStream: what the two ends of a connection inside the sandbox, or of a pipe, share with the stubs of their processes. It lives
// as long as either end; the ends are InPlaceEnds of the open files that lead to them.
#pragma once

#include "sentry/vfs/in_place.h"
#include "sentry/vfs/shared_ring.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::vfs {

class SharedStream final : public base::RefCounted {
 public:
  class End final : public InPlaceEnd {
   public:
    InPlaceMemory& memory() const override { return *owner_->memory_; }
    uint64_t word_locked() const override;
    bool is_retired() const override { return owner_->retired_.load(std::memory_order_seq_cst); }
    bool clean_locked() override;
    bool is_busy() const override;
    void moved_locked() override;
    void want_kicks_locked(bool on) override;
    void kick_locked() override;
    Look look(bool output_too) override;

   private:
    friend class SharedStream;
    platform::in_place::StreamHalf& incoming_half() { return owner_->memory_->stream().half[1 - index_]; }
    SharedStream* owner_ = nullptr;
    uint32_t index_ = 0;
    SharedRing *input_ = nullptr, *output_ = nullptr;  // a pipe has one of them
    WaitQueue* queue_ = nullptr;  // who waits at this end; until that goes away. in_place_mutex()
  };

  // What an end reads, and who waits there. A pipe's first end reads nothing.
  struct Side {
    SharedRing* input;
    bool has_own;  // there are bytes for it that are not in the ring
    WaitQueue& queue;
  };
  // ENOMEM.
  static base::Result<base::RefPtr<SharedStream>> create(memory::MemoryFile& file, Side side0, Side side1);
  void forget_queue(uint32_t index);
  // Stubs leave it to the sentry from now on, whatever the block says: each of them can write all of that.
  void retire();
  End& end(uint32_t index) { return ends_[index]; }

 private:
  explicit SharedStream(base::RefPtr<InPlaceMemory> memory) : memory_(std::move(memory)) {}
  const base::RefPtr<InPlaceMemory> memory_;
  End ends_[2];
  std::atomic<bool> retired_{false};  // from false to true once
};

// What each end of a connection keeps of the stream that it may share: nothing until it was shared once.
class SharedHandle {
 public:
  SharedHandle() = default;
  ~SharedHandle();
  SharedHandle(const SharedHandle&) = delete;
  SharedHandle& operator=(const SharedHandle&) = delete;
  // Both at once, while nobody reads what has bytes of its own, nor writes. What stubs must not do from the start is to be looked for after it.
  static base::Result<void> share(memory::MemoryFile& file, SharedHandle& a, SharedStream::Side side_a, SharedHandle& b,
                                  SharedStream::Side side_b);

  void retire();
  bool is_shared() const { return stream_.load(std::memory_order_seq_cst) != nullptr; }
  InPlaceEnd* end() const;

 private:
  std::atomic<SharedStream*> stream_{nullptr};  // holds a reference
  uint32_t index_ = 0;                          // set before stream_
};

}  // namespace sentry::vfs
