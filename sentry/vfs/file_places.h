// SPDX-License-Identifier: Apache-2.0
// FilePlaces: the positions of a process's plain files where its stub moves them, and what was read ahead for it
// (platform/interface/in_place_io.h, docs/decisions/0041).
//
// A place may have a window, too (vfs/file_windows.h): it is mapped here and goes with the place.
//
// A description lends its position to the places of one table; FileDescription::offset() and kin look there meanwhile. It takes it back
// when another table gets a descriptor of it, when its last descriptor goes, and when the place is wanted for another one.
//
// What stands in the block is the process's word: of a position any value is one that lseek(2) could have set.
#pragma once

#include <array>
#include <span>

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/file_windows.h"
#include "sentry/vfs/in_place.h"

namespace sentry::vfs {

class FileDescription;
class Inode;

// What is known of a file as long as nothing of it changes.
struct KnownFile {
  uint64_t end = 0;  // its size, or where its listing ends
  uint32_t word = 0, size_word = 0;
  uint64_t changes = 0, sizes = 0, paths = 0;
  uint64_t device = 0, inode = 0, mount = 0;  // as statx(2) has them; inode 0: not known
  bool readable = false;           // nothing but its bytes comes of reading it (no access time, say)
  bool steady = false;             // and never will
  base::RefPtr<memory::Mappable> pages;  // where its bytes are; null: not known, and a window of it is not right any more
  uint64_t removals = 0;
  WindowPlan window;               // of these pages; empty: what there is stays, if it is right
  int64_t write_time = 0;          // the file's times, if writes that leave them as they are change nothing but its bytes; 0: not known
  uint64_t start = 0;              // where the bytes begin
  std::span<const uint8_t> bytes;  // in the block: room()
};

class FilePlaces final : public base::RefCounted {
 public:
  // `space` is the process's, and stays as long as anything is lent here.
  static base::Result<base::RefPtr<FilePlaces>> create(memory::MemoryFile& file, const void* table, platform::AddressSpace& space);
  InPlaceMemory& memory() const { return *memory_; }
  const void* table() const { return table_; }  // whose descriptors they are about

  // All with in_place_mutex(). Not done where the place is of more use to the one that has it.
  void lend_locked(FileDescription& file);
  uint64_t position_locked(const FileDescription& file) const;
  void set_position_locked(FileDescription& file, uint64_t position);
  // The stub does not move it until the position is set again.
  void hold_position_locked(FileDescription& file);
  void take_back_locked(FileDescription& file);
  void note_second_locked(const FileDescription& file);  // another descriptor of it, in the same table
  void forbid_writes_locked(const FileDescription& file);  // until it is told of again
  void take_all_back_locked();

  // One may read ahead at a time. Room for `n` bytes that no place tells of; empty: somebody reads.
  std::span<uint8_t> begin_reading(size_t n);
  void end_reading();
  // Nothing when it is not lent here any more. Bytes that were there stay if they are still true.
  void tell(FileDescription& file, const KnownFile& known);

  // How many bytes to read ahead at `from` of a file of that size; 0: none, or not worth it. `opened`: it was just opened, otherwise
  // its reader has come to `from`, asking for `asked` bytes the last time.
  size_t worth_at_open(uint64_t size);
  // Counts that `inode` was opened: true the second time and each time that there have been twice as many, lately.
  bool is_opened_often(uint64_t inode);
  // One of that size was read from its beginning, which reading ahead when it was opened would have saved.
  void learn_from_beginning(uint64_t size);
  size_t worth_behind(const FileDescription& file, uint64_t from, uint64_t asked, uint64_t size);

  // One place at a time has the right to write a file. Its stub may be at it: until it no more is, or looks as if it never ended.
  static void await_writer(const Inode& inode);
  static void await_all_writers();

  static constexpr size_t kMostAhead = 32 * 1024;

 private:
  template <typename T, typename... A>
  friend base::RefPtr<T> base::make_ref(A&&...);
  FilePlaces(base::RefPtr<InPlaceMemory> memory, const void* table, platform::AddressSpace& space)
      : memory_(std::move(memory)), table_(table), space_(space) {}
  // What the sentry knows of a place.
  struct Mine {
    FileDescription* file = nullptr;
    uint16_t tag = 0;
    uint32_t version = 0;
    uint32_t first = 0, length = 0;  // of its bytes in the block
    uint32_t used_before = 0;        // FilePlace::used when bytes were last put there
    uint8_t wasted = 0;              // times in a row that nobody used them
    bool alone = true;               // the description never had a second descriptor
    bool opened_ahead = false;       // they were put there by worth_at_open()
    uint16_t word = 0;
    uint64_t changes = 0;
    FileWindow window;
    uint64_t write_changes = 0;
    int64_t write_time = 0;  // 0: its stub may not write
  };
  size_t index_of(const FileDescription& file) const;
  in_place::FilePlace& place(size_t i) const;
  template <typename F>
  void rewrite(size_t i, F&& f);
  void judge(size_t i);
  bool is_window_wanted(size_t i);
  void keep_window(size_t i, const KnownFile& known);
  void make_window(size_t i, const KnownFile& known);
  void drop_window(size_t i);
  uint32_t uses_of_window(size_t i) const;
  void may_write(size_t i, const KnownFile& known);
  void await_stub(size_t i);
  uint64_t find_room(uint64_t length);

  const base::RefPtr<InPlaceMemory> memory_;
  const void* const table_;
  platform::AddressSpace& space_;
  // in_place_mutex():
  std::array<Mine, in_place::kPlaces> mine_;
  uint32_t next_byte_ = in_place::PlacesBlock::kBytes;
  bool reading_ = false;
  struct LastOpened {
    uint64_t inode = 0;
    uint32_t times = 0;
  };
  std::array<LastOpened, 16> last_opened_;  // by number
  uint64_t windows_made_ = 0;
  int trust_ = 0;  // whether what is opened is read from the beginning
  std::atomic<bool> is_slow_{false};  // its stub was waited for in vain
};

}  // namespace sentry::vfs
