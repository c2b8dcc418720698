// SPDX-License-Identifier: Apache-2.0
// Process numbers: pid_namespaces(7). A PidNumber is one identity with a number in each namespace from the root to
// its own; a task, a thread group, a process group and a session can hang on it, and the number is free again when
// none does. All of it, and the family tree, is guarded by the one lock of the TaskSet.
#pragma once

#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/creds/credentials.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::kernel {

class Container;
class PidNamespace;
class ProcessGroup;
class Session;
class Task;
class ThreadGroup;
struct ResourceUse;

struct TaskSet {
  base::Mutex mu{base::LockRank::kTaskSet};
  std::unordered_map<uint32_t, uint32_t> tasks_of_user GUARDED_BY(mu);  // by real KUid, for RLIMIT_NPROC
  uint32_t tasks GUARDED_BY(mu) = 0;
  std::atomic<uint64_t> forks{0};
};

class PidNumber final : public base::RefCounted {
 public:
  ~PidNumber() override;
  // A number in `ns` and each of its ancestors. `wanted` (clone3 set_tid): numbers from `ns` outwards. EAGAIN when
  // they are used up, EEXIST, EINVAL; ENOMEM when the namespace's init is gone.
  static base::Result<base::RefPtr<PidNumber>> allocate_locked(PidNamespace& ns, std::span<const int32_t> wanted = {});
  int32_t in(const PidNamespace& ns) const;  // 0 when not visible there
  int32_t own() const { return levels_.back().number; }
  PidNamespace& ns() const { return *levels_.back().ns; }
  // Takes the number out of the tables when nothing hangs on it any more.
  void release_if_unused_locked();

  Task* task = nullptr;            // these four: TaskSet::mu
  ThreadGroup* group = nullptr;
  ProcessGroup* process_group = nullptr;
  Session* session = nullptr;
  vfs::WaitQueue exited;           // pidfds poll it

 private:
  template <typename T, typename... A>
  friend base::RefPtr<T> base::make_ref(A&&...);
  PidNumber() = default;
  struct Level {
    base::RefPtr<PidNamespace> ns;
    int32_t number = 0;
  };
  std::vector<Level> levels_;  // immutable; [0] is the root namespace
};

class PidNamespace final : public base::RefCounted {
 public:
  static constexpr int32_t kMaxPid = 32768;  // pid_max of a small Linux machine; also bounds the tasks
  static constexpr int kMaxLevel = 32;

  PidNamespace(TaskSet& set, base::RefPtr<PidNamespace> parent, base::RefPtr<creds::UserNamespace> owner);
  ~PidNamespace() override;

  TaskSet& set() const { return set_; }
  PidNamespace* parent() const { return parent_.get(); }
  int level() const { return level_; }
  creds::UserNamespace& user_ns() const { return *user_ns_; }
  uint64_t inode() const { return inode_; }
  bool is_ancestor_of(const PidNamespace& other) const;  // or the same

  // Null when there is none. A zombie that has not been reaped is found.
  base::RefPtr<Task> find_task(abi::Tid tid) const;
  base::RefPtr<ThreadGroup> find_group(abi::Pid pid) const;  // `pid` must be a thread group id
  base::RefPtr<PidNumber> find(int32_t number) const;
  PidNumber* find_locked(int32_t number) const REQUIRES(set_.mu);
  // For the analysis: all namespaces of a kernel have one set, which the caller locked by another name.
  void set_mu_is_held() const ASSERT_CAPABILITY(set_.mu) { set_.mu.assert_held(); }
  // All processes that are visible here, by ascending pid (zombies included).
  std::vector<base::RefPtr<ThreadGroup>> groups() const;
  // In one moment: a process that is reaped meanwhile counts once.
  ResourceUse use_of(const Container& container) const;
  int32_t last_pid() const;

  ThreadGroup* init = nullptr;  // TaskSet::mu
  bool closed = false;          // TaskSet::mu: init has died, no new tasks

 private:
  friend class PidNumber;
  TaskSet& set_;
  const base::RefPtr<PidNamespace> parent_;
  const int level_;
  const base::RefPtr<creds::UserNamespace> user_ns_;
  const uint64_t inode_;
  std::map<int32_t, base::RefPtr<PidNumber>> numbers_ GUARDED_BY(set_.mu);
  int32_t last_ GUARDED_BY(set_.mu) = 0;
};

}  // namespace sentry::kernel
