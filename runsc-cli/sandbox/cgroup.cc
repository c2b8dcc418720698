// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/sandbox/cgroup.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <sstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include "base/log/log.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

struct Hierarchy {
  std::string mount_point;
  bool v2 = false;
};

std::vector<Hierarchy> hierarchies() {
  std::vector<Hierarchy> out;
  auto text = read_small_file("/proc/self/mountinfo", 8 << 20);
  if (!text) return out;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    size_t dash = line.find(" - cgroup");
    if (dash == std::string::npos) continue;
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    bool v2 = line.compare(dash + 3, 8, "cgroup2 ") == 0;
    bool known = std::any_of(out.begin(), out.end(), [&](const Hierarchy& h) { return h.mount_point == point; });
    if (!known) out.push_back({point, v2});
  }
  return out;
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

HostResult<void> write_file(const std::string& path, const std::string& text) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return HostErr(HostError::from_errno(path));
  if (write(fd.get(), text.data(), text.size()) < 0) return HostErr(HostError::from_errno(path));
  return {};
}

// Writes a limit where the controller is; a missing file means that this hierarchy does not have it.
HostResult<void> limit(const std::string& dir, const char* file, const std::string& value) {
  std::string path = dir + "/" + file;
  if (!exists(path)) return {};
  return write_file(path, value);
}

// A v1 cpuset group starts empty and refuses processes until it has CPUs and memory nodes.
void inherit_cpuset(const std::string& dir) {
  for (const char* file : {"cpuset.cpus", "cpuset.mems"}) {
    std::string path = dir + "/" + file;
    auto own = read_small_file(path, 4096);
    if (!own || own->find_first_not_of(" \n") != std::string::npos) continue;
    auto above = read_small_file(dir.substr(0, dir.find_last_of('/')) + "/" + file, 4096);
    if (above) (void)write_file(path, *above);
  }
}

// In v2 a group has the controllers that its parent passes down.
void pass_controllers_down(const std::string& dir) {
  auto have = read_small_file(dir + "/cgroup.controllers", 4096);
  if (!have) return;
  std::istringstream names(*have);
  for (std::string name; names >> name;) (void)write_file(dir + "/cgroup.subtree_control", "+" + name);
}

HostResult<std::string> make_group(const Hierarchy& h, const std::string& path) {
  std::string dir = h.mount_point;
  for (size_t at = 0; at < path.size();) {
    size_t next = path.find('/', at + 1);
    if (h.v2) pass_controllers_down(dir);
    dir += path.substr(at, next == std::string::npos ? next : next - at);
    if (mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) return HostErr(HostError::from_errno("cgroup " + dir));
    if (!h.v2 && exists(dir + "/cpuset.cpus")) inherit_cpuset(dir);
    if (next == std::string::npos) break;
    at = next;
  }
  return dir;
}

std::string amount(int64_t value) { return value < 0 ? "-1" : std::to_string(value); }
std::string amount_v2(int64_t value) { return value < 0 ? "max" : std::to_string(value); }

// The sentry needs host threads of its own beside those that carry guest tasks; the guest's own count is not the host's.
int64_t host_pids(int64_t guest) { return guest <= 0 ? -1 : guest * 2 + 256; }

HostResult<void> limits_v1(const std::string& dir, const Resources& r) {
  if (r.memory_limit) {
    // Raising both needs memsw first, lowering both needs it last.
    HostResult<void> first = limit(dir, "memory.limit_in_bytes", amount(*r.memory_limit));
    if (r.memory_swap) TRY(limit(dir, "memory.memsw.limit_in_bytes", amount(*r.memory_swap)));
    if (!first) TRY(limit(dir, "memory.limit_in_bytes", amount(*r.memory_limit)));
  } else if (r.memory_swap) {
    TRY(limit(dir, "memory.memsw.limit_in_bytes", amount(*r.memory_swap)));
  }
  if (r.memory_reservation) TRY(limit(dir, "memory.soft_limit_in_bytes", amount(*r.memory_reservation)));
  if (r.memory_swappiness) (void)limit(dir, "memory.swappiness", std::to_string(*r.memory_swappiness));
  if (r.disable_oom_killer && *r.disable_oom_killer) TRY(limit(dir, "memory.oom_control", "1"));
  if (r.cpu_shares && *r.cpu_shares) TRY(limit(dir, "cpu.shares", std::to_string(*r.cpu_shares)));
  if (r.cpu_period && *r.cpu_period) TRY(limit(dir, "cpu.cfs_period_us", std::to_string(*r.cpu_period)));
  if (r.cpu_quota && *r.cpu_quota) TRY(limit(dir, "cpu.cfs_quota_us", amount(*r.cpu_quota)));
  if (r.cpu_idle) (void)limit(dir, "cpu.idle", std::to_string(*r.cpu_idle));
  if (r.blkio_weight && *r.blkio_weight) (void)limit(dir, "blkio.weight", std::to_string(*r.blkio_weight));
  return {};
}

