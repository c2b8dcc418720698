// SPDX-License-Identifier: Apache-2.0
// /proc/PID/{limits,cgroup,oom_*,uid_map,gid_map,setgroups,loginuid,io,...}.
#include <charconv>

#include "sentry/fs/proc/proc_internal.h"
#include "sentry/vfs/changes.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

struct LimitRow {
  const char* name;
  const char* unit;
};
constexpr LimitRow kLimits[] = {
    {"Max cpu time", "seconds"},     {"Max file size", "bytes"},       {"Max data size", "bytes"},
    {"Max stack size", "bytes"},     {"Max core file size", "bytes"},  {"Max resident set", "bytes"},
    {"Max processes", "processes"},  {"Max open files", "files"},      {"Max locked memory", "bytes"},
    {"Max address space", "bytes"},  {"Max file locks", "locks"},      {"Max pending signals", "signals"},
    {"Max msgqueue size", "bytes"},  {"Max nice priority", ""},        {"Max realtime priority", ""},
    {"Max realtime timeout", "us"},
};

Result<void> render_limits(const PidFileArgs& a, TextBuffer& out) {
  const creds::LimitSet limits = a.task.thread_group().limits();
  out.print("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
  auto text = [](uint64_t v) { return v == creds::kInfinity ? std::string("unlimited") : std::to_string(v); };
  for (size_t i = 0; i < std::size(kLimits); ++i) {
    const creds::Limit& l = limits.limits[i];
    out.print("{:<25} {:<20} {:<20} {:<10}\n", kLimits[i].name, text(l.soft), text(l.hard), kLimits[i].unit);
  }
  return {};
}

Result<void> render_cgroup(const PidFileArgs&, TextBuffer& out) {
  out.append("0::/\n");
  return {};
}

Result<void> render_oom_score(const PidFileArgs& a, TextBuffer& out) {
  const int32_t adj = a.task.thread_group().oom_score_adj.load(std::memory_order_relaxed);
  uint64_t rss = 0;
  if (RefPtr<mm::MemoryManager> mm = a.task.mm_ref()) rss = mm->stats().rss;
  const uint64_t total = std::max<uint64_t>(1, a.task.kernel().config().memory_limit != 0
                                                   ? a.task.kernel().config().memory_limit
                                                   : uint64_t{16} << 30);
  const int64_t points = static_cast<int64_t>(rss * 1000 / total) + adj;
  out.print("{}\n", adj == -1000 ? 0 : std::max<int64_t>(0, (1000 + points) * 2 / 3));
  return {};
}

Result<void> render_oom_score_adj(const PidFileArgs& a, TextBuffer& out) {
  out.print("{}\n", a.task.thread_group().oom_score_adj.load(std::memory_order_relaxed));
  return {};
}

Result<void> set_oom(const PidFileArgs& a, int64_t value) {
  std::atomic<int32_t>& adj = a.task.thread_group().oom_score_adj;
  if (value < adj.load() && !a.ctx.creds().has_cap(creds::Cap::kSYS_RESOURCE)) return err(kEACCES);
  adj.store(static_cast<int32_t>(value));
  return {};
}

Result<void> store_oom_score_adj(const PidFileArgs& a, std::string_view text) {
  const int64_t value = TRY(parse_integer(text));
  if (value < -1000 || value > 1000) return err(kEINVAL);
  return set_oom(a, value);
}

Result<void> render_oom_adj(const PidFileArgs& a, TextBuffer& out) {
  const int32_t adj = a.task.thread_group().oom_score_adj.load(std::memory_order_relaxed);
  out.print("{}\n", adj == 1000 ? 15 : adj * 17 / 1000);
  return {};
}

Result<void> store_oom_adj(const PidFileArgs& a, std::string_view text) {
  const int64_t value = TRY(parse_integer(text));
  if (value < -17 || value > 15) return err(kEINVAL);
  return set_oom(a, value == 15 ? 1000 : value * 1000 / 17);
}

void render_id_map(const std::vector<creds::IdMapEntry>& map, TextBuffer& out) {
  for (const creds::IdMapEntry& e : map) out.print("{:10} {:10} {:10}\n", e.first, e.parent_first, e.count);
}
Result<void> render_uid_map(const PidFileArgs& a, TextBuffer& out) {
  render_id_map(a.task.credentials()->user_ns->uid_map(), out);
  return {};
}
Result<void> render_gid_map(const PidFileArgs& a, TextBuffer& out) {
  render_id_map(a.task.credentials()->user_ns->gid_map(), out);
  return {};
}

// At most 340 lines of three numbers, the first and third of which are not empty: map_write().
Result<std::vector<creds::IdMapEntry>> parse_id_map(std::string_view text) {
  std::vector<creds::IdMapEntry> map;
  while (!text.empty()) {
    const size_t eol = text.find('\n');
    std::string_view line = trim(text.substr(0, eol));
    text = eol == std::string_view::npos ? std::string_view{} : text.substr(eol + 1);
    if (line.empty()) {
      if (text.empty()) break;
      return err(kEINVAL);
    }
    uint32_t v[3];
    const char* p = line.data();
    const char* end = p + line.size();
    for (uint32_t& n : v) {
      while (p != end && (*p == ' ' || *p == '\t')) ++p;
      auto [next, ec] = std::from_chars(p, end, n);
      if (ec != std::errc{}) return err(kEINVAL);
      p = next;
    }
    if (p != end || v[2] == 0 || v[0] + v[2] < v[0] || v[1] + v[2] < v[1]) return err(kEINVAL);
    for (const creds::IdMapEntry& e : map)
      if ((v[0] < e.first + e.count && e.first < v[0] + v[2]) || (v[1] < e.parent_first + e.count && e.parent_first < v[1] + v[2]))
        return err(kEINVAL);
    if (map.size() == 340) return err(kEINVAL);
    map.push_back({v[0], v[1], v[2]});
  }
  if (map.empty()) return err(kEINVAL);
  return map;
}

// new_idmap_permitted(): a privileged writer in the parent namespace, or the owner mapping just itself.
Result<void> check_map_writer(const PidFileArgs& a, const creds::UserNamespace& ns, const std::vector<creds::IdMapEntry>& map,
                              bool is_gid) {
  creds::UserNamespace* parent = ns.parent();
  if (!parent) return err(kEPERM);
  const creds::Credentials& me = a.ctx.creds();
  if (me.user_ns.get() != &ns && me.user_ns.get() != parent) return err(kEPERM);
  if (!me.has_cap_in(creds::Cap::kSYS_ADMIN, ns)) return err(kEPERM);
  if (me.has_cap_in(is_gid ? creds::Cap::kSETGID : creds::Cap::kSETUID, *parent)) return {};
  if (map.size() != 1 || map[0].count != 1 || ns.owner() != me.euid) return err(kEPERM);
  if (is_gid) {
    if (ns.setgroups_allowed()) return err(kEPERM);
    const std::optional<abi::KGid> id = parent->map_gid(abi::Gid(map[0].parent_first));
    return id && *id == me.egid ? Result<void>{} : err(kEPERM);
  }
  const std::optional<abi::KUid> id = parent->map_uid(abi::Uid(map[0].parent_first));
  return id && *id == me.euid ? Result<void>{} : err(kEPERM);
}

Result<void> store_uid_map(const PidFileArgs& a, std::string_view text) {
  std::vector<creds::IdMapEntry> map = TRY(parse_id_map(text));
  RefPtr<creds::UserNamespace> ns = a.task.credentials()->user_ns;
  TRY(check_map_writer(a, *ns, map, false));
  vfs::ChangeScope change(vfs::kChangedPaths);  // what stat(2) says of owners
  return ns->set_uid_map(std::move(map));
}
Result<void> store_gid_map(const PidFileArgs& a, std::string_view text) {
  std::vector<creds::IdMapEntry> map = TRY(parse_id_map(text));
  RefPtr<creds::UserNamespace> ns = a.task.credentials()->user_ns;
  TRY(check_map_writer(a, *ns, map, true));
  vfs::ChangeScope change(vfs::kChangedPaths);
  return ns->set_gid_map(std::move(map));
}

Result<void> render_setgroups(const PidFileArgs& a, TextBuffer& out) {
  out.append(a.task.credentials()->user_ns->setgroups_allowed() ? "allow\n" : "deny\n");
  return {};
}
Result<void> store_setgroups(const PidFileArgs& a, std::string_view text) {
  RefPtr<creds::UserNamespace> ns = a.task.credentials()->user_ns;
  if (!a.ctx.creds().has_cap_in(creds::Cap::kSYS_ADMIN, *ns)) return err(kEPERM);
  text = trim(text);
  if (text == "deny") return ns->deny_setgroups();
  if (text != "allow") return err(kEINVAL);
  return ns->setgroups_allowed() ? Result<void>{} : err(kEPERM);
}

Result<void> render_unset_id(const PidFileArgs&, TextBuffer& out) {
  out.append("4294967295");
  return {};
}

// Byte counts are not kept.
Result<void> render_io(const PidFileArgs&, TextBuffer& out) {
  for (const char* name : {"rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"})
    out.print("{}: 0\n", name);
  return {};
}

Result<void> render_coredump_filter(const PidFileArgs&, TextBuffer& out) {
  out.append("00000033\n");
  return {};
}

constexpr PidFileRow kRows[] = {
    {.name = "limits", .mode = 0444, .render = render_limits},
    {.name = "cgroup", .mode = 0444, .render = render_cgroup},
    {.name = "oom_score", .mode = 0444, .render = render_oom_score},
    {.name = "oom_score_adj", .mode = 0644, .render = render_oom_score_adj, .store = store_oom_score_adj},
    {.name = "oom_adj", .mode = 0644, .render = render_oom_adj, .store = store_oom_adj},
    {.name = "uid_map", .mode = 0644, .render = render_uid_map, .store = store_uid_map},
    {.name = "gid_map", .mode = 0644, .render = render_gid_map, .store = store_gid_map},
    {.name = "setgroups", .mode = 0644, .render = render_setgroups, .store = store_setgroups, .process_only = true},
    {.name = "loginuid", .mode = 0444, .render = render_unset_id},
    {.name = "sessionid", .mode = 0444, .render = render_unset_id},
    {.name = "io", .mode = 0400, .render = render_io, .guarded = Guarded::kYes},
    {.name = "coredump_filter", .mode = 0444, .render = render_coredump_filter, .process_only = true},
};

}  // namespace

std::span<const PidFileRow> pid_attribute_files() { return kRows; }

}  // namespace sentry::fs
