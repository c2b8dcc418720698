// SPDX-License-Identifier: Apache-2.0
// MemoryManager's insides, shared by its .cc files. x_locked: mapping_mu is held exclusively unless the comment
// says "shared"; x_active: active_mu is held exclusively as well.
#pragma once

#include <atomic>
#include <optional>

#include "sentry/memory/page_cache.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/piece_map.h"
#include "sentry/mm/text_patch.h"
#include "sentry/mm/vma.h"

namespace sentry::mm {

using abi::Addr;
using abi::AddrRange;
using abi::kPageSize;
using abi::Prot;
using memory::FileRange;

inline constexpr uint64_t kPageMask = kPageSize - 1;
inline constexpr uint64_t kStackGuard = 256 * kPageSize;  // stack_guard_gap
inline constexpr size_t kMaxVmas = 65530;                 // vm.max_map_count

constexpr uint64_t round_down(uint64_t v, uint64_t unit) { return v & ~(unit - 1); }
constexpr uint64_t round_up(uint64_t v, uint64_t unit) { return (v + unit - 1) & ~(unit - 1); }

// Address spaces that descend from one another by fork without an exec in between.
struct Family final : base::RefCounted {
  std::atomic<int> live{1};
};

// Bytes of VMA kinds, for limits and /proc.
struct Totals {
  uint64_t vsize = 0, data = 0, stack = 0, text = 0, locked = 0;
};

class Invalidator;

struct MemoryManager::Impl {
  Impl(memory::MemoryFile& file, platform::Platform& platform, std::unique_ptr<platform::AddressSpace> space,
       base::RefPtr<TextPlaces> places);
  ~Impl();

  // ---- VMAs (vma.cc)
  VmaMap::iterator find_vma(uint64_t addr);  // shared; the one at addr, or end()
  VmaMap::iterator first_ending_above(uint64_t addr);
  // True when VMAs cover all of the range.
  bool covered(uint64_t start, uint64_t end);
  bool touches_special(uint64_t start, uint64_t end);
  VmaMap::iterator split_vma_locked(VmaMap::iterator it, uint64_t at);
  // Splits at both ends; iterators [first, last) are the VMAs inside.
  std::pair<VmaMap::iterator, VmaMap::iterator> isolate_locked(uint64_t start, uint64_t end);
  VmaMap::iterator insert_vma_locked(uint64_t start, Vma vma);
  // A VMA begins or ceases to refer to its object.
  void attach_object(const Vma& vma);
  void detach_object(const Vma& vma);
  void merge_around_locked(uint64_t start, uint64_t end);
  void account(const Vma& vma, uint64_t length, int sign);
  void unmap_locked(uint64_t start, uint64_t end);
  // A free range of `length`, top down from mmap_base.
  base::Result<uint64_t> find_gap_locked(uint64_t length, uint64_t hint);
  bool is_free_locked(uint64_t start, uint64_t end);
  base::Result<void> check_limits_locked(uint64_t grow, bool data, bool accountable, uint64_t locked);

  // ---- pieces (pieces.cc)
  // Drops pieces and the platform's mappings of them.
  void drop_pieces_active(uint64_t start, uint64_t end);
  // Sets the guest bits of pieces in the range and the platform's protection accordingly.
  void reprotect_active(uint64_t start, uint64_t end, Prot prot);
  void update_host_active(Piece& p);
  enum class Pages : uint8_t { kMaybe, kPresent };
  void map_piece_active(Piece& p, Pages pages = Pages::kMaybe);
  void replace_active(uint64_t start, uint64_t end, const Piece& with);
  // Drops references later: other threads of the guest may go on reading the old pages of a replaced piece until the
  // platform has applied the change, and freed pages read as zeros.
  void retire_active(FileRange range);
  void release_retired_active();

  // Memory that a piece had and nobody else has: kept for the next piece of the same process, or dropped. A process may
  // see its own old pages again, so this needs no proof that its unmap was done (docs/decisions/0001, 0020).
  void give_back_active(const Piece& p);
  std::optional<FileRange> take_recycled_active(uint64_t length);

  void share_pieces_with(Impl& child);  // fork
  struct CopyRoom;
  bool copy_for_child(const Piece& p, Impl& child, CopyRoom& room);
  void leave_spares(const base::RefPtr<base::RefCounted>& owner, const std::atomic<bool>& gone);