HostResult<void> limits_v2(const std::string& dir, const Resources& r) {
  if (r.memory_limit) TRY(limit(dir, "memory.max", amount_v2(*r.memory_limit)));
  if (r.memory_reservation) TRY(limit(dir, "memory.low", amount_v2(*r.memory_reservation)));
  if (r.memory_swap) {
    // OCI's swap counts memory and swap together, v2's swap alone.
    int64_t swap = *r.memory_swap < 0 || !r.memory_limit ? *r.memory_swap : std::max<int64_t>(0, *r.memory_swap - *r.memory_limit);
    TRY(limit(dir, "memory.swap.max", amount_v2(swap)));
  }
  if (r.cpu_shares && *r.cpu_shares)
    TRY(limit(dir, "cpu.weight", std::to_string(1 + ((std::clamp<uint64_t>(*r.cpu_shares, 2, 262144) - 2) * 9999) / 262142)));
  if ((r.cpu_quota && *r.cpu_quota) || (r.cpu_period && *r.cpu_period))
    TRY(limit(dir, "cpu.max", fmt::format("{} {}", amount_v2(r.cpu_quota && *r.cpu_quota ? *r.cpu_quota : -1),
                                          r.cpu_period && *r.cpu_period ? *r.cpu_period : 100000)));
  if (r.cpu_idle) (void)limit(dir, "cpu.idle", std::to_string(*r.cpu_idle));
  for (const HugepageLimit& h : r.hugepages)
    TRY(limit(dir, fmt::format("hugetlb.{}.max", h.page_size).c_str(), std::to_string(h.limit)));
  for (const auto& [file, value] : r.unified) TRY(limit(dir, file.c_str(), value));
  return {};
}

HostResult<void> write_limits(const std::string& dir, const Resources& r) {
  bool v2 = exists(dir + "/cgroup.controllers");
  TRY(v2 ? limits_v2(dir, r) : limits_v1(dir, r));
  if (!r.cpuset_cpus.empty()) TRY(limit(dir, "cpuset.cpus", r.cpuset_cpus));
  if (!r.cpuset_mems.empty()) TRY(limit(dir, "cpuset.mems", r.cpuset_mems));
  if (r.pids_limit) {
    int64_t pids = host_pids(*r.pids_limit);
    TRY(limit(dir, "pids.max", amount_v2(pids)));
  }
  return {};
}

}  // namespace

HostResult<void> make_cgroups(const std::string& path, const Resources& limits, std::vector<std::string>& made) {
  std::string clean = clean_path(path);
  if (clean == "/") return {};
  for (const Hierarchy& h : hierarchies()) {
    HostResult<std::string> dir = make_group(h, clean);
    if (!dir) {
      LOG_WARNING("{}", dir.error().message);  // a hierarchy that we may not write to
      continue;
    }
    made.push_back(*dir);
    TRY(write_limits(*dir, limits));
  }
  return {};
}

HostResult<void> update_cgroups(const std::vector<std::string>& dirs, const Resources& limits) {
  for (const std::string& dir : dirs) TRY(write_limits(dir, limits));
  return {};
}

HostResult<CgroupEntry> open_cgroup_entry(const std::vector<std::string>& dirs) {
  CgroupEntry entry;
  for (const std::string& dir : dirs) {
    if (exists(dir + "/cgroup.controllers")) {
      entry.v2_dir.reset(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!entry.v2_dir) return HostErr(HostError::from_errno(dir));
      continue;
    }
    UniqueFd tasks(open((dir + "/tasks").c_str(), O_WRONLY | O_CLOEXEC));
    if (!tasks) return HostErr(HostError::from_errno(dir + "/tasks"));
    entry.v1_tasks.push_back(std::move(tasks));
  }
  return entry;
}

void remove_cgroups(const std::vector<std::string>& dirs) {
  for (const std::string& dir : dirs) {
    // A group can be removed when its last process has been torn down, which takes the kernel a moment after SIGKILL.
    for (int attempt = 0; attempt < 100; ++attempt) {
      if (rmdir(dir.c_str()) == 0 || (errno != EBUSY && errno != ENOTEMPTY)) break;
      if (!write_file(dir + "/cgroup.kill", "1")) {
        auto procs = read_small_file(dir + "/cgroup.procs", 1 << 20);
        std::istringstream pids(procs ? *procs : "");
        for (int pid; pids >> pid;)
          if (pid > 1) kill(pid, SIGKILL);
      }
      timespec pause{0, 2'000'000};
      nanosleep(&pause, nullptr);
    }
  }
}

}  // namespace cli
