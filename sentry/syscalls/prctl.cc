// SPDX-License-Identifier: Apache-2.0
// prctl(2), arch_prctl(2), personality(2).
#include <cstring>

#include "sentry/kernel/task_info.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using creds::Cap;
using creds::Credentials;

namespace {

// uapi/linux/prctl.h
enum : int32_t {
  kSetPdeathsig = 1, kGetPdeathsig = 2, kGetDumpable = 3, kSetDumpable = 4, kGetKeepCaps = 7, kSetKeepCaps = 8,
  kGetTiming = 13, kSetTiming = 14, kSetName = 15, kGetName = 16, kGetSeccomp = 21, kSetSeccomp = 22, kCapbsetRead = 23,
  kCapbsetDrop = 24, kGetTsc = 25, kSetTsc = 26, kGetSecurebits = 27, kSetSecurebits = 28, kSetTimerslack = 29,
  kGetTimerslack = 30, kMceKill = 33, kSetMm = 35, kSetChildSubreaper = 36, kGetChildSubreaper = 37, kSetNoNewPrivs = 38,
  kGetNoNewPrivs = 39, kGetTidAddress = 40, kSetThpDisable = 41, kGetThpDisable = 42, kCapAmbient = 47,
  kGetSpeculation = 52, kSetSpeculation = 53, kSetIoFlusher = 57, kSetVma = 0x53564d41,
};
constexpr uint32_t kSecureKeepCaps = 1u << 4, kSecureNoCapAmbientRaise = 1u << 6, kSecureAll = 0xff, kSecureLocks = 0xaa;

struct Args4 {
  uint64_t a2, a3, a4, a5;
  bool rest_zero(int from) const {
    return (from > 3 || a3 == 0) && (from > 4 || a4 == 0) && a5 == 0 && (from != 2 || a2 == 0);
  }
};

RefPtr<Credentials> prepare(Task& task) { return base::make_ref<Credentials>(*task.credentials()); }

Result<int64_t> set_name(Task& task, Addr addr) {
  char name[16] = {};
  // strncpy_from_user of 15 bytes: a shorter string may end right before an unmapped page.
  for (size_t i = 0; i < sizeof name - 1; ++i) {
    TRY(task.user_memory().copy_in(&name[i], addr + i, 1));
    if (name[i] == '\0') break;
  }
  task.set_comm(name);
  return 0;
}

Result<int64_t> get_name(Task& task, Addr addr) {
  char name[16] = {};
  task.comm().copy(name, sizeof name - 1);
  TRY(task.user_memory().copy_out(addr, name, sizeof name));
  return 0;
}

Result<int64_t> set_keep_caps(Task& task, const Args4& a) {
  if (a.a2 > 1) return err(kEINVAL);
  auto next = prepare(task);
  if (next->securebits & (kSecureKeepCaps << 1)) return err(kEPERM);
  next->securebits = a.a2 ? next->securebits | kSecureKeepCaps : next->securebits & ~kSecureKeepCaps;
  task.set_credentials(std::move(next));
  return 0;
}

Result<int64_t> drop_bounding(Task& task, uint64_t cap) {
  if (cap > static_cast<uint64_t>(Cap::kLast)) return err(kEINVAL);
  if (!task.creds().has_cap(Cap::kSETPCAP)) return err(kEPERM);
  auto next = prepare(task);
  next->bounding &= ~(creds::CapSet{1} << cap);
  task.set_credentials(std::move(next));
  return 0;
}

// cap_prctl_drop() and the securebits part of cap_task_prctl().
Result<int64_t> set_securebits(Task& task, uint64_t bits) {
  auto next = prepare(task);
  const uint32_t old = next->securebits;
  const bool unlocks = ((old & kSecureLocks) >> 1 & (old ^ static_cast<uint32_t>(bits))) != 0 ||
                       ((old & kSecureLocks) & ~bits) != 0;
  if (unlocks || (bits & ~uint64_t{kSecureAll}) != 0 || !next->has_cap(Cap::kSETPCAP)) return err(kEPERM);
  next->securebits = static_cast<uint32_t>(bits);
  task.set_credentials(std::move(next));
  return 0;
}

Result<int64_t> cap_ambient(Task& task, const Args4& a) {
  constexpr uint64_t kIsSet = 1, kRaise = 2, kLower = 3, kClearAll = 4;
  if (a.a4 != 0 || a.a5 != 0) return err(kEINVAL);
  auto next = prepare(task);
  if (a.a2 == kClearAll) {
    if (a.a3 != 0) return err(kEINVAL);
    next->ambient = 0;
    task.set_credentials(std::move(next));
    return 0;
  }
  if (a.a3 > static_cast<uint64_t>(Cap::kLast)) return err(kEINVAL);
  const creds::CapSet bit = creds::CapSet{1} << a.a3;
  if (a.a2 == kIsSet) return (next->ambient & bit) != 0;
  if (a.a2 == kRaise) {
    if (!(next->permitted & bit) || !(next->inheritable & bit) || (next->securebits & kSecureNoCapAmbientRaise)) return err(kEPERM);
    next->ambient |= bit;
  } else if (a.a2 == kLower) {
    next->ambient &= ~bit;
  } else {
    return err(kEINVAL);
  }
  task.set_credentials(std::move(next));
  return 0;
}

Result<int64_t> set_no_new_privs(Task& task, const Args4& a) {
  if (a.a2 != 1 || !a.rest_zero(3)) return err(kEINVAL);
  auto next = prepare(task);
  next->no_new_privs = true;
  task.set_credentials(std::move(next));
  return 0;
}

Result<int64_t> set_dumpable(Task& task, uint64_t v) {
  if (v > 1) return err(kEINVAL);
  task.mm().set_dumpable(v == 1);
  return 0;
}

// Descendants remember that there is a subreaper above them: propagate_has_child_subreaper() of kernel/sys.c.
void mark_descendants_locked(kernel::ThreadGroup& group) {
  for (kernel::ThreadGroup* child : group.child_groups) {
    if (child->has_child_subreaper || child->is_child_subreaper) continue;
    child->has_child_subreaper = true;
    mark_descendants_locked(*child);
  }
}

void set_child_subreaper(kernel::ThreadGroup& group, bool on) {
  base::MutexLock lock(group.set().mu);
  group.is_child_subreaper = on;
  if (on) mark_descendants_locked(group);
}

bool is_child_subreaper(kernel::ThreadGroup& group) {
  base::MutexLock lock(group.set().mu);
  return group.is_child_subreaper;
}

Result<int64_t> write_int(Task& task, uint64_t addr, int32_t v) {
  TRY(task.write(UserOut<int32_t>(Addr(addr)), v));
  return 0;
}

Result<int64_t> prctl_credentials(Task& task, int32_t option, const Args4& a) {
  switch (option) {
    case kGetKeepCaps: return (task.creds().securebits & kSecureKeepCaps) != 0;
    case kSetKeepCaps: return set_keep_caps(task, a);
    case kCapbsetRead:
      if (a.a2 > static_cast<uint64_t>(Cap::kLast)) return err(kEINVAL);
      return (task.creds().bounding >> a.a2) & 1;
    case kCapbsetDrop: return drop_bounding(task, a.a2);
    case kGetSecurebits: return task.creds().securebits;
    case kSetSecurebits: return set_securebits(task, a.a2);
    case kCapAmbient: return cap_ambient(task, a);
    case kSetNoNewPrivs: return set_no_new_privs(task, a);
    case kGetNoNewPrivs: return a.rest_zero(2) ? Result<int64_t>(task.creds().no_new_privs) : err(kEINVAL);
    default: return err(kEINVAL);
  }
}

}  // namespace

