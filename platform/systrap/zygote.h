// SPDX-License-Identifier: Apache-2.0
// The zygote: forked from the sentry while it is single-threaded, emptied of everything but the stub, filtered, and
// then the template of every stub process.
#pragma once

#include <vector>

#include "abi/types/types.h"
#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "base/sync/mutex.h"
#include "platform/interface/platform.h"
#include "platform/systrap/control_memory.h"
#include "platform/systrap/trampolines.h"

namespace platform::systrap {

// Where things are in every stub of the sandbox; chosen at random at start.
struct StubLayout {
  uint64_t area = 0;
  abi::AddrRange vdso;    // vvar and vDSO
  abi::Addr vdso_elf;
  uint64_t vdso_clock_gettime = 0;  // address in stubs; 0: none
  TrampolineZones zones;
  uint64_t text() const { return area + kTextOffset; }
};

class Zygote {
 public:
  explicit Zygote(ControlMemory& control) : control_(control) {}

  // Forks it; afterwards pid() and the listener are there. The zygote goes on when somebody answers the listener.
  base::HostResult<base::UniqueFd> start(const PlatformConfig& config);
  const StubLayout& layout() const { return layout_; }
  pid_t pid() const { return pid_; }

  struct Fork {
    pid_t pid;
    uint64_t unit;
  };
  // Asks for one more stub process; take() returns it later.
  void request() EXCLUDES(mu_);
  // Waits for the oldest request. ENOMEM/EAGAIN when the host refused.
  base::Result<Fork> take() EXCLUDES(mu_);
  // Requests not taken yet.
  unsigned outstanding();
  void close() { closed_.store(true); }

 private:
  void request_locked() REQUIRES(mu_);
  base::HostResult<void> choose_layout();
  [[noreturn]] void run_child(const PlatformConfig& config, int socket);
  void map_child();
  void move_vdso();

  struct HostRange {
    uint64_t start, end;
  };
  ControlMemory& control_;
  StubLayout layout_;
  std::vector<HostRange> vdso_parts_;  // in the sentry, as they are to be moved
  uint64_t vdso_start_ = 0;            // of the first part
  pid_t pid_ = -1;
  std::atomic<bool> closed_{false};
  base::Mutex mu_{base::LockRank::kPlatformGlobal};
  uint32_t requested_ GUARDED_BY(mu_) = 0;
  uint32_t taken_ GUARDED_BY(mu_) = 0;
};

}  // namespace platform::systrap
