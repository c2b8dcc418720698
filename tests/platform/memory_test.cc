// SPDX-License-Identifier: Apache-2.0
// Mappings: faults, rights, batches, several address spaces over the same pages.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#include <csignal>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/host/reopen.h"
#include "tests/platform/harness.h"

using namespace platform_test;
using platform::AccessKind;

// rdi = address; reads, reports, writes 0x77, reports
GUEST(touch, "1: mov (%rdi), %rsi; mov $1, %eax; syscall; movq $0x77, (%rdi); mov $2, %eax; syscall; jmp 1b")
GUEST(write_loop, "1: incq (%rdi); mov $3, %eax; syscall; jmp 1b")
GUEST(call_it, "call *%rdi; mov $4, %eax; syscall; hlt")
GUEST(returns, "mov $0x99, %esi; ret")
// rdi = address, rsi = count, sums the first word of each page
GUEST(sum_pages, "1: xor %edx, %edx; mov %rdi, %rbx; mov %rsi, %rcx\n2: add (%rbx), %rdx; add $4096, %rbx; dec %rcx; jnz 2b\n"
                 "mov $5, %eax; syscall; jmp 1b")

TEST_CASE("a fault shows its address and access, and the access is retried", "[memory]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, touch());
    uint64_t data = m.allocate(1);
    *m.bytes<uint64_t>(data) = 0x55;
    guest.regs().rdi = kData;
    Event e = guest.run();
    REQUIRE(e.kind == EventKind::kFault);
    CHECK(e.address == kData);
    CHECK(e.access == AccessKind::kRead);
    CHECK(e.signo == SIGSEGV);
    CHECK((e.error_code & 6) == 4);
    guest.as->map(pages(kData), data, kR, Populate::kNo);
    e = guest.run();
    REQUIRE(e.kind == EventKind::kSyscall);
    CHECK(guest.regs().rsi == 0x55);
    e = guest.answer(0);
    REQUIRE(e.kind == EventKind::kFault);
    CHECK(e.access == AccessKind::kWrite);
    CHECK((e.error_code & 7) == 7);
    CHECK(*m.bytes<uint64_t>(data) == 0x55);
    guest.as->map(pages(kData), data, kRW, Populate::kYes);
    e = guest.run();
    REQUIRE(e.kind == EventKind::kSyscall);
    CHECK(guest.regs().orig_rax == 2);
    CHECK(*m.bytes<uint64_t>(data) == 0x77);
  });
}

TEST_CASE("code needs the right to execute", "[memory]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, call_it());
    uint64_t code = m.code(returns());
    guest.as->map(pages(kData), code, kRW, Populate::kNo);
    guest.regs().rdi = kData;
    Event e = guest.run();
    REQUIRE(e.kind == EventKind::kFault);
    CHECK(e.access == AccessKind::kExecute);
    CHECK(e.address == kData);
    CHECK(guest.regs().rip == kData);
    guest.as->map(pages(kData), code, kRX, Populate::kNo);
    e = guest.run();
    REQUIRE(e.kind == EventKind::kSyscall);
    CHECK(guest.regs().rsi == 0x99);
  });
}

TEST_CASE("protect takes rights away and gives them, unmap removes", "[memory]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, write_loop());
    uint64_t data = m.allocate(2);
    guest.as->map(pages(kData, 2), data, kRW, Populate::kNo);
    guest.regs().rdi = kData;
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    CHECK(*m.bytes<uint64_t>(data) == 1);
    guest.as->protect(pages(kData), kR);
    REQUIRE(guest.answer(0).kind == EventKind::kFault);
    CHECK(*m.bytes<uint64_t>(data) == 1);
    guest.as->protect(pages(kData), kRW);
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    CHECK(*m.bytes<uint64_t>(data) == 2);
    guest.as->unmap(pages(kData));
    REQUIRE(guest.answer(0).kind == EventKind::kFault);
    // A protect over a hole does not bring anything back, and holds for what is there.
    guest.as->protect(pages(kData - kPage, 4), kR);
    REQUIRE(guest.run().kind == EventKind::kFault);
    guest.regs().rdi = kData + kPage;
    REQUIRE(guest.run().kind == EventKind::kFault);
    CHECK(*m.bytes<uint64_t>(data + kPage) == 0);
  });
}

