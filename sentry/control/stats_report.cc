// SPDX-License-Identifier: Apache-2.0
#include "sentry/control/stats_report.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/stats/stats.h"
#include "gofer/proto/codec.h"
#include "sentry/mm/trap_sites.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::control {

namespace {

using Json = nlohmann::json;
using base::stats::Counter;
using base::stats::Histogram;
using base::stats::Snapshot;
using base::stats::Timed;

constexpr size_t kMostSites = 32;

int64_t ns(uint64_t ticks) { return kernel::ticks_to_ns(ticks); }

std::string call_name(uint64_t number) {
  const char* name = syscalls::syscall_name(number);
  return name ? name : fmt::format("call_{}", number);
}

}  // namespace

std::string timed_name(Timed what) {
  if (what < base::stats::kTimedCallsEnd) return call_name(what);
  if (what >= base::stats::kTimedGofer) return gofer::op_name(static_cast<uint16_t>(what - base::stats::kTimedGofer));
  return what == base::stats::kTimedFault ? "page fault" : what == base::stats::kTimedException ? "exception" : "interrupt";
}

namespace {

// Ticks below which `share` of the durations are, as exactly as the buckets tell.
uint64_t percentile(const Histogram& h, double share) {
  const auto wanted = static_cast<uint64_t>(share * static_cast<double>(h.count));
  uint64_t seen = 0;
  for (size_t i = 0; i + 1 < base::stats::kBuckets; ++i) {
    seen += h.buckets[i];
    if (seen > wanted) return std::min(h.max, uint64_t{1} << (i + base::stats::kFirstBucket));
  }
  return h.max;
}

Json timed_json(const Snapshot::Entry& entry) {
  const Histogram& h = entry.histogram;
  return {{"name", timed_name(entry.what)},
          {"count", h.count},
          {"total_ns", ns(h.ticks)},
          {"parked_ns", ns(h.parked)},
          {"p50_ns", ns(percentile(h, 0.5))},
          {"p99_ns", ns(percentile(h, 0.99))},
          {"max_ns", ns(h.max)},
          {"histogram", h.buckets}};
}

Json sites_json() {
  Json list = Json::array();
  uint64_t others = 0;
  for (const mm::TrapSite& site : mm::TrapSites::all().list(kMostSites, others)) {
    std::string before, after;
    for (size_t i = 0; i < size_t{site.before} + site.after; ++i) (i < site.before ? before : after) += fmt::format("{:02x}", site.text[i]);
    list.push_back({{"file", site.file},
                    {"offset", site.offset},
                    {"count", site.count},
                    {"outcome", mm::patch_outcome_name(site.outcome)},
                    {"before", before},
                    {"after", after}});
  }
  return list;
}

// The groups of counters.def, and what takes more than adding up.
Json runsc_json(kernel::Kernel& kernel) {
  const Snapshot now = base::stats::snapshot();
  const platform::Platform::Claims claims = kernel.platform().claims();
  Json out = Json::object();
  for (size_t i = 0; i < base::stats::kCounters; ++i) {
    const base::stats::CounterName name = base::stats::counter_name(static_cast<Counter>(i));
    out[name.group][name.name] = now.counters[i];
  }
  uint64_t in_place = 0, sentry_ticks = 0, parked_ticks = 0;
  Json by_call = Json::object();
  for (const auto& claim : claims.in_place) {
    in_place += claim.count;
    by_call[claim.number != platform::Platform::Claims::kOtherCalls ? call_name(claim.number) : "other"] = claim.count;
  }
  Json& calls = out["calls"];
  calls["in_place"] = in_place;
  calls["in_place_trapped"] = claims.in_place_trapped;
  calls["in_place_by_call"] = std::move(by_call);
  out["hand_offs"]["guest_slept"] = claims.slept;
  Json syscalls = Json::array(), events = Json::array(), messages = Json::array(), bounds = Json::array();
  for (const Snapshot::Entry& entry : now.timed) {
    const bool of_gofer = entry.what >= base::stats::kTimedGofer;
    if (!of_gofer) {
      sentry_ticks += entry.histogram.ticks;
      parked_ticks += entry.histogram.parked;
    }
    (of_gofer ? messages : entry.what < base::stats::kTimedCallsEnd ? syscalls : events).push_back(timed_json(entry));
  }
  for (size_t i = 0; i + 1 < base::stats::kBuckets; ++i) bounds.push_back(ns(uint64_t{1} << (i + base::stats::kFirstBucket)));
  out["time"] = {{"guest_ns", ns(now.get(Counter::kTicksGuest))},
                 {"hand_off_ns", ns(now.get(Counter::kTicksHandOff))},
                 {"sentry_ns", ns(sentry_ticks)},
                 {"parked_ns", ns(parked_ticks)}};
  out["syscalls"] = std::move(syscalls);
  out["events"] = std::move(events);
  out["gofer_messages"] = std::move(messages);
  out["histogram_upper_ns"] = std::move(bounds);
  out["trapping_sites"] = sites_json();
  return out;
}

}  // namespace

// The members beside "runsc" have the names and units of runc's events.
Json stats_report(kernel::Kernel& kernel, const kernel::Container& container, int64_t started_ns) {
  const memory::MemoryFile::Usage memory = kernel.memory().usage();
  const kernel::ResourceUse use = kernel.use_of(container);
  size_t threads = 0;
  for (const auto& process : kernel.processes(container)) threads += process.threads;
  Json runsc = runsc_json(kernel);
  runsc["age_ns"] = kernel::monotonic_now_ns() - started_ns;
  return {{"cpu", {{"usage", {{"total", use.user_ns + use.system_ns}, {"user", use.user_ns}, {"kernel", use.system_ns}}}}},
          {"memory",
           {{"cache", memory.page_cache},
            {"usage", {{"usage", memory.total()}, {"limit", kernel.total_memory()}}},
            {"raw", {{"anonymous", memory.anonymous}, {"page_cache", memory.page_cache}, {"tmpfs", memory.tmpfs}, {"kernel", memory.kernel}}}}},
          {"pids", {{"current", threads}}},
          {"runsc", std::move(runsc)}};
}

}  // namespace sentry::control
