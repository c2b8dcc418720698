// SPDX-License-Identifier: Apache-2.0
// Interrupts, extended state, many contexts, and contexts whose host process is gone or hostile.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#include <atomic>
#include <cstring>
#include <thread>

#include <csignal>
#include <dirent.h>
#include <fstream>
#include <string>
#include <unistd.h>

#include "tests/platform/harness.h"

using namespace platform_test;

GUEST(spin, "1: inc %rbx; jmp 1b")
GUEST(calls, "nop; 1: mov $500, %eax; syscall; inc %rbx; jmp 1b")
GUEST(in_place_calls, "nop; 1: mov $39, %eax; syscall; inc %rbx; jmp 1b")
GUEST(vector, "nop; mov $500, %eax; syscall; movq %xmm1, %rdi; mov $501, %eax; syscall; hlt")
// Adds its number (rdi) to a counter `rsi` times, a call after each, then calls 9.
GUEST(adder, "1: lock addq %rdi, (%r12); mov $8, %eax; syscall; dec %rsi; jnz 1b\n2: mov $9, %eax; syscall; jmp 2b")

TEST_CASE("interrupt stops a guest that computes", "[interrupt]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, spin());
    for (int i = 0; i < 50; ++i) {
      m.platform().resume(*guest.context, ResumeMode::kFull);
      if (i % 2) usleep(500);
      guest.context->interrupt();
      Context* stopped = m.wait();
      REQUIRE(stopped == guest.context.get());
      REQUIRE(m.platform().take_event(*stopped).kind == EventKind::kInterrupted);
      CHECK(guest.regs().rip >= code_at);
      CHECK(guest.regs().rip < code_at + 8);
      guest.context->clear_interrupt();
    }
  });
}

TEST_CASE("interrupt before resume is reported instead of running, unless cleared", "[interrupt]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, calls());
    guest.context->interrupt();
    REQUIRE(guest.run().kind == EventKind::kInterrupted);
    CHECK(guest.regs().rip == code_at);
    guest.context->interrupt();
    guest.context->clear_interrupt();
    REQUIRE(guest.run().kind == EventKind::kSyscall);
  });
}

static void storm(Machine& m, std::string_view code, bool patched) {
  Guest guest(m, code);
  REQUIRE(guest.run().kind == EventKind::kSyscall);
  if (patched && !m.patch_usual(guest.code_offset, code_at, guest.regs().rip)) return;
  platform::InPlaceValues values;
  values.enabled = true;
  values.pid = 77;
  guest.context->set_in_place(values);
  guest.regs().rip = code_at;
  guest.regs().rbx = 0;
  guest.regs().r13 = 0x1313;
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) {
      guest.context->interrupt();
      usleep(20);
    }
  });
  unsigned interrupted = 0, calls = 0;
  Event e = guest.run();
  for (int i = 0; i < 2000; ++i) {
    REQUIRE((e.kind == EventKind::kInterrupted || e.kind == EventKind::kSyscall));
    REQUIRE(guest.regs().rip >= code_at);
    REQUIRE(guest.regs().rip < code_at + 32);
    REQUIRE(guest.regs().r13 == 0x1313);
    REQUIRE(guest.regs().rsp == kStack + kPage);
    if (e.kind == EventKind::kInterrupted) {
      ++interrupted;
      guest.context->clear_interrupt();
      e = guest.run();
    } else {
      ++calls;
      e = guest.answer(1);
    }
  }
  stop = true;
  other.join();
  CHECK(interrupted > 0);
  INFO("calls " << calls << " interrupted " << interrupted);
  // Nothing is lost when it is over.
  guest.context->clear_interrupt();
  m.platform().resume(*guest.context, ResumeMode::kFull);
  guest.context->interrupt();
  Context* stopped = m.wait();
  REQUIRE(stopped == guest.context.get());
  m.platform().take_event(*stopped);
}

TEST_CASE("storms of interrupts corrupt nothing", "[interrupt]") {
  on_every_platform([](Machine& m) {
    for (bool patched : {false, true}) {
      storm(m, calls(), patched);
      storm(m, in_place_calls(), patched);
    }
  });
}

