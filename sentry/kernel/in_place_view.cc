// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/in_place_view.h"

#include <bit>

#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

namespace {

// Searching goes through all of them; and each is memory.
constexpr size_t kMaxStreams = 256, kMaxPolls = 16;

}  // namespace

DescriptorView::DescriptorView(base::RefPtr<mm::MemoryManager> mm, const FdTable& table)
    : InPlaceView(mm->platform_space().waiting_word(), &table), mm_(std::move(mm)) {}

void DescriptorView::clear() {
  for (uint32_t fd = 0; fd < in_place::kDescriptors && described_.any(); ++fd) {
    if (described_.test(fd)) hide_description(fd);
  }
  if (answers_) space().unmap_block(in_place::kFirstAnswerBlock, answers_->memory().length());
  if (places_) space().unmap_block(in_place::kPlacesBlock, places_->memory().length());
  if (common_) space().unmap_block(in_place::kFirstCommonBlock, common_->table().memory().length());
  base::MutexLock lock(vfs::in_place_mutex());
  if (places_) places_->take_all_back_locked();
  while (!mapped_.empty()) drop(mapped_.begin());
}

bool DescriptorView::make_room(bool is_poll) const {
  size_t streams = 0, polls = 0;
  for (const auto& [fd, mapped] : mapped_) ++(mapped.end->is_poll() ? polls : streams);
  return is_poll ? polls < kMaxPolls : streams < kMaxStreams;
}

bool DescriptorView::enter(int32_t fd, vfs::FileDescription& file, vfs::InPlaceEnd& end) {
  base::RefPtr<vfs::InPlaceMemory> memory(end.memory());
  base::MutexLock lock(vfs::in_place_mutex());
  if (end.view()) return end.view() == this;
  described_.reset(static_cast<size_t>(fd));
  closed_later_.reset(static_cast<size_t>(fd));
  if (!end.admit_locked(*this)) return false;
  auto it = mapped_.find(fd);
  if (it != mapped_.end() && it->second.end != &end) {
    drop(it);
    it = mapped_.end();
  }
  if (it == mapped_.end()) {
    if (!make_room(end.is_poll())) return false;
    uint32_t block;
    if (next_block_ < in_place::kPlacesBlock) {
      block = next_block_++;
    } else {
      if (free_blocks_.empty()) return false;
      block = free_blocks_.front();
      free_blocks_.pop_front();
    }
    space().map_block(block, memory->offset(), memory->length());
    it = mapped_.emplace(fd, Mapped{&file, &end, std::move(memory), block}).first;
  }
  in_place::DescriptorLocks* locks = space().descriptor_locks();
  end.enter_locked(*this, file, fd, it->second.block, locks);
  // Who adds a descriptor counts it and then looks whether the file is in a view.
  if (file.descriptors() != 1 || end.is_busy()) {
    end.leave_locked();
    return false;
  }
  // Those who watch it through epoll are looked at when that instance has caught up.
  if (!file.is_watched() && !(file.status_flags() & vfs::kO_ASYNC)) end.want_kicks_locked(false);
  return true;
}

void DescriptorView::show_description(int32_t fd, const vfs::FileDescription& file, bool close_on_exec) {
  const uint64_t number = file.number_if_any();
  if (static_cast<uint32_t>(fd) >= in_place::kDescriptors || number > in_place::kMostNumber) return;
  {
    base::MutexLock lock(vfs::in_place_mutex());
    if (mapped_.contains(fd)) return;
  }
  const uint32_t flags = file.status_flags();
  const auto endless = file.endless();
  uint64_t word = number << in_place::kNumberShift | (endless == vfs::FileDescription::Endless::kNo ? in_place::kKindPath : in_place::kKindEndless);
  if (endless == vfs::FileDescription::Endless::kZeros) word |= in_place::kZeros;
  if ((flags & ~in_place::kPackedFlags) == 0) word |= in_place::kHasFlags | in_place::pack_flags(flags);
  if (close_on_exec) word |= in_place::kCloseOnExec;
  const bool later = file.closes_later();
  if (later) word |= in_place::kCloseLater;
  described_.set(static_cast<size_t>(fd));
  closed_later_.set(static_cast<size_t>(fd), later);
  space().set_descriptor(static_cast<uint32_t>(fd), word);
}

// What the stub closed meanwhile was this one.
void DescriptorView::hide_description(uint32_t fd) {
  described_.reset(fd);
  closed_later_.reset(fd);
  space().set_descriptor(fd, 0);
  if (in_place::ClosedDescriptors* closed = space().closed_descriptors()) in_place::clear_bit(closed->bits, fd);
}

// It is the stub's word for it, and its own descriptors.
void DescriptorView::take_closed(base::FunctionRef<void(int32_t fd, Closed closed)> take) {
  in_place::ClosedDescriptors& closed = *space().closed_descriptors();
  __atomic_store_n(&closed.any, 0u, __ATOMIC_SEQ_CST);
  for (uint32_t i = 0; i < in_place::kDescriptors / 64; ++i) {
    for (uint64_t bits = __atomic_load_n(&closed.bits[i], __ATOMIC_SEQ_CST); bits != 0; bits &= bits - 1) {
      const uint32_t fd = i * 64 + static_cast<uint32_t>(std::countr_zero(bits));
      if (!closed_later_.test(fd)) {
        in_place::clear_bit(closed.bits, fd);
        continue;
      }
      // The stub may open it again at this moment: who clears the bit has it.
      space().set_descriptor(fd, 0);
      const uint64_t bit = uint64_t{1} << (fd % 64);
      const bool is_closed = __atomic_fetch_and(&closed.bits[i], ~bit, __ATOMIC_SEQ_CST) & bit;
      take(static_cast<int32_t>(fd), is_closed ? Closed::kYes : Closed::kNo);
    }
  }
}

