// SPDX-License-Identifier: Apache-2.0
// What one round trip costs: a guest that calls in a loop, answered by the next two lines of this program.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#include <chrono>
#include <cstdio>

#include <sched.h>

#include "tests/platform/harness.h"

using namespace platform_test;

GUEST(loop_calls, "nop; 1: mov $500, %eax; syscall; jmp 1b")
GUEST(loop_ids, "mov $100000, %rbx; 1: mov $39, %eax; syscall; dec %rbx; jnz 1b; mov $500, %eax; syscall; hlt")
GUEST(touch, "1: movq $1, (%rdi); add $4096, %rdi; jmp 1b")

static unsigned usable_cpus() {
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  return static_cast<unsigned>(CPU_COUNT(&set));
}

static double us_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

TEST_CASE("round trips") {
  on_every_platform([](Machine& m) {
    std::string name(m.platform().name());
    for (bool patched : {false, true}) {
      Guest guest(m, loop_calls());
      REQUIRE(guest.run().kind == EventKind::kSyscall);
      if (patched && !m.patch_usual(guest.code_offset, code_at, guest.regs().rip)) continue;
      constexpr int kRounds = 20000;
      auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < kRounds; ++i) guest.answer(1);
      std::printf("%s %s: %.3f us\n", name.c_str(), patched ? "patched" : "trapped", us_since(start) / kRounds);
    }
    for (bool patched : {false, true}) {
      Guest guest(m, loop_ids());
      REQUIRE(guest.run().kind == EventKind::kSyscall);
      if (patched && !m.patch_usual(guest.code_offset, code_at, guest.regs().rip)) continue;
      platform::InPlaceValues values;
      values.enabled = true;
      guest.context->set_in_place(values);
      guest.regs().rip = code_at;
      auto start = std::chrono::steady_clock::now();
      guest.run();
      std::printf("%s in place, %s: %.3f us\n", name.c_str(), patched ? "patched" : "trapped", us_since(start) / 100000);
    }
    {
      Guest guest(m, touch());
      constexpr uint64_t kCount = 2000;
      uint64_t data = m.allocate(2 * kCount);
      guest.regs().rdi = kData;
      auto start = std::chrono::steady_clock::now();
      for (uint64_t i = 0; i < kCount; ++i) {
        Event e = guest.run();
        REQUIRE(e.kind == EventKind::kFault);
        guest.as->map(pages(e.address), data + 2 * i * kPage, kRW, Populate::kNo);
      }
      std::printf("%s fault and map: %.3f us\n", name.c_str(), us_since(start) / kCount);
    }
    {
      uint64_t code = m.code(loop_calls());
      auto start = std::chrono::steady_clock::now();
      constexpr int kCount = 200;
      for (int i = 0; i < kCount; ++i) {
        auto as = m.space();
        as->map(pages(code_at), code, kRX, Populate::kNo);
        auto c = m.context(*as);
        c->regs().rip = code_at;
        REQUIRE(m.run(*c).kind == EventKind::kSyscall);
      }
      std::printf("%s process to its first call: %.1f us\n", name.c_str(), us_since(start) / kCount);
    }
  }, usable_cpus());
}
