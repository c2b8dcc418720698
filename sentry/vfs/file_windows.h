// SPDX-License-Identifier: Apache-2.0
// Windows: pages of a file where a process's stub reads them itself (platform/interface/in_place_io.h, docs/decisions/0043). FilePlaces has them; this is
// what is in one, and when it is worth while.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "base/ref/ref.h"
#include "platform/interface/in_place_io.h"
#include "platform/interface/platform.h"
#include "sentry/memory/mappable.h"
#include "sentry/memory/memory_file.h"

namespace sentry::vfs {

namespace in_place = platform::in_place;

// How a description is read, or written, as far as calls come to the sentry. A guess: threads race on it harmlessly.
class WindowHabit {
 public:
  bool has_window() const { return has_window_.load(std::memory_order_relaxed); }
  void set_window(bool has) { has_window_.store(has, std::memory_order_relaxed); }
  // How far the next one may reach: more each time that the last one was used well.
  uint32_t level() const { return level_.load(std::memory_order_relaxed); }
  void was_worth_it() {
    needed_.store(kFirstNeeded, std::memory_order_relaxed);
    level_.store(std::min(level() + 1, kMostLevel), std::memory_order_relaxed);
  }
  // There is a window, and a call came to the sentry all the same: whether to tell its stub once more what holds. Not so often when that
  // was of no use the last times.
  bool may_tell() {
    if (!has_window()) return false;
    const uint32_t skip = skip_.load(std::memory_order_relaxed);
    if (skip != 0) skip_.store(skip - 1, std::memory_order_relaxed);
    return skip == 0;
  }
  enum class Told : uint8_t { kUsed, kUnused };
  void note_told(Told last) {
    const uint32_t unused = last == Told::kUsed ? 0 : std::min(unused_.load(std::memory_order_relaxed) + 1, kMostUnused);
    unused_.store(unused, std::memory_order_relaxed);
    skip_.store((1u << unused) - 1, std::memory_order_relaxed);
  }

 protected:
  // A window would have saved a call. True: enough of them by now that one is to be made, or moved there.
  bool count() {
    if (calls_.fetch_add(1, std::memory_order_relaxed) + 1 < needed_.load(std::memory_order_relaxed)) return false;
    calls_.store(0, std::memory_order_relaxed);
    needed_.store(std::min(2 * needed_.load(std::memory_order_relaxed), kMostNeeded), std::memory_order_relaxed);
    return true;
  }

 private:
  // A hand-off costs 0.6 us where two CPUs are free and 3 us elsewhere; a window 10 us for each piece and 1 us for each 64 KiB of it that are touched.
  static constexpr uint32_t kFirstNeeded = 16, kMostNeeded = 4096, kMostLevel = 3, kMostUnused = 6;
  std::atomic<uint32_t> calls_{0}, needed_{kFirstNeeded}, level_{0}, unused_{0}, skip_{0};
  std::atomic<bool> has_window_{false};
};

class ReadHabit : public WindowHabit {
 public:
  // `n` bytes at `offset` were read. True: a window is to be made, or moved there.
  bool note(uint64_t offset, uint64_t n) {
    const bool goes_on = next_.exchange(offset + n, std::memory_order_relaxed) == offset;
    // What is read once, in large pieces, costs less than mapping it.
    return n != 0 && !(goes_on && n > kLarge) && count();
  }

 private:
  static constexpr uint64_t kLarge = 16 * 1024;
  std::atomic<uint64_t> next_{0};
};

class WriteHabit : public WindowHabit {
 public:
  // `n` bytes were written, now that a write would set the times to `time` and the size word of the file is at `sizes`. True: as above. What grows the file is the
  // sentry's, and the first write of a tick.
  bool note(uint64_t n, int64_t time, uint64_t sizes) {
    const bool same_time = time_.exchange(time, std::memory_order_relaxed) == time;
    const bool same_size = sizes_.exchange(sizes, std::memory_order_relaxed) == sizes;
    return n - 1 < in_place::kMostWritten && same_time && same_size && count();
  }

 private:
  std::atomic<int64_t> time_{0};
  std::atomic<uint64_t> sizes_{0};
};

// Pages that follow each other in a file, with a reference on each.
class WindowPlan {
 public:
  WindowPlan() = default;
  using Use = platform::AddressSpace::BlockUse;
  // Around `at` in a file of `size` bytes that stands in `pages`, as far as there are pages.
  WindowPlan(memory::MemoryFile& memory, memory::Mappable& pages, uint64_t at, uint64_t size, uint32_t level, Use use);
  WindowPlan(WindowPlan&& other) noexcept : memory_(other.memory_), use_(other.use_), pieces_(std::move(other.pieces_)) { other.pieces_.clear(); }
  WindowPlan& operator=(WindowPlan&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(use_, other.use_);
    std::swap(pieces_, other.pieces_);
    return *this;
  }
  ~WindowPlan();
  bool is_empty() const { return pieces_.empty(); }
  bool writes() const { return use_ == Use::kWrite; }
  uint64_t start() const { return pieces_.front().start; }
  uint64_t length() const { return pieces_.back().start + pieces_.back().range.length - start(); }
  // The pages, which are these, at `at` in the room for windows; what FilePlace::window_ticket is to be.
  uint64_t map(memory::Mappable& pages, platform::AddressSpace& space, uint64_t at) const;

 private:
  memory::MemoryFile* memory_ = nullptr;
  Use use_ = Use::kReadOnly;
  std::vector<memory::Mappable::Placed> pieces_;  // by their place in the file
};

// One that is mapped. in_place_mutex().
struct FileWindow {
  base::RefPtr<memory::Mappable> pages;
  uint64_t removals = 0;  // of the pages, when it was made: it is right as long as that is the same
  uint64_t start = 0, length = 0;  // in the file; length 0: none
  uint64_t at = 0, ticket = 0;     // in the room for windows
  uint64_t made = 0;               // which one of the process's
  bool writes = false;             // counted by Mappable::write_windows
  uint32_t used_first = 0, used_chance = 0;      // how often it was used when it was made, when its place was last wanted
  uint32_t read_before = 0, written_before = 0;  // FilePlace::window_used, window_written when that was last told of
  bool covers(uint64_t from, uint64_t n) const { return from >= start && from - start <= length && n <= length - (from - start); }
};

}  // namespace sentry::vfs
