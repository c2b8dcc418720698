// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/clone.h"

#include <cstring>

#include "sentry/kernel/kernel_impl.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

// The order of kernel/fork.c: copy_process().
Result<void> check_flags(Task& task, const CloneArgs& args) {
  const uint64_t f = args.flags;
  if ((f & (kCLONE_NEWNS | kCLONE_FS)) == (kCLONE_NEWNS | kCLONE_FS)) return err(kEINVAL);
  if ((f & (kCLONE_NEWUSER | kCLONE_FS)) == (kCLONE_NEWUSER | kCLONE_FS)) return err(kEINVAL);
  if ((f & kCLONE_THREAD) && !(f & kCLONE_SIGHAND)) return err(kEINVAL);
  if ((f & kCLONE_SIGHAND) && !(f & kCLONE_VM)) return err(kEINVAL);
  if ((f & kCLONE_SIGHAND) && (f & kCLONE_CLEAR_SIGHAND)) return err(kEINVAL);
  if (f & kCLONE_PARENT) {
    base::MutexLock lock(task.thread_group().signal_mu);
    if (task.thread_group().unkillable) return err(kEINVAL);
  }
  if (f & kCLONE_THREAD) {
    if (f & (kCLONE_NEWUSER | kCLONE_NEWPID)) return err(kEINVAL);
    if (task.namespaces()->pid_for_children.get() != &task.pid_namespace()) return err(kEINVAL);
  }
  if ((f & kCLONE_PIDFD) && (f & (kCLONE_DETACHED | kCLONE_THREAD))) return err(kEINVAL);
  if (f & (kCLONE_NEWTIME | kCLONE_INTO_CGROUP)) return err(kEINVAL);
  return {};
}

struct Copies {
  RefPtr<mm::MemoryManager> mm;
  RefPtr<FdTable> fds;
  RefPtr<FsContext> fs;
  RefPtr<Namespaces> namespaces;
  creds::CredPtr creds;
};

Result<Copies> copy_resources(Task& task, uint64_t flags) {
  Copies c;
  c.creds = task.credentials();
  if (flags & kCLONE_NEWUSER) c.creds = TRY(enter_new_user_namespace(*c.creds));
  if (!(flags & kCLONE_FILES) || !(flags & kCLONE_VM)) task.fds().catch_up(task);
  if ((flags & kCLONE_FILES) && !(flags & kCLONE_VM)) task.fds().drop_view(FdTable::Again::kNever);
  c.fds = flags & kCLONE_FILES ? RefPtr<FdTable>(&task.fds()) : task.fds().fork();
  c.fs = flags & kCLONE_FS ? RefPtr<FsContext>(&task.fs()) : task.fs().fork();
  c.namespaces = flags & kNamespaceFlags ? TRY(copy_namespaces(task, *c.creds, flags, c.fs.get())) : task.namespaces();
  c.mm = flags & kCLONE_VM ? RefPtr<mm::MemoryManager>(&task.mm()) : TRY(task.mm().fork());
  return c;
}

RefPtr<ThreadGroup> group_for_child(Task& task, const CloneArgs& args) {
  ThreadGroup& group = task.thread_group();
  if (args.flags & kCLONE_THREAD) {
    hide_signal_actions(task, *group.signal_handlers());
    return RefPtr<ThreadGroup>(&group);
  }
  RefPtr<SignalHandlers> handlers = group.signal_handlers();
  if (args.flags & kCLONE_SIGHAND) {
    hide_signal_actions(task, *handlers);
  } else {
    take_signal_actions(task, *handlers);
    handlers = handlers->fork();
  }
  if (args.flags & kCLONE_CLEAR_SIGHAND) handlers->reset_for_exec();
  auto child = base::make_ref<ThreadGroup>(task.kernel(), RefPtr<Container>(&group.container()), std::move(handlers), group.limits());
  child->oom_score_adj.store(group.oom_score_adj.load());
  child->exit_signal = args.exit_signal;
  return child;
}

