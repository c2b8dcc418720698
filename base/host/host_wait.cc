// SPDX-License-Identifier: Apache-2.0
#include "base/host/host_wait.h"

namespace base {
namespace {
thread_local HostWaitHook hook;
}

void set_host_wait_hook(const HostWaitHook& h) { hook = h; }
int host_wait_cpu() { return hook.cpu; }

HostWait::HostWait() {
  if (hook.begin) hook.begin(hook.arg);
}
HostWait::~HostWait() {
  if (hook.end) hook.end(hook.arg);
}

}  // namespace base
