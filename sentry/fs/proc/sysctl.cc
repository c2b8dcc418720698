// SPDX-License-Identifier: Apache-2.0
// /proc/sys: the parameters that programs read, and those writes that mean something here.
#include <atomic>
#include <fmt/format.h>
#include <sys/random.h>
#include <map>

#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/fs/proc/proc_internal.h"
#include "sentry/kernel/version.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

// A number that is remembered when root writes it; what reads it elsewhere has its own place.
struct NumberRow {
  const char* path;
  int64_t value, min, max;
  uint32_t mode = 0644;
};

constexpr NumberRow kNumbers[] = {
    {"fs/aio-max-nr", 65536, 0, INT64_MAX},
    {"fs/aio-nr", 0, 0, 0, 0444},
    {"fs/file-max", INT64_MAX, 0, INT64_MAX},
    {"fs/inotify/max_queued_events", 16384, 0, INT32_MAX},
    {"fs/inotify/max_user_instances", 128, 0, INT32_MAX},
    {"fs/inotify/max_user_watches", 65536, 0, INT32_MAX},
    {"fs/epoll/max_user_watches", 1048576, 0, INT64_MAX},
    {"fs/lease-break-time", 45, 0, INT32_MAX},
    {"fs/leases-enable", 1, 0, 1},
    {"fs/mount-max", 100000, 1, INT32_MAX},
    {"fs/nr_open", 1048576, 8, 2147483584},
    {"fs/overflowgid", 65534, 0, 65535},
    {"fs/overflowuid", 65534, 0, 65535},
    {"fs/pipe-max-size", 1048576, 4096, INT32_MAX},
    {"fs/pipe-user-pages-hard", 0, 0, INT64_MAX},
    {"fs/pipe-user-pages-soft", 16384, 0, INT64_MAX},
    {"fs/protected_fifos", 0, 0, 2},
    {"fs/protected_hardlinks", 0, 0, 1},
    {"fs/protected_regular", 0, 0, 2},
    {"fs/protected_symlinks", 0, 0, 1},
    {"fs/suid_dumpable", 0, 0, 2},
    {"kernel/cap_last_cap", 40, 0, 0, 0444},
    {"kernel/core_uses_pid", 0, 0, 1},
    {"kernel/dmesg_restrict", 1, 0, 1},
    {"kernel/kptr_restrict", 2, 0, 2},
    {"kernel/msgmax", 8192, 0, INT32_MAX},
    {"kernel/msgmnb", 16384, 0, INT32_MAX},
    {"kernel/msgmni", 32000, 0, 32768},
    {"kernel/ngroups_max", 65536, 0, 0, 0444},
    {"kernel/overflowgid", 65534, 0, 65535},
    {"kernel/overflowuid", 65534, 0, 65535},
    {"kernel/panic", 0, INT32_MIN, INT32_MAX},
    {"kernel/panic_on_oops", 0, 0, 1},
    {"kernel/perf_event_paranoid", 4, -1, 4},
    {"kernel/pid_max", kernel::PidNamespace::kMaxPid, 301, kernel::PidNamespace::kMaxPid},
    {"kernel/pty/max", 4096, 0, INT32_MAX},
    {"kernel/pty/reserve", 1024, 0, INT32_MAX},
    {"kernel/random/entropy_avail", 256, 0, 0, 0444},
    {"kernel/random/poolsize", 256, 0, 0, 0444},
    {"kernel/randomize_va_space", 2, 0, 2},
    {"kernel/sched_child_runs_first", 0, 0, 1},
    {"kernel/sched_rt_period_us", 1000000, 1, INT32_MAX},
    {"kernel/sched_rt_runtime_us", 950000, -1, INT32_MAX},
    {"kernel/shm_rmid_forced", 0, 0, 1},
    {"kernel/shmall", INT64_MAX, 0, INT64_MAX},
    {"kernel/shmmax", INT64_MAX, 0, INT64_MAX},
    {"kernel/shmmni", 4096, 0, 32768},
    {"kernel/sysrq", 0, 0, 511},
    {"kernel/tainted", 0, 0, 0, 0444},
    {"kernel/threads-max", kernel::PidNamespace::kMaxPid, 1, INT32_MAX},
    {"kernel/unprivileged_bpf_disabled", 2, 0, 2},
    {"kernel/unprivileged_userns_clone", 1, 0, 1},
    {"kernel/yama/ptrace_scope", 0, 0, 3},
    {"net/core/netdev_max_backlog", 1000, 0, INT32_MAX},
    {"net/core/optmem_max", 20480, 0, INT32_MAX},
    {"net/core/rmem_default", 212992, 2304, INT32_MAX},
    {"net/core/rmem_max", 212992, 2304, INT32_MAX},
    {"net/core/somaxconn", 4096, 0, INT32_MAX},
    {"net/core/wmem_default", 212992, 4608, INT32_MAX},
    {"net/core/wmem_max", 212992, 4608, INT32_MAX},
    {"net/ipv4/conf/all/forwarding", 0, 0, 1},
    {"net/ipv4/ip_default_ttl", 64, 1, 255},
    {"net/ipv4/ip_forward", 0, 0, 1},
    {"net/ipv4/ip_nonlocal_bind", 0, 0, 1},
    {"net/ipv4/ip_unprivileged_port_start", 0, 0, 65535},
    {"net/ipv4/tcp_fastopen", 1, 0, INT32_MAX},
    {"net/ipv4/tcp_fin_timeout", 60, 0, INT32_MAX},
    {"net/ipv4/tcp_keepalive_intvl", 75, 1, INT32_MAX},
    {"net/ipv4/tcp_keepalive_probes", 9, 1, 255},
    {"net/ipv4/tcp_keepalive_time", 7200, 1, INT32_MAX},
    {"net/ipv4/tcp_max_syn_backlog", 512, 0, INT32_MAX},
    {"net/ipv4/tcp_sack", 1, 0, 1},
    {"net/ipv4/tcp_syncookies", 1, 0, 2},
    {"net/ipv4/tcp_timestamps", 1, 0, 2},
    {"net/ipv4/tcp_tw_reuse", 2, 0, 2},
    {"net/ipv4/tcp_window_scaling", 1, 0, 1},
    {"net/ipv6/conf/all/disable_ipv6", 0, 0, 1},
    {"net/ipv6/conf/default/disable_ipv6", 0, 0, 1},
    {"net/ipv6/bindv6only", 0, 0, 1},
    {"net/unix/max_dgram_qlen", 256, 0, INT32_MAX},
    {"vm/admin_reserve_kbytes", 8192, 0, INT64_MAX},
    {"vm/dirty_background_ratio", 10, 0, 100},
    {"vm/dirty_ratio", 20, 0, 100},
    {"vm/drop_caches", 0, 1, 4, 0200},
    {"vm/legacy_va_layout", 0, 0, 1},
    {"vm/max_map_count", 65530, 0, INT32_MAX},
    {"vm/min_free_kbytes", 67584, 0, INT32_MAX},
    {"vm/mmap_min_addr", 65536, 0, INT64_MAX},
    {"vm/nr_hugepages", 0, 0, 0},
    {"vm/overcommit_memory", 0, 0, 2},
    {"vm/overcommit_ratio", 50, 0, INT32_MAX},
    {"vm/page-cluster", 3, 0, 31},
    {"vm/panic_on_oom", 0, 0, 2},
    {"vm/swappiness", 60, 0, 200},
    {"vm/unprivileged_userfaultfd", 0, 0, 1},
    {"vm/vfs_cache_pressure", 100, 0, INT32_MAX},
    {"vm/zone_reclaim_mode", 0, 0, 7},
};

