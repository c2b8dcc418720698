// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/pidfd.h"

#include "sentry/kernel/thread_group.h"

namespace sentry::kernel {

base::RefPtr<ThreadGroup> PidFile::group() const {
  base::MutexLock lock(number_->ns().set().mu);
  return base::RefPtr<ThreadGroup>(number_->group);
}

vfs::PollMask PidFile::readiness(vfs::PollMask) {
  const base::RefPtr<ThreadGroup> g = group();
  return !g || g->is_zombie() ? vfs::kPollIn | vfs::kPollRdNorm : 0;
}

std::string PidFile::fdinfo() const {
  const base::RefPtr<ThreadGroup> g = group();
  const std::string own = g ? std::to_string(number_->own()) : "-1";
  return "Pid:\t" + own + "\nNSpid:\t" + own + "\n";
}

base::RefPtr<PidFile> make_pidfd(vfs::OpContext& ctx, base::RefPtr<PidNumber> number, uint32_t flags) {
  return base::make_ref<PidFile>(vfs::make_anonymous_path("anon_inode:[pidfd]", 0600, ctx.creds()),
                                 vfs::kO_RDWR | (flags & vfs::kO_NONBLOCK), std::move(number));
}

}  // namespace sentry::kernel
