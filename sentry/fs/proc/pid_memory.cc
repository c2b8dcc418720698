// SPDX-License-Identifier: Apache-2.0
// /proc/PID/{maps,smaps,smaps_rollup,cmdline,environ,auxv,mem,pagemap}: fs/proc/task_mmu.c and base.c.
#include <algorithm>

#include "sentry/fs/proc/proc_internal.h"
#include "sentry/kernel/task_info.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

// Column of the name: show_map_vma() pads with the width of its numbers.
void print_vma(const mm::VmaInfo& v, TextBuffer& out) {
  const size_t start = out.size();
  out.print("{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ", v.range.start.value(), v.range.end.value(),
            v.prot.read ? 'r' : '-', v.prot.write ? 'w' : '-', v.prot.exec ? 'x' : '-',
            v.sharing == mm::Sharing::kShared ? 's' : 'p', v.offset, v.device.major, v.device.minor, v.inode);
  if (!v.name.empty()) {
    out.pad_to(start, 73);
    out.append_escaped(v.name, "\n");
  }
  out.append('\n');
}

Result<void> render_maps(const PidFileArgs& a, TextBuffer& out) {
  RefPtr<mm::MemoryManager> mm = a.task.mm_ref();
  if (!mm) return {};
  for (const mm::VmaInfo& v : mm->vmas()) print_vma(v, out);
  return {};
}

struct Sums {
  uint64_t size = 0, rss = 0, anonymous = 0, file = 0, shmem = 0, locked = 0;
};

void line(TextBuffer& out, std::string_view name, uint64_t bytes) {
  const size_t start = out.size();
  out.print("{}:", name);
  out.pad_to(start, 16);
  out.print("{:8} kB\n", bytes >> 10);
}

void print_usage(const Sums& s, bool rollup, TextBuffer& out) {
  line(out, "Rss", s.rss);
  line(out, "Pss", s.rss);
  line(out, "Pss_Dirty", s.anonymous);
  if (rollup) {
    line(out, "Pss_Anon", s.anonymous);
    line(out, "Pss_File", s.file);
    line(out, "Pss_Shmem", s.shmem);
  }
  line(out, "Shared_Clean", 0);
  line(out, "Shared_Dirty", 0);
  line(out, "Private_Clean", s.rss - std::min(s.rss, s.anonymous));
  line(out, "Private_Dirty", s.anonymous);
  line(out, "Referenced", s.rss);
  line(out, "Anonymous", s.anonymous);
  for (const char* zero : {"KSM", "LazyFree", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb",
                           "Private_Hugetlb", "Swap", "SwapPss"})
    line(out, zero, 0);
  line(out, "Locked", s.locked);
}

Result<void> render_smaps(const PidFileArgs& a, TextBuffer& out) {
  RefPtr<mm::MemoryManager> mm = a.task.mm_ref();
  if (!mm) return {};
  for (const mm::VmaInfo& v : mm->vmas()) {
    print_vma(v, out);
    line(out, "Size", v.range.length());
    line(out, "KernelPageSize", abi::kPageSize);
    line(out, "MMUPageSize", abi::kPageSize);
    print_usage({v.range.length(), v.rss, v.anonymous, v.rss - std::min(v.rss, v.anonymous), 0, v.locked}, false, out);
    out.print("THPeligible:           0\nVmFlags:{}{}{}{} mr mw me ac \n", v.prot.read ? " rd" : "",
              v.prot.write ? " wr" : "", v.prot.exec ? " ex" : "", v.sharing == mm::Sharing::kShared ? " sh" : "");
  }
  return {};
}

