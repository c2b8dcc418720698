// SPDX-License-Identifier: Apache-2.0
#include "sentry/memory/host_files.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include <fcntl.h>
#include <sys/mman.h>

#include "base/core/check.h"
#include "base/host/host_error.h"
#include "sentry/memory/memory_file.h"

namespace sentry::memory {

using enum abi::Errno;
using abi::kPageSize;

namespace {

constexpr size_t kViews = 1 << 14;

// The sentry's views of host files, for the handler of SIGBUS, which can take no lock: `start` is stored last and cleared first.
struct View {
  std::atomic<uint64_t> start{0}, end{0};
};
View views[kViews];
std::atomic<size_t> views_used{0};

bool is_in_view(uint64_t address) {
  const size_t n = views_used.load(std::memory_order_acquire);
  for (size_t i = 0; i < n; ++i) {
    const uint64_t start = views[i].start.load(std::memory_order_acquire);
    if (start != 0 && start <= address && address < views[i].end.load(std::memory_order_relaxed)) return true;
  }
  return false;
}

void on_sigbus(int, siginfo_t* info, void*) {
  const uint64_t page = reinterpret_cast<uint64_t>(info->si_addr) & ~(kPageSize - 1);
  if (!is_in_view(page)) abort();
  const int saved = errno;
  // UNSAFE: replaces a page of a view, whose owner is the one that touches it.
  void* p = mmap(reinterpret_cast<void*>(page), kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (p == MAP_FAILED) abort();
  errno = saved;
}

}  // namespace

struct HostFiles::Entry {
  base::RefPtr<base::SharedFd> fd;
  uint64_t offset = 0;  // the first of its own
  uint64_t length = 0;  // whole pages
  uint8_t* data = nullptr;
  size_t view = 0, slot = 0, slots = 0;
  std::atomic<uint64_t> pages{0};  // references, one per page
};

HostFiles::HostFiles()
    : slots_(static_cast<std::atomic<Entry*>*>(
          mmap(nullptr, kSlotsBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
  CHECK(slots_ != MAP_FAILED);
  struct sigaction action = {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGBUS, &action, nullptr);
}

HostFiles::~HostFiles() {
  for (size_t i = 0; i < kSlots; ++i) DCHECK(slots_[i].load() == nullptr);
  munmap(slots_, kSlotsBytes);
}

HostFiles::Entry& HostFiles::entry_at(uint64_t offset) const {
  Entry* entry = slots_[(offset - kBase) >> kSlotShift].load(std::memory_order_acquire);
  DCHECK(entry != nullptr);
  return *entry;
}

base::Result<FileRange> HostFiles::add(base::RefPtr<base::SharedFd> fd, uint64_t size) {
  if (size == 0 || size > kMaxFile) return base::err(kEFBIG);
  const int flags = fcntl(fd->get(), F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY) return base::err(kEACCES);
  const uint64_t length = (size + kPageSize - 1) & ~(kPageSize - 1);
  void* data = mmap(nullptr, length, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd->get(), 0);
  if (data == MAP_FAILED) return base::err(base::guest_errno_from_host(errno));
  auto entry = std::make_unique<Entry>();
  entry->fd = std::move(fd);
  entry->length = length;
  entry->data = static_cast<uint8_t*>(data);
  entry->pages.store(length / kPageSize, std::memory_order_relaxed);
  entry->slots = ((length - 1) >> kSlotShift) + 1;

  base::MutexLock lock(mu_);
  size_t view = 0;
  const size_t used = views_used.load(std::memory_order_relaxed);
  while (view < used && views[view].end.load(std::memory_order_relaxed) != 0) ++view;
  // Next fit: an offset is used again only after all others.
  size_t run = 0, at = next_slot_;
  for (size_t tried = 0; tried < 2 * kSlots && run < entry->slots; ++tried) {
    if (at == kSlots) at = run = 0;
    run = slots_[at].load(std::memory_order_relaxed) ? 0 : run + 1;
    ++at;
  }
  if (view == kViews || run < entry->slots) {
    munmap(data, length);
    return base::err(kENOMEM);
  }
  next_slot_ = at;
  entry->slot = at - run;
  entry->offset = kBase + (uint64_t{entry->slot} << kSlotShift);
  entry->view = view;
  views[view].end.store(reinterpret_cast<uint64_t>(data) + length, std::memory_order_relaxed);
  views[view].start.store(reinterpret_cast<uint64_t>(data), std::memory_order_release);
  if (view == used) views_used.store(used + 1, std::memory_order_release);
  const FileRange range{entry->offset, length};
  for (size_t i = 0; i < entry->slots; ++i) slots_[entry->slot + i].store(entry.get(), std::memory_order_release);
  entry.release();
  return range;
}

void HostFiles::add_ref(FileRange range) {
  entry_at(range.offset).pages.fetch_add(range.length / kPageSize, std::memory_order_relaxed);
}

void HostFiles::drop_ref(FileRange range) {
  Entry& entry = entry_at(range.offset);
  const uint64_t pages = range.length / kPageSize;
  if (entry.pages.fetch_sub(pages, std::memory_order_acq_rel) != pages) return;
  std::unique_ptr<Entry> last(&entry);
  base::MutexLock lock(mu_);
  for (size_t i = 0; i < last->slots; ++i) slots_[last->slot + i].store(nullptr, std::memory_order_release);
  views[last->view].start.store(0, std::memory_order_release);
  munmap(last->data, last->length);
  views[last->view].end.store(0, std::memory_order_release);
}

std::span<uint8_t> HostFiles::bytes(uint64_t offset, uint64_t max) {
  const Entry& entry = entry_at(offset);
  const uint64_t at = offset - entry.offset;
  return {entry.data + at, static_cast<size_t>(std::min(max, entry.length - at))};
}

HostFiles::Place HostFiles::place(uint64_t offset) const {
  const Entry& entry = entry_at(offset);
  return {entry.fd, offset - entry.offset};
}

}  // namespace sentry::memory
