// SPDX-License-Identifier: Apache-2.0
// Input and output in place: what AddressSpace promises of descriptors, blocks, locks, waiting words and kicks.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#include <cstring>

#include "tests/platform/harness.h"

using namespace platform_test;
namespace in_place = platform::in_place;

// r12 = buffer; writes 8 bytes of it to descriptor 5, reads 8 from there, reports both results in rbx and r13.
GUEST(send_receive,
      "nop; mov $5, %edi; mov %r12, %rsi; mov $8, %edx; mov $1, %eax; syscall; mov %rax, %rbx\n"
      "mov $5, %edi; mov %r12, %rsi; mov $8, %edx; mov $0, %eax; syscall; mov %rax, %r13; mov $600, %eax; syscall; hlt")

namespace {

constexpr uint32_t kFd = 5, kBlock = 3;
int kicks;
uint32_t kicked;

struct Connection {
  explicit Connection(Machine& m) : machine(m), guest(m, send_receive()) {
    guest.context->task = this;
    data = m.allocate(1);
    guest.as->map(pages(kData), data, kRW, Populate::kYes);
    block_offset = m.allocate(in_place::kStreamBlockSize / kPage);
    // The first time both calls trap.
    start();
    for (uint64_t number : {1, 0}) {
      REQUIRE(guest.run(number == 1 ? ResumeMode::kFull : ResumeMode::kSyscallReturn).kind == EventKind::kSyscall);
      CHECK(guest.regs().orig_rax == number);
      m.patch_usual(guest.code_offset, code_at, guest.regs().rip);
      guest.regs().rax = 0;
    }
    platform::InPlaceValues values;
    values.enabled = values.io = true;
    guest.context->set_in_place(values);
    guest.as->map_block(kBlock, block_offset, in_place::kStreamBlockSize);
    show(0);
  }
  void show(uint64_t more) {
    guest.as->set_descriptor(kFd, in_place::kKindStream | in_place::kNonBlocking | kBlock << 8 | uint64_t{guest.as->waiting_word()} << 32 | more);
  }
  void start() {
    guest.regs().rip = code_at;
    guest.regs().r12 = kData;
    guest.regs().rsp = kStack + kPage;
  }
  // The number of the call that the sentry saw first; 600: none of the two.
  uint64_t first_call() {
    start();
    REQUIRE(guest.run().kind == EventKind::kSyscall);
    return guest.regs().orig_rax;
  }
  in_place::StreamBlock& block() { return *machine.bytes<in_place::StreamBlock>(block_offset); }
  uint8_t* ring(int half) { return machine.bytes(block_offset) + in_place::kBytesOffset + half * in_place::kBytesSize; }
  Machine& machine;
  Guest guest;
  uint64_t data = 0, block_offset = 0;
};

void on_platforms_with_it(const std::function<void(Connection&)>& test) {
  on_every_platform([&](Machine& m) {
    kicks = 0;
    m.platform().set_kick_handler([](void*, uint32_t fd) { ++kicks, kicked = fd; });
    if (!m.space()->has_in_place_io()) return;
    Connection c(m);
    test(c);
  });
}

}  // namespace

TEST_CASE("a connection is written and read in its block", "[in_place]") {
  on_platforms_with_it([](Connection& c) {
    for (int round = 0; round < 3; ++round) {
      const uint64_t head = static_cast<uint64_t>(round) * 8;
      std::memcpy(c.machine.bytes(c.data), "to peer!", 8);
      std::memcpy(c.ring(1) + head, "to guest", 8);
      c.block().half[1].head = head + 8;
      REQUIRE(c.first_call() == 600);
      CHECK(c.guest.regs().rbx == 8);
      CHECK(c.guest.regs().r13 == 8);
      CHECK(c.block().half[0].head == head + 8);
      CHECK(c.block().half[1].tail == head + 8);
      CHECK(std::memcmp(c.ring(0) + head, "to peer!", 8) == 0);
      CHECK(std::memcmp(c.machine.bytes(c.data), "to guest", 8) == 0);
    }
    // Nothing there, and the descriptor does not block.
    REQUIRE(c.first_call() == 600);
    CHECK(static_cast<int64_t>(c.guest.regs().r13) == -11);
    CHECK(kicks == 0);
  });
}

TEST_CASE("positions out of bounds, flags and held locks send a call to the sentry", "[in_place]") {
  on_platforms_with_it([](Connection& c) {
    const auto refused = [&](uint64_t number) { CHECK(c.first_call() == number); };
    in_place::StreamHalf& out = c.block().half[0];
    for (uint64_t bad : {in_place::kBytesSize - 7, in_place::kBytesSize + 1, ~uint64_t{0}, uint64_t{1} << 63}) {
      out.head = bad;
      refused(1);
    }
    out.head = out.tail = ~uint64_t{0} - 3;  // they wrap around
    REQUIRE(c.first_call() == 600);
    CHECK(out.head == 4);
    out.flags = in_place::kStreamOdd;
    refused(1);
    out.flags = 0;
    c.guest.as->descriptor_locks()->writing[kFd] = 1;
    refused(1);
    CHECK(c.guest.as->descriptor_locks()->writing[kFd] == 1);
    c.guest.as->descriptor_locks()->writing[kFd] = 0;
    REQUIRE(c.first_call() == 600);
    CHECK(c.guest.as->descriptor_locks()->writing[kFd] == 0);
  });
}

