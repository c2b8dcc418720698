// SPDX-License-Identifier: Apache-2.0
// PlainFile: what stubs come to know of regular files and directories while calls that reach the sentry use them (vfs/file_places.h,
// docs/decisions/0041).
#pragma once

#include <optional>

#include "abi/types/types.h"
#include "base/ref/ref.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/file_places.h"

namespace sentry::kernel {

class Task;

// What a call does with a plain file: the stub may know. Made before the call reads anything; nothing happens where the stub does
// not work on such files.
class PlainFile {
 public:
  PlainFile(Task& task, abi::Fd fd, vfs::FileDescription& file);
  // kOften: the stub could open it again, if it knew the name.
  enum class Opened : uint8_t { kOnce, kOften };
  Opened opened();
  void has_read(uint64_t asked, uint64_t got);  // at the position, where it ends now
  void has_read_beginning();                    // by sendfile(2)
  // The same by pread(2), where that is of interest.
  static void note_pread(Task& task, abi::Fd fd, vfs::FileDescription& file, uint64_t offset, uint64_t got);
  // Of write(2) and pwrite(2), likewise.
  static void note_write(Task& task, abi::Fd fd, vfs::FileDescription& file, std::optional<uint64_t> offset, uint64_t n);
  void has_sought();
  void has_listed_all();

 private:
  bool lend();
  void make_window(uint64_t at, vfs::WindowPlan::Use use = vfs::WindowPlan::Use::kReadOnly);
  void make_window_to_write(uint64_t at);
  void has_written();
  void note_changes();
  void note_pages();
  std::optional<uint64_t> know();       // the size
  std::optional<uint64_t> know_lent();  // the same of a regular file whose position is lent
  bool tells_content() const { return known_.readable && file_.inode().tells_content() && !file_.inode().is_written_in_place(); }
  void tell(uint64_t start, size_t ahead);

  Task& task_;
  vfs::FileDescription& file_;
  const abi::Fd fd_;
  std::optional<vfs::QuietTime> quiet_;
  bool writes_ = false;  // the stub may
  base::RefPtr<vfs::FilePlaces> places_;
  vfs::KnownFile known_;
};

}  // namespace sentry::kernel
