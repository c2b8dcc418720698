// SPDX-License-Identifier: Apache-2.0
#include "sentry/control/trace_report.h"

#include <algorithm>
#include <map>
#include <string_view>

#include <fmt/format.h>

#include "sentry/control/stats_report.h"

namespace sentry::control {

namespace {

using base::trace::Event;
using base::trace::Kind;

// Tracks that are no guest process.
constexpr int kGoferTrack = 1'000'001, kSupervisorTrack = 1'000'002;

// Names come from the guest.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out += '\\';
    if (u < 0x20 || u >= 0x7f) out += fmt::format("\\u{:04x}", u);
    else out += c;
  }
  return out + '"';
}

std::string_view name_of(const Event& e) { return {e.name, strnlen(e.name, sizeof e.name)}; }

}  // namespace

std::string trace_report(const base::trace::Timeline& timeline) {
  uint64_t zero = ~uint64_t{0};
  for (const Event& e : timeline.events) zero = std::min(zero, e.start);
  // One rate for all, so that what touches in time touches in the text.
  constexpr uint64_t kMany = uint64_t{1} << 34;
  const double rate = static_cast<double>(kernel::ticks_to_ns(kMany)) / kMany / 1000;
  const auto micros = [&](uint64_t ticks) { return static_cast<double>(ticks) * rate; };
  std::string out = "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"dropped\":" + std::to_string(timeline.dropped) + "},\"traceEvents\":[\n";
  const auto metadata = [&](const char* what, int pid, int tid, std::string_view name) {
    out += fmt::format("{{\"ph\":\"M\",\"name\":\"{}\",\"pid\":{},\"tid\":{},\"args\":{{\"name\":{}}}}},\n", what, pid, tid, quoted(name));
  };
  // What a thread and its process are called last.
  std::map<std::pair<int, int>, std::string_view> threads;
  for (const Event& e : timeline.events)
    if (e.kind == Kind::kGuest || e.kind == Kind::kAnswer) threads[{e.pid, e.tid}] = name_of(e);
  for (auto& [ids, name] : threads) {
    metadata("thread_name", ids.first, ids.second, name);
    if (ids.first == ids.second) metadata("process_name", ids.first, ids.second, name);
  }
  metadata("process_name", kGoferTrack, kGoferTrack, "gofer messages");
  metadata("process_name", kSupervisorTrack, kSupervisorTrack, "approvals of mappings");
  size_t number = 0;
  for (const Event& e : timeline.events) {
    const double at = micros(e.start - zero), took = micros(e.end > e.start ? e.end - e.start : 0);
    switch (e.kind) {
      case Kind::kGuest:
        out += fmt::format("{{\"ph\":\"X\",\"name\":\"guest\",\"pid\":{},\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f}}},\n", e.pid, e.tid, at, took);
        break;
      case Kind::kAnswer:
        out += fmt::format("{{\"ph\":\"X\",\"name\":{},\"pid\":{},\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f},\"args\":{{\"parked_us\":{:.3f}}}}},\n",
                           quoted(timed_name(e.what)), e.pid, e.tid, at, took, micros(e.parked));
        break;
      case Kind::kGofer:  // several may be under way at once
        for (const char* phase : {"b", "e"})
          out += fmt::format("{{\"ph\":\"{}\",\"cat\":\"gofer\",\"id\":{},\"name\":{},\"pid\":{},\"tid\":{},\"ts\":{:.3f}}},\n", phase, number,
                             quoted(timed_name(e.what)), kGoferTrack, kGoferTrack, *phase == 'b' ? at : at + took);
        break;
      case Kind::kApproval:
        out += fmt::format("{{\"ph\":\"X\",\"name\":{},\"pid\":{},\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f},\"args\":{{\"host_tid\":{}}}}},\n",
                           quoted(timed_name(e.what)), kSupervisorTrack, kSupervisorTrack, at, took, e.tid);
        break;
    }
    ++number;
  }
  out.resize(out.size() - 2);  // the last comma; there are names at least
  return out + "\n]}\n";
}

}  // namespace sentry::control
