// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/kernel.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "base/log/log.h"
#include "sentry/kernel/in_place_view.h"
#include "sentry/kernel/kernel_context.h"
#include "sentry/kernel/kernel_impl.h"
#include "sentry/kernel/passwd.h"
#include "sentry/kernel/program.h"
#include "sentry/kernel/task_info.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

uint64_t host_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  return pages > 0 ? static_cast<uint64_t>(pages) * abi::kPageSize : uint64_t{1} << 30;
}

// Runs `work` on a fiber of its own and sleeps until it has ended.
void run_on_fiber(Scheduler& scheduler, const std::function<void()>& work) {
  CHECK(Scheduler::current() == nullptr);
  std::atomic<uint32_t> done{0};
  std::unique_ptr<Fiber> fiber = scheduler.create([&work] { work(); },
                                                  [&done] {
                                                    // The waiter's frame may be gone right after the store; waking an
                                                    // address that nobody waits on is harmless.
                                                    done.store(1, std::memory_order_release);
                                                    base::futex_wake(done, 1);
                                                  });
  fiber->start();
  while (done.load(std::memory_order_acquire) == 0) base::futex_wait(done, 0);
}

}  // namespace

Kernel::Kernel(std::unique_ptr<memory::MemoryFile> memory, std::unique_ptr<platform::Platform> platform, KernelConfig config,
               SyscallDispatcher dispatcher)
    : config_(config), memory_(std::move(memory)), platform_(std::move(platform)), dispatcher_(dispatcher),
      scheduler_(std::make_unique<Scheduler>(*platform_, config.executors)), reactor_(std::make_unique<Reactor>()),
      impl_(std::make_unique<Impl>()) {
  impl_->root_user_ns = creds::UserNamespace::create_root();
  impl_->root_pids = base::make_ref<PidNamespace>(impl_->tasks, nullptr, impl_->root_user_ns);
  impl_->total_memory = config.memory_limit != 0 ? std::min(config.memory_limit, host_memory()) : host_memory();
  ticks_to_ns(0);  // starts the calibration
  vfs::set_change_words(platform_->change_words());
  platform_->set_kick_handler(kick_descriptor);
  platform_->set_death_listener([this] { reactor_->post([this] { kill_those_without_host(); }); });
}

void Kernel::settle_descriptors() {
  for (const RefPtr<ThreadGroup>& group : impl_->root_pids->groups())
    for (const RefPtr<Task>& task : group->tasks())
      if (const RefPtr<FdTable> fds = task->fds_ref()) fds->settle();
}

// The host has ended processes under us: their tasks that wait in the kernel would not notice until they go back to the guest.
void Kernel::kill_those_without_host() {
  for (const RefPtr<ThreadGroup>& group : impl_->root_pids->groups()) {
    const std::vector<RefPtr<Task>> tasks = group->tasks();
    const bool gone = std::any_of(tasks.begin(), tasks.end(), [](const RefPtr<Task>& task) {
      if (task->priv().killed.load(std::memory_order_relaxed)) return false;  // was to end anyway
      const RefPtr<mm::MemoryManager> mm = task->mm_ref();
      return mm && mm->platform_space().is_dead();
    });
    if (!gone) continue;
    LOG_WARNING("[{}] the host side of the process is gone: it is killed", group->pid().value());
    (void)signal_process(*group, abi::Signo(abi::kSIGKILL));
  }
}

// Frees go back in few calls when many have come; of the last ones somebody must think.
void Kernel::give_memory_back_later() {
  constexpr int64_t kLater = 1'000'000'000;
  if (giving_back_.load(std::memory_order_relaxed) || giving_back_.exchange(true)) return;
  scheduler_->add_timer(monotonic_now_ns() + kLater, [this] {
    giving_back_.store(false);
    memory_->flush();
  });
}

Kernel::~Kernel() { vfs::set_change_words(nullptr); }

PidNamespace& Kernel::root_pid_namespace() { return *impl_->root_pids; }
RefPtr<creds::UserNamespace> Kernel::root_user_namespace() { return impl_->root_user_ns; }
RefPtr<PidNamespace> Kernel::create_pid_namespace() {
  return base::make_ref<PidNamespace>(impl_->tasks, impl_->root_pids, impl_->root_user_ns);
}
uint64_t Kernel::total_memory() const { return impl_->total_memory; }

