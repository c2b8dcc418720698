// SPDX-License-Identifier: Apache-2.0
// Reactor: one thread (Boost.Asio) that watches host descriptors and runs the control server's handlers. It sleeps
// in epoll_wait when nothing happens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "sentry/vfs/wait_queue.h"

namespace sentry::kernel {

class Reactor {
 public:
  Reactor();
  ~Reactor();
  void start();  // starts the thread
  void stop();

  // Watches a host descriptor (edge-triggered): `queue` is notified with poll bits when its state changes. The
  // descriptor must outlive the watch. Thread-safe.
  using WatchId = uint64_t;
  WatchId watch(int host_fd, vfs::WaitQueue& queue);
  void unwatch(WatchId id);  // after it returns, `queue` is not touched any more
  // Runs on the reactor's thread.
  void post(std::function<void()> work);
  // Level-triggered readable callback on the reactor's thread, for the control server. unwatch() ends it.
  WatchId on_readable(int host_fd, std::function<void()> callback);
  // One callback on the reactor's thread when the other end of a socket has gone; what arrives before wakes nobody. The
  // watch keeps a duplicate of the descriptor until unwatch().
  WatchId on_hangup(int host_fd, std::function<void()> callback);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sentry::kernel
