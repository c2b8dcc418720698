// SPDX-License-Identifier: Apache-2.0
// PublishedOwner: the mode and owner of an inode for readers without a lock, as every component of every path is checked. Those
// who change them hold the inode's lock.
#pragma once

#include <atomic>
#include <optional>

#include "sentry/creds/credentials.h"

namespace sentry::vfs {

class PublishedOwner {
 public:
  // One writer at a time.
  void set(const creds::InodeOwner& owner) {
    const uint32_t version = version_.load(std::memory_order_relaxed);
    version_.store(version + 1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    uid_.store(owner.uid.value(), std::memory_order_relaxed);
    gid_.store(owner.gid.value(), std::memory_order_relaxed);
    mode_.store(owner.mode, std::memory_order_relaxed);
    version_.store(version + 2, std::memory_order_release);
  }
  // All three of one set(). Nullopt before the first one, and beside a writer: ask again with the lock.
  std::optional<creds::InodeOwner> get() const {
    const uint32_t version = version_.load(std::memory_order_acquire);
    if (version == 0 || (version & 1)) [[unlikely]] return std::nullopt;
    const creds::InodeOwner owner{abi::KUid(uid_.load(std::memory_order_relaxed)), abi::KGid(gid_.load(std::memory_order_relaxed)),
                                  mode_.load(std::memory_order_relaxed)};
    std::atomic_thread_fence(std::memory_order_acquire);
    if (version_.load(std::memory_order_relaxed) != version) [[unlikely]] return std::nullopt;
    return owner;
  }

 private:
  std::atomic<uint32_t> version_{0};  // odd while it changes; after 2^31 changes within one get() that one may be wrong
  std::atomic<uint32_t> uid_{0}, gid_{0}, mode_{0};
};

}  // namespace sentry::vfs
