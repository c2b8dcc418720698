// SPDX-License-Identifier: Apache-2.0
// /proc/PID/{stat,statm,status,comm,wchan,io,sched,schedstat,...}: fs/proc/array.c and base.c.
#include <algorithm>

#include "sentry/fs/proc/proc_internal.h"
#include "sentry/kernel/task_info.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

struct JobControl {
  int32_t pgid = 0, sid = 0, tty = 0, tpgid = -1;
};

JobControl job_control(const PidFileArgs& a) {
  kernel::ThreadGroup& group = a.task.thread_group();
  JobControl j;
  j.pgid = group.pgid_in(a.ns).value();
  j.sid = group.sid_in(a.ns).value();
  RefPtr<kernel::Session> session = group.session();
  if (!session) return j;
  base::MutexLock lock(group.set().mu);
  j.tty = static_cast<int32_t>(session->tty_device);
  if (j.tty != 0) j.tpgid = session->foreground ? session->foreground->id->in(a.ns) : 0;
  return j;
}

struct SignalSets {
  abi::SigSet ignored, caught;
};

SignalSets dispositions(kernel::ThreadGroup& group) {
  SignalSets sets;
  RefPtr<kernel::SignalHandlers> handlers = group.signal_handlers();
  if (!handlers) return sets;
  for (int32_t signo = 1; signo <= abi::kNSIG; ++signo) {
    const uint64_t h = handlers->get(signo).handler;
    if (h == abi::kSIG_IGN) sets.ignored.add(signo);
    else if (h != abi::kSIG_DFL) sets.caught.add(signo);
  }
  return sets;
}

std::string printable_comm(std::string_view comm) {
  std::string out;
  for (char c : comm) {
    if (c == '\n') out += "\\n";
    else if (c == '\\') out += "\\\\";
    else out += c;
  }
  return out;
}

char state_letter(const PidFileArgs& a, kernel::TaskState state) {
  if (!a.is_thread && a.task.thread_group().is_zombie()) return 'Z';
  return static_cast<char>(state);
}

