// SPDX-License-Identifier: Apache-2.0
// /proc/PID/{mounts,mountinfo,mountstats}: fs/proc_namespace.c.
#include "sentry/fs/proc/proc_internal.h"

namespace sentry::fs {

using base::RefPtr;
using base::Result;

namespace {

constexpr std::string_view kSpecial = " \t\n\\#";

struct View {
  RefPtr<kernel::Namespaces> namespaces;
  vfs::Path root;
};

std::optional<View> view_of(const PidFileArgs& a) {
  RefPtr<kernel::Namespaces> ns = a.task.namespaces();
  RefPtr<kernel::FsContext> fs = a.task.fs_ref();
  if (!ns || !ns->mounts || !fs) return std::nullopt;
  return View{std::move(ns), fs->root()};
}

std::string mount_options(uint64_t flags) {
  std::string text = flags & vfs::kMsRdOnly ? "ro" : "rw";
  struct Flag {
    uint64_t bit;
    const char* text;
  };
  constexpr Flag kFlags[] = {
      {vfs::kMsNoSuid, ",nosuid"},   {vfs::kMsNoDev, ",nodev"},           {vfs::kMsNoExec, ",noexec"},
      {vfs::kMsNoAtime, ",noatime"}, {vfs::kMsNoDirAtime, ",nodiratime"}, {vfs::kMsNoSymFollow, ",nosymfollow"},
  };
  for (const Flag& f : kFlags)
    if (flags & f.bit) text += f.text;
  if ((flags & (vfs::kMsNoAtime | vfs::kMsStrictAtime)) == 0) text += ",relatime";
  return text;
}

std::string super_options(const vfs::Mount& m) {
  std::string text = m.fs().mount_options();
  return text.empty() ? text : "," + text;
}

std::string_view source_of(const vfs::Mount& m) { return m.source().empty() ? std::string_view("none") : m.source(); }

Result<void> render_mounts_file(const PidFileArgs& a, TextBuffer& out) {
  if (std::optional<View> v = view_of(a)) render_mounts(*v->namespaces->mounts, v->root, out);
  return {};
}

Result<void> render_mountinfo(const PidFileArgs& a, TextBuffer& out) {
  std::optional<View> v = view_of(a);
  if (!v) return {};
  for (const vfs::MountNamespace::Entry& e : v->namespaces->mounts->list(v->root)) {
    const vfs::Mount& m = *e.mount;
    const abi::DeviceId device = m.fs().device();
    out.print("{} {} {}:{} ", m.id(), e.parent_id, device.major, device.minor);
    out.append_escaped(e.root, kSpecial);
    out.append(' ');
    out.append_escaped(e.mount_point, kSpecial);
    out.print(" {} - {} ", mount_options(m.flags()), m.fs().type());
    out.append_escaped(source_of(m), kSpecial);
    out.print(" {}{}\n", m.is_read_only() ? "ro" : "rw", super_options(m));
  }
  return {};
}

Result<void> render_mountstats(const PidFileArgs& a, TextBuffer& out) {
  std::optional<View> v = view_of(a);
  if (!v) return {};
  for (const vfs::MountNamespace::Entry& e : v->namespaces->mounts->list(v->root)) {
    out.append("device ");
    out.append_escaped(source_of(*e.mount), kSpecial);
    out.append(" mounted on ");
    out.append_escaped(e.mount_point, kSpecial);
    out.print(" with fstype {}\n", e.mount->fs().type());
  }
  return {};
}

constexpr PidFileRow kRows[] = {
    {.name = "mounts", .mode = 0444, .render = render_mounts_file},
    {.name = "mountinfo", .mode = 0444, .render = render_mountinfo},
    {.name = "mountstats", .mode = 0400, .render = render_mountstats, .process_only = true},
};

}  // namespace

void render_mounts(vfs::MountNamespace& mounts, const vfs::Path& root, TextBuffer& out) {
  for (const vfs::MountNamespace::Entry& e : mounts.list(root)) {
    out.append_escaped(source_of(*e.mount), kSpecial);
    out.append(' ');
    out.append_escaped(e.mount_point, kSpecial);
    out.print(" {} {}{} 0 0\n", e.mount->fs().type(), mount_options(e.mount->flags()), super_options(*e.mount));
  }
}

std::span<const PidFileRow> pid_mount_files() { return kRows; }

}  // namespace sentry::fs
