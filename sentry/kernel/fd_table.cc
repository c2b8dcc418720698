// SPDX-License-Identifier: Apache-2.0
// Files leave the table under the lock and are closed by the caller, outside it.
#include "sentry/kernel/fd_table.h"

#include <algorithm>

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;
using vfs::FileDescription;

namespace {

size_t index_of(abi::Fd fd) { return static_cast<size_t>(static_cast<uint32_t>(fd.value())); }

}  // namespace

FdTable::~FdTable() = default;

RefPtr<FdTable> FdTable::fork() const {
  auto copy = base::make_ref<FdTable>();
  base::MutexLock lock(mu_);
  copy->mu_.assert_held();  // nobody else has it yet
  size_t used = entries_.size();
  while (used > 0 && !entries_[used - 1].file) --used;
  copy->entries_.assign(entries_.begin(), entries_.begin() + static_cast<ptrdiff_t>(used));
  copy->lowest_free_ = lowest_free_;
  return copy;
}

Result<RefPtr<FileDescription>> FdTable::get(abi::Fd fd) const {
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  if (i >= entries_.size() || !entries_[i].file) return err(kEBADF);
  return entries_[i].file;
}

Result<FdTable::Entry> FdTable::get_entry(abi::Fd fd) const {
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  if (i >= entries_.size() || !entries_[i].file) return err(kEBADF);
  return entries_[i];
}

Result<int32_t> FdTable::reserve_locked(int32_t min, uint64_t limit) {
  const auto bound = static_cast<size_t>(std::min<uint64_t>(limit, kMaxFds));
  size_t i = static_cast<size_t>(std::max(min, lowest_free_));
  while (i < entries_.size() && entries_[i].file) ++i;
  if (i >= bound) return err(kEMFILE);
  if (i >= entries_.size()) entries_.resize(std::min(bound, std::max<size_t>(i + 1, std::max<size_t>(64, entries_.size() * 2))));
  if (min <= lowest_free_) lowest_free_ = static_cast<int32_t>(i) + 1;
  return static_cast<int32_t>(i);
}

Result<abi::Fd> FdTable::install(RefPtr<FileDescription> file, bool close_on_exec, uint64_t limit, int32_t min) {
  base::MutexLock lock(mu_);
  const int32_t i = TRY(reserve_locked(min, limit));
  entries_[static_cast<size_t>(i)] = Entry{std::move(file), close_on_exec};
  return abi::Fd(i);
}

Result<std::vector<abi::Fd>> FdTable::install_many(std::vector<RefPtr<FileDescription>> files, bool close_on_exec,
                                                   uint64_t limit) {
  std::vector<abi::Fd> numbers;
  base::MutexLock lock(mu_);
  for (RefPtr<FileDescription>& file : files) {
    Result<int32_t> i = reserve_locked(0, limit);
    if (!i) {
      // Back into `files`, so that nothing is closed under the lock.
      for (size_t k = 0; k < numbers.size(); ++k) {
        files[k] = std::move(entries_[index_of(numbers[k])].file);
        lowest_free_ = std::min(lowest_free_, numbers[k].value());
      }
      return err(i.error());
    }
    entries_[static_cast<size_t>(*i)] = Entry{std::move(file), close_on_exec};
    numbers.push_back(abi::Fd(*i));
  }
  return numbers;
}

Result<RefPtr<FileDescription>> FdTable::install_at(abi::Fd fd, RefPtr<FileDescription> file, bool close_on_exec, uint64_t limit) {
  const size_t i = index_of(fd);
  if (fd.value() < 0 || i >= std::min<uint64_t>(limit, kMaxFds)) return err(kEBADF);
  base::MutexLock lock(mu_);
  if (i >= entries_.size()) entries_.resize(std::max<size_t>(64, i + 1));
  RefPtr<FileDescription> old = std::move(entries_[i].file);
  entries_[i] = Entry{std::move(file), close_on_exec};
  return old;
}

Result<RefPtr<FileDescription>> FdTable::remove(abi::Fd fd) {
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  if (i >= entries_.size() || !entries_[i].file) return err(kEBADF);
  lowest_free_ = std::min(lowest_free_, fd.value());
  entries_[i].close_on_exec = false;
  return std::move(entries_[i].file);
}

Result<void> FdTable::set_close_on_exec(abi::Fd fd, bool on) {
  base::MutexLock lock(mu_);
  const size_t i = index_of(fd);
  if (i >= entries_.size() || !entries_[i].file) return err(kEBADF);
  entries_[i].close_on_exec = on;
  return {};
}

std::vector<RefPtr<FileDescription>> FdTable::remove_range(uint32_t first, uint32_t last) {
  std::vector<RefPtr<FileDescription>> removed;
  base::MutexLock lock(mu_);
  for (size_t i = first; i < entries_.size() && i <= last; ++i) {
    if (!entries_[i].file) continue;
    removed.push_back(std::move(entries_[i].file));
    lowest_free_ = std::min(lowest_free_, static_cast<int32_t>(i));
  }
  return removed;
}

void FdTable::set_close_on_exec_range(uint32_t first, uint32_t last) {
  base::MutexLock lock(mu_);
  for (size_t i = first; i < entries_.size() && i <= last; ++i) {
    if (entries_[i].file) entries_[i].close_on_exec = true;
  }
}

std::vector<RefPtr<FileDescription>> FdTable::remove_close_on_exec() {
  std::vector<RefPtr<FileDescription>> removed;
  base::MutexLock lock(mu_);
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].file || !entries_[i].close_on_exec) continue;
    removed.push_back(std::move(entries_[i].file));
    entries_[i].close_on_exec = false;
    lowest_free_ = std::min(lowest_free_, static_cast<int32_t>(i));
  }
  return removed;
}

std::vector<std::pair<abi::Fd, FdTable::Entry>> FdTable::list() const {
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
