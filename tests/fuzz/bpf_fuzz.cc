// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any bytes as a guest's seccomp program, run on a few calls when it is accepted.
#include <cstring>

#include "sentry/kernel/seccomp.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using sentry::kernel::BpfInstruction;
  std::vector<BpfInstruction> program(size / sizeof(BpfInstruction));
  if (!program.empty()) std::memcpy(program.data(), data, program.size() * sizeof(BpfInstruction));
  auto filter = sentry::kernel::SeccompFilter::create(std::move(program), {});
  if (!filter) return 0;
  platform::Registers regs;
  for (uint64_t number : {0ul, 39ul, 0xffff'fffful}) {
    regs.orig_rax = number;
    regs.rdi = ~number;
    (void)(*filter)->evaluate(regs);
  }
  return 0;
}
