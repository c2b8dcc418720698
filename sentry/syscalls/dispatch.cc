// SPDX-License-Identifier: Apache-2.0
// One dispatch function: number -> row -> thunk -> registers.
#include "sentry/syscalls/dispatch.h"

#include "base/core/check.h"
#include "sentry/strace/strace.h"

namespace sentry::syscalls {

namespace {

// Restart codes stay in rax: signal delivery decides between a restart and EINTR (kernel/signal.cc).
int64_t encode_error(Errno e) { return -static_cast<int64_t>(e); }

}  // namespace

kernel::SyscallOutcome dispatch(Task& task) {
  platform::Registers& regs = task.call_regs();
  const uint64_t number = regs.orig_rax;
  const SyscallRow* row = find_row(number);
  if (!row) [[unlikely]] {
    task.kernel().note_missing_syscall(task, number);
    regs.rax = static_cast<uint64_t>(encode_error(Errno::kENOSYS));
    return kernel::SyscallOutcome::kResult;
  }
  const Args args = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9};
  const bool traced = task.kernel().config().strace;
  if (traced) [[unlikely]] strace::log_enter(task, *row, args);
  Result<SyscallReturn> result = row->thunk(task, args);
  if (traced) [[unlikely]] strace::log_exit(task, *row, args, result);
  if (!result) {
    regs.rax = static_cast<uint64_t>(encode_error(result.error()));
    return kernel::SyscallOutcome::kResult;
  }
  switch (result->kind) {
    case SyscallReturn::Kind::kValue:
      regs.rax = static_cast<uint64_t>(result->value);
      return kernel::SyscallOutcome::kResult;
    case SyscallReturn::Kind::kRegistersSet: return kernel::SyscallOutcome::kRegistersSet;
    case SyscallReturn::Kind::kTaskExits: return kernel::SyscallOutcome::kExit;
  }
  CHECK(!"unknown kind of return");
  return kernel::SyscallOutcome::kExit;
}

}  // namespace sentry::syscalls
