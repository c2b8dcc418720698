// SPDX-License-Identifier: Apache-2.0
#include "sentry/boot/container_factory.h"

#include "sentry/boot/mounts.h"
#include "sentry/fs/dev/dev.h"
#include "sentry/fs/host/host_file.h"
#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/sys/sys.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/fs/tty/console.h"
#include "sentry/net/host_calls.h"
#include "sentry/net/netlink.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/vfs/file_system_registry.h"

namespace sentry::boot {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::RefPtr;

namespace {

constexpr uint64_t kStdioLimit = 1024;  // of descriptor numbers, when only 0 to 2 are installed

HostErr host_error(std::string what, abi::Errno e) { return HostErr(HostError::from_errno(std::move(what), static_cast<int>(e))); }

// devtmpfs: a tmpfs with the standard device nodes in it.
void register_devtmpfs(memory::MemoryFile& memory) {
  vfs::FileSystemType type;
  type.name = "devtmpfs";
  type.create = [&memory](vfs::OpContext& ctx, const vfs::MountRequest&) -> base::Result<RefPtr<vfs::FileSystem>> {
    fs::tmpfs::Options options;
    options.mode = 0755;
    RefPtr<vfs::FileSystem> fs = TRY(fs::tmpfs::create(memory, options));
    auto mount = vfs::Mount::create(fs, 0, "devtmpfs");
    TRY(fs::populate_dev(ctx, {mount, mount->root()}, fs::DevConsole::kYes));
    return fs;
  };
  vfs::register_file_system(std::move(type));
}

}  // namespace

void register_file_systems(kernel::Kernel& kernel) {
  fs::register_memory_devices();
  fs::pipe::register_fifos();
  fs::tmpfs::register_tmpfs(kernel.memory());
  register_devtmpfs(kernel.memory());
  fs::register_proc(kernel);
  fs::register_sys(kernel);
  fs::register_terminals(kernel);
  fs::register_mqueue();
  net::prepare_host_network();
  net::register_net_files();
}

HostResult<RefPtr<kernel::Container>> DefaultContainerFactory::create(const abi::oci::Container& config, base::UniqueFd gofer_socket) {
  auto client = gofer::Client::create(std::move(gofer_socket));
  if (!client) return host_error("connect to the gofer", client.error());
  auto user_ns = kernel_.root_user_namespace();
  auto creds = creds::Credentials::create_root(user_ns);
  HostResult<RefPtr<vfs::MountNamespace>> mounts = HostErr(HostError::plain("mounts were not made"));
  kernel_.run_in_kernel([&](vfs::OpContext& fiber) { mounts = build_mounts(kernel_, fiber, creds, config, *client); }, {});
  if (!mounts) return HostErr(std::move(mounts).error());
  auto container = base::make_ref<kernel::Container>();
  container->id = config.id;
  container->pid_namespace = kernel_.create_pid_namespace();
  container->root = (*mounts)->root();
  kernel::UtsNames names;
  if (!config.hostname.empty()) names.hostname = config.hostname;
  if (!config.domainname.empty()) names.domainname = config.domainname;
  container->namespaces = kernel::make_namespaces(std::move(names), std::move(*mounts), container->pid_namespace, user_ns);
  for (const vfs::MountNamespace::Entry& entry : container->namespaces->mounts->list(container->root))
    if (entry.mount->fs().type() == "mqueue") fs::adopt_mqueue(*container->namespaces->ipc, RefPtr<vfs::FileSystem>(&entry.mount->fs()));
  return container;
}

HostResult<control::ContainerFactory::Stdio> DefaultContainerFactory::create_terminal(kernel::Container& container,
                                                                                      const abi::oci::Process& process, Role role,
                                                                                      base::UniqueFd host_fd) {
  base::Result<fs::Console> console = base::err(abi::Errno::kENODEV);
  vfs::MountNamespace& mounts = *container.namespaces->mounts;
  kernel_.run_in_kernel(
      [&](vfs::OpContext& ctx) {
        console = fs::create_console(kernel_, ctx, {std::move(host_fd), process.columns, process.rows, abi::KUid(process.uid)});
        if (!console || !console->has_node || role != Role::kInit) return;
        // As runc does. A root without that file has no console.
        auto at = vfs::walk(ctx, container.root, "/dev/console", 0);
        if (at && !at->path.dentry->is_negative()) (void)mounts.bind(console->file->path(), at->path, false, vfs::kMsNoSuid | vfs::kMsNoExec);
      },
      container.root, container.namespaces->mounts);
  if (!console) return host_error("terminal", console.error());
  Stdio out;
  out.fds = base::make_ref<kernel::FdTable>();
  for (int i = 0; i < 3; ++i) (void)out.fds->install(console->file, false, kStdioLimit);
  out.controlling_tty = console->controlling_tty;
  out.tty_device = console->device;
  out.resize = [tty = console->controlling_tty](uint16_t columns, uint16_t rows) { fs::resize_console(*tty, columns, rows); };
  return out;
}

HostResult<control::ContainerFactory::Stdio> DefaultContainerFactory::create_stdio(kernel::Container& container,
                                                                                   const abi::oci::Process& process, Role role,
                                                                                   std::vector<base::UniqueFd> host_fds) {
  if (process.terminal) return create_terminal(container, process, role, std::move(host_fds[0]));
  Stdio out;
  out.fds = base::make_ref<kernel::FdTable>();
  auto owner = creds::Credentials::create_root(kernel_.root_user_namespace());
  owner->fsuid = abi::KUid(process.uid);
  owner->fsgid = abi::KGid(process.gid);
  for (base::UniqueFd& fd : host_fds) {
    auto file = fs::host::create(kernel_.reactor(), std::move(fd), *owner);
    if (!file) return host_error("standard descriptor", file.error());
    (void)out.fds->install(std::move(*file), false, kStdioLimit);
  }
  return out;
}

}  // namespace sentry::boot
