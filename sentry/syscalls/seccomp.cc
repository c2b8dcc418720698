// SPDX-License-Identifier: Apache-2.0
// seccomp(2). The filters run in kernel/task_run.cc, before dispatch.
#include "sentry/kernel/seccomp.h"

#include "sentry/kernel/task_private.h"
#include "sentry/syscalls/dispatch.h"
#include "sentry/syscalls/seccomp.h"

namespace sentry::syscalls {

using enum abi::Errno;
using kernel::BpfInstruction;
using kernel::SeccompFilter;

namespace {

enum : uint32_t { kSetModeStrict = 0, kSetModeFilter = 1, kGetActionAvail = 2, kGetNotifSizes = 3 };
enum : uint32_t { kFlagTsync = 1, kFlagLog = 2, kFlagSpecAllow = 4, kFlagTsyncEsrch = 16 };

struct FilterProgram {  // struct sock_fprog
  uint16_t length = 0;
  uint16_t pad0[3] = {};
  uint64_t instructions = 0;
};

RefPtr<SeccompFilter> current_filter(Task& task) {
  return task.priv().seccomp.with([](auto& f) { return f; });
}

// From now on the process reads and writes with calls that the filter sees, and has no memory of connections mapped.
void end_in_place(Task& task) {
  task.fds().catch_up(task);
  task.fds().drop_view(kernel::FdTable::Again::kNever);
}

// All threads of the process take the new chain: only if theirs is a prefix of ours, as Linux requires.
Result<int32_t> synchronise(Task& task, const RefPtr<SeccompFilter>& old, const RefPtr<SeccompFilter>& next, bool esrch) {
  for (const RefPtr<Task>& t : task.thread_group().tasks()) {
    if (t.get() == &task) continue;
    const RefPtr<SeccompFilter> theirs = current_filter(*t);
    if (!theirs || theirs == old) continue;
    if (esrch) return err(kESRCH);
    return t->tid().value();
  }
  for (const RefPtr<Task>& t : task.thread_group().tasks()) kernel::install_seccomp(*t, next);
  return 0;
}

Result<int32_t> set_filter(Task& task, uint32_t flags, Addr args) {
  if (flags & ~(kFlagTsync | kFlagLog | kFlagSpecAllow | kFlagTsyncEsrch)) return err(kEINVAL);
  if (!task.creds().no_new_privs && !task.creds().has_cap(creds::Cap::kSYS_ADMIN)) return err(kEACCES);
  const FilterProgram program = TRY(task.read(UserIn<FilterProgram>(args)));
  if (program.length == 0 || program.length > SeccompFilter::kMaxInstructions) return err(kEINVAL);
  std::vector<BpfInstruction> code = TRY(task.read_array(UserIn<BpfInstruction>(Addr(program.instructions)), program.length));
  const RefPtr<SeccompFilter> old = current_filter(task);
  RefPtr<SeccompFilter> next = TRY(SeccompFilter::create(std::move(code), old));
  end_in_place(task);
  if (flags & kFlagTsync) return synchronise(task, old, next, (flags & kFlagTsyncEsrch) != 0);
  kernel::install_seccomp(task, std::move(next));
  return 0;
}

Result<int32_t> set_strict(Task& task) {
  // read, write, exit, rt_sigreturn; anything else kills the thread.
  enum : uint16_t { kLoadNumber = 0x20, kJumpEqual = 0x15, kReturn = 0x06 };
  std::vector<BpfInstruction> code = {{kLoadNumber, 0, 0, 0}};
  for (uint32_t number : {kNr_read, kNr_write, kNr_exit, kNr_rt_sigreturn}) {
    code.push_back({kJumpEqual, 0, 1, number});
    code.push_back({kReturn, 0, 0, kernel::kSeccompRetAllow});
  }
  code.push_back({kReturn, 0, 0, kernel::kSeccompRetKillThread});
  if (current_filter(task)) return err(kEINVAL);
  end_in_place(task);
  kernel::install_seccomp(task, TRY(SeccompFilter::create(std::move(code), nullptr)));
  task.priv().seccomp_mode.store(1);
  return 0;
}

}  // namespace

Result<int32_t> do_seccomp(Task& task, uint32_t operation, uint32_t flags, Addr args) {
  switch (operation) {
    case kSetModeStrict:
      if (flags != 0 || !args.is_null()) return err(kEINVAL);
      return set_strict(task);
    case kSetModeFilter: return set_filter(task, flags, args);
    case kGetActionAvail: {
      if (flags != 0) return err(kEINVAL);
      switch (TRY(task.read(UserIn<uint32_t>(args)))) {
        case kernel::kSeccompRetKillProcess: case kernel::kSeccompRetKillThread: case kernel::kSeccompRetTrap:
        case kernel::kSeccompRetErrno: case kernel::kSeccompRetLog: case kernel::kSeccompRetAllow: return 0;
        default: return err(kEOPNOTSUPP);
      }
    }
    default: return err(kEINVAL);
  }
}

Result<int32_t> sys_seccomp(Task& task, uint32_t operation, uint32_t flags, Addr args) {
  return do_seccomp(task, operation, flags, args);
}

SYSCALL_FAMILY(seccomp) = {
    ROW(seccomp, kPartial, "no SECCOMP_RET_USER_NOTIF; SECCOMP_RET_TRACE is ENOSYS as without a tracer"),
};
SYSCALL_FAMILY_END(seccomp);

}  // namespace sentry::syscalls
