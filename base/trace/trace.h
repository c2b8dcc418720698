// SPDX-License-Identifier: Apache-2.0
// What happened when: the events of a timeline, kept while somebody wants one. Off, it costs a branch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace base::trace {

enum class Kind : uint8_t {
  kGuest,     // a guest thread ran
  kAnswer,    // the sentry answered what it had asked or done; `what` as in base::stats::Timed
  kGofer,     // a message to the gofer and its reply; `what` likewise
  kApproval,  // the supervisor decided about a host call of a stub; `what` is the call's number, `tid` the host's
};

struct Event {
  uint64_t start = 0, end = 0;  // ticks of the time-stamp counter
  uint64_t parked = 0;          // of these, how many the task waited
  int32_t pid = 0, tid = 0;     // as the guest's own namespace has them
  uint16_t what = 0;
  Kind kind = Kind::kGuest;
  char name[16] = {};           // of the thread
};

namespace internal {
extern std::atomic<bool> on;
}

inline bool is_on() { return internal::on.load(std::memory_order_relaxed); }
// Starts afresh. At most `most` events are kept, the first ones. Any thread.
void start(size_t most);
// Ends it; what was kept, in the order in which things ended, and how many events there was no room for.
struct Timeline {
  std::vector<Event> events;
  uint64_t dropped = 0;
};
Timeline stop();
// Takes a leaf lock. Without effect when nobody wants it.
void add(const Event& event);

}  // namespace base::trace
