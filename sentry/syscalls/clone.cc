// SPDX-License-Identifier: Apache-2.0
// fork(2), vfork(2), clone(2), clone3(2).
#include "sentry/kernel/clone.h"

#include <cstring>

#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using kernel::CloneArgs;

namespace {

// struct clone_args of uapi/linux/sched.h; versions differ in length.
struct CloneArgsAbi {
  uint64_t flags = 0, pidfd = 0, child_tid = 0, parent_tid = 0, exit_signal = 0, stack = 0, stack_size = 0, tls = 0, set_tid = 0,
           set_tid_size = 0, cgroup = 0;
};
constexpr uint64_t kSizeVer0 = 64;
constexpr uint64_t kAcceptedFlags = (uint64_t{1} << 34) - 1;

}  // namespace

Result<Tid> sys_clone(Task& task, uint64_t flags, Addr stack, Addr parent_tid, Addr child_tid, Addr tls) {
  CloneArgs args;
  args.flags = flags & 0xffffffff & ~kernel::kCSIGNAL;
  args.exit_signal = static_cast<int32_t>(flags & kernel::kCSIGNAL);
  if (args.exit_signal > abi::kNSIG) return err(kEINVAL);
  if ((flags & kernel::kCLONE_PIDFD) && (flags & kernel::kCLONE_PARENT_SETTID)) return err(kEINVAL);
  args.pidfd = args.parent_tid = parent_tid;
  args.child_tid = child_tid;
  args.tls = tls;
  args.has_stack = !stack.is_null();
  args.stack_top = stack;
  return kernel::clone_task(task, args);
}

Result<Tid> sys_clone3(Task& task, Addr uargs, uint64_t size) {
  if (size > abi::kPageSize) return err(kE2BIG);
  if (size < kSizeVer0) return err(kEINVAL);
  // copy_struct_from_user(): what a newer program knows and we do not must be zero.
  std::vector<uint8_t> bytes(std::max<uint64_t>(size, sizeof(CloneArgsAbi)));
  TRY(task.user_memory().copy_in(bytes.data(), uargs, size));
  for (size_t i = sizeof(CloneArgsAbi); i < bytes.size(); ++i) {
    if (bytes[i] != 0) return err(kE2BIG);
  }
  CloneArgsAbi in;
  std::memcpy(&in, bytes.data(), sizeof in);
  if (in.set_tid_size > kernel::PidNamespace::kMaxLevel) return err(kEINVAL);
  if ((in.set_tid == 0) != (in.set_tid_size == 0)) return err(kEINVAL);
  if ((in.exit_signal & ~kernel::kCSIGNAL) || in.exit_signal > abi::kNSIG) return err(kEINVAL);
  if (in.flags & ~kAcceptedFlags) return err(kEINVAL);
  if (in.flags & (kernel::kCLONE_DETACHED | (kernel::kCSIGNAL & ~kernel::kCLONE_NEWTIME))) return err(kEINVAL);
  if ((in.flags & (kernel::kCLONE_THREAD | kernel::kCLONE_PARENT)) && in.exit_signal != 0) return err(kEINVAL);
  if ((in.stack == 0) != (in.stack_size == 0)) return err(kEINVAL);
  CloneArgs args;
  args.flags = in.flags;
  args.exit_signal = static_cast<int32_t>(in.exit_signal);
  args.pidfd = Addr(in.pidfd);
  args.child_tid = Addr(in.child_tid);
  args.parent_tid = Addr(in.parent_tid);
  args.tls = Addr(in.tls);
  args.has_stack = in.stack != 0;
  args.stack_top = Addr(in.stack + in.stack_size);
  if (in.set_tid_size != 0) {
    if (!task.creds().has_cap(creds::Cap::kSYS_ADMIN) && !task.creds().has_cap(creds::Cap::kCHECKPOINT_RESTORE)) return err(kEPERM);
    args.set_tid = TRY(task.read_array(UserIn<int32_t>(Addr(in.set_tid)), in.set_tid_size));
  }
  return kernel::clone_task(task, args);
}

Result<Tid> sys_fork(Task& task) {
  CloneArgs args;
  args.exit_signal = abi::kSIGCHLD;
  return kernel::clone_task(task, args);
}

Result<Tid> sys_vfork(Task& task) {
  CloneArgs args;
  args.flags = kernel::kCLONE_VFORK | kernel::kCLONE_VM;
  args.exit_signal = abi::kSIGCHLD;
  return kernel::clone_task(task, args);
}

SYSCALL_FAMILY(clone) = {
    ROW(clone, kPartial, "CLONE_NEWTIME and CLONE_INTO_CGROUP are refused"),
    ROW(clone3, kPartial, "CLONE_NEWTIME and CLONE_INTO_CGROUP are refused"),
    ROW(fork, kFull, ""),
    ROW(vfork, kFull, ""),
};
SYSCALL_FAMILY_END(clone);

}  // namespace sentry::syscalls