struct TextRow {
  const char* path;
  const char* text;
};
constexpr TextRow kTexts[] = {
    {"fs/dentry-state", "0\t0\t45\t0\t0\t0\n"},
    {"fs/file-nr", "0\t0\t9223372036854775807\n"},
    {"fs/inode-nr", "0\t0\n"},
    {"fs/inode-state", "0\t0\t0\t0\t0\t0\t0\n"},
    {"kernel/core_pattern", "core\n"},
    {"kernel/ostype", "Linux\n"},
    {"kernel/printk", "4\t4\t1\t7\n"},
    {"kernel/sem", "32000\t1024000000\t500\t32000\n"},
    {"kernel/modprobe", "/sbin/modprobe\n"},
    {"kernel/seccomp/actions_avail", "kill_process kill_thread trap errno user_notif trace log allow\n"},
    {"net/ipv4/ip_local_port_range", "32768\t60999\n"},
    {"net/ipv4/ip_local_reserved_ports", "\n"},
    {"net/ipv4/ping_group_range", "0\t2147483647\n"},
    {"net/ipv4/tcp_allowed_congestion_control", "reno cubic\n"},
    {"net/ipv4/tcp_available_congestion_control", "reno cubic\n"},
    {"net/ipv4/tcp_congestion_control", "cubic\n"},
    {"net/ipv4/tcp_mem", "94137\t125519\t188274\n"},
    {"net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"},
    {"net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"},
    {"vm/lowmem_reserve_ratio", "256\t256\t32\t0\t0\n"},
};

