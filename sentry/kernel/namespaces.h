// SPDX-License-Identifier: Apache-2.0
// The namespaces of a task other than its user namespace (which is in its credentials): namespaces(7).
#pragma once

#include <string>

#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/creds/credentials.h"
#include "sentry/kernel/pid_namespace.h"
#include "sentry/vfs/mount.h"

namespace sentry::kernel {

// A fresh number for /proc/PID/ns/*.
uint64_t allocate_namespace_inode();

struct UtsNames {
  std::string hostname = "localhost";
  std::string domainname = "(none)";
};

class UtsNamespace final : public base::RefCounted {
 public:
  UtsNamespace(UtsNames names, base::RefPtr<creds::UserNamespace> owner)
      : names(base::LockRank::kLeaf, std::move(names)), user_ns(std::move(owner)) {}
  base::Guarded<UtsNames> names;
  const base::RefPtr<creds::UserNamespace> user_ns;
  const uint64_t inode = allocate_namespace_inode();
};

// SysV objects and POSIX message queues; each kind is made by its family on first use (kernel/sysv_ipc.h, vfs for shm).
class IpcNamespace final : public base::RefCounted {
 public:
  explicit IpcNamespace(base::RefPtr<creds::UserNamespace> owner) : user_ns(std::move(owner)) {}
  struct Objects {
    base::RefPtr<base::RefCounted> semaphores, messages, shared_memory, message_queues;
  };
  base::Guarded<Objects> objects{base::LockRank::kLeaf};
  const base::RefPtr<creds::UserNamespace> user_ns;
  const uint64_t inode = allocate_namespace_inode();
};

// Namespaces that have no content of their own yet.
class PlainNamespace final : public base::RefCounted {
 public:
  explicit PlainNamespace(base::RefPtr<creds::UserNamespace> owner) : user_ns(std::move(owner)) {}
  const base::RefPtr<creds::UserNamespace> user_ns;
  const uint64_t inode = allocate_namespace_inode();
};

// What a task is in. Immutable once published (like Linux's nsproxy): a change makes a new one.
struct Namespaces final : public base::RefCounted {
  Namespaces() = default;
  Namespaces(const Namespaces& o)
      : uts(o.uts), ipc(o.ipc), mounts(o.mounts), pid_for_children(o.pid_for_children), net(o.net), cgroup(o.cgroup), time(o.time) {}
  base::RefPtr<UtsNamespace> uts;
  base::RefPtr<IpcNamespace> ipc;
  base::RefPtr<vfs::MountNamespace> mounts;
  base::RefPtr<PidNamespace> pid_for_children;
  base::RefPtr<PlainNamespace> net, cgroup, time;
};

// A complete set for a new container.
base::RefPtr<Namespaces> make_namespaces(UtsNames names, base::RefPtr<vfs::MountNamespace> mounts,
                                         base::RefPtr<PidNamespace> pids, base::RefPtr<creds::UserNamespace> owner);

}  // namespace sentry::kernel
