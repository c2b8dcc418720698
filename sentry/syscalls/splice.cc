// SPDX-License-Identifier: Apache-2.0
// sendfile(2), splice(2), tee(2), vmsplice(2), copy_file_range(2): fs/splice.c, fs/read_write.c.
#include <memory>

#include "abi/linux/signal.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/kernel/plain_file.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;
using fs::pipe::Pipe;
using fs::pipe::PipeFile;
using vfs::FileDescription;

namespace {

constexpr size_t kChunk = 64 * 1024;
enum : uint32_t { kSpliceMove = 1, kSpliceNonblock = 2, kSpliceMore = 4, kSpliceGift = 8, kSpliceAll = 15 };

// Where reading or writing goes on: an offset of the caller's, or the file's position.
class Cursor {
 public:
  static Result<Cursor> make(Task& task, FileDescription& file, UserInOut<int64_t> user) {
    Cursor c(file, user);
    if (user.is_null()) return c;
    if (!file.is_seekable()) return err(kESPIPE);
    const int64_t at = TRY(task.read(user));
    if (at < 0) return err(kEINVAL);
    c.offset_ = static_cast<uint64_t>(at);
    return c;
  }
  std::optional<uint64_t> offset() const { return offset_; }
  void advance(size_t n) {
    if (offset_) *offset_ += n;
  }
  Result<void> store(Task& task) const {
    if (!offset_) return {};
    return task.write(user_, static_cast<int64_t>(*offset_));
  }

 private:
  Cursor(FileDescription&, UserInOut<int64_t> user) : user_(user) {}
  UserInOut<int64_t> user_;
  std::optional<uint64_t> offset_;
};

Result<RefPtr<FileDescription>> readable(Task& task, Fd fd) {
  auto file = TRY(get_open_file(task, fd));
  if (!file->is_readable()) return err(kEBADF);
  return file;
}
Result<RefPtr<FileDescription>> writable(Task& task, Fd fd) {
  auto file = TRY(get_open_file(task, fd));
  if (!file->is_writable()) return err(kEBADF);
  return file;
}

// Where an open file stands. Asked of the file, as the position of a host's descriptor is on the host.
Result<uint64_t> position_of(Task& task, FileDescription& file, const Cursor& cursor) {
  if (cursor.offset()) return *cursor.offset();
  return file.seek(task, 0, 1);
}

// From a file with a position: bytes that the output does not take are read again by the next round.
Result<size_t> copy_seekable(Task& task, FileDescription& in, uint64_t& from, FileDescription& out, Cursor& to, size_t count,
                             OnWouldBlock policy) {
  auto chunk = std::make_unique_for_overwrite<uint8_t[]>(std::min(count, kChunk));
  size_t done = 0;
  while (done < count) {
    vfs::KernelIoBuffer dst({chunk.get(), std::min(count - done, kChunk)});
    Result<size_t> got = read_file(task, in, dst, from, OnWouldBlock::kWait);
    if (!got) return finish_io(done, got);
    if (*got == 0) break;
    vfs::KernelIoBuffer src({chunk.get(), *got});
    Result<size_t> put = write_file(task, out, src, to.offset(), policy);
    if (!put) return finish_io(done, put);
    from += *put;
    to.advance(*put);
    done += *put;
    if (*put < *got || task.interrupted()) break;
  }
  return done;
}

}  // namespace

Result<size_t> sys_sendfile(Task& task, Fd out_fd, Fd in_fd, UserInOut<int64_t> offset, uint64_t count) {
  auto in = TRY(readable(task, in_fd));
  if (!in->is_seekable()) return err(offset.is_null() ? kEINVAL : kESPIPE);
  auto out = TRY(writable(task, out_fd));
  if (out->status_flags() & vfs::kO_APPEND) return err(kEINVAL);
  Cursor from = TRY(Cursor::make(task, *in, offset));
  Cursor to = TRY(Cursor::make(task, *out, {}));
  uint64_t position = TRY(position_of(task, *in, from));
  const uint64_t start = position;
  const size_t done = TRY(copy_seekable(task, *in, position, *out, to, std::min(count, kMaxRwCount), policy_of(*out)));
  if (start == 0 && in->lends_position()) kernel::PlainFile(task, in_fd, *in).has_read_beginning();
  if (offset.is_null()) {
    TRY(in->seek(task, static_cast<int64_t>(start + done), 0));
    return done;
  }
  from.advance(done);
  TRY(from.store(task));
  return done;
}

