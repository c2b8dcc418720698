// SPDX-License-Identifier: Apache-2.0
// One thread in epoll_wait, started by the first watch. Plain epoll and not Boost.Asio: a guest's epoll needs
// edge-triggered notification with the exact poll bits, which Asio's wait operations do not hand out.
#include "sentry/kernel/reactor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <thread>
#include <unordered_map>

#include "base/core/check.h"
#include "base/host/unique_fd.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"

namespace sentry::kernel {

struct Reactor::Impl {
  struct Callback final : public base::RefCounted {
    explicit Callback(std::function<void()> f) : call(std::move(f)) {}
    const std::function<void()> call;
  };
  struct Watch {
    int fd = -1;
    base::UniqueFd duplicate;  // when the descriptor was watched already: epoll wants another number
    vfs::WaitQueue* queue = nullptr;
    base::RefPtr<Callback> callback;  // kept by a call that is under way
  };

  base::UniqueFd epoll{epoll_create1(EPOLL_CLOEXEC)};
  base::UniqueFd event{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::thread thread;
  std::atomic<std::thread::id> thread_id{};

  base::Mutex mu{base::LockRank::kReactor};
  std::unordered_map<uint64_t, Watch> watches GUARDED_BY(mu);
  std::deque<std::function<void()>> posted GUARDED_BY(mu);
  uint64_t next_id GUARDED_BY(mu) = 1;
  bool started GUARDED_BY(mu) = false;
  std::atomic<bool> stopping{false};
  // The watch whose queue or callback is being called; bumped generations let unwatch() wait for its end.
  std::atomic<uint64_t> calling{0};
  std::atomic<uint32_t> call_ended{0};

  void kick() {
    uint64_t one = 1;
    (void)!write(event.get(), &one, sizeof one);
  }
  WatchId add(int fd, uint32_t events, Watch watch);
  void dispatch(uint64_t id, uint32_t events);
  void run_posted();
  void loop();
};

Reactor::Reactor() : impl_(std::make_unique<Impl>()) {
  CHECK(impl_->epoll.valid() && impl_->event.valid());
  epoll_event ev{};
  ev.events = EPOLLIN;
  ev.data.u64 = 0;
  CHECK(epoll_ctl(impl_->epoll.get(), EPOLL_CTL_ADD, impl_->event.get(), &ev) == 0);
}
Reactor::~Reactor() { stop(); }

void Reactor::start() {
  base::MutexLock lock(impl_->mu);
  if (impl_->started) return;
  impl_->started = true;
  impl_->thread = std::thread([impl = impl_.get()] { impl->loop(); });
}

void Reactor::stop() {
  {
    base::MutexLock lock(impl_->mu);
    if (!impl_->started) return;
    impl_->started = false;
  }
  impl_->stopping.store(true);
  impl_->kick();
  if (impl_->thread.get_id() == std::this_thread::get_id()) {
    impl_->thread.detach();
  } else {
    impl_->thread.join();
  }
}

Reactor::WatchId Reactor::Impl::add(int fd, uint32_t events, Watch watch) {
  base::MutexLock lock(mu);
  const uint64_t id = next_id++;
  watch.fd = fd;
  epoll_event ev{};
  ev.events = events;
  ev.data.u64 = id;
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &ev) != 0) {
    if (errno != EEXIST) return 0;  // a regular file: always ready, nothing to watch
    watch.duplicate.reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    watch.fd = watch.duplicate.get();
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, watch.fd, &ev) != 0) return 0;
  }
  watches.emplace(id, std::move(watch));
  return id;
}

Reactor::WatchId Reactor::watch(int host_fd, vfs::WaitQueue& queue) {
  start();
  Impl::Watch w;
  w.queue = &queue;
  return impl_->add(host_fd, EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET, std::move(w));
}

Reactor::WatchId Reactor::on_readable(int host_fd, std::function<void()> callback) {
  start();
  Impl::Watch w;
  w.callback = base::make_ref<Impl::Callback>(std::move(callback));
  return impl_->add(host_fd, EPOLLIN | EPOLLRDHUP, std::move(w));
}

Reactor::WatchId Reactor::on_hangup(int host_fd, std::function<void()> callback) {
  start();
  Impl::Watch w;
  w.callback = base::make_ref<Impl::Callback>(std::move(callback));
  w.duplicate.reset(fcntl(host_fd, F_DUPFD_CLOEXEC, 0));
  const int fd = w.duplicate.get();
  return impl_->add(fd, EPOLLRDHUP | EPOLLONESHOT, std::move(w));
}

void Reactor::unwatch(WatchId id) {
  Impl::Watch dead;
  {
    base::MutexLock lock(impl_->mu);
    auto it = impl_->watches.find(id);
    if (it == impl_->watches.end()) return;
    dead = std::move(it->second);
    impl_->watches.erase(it);
    epoll_ctl(impl_->epoll.get(), EPOLL_CTL_DEL, dead.fd, nullptr);
  }
  if (impl_->thread_id.load() == std::this_thread::get_id()) return;
  while (impl_->calling.load() == id) {
    const uint32_t seen = impl_->call_ended.load();
    if (impl_->calling.load() == id) base::futex_wait(impl_->call_ended, seen, 1'000'000);
  }
}

void Reactor::post(std::function<void()> work) {
  start();
  {
    base::MutexLock lock(impl_->mu);
    impl_->posted.push_back(std::move(work));
  }
  impl_->kick();
}

void Reactor::Impl::dispatch(uint64_t id, uint32_t events) {
  vfs::WaitQueue* queue = nullptr;
  base::RefPtr<Callback> callback;
  {
    base::MutexLock lock(mu);
    auto it = watches.find(id);
    if (it == watches.end()) return;
    queue = it->second.queue;
    callback = it->second.callback;
    calling.store(id);
  }
  if (queue) {
    uint32_t bits = events & (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLERR | EPOLLHUP | EPOLLRDHUP);
    if (bits & EPOLLIN) bits |= vfs::kPollRdNorm;
    if (bits & EPOLLOUT) bits |= vfs::kPollWrNorm;
    queue->notify(bits);
  } else {
    callback->call();
  }
  calling.store(0);
  call_ended.fetch_add(1);
  base::futex_wake(call_ended, 0x7fffffff);
}

void Reactor::Impl::run_posted() {
  uint64_t count = 0;
  (void)!read(event.get(), &count, sizeof count);
  for (;;) {
    std::function<void()> work;
    {
      base::MutexLock lock(mu);
      if (posted.empty()) return;
      work = std::move(posted.front());
      posted.pop_front();
    }
    work();
  }
}

void Reactor::Impl::loop() {
  thread_id.store(std::this_thread::get_id());
  epoll_event events[64];
  while (!stopping.load()) {
    const int n = epoll_wait(epoll.get(), events, 64, -1);
    for (int i = 0; i < n; ++i) {
      if (events[i].data.u64 == 0) {
        run_posted();
      } else {
        dispatch(events[i].data.u64, events[i].events);
      }
    }
  }
}

}  // namespace sentry::kernel
