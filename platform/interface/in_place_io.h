// SPDX-License-Identifier: Apache-2.0
// Input and output that a stub does in place: what it shares with the sentry. Included by the freestanding stub too: no libc.
//
// A connection inside the sandbox (unix stream, TCP that does not leave it) may have a StreamBlock: two rings in memory that the
// stubs of both ends map; an eventfd may have an EventBlock. An end is worked on in place by one process only, the one that alone has a descriptor of it; everybody
// else goes through the sentry, which works on the same rings. An epoll instance of one process may have a PollBlock, the part of
// its interest list that concerns such connections.
//
// Whoever maps a block can write all of it. What a hostile process can do with that must not exceed what its descriptor of the
// connection allows anyway: to the other end it can say anything and it can fall silent. So neither side believes a position
// that is out of bounds, and nothing in a block is about anybody but its two ends. docs/decisions/0033.
#pragma once

#include <cstdint>

namespace platform::in_place {

inline constexpr uint32_t kDescriptors = 1024;  // higher ones go through the sentry
inline constexpr uint32_t kBlocks = 1024;       // blocks that one address space can have mapped, those of its answers included
inline constexpr uint64_t kBlockSize = 0x2'0000;
inline constexpr uint32_t kWaitingWords = 1024;

// What the stub knows of a descriptor; written by the sentry only. 0: nothing.
//   bits 0-1 and 5 kind; 2 which end; 3 O_NONBLOCK; 4 EFD_SEMAPHORE; 6 a pipe; 8-23 block; 32-47 waiting word of who reads what this end writes (of
//   an epoll instance and of an eventfd: of its own process)
//   kKindEndless, /dev/null or /dev/zero: as kKindPath, and bit 6
//   kKindPath, a regular file or a directory: bits 2-4 below; 8-51 number of the description, of which the answers below are; 52-63 pack_flags()
inline constexpr uint64_t kKindStream = 1, kKindPoll = 2, kKindEvent = 3, kKindPath = 32, kKindEndless = 33, kKindMask = 35, kEnd = 4, kNonBlocking = 8,
                          kSemaphore = 16, kOneWay = 64;
constexpr uint64_t kind_of(uint64_t word) { return word & kKindMask; }

// Of kKindPath: close(2) has no effect that anybody sees at once (ClosedDescriptors); FD_CLOEXEC; what F_GETFL says is there.
inline constexpr uint64_t kCloseLater = 4, kCloseOnExec = 8, kHasFlags = 16;
// Of kKindEndless: it reads as zeros, otherwise as its end.
inline constexpr uint64_t kZeros = 64;
inline constexpr int kNumberShift = 8, kFlagsShift = 52;
inline constexpr uint64_t kMostNumber = (uint64_t{1} << (kFlagsShift - kNumberShift)) - 1;
constexpr uint64_t number_of(uint64_t word) { return word >> kNumberShift & kMostNumber; }
// The access mode and O_APPEND to O_NOATIME; other flags do not fit.
inline constexpr uint32_t kPackedFlags = 3 | 0777u << 10;
constexpr uint64_t pack_flags(uint32_t flags) { return uint64_t{(flags & 3) | (flags >> 10 & 0777) << 2} << kFlagsShift; }
constexpr uint32_t flags_of_word(uint64_t word) {
  const auto packed = static_cast<uint32_t>(word >> kFlagsShift);
  return (packed & 3) | (packed >> 2 & 0777) << 10;
}
constexpr uint32_t end_of(uint64_t word) { return static_cast<uint32_t>(word >> 2 & 1); }
constexpr uint32_t block_of(uint64_t word) { return static_cast<uint32_t>(word >> 8 & 0xffff); }
constexpr uint32_t waiting_of(uint64_t word) { return static_cast<uint32_t>(word >> 32 & 0xffff); }

// One direction of a connection. Positions only grow; the ring holds [tail, head) at position modulo its size.
struct StreamHalf {
  alignas(64) uint64_t head;  // how much was written; by who holds the writer's lock
  alignas(64) uint64_t tail;  // how much was read; by who holds the reader's lock
  alignas(64) uint32_t flags;  // kStream*; by the sentry
  uint32_t wanted;             // not 0: the sentry is told of every write, whatever the waiting word says
};
// More bytes of this direction are with the sentry, behind those in the ring: writing goes there until it is empty.
inline constexpr uint32_t kStreamBehind = 1;
// An end was closed or shut down, or there is an error to tell: everything goes to the sentry.
inline constexpr uint32_t kStreamOdd = 2;
// Of a pipe: somebody may wait for room, a page at least; who makes it tells the sentry. Writing goes there meanwhile.
inline constexpr uint32_t kStreamRoomWanted = 4;

// The locks of a descriptor's end, in memory of its own process so that nobody else can hold them: 0 free, 1 held. Nobody waits
// for one in place: who finds it held goes to the sentry.
struct DescriptorLocks {
  uint8_t reading[kDescriptors];
  uint8_t writing[kDescriptors];
};

// Descriptors that the process closed in place and the sentry has not heard of, by number. A stub sets the bit of one that may be closed
// later, and then `any`; the sentry closes them before it looks at the table the next time, and clears a bit when the word is 0.
//
// One that is opened again before that goes on as it is: who clears its bit has it. `lowest_free` is by the sentry: all numbers below are
// in use, but for those whose bit is set. Who duplicates what it opens finds a second descriptor there with its bit set.
struct ClosedDescriptors {
  uint32_t any;
  uint32_t lowest_free;
  uint32_t duplicated;  // by the stub: how often such a one was opened again as a duplicate; a hint
  uint32_t pad;
  uint64_t bits[kDescriptors / 64];
};

struct StreamBlock {
  StreamHalf half[2];  // half[e] is written by end e
};
inline constexpr uint64_t kBytesSize = 0x4000;
inline constexpr uint64_t kBytesOffset = 0x1000;  // of the ring of half 0 in the block; that of half 1 follows
inline constexpr uint64_t kStreamBlockSize = kBytesOffset + 2 * kBytesSize;
static_assert(sizeof(StreamBlock) <= kBytesOffset);

// A pipe is half 0 alone, written by end 0, with a larger ring: all that a pipe holds unless it was told otherwise.
inline constexpr uint64_t kPipeBytesSize = 0x1'0000;
inline constexpr uint64_t kPipeBlockSize = kBytesOffset + kPipeBytesSize;
inline constexpr uint64_t kPipePage = 0x1000;  // PIPE_BUF, too
constexpr uint64_t ring_size_of(uint64_t word) { return word & kOneWay ? kPipeBytesSize : kBytesSize; }

// How many bytes a ring says it has; never more than fit.
constexpr uint64_t bytes_between(uint64_t tail, uint64_t head, uint64_t size) { return head - tail <= size ? head - tail : 0; }

// An eventfd(2). Every change of the count is one compare-and-exchange, by stubs and sentry.
struct EventBlock {
  uint64_t count;
  uint64_t writes, reads;  // how many there were: what edges are told by
  uint32_t wanted;         // not 0: the sentry is told of every read and write, whatever the waiting word says
  uint32_t room_wanted;    // not 0: it is told of every read
};
inline constexpr uint64_t kMostCount = ~uint64_t{0} - 1;
inline constexpr uint64_t kEventBlockSize = 0x1000;

// A descriptor in an epoll instance.
struct PollEntry {
  uint64_t data;
  uint64_t seen;    // edge-triggered: what was told of last: the head of the incoming half; writes (and reads) of an eventfd
  uint32_t events;  // as epoll_ctl(2) has them
  uint32_t armed;   // edge-triggered: tell of it whatever was told of
};
// Bits are by descriptor. The owner's stub changes registered and dirty; the sentry takes dirty ones over before it looks.
struct PollBlock {
  uint32_t lock;   // 0 free, 1 held; among the threads of the stub
  uint32_t ready;  // not 0: the sentry has something to report
  uint32_t next;   // where the next search begins, so that all get their turn
  uint64_t known[kDescriptors / 64];       // by the sentry: this block is right about the descriptor
  uint64_t registered[kDescriptors / 64];
  uint64_t dirty[kDescriptors / 64];       // changed by the stub since the sentry looked
  PollEntry entries[kDescriptors];
};
inline bool test_bit(const uint64_t* bits, uint32_t fd) { return __atomic_load_n(&bits[fd / 64], __ATOMIC_SEQ_CST) >> (fd % 64) & 1; }
inline void set_bit(uint64_t* bits, uint32_t fd) { __atomic_fetch_or(&bits[fd / 64], uint64_t{1} << (fd % 64), __ATOMIC_SEQ_CST); }
inline void clear_bit(uint64_t* bits, uint32_t fd) { __atomic_fetch_and(&bits[fd / 64], ~(uint64_t{1} << (fd % 64)), __ATOMIC_SEQ_CST); }
inline constexpr uint64_t kPollBlockSize = 0x7000;
static_assert(sizeof(PollBlock) <= kPollBlockSize && kStreamBlockSize <= kBlockSize && kPipeBlockSize <= kBlockSize);

// epoll_ctl(2) flags that only the sentry understands: EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT.
inline constexpr uint32_t kPollSentryOnly = 7u << 28;
inline constexpr uint32_t kPollEdge = 1u << 31;

// --- Answers: what stat(2) and others say of a name ---
//
// The sentry leaves answers that it gave, or expects to be asked for, in memory of the process that may have them; its stub gives them
// again as long as the change words say that nothing they depend on has begun to change. The sentry never reads that memory (but
// for `hits`, a hint): who writes to it fools itself. docs/decisions/0036.

// Counts of changes, of the whole sandbox; the sentry writes, every stub reads. First some of their own: of what any path depends on;
// how many there are who must hear of each close(2) at once (locks, watches of inotify); how many plain files are open whose
// status flags were changed since stubs know them; how many must hear of each read(2) (watches of inotify), and of each write(2) (these, limits of the
// size of files); the last time that a file got which was not a tick's. The others by a hash of a directory's number (names in
// it) or a file's (its attributes, and what is in it), and the last by a hash of a file's number again: its size, or which pages are its own.
inline constexpr uint32_t kChangeWords = 512;
struct ChangeWords {
  uint64_t of[kChangeWords];
};
inline constexpr uint32_t kChangedPaths = 0, kCloseWatchers = 1, kChangedFlags = 2, kReadWatchers = 3, kWriteWatchers = 4, kLastExactTime = 5,
                          kHashedChanges = 6, kHashedSizes = 384;
// What a write makes of the times of a file (docs/decisions/0045): the clock's tick, or an exact time that was given to a file within it. One further ahead is
// from before the clock was set back.
constexpr uint64_t write_time(uint64_t tick, uint64_t last_exact) { return last_exact - tick < 20'000'000 ? last_exact : tick; }

struct StatAnswer {
  static constexpr uint64_t kMostName = 112;
  static constexpr uint32_t kOfName = 0, kOfFile = 1, kOfPlace = 2;  // change words of an answer, beside kChangedPaths
  static constexpr uint8_t kFollow = 1, kNoFollow = 2;               // in which way of asking it is true
  // What else it says. kReal: all of it is true for access(2) with the real ids, too. kRights: `access` is there. kTarget: the name is a
  // link, and behind the name, from the next multiple of 8 on, is where it leads, as long as `size` of `stat` says. kMount: `stat`'s
  // spare fields tell statx(2) the rest.
  static constexpr uint8_t kReal = 1, kRights = 2, kTarget = 4, kMount = 8;
  static constexpr uint8_t kReadOnly = 1;  // of `access`: what writes and is not granted fails with EROFS
  uint32_t version;  // odd while it is written
  int16_t error;     // 0, or a negative errno
  uint8_t access;    // bit N: access(2) with mode N, 1 to 7, is granted
  uint8_t says;      // kReal, ...
  uint64_t reader;   // whose answer: InPlaceValues::reader
  uint64_t base;     // where the name begins: kRootBase, kCurrentBase, or the number of a description
  uint64_t paths;    // what the change words were
  uint64_t changes[3];
  uint16_t words[3];
  uint8_t name_length;  // 0: the description itself
  uint8_t ways;
  // struct stat. With kMount its spare fields, which are zero for who asks, have `pad0`: kHasBtime, kIsMountRoot; `unused`: time of birth
  // (seconds, nanoseconds), number of the mount.
  static constexpr uint32_t kHasBtime = 1, kIsMountRoot = 2;
  uint8_t stat[144];
  char name[kMostName];
};
static_assert(sizeof(StatAnswer) == 320);
inline constexpr uint64_t kRootBase = 1, kCurrentBase = 2, kFirstDescription = 16;

struct AnswerTable {
  static constexpr uint32_t kSlots = 16384, kAnswers = 3100;
  uint64_t hits;           // by the stub: a hint
  uint64_t pad[7];
  uint16_t slots[kSlots];  // by hash of the key, in pairs: number of an answer + 1
  StatAnswer answers[kAnswers];
};
inline constexpr uint32_t kAnswerBlocks = (sizeof(AnswerTable) + kBlockSize - 1) / kBlockSize;
inline constexpr uint32_t kFirstAnswerBlock = kBlocks - kAnswerBlocks;
// Answers that several processes have in common, about absolute paths and descriptions only; their stubs only read them, and give them
// while the change word of their place says that they have not gone elsewhere. docs/decisions/0039.
inline constexpr uint32_t kFirstCommonBlock = kFirstAnswerBlock - kAnswerBlocks;
struct CommonReader {
  uint64_t reader;  // 0: none
  uint64_t count;   // what the change word was
  uint64_t word;
};

// --- Places: the positions of plain files, and bytes that were read ahead ---
//
// While all descriptors of a description are in one table, its position may be in the block of places of that table's process: there it
// is what counts, and both sides change it by compare-and-exchange. The rest of a place is what the sentry knew of the file when
// the change words stood where `changes` and `paths` say. docs/decisions/0041.
//
// The *window* of a place is a stretch of the file whose own pages stand in the room for windows, where the stub reads them: its bytes are always those
// of the file. docs/decisions/0043.
//
// With kPlaceWritable the stub may write there too, below `end`, as long as the change word stands at `write_changes` and a write would give the file the time that it
// has. It holds `writing` meanwhile; the sentry looks at that when it has begun to change the file, or has taken the place away, and waits. docs/decisions/0045.
struct FilePlace {
  alignas(64) uint64_t number;  // of the description; 0: nobody's
  uint64_t state;                // tag << kPositionBits | position; tag 0: the position is not here. Another one for each description
  uint64_t device, inode, mount;  // by the sentry: as statx(2) has them; inode 0: not known
  uint32_t used;                 // by the stub: reads that the bytes were enough for; a hint
  uint32_t window_used;          // the same of the window
  uint32_t window_written;       // the same of writes
  uint32_t writing;              // by the stub: not 0 while a thread writes in the window

