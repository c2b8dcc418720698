// SPDX-License-Identifier: Apache-2.0
// Two host threads beside the executors, asleep but for their event: the validator, which compares the host calls of
// stubs with what the sentry asked for (seccomp user notification), and the reaper, which notices that a stub died.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "base/host/unique_fd.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "platform/systrap/control_memory.h"
#include "platform/systrap/stub_process.h"

namespace platform::systrap {

class Supervisor {
 public:
  // On the reaper's thread: `on_death` after a stub was marked dead that somebody may wait for, `on_burial` when one is gone.
  Supervisor(ControlMemory& control, std::function<void()> on_death, std::function<void()> on_burial)
      : control_(control), on_death_(std::move(on_death)), on_burial_(std::move(on_burial)) {}
  ~Supervisor();

  void set_zygote(pid_t zygote, base::UniqueFd listener);
  // Starts both threads; the zygote waits for the validator from its first call on.
  void start();
  // Ends both; every stub must have been killed.
  void stop();

  // One that died before it was added is marked dead.
  void add(const base::RefPtr<StubProcess>& process);
  void add_thread(const base::RefPtr<StubProcess>& process, pid_t tid);
  void kill_all();
  // A stub thread on `cpu` is about to ask. The validator moves there: that costs 2 us, waking it on another CPU, which may be halted, 20 and
  // more, and a file that it installs several such wake-ups. Any thread.
  void follow(int cpu);
  bool zygote_alive() const { return zygote_alive_.load(); }

 private:
  void validate();
  bool answer_one();
  // Fills in the answer, unless it was given already.
  struct Answer {
    uint64_t id;
    int64_t value = 0;
    int error = 0;
    bool go_on = true;   // the call is made
    bool given = false;
  };
  void approve(pid_t tid, uint64_t nr, const uint64_t* args, Answer& answer);
  void install(const base::SharedFd& file, uint32_t at, Answer& answer);
  void reap();
  void bury(pid_t pid);

  ControlMemory& control_;
  std::function<void()> on_death_, on_burial_;
  pid_t zygote_ = -1;
  base::UniqueFd listener_;
  base::UniqueFd stop_event_;
  bool receive_ends_ = false;  // Linux 6.11: NOTIF_RECV returns when the last stub is gone
  std::atomic<bool> zygote_alive_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<pid_t> validator_tid_{0};
  std::atomic<int> validator_cpu_{-1};
  std::thread validator_;
  std::thread reaper_;
  base::Mutex mu_{base::LockRank::kPlatformGlobal};
  std::unordered_map<pid_t, base::RefPtr<StubProcess>> by_tid_ GUARDED_BY(mu_);
  std::unordered_set<pid_t> died_unclaimed_ GUARDED_BY(mu_);
};

}  // namespace platform::systrap
