// SPDX-License-Identifier: Apache-2.0
// Walks a filter as the host kernel would, once per call number; where it looks at an argument both ways are taken.
#include "runsc-cli/cmd/seccomp_count.h"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

namespace cli {
namespace {

constexpr int kCalls = 512;
constexpr int kMaxFilters = 8;
using Program = std::vector<sock_filter>;

class Walk {
 public:
  Walk(const Program& program, uint32_t nr) : program_(program), nr_(nr) {}
  bool allows(size_t pc, std::optional<uint32_t> a) {
    for (; pc < program_.size(); ++pc) {
      const sock_filter& f = program_[pc];
      switch (BPF_CLASS(f.code)) {
        case BPF_LD: a = load(f); break;
        case BPF_RET: return (f.k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ALLOW;
        case BPF_ALU: a = BPF_OP(f.code) == BPF_AND && BPF_SRC(f.code) == BPF_K && a ? std::optional(*a & f.k) : std::nullopt; break;
        case BPF_JMP: {
          if (BPF_OP(f.code) == BPF_JA) {
            pc += f.k;
            break;
          }
          if (!a || BPF_SRC(f.code) != BPF_K) {
            if (!seen_.insert(pc).second) return false;  // the same unknown was followed from here before
            return allows(pc + 1 + f.jt, a) || allows(pc + 1 + f.jf, a);
          }
          pc += taken(f, *a) ? f.jt : f.jf;
          break;
        }
        default: break;
      }
    }
    return false;
  }

 private:
  std::optional<uint32_t> load(const sock_filter& f) const {
    if (BPF_MODE(f.code) == BPF_IMM) return f.k;
    if (BPF_MODE(f.code) != BPF_ABS) return std::nullopt;
    if (f.k == offsetof(seccomp_data, nr)) return nr_;
    if (f.k == offsetof(seccomp_data, arch)) return AUDIT_ARCH_X86_64;
    return std::nullopt;
  }
  static bool taken(const sock_filter& f, uint32_t a) {
    switch (BPF_OP(f.code)) {
      case BPF_JEQ: return a == f.k;
      case BPF_JGT: return a > f.k;
      case BPF_JGE: return a >= f.k;
      case BPF_JSET: return (a & f.k) != 0;
      default: return false;
    }
  }
  const Program& program_;
  uint32_t nr_;
  std::set<size_t> seen_;
};

std::vector<Program> filters_of(int pid) {
  std::vector<Program> out;
  for (int i = 0; i < kMaxFilters; ++i) {
    long count = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, i, nullptr);
    if (count <= 0) break;
    Program program(static_cast<size_t>(count));
    if (ptrace(PTRACE_SECCOMP_GET_FILTER, pid, i, program.data()) != count) break;
    out.push_back(std::move(program));
  }
  return out;
}

}  // namespace

std::optional<int> count_allowed_calls(int pid) {
  if (ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0) return std::nullopt;
  std::vector<Program> filters;
  if (ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) == 0) {
    int status = 0;
    while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR) {
    }
    if (WIFSTOPPED(status)) filters = filters_of(pid);
  }
  ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
  if (filters.empty()) return std::nullopt;
  int allowed = 0;
  for (uint32_t nr = 0; nr < kCalls; ++nr) {
    bool all = true;
    for (const Program& program : filters) all = all && Walk(program, nr).allows(0, std::nullopt);
    allowed += all;
  }
  return allowed;
}

}  // namespace cli
