// SPDX-License-Identifier: Apache-2.0
// Files of /proc itself: fs/proc/{stat,meminfo,uptime,loadavg,version,devices,...}.c.
#include <algorithm>
#include <cpuid.h>
#include <cstring>
#include <ctime>
#include <sys/sysinfo.h>
#include <unordered_set>

#include "base/stats/stats.h"
#include "sentry/fs/proc/proc_internal.h"
#include "sentry/kernel/version.h"
#include "sentry/vfs/devices.h"
#include "sentry/vfs/file_system_registry.h"

namespace sentry::fs {

using base::RefPtr;
using base::Result;

int64_t boottime_now_ns() {
  timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

unsigned cpu_count(const kernel::Kernel& kernel) { return std::max(1u, kernel.config().executors); }

kernel::ResourceUse total_use(kernel::Kernel& kernel) {
  kernel::ResourceUse total;
  for (const RefPtr<kernel::ThreadGroup>& g : kernel.root_pid_namespace().groups()) {
    total.add(g->own_use());
    total.add(g->children_use());
  }
  return total;
}

namespace {

using Ctx = vfs::OpContext;

struct TaskCounts {
  unsigned running = 0, total = 0;
};

TaskCounts count_tasks(kernel::PidNamespace& ns) {
  TaskCounts counts;
  for (const RefPtr<kernel::ThreadGroup>& g : ns.groups())
    for (const RefPtr<kernel::Task>& t : g->tasks()) {
      ++counts.total;
      if (t->state() == kernel::TaskState::kRunning) ++counts.running;
    }
  return counts;
}

Result<void> render_stat(Ctx& ctx, ProcFs& fs, TextBuffer& out) {
  const unsigned cpus = cpu_count(fs.kernel());
  const kernel::ResourceUse use = total_use(fs.kernel());
  const uint64_t user = clock_ticks(use.user_ns), system = clock_ticks(use.system_ns);
  const int64_t up = boottime_now_ns();
  const uint64_t all = clock_ticks(up) * cpus;
  const uint64_t idle = all > user + system ? all - user - system : 0;
  out.print("cpu  {} 0 {} {} 0 0 0 0 0 0\n", user, system, idle);
  for (unsigned i = 0; i < cpus; ++i) {
    // The remainder goes to the first, so that the lines add up.
    auto part = [&](uint64_t v) { return v / cpus + (i == 0 ? v % cpus : 0); };
    out.print("cpu{} {} 0 {} {} 0 0 0 0 0 0\n", i, part(user), part(system), part(idle));
  }
  const TaskCounts counts = count_tasks(fs.view(ctx));
  const int64_t boot = (ctx.now_realtime() - up) / 1'000'000'000;
  out.print("intr 0\nctxt {}\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
            base::stats::total(base::stats::Counter::kFiberSwitches), boot,
            fs.view(ctx).set().forks.load(std::memory_order_relaxed), std::max(1u, counts.running));
  return {};
}

struct Memory {
  uint64_t total, free, cached, shmem, anonymous;  // KiB
};

Memory memory_of(kernel::Kernel& kernel) {
  const memory::MemoryFile::Usage usage = kernel.memory().usage();
  struct sysinfo host {};
  sysinfo(&host);
  uint64_t total = uint64_t{host.totalram} * host.mem_unit;
  uint64_t free = uint64_t{host.freeram} * host.mem_unit;
  if (const uint64_t limit = kernel.config().memory_limit; limit != 0 && limit < total) {
    total = limit;
    free = limit > usage.total() ? limit - usage.total() : 0;
  } else {
    free = std::min(free + uint64_t{host.bufferram} * host.mem_unit, total);
  }
  return {total >> 10, free >> 10, (usage.page_cache + usage.tmpfs) >> 10, usage.tmpfs >> 10, usage.anonymous >> 10};
}

Result<void> render_meminfo(Ctx&, ProcFs& fs, TextBuffer& out) {
  const Memory m = memory_of(fs.kernel());
  const uint64_t available = std::min(m.total, m.free + (m.cached > m.shmem ? m.cached - m.shmem : 0));
  auto line = [&](std::string_view name, uint64_t kib) {
    const size_t start = out.size();
    out.print("{}:", name);
    out.pad_to(start, 16);
    out.print("{:8} kB\n", kib);
  };
  const uint64_t file = m.cached > m.shmem ? m.cached - m.shmem : 0;
  line("MemTotal", m.total);
  line("MemFree", m.free);
  line("MemAvailable", available);
  line("Buffers", 0);
  line("Cached", m.cached);
  line("SwapCached", 0);
  line("Active", m.anonymous + file);
  line("Inactive", 0);
  line("Active(anon)", m.anonymous);
  line("Inactive(anon)", 0);
  line("Active(file)", file);
  line("Inactive(file)", 0);
  line("Unevictable", 0);
  line("Mlocked", 0);
  line("SwapTotal", 0);
  line("SwapFree", 0);
  line("Zswap", 0);
  line("Zswapped", 0);
  line("Dirty", 0);
  line("Writeback", 0);
  line("AnonPages", m.anonymous);
  line("Mapped", file);
  line("Shmem", m.shmem);
  line("KReclaimable", 0);
  line("Slab", 0);
  line("SReclaimable", 0);
  line("SUnreclaim", 0);
  line("KernelStack", 0);
  line("PageTables", 0);
  line("SecPageTables", 0);
  line("NFS_Unstable", 0);
  line("Bounce", 0);
  line("WritebackTmp", 0);
  line("CommitLimit", m.total / 2);
  line("Committed_AS", m.anonymous);
  line("VmallocTotal", 34359738367);
  line("VmallocUsed", 0);
  line("VmallocChunk", 0);
  line("Percpu", 0);
  line("AnonHugePages", 0);
  line("ShmemHugePages", 0);
  line("ShmemPmdMapped", 0);
  line("FileHugePages", 0);
  line("FilePmdMapped", 0);
  out.append("HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n");
  line("Hugepagesize", 2048);
  line("Hugetlb", 0);
  return {};
}

// Feature bits in the order of arch/x86/include/asm/cpufeatures.h, for the leaves that programs look for.
struct Feature {
  uint32_t leaf, sub;
  uint8_t reg, bit;  // register: 0 eax .. 3 edx
  const char* name;
};
constexpr Feature kFeatures[] = {
    {1, 0, 3, 0, "fpu"}, {1, 0, 3, 1, "vme"}, {1, 0, 3, 2, "de"}, {1, 0, 3, 3, "pse"}, {1, 0, 3, 4, "tsc"},
    {1, 0, 3, 5, "msr"}, {1, 0, 3, 6, "pae"}, {1, 0, 3, 7, "mce"}, {1, 0, 3, 8, "cx8"}, {1, 0, 3, 9, "apic"},
    {1, 0, 3, 11, "sep"}, {1, 0, 3, 12, "mtrr"}, {1, 0, 3, 13, "pge"}, {1, 0, 3, 14, "mca"}, {1, 0, 3, 15, "cmov"},
    {1, 0, 3, 16, "pat"}, {1, 0, 3, 17, "pse36"}, {1, 0, 3, 19, "clflush"}, {1, 0, 3, 23, "mmx"}, {1, 0, 3, 24, "fxsr"},
    {1, 0, 3, 25, "sse"}, {1, 0, 3, 26, "sse2"}, {1, 0, 3, 27, "ss"}, {1, 0, 3, 28, "ht"},
    {0x80000001, 0, 3, 11, "syscall"}, {0x80000001, 0, 3, 20, "nx"}, {0x80000001, 0, 3, 26, "pdpe1gb"},
    {0x80000001, 0, 3, 27, "rdtscp"}, {0x80000001, 0, 3, 29, "lm"},
    {1, 0, 2, 0, "pni"}, {1, 0, 2, 1, "pclmulqdq"}, {1, 0, 2, 9, "ssse3"}, {1, 0, 2, 12, "fma"}, {1, 0, 2, 13, "cx16"},
    {1, 0, 2, 17, "pcid"}, {1, 0, 2, 19, "sse4_1"}, {1, 0, 2, 20, "sse4_2"}, {1, 0, 2, 22, "movbe"}, {1, 0, 2, 23, "popcnt"},
    {1, 0, 2, 25, "aes"}, {1, 0, 2, 26, "xsave"}, {1, 0, 2, 28, "avx"}, {1, 0, 2, 29, "f16c"}, {1, 0, 2, 30, "rdrand"},
    {1, 0, 2, 31, "hypervisor"},
    {0x80000001, 0, 2, 0, "lahf_lm"}, {0x80000001, 0, 2, 5, "abm"}, {0x80000001, 0, 2, 6, "sse4a"},
    {0x80000001, 0, 2, 8, "3dnowprefetch"},
    {7, 0, 1, 0, "fsgsbase"}, {7, 0, 1, 3, "bmi1"}, {7, 0, 1, 5, "avx2"}, {7, 0, 1, 7, "smep"}, {7, 0, 1, 8, "bmi2"},
    {7, 0, 1, 9, "erms"}, {7, 0, 1, 10, "invpcid"}, {7, 0, 1, 16, "avx512f"}, {7, 0, 1, 17, "avx512dq"},
    {7, 0, 1, 18, "rdseed"}, {7, 0, 1, 19, "adx"}, {7, 0, 1, 20, "smap"}, {7, 0, 1, 21, "avx512ifma"},
    {7, 0, 1, 23, "clflushopt"}, {7, 0, 1, 24, "clwb"}, {7, 0, 1, 28, "avx512cd"}, {7, 0, 1, 29, "sha_ni"},
    {7, 0, 1, 30, "avx512bw"}, {7, 0, 1, 31, "avx512vl"}, {0xd, 1, 0, 0, "xsaveopt"}, {0xd, 1, 0, 1, "xsavec"},
    {0xd, 1, 0, 2, "xgetbv1"}, {7, 0, 2, 1, "avx512vbmi"}, {7, 0, 2, 8, "gfni"}, {7, 0, 2, 9, "vaes"},
    {7, 0, 2, 10, "vpclmulqdq"}, {7, 0, 2, 11, "avx512_vnni"}, {7, 0, 2, 12, "avx512_bitalg"},
    {7, 0, 2, 14, "avx512_vpopcntdq"}, {7, 0, 2, 22, "rdpid"}, {7, 0, 3, 4, "fsrm"},
};

struct CpuText {
  std::string vendor, model_name, flags;
  unsigned family = 0, model = 0, stepping = 0, clflush = 64, physical_bits = 46, virtual_bits = 48, level = 0;
};

CpuText read_cpu() {
  CpuText t;
  unsigned r[4] = {};
  __get_cpuid(0, &r[0], &r[1], &r[2], &r[3]);
  t.level = r[0];
  char vendor[12];
  std::memcpy(vendor, &r[1], 4);
  std::memcpy(vendor + 4, &r[3], 4);
  std::memcpy(vendor + 8, &r[2], 4);
  t.vendor.assign(vendor, sizeof vendor);
  __get_cpuid(1, &r[0], &r[1], &r[2], &r[3]);
  t.family = (r[0] >> 8) & 0xf;
  t.model = (r[0] >> 4) & 0xf;
  t.stepping = r[0] & 0xf;
  if (t.family == 0xf) t.family += (r[0] >> 20) & 0xff;
  if (t.family >= 6) t.model += ((r[0] >> 16) & 0xf) << 4;
  t.clflush = ((r[1] >> 8) & 0xff) * 8;
  for (unsigned leaf = 0x80000002; leaf <= 0x80000004; ++leaf)
    if (__get_cpuid(leaf, &r[0], &r[1], &r[2], &r[3])) {
      char part[16];
      std::memcpy(part, r, sizeof part);
      t.model_name.append(part, strnlen(part, sizeof part));
    }
  t.model_name = std::string(trim(t.model_name));
  if (__get_cpuid(0x80000008, &r[0], &r[1], &r[2], &r[3])) {
    t.physical_bits = r[0] & 0xff;
    t.virtual_bits = (r[0] >> 8) & 0xff;
  }
  for (const Feature& f : kFeatures)
    if (__get_cpuid_count(f.leaf, f.sub, &r[0], &r[1], &r[2], &r[3]) && ((r[f.reg] >> f.bit) & 1)) {
      if (!t.flags.empty()) t.flags += ' ';
      t.flags += f.name;
    }
  return t;
}

// Cycles per microsecond of the time-stamp counter, measured once.
double tsc_mhz() {
  static const double mhz = [] {
    timespec a, b;
    unsigned aux;
    clock_gettime(CLOCK_MONOTONIC, &a);
    const uint64_t t0 = __builtin_ia32_rdtscp(&aux);
    uint64_t t1;
    int64_t ns;
    do {
      clock_gettime(CLOCK_MONOTONIC, &b);
      t1 = __builtin_ia32_rdtscp(&aux);
      ns = (b.tv_sec - a.tv_sec) * 1'000'000'000 + (b.tv_nsec - a.tv_nsec);
    } while (ns < 200'000);
    return static_cast<double>(t1 - t0) * 1000.0 / static_cast<double>(ns);
  }();
  return mhz;
}

Result<void> render_cpuinfo(Ctx&, ProcFs& fs, TextBuffer& out) {
  static const CpuText cpu = read_cpu();
  const unsigned cpus = cpu_count(fs.kernel());
  const double mhz = tsc_mhz();
  for (unsigned i = 0; i < cpus; ++i) {
    out.print("processor\t: {}\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: {}\nstepping\t: {}\n", i,
              cpu.vendor, cpu.family, cpu.model, cpu.model_name, cpu.stepping);
    out.print("microcode\t: 0xffffffff\ncpu MHz\t\t: {:.3f}\ncache size\t: 32768 KB\nphysical id\t: 0\nsiblings\t: {}\n", mhz,
              cpus);
    out.print("core id\t\t: {}\ncpu cores\t: {}\napicid\t\t: {}\ninitial apicid\t: {}\nfpu\t\t: yes\nfpu_exception\t: yes\n", i,
              cpus, i, i);
    out.print("cpuid level\t: {}\nwp\t\t: yes\nflags\t\t: {}\nbugs\t\t:\nbogomips\t: {:.2f}\n", cpu.level, cpu.flags, mhz * 2);
    out.print("clflush size\t: {}\ncache_alignment\t: {}\naddress sizes\t: {} bits physical, {} bits virtual\npower management:\n\n",
              cpu.clflush, cpu.clflush, cpu.physical_bits, cpu.virtual_bits);
  }
  return {};
}

Result<void> render_uptime(Ctx&, ProcFs& fs, TextBuffer& out) {
  const int64_t up = boottime_now_ns();
  const kernel::ResourceUse use = total_use(fs.kernel());
  const int64_t idle = std::max<int64_t>(0, up * cpu_count(fs.kernel()) - use.user_ns - use.system_ns);
  auto hundredths = [](int64_t ns) { return ns % 1'000'000'000 / 10'000'000; };
  out.print("{}.{:02} {}.{:02}\n", up / 1'000'000'000, hundredths(up), idle / 1'000'000'000, hundredths(idle));
  return {};
}

Result<void> render_loadavg(Ctx& ctx, ProcFs& fs, TextBuffer& out) {
  kernel::PidNamespace& ns = fs.view(ctx);
  const TaskCounts counts = count_tasks(ns);
  struct sysinfo host {};
  sysinfo(&host);
  auto load = [](unsigned long v) { return static_cast<double>(v) / 65536.0; };
  out.print("{:.2f} {:.2f} {:.2f} {}/{} {}\n", load(host.loads[0]), load(host.loads[1]), load(host.loads[2]),
            std::max(1u, counts.running), counts.total, ns.last_pid());
  return {};
}

Result<void> render_version(Ctx&, ProcFs&, TextBuffer& out) {
  out.print("Linux version {} (runsc@sandbox) (gcc) {}\n", kernel::kRelease, kernel::kVersion);
  return {};
}

Result<void> render_filesystems(Ctx&, ProcFs&, TextBuffer& out) {
  for (const vfs::FileSystemType& t : vfs::all_file_systems()) out.print("{}\t{}\n", t.nodev ? "nodev" : "", t.name);
  return {};
}

Result<void> render_cmdline(Ctx&, ProcFs&, TextBuffer& out) {
  out.append("BOOT_IMAGE=/runsc quiet\n");
  return {};
}

Result<void> render_devices(Ctx&, ProcFs&, TextBuffer& out) {
  out.append("Character devices:\n");
  for (vfs::DeviceClass kind : {vfs::DeviceClass::kChar, vfs::DeviceClass::kBlock}) {
    if (kind == vfs::DeviceClass::kBlock) out.append("\nBlock devices:\n");
    std::vector<std::pair<uint32_t, const char*>> lines;
    for (const vfs::DeviceRange& r : vfs::device_ranges())
      if (r.kind == kind) lines.emplace_back(r.major, r.name);
    std::sort(lines.begin(), lines.end(), [](auto& a, auto& b) {
      return a.first != b.first ? a.first < b.first : std::strcmp(a.second, b.second) < 0;
    });
    for (size_t i = 0; i < lines.size(); ++i)
      if (i == 0 || lines[i].first != lines[i - 1].first || std::strcmp(lines[i].second, lines[i - 1].second) != 0)
        out.print("{:3} {}\n", lines[i].first, lines[i].second);
  }
  return {};
}

Result<void> render_swaps(Ctx&, ProcFs&, TextBuffer& out) {
  out.append("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
  return {};
}

Result<void> render_vmstat(Ctx&, ProcFs& fs, TextBuffer& out) {
  const Memory m = memory_of(fs.kernel());
  const kernel::ResourceUse use = total_use(fs.kernel());
  out.print("nr_free_pages {}\nnr_zone_inactive_anon 0\nnr_zone_active_anon {}\nnr_inactive_anon 0\nnr_active_anon {}\n",
            m.free / 4, m.anonymous / 4, m.anonymous / 4);
  out.print("nr_inactive_file 0\nnr_active_file {}\nnr_anon_pages {}\nnr_mapped {}\nnr_file_pages {}\nnr_dirty 0\n"
            "nr_writeback 0\nnr_shmem {}\n",
            (m.cached - std::min(m.cached, m.shmem)) / 4, m.anonymous / 4, m.cached / 4, m.cached / 4, m.shmem / 4);
  out.print("pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgalloc_normal 0\npgfree 0\npgfault {}\npgmajfault {}\noom_kill 0\n",
            use.minor_faults + use.major_faults, use.major_faults);
  return {};
}

Result<void> render_empty(Ctx&, ProcFs&, TextBuffer&) { return {}; }

Result<void> render_partitions(Ctx&, ProcFs&, TextBuffer& out) {
  out.append("major minor  #blocks  name\n\n");
  return {};
}

Result<void> render_interrupts(Ctx&, ProcFs& fs, TextBuffer& out) {
  out.append("           ");
  for (unsigned i = 0; i < cpu_count(fs.kernel()); ++i) out.print("CPU{:<8}", i);
  out.append('\n');
  return {};
}

Result<void> render_cgroups(Ctx&, ProcFs&, TextBuffer& out) {
  out.append("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
  for (const char* name : {"cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls", "perf_event",
                           "net_prio", "hugetlb", "pids", "rdma", "misc"})
    out.print("{}\t0\t1\t1\n", name);
  return {};
}

Result<void> render_zoneinfo(Ctx&, ProcFs& fs, TextBuffer& out) {
  const Memory m = memory_of(fs.kernel());
  out.print("Node 0, zone   Normal\n  pages free     {}\n        min      0\n        low      0\n        high     0\n"
            "        spanned  {}\n        present  {}\n        managed  {}\n",
            m.free / 4, m.total / 4, m.total / 4, m.total / 4);
  return {};
}

Result<void> render_buddyinfo(Ctx&, ProcFs& fs, TextBuffer& out) {
  const Memory m = memory_of(fs.kernel());
  out.append("Node 0, zone   Normal");
  for (unsigned order = 0; order <= 10; ++order) out.print(" {:6}", order == 10 ? m.free / 4096 : 0);
  out.append(" \n");
  return {};
}

constexpr SystemFileRow kSystemFiles[] = {
    {"buddyinfo", 0400, render_buddyinfo}, {"cgroups", 0444, render_cgroups},
    {"cmdline", 0444, render_cmdline},     {"consoles", 0444, render_empty},
    {"cpuinfo", 0444, render_cpuinfo},     {"devices", 0444, render_devices},
    {"diskstats", 0444, render_empty},     {"filesystems", 0444, render_filesystems},
    {"interrupts", 0444, render_interrupts}, {"iomem", 0400, render_empty},
    {"ioports", 0400, render_empty},       {"loadavg", 0444, render_loadavg},
    {"locks", 0444, render_empty},         {"meminfo", 0444, render_meminfo},
    {"misc", 0444, render_empty},           {"modules", 0444, render_empty},
    {"partitions", 0444, render_partitions}, {"stat", 0444, render_stat},
    {"swaps", 0444, render_swaps},         {"uptime", 0444, render_uptime},
    {"version", 0444, render_version},     {"vmstat", 0444, render_vmstat},
    {"zoneinfo", 0444, render_zoneinfo},
};

}  // namespace

std::span<const SystemFileRow> system_files() { return kSystemFiles; }

}  // namespace sentry::fs
