// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/sys/sys.h"

#include <algorithm>
#include <unistd.h>

#include "sentry/vfs/file_system_registry.h"

namespace sentry::fs {

using base::RefPtr;
using base::Result;

namespace {

class SysFs final : public SyntheticFs {
 public:
  SysFs(kernel::Kernel& kernel, MakeRoot make_root) : SyntheticFs("sysfs", 0x62656572, make_root), kernel_(kernel) {}
  kernel::Kernel& kernel() const { return kernel_; }

 private:
  kernel::Kernel& kernel_;
};

// Immutable once the first mount is made.
std::vector<NetInterface>& interfaces() {
  static std::vector<NetInterface> list;
  return list;
}

RefPtr<Directory> subdirectory(SysFs& fs, Directory& parent, std::string name) {
  auto dir = base::make_ref<Directory>(fs, 0755);
  parent.add(std::move(name), dir);
  return dir;
}

void add_text(SysFs& fs, Directory& dir, std::string name, std::string text) {
  dir.add(std::move(name), make_text(fs, std::move(text)));
}

struct CacheLevel {
  const char* type;
  int level;
  int size_name, assoc_name, line_name;
};
constexpr CacheLevel kCaches[] = {
    {"Data", 1, _SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL1_DCACHE_ASSOC, _SC_LEVEL1_DCACHE_LINESIZE},
    {"Instruction", 1, _SC_LEVEL1_ICACHE_SIZE, _SC_LEVEL1_ICACHE_ASSOC, _SC_LEVEL1_ICACHE_LINESIZE},
    {"Unified", 2, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL2_CACHE_ASSOC, _SC_LEVEL2_CACHE_LINESIZE},
    {"Unified", 3, _SC_LEVEL3_CACHE_SIZE, _SC_LEVEL3_CACHE_ASSOC, _SC_LEVEL3_CACHE_LINESIZE},
};

std::string cpu_range(unsigned cpus) { return cpus == 1 ? "0\n" : fmt::format("0-{}\n", cpus - 1); }

// Bitmap of CPUs in 32-bit words, highest first, as %*pb prints it.
std::string cpu_mask(unsigned cpus, unsigned first, unsigned count) {
  std::string text;
  for (unsigned word = (cpus + 31) / 32; word-- > 0;) {
    uint32_t bits = 0;
    for (unsigned i = 0; i < 32; ++i)
      if (word * 32 + i >= first && word * 32 + i < first + count) bits |= 1u << i;
    const bool top = text.empty();
    text += top && cpus % 32 != 0 ? fmt::format("{:0{}x}", bits, (cpus % 32 + 3) / 4) : fmt::format("{}{:08x}", top ? "" : ",", bits);
  }
  return text + "\n";
}

void add_cpu(SysFs& fs, Directory& parent, unsigned i, unsigned cpus) {
  RefPtr<Directory> cpu = subdirectory(fs, parent, fmt::format("cpu{}", i));
  if (i != 0) add_text(fs, *cpu, "online", "1\n");
  RefPtr<Directory> topology = subdirectory(fs, *cpu, "topology");
  add_text(fs, *topology, "core_id", fmt::format("{}\n", i));
  add_text(fs, *topology, "physical_package_id", "0\n");
  add_text(fs, *topology, "die_id", "0\n");
  for (const char* self : {"thread_siblings", "core_cpus"}) {
    add_text(fs, *topology, self, cpu_mask(cpus, i, 1));
    add_text(fs, *topology, std::string(self) + "_list", fmt::format("{}\n", i));
  }
  for (const char* all : {"core_siblings", "package_cpus", "die_cpus"}) {
    add_text(fs, *topology, all, cpu_mask(cpus, 0, cpus));
    add_text(fs, *topology, std::string(all) + "_list", cpu_range(cpus));
  }
  RefPtr<Directory> cache = subdirectory(fs, *cpu, "cache");
  unsigned index = 0;
  for (const CacheLevel& c : kCaches) {
    const long size = sysconf(c.size_name), ways = sysconf(c.assoc_name), line = sysconf(c.line_name);
    if (size <= 0) continue;
    RefPtr<Directory> dir = subdirectory(fs, *cache, fmt::format("index{}", index++));
    add_text(fs, *dir, "type", fmt::format("{}\n", c.type));
    add_text(fs, *dir, "level", fmt::format("{}\n", c.level));
    add_text(fs, *dir, "size", fmt::format("{}K\n", size / 1024));
    add_text(fs, *dir, "ways_of_associativity", fmt::format("{}\n", ways));
    add_text(fs, *dir, "coherency_line_size", fmt::format("{}\n", line));
    if (ways > 0 && line > 0) add_text(fs, *dir, "number_of_sets", fmt::format("{}\n", size / ways / line));
    const bool shared = c.level == 3;
    add_text(fs, *dir, "shared_cpu_map", cpu_mask(cpus, shared ? 0 : i, shared ? cpus : 1));
    add_text(fs, *dir, "shared_cpu_list", shared ? cpu_range(cpus) : fmt::format("{}\n", i));
  }
}

void add_devices(SysFs& fs, Directory& root) {
  const unsigned cpus = std::max(1u, fs.kernel().config().executors);
  RefPtr<Directory> devices = subdirectory(fs, root, "devices");
  RefPtr<Directory> system = subdirectory(fs, *devices, "system");
  RefPtr<Directory> cpu = subdirectory(fs, *system, "cpu");
  for (const char* name : {"online", "possible", "present"}) add_text(fs, *cpu, name, cpu_range(cpus));
  add_text(fs, *cpu, "offline", "\n");
  add_text(fs, *cpu, "isolated", "\n");
  add_text(fs, *cpu, "kernel_max", "8191\n");
  for (unsigned i = 0; i < cpus; ++i) add_cpu(fs, *cpu, i, cpus);
  RefPtr<Directory> node = subdirectory(fs, *system, "node");
  for (const char* name : {"online", "possible", "has_cpu", "has_memory", "has_normal_memory"})
    add_text(fs, *node, name, "0\n");
  RefPtr<Directory> node0 = subdirectory(fs, *node, "node0");
  add_text(fs, *node0, "cpulist", cpu_range(cpus));
  add_text(fs, *node0, "cpumap", cpu_mask(cpus, 0, cpus));
  add_text(fs, *node0, "distance", "10\n");
  RefPtr<Directory> virt = subdirectory(fs, *devices, "virtual");
  RefPtr<Directory> net = subdirectory(fs, *virt, "net");
  for (const NetInterface& i : interfaces()) {
    RefPtr<Directory> dir = subdirectory(fs, *net, i.name);
    add_text(fs, *dir, "address", i.address + "\n");
    add_text(fs, *dir, "broadcast", (i.flags & 8) != 0 ? "00:00:00:00:00:00\n" : "ff:ff:ff:ff:ff:ff\n");
    add_text(fs, *dir, "addr_len", "6\n");
    add_text(fs, *dir, "dev_id", "0x0\n");
    add_text(fs, *dir, "ifindex", fmt::format("{}\n", i.index));
    add_text(fs, *dir, "iflink", fmt::format("{}\n", i.index));
    add_text(fs, *dir, "mtu", fmt::format("{}\n", i.mtu));
    add_text(fs, *dir, "flags", fmt::format("0x{:x}\n", i.flags));
    add_text(fs, *dir, "type", fmt::format("{}\n", i.type));
    add_text(fs, *dir, "operstate", (i.flags & 8) != 0 ? "unknown\n" : (i.flags & 0x40) != 0 ? "up\n" : "down\n");
    add_text(fs, *dir, "carrier", (i.flags & 0x40) != 0 ? "1\n" : "0\n");
    add_text(fs, *dir, "tx_queue_len", "1000\n");
  }
}

RefPtr<vfs::Inode> make_root(SyntheticFs& base) {
  auto& fs = static_cast<SysFs&>(base);
  auto root = base::make_ref<Directory>(fs, 0755);
  for (const char* name : {"block", "dev", "firmware", "hypervisor", "module", "power"}) subdirectory(fs, *root, name);
  RefPtr<Directory> bus = subdirectory(fs, *root, "bus");
  for (const char* name : {"cpu", "pci", "usb", "workqueue"}) subdirectory(fs, *subdirectory(fs, *bus, name), "devices");
  RefPtr<Directory> classes = subdirectory(fs, *root, "class");
  for (const char* name : {"block", "dmi", "mem", "misc", "power_supply", "thermal", "tty"}) subdirectory(fs, *classes, name);
  RefPtr<Directory> net = subdirectory(fs, *classes, "net");
  for (const NetInterface& i : interfaces()) net->add(i.name, make_symlink(fs, "../../devices/virtual/net/" + i.name));
  add_devices(fs, *root);
  RefPtr<Directory> fs_dir = subdirectory(fs, *root, "fs");
  subdirectory(fs, *fs_dir, "cgroup");
  RefPtr<Directory> kernel = subdirectory(fs, *root, "kernel");
  RefPtr<Directory> thp = subdirectory(fs, *subdirectory(fs, *kernel, "mm"), "transparent_hugepage");
  add_text(fs, *thp, "enabled", "always [madvise] never\n");
  add_text(fs, *thp, "defrag", "always defer defer+madvise [madvise] never\n");
  add_text(fs, *thp, "shmem_enabled", "always within_size advise [never] deny force\n");
  add_text(fs, *thp, "hpage_pmd_size", "2097152\n");
  add_text(fs, *thp, "use_zero_page", "1\n");
  return root;
}

}  // namespace

void set_sys_interfaces(std::vector<NetInterface> list) { interfaces() = std::move(list); }

void register_sys(kernel::Kernel& kernel) {
  vfs::FileSystemType type;
  type.name = "sysfs";
  type.create = [&kernel](vfs::OpContext&, const vfs::MountRequest&) -> Result<RefPtr<vfs::FileSystem>> {
    return RefPtr<vfs::FileSystem>(base::make_ref<SysFs>(kernel, make_root));
  };
  vfs::register_file_system(std::move(type));
}

}  // namespace sentry::fs
