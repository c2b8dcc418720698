// SPDX-License-Identifier: Apache-2.0
// System calls: events, results, and what must survive them.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#include <cstring>

#include <cpuid.h>

#include "base/stats/stats.h"
#include "tests/platform/harness.h"

using namespace platform_test;

GUEST(one_call, "mov $1000, %eax; mov $1, %edi; mov $2, %esi; mov $3, %edx; mov $4, %r10d; mov $5, %r8d; mov $6, %r9d; syscall\n"
                "mov %rax, %rdi; mov $1001, %eax; syscall; hlt")
GUEST(loop_calls, "nop; 1: mov $500, %eax; syscall; jmp 1b")
GUEST(loop_bare, "1: mov $500, %eax; nop; syscall; jmp 1b")
// Loads every register with a pattern, calls, and puts them where the next call shows them.
GUEST(keep_all,
      "mov $0x1111, %rbx; mov $0x2222, %rbp; mov $0x3333, %r12; mov $0x4444, %r13; mov $0x5555, %r14; mov $0x6666, %r15\n"
      "mov $0x7777, %rdi; mov $0x8888, %rsi; mov $0x9999, %rdx; mov $0xaaaa, %r10; mov $0xbbbb, %r8; mov $0xcccc, %r9\n"
      "movq %rbx, %xmm0; movq %rbp, %xmm15; vpbroadcastq %xmm0, %ymm3; movq $0x1234, -8(%rsp); movq $0x5678, -128(%rsp)\n"
      "stc; std\n"
      "mov $501, %eax; syscall\n"
      "pushfq; pop %rcx; mov -128(%rsp), %r11\n"
      "mov $502, %eax; ud2")

static void check_kept(Guest& guest) {
  auto& r = guest.regs();
  CHECK(r.rbx == 0x1111);
  CHECK(r.rbp == 0x2222);
  CHECK(r.r12 == 0x3333);
  CHECK(r.r13 == 0x4444);
  CHECK(r.r14 == 0x5555);
  CHECK(r.r15 == 0x6666);
  CHECK(r.rdi == 0x7777);
  CHECK(r.rsi == 0x8888);
  CHECK(r.rdx == 0x9999);
  CHECK(r.r10 == 0xaaaa);
  CHECK(r.r8 == 0xbbbb);
  CHECK(r.r9 == 0xcccc);
  CHECK(r.rsp == kStack + kPage);
}

TEST_CASE("a system call stops the context and shows its number, arguments and result", "[syscall]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, one_call());
    Event e = guest.run();
    REQUIRE(e.kind == EventKind::kSyscall);
    auto& r = guest.regs();
    CHECK(r.orig_rax == 1000);
    CHECK(r.rdi == 1);
    CHECK(r.rsi == 2);
    CHECK(r.rdx == 3);
    CHECK(r.r10 == 4);
    CHECK(r.r8 == 5);
    CHECK(r.r9 == 6);
    e = guest.answer(0xdead'beef'0000'0001);
    REQUIRE(e.kind == EventKind::kSyscall);
    CHECK(r.orig_rax == 1001);
    CHECK(r.rdi == 0xdead'beef'0000'0001);
  });
}

TEST_CASE("registers, flags and vectors survive a system call, trapped and patched", "[syscall]") {
  on_every_platform([](Machine& m) {
    for (bool patched : {false, true}) {
      Guest guest(m, keep_all());
      Event e = guest.run();
      REQUIRE(e.kind == EventKind::kSyscall);
      if (patched) {
        if (!m.patch_usual(guest.code_offset, code_at, guest.regs().rip)) continue;
        guest.regs().rip = code_at;
        guest.regs().eflags = 0x202;
        e = guest.run();
        REQUIRE(e.kind == EventKind::kSyscall);
      }
      check_kept(guest);
      CHECK(guest.regs().orig_rax == 501);
      CHECK((guest.regs().eflags & 0x401) == 0x401);
      e = guest.answer(77);
      REQUIRE(e.kind == EventKind::kException);
      CHECK(e.signo == 4);
      check_kept(guest);
      CHECK((guest.regs().rcx & 0x401) == 0x401);
      CHECK(guest.regs().r11 == 0x5678);
      REQUIRE(guest.context->save_xstate());
      uint64_t xmm0, xmm15, ymm3_high;
      std::memcpy(&xmm0, guest.context->xstate().data() + 160, 8);
      std::memcpy(&xmm15, guest.context->xstate().data() + 160 + 15 * 16, 8);
      std::memcpy(&ymm3_high, guest.context->xstate().data() + 576 + 3 * 16, 8);
      CHECK(xmm0 == 0x1111);
      CHECK(xmm15 == 0x2222);
      CHECK(ymm3_high == 0x1111);
    }
  });
}

