// SPDX-License-Identifier: Apache-2.0
// The file system of an IPC namespace's queues.
#pragma once

#include <map>

#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/kernel/kernel.h"

namespace sentry::fs {

// Gives back what a queue counted of its maker's RLIMIT_MSGQUEUE.
void release_mqueue_charge(abi::KUid payer, uint64_t bytes);

class MqueueFs final : public vfs::FileSystem {
 public:
  std::string_view type() const override { return "mqueue"; }
  base::RefPtr<vfs::Inode> root() override;
  abi::DeviceId device() const override { return device_; }
  base::Result<vfs::StatFs> statfs(vfs::OpContext&) override;
  // Every mount has its own cache of names.
  bool revalidates() const override { return true; }

  base::RefPtr<MessageQueue> find(std::string_view name);
  // Null `size`: the defaults. EEXIST; ENOSPC, EMFILE, EINVAL.
  base::Result<base::RefPtr<MessageQueue>> create(vfs::OpContext& ctx, std::string_view name, const MqSize* size,
                                                  const vfs::CreateArgs& args);
  bool remove(std::string_view name, const MessageQueue& queue);
  std::vector<std::pair<std::string, uint64_t>> list();

  MqueueLimits limits;
  // Of the root directory.
  const int64_t made_ns = kernel::realtime_now_ns();
  std::atomic<uint32_t> root_mode{abi::kS_IFDIR | 01777}, root_uid{0}, root_gid{0};

 private:
  const abi::DeviceId device_ = vfs::allocate_device();
  std::atomic<uint64_t> next_number_{2};
  base::Mutex mu_{base::LockRank::kPipe};
  std::map<std::string, base::RefPtr<MessageQueue>, std::less<>> queues_ GUARDED_BY(mu_);
};

}  // namespace sentry::fs