class NumberFile final : public TextFile {
 public:
  NumberFile(ProcFs& fs, const NumberRow& row) : TextFile(fs, abi::kS_IFREG | row.mode), row_(row), value_(row.value) {}
  Result<void> render(vfs::OpContext&, TextBuffer& out) override {
    out.print("{}\n", value_.load(std::memory_order_relaxed));
    return {};
  }
  Result<void> store(vfs::OpContext&, std::string_view text) override {
    const int64_t v = TRY(parse_integer(text));
    if (v < row_.min || v > row_.max) return err(kEINVAL);
    value_.store(v, std::memory_order_relaxed);
    return {};
  }

 private:
  const NumberRow& row_;
  std::atomic<int64_t> value_;
};

std::string random_uuid() {
  uint8_t b[16];
  if (getrandom(b, sizeof b, 0) != sizeof b) return std::string(36, '0');
  b[6] = (b[6] & 0x0f) | 0x40;
  b[8] = (b[8] & 0x3f) | 0x80;
  std::string s;
  for (size_t i = 0; i < sizeof b; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) s += '-';
    s += fmt::format("{:02x}", b[i]);
  }
  return s;
}

enum class NameKind : uint8_t { kHost, kDomain };

Result<void> render_uts(vfs::OpContext& ctx, NameKind kind, TextBuffer& out) {
  if (!ctx.task()) return {};
  RefPtr<kernel::Namespaces> ns = ctx.task()->namespaces();
  const kernel::UtsNames names = ns->uts->names.with([](auto& n) { return n; });
  out.print("{}\n", kind == NameKind::kHost ? names.hostname : names.domainname);
  return {};
}

Result<void> store_uts(vfs::OpContext& ctx, NameKind kind, std::string_view text) {
  if (!ctx.task()) return err(kEPERM);
  RefPtr<kernel::Namespaces> ns = ctx.task()->namespaces();
  if (!ctx.creds().has_cap_in(creds::Cap::kSYS_ADMIN, *ns->uts->user_ns)) return err(kEPERM);
  text = trim(text.substr(0, text.find('\0'))).substr(0, 64);
  ns->uts->names.with([&](kernel::UtsNames& n) { (kind == NameKind::kHost ? n.hostname : n.domainname) = text; });
  return {};
}

Result<void> render_mqueue_limit(vfs::OpContext& ctx, const MqueueLimitRow& row, TextBuffer& out) {
  if (ctx.task()) out.print("{}\n", (mqueue_limits(*ctx.task()->namespaces()->ipc).*row.value).load());
  return {};
}

