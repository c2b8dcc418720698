// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/sandbox/namespaces.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log/log.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

constexpr unsigned kNobody = 65534;

bool write_at(int dir, const char* name, const std::string& text) {
  UniqueFd fd(openat(dir, name, O_WRONLY | O_CLOEXEC));
  return fd && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

}  // namespace

namespace {

// Sanitized builds cannot be linked statically: the sentry needs the C library beneath its root.
#ifdef RUNSC_SANITIZED
constexpr const char* kRootOptions = "size=64k,nr_inodes=16,mode=755";
bool bind_libraries() {
  for (const char* name : {"lib", "lib64", "usr"}) {
    const std::string from = std::string("/") + name;
    if (mkdir(name, 0555) != 0 || mount(from.c_str(), name, nullptr, MS_BIND, nullptr) != 0) return false;
  }
  return true;
}
#else
constexpr const char* kRootOptions = "size=4k,nr_inodes=3,mode=555";
bool bind_libraries() { return true; }
#endif

}  // namespace

HostResult<void> enter_empty_root() {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return HostErr(HostError::from_errno("make mounts private"));
  // Any directory will do as the mount point; /proc is there on every host that we run on.
  const char* place = "/proc";
  if (mount("none", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, kRootOptions) != 0)
    return HostErr(HostError::from_errno("mount the empty root"));
  if (chdir(place) != 0) return HostErr(HostError::from_errno("enter the empty root"));
  // The processes of the sandbox itself, for its start (maps, reopening a descriptor): its filter then forbids open.
  if (mkdir("proc", 0555) != 0 ||
      mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, nullptr) != 0)
    return HostErr(HostError::from_errno("mount the sandbox's own /proc"));
  if (!bind_libraries()) return HostErr(HostError::from_errno("mount the C library"));
  if (syscall(SYS_pivot_root, ".", ".") != 0) return HostErr(HostError::from_errno("pivot_root"));
  // The old root is now stacked on the new one.
  if (umount2(".", MNT_DETACH) != 0) return HostErr(HostError::from_errno("drop the old root"));
  if (mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    return HostErr(HostError::from_errno("make the empty root read-only"));
  return {};
}

HostResult<void> raise_loopback() {
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return HostErr(HostError::from_errno("socket"));
  ifreq request{};
  memcpy(request.ifr_name, "lo", 3);
  if (ioctl(fd.get(), SIOCGIFFLAGS, &request) != 0) return HostErr(HostError::from_errno("loopback interface"));
  if (request.ifr_flags & IFF_UP) return {};
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return HostErr(HostError::from_errno("loopback interface up"));
  return {};
}

HostResult<void> drop_privileges(int proc_self) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return HostErr(HostError::from_errno("no_new_privs"));
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; ++cap) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
  if (syscall(SYS_setgroups, 0, nullptr) != 0) return HostErr(HostError::from_errno("setgroups"));
  if (syscall(SYS_setresgid, kNobody, kNobody, kNobody) != 0) return HostErr(HostError::from_errno("setgid"));
  if (syscall(SYS_setresuid, kNobody, kNobody, kNobody) != 0) return HostErr(HostError::from_errno("setuid"));
  // Where unprivileged user namespaces are off, the process stays in its parent's: it has no capability there either.
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  if (unshare(CLONE_NEWUSER) == 0) {
    std::string map = fmt::format("{0} {0} 1", kNobody);
    write_at(proc_self, "setgroups", "deny");
    if (!write_at(proc_self, "uid_map", map) || !write_at(proc_self, "gid_map", map))
      return HostErr(HostError::from_errno("user namespace map"));
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (syscall(SYS_capset, &header, none) != 0) return HostErr(HostError::from_errno("drop capabilities"));
  return {};
}

HostResult<UniqueFd> open_namespace(const std::string& path, int clone_flag, const char* kind) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return HostErr(HostError::from_errno(fmt::format("{} namespace {}", kind, path)));
  if (ioctl(fd.get(), NS_GET_NSTYPE) != clone_flag)
    return HostErr(HostError::plain(fmt::format("{}: is not a {} namespace", path, kind)));
  return fd;
}

}  // namespace cli