Result<int64_t> sys_prctl(Task& task, int32_t option, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5) {
  const Args4 a{a2, a3, a4, a5};
  switch (option) {
    case kSetPdeathsig:
      if (a2 > abi::kNSIG) return err(kEINVAL);
      task.parent_death_signal.store(static_cast<int32_t>(a2));
      return 0;
    case kGetPdeathsig: return write_int(task, a2, task.parent_death_signal.load());
    case kGetDumpable: return task.mm().dumpable();
    case kSetDumpable: return set_dumpable(task, a2);
    case kSetName: return set_name(task, Addr(a2));
    case kGetName: return get_name(task, Addr(a2));
    case kGetTiming: return 0;
    case kSetTiming: return a2 == 0 ? Result<int64_t>(0) : err(kEINVAL);
    case kGetTsc: return write_int(task, a2, 1);
    case kSetTsc: return a2 == 1 ? Result<int64_t>(0) : err(kEINVAL);
    case kSetTimerslack: kernel::set_timer_slack(task, a.a2); return 0;
    case kGetTimerslack: return static_cast<int64_t>(kernel::task_info(task).timer_slack_ns);
    case kSetChildSubreaper:
      set_child_subreaper(task.thread_group(), a2 != 0);
      return 0;
    case kGetChildSubreaper: return write_int(task, a2, is_child_subreaper(task.thread_group()));
    case kGetThpDisable: return a.rest_zero(2) ? Result<int64_t>(0) : err(kEINVAL);
    case kSetThpDisable: return a.rest_zero(3) ? Result<int64_t>(0) : err(kEINVAL);
    case kSetVma: return 0;  // names of anonymous memory: accepted, not shown
    case kGetKeepCaps: case kSetKeepCaps: case kCapbsetRead: case kCapbsetDrop: case kGetSecurebits:
    case kSetSecurebits: case kCapAmbient: case kSetNoNewPrivs: case kGetNoNewPrivs:
      return prctl_credentials(task, option, a);
    default: return err(kEINVAL);
  }
}

Result<void> sys_arch_prctl(Task& task, int32_t code, uint64_t arg) {
  constexpr int32_t kSetGs = 0x1001, kSetFs = 0x1002, kGetFs = 0x1003, kGetGs = 0x1004;
  constexpr int32_t kGetCpuid = 0x1011, kSetCpuid = 0x1012;
  const uint64_t limit = task.kernel().platform().max_address().value();
  switch (code) {
    case kSetFs:
      if (arg >= limit) return err(kEPERM);
      task.context().set_fs_base(arg);
      return {};
    case kSetGs:
      if (arg >= limit) return err(kEPERM);
      task.context().set_gs_base(arg);
      return {};
    case kGetFs: return task.write(UserOut<uint64_t>(Addr(arg)), task.regs().fs_base);
    case kGetGs: return task.write(UserOut<uint64_t>(Addr(arg)), task.regs().gs_base);
    case kGetCpuid: return {};
    case kSetCpuid: return err(kENODEV);
    default: return err(kEINVAL);
  }
}

Result<uint32_t> sys_personality(Task& task, uint32_t persona) {
  constexpr uint32_t kQuery = 0xffffffff;
  const uint32_t old = task.personality;
  if (persona != kQuery) task.personality = persona;
  return old;
}

SYSCALL_FAMILY(prctl) = {
    ROW(prctl, kPartial, "no PR_SET_MM, PR_SET_SECCOMP through seccomp(2), speculation controls"),
    ROW(arch_prctl, kPartial, "no CPUID faulting"),
    ROW(personality, kPartial, "kept; only ADDR_NO_RANDOMIZE-free defaults act"),
};
SYSCALL_FAMILY_END(prctl);

}  // namespace sentry::syscalls
