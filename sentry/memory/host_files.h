// SPDX-License-Identifier: Apache-2.0
// HostFiles: host files whose pages guests map as they are, so that the text of a program is neither copied nor kept twice.
// Each gets offsets of its own, beyond those of the memory file, and serves wherever those of the memory file do, for
// reading. Only for files that nobody in the sandbox can change, through descriptors that are open for reading only.
//
// The host may shorten such a file under us. A guest that touches what is gone gets SIGBUS from the host; the sentry, which
// must not die of it, reads zeros there: its handler of SIGBUS puts an empty page into its own view.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/host/shared_fd.h"
#include "base/sync/mutex.h"

namespace sentry::memory {

struct FileRange;

class HostFiles {
 public:
  static constexpr uint64_t kBase = uint64_t{1} << 60;
  static constexpr bool holds(uint64_t offset) { return offset >= kBase; }

  // Installs the handler of SIGBUS: before the sentry's filter.
  HostFiles();
  ~HostFiles();
  HostFiles(const HostFiles&) = delete;
  HostFiles& operator=(const HostFiles&) = delete;

  // Offsets for the pages of a file of `size` bytes, with one reference on each for the caller. EACCES: the descriptor can write;
  // ENODEV and the like: the host does not map it; EFBIG, ENOMEM.
  base::Result<FileRange> add(base::RefPtr<base::SharedFd> fd, uint64_t size);
  void add_ref(FileRange range);
  void drop_ref(FileRange range);
  // As for the memory file; the bytes are read-only.
  std::span<uint8_t> bytes(uint64_t offset, uint64_t max);
  struct Place {
    base::RefPtr<base::SharedFd> fd;
    uint64_t offset = 0;
  };
  // What to map for `offset`, which the caller has a reference on.
  Place place(uint64_t offset) const;

 private:
  struct Entry;
  static constexpr unsigned kSlotShift = 32;  // a file takes whole slots of offsets
  static constexpr size_t kSlots = 1 << 14;
  static constexpr size_t kSlotsBytes = kSlots * sizeof(void*);
  static constexpr uint64_t kMaxFile = uint64_t{64} << kSlotShift;
  Entry& entry_at(uint64_t offset) const;

  // By slot; those that a file has all point to its entry. Zero pages of the host's: few of them are ever touched.
  std::atomic<Entry*>* const slots_;
  base::Mutex mu_{base::LockRank::kMemoryFile};
  size_t next_slot_ GUARDED_BY(mu_) = 0;
};

}  // namespace sentry::memory
