// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/task.h"

#include <algorithm>

#include "sentry/kernel/kernel_impl.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

Task::Task(Kernel& kernel, RefPtr<ThreadGroup> group)
    : kernel_(kernel), group_(std::move(group)), private_(std::make_unique<Private>(*this)) {}

Task::~Task() {
  // A task that never ran still has a context; it goes before the address space.
  private_->context.reset();
}

Result<RefPtr<Task>> Task::create(Kernel& kernel, Init init) {
  auto task = base::make_ref<Task>(kernel, init.group);
  Private& p = *task->private_;
  task->mm_ = std::move(init.mm);
  task->fds_ = std::move(init.fds);
  task->fs_ = std::move(init.fs);
  task->creds_ = std::move(init.creds);
  p.namespaces = std::move(init.namespaces);
  p.number = std::move(init.number);
  p.own_tid.store(p.number->own());
  p.comm = init.comm.substr(0, 15);
  p.start_ns = monotonic_now_ns();
  p.context = TRY(kernel.platform().create_context(task->mm_->platform_space()));
  p.context->task = task.get();
  Task* raw = task.get();
  // The running fiber owns one reference, taken in start() and dropped when the fiber has ended.
  p.fiber = kernel.scheduler().create([raw] { task_main(*raw); }, [raw] { raw->unref(); });
  return task;
}

void Task::start() {
  if (private_->started.exchange(true)) return;
  ref();
  private_->state.store(TaskState::kRunning);
  private_->fiber->start();
}

Container& Task::container() const { return group_->container(); }
PidNamespace& Task::pid_namespace() const { return group_->pid_namespace(); }
abi::Tid Task::tid() const { return abi::Tid(private_->own_tid.load(std::memory_order_relaxed)); }
abi::Tid Task::tid_in(const PidNamespace& ns) const {
  base::MutexLock lock(group_->set().mu);
  return abi::Tid(private_->number->in(ns));
}
abi::Pid Task::pid() const { return group_->pid(); }

RefPtr<mm::MemoryManager> Task::mm_ref() const {
  base::MutexLock lock(mu_);
  return mm_;
}
RefPtr<FdTable> Task::fds_ref() const {
  base::MutexLock lock(mu_);
  return fds_;
}
RefPtr<FsContext> Task::fs_ref() const {
  base::MutexLock lock(mu_);
  return fs_;
}
RefPtr<Namespaces> Task::namespaces() const {
  base::MutexLock lock(mu_);
  return private_->namespaces;
}
creds::CredPtr Task::credentials() const {
  base::MutexLock lock(mu_);
  return creds_;
}

RefPtr<mm::MemoryManager> Task::exchange_mm(RefPtr<mm::MemoryManager> next) {
  base::MutexLock lock(mu_);
  return std::exchange(mm_, std::move(next));
}
RefPtr<FdTable> Task::exchange_fds(RefPtr<FdTable> next) {
  base::MutexLock lock(mu_);
  return std::exchange(fds_, std::move(next));
}
RefPtr<FsContext> Task::exchange_fs(RefPtr<FsContext> next) {
  forget_reader(*this);
  base::MutexLock lock(mu_);
  return std::exchange(fs_, std::move(next));
}
RefPtr<Namespaces> Task::exchange_namespaces(RefPtr<Namespaces> next) {
  forget_reader(*this);
  base::MutexLock lock(mu_);
  return std::exchange(private_->namespaces, std::move(next));
}

// commit_creds(): ids or capabilities that change make the process undumpable and forget the parent-death signal.
void Task::set_credentials(creds::CredPtr next) {
  creds::CredPtr old;
  {
    base::MutexLock lock(mu_);
    old = std::exchange(creds_, next);
  }
  const bool gained = (next->permitted & ~old->permitted) != 0;
  if (old->euid != next->euid || old->egid != next->egid || old->fsuid != next->fsuid || old->fsgid != next->fsgid || gained) {
    if (mm_) mm_->set_dumpable(false);
    parent_death_signal.store(0);
  }
  if (old->uid != next->uid) {
    TaskSet& set = group_->set();
    base::MutexLock lock(set.mu);
    if (--set.tasks_of_user[old->uid.value()] == 0) set.tasks_of_user.erase(old->uid.value());
    ++set.tasks_of_user[next->uid.value()];
  }
  update_in_place(*this);
}

platform::Registers& Task::regs() { return private_->context->regs(); }
platform::Registers& Task::call_regs() { return private_->context->call_regs(); }
platform::Context& Task::context() { return *private_->context; }

std::string Task::comm() const {
  base::MutexLock lock(mu_);
  return private_->comm;
}
void Task::set_comm(std::string_view name) {
  std::string next(name.substr(0, 15));
  base::MutexLock lock(mu_);
  private_->comm.swap(next);
}
TaskState Task::state() const { return private_->state.load(std::memory_order_relaxed); }
void Task::set_wait_channel(const char* text) { private_->wait_channel.store(text, std::memory_order_relaxed); }
const char* Task::wait_channel() const { return private_->wait_channel.load(std::memory_order_relaxed); }

