// SPDX-License-Identifier: Apache-2.0
// Call sites whose system calls trapped, for `runsc debug --stats`: which code keeps paying for signals, and why.
// Only touched by trapped calls, which cost microseconds anyway.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/sync/mutex.h"

namespace sentry::mm {

// What became of a site when it trapped last.
enum class PatchOutcome : uint8_t {
  kPatched,      // the next call there does not trap
  kNoPattern,    // no sequence that can be rewritten
  kNotReadOnly,  // the text is writable or shared, or not text at all
  kAcrossPages,  // the instruction or what would be rewritten does not lie on one page
  kNotPlaced,    // text at an address that trampolines do not fit
};
const char* patch_outcome_name(PatchOutcome outcome);

struct TrapSite {
  std::string file;     // or "anonymous"
  uint64_t offset = 0;  // of the instruction after the call: in the file, or the address
  uint64_t count = 0;
  PatchOutcome outcome = PatchOutcome::kNoPattern;
  // Text around it, for whoever teaches the patcher a new sequence.
  static constexpr size_t kBefore = 16, kAfter = 16;
  uint8_t text[kBefore + kAfter] = {};
  uint8_t before = 0, after = 0;  // how many of them are known
};

class TrapSites {
 public:
  // Of all address spaces, those of processes that have ended too.
  static TrapSites& all();

  // True when the site is known: counted, nothing else to do. Sites are told apart by `where` (object or address space; never dereferenced)
  // and offset: where a dead one's place in memory is used again, the two are counted as one.
  bool count(const void* where, uint64_t offset, PatchOutcome outcome);
  void add(const void* where, TrapSite site);
  // The most frequent first; `others` counts traps of sites for which there was no room.
  std::vector<TrapSite> list(size_t most, uint64_t& others) const;

 private:
  static constexpr size_t kMostSites = 1024;
  struct Key {
    const void* where;
    uint64_t offset;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key& k) const { return std::hash<const void*>()(k.where) ^ std::hash<uint64_t>()(k.offset * 0x9e3779b97f4a7c15); }
  };
  mutable base::Mutex mu_{base::LockRank::kLeaf};
  std::unordered_map<Key, TrapSite, Hash> sites_ GUARDED_BY(mu_);
  uint64_t others_ GUARDED_BY(mu_) = 0;
};

}  // namespace sentry::mm
