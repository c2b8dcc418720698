// SPDX-License-Identifier: Apache-2.0
// eventfd(2), timerfd_create(2), signalfd(2).
#pragma once

#include "abi/linux/signal.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/kernel/kernel.h"
#include "sentry/vfs/file_description.h"

namespace sentry::fs::eventfd {

enum class Semaphore : uint8_t { kNo, kYes };
base::RefPtr<vfs::FileDescription> make_eventfd(vfs::OpContext& ctx, uint32_t initial, Semaphore semaphore, uint32_t flags);
bool is_eventfd(vfs::FileDescription& file);
void signal_eventfd(vfs::FileDescription& eventfd);  // eventfd_signal(): adds one, as far as it goes

struct TimerSpec {
  int64_t interval_ns = 0;
  int64_t value_ns = 0;  // 0: disarmed
};

class TimerFile final : public vfs::FileDescription {
 public:
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  enum class Clock : uint8_t { kMonotonic, kRealtime };
  TimerFile(vfs::Path path, uint32_t flags, kernel::Kernel& kernel, Clock clock);
  ~TimerFile() override;
  // timerfd_settime(2): the old setting. `absolute`: value is a time of the clock.
  TimerSpec set(TimerSpec next, bool absolute);
  TimerSpec get() const;

  const void* kind() const override { return kKind; }
  base::Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst) override;
  vfs::PollMask readiness(vfs::PollMask interest) override;
  vfs::WaitQueue* wait_queue() override;
  std::string fdinfo() const override;

 private:
  struct State;
  const base::RefPtr<State> state_;
};
base::RefPtr<TimerFile> make_timerfd(kernel::Task& task, TimerFile::Clock clock, uint32_t flags);

// signalfd4(2) with fd -1. Reads take signals of the reader, as in Linux; polling looks at the process that made it.
base::RefPtr<vfs::FileDescription> make_signalfd(kernel::Task& task, abi::SigSet mask, uint32_t flags);
// EINVAL when `file` is no signalfd.
base::Result<void> set_signalfd_mask(vfs::FileDescription& file, abi::SigSet mask);

}  // namespace sentry::fs::eventfd
