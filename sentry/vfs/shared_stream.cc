// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/shared_stream.h"

#include "sentry/vfs/file_description.h"

namespace sentry::vfs {

using base::RefPtr;
using base::Result;

Result<RefPtr<SharedStream>> SharedStream::create(memory::MemoryFile& file, Side side0, Side side1) {
  const bool is_pipe = !side0.input;
  const uint64_t size = is_pipe ? in_place::kPipeBytesSize : in_place::kBytesSize;
  RefPtr<InPlaceMemory> memory = TRY(InPlaceMemory::create(file, is_pipe ? in_place::kPipeBlockSize : in_place::kStreamBlockSize));
  auto stream = RefPtr<SharedStream>::adopt(new SharedStream(std::move(memory)));
  const Side* sides[2] = {&side0, &side1};
  in_place::StreamBlock& block = stream->memory_->stream();
  for (uint32_t i = 0; i < 2; ++i) {
    End& end = stream->ends_[i];
    const Side& other = *sides[1 - i];
    end.owner_ = stream.get();
    end.index_ = i;
    end.input_ = sides[i]->input;
    end.output_ = other.input;
    end.queue_ = &sides[i]->queue;
    block.half[i].wanted = 1;
    const std::span<uint8_t> bytes(stream->memory_->bytes() + in_place::kBytesOffset + i * size, size);
    if (other.input) other.input->share(block.half[i], bytes, other.has_own);
  }
  return stream;
}

Result<void> SharedHandle::share(memory::MemoryFile& file, SharedHandle& a, SharedStream::Side side_a, SharedHandle& b,
                                 SharedStream::Side side_b) {
  if (a.is_shared()) return {};
  RefPtr<SharedStream> stream = TRY(SharedStream::create(file, side_a, side_b));
  stream->ref();
  b.index_ = 1;
  a.stream_.store(stream.get(), std::memory_order_seq_cst);
  b.stream_.store(stream.release(), std::memory_order_seq_cst);
  return {};
}

SharedHandle::~SharedHandle() {
  SharedStream* stream = stream_.load();
  if (!stream) return;
  stream->forget_queue(index_);
  stream->unref();
}

InPlaceEnd* SharedHandle::end() const {
  SharedStream* stream = stream_.load(std::memory_order_acquire);
  return stream ? &stream->end(index_) : nullptr;
}

void SharedStream::retire() {
  if (retired_.exchange(true, std::memory_order_seq_cst)) return;
  base::MutexLock lock(in_place_mutex());
  for (End& end : ends_) end.show_locked();
}

void SharedHandle::retire() {
  if (SharedStream* stream = stream_.load(std::memory_order_seq_cst)) stream->retire();
}

bool SharedStream::End::clean_locked() { return (!input_ || input_->clean()) && (!output_ || output_->clean()); }

bool SharedStream::End::is_busy() const { return (input_ && input_->is_being_read()) || (output_ && output_->is_being_written()); }

uint64_t SharedStream::End::word_locked() const {
  const bool one_way = !input_ || !output_;
  if (is_retired() || (one_way && (file_->status_flags() & kO_DIRECT))) return 0;  // packets are the sentry's
  const InPlaceView* reader = owner_->ends_[1 - index_].view();
  return in_place::kKindStream | (one_way ? in_place::kOneWay : 0) | (index_ ? in_place::kEnd : 0) | (file_->is_nonblocking() ? in_place::kNonBlocking : 0) |
         uint64_t{reader ? reader->waiting_word() : 0} << 32;
}

InPlaceEnd::Look SharedStream::End::look(bool) {
  const in_place::StreamHalf& half = incoming_half();
  const uint64_t head = __atomic_load_n(&half.head, __ATOMIC_ACQUIRE);
  // The other end's process can hide the flags, but not that it has gone.
  return {head, __atomic_load_n(&half.tail, __ATOMIC_ACQUIRE) == head && __atomic_load_n(&half.flags, __ATOMIC_ACQUIRE) == 0 && !is_retired()};
}

void SharedStream::End::moved_locked() {
  // Whoever reads here now may not be known by a waiting word: first that, then the word.
  if (!view()) want_kicks_locked(true);
  owner_->ends_[1 - index_].show_locked();
  if (input_) input_->set_reader_lock(locks_ ? &locks_->reading[fd_] : nullptr);
  if (output_) output_->set_writer_lock(locks_ ? &locks_->writing[fd_] : nullptr);
}

void SharedStream::forget_queue(uint32_t index) {
  base::MutexLock lock(in_place_mutex());
  ends_[index].queue_ = nullptr;
}

void SharedStream::End::kick_locked() {
  WaitQueue* queue = owner_->ends_[1 - index_].queue_;
  // The reading end of a pipe tells of room.
  if (!output_) (void)input_->take_room_wanted();
  if (queue) queue->notify(output_ ? kPollIn | kPollRdNorm : kPollOut | kPollWrNorm);
}

void SharedStream::End::want_kicks_locked(bool on) { __atomic_store_n(&incoming_half().wanted, on ? 1u : 0u, __ATOMIC_SEQ_CST); }

}  // namespace sentry::vfs
