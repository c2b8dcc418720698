// SPDX-License-Identifier: Apache-2.0
// FileDescription: an open file, as open(2) means the word: position, status flags, and the operations of whatever is
// behind it (file, directory, pipe, socket, epoll, eventfd, terminal, ...).
//
// Threads: any operation may run on several tasks at once. `offset_lock_` serialises those that use the position; it sleeps,
// since what it covers may block.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/memory/mapped_file.h"
#include "sentry/vfs/changes.h"
#include "sentry/vfs/file_windows.h"
#include "sentry/vfs/in_place.h"
#include "sentry/vfs/io_buffer.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/op_context.h"

namespace sentry::vfs {

// open(2) flags, x86-64.
enum : uint32_t {
  kO_RDONLY = 0, kO_WRONLY = 1, kO_RDWR = 2, kO_ACCMODE = 3, kO_CREAT = 0100, kO_EXCL = 0200, kO_NOCTTY = 0400,
  kO_TRUNC = 01000, kO_APPEND = 02000, kO_NONBLOCK = 04000, kO_DSYNC = 010000, kO_ASYNC = 020000, kO_DIRECT = 040000,
  kO_LARGEFILE = 0100000, kO_DIRECTORY = 0200000, kO_NOFOLLOW = 0400000, kO_NOATIME = 01000000, kO_CLOEXEC = 02000000,
  kO_SYNC = 04010000, kO_PATH = 010000000, kO_TMPFILE = 020200000,
  kFmodeExec = 040,  // internal: opened for execution, needs execute instead of read permission
};

enum : uint32_t { kSealSeal = 1, kSealShrink = 2, kSealGrow = 4, kSealWrite = 8, kSealFutureWrite = 16, kSealExec = 32 };
enum : uint32_t { kFallocKeepSize = 1, kFallocPunchHole = 2, kFallocCollapse = 8, kFallocZeroRange = 16, kFallocInsert = 32 };

struct DirEntryInfo {
  std::string_view name;
  uint64_t inode = 0;
  uint8_t type = 0;          // DT_*
  uint64_t next_offset = 0;  // d_off: where to continue after this one
};
// False: no room, stop (the entry was not taken).
using DirSink = base::FunctionRef<bool(const DirEntryInfo&)>;

// Signal-driven I/O of one file: kernel/async_io.h, as vfs knows no signals.
class AsyncIo : public base::RefCounted {
 public:
  // The file's wait queue must not be used from now on.
  virtual void file_gone() = 0;
};

class FilePlaces;

class FileDescription : public memory::MappedFile {
 public:
  // `flags`: access mode and status flags of open(2).
  FileDescription(Path path, uint32_t flags);
  ~FileDescription() override;

  const Path& path() const { return path_; }
  Inode& inode() const { return *inode_; }
  uint32_t status_flags() const { return flags_.load(std::memory_order_relaxed); }
  virtual base::Result<void> set_status_flags(OpContext& ctx, uint32_t flags);  // F_SETFL: the changeable ones but O_ASYNC
  bool is_readable() const { return readable_; }
  bool is_writable() const { return writable_; }
  bool is_nonblocking() const { return (status_flags() & kO_NONBLOCK) != 0; }

  // Positioned I/O; ESPIPE where there is no position. 0 bytes = end of file. kEAGAIN means "would block": the
  // system-call layer waits with wait_queue()/readiness() and calls again unless O_NONBLOCK.
  virtual base::Result<size_t> pread(OpContext& ctx, IoBuffer& dst, uint64_t offset) { return base::err(abi::Errno::kESPIPE); }
  // A write at kAtEnd appends atomically (what O_APPEND turns every write into).
  static constexpr uint64_t kAtEnd = ~uint64_t{0};
  virtual base::Result<size_t> pwrite(OpContext& ctx, IoBuffer& src, uint64_t offset) { return base::err(abi::Errno::kESPIPE); }
  // At the position: the default uses pread/pwrite and moves it (append mode respected). Streams override these.
  virtual base::Result<size_t> read(OpContext& ctx, IoBuffer& dst);
  virtual base::Result<size_t> write(OpContext& ctx, IoBuffer& src);
  virtual base::Result<uint64_t> seek(OpContext& ctx, int64_t offset, int32_t whence);
  virtual bool is_seekable() const { return false; }
  // read() and write() wait by themselves where they may (timeouts of their own): kEAGAIN is final.
  virtual bool waits_itself() const { return false; }
  uint64_t offset() const;