void Kernel::run() { scheduler_->run(); }
void Kernel::stop() { scheduler_->stop(); }

void Kernel::run_in_kernel(std::function<void(vfs::OpContext&)> work, const vfs::Path& root, RefPtr<vfs::MountNamespace> mounts) {
  run_on_fiber(*scheduler_, [&] {
    KernelContext ctx(*scheduler_, creds::Credentials::create_root(impl_->root_user_ns), root, root, mounts);
    work(ctx);
  });
}

void Kernel::note_missing_syscall(Task& task, uint64_t number) {
  const std::string program(task.comm());  // its lock comes before the table's
  const bool first = impl_->missing.with([&](auto& missing) {
    if (missing.size() >= 1024 && !missing.contains(number)) return false;
    Impl::Missing& m = missing[number];
    if (m.count++ != 0) return false;
    m.first_program = program;
    return true;
  });
  if (first) LOG_WARNING("system call {} is not implemented; first asked for by {}", number, program);
}

namespace {

RefPtr<creds::Credentials> credentials_from_spec(const abi::oci::Process& spec, RefPtr<creds::UserNamespace> ns) {
  RefPtr<creds::Credentials> c = creds::Credentials::create_root(std::move(ns));
  c->uid = c->euid = c->suid = c->fsuid = abi::KUid(spec.uid);
  c->gid = c->egid = c->sgid = c->fsgid = abi::KGid(spec.gid);
  c->groups.clear();
  for (uint32_t g : spec.additional_gids) c->groups.push_back(abi::KGid(g));
  std::sort(c->groups.begin(), c->groups.end());
  const abi::oci::CapabilitySets& caps = spec.capabilities;
  c->effective = caps.effective & creds::kAllCaps;
  c->permitted = caps.permitted & creds::kAllCaps;
  c->inheritable = caps.inheritable & creds::kAllCaps;
  c->bounding = caps.bounding & creds::kAllCaps;
  c->ambient = caps.ambient & caps.permitted & caps.inheritable & creds::kAllCaps;
  c->no_new_privs = spec.no_new_privileges;
  return c;
}

const std::string& program_name(const abi::oci::Process& spec) {
  return spec.program.empty() && !spec.args.empty() ? spec.args[0] : spec.program;
}

// The program by PATH of the process's own environment, as execvp(3) does.
Result<std::pair<RefPtr<vfs::FileDescription>, std::string>> find_program(vfs::OpContext& ctx, const abi::oci::Process& spec) {
  const std::string& name = program_name(spec);
  if (name.empty()) return err(kENOENT);
  if (name.find('/') != std::string::npos)
    return std::pair(TRY(open_for_exec(ctx, ctx.cwd(), name, vfs::kLookupFollow)), name);
  std::string_view search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (const std::string& entry : spec.env) {
    if (entry.starts_with("PATH=")) search = std::string_view(entry).substr(5);
  }
  abi::Errno last = kENOENT;
  while (true) {
    const size_t colon = search.find(':');
    const std::string_view dir = search.substr(0, colon);
    const std::string candidate = (dir.empty() ? std::string(".") : std::string(dir)) + "/" + name;
    auto file = open_for_exec(ctx, ctx.cwd(), candidate, vfs::kLookupFollow);
    if (file) return std::pair(std::move(*file), candidate);
    if (file.error() == kEACCES) last = kEACCES;
    if (colon == std::string_view::npos) return err(last);
    search.remove_prefix(colon + 1);
  }
}

// As runc: by the container's passwd file, which root reads, unless the configuration sets it.
void add_home(KernelContext& ctx, abi::oci::Process& spec) {
  std::erase(spec.env, "HOME=");
  const bool set = std::any_of(spec.env.begin(), spec.env.end(), [](const std::string& e) { return e.starts_with("HOME="); });
  if (!set) spec.env.push_back("HOME=" + home_of(ctx, spec.uid));
}

template <typename T>
Result<T> explain(Result<T> r, std::string* what, std::string text) {
  if (!r && what) *what = std::move(text) + ": " + abi::errno_name(r.error());
  return r;
}

}  // namespace

struct Kernel::Creation {
  Kernel& kernel;
  CreateProcessArgs& args;
  std::string* what;

