// SPDX-License-Identifier: Apache-2.0
#include "sentry/boot/mounts.h"

#include <fmt/format.h>

#include "sentry/boot/boot_context.h"
#include "sentry/fs/dev/dev.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/file_system_registry.h"

namespace sentry::boot {

namespace {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::RefPtr;
using enum abi::Errno;

HostErr host_error(std::string what, abi::Errno e) { return HostErr(HostError::from_errno(std::move(what), static_cast<int>(e))); }

class Builder {
 public:
  Builder(kernel::Kernel& kernel, vfs::OpContext& fiber, creds::CredPtr creds, const abi::oci::Container& config,
          RefPtr<gofer::Client> gofer)
      : kernel_(kernel), fiber_(fiber), creds_(std::move(creds)), config_(config), gofer_(std::move(gofer)) {}

  HostResult<RefPtr<vfs::MountNamespace>> build();

 private:
  HostResult<void> mount_all();
  HostResult<void> mount_one(const abi::oci::Mount& mount);
  base::Result<RefPtr<vfs::FileSystem>> make_fs(const abi::oci::Mount& mount);
  base::Result<RefPtr<vfs::FileSystem>> tree(uint32_t number, bool overlay, bool shared);
  base::Result<vfs::Path> mountpoint(std::string_view destination, bool is_file);
  HostResult<void> mask(const std::string& path);
  HostResult<void> make_read_only(const std::string& path);

