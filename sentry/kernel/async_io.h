// SPDX-License-Identifier: Apache-2.0
// Signal-driven I/O: what fcntl(2) calls the owner of a file, and the signals that it gets while O_ASYNC is set
// (fasync_struct and fown_struct of fs/fcntl.c).
//
// A file's wait queue tells under its own lock, below which no signal can be sent; the reactor sends it a moment later. Events
// that come until then make one signal, as pending SIGIOs do anyway.
#pragma once

#include <atomic>

#include "base/sync/mutex.h"
#include "sentry/creds/credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/vfs/file_description.h"

namespace sentry::kernel {

enum class AsyncOwnerType : int32_t { kTid = 0, kPid = 1, kPgrp = 2 };  // F_OWNER_*

struct AsyncOwner {
  AsyncOwnerType type = AsyncOwnerType::kPid;
  base::RefPtr<PidNumber> number;  // null: nobody
  abi::KUid uid, euid;             // of who set it: sigio_perm()
};

class AsyncIo final : public vfs::AsyncIo, private vfs::Waiter {
 public:
  AsyncIo(Kernel& kernel, vfs::FileDescription& file) : kernel_(kernel), file_(file) {}

  void set_owner(AsyncOwner owner);
  // Only when there is none: a terminal's own choice.
  void set_default_owner(const AsyncOwner& owner);
  AsyncOwner owner();
  // 0: a plain SIGIO.
  void set_signal(int32_t signo);
  int32_t signal();
  // O_ASYNC on and off; `fd` is what si_fd will name.
  void start(abi::Fd fd);
  void stop();
  void file_gone() override { stop(); }

 private:
  struct State {
    AsyncOwner owner;
    int32_t signo = 0;
    abi::Fd fd{-1};
  };
  void notify(vfs::PollMask events) override;
  void send();

  Kernel& kernel_;
  vfs::FileDescription& file_;  // until file_gone()
  base::Mutex mu_{base::LockRank::kPipe};
  bool listening_ GUARDED_BY(mu_) = false;
  base::Guarded<State> state_{base::LockRank::kLeaf};
  std::atomic<vfs::PollMask> events_{0};  // not yet sent; whoever makes it non-zero posts send()
};

// Of a file, made when it has none yet.
AsyncIo& async_io(Kernel& kernel, vfs::FileDescription& file);
// For F_GETOWN: the owner's number as seen from `ns`, 0 when there is none any more.
int32_t owner_number(const AsyncOwner& owner, const PidNamespace& ns);

}  // namespace sentry::kernel
