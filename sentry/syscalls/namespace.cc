// SPDX-License-Identifier: Apache-2.0
// unshare(2), setns(2).
#include "sentry/kernel/clone.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/task_private.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using kernel::copy_namespaces;
using kernel::enter_new_user_namespace;
using kernel::FsContext;
using kernel::kNamespaceFlags;
using kernel::Namespaces;
using kernel::PidFile;
using kernel::PidNamespace;
using kernel::ThreadGroup;
using enum kernel::CloneFlag;

namespace {

constexpr uint64_t kUnsharable = kNamespaceFlags | kCLONE_FILES | kCLONE_FS | kCLONE_SYSVSEM | kCLONE_THREAD | kCLONE_SIGHAND | kCLONE_VM;

}  // namespace

Result<void> sys_unshare(Task& task, uint64_t flags) {
  if (flags & ~kUnsharable) return err(kEINVAL);
  if (flags & kCLONE_NEWUSER) flags |= kCLONE_THREAD | kCLONE_FS;
  if (flags & kCLONE_NEWNS) flags |= kCLONE_FS;
  if ((flags & (kCLONE_THREAD | kCLONE_SIGHAND | kCLONE_VM)) && task.thread_group().thread_count() > 1) return err(kEINVAL);
  if (flags & kCLONE_NEWTIME) return err(kEINVAL);

  creds::CredPtr creds = task.credentials();
  if (flags & kCLONE_NEWUSER) creds = TRY(enter_new_user_namespace(*creds));
  RefPtr<FsContext> fs;
  if ((flags & kCLONE_FS) && task.fs().ref_count_for_debug() > 1) fs = task.fs().fork();
  RefPtr<Namespaces> namespaces;
  if (flags & kNamespaceFlags & ~kCLONE_NEWUSER)
    namespaces = TRY(copy_namespaces(task, *creds, flags, fs ? fs.get() : &task.fs()));
  // Nothing fails from here on.
  if (fs) task.exchange_fs(std::move(fs));
  if (namespaces) task.exchange_namespaces(std::move(namespaces));
  if (flags & kCLONE_FILES) task.unshare_fds();
  if (flags & kCLONE_NEWUSER) task.set_credentials(std::move(creds));
  return {};
}

Result<void> sys_setns(Task& task, Fd fd, uint64_t flags) {
  RefPtr<vfs::FileDescription> file = TRY(task.get_file(fd));
  auto* pidfd = file->as<PidFile>();
  if (!pidfd) return err(kEINVAL);
  if (flags == 0 || (flags & ~kNamespaceFlags)) return err(kEINVAL);
  if (flags & (kCLONE_NEWUSER | kCLONE_NEWTIME)) return err(kEINVAL);
  RefPtr<ThreadGroup> group = pidfd->group();
  RefPtr<Task> leader = group ? group->leader() : nullptr;
  RefPtr<Namespaces> theirs = leader ? leader->namespaces() : nullptr;
  if (!theirs) return err(kESRCH);
  if (!task.creds().has_cap(creds::Cap::kSYS_ADMIN)) return err(kEPERM);
  if ((flags & kCLONE_NEWNS) && task.fs().ref_count_for_debug() > 1) return err(kEINVAL);
  auto next = base::make_ref<Namespaces>(*task.namespaces());
  if (flags & kCLONE_NEWUTS) next->uts = theirs->uts;
  if (flags & kCLONE_NEWIPC) next->ipc = theirs->ipc;
  if (flags & kCLONE_NEWNET) next->net = theirs->net;
  if (flags & kCLONE_NEWCGROUP) next->cgroup = theirs->cgroup;
  if (flags & kCLONE_NEWPID) {
    // Only downwards: a child may not appear in a namespace above its parent's.
    if (!task.pid_namespace().is_ancestor_of(group->pid_namespace())) return err(kEINVAL);
    next->pid_for_children = RefPtr<PidNamespace>(&group->pid_namespace());
  }
  if (flags & kCLONE_NEWNS) {
    next->mounts = theirs->mounts;
    task.fs().set_root(next->mounts->root());
    task.fs().set_cwd(next->mounts->root());
  }
  task.exchange_namespaces(std::move(next));
  return {};
}

SYSCALL_FAMILY(namespaces) = {
    ROW(unshare, kPartial, "no time namespaces; a network namespace is empty"),
    ROW(setns, kPartial, "pidfds only; not user and time namespaces"),
};
SYSCALL_FAMILY_END(namespaces);

}  // namespace sentry::syscalls
