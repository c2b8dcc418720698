// SPDX-License-Identifier: Apache-2.0
// OpContext: what a file operation needs of the task that it runs for. kernel::Task implements it, so vfs
// and file systems never see a task.
#pragma once

#include <cstdint>
#include <optional>

#include "abi/types/types.h"
#include "base/core/function_ref.h"
#include "base/core/result.h"
#include "sentry/creds/credentials.h"
#include "sentry/creds/limits.h"
#include "sentry/memory/memory_file.h"
#include "sentry/memory/user_memory.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::kernel {
class Task;
class Kernel;
}  // namespace sentry::kernel

namespace sentry::vfs {

class FileDescription;
class MountNamespace;
struct Path;

enum class WakeReason : uint8_t { kWoken, kInterrupted, kTimedOut };

// Nanoseconds of the monotonic clock, or none.
using Deadline = std::optional<int64_t>;

class OpContext {
 public:
  virtual const creds::Credentials& creds() const = 0;  // valid until the caller next blocks or changes them
  virtual memory::UserMemory& user_memory() = 0;
  virtual const creds::Limit rlimit(creds::Resource) const = 0;
  virtual uint32_t umask() const = 0;
  virtual MountNamespace& mount_namespace() = 0;
  virtual Path root() const = 0;
  virtual Path cwd() const = 0;
  // CLOCK_REALTIME now, ns: timestamps.
  virtual int64_t now_realtime() const = 0;
  virtual int64_t now_monotonic() const = 0;

  // Blocking. waker() is what a Waiter calls from any thread; a wake before block() makes that block() return at once.
  // block() parks the fiber: no lock may be held. kInterrupted when a signal is (or becomes) pending; the caller
  // then returns its partial result or kERESTARTSYS. Use wait_until() below.
  class Waker {
   public:
    virtual void wake() = 0;

   protected:
    ~Waker() = default;
  };
  virtual Waker& waker() = 0;
  virtual WakeReason block(Deadline deadline) = 0;
  virtual bool interrupted() const = 0;  // a signal is pending
  // Like block(), but signals do not end it: for short waits that must not fail (directory locks, gofer replies).
  virtual void block_uninterruptible() = 0;
  // Sends a signal to the calling task itself (SIGPIPE, SIGXFSZ).
  virtual void raise(abi::Signo signo) = 0;

  // A task begins (+1) or ends (-1) to wait for input: what stubs do in place is told to it meanwhile. Use WaitScope.
  virtual void count_waiting(int delta) { (void)delta; }

  virtual memory::MemoryFile* memory_file() { return nullptr; }  // likewise null
  // The file of a descriptor, with a reference that the caller owns; null when there is none.
  virtual FileDescription* ref_descriptor(abi::Fd fd) { return (void)fd, nullptr; }

  virtual kernel::Task* task() { return nullptr; }      // null in kernel-internal contexts
  virtual abi::Pid owner_pid() const { return abi::Pid(0); }  // thread group, for lock owners and F_GETLK
  // Identity for POSIX record locks: the open-file table of the process.
  virtual const void* lock_owner() const { return this; }

 protected:
  ~OpContext() = default;
};

// A Waiter that wakes a fiber.
class TaskWaiter final : public Waiter {
 public:
  explicit TaskWaiter(OpContext& ctx) : waker_(ctx.waker()) {}
  void notify(PollMask) override { waker_.wake(); }

 private:
  OpContext::Waker& waker_;
};

// Begun before one looks for the last time whether there is something to wait for.
class WaitScope {
 public:
  explicit WaitScope(OpContext& ctx) : ctx_(ctx) { ctx_.count_waiting(1); }
  ~WaitScope() { ctx_.count_waiting(-1); }
  WaitScope(const WaitScope&) = delete;
  WaitScope& operator=(const WaitScope&) = delete;

 private:
  OpContext& ctx_;
};

// Waits on `queue` until done() is true: kERESTARTSYS on a signal, kETIMEDOUT at the deadline. done() may
// take locks; it runs at least once.
base::Result<void> wait_until(OpContext& ctx, WaitQueue& queue, PollMask mask, Deadline deadline,
                              base::FunctionRef<bool()> done);

}  // namespace sentry::vfs
