// SPDX-License-Identifier: Apache-2.0
// ioctl_tty(2).
#include "sentry/fs/tty/tty.h"
#include "sentry/kernel/task.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

enum : uint32_t {
  kTcGets = 0x5401, kTcSets = 0x5402, kTcSetsW = 0x5403, kTcSetsF = 0x5404, kTcSbrk = 0x5409, kTcXonc = 0x540a,
  kTcFlsh = 0x540b, kTiocExcl = 0x540c, kTiocNxcl = 0x540d, kTiocSctty = 0x540e, kTiocGpgrp = 0x540f, kTiocSpgrp = 0x5410,
  kTiocOutq = 0x5411, kTiocGwinsz = 0x5413, kTiocSwinsz = 0x5414, kFionread = 0x541b, kTiocNotty = 0x5422,
  kTiocGetd = 0x5424, kTcSbrkp = 0x5425, kTiocGsid = 0x5429, kTcGets2 = 0x802c542a, kTcSets2 = 0x402c542b,
  kTcSetsW2 = 0x402c542c, kTcSetsF2 = 0x402c542d, kTiocGptn = 0x80045430, kTiocGexcl = 0x80045440,
};

struct Speeds {
  uint32_t input = 38400, output = 38400;
};

Result<int64_t> put_int(vfs::OpContext& ctx, uint64_t arg, int32_t value) {
  TRY(ctx.user_memory().copy_out(abi::Addr(arg), &value, sizeof value));
  return 0;
}

}  // namespace

Result<int64_t> Tty::set_termios(vfs::OpContext& ctx, const Termios& t, bool flush) {
  TRY(check_job_control(ctx, abi::kSIGTTOU));
  Effects e;
  {
    base::MutexLock lock(mu_);
    if (flush) {
      lines_.clear();
      edit_.clear();
      queued_ = 0;
    }
    const bool was_canonical = canonical();
    termios_ = t;
    if (was_canonical && !canonical()) e.readable = true;
    // Raw bytes that were not read yet make a line of their own.
    if (!was_canonical && canonical() && !edit_.empty()) finish_line(e);
    if (!(termios_.iflag & kIXON) && stopped_) {
      stopped_ = false;
      e.output = true;
    }
  }
  apply(e);
  return 0;
}

Result<int64_t> Tty::common_ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) {
  memory::UserMemory& memory = ctx.user_memory();
  switch (request) {
    case kTcGets:
    case kTcGets2: {
      Termios t;
      {
        base::MutexLock lock(mu_);
        t = termios_;
      }
      TRY(memory.copy_out(abi::Addr(arg), &t, sizeof t));
      const Speeds speeds;
      if (request == kTcGets2) TRY(memory.copy_out(abi::Addr(arg) + sizeof t, &speeds, sizeof speeds));
      return 0;
    }
    case kTcSets: case kTcSetsW: case kTcSetsF: case kTcSets2: case kTcSetsW2: case kTcSetsF2: {
      Termios t;
      TRY(memory.copy_in(&t, abi::Addr(arg), sizeof t));
      return set_termios(ctx, t, request == kTcSetsF || request == kTcSetsF2);
    }
    case kTiocGwinsz: {
      const WindowSize size = window();
      TRY(memory.copy_out(abi::Addr(arg), &size, sizeof size));
      return 0;
    }
    case kTiocSwinsz: {
      WindowSize size;
      TRY(memory.copy_in(&size, abi::Addr(arg), sizeof size));
      set_window(size);
      return 0;
    }
    case kTiocGpgrp:
    case kTiocGsid: {
      RefPtr<kernel::Session> session = owning_session();
      if (!session || !ctx.task()) return err(kENOTTY);
      kernel::PidNamespace& ns = ctx.task()->pid_namespace();
      int32_t id = 0;
      {
        base::MutexLock lock(session->set.mu);
        if (request == kTiocGsid) id = session->id->in(ns);
        else if (session->foreground) id = session->foreground->id->in(ns);
      }
      return put_int(ctx, arg, id);
    }
    case kTcFlsh: {
      if (arg > 2) return err(kEINVAL);
      {
        base::MutexLock lock(mu_);
        if (arg != 1) {
          lines_.clear();
          edit_.clear();
          queued_ = 0;
        }
        if (arg != 0) output_.clear();
      }
      queue_.notify(vfs::kPollOut | vfs::kPollWrNorm);
      return 0;
    }
    case kTcSbrk: case kTcSbrkp: case kTiocExcl: case kTiocNxcl: return 0;
    case kTiocGexcl:
    case kTiocGetd: return put_int(ctx, arg, 0);
    default: return err(kENOTTY);
  }
}

Result<int64_t> Tty::ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) {
  if (is_hung_up()) return err(kEIO);
  kernel::Task* task = ctx.task();
  switch (request) {
    case kTiocSctty: {
      if (!task) return err(kEPERM);
      RefPtr<kernel::Session> owner = owning_session();
      if (owner && owner != task->thread_group().session()) return err(kEPERM);
      TRY(task->thread_group().set_controlling_tty(RefPtr<Tty>(this), static_cast<uint32_t>(device_.encoded())));
      return 0;
    }
    case kTiocNotty:
      if (!task || task->thread_group().controlling_tty().get() != this) return err(kENOTTY);
      task->thread_group().drop_controlling_tty();
      return 0;
    case kTiocGpgrp:
    case kTiocGsid:
      if (!task || task->thread_group().controlling_tty().get() != this) return err(kENOTTY);
      return common_ioctl(ctx, request, arg);
    case kTiocSpgrp: {
      if (!task || task->thread_group().controlling_tty().get() != this) return err(kENOTTY);
      int32_t pgid;
      TRY(ctx.user_memory().copy_in(&pgid, abi::Addr(arg), sizeof pgid));
      if (pgid < 0) return err(kEINVAL);
      TRY(check_job_control(ctx, abi::kSIGTTOU));
      TRY(task->thread_group().set_foreground_group(abi::Pid(pgid), task->pid_namespace()));
      return 0;
    }
    case kFionread: {
      size_t n;
      {
        base::MutexLock lock(mu_);
        n = canonical() ? queued_ : queued_ + edit_.size();
      }
      return put_int(ctx, arg, static_cast<int32_t>(n));
    }
    case kTiocOutq: return put_int(ctx, arg, static_cast<int32_t>(output_size()));
    case kTiocGptn:
      if (device_.major != 136) return err(kENOTTY);
      return put_int(ctx, arg, static_cast<int32_t>(device_.minor));
    case kTcXonc: {
      if (arg > 3) return err(kEINVAL);
      Effects e;
      {
        base::MutexLock lock(mu_);
        if (arg < 2) stopped_ = arg == 0;
        e.output = !stopped_;
      }
      apply(e);
      return 0;
    }
    default: return common_ioctl(ctx, request, arg);
  }
}

}  // namespace sentry::fs
