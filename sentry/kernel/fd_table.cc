// SPDX-License-Identifier: Apache-2.0
// Files leave the table under the lock and are closed by the caller, outside it.
#include "sentry/kernel/fd_table.h"

#include <algorithm>

#include "sentry/kernel/in_place_view.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;
using vfs::FileDescription;

namespace {

constexpr size_t kStandard = 3;  // input, output, errors

size_t index_of(abi::Fd fd) { return static_cast<size_t>(static_cast<uint32_t>(fd.value())); }

}  // namespace

FdTable::FdTable() = default;

FdTable::~FdTable() {
  drop_view(Again::kNever);
  base::MutexLock lock(mu_);
  for (const Entry& entry : entries_)
    if (entry.file) entry.file->drop_descriptor();
}

// The one place where a descriptor comes, changes or goes.
RefPtr<FileDescription> FdTable::exchange_locked(size_t i, Entry next) {
  Entry& entry = entries_[i];
  if (entry.file) {
    if (view_) view_->forget(static_cast<int32_t>(i));
    entry.file->drop_descriptor();
  }
  if (next.file) next.file->add_descriptor(this);
  RefPtr<FileDescription> before = std::exchange(entry, std::move(next)).file;
  // dup(2) of one that the stub knows.
  if (view_ && entry.file && entry.file->number_if_any() != 0) show_locked(i);
  return before;
}

bool FdTable::is_at_locked(abi::Fd fd, const FileDescription& file) const {
  const size_t i = index_of(fd);
  return i < entries_.size() && entries_[i].file.get() == &file;
}

void FdTable::show_locked(size_t i) {
  (void)entries_[i].file->number();  // which it is known by
  view_->show_description(static_cast<int32_t>(i), *entries_[i].file, entries_[i].close_on_exec);
}

void FdTable::settle() {
  in_place::ClosedDescriptors* closed = closed_.load(std::memory_order_acquire);
  if (!closed || __atomic_load_n(&closed->any, __ATOMIC_ACQUIRE) == 0) return;
  std::vector<RefPtr<FileDescription>> gone;  // closed outside the lock
  base::MutexLock lock(mu_);
  if (!view_) return;
  view_->take_closed([&](int32_t fd, DescriptorView::Closed is_closed) {
    mu_.assert_held();
    const auto i = static_cast<size_t>(fd);
    if (is_closed == DescriptorView::Closed::kNo) return show_locked(i);
    gone.push_back(exchange_locked(i, {}));
    note_free_locked(fd);
  });
}

DescriptorView* FdTable::view_of_locked(mm::MemoryManager& mm, MakeView make) {
  if (!view_ && !no_view_ && make == MakeView::kYes) {
    view_ = std::make_unique<DescriptorView>(RefPtr<mm::MemoryManager>(&mm), *this);
    closed_.store(mm.platform_space().closed_descriptors(), std::memory_order_release);
    set_lowest_free_locked(lowest_free_);
    // What a program mostly gets from others.
    for (size_t i = 0; i < entries_.size() && i < kStandard; ++i) {
      const FileDescription* file = entries_[i].file.get();
      if (file && file->endless() != FileDescription::Endless::kNo) show_locked(i);
    }
  }
  return view_ && view_->is_of(mm) ? view_.get() : nullptr;
}

bool FdTable::enter_view(mm::MemoryManager& mm, abi::Fd fd, FileDescription& file, vfs::InPlaceEnd& end) {
  settle();
  base::MutexLock lock(mu_);
  if (!is_at_locked(fd, file)) return false;
  DescriptorView* view = view_of_locked(mm, MakeView::kYes);
  return view && view->enter(fd.value(), file, end);
}

RefPtr<StatAnswers> FdTable::answers(mm::MemoryManager& mm, memory::MemoryFile& memory, bool make) {
  base::MutexLock lock(mu_);
  DescriptorView* view = view_of_locked(mm, make ? MakeView::kYes : MakeView::kNo);
  return view ? view->answers(make ? &memory : nullptr) : nullptr;
}

bool FdTable::share_answers(mm::MemoryManager& mm, CommonAnswers& common) {
  base::MutexLock lock(mu_);
  DescriptorView* view = view_of_locked(mm, MakeView::kYes);
  return view && view->share(common);
}

void FdTable::show_description(mm::MemoryManager& mm, abi::Fd fd, FileDescription& file, MakeView make) {
  settle();
  base::MutexLock lock(mu_);
  // What it knows is kept right from here on.
  if (is_at_locked(fd, file) && view_of_locked(mm, make) && !view_->knows(fd.value())) show_locked(index_of(fd));
}

RefPtr<vfs::FilePlaces> FdTable::lend(mm::MemoryManager& mm, abi::Fd fd, FileDescription& file, memory::MemoryFile& memory) {
  base::MutexLock lock(mu_);
  if (!file.lends_position() || !is_at_locked(fd, file)) return nullptr;
  DescriptorView* view = view_of_locked(mm, MakeView::kNo);
  return view && view->knows(fd.value()) ? view->lend(file, memory) : nullptr;
}

