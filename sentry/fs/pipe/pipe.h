// SPDX-License-Identifier: Apache-2.0
// Pipes and FIFOs: pipe(7), fifo(7), fs/pipe.c. A pipe is a ring of pages; a write that fits in the last page is merged into
// it, and one of at most PIPE_BUF bytes is never split.
//
// A pipe(2) that is used a lot gets a ring of 64 KiB that stubs work on, too (vfs/shared_ring.h): bytes go there while they fit, and what
// is in the pages (of larger pipes, and what was spliced or is a packet) is behind them.
//
// Locks (sleeping: user memory is copied under them): those of the sides, reader's first, while the pipe has a ring; then what the
// stubs of the caller's process have; then Pipe::lock_. What poll looks at is atomic.
#pragma once

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/shared_stream.h"

namespace sentry::fs::pipe {

inline constexpr size_t kPipeBuf = 4096;
inline constexpr size_t kDefaultSize = 65536;
inline constexpr size_t kMaxSize = 1 << 20;  // /proc/sys/fs/pipe-max-size

// One page of data in flight; the page is shared between pipes after tee(2).
struct PipeSlot {
  std::shared_ptr<uint8_t[]> page;
  uint32_t offset = 0, length = 0;
  bool packet = false;     // O_DIRECT: one read takes one slot
  bool mergeable = false;  // the page is ours alone and may be appended to
};

class Pipe final : public base::RefCounted {
 public:
  enum class End : uint8_t { kRead, kWrite, kBoth };

  // In place: a pipe(2) only, as nobody else opens that.
  enum class Kind : uint8_t { kAnonymous, kFifo };
  explicit Pipe(Kind kind) : slots_(kDefaultSize / kPipeBuf), may_share_(kind == Kind::kAnonymous) {}
  base::Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst);
  base::Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src, bool packet);
  vfs::PollMask readiness(bool reader, bool writer);
  size_t readable_bytes() const { return ring_.used() + bytes_.load(std::memory_order_relaxed); }
  size_t capacity() const { return max_slots_.load(std::memory_order_relaxed) * kPipeBuf; }
  base::Result<size_t> set_capacity(vfs::OpContext& ctx, size_t bytes);

  // splice(2), tee(2): pages move or are shared instead of being copied. Up to `max` bytes; kEAGAIN like read and write.
  enum class Keep : uint8_t { kNo, kYes };
  base::Result<size_t> move_to(vfs::OpContext& ctx, Pipe& target, size_t max, Keep keep);

  // Hands data to `f`, piece by piece in order, until it takes less than it was offered or `max` bytes are done. The pipe is
  // locked meanwhile: `f` must not wait for anybody.
  base::Result<size_t> drain(vfs::OpContext& ctx, size_t max, base::FunctionRef<base::Result<size_t>(std::span<uint8_t>)> f);

  void open_end(End end);
  void close_end(End end);
  bool has_readers() const { return readers_.load() != 0; }
  bool has_writers() const { return writers_.load() != 0; }
  uint64_t writer_opens() const { return writer_opens_.load(); }  // a FIFO's opener sees one that came and went
  uint64_t reader_opens() const { return reader_opens_.load(); }
  vfs::WaitQueue& queue() { return queue_; }

  // Makes the ring; EOPNOTSUPP where that cannot be.
  base::Result<vfs::InPlaceEnd*> share(vfs::OpContext& ctx, End end);
  vfs::InPlaceEnd* in_place_end(End end) const { return (end == End::kWrite ? write_end_ : read_end_).end(); }
  // From now on stubs leave it alone.
  void leave_to_sentry();

 private:
  class Side;
  class Hold;
  static_assert(kPipeBuf == platform::in_place::kPipePage);
  // Below what the ring may hold, capacities would not be kept.
  static constexpr size_t kMinSharedPages = platform::in_place::kPipeBytesSize / kPipeBuf;
  bool must_not_share() const { return !may_share_.load() || !has_readers() || !has_writers() || max_slots_.load() < kMinSharedPages; }
  // In pages; a page of the ring that is begun counts.
  size_t used_pages() const { return used_.load() + (ring_.used() + kPipeBuf - 1) / kPipeBuf; }
  bool has_room();
  bool is_empty() const { return ring_.used() == 0 && used_.load() == 0; }
  // With lock_ held:
  PipeSlot& slot(size_t i) { return slots_[(head_ + i) % slots_.size()]; }
  bool is_full() const { return used_pages() >= slots_.size(); }
  void add_slot(PipeSlot next);
  base::Result<size_t> read_slots(vfs::IoBuffer& dst);
  base::Result<size_t> write_ring(vfs::IoBuffer& src, bool& complete);
  base::Result<size_t> write_slots(vfs::IoBuffer& src, bool packet);
  base::Result<size_t> drain_ring(size_t max, base::FunctionRef<base::Result<size_t>(std::span<uint8_t>)> f);
  base::Result<size_t> drain_slots(size_t max, base::FunctionRef<base::Result<size_t>(std::span<uint8_t>)> f);
  size_t move_ring_to(Pipe& target, size_t max, Keep keep);
  size_t move_slots_to(Pipe& target, size_t max, Keep keep);
  bool finish_reading(bool was_full);
  base::Result<size_t> write_locked(vfs::IoBuffer& src, bool packet);
  std::shared_ptr<uint8_t[]> take_page();
  void drop_head();
  base::Result<size_t> merge(vfs::IoBuffer& src);

  vfs::SleepLock lock_, read_lock_, write_lock_;
  std::vector<PipeSlot> slots_;             // lock_
  size_t head_ = 0;                         // lock_
  std::shared_ptr<uint8_t[]> spare_;        // lock_
  std::atomic<size_t> used_{0}, bytes_{0};  // changed under lock_
  std::atomic<size_t> max_slots_{kDefaultSize / kPipeBuf};
  std::atomic<uint32_t> readers_{0}, writers_{0};
  std::atomic<uint64_t> reader_opens_{0}, writer_opens_{0};
  vfs::WaitQueue queue_;
  std::atomic<bool> may_share_;  // from true to false once
  vfs::SharedRing ring_;         // its bytes are older than those in the slots; made under all three locks
  vfs::SharedHandle write_end_, read_end_;
};

class PipeFile final : public vfs::FileDescription {
 public:
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  PipeFile(vfs::Path path, uint32_t flags, base::RefPtr<Pipe> pipe);
  ~PipeFile() override;
  Pipe& pipe() const { return *pipe_; }
  const void* kind() const override { return kKind; }
  base::Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst) override;
  base::Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src) override;
  vfs::PollMask readiness(vfs::PollMask interest) override { return pipe_->readiness(is_readable(), is_writable()); }
  vfs::WaitQueue* wait_queue() override { return &pipe_->queue(); }
  bool sends_sigio() const override { return true; }
  base::Result<int64_t> ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) override;
  base::Result<vfs::InPlaceEnd*> prepare_in_place(vfs::OpContext& ctx) override { return pipe_->share(ctx, end()); }
  vfs::InPlaceEnd* in_place_end() const override { return pipe_->in_place_end(end()); }

 private:
  Pipe::End end() const;
  const base::RefPtr<Pipe> pipe_;
};

// pipe2(2): {read end, write end}. `flags`: O_NONBLOCK, O_DIRECT.
std::pair<base::RefPtr<vfs::FileDescription>, base::RefPtr<vfs::FileDescription>> make_pipe(vfs::OpContext& ctx, uint32_t flags);

// Makes the VFS open FIFOs here. Once, at boot.
void register_fifos();

}  // namespace sentry::fs::pipe