Result<size_t> sys_copy_file_range(Task& task, Fd in_fd, UserInOut<int64_t> in_offset, Fd out_fd, UserInOut<int64_t> out_offset,
                                   uint64_t count, uint32_t flags) {
  auto in = TRY(readable(task, in_fd));
  auto out = TRY(writable(task, out_fd));
  if (flags != 0) return err(kEINVAL);
  if (in->inode().is_dir() || out->inode().is_dir()) return err(kEISDIR);
  if (!in->inode().is_regular() || !out->inode().is_regular()) return err(kEINVAL);
  if (out->status_flags() & vfs::kO_APPEND) return err(kEBADF);
  Cursor from = TRY(Cursor::make(task, *in, in_offset)), to = TRY(Cursor::make(task, *out, out_offset));
  uint64_t position = TRY(position_of(task, *in, from));
  const uint64_t start = position, target = TRY(position_of(task, *out, to));
  count = std::min(count, kMaxRwCount);
  if (&in->inode() == &out->inode() && start < target + count && target < start + count) return err(kEINVAL);
  const size_t done = TRY(copy_seekable(task, *in, position, *out, to, count, OnWouldBlock::kWait));
  from.advance(done);
  if (in_offset.is_null()) TRY(in->seek(task, static_cast<int64_t>(start + done), 0));
  TRY(from.store(task));
  TRY(to.store(task));
  return done;
}

namespace {

OnWouldBlock splice_policy(uint32_t flags, const FileDescription& pipe) {
  return flags & kSpliceNonblock ? OnWouldBlock::kFail : policy_of(pipe);
}

// Waits for the source to have something and for the target to have room, outside of any lock.
Result<size_t> pipe_to_pipe(Task& task, PipeFile& in, PipeFile& out, size_t count, uint32_t flags, Pipe::Keep keep) {
  if (&in.pipe() == &out.pipe()) return err(kEINVAL);
  auto move = [&] { return in.pipe().move_to(task, out.pipe(), count, keep); };
  for (;;) {
    Result<size_t> moved = move();
    if (!moved && moved.error() == kEPIPE) task.raise(Signo(abi::kSIGPIPE));
    if (moved || moved.error() != kEAGAIN) return moved;
    if ((flags & kSpliceNonblock) || in.is_nonblocking() || out.is_nonblocking()) return moved;
    const bool empty = in.pipe().readable_bytes() == 0;
    Pipe& waited = empty ? in.pipe() : out.pipe();
    auto ready = [&] { return waited.readiness(empty, !empty) != 0; };
    TRY(vfs::wait_until(task, waited.queue(), vfs::kPollAll, std::nullopt, ready));
  }
}

Result<size_t> file_to_pipe(Task& task, FileDescription& in, Cursor& from, PipeFile& out, size_t count, uint32_t flags) {
  const OnWouldBlock policy = splice_policy(flags, out);
  // Room first, so that what is taken from a socket has a place.
  auto has_room = [&] { return out.pipe().readiness(false, true) != 0; };
  if (!has_room() && policy == OnWouldBlock::kFail) return err(kEAGAIN);
  TRY(vfs::wait_until(task, out.pipe().queue(), vfs::kPollAll, std::nullopt, has_room));
  const size_t used = out.pipe().readable_bytes(), capacity = out.pipe().capacity();
  const size_t room = std::max<size_t>(capacity > used ? capacity - used : 0, fs::pipe::kPipeBuf);
  const size_t want = std::min({count, room, kChunk});
  auto chunk = std::make_unique_for_overwrite<uint8_t[]>(want);
  vfs::KernelIoBuffer dst({chunk.get(), want});
  const size_t got = TRY(read_file(task, in, dst, from.offset(), flags & kSpliceNonblock ? OnWouldBlock::kFail : policy_of(in)));
  vfs::KernelIoBuffer src({chunk.get(), got});
  const size_t put = TRY(write_file(task, out, src, std::nullopt, in.is_seekable() ? policy : OnWouldBlock::kWait));
  // What a full pipe refused is read again next time.
  if (!from.offset() && put < got && in.is_seekable()) TRY(in.seek(task, -static_cast<int64_t>(got - put), 1));
  from.advance(put);
  return put;
}

Result<size_t> pipe_to_file(Task& task, PipeFile& in, FileDescription& out, Cursor& to, size_t count, uint32_t flags) {
  const OnWouldBlock policy = splice_policy(flags, in);
  auto drain = [&]() -> Result<size_t> {
    return in.pipe().drain(task, count, [&](std::span<uint8_t> bytes) -> Result<size_t> {
      vfs::KernelIoBuffer src(bytes);
      const size_t n = TRY(write_file(task, out, src, to.offset(), OnWouldBlock::kFail));
      to.advance(n);
      return n;
    });
  };
  for (;;) {
    Result<size_t> n = drain();
    if (n || n.error() != kEAGAIN) return n;
    const bool empty = in.pipe().readable_bytes() == 0;
    if (empty ? policy == OnWouldBlock::kFail : ((flags & kSpliceNonblock) || out.is_nonblocking() || !out.wait_queue())) return n;
    vfs::WaitQueue& queue = empty ? in.pipe().queue() : *out.wait_queue();
    const vfs::PollMask mask = empty ? vfs::kPollIn | vfs::kPollHup : vfs::kPollOut | vfs::kPollErr | vfs::kPollHup;
    auto ready = [&] { return (empty ? in.pipe().readiness(true, false) : out.readiness(mask) & mask) != 0; };
    TRY(vfs::wait_until(task, queue, vfs::kPollAll, std::nullopt, ready));
  }
}

}  // namespace

