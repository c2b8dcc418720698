// SPDX-License-Identifier: Apache-2.0
#include "tests/platform/harness.h"

#include <cstring>
#include <ctime>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/mman.h>

#include "base/host/reopen.h"
#include "base/log/log.h"

namespace platform_test {
namespace {
constexpr uint64_t kMemory = 256 << 20;

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000l + t.tv_nsec;
}
}  // namespace

Machine::Machine(platform::PlatformFactory& factory, unsigned cpus) {
  base::log_init(2, base::LogLevel::kWarning, base::LogFormat::kText, "platform_test");
  memory_.reset(memfd_create("guest memory", MFD_CLOEXEC));
  REQUIRE(ftruncate(memory_.get(), kMemory) == 0);
  memory_ro_ = base::reopen_for_reading(memory_.get());
  REQUIRE(memory_ro_.valid());
  base_ = static_cast<char*>(mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0));
  platform::PlatformConfig config;
  config.memory_fd = memory_.get();
  config.memory_fd_ro = memory_ro_.get();
  config.cpus = cpus;
  auto created = factory.create(config);
  REQUIRE(created.has_value());
  platform_ = std::move(*created);
  spin_ = cpus > 1 ? 400 : 1;
  abi::AddrRange window = platform_->text_window();
  code_at = window.empty() ? 0x10'0000'0000 : window.start.value();
}

Machine::~Machine() {
  platform_.reset();
  munmap(base_, kMemory);
}

uint64_t Machine::allocate(uint64_t pages) {
  uint64_t at = next_;
  next_ += pages * kPage;
  REQUIRE(next_ <= kMemory);
  return at;
}

uint64_t Machine::code(std::string_view code) {
  uint64_t at = allocate((code.size() + kPage - 1) / kPage);
  std::memcpy(bytes(at), code.data(), code.size());
  return at;
}

std::unique_ptr<AddressSpace> Machine::space() {
  auto as = platform_->create_address_space();
  REQUIRE(as.has_value());
  return std::move(*as);
}

std::unique_ptr<Context> Machine::context(AddressSpace& as) {
  auto context = platform_->create_context(as);
  REQUIRE(context.has_value());
  return std::move(*context);
}

Context* Machine::wait() {
  int64_t end = now_ns() + 10'000'000'000;
  Context* out[1];
  int polls = 0;
  while (now_ns() < end) {
    if (platform_->poll(out)) return out[0];
    if (++polls < spin_) continue;
    uint32_t token = platform_->prepare_sleep();
    if (platform_->poll(out)) {
      platform_->cancel_sleep();
      return out[0];
    }
    platform_->sleep(token, end - now_ns() + 1000);
  }
  return nullptr;
}

Event Machine::run(Context& context, ResumeMode mode) {
  platform_->resume(context, mode);
  Context* stopped = wait();
  REQUIRE(stopped == &context);
  return platform_->take_event(context);
}

bool Machine::plan_and_patch(uint64_t code_offset, uint64_t code_address, uint64_t site) {
  std::span<const uint8_t> text(bytes(code_offset), kPage);
  platform::PatchPlan plan = platform_->plan_patch(text, abi::Addr(code_address), abi::Addr(site));
  if (!plan.count) return false;
  for (const platform::PatchEdit& edit : std::span(plan.edits, plan.count))
    std::memcpy(bytes(code_offset + (edit.start.value() - code_address)), edit.bytes, edit.length);
  return true;
}

bool Machine::patch_usual(uint64_t code_offset, uint64_t code_address, uint64_t site) {
  bool patched = plan_and_patch(code_offset, code_address, site);
  CHECK(patched == !platform_->text_window().empty());
  return patched;
}

Guest::Guest(Machine& m, std::string_view code) : machine(m) {
  code_offset = m.code(code);
  stack_offset = m.allocate(1);
  as = m.space();
  as->map(pages(code_at, (code.size() + kPage - 1) / kPage), code_offset, kRX, Populate::kYes);
  as->map(pages(kStack), stack_offset, kRW, Populate::kNo);
  context = m.context(*as);
  regs().rip = code_at;
  regs().rsp = kStack + kPage;
}

void on_every_platform(const std::function<void(Machine&)>& test, unsigned cpus) {
  for (platform::PlatformFactory* factory : platform::all_platforms()) {
    if (!factory->unavailable_reason().empty()) continue;
    DYNAMIC_SECTION(std::string(factory->name())) {
      Machine machine(*factory, cpus);
      test(machine);
    }
  }
}

}  // namespace platform_test
