// SPDX-License-Identifier: Apache-2.0
// OpContext of kernel fibers that run for no task: mounting at boot, loading a container's first program.
#pragma once

#include "sentry/kernel/scheduler.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/op_context.h"

namespace sentry::kernel {

class KernelContext final : public vfs::OpContext, private vfs::OpContext::Waker {
 public:
  KernelContext(Scheduler& scheduler, creds::CredPtr creds, vfs::Path root, vfs::Path cwd,
                base::RefPtr<vfs::MountNamespace> mounts)
      : scheduler_(scheduler), fiber_(Scheduler::current()), creds_(std::move(creds)), root_(std::move(root)),
        cwd_(std::move(cwd)), mounts_(std::move(mounts)) {}
  void set_cwd(vfs::Path cwd) { cwd_ = std::move(cwd); }

  const creds::Credentials& creds() const override { return *creds_; }
  memory::UserMemory& user_memory() override { return no_memory_; }
  const creds::Limit rlimit(creds::Resource) const override { return {}; }
  uint32_t umask() const override { return 022; }
  vfs::MountNamespace& mount_namespace() override { return *mounts_; }
  vfs::Path root() const override { return root_; }
  vfs::Path cwd() const override { return cwd_; }
  int64_t now_realtime() const override { return realtime_now_ns(); }
  int64_t now_monotonic() const override { return monotonic_now_ns(); }
  vfs::OpContext::Waker& waker() override { return *this; }
  vfs::WakeReason block(vfs::Deadline deadline) override {
    return scheduler_.park(deadline) ? vfs::WakeReason::kWoken : vfs::WakeReason::kTimedOut;
  }
  bool interrupted() const override { return false; }
  void block_uninterruptible() override { scheduler_.park(); }
  void raise(abi::Signo) override {}

 private:
  void wake() override { fiber_->wake(); }

  // There is no guest behind it: every access faults.
  class NoMemory final : public memory::UserMemory {
   public:
    base::Result<void> copy_in(void*, abi::Addr, size_t n) override { return all(n); }
    base::Result<void> copy_out(abi::Addr, const void*, size_t n) override { return all(n); }
    base::Result<size_t> copy_in_partial(void*, abi::Addr, size_t) override { return fault(); }
    base::Result<size_t> copy_out_partial(abi::Addr, const void*, size_t) override { return fault(); }
    base::Result<size_t> zero_out(abi::Addr, size_t) override { return fault(); }
    base::Result<std::string> read_cstring(abi::Addr, size_t) override { return fault(); }
    base::Result<size_t> with_segments(abi::Addr, size_t, memory::Access,
                                       base::FunctionRef<base::Result<size_t>(std::span<const memory::HostSegment>)>) override {
      return fault();
    }
    base::Result<uint32_t> load_u32(abi::Addr) override { return fault(); }
    base::Result<bool> cas_u32(abi::Addr, uint32_t&, uint32_t) override { return fault(); }

   private:
    static base::Err fault() { return base::err(abi::Errno::kEFAULT); }
    static base::Result<void> all(size_t n) {
      if (n == 0) return {};
      return fault();
    }
  };

  Scheduler& scheduler_;
  Fiber* const fiber_;
  const creds::CredPtr creds_;
  const vfs::Path root_;
  vfs::Path cwd_;
  const base::RefPtr<vfs::MountNamespace> mounts_;
  NoMemory no_memory_;
};

}  // namespace sentry::kernel
