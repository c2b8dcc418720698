// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/fs_context.h"

namespace sentry::kernel {

namespace {
std::atomic<uint64_t> last_number{0};
}

FsContext::FsContext(vfs::Path root, vfs::Path cwd, uint32_t umask)
    : root_(std::move(root)), cwd_(std::move(cwd)), umask_(umask), number_(last_number.fetch_add(1, std::memory_order_relaxed) + 1) {}

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
  vfs::ChangeScope change(vfs::change_word(number_));
  base::MutexLock lock(mu_);
  std::swap(root_, p);
}
void FsContext::set_cwd(vfs::Path p) {
  vfs::ChangeScope change(vfs::change_word(number_));
  base::MutexLock lock(mu_);
  std::swap(cwd_, p);
}

}  // namespace sentry::kernel
