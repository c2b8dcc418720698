// SPDX-License-Identifier: Apache-2.0
// For unit tests: a platform whose address spaces are page tables in a map, and a guest that loads and stores through
// them, faulting like a CPU.
#pragma once

#include <cstring>
#include <map>
#include <vector>

#include "platform/interface/platform.h"
#include "sentry/mm/memory_manager.h"

namespace sentry::mm {

class FakeSpace final : public platform::AddressSpace {
 public:
  struct Page {
    uint64_t offset;
    abi::Prot prot;
    bool rw;
    base::RefPtr<base::SharedFd> file = {};  // of a host file
  };
  std::map<uint64_t, Page> pages;
  size_t maps = 0, unmaps = 0, protects = 0, interrupts = 0;
  bool bad_protect = false;

  void map(abi::AddrRange r, uint64_t offset, abi::Prot prot, platform::Populate) override {
    ++maps;
    for (uint64_t a = r.start.value(); a < r.end.value(); a += abi::kPageSize)
      pages[a] = {offset + (a - r.start.value()), prot, prot.write};
  }
  void map_file(abi::AddrRange r, const base::RefPtr<base::SharedFd>& file, uint64_t offset, abi::Prot prot) override {
    ++maps;
    for (uint64_t a = r.start.value(); a < r.end.value(); a += abi::kPageSize)
      pages[a] = {offset + (a - r.start.value()), prot, prot.write, file};
  }
  uint32_t refused_files() const override { return refused; }
  uint32_t refused = 0;
  void unmap(abi::AddrRange r) override {
    ++unmaps;
    pages.erase(pages.lower_bound(r.start.value()), pages.lower_bound(r.end.value()));
  }
  void protect(abi::AddrRange r, abi::Prot prot) override {
    ++protects;
    for (uint64_t a = r.start.value(); a < r.end.value(); a += abi::kPageSize) {
      auto it = pages.find(a);
      if (it == pages.end() || (prot.write && !it->second.rw)) {
        bad_protect = true;
        continue;
      }
      it->second.prot = prot;
    }
  }
  void interrupt_running() override { ++interrupts; }
};

class FakePlatform final : public platform::Platform {
 public:
  abi::AddrRange vdso, window{abi::Addr(0x10000000), abi::Addr(0x20000000)};
  abi::Addr low{0x10000}, high{0x7ffffffff000};
  platform::PatchPlan next_plan;

  std::string_view name() const override { return "fake"; }
  abi::Addr min_address() const override { return low; }
  abi::Addr max_address() const override { return high; }
  abi::AddrRange vdso_range() const override { return vdso; }
  abi::Addr vdso_elf() const override { return vdso.empty() ? abi::Addr() : vdso.start + 0x4000; }
  std::span<const abi::AddrRange> reserved_ranges() const override { return reserved; }
  std::vector<abi::AddrRange> reserved;
  size_t xstate_size() const override { return 832; }
  base::Result<std::unique_ptr<platform::AddressSpace>> create_address_space() override {
    return std::make_unique<FakeSpace>();
  }
  base::Result<std::unique_ptr<platform::Context>> create_context(platform::AddressSpace&) override {
    return base::err(abi::Errno::kENOMEM);
  }
  void resume(platform::Context&, platform::ResumeMode) override {}
  size_t poll(std::span<platform::Context*>) override { return 0; }
  platform::Event take_event(platform::Context&) override { return {}; }
  uint32_t prepare_sleep() override { return 0; }
  void sleep(uint32_t, int64_t) override {}
  void cancel_sleep() override {}
  void wake() override {}
  void wake_all() override {}
  platform::PatchPlan plan_patch(std::span<const uint8_t>, abi::Addr, abi::Addr) override { return next_plan; }
  abi::AddrRange text_window() const override { return window; }
  size_t running() const override { return 0; }
};

// What a CPU would do in the address space.
class FakeGuest {
 public:
  FakeGuest(memory::MemoryFile& file, MemoryManager& mm) : file_(file), mm_(mm) {}
  FakeSpace& space() { return static_cast<FakeSpace&>(mm_.platform_space()); }
  // The signal number, or 0.
  int load(uint64_t addr, uint8_t& out, platform::AccessKind kind = platform::AccessKind::kRead) {
    uint8_t* p = nullptr;
    int signo = touch(addr, kind, p);
    if (!signo) out = *p;
    return signo;
  }
  int store(uint64_t addr, uint8_t value) {
    uint8_t* p = nullptr;
    int signo = touch(addr, platform::AccessKind::kWrite, p);
    if (!signo) *p = value;
    return signo;
  }
  size_t faults = 0;
  int32_t last_code = 0;

 private:
  uint8_t* from_host(const FakeSpace::Page& page, uint64_t addr) {
    if (::pread(page.file->get(), host_page_, sizeof host_page_, static_cast<off_t>(page.offset)) < 0) return nullptr;
    return host_page_ + addr % abi::kPageSize;
  }
  uint8_t host_page_[abi::kPageSize];
  int touch(uint64_t addr, platform::AccessKind kind, uint8_t*& out) {
    for (int i = 0; i < 4; ++i) {
      auto it = space().pages.find(addr & ~(abi::kPageSize - 1));
      if (it != space().pages.end()) {
        const abi::Prot& p = it->second.prot;
        bool ok = kind == platform::AccessKind::kWrite ? p.write : kind == platform::AccessKind::kExecute ? p.exec : p.any();
        if (ok) {
          out = it->second.file ? from_host(it->second, addr) : file_.data(it->second.offset) + addr % abi::kPageSize;
          return 0;
        }
      }
      ++faults;
      auto r = mm_.handle_fault(abi::Addr(addr), kind);
      if (!r) {
        last_code = r.error().si_code;
        return r.error().signo;
      }
    }
    return -1;  // a fault that does not go away
  }
  memory::MemoryFile& file_;
  MemoryManager& mm_;
};

}  // namespace sentry::mm