Result<void> store_mqueue_limit(vfs::OpContext& ctx, const MqueueLimitRow& row, std::string_view text) {
  if (!ctx.task()) return err(kEPERM);
  const int64_t v = TRY(parse_integer(text));
  if (v < row.min || v > row.max) return err(kEINVAL);
  mqueue_limits(*ctx.task()->namespaces()->ipc).*row.value = v;
  return {};
}

class TreeBuilder {
 public:
  explicit TreeBuilder(ProcFs& fs) : fs_(fs), root_(base::make_ref<Directory>(fs)) { directories_[""] = root_; }
  void add(std::string_view path, RefPtr<SyntheticInode> file) {
    const size_t slash = path.rfind('/');
    directory(path.substr(0, slash)).add(std::string(path.substr(slash + 1)), std::move(file));
  }
  RefPtr<Directory> root() const { return root_; }

 private:
  Directory& directory(std::string_view path) {
    if (auto it = directories_.find(path); it != directories_.end()) return *it->second;
    const size_t slash = path.rfind('/');
    Directory& parent = directory(slash == std::string_view::npos ? std::string_view{} : path.substr(0, slash));
    auto made = base::make_ref<Directory>(fs_);
    parent.add(std::string(slash == std::string_view::npos ? path : path.substr(slash + 1)), made);
    return *directories_.emplace(path, std::move(made)).first->second;
  }
  ProcFs& fs_;
  const RefPtr<Directory> root_;
  std::map<std::string, RefPtr<Directory>, std::less<>> directories_;
};

}  // namespace

RefPtr<SyntheticInode> make_sysctl_tree(ProcFs& fs) {
  TreeBuilder tree(fs);
  for (const NumberRow& row : kNumbers) tree.add(row.path, base::make_ref<NumberFile>(fs, row));
  for (const TextRow& row : kTexts) tree.add(row.path, make_text(fs, row.text));
  tree.add("kernel/osrelease", make_text(fs, fmt::format("{}\n", kernel::kRelease)));
  tree.add("kernel/version", make_text(fs, fmt::format("{}\n", kernel::kVersion)));
  static const std::string boot_id = random_uuid() + "\n";
  tree.add("kernel/random/boot_id", make_text(fs, boot_id));
  tree.add("kernel/random/uuid", base::make_ref<FunctionFile>(fs, 0444, [](vfs::OpContext&, TextBuffer& out) {
             out.print("{}\n", random_uuid());
             return Result<void>{};
           }));
  for (NameKind kind : {NameKind::kHost, NameKind::kDomain})
    tree.add(kind == NameKind::kHost ? "kernel/hostname" : "kernel/domainname",
             base::make_ref<FunctionFile>(
                 fs, 0644, [kind](vfs::OpContext& ctx, TextBuffer& out) { return render_uts(ctx, kind, out); },
                 [kind](vfs::OpContext& ctx, std::string_view text) { return store_uts(ctx, kind, text); }));
  tree.add("kernel/ns_last_pid", base::make_ref<FunctionFile>(fs, 0444, [&fs](vfs::OpContext& ctx, TextBuffer& out) {
             out.print("{}\n", fs.view(ctx).last_pid());
             return Result<void>{};
           }));
  tree.add("kernel/pty/nr", make_text(fs, "0\n"));
  for (const MqueueLimitRow& row : mqueue_limit_rows())
    tree.add(fmt::format("fs/mqueue/{}", row.name),
             base::make_ref<FunctionFile>(
                 fs, 0644, [&row](vfs::OpContext& ctx, TextBuffer& out) { return render_mqueue_limit(ctx, row, out); },
                 [&row](vfs::OpContext& ctx, std::string_view text) { return store_mqueue_limit(ctx, row, text); }));
  return tree.root();
}

}  // namespace sentry::fs
