// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <csignal>

#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/core/check.h"
#include "base/log/log.h"
#include "base/stats/stats.h"
#include "platform/systrap/systrap.h"

namespace platform::systrap {
namespace {

constexpr uint64_t kCloneFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
constexpr uint64_t kMapFlags = MAP_SHARED | MAP_FIXED;

int host_prot(abi::Prot prot) {
  return (prot.read ? PROT_READ : 0) | (prot.write ? PROT_WRITE : 0) | (prot.exec ? PROT_EXEC : 0);
}

// The parts of `range` that are not in `holes` (disjoint, any order, few).
template <typename F>
void for_each_outside(abi::AddrRange range, std::span<const abi::AddrRange> holes, F&& f) {
  for (const abi::AddrRange& hole : holes) {
    if (!range.overlaps(hole)) continue;
    if (range.start < hole.start) for_each_outside({range.start, hole.start}, holes, f);
    if (hole.end < range.end) for_each_outside({hole.end, range.end}, holes, f);
    return;
  }
  if (!range.empty()) f(range);
}

bool same_kind(const HostOp& a, const HostOp& b) {
  return a.kind == b.kind && a.prot == b.prot && a.fd == b.fd && a.flags == b.flags;
}

HostOp map_op(abi::AddrRange range, uint64_t offset, abi::Prot prot, int fd) {
  HostOp op = {};
  op.kind = kOpMap;
  op.address = range.start.value();
  op.length = range.length();
  op.offset = offset;
  op.prot = static_cast<uint16_t>(host_prot(prot));
  op.fd = static_cast<uint8_t>(fd);
  return op;
}

HostOp unmap_op(abi::AddrRange range) {
  HostOp op = {};
  op.kind = kOpUnmap;
  op.address = range.start.value();
  op.length = range.length();
  return op;
}

}  // namespace

SystrapAddressSpace::SystrapAddressSpace(SystrapPlatform& platform, base::RefPtr<StubProcess> process, uint64_t unit)
    : platform_(platform),
      process_(std::move(process)),
      unit_(unit),
      ring_(platform.control_.at<HostOp>(unit)),
      shared_(platform.control_.at<ProcessShared>(unit + kUnitShared)),
      waiting_word_(platform.take_waiting_word()) {
  parked_.push_back({platform.control_.at<Slot>(unit + kUnitSlot), platform.zygote_.layout().area + kSlotsOffset, process_->pid});
}

SystrapAddressSpace::~SystrapAddressSpace() {
  {
    base::MutexLock lock(mu_);
    CHECK(contexts_.empty());
    if (parked_.size() == 1) platform_.send_away(parked_.front());
  }
  process_->abandoned.store(true);
  process_->kill();
  platform_.give_waiting_word(waiting_word_);
}

// --- Queue ---

void SystrapAddressSpace::push(const HostOp& op, const base::RefPtr<base::SharedFd>& file) {
  if (!queue_.empty()) {
    HostOp& last = queue_.back().op;
    bool follows = last.address + last.length == op.address;
    if (same_kind(last, op) && queue_.back().file == file && follows && (op.kind != kOpMap || last.offset + last.length == op.offset)) {
      last.length += op.length;
      return;
    }
    // Replaced as a whole before anybody saw it.
    bool covered = op.address <= last.address && last.address + last.length <= op.address + op.length;
    if (covered && (op.kind == kOpUnmap || (op.kind == kOpMap && last.kind != kOpProtect))) {
      queue_.back() = {op, file};
      return;
    }
  }
  queue_.push_back({op, file});
  dirty_.store(true, std::memory_order_release);
}

void SystrapAddressSpace::map(abi::AddrRange range, uint64_t offset, abi::Prot prot, Populate populate) {
  if (!prot.any()) return unmap(range);
  base::MutexLock lock(mu_);
  for_each_outside(range, platform_.reserved_, [&](abi::AddrRange part) {
    HostOp op = map_op(part, offset + (part.start - range.start), prot, prot.write ? kFdMemory : kFdMemoryReadOnly);
    op.flags = populate == Populate::kYes ? kPopulate : 0;
    mu_.assert_held();
    push(op);
    mapped_.insert(part);
  });
}

void SystrapAddressSpace::map_file(abi::AddrRange range, const base::RefPtr<base::SharedFd>& file, uint64_t offset, abi::Prot prot) {
  base::MutexLock lock(mu_);
  for_each_outside(range, platform_.reserved_, [&](abi::AddrRange part) {
    mu_.assert_held();
    push(map_op(part, offset + (part.start - range.start), prot, kFdHostFile), file);
    mapped_.insert(part);
  });
}

uint32_t SystrapAddressSpace::refused_files() const { return __atomic_load_n(&shared_->refused, __ATOMIC_ACQUIRE); }

void SystrapAddressSpace::unmap(abi::AddrRange range) {
  base::MutexLock lock(mu_);
  note_drops();
  for_each_outside(range, platform_.reserved_, [&](abi::AddrRange part) {
    mu_.assert_held();
    // One call from the first to the last thing that is mapped.
    abi::AddrRange hull = {part.end, part.end};
    mapped_.for_each_in(part, [&](abi::AddrRange there) {
      if (hull.empty()) hull = there;
      hull.end = there.end;
    });
    if (hull.empty()) return;
    push(unmap_op(hull));
    mapped_.erase(hull);
  });
}

void SystrapAddressSpace::protect(abi::AddrRange range, abi::Prot prot) {
  if (!prot.any()) return unmap(range);
  base::MutexLock lock(mu_);
  note_drops();
  for_each_outside(range, platform_.reserved_, [&](abi::AddrRange part) {
    mu_.assert_held();
    mapped_.for_each_in(part, [&](abi::AddrRange there) {
      mu_.assert_held();
      HostOp op = {};
      op.kind = kOpProtect;
      op.address = there.start.value();
      op.length = there.length();
      op.prot = static_cast<uint16_t>(host_prot(prot));
      push(op);
    });
  });
}

// The stub had to drop everything: from now on each address may or may not be mapped.
void SystrapAddressSpace::note_drops() {
  uint32_t dropped = __atomic_load_n(&shared_->dropped, __ATOMIC_ACQUIRE);
  if (dropped == drops_seen_) return;
  drops_seen_ = dropped;
  mapped_.insert({platform_.min_address(), platform_.max_address()});
}

void SystrapAddressSpace::use_slow_trampolines() {
  base::MutexLock lock(mu_);
  if (slow_trampolines_) return;
  slow_trampolines_ = true;
  const TrampolineZones& zones = platform_.zygote_.layout().zones;
  for (auto [range, file] : {std::pair(zones.high, kHighZoneSlowFile), std::pair(zones.low, kLowZoneSlowFile)}) {
    push(map_op(range, file, {true, false, true}, kFdControlReadOnly));
  }
}

bool SystrapAddressSpace::publish(bool& asks) {
  base::MutexLock lock(mu_);
  uint64_t published = published_.load(std::memory_order_relaxed);
  uint64_t done = __atomic_load_n(&shared_->done, __ATOMIC_ACQUIRE);
  uint64_t in_flight = done <= published ? published - done : 0;
  uint64_t room = in_flight < kRingOps ? kRingOps - in_flight : 0;
  size_t n = std::min<uint64_t>(room, queue_.size());
  for (size_t i = 0; i < n; ++i) {
    base::stats::count(queue_[i].op.kind == kOpMap     ? base::stats::Counter::kHostMaps
                       : queue_[i].op.kind == kOpUnmap ? base::stats::Counter::kHostUnmaps
                                                    : base::stats::Counter::kHostProtects);
    if (queue_[i].file) place_file(queue_[i]);
    asks |= expect(queue_[i], published);
    ring_[published % kRingOps] = queue_[i].op;
    ++published;
  }
  published_.store(published, std::memory_order_release);
  is_new_ = false;
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<ptrdiff_t>(n));
  if (!queue_.empty()) return false;
  dirty_.store(false, std::memory_order_release);
  return true;
}

