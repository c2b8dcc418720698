// SPDX-License-Identifier: Apache-2.0
// For unit tests and fuzzers: a caller without a task, and a file that is bytes in memory.
#pragma once

#include <cstring>
#include <string>

#include "sentry/memory/page_cache.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/file_description.h"

namespace sentry::loader {

using base::RefPtr;
using base::Result;

class FakeContext final : public vfs::OpContext, public vfs::OpContext::Waker {
 public:
  explicit FakeContext(mm::MemoryManager& mm) : mm_(mm), creds_(creds::Credentials::create_root(creds::UserNamespace::create_root())) {}
  const creds::Credentials& creds() const override { return *creds_; }
  memory::UserMemory& user_memory() override { return mm_; }
  const creds::Limit rlimit(creds::Resource) const override { return {}; }
  uint32_t umask() const override { return 022; }
  vfs::MountNamespace& mount_namespace() override { abort(); }
  vfs::Path root() const override { return {}; }
  vfs::Path cwd() const override { return {}; }
  int64_t now_realtime() const override { return 1; }
  int64_t now_monotonic() const override { return 1; }
  OpContext::Waker& waker() override { return *this; }
  void wake() override {}
  vfs::WakeReason block(vfs::Deadline) override { return vfs::WakeReason::kInterrupted; }
  void block_uninterruptible() override {}
  bool interrupted() const override { return false; }
  void raise(abi::Signo) override {}

 private:
  mm::MemoryManager& mm_;
  RefPtr<creds::Credentials> creds_;
};

class BytesFile final : public vfs::FileDescription {
 public:
  BytesFile(memory::MemoryFile& file, const std::string& bytes)
      : FileDescription(vfs::make_anonymous_path("bytes", 0100755, *creds::Credentials::create_root(creds::UserNamespace::create_root())),
                        vfs::kO_RDONLY),
        bytes_(bytes), cache_(base::make_ref<memory::PageCache>(file, memory::MemoryKind::kTmpfs, nullptr, false)) {
    size_t at = 0;
    (void)cache_->write(0, bytes.size(), [&](std::span<uint8_t> dst) -> Result<size_t> {
      memcpy(dst.data(), bytes_.data() + at, dst.size());
      at += dst.size();
      return dst.size();
    });
  }
  Result<size_t> pread(vfs::OpContext&, vfs::IoBuffer& dst, uint64_t offset) override {
    if (offset >= bytes_.size()) return 0;
    return dst.put(bytes_.data() + offset, std::min(dst.remaining(), bytes_.size() - offset));
  }
  Result<RefPtr<memory::Mappable>> mappable(vfs::OpContext&) override { return RefPtr<memory::Mappable>(cache_); }

 private:
  const std::string bytes_;
  RefPtr<memory::PageCache> cache_;
};

}  // namespace sentry::loader
