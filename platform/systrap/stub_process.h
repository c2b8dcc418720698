// SPDX-License-Identifier: Apache-2.0
// A stub process as the sentry knows it: shared by its address space, the supervisor's table and the reaper.
#pragma once

#include <atomic>
#include <deque>
#include <vector>

#include <sys/types.h>

#include "base/host/shared_fd.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "platform/systrap/stub/layout.h"

namespace platform::systrap {

// A host call that a stub was told to make: number and arguments, by value.
struct HostCall {
  uint64_t nr = 0;
  uint64_t args[6] = {};
  uint64_t sequence = 0;  // in the ring
  // Unused arguments are not compared: the stub's registers hold anything there.
  uint8_t arg_count = 6;
  base::RefPtr<base::SharedFd> file = {};  // asks for it to be put at descriptor args[4]
  bool matches(uint64_t other_nr, const uint64_t* other_args) const;
};

class StubProcess : public base::RefCounted {
 public:
  StubProcess(pid_t process_id, uint64_t unit) : pid(process_id), units{unit} {}

  const pid_t pid;
  std::atomic<bool> dead{false};
  // Its address space is gone: nobody waits to hear of its death.
  std::atomic<bool> abandoned{false};

  // The ring's calls in their order, and a thread's creation beside it.
  void expect(const HostCall& call, uint64_t oldest_sequence);
  void expect_command(const HostCall& call);
  void forget_commands();
  // True once for each expected call, when it is its turn. The last one may be repeated: the stub does so when a signal
  // or the host's limits stopped it. `file`: the call asks for it and does nothing else.
  bool approve(uint64_t nr, const uint64_t* args, base::RefPtr<base::SharedFd>& file);
  // Files that it asked for and that the host would not put there.
  std::atomic<uint32_t> failed_installs{0};

  // SIGKILL. The reaper does the rest: mark_dead() while the process is still a zombie, so that no signal can reach
  // a reused pid.
  void kill();
  void mark_dead();

  base::Mutex mu{base::LockRank::kLeaf};
  std::vector<uint64_t> units GUARDED_BY(mu);
  std::vector<pid_t> tids GUARDED_BY(mu);

 private:
  base::Mutex expected_mu_{base::LockRank::kLeaf};
  std::deque<HostCall> expected_ GUARDED_BY(expected_mu_);
  std::deque<HostCall> commands_ GUARDED_BY(expected_mu_);
  HostCall last_ GUARDED_BY(expected_mu_);
  HostCall last_command_ GUARDED_BY(expected_mu_);
  int command_repeats_ GUARDED_BY(expected_mu_) = 0;
};

}  // namespace platform::systrap