  Result<RefPtr<ThreadGroup>> run();
  Result<vfs::Path> working_directory(vfs::OpContext& ctx);
  Result<RefPtr<ThreadGroup>> make_group(KernelContext& ctx, Program program, const creds::LimitSet& limits, vfs::Path cwd);
};

Result<vfs::Path> Kernel::Creation::working_directory(vfs::OpContext& ctx) {
  vfs::PathResult found = TRY(vfs::walk(ctx, ctx.root(), args.spec.cwd.empty() ? "/" : args.spec.cwd,
                                        vfs::kLookupFollow | vfs::kLookupDirectory));
  TRY(vfs::check_access(ctx, found.path, 1));
  return found.path;
}

Result<RefPtr<ThreadGroup>> Kernel::Creation::make_group(KernelContext& ctx, Program program, const creds::LimitSet& limits,
                                                         vfs::Path cwd) {
  auto group = base::make_ref<ThreadGroup>(kernel, args.container, base::make_ref<SignalHandlers>(), limits);
  group->oom_score_adj.store(args.spec.oom_score_adj);
  Task::Init init;
  init.group = group;
  init.mm = std::move(program.mm);
  init.fds = args.fds;
  init.fs = base::make_ref<FsContext>(ctx.root(), std::move(cwd), args.spec.umask);
  init.creds = std::move(program.creds);
  init.namespaces = args.container->namespaces;
  init.comm = program.comm;
  {
    base::MutexLock lock(kernel.impl().tasks.mu);
    init.number = TRY(PidNumber::allocate_locked(*args.container->pid_namespace));
  }
  RefPtr<PidNumber> number = init.number;
  Result<RefPtr<Task>> task = Task::create(kernel, std::move(init));
  Result<void> attached = task ? attach_task(**task, {}) : Result<void>(err(task.error()));
  if (!attached) {
    base::MutexLock lock(kernel.impl().tasks.mu);
    number->release_if_unused_locked();
    return err(attached.error());
  }
  platform::Registers& regs = (*task)->regs();
  regs.rip = program.entry.value();
  regs.rsp = program.stack_pointer.value();
  if (args.controlling_tty) (void)group->set_controlling_tty(args.controlling_tty, args.tty_device);
  return group;
}

Result<RefPtr<ThreadGroup>> Kernel::Creation::run() {
  Container& container = *args.container;
  creds::LimitSet limits;
  for (const abi::oci::Rlimit& r : args.spec.rlimits) {
    if (r.resource >= 0 && r.resource < static_cast<int32_t>(creds::Resource::kCount))
      limits.get(static_cast<creds::Resource>(r.resource)) = {r.soft, r.hard};
  }
  KernelContext as_root(*kernel.scheduler_, creds::Credentials::create_root(kernel.impl().root_user_ns), container.root, container.root,
                        container.namespaces->mounts);
  add_home(as_root, args.spec);
  creds::CredPtr creds = credentials_from_spec(args.spec, kernel.impl().root_user_ns);
  KernelContext ctx(*kernel.scheduler_, creds, container.root, container.root, container.namespaces->mounts);
  vfs::Path cwd = TRY(explain(working_directory(ctx), what, "working directory " + args.spec.cwd));
  ctx.set_cwd(cwd);
  auto [file, path] = TRY(explain(find_program(ctx, args.spec), what, "program " + program_name(args.spec)));
  ProgramArgs load;
  load.file = std::move(file);
  load.filename = path;
  load.argv = args.spec.args;
  load.envp = args.spec.env;
  load.limits = limits;
  Program program = TRY(explain(load_program(ctx, kernel, std::move(load)), what, "load " + path));
  return explain(make_group(ctx, std::move(program), limits, std::move(cwd)), what, "start " + path);
}

Result<RefPtr<ThreadGroup>> Kernel::create_process(CreateProcessArgs args, std::string* what) {
  Result<RefPtr<ThreadGroup>> result = err(kEAGAIN);
  run_on_fiber(*scheduler_, [&] {
    Creation creation{*this, args, what};
    result = creation.run();
    args.fds = nullptr;  // after a failure the files close here, on a fiber
  });
  return result;
}

void Kernel::start_process(ThreadGroup& group) {
  if (RefPtr<Task> leader = group.leader()) leader->start();
}

