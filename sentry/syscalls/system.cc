// SPDX-License-Identifier: Apache-2.0
// uname, sysinfo, getrandom, host and domain names, and calls that only a machine's owner may make.
#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <sys/random.h>

#include "abi/linux/utsname.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/version.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using creds::Cap;

namespace {

template <size_t N>
void put(char (&field)[N], std::string_view text) {
  text.copy(field, N - 1);
}

Result<std::string> read_name(Task& task, Addr addr, int32_t length) {
  if (length < 0 || length > 64) return err(kEINVAL);
  std::string name(static_cast<size_t>(length), '\0');
  TRY(task.user_memory().copy_in(name.data(), addr, name.size()));
  if (auto end = name.find('\0'); end != std::string::npos) name.resize(end);
  return name;
}

bool may_name(Task& task) {
  return task.creds().has_cap_in(Cap::kSYS_ADMIN, *task.namespaces()->uts->user_ns);
}

}  // namespace

Result<void> sys_uname(Task& task, UserOut<abi::NewUtsname> out) {
  abi::NewUtsname u;
  put(u.sysname, "Linux");
  put(u.release, kernel::kRelease);
  put(u.version, kernel::kVersion);
  put(u.machine, "x86_64");
  const auto names = task.namespaces()->uts->names.with([](auto& n) { return n; });
  put(u.nodename, names.hostname);
  put(u.domainname, names.domainname);
  return task.write(out, u);
}

Result<void> sys_sethostname(Task& task, Addr name, int32_t length) {
  if (!may_name(task)) return err(kEPERM);
  std::string text = TRY(read_name(task, name, length));
  task.namespaces()->uts->names.with([&](auto& n) { n.hostname = std::move(text); });
  return {};
}

Result<void> sys_setdomainname(Task& task, Addr name, int32_t length) {
  if (!may_name(task)) return err(kEPERM);
  std::string text = TRY(read_name(task, name, length));
  task.namespaces()->uts->names.with([&](auto& n) { n.domainname = std::move(text); });
  return {};
}

struct SysInfo {
  int64_t uptime = 0;
  uint64_t loads[3] = {};
  uint64_t totalram = 0, freeram = 0, sharedram = 0, bufferram = 0, totalswap = 0, freeswap = 0;
  uint16_t procs = 0, pad0 = 0;
  uint32_t pad1 = 0;
  uint64_t totalhigh = 0, freehigh = 0;
  uint32_t mem_unit = 1, pad2 = 0;
};
static_assert(sizeof(SysInfo) == 112);

Result<void> sys_sysinfo(Task& task, UserOut<SysInfo> out) {
  SysInfo info;
  info.uptime = task.now_monotonic() / 1'000'000'000;
  const auto usage = task.kernel().memory().usage();
  info.totalram = task.kernel().total_memory();
  info.freeram = info.totalram - std::min(info.totalram, usage.total());
  info.sharedram = usage.tmpfs;
  info.procs = static_cast<uint16_t>(std::min<size_t>(task.pid_namespace().groups().size(), 65535));
  return task.write(out, info);
}

Result<size_t> sys_getrandom(Task& task, Addr buffer, size_t length, uint32_t flags) {
  constexpr uint32_t kNonblock = 1, kRandom = 2, kInsecure = 4;
  if ((flags & ~(kNonblock | kRandom | kInsecure)) != 0 || (flags & (kRandom | kInsecure)) == (kRandom | kInsecure))
    return err(kEINVAL);
  // The host's generator is seeded long before any sandbox runs, so no flag makes a difference.
  constexpr size_t kChunk = 4096;
  length = std::min<size_t>(length, 33554431);
  size_t done = 0;
  while (done < length) {
    uint8_t bytes[kChunk];
    const size_t n = std::min(kChunk, length - done);
    if (::getrandom(bytes, n, 0) != static_cast<ssize_t>(n)) return err(kEIO);
    auto wrote = task.user_memory().copy_out_partial(*buffer.add(done), bytes, n);
    if (!wrote) {
      if (done != 0) break;
      return err(wrote.error());
    }
    done += *wrote;
    if (*wrote < n || task.interrupted()) break;
  }
  return done;
}