TEST_CASE("extended state is saved and loaded", "[xstate]") {
  on_every_platform([](Machine& m) {
    for (bool patched : {false, true}) {
      Guest guest(m, vector());
      uint64_t value = 0xabcdef;
      auto set_xmm1 = [&](uint64_t v) {
        auto state = guest.context->xstate();
        uint64_t features;
        std::memcpy(&features, state.data() + 512, 8);
        features |= 3;
        std::memcpy(state.data() + 512, &features, 8);
        std::memcpy(state.data() + 160 + 16, &v, 8);
        guest.context->load_xstate();
      };
      set_xmm1(value);  // before the first run
      REQUIRE(guest.run().kind == EventKind::kSyscall);
      if (patched) {
        if (!m.patch_usual(guest.code_offset, code_at, guest.regs().rip)) continue;
        guest.regs().rip = code_at;
        REQUIRE(guest.run().kind == EventKind::kSyscall);
      }
      if (!guest.context->save_xstate()) {
        REQUIRE(guest.run(ResumeMode::kSyscallReturn).kind == EventKind::kInterrupted);
        REQUIRE(guest.regs().orig_rax == 500);
        REQUIRE(guest.context->save_xstate());
      }
      uint64_t seen;
      std::memcpy(&seen, guest.context->xstate().data() + 160 + 16, 8);
      CHECK(seen == value);
      set_xmm1(value + 1);
      REQUIRE(guest.run().kind == EventKind::kSyscall);
      CHECK(guest.regs().orig_rax == 501);
      CHECK(guest.regs().rdi == value + 1);
      // Reset, and bytes that would make the host refuse.
      guest.regs().rip = code_at;
      guest.context->reset_xstate();
      REQUIRE(guest.run().kind == EventKind::kSyscall);
      REQUIRE(guest.answer(0).kind == EventKind::kSyscall);
      CHECK(guest.regs().rdi == 0);
      auto state = guest.context->xstate();
      std::memset(state.data(), 0xff, state.size());
      guest.context->load_xstate();
      guest.regs().rip = code_at;
      REQUIRE(guest.run().kind == EventKind::kSyscall);
    }
  });
}

TEST_CASE("many threads of one address space", "[threads]") {
  on_every_platform([](Machine& m) {
    constexpr int kThreads = 40, kRounds = 50;
    Guest first(m, adder());
    uint64_t data = m.allocate(1);
    first.as->map(pages(kData), data, kRW, Populate::kNo);
    auto prepare = [](Context& c, uint64_t n) {
      c.regs().rip = code_at;
      c.regs().rdi = n;
      c.regs().rsi = kRounds;
      c.regs().r12 = kData;
    };
    std::vector<std::unique_ptr<Context>> threads;
    prepare(*first.context, 1);
    REQUIRE(first.run().kind == EventKind::kSyscall);
    for (int i = 2; i <= kThreads; ++i) {
      threads.push_back(m.context(*first.as));
      prepare(*threads.back(), static_cast<uint64_t>(i));
    }
    m.platform().resume(*first.context, ResumeMode::kSyscallReturn);
    for (auto& c : threads) m.platform().resume(*c, ResumeMode::kFull);
    int running = kThreads;
    while (running) {
      Context* c = m.wait();
      REQUIRE(c != nullptr);
      Event e = m.platform().take_event(*c);
      REQUIRE(e.kind == EventKind::kSyscall);
      if (c->regs().orig_rax == 9) --running;
      else m.platform().resume(*c, ResumeMode::kSyscallReturn);
    }
    CHECK(*m.bytes<uint64_t>(data) == uint64_t{kThreads} * (kThreads + 1) / 2 * kRounds);
    // Contexts come and go; their host threads are used again.
    threads.clear();
    for (int i = 0; i < 100; ++i) {
      auto c = m.context(*first.as);
      prepare(*c, 1);
      REQUIRE(m.run(*c).kind == EventKind::kSyscall);
    }
  });
}

TEST_CASE("many address spaces, one after the other and at once", "[threads]") {
  on_every_platform([](Machine& m) {
    uint64_t code = m.code(calls());
    std::vector<std::pair<std::unique_ptr<AddressSpace>, std::unique_ptr<Context>>> all;
    for (int i = 0; i < 150; ++i) {
      auto as = m.space();
      as->map(pages(code_at), code, kRX, Populate::kNo);
      auto c = m.context(*as);
      c->regs().rip = code_at;
      REQUIRE(m.run(*c).kind == EventKind::kSyscall);
      if (i % 3 == 0) all.emplace_back(std::move(as), std::move(c));
      c.reset();
    }
    for (auto& [as, c] : all) m.platform().resume(*c, ResumeMode::kSyscallReturn);
    for (size_t i = 0; i < all.size(); ++i) {
      Context* c = m.wait();
      REQUIRE(c != nullptr);
      REQUIRE(m.platform().take_event(*c).kind == EventKind::kSyscall);
      CHECK(c->regs().rbx == 1);
    }
    for (auto& [as, c] : all) c.reset();
  });
}

