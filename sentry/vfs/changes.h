// SPDX-License-Identifier: Apache-2.0
// Counted changes of names and attributes, so that an answer of stat(2) can be given again without looking: while nothing it depends
// on has begun to change (platform/interface/in_place_io.h, docs/decisions/0036).
//
// A file system that tells of its changes (FileSystem::tells_changes()) changes a file's attributes only inside a ChangeScope of
// change_word(its number). The VFS does the same for names (the number of their directory), and with kChangedPaths for what any path
// may depend on: directories and links that move or go, rights on directories, mounts.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/interface/in_place_io.h"

namespace sentry::vfs {

using platform::in_place::kChangedPaths;

// Collisions cost an answer, nothing else.
constexpr uint32_t change_word(uint64_t number) {
  using platform::in_place::kHashedChanges;
  return kHashedChanges + static_cast<uint32_t>((number * 0x9e3779b97f4a7c15 >> 32) % (platform::in_place::kChangeWords - kHashedChanges));
}

// What its size and which pages are its own are counted by beside that, so that who knows these need not ask again after each write.
constexpr uint32_t size_word(uint64_t number) {
  using platform::in_place::kHashedSizes;
  return kHashedSizes + static_cast<uint32_t>((number * 0x9e3779b97f4a7c15 >> 32) % (platform::in_place::kChangeWords - kHashedSizes));
}

// Where stubs see them; null: only here. Before anything changes, and again before that memory goes.
void set_change_words(platform::in_place::ChangeWords* words);
uint64_t change_count(uint32_t word);
void count_word(uint32_t word, int64_t by);
void set_last_exact_time(uint64_t time);  // unless a later one is there; of vfs/file_time.h

class ChangeScope {
 public:
  explicit ChangeScope(uint32_t word);
  // Before the size of file `number` changes, or pages that are its own are taken from it, or data of its own takes the place of what is below.
  void pages_too(uint64_t number);
  ~ChangeScope();
  ChangeScope(const ChangeScope&) = delete;
  ChangeScope& operator=(const ChangeScope&) = delete;
};

// Counted by a word while it lives.
template <uint32_t kWord>
class Counted {
 public:
  Counted() { count_word(kWord, 1); }
  ~Counted() { count_word(kWord, -1); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
};
// While there is one, the sentry is told at once of every close(2), or of every read(2).
using CloseWatcher = Counted<platform::in_place::kCloseWatchers>;
using ReadWatcher = Counted<platform::in_place::kReadWatchers>;
using WriteWatcher = Counted<platform::in_place::kWriteWatchers>;  // the same of every write(2)
// While there is one, stubs ask for the status flags of all plain files and open none again: those of one have been changed that they know.
using ChangedFlags = Counted<platform::in_place::kChangedFlags>;

// A stretch of time in which nothing changed, as far as one has looked.
class QuietTime {
 public:
  QuietTime();
  // What was read since the beginning, change_count() included, belongs together.
  bool lasts() const;

 private:
  uint64_t begun_;
  bool quiet_;
};

}  // namespace sentry::vfs