RefPtr<vfs::FilePlaces> FdTable::lend_much_used(mm::MemoryManager& mm, abi::Fd fd, FileDescription& file, memory::MemoryFile& memory) {
  show_description(mm, fd, file, MakeView::kYes);
  {
    base::MutexLock lock(mu_);
    if (DescriptorView* view = view_of_locked(mm, MakeView::kNo)) view->want_places();
  }
  return lend(mm, fd, file, memory);
}

void FdTable::kick(abi::Fd fd) {
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  vfs::InPlaceEnd* end = i < entries_.size() && entries_[i].file ? entries_[i].file->in_place_end() : nullptr;
  if (!end) return;
  base::MutexLock in_place(vfs::in_place_mutex());
  end->kick_locked();
}

void FdTable::catch_up(vfs::OpContext& ctx) {
  std::vector<RefPtr<FileDescription>> polls;
  {
    base::MutexLock lock(mu_);
    if (view_) view_->polls(polls);
  }
  for (const RefPtr<FileDescription>& file : polls) file->catch_up(ctx);
}

void FdTable::drop_view(Again again) {
  settle();
  std::unique_ptr<DescriptorView> gone;  // outside the lock: it may be the last user of the memory
  base::MutexLock lock(mu_);
  gone = std::move(view_);
  closed_.store(nullptr, std::memory_order_release);
  if (gone) gone->clear();  // a file that is closed from now on is not told to it any more
  if (again == Again::kNever) no_view_ = true;
}

RefPtr<FdTable> FdTable::fork() {
  settle();
  auto copy = base::make_ref<FdTable>();
  base::MutexLock lock(mu_);
  copy->mu_.assert_held();  // nobody else has it yet
  size_t used = entries_.size();
  while (used > 0 && !entries_[used - 1].file) --used;
  copy->entries_.assign(entries_.begin(), entries_.begin() + static_cast<ptrdiff_t>(used));
  for (const Entry& entry : copy->entries_)
    if (entry.file) entry.file->add_descriptor(copy.get());
  copy->lowest_free_ = lowest_free_;
  copy->limit_ = limit_;
  return copy;
}

Result<RefPtr<FileDescription>> FdTable::get(abi::Fd fd) {
  settle();
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  if (i >= entries_.size() || !entries_[i].file) return err(kEBADF);
  return entries_[i].file;
}

Result<FdTable::Entry> FdTable::get_entry(abi::Fd fd) {
  settle();
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  if (i >= entries_.size() || !entries_[i].file) return err(kEBADF);
  return entries_[i];
}

// The stub may know it.
void FdTable::set_lowest_free_locked(int32_t fd) {
  lowest_free_ = fd;
  if (in_place::ClosedDescriptors* closed = closed_.load(std::memory_order_relaxed))
    __atomic_store_n(&closed->lowest_free, static_cast<uint32_t>(std::min(fd, limit_)), __ATOMIC_SEQ_CST);
}

// `duplicated` is the stub's word: good enough for a guess.
void FdTable::add_closed_duplicate(abi::Fd fd, const RefPtr<FileDescription>& directory, uint64_t limit) {
  base::MutexLock lock(mu_);
  in_place::ClosedDescriptors* closed = closed_.load(std::memory_order_relaxed);
  if (!view_ || !closed || !is_at_locked(fd, *directory) || !view_->knows(fd.value()) || !directory->closes_later()) return;
  const uint32_t duplicated = __atomic_load_n(&closed->duplicated, __ATOMIC_RELAXED);
  if (duplicated != duplicated_before_) note_duplicate();
  else if (duplicates_directories()) duplicates_.fetch_sub(1, std::memory_order_relaxed);
  duplicated_before_ = duplicated;
  const Result<int32_t> second = reserve_locked(0, limit);
  if (!second || static_cast<uint32_t>(*second) >= in_place::kDescriptors) {
    if (second) note_free_locked(*second);
    return;
  }
  // Closed before it is seen.
  in_place::set_bit(closed->bits, static_cast<uint32_t>(*second));
  __atomic_store_n(&closed->any, 1u, __ATOMIC_SEQ_CST);
  exchange_locked(static_cast<size_t>(*second), Entry{directory, entries_[index_of(fd)].close_on_exec});
}

void FdTable::set_limit(uint64_t limit) {
  settle();
  base::MutexLock lock(mu_);
  limit_ = static_cast<int32_t>(std::min<uint64_t>(limit, kMaxFds));
  set_lowest_free_locked(lowest_free_);
}

void FdTable::note_free_locked(int32_t fd) {
  if (fd < lowest_free_) set_lowest_free_locked(fd);
}

