// SPDX-License-Identifier: Apache-2.0
// Scheduling calls: sched(7). Executors and the host schedule; policies and nice values are kept, checked and shown as
// Linux would, and affinity is kept within the CPUs of the sandbox.
#include <algorithm>

#include <sched.h>

#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using creds::Cap;

namespace {

constexpr int32_t kOther = 0, kFifo = 1, kRr = 2, kBatch = 3, kIdle = 5, kDeadline = 6;
constexpr int32_t kResetOnFork = 0x40000000;
constexpr int32_t kMaxRt = 99;

Result<RefPtr<Task>> find(Task& task, int32_t pid) {
  if (pid < 0) return err(kEINVAL);
  if (pid == 0) return RefPtr<Task>(&task);
  RefPtr<Task> target = task.pid_namespace().find_task(Tid(pid));
  if (!target) return err(kESRCH);
  return target;
}

bool may_change(Task& task, Task& target) {
  const creds::CredPtr mine = task.credentials(), theirs = target.credentials();
  return mine->euid == theirs->uid || mine->euid == theirs->euid || mine->has_cap_in(Cap::kSYS_NICE, *theirs->user_ns);
}

Result<void> check_policy(Task& task, Task& target, int32_t policy, int32_t priority) {
  if (policy == kFifo || policy == kRr) {
    if (priority < 1 || priority > kMaxRt) return err(kEINVAL);
    const uint64_t limit = target.thread_group().limit(creds::Resource::kRTPRIO).soft;
    if (!task.creds().has_cap(Cap::kSYS_NICE) && static_cast<uint64_t>(priority) > limit) return err(kEPERM);
  } else if (policy == kOther || policy == kBatch || policy == kIdle) {
    if (priority != 0) return err(kEINVAL);
  } else {
    return err(kEINVAL);
  }
  return may_change(task, target) ? Result<void>{} : err(kEPERM);
}

}  // namespace

Result<void> sys_sched_yield(Task& task) {
  task.kernel().scheduler().yield();
  return {};
}

Result<void> sys_sched_setscheduler(Task& task, int32_t pid, int32_t policy, UserIn<int32_t> param) {
  if (policy < 0 || param.is_null()) return err(kEINVAL);
  const int32_t priority = TRY(task.read(param));
  auto target = TRY(find(task, pid));
  const int32_t base_policy = policy & ~kResetOnFork;
  TRY(check_policy(task, *target, base_policy, priority));
  target->sched.with([&](auto& s) {
    s.policy = base_policy;
    s.priority = priority;
    s.reset_on_fork = (policy & kResetOnFork) != 0;
  });
  return {};
}

Result<int32_t> sys_sched_getscheduler(Task& task, int32_t pid) {
  auto target = TRY(find(task, pid));
  return target->sched.with([](auto& s) { return s.policy | (s.reset_on_fork ? kResetOnFork : 0); });
}

Result<void> sys_sched_setparam(Task& task, int32_t pid, UserIn<int32_t> param) {
  if (param.is_null() || pid < 0) return err(kEINVAL);
  const int32_t priority = TRY(task.read(param));
  auto target = TRY(find(task, pid));
  TRY(check_policy(task, *target, target->sched.with([](auto& s) { return s.policy; }), priority));
  target->sched.with([&](auto& s) { s.priority = priority; });
  return {};
}

Result<void> sys_sched_getparam(Task& task, int32_t pid, UserOut<int32_t> param) {
  if (param.is_null() || pid < 0) return err(kEINVAL);
  auto target = TRY(find(task, pid));
  return task.write(param, target->sched.with([](auto& s) { return s.priority; }));
}

Result<int32_t> sys_sched_get_priority_max(Task&, int32_t policy) {
  if (policy == kFifo || policy == kRr) return kMaxRt;
  if (policy == kOther || policy == kBatch || policy == kIdle || policy == kDeadline) return 0;
  return err(kEINVAL);
}

Result<int32_t> sys_sched_get_priority_min(Task&, int32_t policy) {
  if (policy == kFifo || policy == kRr) return 1;
  if (policy == kOther || policy == kBatch || policy == kIdle || policy == kDeadline) return 0;
  return err(kEINVAL);
}

Result<void> sys_sched_rr_get_interval(Task& task, int32_t pid, UserOut<abi::TimeSpec64> out) {
  auto target = TRY(find(task, pid));
  const bool rr = target->sched.with([](auto& s) { return s.policy == kRr; });
  return task.write(out, abi::TimeSpec64{0, rr ? 100'000'000 : 4'000'000});
}

