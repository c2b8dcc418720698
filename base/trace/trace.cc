// SPDX-License-Identifier: Apache-2.0
#include "base/trace/trace.h"

#include <utility>

#include "base/sync/mutex.h"

namespace base::trace {

namespace internal {
std::atomic<bool> on{false};
}

namespace {

struct State {
  Timeline timeline;
  size_t most = 0;
};

Guarded<State>& state() {
  static Guarded<State> s{LockRank::kLeaf};
  return s;
}

}  // namespace

void start(size_t most) {
  state().with([&](State& s) {
    s = {};
    s.most = most;
  });
  internal::on.store(true, std::memory_order_relaxed);
}

Timeline stop() {
  internal::on.store(false, std::memory_order_relaxed);
  return state().with([](State& s) { return std::exchange(s, State{}).timeline; });
}

void add(const Event& event) {
  state().with([&](State& s) {
    if (s.timeline.events.size() < s.most) s.timeline.events.push_back(event);
    else if (s.most != 0) ++s.timeline.dropped;
  });
}

}  // namespace base::trace