Result<size_t> sys_syslog(Task& task, int32_t type, Addr buffer, int32_t length) {
  constexpr int32_t kClose = 0, kOpen = 1, kReadAll = 3, kSizeUnread = 9, kSizeBuffer = 10;
  if (type != kReadAll && type != kSizeBuffer && !task.creds().has_cap(Cap::kSYSLOG) && !task.creds().has_cap(Cap::kSYS_ADMIN))
    return err(kEPERM);
  if (type < kClose || type > kSizeBuffer) return err(kEINVAL);
  const std::string_view log = kernel::kBootMessage;
  if (type == kSizeBuffer) return size_t{1} << 14;
  if (type == kSizeUnread) return log.size();
  if (type == kClose || type == kOpen || type > 4) return size_t{0};
  if (buffer.is_null() || length < 0) return err(kEINVAL);
  const size_t n = std::min(log.size(), static_cast<size_t>(length));
  TRY(task.user_memory().copy_out(buffer, log.data(), n));
  return n;
}

// Machine-wide settings stay with the host: EPERM, as for a container without the capability.
Result<void> sys_settimeofday(Task&, Addr, Addr) { return err(kEPERM); }
Result<void> sys_reboot(Task&, uint32_t, uint32_t, uint32_t, Addr) { return err(kEPERM); }
Result<void> sys_swapon(Task&, UserCString, int32_t) { return err(kEPERM); }
Result<void> sys_swapoff(Task&, UserCString) { return err(kEPERM); }
Result<void> sys_acct(Task&, UserCString) { return err(kEPERM); }
Result<void> sys_init_module(Task&, Addr, size_t, UserCString) { return err(kEPERM); }
Result<void> sys_finit_module(Task&, Fd, UserCString, int32_t) { return err(kEPERM); }
Result<void> sys_delete_module(Task&, UserCString, uint32_t) { return err(kEPERM); }
Result<void> sys_kexec_load(Task&, uint64_t, uint64_t, Addr, uint64_t) { return err(kEPERM); }
Result<void> sys_kexec_file_load(Task&, Fd, Fd, uint64_t, Addr, uint64_t) { return err(kEPERM); }
Result<void> sys_iopl(Task&, uint32_t) { return err(kEPERM); }
Result<void> sys_ioperm(Task&, uint64_t, uint64_t, int32_t) { return err(kEPERM); }
Result<void> sys_vhangup(Task&) { return err(kEPERM); }

SYSCALL_FAMILY(system) = {
    ROW(uname, kFull, ""),
    ROW(sethostname, kFull, ""),
    ROW(setdomainname, kFull, ""),
    ROW(sysinfo, kPartial, "load averages are zero"),
    ROW(getrandom, kFull, ""),
    ROW(syslog, kPartial, "one boot message"),
    ROW(settimeofday, kStub, "EPERM: the clock is the host's"),
    ROW(reboot, kStub, "EPERM"),
    ROW(swapon, kStub, "EPERM"),
    ROW(swapoff, kStub, "EPERM"),
    ROW(acct, kStub, "EPERM"),
    ROW(init_module, kStub, "EPERM"),
    ROW(finit_module, kStub, "EPERM"),
    ROW(delete_module, kStub, "EPERM"),
    ROW(kexec_load, kStub, "EPERM"),
    ROW(kexec_file_load, kStub, "EPERM"),
    ROW(iopl, kStub, "EPERM"),
    ROW(ioperm, kStub, "EPERM"),
    ROW(vhangup, kStub, "EPERM"),
};
SYSCALL_FAMILY_END(system);

}  // namespace sentry::syscalls