// Which descriptor of the stub is `queued`'s file. The one that was used longest ago gives way.
void SystrapAddressSpace::place_file(QueuedOp& queued) {
  const uint32_t failed = process_->failed_installs.load();
  if (failed != failed_installs_seen_) {
    failed_installs_seen_ = failed;
    for (PlacedFile& placed : files_) placed = {};
  }
  PlacedFile* place = &files_[0];
  for (PlacedFile& placed : files_) {
    if (placed.file == queued.file) {
      place = &placed;
      break;
    }
    if (placed.last_use < place->last_use) place = &placed;
  }
  if (!(place->file == queued.file)) {
    place->file = queued.file;
    queued.op.flags |= kInstall;
  }
  place->last_use = ++file_uses_;
  queued.op.fd = static_cast<uint8_t>(kFdHostFile + (place - files_));
}

bool SystrapAddressSpace::expect(const QueuedOp& queued, uint64_t sequence) {
  const HostOp& op = queued.op;
  const bool install = op.flags & kInstall;
  if (op.kind != kOpMap || ((queued.file || is_new_) && !install)) return false;
  HostCall call;
  call.nr = SYS_mmap;
  call.sequence = sequence;
  uint64_t flags = install ? uint64_t{kInstallFlags} : kMapFlags | (op.flags & kPopulate ? uint64_t{MAP_POPULATE} : 0);
  uint64_t args[6] = {op.address, op.length, op.prot, flags, op.fd, op.offset};
  std::copy(args, args + 6, call.args);
  if (install) call.file = queued.file;
  process_->expect(call, sequence < kRingOps ? 0 : sequence - kRingOps);
  return true;
}

