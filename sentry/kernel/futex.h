// SPDX-License-Identifier: Apache-2.0
// futex(2): wait queues keyed by memory. One table per sandbox; a key is {mapped object or address space, offset}.
//
// A waiter queues itself first and compares the word afterwards, because the word may have to be faulted in and no lock
// may be held over that. A wake that reaches a waiter whose word turns out to have changed before it
// slept is passed on to the next waiter, so none is lost.
//
// Priority-inheritance operations change the word and the queue together: they hold pi_mu, a lock outside those of mm.
#pragma once

#include <array>
#include <atomic>
#include <optional>
#include <vector>

#include "base/containers/intrusive_list.h"
#include "base/core/result.h"
#include "base/sync/mutex.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"

namespace sentry::kernel {

using FutexKey = mm::MemoryManager::FutexKey;

inline constexpr uint32_t kFutexBitsetAny = 0xffffffff;
inline constexpr uint32_t kFutexWaiters = 0x80000000, kFutexOwnerDied = 0x40000000, kFutexTidMask = 0x3fffffff;

enum class FutexScope : uint8_t { kPrivate, kShared };

// One word to wait on; several make a futex_waitv.
struct FutexWord {
  abi::Addr addr;
  uint32_t expected = 0;
  FutexScope scope = FutexScope::kPrivate;
};

// Sleeps while *addr == expected. EAGAIN when it is not, ETIMEDOUT, kERESTARTSYS on a signal, EFAULT, EINVAL.
base::Result<void> futex_wait(Task& task, const FutexWord& word, uint32_t bitset, vfs::Deadline deadline);
// Index of the word that was woken.
base::Result<int32_t> futex_wait_any(Task& task, const std::vector<FutexWord>& words, vfs::Deadline deadline);
// How many were woken; a count below 1 wakes one, as in Linux (futex_wake() of kernel/futex/waitwake.c counts before it compares).
base::Result<int32_t> futex_wake(Task& task, abi::Addr addr, FutexScope scope, int32_t count, uint32_t bitset);
// Wakes up to `wake`, moves up to `requeue` more to `to`. With `expected`: EAGAIN unless *from equals it.
base::Result<int32_t> futex_requeue(Task& task, abi::Addr from, abi::Addr to, FutexScope from_scope, FutexScope to_scope,
                                    int32_t wake, int32_t requeue, std::optional<uint32_t> expected);
// FUTEX_WAKE_OP: `op` as encoded by the caller.
base::Result<int32_t> futex_wake_op(Task& task, abi::Addr a, abi::Addr b, FutexScope scope, int32_t wake_a, int32_t wake_b, uint32_t op);

enum class PiLock : uint8_t { kWait, kTry };
base::Result<void> futex_lock_pi(Task& task, abi::Addr addr, FutexScope scope, PiLock how, vfs::Deadline deadline);
base::Result<void> futex_unlock_pi(Task& task, abi::Addr addr, FutexScope scope);

// The last things a dying (or execing) thread does in its memory: robust list, then clear_child_tid. Task's own fiber, with
// its mm still there.
void futex_task_exit(Task& task);

}  // namespace sentry::kernel
