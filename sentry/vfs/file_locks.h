// SPDX-License-Identifier: Apache-2.0
// File locks of one inode: POSIX record locks (owned by a process's fd table), open-file-description locks and flock locks
// (owned by a description): fcntl_locking(2), flock(2), fs/locks.c.
//
// Lock: mu_ (kPipe, since last closes happen under many locks), then the graph of waiting owners (kLeaf) for deadlock detection.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/sync/mutex.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/op_context.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::vfs {

class FileDescription;

enum class LockType : uint8_t { kRead, kWrite, kUnlock };
enum class LockWait : uint8_t { kNoWait, kWait };

struct RecordLock {
  const void* owner = nullptr;  // fd table, or the description of an OFD lock
  abi::Pid pid;                 // for F_GETLK; -1 for OFD locks
  LockType type = LockType::kRead;
  uint64_t start = 0, end = 0;  // inclusive end; ~0 is "to the end of the file"
};

class FileLocks {
 public:
  // F_SETLK, F_SETLKW and the OFD variants. EAGAIN, EDEADLK (record locks of processes only), ERESTARTSYS, ENOLCK.
  base::Result<void> set(OpContext& ctx, const RecordLock& lock, LockWait wait);
  // F_GETLK: the first lock in the way, if any.
  std::optional<RecordLock> conflicting(const RecordLock& lock) const;
  // flock(2). EWOULDBLOCK. Changing the type is not atomic, as in Linux.
  base::Result<void> flock(OpContext& ctx, FileDescription& file, LockType type, LockWait wait);

  void release_owner(const void* owner);             // record locks, when a process closes a descriptor
  void release_description(const FileDescription*);  // OFD and flock locks, at the last close

  struct Entry {  // a line of /proc/locks
    bool is_flock = false;
    RecordLock lock;
  };
  std::vector<Entry> list() const;

 private:
  struct Whole {
    const FileDescription* file;
    LockType type;
    abi::Pid pid;
  };
  const RecordLock* find_conflict(const RecordLock& lock) const REQUIRES(mu_);
  void apply(const RecordLock& lock) REQUIRES(mu_);
  bool flock_conflicts(const FileDescription* file, LockType type) const REQUIRES(mu_);

  void changed_locked() REQUIRES(mu_);

  mutable base::Mutex mu_{base::LockRank::kPipe};
  std::vector<RecordLock> records_ GUARDED_BY(mu_);  // by start; one owner's never overlap
  std::vector<Whole> flocks_ GUARDED_BY(mu_);
  std::optional<CloseWatcher> closes_ GUARDED_BY(mu_);  // while there are any
  WaitQueue queue_;
};

}  // namespace sentry::vfs