Result<void> render_smaps_rollup(const PidFileArgs& a, TextBuffer& out) {
  RefPtr<mm::MemoryManager> mm = a.task.mm_ref();
  if (!mm) return err(kESRCH);
  Sums sums;
  const std::vector<mm::VmaInfo> vmas = mm->vmas();
  for (const mm::VmaInfo& v : vmas) {
    sums.size += v.range.length();
    sums.rss += v.rss;
    sums.anonymous += v.anonymous;
    sums.locked += v.locked;
  }
  sums.file = sums.rss - std::min(sums.rss, sums.anonymous);
  const uint64_t first = vmas.empty() ? 0 : vmas.front().range.start.value();
  const uint64_t last = vmas.empty() ? 0 : vmas.back().range.end.value();
  const size_t start = out.size();
  out.print("{:08x}-{:08x} ---p 00000000 00:00 0 ", first, last);
  out.pad_to(start, 73);
  out.append("[rollup]\n");
  print_usage(sums, true, out);
  return {};
}

Result<void> render_cmdline(const PidFileArgs& a, TextBuffer& out) {
  out.append(kernel::command_line(a.task));
  return {};
}

Result<void> render_environ(const PidFileArgs& a, TextBuffer& out) {
  RefPtr<mm::MemoryManager> mm = a.task.mm_ref();
  if (!mm) return {};
  const mm::MemoryManager::Layout l = mm->layout();
  out.append(kernel::guest_area(*mm, l.env_start, l.env_end));
  return {};
}

Result<void> render_auxv(const PidFileArgs& a, TextBuffer& out) {
  RefPtr<mm::MemoryManager> mm = a.task.mm_ref();
  if (!mm) return {};
  const mm::MemoryManager::Layout l = mm->layout();
  out.append({reinterpret_cast<const char*>(l.auxv.data()), l.auxv.size()});
  return {};
}

constexpr PidFileRow kRows[] = {
    {.name = "maps", .mode = 0444, .render = render_maps, .guarded = Guarded::kYes},
    {.name = "smaps", .mode = 0444, .render = render_smaps, .guarded = Guarded::kYes},
    {.name = "smaps_rollup", .mode = 0444, .render = render_smaps_rollup, .guarded = Guarded::kYes, .process_only = true},
    {.name = "cmdline", .mode = 0444, .render = render_cmdline},
    {.name = "environ", .mode = 0400, .render = render_environ, .guarded = Guarded::kYes},
    {.name = "auxv", .mode = 0400, .render = render_auxv, .guarded = Guarded::kYes},
};

// /proc/PID/mem: the address space of the process at the time of the open.
class MemDescription final : public vfs::FileDescription {
 public:
  MemDescription(vfs::Path path, uint32_t flags, RefPtr<mm::MemoryManager> mm)
      : FileDescription(std::move(path), flags), mm_(std::move(mm)) {}
  Result<size_t> pread(vfs::OpContext&, vfs::IoBuffer& dst, uint64_t offset) override {
    return transfer(dst.remaining(), offset, [&](abi::Addr at, std::span<uint8_t> chunk) -> Result<size_t> {
      const size_t n = TRY(mm_->force_read(at, chunk));
      return dst.put(chunk.data(), n);
    });
  }
  Result<size_t> pwrite(vfs::OpContext&, vfs::IoBuffer& src, uint64_t offset) override {
    return transfer(src.remaining(), offset, [&](abi::Addr at, std::span<uint8_t> chunk) -> Result<size_t> {
      const size_t n = TRY(src.get(chunk.data(), chunk.size()));
      return mm_->force_write(at, chunk.first(n));
    });
  }
  bool is_seekable() const override { return true; }
  // mem_lseek(): offsets are addresses, so any value is a position.
  Result<uint64_t> seek(vfs::OpContext&, int64_t offset, int32_t whence) override {
    if (whence > 1 || whence < 0) return err(kEINVAL);
    const uint64_t next = (whence == 1 ? offset_.load() : 0) + static_cast<uint64_t>(offset);
    offset_.store(next);
    return next;
  }

