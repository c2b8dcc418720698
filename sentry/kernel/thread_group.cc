// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/thread_group.h"

#include <algorithm>

#include "base/stats/stats.h"
#include "sentry/kernel/kernel_impl.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

Session::~Session() = default;
ProcessGroup::~ProcessGroup() = default;

void ResourceUse::add(const ResourceUse& o) {
  user_ns += o.user_ns;
  system_ns += o.system_ns;
  minor_faults += o.minor_faults;
  major_faults += o.major_faults;
  voluntary += o.voluntary;
  involuntary += o.involuntary;
  max_rss = std::max(max_rss, o.max_rss);
}

ThreadGroup::ThreadGroup(Kernel& kernel, RefPtr<Container> container, RefPtr<SignalHandlers> sighand, const creds::LimitSet& limits)
    : handlers(std::move(sighand)), kernel_(kernel), container_(std::move(container)), start_ns_(monotonic_now_ns()),
      limits_(limits) {
  timers = std::make_unique<PosixTimers>(*this);
  timers->watch_cpu_limit();
  set_limit(creds::Resource::kFSIZE, limits.get(creds::Resource::kFSIZE));
}
ThreadGroup::~ThreadGroup() = default;

TaskSet& ThreadGroup::set() const { return kernel_.impl().tasks; }

abi::Pid ThreadGroup::pid() const { return abi::Pid(number->own()); }
abi::Pid ThreadGroup::pid_in(const PidNamespace& ns) const { return abi::Pid(number->in(ns)); }
PidNamespace& ThreadGroup::pid_namespace() const { return number->ns(); }

RefPtr<Task> ThreadGroup::leader() const {
  base::MutexLock lock(set().mu);
  return leader_task;
}
std::vector<RefPtr<Task>> ThreadGroup::tasks() const {
  std::vector<RefPtr<Task>> all;
  base::MutexLock lock(set().mu);
  all.reserve(threads.size());
  for (Task* t : threads) all.emplace_back(t);
  return all;
}
size_t ThreadGroup::thread_count() const {
  base::MutexLock lock(set().mu);
  return threads.size();
}
RefPtr<ThreadGroup> ThreadGroup::parent() const {
  base::MutexLock lock(set().mu);
  return RefPtr<ThreadGroup>(parent_group);
}
abi::Pid ThreadGroup::parent_pid_in(const PidNamespace& ns) const {
  base::MutexLock lock(set().mu);
  return abi::Pid(parent_group ? parent_group->number->in(ns) : 0);
}
std::vector<RefPtr<ThreadGroup>> ThreadGroup::children() const {
  std::vector<RefPtr<ThreadGroup>> all;
  base::MutexLock lock(set().mu);
  for (ThreadGroup* c : child_groups) all.emplace_back(c);
  return all;
}
RefPtr<ProcessGroup> ThreadGroup::process_group() const {
  base::MutexLock lock(set().mu);
  return pgroup;
}
RefPtr<Session> ThreadGroup::session() const {
  base::MutexLock lock(set().mu);
  return pgroup ? pgroup->session : nullptr;
}
abi::Pid ThreadGroup::pgid_in(const PidNamespace& ns) const {
  base::MutexLock lock(set().mu);
  return abi::Pid(pgroup ? pgroup->id->in(ns) : 0);
}
abi::Pid ThreadGroup::sid_in(const PidNamespace& ns) const {
  base::MutexLock lock(set().mu);
  return abi::Pid(pgroup ? pgroup->session->id->in(ns) : 0);
}
bool ThreadGroup::is_zombie() const {
  base::MutexLock lock(set().mu);
  return zombie;
}
creds::Limit ThreadGroup::limit(creds::Resource r) const {
  base::MutexLock lock(limits_mu_);
  return limits_.get(r);
}
creds::LimitSet ThreadGroup::limits() const {
  base::MutexLock lock(limits_mu_);
  return limits_;
}
void ThreadGroup::set_limit(creds::Resource r, creds::Limit v) {
  {
    base::MutexLock lock(limits_mu_);
    limits_.get(r) = v;
    if (r == creds::Resource::kFSIZE && v.soft == creds::kInfinity) limits_writes_.reset();
    else if (r == creds::Resource::kFSIZE && !limits_writes_) limits_writes_.emplace();
  }
  if (r == creds::Resource::kCPU) timers->watch_cpu_limit();
}

ResourceUse ThreadGroup::own_use_locked() const {
  ResourceUse total = dead_threads;
  for (const Task* t : threads) total.add(t->use());
  return total;
}
ResourceUse ThreadGroup::own_use() const {
  RefPtr<mm::MemoryManager> mm;
  ResourceUse total;
  {
    base::MutexLock lock(set().mu);
    total = own_use_locked();
    if (!threads.empty()) mm = threads.front()->mm_ref();
  }
  if (mm) total.max_rss = std::max(total.max_rss, mm->stats().peak_rss);
  return total;
}
ResourceUse ThreadGroup::children_use() const {
  base::MutexLock lock(set().mu);
  return dead_children;
}
abi::SigSet ThreadGroup::shared_pending() const {
  base::MutexLock lock(signal_mu);
  return shared.set;
}
RefPtr<SignalHandlers> ThreadGroup::signal_handlers() const {
  base::MutexLock lock(signal_mu);
  return handlers;
}
Result<void> ThreadGroup::send_signal(const abi::SigInfo& info) {
  return kernel::send_signal(*this, nullptr, info, SignalForce::kNo);
}

