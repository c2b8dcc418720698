// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/fs_context.h"

namespace sentry::kernel {

base::RefPtr<FsContext> FsContext::fork() const {
  base::MutexLock lock(mu_);
  return base::make_ref<FsContext>(root_, cwd_, umask_.load(std::memory_order_relaxed));
}
vfs::Path FsContext::root() const {
  base::MutexLock lock(mu_);
  return root_;
}
vfs::Path FsContext::cwd() const {
  base::MutexLock lock(mu_);
  return cwd_;
}
// The old path is dropped outside the lock.
void FsContext::set_root(vfs::Path p) {
  base::MutexLock lock(mu_);
  std::swap(root_, p);
}
void FsContext::set_cwd(vfs::Path p) {
  base::MutexLock lock(mu_);
  std::swap(cwd_, p);
}

}  // namespace sentry::kernel
