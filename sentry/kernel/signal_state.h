// SPDX-License-Identifier: Apache-2.0
// Pieces of signal state: dispositions, and queues of pending signals: signal(7).
#pragma once

#include <array>
#include <deque>
#include <optional>

#include "abi/linux/signal.h"
#include "base/core/function_ref.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"

namespace sentry::kernel {

// Shared by the threads of a process, and by processes made with CLONE_SIGHAND.
class SignalHandlers final : public base::RefCounted {
 public:
  SignalHandlers() = default;
  abi::SigAction get(int32_t signo) const {
    base::MutexLock lock(mu_);
    return actions_[signo - 1];
  }
  abi::SigAction exchange(int32_t signo, const abi::SigAction& action) {
    base::MutexLock lock(mu_);
    return std::exchange(actions_[signo - 1], action);
  }
  base::RefPtr<SignalHandlers> fork() const;
  // `f(signo, action)` for each, under the lock; it may change them.
  void for_each(base::FunctionRef<void(int32_t, abi::SigAction&)> f) {
    base::MutexLock lock(mu_);
    for (int32_t n = 1; n <= abi::kNSIG; ++n) f(n, actions_[n - 1]);
  }
  // execve(2): handlers become SIG_DFL, ignored stays ignored. clone3's CLONE_CLEAR_SIGHAND does the same.
  void reset_for_exec();

 private:
  mutable base::Mutex mu_{base::LockRank::kLeaf};
  std::array<abi::SigAction, abi::kNSIG> actions_ GUARDED_BY(mu_);
};

// Not thread-safe: the owner's signal lock.
struct SignalQueue {
  abi::SigSet set;
  std::deque<abi::SigInfo> queued;

  // Lowest deliverable signal as next_signal() of kernel/signal.c picks it: synchronous faults first.
  std::optional<abi::SigInfo> dequeue(abi::SigSet wanted);
  void remove(abi::SigSet signals);
  void clear() {
    set = {};
    queued.clear();
  }
};

enum class DefaultAction : uint8_t { kTerminate, kCore, kIgnore, kStop, kContinue };
DefaultAction default_action(int32_t signo);
bool is_ignored_by_default(int32_t signo);

inline constexpr abi::SigSet kStopSignals{abi::SigSet::of(abi::kSIGSTOP).bits | abi::SigSet::of(abi::kSIGTSTP).bits |
                                          abi::SigSet::of(abi::kSIGTTIN).bits | abi::SigSet::of(abi::kSIGTTOU).bits};
inline constexpr abi::SigSet kSynchronousSignals{
    abi::SigSet::of(abi::kSIGSEGV).bits | abi::SigSet::of(abi::kSIGBUS).bits | abi::SigSet::of(abi::kSIGILL).bits |
    abi::SigSet::of(abi::kSIGTRAP).bits | abi::SigSet::of(abi::kSIGFPE).bits | abi::SigSet::of(abi::kSIGSYS).bits};

// siginfo of a signal that the kernel itself sends (SI_KERNEL).
abi::SigInfo kernel_signal(int32_t signo);

}  // namespace sentry::kernel