// Registers, floating point, signal mask and the attributes that a new thread takes over.
Result<void> copy_state(Task& task, Task& child, const CloneArgs& args) {
  const std::span<uint8_t> state = TRY(fetch_xstate(task));
  platform::Context& context = child.context();
  const std::span<uint8_t> target = context.xstate();
  std::memcpy(target.data(), state.data(), std::min(state.size(), target.size()));
  context.load_xstate();
  platform::Registers& regs = context.regs();
  regs = task.regs();
  regs.rax = 0;
  if (args.has_stack) regs.rsp = args.stack_top.value();
  context.set_fs_base(args.flags & kCLONE_SETTLS ? args.tls.value() : task.regs().fs_base);
  context.set_gs_base(task.regs().gs_base);

  Task::Private& from = task.priv();
  Task::Private& to = child.priv();
  to.blocked = task.signal_mask();
  if (!(args.flags & kCLONE_VM) || (args.flags & kCLONE_VFORK)) to.altstack = from.altstack;
  to.timer_slack_ns.store(from.timer_slack_ns.load());
  to.in_place_ok = from.in_place_ok;
  if (from.seccomp_mode.load() != 0) {
    RefPtr<SeccompFilter> filter = from.seccomp.with([](auto& f) { return f; });
    to.seccomp.with([&](auto& f) { f = filter; });
    to.seccomp_mode.store(from.seccomp_mode.load());
  }
  child.personality = task.personality;
  Task::SchedState sched = task.sched.with([](auto& s) { return s; });
  if (sched.reset_on_fork) {
    sched.policy = sched.priority = 0;
    sched.nice = std::max(sched.nice, 0);
    sched.reset_on_fork = false;
  }
  child.sched.with([&](auto& s) { s = sched; });
  if (args.flags & kCLONE_CHILD_CLEARTID) context.set_thread_words({.clear_child_tid = args.child_tid.value()});
  return {};
}

void forget_number(Task& task, const RefPtr<PidNumber>& number) {
  base::MutexLock lock(task.thread_group().set().mu);
  number->release_if_unused_locked();
}

Result<void> attach_child(Task& task, Task& child, uint64_t flags) {
  AttachOptions options;
  RefPtr<ThreadGroup> parent(&task.thread_group());
  if (!(flags & kCLONE_THREAD)) {
    if (flags & kCLONE_PARENT) {
      parent = task.thread_group().parent();
      child.thread_group().exit_signal = task.thread_group().exit_signal;
    }
    options.parent = parent.get();
    options.parent_thread = &task;
    options.inherit = &task.thread_group();
  }
  return attach_task(child, options);
}

void wait_for_vfork_child(Task& task) {
  task.set_wait_channel("vfork");
  while (!task.priv().vfork_done.load(std::memory_order_seq_cst)) {
    if (task.block_killable(std::nullopt) == vfs::WakeReason::kInterrupted) break;
  }
  task.set_wait_channel("");
}

}  // namespace

Result<RefPtr<creds::Credentials>> enter_new_user_namespace(const creds::Credentials& old) {
  RefPtr<creds::UserNamespace> ns = TRY(creds::UserNamespace::create_child(old.user_ns, old.euid, old.egid));
  auto next = base::make_ref<creds::Credentials>(old);
  next->user_ns = std::move(ns);
  next->securebits = 0;
  next->inheritable = 0;
  next->ambient = 0;
  next->permitted = next->effective = next->bounding = creds::kAllCaps;
  return next;
}

