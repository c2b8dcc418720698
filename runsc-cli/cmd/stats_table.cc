// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/cmd/stats_table.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "base/json/reader.h"
#include "runsc-cli/container/client.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::Json;

namespace {

constexpr size_t kMostCalls = 20, kMostMessages = 6, kMostSites = 6;
constexpr size_t kMostBytes = 8 << 20;

// Members that are missing or of another type count as nothing.
const Json& member(const Json& object, const char* key) {
  static const Json nothing = Json::object();
  auto it = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && it != object.end() ? *it : nothing;
}
uint64_t number(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_number_unsigned() || (value.is_number_integer() && value.get<int64_t>() >= 0) ? value.get<uint64_t>() : 0;
}
std::string text(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : "";
}

std::string duration(uint64_t ns) {
  const double v = static_cast<double>(ns);
  if (ns < 1'000) return fmt::format("{} ns", ns);
  if (ns < 1'000'000) return fmt::format("{:.{}f} us", v / 1e3, ns < 100'000 ? 1 : 0);
  if (ns < 1'000'000'000) return fmt::format("{:.{}f} ms", v / 1e6, ns < 100'000'000 ? 1 : 0);
  return fmt::format("{:.2f} s", v / 1e9);
}

std::string percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? "0 %" : fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

// "name 1, other 2": the members that are not zero, largest first.
std::string enumerate(const Json& object) {
  std::vector<std::pair<uint64_t, std::string>> all;
  if (object.is_object())
    for (auto it = object.begin(); it != object.end(); ++it)
      if (uint64_t n = number(object, it.key().c_str()); n != 0) all.emplace_back(n, it.key());
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string out;
  for (auto& [n, name] : all) {
    std::replace(name.begin(), name.end(), '_', ' ');
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", name, n);
  }
  return out.empty() ? "none" : out;
}

uint64_t sum(const Json& object) {
  uint64_t total = 0;
  if (object.is_object())
    for (auto it = object.begin(); it != object.end(); ++it) total += number(object, it.key().c_str());
  return total;
}

std::string summary(const Json& r) {
  const Json &calls = member(r, "calls"), &time = member(r, "time"), &hand = member(r, "hand_offs");
  const uint64_t in_place = number(calls, "in_place"), patched = number(calls, "patched"), trapped = number(calls, "trapped");
  const uint64_t trapped_all = trapped + number(calls, "in_place_trapped"), all = in_place + patched + trapped;
  const uint64_t guest = number(time, "guest_ns"), off = number(time, "hand_off_ns"), sentry = number(time, "sentry_ns"),
                 parked = number(time, "parked_ns"), lived = guest + off + sentry + parked;
  const uint64_t events = number(hand, "events");
  std::string out;
  out += fmt::format("calls      {}: in place {} ({}), patched {} ({}), trapped {} ({})\n", all, in_place, percent(in_place, all), patched,
                     percent(patched, all), trapped_all, percent(trapped_all, all));
  if (in_place != 0) out += fmt::format("in place   {}\n", enumerate(member(calls, "in_place_by_call")));
  out += fmt::format("time       of all threads {}: in the guest {} ({}), handing off {} ({}), in the sentry {} ({}), parked {} ({})\n",
                     duration(lived), duration(guest), percent(guest, lived), duration(off), percent(off, lived), duration(sentry),
                     percent(sentry, lived), duration(parked), percent(parked, lived));
  out += fmt::format("hand-offs  {}: found by looking {}; the guest slept {}; executors slept {}, were woken {}; lookers recruited {}, "
                     "disturbed {}; kicks {}; interrupts {}\n",
                     events, percent(number(hand, "found_looking"), events), percent(number(hand, "guest_slept"), events),
                     number(hand, "executor_slept"), number(hand, "executor_woken"), number(hand, "lookers_recruited"),
                     number(hand, "looks_disturbed"), number(hand, "kicks"), number(hand, "interrupts"));
  for (const char* group : {"faults", "mappings", "tasks", "host"})
    out += group == std::string_view("faults") ? fmt::format("{:<10} {}: {}\n", group, sum(member(r, group)), enumerate(member(r, group)))
                                               : fmt::format("{:<10} {}\n", group, enumerate(member(r, group)));
  return out;
}

// The rows with the longest total time first.
std::string timed_table(const char* title, const Json& list, size_t most, bool with_parked) {
  if (!list.is_array() || list.empty()) return "";
  std::vector<const Json*> rows;
  for (const Json& row : list) rows.push_back(&row);
  const auto weight = [](const Json* row) { return number(*row, "total_ns") + number(*row, "parked_ns"); };
  std::sort(rows.begin(), rows.end(), [&](const Json* a, const Json* b) {
    const uint64_t x = number(*a, "total_ns"), y = number(*b, "total_ns");
    return x != y ? x > y : weight(a) > weight(b);
  });
  std::string out = fmt::format("\n{:<22} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}{}\n", title, "COUNT", "TOTAL", "MEAN", "P50 <", "P99 <",
                                "MAX", with_parked ? "     PARKED" : "");
  uint64_t rest = 0, rest_ns = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Json& row = *rows[i];
    const uint64_t count = number(row, "count"), total = number(row, "total_ns");
    if (i >= most) {
      rest += count;
      rest_ns += total;
      continue;
    }
    out += fmt::format("{:<22} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}{}\n", text(row, "name").substr(0, 22), count, duration(total),
                       duration(count ? total / count : 0), duration(number(row, "p50_ns")), duration(number(row, "p99_ns")),
                       duration(number(row, "max_ns")), with_parked ? fmt::format(" {:>10}", duration(number(row, "parked_ns"))) : "");
  }
  if (rows.size() > most) out += fmt::format("{:<22} {:>10} {:>10}\n", fmt::format("{} others", rows.size() - most), rest, duration(rest_ns));
  return out;
}

std::string sites_table(const Json& list) {
  if (!list.is_array() || list.empty()) return "";
  std::string out;
  for (size_t i = 0; i < list.size() && i < kMostSites; ++i) {
    const Json& site = list[i];
    // A single trap is the price of patching.
    if (number(site, "count") < 2) break;
    if (i == 0) out += fmt::format("\n{:<10} {:<28} {}\n", "TRAPS AT", "OUTCOME", "CALL SITE  BEFORE | AFTER");
    out += fmt::format("{:<10} {:<28} {}+{:#x}  {} | {}\n", number(site, "count"), text(site, "outcome"), text(site, "file"),
                       number(site, "offset"), text(site, "before"), text(site, "after"));
  }
  return out;
}

}  // namespace

HostResult<std::string> stats_table(std::string_view stats_json) {
  Json json = TRY(base::parse_json(stats_json));
  const Json& r = member(json, "runsc");
  Json handled = Json::array();
  for (const char* key : {"syscalls", "events"})
    if (const Json& list = member(r, key); list.is_array()) handled.insert(handled.end(), list.begin(), list.end());
  return summary(r) + timed_table("ANSWERED BY THE SENTRY", handled, kMostCalls, true) +
         timed_table("GOFER MESSAGES", member(r, "gofer_messages"), kMostMessages, false) + sites_table(member(r, "trapping_sites"));
}

std::string stats_event(std::string_view id, std::string_view stats_json) {
  return fmt::format("{{\"type\":\"stats\",\"id\":{},\"data\":{}}}\n", json_quoted(id), stats_json);
}

HostResult<StatsOutput> StatsOutput::create(const std::string& target) {
  StatsOutput output;
  if (target.empty()) return output;
  output.table_ = target == "-";
  output.files_ = TRY(open_report(output.table_ ? "" : target, "--stats"));
  return output;
}

HostResult<void> StatsOutput::write(std::string_view id) const {
  if (!files_.sink) return {};
  std::string stats_json;
  char part[16384];
  for (ssize_t n; (n = pread(files_.sink.get(), part, sizeof part, static_cast<off_t>(stats_json.size()))) > 0 && stats_json.size() < kMostBytes;)
    stats_json.append(part, static_cast<size_t>(n));
  if (stats_json.empty()) return HostErr(HostError::plain("--stats: the sandbox was killed before it could tell"));
  if (table_) return write_all(2, TRY(stats_table(stats_json)), "--stats");
  return write_all(files_.file.get(), stats_event(id, stats_json), "--stats");
}

}  // namespace cli
