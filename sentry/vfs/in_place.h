// SPDX-License-Identifier: Apache-2.0
// Files that a guest's stub works on in place: platform/interface/in_place_io.h says how, docs/decisions/0033 why.
//
// A file that can be worked on like that has an InPlaceEnd. It is in place while exactly one descriptor of the whole sandbox
// refers to it and that one is in a table of one address space (its InPlaceView, which the kernel implements). As soon as a
// second descriptor appears it is not, and everything is as if it had never been: the sentry works on the same memory.
//
// Lock: in_place_mutex(), over every InPlaceEnd and InPlaceView; taken after a descriptor table's.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/core/function_ref.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "platform/interface/in_place_io.h"
#include "sentry/memory/memory_file.h"

namespace sentry::vfs {

namespace in_place = platform::in_place;

class FileDescription;

base::Mutex& in_place_mutex();

// A block: pages of the memory file that stubs map. What they can write is hostile: read once, checked, then used.
class InPlaceMemory final : public base::RefCounted {
 public:
  // Zeroed; ENOMEM.
  static base::Result<base::RefPtr<InPlaceMemory>> create(memory::MemoryFile& file, uint64_t length);
  ~InPlaceMemory() override;
  uint64_t offset() const { return range_.offset; }
  uint64_t length() const { return range_.length; }
  uint8_t* bytes() const { return data_; }
  in_place::StreamBlock& stream() const { return *static_cast<in_place::StreamBlock*>(static_cast<void*>(data_)); }
  in_place::EventBlock& event() const { return *static_cast<in_place::EventBlock*>(static_cast<void*>(data_)); }
  in_place::PollBlock& poll() const { return *static_cast<in_place::PollBlock*>(static_cast<void*>(data_)); }

 private:
  InPlaceMemory(memory::MemoryFile& file, memory::FileRange range);
  memory::MemoryFile& file_;
  const memory::FileRange range_;
  uint8_t* const data_;
};

class InPlaceEnd;

// The descriptors of one table that the stub of one address space works on.
class InPlaceView {
 public:
  // An end came or left: instances of epoll in the view must look at what they mirror. With in_place_mutex() held, as the rest.
  virtual void changed() = 0;
  uint32_t waiting_word() const { return waiting_word_; }
  uint64_t number() const { return number_; }  // of this view and no later one
  const void* table() const { return table_; }  // OpContext::lock_owner() of its tasks
  // The file stays while the end is in the view.
  virtual void for_each(base::FunctionRef<void(int32_t fd, FileDescription& file, InPlaceEnd& end)> f) = 0;
  virtual void show(int32_t fd, uint64_t word) = 0;  // what the stub knows of the descriptor

 protected:
  InPlaceView(uint32_t waiting_word, const void* table);
  ~InPlaceView() = default;

 private:
  const uint32_t waiting_word_;
  const void* const table_;
  const uint64_t number_;
};

class InPlaceEnd {
 public:
  // An epoll instance, otherwise something that is read and written.
  virtual bool is_poll() const { return false; }
  virtual InPlaceMemory& memory() const = 0;
  virtual void kick_locked() {}          // a stub wrote, or read what somebody waits for
  virtual void view_changed_locked() {}  // of an epoll instance
  // What epoll asks before it asks the file: a number that changes with each edge (at input alone or at output too), and whether there
  // is nothing to tell but that it can be written.
  struct Look {
    uint64_t edges = 0;
    bool is_quiet = false;
  };
  virtual Look look(bool output_too) { return (void)output_too, Look{}; }
  virtual bool is_retired() const { return false; }  // the sentry's alone, for good
  // What the stub is to know of the descriptor, without the block; 0: nothing.
  virtual uint64_t word_locked() const = 0;
  // A process that was not there before comes to see the memory: what was read and written earlier must not be in it any more.
  // False: not now, or never.
  virtual bool clean_locked() { return true; }
  // The sentry began to read or write before the end came into its view: it holds none of the locks.
  virtual bool is_busy() const { return false; }
  // The end came into a view or left it.
  virtual void moved_locked() {}
  // Every change that a stub makes must be told: somebody may wait of whom the waiting word says nothing.
  virtual void want_kicks_locked(bool on) { (void)on; }

  // Whether what stubs wrote is the word of this context's process.
  bool is_of(const void* table) const { return table_.load(std::memory_order_seq_cst) == table; }
  InPlaceView* view() const { return view_.load(std::memory_order_seq_cst); }
  // Its descriptor, while it is in a view.
  int32_t fd() const { return fd_; }
  void show_locked() {
    InPlaceView* v = view();
    const uint64_t word = v ? word_locked() : 0;
    if (v) v->show(fd_, word == 0 ? 0 : word | uint64_t{block_} << 8);
  }
  // By the view: whether the end may come in, asked before the memory is mapped.
  bool admit_locked(const InPlaceView& view);
  // `locks` stay while a call may still be under way.
  void enter_locked(InPlaceView& view, FileDescription& file, int32_t fd, uint32_t block, in_place::DescriptorLocks* locks);
  void leave_locked();
  void forget_locks_locked();

 protected:
  ~InPlaceEnd() = default;
  FileDescription* file_ = nullptr;  // while it is in a view
  int32_t fd_ = -1;
  in_place::DescriptorLocks* locks_ = nullptr;

 private:
  std::atomic<InPlaceView*> view_{nullptr};
  std::atomic<const void*> table_{nullptr};  // of the view that it is in or may come back to
  uint64_t last_view_ = 0;                   // number of that one
  uint32_t block_ = 0;
};

}  // namespace sentry::vfs
