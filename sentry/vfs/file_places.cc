// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/file_places.h"

#include <algorithm>
#include <bit>
#include <ctime>
#include <map>
#include <utility>

#include <sched.h>

#include "base/core/check.h"
#include "sentry/vfs/file_description.h"

namespace sentry::vfs {

using in_place::FilePlace;
using in_place::PlacesBlock;

namespace {

constexpr int kMostTrust = 8;
constexpr uint8_t kWastedMost = 2;
constexpr size_t kSmallFile = 16 * 1024;
constexpr uint32_t kWellUsed = 64;  // reads that were worth a window

// A stub holds a place for the time of a copy, unless it gets no CPU meanwhile. What it says is its own word: there is an end of waiting.
constexpr int64_t kMostWaiting = 50'000'000;

int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

// Who may write a file. in_place_mutex(); none longer than its description is lent.
struct Writer {
  FilePlaces* places;
  size_t place;
};
std::map<const Inode*, Writer>& writers() {
  static auto& all = *new std::map<const Inode*, Writer>;
  return all;
}

uint64_t state_of(uint16_t tag, uint64_t position) { return uint64_t{tag} << in_place::kPositionBits | position; }

}  // namespace

base::Result<base::RefPtr<FilePlaces>> FilePlaces::create(memory::MemoryFile& file, const void* table, platform::AddressSpace& space) {
  return base::make_ref<FilePlaces>(TRY(InPlaceMemory::create(file, in_place::kBlockSize)), table, space);
}

size_t FilePlaces::index_of(const FileDescription& file) const { return file.number_if_any() % in_place::kPlaces; }

FilePlace& FilePlaces::place(size_t i) const { return static_cast<PlacesBlock*>(static_cast<void*>(memory_->bytes()))->of[i]; }

// The stub gives nothing that was read while the version was odd or another one.
template <typename F>
void FilePlaces::rewrite(size_t i, F&& f) {
  FilePlace& p = place(i);
  Mine& m = mine_[i];
  m.version += 2;
  __atomic_store_n(&p.version, m.version - 1, __ATOMIC_SEQ_CST);
  f(p);
  __atomic_store_n(&p.version, m.version, __ATOMIC_SEQ_CST);
}

void FilePlaces::lend_locked(FileDescription& file) {
  const size_t i = index_of(file);
  Mine& m = mine_[i];
  if (m.file == &file) return;
  const uint64_t position = file.offset_.load(std::memory_order_relaxed);
  if (position > in_place::kMostPosition) return;
  if (m.file && is_window_wanted(i)) return;
  if (m.file) take_back_locked(*m.file);
  m.file = &file;
  if (++m.tag == 0) m.tag = 1;
  m.wasted = 0;
  m.alone = true;
  rewrite(i, [&](FilePlace& p) {
    p.inode = 0;
    p.kind = file.inode().is_dir() ? in_place::kPlaceDirectory : 0;
    p.length = 0;
    p.window_length = 0;
  });
  m.write_time = 0;
  __atomic_store_n(&place(i).number, file.number_if_any(), __ATOMIC_SEQ_CST);
  __atomic_store_n(&place(i).state, state_of(m.tag, position), __ATOMIC_SEQ_CST);
  file.lent_.store(this, std::memory_order_seq_cst);
  // Who uses the position says so and then looks whether it is lent.
  if (file.positions_held_.load(std::memory_order_seq_cst) != 0) take_back_locked(file);
}

uint64_t FilePlaces::position_locked(const FileDescription& file) const {
  const uint64_t state = __atomic_load_n(&place(index_of(file)).state, __ATOMIC_SEQ_CST);
  return state >> in_place::kPositionBits != 0 ? state & in_place::kPositionMask : file.offset_.load(std::memory_order_relaxed);
}

void FilePlaces::hold_position_locked(FileDescription& file) {
  const uint64_t state = __atomic_exchange_n(&place(index_of(file)).state, uint64_t{0}, __ATOMIC_SEQ_CST);
  if (state >> in_place::kPositionBits != 0) file.offset_.store(state & in_place::kPositionMask, std::memory_order_relaxed);
}

void FilePlaces::set_position_locked(FileDescription& file, uint64_t position) {
  if (position > in_place::kMostPosition) {
    take_back_locked(file);
    file.offset_.store(position, std::memory_order_relaxed);
    return;
  }
  const size_t i = index_of(file);
  __atomic_store_n(&place(i).state, state_of(mine_[i].tag, position), __ATOMIC_SEQ_CST);
}

void FilePlaces::take_back_locked(FileDescription& file) {
  const size_t i = index_of(file);
  Mine& m = mine_[i];
  CHECK(m.file == &file);
  judge(i);
  hold_position_locked(file);
  __atomic_store_n(&place(i).number, uint64_t{0}, __ATOMIC_SEQ_CST);
  if (m.window.length != 0) drop_window(i);
  if (auto it = writers().find(&file.inode()); it != writers().end() && it->second.places == this && it->second.place == i) writers().erase(it);
  m.file = nullptr;
  m.length = 0;
  file.lent_.store(nullptr, std::memory_order_seq_cst);
}

void FilePlaces::note_second_locked(const FileDescription& file) {
  const size_t i = index_of(file);
  mine_[i].alone = false;
  rewrite(i, [](FilePlace& p) { p.kind &= static_cast<uint16_t>(~in_place::kPlaceAlone); });
}

void FilePlaces::forbid_writes_locked(const FileDescription& file) {
  const size_t i = index_of(file);
  mine_[i].write_time = 0;
  rewrite(i, [](FilePlace& p) { p.kind &= static_cast<uint16_t>(~in_place::kPlaceWritable); });
}

void FilePlaces::take_all_back_locked() {
  for (Mine& m : mine_)
    if (m.file) take_back_locked(*m.file);
}

// `used` is the stub's word: good enough for a guess.
void FilePlaces::judge(size_t i) {
  Mine& m = mine_[i];
  if (m.length == 0) return;
  const bool used = __atomic_load_n(&place(i).used, __ATOMIC_RELAXED) != m.used_before;
  m.wasted = used ? 0 : static_cast<uint8_t>(m.wasted + 1);
  if (m.opened_ahead) trust_ = std::clamp(trust_ + (used ? 1 : -2), 0, kMostTrust);
  m.opened_ahead = false;
}

std::span<uint8_t> FilePlaces::begin_reading(size_t n) {
  base::MutexLock lock(in_place_mutex());
  if (reading_ || n > kMostAhead) return {};
  reading_ = true;
  n = (n + 63) & ~size_t{63};
  if (next_byte_ + n > in_place::kBlockSize) next_byte_ = PlacesBlock::kBytes;
  const uint32_t first = next_byte_, end = first + static_cast<uint32_t>(n);
  next_byte_ = end;
  for (size_t i = 0; i < mine_.size(); ++i) {
    Mine& m = mine_[i];
    if (m.length == 0 || m.first >= end || m.first + m.length <= first) continue;
    m.length = 0;
    rewrite(i, [](FilePlace& p) { p.length = 0; });
  }
  return {memory_->bytes() + first, n};
}

void FilePlaces::end_reading() {
  base::MutexLock lock(in_place_mutex());
  reading_ = false;
}

// --- Windows ---

uint32_t FilePlaces::uses_of_window(size_t i) const {
  return __atomic_load_n(&place(i).window_used, __ATOMIC_RELAXED) + __atomic_load_n(&place(i).window_written, __ATOMIC_RELAXED);
}

// Somebody else would like to have the place.
bool FilePlaces::is_window_wanted(size_t i) {
  FileWindow& window = mine_[i].window;
  const uint32_t used = uses_of_window(i);
  return window.length != 0 && std::exchange(window.used_chance, used) != used;
}

// Whether it is still right; and what has become of it since it was last told of.
void FilePlaces::keep_window(size_t i, const KnownFile& known) {
  FileWindow& window = mine_[i].window;
  if (window.length == 0) return;
  FileDescription& file = *mine_[i].file;
  const bool to_write = known.write_time != 0;
  WindowHabit& habit = to_write ? static_cast<WindowHabit&>(file.write_habit()) : file.read_habit();
  const uint32_t used = __atomic_load_n(to_write ? &place(i).window_written : &place(i).window_used, __ATOMIC_RELAXED);
  uint32_t& before = to_write ? window.written_before : window.read_before;
  habit.note_told(std::exchange(before, used) != used ? WindowHabit::Told::kUsed : WindowHabit::Told::kUnused);
  if (!known.window.is_empty() && uses_of_window(i) - window.used_first >= kWellUsed) habit.was_worth_it();
  if (!known.window.is_empty() || window.pages != known.pages || window.removals != known.removals) drop_window(i);
}

void FilePlaces::make_window(size_t i, const KnownFile& known) {
  FileWindow& window = mine_[i].window;
  window.at = find_room(known.window.length());
  window.pages = known.pages;
  window.writes = known.window.writes();
  if (window.writes) window.pages->write_windows.fetch_add(1);
  window.ticket = known.window.map(*window.pages, space_, window.at);
  window.removals = known.removals;
  window.start = known.window.start();
  window.length = known.window.length();
  window.made = ++windows_made_;
  window.used_first = uses_of_window(i);
  window.read_before = __atomic_load_n(&place(i).window_used, __ATOMIC_RELAXED);
  window.written_before = __atomic_load_n(&place(i).window_written, __ATOMIC_RELAXED);
  mine_[i].file->read_habit().set_window(true);
  mine_[i].file->write_habit().set_window(window.writes);
}

void FilePlaces::drop_window(size_t i) {
  Mine& m = mine_[i];
  rewrite(i, [](FilePlace& p) { p.window_length = 0; });  // before its pages go
  m.write_time = 0;
  if (m.window.writes) {
    await_stub(i);
    m.window.pages->write_windows.fetch_sub(1);
  }
  space_.unmap_window(m.window.at, m.window.length);
  m.window = {};
  m.file->read_habit().set_window(false);
  m.file->write_habit().set_window(false);
}

// The first gap of that length; the windows that were made longest ago give way.
uint64_t FilePlaces::find_room(uint64_t length) {
  CHECK(length <= in_place::kWindowRoom);
  const auto in_the_way = [&](uint64_t at) {
    return std::ranges::find_if(mine_, [&](const Mine& m) {
      return m.window.length != 0 && at < m.window.at + m.window.length && m.window.at < at + length;
    });
  };
  for (;;) {
    uint64_t at = 0;
    for (auto there = in_the_way(at); there != mine_.end(); there = in_the_way(at)) at = there->window.at + there->window.length;
    if (at + length <= in_place::kWindowRoom) return at;
    size_t oldest = mine_.size();
    for (size_t i = 0; i < mine_.size(); ++i) {
      if (mine_[i].window.length != 0 && (oldest == mine_.size() || mine_[i].window.made < mine_[oldest].window.made)) oldest = i;
    }
    drop_window(oldest);
  }
}

// Its stub may write until something of the file changes, or its times would.
void FilePlaces::may_write(size_t i, const KnownFile& known) {
  Mine& m = mine_[i];
  if (!m.window.writes || !m.file->is_writable() || (m.file->status_flags() & kO_APPEND) || is_slow_.load()) return;
  m.write_changes = known.changes;
  m.write_time = known.write_time;
  writers()[&m.file->inode()] = {this, i};  // before its stub knows
}

void FilePlaces::await_stub(size_t i) {
  if (is_slow_.load()) return;
  const uint32_t& writing = place(i).writing;
  for (int64_t end = 0; __atomic_load_n(&writing, __ATOMIC_SEQ_CST) != 0; sched_yield()) {
    const int64_t now = now_ns();
    if (end == 0) end = now + kMostWaiting;
    if (now > end) return is_slow_.store(true);
  }
}

void FilePlaces::await_writer(const Inode& inode) {
  base::RefPtr<FilePlaces> places;
  size_t i = 0;
  {
    base::MutexLock lock(in_place_mutex());
    auto it = writers().find(&inode);
    if (it == writers().end()) return;
    places = base::RefPtr<FilePlaces>(it->second.places);
    i = it->second.place;
  }
  places->await_stub(i);
}

void FilePlaces::await_all_writers() {
  std::vector<std::pair<base::RefPtr<FilePlaces>, size_t>> all;
  {
    base::MutexLock lock(in_place_mutex());
    for (const auto& [inode, writer] : writers()) all.emplace_back(writer.places, writer.place);
  }
  for (const auto& [places, i] : all) places->await_stub(i);
}

void FilePlaces::tell(FileDescription& file, const KnownFile& known) {
  base::MutexLock lock(in_place_mutex());
  const size_t i = index_of(file);
  Mine& m = mine_[i];
  if (m.file != &file || known.end > in_place::kMostPosition) return;
  const bool as_before = m.word == known.word && m.changes == known.changes;
  m.word = static_cast<uint16_t>(known.word);
  m.changes = known.changes;
  if (!known.bytes.empty()) {
    judge(i);
    m.first = static_cast<uint32_t>(known.bytes.data() - memory_->bytes());
    m.length = static_cast<uint32_t>(known.bytes.size());
    m.used_before = __atomic_load_n(&place(i).used, __ATOMIC_RELAXED);
    m.opened_ahead = known.start == 0;
  } else if (!as_before) {
    m.length = 0;
  }
  const int readable = !known.readable || !file.is_readable() ? 0 : in_place::kPlaceReadable | (known.steady ? in_place::kPlaceSteady : 0);
  keep_window(i, known);
  if (!known.window.is_empty() && (readable != 0 || known.window.writes())) make_window(i, known);
  if (known.write_time != 0) may_write(i, known);
  rewrite(i, [&](FilePlace& p) {
    p.kind = static_cast<uint16_t>(in_place::kPlaceSize | readable |
                                   (file.inode().is_dir() ? in_place::kPlaceDirectory : 0) | (m.alone ? in_place::kPlaceAlone : 0) |
                                   (m.write_time != 0 ? in_place::kPlaceWritable : 0));
    if (known.inode != 0) {
      p.device = known.device;
      p.inode = known.inode;
      p.mount = known.mount;
    }
    p.word = m.word;
    p.changes = known.changes;
    p.paths = known.paths;
    p.end = known.end;
    if (!known.bytes.empty()) {
      p.start = known.start;
      p.bytes = m.first;
    }
    p.length = m.length;
    p.size_word = static_cast<uint16_t>(known.size_word);
    p.sizes = known.sizes;
    p.window_start = m.window.start;
    p.window_length = m.window.length;
    p.window_at = m.window.at;
    p.window_ticket = m.window.ticket;
    p.write_changes = m.write_changes;
    p.write_time = static_cast<uint64_t>(m.write_time);
  });
}

size_t FilePlaces::worth_at_open(uint64_t size) {
  base::MutexLock lock(in_place_mutex());
  return trust_ > 0 && size <= kSmallFile ? size : 0;
}

bool FilePlaces::is_opened_often(uint64_t inode) {
  base::MutexLock lock(in_place_mutex());
  LastOpened& last = last_opened_[inode % last_opened_.size()];
  if (last.inode != inode) last = {.inode = inode, .times = 0};
  return std::has_single_bit(++last.times) && last.times > 1;
}

void FilePlaces::learn_from_beginning(uint64_t size) {
  base::MutexLock lock(in_place_mutex());
  if (size <= kSmallFile) trust_ = std::min(trust_ + 2, kMostTrust);
}

size_t FilePlaces::worth_behind(const FileDescription& file, uint64_t from, uint64_t asked, uint64_t size) {
  if (from <= asked) learn_from_beginning(size);
  base::MutexLock lock(in_place_mutex());
  const Mine& m = mine_[index_of(file)];
  if (m.file != &file || (m.window.length != 0 && m.window.covers(from, std::min(asked, size - std::min(from, size))))) return 0;
  const bool unused = m.length != 0 && __atomic_load_n(&place(index_of(file)).used, __ATOMIC_RELAXED) == m.used_before;
  if (m.wasted + (unused ? 1 : 0) >= kWastedMost || asked > kMostAhead / 2 || from >= size) return 0;
  return std::min<uint64_t>(size - from, kMostAhead);
}

}  // namespace sentry::vfs
