// SPDX-License-Identifier: Apache-2.0
// sysfs(5): CPUs, network interfaces and what else programs look for at start.
#pragma once

#include "sentry/fs/synthetic/synthetic.h"
#include "sentry/kernel/kernel.h"

namespace sentry::fs {

// Makes "sysfs" known to mount(2).
void register_sys(kernel::Kernel& kernel);

// A network interface of the sandbox for /sys/class/net; told by sentry/net at boot before the first mount.
struct NetInterface {
  std::string name;
  std::string address;  // "00:00:00:00:00:00"
  uint32_t index = 0, mtu = 0, flags = 0, type = 0;
};
void set_sys_interfaces(std::vector<NetInterface> interfaces);

}  // namespace sentry::fs
