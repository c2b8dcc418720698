// SPDX-License-Identifier: Apache-2.0
// MemoryFile: the one memfd of a sandbox that holds all guest memory, page caches and tmpfs data, with a reference
// count per page.
//
// Offsets are handed out in increasing order and not reused (but for spares, see there): freeing a page punches a hole, which returns the memory
// to the host and zaps it from every page table. A stub process that ignored an unmap would then see fresh zero
// pages that belong to nobody. (8 EiB of offsets last for decades.) The sentry maps the file in large chunks on demand.
//
// Offsets from HostFiles::kBase on are those of host files, which can be referenced, read and copied from alike.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/host/unique_fd.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/memory/host_files.h"

namespace sentry::memory {

// [offset, offset + length) of the memory file; page-aligned.
struct FileRange {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t end() const { return offset + length; }
  friend bool operator==(const FileRange&, const FileRange&) = default;
};

enum class MemoryKind : uint8_t { kAnonymous, kPageCache, kTmpfs, kKernel };  // for accounting

class MemoryFile {
 public:
  // Creates the memfd (and its read-only twin). Before the sentry's seccomp filter.
  static base::Result<std::unique_ptr<MemoryFile>> create();
  ~MemoryFile();

  int fd() const { return fd_.get(); }
  int fd_read_only() const { return fd_ro_.get(); }
  HostFiles& host_files() { return host_files_; }

  // `length` bytes (page multiple) with one reference on each page, contiguous, zeroed, not yet backed by host
  // memory (the first touch allocates). ENOMEM at the sandbox's limit.
  base::Result<FileRange> allocate(uint64_t length, MemoryKind kind);
  void add_ref(FileRange range);
  // Pages whose count drops to zero are freed.
  void drop_ref(FileRange range);
  // True when every page of the range has exactly one reference.
  bool is_unique(FileRange range) const;
  // Length of the run at the start of the range whose pages all have one reference (`unique` true) or all have more.
  uint64_t unique_prefix(FileRange range, bool& unique) const;

  // The sentry's own view; valid while the caller holds a reference. A range never straddles a chunk
  // unless it was allocated larger than one; use segments(). Never fails (address space is plenty).
  uint8_t* data(uint64_t offset);
  // Host bytes from `offset` that are contiguous in the sentry's view, at most `max`.
  std::span<uint8_t> bytes(uint64_t offset, uint64_t max);

  // Drops the host memory behind a range that stays referenced: it reads as zeros (MADV_DONTNEED of private memory).
  void decommit(FileRange range);
  // Copies page-aligned bytes between two ranges that the caller holds.
  void copy(uint64_t to, uint64_t from, uint64_t length);
  // Fills pages (page multiple) from sentry memory.
  void store(uint64_t to, const uint8_t* src, uint64_t length);
  // Overwrites pages with zeros and keeps them in memory.
  void clear(FileRange range);
  // Spares: pages of an address space that has ended and that nobody else ever mapped. When the host has taken its mappings away they may serve
  // anybody, who overwrites them: making and freeing a page costs the host several times as much (docs/decisions/0044).
  // Takes over the one reference on each page. `gone` (owned by `owner`): the mappings are.
  void give_spare(FileRange range, base::RefPtr<base::RefCounted> owner, const std::atomic<bool>& gone);
  // The longest one, with one reference on each page: all in memory, full of what somebody had there. Empty: none.
  FileRange take_spare();
  // What is left of it.
  void give_back_spare(FileRange range);
  // Copies pages into others that are in memory.
  void overwrite(uint64_t to, uint64_t from, uint64_t length);
  // Allocates host memory behind fresh pages and maps it into the sentry with one call.
  void populate(FileRange range);
  // One byte per page: bit 0 tells whether the host holds memory for it (a page without reads as zeros).
  void resident(FileRange range, std::span<uint8_t> out);
  // Gives queued frees back to the host now (an idle sandbox).
  void flush();

  struct Usage {
    uint64_t anonymous = 0, page_cache = 0, tmpfs = 0, kernel = 0;
    uint64_t total() const { return anonymous + page_cache + tmpfs + kernel; }
  };
  // What the host holds. Gives queued frees back first: how much of them it held is not known.
  Usage usage();
  // For page caches: `length` bytes of `kind` were dropped (frees themselves do not know their kind).
  void account_free(uint64_t length, MemoryKind kind);
  void set_limit(uint64_t bytes);  // 0: none
  uint64_t host_memory() const { return host_memory_; }  // RAM and swap when the file was made

 private:
  MemoryFile();
  void decommit_all(std::vector<FileRange>& ranges);  // not empty; any order
  void drop_spares();
  struct Impl;
  base::UniqueFd fd_, fd_ro_;
  HostFiles host_files_;
  uint64_t host_memory_ = ~uint64_t{0};
  std::unique_ptr<Impl> impl_;
};

}  // namespace sentry::memory