struct SchedAttr {
  uint32_t size = 48, policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;
};
static_assert(sizeof(SchedAttr) == 48);

Result<void> sys_sched_setattr(Task& task, int32_t pid, UserIn<SchedAttr> in, uint32_t flags) {
  if (in.is_null() || pid < 0 || flags != 0) return err(kEINVAL);
  const SchedAttr attr = TRY(task.read(in));
  if (attr.size < 48) return err(kEINVAL);
  auto target = TRY(find(task, pid));
  if (attr.policy == kDeadline) return err(kEPERM);
  TRY(check_policy(task, *target, static_cast<int32_t>(attr.policy), static_cast<int32_t>(attr.priority)));
  target->sched.with([&](auto& s) {
    s.policy = static_cast<int32_t>(attr.policy);
    s.priority = static_cast<int32_t>(attr.priority);
    if (attr.policy == kOther || attr.policy == kBatch) s.nice = std::clamp(attr.nice, -20, 19);
    s.reset_on_fork = (attr.flags & 1) != 0;
  });
  return {};
}

Result<void> sys_sched_getattr(Task& task, int32_t pid, UserOut<SchedAttr> out, uint32_t size, uint32_t flags) {
  if (out.is_null() || pid < 0 || size < 48 || size > abi::kPageSize || flags != 0) return err(kEINVAL);
  auto target = TRY(find(task, pid));
  SchedAttr attr;
  target->sched.with([&](auto& s) {
    attr.policy = static_cast<uint32_t>(s.policy);
    attr.priority = static_cast<uint32_t>(s.priority);
    attr.nice = s.nice;
    attr.flags = s.reset_on_fork ? 1 : 0;
  });
  return task.write(out, attr);
}

Result<void> sys_sched_setaffinity(Task& task, int32_t pid, uint32_t length, Addr mask) {
  uint64_t bits[16] = {};
  TRY(task.user_memory().copy_in(bits, mask, std::min<size_t>(length, sizeof bits)));
  auto target = TRY(find(task, pid));
  if (!may_change(task, *target)) return err(kEPERM);
  const unsigned cpus = std::min(task.kernel().config().executors, 1024u);
  uint64_t kept[16] = {};
  bool any = false;
  for (unsigned cpu = 0; cpu < cpus; ++cpu) {
    if (!(bits[cpu / 64] >> (cpu % 64) & 1)) continue;
    kept[cpu / 64] |= uint64_t{1} << (cpu % 64);
    any = true;
  }
  if (!any) return err(kEINVAL);
  target->sched.with([&](auto& s) { std::copy(kept, kept + 16, s.affinity); });
  return {};
}

Result<uint32_t> sys_sched_getaffinity(Task& task, int32_t pid, uint32_t length, Addr mask) {
  const unsigned cpus = std::min(task.kernel().config().executors, 1024u);
  if (length * 8 < cpus || (length & 7) != 0) return err(kEINVAL);
  auto target = TRY(find(task, pid));
  uint64_t bits[16] = {};
  target->sched.with([&](auto& s) { std::copy(s.affinity, s.affinity + 16, bits); });
  if (std::all_of(bits, bits + 16, [](uint64_t b) { return b == 0; }))
    for (unsigned cpu = 0; cpu < cpus; ++cpu) bits[cpu / 64] |= uint64_t{1} << (cpu % 64);
  // The kernel's cpumask: enough longs for the CPUs that there can be.
  const uint32_t n = std::min<uint32_t>(length, (cpus + 63) / 64 * 8);
  TRY(task.user_memory().copy_out(mask, bits, n));
  return n;
}

// The vDSO, which programs ask first, tells the CPU that the host runs the thread on. The executor that handles this call is
// tied to that CPU, or near it.
Result<void> sys_getcpu(Task& task, UserOut<uint32_t> cpu, UserOut<uint32_t> node, Addr) {
  TRY(task.write_if(cpu, static_cast<uint32_t>(std::max(::sched_getcpu(), 0))));
  return task.write_if(node, 0u);
}

