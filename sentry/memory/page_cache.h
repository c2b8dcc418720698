// SPDX-License-Identifier: Apache-2.0
// PageCache: the pages of one file in the memory file. tmpfs keeps its data here (a hole reads as zeros); a host file
// caches here what is mapped or written. Thread-safe (LockRank::kPageCache).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/core/function_ref.h"
#include "base/sync/mutex.h"
#include "sentry/memory/mappable.h"

namespace sentry::memory {

// Where a page comes from and goes to. Called without the cache's lock.
class PageSource {
 public:
  virtual ~PageSource() = default;
  // Fills `dst` with file bytes from `offset`; returns how many there are (less than dst.size() at end of file).
  virtual base::Result<size_t> read_pages(uint64_t offset, std::span<uint8_t> dst) = 0;
  virtual base::Result<void> write_pages(uint64_t offset, std::span<const uint8_t> src) = 0;
};

class PageCache final : public Mappable {
 public:
  // `source` null: holes are zero (tmpfs). The source must outlive the cache or call detach().
  PageCache(MemoryFile& file, MemoryKind kind, PageSource* source, bool immutable);
  ~PageCache() override;

  // Size of the object: bounds translate() and read(). Shrinking frees pages, zeroes the tail of the last one and
  // invalidates mappings.
  uint64_t size() const;
  void set_size(uint64_t size);

  // Copies cached bytes; for tmpfs all of the file. Reads stop at size(). Callback style, so that the bytes go
  // straight from page to guest: f gets consecutive pieces, returns how many bytes it took.
  base::Result<size_t> read(uint64_t offset, uint64_t length, base::FunctionRef<base::Result<size_t>(std::span<const uint8_t>)> f);
  // Makes pages as needed (filled from the source unless fully overwritten), extends size(). ENOSPC/ENOMEM.
  base::Result<size_t> write(uint64_t offset, uint64_t length, base::FunctionRef<base::Result<size_t>(std::span<uint8_t>)> f);
  // Whether any page in the range is cached (a host file's read then must look here first).
  bool has_pages(uint64_t offset, uint64_t length) const;
  // First byte >= offset that is data (hole), for SEEK_DATA/SEEK_HOLE.
  uint64_t next_data(uint64_t offset) const;
  uint64_t next_hole(uint64_t offset) const;
  void punch_hole(uint64_t offset, uint64_t length);
  base::Result<void> allocate(uint64_t offset, uint64_t length);  // fallocate(2)
  uint64_t pages() const;
  void drop_clean();  // gives memory back where the source can refill it
  void detach() { source_ = nullptr; }

  base::Result<FileRange> translate(uint64_t offset, uint64_t length, bool write) override;
  base::Result<Placed> translate_cached(uint64_t offset, uint64_t lo, uint64_t hi, bool write) override;
  base::Result<Placed> find_pages(uint64_t offset, uint64_t lo, uint64_t hi) override;
  uint64_t removals() const override;
  uint64_t version() const override;
  void add_observer(MappingObserver&) override;
  void remove_observer(MappingObserver&) override;
  base::Result<void> sync(uint64_t offset, uint64_t length) override;
  bool is_immutable() const override { return immutable_; }
  bool needs_write_notice() const override { return source_ != nullptr; }
  base::Result<void> remove_pages(uint64_t offset, uint64_t length) override {
    if (source_) return base::err(abi::Errno::kEOPNOTSUPP);
    punch_hole(offset, length);
    return {};
  }

 private:
  struct WriteRun {
    FileRange pin;
    bool fresh = false;
  };
  base::Result<void> fill(uint64_t page, uint64_t want);
  base::Result<WriteRun> writable_run(uint64_t offset, uint64_t length);
  void zero_part(uint64_t offset, uint64_t length);
  struct Impl;
  MemoryFile& file_;
  const MemoryKind kind_;
  PageSource* source_;
  const bool immutable_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sentry::memory
