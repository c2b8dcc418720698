// SPDX-License-Identifier: Apache-2.0
// VMAs: what the guest asked for, in address order.
#pragma once

#include <map>

#include "sentry/mm/memory_manager.h"

namespace sentry::mm {

struct Vma {
  uint64_t end = 0;
  abi::Prot prot, max_prot{true, true, true};
  Sharing sharing = Sharing::kPrivate;
  bool grows_down : 1 = false, stack : 1 = false, locked : 1 = false, lock_on_fault : 1 = false, no_reserve : 1 = false,
      dont_fork : 1 = false, wipe_on_fork : 1 = false, dont_dump : 1 = false,
      accounted : 1 = false,  // counts as data (RLIMIT_DATA)
      special : 1 = false,    // the platform's own (vDSO): never changed
      hidden : 1 = false;    // ... and not shown
  base::RefPtr<memory::Mappable> object;  // null: private anonymous
  base::RefPtr<MappedFile> file;
  uint64_t offset = 0;  // of the start, in the object
  const char* name = nullptr;
  uint64_t next_window = 0;  // where a sequential toucher would fault next (a hint; faults race on it harmlessly)
  uint32_t cow_window = 0;   // size of the last copy

  bool may_write_shared() const { return object && sharing == Sharing::kShared && max_prot.write; }
  bool is_anonymous() const { return !object; }
  // May the two be one VMA, b right behind a?
  static bool can_merge(uint64_t a_start, const Vma& a, uint64_t b_start, const Vma& b) {
    if (a.end != b_start || !(a.prot == b.prot) || !(a.max_prot == b.max_prot) || a.sharing != b.sharing) return false;
    if (a.grows_down || b.grows_down || a.stack != b.stack || a.locked != b.locked || a.lock_on_fault != b.lock_on_fault ||
        a.no_reserve != b.no_reserve || a.dont_fork != b.dont_fork || a.wipe_on_fork != b.wipe_on_fork ||
        a.dont_dump != b.dont_dump || a.accounted != b.accounted || a.special || b.special)
      return false;
    if (a.object != b.object || a.file != b.file || a.name != b.name) return false;
    return !a.object || a.offset + (a.end - a_start) == b.offset;
  }
};

using VmaMap = std::map<uint64_t, Vma>;  // by start

}  // namespace sentry::mm