Result<int32_t> FdTable::reserve_locked(int32_t min, uint64_t limit) {
  const auto bound = static_cast<size_t>(std::min<uint64_t>(limit, kMaxFds));
  size_t i = static_cast<size_t>(std::max(min, lowest_free_));
  while (i < entries_.size() && entries_[i].file) ++i;
  if (i >= bound) return err(kEMFILE);
  if (i >= entries_.size()) entries_.resize(std::min(bound, std::max<size_t>(i + 1, std::max<size_t>(64, entries_.size() * 2))));
  if (min <= lowest_free_) set_lowest_free_locked(static_cast<int32_t>(i) + 1);
  return static_cast<int32_t>(i);
}

Result<abi::Fd> FdTable::install(RefPtr<FileDescription> file, bool close_on_exec, uint64_t limit, int32_t min) {
  settle();
  base::MutexLock lock(mu_);
  const int32_t i = TRY(reserve_locked(min, limit));
  exchange_locked(static_cast<size_t>(i), Entry{std::move(file), close_on_exec});
  return abi::Fd(i);
}

Result<std::vector<abi::Fd>> FdTable::install_many(std::vector<RefPtr<FileDescription>> files, bool close_on_exec,
                                                   uint64_t limit) {
  std::vector<abi::Fd> numbers;
  settle();
  base::MutexLock lock(mu_);
  for (RefPtr<FileDescription>& file : files) {
    Result<int32_t> i = reserve_locked(0, limit);
    if (!i) {
      // Back into `files`, so that nothing is closed under the lock.
      for (size_t k = 0; k < numbers.size(); ++k) {
        files[k] = exchange_locked(index_of(numbers[k]), {});
        note_free_locked(numbers[k].value());
      }
      return err(i.error());
    }
    exchange_locked(static_cast<size_t>(*i), Entry{std::move(file), close_on_exec});
    numbers.push_back(abi::Fd(*i));
  }
  return numbers;
}

Result<RefPtr<FileDescription>> FdTable::install_at(abi::Fd fd, RefPtr<FileDescription> file, bool close_on_exec, uint64_t limit) {
  const size_t i = index_of(fd);
  if (fd.value() < 0 || i >= std::min<uint64_t>(limit, kMaxFds)) return err(kEBADF);
  settle();
  base::MutexLock lock(mu_);
  if (i >= entries_.size()) entries_.resize(std::max<size_t>(64, i + 1));
  return exchange_locked(i, Entry{std::move(file), close_on_exec});
}

Result<RefPtr<FileDescription>> FdTable::remove(abi::Fd fd) {
  settle();
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  if (i >= entries_.size() || !entries_[i].file) return err(kEBADF);
  note_free_locked(fd.value());
  return exchange_locked(i, {});
}

void FdTable::set_close_on_exec_locked(size_t i, bool on) {
  entries_[i].close_on_exec = on;
  if (view_ && view_->knows(static_cast<int32_t>(i))) show_locked(i);
}

Result<void> FdTable::set_close_on_exec(abi::Fd fd, bool on) {
  settle();
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  if (i >= entries_.size() || !entries_[i].file) return err(kEBADF);
  set_close_on_exec_locked(i, on);
  return {};
}

std::vector<RefPtr<FileDescription>> FdTable::remove_range(uint32_t first, uint32_t last) {
  settle();
  std::vector<RefPtr<FileDescription>> removed;
  base::MutexLock lock(mu_);
  for (size_t i = first; i < entries_.size() && i <= last; ++i) {
    if (!entries_[i].file) continue;
    removed.push_back(exchange_locked(i, {}));
    note_free_locked(static_cast<int32_t>(i));
  }
  return removed;
}

void FdTable::set_close_on_exec_range(uint32_t first, uint32_t last) {
  settle();
  base::MutexLock lock(mu_);
  for (size_t i = first; i < entries_.size() && i <= last; ++i) {
    if (entries_[i].file) set_close_on_exec_locked(i, true);
  }
}

std::vector<RefPtr<FileDescription>> FdTable::remove_close_on_exec() {
  settle();
  std::vector<RefPtr<FileDescription>> removed;
  base::MutexLock lock(mu_);
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].file || !entries_[i].close_on_exec) continue;
    removed.push_back(exchange_locked(i, {}));
    note_free_locked(static_cast<int32_t>(i));
  }
  return removed;
}

std::vector<std::pair<abi::Fd, FdTable::Entry>> FdTable::list() {
  settle();
  std::vector<std::pair<abi::Fd, Entry>> all;
  base::MutexLock lock(mu_);
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].file) all.emplace_back(abi::Fd(static_cast<int32_t>(i)), entries_[i]);
  }
  return all;
}

size_t FdTable::capacity() const {
  base::MutexLock lock(mu_);
  return std::max<size_t>(64, entries_.size());
}

bool FdTable::is_shared() const { return ref_count_for_debug() > 1; }

}  // namespace sentry::kernel
