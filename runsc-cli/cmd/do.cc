// SPDX-License-Identifier: Apache-2.0
// `runsc do`: a command in a sandbox on the machine's own root, read-only below, an in-memory overlay above.
#include <climits>
#include <cstdlib>

#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json/reader.h"
#include "runsc-cli/cmd/commands.h"
#include "runsc-cli/cmd/foreground.h"
#include "runsc-cli/sandbox/console.h"

namespace cli {

using abi::oci::Mount;
using base::HostErr;
using base::HostError;
using base::HostResult;

namespace {

extern "C" char** environ;

HostErr usage(std::string text) { return HostErr(HostError::plain(std::move(text))); }

Mount plain_mount(const char* destination, const char* type, uint64_t flags, std::vector<std::string> data = {}) {
  Mount m;
  m.destination = destination;
  m.type = m.source = type;
  m.flags = flags;
  m.options = std::move(data);
  return m;
}

HostResult<void> add_volume(const std::string& text, Spec& spec) {
  size_t first = text.find(':');
  size_t second = text.find(':', first == std::string::npos ? first : first + 1);
  std::string mode = second == std::string::npos ? "" : text.substr(second + 1);
  if (first == std::string::npos || first == 0 || (mode != "" && mode != "ro" && mode != "rw"))
    return usage(fmt::format("--volume: \"{:.80}\" must have the form SRC:DST[:ro]", text));
  char source[PATH_MAX];
  if (!realpath(text.substr(0, first).c_str(), source)) return HostErr(HostError::from_errno("--volume: " + text.substr(0, first)));
  Mount m;
  m.type = "bind";
  m.source = source;
  m.destination = text.substr(first + 1, second == std::string::npos ? second : second - first - 1);
  if (m.destination.empty() || m.destination[0] != '/') return usage("--volume: DST must be an absolute path");
  m.destination = clean_path(m.destination);
  if (mode == "ro") m.flags |= MS_RDONLY;
  m.gofer_tree = static_cast<int32_t>(spec.trees.size());
  m.shared = true;
  struct stat st {};
  m.is_file = stat(source, &st) == 0 && !S_ISDIR(st.st_mode);
  spec.trees.push_back({source, mode == "ro", m.is_file, true});
  spec.container.mounts.push_back(std::move(m));
  return {};
}

HostResult<std::string> working_directory(const DoOptions& options) {
  if (!options.cwd.empty()) {
    if (options.cwd[0] != '/') return usage("--cwd: must be an absolute path");
    return options.cwd;
  }
  char current[PATH_MAX];
  // Another root has other directories.
  if (options.root != "/" || !getcwd(current, sizeof current) || current[0] != '/') return std::string("/");
  return std::string(current);
}

std::string host_name() {
  char name[65] = "runsc";
  gethostname(name, sizeof name - 1);
  return name;
}

HostResult<Spec> build_spec(const Global& global, const DoOptions& options, const std::string& id) {
  Spec spec;
  spec.oci_version = kOciVersion;
  char root[PATH_MAX];
  if (!realpath(options.root.c_str(), root)) return HostErr(HostError::from_errno("--root: " + options.root));
  spec.root_path = spec.bundle = root;
  abi::oci::Container& c = spec.container;
  c.id = id;
  c.root_overlay = global.root_overlay();
  spec.trees.push_back({root, c.root_overlay == abi::oci::RootOverlay::kMemory, false, true});
  c.hostname = host_name();
  c.init_ordinary = true;
  abi::oci::Process& p = c.process;
  p.args = options.args;
  p.cwd = TRY(working_directory(options));
  for (char** e = environ; *e; ++e)
    if (base::is_utf8(*e)) p.env.emplace_back(*e);
  p.env.insert(p.env.end(), options.env.begin(), options.env.end());
  for (const std::string& arg : p.args)
    if (!base::is_utf8(arg)) return usage("do: arguments must be UTF-8");
  p.uid = getuid();
  p.gid = getgid();
  mode_t mask = umask(022);
  umask(mask);
  p.umask = mask & 0777;
  uint64_t caps = p.uid == 0 ? all_capabilities() : 0;
  p.capabilities = {caps, caps, 0, all_capabilities(), 0};
  for (int resource : {RLIMIT_NOFILE, RLIMIT_STACK, RLIMIT_CORE}) {
    rlimit limit{};
    if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) == 0)
      p.rlimits.push_back({resource, limit.rlim_cur, limit.rlim_max});
  }
  constexpr uint64_t kSafe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  c.mounts.push_back(plain_mount("/proc", "proc", kSafe));
  c.mounts.push_back(plain_mount("/sys", "sysfs", kSafe | MS_RDONLY));
  c.mounts.push_back(plain_mount("/dev", "devtmpfs", MS_NOSUID, {"mode=755"}));
  c.mounts.push_back(plain_mount("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, {"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}));
  c.mounts.push_back(plain_mount("/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, {"mode=1777"}));
  c.mounts.push_back(plain_mount("/dev/mqueue", "mqueue", kSafe));
  for (const std::string& volume : options.volumes) TRY(add_volume(volume, spec));
  spec.namespaces.network.listed = global.network != "host";
  return spec;
}

}  // namespace

CommandResult cmd_do(const Global& global, const DoOptions& options) {
  if (options.args.empty()) return usage("do: a command is needed");
  std::string id = fmt::format("do-{}-{:x}", getpid(), process_start_time(getpid()));
  StateFiles files = TRY(StateFiles::at(global.root, id));
  CreateRequest request;
  request.global = &global;
  request.spec = TRY(build_spec(global, options, id));
  request.start = StartNow::kYes;
  if (options.tty != "never" && isatty(0) && isatty(1)) {
    request.spec.container.process.terminal = true;
    request.terminal = 0;
  }
  return run_in_foreground(files, request, Keep::kNo);
}

}  // namespace cli
