// SPDX-License-Identifier: Apache-2.0
// Working directory, root and umask of a process; shared with CLONE_FS.
#pragma once

#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/vfs/mount.h"

namespace sentry::kernel {

class FsContext final : public base::RefCounted {
 public:
  FsContext(vfs::Path root, vfs::Path cwd, uint32_t umask);
  base::RefPtr<FsContext> fork() const;
  vfs::Path root() const;
  vfs::Path cwd() const;
  void set_root(vfs::Path);
  void set_cwd(vfs::Path);
  // Of this context and no other: what its paths depend on is change_word() of it (vfs/changes.h).
  uint64_t number() const { return number_; }
  uint32_t umask() const { return umask_.load(std::memory_order_relaxed); }
  uint32_t exchange_umask(uint32_t m) { return umask_.exchange(m & 0777); }

 private:
  mutable base::Mutex mu_{base::LockRank::kFsContext};
  vfs::Path root_ GUARDED_BY(mu_), cwd_ GUARDED_BY(mu_);
  std::atomic<uint32_t> umask_;
  const uint64_t number_;
};

}  // namespace sentry::kernel
