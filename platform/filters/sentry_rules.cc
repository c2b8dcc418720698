// SPDX-License-Identifier: Apache-2.0
#include "platform/filters/sentry_rules.h"

#include <csignal>

#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

namespace platform::filters {
std::vector<base::SeccompRule> systrap_host_calls() {
  constexpr uint64_t kLow = 0xffff'ffffu;
  return {
      {SYS_futex, "wake stub threads; executors sleep on the doorbell"},
      {SYS_ioctl, "host calls of stubs", {{1, kLow, SECCOMP_IOCTL_NOTIF_RECV}}},
      {SYS_ioctl, "answers to them", {{1, kLow, SECCOMP_IOCTL_NOTIF_SEND}}},
      {SYS_ioctl, "a host file that a stub is told to map", {{1, kLow, SECCOMP_IOCTL_NOTIF_ADDFD}}},
      {SYS_poll, "wait for the listener"},
      {SYS_tgkill, "interrupt a running context", {{2, kLow, SIGUSR1}}},
      {SYS_tgkill, "check that a thread belongs to its stub process", {{2, kLow, 0}}},
      {SYS_kill, "end a stub process", {{1, kLow, SIGKILL}}},
      {SYS_waitid, "reap stub processes"},
      {SYS_fallocate, "give back and clear the slots of an ended stub"},
      {SYS_sched_setaffinity, "executors stay on their CPUs, and stub threads near them; of this pid namespace only"},
      {SYS_sched_yield, "wait for a stub thread that executes a command"},
  };
}

}  // namespace platform::filters
