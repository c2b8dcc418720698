// SPDX-License-Identifier: Apache-2.0
// System V semaphores: semget(2), semop(2), semctl(2). One lock per IPC namespace; a set's waiters try again whenever it
// changes.
#include <algorithm>

#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/sysv_ipc.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

constexpr int32_t kGetPid = 11, kGetVal = 12, kGetAll = 13, kGetNcnt = 14, kGetZcnt = 15, kSetVal = 16, kSetAll = 17, kSemStat = 18,
                  kSemInfo = 19, kSemStatAny = 20;
constexpr size_t kMaxSets = 32000, kMaxPerSet = 32000, kMaxOps = 500;
constexpr int32_t kMaxValue = 32767;
constexpr size_t kMaxSemaphores = 1 << 16;  // of a namespace, all sets together: bounds our memory
constexpr uint16_t kSemUndo = 0x1000;

struct SemBuf {
  uint16_t number = 0;
  int16_t op = 0;
  int16_t flags = 0;
};
static_assert(sizeof(SemBuf) == 6);

struct SemidDs {
  sysv::PermAbi perm;
  int64_t otime = 0;
  uint64_t unused1 = 0;
  int64_t ctime = 0;
  uint64_t unused2 = 0, nsems = 0, unused3 = 0, unused4 = 0;
};
static_assert(sizeof(SemidDs) == 104);

struct SemInfoAbi {
  int32_t semmap = 1024000000, semmni = kMaxSets, semmns = 1024000000, semmnu = 1024000000, semmsl = kMaxPerSet, semopm = kMaxOps,
          semume = kMaxOps, semusz = 20, semvmx = kMaxValue, semaem = kMaxValue;
};

struct Semaphore {
  int32_t value = 0, pid = 0;
  uint32_t waiting_up = 0, waiting_zero = 0;
};

struct SemSet final : public base::RefCounted {
  int32_t id = 0;  // set with perm when it is registered; the rest: the registry's lock
  sysv::Perm perm;
  std::vector<Semaphore> sems;
  int64_t otime = 0, ctime = 0;
  bool removed = false;
  vfs::WaitQueue changed;
  // What a process's exit gives back.
  std::map<const kernel::ThreadGroup*, std::vector<int32_t>> undo;
};

struct SemState {
  sysv::Objects<SemSet> sets;
  size_t total = 0;
};

struct SemRegistry final : public base::RefCounted {
  base::Mutex mu{base::LockRank::kPipe};
  SemState state GUARDED_BY(mu);
};

RefPtr<SemRegistry> registry_of(Task& task) {
  return task.namespaces()->ipc->objects.with([](auto& o) {
    if (!o.semaphores) o.semaphores = base::make_ref<SemRegistry>();
    return RefPtr<SemRegistry>(static_cast<SemRegistry*>(o.semaphores.get()));
  });
}

// At the process's end, on its last thread.
void apply_undo(SemRegistry& r, const kernel::ThreadGroup* group, int32_t pid) {
  base::MutexLock lock(r.mu);
  for (auto& [id, set] : r.state.sets.by_id) {
    auto it = set->undo.find(group);
    if (it == set->undo.end()) continue;
    for (size_t i = 0; i < set->sems.size(); ++i) {
      if (it->second[i] == 0) continue;
      set->sems[i].value = std::clamp(set->sems[i].value + it->second[i], 0, kMaxValue);
      set->sems[i].pid = pid;
    }
    set->undo.erase(it);
    set->changed.notify(vfs::kPollIn);
  }
}

std::vector<int32_t>& undo_of(Task& task, RefPtr<SemRegistry> r, SemSet& set) {
  const kernel::ThreadGroup* group = &task.thread_group();
  auto [it, fresh] = set.undo.try_emplace(group, std::vector<int32_t>(set.sems.size()));
  if (fresh) task.thread_group().add_exit_hook([r, group](int32_t pid) { apply_undo(*r, group, pid); });
  return it->second;
}

