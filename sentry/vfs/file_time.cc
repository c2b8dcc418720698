// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/file_time.h"

#include <ctime>

#include "sentry/vfs/changes.h"

namespace sentry::vfs {

namespace in_place = platform::in_place;

int64_t exact_time(OpContext& ctx) {
  const int64_t now = ctx.now_realtime();
  set_last_exact_time(static_cast<uint64_t>(now));
  return now;
}

int64_t write_time() {
  timespec tick;
  clock_gettime(CLOCK_REALTIME_COARSE, &tick);
  const auto ns = static_cast<uint64_t>(tick.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(tick.tv_nsec);
  return static_cast<int64_t>(in_place::write_time(ns, change_count(in_place::kLastExactTime)));
}

}  // namespace sentry::vfs
