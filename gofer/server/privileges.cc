// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "gofer/server/confine.h"

namespace gofer {

namespace {

base::HostErr failed(std::string what) { return base::HostErr(base::HostError::from_errno(std::move(what))); }

// What acting as the container's root on files takes. The sentry has checked the guest's permissions.
constexpr uint32_t kKept = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER |
                           1u << CAP_FSETID;

base::HostResult<void> drop_capabilities() {
  for (int cap = 0; cap < 64; ++cap) {
    if (cap < 32 && (kKept >> cap & 1) != 0) continue;
    if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno == EPERM) return failed("drop bounding capability");
  }
  (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (setgroups(0, nullptr) != 0 && errno != EPERM) return failed("setgroups");  // EPERM: a user namespace without
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return failed("capget");
  data[0].permitted &= kKept;
  data[0].effective = data[0].permitted;
  data[0].inheritable = 0;
  data[1] = {};
  if (syscall(SYS_capset, &header, data) != 0) return failed("capset");
  return {};
}

// The rights that each version of Landlock's interface knows, by their number.
uint64_t known_rights(long abi) {
  unsigned count = abi >= 5 ? 16 : abi >= 3 ? 15 : abi >= 2 ? 14 : 13;
  return (uint64_t{1} << count) - 1;
}

constexpr uint64_t kTruncate = uint64_t{1} << 14;
constexpr uint64_t kIoctlDevice = uint64_t{1} << 15;
constexpr uint64_t kFileRights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | kTruncate;

// This machine's header may be older than its kernel.
struct RulesetAttr {
  uint64_t fs, net, scoped;
};

}  // namespace

base::HostResult<void> restrict_with_landlock(const std::vector<TreeRoot>& trees, const Config& config) {
  long abi = syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 2) return {};  // none, or one that would forbid every rename between directories
  uint64_t known = known_rights(abi);
  RulesetAttr attr{.fs = known, .net = abi >= 4 ? 3u : 0u, .scoped = abi >= 6 && !config.host_uds ? 3u : 0u};
  size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
  base::UniqueFd ruleset(static_cast<int>(syscall(SYS_landlock_create_ruleset, &attr, size, 0)));
  if (!ruleset) return failed("landlock_create_ruleset");
  for (size_t i = 0; i < trees.size(); ++i) {
    uint64_t rights = known & ~(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
                                LANDLOCK_ACCESS_FS_MAKE_BLOCK | kIoctlDevice);
    if (trees[i].readonly) rights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    if (config.trees[i].file) rights &= kFileRights;
    base::UniqueFd tree(openat(trees[i].parent.get(), trees[i].name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!tree) return failed("open tree " + trees[i].name);
    struct landlock_path_beneath_attr rule {};
    rule.allowed_access = rights;
    rule.parent_fd = tree.get();
    if (syscall(SYS_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) {
      return failed("landlock_add_rule " + config.trees[i].path);
    }
  }
  if (syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0) return failed("landlock_restrict_self");
  return {};
}

base::HostResult<void> drop_privileges(const std::vector<TreeRoot>& trees, const Config& config) {
  TRY(drop_capabilities());
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return failed("set undumpable");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("no_new_privs");
  TRY(restrict_with_landlock(trees, config));
  return install_filter(config.host_uds);
}

}  // namespace gofer
