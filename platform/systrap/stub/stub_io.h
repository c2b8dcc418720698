// SPDX-License-Identifier: Apache-2.0
// read(2), write(2), epoll_wait(2) and kin in place: see platform/interface/in_place_io.h. A part of stub.cc.
//
// Everything here is done only where it cannot sleep, fail or need anybody else; otherwise the call goes to the sentry as it is.
#pragma once

namespace {

using namespace platform::in_place;  // NOLINT: a part of stub.cc

enum class Answer : uint8_t { kNo, kYes, kKick };

constexpr uint32_t kPollIn = 0x41, kPollOut = 0x104;  // with RDNORM, WRNORM
constexpr uint32_t kMsgDontWait = 0x40, kMsgNoSignal = 0x4000;

inline uint64_t descriptor(uint64_t fd) {
  return fd < kDescriptors ? load(reinterpret_cast<const uint64_t*>(area() + kDescriptorsOffset) + fd) : 0;
}
inline bool somebody_waits(uint64_t word) {
  return load(&reinterpret_cast<const WaitingWords*>(area() + kWaitingOffset)->of[waiting_of(word) % kWaitingWords]) != 0;
}
template <typename T>
T* block_at(uint64_t word) { return reinterpret_cast<T*>(area() + kBlocksOffset + block_of(word) % kBlocks * kBlockSize); }

template <typename T>
bool try_lock(T* lock) {
  T zero = 0;
  return __atomic_compare_exchange_n(lock, &zero, T{1}, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
template <typename T>
void unlock(T* lock) { __atomic_store_n(lock, T{0}, __ATOMIC_RELEASE); }

inline void copy_bytes(uint64_t to, uint64_t from, uint64_t n) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

// One transfer. It runs under guarded(): guest memory may not be there, nor may the block.
struct Transfer {
  struct Piece {
    uint64_t address, length;
  };
  static constexpr uint64_t kMaxPieces = 8;
  uint64_t fd, word;
  bool nonblocking;
  uint64_t count = 0, total = 0;
  Piece pieces[kMaxPieces];
  int64_t result = 0;
};

inline bool add_piece(Transfer& t, uint64_t address, uint64_t length) {
  if (length > kBytesSize * 4096 || address > area() || address + length > area()) return false;
  t.pieces[t.count++] = {address, length};
  t.total += length;
  return true;
}

// Between the guest's pieces and the ring, from `position` on.
template <bool kToGuest>
void move_bytes(const Transfer& t, uint64_t ring, uint64_t position, uint64_t n) {
  for (uint64_t i = 0; i < t.count && n != 0; ++i) {
    uint64_t address = t.pieces[i].address, left = t.pieces[i].length < n ? t.pieces[i].length : n;
    n -= left;
    while (left != 0) {
      const uint64_t at = position % kBytesSize, room = kBytesSize - at, step = left < room ? left : room;
      if constexpr (kToGuest) copy_bytes(address, ring + at, step);
      else copy_bytes(ring + at, address, step);
      address += step;
      position += step;
      left -= step;
    }
  }
}

long write_stream(uint64_t argument, uint64_t) {
  Transfer& t = *reinterpret_cast<Transfer*>(argument);
  auto* block = block_at<StreamBlock>(t.word);
  const uint32_t end = end_of(t.word);
  StreamHalf& half = block->half[end];
  const uint64_t head = half.head, used = head - load(&half.tail);
  if (load(&half.flags) != 0 || used > kBytesSize || t.total > kBytesSize - used) return kGuardFailed;
  move_bytes<false>(t, addr(block) + kBytesOffset + end * kBytesSize, head, t.total);
  __atomic_store_n(&half.head, head + t.total, __ATOMIC_RELEASE);
  t.result = static_cast<int64_t>(t.total);
  return 0;
}

long read_stream(uint64_t argument, uint64_t) {
  Transfer& t = *reinterpret_cast<Transfer*>(argument);
  auto* block = block_at<StreamBlock>(t.word);
  const uint32_t other = 1 - end_of(t.word);
  StreamHalf& half = block->half[other];
  const uint64_t tail = half.tail, used = bytes_between(tail, load(&half.head)), n = used < t.total ? used : t.total;
  if (n != 0) {
    move_bytes<true>(t, addr(block) + kBytesOffset + other * kBytesSize, tail, n);
    __atomic_store_n(&half.tail, tail + n, __ATOMIC_RELEASE);
    t.result = static_cast<int64_t>(n);
    return 0;
  }
  if (!t.nonblocking || load(&half.flags) != 0) return kGuardFailed;
  t.result = kErrEAGAIN;
  return 0;
}

// Who waits says so and then looks at the head; here it is the other way round.
long must_kick(uint64_t word, uint64_t) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return somebody_waits(word) || load(&block_at<StreamBlock>(word)->half[end_of(word)].wanted) != 0;
}

enum class Way : uint8_t { kRead, kWrite };

Answer transfer(Slot* slot, Way way, Transfer& t, int64_t& result) {
  if (t.total == 0) return Answer::kNo;
  DescriptorLocks& locks = shared()->io_locks;
  uint8_t* lock = way == Way::kRead ? &locks.reading[t.fd] : &locks.writing[t.fd];
  if (!try_lock(lock)) return Answer::kNo;
  // Another thread may have closed it meanwhile, and the number be something else.
  const bool same = descriptor(t.fd) == t.word;
  const bool done = same && guarded(way == Way::kRead ? read_stream : write_stream, addr(&t), 0, slot) == 0;
  unlock(lock);
  if (!done) return Answer::kNo;
  result = t.result;
  return way == Way::kWrite && guarded(must_kick, t.word, 0, slot) != 0 ? Answer::kKick : Answer::kYes;
}

// (fd, buffer, length), with the flags of recvfrom(2) and sendto(2).
Answer transfer_plain(Slot* slot, Way way, uint32_t flags, int64_t& result) {
  const StubRegisters& r = slot->regs;
  Transfer t;
  t.fd = static_cast<uint32_t>(r.rdi);
  t.word = descriptor(t.fd);
  if (kind_of(t.word) != kKindStream || flags & ~(kMsgDontWait | kMsgNoSignal)) return Answer::kNo;
  t.nonblocking = (t.word & kNonBlocking) != 0 || flags & kMsgDontWait;
  if (!add_piece(t, r.rsi, r.rdx)) return Answer::kNo;
  return transfer(slot, way, t, result);
}

Answer transfer_vector(Slot* slot, Way way, int64_t& result) {
  const StubRegisters& r = slot->regs;
  const uint64_t count = r.rdx;
  Transfer t;
  t.fd = static_cast<uint32_t>(r.rdi);
  t.word = descriptor(t.fd);
  if (kind_of(t.word) != kKindStream || count == 0 || count > Transfer::kMaxPieces || r.rsi >= area()) return Answer::kNo;
  t.nonblocking = (t.word & kNonBlocking) != 0;
  Transfer::Piece vector[Transfer::kMaxPieces];
  struct Copy {
    uint64_t to, from, n;
  } copy = {addr(&vector[0]), r.rsi, count * sizeof vector[0]};
  const auto take = [](uint64_t c, uint64_t) -> long {
    const Copy& copy = *reinterpret_cast<const Copy*>(c);
    copy_bytes(copy.to, copy.from, copy.n);
    return 0;
  };
  if (guarded(take, addr(&copy), 0, slot) != 0) return Answer::kNo;
  for (uint64_t i = 0; i < count; ++i)
    if (!add_piece(t, vector[i].address, vector[i].length)) return Answer::kNo;
  return transfer(slot, way, t, result);
}

// --- Readiness ---

struct __attribute__((packed)) UserEvent {
  uint32_t events;
  uint64_t data;
};
struct UserPoll {
  int32_t fd;
  int16_t events, revents;
};

// What poll(2) says of a connection; false: that is for the sentry. `head` is that of the incoming half.
inline bool look_at(uint64_t word, uint32_t& mask, uint64_t& head) {
  if (kind_of(word) != kKindStream) return false;
  auto* block = block_at<StreamBlock>(word);
  const uint32_t end = end_of(word);
  const StreamHalf &in = block->half[1 - end], &out = block->half[end];
  head = load(&in.head);
  const bool bytes = bytes_between(load(&in.tail), head) != 0;
  const uint32_t in_flags = load(&in.flags), out_flags = load(&out.flags);
  mask = (bytes ? kPollIn : 0) | kPollOut;
  return (in_flags | out_flags) == 0;
}

struct Wait {
  static constexpr uint32_t kMost = 48;
  PollBlock* block;
  uint64_t out;
  uint32_t max, found = 0;
  uint16_t fds[kMost];
  UserEvent events[kMost];
};

inline bool test_bit(const uint64_t* bits, uint32_t i) { return __atomic_load_n(&bits[i / 64], __ATOMIC_ACQUIRE) >> (i % 64) & 1; }

long find_events(uint64_t argument, uint64_t) {
  Wait& w = *reinterpret_cast<Wait*>(argument);
  PollBlock& p = *w.block;
  if (load(&p.ready) != 0) return kGuardFailed;
  const uint32_t words = kDescriptors / 64, first = p.next % kDescriptors;
  // The first word comes twice: from `first` on, and at the end what is before it.
  for (uint32_t k = 0; k <= words && w.found < w.max; ++k) {
    const uint32_t i = (first / 64 + k) % words;
    uint64_t bits = load(&p.registered[i]);
    const uint64_t from_first = ~uint64_t{0} << (first % 64);
    if (k == 0) bits &= from_first;
    if (k == words) bits &= ~from_first;
    for (; bits != 0 && w.found < w.max; bits &= bits - 1) {
      const uint32_t fd = i * 64 + static_cast<uint32_t>(__builtin_ctzll(bits));
      uint32_t mask;
      uint64_t head;
      if (!look_at(descriptor(fd), mask, head)) return kGuardFailed;
      PollEntry& entry = p.entries[fd];
      const uint32_t wanted = entry.events;
      mask &= wanted;
      if (mask == 0) continue;
      if (wanted & kPollEdge) {
        if (load(&entry.armed) == 0 && entry.seen == head) continue;
        __atomic_store_n(&entry.armed, 0u, __ATOMIC_SEQ_CST);
        entry.seen = head;
      }
      w.fds[w.found] = static_cast<uint16_t>(fd);
      w.events[w.found++] = {mask, entry.data};
    }
  }
  if (w.found == 0) return 0;
  p.next = w.fds[w.found - 1] + 1u;
  copy_bytes(w.out, addr(&w.events[0]), w.found * sizeof(UserEvent));
  return 0;
}

Answer epoll_wait_in_place(Slot* slot, int64_t& result) {
  const StubRegisters& r = slot->regs;
  const uint64_t word = descriptor(static_cast<uint32_t>(r.rdi));
  const auto max = static_cast<int32_t>(r.rdx);
  if (kind_of(word) != kKindPoll || max <= 0 || r.rsi >= area() - sizeof(Wait::events)) return Answer::kNo;
  Wait w;
  w.block = block_at<PollBlock>(word);
  w.out = r.rsi;
  w.max = static_cast<uint32_t>(max) < Wait::kMost ? static_cast<uint32_t>(max) : Wait::kMost;
  if (guarded(find_events, addr(&w), 0, slot) != 0) {
    // What was taken is told again.
    const auto arm = [](uint64_t wait, uint64_t) -> long {
      Wait& w = *reinterpret_cast<Wait*>(wait);
      for (uint32_t i = 0; i < w.found; ++i) __atomic_store_n(&w.block->entries[w.fds[i]].armed, 1u, __ATOMIC_SEQ_CST);
      return 0;
    };
    if (w.found != 0) guarded(arm, addr(&w), 0, slot);
    return Answer::kNo;
  }
  if (w.found == 0 && static_cast<int32_t>(r.r10) != 0) return Answer::kNo;
  result = w.found;
  return Answer::kYes;
}

struct Control {
  PollBlock* block;
  uint64_t from;
  uint32_t operation, fd;
  UserEvent event = {};
};

long change_interest(uint64_t argument, uint64_t) {
  constexpr uint32_t kAdd = 1, kDelete = 2;
  Control& c = *reinterpret_cast<Control*>(argument);
  PollBlock& p = *c.block;
  if (c.operation != kDelete) copy_bytes(addr(&c.event), c.from, sizeof c.event);
  if (c.event.events & kPollSentryOnly || !test_bit(p.known, c.fd) || !try_lock(&p.lock)) return kGuardFailed;
  const uint64_t bit = uint64_t{1} << (c.fd % 64);
  long answer = kGuardFailed;
  if (test_bit(p.registered, c.fd) == (c.operation != kAdd)) {
    PollEntry& entry = p.entries[c.fd];
    if (c.operation != kDelete) {
      entry.events = c.event.events;
      entry.data = c.event.data;
      __atomic_store_n(&entry.armed, 1u, __ATOMIC_SEQ_CST);
      __atomic_fetch_or(&p.registered[c.fd / 64], bit, __ATOMIC_SEQ_CST);
    } else {
      __atomic_fetch_and(&p.registered[c.fd / 64], ~bit, __ATOMIC_SEQ_CST);
    }
    __atomic_fetch_or(&p.dirty[c.fd / 64], bit, __ATOMIC_SEQ_CST);
    answer = 0;
  }
  unlock(&p.lock);
  return answer;
}

Answer epoll_ctl_in_place(Slot* slot, int64_t& result) {
  const StubRegisters& r = slot->regs;
  const uint64_t word = descriptor(static_cast<uint32_t>(r.rdi));
  Control c = {block_at<PollBlock>(word), r.r10, static_cast<uint32_t>(r.rsi), static_cast<uint32_t>(r.rdx)};
  if (kind_of(word) != kKindPoll || kind_of(descriptor(c.fd)) != kKindStream || c.operation < 1 || c.operation > 3 || r.r10 >= area())
    return Answer::kNo;
  if (guarded(change_interest, addr(&c), 0, slot) != 0) return Answer::kNo;
  result = 0;
  // A thread that waits says so and then takes over what is dirty.
  return somebody_waits(word) ? Answer::kKick : Answer::kYes;
}

struct Poll {
  static constexpr uint32_t kMost = 8;
  uint64_t user;
  uint32_t count, ready = 0;
  bool waits;
  UserPoll items[kMost];
};

long poll_streams(uint64_t argument, uint64_t) {
  Poll& p = *reinterpret_cast<Poll*>(argument);
  copy_bytes(addr(&p.items[0]), p.user, p.count * sizeof(UserPoll));
  for (uint32_t i = 0; i < p.count; ++i) {
    UserPoll& item = p.items[i];
    uint32_t mask = 0;
    uint64_t head;
    if (item.fd >= 0 && !look_at(descriptor(static_cast<uint32_t>(item.fd)), mask, head)) return kGuardFailed;
    item.revents = static_cast<int16_t>(mask & static_cast<uint16_t>(item.events));
    p.ready += item.revents != 0;
  }
  if (p.ready == 0 && p.waits) return kGuardFailed;
  copy_bytes(p.user, addr(&p.items[0]), p.count * sizeof(UserPoll));
  return 0;
}

Answer poll_in_place(Slot* slot, int64_t& result) {
  const StubRegisters& r = slot->regs;
  Poll p = {r.rdi, static_cast<uint32_t>(r.rsi), 0, static_cast<int32_t>(r.rdx) != 0, {}};
  if (p.count == 0 || p.count > Poll::kMost || r.rdi >= area() - sizeof p.items) return Answer::kNo;
  if (guarded(poll_streams, addr(&p), 0, slot) != 0) return Answer::kNo;
  result = p.ready;
  return Answer::kYes;
}

Answer io_in_place(Slot* slot, int64_t& result) {
  const StubRegisters& r = slot->regs;
  switch (r.rax) {
    case 0: return transfer_plain(slot, Way::kRead, 0, result);
    case 1: return transfer_plain(slot, Way::kWrite, 0, result);
    case 7: return poll_in_place(slot, result);
    case 19: return transfer_vector(slot, Way::kRead, result);
    case 20: return transfer_vector(slot, Way::kWrite, result);
    case 44: return r.r8 ? Answer::kNo : transfer_plain(slot, Way::kWrite, static_cast<uint32_t>(r.r10), result);
    case 45: return r.r8 ? Answer::kNo : transfer_plain(slot, Way::kRead, static_cast<uint32_t>(r.r10), result);
    case 232: return epoll_wait_in_place(slot, result);
    case 233: return epoll_ctl_in_place(slot, result);
    case 281: return r.r8 ? Answer::kNo : epoll_wait_in_place(slot, result);
    default: return Answer::kNo;
  }
}

}  // namespace