TEST_CASE("a host file is mapped for reading, and never written", "[memory]") {
  on_every_platform([](Machine& m) {
    // Two files in turn, at offsets, then one of them shorter than its mapping.
    base::RefPtr<base::SharedFd> files[2];
    base::UniqueFd writable[2];
    for (int i = 0; i < 2; ++i) {
      writable[i].reset(memfd_create("file", MFD_CLOEXEC));
      const uint64_t words[2] = {0x100u + i, 0x200u + i};
      REQUIRE(pwrite(writable[i].get(), &words[0], 8, 0) == 8);
      REQUIRE(pwrite(writable[i].get(), &words[1], 8, 4096) == 8);
      REQUIRE(ftruncate(writable[i].get(), 3 * 4096) == 0);
      files[i] = base::make_ref<base::SharedFd>(base::reopen_for_reading(writable[i].get()));
    }
    Guest guest(m, touch());
    guest.as->map_file(pages(kData), files[0], 0, kR);
    guest.as->map_file(pages(kData + 4096), files[1], 4096, kR);
    guest.as->map_file(pages(kData + 2 * 4096, 2), files[0], 4096, kR);
    const uint64_t want[3] = {0x100, 0x201, 0x200};
    for (int i = 0; i < 3; ++i) {
      guest.regs().rdi = kData + i * 4096;
      Event e = guest.run();
      REQUIRE(e.kind == EventKind::kSyscall);
      CHECK(guest.regs().rsi == want[i]);
      e = guest.answer(0);
      REQUIRE(e.kind == EventKind::kFault);
      CHECK(e.access == AccessKind::kWrite);
      guest.regs().rip = code_at;
    }
    REQUIRE(ftruncate(writable[0].get(), 4096) == 0);
    guest.regs().rdi = kData + 2 * 4096;
    Event e = guest.run();
    CHECK(e.kind == EventKind::kException);
    CHECK(e.signo == SIGBUS);
    CHECK(guest.as->refused_files() == 0);
  });
}

TEST_CASE("queued operations apply in their order", "[memory]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, touch());
    uint64_t a = m.allocate(1), b = m.allocate(1);
    *m.bytes<uint64_t>(a) = 0xa;
    *m.bytes<uint64_t>(b) = 0xb;
    guest.regs().rdi = kData;
    guest.as->map(pages(kData), a, kRW, Populate::kNo);
    guest.as->unmap(pages(kData));
    guest.as->map(pages(kData), b, kRW, Populate::kNo);
    guest.as->protect(pages(kData), kR);
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    CHECK(guest.regs().rsi == 0xb);
    REQUIRE(guest.answer(0).kind == EventKind::kFault);
    guest.as->protect(pages(kData), kRW);
    guest.as->map(pages(kData), a, kRW, Populate::kNo);
    guest.as->unmap(pages(kData));
    REQUIRE(guest.run().kind == EventKind::kFault);
  });
}

TEST_CASE("more operations at once than any buffer holds", "[memory]") {
  on_every_platform([](Machine& m) {
    constexpr uint64_t kCount = 3000;
    Guest guest(m, sum_pages());
    uint64_t data = m.allocate(2 * kCount);
    uint64_t expected = 0;
    for (uint64_t i = 0; i < kCount; ++i) {
      // Every other page of the file: nothing can be merged.
      *m.bytes<uint64_t>(data + 2 * i * kPage) = i;
      expected += i;
      guest.as->map(pages(kData + i * kPage), data + 2 * i * kPage, kR, Populate::kNo);
    }
    guest.regs().rdi = kData;
    guest.regs().rsi = kCount;
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    CHECK(guest.regs().rdx == expected);
    for (uint64_t i = 0; i < kCount; i += 2) guest.as->unmap(pages(kData + i * kPage));
    Event e = guest.answer(0);
    REQUIRE(e.kind == EventKind::kFault);
    CHECK(e.address == kData);
  });
}

