// SPDX-License-Identifier: Apache-2.0
// Assembles a container from its config: root (gofer, under an in-memory overlay unless told otherwise), mounts, masked
// and read-only paths, namespaces, and its first descriptors.
#pragma once

#include "sentry/control/requests.h"
#include "sentry/kernel/kernel.h"

namespace sentry::boot {

// Registers every file system type; once per process, before the first container.
void register_file_systems(kernel::Kernel& kernel);

class DefaultContainerFactory final : public control::ContainerFactory {
 public:
  explicit DefaultContainerFactory(kernel::Kernel& kernel) : kernel_(kernel) {}
  base::HostResult<base::RefPtr<kernel::Container>> create(const abi::oci::Container& config,
                                                           base::UniqueFd gofer_socket) override;
  base::HostResult<Stdio> create_stdio(kernel::Container& container, const abi::oci::Process& process, Role role,
                                       std::vector<base::UniqueFd> host_fds) override;

 private:
  base::HostResult<Stdio> create_terminal(kernel::Container& container, const abi::oci::Process& process, Role role,
                                          base::UniqueFd host_fd);
  kernel::Kernel& kernel_;
};

}  // namespace sentry::boot
