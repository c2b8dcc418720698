// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/async_io.h"

#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using abi::SigInfo;
using base::RefPtr;

namespace {

enum : int32_t { kPollInCode = 1, kPollOutCode = 2, kPollPriCode = 5, kPollHupCode = 6 };  // POLL_IN and so on of siginfo.h
constexpr vfs::PollMask kInEvents = vfs::kPollIn | vfs::kPollRdNorm, kOutEvents = vfs::kPollOut | vfs::kPollWrNorm,
                        kHupEvents = vfs::kPollHup | vfs::kPollErr;

struct Band {
  int32_t code = 0;
  int64_t mask = 0;  // si_band: band_table of fs/fcntl.c
};

// A queue often tells of all that is so at once (an edge of a host socket, the end of a pipe); what kill_fasync() would be
// called with is the most important of it.
Band band_of(vfs::PollMask events) {
  if (events & kInEvents) return {kPollInCode, kInEvents};
  if (events & vfs::kPollPri) return {kPollPriCode, vfs::kPollPri | vfs::kPollRdBand};
  if (events & kOutEvents) return {kPollOutCode, kOutEvents | vfs::kPollWrBand};
  return {kPollHupCode, kHupEvents};
}

// sig_specific_sicodes(): their si_code says something else.
bool has_codes_of_its_own(int32_t signo) {
  return kSynchronousSignals.has(signo) || signo == abi::kSIGCHLD;
}

struct Target {
  RefPtr<ThreadGroup> group;
  RefPtr<Task> thread;  // null: the process
};

std::vector<Target> targets_of(const AsyncOwner& owner) {
  std::vector<Target> out;
  PidNumber& number = *owner.number;
  base::MutexLock lock(number.ns().set().mu);
  switch (owner.type) {
    case AsyncOwnerType::kTid:
      if (number.task) out.push_back({RefPtr<ThreadGroup>(&number.task->thread_group()), RefPtr<Task>(number.task)});
      break;
    case AsyncOwnerType::kPid:
      if (number.group) out.push_back({RefPtr<ThreadGroup>(number.group), nullptr});
      break;
    case AsyncOwnerType::kPgrp:
      if (number.process_group)
        for (ThreadGroup* member : number.process_group->members) out.push_back({RefPtr<ThreadGroup>(member), nullptr});
      break;
  }
  return out;
}

// sigio_perm()
bool may_tell(const AsyncOwner& owner, const Target& target) {
  const RefPtr<Task> task = target.thread ? target.thread : target.group->leader();
  if (!task) return false;
  const creds::CredPtr theirs = task->credentials();
  return owner.euid == abi::KUid(0) || owner.euid == theirs->suid || owner.euid == theirs->uid || owner.uid == theirs->suid ||
         owner.uid == theirs->uid;
}

}  // namespace

void AsyncIo::set_owner(AsyncOwner owner) {
  state_.with([&](State& s) { std::swap(s.owner, owner); });
}

void AsyncIo::set_default_owner(const AsyncOwner& owner) {
  state_.with([&](State& s) {
    if (!s.owner.number) s.owner = owner;
  });
}

AsyncOwner AsyncIo::owner() {
  return state_.with([](State& s) { return s.owner; });
}

void AsyncIo::set_signal(int32_t signo) {
  state_.with([&](State& s) { s.signo = signo; });
}

int32_t AsyncIo::signal() {
  return state_.with([](State& s) { return s.signo; });
}

void AsyncIo::start(abi::Fd fd) {
  state_.with([&](State& s) { s.fd = fd; });
  vfs::PollMask mask = 0;
  if (file_.is_readable()) mask |= kInEvents | vfs::kPollPri;
  if (file_.is_writable()) mask |= kOutEvents;
  base::MutexLock lock(mu_);
  if (std::exchange(listening_, true)) return;
  file_.wait_queue()->add(*this, mask);
}

void AsyncIo::stop() {
  base::MutexLock lock(mu_);
  if (std::exchange(listening_, false)) file_.wait_queue()->remove(*this);
}

void AsyncIo::notify(vfs::PollMask events) {
  // The end that only reads does not hear of room, nor the other of data.
  if (!file_.is_readable()) events &= ~(kInEvents | vfs::kPollPri);
  if (!file_.is_writable()) events &= ~kOutEvents;
  if (events == 0 || events_.fetch_or(events) != 0) return;
  kernel_.reactor().post([self = RefPtr<AsyncIo>(this)] { self->send(); });
}

// send_sigio()
void AsyncIo::send() {
  const Band band = band_of(events_.exchange(0));
  const State state = state_.with([](State& s) { return s; });
  if (!state.owner.number) return;
  SigInfo info = kernel_signal(abi::kSIGIO);
  if (state.signo != 0) {
    info.signo = state.signo;
    info.code = has_codes_of_its_own(state.signo) ? abi::kSI_SIGIO : band.code;
    info.put<int64_t>(0, band.mask);
    info.put<int32_t>(8, state.fd.value());
  }
  for (const Target& target : targets_of(state.owner)) {
    if (!may_tell(state.owner, target)) continue;
    if (!send_signal(*target.group, target.thread.get(), info, SignalForce::kNo) && state.signo != 0) {
      // No room for its siginfo: SIGIO says to look at everything.
      (void)send_signal(*target.group, target.thread.get(), kernel_signal(abi::kSIGIO), SignalForce::kNo);
    }
  }
}

AsyncIo& async_io(Kernel& kernel, vfs::FileDescription& file) {
  if (vfs::AsyncIo* existing = file.async_io()) return static_cast<AsyncIo&>(*existing);
  return static_cast<AsyncIo&>(file.set_async_io(base::make_ref<AsyncIo>(kernel, file)));
}

int32_t owner_number(const AsyncOwner& owner, const PidNamespace& ns) {
  if (!owner.number) return 0;
  base::MutexLock lock(owner.number->ns().set().mu);
  const PidNumber& n = *owner.number;
  const bool alive = owner.type == AsyncOwnerType::kTid   ? n.task != nullptr
                     : owner.type == AsyncOwnerType::kPid ? n.group != nullptr
                                                          : n.process_group != nullptr;
  return alive ? n.in(ns) : 0;
}

}  // namespace sentry::kernel