  kernel::Kernel& kernel_;
  vfs::OpContext& fiber_;
  const creds::CredPtr creds_;
  const abi::oci::Container& config_;
  const RefPtr<gofer::Client> gofer_;
  RefPtr<vfs::MountNamespace> namespace_;
  std::unique_ptr<BootContext> ctx_;
};

base::Result<RefPtr<vfs::FileSystem>> Builder::tree(uint32_t number, bool overlay, bool shared) {
  using fs::gofer::Sharing, fs::gofer::Use;
  RefPtr<vfs::FileSystem> lower =
      TRY(fs::gofer::create(kernel_.memory(), gofer_, number, shared && !overlay ? Sharing::kShared : Sharing::kExclusive,
                            overlay ? Use::kLowerLayer : Use::kWritable));
  if (!overlay) return lower;
  return fs::overlay::create(kernel_.memory(), lower);
}

HostResult<RefPtr<vfs::MountNamespace>> Builder::build() {
  const bool overlay = config_.root_overlay == abi::oci::RootOverlay::kMemory;
  auto root = tree(0, overlay, false);
  if (!root) return host_error("mount the root", root.error());
  auto mount = vfs::Mount::create(*root, 0, overlay ? "overlay" : "none");
  namespace_ = base::make_ref<vfs::MountNamespace>(mount);
  ctx_ = std::make_unique<BootContext>(fiber_, creds_, *namespace_);
  if (auto mounted = mount_all(); !mounted) return HostErr(std::move(mounted).error());
  // Mount points may have been made in it until now.
  if (config_.root_readonly) mount->set_flags(vfs::kMsRdOnly);
  for (const std::string& path : config_.masked_paths)
    if (auto done = mask(path); !done) return HostErr(std::move(done).error());
  for (const std::string& path : config_.readonly_paths)
    if (auto done = make_read_only(path); !done) return HostErr(std::move(done).error());
  return std::move(namespace_);
}

HostResult<void> Builder::mount_all() {
  for (const abi::oci::Mount& mount : config_.mounts)
    if (auto done = mount_one(mount); !done) return done;
  return {};
}

std::string join(const std::vector<std::string>& options) {
  std::string text;
  for (const std::string& option : options) {
    if (!text.empty()) text += ',';
    text += option;
  }
  return text;
}

base::Result<RefPtr<vfs::FileSystem>> Builder::make_fs(const abi::oci::Mount& mount) {
  if (mount.gofer_tree >= 0) return tree(static_cast<uint32_t>(mount.gofer_tree), mount.overlay, mount.shared);
  const vfs::FileSystemType* type = vfs::find_file_system(mount.type);
  if (!type) {
    // Every engine's default configuration mounts one.
    if (mount.type.starts_with("cgroup")) return fs::tmpfs::create(kernel_.memory(), {});
    return base::err(kENODEV);
  }
  const std::string data = join(mount.options);
  return type->create(*ctx_, {mount.source, data, mount.flags});
}

HostResult<void> Builder::mount_one(const abi::oci::Mount& mount) {
  auto name = [&] { return fmt::format("mount {} ({}) at {}", mount.source, mount.type, mount.destination); };
  auto fs = make_fs(mount);
  if (!fs) return host_error(name(), fs.error());
  auto at = mountpoint(mount.destination, mount.is_file);
  if (!at) return host_error(name(), at.error());
  auto made = vfs::Mount::create(*fs, mount.flags, mount.source);
  if (auto attached = namespace_->attach(made, *at); !attached) return host_error(name(), attached.error());
  // The runtime specification wants the default devices in /dev, whatever it is made of.
  if (mount.destination == "/dev" && (mount.type == "tmpfs" || mount.type == "devtmpfs")) {
    auto devices = fs::populate_dev(*ctx_, {made, made->root()}, config_.process.terminal ? fs::DevConsole::kYes : fs::DevConsole::kNo);
    if (!devices) return host_error("make the default devices in /dev", devices.error());
  }
  return {};
}

// The directory or file to mount on, made when it is missing, as runc does. Symbolic links are followed inside the
// container's root.
base::Result<vfs::Path> Builder::mountpoint(std::string_view destination, bool is_file) {
  const vfs::Path root = namespace_->root();
  auto found = vfs::walk(*ctx_, root, destination, vfs::kLookupFollow);
  if (found && !found->path.dentry->is_negative()) return found->path;
  for (size_t at = 1; at != std::string_view::npos && at < destination.size();) {
    at = destination.find('/', at);
    const bool last = at == std::string_view::npos;
    std::string part(destination.substr(0, at));
    if (!last) ++at;
    if (last && is_file) {
      TRY(vfs::open_at(*ctx_, root, part, vfs::kO_CREAT | vfs::kO_WRONLY, 0644));
      continue;
    }
    auto made = vfs::mkdir_at(*ctx_, root, part, 0755);
    if (!made && made.error() != kEEXIST) return base::err(made.error());
  }
  return TRY(vfs::walk(*ctx_, root, destination, vfs::kLookupFollow)).path;
}

// A directory is hidden by an empty read-only tmpfs, anything else by /dev/null.
HostResult<void> Builder::mask(const std::string& path) {
  auto found = vfs::walk(*ctx_, namespace_->root(), path, vfs::kLookupFollow);
  if (!found || found->path.dentry->is_negative()) return {};
  base::Result<void> done;
  if (found->path.inode().is_dir()) {
    auto empty = fs::tmpfs::create(kernel_.memory(), {});
    if (!empty) return host_error("mask " + path, empty.error());
    done = namespace_->attach(vfs::Mount::create(*empty, vfs::kMsRdOnly, "tmpfs"), found->path);
  } else {
    auto null = vfs::walk(*ctx_, namespace_->root(), "/dev/null", vfs::kLookupFollow);
    if (!null || null->path.dentry->is_negative()) return HostErr(HostError::plain("mask " + path + ": there is no /dev/null"));
    done = namespace_->bind(null->path, found->path, false, 0);
  }
  if (!done) return host_error("mask " + path, done.error());
  return {};
}

HostResult<void> Builder::make_read_only(const std::string& path) {
  auto found = vfs::walk(*ctx_, namespace_->root(), path, vfs::kLookupFollow);
  if (!found || found->path.dentry->is_negative()) return {};
  auto done = namespace_->bind(found->path, found->path, true, found->path.mount->flags() | vfs::kMsRdOnly);
  if (!done) return host_error("make " + path + " read-only", done.error());
  return {};
}

}  // namespace

HostResult<RefPtr<vfs::MountNamespace>> build_mounts(kernel::Kernel& kernel, vfs::OpContext& fiber, creds::CredPtr root_creds,
                                                     const abi::oci::Container& config, RefPtr<gofer::Client> gofer) {
  return Builder(kernel, fiber, std::move(root_creds), config, std::move(gofer)).build();
}

}  // namespace sentry::boot
