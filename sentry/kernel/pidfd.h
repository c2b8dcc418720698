// SPDX-License-Identifier: Apache-2.0
// pidfd_open(2): a descriptor that stands for a process.
#pragma once

#include "sentry/kernel/pid_namespace.h"
#include "sentry/vfs/file_description.h"

namespace sentry::kernel {

class PidFile final : public vfs::FileDescription {
 public:
  static inline const char kTag = 0;
  static constexpr const void* kKind = &kTag;
  PidFile(vfs::Path path, uint32_t flags, base::RefPtr<PidNumber> number)
      : FileDescription(std::move(path), flags), number_(std::move(number)) {}
  const base::RefPtr<PidNumber>& number() const { return number_; }
  base::RefPtr<ThreadGroup> group() const;  // null once it has been reaped

  const void* kind() const override { return kKind; }
  vfs::PollMask readiness(vfs::PollMask interest) override;
  vfs::WaitQueue* wait_queue() override { return &number_->exited; }
  std::string fdinfo() const override;

 private:
  const base::RefPtr<PidNumber> number_;
};

base::RefPtr<PidFile> make_pidfd(vfs::OpContext& ctx, base::RefPtr<PidNumber> number, uint32_t flags);

}  // namespace sentry::kernel