void ThreadGroup::add_exit_hook(std::function<void(int32_t)> hook) {
  exit_hooks.with([&](auto& hooks) { hooks.push_back(std::move(hook)); });
}

void ThreadGroup::set_frozen(bool on) {
  base::MutexLock lock(signal_mu);
  frozen = on;
  for (Task* t : threads) {
    t->thread_group().signal_mu.assert_held();
    kick_locked(*t);
  }
}

bool ProcessGroup::is_orphaned_locked(const ThreadGroup* without) const {
  for (const ThreadGroup* m : members) {
    if (m == without || m->zombie || !m->parent_group) continue;
    const ThreadGroup& parent = *m->parent_group;
    if (parent.pgroup && parent.pgroup.get() != this && parent.pgroup->session == session && !parent.zombie) return false;
  }
  return true;
}

void leave_process_group_locked(ThreadGroup& group, std::vector<RefPtr<base::RefCounted>>& garbage) {
  if (!group.pgroup) return;
  RefPtr<ProcessGroup> pg = std::move(group.pgroup);
  std::erase(pg->members, &group);
  if (pg->members.empty()) {
    pg->id->process_group = nullptr;
    pg->id->release_if_unused_locked();
    Session& session = *pg->session;
    if (session.foreground == pg) garbage.push_back(std::move(session.foreground));
    if (--session.groups == 0) {
      session.id->session = nullptr;
      session.id->release_if_unused_locked();
    }
  }
  garbage.push_back(std::move(pg));
}

void join_process_group_locked(ThreadGroup& group, RefPtr<ProcessGroup> pgroup) {
  if (pgroup->members.empty()) ++pgroup->session->groups;
  pgroup->members.push_back(&group);
  group.pgroup = std::move(pgroup);
}

namespace {

RefPtr<ProcessGroup> new_session_locked(ThreadGroup& group) {
  auto session = base::make_ref<Session>(group.set(), group.number);
  session->leader = &group;
  group.number->session = session.get();
  auto pg = base::make_ref<ProcessGroup>(group.number, std::move(session));
  group.number->process_group = pg.get();
  return pg;
}

}  // namespace

Result<abi::Pid> create_session(ThreadGroup& group) {
  std::vector<RefPtr<base::RefCounted>> garbage;
  base::MutexLock lock(group.set().mu);
  // EPERM when the caller leads a process group, or one with its number still exists.
  if (group.number->process_group || group.number->session) return err(kEPERM);
  leave_process_group_locked(group, garbage);
  join_process_group_locked(group, new_session_locked(group));
  return abi::Pid(group.number->own());
}

Result<void> attach_task(Task& task, const AttachOptions& options) {
  ThreadGroup& group = task.thread_group();
  TaskSet& set = group.set();
  const creds::CredPtr creds = task.credentials();
  const uint64_t nproc = group.limit(creds::Resource::kNPROC).soft;
  base::MutexLock lock(set.mu);
  PidNumber& number = *task.priv().number;
  uint32_t& mine = set.tasks_of_user[creds->uid.value()];
  const bool privileged = creds->uid == abi::KUid(0) || creds->has_cap(creds::Cap::kSYS_RESOURCE) || creds->has_cap(creds::Cap::kSYS_ADMIN);
  if (mine >= nproc && !privileged) return err(kEAGAIN);
  const bool first = group.leader_task == nullptr;
  {
    base::MutexLock signal_lock(group.signal_mu);
    if (group.exiting || group.exec_task) return err(kERESTARTNOINTR);
    group.threads.push_back(&task);
    if (first && !number.ns().init) group.unkillable = true;
    // A stop or freeze that began before the thread was visible applies to it as well.
    task.thread_group().signal_mu.assert_held();
    recalculate_pending_locked(task);
  }
  ++mine;
  ++set.tasks;
  set.forks.fetch_add(1, std::memory_order_relaxed);
  base::stats::count(first ? base::stats::Counter::kProcesses : base::stats::Counter::kThreads);
  number.task = &task;
  group.live_threads.fetch_add(1);
  if (!first) return {};
  group.number = RefPtr<PidNumber>(&number);
  number.group = &group;
  group.leader_task = RefPtr<Task>(&task);
  if (!number.ns().init) number.ns().init = &group;
  if (options.parent) {
    group.parent_group = options.parent;
    options.parent->child_groups.push_back(&group);
    group.has_child_subreaper = options.parent->has_child_subreaper || options.parent->is_child_subreaper;
  }
  if (options.parent_thread) group.parent_thread = options.parent_thread->priv().number;
  group.set().mu.assert_held();
  join_process_group_locked(group, options.inherit && options.inherit->pgroup ? options.inherit->pgroup : new_session_locked(group));
  return {};
}

}  // namespace sentry::kernel