  // ---- faults (fault.cc)
  enum class Want : uint8_t { kRead, kWrite, kForceWrite };
  // What a fault must wait for without locks, before it starts again.
  struct Pending {
    base::RefPtr<memory::Mappable> object;
    uint64_t offset = 0, length = 0;
    bool write = false;
  };
  // Makes the page at `addr` present (and writable) and, with kYes, maps it in the platform's space. Takes and drops
  // the locks. kEFAULT: nothing there; kEACCES: not allowed; anything else: the object cannot give the page (SIGBUS).
  enum class MapIt : uint8_t { kNo, kYes };
  base::Result<void> resolve(uint64_t addr, Want want, MapIt map);
  // One attempt; kEAGAIN with `pending` set when it has to wait.
  base::Result<void> try_resolve_active(uint64_t addr, Want want, MapIt map, Pending& pending);
  base::Result<Piece*> fault_in_active(VmaMap::iterator it, uint64_t page, Want want, Pending& pending);
  base::Result<Piece*> fault_in_object_active(VmaMap::iterator it, uint64_t page, Want want, Pending& pending);
  base::Result<Piece*> make_anonymous_active(VmaMap::iterator it, uint64_t page);
  std::pair<uint64_t, uint64_t> cow_window_active(const Piece& p, uint64_t page);
  base::Result<Piece*> break_cow_active(Piece& p, uint64_t page);
  base::Result<Piece*> notify_write_active(VmaMap::iterator it, Piece& p, uint64_t page, Pending& pending);
  base::Result<void> grow_stack(uint64_t addr);

  // ---- text (text_patch.cc)
  base::RefPtr<TextPatches> patches_for(uint64_t start, const Vma& vma);  // shared
  Piece* map_patched_active(VmaMap::iterator it, uint64_t page);

  memory::MemoryFile& file;
  platform::Platform& platform;
  std::unique_ptr<platform::AddressSpace> space;
  const base::RefPtr<TextPlaces> places;
  base::RefPtr<Family> family;  // set before anybody else knows this
  base::RefPtr<Invalidator> invalidator;

  base::SharedMutex mapping_mu{base::LockRank::kMmMapping};
  // Guarded by mapping_mu:
  std::vector<Vma> dead;  // removed; destroyed without the lock (files may close), by MappingWrite
  VmaMap vmas;
  Totals totals;
  uint64_t brk_start = 0, brk_end = 0;
  uint64_t mmap_base = 0, peak_vsize = 0;
  creds::LimitSet limits;
  bool lock_future = false, lock_future_on_fault = false, lock_exempt = false;
  MemoryManager::Layout layout;
  std::atomic<bool> dumpable{true};

  mutable base::SharedMutex active_mu{base::LockRank::kMmActive};
  // Guarded by active_mu (VMA changes hold both exclusively):
  PieceMap pieces;
  struct Retired {
    FileRange range;
    int64_t when_ns = 0;
  };
  std::vector<Retired> retired;  // oldest first
  std::vector<FileRange> recycled;  // oldest first; all in memory
  uint64_t recycled_bytes = 0;
  uint32_t forks = 0;       // when no other child was there
  bool made_warm = false;  // the piece just made has its pages in memory

  std::atomic<uint64_t> peak_rss{0};
};

// Keeps an object's count of writable mappings above zero while a VMA of it comes or moves. False: such mappings are denied.
class WritableHold {
 public:
  explicit WritableHold(const Vma& vma) : object_(vma.may_write_shared() ? vma.object : nullptr) {
    held_ = !object_ || object_->map_writable();
  }
  ~WritableHold() {
    if (held_ && object_) object_->unmap_writable();
  }
  explicit operator bool() const { return held_; }
  WritableHold(const WritableHold&) = delete;
  WritableHold& operator=(const WritableHold&) = delete;

 private:
  const base::RefPtr<memory::Mappable> object_;
  bool held_;
};

// Exclusive mapping_mu and, where pieces change, active_mu; VMAs that were removed die after it.
class MappingWrite {
 public:
  explicit MappingWrite(MemoryManager::Impl& m) : m_(m) {
    m_.mapping_mu.lock();
    m_.active_mu.lock();
  }
  ~MappingWrite() {
    std::vector<Vma> dead;
    dead.swap(m_.dead);
    if (!m_.retired.empty()) m_.release_retired_active();
    m_.active_mu.unlock();
    m_.mapping_mu.unlock();
  }
  MappingWrite(const MappingWrite&) = delete;
  MappingWrite& operator=(const MappingWrite&) = delete;

 private:
  MemoryManager::Impl& m_;
};

// What a Mappable tells; outlives the address space, which detaches it.
class Invalidator final : public memory::MappingObserver {
 public:
  explicit Invalidator(MemoryManager::Impl* mm) : mm_(mm) {}
  // While the child of a fork is made.
  void hold() ACQUIRE(mu_) { mu_.lock(); }
  void release() RELEASE(mu_) { mu_.unlock(); }
  void detach() {
    base::WriteLock lock(mu_);
    mm_ = nullptr;
  }
  void invalidate(const memory::Mappable& object, uint64_t start, uint64_t end) override;

 private:
  base::SharedMutex mu_{base::LockRank::kFileLocks};  // outside of mapping_mu
  MemoryManager::Impl* mm_;
};

}  // namespace sentry::mm
