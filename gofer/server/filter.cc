// SPDX-License-Identifier: Apache-2.0
// The host calls of the gofer after its set-up.
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "gofer/main.h"
#include "gofer/server/confine.h"

namespace gofer {

namespace {

constexpr uint64_t kInt = 0xffff'ffff;  // the kernel looks at the low half only
constexpr int kFchmodat2 = 452;         // not in this libc's headers
// The bit that is set in the modes of device nodes, directories and links, but not of regular files, FIFOs, sockets.
constexpr uint64_t kForbiddenTypes = S_IFMT & ~(S_IFREG | S_IFIFO | S_IFSOCK);

}  // namespace

base::SeccompPolicy gofer_policy(bool host_uds) {
  base::SeccompPolicy policy;
  policy.otherwise = SECCOMP_RET_KILL_PROCESS;
  policy.rules = {
      {SYS_recvmsg, "requests"},
      {SYS_sendmsg, "replies, with donated descriptors"},
      {SYS_statx, "attributes and identity"},
      {SYS_openat, "every file; a symbolic link is never followed", {{2, O_NOFOLLOW, O_NOFOLLOW}}},
      {SYS_close, "descriptors"},
      {SYS_getdents64, "directories"},
      {SYS_lseek, "continuing a directory"},
      {SYS_readlinkat, "symbolic links"},
      {SYS_mkdirat, "mkdir"},
      {SYS_symlinkat, "symlink"},
      {SYS_mknodat, "mknod, no devices", {{2, kForbiddenTypes, 0}}},
      {SYS_linkat, "link, without following", {{4, kInt, 0}}},
      {SYS_unlinkat, "unlink, rmdir"},
      {SYS_renameat2, "rename"},
      {SYS_fchownat, "chown"},
      {SYS_fchown, "owner of a new file"},
      {SYS_fchmod, "chmod before Linux 6.6"},
      {SYS_fchmodat, "chmod of FIFOs before Linux 6.6"},
      {kFchmodat2, "chmod by descriptor"},
      {SYS_utimensat, "times"},
      {SYS_ftruncate, "truncate"},
      {SYS_fstatfs, "statfs, and which file system is mounted below"},
      {SYS_fgetxattr, "extended attributes"},
      {SYS_fsetxattr, "extended attributes"},
      {SYS_flistxattr, "extended attributes"},
      {SYS_fremovexattr, "extended attributes"},
      {SYS_fsync, "fsync of directories"},
      {SYS_sched_setaffinity, "to the CPU of who asks; ourselves only", {{0, kInt, 0}}},
      {SYS_brk, "memory"},
      {SYS_mmap, "memory, never executable", {{2, PROT_EXEC, 0}}},
      {SYS_munmap, "memory"},
      {SYS_mremap, "memory"},
      {SYS_write, "log", {{0, kInt, kLogFd}}},
      {SYS_clock_gettime, "log, where the vdso cannot"},
      {SYS_exit_group, "end"},
  };
  if (host_uds) {
    policy.rules.push_back({SYS_socket, "host sockets", {{0, kInt, AF_UNIX}}});
    policy.rules.push_back({SYS_connect, "host sockets"});
    policy.rules.push_back({SYS_fchdir, "connect by name in a directory"});
    policy.rules.push_back({SYS_chdir, "back to the empty root"});
  }
  return policy;
}

base::HostResult<void> install_filter(bool host_uds) {
  return base::install_seccomp(base::assemble_seccomp(gofer_policy(host_uds)));
}

}  // namespace gofer
