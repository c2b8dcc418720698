// SPDX-License-Identifier: Apache-2.0
#include "platform/systrap/supervisor.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <x86intrin.h>

#include "base/log/log.h"
#include "base/trace/trace.h"
#include "base/stats/stats.h"

#ifndef SECCOMP_ADDFD_FLAG_SEND  // Linux 5.14
#define SECCOMP_ADDFD_FLAG_SEND (1u << 1)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS  // Linux 6.6
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

namespace platform::systrap {
namespace {

constexpr uint64_t kSyncWakeUp = 1;  // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP

void block_signals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

bool host_is_at_least(int major, int minor) {
  utsname name;
  int have_major = 0, have_minor = 0;
  if (uname(&name) != 0 || sscanf(name.release, "%d.%d", &have_major, &have_minor) != 2) return false;
  return have_major > major || (have_major == major && have_minor >= minor);
}

}  // namespace

Supervisor::~Supervisor() { stop(); }

void Supervisor::set_zygote(pid_t zygote, base::UniqueFd listener) {
  zygote_ = zygote;
  listener_ = std::move(listener);
  stop_event_.reset(eventfd(0, EFD_CLOEXEC));
  zygote_alive_ = true;
  // Answers stay on the CPU of the stub that asks. Older hosts do without.
  ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, kSyncWakeUp);
  receive_ends_ = host_is_at_least(6, 11);
}

void Supervisor::start() {
  validator_ = std::thread([this] { validate(); });
  reaper_ = std::thread([this] { reap(); });
}

void Supervisor::stop() {
  if (stopping_.exchange(true) || zygote_ < 0) return;
  kill_all();
  if (!reaper_.joinable()) {
    waitpid(zygote_, nullptr, 0);
    return;
  }
  reaper_.join();
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = write(stop_event_.get(), &one, sizeof one);
  validator_.join();
}

void Supervisor::add(const base::RefPtr<StubProcess>& process) {
  {
    base::MutexLock lock(mu_);
    if (died_unclaimed_.erase(process->pid)) {
      process->mark_dead();
      return;
    }
  }
  add_thread(process, process->pid);
}

void Supervisor::add_thread(const base::RefPtr<StubProcess>& process, pid_t tid) {
  base::MutexLock lock(mu_);
  by_tid_[tid] = process;
  base::MutexLock inner(process->mu);
  process->tids.push_back(tid);
}

void Supervisor::kill_all() {
  // The process group holds nothing else; stubs that nobody took yet are in it too.
  base::MutexLock lock(mu_);
  for (auto& [tid, process] : by_tid_) process->kill();
  if (zygote_alive_) ::kill(-zygote_, SIGKILL);
}

void Supervisor::follow(int cpu) {
  const pid_t tid = validator_tid_.load(std::memory_order_relaxed);
  if (tid == 0 || cpu == validator_cpu_.load(std::memory_order_relaxed)) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(tid, sizeof set, &set) == 0) validator_cpu_.store(cpu, std::memory_order_relaxed);
}

void Supervisor::validate() {
  block_signals();
  validator_tid_.store(static_cast<pid_t>(syscall(SYS_gettid)), std::memory_order_relaxed);
  // One host call less per answer where receiving itself ends with the last stub.
  pollfd listener = {listener_.get(), POLLIN, 0};
  if (receive_ends_) {
    for (;;) {
      // ENOENT: nobody is left, or whoever asked was killed meanwhile.
      if (!answer_one() && poll(&listener, 1, 0) == 1 && (listener.revents & POLLHUP)) return;
    }
  }
  pollfd fds[2] = {{listener_.get(), POLLIN, 0}, {stop_event_.get(), POLLIN, 0}};
  for (;;) {
    if (poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents) return;
    if (fds[0].revents & POLLIN) answer_one();
    else if (fds[0].revents) fds[0].fd = -1;  // nobody uses the filter any more
  }
}