const creds::Credentials& Task::creds() const { return *creds_; }
const creds::Limit Task::rlimit(creds::Resource r) const { return group_->limit(r); }
vfs::MountNamespace& Task::mount_namespace() { return *private_->namespaces->mounts; }
int64_t Task::now_realtime() const { return realtime_now_ns(); }
int64_t Task::now_monotonic() const { return monotonic_now_ns(); }
vfs::OpContext::Waker& Task::waker() { return *private_; }
bool Task::interrupted() const { return private_->signal_pending.load(std::memory_order_seq_cst); }

void Task::raise(abi::Signo signo) {
  abi::SigInfo info;
  info.signo = signo.value();
  info.code = abi::kSI_USER;
  info.set_pid(pid().value());
  info.set_uid(creds_->user_ns->unmap_uid(creds_->uid).value());
  (void)kernel::send_signal(*group_, this, info, SignalForce::kNo);
}

namespace {

bool park_task(Task& task, vfs::Deadline deadline) {
  Task::Private& p = task.priv();
  const uint64_t now = cpu_ticks();
  p.system_ticks.fetch_add(now - p.last_tick, std::memory_order_relaxed);
  p.voluntary.fetch_add(1, std::memory_order_relaxed);
  p.state.store(TaskState::kSleeping, std::memory_order_relaxed);
  const bool woken = task.kernel().scheduler().park(deadline);
  p.state.store(TaskState::kRunning, std::memory_order_relaxed);
  p.last_tick = cpu_ticks();
  return woken;
}

}  // namespace

vfs::WakeReason Task::block(vfs::Deadline deadline) {
  if (interrupted()) return vfs::WakeReason::kInterrupted;
  const bool woken = park_task(*this, deadline);
  if (interrupted()) return vfs::WakeReason::kInterrupted;
  return woken ? vfs::WakeReason::kWoken : vfs::WakeReason::kTimedOut;
}

void Task::count_waiting(int delta) {
  if (mm_) mm_->platform_space().count_waiting(delta);
}

memory::MemoryFile* Task::memory_file() { return &kernel().memory(); }

vfs::FileDescription* Task::ref_descriptor(abi::Fd fd) {
  auto file = fds_->get(fd);
  return file ? file->release() : nullptr;
}

void Task::block_uninterruptible() { park_task(*this, std::nullopt); }

vfs::WakeReason Task::block_killable(vfs::Deadline deadline) {
  if (private_->killed.load(std::memory_order_seq_cst)) return vfs::WakeReason::kInterrupted;
  const bool woken = park_task(*this, deadline);
  if (private_->killed.load(std::memory_order_seq_cst)) return vfs::WakeReason::kInterrupted;
  return woken ? vfs::WakeReason::kWoken : vfs::WakeReason::kTimedOut;
}

Result<abi::Fd> Task::install_fd(RefPtr<vfs::FileDescription> file, bool close_on_exec) {
  return fds_->install(std::move(file), close_on_exec, rlimit(creds::Resource::kNOFILE).soft);
}

ResourceUse Task::use() const {
  ResourceUse u;
  u.user_ns = user_ns();
  u.system_ns = system_ns();
  u.minor_faults = private_->minor_faults.load(std::memory_order_relaxed);
  u.major_faults = private_->major_faults.load(std::memory_order_relaxed);
  u.voluntary = private_->voluntary.load(std::memory_order_relaxed);
  u.involuntary = private_->involuntary.load(std::memory_order_relaxed);
  return u;
}
int64_t Task::user_ns() const {
  uint64_t ticks = private_->user_ticks.load(std::memory_order_relaxed);
  // What it spends in the guest right now counts too: a loop without system calls has CPU time.
  const uint64_t since = private_->guest_since.load(std::memory_order_relaxed);
  if (const uint64_t now = cpu_ticks(); since != 0 && now > since) ticks += now - since;
  return ticks_to_ns(ticks);
}
int64_t Task::system_ns() const { return ticks_to_ns(private_->system_ticks.load(std::memory_order_relaxed)); }
int64_t Task::start_monotonic_ns() const { return private_->start_ns; }

void Task::override_credentials(creds::CredPtr next) {
  creds::CredPtr old;  // dropped outside the lock
  base::MutexLock lock(mu_);
  old = std::exchange(creds_, std::move(next));
}

// Under the lock, so that this is never the last user of the table.
void Task::kick(abi::Fd fd) {
  base::MutexLock lock(mu_);
  if (fds_) fds_->kick(fd);
}

bool Task::has_stat_answers() const { return private_->reader != 0; }

void Task::unshare_fds() {
  if (!fds_->is_shared()) return;
  base::RefPtr<FdTable> copy = fds_->fork();
  private_->descriptors_foreign = true;
  {
    base::MutexLock lock(mu_);
    std::swap(fds_, copy);
  }
  update_in_place(*this);
}

}  // namespace sentry::kernel
