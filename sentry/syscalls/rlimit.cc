// SPDX-License-Identifier: Apache-2.0
// Resource limits, resource use, priorities: getrlimit(2), getrusage(2), getpriority(2), ioprio_set(2).
#include <algorithm>

#include "abi/linux/signal.h"
#include "sentry/kernel/fd_table.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using creds::Cap;
using creds::Limit;
using creds::Resource;

struct Rlimit64 {
  uint64_t soft = 0, hard = 0;
};

namespace {

constexpr uint64_t kNrOpenMax = 1 << 20;

Result<RefPtr<kernel::ThreadGroup>> find_group(Task& task, int32_t pid) {
  if (pid == 0) return RefPtr<kernel::ThreadGroup>(&task.thread_group());
  RefPtr<Task> target = task.pid_namespace().find_task(Tid(pid));
  if (!target) return err(kESRCH);
  return RefPtr<kernel::ThreadGroup>(&target->thread_group());
}

// check_prlimit_permission() of kernel/sys.c.
Result<void> check_prlimit(Task& task, kernel::ThreadGroup& target) {
  if (&target == &task.thread_group()) return {};
  RefPtr<Task> leader = target.leader();
  if (!leader) return err(kESRCH);
  const creds::CredPtr mine = task.credentials(), theirs = leader->credentials();
  const bool same = mine->uid == theirs->euid && mine->uid == theirs->suid && mine->uid == theirs->uid &&
                    mine->gid == theirs->egid && mine->gid == theirs->sgid && mine->gid == theirs->gid;
  if (!same && !mine->has_cap_in(Cap::kSYS_RESOURCE, *theirs->user_ns)) return err(kEPERM);
  return {};
}

Result<Rlimit64> do_prlimit(Task& task, kernel::ThreadGroup& group, uint32_t resource, const Rlimit64* next) {
  if (resource >= static_cast<uint32_t>(Resource::kCount)) return err(kEINVAL);
  const auto r = static_cast<Resource>(resource);
  const Limit old = group.limit(r);
  if (next) {
    if (next->soft > next->hard) return err(kEINVAL);
    if (r == Resource::kNOFILE && next->hard > kNrOpenMax) return err(kEPERM);
    if (next->hard > old.hard && !task.creds().has_cap(Cap::kSYS_RESOURCE)) return err(kEPERM);
    group.set_limit(r, {next->soft, next->hard});
    if (RefPtr<Task> leader = group.leader()) {
      if (RefPtr<mm::MemoryManager> mm = leader->mm_ref()) mm->set_limits(group.limits());
      if (RefPtr<kernel::FdTable> fds = leader->fds_ref(); fds && r == Resource::kNOFILE) fds->set_limit(next->soft);
    }
  }
  return Rlimit64{old.soft, old.hard};
}

}  // namespace

Result<void> sys_getrlimit(Task& task, uint32_t resource, UserOut<Rlimit64> out) {
  return task.write(out, TRY(do_prlimit(task, task.thread_group(), resource, nullptr)));
}

Result<void> sys_setrlimit(Task& task, uint32_t resource, UserIn<Rlimit64> in) {
  const Rlimit64 next = TRY(task.read(in));
  TRY(do_prlimit(task, task.thread_group(), resource, &next));
  return {};
}

Result<void> sys_prlimit64(Task& task, int32_t pid, uint32_t resource, UserIn<Rlimit64> in, UserOut<Rlimit64> out) {
  Rlimit64 next;
  if (!in.is_null()) next = TRY(task.read(in));
  auto group = TRY(find_group(task, pid));
  TRY(check_prlimit(task, *group));
  const Rlimit64 old = TRY(do_prlimit(task, *group, resource, in.is_null() ? nullptr : &next));
  return task.write_if(out, old);
}

struct Rusage {
  abi::TimeVal64 utime, stime;
  int64_t maxrss = 0, ixrss = 0, idrss = 0, isrss = 0, minflt = 0, majflt = 0, nswap = 0, inblock = 0, oublock = 0,
          msgsnd = 0, msgrcv = 0, nsignals = 0, nvcsw = 0, nivcsw = 0;
};
static_assert(sizeof(Rusage) == 144);

Result<void> sys_getrusage(Task& task, int32_t who, UserOut<Rusage> out) {
  constexpr int32_t kSelf = 0, kChildren = -1, kThread = 1;
  kernel::ResourceUse use;
  if (who == kSelf) {
    use = task.thread_group().own_use();
  } else if (who == kChildren) {
    use = task.thread_group().children_use();
  } else if (who == kThread) {
    use = task.use();
    use.max_rss = task.mm().stats().peak_rss;
  } else {
    return err(kEINVAL);
  }
  Rusage r;
  r.utime = {use.user_ns / 1'000'000'000, use.user_ns / 1000 % 1'000'000};
  r.stime = {use.system_ns / 1'000'000'000, use.system_ns / 1000 % 1'000'000};
  r.maxrss = static_cast<int64_t>(use.max_rss / 1024);
  r.minflt = static_cast<int64_t>(use.minor_faults);
  r.majflt = static_cast<int64_t>(use.major_faults);
  r.nvcsw = static_cast<int64_t>(use.voluntary);
  r.nivcsw = static_cast<int64_t>(use.involuntary);
  return task.write(out, r);
}

SYSCALL_FAMILY(rlimit) = {
    ROW(getrlimit, kFull, ""),
    ROW(setrlimit, kFull, ""),
    ROW(prlimit64, kFull, ""),
    ROW(getrusage, kPartial, "block I/O counts are zero"),
};
SYSCALL_FAMILY_END(rlimit);

}  // namespace sentry::syscalls
