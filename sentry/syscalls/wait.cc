// SPDX-License-Identifier: Apache-2.0
// wait4(2), waitid(2).
#include "sentry/kernel/wait.h"

#include "sentry/kernel/pidfd.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using kernel::WaitFor;
using kernel::WaitResult;

namespace {

struct RusageAbi {
  abi::TimeVal64 utime, stime;
  int64_t maxrss = 0, ixrss = 0, idrss = 0, isrss = 0, minflt = 0, majflt = 0, nswap = 0, inblock = 0, oublock = 0,
          msgsnd = 0, msgrcv = 0, nsignals = 0, nvcsw = 0, nivcsw = 0;
};
static_assert(sizeof(RusageAbi) == 144);

abi::TimeVal64 timeval(int64_t ns) { return {ns / 1'000'000'000, ns % 1'000'000'000 / 1000}; }

RusageAbi to_rusage(const kernel::ResourceUse& use) {
  RusageAbi r;
  r.utime = timeval(use.user_ns);
  r.stime = timeval(use.system_ns);
  r.maxrss = static_cast<int64_t>(use.max_rss / 1024);
  r.minflt = static_cast<int64_t>(use.minor_faults);
  r.majflt = static_cast<int64_t>(use.major_faults);
  r.nvcsw = static_cast<int64_t>(use.voluntary);
  r.nivcsw = static_cast<int64_t>(use.involuntary);
  return r;
}

enum : int32_t { kPAll = 0, kPPid = 1, kPPgid = 2, kPPidfd = 3 };

}  // namespace

Result<Pid> sys_wait4(Task& task, int32_t pid, UserOut<int32_t> status, uint32_t options, UserOut<RusageAbi> usage) {
  if (options & ~(kernel::kWNOHANG | kernel::kWUNTRACED | kernel::kWCONTINUED | kernel::kWNOTHREAD | kernel::kWCLONE | kernel::kWALL))
    return err(kEINVAL);
  if (pid == INT32_MIN) return err(kESRCH);
  WaitFor what;
  what.options = options | kernel::kWEXITED;
  if (pid > 0) {
    what.kind = WaitFor::Kind::kPid;
    what.number = task.pid_namespace().find(pid);
  } else if (pid == 0) {
    what.kind = WaitFor::Kind::kGroup;
    what.number = task.thread_group().process_group()->id;
  } else if (pid < -1) {
    what.kind = WaitFor::Kind::kGroup;
    what.number = task.pid_namespace().find(-pid);
  }
  const WaitResult r = TRY(kernel::wait_for_child(task, what));
  if (r.pid.value() == 0) return Pid(0);
  TRY(task.write_if(status, r.wait_status));
  TRY(task.write_if(usage, to_rusage(r.use)));
  return r.pid;
}

Result<void> sys_waitid(Task& task, int32_t which, int32_t id, UserOut<abi::SigInfo> info, uint32_t options, UserOut<RusageAbi> usage) {
  const uint32_t events = kernel::kWEXITED | kernel::kWSTOPPED | kernel::kWCONTINUED;
  if (options & ~(events | kernel::kWNOHANG | kernel::kWNOWAIT | kernel::kWNOTHREAD | kernel::kWCLONE | kernel::kWALL)) return err(kEINVAL);
  if (!(options & events)) return err(kEINVAL);
  WaitFor what;
  what.options = options;
  switch (which) {
    case kPAll: break;
    case kPPid:
      if (id <= 0) return err(kEINVAL);
      what.kind = WaitFor::Kind::kPid;
      what.number = task.pid_namespace().find(id);
      break;
    case kPPgid:
      if (id < 0) return err(kEINVAL);
      what.kind = WaitFor::Kind::kGroup;
      what.number = id == 0 ? task.thread_group().process_group()->id : task.pid_namespace().find(id);
      break;
    case kPPidfd: {
      if (id < 0) return err(kEINVAL);
      RefPtr<vfs::FileDescription> file = TRY(task.get_file(Fd(id)));
      auto* pidfd = file->as<kernel::PidFile>();
      if (!pidfd) return err(kEBADF);
      what.kind = WaitFor::Kind::kPid;
      what.number = pidfd->number();
      if (pidfd->is_nonblocking()) what.options |= kernel::kWNOHANG;
      break;
    }
    default: return err(kEINVAL);
  }
  const WaitResult r = TRY(kernel::wait_for_child(task, what));
  if (r.pid.value() == 0 && which == kPPidfd && !(options & kernel::kWNOHANG)) return err(kEAGAIN);
  abi::SigInfo out;
  if (r.pid.value() != 0) {
    out.signo = abi::kSIGCHLD;
    out.code = r.code;
    out.set_pid(r.pid.value());
    out.set_uid(r.uid.value());
    out.set_status(r.status);
    TRY(task.write_if(usage, to_rusage(r.use)));
  }
  return task.write_if(info, out);
}

SYSCALL_FAMILY(wait) = {
    ROW(wait4, kFull, ""),
    ROW(waitid, kFull, ""),
};
SYSCALL_FAMILY_END(wait);

}  // namespace sentry::syscalls
