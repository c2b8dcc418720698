// SPDX-License-Identifier: Apache-2.0
// The methods of the control protocol, on a kernel. Makes no containers itself: boot does.
#pragma once

#include <memory>
#include <string>

#include "abi/oci/sandbox_config.h"
#include "base/host/host_error.h"
#include "sentry/control/server.h"
#include "sentry/kernel/kernel.h"

namespace sentry::control {

// Assembles a container's mounts and descriptors; implemented by sentry/boot.
class ContainerFactory {
 public:
  virtual ~ContainerFactory() = default;
  struct Stdio {
    base::RefPtr<kernel::FdTable> fds;
    base::RefPtr<base::RefCounted> controlling_tty;
    uint32_t tty_device = 0;
    // Resizes the terminal; null without one.
    std::function<void(uint16_t columns, uint16_t rows)> resize;
  };
  virtual base::HostResult<base::RefPtr<kernel::Container>> create(const abi::oci::Container& config,
                                                                   base::UniqueFd gofer_socket) = 0;
  // Guest descriptors 0..2 from host ones: [stdin, stdout, stderr], or [tty] with `terminal`. The terminal of the init
  // process is also the container's /dev/console.
  enum class Role : uint8_t { kInit, kExec };
  virtual base::HostResult<Stdio> create_stdio(kernel::Container& container, const abi::oci::Process& process, Role role,
                                               std::vector<base::UniqueFd> host_fds) = 0;
};

class Requests {
 public:
  // `on_last_exit` runs (on any thread) when the last container has been destroyed or, for a sandbox that nobody
  // destroys, never; with the wait status of the first container's init.
  Requests(kernel::Kernel& kernel, ContainerFactory& factory, std::function<void(int32_t)> on_init_exit);
  ~Requests();
  void handle(std::shared_ptr<Request> request);
  // Lets the gofers go, when nothing runs any more: they end while the sentry does.
  void hang_up();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sentry::control
