// SPDX-License-Identifier: Apache-2.0
// Says that the calling thread is about to wait in the host for somebody else, so that whoever relies on the thread can
// look for another one meanwhile. Costs a load where nobody has asked to be told.
#pragma once

namespace base {

struct HostWaitHook {
  void (*begin)(void* arg) = nullptr;
  void (*end)(void* arg) = nullptr;
  void* arg = nullptr;
  int cpu = -1;  // that the thread is tied to
};

// Of the calling thread; set by whoever runs it.
void set_host_wait_hook(const HostWaitHook& hook);
// The CPU that the calling thread is tied to, or -1: whoever it waits for had better run there too.
int host_wait_cpu();

class HostWait {
 public:
  HostWait();
  ~HostWait();
  HostWait(const HostWait&) = delete;
  HostWait& operator=(const HostWait&) = delete;
};

}  // namespace base