// All of the operations or none. The index of the one that has to wait, or -1; ERANGE.
Result<int32_t> try_operations(SemSet& set, const std::vector<SemBuf>& ops) {
  std::vector<std::pair<size_t, int32_t>> before;
  const auto roll_back = [&] {
    for (size_t i = before.size(); i > 0; --i) set.sems[before[i - 1].first].value = before[i - 1].second;
  };
  for (size_t i = 0; i < ops.size(); ++i) {
    Semaphore& s = set.sems[ops[i].number];
    const int32_t next = s.value + ops[i].op;
    if ((ops[i].op == 0 && s.value != 0) || next < 0) {
      roll_back();
      return static_cast<int32_t>(i);
    }
    if (next > kMaxValue) {
      roll_back();
      return err(kERANGE);
    }
    before.emplace_back(ops[i].number, s.value);
    s.value = next;
  }
  return -1;
}

void finish_operations(Task& task, const RefPtr<SemRegistry>& r, SemSet& set, const std::vector<SemBuf>& ops) {
  for (const SemBuf& op : ops) {
    set.sems[op.number].pid = task.pid().value();
    if ((op.flags & kSemUndo) && op.op != 0) undo_of(task, r, set)[op.number] -= op.op;
  }
  set.otime = task.now_realtime() / 1'000'000'000;
  set.changed.notify(vfs::kPollIn);
}

Result<void> do_semop(Task& task, int32_t id, const std::vector<SemBuf>& ops, vfs::Deadline deadline) {
  RefPtr<SemRegistry> r = registry_of(task);
  RefPtr<SemSet> set;
  {
    base::MutexLock lock(r->mu);
    set = r->state.sets.find(id);
    if (!set) return err(kEINVAL);
    const bool alters = std::any_of(ops.begin(), ops.end(), [](const SemBuf& o) { return o.op != 0; });
    for (const SemBuf& op : ops) {
      if (op.number >= set->sems.size()) return err(kEFBIG);
    }
    TRY(set->perm.check(task.creds(), alters ? 2 : 4));
  }
  vfs::TaskWaiter waiter(task);
  set->changed.add(waiter, vfs::kPollAll);
  Result<void> result;
  for (;;) {
    int32_t waits_for = -1;
    {
      base::MutexLock lock(r->mu);
      if (set->removed) {
        result = err(kEIDRM);
        break;
      }
      Result<int32_t> tried = try_operations(*set, ops);
      if (!tried) {
        result = err(tried.error());
        break;
      }
      waits_for = *tried;
      if (waits_for < 0) {
        finish_operations(task, r, *set, ops);
        break;
      }
      if (ops[static_cast<size_t>(waits_for)].flags & static_cast<int16_t>(sysv::kNoWait)) {
        result = err(kEAGAIN);
        break;
      }
      Semaphore& s = set->sems[ops[static_cast<size_t>(waits_for)].number];
      ++(ops[static_cast<size_t>(waits_for)].op == 0 ? s.waiting_zero : s.waiting_up);
    }
    const vfs::WakeReason why = task.block(deadline);
    {
      base::MutexLock lock(r->mu);
      Semaphore& s = set->sems[ops[static_cast<size_t>(waits_for)].number];
      --(ops[static_cast<size_t>(waits_for)].op == 0 ? s.waiting_zero : s.waiting_up);
    }
    if (why == vfs::WakeReason::kWoken) continue;
    result = err(why == vfs::WakeReason::kTimedOut ? kEAGAIN : kEINTR);
    break;
  }
  set->changed.remove(waiter);
  return result;
}

}  // namespace

Result<int32_t> sys_semget(Task& task, int32_t key, int32_t count, uint32_t flags) {
  if (count < 0 || static_cast<size_t>(count) > kMaxPerSet) return err(kEINVAL);
  RefPtr<SemRegistry> r = registry_of(task);
  base::MutexLock lock(r->mu);
  SemState& state = r->state;
  return state.sets.get(
      task, key, flags, kMaxSets,
      [&](const SemSet& s) -> Result<void> {
        if (static_cast<size_t>(count) > s.sems.size()) return err(kEINVAL);
        return {};
      },
      [&]() -> Result<RefPtr<SemSet>> {
        if (count == 0) return err(kEINVAL);
        r->mu.assert_held();
        if (state.total + static_cast<size_t>(count) > kMaxSemaphores) return err(kENOSPC);
        state.total += static_cast<size_t>(count);
        auto set = base::make_ref<SemSet>();
        set->sems.resize(static_cast<size_t>(count));
        set->ctime = task.now_realtime() / 1'000'000'000;
        return set;
      });
}

