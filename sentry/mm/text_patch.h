// SPDX-License-Identifier: Apache-2.0
// Patched text. The first patch of a piece of a file's text makes a twin of it: a copy in the memory file that every
// process then maps in place of the cache's pages, so that a new process starts patched. The file's own bytes stay
// as they are. Twins fit one address only (trampolines are near), so files are placed at one address per sandbox.
#pragma once

#include <map>
#include <vector>

#include "base/sync/mutex.h"
#include "platform/interface/platform.h"
#include "sentry/memory/mappable.h"

namespace sentry::mm {

// Of one Mappable; hangs off Mappable::text_patches.
class TextPatches final : public base::RefCounted {
 public:
  struct Twin {
    uint64_t start = 0, end = 0;  // file bytes
    memory::FileRange pages;
    uint64_t version = 0;  // of the object when it was copied
  };
  explicit TextPatches(memory::MemoryFile& file) : file_(file) {}
  ~TextPatches() override;

  uint64_t base() const { return base_.load(std::memory_order_acquire); }  // address of file offset 0; 0: no place yet
  // The twin that holds file byte `offset`, with a reference on its pages for the caller.
  bool find(uint64_t offset, const memory::Mappable& object, Twin& out);
  // Publishes a twin (whose reference it takes over), in place of older ones that it overlaps.
  void publish(Twin twin);

 private:
  friend class TextPlaces;
  memory::MemoryFile& file_;
  std::atomic<uint64_t> base_{0};
  uint64_t span_ = 0;  // guarded by TextPlaces
  base::Mutex mu_{base::LockRank::kPageCache};
  std::map<uint64_t, Twin> twins_ GUARDED_BY(mu_);  // by end
};

// The sandbox's choice of addresses for text.
class TextPlaces final : public base::RefCounted {
 public:
  TextPlaces(memory::MemoryFile& file, abi::AddrRange window);
  // One per platform; shared by all address spaces.
  static base::RefPtr<TextPlaces> of(memory::MemoryFile& file, platform::Platform& platform);
  base::RefPtr<TextPatches> patches(memory::Mappable& object);
  // The object's patches if it has any, without making them.
  base::RefPtr<TextPatches> existing(const memory::Mappable& object);
  // Where `length` bytes of the object from offset 0 should go; 0: anywhere.
  uint64_t place(memory::Mappable& object, uint64_t length);
  // The object is at `base` somewhere already: that becomes its place.
  void adopt(TextPatches& patches, uint64_t base);
  // The sentry's copy of the vDSO, for user copies.
  base::RefPtr<memory::Mappable> vdso(uint64_t length);

 private:
  memory::MemoryFile& file_;
  const abi::AddrRange window_;
  base::Mutex vdso_mu_{base::LockRank::kFileMappings};
  base::RefPtr<memory::Mappable> vdso_ GUARDED_BY(vdso_mu_);
  base::Mutex mu_{base::LockRank::kFileMappings};
  uint64_t next_ GUARDED_BY(mu_) = 0;
};

}  // namespace sentry::mm