TEST_CASE("a descriptor that is shown no more and a block that is unmapped are left alone", "[in_place]") {
  on_platforms_with_it([](Connection& c) {
    REQUIRE(c.first_call() == 600);
    c.guest.as->set_descriptor(kFd, 0);
    CHECK(c.first_call() == 1);
    c.show(0);
    REQUIRE(c.first_call() == 600);
    const uint64_t head = c.block().half[0].head;
    c.guest.as->unmap_block(kBlock, in_place::kBlockSize);
    CHECK(c.first_call() == 1);
    CHECK(c.block().half[0].head == head);
    // Other memory in the same place.
    const uint64_t other = c.machine.allocate(in_place::kStreamBlockSize / kPage);
    c.guest.as->map_block(kBlock, other, in_place::kStreamBlockSize);
    REQUIRE(c.first_call() == 600);
    CHECK(c.block().half[0].head == head);
    CHECK(c.machine.bytes<in_place::StreamBlock>(other)->half[0].head == 8);
  });
}

TEST_CASE("a write is told of while somebody waits or wants to be told", "[in_place]") {
  on_platforms_with_it([](Connection& c) {
    const auto writes = [&] {
      const int before = kicks;
      uint64_t call = c.first_call();
      if (call == 600) return kicks - before;
      FAIL("the call " << call << " was not answered in place");
      return -1;
    };
    CHECK(writes() == 0);
    c.guest.as->count_waiting(1);
    CHECK(writes() == 1);
    CHECK(kicked == kFd);
    c.guest.as->count_waiting(1);
    c.guest.as->count_waiting(-1);
    CHECK(writes() == 1);
    c.guest.as->count_waiting(-1);
    CHECK(writes() == 0);
    c.block().half[0].wanted = 1;
    CHECK(writes() == 1);
  });
}

TEST_CASE("an eventfd is written and read in its block, its limits are the sentry's", "[in_place]") {
  on_platforms_with_it([](Connection& c) {
    auto& event = *c.machine.bytes<in_place::EventBlock>(c.block_offset);
    auto& value = *c.machine.bytes<uint64_t>(c.data);
    const auto show = [&](uint64_t more) {
      c.guest.as->set_descriptor(kFd, in_place::kKindEvent | in_place::kNonBlocking | kBlock << 8 | uint64_t{c.guest.as->waiting_word()} << 32 | more);
    };
    show(0);
    event.count = 3;
    value = 4;
    REQUIRE(c.first_call() == 600);
    CHECK((c.guest.regs().rbx == 8 && c.guest.regs().r13 == 8 && value == 7));
    CHECK((event.count == 0 && event.writes == 1 && event.reads == 1));
    show(in_place::kSemaphore);
    REQUIRE(c.first_call() == 600);
    CHECK((value == 1 && event.count == 6));
    CHECK(kicks == 0);
    event.room_wanted = 1;
    REQUIRE(c.first_call() == 600);
    CHECK(kicks == 1);
    event.wanted = 1;
    REQUIRE(c.first_call() == 600);
    CHECK((kicks == 2 || kicks == 3));  // both of one descriptor: the first may stand for the second
    for (uint64_t bad : {in_place::kMostCount, ~uint64_t{0}}) {
      event.count = bad;
      value = 1;
      CHECK(c.first_call() == 1);
      CHECK(event.count == bad);
    }
    event.count = 0;
    value = ~uint64_t{0};
    CHECK(c.first_call() == 1);
  });
}

TEST_CASE("a pipe is written by end 0 and read by end 1, and who reads tells of room that is wanted", "[in_place]") {
  on_platforms_with_it([](Connection& c) {
    in_place::StreamHalf& half = c.block().half[0];
    const auto show = [&](uint64_t end) { c.show(in_place::kOneWay | end); };
    show(0);
    CHECK(c.first_call() == 0);  // the write was answered, the read is the sentry's
    CHECK((half.head == 8 && kicks == 0));
    for (uint64_t bad : {in_place::kPipeBytesSize + 1, in_place::kPipeBytesSize + 8 - 7}) {
      half.head = bad;
      CHECK(c.first_call() == 1);
    }
    show(in_place::kEnd);
    const auto reads = [&](uint64_t head, uint32_t flags) {
      half.tail = 0;
      half.head = head;
      half.flags = flags;
      const int before = kicks;
      // Its write goes to the sentry first.
      REQUIRE(c.first_call() == 1);
      c.guest.regs().rax = 8;
      REQUIRE(c.guest.run(ResumeMode::kSyscallReturn).kind == EventKind::kSyscall);
      if (c.guest.regs().orig_rax != 600) return -1;
      CHECK((c.guest.regs().r13 == 8 && half.tail == 8));
      return kicks - before;
    };
    const uint64_t full = in_place::kPipeBytesSize, page = in_place::kPipePage;
    CHECK(reads(100, 0) == 0);
    CHECK(reads(full, in_place::kStreamRoomWanted) == 0);
    CHECK(reads(full - page + 8, in_place::kStreamRoomWanted) == 1);
    CHECK(reads(100, in_place::kStreamBehind) == -1);
    CHECK(reads(100, in_place::kStreamOdd) == -1);
  });
}