void SystrapAddressSpace::interrupt_running() {
  base::MutexLock lock(mu_);
  for (SystrapContext* context : contexts_)
    if (context->phase_.load() == SystrapContext::kRunning) context->interrupt();
}

void SystrapAddressSpace::count_futex_waiter(abi::Addr address, int delta) {
  auto* counts = platform_.control_.at<FutexCounts>(unit_ + kUnitFutexes);
  __atomic_fetch_add(&counts->waiters[FutexCounts::index(address.value())], static_cast<uint32_t>(delta), __ATOMIC_SEQ_CST);
}

// --- Input and output in place ---

void SystrapAddressSpace::set_descriptor(uint32_t fd, uint64_t word) {
  CHECK(fd < in_place::kDescriptors);
  __atomic_store_n(platform_.control_.at<uint64_t>(unit_ + kUnitDescriptors) + fd, word, __ATOMIC_SEQ_CST);
}

void SystrapAddressSpace::map_block(uint32_t block, uint64_t offset, uint64_t length, BlockUse use) {
  CHECK(block < in_place::kBlocks && length <= (in_place::kBlocks - block) * in_place::kBlockSize);
  const abi::Addr at(platform_.zygote_.layout().area + kBlocksOffset + block * in_place::kBlockSize);
  base::MutexLock lock(mu_);
  const bool writes = use == BlockUse::kWrite;
  push(map_op({at, at + length}, offset, {true, writes, false}, writes ? kFdMemory : kFdMemoryReadOnly));
}

void SystrapAddressSpace::unmap_block(uint32_t block, uint64_t length) {
  CHECK(block < in_place::kBlocks && length <= (in_place::kBlocks - block) * in_place::kBlockSize);
  const abi::Addr at(platform_.zygote_.layout().area + kBlocksOffset + block * in_place::kBlockSize);
  base::MutexLock lock(mu_);
  push(unmap_op({at, at + length}));
}

abi::AddrRange SystrapAddressSpace::window_range(uint64_t at, uint64_t length) const {
  CHECK(at <= in_place::kWindowRoom && length <= in_place::kWindowRoom - at);
  const abi::Addr start(platform_.zygote_.layout().area + kWindowsOffset + at);
  return {start, start + length};
}

// The operation that was queued last is done, or what replaced it.
uint64_t SystrapAddressSpace::ticket_locked() const { return published_.load(std::memory_order_relaxed) + queue_.size(); }

uint64_t SystrapAddressSpace::map_window(uint64_t at, uint64_t offset, uint64_t length, BlockUse use) {
  const abi::AddrRange range = window_range(at, length);
  const bool writes = use == BlockUse::kWrite;
  base::MutexLock lock(mu_);
  push(map_op(range, offset, {true, writes, false}, writes ? kFdMemory : kFdMemoryReadOnly));
  return ticket_locked();
}

uint64_t SystrapAddressSpace::map_window(uint64_t at, const base::RefPtr<base::SharedFd>& file, uint64_t offset, uint64_t length) {
  const abi::AddrRange range = window_range(at, length);
  base::MutexLock lock(mu_);
  push(map_op(range, offset, {true, false, false}, kFdHostFile), file);
  return ticket_locked();
}

void SystrapAddressSpace::unmap_window(uint64_t at, uint64_t length) {
  const abi::AddrRange range = window_range(at, length);
  base::MutexLock lock(mu_);
  push(unmap_op(range));
}

void SystrapAddressSpace::count_waiting(int delta) {
  if (waiting_word_ == 0) return;
  __atomic_fetch_add(&platform_.control_.waiting()->of[waiting_word_], static_cast<uint32_t>(delta), __ATOMIC_SEQ_CST);
}

uint32_t SystrapPlatform::take_waiting_word() {
  base::MutexLock lock(waiting_mu_);
  if (!free_waiting_.empty()) {
    const uint32_t word = free_waiting_.back();
    free_waiting_.pop_back();
    return word;
  }
  return next_waiting_ < in_place::kWaitingWords ? next_waiting_++ : 0;
}

