// SPDX-License-Identifier: Apache-2.0
// Patched text. A file's text is copied into a twin before its first patch: pages of the memory file that every process
// then maps in place of the file's, so that a new process starts patched. Only stretches (granules) of the text that have
// a patched site are copied; those of one twin lie side by side, so that neighbours are mapped as one. The file's own bytes stay as
// they are. Twins fit one address only (trampolines are near), so files are placed at one address per sandbox.
#pragma once

#include <map>
#include <vector>

#include "base/core/function_ref.h"
#include "base/sync/mutex.h"
#include "platform/interface/platform.h"
#include "sentry/memory/mappable.h"

namespace sentry::mm {

// Of one Mappable; hangs off Mappable::text_patches.
class TextPatches final : public base::RefCounted {
 public:
  // Copied text: file bytes [start, end) and the pages that hold them.
  struct Run {
    uint64_t start = 0, end = 0;
    memory::FileRange pages;
    uint64_t memory_at(uint64_t offset) const { return pages.offset + (offset - start); }
  };
  explicit TextPatches(memory::MemoryFile& file) : file_(file) {}
  ~TextPatches() override;

  std::atomic<bool> cpuid_seen_to{false};  // once is enough: only speed depends on it
  uint64_t base() const { return base_.load(std::memory_order_acquire); }  // address of file offset 0; 0: no place yet
  // All copied text around file byte `offset`, with a reference on its pages for the caller; false: it is not copied.
  bool find(uint64_t offset, const memory::Mappable& object, Run& out);
  // Makes [lo, hi) around `offset`, which is not copied, end where copied text begins.
  void clip(uint64_t offset, const memory::Mappable& object, uint64_t& lo, uint64_t& hi);
  // The granule around `offset`, within the mapped text [from, to).
  static Run granule(uint64_t offset, uint64_t from, uint64_t to);
  // One more process maps the file. Where many do, they get all of a small text in one mapping.
  void note_placed(memory::Mappable& object);
  // Copies the granule around `offset` within [from, to), anew if it is copied already, calls change(bytes at `offset`'s granule,
  // the offset of the first) while nobody runs on it, and publishes it. False: no memory, the file ends in it, or another thread
  // does the same just now.
  bool copy(uint64_t offset, uint64_t from, uint64_t to, memory::Mappable& object,
            base::FunctionRef<void(uint8_t*, uint64_t)> change);

 private:
  friend class TextPlaces;
  enum class State : uint8_t { kEmpty, kCopying, kCopied };
  struct Twin {
    uint64_t start = 0, end = 0;  // file bytes
    memory::FileRange pages;      // for all of them; only copied granules are backed
    uint64_t version = 0;         // of the object when it was copied
    std::vector<State> granules;  // granule i holds file bytes from i * kGranule + round_down(start, kGranule)
    bool has(uint64_t offset) const;
    State& at(uint64_t offset);
  };
  Twin* twin_at(uint64_t offset, uint64_t version) REQUIRES(mu_);
  Twin* make_twin(uint64_t offset, uint64_t from, uint64_t to, uint64_t version, std::vector<memory::FileRange>& drop) REQUIRES(mu_);
  void replace_granule(const Run& granule, memory::FileRange pages, uint64_t version, std::vector<memory::FileRange>& drop)
      REQUIRES(mu_);
  bool copy_bytes(memory::Mappable& object, const Run& granule);
  void copy_rest(uint64_t offset, memory::Mappable& object);
  memory::MemoryFile& file_;
  std::atomic<uint64_t> base_{0};
  std::atomic<uint32_t> placed_{0};
  uint64_t span_ = 0;  // guarded by TextPlaces
  base::Mutex mu_{base::LockRank::kPageCache};
  std::map<uint64_t, Twin> twins_ GUARDED_BY(mu_);  // by end; disjoint
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