Result<size_t> sys_splice(Task& task, Fd in_fd, UserInOut<int64_t> in_offset, Fd out_fd, UserInOut<int64_t> out_offset,
                          uint64_t count, uint32_t flags) {
  if (flags & ~uint32_t{kSpliceAll}) return err(kEINVAL);
  if (count == 0) return size_t{0};
  auto in = TRY(readable(task, in_fd));
  auto out = TRY(writable(task, out_fd));
  auto *in_pipe = in->as<PipeFile>(), *out_pipe = out->as<PipeFile>();
  if (!in_pipe && !out_pipe) return err(kEINVAL);
  if ((in_pipe && !in_offset.is_null()) || (out_pipe && !out_offset.is_null())) return err(kESPIPE);
  count = std::min(count, kMaxRwCount);
  if (in_pipe && out_pipe) return pipe_to_pipe(task, *in_pipe, *out_pipe, count, flags, Pipe::Keep::kNo);
  if (out->status_flags() & vfs::kO_APPEND) return err(kEINVAL);
  Cursor from = TRY(Cursor::make(task, *in, in_offset)), to = TRY(Cursor::make(task, *out, out_offset));
  const size_t done = in_pipe ? TRY(pipe_to_file(task, *in_pipe, *out, to, count, flags))
                              : TRY(file_to_pipe(task, *in, from, *out_pipe, count, flags));
  TRY(from.store(task));
  TRY(to.store(task));
  return done;
}

Result<size_t> sys_tee(Task& task, Fd in_fd, Fd out_fd, uint64_t count, uint32_t flags) {
  if (flags & ~uint32_t{kSpliceAll}) return err(kEINVAL);
  if (count == 0) return size_t{0};
  auto in = TRY(readable(task, in_fd));
  auto out = TRY(writable(task, out_fd));
  auto *in_pipe = in->as<PipeFile>(), *out_pipe = out->as<PipeFile>();
  if (!in_pipe || !out_pipe) return err(kEINVAL);
  return pipe_to_pipe(task, *in_pipe, *out_pipe, std::min(count, kMaxRwCount), flags, Pipe::Keep::kYes);
}

// Pages are copied, not gifted.
Result<size_t> sys_vmsplice(Task& task, Fd fd, Addr iov, uint64_t count, uint32_t flags) {
  if (flags & ~uint32_t{kSpliceAll}) return err(kEINVAL);
  auto file = TRY(get_open_file(task, fd));
  auto* pipe = file->as<PipeFile>();
  if (!pipe) return err(kEBADF);
  vfs::UserIoBuffer buffer(task.user_memory(), TRY(read_iovec(task, iov, count)));
  const OnWouldBlock policy = splice_policy(flags, *file);
  if (file->is_writable()) return write_file(task, *file, buffer, std::nullopt, policy);
  return read_file(task, *file, buffer, std::nullopt, policy);
}

SYSCALL_FAMILY(splice) = {
    ROW(sendfile, kFull, ""),
    ROW(copy_file_range, kFull, ""),
    ROW(splice, kFull, ""),
    ROW(tee, kFull, ""),
    ROW(vmsplice, kPartial, "copies"),
};
SYSCALL_FAMILY_END(splice);

}  // namespace sentry::syscalls
