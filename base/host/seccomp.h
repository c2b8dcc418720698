// SPDX-License-Identifier: Apache-2.0
// Host seccomp filters as data: a list of allowed calls, each with its reason, assembled straight to BPF (no library:
// compiling a policy at start would cost more than the rest of start-up).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <linux/filter.h>

#include "base/host/host_error.h"

namespace base {

// (argument & mask) == value, compared as 64 bits; or, where the mask has its low half only, one of the others.
struct SeccompArg {
  uint8_t index = 0;
  uint64_t mask = ~uint64_t{0};
  uint64_t value = 0;
  std::vector<uint32_t> others = {};
};

// Applies when all argument conditions hold. Several rules may name one call: the first that applies decides.
struct SeccompRule {
  int32_t number = 0;
  const char* reason = "";
  std::vector<SeccompArg> args = {};
  uint32_t action = 0x7fff0000;  // SECCOMP_RET_ALLOW; another one answers this call in its own way
};

struct SeccompPolicy {
  uint32_t otherwise = 0;  // SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO | n
  std::vector<SeccompRule> rules;
};

// x86-64 only: any other architecture value kills the process. Calls are found by a binary search; the rules of one are tested in order.
std::vector<sock_filter> assemble_seccomp(const SeccompPolicy& policy);

// Sets no_new_privs and installs the filter on all threads of the process.
HostResult<void> install_seccomp(std::span<const sock_filter> program);

// Different calls that a policy allows; for `runsc debug --posture`.
size_t count_allowed_calls(const SeccompPolicy& policy);

}  // namespace base