  // getdents64 from the position; sets it.
  virtual base::Result<void> readdir(OpContext& ctx, DirSink sink) { return base::err(abi::Errno::kENOTDIR); }

  // What is ready now, and who tells when that changes. Regular files are always ready and have no queue.
  virtual PollMask readiness(PollMask interest) { return kPollIn | kPollOut | kPollRdNorm | kPollWrNorm; }
  virtual WaitQueue* wait_queue() { return nullptr; }

  virtual base::Result<int64_t> ioctl(OpContext& ctx, uint32_t request, uint64_t arg) { return base::err(abi::Errno::kENOTTY); }
  virtual base::Result<void> fsync(OpContext& ctx, bool data_only) { return base::err(abi::Errno::kEINVAL); }
  virtual base::Result<void> fallocate(OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) { return base::err(abi::Errno::kENODEV); }
  virtual base::Result<void> truncate(OpContext& ctx, uint64_t size);  // ftruncate: inode().set_attr by default
  virtual base::Result<Stat> stat(OpContext& ctx) { return inode().stat(ctx); }
  // For mmap: ENODEV when it cannot be mapped.
  virtual base::Result<base::RefPtr<memory::Mappable>> mappable(OpContext& ctx) { return base::err(abi::Errno::kENODEV); }
  // What its bytes stand in, for reading them there as long as the size word of its file says that its pages are what they were (vfs/changes.h); null: not to be had.
  virtual base::RefPtr<memory::Mappable> pages_to_read(OpContext& ctx) { return nullptr; }
  // The fd table calls this for every descriptor that it drops (close, dup2 over it, exec, exit): POSIX record locks of the
  // closing process go, then flush(). Without locks the first part is one load.
  base::Result<void> on_descriptor_close(OpContext& ctx);
  // F_GET_SEALS, F_ADD_SEALS of memfds. mmap(2) asks too: a sealed file has no writable shared mapping.
  virtual base::Result<uint32_t> seals() { return base::err(abi::Errno::kEINVAL); }
  virtual base::Result<void> add_seals(uint32_t seals) { return base::err(abi::Errno::kEINVAL); }
  // close(2) of one descriptor (not only the last): EIO reporting and the like. The destructor is the last close.
  virtual base::Result<void> flush(OpContext& ctx) { return {}; }
  // "pos:\t0\n..." lines beyond the common ones in /proc/PID/fdinfo/N.
  virtual std::string fdinfo() const { return ""; }
  Identity mapped_identity() const override;

  // Type tests without RTTI: each kind defines a static tag and overrides this.
  virtual const void* kind() const { return nullptr; }
  template <typename T>
  T* as() {
    return kind() == T::kKind ? static_cast<T*>(this) : nullptr;
  }

  // For openers that made the inode writable (get_write_access): the last close gives it back.
  void holds_write_access() { holds_write_access_ = true; }

  // Whether O_ASYNC can be set: those with a fasync operation in Linux. They have a wait queue.
  virtual bool sends_sigio() const { return false; }
  // Null until F_SETOWN, F_SETSIG or O_ASYNC was used; then it stays. The first one wins.
  AsyncIo* async_io() const { return async_io_.load(std::memory_order_acquire); }
  AsyncIo& set_async_io(base::RefPtr<AsyncIo> io);
  void set_async_flag(bool on);

  // Of this description and no other, at least in_place::kFirstDescription; made when it is first asked for.
  uint64_t number();
  // A stub may close it in place and the sentry hear of it later: nobody sees the difference as long as there is no CloseWatcher
  // (vfs/changes.h). Constant.
  virtual bool closes_later() const { return false; }
  // Its position may be lent to the places of a process (vfs/file_places.h). All that uses the position goes through offset()
  // and Position then. Constant.
  virtual bool lends_position() const { return false; }
  // Reading and writing it needs nobody: nothing comes out of it, or zeros, and what is written is gone. Constant.
  enum class Endless : uint8_t { kNo, kNothing, kZeros };
  virtual Endless endless() const { return Endless::kNo; }
  ReadHabit& read_habit() { return read_habit_; }
  WriteHabit& write_habit() { return write_habit_; }
  bool is_lent() const { return lent_.load(std::memory_order_seq_cst) != nullptr; }
  uint64_t number_if_any() const { return number_.load(std::memory_order_relaxed); }  // 0: not asked for