void SystrapPlatform::give_waiting_word(uint32_t word) {
  if (word == 0) return;
  base::MutexLock lock(waiting_mu_);
  free_waiting_.push_back(word);
}

// --- Threads ---

base::Result<StubThread> SystrapAddressSpace::take_thread() {
  base::MutexLock lock(mu_);
  if (process_->dead.load()) return base::err(abi::Errno::kENOMEM);
  if (!parked_.empty()) {
    StubThread thread = parked_.back();
    parked_.pop_back();
    return thread;
  }
  return clone_thread();
}

void SystrapAddressSpace::remove(SystrapContext* context) {
  base::MutexLock lock(mu_);
  std::erase(contexts_, context);
  parked_.push_back(context->thread_);
  kill_if_condemned();
}

void SystrapAddressSpace::kill_if_condemned() {
  for (SystrapContext* context : contexts_)
    if (!context->condemned_) return;
  if (!contexts_.empty()) process_->kill();
}

// A stopped thread of the process makes the new one: the caller of clone(2) is such a thread. EAGAIN when all run.
base::Result<StubThread> SystrapAddressSpace::clone_thread() {
  if (next_slot_ >= kMaxThreads) return base::err(abi::Errno::kEAGAIN);
  is_new_ = false;
  SystrapContext* commander = nullptr;
  for (SystrapContext* context : contexts_) {
    uint32_t stopped = SystrapContext::kStopped;
    if (context->phase_.compare_exchange_strong(stopped, SystrapContext::kCommanded)) {
      commander = context;
      break;
    }
  }
  if (!commander) return base::err(abi::Errno::kEAGAIN);
  base::Result<uint64_t> unit = platform_.control_.allocate_unit();
  if (!unit) {
    commander->phase_.store(SystrapContext::kStopped);
    return base::err(abi::Errno::kEAGAIN);
  }
  {
    base::MutexLock inner(process_->mu);
    process_->units.push_back(*unit);
  }
  StubThread thread;
  int cpu;
  {
    base::MutexLock inner(platform_.run_mu_);
    thread.cpu = commander->thread_.cpu;  // inherited
    cpu = SystrapPlatform::cpu_of_running(*commander);
  }
  platform_.send_validator(cpu);
  thread.slot = platform_.control_.at<Slot>(*unit);
  thread.address = platform_.zygote_.layout().area + kSlotsOffset + next_slot_++ * kSlotSize;
  HostCall map = {SYS_mmap, {thread.address, kSlotSize, PROT_READ | PROT_WRITE, kMapFlags, kFdControl, *unit}};
  HostCall clone = {SYS_clone, {kCloneFlags, thread.address + kSlotSize, 0, 0, 0}, 0, 5};
  process_->expect_command(map);
  process_->expect_command(clone);

  Slot* slot = commander->thread_.slot;
  __atomic_store_n(&slot->command_slot, thread.address, __ATOMIC_RELAXED);
  __atomic_store_n(&slot->command_offset, *unit, __ATOMIC_RELAXED);
  uint32_t before = __atomic_exchange_n(&slot->state, static_cast<uint32_t>(kCommand), __ATOMIC_SEQ_CST);
  if (before & kSleeping) syscall(SYS_futex, &slot->state, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  // A stub that does not obey costs this executor a bounded time, and its process the life.
  bool finished = false;
  for (int tries = 0; tries < 20 && !finished && !process_->dead.load(); ++tries) {
    timespec timeout = {0, 100'000'000};
    if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == kCommand)
      syscall(SYS_futex, &slot->state, FUTEX_WAIT, kCommand, &timeout, nullptr, 0);
    finished = (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) & ~kSleeping) == kDone;
  }
  process_->forget_commands();
  int64_t tid = __atomic_load_n(&slot->command_result, __ATOMIC_RELAXED);
  commander->phase_.store(SystrapContext::kStopped);
  if (!finished) {
    process_->kill();
    return base::err(abi::Errno::kEAGAIN);
  }
  // It says which thread it made; only one of its own is believed.
  if (tid <= 0 || tid > INT32_MAX || syscall(SYS_tgkill, process_->pid, static_cast<pid_t>(tid), 0) != 0)
    return base::err(abi::Errno::kEAGAIN);
  thread.tid = static_cast<pid_t>(tid);
  platform_.supervisor_.add_thread(process_, thread.tid);
  base::stats::count(base::stats::Counter::kStubThreads);
  return thread;
}

}  // namespace platform::systrap
