// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/stat_answers.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "sentry/kernel/common_answers.h"
#include "sentry/kernel/in_place_view.h"
#include "sentry/kernel/kernel_impl.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

namespace in_place = platform::in_place;
using base::RefPtr;
using in_place::AnswerTable;
using in_place::StatAnswer;

namespace {

constexpr uint32_t kWorthTable = 24;   // calls before a process gets a table
constexpr uint32_t kWorthJoining = 2;  // calls before it gets what others have asked
constexpr uint32_t kOpens = 64;         // files that are opened after a fstat(2), for which an answer is left
constexpr uint32_t kOpened = 256;      // answers of a table for what was just opened
constexpr uint64_t kJudgedAfter = 64;  // answers put ahead
constexpr uint64_t kRemembered = 2048;  // of them

// Readers' numbers are never used again: what was left for one is for nobody else.
std::atomic<uint64_t> last_reader{0};

uint64_t number_of(const vfs::Dentry& dentry) { return dentry.inode_ptr()->number(); }

// The key's name as the stub has it, in words padded with zeros.
struct NameWords {
  std::array<uint64_t, StatAnswer::kMostName / 8> words = {};
  explicit NameWords(std::string_view name) {
    if (!name.empty()) std::memcpy(words.data(), name.data(), name.size());
  }
};

// StatAnswer::access; nothing where that does not say it all.
std::optional<uint8_t> access_of(const creds::Credentials& c, const vfs::Stat& s, uint64_t mount_flags) {
  const uint32_t type = s.mode & abi::kS_IFMT;
  const bool unwritable = (mount_flags & vfs::kMsRdOnly) && (type == abi::kS_IFREG || type == abi::kS_IFDIR || type == abi::kS_IFLNK);
  if (type == abi::kS_IFREG && (mount_flags & vfs::kMsNoExec)) return std::nullopt;
  uint8_t access = unwritable ? StatAnswer::kReadOnly : 0;
  const creds::InodeOwner owner{s.uid, s.gid, s.mode};
  for (unsigned want = 1; want < 8; ++want)
    if (!(unwritable && (want & 2)) && creds::check_permission(c, owner, want)) access |= static_cast<uint8_t>(1u << want);
  return access;
}

}  // namespace

abi::StatX86 stat_for_user(const creds::UserNamespace& ns, const vfs::Stat& s) {
  abi::StatX86 u;
  u.dev = s.device.encoded();
  u.ino = s.inode;
  u.nlink = s.nlink;
  u.mode = s.mode;
  u.uid = ns.unmap_uid(s.uid).value();
  u.gid = ns.unmap_gid(s.gid).value();
  u.rdev = s.rdev.encoded();
  u.size = static_cast<int64_t>(s.size);
  u.blksize = s.block_size;
  u.blocks = static_cast<int64_t>(s.blocks);
  u.atime_sec = s.atime.sec;
  u.atime_nsec = s.atime.nsec;
  u.mtime_sec = s.mtime.sec;
  u.mtime_nsec = s.mtime.nsec;
  u.ctime_sec = s.ctime.sec;
  u.ctime_nsec = s.ctime.nsec;
  return u;
}

StatAnswers::StatAnswers(RefPtr<vfs::InPlaceMemory> memory) : memory_(std::move(memory)), next_opened_(AnswerTable::kAnswers - kOpened) {}

base::Result<RefPtr<StatAnswers>> StatAnswers::create(memory::MemoryFile& file) {
  return base::make_ref<StatAnswers>(TRY(vfs::InPlaceMemory::create(file, in_place::kAnswerBlocks * in_place::kBlockSize)));
}

uint64_t StatAnswers::new_reader() { return last_reader.fetch_add(1, std::memory_order_relaxed) + 1; }