Result<void> Kernel::signal_process(ThreadGroup& group, abi::Signo signo) {
  if (signo.value() < 0 || signo.value() > abi::kNSIG) return err(kEINVAL);
  if (group.is_zombie()) return err(kESRCH);
  if (signo.value() == 0) return {};
  abi::SigInfo info;
  info.signo = signo.value();
  info.code = abi::kSI_USER;
  return send_signal(group, nullptr, info, SignalForce::kYes);
}

namespace {
std::vector<RefPtr<ThreadGroup>> groups_of(Kernel& kernel, const Container& container) {
  std::vector<RefPtr<ThreadGroup>> all = kernel.root_pid_namespace().groups();
  std::erase_if(all, [&](const RefPtr<ThreadGroup>& g) { return &g->container() != &container; });
  return all;
}
}  // namespace

void Kernel::signal_container(Container& container, abi::Signo signo) {
  for (const RefPtr<ThreadGroup>& g : groups_of(*this, container)) (void)signal_process(*g, signo);
}

void Kernel::on_process_exit(ThreadGroup& group, std::function<void(int32_t)> callback) {
  int32_t status = 0;
  {
    base::MutexLock lock(impl_->tasks.mu);
    if (!group.zombie) {
      group.exit_callbacks.push_back(std::move(callback));
      return;
    }
    status = group.exit_status;
  }
  callback(status);
}

// A process that was created but never started has no fiber to die on: it is taken apart here.
void Kernel::destroy_container(Container& container) {
  for (const RefPtr<ThreadGroup>& g : groups_of(*this, container)) {
    if (RefPtr<Task> leader = g->leader(); leader && !leader->priv().started.load()) leader->start();
    (void)send_signal(*g, nullptr, kernel_signal(abi::kSIGKILL), SignalForce::kYes);
  }
  for (;;) {
    std::vector<RefPtr<ThreadGroup>> left = groups_of(*this, container);
    // A dead init whose parent is nobody is gone; zombies of a living parent follow it.
    if (left.empty()) return;
    std::atomic<uint32_t> changed{0};
    base::futex_wait(changed, 0, 2'000'000);
  }
}

void Kernel::pause_container(Container& container, bool on) {
  for (const RefPtr<ThreadGroup>& g : groups_of(*this, container)) g->set_frozen(on);
}

ResourceUse Kernel::use_of(const Container& container) { return root_pid_namespace().use_of(container); }

std::vector<Kernel::ProcessInfo> Kernel::processes(const Container& container, Command command) {
  std::vector<ProcessInfo> all;
  std::vector<RefPtr<Task>> leaders;
  const int64_t boot = realtime_now_ns() - monotonic_now_ns();
  for (const RefPtr<ThreadGroup>& g : groups_of(*this, container)) {
    RefPtr<Task> leader = g->leader();
    if (!leader) continue;
    ProcessInfo info;
    info.pid = g->pid_in(*container.pid_namespace).value();
    info.ppid = g->parent_pid_in(*container.pid_namespace).value();
    info.uid = leader->credentials()->euid.value();
    info.command = leader->comm();
    info.start_realtime_ns = boot + g->start_monotonic_ns();
    const ResourceUse use = g->own_use();
    info.cpu_ns = use.user_ns + use.system_ns;
    info.user_ns = use.user_ns;
    info.threads = g->thread_count();
    info.state = static_cast<char>(leader->state());
    info.wait_channel = leader->wait_channel();
    info.tty = g->controlling_tty() ? "pts/" + std::to_string(abi::DeviceId::decode(g->session()->tty_device).minor) : "?";
    all.push_back(std::move(info));
    leaders.push_back(std::move(leader));
  }
  if (command == Command::kLine) {
    run_on_fiber(*scheduler_, [&] {
      for (size_t i = 0; i < all.size(); ++i) {
        std::string line = command_line(*leaders[i]);
        while (!line.empty() && line.back() == '\0') line.pop_back();
        std::replace(line.begin(), line.end(), '\0', ' ');
        if (!line.empty()) all[i].command = std::move(line);
      }
      leaders.clear();  // the last reference to a task must not go on a host thread
    });
  }
  return all;
}

}  // namespace sentry::kernel
