// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/inode.h"

#include "sentry/vfs/changes.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/file_locks.h"
#include "sentry/vfs/file_places.h"
#include "sentry/vfs/inotify_watches.h"

namespace sentry::vfs {

using enum abi::Errno;

abi::DeviceId allocate_device() {
  static std::atomic<uint32_t> next_minor{32};  // the host's first ones look like its rootfs, proc, ...
  return {0, next_minor.fetch_add(1, std::memory_order_relaxed)};
}

Inode::~Inode() {
  delete locks_.load(std::memory_order_relaxed);
  if (InotifyWatches* watches = watches_.load(std::memory_order_relaxed)) {
    drop_inotify_watches(*this);
    delete watches;
  }
}

uint32_t Inode::learn_type() const {
  const uint32_t type = owner().mode & abi::kS_IFMT;
  type_.store(type, std::memory_order_relaxed);
  return type;
}

base::Result<void> Inode::permission(OpContext& ctx, unsigned want) const {
  const creds::InodeOwner o = owner();
  // What everybody may do takes no look at who asks.
  if ((want & 7 & ~(o.mode & o.mode >> 3 & o.mode >> 6)) == 0) return {};
  return creds::check_permission(ctx.creds(), o, want);
}

void Inode::set_written_in_place() {
  if (is_written_in_place()) return;
  ChangeScope change(change_word(number()));
  written_in_place_.store(true, std::memory_order_seq_cst);
}

void Inode::await_writes_in_place() const {
  if (is_written_in_place()) FilePlaces::await_writer(*this);
}

base::Result<std::optional<Path>> Inode::follow_magic(OpContext&) { return std::nullopt; }

namespace {

// Made on first use; a loser of the race throws its own away.
template <typename T>
T& get_or_make(std::atomic<T*>& slot) {
  if (T* existing = slot.load(std::memory_order_acquire)) return *existing;
  T* fresh = new T;
  T* expected = nullptr;
  if (slot.compare_exchange_strong(expected, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *expected;
}

}  // namespace

FileLocks& Inode::locks() { return get_or_make(locks_); }
InotifyWatches& Inode::make_watches() { return get_or_make(watches_); }

base::Result<void> get_write_access(Inode& inode) {
  int32_t n = inode.write_count.load();
  do {
    if (n < 0) return base::err(kETXTBSY);
  } while (!inode.write_count.compare_exchange_weak(n, n + 1));
  return {};
}

void put_write_access(Inode& inode) { inode.write_count.fetch_sub(1); }

base::Result<void> deny_write_access(Inode& inode) {
  int32_t n = inode.write_count.load();
  do {
    if (n > 0) return base::err(kETXTBSY);
  } while (!inode.write_count.compare_exchange_weak(n, n - 1));
  return {};
}

void allow_write_access(Inode& inode) { inode.write_count.fetch_add(1); }

}  // namespace sentry::vfs
