// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/in_place.h"

namespace sentry::vfs {

base::Mutex& in_place_mutex() {
  static base::Mutex& mu = *new base::Mutex(base::LockRank::kInPlace);
  return mu;
}

InPlaceMemory::InPlaceMemory(memory::MemoryFile& file, memory::FileRange range)
    : file_(file), range_(range), data_(file.data(range.offset)) {}

InPlaceMemory::~InPlaceMemory() { file_.drop_ref(range_); }

base::Result<base::RefPtr<InPlaceMemory>> InPlaceMemory::create(memory::MemoryFile& file, uint64_t length) {
  const memory::FileRange range = TRY(file.allocate(length, memory::MemoryKind::kKernel));
  return base::RefPtr<InPlaceMemory>::adopt(new InPlaceMemory(file, range));
}

namespace {
std::atomic<uint64_t> views{0};
}

InPlaceView::InPlaceView(uint32_t waiting_word, const void* table)
    : waiting_word_(waiting_word), table_(table), number_(views.fetch_add(1) + 1) {}

bool InPlaceEnd::admit_locked(const InPlaceView& view) {
  if (last_view_ == view.number()) return true;
  if (!clean_locked()) return false;
  last_view_ = view.number();
  table_.store(view.table(), std::memory_order_seq_cst);
  return true;
}

void InPlaceEnd::enter_locked(InPlaceView& view, FileDescription& file, int32_t fd, uint32_t block, in_place::DescriptorLocks* locks) {
  file_ = &file;
  fd_ = fd;
  block_ = block;
  locks_ = locks;
  view_.store(&view, std::memory_order_seq_cst);
  moved_locked();
  show_locked();
  view.changed();
}

void InPlaceEnd::leave_locked() {
  if (!view()) return;
  // What it mirrored must be told of from now on, until somebody else has caught up.
  if (is_poll()) {
    view()->for_each([](int32_t, FileDescription&, InPlaceEnd& other) {
      if (!other.is_poll()) other.want_kicks_locked(true);
    });
  }
  // A kick that is still on its way may not find it any more.
  kick_locked();
  view()->show(fd_, 0);
  view()->changed();
  view_.store(nullptr, std::memory_order_seq_cst);
  moved_locked();
  file_ = nullptr;
}

void InPlaceEnd::forget_locks_locked() {
  locks_ = nullptr;
  table_.store(nullptr, std::memory_order_seq_cst);
  last_view_ = 0;
  moved_locked();
}

}  // namespace sentry::vfs