Result<void> sys_semtimedop(Task& task, int32_t id, UserIn<SemBuf> ops, uint64_t count, UserIn<abi::TimeSpec64> timeout) {
  if (count < 1 || id < 0) return err(kEINVAL);
  if (count > kMaxOps) return err(kE2BIG);
  const std::vector<SemBuf> list = TRY(task.read_array(ops, count));
  vfs::Deadline deadline;
  if (!timeout.is_null()) {
    const abi::TimeSpec64 ts = TRY(task.read(timeout));
    if (!ts.is_valid()) return err(kEINVAL);
    deadline = task.now_monotonic() + std::min<int64_t>(ts.sec, 4'000'000'000) * 1'000'000'000 + ts.nsec;
  }
  return do_semop(task, id, list, deadline);
}

Result<void> sys_semop(Task& task, int32_t id, UserIn<SemBuf> ops, uint64_t count) {
  return sys_semtimedop(task, id, ops, count, UserIn<abi::TimeSpec64>());
}

namespace {

SemidDs describe(Task& task, const SemSet& s) {
  SemidDs ds;
  ds.perm = s.perm.to_abi(*task.creds().user_ns, s.id);
  ds.otime = s.otime;
  ds.ctime = s.ctime;
  ds.nsems = s.sems.size();
  return ds;
}

void forget_undo(SemSet& s, size_t number) {
  for (auto& [group, values] : s.undo) values[number] = 0;
}

Result<int32_t> stat_set(Task& task, SemRegistry& r, int32_t id, int32_t command, Addr arg) {
  SemidDs ds;
  int32_t result = 0;
  {
    base::MutexLock lock(r.mu);
    RefPtr<SemSet> s = r.state.sets.find(id);
    if (command != sysv::kStat) {  // by index
      size_t index = static_cast<size_t>(id);
      s = nullptr;
      for (const auto& [set_id, set] : r.state.sets.by_id) {
        if (index-- == 0) s = set;
      }
      if (s) result = s->id;
    }
    if (!s) return err(kEINVAL);
    if (command != kSemStatAny) TRY(s->perm.check(task.creds(), 4));
    ds = describe(task, *s);
  }
  TRY(task.write(UserOut<SemidDs>(arg), ds));
  return result;
}

Result<int32_t> all_values(Task& task, SemRegistry& r, int32_t id, bool set_them, Addr arg) {
  size_t n = 0;
  {
    base::MutexLock lock(r.mu);
    RefPtr<SemSet> s = r.state.sets.find(id);
    if (!s) return err(kEINVAL);
    TRY(s->perm.check(task.creds(), set_them ? 2 : 4));
    n = s->sems.size();
  }
  std::vector<uint16_t> values(n);
  if (set_them) {
    values = TRY(task.read_array(UserIn<uint16_t>(arg), n));
    for (uint16_t v : values) {
      if (v > kMaxValue) return err(kERANGE);
    }
  }
  {
    base::MutexLock lock(r.mu);
    RefPtr<SemSet> s = r.state.sets.find(id);
    if (!s || s->sems.size() != n) return err(kEIDRM);
    for (size_t i = 0; i < n; ++i) {
      if (set_them) {
        s->sems[i].value = values[i];
        s->sems[i].pid = task.pid().value();
        forget_undo(*s, i);
      } else {
        values[i] = static_cast<uint16_t>(s->sems[i].value);
      }
    }
    if (set_them) {
      s->ctime = task.now_realtime() / 1'000'000'000;
      s->changed.notify(vfs::kPollIn);
    }
  }
  if (!set_them) TRY(task.user_memory().write_array(UserOut<uint16_t>(arg), std::span<const uint16_t>(values)));
  return 0;
}

Result<int32_t> one_value(Task& task, SemRegistry& r, int32_t id, int32_t number, int32_t command, uint64_t arg) {
  base::MutexLock lock(r.mu);
  RefPtr<SemSet> s = r.state.sets.find(id);
  if (!s) return err(kEINVAL);
  TRY(s->perm.check(task.creds(), command == kSetVal ? 2 : 4));
  if (number < 0 || static_cast<size_t>(number) >= s->sems.size()) return err(kEINVAL);
  Semaphore& sem = s->sems[static_cast<size_t>(number)];
  switch (command) {
    case kGetVal: return sem.value;
    case kGetPid: return sem.pid;
    case kGetNcnt: return static_cast<int32_t>(sem.waiting_up);
    case kGetZcnt: return static_cast<int32_t>(sem.waiting_zero);
    default: break;
  }
  const auto value = static_cast<int32_t>(arg);
  if (value < 0 || value > kMaxValue) return err(kERANGE);
  sem.value = value;
  sem.pid = task.pid().value();
  forget_undo(*s, static_cast<size_t>(number));
  s->ctime = task.now_realtime() / 1'000'000'000;
  s->changed.notify(vfs::kPollIn);
  return 0;
}

Result<int32_t> change_set(Task& task, SemRegistry& r, int32_t id, int32_t command, Addr arg) {
  SemidDs ds;
  if (command == sysv::kSet) ds = TRY(task.read(UserIn<SemidDs>(arg)));
  base::MutexLock lock(r.mu);
  RefPtr<SemSet> s = r.state.sets.find(id);
  if (!s) return err(kEINVAL);
  TRY(s->perm.check_owner(task.creds()));
  if (command == sysv::kSet) {
    TRY(s->perm.set(*task.creds().user_ns, ds.perm));
    s->ctime = task.now_realtime() / 1'000'000'000;
    return 0;
  }
  s->removed = true;
  r.state.total -= s->sems.size();
  r.state.sets.by_id.erase(id);
  s->changed.notify(vfs::kPollIn);
  return 0;
}

}  // namespace

Result<int32_t> sys_semctl(Task& task, int32_t id, int32_t number, int32_t command, uint64_t arg) {
  if (id < 0) return err(kEINVAL);
  RefPtr<SemRegistry> r = registry_of(task);
  switch (command & ~0x100) {  // IPC_64 is what x86-64 has anyway
    case sysv::kInfo:
    case kSemInfo: {
      SemInfoAbi info;
      int32_t last = 0;
      {
        base::MutexLock lock(r->mu);
        if (command == kSemInfo) {
          info.semusz = static_cast<int32_t>(r->state.sets.by_id.size());
          info.semaem = static_cast<int32_t>(r->state.total);
        }
        last = r->state.sets.by_id.empty() ? 0 : static_cast<int32_t>(r->state.sets.by_id.size()) - 1;
      }
      TRY(task.write(UserOut<SemInfoAbi>(Addr(arg)), info));
      return last;
    }
    case sysv::kStat:
    case kSemStat:
    case kSemStatAny: return stat_set(task, *r, id, command & ~0x100, Addr(arg));
    case kGetAll: return all_values(task, *r, id, false, Addr(arg));
    case kSetAll: return all_values(task, *r, id, true, Addr(arg));
    case kGetVal: case kGetPid: case kGetNcnt: case kGetZcnt: case kSetVal: return one_value(task, *r, id, number, command & ~0x100, arg);
    case sysv::kSet:
    case sysv::kRmid: return change_set(task, *r, id, command & ~0x100, Addr(arg));
    default: return err(kEINVAL);
  }
}

SYSCALL_FAMILY(sem) = {
    ROW(semctl, kFull, ""),
    ROW(semget, kFull, ""),
    ROW(semop, kFull, ""),
    ROW(semtimedop, kFull, ""),
};
SYSCALL_FAMILY_END(sem);

}  // namespace sentry::syscalls