TEST_CASE("interrupt_running stops the others, which then see the change", "[threads]") {
  on_every_platform([](Machine& m) {
    Guest guest(m, spin());
    m.platform().resume(*guest.context, ResumeMode::kFull);
    usleep(2000);
    guest.as->unmap(pages(code_at));
    guest.as->interrupt_running();
    Context* c = m.wait();
    REQUIRE(c == guest.context.get());
    REQUIRE(m.platform().take_event(*c).kind == EventKind::kInterrupted);
    Event e = guest.run();
    REQUIRE(e.kind == EventKind::kFault);
    CHECK(e.access == platform::AccessKind::kExecute);
  });
}

TEST_CASE("several executors share the events", "[threads]") {
  on_every_platform([](Machine& m) {
    constexpr int kGuests = 6, kRounds = 2000;
    uint64_t code = m.code(calls());
    std::vector<std::unique_ptr<AddressSpace>> spaces;
    std::vector<std::unique_ptr<Context>> contexts;
    for (int i = 0; i < kGuests; ++i) {
      spaces.push_back(m.space());
      spaces.back()->map(pages(code_at), code, kRX, Populate::kNo);
      contexts.push_back(m.context(*spaces.back()));
      contexts.back()->regs().rip = code_at;
      m.platform().resume(*contexts.back(), ResumeMode::kFull);
    }
    std::atomic<int> finished{0};
    auto executor = [&] {
      Context* out[4];
      while (finished < kGuests) {
        size_t n = m.platform().poll(out);
        if (n == 0) {
          uint32_t token = m.platform().prepare_sleep();
          n = m.platform().poll(out);
          if (n == 0 && finished < kGuests) {
            m.platform().sleep(token, 5'000'000'000);
            continue;
          }
          m.platform().cancel_sleep();
        }
        for (size_t i = 0; i < n; ++i) {
          if (m.platform().take_event(*out[i]).kind != EventKind::kSyscall) std::abort();
          if (out[i]->regs().rbx == kRounds) {
            if (++finished == kGuests) m.platform().wake();
          } else {
            m.platform().resume(*out[i], ResumeMode::kSyscallReturn);
          }
        }
      }
    };
    auto start = std::chrono::steady_clock::now();
    std::thread a(executor), b(executor);
    a.join();
    b.join();
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(4));  // no wake-up was lost
  });
}

TEST_CASE("sleep returns at wake and at its timeout", "[threads]") {
  on_every_platform([](Machine& m) {
    auto start = std::chrono::steady_clock::now();
    m.platform().sleep(m.platform().prepare_sleep(), 20'000'000);
    CHECK(std::chrono::steady_clock::now() - start > std::chrono::milliseconds(15));
    uint32_t token = m.platform().prepare_sleep();
    std::thread other([&] { m.platform().wake(); });
    m.platform().sleep(token, 5'000'000'000);
    other.join();
    token = m.platform().prepare_sleep();
    m.platform().wake();
    m.platform().sleep(token, 5'000'000'000);
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(4));
  });
}

// Host processes that the platform started: children of this one, the oldest first.
static std::vector<pid_t> host_children() {
  std::vector<pid_t> found;
  DIR* dir = opendir("/proc");
  while (dirent* entry = readdir(dir)) {
    pid_t pid = atoi(entry->d_name);
    std::ifstream stat("/proc/" + std::string(entry->d_name) + "/stat");
    std::string number, name, state;
    pid_t parent = 0;
    if (pid > 0 && stat >> number >> name >> state >> parent && parent == getpid() && state != "Z") found.push_back(pid);
  }
  closedir(dir);
  std::sort(found.begin(), found.end());
  return found;
}

TEST_CASE("a context whose host process is killed reports that it died, and nothing else is harmed", "[death]") {
  on_every_platform([](Machine& m) {
    Guest first(m, calls());
    REQUIRE(first.run().kind == EventKind::kSyscall);
    std::vector<pid_t> before = host_children();
    Guest victim(m, spin());
    m.platform().resume(*victim.context, ResumeMode::kFull);
    usleep(20'000);
    // The first child makes the others and stays; of the rest all but the first guest's are killed, spare ones too.
    for (pid_t pid : host_children())
      if (pid != before[0] && pid != before[1]) kill(pid, SIGKILL);
    Context* stopped = m.wait();
    REQUIRE(stopped == victim.context.get());
    CHECK(m.platform().take_event(*stopped).kind == EventKind::kDied);
    CHECK(victim.run().kind == EventKind::kDied);
    usleep(20'000);
    REQUIRE(first.answer(0).kind == EventKind::kSyscall);
    Guest fresh(m, calls());
    CHECK(fresh.run().kind == EventKind::kSyscall);
  });
}
