// SPDX-License-Identifier: Apache-2.0
#include "platform/systrap/stub_process.h"

#include <algorithm>
#include <csignal>

namespace platform::systrap {

bool HostCall::matches(uint64_t other_nr, const uint64_t* other_args) const {
  return nr == other_nr && std::equal(args, args + arg_count, other_args);
}

void StubProcess::expect(const HostCall& call, uint64_t oldest_sequence) {
  base::MutexLock lock(expected_mu_);
  // A stub that claims progress without making its calls does not make this list grow.
  while (!expected_.empty() && expected_.front().sequence < oldest_sequence) expected_.pop_front();
  expected_.push_back(call);
}

void StubProcess::expect_command(const HostCall& call) {
  base::MutexLock lock(expected_mu_);
  commands_.push_back(call);
}

void StubProcess::forget_commands() {
  base::MutexLock lock(expected_mu_);
  commands_.clear();
  last_command_ = {};
}

bool StubProcess::approve(uint64_t nr, const uint64_t* args, base::RefPtr<base::SharedFd>& file) {
  base::MutexLock lock(expected_mu_);
  const bool next = !expected_.empty() && expected_.front().matches(nr, args);
  if (next) {
    last_ = std::move(expected_.front());
    expected_.pop_front();
  }
  if (next || (last_.nr != 0 && last_.matches(nr, args))) {
    file = last_.file;
    return true;
  }
  if (!commands_.empty() && commands_.front().matches(nr, args)) {
    last_command_ = commands_.front();
    command_repeats_ = 0;
    commands_.pop_front();
    return true;
  }
  constexpr int kMaxRepeats = 16;  // a thread can be made by each
  return last_command_.nr != 0 && last_command_.matches(nr, args) && command_repeats_++ < kMaxRepeats;
}

void StubProcess::kill() {
  base::MutexLock lock(mu);
  if (!dead.load()) ::kill(pid, SIGKILL);
}

void StubProcess::mark_dead() {
  base::MutexLock lock(mu);
  dead.store(true);
}

}  // namespace platform::systrap
