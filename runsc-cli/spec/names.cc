// SPDX-License-Identifier: Apache-2.0
// Names that OCI configs use for kernel numbers: capabilities, rlimits, mount options.
#include <algorithm>
#include <array>
#include <cctype>

#include <sys/mount.h>

#include "runsc-cli/spec/spec.h"

namespace cli {
namespace {

// Index = number: include/uapi/linux/capability.h.
constexpr std::array kCapabilities = {
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE"};

// Index = number: include/uapi/asm-generic/resource.h.
constexpr std::array kRlimits = {"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS",
                                 "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(toupper(static_cast<unsigned char>(c)));
  return out;
}

struct OptionRow {
  const char* name;
  uint64_t set, clear;
};
constexpr OptionRow kOptions[] = {
    {"async", 0, MS_SYNCHRONOUS},    {"sync", MS_SYNCHRONOUS, 0},       {"atime", 0, MS_NOATIME},
    {"noatime", MS_NOATIME, 0},      {"dev", 0, MS_NODEV},              {"nodev", MS_NODEV, 0},
    {"diratime", 0, MS_NODIRATIME},  {"nodiratime", MS_NODIRATIME, 0},  {"dirsync", MS_DIRSYNC, 0},
    {"exec", 0, MS_NOEXEC},          {"noexec", MS_NOEXEC, 0},          {"lazytime", MS_LAZYTIME, 0},
    {"nolazytime", 0, MS_LAZYTIME},  {"mand", MS_MANDLOCK, 0},          {"nomand", 0, MS_MANDLOCK},
    {"norelatime", 0, MS_RELATIME},  {"relatime", MS_RELATIME, 0},      {"nostrictatime", 0, MS_STRICTATIME},
    {"strictatime", MS_STRICTATIME, 0}, {"ro", MS_RDONLY, 0},           {"rro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},            {"rrw", 0, MS_RDONLY},             {"suid", 0, MS_NOSUID},
    {"nosuid", MS_NOSUID, 0},        {"nosymfollow", MS_NOSYMFOLLOW, 0}, {"symfollow", 0, MS_NOSYMFOLLOW},
    {"defaults", 0, 0},              {"remount", 0, 0},
    {"private", MS_PRIVATE, 0},      {"rprivate", MS_PRIVATE | MS_REC, 0}, {"slave", MS_SLAVE, 0},
    {"rslave", MS_SLAVE | MS_REC, 0}, {"shared", MS_SHARED, 0},         {"rshared", MS_SHARED | MS_REC, 0},
    {"unbindable", MS_UNBINDABLE, 0}, {"runbindable", MS_UNBINDABLE | MS_REC, 0},
};

}  // namespace

int capability_number(std::string_view name) {
  std::string wanted = upper(name);
  if (wanted.starts_with("CAP_")) wanted.erase(0, 4);
  for (size_t i = 0; i < kCapabilities.size(); ++i)
    if (wanted == kCapabilities[i]) return static_cast<int>(i);
  return -1;
}

const char* capability_name(int number) {
  return number >= 0 && static_cast<size_t>(number) < kCapabilities.size() ? kCapabilities[static_cast<size_t>(number)]
                                                                           : nullptr;
}

uint64_t all_capabilities() { return (uint64_t{1} << kCapabilities.size()) - 1; }

uint64_t default_capabilities() {
  uint64_t set = 0;
  for (const char* name : {"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
                           "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"})
    set |= uint64_t{1} << capability_number(name);
  return set;
}

int rlimit_number(std::string_view name) {
  if (!name.starts_with("RLIMIT_")) return -1;
  name.remove_prefix(7);
  auto it = std::find(kRlimits.begin(), kRlimits.end(), name);
  return it == kRlimits.end() ? -1 : static_cast<int>(it - kRlimits.begin());
}

MountOptions parse_mount_options(const std::vector<std::string>& options) {
  MountOptions out;
  for (const std::string& option : options) {
    if (option == "bind" || option == "rbind") {
      out.bind = true;
      out.recursive = option == "rbind";
      continue;
    }
    auto row = std::find_if(std::begin(kOptions), std::end(kOptions), [&](const OptionRow& r) { return option == r.name; });
    if (row == std::end(kOptions)) {
      if (!option.empty()) out.data.push_back(option);
    } else {
      out.flags = (out.flags & ~row->clear) | row->set;
    }
  }
  return out;
}

std::string clean_path(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    size_t slash = path.find('/');
    std::string_view part = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
    } else {
      parts.push_back(part);
    }
  }
  std::string out;
  for (std::string_view part : parts) out.append("/").append(part);
  return out.empty() ? "/" : out;
}

}  // namespace cli