namespace {

constexpr int32_t kPrioProcess = 0, kPrioGroup = 1, kPrioUser = 2;

// f(Task&) for every thread that `which` and `who` name; false when there is none.
bool for_each_target(Task& task, int32_t which, int32_t who, base::FunctionRef<void(Task&)> f) {
  if (which == kPrioProcess) {
    auto target = find(task, who);
    if (target) f(**target);
    return target.has_value();
  }
  bool any = false;
  auto& ns = task.pid_namespace();
  const Pid group = who == 0 ? task.thread_group().pgid_in(ns) : Pid(who);
  std::optional<abi::KUid> uid = task.creds().uid;
  if (which == kPrioUser && who != 0) uid = task.creds().user_ns->map_uid(abi::Uid(static_cast<uint32_t>(who)));
  for (const auto& process : ns.groups()) {
    if (which == kPrioGroup && process->pgid_in(ns) != group) continue;
    for (const auto& thread : process->tasks()) {
      if (which == kPrioUser && (!uid || thread->credentials()->uid != *uid)) continue;
      f(*thread);
      any = true;
    }
  }
  return any;
}

}  // namespace

Result<int32_t> sys_getpriority(Task& task, int32_t which, int32_t who) {
  if (which < kPrioProcess || which > kPrioUser) return err(kEINVAL);
  int32_t best = 20;
  if (!for_each_target(task, which, who, [&](Task& t) { best = std::min(best, t.sched.with([](auto& s) { return s.nice; })); }))
    return err(kESRCH);
  return 20 - best;  // 1..40, so that an error can be told from it
}

Result<void> sys_setpriority(Task& task, int32_t which, int32_t who, int32_t nice) {
  if (which < kPrioProcess || which > kPrioUser) return err(kEINVAL);
  nice = std::clamp(nice, -20, 19);
  Result<void> result{};
  const bool any = for_each_target(task, which, who, [&](Task& t) {
    const int32_t now = t.sched.with([](auto& s) { return s.nice; });
    const uint64_t limit = t.thread_group().limit(creds::Resource::kNICE).soft;
    if (!may_change(task, t)) {
      result = err(kEPERM);
    } else if (nice < now && !task.creds().has_cap(Cap::kSYS_NICE) && static_cast<uint64_t>(20 - nice) > limit) {
      result = err(kEACCES);
    } else {
      t.sched.with([&](auto& s) { s.nice = nice; });
    }
  });
  return any ? result : err(kESRCH);
}

Result<int32_t> sys_ioprio_get(Task& task, int32_t which, int32_t who) {
  if (which < 1 || which > 3) return err(kEINVAL);
  if (which == 1) TRY(find(task, who));
  return task.sched.with([](auto& s) { return s.io_priority; });
}

Result<void> sys_ioprio_set(Task& task, int32_t which, int32_t who, int32_t value) {
  const int32_t io_class = value >> 13, level = value & 0x1fff;
  if (which < 1 || which > 3 || io_class > 3 || (io_class != 0 && level > 7) || (io_class == 0 && level != 0)) return err(kEINVAL);
  if (io_class == 1 && !task.creds().has_cap(Cap::kSYS_ADMIN) && !task.creds().has_cap(Cap::kSYS_NICE)) return err(kEPERM);
  auto target = TRY(find(task, which == 1 ? who : 0));
  target->sched.with([&](auto& s) { s.io_priority = value; });
  return {};
}

SYSCALL_FAMILY(sched) = {
    ROW(sched_yield, kFull, ""),
    ROW(sched_setscheduler, kPartial, "kept and shown, without effect on the order of execution"),
    ROW(sched_getscheduler, kFull, ""),
    ROW(sched_setparam, kPartial, "as sched_setscheduler"),
    ROW(sched_getparam, kFull, ""),
    ROW(sched_get_priority_max, kFull, ""),
    ROW(sched_get_priority_min, kFull, ""),
    ROW(sched_rr_get_interval, kFull, ""),
    ROW(sched_setattr, kPartial, "as sched_setscheduler; no SCHED_DEADLINE"),
    ROW(sched_getattr, kFull, ""),
    ROW(sched_setaffinity, kPartial, "kept and shown, without effect on placement"),
    ROW(sched_getaffinity, kFull, ""),
    ROW(getcpu, kPartial, "of the thread that handles the call"),
    ROW(getpriority, kFull, ""),
    ROW(setpriority, kPartial, "kept and shown, without effect on the order of execution"),
    ROW(ioprio_get, kFull, ""),
    ROW(ioprio_set, kPartial, "kept and shown"),
};
SYSCALL_FAMILY_END(sched);

}  // namespace sentry::syscalls