TEST_CASE("two address spaces over the same pages", "[memory]") {
  on_every_platform([](Machine& m) {
    Guest parent(m, write_loop());
    uint64_t data = m.allocate(1), copy = m.allocate(1);
    parent.as->map(pages(kData), data, kRW, Populate::kNo);
    parent.regs().rdi = kData;
    REQUIRE(parent.run().kind == EventKind::kSyscall);
    // As fork does it: both read, the first who writes gets a copy.
    parent.as->protect(pages(kData), kR);
    auto as = m.space();
    as->map(pages(code_at), parent.code_offset, kRX, Populate::kNo);
    as->map(pages(kData), data, kR, Populate::kNo);
    auto child = m.context(*as);
    child->regs() = parent.regs();
    child->regs().rax = 0;
    REQUIRE(m.run(*child).kind == EventKind::kFault);
    *m.bytes<uint64_t>(copy) = *m.bytes<uint64_t>(data);
    as->map(pages(kData), copy, kRW, Populate::kNo);
    REQUIRE(m.run(*child).kind == EventKind::kSyscall);
    CHECK(*m.bytes<uint64_t>(copy) == 2);
    CHECK(*m.bytes<uint64_t>(data) == 1);
    REQUIRE(parent.answer(0).kind == EventKind::kFault);
    parent.as->protect(pages(kData), kRW);
    REQUIRE(parent.run().kind == EventKind::kSyscall);
    CHECK(*m.bytes<uint64_t>(data) == 2);
    CHECK(*m.bytes<uint64_t>(copy) == 2);
  });
}

TEST_CASE("the first and the last usable page can be mapped", "[memory]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, touch());
    uint64_t data = m.allocate(2);
    uint64_t last = m.platform().max_address().value() - kPage;
    guest.as->map(pages(m.platform().min_address().value()), data, kRW, Populate::kNo);
    guest.as->map(pages(last), data + kPage, kRW, Populate::kNo);
    for (uint64_t at : {m.platform().min_address().value(), last}) {
      guest.regs().rip = code_at;
      guest.regs().rdi = at;
      REQUIRE(guest.run().kind == EventKind::kSyscall);
      REQUIRE(guest.answer(0).kind == EventKind::kSyscall);
    }
    CHECK(*m.bytes<uint64_t>(data) == 0x77);
    CHECK(*m.bytes<uint64_t>(data + kPage) == 0x77);
  });
}

GUEST(traps, "mov $1, %eax; xor %edx, %edx; xor %ecx, %ecx; div %ecx")
GUEST(int3, "int3; mov $6, %eax; syscall")
GUEST(privileged, "hlt")
GUEST(noncanonical, "mov $0x8000000000000000, %rax; mov (%rax), %rax")
GUEST(int80, "mov $20, %eax; int $0x80")
GUEST(stepping, "pushfq; orq $0x100, (%rsp); popfq; nop; mov $7, %eax; syscall")

TEST_CASE("exceptions come as Linux's signals", "[exception]") {
  on_every_platform([](Machine& m) {
    {
      Guest guest(m, traps());
      Event e = guest.run();
      REQUIRE(e.kind == EventKind::kException);
      CHECK(e.signo == SIGFPE);
      CHECK(e.si_code == FPE_INTDIV);
      CHECK(e.trapno == 0);
    }
    {
      Guest guest(m, int3());
      Event e = guest.run();
      REQUIRE(e.kind == EventKind::kException);
      CHECK(e.signo == SIGTRAP);
      CHECK(guest.regs().rip == code_at + 1);
      REQUIRE(guest.run().kind == EventKind::kSyscall);
    }
    for (auto code : {privileged(), noncanonical(), int80()}) {
      Guest guest(m, code);
      Event e = guest.run();
      REQUIRE(e.kind == EventKind::kException);
      CHECK(e.signo == SIGSEGV);
      CHECK(e.address == 0);
    }
    {
      Guest guest(m, stepping());
      Event e = guest.run();
      REQUIRE(e.kind == EventKind::kException);
      CHECK(e.signo == SIGTRAP);
      guest.regs().eflags &= ~uint64_t{0x100};
      REQUIRE(guest.run().kind == EventKind::kSyscall);
    }
  });
}