base::RefPtr<StatAnswers> DescriptorView::answers(memory::MemoryFile* memory) {
  if (answers_ || !memory) return answers_;
  auto made = StatAnswers::create(*memory);
  if (!made) return nullptr;
  answers_ = std::move(*made);
  space().map_block(in_place::kFirstAnswerBlock, answers_->memory().offset(), answers_->memory().length());
  return answers_;
}

bool DescriptorView::share(CommonAnswers& common) {
  if (!common_) {
    common_ = base::RefPtr<CommonAnswers>(&common);
    const vfs::InPlaceMemory& memory = common.table().memory();
    space().map_block(in_place::kFirstCommonBlock, memory.offset(), memory.length(), platform::AddressSpace::BlockUse::kReadOnly);
  }
  return common_.get() == &common;
}

base::RefPtr<vfs::FilePlaces> DescriptorView::lend(vfs::FileDescription& file, memory::MemoryFile& memory) {
  if (!places_) {
    if (++lends_ < kWorthPlaces) return nullptr;
    auto made = vfs::FilePlaces::create(memory, table(), space());
    if (!made) return nullptr;
    places_ = std::move(*made);
    space().map_block(in_place::kPlacesBlock, places_->memory().offset(), places_->memory().length());
  }
  if (file.is_lent()) return places_;
  base::MutexLock lock(vfs::in_place_mutex());
  if (file.is_lent() || file.descriptors() != 1) return nullptr;
  places_->lend_locked(file);
  // Who adds a descriptor counts it and then looks whether the position is lent.
  if (file.descriptors() != 1 && file.is_lent()) places_->take_back_locked(file);
  return file.is_lent() ? places_ : nullptr;
}

void DescriptorView::forget(int32_t fd) {
  if (knows(fd)) hide_description(static_cast<uint32_t>(fd));
  base::MutexLock lock(vfs::in_place_mutex());
  auto it = mapped_.find(fd);
  if (it == mapped_.end()) return;
  // Nothing that a stub said of this number is about the file that comes next.
  for (auto& [number, mapped] : mapped_) {
    if (!mapped.end->is_poll()) continue;
    in_place::PollBlock& poll = mapped.memory->poll();
    in_place::clear_bit(poll.known, static_cast<uint32_t>(fd));
    in_place::clear_bit(poll.registered, static_cast<uint32_t>(fd));
    in_place::clear_bit(poll.dirty, static_cast<uint32_t>(fd));
  }
  drop(it);
}

void DescriptorView::drop(std::map<int32_t, Mapped>::iterator it) {
  it->second.end->leave_locked();
  it->second.end->forget_locks_locked();
  space().unmap_block(it->second.block, in_place::kBlockSize);
  free_blocks_.push_back(it->second.block);
  mapped_.erase(it);
}

// The table's lock is held, so each of them has a descriptor.
void DescriptorView::polls(std::vector<base::RefPtr<vfs::FileDescription>>& out) {
  base::MutexLock lock(vfs::in_place_mutex());
  for (auto& [fd, mapped] : mapped_)
    if (mapped.end->is_poll()) out.emplace_back(mapped.file);
}

void DescriptorView::changed() {
  for (auto& [fd, mapped] : mapped_)
    if (mapped.end->is_poll()) mapped.end->view_changed_locked();
}

void DescriptorView::for_each(base::FunctionRef<void(int32_t, vfs::FileDescription&, vfs::InPlaceEnd&)> f) {
  for (auto& [fd, mapped] : mapped_)
    if (mapped.end->view() == this) f(fd, *mapped.file, *mapped.end);
}

void DescriptorView::show(int32_t fd, uint64_t word) { space().set_descriptor(static_cast<uint32_t>(fd), word); }

void kick_descriptor(void* task, uint32_t fd) {
  if (fd < in_place::kDescriptors) static_cast<Task*>(task)->kick(abi::Fd(static_cast<int32_t>(fd)));
}

// A filter of the guest's holds for what its process could do in memory, too.
bool works_in_place(Task& task) {
  const Task::Private& p = task.priv();
  return !p.descriptors_foreign && p.seccomp_mode.load(std::memory_order_relaxed) == 0 && task.mm().platform_space().has_in_place_io();
}

void offer_in_place(Task& task, abi::Fd fd, vfs::FileDescription& file) {
  bool granted = false;
  if (works_in_place(task) && static_cast<uint32_t>(fd.value()) < in_place::kDescriptors && file.descriptors() == 1) {
    if (base::Result<vfs::InPlaceEnd*> end = file.prepare_in_place(task))
      granted = task.fds().enter_view(task.mm(), fd, file, **end);
  }
  file.answer_wish(granted);
}

}  // namespace sentry::kernel