// Nothing of the table is read: the guest may have written to it.
void StatAnswers::put(const Answer& answer) {
  static_assert(sizeof(abi::StatX86) == sizeof StatAnswer::stat);
  if (answer.name.size() > StatAnswer::kMostName) return;
  const NameWords name(answer.name);
  uint64_t hash = in_place::hash_step(in_place::hash_step(answer.reader, answer.base), answer.name.size());
  for (size_t i = 0; i < (answer.name.size() + 7) / 8; ++i) hash = in_place::hash_step(hash, name.words[i]);
  base::MutexLock lock(mu_);
  constexpr uint32_t kNames = AnswerTable::kAnswers - kOpened;
  const uint32_t place = answer.name.empty() ? next_opened_ : next_;
  if (!answer.name.empty()) next_ = (next_ + 1) % kNames;
  else if (++next_opened_ == AnswerTable::kAnswers) next_opened_ = kNames;
  version_ += 2;
  StatAnswer& to = table().answers[place];
  __atomic_store_n(&to.version, version_ - 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  to.error = answer.error;
  to.access = answer.access;
  to.says = answer.says;
  to.reader = answer.reader;
  to.base = answer.base;
  to.paths = answer.paths;
  for (size_t i = 0; i < answer.words.size(); ++i) {
    to.words[i] = static_cast<uint16_t>(answer.words[i]);
    to.changes[i] = answer.changes[i];
  }
  to.name_length = static_cast<uint8_t>(answer.name.size());
  to.ways = answer.ways;
  if (answer.stat) std::memcpy(to.stat, answer.stat, sizeof to.stat);
  const size_t target_at = (answer.name.size() + 7) & ~size_t{7};
  std::memcpy(to.name, name.words.data(), target_at);
  if (!answer.target.empty() && answer.target.size() <= StatAnswer::kMostName - target_at) {
    std::memcpy(to.name + target_at, answer.target.data(), answer.target.size());
    to.says |= StatAnswer::kTarget;
  }
  __atomic_store_n(&to.version, version_, __ATOMIC_RELEASE);
  // Of the two the one whose answer is older.
  uint32_t slot = in_place::slot_of(hash);
  const auto age = [&](uint32_t at) {
    mu_.assert_held();
    return slots_[at] == 0 ? ~uint32_t{0} : version_ - written_[slots_[at] - 1u];
  };
  if (age(slot + 1) > age(slot)) ++slot;
  slots_[slot] = static_cast<uint16_t>(place + 1);
  written_[place] = version_;
  __atomic_store_n(&table().slots[slot], slots_[slot], __ATOMIC_RELEASE);
}

// `hits` counts all answers that the stub gave, and is its word: good enough for a guess.
void StatAnswers::judge_locked() {
  const uint64_t hits = __atomic_load_n(&table().hits, __ATOMIC_RELAXED);
  used_ += std::min(hits - hits_, kRemembered);
  hits_ = hits;
  if (ahead_ < kJudgedAfter) return;
  // A call costs as much as eight answers or more; and of a tree that is walked depth first some are asked for much later.
  trust_ = used_ >= ahead_ / 8 ? Trust::kFull : used_ >= ahead_ / 32 ? Trust::kSome : Trust::kNone;
  if (ahead_ < kRemembered) return;
  ahead_ /= 2;
  used_ /= 2;
}

size_t StatAnswers::window(uint64_t directory, Asked asked, std::string_view name) {
  constexpr size_t kFirst = 16;
  constexpr uint32_t kRetry = 32;
  constexpr uint32_t kScattered = 128;  // by then most of a directory whose names have room in the table is there
  base::MutexLock lock(mu_);
  judge_locked();
  if (asked == Asked::kListing && trust_ != Trust::kFull) return 0;
  Directory& d = directories_[directory % kDirectories];
  if (d.key != directory) d = Directory{.key = directory};
  const uint32_t before = d.asked++;
  if (trust_ == Trust::kNone) {
    if (++refused_ % kRetry != 0) return 0;
    return kFirst;
  }
  if (before == 0 && trust_ != Trust::kFull) return 0;
  // More each time, where they are asked for in the order of the listing. In another order (fts(3) sorts large directories by inode) what
  // is put ahead in a large one has been replaced before it is asked for.
  const bool follows = before != 0 && d.next == std::hash<std::string_view>{}(name);
  d.grown = follows ? std::min<uint32_t>(d.grown + 1, 4) : 0;
  d.scattered = follows ? 0 : d.scattered + 1;
  return d.scattered > kScattered ? 0 : kFirst << d.grown;
}

void StatAnswers::count_ahead(uint64_t directory, size_t n, std::string_view next) {
  base::MutexLock lock(mu_);
  ahead_ += n;
  Directory& d = directories_[directory % kDirectories];
  if (d.key == directory) d.next = std::hash<std::string_view>{}(next);
}

void begin_with_answers(Task& task) {
  task.priv().paths_asked = kWorthJoining;
  task.priv().opens_kept = kOpens;  // dynamic linkers do
  const StatAsker joins(task);
}

bool stats_what_it_opens(Task& task) {
  Task::Private& p = task.priv();
  if ((p.reader == 0 && !p.common) || p.opens_kept == 0) return false;
  --p.opens_kept;  // at 0 the next fstat(2) comes to the sentry, if there is one
  return true;
}

StatAsker::StatAsker(Task& task) : task_(task) {
  Task::Private& p = task.priv();
  if (!p.in_place_ok || !works_in_place(task)) return;
  join(task);
  const bool many = p.reader != 0 || ++p.stats_asked > kWorthTable;
  answers_ = task.fds().answers(task.mm(), task.kernel().memory(), many);
  if (!answers_ && p.reader == 0) return;
  if (answers_ && p.reader != 0) return;
  p.reader = answers_ ? StatAnswers::new_reader() : 0;
  p.context->set_reader(p.reader);
}

StatAsker::~StatAsker() = default;

// Where paths begin is looked at in a time in which nothing changes, and counted before: whoever moves the root or the working directory, for
// this task or from another one that shares them, makes the stub see another count from the moment on in which it begins to.
void StatAsker::join(Task& task) {
  Task::Private& p = task.priv();
  if (!p.common && ++p.paths_asked < kWorthJoining) return;
  const uint32_t word = vfs::change_word(task.fs().number());
  const uint64_t count = vfs::change_count(word);
  RefPtr<CommonAnswers> found = p.common;
  if (!p.common || p.common_count != count) {
    found = task.kernel().impl().common_answers.find(task);
    if (!quiet_.lasts()) return;
  }
  if (!found || !task.fds().share_answers(task.mm(), *found)) {
    if (p.common) p.context->set_common_reader({});
    p.common.reset();
    return;
  }
  if (p.common != found || p.common_count != count) p.context->set_common_reader({found->reader(), count, word});
  p.common = found;
  p.common_count = count;
  common_ = std::move(found);
}

StatAsker::Place StatAsker::Place::of(const vfs::Path& path) {
  return {path.mount->id(), path.mount->flags(), path.dentry == path.mount->root()};
}

void StatAsker::put(Table table, uint64_t base, std::string_view name, uint8_t ways, uint64_t directory, const vfs::Stat* stat, const Place* place,
                    std::string_view target) {
  const bool common = table == Table::kCommon;
  StatAnswers::Answer answer = {.reader = common ? common_->reader() : task_.priv().reader, .base = base, .name = name, .ways = ways, .says = 0, .access = 0, .error = 0,
                                .stat = nullptr, .target = target, .paths = 0, .words = {}, .changes = {}};
  answer.words[StatAnswer::kOfName] = vfs::change_word(directory);
  answer.words[StatAnswer::kOfFile] = stat ? vfs::change_word(stat->inode) : answer.words[StatAnswer::kOfName];
  // Whose place is meant in common each of them knows itself.
  answer.words[StatAnswer::kOfPlace] = common ? answer.words[StatAnswer::kOfName] : vfs::change_word(task_.fs().number());
  answer.paths = vfs::change_count(vfs::kChangedPaths);
  for (size_t i = 0; i < answer.words.size(); ++i) answer.changes[i] = vfs::change_count(answer.words[i]);
  if (!quiet_.lasts()) return;
  if (!creds::access_differs(task_.creds())) answer.says |= StatAnswer::kReal;
  abi::StatX86 user;
  if (stat) {
    user = stat_for_user(*task_.creds().user_ns, *stat);
    answer.stat = &user;
    if (target.size() != stat->size) answer.target = {};
  } else {
    answer.error = -static_cast<int16_t>(abi::Errno::kENOENT);
  }
  if (stat && place) {
    if (const auto access = access_of(task_.creds(), *stat, place->mount_flags)) {
      answer.says |= StatAnswer::kRights;
      answer.access = *access;
    }
    answer.says |= StatAnswer::kMount;
    user.pad0 = (stat->btime ? StatAnswer::kHasBtime : 0) | (place->is_mount_root ? StatAnswer::kIsMountRoot : 0);
    if (stat->btime) user.unused[0] = stat->btime->sec, user.unused[1] = stat->btime->nsec;
    user.unused[2] = static_cast<int64_t>(place->mount_id);
  }
  (common ? common_->table() : *answers_).put(answer);
}

void StatAsker::keep(vfs::FileDescription* from, abi::Fd fd, std::string_view path, Link link, const base::Result<vfs::PathStat>& found,
                     std::string_view target) {
  if (!record() || !record_.told || path.empty() || (!found && found.error() != abi::Errno::kENOENT)) return;
  uint64_t base = path.front() == '/' ? in_place::kRootBase : in_place::kCurrentBase;
  const Table table = base == in_place::kRootBase && common_ ? Table::kCommon : Table::kOwn;
  if (table == Table::kOwn && !answers_) return;
  if (path.front() != '/' && from) {
    base = from->number();
    task_.fds().show_description(task_.mm(), fd, *from);
  }
  // The two ways of asking differ where the last name is a link.
  uint8_t ways = StatAnswer::kFollow | StatAnswer::kNoFollow;
  const bool is_link = found && (found->stat.mode & abi::kS_IFMT) == abi::kS_IFLNK;
  if (is_link || record_.followed) ways = link == Link::kFollow ? StatAnswer::kFollow : StatAnswer::kNoFollow;
  const uint64_t directory = record_.directory ? number_of(*record_.directory) : 0;
  if (!found) return put(table, base, path, ways, directory, nullptr);
  const Place place{found->mount_id, found->mount_flags, found->is_mount_root};
  put(table, base, path, ways, directory, &found->stat, &place, target);
  // What is on a mount point says nothing of the mount that its name is in.
  if (answers_ && record_.directory && !record_.followed && path.back() != '/')
    keep_siblings(base, path, StatAnswers::Asked::kName, found->is_mount_root ? nullptr : &place);
}

void StatAsker::keep_siblings(uint64_t base, std::string_view path, StatAnswers::Asked asked, const Place* place) {
  const size_t slash = path.rfind('/');
  const std::string_view above = path.substr(0, slash == path.npos ? 0 : slash + 1), last = path.substr(above.size());
  const uint64_t directory = number_of(*record_.directory);
  const uint64_t key = in_place::hash_step(in_place::hash_step(base, directory), above.size());
  const size_t most = answers_->window(key, asked, last);
  if (most == 0) return;
  std::string name(above);
  size_t put_ahead = 0;
  std::string next;
  vfs::peek_siblings(task_, *record_.directory, last, most + 1, [&](std::string_view sibling, const vfs::Stat& stat) {
    if (put_ahead == most) {
      next = sibling;
      return;
    }
    name.resize(above.size());
    name += sibling;
    const bool is_link = (stat.mode & abi::kS_IFMT) == abi::kS_IFLNK;
    put(Table::kOwn, base, name, is_link ? StatAnswer::kNoFollow : StatAnswer::kFollow | StatAnswer::kNoFollow, directory, &stat, place);
    ++put_ahead;
  });
  answers_->count_ahead(key, put_ahead, next);
}

void StatAsker::keep_description(vfs::FileDescription& file, abi::Fd fd, const vfs::Stat& stat) {
  vfs::Inode& inode = file.inode();
  task_.priv().opens_kept = kOpens;
  if (!answers_ || !inode.tells_changes() || (!inode.is_regular() && !inode.is_dir())) return;
  const Place place = Place::of(file.path());
  put(Table::kOwn, file.number(), {}, StatAnswer::kFollow | StatAnswer::kNoFollow, 0, &stat, &place);
  task_.fds().show_description(task_.mm(), fd, file);
}

void StatAsker::keep_listed(vfs::FileDescription& directory) {
  // Who may list it may not yet ask for what is in it.
  if (!answers_ || !directory.inode().tells_changes() || !directory.inode().permission(task_, 1)) return;
  record_.directory = directory.path().dentry;
  Place place = Place::of(directory.path());
  place.is_mount_root = false;
  keep_siblings(directory.number(), {}, StatAnswers::Asked::kListing, &place);
}

void StatAsker::keep_opened(vfs::FileDescription& file, abi::Fd fd, std::string_view path) {
  if (!record() || !file.inode().tells_changes()) return;
  auto stat = file.stat(task_);
  if (!stat) return;
  const uint32_t left = task_.priv().opens_kept;
  if (answers_) {
    keep_description(file, fd, *stat);
  } else if (path.front() == '/' && (file.inode().is_regular() || file.inode().is_dir())) {
    // What others in the same position could open as well.
    const Place place = Place::of(file.path());
    put(Table::kCommon, file.number(), {}, StatAnswer::kFollow | StatAnswer::kNoFollow, 0, &*stat, &place);
    task_.fds().show_description(task_.mm(), fd, file);
  }
  task_.priv().opens_kept = left;
}

}  // namespace sentry::kernel
