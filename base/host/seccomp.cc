// SPDX-License-Identifier: Apache-2.0
#include "base/host/seccomp.h"

#include <algorithm>
#include <cstddef>
#include <set>

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/check.h"

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
void emit_rule(std::vector<sock_filter>& out, const SeccompRule& rule) {
  std::vector<size_t> misses;
  for (const SeccompArg& arg : rule.args) {
    CHECK(arg.others.empty() || (arg.mask >> 32 == 0 && arg.others.size() < 200));
    for (bool high : {false, true}) {
      auto mask = static_cast<uint32_t>(high ? arg.mask >> 32 : arg.mask);
      auto value = static_cast<uint32_t>(high ? arg.value >> 32 : arg.value);
      if (mask == 0) continue;
      out.push_back(load(arg_offset(arg.index, high)));
      if (mask != ~uint32_t{0}) out.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask));
      for (size_t left = arg.others.size(); left > 0; --left)
        out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arg.others[left - 1], static_cast<uint8_t>(left), 0));
      misses.push_back(out.size());
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 0));
    }
  }
  out.push_back(ret(rule.action));
  for (size_t at : misses) {
    CHECK(out.size() - at - 1 <= 255);
    out[at].jf = static_cast<uint8_t>(out.size() - at - 1);
  }
}

// The rules of one call, in their order.
void emit_call(std::vector<sock_filter>& out, std::span<const SeccompRule> rules, uint32_t otherwise) {
  out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(rules[0].number), 1, 0));
  out.push_back(ret(otherwise));
  for (const SeccompRule& rule : rules) {
    emit_rule(out, rule);
    if (rule.args.empty()) return;
  }
  out.push_back(ret(otherwise));
}

// A binary search: the kernel tries a new filter with each number there is, to know which calls need none of it.
void emit_search(std::vector<sock_filter>& out, std::span<const SeccompRule> rules, uint32_t otherwise) {
  if (rules.empty()) return out.push_back(ret(otherwise));
  if (rules.front().number == rules.back().number) return emit_call(out, rules, otherwise);
  int32_t pivot = rules[rules.size() / 2].number;
  if (pivot == rules.front().number) pivot = rules.front().number + 1;
  const auto upper = std::lower_bound(rules.begin(), rules.end(), pivot, [](const SeccompRule& rule, int32_t n) { return rule.number < n; });
  const auto split = static_cast<size_t>(upper - rules.begin());
  out.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, static_cast<uint32_t>(pivot), 0, 1));
  const size_t jump = out.size();  // a conditional one reaches 255 instructions only
  out.push_back(BPF_STMT(BPF_JMP | BPF_JA, 0));
  emit_search(out, rules.first(split), otherwise);
  out[jump].k = static_cast<uint32_t>(out.size() - jump - 1);
  emit_search(out, rules.subspan(split), otherwise);
}

}  // namespace

std::vector<sock_filter> assemble_seccomp(const SeccompPolicy& policy) {
  std::vector<SeccompRule> rules = policy.rules;
#ifdef RUNSC_SANITIZED
  // What the sanitizers' runtime does at any moment and when it reports.
  for (int32_t number : {SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_mincore, SYS_sigaltstack, SYS_sched_getaffinity, SYS_getpid,
                         SYS_gettid, SYS_prctl, SYS_write, SYS_readlink, SYS_clock_gettime, SYS_prlimit64, SYS_sched_yield,
                         SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_exit_group, SYS_getrusage, SYS_set_robust_list, SYS_rseq})
    rules.push_back({number, "sanitizers"});
#endif
  std::stable_sort(rules.begin(), rules.end(), [](const SeccompRule& a, const SeccompRule& b) { return a.number < b.number; });
  std::vector<sock_filter> out;
  out.push_back(load(kArchOffset));
  out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  out.push_back(ret(SECCOMP_RET_KILL_PROCESS));
  out.push_back(load(kNumberOffset));
  emit_search(out, rules, policy.otherwise);
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
