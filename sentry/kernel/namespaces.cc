// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/namespaces.h"

#include <atomic>

namespace sentry::kernel {

uint64_t allocate_namespace_inode() {
  // Linux's own start here (PROC_DYNAMIC_FIRST is 0xF0000000); programs only compare them.
  static std::atomic<uint64_t> next{0xF0000010};
  return next.fetch_add(1, std::memory_order_relaxed);
}

base::RefPtr<Namespaces> make_namespaces(UtsNames names, base::RefPtr<vfs::MountNamespace> mounts,
                                         base::RefPtr<PidNamespace> pids, base::RefPtr<creds::UserNamespace> owner) {
  auto ns = base::make_ref<Namespaces>();
  ns->uts = base::make_ref<UtsNamespace>(std::move(names), owner);
  ns->ipc = base::make_ref<IpcNamespace>(owner);
  ns->mounts = std::move(mounts);
  ns->pid_for_children = std::move(pids);
  ns->net = base::make_ref<PlainNamespace>(owner);
  ns->cgroup = base::make_ref<PlainNamespace>(owner);
  ns->time = base::make_ref<PlainNamespace>(owner);
  return ns;
}

}  // namespace sentry::kernel
