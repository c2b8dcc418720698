// SPDX-License-Identifier: Apache-2.0
// Mappable: something that mmap(2) can map: a page cache (file, tmpfs, shared anonymous memory) or device memory.
// vfs offers it, mm uses it.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/memory/memory_file.h"

namespace sentry::memory {

// Told when pages of a file that an address space maps go away (truncate, hole punch). Implemented by mm.
class Mappable;

class MappingObserver : public base::RefCounted {
 public:
  // Bytes [start, end) of the object are gone: drop what maps them (private copies stay). Called without the
  // page cache's lock.
  virtual void invalidate(const Mappable& object, uint64_t start, uint64_t end) = 0;
};

class Mappable : public base::RefCounted {
 public:
  // Pages for file bytes [offset, offset + length) (page-aligned), as far as they are contiguous in the memory file:
  // at least one page or an error. Pages beyond the end of the object: kENXIO (the guest gets SIGBUS). The
  // caller gets a reference on the returned pages. `write`: they are going to be changed through a shared mapping
  // (marks them dirty, lets a file system veto).
  // May block in the host for a read (the fiber's host thread); never takes mm locks.
  virtual base::Result<FileRange> translate(uint64_t offset, uint64_t length, bool write) = 0;
  // The run of contiguous pages around byte `offset` within [lo, hi), without ever blocking: kEAGAIN when the page
  // is not there yet (then translate() gets it). Called with mm locks held. The caller gets a reference.
  struct Placed {
    uint64_t start = 0;  // object offset of the first page
    FileRange range;
  };
  virtual base::Result<Placed> translate_cached(uint64_t offset, uint64_t lo, uint64_t hi, bool write) {
    return base::err(abi::Errno::kEAGAIN);
  }
  // The same of pages that are there, for reading: none is made, and kEAGAIN where there is none.
  virtual base::Result<Placed> find_pages(uint64_t offset, uint64_t lo, uint64_t hi) { return base::err(abi::Errno::kEAGAIN); }
  // Changes when pages are taken away that were there.
  virtual uint64_t removals() const { return 0; }
  // Changes when the bytes may have changed (patched copies of text are made from one version).
  virtual uint64_t version() const { return 0; }
  // Registers interest in invalidation while something maps the object; counted, so calls pair up. The object holds
  // a reference on the observer. Thread-safe.
  virtual void add_observer(MappingObserver& observer) = 0;
  virtual void remove_observer(MappingObserver& observer) = 0;
  // msync(MS_SYNC): writes dirty pages of the range back.
  virtual base::Result<void> sync(uint64_t offset, uint64_t length) { return {}; }
  // Whether translate(write = true) must be called before a shared page is first written (dirty tracking). Without
  // it shared mappings are writable at once.
  virtual bool needs_write_notice() const { return true; }
  // MADV_REMOVE: the range becomes a hole.
  virtual base::Result<void> remove_pages(uint64_t offset, uint64_t length) { return base::err(abi::Errno::kEOPNOTSUPP); }
  // Whether translate_cached() always knows the page: then there is no use in mapping little at a time.
  virtual bool is_in_memory() const { return false; }
  // True when the bytes cannot change for the sandbox's lifetime (read-only lower of an overlay): patched text
  // may be cached per object.
  virtual bool is_immutable() const { return false; }

  // Shared mappings that may be written, as i_mmap_writable counts them: none may be there when writing is denied for good
  // (F_SEAL_WRITE), and none comes after that.
  bool map_writable() {
    int32_t n = writable_mappings_.load(std::memory_order_relaxed);
    do {
      if (n < 0) return false;
    } while (!writable_mappings_.compare_exchange_weak(n, n + 1));
    return true;
  }
  void unmap_writable() { writable_mappings_.fetch_sub(1); }
  bool deny_writable() {
    int32_t none = 0;
    return writable_mappings_.compare_exchange_strong(none, -1) || none < 0;
  }

  // Stubs that may write its pages without telling (vfs/file_windows.h): its text is not copied for patching meanwhile. Counted before version() changes.
  std::atomic<int32_t> write_windows{0};

  // Patched copies of text, shared by all processes of the sandbox; see sentry/mm/text_patch.h. Owned by mm.
  base::RefPtr<base::RefCounted> text_patches;

 private:
  std::atomic<int32_t> writable_mappings_{0};  // -1: denied
};

}  // namespace sentry::memory