uint64_t start_ticks(int64_t start_monotonic_ns) {
  timespec mono;
  clock_gettime(CLOCK_MONOTONIC, &mono);
  const int64_t suspended = boottime_now_ns() - (mono.tv_sec * 1'000'000'000 + mono.tv_nsec);
  return clock_ticks(start_monotonic_ns + suspended);
}

int32_t priority_of(const kernel::TaskInfo& info) {
  return info.policy == 1 || info.policy == 2 ? -1 - info.rt_priority : 20 + info.nice;
}

Result<void> render_stat(const PidFileArgs& a, TextBuffer& out) {
  kernel::ThreadGroup& group = a.task.thread_group();
  const kernel::TaskInfo info = kernel::task_info(a.task);
  const JobControl job = job_control(a);
  const SignalSets sets = dispositions(group);
  const bool may_look = check_task_access(a.ctx, a.task).has_value();
  mm::MmStats mem;
  mm::MemoryManager::Layout layout;
  if (RefPtr<mm::MemoryManager> mm = a.task.mm_ref()) {
    mem = mm->stats();
    if (may_look) layout = mm->layout();
  }
  kernel::ResourceUse own, children;
  if (a.is_thread) {
    own.user_ns = info.user_ns;
    own.system_ns = info.system_ns;
    own.minor_faults = info.minor_faults;
    own.major_faults = info.major_faults;
  } else {
    own = group.own_use();
    children = group.children_use();
  }
  const int32_t id = a.is_thread ? a.task.tid_in(a.ns).value() : group.pid_in(a.ns).value();
  const int64_t start = a.is_thread ? info.start_monotonic_ns : group.start_monotonic_ns();
  out.print("{} ({}) {} {} {} {} {} {} {} {} {} {} {} ", id, info.comm, state_letter(a, info.state),
            group.parent_pid_in(a.ns).value(), job.pgid, job.sid, job.tty, job.tpgid, 0x400000, own.minor_faults,
            children.minor_faults, own.major_faults, children.major_faults);
  out.print("{} {} {} {} {} {} {} 0 {} {} {} {} ", clock_ticks(own.user_ns), clock_ticks(own.system_ns),
            clock_ticks(children.user_ns), clock_ticks(children.system_ns), priority_of(info), info.nice,
            group.thread_count(), start_ticks(start), mem.vsize, mem.rss / abi::kPageSize,
            group.limit(creds::Resource::kRSS).soft);
  out.print("{} {} {} 0 0 {} {} {} {} 0 0 0 17 0 {} {} 0 0 0 ", layout.code_start.value(), layout.code_end.value(),
            layout.stack_top.value(), info.pending.bits & 0x7fffffff, info.blocked.bits & 0x7fffffff,
            sets.ignored.bits & 0x7fffffff, sets.caught.bits & 0x7fffffff, info.rt_priority, info.policy);
  int32_t exit_code = 0;
  if (may_look && !a.is_thread && group.is_zombie()) {
    base::MutexLock lock(group.set().mu);
    exit_code = group.exit_status;
  }
  out.print("{} {} {} {} {} {} {} {}\n", layout.data_start.value(), layout.data_end.value(), layout.brk_start.value(),
            layout.arg_start.value(), layout.arg_end.value(), layout.env_start.value(), layout.env_end.value(), exit_code);
  return {};
}

Result<void> render_statm(const PidFileArgs& a, TextBuffer& out) {
  mm::MmStats m;
  if (RefPtr<mm::MemoryManager> mm = a.task.mm_ref()) m = mm->stats();
  auto pages = [](uint64_t bytes) { return bytes / abi::kPageSize; };
  out.print("{} {} {} {} 0 {} 0\n", pages(m.vsize), pages(m.rss), pages(m.rss_file + m.rss_shmem), pages(m.text),
            pages(m.data + m.stack));
  return {};
}

const char* state_text(char letter) {
  switch (letter) {
    case 'R': return "R (running)";
    case 'S': return "S (sleeping)";
    case 'T': return "T (stopped)";
    case 't': return "t (tracing stop)";
    case 'Z': return "Z (zombie)";
    default: return "X (dead)";
  }
}

void status_ids(const PidFileArgs& a, TextBuffer& out) {
  creds::CredPtr c = a.task.credentials();
  const creds::UserNamespace& ns = *a.ctx.creds().user_ns;
  auto u = [&](abi::KUid id) { return ns.unmap_uid(id).value(); };
  auto g = [&](abi::KGid id) { return ns.unmap_gid(id).value(); };
  out.print("Uid:\t{}\t{}\t{}\t{}\n", u(c->uid), u(c->euid), u(c->suid), u(c->fsuid));
  out.print("Gid:\t{}\t{}\t{}\t{}\n", g(c->gid), g(c->egid), g(c->sgid), g(c->fsgid));
  RefPtr<kernel::FdTable> fds = a.task.fds_ref();
  out.print("FDSize:\t{}\nGroups:\t", fds ? fds->capacity() : 0);
  for (size_t i = 0; i < c->groups.size(); ++i) out.print("{}{}", i == 0 ? "" : " ", g(c->groups[i]));
  out.append(" \n");
}

void status_memory(const PidFileArgs& a, TextBuffer& out) {
  RefPtr<mm::MemoryManager> mm = a.task.mm_ref();
  if (!mm) return;
  const mm::MmStats m = mm->stats();
  auto line = [&](const char* name, uint64_t bytes) { out.print("{}:\t{:8} kB\n", name, bytes >> 10); };
  line("VmPeak", std::max(m.peak_vsize, m.vsize));
  line("VmSize", m.vsize);
  line("VmLck", m.locked);
  line("VmPin", 0);
  line("VmHWM", std::max(m.peak_rss, m.rss));
  line("VmRSS", m.rss);
  line("RssAnon", m.rss_anon);
  line("RssFile", m.rss_file);
  line("RssShmem", m.rss_shmem);
  line("VmData", m.data);
  line("VmStk", m.stack);
  line("VmExe", m.text);
  line("VmLib", 0);
  line("VmPTE", (m.rss / abi::kPageSize * 8 + 4095) & ~uint64_t{4095});
  line("VmSwap", 0);
  line("HugetlbPages", 0);
  out.append("CoreDumping:\t0\nTHP_enabled:\t1\n");
}

void status_signals(const PidFileArgs& a, const kernel::TaskInfo& info, TextBuffer& out) {
  kernel::ThreadGroup& group = a.task.thread_group();
  const SignalSets sets = dispositions(group);
  uint32_t queued;
  {
    base::MutexLock lock(group.signal_mu);
    queued = group.queued_signals;
  }
  out.print("SigQ:\t{}/{}\n", queued, group.limit(creds::Resource::kSIGPENDING).soft);
  out.print("SigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
            info.pending.bits, group.shared_pending().bits, info.blocked.bits, sets.ignored.bits, sets.caught.bits);
}

std::string mask_text(uint64_t mask, unsigned cpus) {
  std::string list;
  for (unsigned i = 0; i < cpus;) {
    if (!((mask >> i) & 1)) {
      ++i;
      continue;
    }
    unsigned end = i;
    while (end + 1 < cpus && ((mask >> (end + 1)) & 1)) ++end;
    if (!list.empty()) list += ',';
    list += end == i ? fmt::format("{}", i) : fmt::format("{}-{}", i, end);
    i = end + 1;
  }
  return list;
}

void status_cpus(const PidFileArgs& a, const kernel::TaskInfo& info, TextBuffer& out) {
  const unsigned cpus = std::min(64u, cpu_count(a.task.kernel()));
  const uint64_t all = cpus == 64 ? ~uint64_t{0} : (uint64_t{1} << cpus) - 1;
  const uint64_t mask = info.affinity.empty() ? all : info.affinity[0] & all;
  out.print("Cpus_allowed:\t{:x}\nCpus_allowed_list:\t{}\n", mask, mask_text(mask, cpus));
  out.append("Mems_allowed:\t1\nMems_allowed_list:\t0\n");
  out.print("voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n", info.voluntary, info.involuntary);
}

// The numbers of `id` from the view down to its own namespace.
template <typename F>
void namespace_line(const char* name, const PidFileArgs& a, TextBuffer& out, F&& number_in) {
  std::vector<int32_t> numbers;
  for (const kernel::PidNamespace* ns = &a.task.pid_namespace(); ns; ns = ns->parent()) {
    numbers.push_back(number_in(*ns));
    if (ns == &a.ns) break;
  }
  out.print("{}:", name);
  for (auto it = numbers.rbegin(); it != numbers.rend(); ++it) out.print("\t{}", *it);
  out.append('\n');
}

Result<void> render_status(const PidFileArgs& a, TextBuffer& out) {
  kernel::ThreadGroup& group = a.task.thread_group();
  const kernel::TaskInfo info = kernel::task_info(a.task);
  RefPtr<kernel::FsContext> fs = a.task.fs_ref();
  out.print("Name:\t{}\n", printable_comm(info.comm));
  if (fs) out.print("Umask:\t{:04o}\n", fs->umask());
  out.print("State:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n",
            state_text(state_letter(a, info.state)), group.pid_in(a.ns).value(),
            a.is_thread ? a.task.tid_in(a.ns).value() : group.pid_in(a.ns).value(), group.parent_pid_in(a.ns).value());
  status_ids(a, out);
  namespace_line("NStgid", a, out, [&](const kernel::PidNamespace& ns) { return group.pid_in(ns).value(); });
  namespace_line("NSpid", a, out, [&](const kernel::PidNamespace& ns) { return a.task.tid_in(ns).value(); });
  namespace_line("NSpgid", a, out, [&](const kernel::PidNamespace& ns) { return group.pgid_in(ns).value(); });
  namespace_line("NSsid", a, out, [&](const kernel::PidNamespace& ns) { return group.sid_in(ns).value(); });
  status_memory(a, out);
  out.print("Threads:\t{}\n", group.thread_count());
  status_signals(a, info, out);
  creds::CredPtr c = a.task.credentials();
  out.print("CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n", c->inheritable,
            c->permitted, c->effective, c->bounding, c->ambient);
  out.print("NoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t{}\n", c->no_new_privs ? 1 : 0, info.seccomp_mode,
            info.seccomp_mode == 2 ? 1 : 0);
  out.append("Speculation_Store_Bypass:\tnot vulnerable\nSpeculationIndirectBranch:\tnot affected\n");
  status_cpus(a, info, out);
  return {};
}

Result<void> render_comm(const PidFileArgs& a, TextBuffer& out) {
  out.print("{}\n", a.task.comm());
  return {};
}

Result<void> store_comm(const PidFileArgs& a, std::string_view text) {
  // Only threads of the same process may rename: comm_write().
  if (!a.ctx.task() || &a.ctx.task()->thread_group() != &a.task.thread_group()) return err(kEINVAL);
  text = text.substr(0, text.find('\0'));
  if (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  a.task.set_comm(text.substr(0, 15));
  return {};
}

Result<void> render_wchan(const PidFileArgs& a, TextBuffer& out) {
  const char* channel = a.task.wait_channel();
  out.append(channel && *channel && check_task_access(a.ctx, a.task) ? channel : "0");
  return {};
}

Result<void> render_schedstat(const PidFileArgs& a, TextBuffer& out) {
  const kernel::TaskInfo info = kernel::task_info(a.task);
  out.print("{} 0 {}\n", info.user_ns + info.system_ns, info.voluntary + info.involuntary);
  return {};
}

Result<void> render_sched(const PidFileArgs& a, TextBuffer& out) {
  const kernel::TaskInfo info = kernel::task_info(a.task);
  out.print("{} ({}, #threads: {})\n", info.comm, a.task.tid_in(a.ns).value(), a.task.thread_group().thread_count());
  out.append("-------------------------------------------------------------------\n");
  auto line = [&](std::string_view name, uint64_t value) { out.print("{:<45}:{:21}\n", name, value); };
  auto time_line = [&](std::string_view name, int64_t ns) {
    out.print("{:<45}:{:14}.{:06}\n", name, ns / 1'000'000, ns % 1'000'000);
  };
  time_line("se.exec_start", info.start_monotonic_ns);
  time_line("se.sum_exec_runtime", info.user_ns + info.system_ns);
  line("nr_switches", info.voluntary + info.involuntary);
  line("nr_voluntary_switches", info.voluntary);
  line("nr_involuntary_switches", info.involuntary);
  line("policy", static_cast<uint64_t>(info.policy));
  line("prio", static_cast<uint64_t>(100 + priority_of(info)));
  return {};
}

Result<void> render_children(const PidFileArgs& a, TextBuffer& out) {
  for (const RefPtr<kernel::ThreadGroup>& child : a.task.thread_group().children())
    if (const int32_t pid = child->pid_in(a.ns).value(); pid > 0) out.print("{} ", pid);
  return {};
}

Result<void> render_personality(const PidFileArgs& a, TextBuffer& out) {
  out.print("{:08x}\n", kernel::task_info(a.task).personality);
  return {};
}

Result<void> render_stack(const PidFileArgs&, TextBuffer&) { return {}; }

Result<void> render_timer_slack(const PidFileArgs& a, TextBuffer& out) {
  out.print("{}\n", kernel::task_info(a.task).timer_slack_ns);
  return {};
}
Result<void> store_timer_slack(const PidFileArgs& a, std::string_view text) {
  const int64_t ns = TRY(parse_integer(text));
  if (ns < 0) return err(kEINVAL);
  if (a.ctx.task() != &a.task && !a.ctx.creds().has_cap(creds::Cap::kSYS_NICE)) return err(kEPERM);
  kernel::set_timer_slack(a.task, static_cast<uint64_t>(ns));
  return {};
}

constexpr PidFileRow kRows[] = {
    {.name = "stat", .mode = 0444, .render = render_stat},
    {.name = "statm", .mode = 0444, .render = render_statm},
    {.name = "status", .mode = 0444, .render = render_status},
    {.name = "comm", .mode = 0644, .render = render_comm, .store = store_comm},
    {.name = "wchan", .mode = 0444, .render = render_wchan},
    {.name = "schedstat", .mode = 0444, .render = render_schedstat},
    {.name = "sched", .mode = 0644, .render = render_sched},
    {.name = "children", .mode = 0444, .render = render_children, .thread_only = true},
    {.name = "personality", .mode = 0400, .render = render_personality, .guarded = Guarded::kYes},
    {.name = "stack", .mode = 0400, .render = render_stack, .guarded = Guarded::kYes},
    {.name = "timerslack_ns", .mode = 0666, .render = render_timer_slack, .store = store_timer_slack, .process_only = true},
};

}  // namespace

std::span<const PidFileRow> pid_status_files() { return kRows; }

}  // namespace sentry::fs