 private:
  template <typename F>
  Result<size_t> transfer(size_t total, uint64_t offset, F&& step) {
    uint8_t chunk[abi::kPageSize];
    size_t done = 0;
    while (done < total) {
      const size_t want = std::min(sizeof chunk, total - done);
      Result<size_t> n = step(abi::Addr(offset + done), std::span<uint8_t>(chunk, want));
      if (!n) return done != 0 ? Result<size_t>(done) : err(n.error() == kEFAULT ? kEIO : n.error());
      done += *n;
      if (*n < want) break;
    }
    return done;
  }
  const RefPtr<mm::MemoryManager> mm_;
};

class MemFile final : public SyntheticInode {
 public:
  MemFile(ProcFs& fs, TaskHandle handle) : SyntheticInode(fs, abi::kS_IFREG | 0600), handle_(std::move(handle)) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, SyntheticInode::owner().mode); }
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) override {
    RefPtr<kernel::Task> task = TRY(handle_.get());
    TRY(check_task_access(ctx, *task));
    RefPtr<mm::MemoryManager> mm = task->mm_ref();
    if (!mm) return err(kESRCH);
    return RefPtr<vfs::FileDescription>(base::make_ref<MemDescription>(path, flags, std::move(mm)));
  }

 private:
  const TaskHandle handle_;
};

// One 64-bit entry per page. Page frame numbers are hidden, as from any process without CAP_SYS_ADMIN.
class PagemapDescription final : public vfs::FileDescription {
 public:
  PagemapDescription(vfs::Path path, uint32_t flags, RefPtr<mm::MemoryManager> mm)
      : FileDescription(std::move(path), flags), mm_(std::move(mm)) {}
  Result<size_t> pread(vfs::OpContext&, vfs::IoBuffer& dst, uint64_t offset) override {
    constexpr size_t kMaxEntries = 8192;
    if (offset % 8 != 0 || dst.remaining() % 8 != 0) return err(kEINVAL);
    std::vector<uint64_t> entries(std::min(dst.remaining() / 8, kMaxEntries));
    const uint64_t first = offset / 8;
    if (first >= (uint64_t{1} << 35)) return size_t{0};
    for (const mm::VmaInfo& v : mm_->vmas()) {
      const uint64_t start = std::max(first, v.range.start.value() >> 12);
      const uint64_t end = std::min(first + entries.size(), v.range.end.value() >> 12);
      if (start >= end) continue;
      const bool file = !v.name.empty() && v.name[0] == '/';
      Result<std::vector<uint8_t>> present = mm_->mincore(abi::Addr(start << 12), (end - start) << 12);
      for (uint64_t page = start; page < end; ++page)
        if (present && page - start < present->size() && ((*present)[page - start] & 1))
          entries[page - first] = uint64_t{1} << 63 | (file ? uint64_t{1} << 61 : 0);
    }
    return dst.put(entries.data(), entries.size() * 8);
  }
  bool is_seekable() const override { return true; }

 private:
  const RefPtr<mm::MemoryManager> mm_;
};

class PagemapFile final : public SyntheticInode {
 public:
  PagemapFile(ProcFs& fs, TaskHandle handle) : SyntheticInode(fs, abi::kS_IFREG | 0400), handle_(std::move(handle)) {}
  creds::InodeOwner owner() const override { return owner_of_task(handle_, SyntheticInode::owner().mode); }
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) override {
    RefPtr<kernel::Task> task = TRY(handle_.get());
    TRY(check_task_access(ctx, *task));
    RefPtr<mm::MemoryManager> mm = task->mm_ref();
    if (!mm) return err(kESRCH);
    return RefPtr<vfs::FileDescription>(base::make_ref<PagemapDescription>(path, flags, std::move(mm)));
  }

 private:
  const TaskHandle handle_;
};

}  // namespace

std::span<const PidFileRow> pid_memory_files() { return kRows; }
RefPtr<SyntheticInode> make_mem_file(ProcFs& fs, TaskHandle handle) { return base::make_ref<MemFile>(fs, std::move(handle)); }
RefPtr<SyntheticInode> make_pagemap_file(ProcFs& fs, TaskHandle handle) {
  return base::make_ref<PagemapFile>(fs, std::move(handle));
}

}  // namespace sentry::fs
