// SPDX-License-Identifier: Apache-2.0
#include "sentry/boot/filter.h"

#include <cerrno>

#include <fcntl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "sentry/net/host_calls.h"

namespace sentry::boot {

namespace {
constexpr uint64_t kThreadFlags = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND;
constexpr uint64_t kInt = 0xffff'ffff;  // arguments of type int: the kernel looks at the low half only

// One rule for the options of a level, which stand side by side.
void add_option_rules(base::SeccompPolicy& policy, int32_t call) {
  for (const net::HostOption& o : net::host_socket_options()) {
    if (call == SYS_setsockopt && !o.settable) continue;
    const auto level = static_cast<uint64_t>(o.level);
    base::SeccompRule& last = policy.rules.back();
    if (last.number == call && last.args[0].value == level) {
      last.args[1].others.push_back(static_cast<uint32_t>(o.name));
      continue;
    }
    policy.rules.push_back({call, "inet sockets, listed options", {{1, kInt, level}, {2, kInt, static_cast<uint64_t>(o.name)}}});
  }
}

// Host sockets of guests: what sentry/net says it needs, value by value.
void add_network_rules(base::SeccompPolicy& policy) {
  constexpr uint64_t kSocketFlags = 04000 | 02000000;  // SOCK_NONBLOCK | SOCK_CLOEXEC
  for (const net::HostSocketKind& k : net::host_socket_kinds())
    policy.rules.push_back({SYS_socket, "inet sockets of the sandbox's namespace",
                            {{0, kInt, static_cast<uint64_t>(k.family)},
                             {1, kInt, static_cast<uint64_t>(k.type) | kSocketFlags},
                             {2, kInt, static_cast<uint64_t>(k.protocol)}}});
  for (int call : {SYS_bind, SYS_listen, SYS_accept4, SYS_connect, SYS_getsockname, SYS_getpeername, SYS_shutdown})
    policy.rules.push_back({call, "inet sockets"});
  add_option_rules(policy, SYS_getsockopt);
  add_option_rules(policy, SYS_setsockopt);
  const std::span<const uint32_t> requests = net::host_ioctls();
  policy.rules.push_back({SYS_ioctl, "inet sockets, listed requests", {{1, kInt, requests[0], {requests.begin() + 1, requests.end()}}}});
}
}

base::SeccompPolicy sentry_policy(const platform::PlatformFactory& platform) {
  base::SeccompPolicy policy;
  policy.otherwise = SECCOMP_RET_KILL_PROCESS;
  policy.rules = {
      {SYS_futex, "locks, executors, hand-off to stubs"},
      {SYS_tgkill, "interrupting a running guest thread"},
      {SYS_preadv2, "reading donated files into guest pages"},
      {SYS_pwritev2, "writing donated files from guest pages"},
      {SYS_read, "eventfds, pipes and sockets handed to us"},
      {SYS_write, "eventfds, log, pipes and sockets handed to us"},
      {SYS_pread64, "filling page caches"},
      {SYS_pwrite64, "writing page caches back"},
      {SYS_readv, "streams handed to us"},
      {SYS_writev, "streams handed to us"},
      {SYS_recvmsg, "gofer, control and host sockets"},
      {SYS_sendmsg, "gofer, control and host sockets"},
      {SYS_recvfrom, "host sockets"},
      {SYS_sendto, "host sockets"},
      {SYS_epoll_wait, "reactor"},
      {SYS_epoll_ctl, "reactor"},
      {SYS_poll, "waiting for the gofer"},
      {SYS_close, "descriptors"},
      {SYS_newfstatat, "what the C library makes of fstat: of a descriptor, never of a path", {{3, 0xffff'ffff, AT_EMPTY_PATH}}},
      {SYS_lseek, "donated descriptors, host stdio"},
      {SYS_fallocate, "returning guest memory to the host"},
      {SYS_ftruncate, "memory file, donated files"},
      {SYS_fsync, "donated files"},
      {SYS_fdatasync, "donated files"},
      {SYS_fcntl, "non-blocking mode of handed descriptors"},
      {SYS_mmap, "memory file chunks, fiber and thread stacks; never executable", {{2, PROT_EXEC, 0}}},
      {SYS_mprotect, "guard pages; never executable", {{2, PROT_EXEC, 0}}},
      {SYS_munmap, "memory"},
      {SYS_madvise, "giving memory back"},
      {SYS_mincore, "which guest pages exist"},
      {SYS_mremap, "allocator"},
      {SYS_brk, "allocator"},
      {SYS_clock_gettime, "time, where the vDSO cannot answer"},
      {SYS_getrandom, "guest randomness"},
      {SYS_sched_yield, "spinning"},
      {SYS_getpid, "tgkill"},
      {SYS_gettid, "tgkill"},
      {SYS_rt_sigprocmask, "threads"},
      {SYS_rt_sigreturn, "signals"},
      {SYS_restart_syscall, "a timed wait goes on after the host stopped and continued us"},
      {SYS_set_robust_list, "thread start"},
      {SYS_rseq, "thread start"},
      {SYS_openat, "never; the C library asks for /proc/sys/vm/overcommit_memory and lives with a no", {}, SECCOMP_RET_ERRNO | ENOENT},
      {SYS_clone3, "glibc falls back to clone, whose flags can be checked", {}, SECCOMP_RET_ERRNO | ENOSYS},
      {SYS_clone, "threads of the sentry, never processes", {{0, kThreadFlags, kThreadFlags}}},
      {SYS_exit, "threads"},
      {SYS_exit_group, "the end"},
      {SYS_waitid, "reaping stub processes"},
      {SYS_kill, "ending stub processes"},
      {SYS_ioctl, "is a descriptor handed to us a terminal", {{1, kInt, TCGETS}}},
      {SYS_ioctl, "the window size of one", {{1, kInt, TIOCGWINSZ}}},
      {SYS_sysinfo, "load and free memory of /proc"},
      {SYS_ioctl, "size of the host terminal", {{1, kInt, 0x5413}}},
      {SYS_ioctl, "whether stdio is a terminal", {{1, kInt, 0x5401}}},
  };
  add_network_rules(policy);
  for (base::SeccompRule& rule : platform.host_calls()) policy.rules.push_back(std::move(rule));
  return policy;
}

}  // namespace sentry::boot