  alignas(64) uint32_t version;  // odd while the sentry writes what follows
  uint16_t kind, word;           // kPlace*; change word of the file
  uint64_t changes, paths;
  uint64_t end;                  // size of the file, or the position at which nothing follows in the listing
  uint64_t start;                // of the bytes, in the file
  uint32_t length, bytes;        // how many; where they are in the block
  uint16_t size_word;            // change word of its size and pages
  uint64_t sizes;
  uint64_t window_start, window_length;  // in the file
  uint64_t window_at, window_ticket;     // in the room for windows; see map_window()
  uint64_t write_changes, write_time;
};
inline constexpr uint16_t kPlaceSize = 1;      // `end` is known
inline constexpr uint16_t kPlaceReadable = 2;  // may be read
inline constexpr uint16_t kPlaceDirectory = 4;
inline constexpr uint16_t kPlaceAlone = 8;     // the description never had a second descriptor
inline constexpr uint16_t kPlaceSteady = 16;   // may be read whatever of it changes, as long as `sizes` stands
inline constexpr uint16_t kPlaceWritable = 32; // `write_changes` and `write_time` are known, and the window can be written
inline constexpr int kPositionBits = 48;
inline constexpr uint64_t kPositionMask = (uint64_t{1} << kPositionBits) - 1;
inline constexpr uint64_t kMostPosition = kPositionMask >> 1;
inline constexpr uint32_t kPlaces = 64;
inline constexpr uint32_t kPlacesBlock = kFirstCommonBlock - 1;
struct PlacesBlock {
  FilePlace of[kPlaces];  // by number modulo kPlaces
  static constexpr uint32_t kBytes = kPlaces * sizeof(FilePlace);  // here they begin
};
static_assert(sizeof(FilePlace) == 192 && sizeof(PlacesBlock) <= kBlockSize / 8);
inline constexpr uint64_t kWindowRoom = 0x600'0000;
inline constexpr uint64_t kMostWritten = 64 * 1024;  // by one call in place

// Of a key, in steps.
constexpr uint64_t hash_step(uint64_t hash, uint64_t word) { return (hash ^ word) * 0x9e3779b97f4a7c15 ^ (hash >> 29); }
// The first one of a pair.
constexpr uint32_t slot_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 40) % AnswerTable::kSlots & ~uint32_t{1}; }

}  // namespace platform::in_place
