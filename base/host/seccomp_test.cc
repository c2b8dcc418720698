// SPDX-License-Identifier: Apache-2.0
#include "base/host/seccomp.h"

#include <algorithm>
#include <cstring>
#include <random>

#include <linux/audit.h>
#include <linux/seccomp.h>

#include "tests/util/catch.h"

namespace {

using base::SeccompPolicy;
using base::SeccompRule;

constexpr uint32_t kOtherwise = SECCOMP_RET_TRAP;

// What the kernel does with the instructions that filters here consist of.
uint32_t run(const std::vector<sock_filter>& program, const seccomp_data& data) {
  uint32_t a = 0;
  for (size_t at = 0;; ++at) {
    REQUIRE(at < program.size());
    const sock_filter& f = program[at];
    switch (f.code) {
      case BPF_LD | BPF_W | BPF_ABS: std::memcpy(&a, reinterpret_cast<const char*>(&data) + f.k, sizeof a); break;
      case BPF_ALU | BPF_AND | BPF_K: a &= f.k; break;
      case BPF_JMP | BPF_JEQ | BPF_K: at += a == f.k ? f.jt : f.jf; break;
      case BPF_JMP | BPF_JGE | BPF_K: at += a >= f.k ? f.jt : f.jf; break;
      case BPF_JMP | BPF_JA: at += f.k; break;
      case BPF_RET | BPF_K: return f.k;
      default: FAIL("unknown instruction");
    }
  }
}

uint32_t expected(const SeccompPolicy& policy, const seccomp_data& data) {
  for (const SeccompRule& rule : policy.rules) {
    bool applies = rule.number == data.nr;
    for (const base::SeccompArg& arg : rule.args) {
      const uint64_t masked = data.args[arg.index] & arg.mask;
      applies &= masked == arg.value || std::find(arg.others.begin(), arg.others.end(), masked) != arg.others.end();
    }
    if (applies) return rule.action;
  }
  return policy.otherwise;
}

seccomp_data call(int number, uint64_t first = 0, uint64_t second = 0) {
  seccomp_data data{};
  data.nr = number;
  data.arch = AUDIT_ARCH_X86_64;
  data.args[0] = first;
  data.args[1] = second;
  return data;
}

}  // namespace

TEST_CASE("Seccomp: nothing is allowed by an empty policy") {
  CHECK(run(base::assemble_seccomp({kOtherwise, {}}), call(0)) == kOtherwise);
}

TEST_CASE("Seccomp: another architecture kills") {
  seccomp_data data = call(1);
  data.arch = AUDIT_ARCH_I386;
  CHECK(run(base::assemble_seccomp({kOtherwise, {{1, "any"}}}), data) == SECCOMP_RET_KILL_PROCESS);
}

TEST_CASE("Seccomp: the first rule that applies decides, whatever their order in the policy and how many there are") {
  std::mt19937 random(1);
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  constexpr int kFirst = 1000;  // beyond what assemble_seccomp() allows the sanitizers' runtimes
  constexpr uint64_t kMasks[] = {~uint64_t{0}, 0xffff'ffff, 1, uint64_t{1} << 40, 0xffff'ffff'0000'0000};
  for (int round = 0; round < 300; ++round) {
    SeccompPolicy policy{kOtherwise, {}};
    const uint32_t size = below(round % 10 == 0 ? 600 : 12), numbers = 1 + below(60);
    for (uint32_t i = 0; i < size; ++i) {
      SeccompRule rule{kFirst + static_cast<int32_t>(below(numbers)), "random", {}, SECCOMP_RET_ERRNO | i};
      for (uint32_t args = below(3); args > 0; --args) {
        const uint64_t mask = kMasks[below(5)];
        rule.args.push_back({static_cast<uint8_t>(args - 1), mask, mask & (below(3) | uint64_t{below(2)} << 40)});
        for (uint32_t others = below(3); mask == 0xffff'ffff && others > 0; --others) rule.args.back().others.push_back(below(5));
      }
      policy.rules.push_back(std::move(rule));
    }
    const std::vector<sock_filter> program = base::assemble_seccomp(policy);
    for (int number = -1; number <= static_cast<int>(numbers); ++number) {
      for (int i = 0; i < 12; ++i) {
        const seccomp_data data = call(number < 0 ? number : kFirst + number, below(4) | uint64_t{below(2)} << 40, below(4) | uint64_t{below(2)} << 40);
        REQUIRE(run(program, data) == expected(policy, data));
      }
    }
  }
}
