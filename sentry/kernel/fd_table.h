// SPDX-License-Identifier: Apache-2.0
// FdTable: a process's descriptors. Shared by threads (and by CLONE_FILES processes), copied by fork.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/vfs/file_description.h"

namespace sentry::mm {
class MemoryManager;
}

namespace sentry::kernel {

class DescriptorView;
class CommonAnswers;
class StatAnswers;

// A stub may close descriptors in place (in_place::ClosedDescriptors): each call here takes those over first.
class FdTable final : public base::RefCounted {
 public:
  static constexpr int32_t kMaxFds = 1 << 20;

  struct Entry {
    base::RefPtr<vfs::FileDescription> file;
    bool close_on_exec = false;
  };

  FdTable();
  ~FdTable() override;
  base::RefPtr<FdTable> fork();

  // EBADF. The common path takes one short lock and one reference.
  base::Result<base::RefPtr<vfs::FileDescription>> get(abi::Fd fd);
  base::Result<Entry> get_entry(abi::Fd fd);
  // Lowest free number >= min; EMFILE at `limit` (RLIMIT_NOFILE).
  base::Result<abi::Fd> install(base::RefPtr<vfs::FileDescription> file, bool close_on_exec, uint64_t limit, int32_t min = 0);
  // Several at once, all or none (pipe, socketpair, SCM_RIGHTS).
  base::Result<std::vector<abi::Fd>> install_many(std::vector<base::RefPtr<vfs::FileDescription>> files, bool close_on_exec, uint64_t limit);
  // dup2/dup3: replaces what is there; the old file is returned so that the caller closes it outside the lock.
  base::Result<base::RefPtr<vfs::FileDescription>> install_at(abi::Fd fd, base::RefPtr<vfs::FileDescription> file, bool close_on_exec, uint64_t limit);
  base::Result<base::RefPtr<vfs::FileDescription>> remove(abi::Fd fd);
  base::Result<void> set_close_on_exec(abi::Fd fd, bool on);
  // close_range(2) and exec: what was removed.
  std::vector<base::RefPtr<vfs::FileDescription>> remove_range(uint32_t first, uint32_t last);
  void set_close_on_exec_range(uint32_t first, uint32_t last);
  std::vector<base::RefPtr<vfs::FileDescription>> remove_close_on_exec();
  // (number, entry) of all, ascending; for /proc/PID/fd.
  std::vector<std::pair<abi::Fd, Entry>> list();
  size_t capacity() const;  // "FDSize" of /proc/PID/status
  bool is_shared() const;

  // In place: vfs/in_place.h. Makes the table's view when there is none; false where it cannot be: the descriptor is another
  // file's by now, or the view is of another address space.
  bool enter_view(mm::MemoryManager& mm, abi::Fd fd, vfs::FileDescription& file, vfs::InPlaceEnd& end);
  // Stat answers in place (kernel/stat_answers.h) of who uses the table from `mm`; null where there are none.
  base::RefPtr<StatAnswers> answers(mm::MemoryManager& mm, memory::MemoryFile& memory, bool make);
  // Those that it has in common with others. False: it has none, or not these.
  bool share_answers(mm::MemoryManager& mm, CommonAnswers& common);
  // The stub may know that `fd` is `file`, a plain one. With kYes a view is made where there is none.
  enum class MakeView : uint8_t { kNo, kYes };
  void show_description(mm::MemoryManager& mm, abi::Fd fd, vfs::FileDescription& file, MakeView make = MakeView::kNo);
  // The places where the stub moves the position of `file` (vfs/file_places.h), which the stub knows; null where it does not.
  base::RefPtr<vfs::FilePlaces> lend(mm::MemoryManager& mm, abi::Fd fd, vfs::FileDescription& file, memory::MemoryFile& memory);
  // The same where it is used so much that the stub is to know it.
  base::RefPtr<vfs::FilePlaces> lend_much_used(mm::MemoryManager& mm, abi::Fd fd, vfs::FileDescription& file, memory::MemoryFile& memory);
  // A directory was duplicated by a call that came to the sentry. Where that happens to those that are opened, one that was opened as `fd` gets a
  // second descriptor that is closed as if in place: the stub opens it again as the duplicate, or it goes with the next call.
  void note_duplicate() { duplicates_.store(std::min(duplicates_.load(std::memory_order_relaxed) + 1, kMostDuplicates), std::memory_order_relaxed); }
  bool duplicates_directories() const { return duplicates_.load(std::memory_order_relaxed) >= kWorthDuplicating; }
  void add_closed_duplicate(abi::Fd fd, const base::RefPtr<vfs::FileDescription>& directory, uint64_t limit);
  // RLIMIT_NOFILE was set: a stub opens nothing again that is beyond it.
  void set_limit(uint64_t limit);
  // Closes what a stub closed in place. Any thread.
  void settle();
  // A stub wrote to a connection: who waits at its other end hears of it. Any thread; never the last user of a file.
  void kick(abi::Fd fd);
  // Takes over what stubs did to instances of epoll: before others get these, or the view goes.
  void catch_up(vfs::OpContext& ctx);
  // The address space goes away, or (for good) the table is used from several.
  enum class Again : uint8_t { kMaybe, kNever };
  void drop_view(Again again);

 private:
  // The lowest free slot >= min, made if needed.
  base::Result<int32_t> reserve_locked(int32_t min, uint64_t limit) REQUIRES(mu_);
  base::RefPtr<vfs::FileDescription> exchange_locked(size_t i, Entry next) REQUIRES(mu_);
  void set_close_on_exec_locked(size_t i, bool on) REQUIRES(mu_);
  void set_lowest_free_locked(int32_t fd) REQUIRES(mu_);
  void note_free_locked(int32_t fd) REQUIRES(mu_);
  bool is_at_locked(abi::Fd fd, const vfs::FileDescription& file) const REQUIRES(mu_);
  void show_locked(size_t i) REQUIRES(mu_);  // to the view
  DescriptorView* view_of_locked(mm::MemoryManager& mm, MakeView make) REQUIRES(mu_);

  mutable base::Mutex mu_{base::LockRank::kFdTable};
  std::vector<Entry> entries_ GUARDED_BY(mu_);
  int32_t lowest_free_ GUARDED_BY(mu_) = 0;
  std::unique_ptr<DescriptorView> view_ GUARDED_BY(mu_);
  bool no_view_ GUARDED_BY(mu_) = false;
  int32_t limit_ GUARDED_BY(mu_) = kMaxFds;  // as it was last set
  // Of the last directories that were opened, how many were duplicated: up to kMostDuplicates. A guess: nobody minds a lost change.
  static constexpr uint32_t kWorthDuplicating = 4, kMostDuplicates = 16;
  std::atomic<uint32_t> duplicates_{0};
  uint32_t duplicated_before_ GUARDED_BY(mu_) = 0;  // ClosedDescriptors::duplicated when the last second descriptor was made
  std::atomic<vfs::in_place::ClosedDescriptors*> closed_{nullptr};  // the view's; hostile
};

}  // namespace sentry::kernel
