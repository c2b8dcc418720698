// SPDX-License-Identifier: Apache-2.0
// For unit tests: an OpContext on the calling host thread, with a root user, one mount namespace and its own memory.
#pragma once

#include <atomic>
#include <ctime>
#include <cstring>
#include <vector>

#include "sentry/vfs/file_description.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/op_context.h"

namespace sentry::vfs {

// Guest memory that is a vector; addresses start at 0x1000.
class TestMemory final : public memory::UserMemory {
 public:
  static constexpr uint64_t kBase = 0x1000;
  std::vector<uint8_t> bytes = std::vector<uint8_t>(1 << 20);
  base::Result<void> copy_in(void* dst, abi::Addr src, size_t n) override {
    if (n != TRY(copy_in_partial(dst, src, n))) return base::err(abi::Errno::kEFAULT);
    return {};
  }
  base::Result<void> copy_out(abi::Addr dst, const void* src, size_t n) override {
    if (n != TRY(copy_out_partial(dst, src, n))) return base::err(abi::Errno::kEFAULT);
    return {};
  }
  base::Result<size_t> copy_in_partial(void* dst, abi::Addr src, size_t n) override {
    n = TRY(room(src, n));
    std::memcpy(dst, at(src), n);
    return n;
  }
  base::Result<size_t> copy_out_partial(abi::Addr dst, const void* src, size_t n) override {
    n = TRY(room(dst, n));
    std::memcpy(at(dst), src, n);
    return n;
  }
  base::Result<size_t> zero_out(abi::Addr dst, size_t n) override {
    n = TRY(room(dst, n));
    std::memset(at(dst), 0, n);
    return n;
  }
  base::Result<std::string> read_cstring(abi::Addr, size_t) override { return base::err(abi::Errno::kEFAULT); }
  base::Result<size_t> with_segments(abi::Addr, size_t, memory::Access,
                                     base::FunctionRef<base::Result<size_t>(std::span<const memory::HostSegment>)>) override {
    return base::err(abi::Errno::kEFAULT);
  }
  base::Result<uint32_t> load_u32(abi::Addr) override { return base::err(abi::Errno::kEFAULT); }
  base::Result<bool> cas_u32(abi::Addr, uint32_t&, uint32_t) override { return base::err(abi::Errno::kEFAULT); }

 private:
  uint8_t* at(abi::Addr a) { return bytes.data() + (a.value() - kBase); }
  base::Result<size_t> room(abi::Addr a, size_t n) {
    if (n == 0) return size_t{0};
    if (a.value() < kBase || a.value() >= kBase + bytes.size()) return base::err(abi::Errno::kEFAULT);
    return std::min<size_t>(n, kBase + bytes.size() - a.value());
  }
};

class TestContext final : public OpContext, private OpContext::Waker {
 public:
  explicit TestContext(base::RefPtr<FileSystem> root_fs)
      : namespace_(base::make_ref<MountNamespace>(Mount::create(std::move(root_fs), 0, "root"))), cwd_(namespace_->root()) {}
  // Another task in the same tree.
  explicit TestContext(const TestContext& o) : namespace_(o.namespace_), cwd_(o.cwd_) {}

  const creds::Credentials& creds() const override { return *creds_; }
  TestMemory& user_memory() override { return memory_; }
  const creds::Limit rlimit(creds::Resource) const override { return {}; }
  uint32_t umask() const override { return 022; }
  MountNamespace& mount_namespace() override { return *namespace_; }
  Path root() const override { return namespace_->root(); }
  Path cwd() const override { return cwd_; }
  int64_t now_realtime() const override { return clock(CLOCK_REALTIME); }
  int64_t now_monotonic() const override { return clock(CLOCK_MONOTONIC); }
  OpContext::Waker& waker() override { return *this; }
  WakeReason block(Deadline deadline) override {
    while (woken_.load() == 0) {
      if (interrupted_) return WakeReason::kInterrupted;
      if (deadline && now_monotonic() >= *deadline) return WakeReason::kTimedOut;
      base::futex_wait(woken_, 0, 5'000'000);
    }
    woken_.store(0);
    return WakeReason::kWoken;
  }
  void block_uninterruptible() override {
    while (woken_.load() == 0) base::futex_wait(woken_, 0);
    woken_.store(0);
  }
  bool interrupted() const override { return interrupted_; }
  void interrupt() { interrupted_ = true; }
  void raise(abi::Signo signo) override { raised.push_back(signo.value()); }
  void become_user(uint32_t id) {
    creds_->uid = creds_->euid = creds_->suid = creds_->fsuid = abi::KUid(id);
    creds_->gid = creds_->egid = creds_->sgid = creds_->fsgid = abi::KGid(id);
    creds_->effective = creds_->permitted = 0;
  }
  const void* lock_owner() const override { return this; }
  abi::Pid owner_pid() const override { return abi::Pid(7); }
  std::vector<int32_t> raised;

 private:
  void wake() override {
    woken_.store(1);
    base::futex_wake(woken_, 1);
  }
  static int64_t clock(clockid_t id) {
    timespec ts;
    clock_gettime(id, &ts);
    return ts.tv_sec * 1'000'000'000 + ts.tv_nsec;
  }
  base::RefPtr<creds::Credentials> creds_ = creds::Credentials::create_root(creds::UserNamespace::create_root());
  base::RefPtr<MountNamespace> namespace_;
  Path cwd_;
  TestMemory memory_;
  std::atomic<uint32_t> woken_{0};
  std::atomic<bool> interrupted_{false};
};

}  // namespace sentry::vfs
