// SPDX-License-Identifier: Apache-2.0
// clone(2), clone3(2), fork(2), vfork(2); unshare(2) shares the namespace part.
#pragma once

#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"

namespace sentry::kernel {

enum CloneFlag : uint64_t {
  kCSIGNAL = 0xff, kCLONE_NEWTIME = 0x80, kCLONE_VM = 0x100, kCLONE_FS = 0x200, kCLONE_FILES = 0x400,
  kCLONE_SIGHAND = 0x800, kCLONE_PIDFD = 0x1000, kCLONE_PTRACE = 0x2000, kCLONE_VFORK = 0x4000, kCLONE_PARENT = 0x8000,
  kCLONE_THREAD = 0x10000, kCLONE_NEWNS = 0x20000, kCLONE_SYSVSEM = 0x40000, kCLONE_SETTLS = 0x80000,
  kCLONE_PARENT_SETTID = 0x100000, kCLONE_CHILD_CLEARTID = 0x200000, kCLONE_DETACHED = 0x400000,
  kCLONE_UNTRACED = 0x800000, kCLONE_CHILD_SETTID = 0x1000000, kCLONE_NEWCGROUP = 0x2000000, kCLONE_NEWUTS = 0x4000000,
  kCLONE_NEWIPC = 0x8000000, kCLONE_NEWUSER = 0x10000000, kCLONE_NEWPID = 0x20000000, kCLONE_NEWNET = 0x40000000,
  kCLONE_IO = 0x80000000, kCLONE_CLEAR_SIGHAND = 0x100000000, kCLONE_INTO_CGROUP = 0x200000000,
};
inline constexpr uint64_t kNamespaceFlags = kCLONE_NEWTIME | kCLONE_NEWNS | kCLONE_NEWCGROUP | kCLONE_NEWUTS | kCLONE_NEWIPC |
                                            kCLONE_NEWUSER | kCLONE_NEWPID | kCLONE_NEWNET;

struct CloneArgs {
  uint64_t flags = 0;  // without the exit signal
  int32_t exit_signal = 0;
  abi::Addr pidfd, child_tid, parent_tid, stack_top, tls;
  bool has_stack = false;
  std::vector<int32_t> set_tid;
};

// The child's thread id as the caller sees it.
base::Result<abi::Tid> clone_task(Task& task, const CloneArgs& args);

// New namespaces for `flags`; EPERM without CAP_SYS_ADMIN in `creds`' namespace. `fs` paths move into a new mount namespace.
base::Result<base::RefPtr<Namespaces>> copy_namespaces(Task& task, const creds::Credentials& creds, uint64_t flags, FsContext* fs);
// CLONE_NEWUSER: full capabilities in a new user namespace.
base::Result<base::RefPtr<creds::Credentials>> enter_new_user_namespace(const creds::Credentials& old);

}  // namespace sentry::kernel
