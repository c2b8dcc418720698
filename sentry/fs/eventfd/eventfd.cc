// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/eventfd/eventfd.h"

#include <fmt/format.h>

namespace sentry::fs::eventfd {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr uint64_t kMaxCount = ~uint64_t{0} - 1;

class EventFile final : public vfs::FileDescription {
 public:
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  const void* kind() const override { return kKind; }
  EventFile(vfs::Path path, uint32_t flags, uint64_t initial, Semaphore semaphore)
      : FileDescription(std::move(path), flags), semaphore_(semaphore == Semaphore::kYes), count_(initial) {}

  Result<size_t> read(vfs::OpContext&, vfs::IoBuffer& dst) override {
    if (dst.remaining() < sizeof(uint64_t)) return err(kEINVAL);
    uint64_t value;
    {
      base::MutexLock lock(mu_);
      if (count_ == 0) return err(kEAGAIN);
      value = semaphore_ ? 1 : count_;
      count_ -= value;
    }
    queue_.notify(vfs::kPollOut | vfs::kPollWrNorm);
    const size_t n = TRY(dst.put(&value, sizeof value));
    if (n < sizeof value) return err(kEFAULT);
    return n;
  }

  Result<size_t> write(vfs::OpContext&, vfs::IoBuffer& src) override {
    if (src.remaining() < sizeof(uint64_t)) return err(kEINVAL);
    uint64_t value;
    if (TRY(src.peek(&value, sizeof value)) < sizeof value) return err(kEFAULT);
    if (value == ~uint64_t{0}) return err(kEINVAL);
    {
      base::MutexLock lock(mu_);
      if (value > kMaxCount - count_) return err(kEAGAIN);
      count_ += value;
    }
    queue_.notify(vfs::kPollIn | vfs::kPollRdNorm);
    return sizeof value;
  }

  void signal() {
    {
      base::MutexLock lock(mu_);
      if (count_ < kMaxCount) ++count_;
    }
    queue_.notify(vfs::kPollIn | vfs::kPollRdNorm);
  }

  vfs::PollMask readiness(vfs::PollMask) override {
    base::MutexLock lock(mu_);
    vfs::PollMask mask = 0;
    if (count_ > 0) mask |= vfs::kPollIn | vfs::kPollRdNorm;
    if (count_ < kMaxCount) mask |= vfs::kPollOut | vfs::kPollWrNorm;
    return mask;
  }
  vfs::WaitQueue* wait_queue() override { return &queue_; }
  std::string fdinfo() const override {
    base::MutexLock lock(mu_);
    return fmt::format("eventfd-count: {:16x}\n", count_);
  }

 private:
  const bool semaphore_;
  mutable base::Mutex mu_{base::LockRank::kPipe};
  uint64_t count_ GUARDED_BY(mu_);
  vfs::WaitQueue queue_;
};

}  // namespace

bool is_eventfd(vfs::FileDescription& file) { return file.as<EventFile>() != nullptr; }

void signal_eventfd(vfs::FileDescription& file) { static_cast<EventFile&>(file).signal(); }

RefPtr<vfs::FileDescription> make_eventfd(vfs::OpContext& ctx, uint32_t initial, Semaphore semaphore, uint32_t flags) {
  return base::make_ref<EventFile>(vfs::make_anonymous_path("anon_inode:[eventfd]", 0600, ctx.creds()),
                                   vfs::kO_RDWR | (flags & vfs::kO_NONBLOCK), initial, semaphore);
}

}  // namespace sentry::fs::eventfd