  // --- in place: vfs/in_place.h ---
  // Makes what is needed for it; EOPNOTSUPP where there is no such thing.
  virtual base::Result<InPlaceEnd*> prepare_in_place(OpContext& ctx) { return base::err(abi::Errno::kEOPNOTSUPP); }
  virtual InPlaceEnd* in_place_end() const { return nullptr; }  // null before
  // A stub changed an epoll instance that somebody may wait for. Connections: InPlaceEnd::kick_locked().
  virtual void in_place_kick(OpContext& ctx) { (void)ctx; }
  // Stubs may have changed it: called before readiness() is asked for poll(2) and select(2).
  virtual void catch_up(OpContext& ctx) { (void)ctx; }
  // It is used so much that it should be in place. Whoever takes up the wish says how that went.
  bool wants_in_place() const { return wants_in_place_.load(std::memory_order_relaxed); }
  void answer_wish(bool granted);
  // How many descriptors refer to it. Called by the tables, with their locks.
  void add_descriptor(const void* table);
  void drop_descriptor();
  uint32_t descriptors() const { return descriptors_.load(std::memory_order_seq_cst); }
  bool is_watched() const { return epoll_items_.load(std::memory_order_seq_cst) != nullptr; }  // by epoll, now or earlier

 protected:
  // The position while a call uses and moves it, with offset_lock_; nobody else does meanwhile.
  class Position {
   public:
    explicit Position(FileDescription& file);
    ~Position();
    Position(const Position&) = delete;
    Position& operator=(const Position&) = delete;
    uint64_t at;

   private:
    FileDescription& file_;
  };

  void note_use() {
    constexpr int32_t kMany = 16;
    if (uses_.load(std::memory_order_relaxed) < kMany) {
      uses_.fetch_add(1, std::memory_order_relaxed);
    } else if (!wants_in_place()) {
      wants_in_place_.store(true, std::memory_order_relaxed);
    }
  }

  SleepLock offset_lock_;
  std::atomic<uint64_t> offset_{0};  // while it is not lent
  std::atomic<uint32_t> flags_;

 private:
  friend class EpollFile;
  friend class FilePlaces;
  friend void leave_epolls(FileDescription& file);
  void destroy() const override;  // leaves epoll instances while wait_queue() still works

  void put_offset(uint64_t position);

  const Path path_;
  const base::RefPtr<Inode> inode_;
  const bool readable_, writable_;
  bool holds_write_access_ = false;
  std::atomic<void*> epoll_items_{nullptr};  // list of epoll items that watch this; epoll.cc
  std::atomic<AsyncIo*> async_io_{nullptr};  // holds a reference
  std::atomic<bool> wants_in_place_{false};
  std::atomic<int32_t> uses_{0};
  std::atomic<uint32_t> descriptors_{0};
  std::atomic<uint64_t> number_{0};
  std::atomic<FilePlaces*> lent_{nullptr};  // changed with in_place_mutex()
  std::atomic<uint32_t> positions_held_{0};
  ReadHabit read_habit_;
  WriteHabit write_habit_;
  std::optional<ChangedFlags> changed_flags_;  // set with in_place_mutex(): words of descriptors that stubs have say otherwise
};

// The dentry and mount of objects without a name in the tree (pipes, sockets, eventfds, memfds): one hidden file
// system. `name` is shown by readlink of /proc/PID/fd/N; one that ends in ':' gets the inode number: "pipe:[12]".
Path make_anonymous_path(std::string name, uint32_t mode, const creds::Credentials& owner);

// The writer count of an inode against those who execute it. ETXTBSY.
base::Result<void> get_write_access(Inode& inode);
void put_write_access(Inode& inode);
base::Result<void> deny_write_access(Inode& inode);  // exec
void allow_write_access(Inode& inode);

}  // namespace sentry::vfs
