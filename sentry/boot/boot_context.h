// SPDX-License-Identifier: Apache-2.0
// BootContext: a root OpContext for work of the sentry itself (mounting at container start) that delegates waiting to
// the kernel fiber it runs on.
#pragma once

#include "sentry/kernel/kernel.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/op_context.h"

namespace sentry::boot {

class BootContext final : public vfs::OpContext {
 public:
  BootContext(vfs::OpContext& fiber, creds::CredPtr creds, vfs::MountNamespace& mounts)
      : fiber_(fiber), creds_(std::move(creds)), mounts_(mounts) {}
  const creds::Credentials& creds() const override { return *creds_; }
  memory::UserMemory& user_memory() override { return fiber_.user_memory(); }
  const creds::Limit rlimit(creds::Resource) const override { return {}; }
  uint32_t umask() const override { return 0; }
  vfs::MountNamespace& mount_namespace() override { return mounts_; }
  vfs::Path root() const override { return mounts_.root(); }
  vfs::Path cwd() const override { return mounts_.root(); }
  int64_t now_realtime() const override { return kernel::realtime_now_ns(); }
  int64_t now_monotonic() const override { return kernel::monotonic_now_ns(); }
  Waker& waker() override { return fiber_.waker(); }
  vfs::WakeReason block(vfs::Deadline deadline) override { return fiber_.block(deadline); }
  bool interrupted() const override { return false; }
  void block_uninterruptible() override { fiber_.block_uninterruptible(); }
  void raise(abi::Signo) override {}

 private:
  vfs::OpContext& fiber_;
  const creds::CredPtr creds_;
  vfs::MountNamespace& mounts_;
};

}  // namespace sentry::boot