bool Supervisor::answer_one() {
  seccomp_notif request;
  std::memset(&request, 0, sizeof request);
  if (ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &request) < 0) return false;
  const uint64_t asked_at = base::trace::is_on() ? __rdtsc() : 0;
  uint64_t args[6];
  for (int i = 0; i < 6; ++i) args[i] = request.data.args[i];
  Answer answer{request.id};
  approve(static_cast<pid_t>(request.pid), static_cast<uint64_t>(request.data.nr), args, answer);
  base::stats::count(answer.error == 0 ? base::stats::Counter::kApprovals : base::stats::Counter::kRefusals);
  if (!answer.given) {
    seccomp_notif_resp response = {};
    response.id = answer.id;
    response.val = answer.value;
    response.error = answer.error;
    response.flags = answer.go_on ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;
    ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &response);
  }
  if (asked_at != 0) [[unlikely]] {
    base::trace::Event e;
    e.kind = base::trace::Kind::kApproval;
    e.start = asked_at;
    e.end = __rdtsc();
    e.what = static_cast<uint16_t>(request.data.nr);
    e.tid = static_cast<int32_t>(request.pid);
    base::trace::add(e);
  }
  return true;
}

void Supervisor::approve(pid_t tid, uint64_t nr, const uint64_t* args, Answer& answer) {
  // The zygote runs no guest code.
  if (tid == zygote_ && (nr == SYS_clone || nr == SYS_close)) return;
  base::RefPtr<StubProcess> process;
  {
    base::MutexLock lock(mu_);
    auto it = by_tid_.find(tid);
    if (it != by_tid_.end()) process = it->second;
  }
  base::RefPtr<base::SharedFd> file;
  if (process && process->approve(nr, args, file)) {
    if (!file) return;
    install(*file, static_cast<uint32_t>(args[4]), answer);
    if (answer.error != 0) process->failed_installs.fetch_add(1);
    return;
  }
  LOG_WARNING("systrap: stub thread {} made host call {} that nobody asked for", tid, nr);
  if (process) process->kill();
  answer.go_on = false;
  answer.error = -EPERM;
}

// Puts `file` into the stub that asks and answers it with the number: in one call since Linux 5.14.
void Supervisor::install(const base::SharedFd& file, uint32_t at, Answer& answer) {
  answer.go_on = false;
  answer.value = at;
  seccomp_notif_addfd add = {};
  add.id = answer.id;
  add.srcfd = static_cast<uint32_t>(file.get());
  add.newfd = at;
  add.newfd_flags = O_CLOEXEC;
  add.flags = SECCOMP_ADDFD_FLAG_SETFD | SECCOMP_ADDFD_FLAG_SEND;
  answer.given = ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_ADDFD, &add) >= 0;
  if (answer.given) return;
  add.flags = SECCOMP_ADDFD_FLAG_SETFD;
  if (errno != EINVAL || ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_ADDFD, &add) < 0) answer.error = -ENOMEM;
}

void Supervisor::reap() {
  block_signals();
  for (;;) {
    siginfo_t info;
    info.si_pid = 0;
    if (waitid(P_PGID, static_cast<id_t>(zygote_), &info, WEXITED | WNOWAIT | __WALL) < 0) {
      if (errno == EINTR) continue;
      return;  // no child is left
    }
    if (info.si_pid != zygote_ && info.si_status != SIGKILL)
      LOG_WARNING("systrap: stub process {} ended by itself: code {} status {}", info.si_pid, info.si_code, info.si_status);
    bury(info.si_pid);
  }
}

void Supervisor::bury(pid_t pid) {
  base::RefPtr<StubProcess> process;
  {
    base::MutexLock lock(mu_);
    auto it = by_tid_.find(pid);
    if (it != by_tid_.end()) process = it->second;
    if (process) {
      process->mark_dead();
      base::MutexLock inner(process->mu);
      for (pid_t tid : process->tids) by_tid_.erase(tid);
    }
    if (pid == zygote_) zygote_alive_ = false;
    else if (!process) died_unclaimed_.insert(pid);
  }
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | __WALL);
  if (pid == zygote_ && !stopping_) LOG_ERROR("systrap: the zygote died; no process can be made any more");
  if (process) {
    std::vector<uint64_t> units;
    {
      base::MutexLock lock(process->mu);
      units.swap(process->units);
    }
    for (uint64_t unit : units) control_.free_unit(unit);
  }
  // Executors sleep on while processes end as they were told to.
  if (!stopping_ && (!process || !process->abandoned.load())) on_death_();
  if (!stopping_ && zygote_alive_) on_burial_();
}

}  // namespace platform::systrap