TEST_CASE("kFull loads every register", "[syscall]") {
  on_every_platform([](Machine& m) {
    for (bool patched : {false, true}) {
      Guest guest(m, loop_calls());
      REQUIRE(guest.run().kind == EventKind::kSyscall);
      if (patched && !m.patch_usual(guest.code_offset, code_at, guest.regs().rip)) continue;
      for (uint64_t i = 1; i < 5; ++i) {
        auto& r = guest.regs();
        r.rbx = i;
        r.rcx = 7 * i;
        r.rsi = 100 + i;
        r.r15 = ~i;
        r.rip = code_at;
        Event e = guest.run();
        REQUIRE(e.kind == EventKind::kSyscall);
        CHECK(r.rbx == i);
        CHECK(r.rsi == 100 + i);
        CHECK(r.r15 == ~i);
        CHECK(r.orig_rax == 500);
      }
    }
  });
}

TEST_CASE("a patched site reports what the trapped one did", "[syscall][patch]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, loop_calls());
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    uint64_t site = guest.regs().rip;
    if (!m.patch_usual(guest.code_offset, code_at, site)) return;
    const uint64_t patched = base::stats::total(base::stats::Counter::kCallsPatched);
    const uint64_t trapped = base::stats::total(base::stats::Counter::kCallsTrapped);
    for (int i = 0; i < 1000; ++i) {
      REQUIRE(guest.answer(static_cast<uint64_t>(i)).kind == EventKind::kSyscall);
      REQUIRE(guest.regs().rip == site);
      REQUIRE(guest.regs().orig_rax == 500);
    }
    CHECK(base::stats::total(base::stats::Counter::kCallsTrapped) == trapped);
    CHECK(base::stats::total(base::stats::Counter::kCallsPatched) >= patched + 1000);
    // A jump straight to the `syscall` instruction traps as before.
    guest.regs().rip = site - 2;
    guest.regs().rax = 42;
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    CHECK(guest.regs().orig_rax == 42);
  });
}

TEST_CASE("a site that is not understood is left alone", "[syscall][patch]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, loop_bare());
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    CHECK_FALSE(m.plan_and_patch(guest.code_offset, code_at, guest.regs().rip));
  });
}

GUEST(ids, "nop; mov $39, %eax; syscall; mov %rax, %rbx; mov $102, %eax; syscall; mov %rax, %r12; mov $600, %eax; syscall; hlt")

// Two that are asked alike every time, and one that nobody has an answer for: through a trampoline, a breakpoint, a breakpoint.
GUEST(ask_cpuid,
      "movq $0x5678, -128(%rsp); mov $0xdddd, %r11; mov $0x7777, %rdi; stc\n"
      "mov $0x80000000, %eax; mov $0x9999, %ecx; cpuid\n"
      "mov %rax, %r8; mov %rbx, %r9; mov %rcx, %r10; mov %rdx, %rsi; mov %r11, %r15; setc %r11b; movzbl %r11b, %r14d\n"
      "mov $4, %eax; mov $1, %ecx; nop; cpuid\n"
      "mov %rax, %r12; mov %rcx, %r13; mov $0x4fffffff, %eax; nop; cpuid\n"
      "mov %rax, %rbp; mov -128(%rsp), %rdx; mov $1000, %eax; syscall; hlt")

