// SPDX-License-Identifier: Apache-2.0
// A set of addresses as disjoint, merged intervals: what is mapped in a stub process.
#pragma once

#include <cstdint>
#include <map>

#include "abi/types/types.h"

namespace platform {

class IntervalSet {
 public:
  void insert(abi::AddrRange range);
  void erase(abi::AddrRange range);
  void clear() { intervals_.clear(); }
  bool empty() const { return intervals_.empty(); }
  size_t size() const { return intervals_.size(); }
  // Calls f(AddrRange) for each part of `range` that is in the set, in order. f must not change the set.
  template <typename F>
  void for_each_in(abi::AddrRange range, F&& f) const {
    auto it = intervals_.upper_bound(range.start.value());
    if (it != intervals_.begin()) --it;
    for (; it != intervals_.end() && it->first < range.end.value(); ++it) {
      abi::AddrRange part = range.intersect({abi::Addr(it->first), abi::Addr(it->second)});
      if (!part.empty()) f(part);
    }
  }

 private:
  std::map<uint64_t, uint64_t> intervals_;  // start -> end
};

}  // namespace platform
