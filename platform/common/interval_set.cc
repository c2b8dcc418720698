// SPDX-License-Identifier: Apache-2.0
#include "platform/common/interval_set.h"

#include <algorithm>

namespace platform {

void IntervalSet::insert(abi::AddrRange range) {
  if (range.empty()) return;
  uint64_t start = range.start.value(), end = range.end.value();
  auto it = intervals_.upper_bound(start);
  if (it != intervals_.begin() && std::prev(it)->second >= start) --it;
  while (it != intervals_.end() && it->first <= end) {
    start = std::min(start, it->first);
    end = std::max(end, it->second);
    it = intervals_.erase(it);
  }
  intervals_.emplace_hint(it, start, end);
}

void IntervalSet::erase(abi::AddrRange range) {
  if (range.empty()) return;
  uint64_t start = range.start.value(), end = range.end.value();
  auto it = intervals_.upper_bound(start);
  if (it != intervals_.begin() && std::prev(it)->second > start) --it;
  while (it != intervals_.end() && it->first < end) {
    auto [from, to] = *it;
    it = intervals_.erase(it);
    if (from < start) intervals_.emplace_hint(it, from, start);
    if (to > end) it = intervals_.emplace_hint(it, end, to);
  }
}

}  // namespace platform
