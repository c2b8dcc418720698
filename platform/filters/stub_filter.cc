// SPDX-License-Identifier: Apache-2.0
#include "platform/filters/stub_filter.h"

#include <csignal>
#include <cstddef>

#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/core/check.h"

namespace platform::filters {
namespace {

constexpr uint64_t kAll = ~uint64_t{0};
constexpr uint32_t kAsk = SECCOMP_RET_USER_NOTIF;  // the sentry compares the call with what it asked for

constexpr uint32_t field(size_t offset) { return static_cast<uint32_t>(offset); }
constexpr uint32_t kArch = field(offsetof(seccomp_data, arch));
constexpr uint32_t kIpLow = field(offsetof(seccomp_data, instruction_pointer));
constexpr uint32_t kIpHigh = kIpLow + 4;
constexpr uint32_t kNr = field(offsetof(seccomp_data, nr));
constexpr uint32_t arg_low(int i) { return field(offsetof(seccomp_data, args) + 8 * i); }

void load(std::vector<sock_filter>& p, uint32_t offset) { p.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)); }
void ret(std::vector<sock_filter>& p, uint32_t action) { p.push_back(BPF_STMT(BPF_RET | BPF_K, action)); }

// Compares the loaded word; on a difference goes to an instruction that is not known yet.
void unless_equal(std::vector<sock_filter>& p, uint32_t value, std::vector<size_t>& fixups) {
  fixups.push_back(p.size());
  p.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 0));
}

void patch(std::vector<sock_filter>& p, std::vector<size_t>& fixups) {
  for (size_t at : fixups) {
    size_t distance = p.size() - at - 1;
    CHECK(distance <= 255);
    p[at].jf = static_cast<uint8_t>(distance);
  }
  fixups.clear();
}

}  // namespace

const std::vector<base::SeccompRule>& stub_rules() {
  static const std::vector<base::SeccompRule> rules = {
      {SYS_futex, "wait for the sentry; a guest can only make itself wait", {{1, kAll, FUTEX_WAIT}}},
      {SYS_futex, "wake the sentry; spurious wake-ups are harmless", {{1, kAll, FUTEX_WAKE}}},
      {SYS_rt_sigreturn, "leave a signal handler; sets only the caller's registers"},
      {SYS_munmap, "take mappings away from itself"},
      {SYS_mprotect, "change rights; none to write what came through a descriptor for reading"},
      {SYS_mmap, "map what it may read of host files anyway",
       {{3, ~uint64_t{MAP_POPULATE}, MAP_SHARED | MAP_FIXED}, {4, ~uint64_t{kHostFileFds - 1}, kFirstHostFileFd}, {2, PROT_WRITE, 0}}},
      {SYS_mmap, "map guest memory; ask for a host file", {}, kAsk},
      {SYS_clone, "a thread for the guest; a process, when the zygote asks", {}, kAsk},
      {SYS_sigaltstack, "signal stack of a new thread"},
      {SYS_rt_sigprocmask, "a new thread takes signals; nothing can be blocked", {{0, kAll, SIG_UNBLOCK}}},
      {SYS_sched_yield, "give way to the sentry on one CPU"},
      {SYS_sendmsg, "the zygote hands over the listener; stubs have no descriptor 3", {{0, kAll, 3}}},
      {SYS_close, "the zygote closes the socket and the listener", {}, kAsk},
  };
  return rules;
}

std::vector<base::SeccompRule> zygote_rules(ZygoteKey key) {
  const auto with = [](uint32_t half, uint64_t value) { return uint64_t{half} << 32 | value; };
  return {
      {SYS_mmap, "the zygote maps control memory for the next stub, and that what it starts with",
       {{2, ~uint64_t{PROT_READ | PROT_WRITE | PROT_EXEC}, with(key.first, 0)},
        {3, ~uint64_t{MAP_POPULATE}, with(key.second, MAP_SHARED | MAP_FIXED)}}},
  };
}

std::vector<sock_filter> build_stub_filter(uint64_t text_base, ZygoteKey key) {
  std::vector<sock_filter> p;
  std::vector<size_t> guest, next;
  load(p, kArch);
  unless_equal(p, AUDIT_ARCH_X86_64, guest);
  load(p, kIpHigh);
  unless_equal(p, static_cast<uint32_t>(text_base >> 32), guest);
  load(p, kIpLow);
  p.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xffff'0000u));
  unless_equal(p, static_cast<uint32_t>(text_base), guest);
  p.push_back(BPF_STMT(BPF_JMP | BPF_JA, 1));
  patch(p, guest);
  ret(p, SECCOMP_RET_TRAP);
  std::vector<base::SeccompRule> rules = zygote_rules(key);
  rules.insert(rules.end(), stub_rules().begin(), stub_rules().end());
  for (const base::SeccompRule& rule : rules) {
    load(p, kNr);
    unless_equal(p, static_cast<uint32_t>(rule.number), next);
    for (const base::SeccompArg& arg : rule.args) {
      CHECK(arg.others.empty());
      load(p, arg_low(arg.index));
      p.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, static_cast<uint32_t>(arg.mask)));
      unless_equal(p, static_cast<uint32_t>(arg.value), next);
      if (arg.mask >> 32) {
        load(p, arg_low(arg.index) + 4);
        unless_equal(p, static_cast<uint32_t>(arg.value >> 32), next);
      }
    }
    ret(p, rule.action);
    patch(p, next);
  }
  ret(p, SECCOMP_RET_KILL_PROCESS);
  return p;
}

}  // namespace platform::filters