TEST_CASE("cpuid answers the same where it is sped up", "[patch]") {
  on_every_platform([](Machine& m) {
    uint32_t a, b, c, d, ignored, caches, sets, unknown;
    __cpuid_count(0x80000000, 0x9999, a, b, c, d);
    __cpuid_count(4, 1, caches, ignored, sets, ignored);
    __cpuid_count(0x4fffffff, sets, unknown, ignored, ignored, ignored);
    for (bool patched : {false, true}) {
      Guest guest(m, ask_cpuid());
      if (patched) {
        std::vector<platform::PatchEdit> edits;
        m.platform().plan_cpuid({m.bytes(guest.code_offset), ask_cpuid().size()}, abi::Addr(code_at), edits);
        for (const platform::PatchEdit& edit : edits) {
          uint8_t* at = m.bytes(guest.code_offset + (edit.start.value() - code_at));
          REQUIRE(std::memcmp(at, edit.before, edit.length) == 0);
          std::memcpy(at, edit.bytes, edit.length);
        }
        // Three breakpoints and a jump, or nothing where cpuid is quick or the platform does not care.
        CHECK((edits.empty() || edits.size() == 4));
      }
      Event e = guest.run();
      REQUIRE(e.kind == EventKind::kSyscall);
      auto& r = guest.regs();
      CHECK((r.r8 == a && r.r9 == b && r.r10 == c && r.rsi == d));
      CHECK((r.r12 == caches && r.r13 == sets && r.rbp == unknown));
      CHECK((r.rdi == 0x7777 && r.r15 == 0xdddd && r.r14 == 1 && r.rdx == 0x5678));
    }
  });
}

TEST_CASE("identity is answered in place when enabled, trapped and patched", "[in_place]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, ids());
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    CHECK(guest.regs().orig_rax == 39);
    m.patch_usual(guest.code_offset, code_at, guest.regs().rip);
    platform::InPlaceValues values;
    values.enabled = true;
    values.pid = 4711;
    values.uid = 1234;
    guest.context->set_in_place(values);
    guest.regs().rip = code_at;
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    if (guest.regs().orig_rax != 600) return;  // a platform that answers nothing in place
    CHECK(guest.regs().rbx == 4711);
    CHECK(guest.regs().r12 == 1234);
    uint64_t claimed = 0;
    for (const auto& claim : m.platform().claims().in_place) claimed += claim.number == 39 || claim.number == 102 ? claim.count : 0;
    CHECK(claimed == 2);
  });
}

GUEST(fs_read, "mov %fs:8, %rdi; mov $700, %eax; syscall; mov %fs:8, %rdi; mov $701, %eax; syscall; hlt")

TEST_CASE("fs base is the context's own", "[syscall]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, fs_read());
    uint64_t data = m.allocate(1);
    m.bytes<uint64_t>(data)[1] = 0x11;
    m.bytes<uint64_t>(data)[3] = 0x33;
    guest.as->map(pages(kData), data, kRW, Populate::kNo);
    guest.context->set_fs_base(kData);
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    CHECK(guest.regs().rdi == 0x11);
    CHECK(guest.regs().fs_base == kData);
    guest.context->set_fs_base(kData + 16);
    REQUIRE(guest.answer(0).kind == EventKind::kSyscall);
    CHECK(guest.regs().rdi == 0x33);
  });
}

GUEST(gs_read, "nop; mov $500, %eax; syscall; mov %gs:8, %rdi; mov $501, %eax; syscall; jmp guest_gs_read_start")

TEST_CASE("a guest with its own gs base works, at patched sites too", "[syscall]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, gs_read());
    uint64_t data = m.allocate(1);
    m.bytes<uint64_t>(data)[1] = 0x44;
    guest.as->map(pages(kData), data, kRW, Populate::kNo);
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    m.patch_usual(guest.code_offset, code_at, guest.regs().rip);
    guest.regs().rip = code_at;
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    guest.context->set_gs_base(kData);
    for (int i = 0; i < 3; ++i) {
      REQUIRE(guest.answer(0).kind == EventKind::kSyscall);
      CHECK(guest.regs().rdi == 0x44);
      CHECK(guest.regs().gs_base == kData);
      uint64_t at = guest.regs().rip;
      REQUIRE(guest.answer(0).kind == EventKind::kSyscall);
      CHECK(guest.regs().orig_rax == 500);
      CHECK(guest.regs().rip < at);
    }
  });
}
