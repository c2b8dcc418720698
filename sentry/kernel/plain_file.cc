// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/plain_file.h"

#include "sentry/kernel/in_place_view.h"
#include "sentry/kernel/task_private.h"
#include "sentry/vfs/file_time.h"

namespace sentry::kernel {

PlainFile::PlainFile(Task& task, abi::Fd fd, vfs::FileDescription& file) : task_(task), file_(file), fd_(fd) {
  const bool endless = file.endless() != vfs::FileDescription::Endless::kNo;
  if ((!file.lends_position() && !file.closes_later() && !endless) || !task.priv().in_place_ok || !works_in_place(task)) return;
  quiet_.emplace();
}

PlainFile::Opened PlainFile::opened() {
  if (!quiet_) return Opened::kOnce;
  task_.fds().show_description(task_.mm(), fd_, file_, FdTable::MakeView::kYes);
  if (!lend() || !file_.inode().is_regular()) return Opened::kOnce;  // directories are lent, too
  if (const std::optional<uint64_t> size = know()) tell(0, tells_content() && file_.is_readable() ? places_->worth_at_open(*size) : 0);
  return file_.closes_later() && known_.inode != 0 && places_->is_opened_often(known_.inode) ? Opened::kOften : Opened::kOnce;
}

void PlainFile::has_read(uint64_t asked, uint64_t got) {
  const uint64_t at = file_.offset();
  if (file_.read_habit().note(at - std::min(at, got), got)) return make_window(at);
  const std::optional<uint64_t> size = know_lent();
  if (size) tell(at, tells_content() ? places_->worth_behind(file_, at, asked, *size) : 0);
}

void PlainFile::note_pread(Task& task, abi::Fd fd, vfs::FileDescription& file, uint64_t offset, uint64_t got) {
  if (file.read_habit().note(offset, got)) return PlainFile(task, fd, file).make_window(offset);
  if (file.read_habit().may_tell()) return PlainFile(task, fd, file).has_sought();
  if (offset == 0) PlainFile(task, fd, file).has_read_beginning();
}

void PlainFile::note_write(Task& task, abi::Fd fd, vfs::FileDescription& file, std::optional<uint64_t> offset, uint64_t n) {
  vfs::WriteHabit& habit = file.write_habit();
  if (habit.note(n, vfs::write_time(), vfs::change_count(vfs::size_word(file.inode().number()))))
    return PlainFile(task, fd, file).make_window_to_write(offset ? *offset : file.offset() - std::min(file.offset(), n));
  if (habit.may_tell()) PlainFile(task, fd, file).has_written();
}

void PlainFile::make_window(uint64_t at, vfs::WindowPlan::Use use) {
  if (!quiet_ || !file_.inode().is_regular()) return;
  places_ = task_.fds().lend_much_used(task_.mm(), fd_, file_, task_.kernel().memory());
  if (!places_ || !know()) return;
  if (!known_.pages) note_pages();
  const uint32_t level = std::max(file_.read_habit().level(), file_.write_habit().level());
  if (file_.write_habit().has_window()) use = vfs::WindowPlan::Use::kWrite;
  if (known_.pages && (known_.readable || use == vfs::WindowPlan::Use::kWrite))
    known_.window = vfs::WindowPlan(task_.kernel().memory(), *known_.pages, at, known_.end, level, use);
  tell(0, 0);
}

// What can be written can be read there, too.
void PlainFile::make_window_to_write(uint64_t at) {
  if (!quiet_ || !file_.is_readable() || !file_.inode().may_be_written_in_place()) return;
  file_.inode().set_written_in_place();
  quiet_.emplace();
  writes_ = true;
  make_window(at, vfs::WindowPlan::Use::kWrite);
}

void PlainFile::has_written() {
  writes_ = true;
  if (know_lent()) tell(0, 0);
}

void PlainFile::has_read_beginning() {
  if (const std::optional<uint64_t> size = know_lent(); size && tells_content()) places_->learn_from_beginning(*size);
}

void PlainFile::has_sought() {
  if (know_lent()) tell(0, 0);  // from now on where it ends is known
}

void PlainFile::has_listed_all() {
  if (!quiet_ || !lend()) return;
  known_.end = file_.offset();
  known_.readable = true;
  note_changes();
  tell(0, 0);
}

bool PlainFile::lend() {
  if (!places_) places_ = task_.fds().lend(task_.mm(), fd_, file_, task_.kernel().memory());
  return places_ != nullptr;
}

std::optional<uint64_t> PlainFile::know_lent() {
  return quiet_ && file_.inode().is_regular() && lend() ? know() : std::nullopt;
}

void PlainFile::note_changes() {
  known_.word = vfs::change_word(file_.inode().number());
  known_.changes = vfs::change_count(known_.word);
  known_.size_word = vfs::size_word(file_.inode().number());
  known_.sizes = vfs::change_count(known_.size_word);
  known_.paths = vfs::change_count(vfs::kChangedPaths);
}

std::optional<uint64_t> PlainFile::know() {
  note_changes();
  auto stat = file_.stat(task_);
  if (!stat) return std::nullopt;
  known_.end = stat->size;
  known_.device = stat->device.encoded();
  known_.inode = stat->inode;
  known_.mount = file_.path().mount->id();
  const vfs::Inode::Reading reading = file_.inode().reading();
  known_.readable = reading != vfs::Inode::Reading::kChangesIt;
  known_.steady = reading == vfs::Inode::Reading::kNeverChangesIt;
  if (file_.read_habit().has_window()) note_pages();
  // Who writes takes set-id bits away.
  const bool only_times = !(stat->mode & (abi::kS_ISUID | abi::kS_ISGID)) && stat->mtime == stat->ctime;
  if (writes_ && only_times) known_.write_time = vfs::ns_of(stat->mtime);
  return known_.end;
}

void PlainFile::note_pages() {
  known_.pages = file_.pages_to_read(task_);
  if (known_.pages) known_.removals = known_.pages->removals();
}

// With `ahead` bytes of the file at `start`, which are there.
void PlainFile::tell(uint64_t start, size_t ahead) {
  std::span<uint8_t> room;
  if (ahead != 0) room = places_->begin_reading(ahead);
  if (!room.empty()) {
    vfs::KernelIoBuffer bytes(room.first(ahead));
    auto got = file_.pread(task_, bytes, start);
    known_.start = start;
    if (got) known_.bytes = room.first(*got);
  }
  if (quiet_->lasts()) places_->tell(file_, known_);
  if (!room.empty()) places_->end_reading();
}

}  // namespace sentry::kernel