Result<RefPtr<Namespaces>> copy_namespaces(Task& task, const creds::Credentials& creds, uint64_t flags, FsContext* fs) {
  if ((flags & kNamespaceFlags & ~kCLONE_NEWUSER) && !creds.has_cap(creds::Cap::kSYS_ADMIN)) return err(kEPERM);
  const RefPtr<Namespaces> old = task.namespaces();
  auto next = base::make_ref<Namespaces>(*old);
  if (flags & kCLONE_NEWUTS)
    next->uts = base::make_ref<UtsNamespace>(old->uts->names.with([](auto& n) { return n; }), creds.user_ns);
  if (flags & kCLONE_NEWIPC) next->ipc = base::make_ref<IpcNamespace>(creds.user_ns);
  if (flags & kCLONE_NEWNET) next->net = base::make_ref<PlainNamespace>(creds.user_ns);
  if (flags & kCLONE_NEWCGROUP) next->cgroup = base::make_ref<PlainNamespace>(creds.user_ns);
  if (flags & kCLONE_NEWPID) {
    if (old->pid_for_children.get() != &task.pid_namespace()) return err(kEINVAL);
    if (task.pid_namespace().level() >= PidNamespace::kMaxLevel) return err(kENOSPC);
    next->pid_for_children = base::make_ref<PidNamespace>(task.kernel().impl().tasks, RefPtr<PidNamespace>(&task.pid_namespace()),
                                                          creds.user_ns);
  }
  if (flags & kCLONE_NEWNS) {
    next->mounts = old->mounts->clone();
    if (fs) {
      fs->set_root(next->mounts->translate(fs->root()));
      fs->set_cwd(next->mounts->translate(fs->cwd()));
    }
  }
  return next;
}

Result<abi::Tid> clone_task(Task& task, const CloneArgs& args) {
  TRY(check_flags(task, args));
  // A signal first, so that its handler runs in one process only (fork(2) is atomic for signals).
  if (task.interrupted()) return err(kERESTARTNOINTR);
  Copies copies = TRY(copy_resources(task, args.flags));
  PidNamespace& ns = args.flags & kCLONE_THREAD ? task.pid_namespace() : *copies.namespaces->pid_for_children;

  Task::Init init;
  init.group = group_for_child(task, args);
  init.mm = copies.mm;
  init.fds = std::move(copies.fds);
  init.fs = std::move(copies.fs);
  init.creds = std::move(copies.creds);
  init.namespaces = std::move(copies.namespaces);
  init.comm = task.comm();
  {
    base::MutexLock lock(task.thread_group().set().mu);
    init.number = TRY(PidNumber::allocate_locked(ns, args.set_tid));
  }
  const RefPtr<PidNumber> number = init.number;
  RefPtr<Task> child;
  const auto build = [&]() -> Result<void> {
    child = TRY(Task::create(task.kernel(), std::move(init)));
    TRY(copy_state(task, *child, args));
    if (args.flags & kCLONE_VM) child->priv().descriptors_foreign = !(args.flags & kCLONE_FILES) || task.priv().descriptors_foreign;
    const int32_t seen = number->in(task.pid_namespace());
    if (args.flags & kCLONE_PIDFD) {
      const abi::Fd fd = TRY(task.install_fd(make_pidfd(task, number, 0), true));
      if (auto written = task.write(memory::UserOut<int32_t>(args.pidfd), fd.value()); !written) {
        (void)task.fds().remove(fd);
        return written;
      }
    }
    if (args.flags & kCLONE_PARENT_SETTID) (void)task.write(memory::UserOut<int32_t>(args.parent_tid), seen);
    if (args.flags & kCLONE_CHILD_SETTID) {
      const int32_t own = number->own();
      (void)copies.mm->copy_out(args.child_tid, &own, sizeof own);
    }
    return attach_child(task, *child, args.flags);
  };
  if (auto built = build(); !built) {
    forget_number(task, number);
    return err(built.error());
  }
  const bool vfork = (args.flags & kCLONE_VFORK) != 0;
  if (vfork) {
    task.priv().vfork_done.store(false);
    child->priv().vfork_parent = RefPtr<Task>(&task);
  }
  const abi::Tid seen(number->in(task.pid_namespace()));
  copies = {};
  child->start();
  child.reset();
  if (vfork) wait_for_vfork_child(task);
  return seen;
}

}  // namespace sentry::kernel
