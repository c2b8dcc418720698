// SPDX-License-Identifier: Apache-2.0
// StatAnswers: what stubs answer stat(2) and other questions about paths with (platform/interface/in_place_io.h), and StatAsker: one
// call that may leave an answer.
//
// Each call that comes here leaves its answer, where all that it depends on tells of its changes. Who asks for a second name of a
// directory gets answers for those that follow it too: twice as many each time, as long as they are asked for.
#pragma once

#include <array>
#include <memory>
#include <string_view>

#include "abi/linux/stat.h"
#include "abi/types/types.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/in_place.h"

namespace sentry::kernel {

class CommonAnswers;
class Task;

// struct stat as `ns` sees it.
abi::StatX86 stat_for_user(const creds::UserNamespace& ns, const vfs::Stat& s);

class StatAnswers final : public base::RefCounted {
 public:
  static base::Result<base::RefPtr<StatAnswers>> create(memory::MemoryFile& file);
  vfs::InPlaceMemory& memory() const { return *memory_; }
  static uint64_t new_reader();

  struct Answer {
    uint64_t reader, base;
    std::string_view name;
    uint8_t ways, says, access;
    int16_t error;
    const abi::StatX86* stat;  // when error is 0
    std::string_view target;   // of a link; left out when it is too long
    uint64_t paths;
    std::array<uint32_t, 3> words;
    std::array<uint64_t, 3> changes;
  };
  // Too long a name is left out.
  void put(const Answer& answer);
  // A name of the directory with this key was asked for (or its listing), and found: how many that follow it are to be put too.
  enum class Asked : uint8_t { kName, kListing };
  size_t window(uint64_t directory, Asked asked, std::string_view name);
  // So many were put; what comes behind them in the listing is `next`.
  void count_ahead(uint64_t directory, size_t n, std::string_view next);

 private:
  template <typename T, typename... A>
  friend base::RefPtr<T> base::make_ref(A&&...);
  explicit StatAnswers(base::RefPtr<vfs::InPlaceMemory> memory);
  vfs::in_place::AnswerTable& table() const { return *static_cast<vfs::in_place::AnswerTable*>(static_cast<void*>(memory_->bytes())); }
  void judge_locked() REQUIRES(mu_);

  struct Directory {
    uint64_t key = 0;
    uint64_t next = 0;  // hash of the name that comes behind what was put ahead
    uint32_t asked = 0, grown = 0;
    uint32_t scattered = 0;  // times in a row that another name than `next` was asked for
  };
  static constexpr size_t kDirectories = 64;
  const base::RefPtr<vfs::InPlaceMemory> memory_;
  base::Mutex mu_{base::LockRank::kLeaf};
  std::array<uint16_t, vfs::in_place::AnswerTable::kSlots> slots_ GUARDED_BY(mu_) = {};  // as in the table, which the guest can write
  uint32_t next_ GUARDED_BY(mu_) = 0;      // the answer to replace
  uint32_t next_opened_ GUARDED_BY(mu_);   // ... by that of a description, which is asked for soon or never
  std::array<uint32_t, vfs::in_place::AnswerTable::kAnswers> written_ GUARDED_BY(mu_) = {};  // version_ then
  uint32_t version_ GUARDED_BY(mu_) = 0;   // of the last one written
  std::array<Directory, kDirectories> directories_ GUARDED_BY(mu_);
  // Whether what is put ahead is asked for.
  enum class Trust : uint8_t { kNone, kSome, kFull };
  Trust trust_ GUARDED_BY(mu_) = Trust::kSome;
  uint64_t hits_ GUARDED_BY(mu_) = 0, used_ GUARDED_BY(mu_) = 0, ahead_ GUARDED_BY(mu_) = 0;
  uint32_t refused_ GUARDED_BY(mu_) = 0;
};

// Whether an answer is to be left for what it opens now: fstat(2) was asked for lately.
bool stats_what_it_opens(Task& task);

// Of a program that begins, before its first instruction: it gets what others in its position have asked, without an approval of its own.
void begin_with_answers(Task& task);

// Made before the call looks at anything.
class StatAsker {
 public:
  explicit StatAsker(Task& task);
  ~StatAsker();
  // Null where nothing would be kept.
  vfs::WalkRecord* record() { return answers_ || common_ ? &record_ : nullptr; }
  // The walk of `path` from `from` (null: the working directory or, for an absolute path, the root) said this. `fd` is its number.
  // `target`: where it leads, when it is a link and that is known.
  enum class Link : uint8_t { kFollow, kNoFollow };
  void keep(vfs::FileDescription* from, abi::Fd fd, std::string_view path, Link link, const base::Result<vfs::PathStat>& found,
            std::string_view target = {});
  void keep_description(vfs::FileDescription& file, abi::Fd fd, const vfs::Stat& stat);
  // Of a file that was just opened by this path.
  void keep_opened(vfs::FileDescription& file, abi::Fd fd, std::string_view path);
  // Of a directory that was just listed from the beginning.
  void keep_listed(vfs::FileDescription& directory);

 private:
  // Beside its attributes, what is known of a file.
  struct Place {
    uint64_t mount_id, mount_flags;
    bool is_mount_root;
    static Place of(const vfs::Path& path);
  };
  void join(Task& task);
  enum class Table : uint8_t { kOwn, kCommon };
  void put(Table table, uint64_t base, std::string_view name, uint8_t ways, uint64_t directory, const vfs::Stat* stat, const Place* place = nullptr,
           std::string_view target = {});
  void keep_siblings(uint64_t base, std::string_view path, StatAnswers::Asked asked, const Place* place);

  Task& task_;
  base::RefPtr<StatAnswers> answers_;
  base::RefPtr<CommonAnswers> common_;
  vfs::WalkRecord record_;
  vfs::QuietTime quiet_;
};

}  // namespace sentry::kernel
