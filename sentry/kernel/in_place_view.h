// SPDX-License-Identifier: Apache-2.0
// DescriptorView: the descriptors of one table that the stub of one address space works on in place (vfs/in_place.h).
#pragma once

#include <bitset>
#include <deque>
#include <map>
#include <vector>

#include "abi/types/types.h"
#include "sentry/kernel/common_answers.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/file_description.h"
#include "sentry/vfs/file_places.h"
#include "sentry/vfs/in_place.h"

namespace sentry::kernel {

namespace in_place = platform::in_place;

class FdTable;
class Task;

class DescriptorView final : public vfs::InPlaceView {
 public:
  DescriptorView(base::RefPtr<mm::MemoryManager> mm, const FdTable& table);
  // With the table's lock; before the view goes.
  void clear();
  bool is_of(const mm::MemoryManager& mm) const { return mm_.get() == &mm; }

  // With the table's lock. False: no room, or another descriptor has come.
  bool enter(int32_t fd, vfs::FileDescription& file, vfs::InPlaceEnd& end);
  // The descriptor goes away, or gets another file.
  void forget(int32_t fd);

  // What the stub knows of a descriptor that is a plain file or a directory: the number of its description and what fcntl(2) says. The
  // file has a number.
  void show_description(int32_t fd, const vfs::FileDescription& file, bool close_on_exec);
  bool knows(int32_t fd) const { return static_cast<uint32_t>(fd) < in_place::kDescriptors && described_.test(static_cast<size_t>(fd)); }
  // Those that the stub closed in place: the caller removes each, or shows it again where the stub has just opened it once more.
  enum class Closed : uint8_t { kNo, kYes };
  void take_closed(base::FunctionRef<void(int32_t fd, Closed closed)> take);
  // Where the stub moves the position of `file`, of which all descriptors are in the table. Null: not yet, or no memory.
  base::RefPtr<vfs::FilePlaces> lend(vfs::FileDescription& file, memory::MemoryFile& memory);
  // A file is used so much that the next one to be lent makes places.
  void want_places() { lends_ = kWorthPlaces; }
  // Null: no memory, or (when they are not to be made in `memory`) none yet.
  base::RefPtr<StatAnswers> answers(memory::MemoryFile* memory);
  // The first that comes; false: it has others.
  bool share(CommonAnswers& common);

  void polls(std::vector<base::RefPtr<vfs::FileDescription>>& out);  // instances of epoll in it
  void changed() override;
  void for_each(base::FunctionRef<void(int32_t, vfs::FileDescription&, vfs::InPlaceEnd&)> f) override;
  void show(int32_t fd, uint64_t word) override;

 private:
  struct Mapped {
    vfs::FileDescription* file;
    vfs::InPlaceEnd* end;
    base::RefPtr<vfs::InPlaceMemory> memory;
    uint32_t block;
  };
  void hide_description(uint32_t fd);
  bool make_room(bool is_poll) const;
  void drop(std::map<int32_t, Mapped>::iterator it);
  platform::AddressSpace& space() { return mm_->platform_space(); }

  const base::RefPtr<mm::MemoryManager> mm_;
  // The table's lock:
  base::RefPtr<StatAnswers> answers_;
  base::RefPtr<vfs::FilePlaces> places_;
  static constexpr uint32_t kWorthPlaces = 8;  // most programs that start open fewer
  uint32_t lends_ = 0;  // how often there was something to lend, before there were places
  base::RefPtr<CommonAnswers> common_;
  std::bitset<in_place::kDescriptors> described_;
  std::bitset<in_place::kDescriptors> closed_later_;  // of these, those that the stub may close
  // in_place_mutex():
  std::map<int32_t, Mapped> mapped_;   // also what left the view and may come back
  uint32_t next_block_ = 0;
  std::deque<uint32_t> free_blocks_;   // the longest free first: a call may still be under way in one
};

// Whether the task's stub may work on its descriptors at all.
bool works_in_place(Task& task);

// `file` wishes to be in place: makes it so where that can be.
void offer_in_place(Task& task, abi::Fd fd, vfs::FileDescription& file);

// Platform::KickHandler.
void kick_descriptor(void* task, uint32_t fd);

}  // namespace sentry::kernel
