// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/eventfd/eventfd.h"

#include <fmt/format.h>

#include <atomic>
#include <memory>
#include <type_traits>

namespace sentry::fs::eventfd {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

namespace in_place = platform::in_place;

constexpr uint64_t kMaxCount = in_place::kMostCount;
constexpr vfs::PollMask kReadable = vfs::kPollIn | vfs::kPollRdNorm, kWritable = vfs::kPollOut | vfs::kPollWrNorm;

template <typename T>
T load(const T& field) { return __atomic_load_n(&field, __ATOMIC_SEQ_CST); }
template <typename T>
void store(T& field, std::type_identity_t<T> value) { __atomic_store_n(&field, value, __ATOMIC_SEQ_CST); }

class EventFile final : public vfs::FileDescription {
 public:
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  const void* kind() const override { return kKind; }
  EventFile(vfs::Path path, uint32_t flags, uint64_t initial, Semaphore semaphore)
      : FileDescription(std::move(path), flags), semaphore_(semaphore == Semaphore::kYes) {
    own_.count = initial;
  }

  Result<size_t> read(vfs::OpContext&, vfs::IoBuffer& dst) override {
    note_use();
    if (dst.remaining() < sizeof(uint64_t)) return err(kEINVAL);
    uint64_t value = 0;
    const auto take = [&](uint64_t count, uint64_t& next) {
      value = semaphore_ ? 1 : count;
      next = count - value;
      return count != 0;
    };
    if (!change(&in_place::EventBlock::reads, take)) return err(kEAGAIN);
    queue_.notify(kWritable);
    const size_t n = TRY(dst.put(&value, sizeof value));
    if (n < sizeof value) return err(kEFAULT);
    return n;
  }

  Result<size_t> write(vfs::OpContext&, vfs::IoBuffer& src) override {
    note_use();
    if (src.remaining() < sizeof(uint64_t)) return err(kEINVAL);
    uint64_t value;
    if (TRY(src.peek(&value, sizeof value)) < sizeof value) return err(kEFAULT);
    if (value == ~uint64_t{0}) return err(kEINVAL);
    if (!add(value)) return err(kEAGAIN);
    return sizeof value;
  }

  // False: no room; whoever makes some notifies.
  bool add(uint64_t value) {
    const auto add = [value](uint64_t count, uint64_t& next) {
      next = count + value;
      return count <= kMaxCount && value <= kMaxCount - count;
    };
    bool done = change(&in_place::EventBlock::writes, add);
    if (!done) {
      want_room();
      done = change(&in_place::EventBlock::writes, add);
    }
    if (!done) return false;
    queue_.notify(kReadable);
    return true;
  }

  vfs::PollMask readiness(vfs::PollMask) override {
    uint64_t count = load(block_.load()->count);
    if (count >= kMaxCount) {
      want_room();
      count = load(block_.load()->count);
    }
    return (count > 0 ? kReadable : 0) | (count < kMaxCount ? kWritable : 0);
  }
  vfs::WaitQueue* wait_queue() override { return &queue_; }
  std::string fdinfo() const override { return fmt::format("eventfd-count: {:16x}\n", load(block_.load()->count)); }

  Result<vfs::InPlaceEnd*> prepare_in_place(vfs::OpContext& ctx) override {
    if (end_.load()) return end_.load();
    if (!ctx.memory_file()) return err(kEOPNOTSUPP);
    auto fresh = std::make_unique<End>(*this, TRY(vfs::InPlaceMemory::create(*ctx.memory_file(), in_place::kEventBlockSize)));
    base::MutexLock lock(mu_);
    if (!end_owner_) {
      in_place::EventBlock& block = fresh->memory().event();
      block = *block_.load();
      block.wanted = 1;
      block_.store(&block);
      end_owner_ = std::move(fresh);
      end_.store(end_owner_.get());
    }
    return end_.load();
  }
  vfs::InPlaceEnd* in_place_end() const override { return end_.load(); }

 private:
  class End final : public vfs::InPlaceEnd {
   public:
    End(EventFile& owner, RefPtr<vfs::InPlaceMemory> memory) : owner_(owner), memory_(std::move(memory)) {}
    vfs::InPlaceMemory& memory() const override { return *memory_; }
    uint64_t word_locked() const override {
      return in_place::kKindEvent | (owner_.is_nonblocking() ? in_place::kNonBlocking : 0) |
             (owner_.semaphore_ ? in_place::kSemaphore : 0) | uint64_t{view()->waiting_word()} << 32;
    }
    void moved_locked() override {
      if (!view()) want_kicks_locked(true);
    }
    void want_kicks_locked(bool on) override { store(memory_->event().wanted, on ? 1 : 0); }
    void kick_locked() override { owner_.queue_.notify(kReadable | kWritable); }
    Look look(bool output_too) override {
      const in_place::EventBlock& block = memory_->event();
      return {load(block.writes) + (output_too ? load(block.reads) : 0), load(block.count) == 0};
    }

   private:
    EventFile& owner_;
    const RefPtr<vfs::InPlaceMemory> memory_;
  };

  // Stubs change a shared count at the same time; mu_ keeps it where it is. `number` counts the changes. False: `next` refused.
  template <typename F>
  bool change(uint64_t in_place::EventBlock::* number, F&& next) {
    base::MutexLock lock(mu_);
    in_place::EventBlock& block = *block_.load();
    uint64_t count = load(block.count), changed;
    do {
      if (!next(count, changed)) return false;
    } while (!__atomic_compare_exchange_n(&block.count, &count, changed, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    __atomic_fetch_add(&(block.*number), 1, __ATOMIC_SEQ_CST);
    return true;
  }
  // Before one looks for the last time whether there is room.
  void want_room() {
    base::MutexLock lock(mu_);
    store(block_.load()->room_wanted, 1);
  }

  const bool semaphore_;
  mutable base::Mutex mu_{base::LockRank::kPipe};
  in_place::EventBlock own_ = {};                     // until it is shared
  std::atomic<in_place::EventBlock*> block_{&own_};   // hostile once it is shared; changes under mu_
  std::unique_ptr<End> end_owner_ GUARDED_BY(mu_);    // set once
  std::atomic<End*> end_{nullptr};
  vfs::WaitQueue queue_;
};

}  // namespace

bool is_eventfd(vfs::FileDescription& file) { return file.as<EventFile>() != nullptr; }

void signal_eventfd(vfs::FileDescription& file) { (void)static_cast<EventFile&>(file).add(1); }

RefPtr<vfs::FileDescription> make_eventfd(vfs::OpContext& ctx, uint32_t initial, Semaphore semaphore, uint32_t flags) {
  return base::make_ref<EventFile>(vfs::make_anonymous_path("anon_inode:[eventfd]", 0600, ctx.creds()),
                                   vfs::kO_RDWR | (flags & vfs::kO_NONBLOCK), initial, semaphore);
}

}  // namespace sentry::fs::eventfd
