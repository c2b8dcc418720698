// SPDX-License-Identifier: Apache-2.0
#include "base/host/seccomp.h"

#include <cstddef>
#include <set>

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace base {

namespace {

constexpr uint32_t kNumberOffset = offsetof(seccomp_data, nr);
constexpr uint32_t kArchOffset = offsetof(seccomp_data, arch);

constexpr uint32_t arg_offset(unsigned index, bool high) {
  return static_cast<uint32_t>(offsetof(seccomp_data, args) + index * 8 + (high ? 4 : 0));
}

sock_filter load(uint32_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }
sock_filter ret(uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }

// Tests of one rule's arguments; a failed one jumps past the rule's action. Emitted with that distance patched in.
void emit_rule_args(std::vector<sock_filter>& out, const SeccompRule& rule) {
  std::vector<size_t> misses;
  for (const SeccompArg& arg : rule.args) {
    for (bool high : {false, true}) {
      auto mask = static_cast<uint32_t>(high ? arg.mask >> 32 : arg.mask);
      auto value = static_cast<uint32_t>(high ? arg.value >> 32 : arg.value);
      if (mask == 0) continue;
      out.push_back(load(arg_offset(arg.index, high)));
      if (mask != ~uint32_t{0}) out.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask));
      misses.push_back(out.size());
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 0));
    }
  }
  out.push_back(ret(rule.action));
  for (size_t at : misses) out[at].jf = static_cast<uint8_t>(out.size() - at - 1);
}

}  // namespace

std::vector<sock_filter> assemble_seccomp(const SeccompPolicy& policy) {
  std::vector<sock_filter> out;
  out.push_back(load(kArchOffset));
  out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  out.push_back(ret(SECCOMP_RET_KILL_PROCESS));
  out.push_back(load(kNumberOffset));
  for (const SeccompRule& rule : policy.rules) {
    auto number = static_cast<uint32_t>(rule.number);
    if (rule.args.empty()) {
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
      out.push_back(ret(rule.action));
      continue;
    }
    size_t test = out.size();
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 0));
    emit_rule_args(out, rule);
    // Another rule may name the same call: the accumulator must hold the number again.
    out.push_back(load(kNumberOffset));
    out[test].jf = static_cast<uint8_t>(out.size() - test - 1);
  }
#ifdef RUNSC_SANITIZED
  // What the sanitizers' runtime does at any moment and when it reports.
  for (uint32_t number : {SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_mincore, SYS_sigaltstack, SYS_sched_getaffinity, SYS_getpid,
                          SYS_gettid, SYS_prctl, SYS_write, SYS_readlink, SYS_clock_gettime, SYS_prlimit64, SYS_sched_yield,
                          SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_exit_group, SYS_getrusage, SYS_set_robust_list, SYS_rseq}) {
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    out.push_back(ret(SECCOMP_RET_ALLOW));
  }
#endif
  out.push_back(ret(policy.otherwise));
  return out;
}

#ifdef RUNSC_SANITIZED
// The sentry and the gofer start with an empty environment. Leaks are looked for by a process of its own, which no filter permits.
extern "C" const char* __asan_default_options() { return "detect_leaks=0:abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "halt_on_error=1:print_stacktrace=1"; }
#endif

HostResult<void> install_seccomp(std::span<const sock_filter> program) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return HostErr(HostError::from_errno("prctl(PR_SET_NO_NEW_PRIVS)"));
  sock_fprog fprog{static_cast<unsigned short>(program.size()), const_cast<sock_filter*>(program.data())};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &fprog) != 0)
    return HostErr(HostError::from_errno("seccomp(SECCOMP_SET_MODE_FILTER)"));
  return {};
}

size_t count_allowed_calls(const SeccompPolicy& policy) {
  std::set<int32_t> numbers;
  for (const SeccompRule& rule : policy.rules)
    if (rule.action == SECCOMP_RET_ALLOW) numbers.insert(rule.number);
  return numbers.size();
}

}  // namespace base
