// SPDX-License-Identifier: Apache-2.0
// read(2), write(2), pread(2), readv(2), preadv2(2), lseek(2) and kin.
#include "sentry/kernel/plain_file.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;
using vfs::FileDescription;

namespace {

Result<RefPtr<FileDescription>> readable(Task& task, Fd fd) {
  RefPtr<FileDescription> file = TRY(task.get_file(fd));
  if (!file->is_readable()) return err(kEBADF);
  return file;
}

Result<RefPtr<FileDescription>> writable(Task& task, Fd fd) {
  RefPtr<FileDescription> file = TRY(task.get_file(fd));
  if (!file->is_writable()) return err(kEBADF);
  return file;
}

// access_ok(): a buffer that reaches beyond user space is EFAULT before anything is transferred.
Result<void> check_buffer(Task& task, Addr buffer, size_t count) {
  auto end = buffer.add(count);
  if (!end || *end > task.kernel().platform().max_address()) return err(kEFAULT);
  return {};
}

Result<uint64_t> check_offset(const FileDescription& file, int64_t offset) {
  if (offset < 0) return err(kEINVAL);
  if (!file.is_seekable()) return err(kESPIPE);
  return static_cast<uint64_t>(offset);
}

// RWF_* of preadv2(2): HIPRI, DSYNC and SYNC act after the fact or not at all here.
constexpr uint32_t kRwfDsync = 2, kRwfSync = 4, kRwfNowait = 8, kRwfAppend = 16, kRwfKnown = 31;

Result<size_t> finish_sync(Task& task, FileDescription& file, Result<size_t> n, uint32_t flags) {
  if (n && *n != 0 && (flags & (kRwfDsync | kRwfSync))) TRY(file.fsync(task, (flags & kRwfSync) == 0));
  return n;
}

}  // namespace

Result<size_t> sys_read(Task& task, Fd fd, Addr buffer, size_t count) {
  auto file = TRY(readable(task, fd));
  TRY(check_buffer(task, buffer, count));
  vfs::UserIoBuffer dst(task.user_memory(), buffer, std::min(count, kMaxRwCount));
  Result<size_t> n = read_file(task, *file, dst, std::nullopt, policy_of(*file));
  if (n && file->lends_position()) kernel::PlainFile(task, fd, *file).has_read(count, *n);
  return n;
}

Result<size_t> sys_write(Task& task, Fd fd, Addr buffer, size_t count) {
  auto file = TRY(writable(task, fd));
  TRY(check_buffer(task, buffer, count));
  vfs::UserIoBuffer src(task.user_memory(), buffer, std::min(count, kMaxRwCount));
  const Result<size_t> n = write_file(task, *file, src, std::nullopt, policy_of(*file));
  if (n && file->lends_position()) kernel::PlainFile::note_write(task, fd, *file, std::nullopt, *n);
  return n;
}

Result<size_t> sys_pread64(Task& task, Fd fd, Addr buffer, size_t count, int64_t offset) {
  if (offset < 0) return err(kEINVAL);
  auto file = TRY(readable(task, fd));
  const uint64_t at = TRY(check_offset(*file, offset));
  TRY(check_buffer(task, buffer, count));
  vfs::UserIoBuffer dst(task.user_memory(), buffer, std::min(count, kMaxRwCount));
  const Result<size_t> n = read_file(task, *file, dst, at, policy_of(*file));
  if (n && file->lends_position()) kernel::PlainFile::note_pread(task, fd, *file, at, *n);
  return n;
}

Result<size_t> sys_pwrite64(Task& task, Fd fd, Addr buffer, size_t count, int64_t offset) {
  if (offset < 0) return err(kEINVAL);
  auto file = TRY(writable(task, fd));
  uint64_t at = TRY(check_offset(*file, offset));
  // A known oddity of Linux: O_APPEND wins over the offset (pwrite(2), BUGS).
  if (file->status_flags() & vfs::kO_APPEND) at = FileDescription::kAtEnd;
  TRY(check_buffer(task, buffer, count));
  vfs::UserIoBuffer src(task.user_memory(), buffer, std::min(count, kMaxRwCount));
  const Result<size_t> n = write_file(task, *file, src, at, policy_of(*file));
  if (n && file->lends_position() && at != FileDescription::kAtEnd) kernel::PlainFile::note_write(task, fd, *file, at, *n);
  return n;
}

Result<size_t> sys_readv(Task& task, Fd fd, Addr iov, uint64_t count) {
  auto file = TRY(readable(task, fd));
  vfs::UserIoBuffer dst(task.user_memory(), TRY(read_iovec(task, iov, count)));
  return read_file(task, *file, dst, std::nullopt, policy_of(*file));
}

Result<size_t> sys_writev(Task& task, Fd fd, Addr iov, uint64_t count) {
  auto file = TRY(writable(task, fd));
  vfs::UserIoBuffer src(task.user_memory(), TRY(read_iovec(task, iov, count)));
  return write_file(task, *file, src, std::nullopt, policy_of(*file));
}

namespace {

Result<size_t> do_preadv(Task& task, Fd fd, Addr iov, uint64_t count, int64_t offset, uint32_t flags) {
  if (flags & ~kRwfKnown) return err(kEOPNOTSUPP);
  auto file = TRY(readable(task, fd));
  std::optional<uint64_t> at;
  if (offset != -1) at = TRY(check_offset(*file, offset));
  vfs::UserIoBuffer dst(task.user_memory(), TRY(read_iovec(task, iov, count)));
  return read_file(task, *file, dst, at, flags & kRwfNowait ? OnWouldBlock::kFail : policy_of(*file));
}

Result<size_t> do_pwritev(Task& task, Fd fd, Addr iov, uint64_t count, int64_t offset, uint32_t flags) {
  if (flags & ~kRwfKnown) return err(kEOPNOTSUPP);
  auto file = TRY(writable(task, fd));
  std::optional<uint64_t> at;
  if (offset != -1) at = TRY(check_offset(*file, offset));
  if (at && ((flags & kRwfAppend) || (file->status_flags() & vfs::kO_APPEND))) at = FileDescription::kAtEnd;
  vfs::UserIoBuffer src(task.user_memory(), TRY(read_iovec(task, iov, count)));
  return finish_sync(task, *file, write_file(task, *file, src, at, flags & kRwfNowait ? OnWouldBlock::kFail : policy_of(*file)), flags);
}

}  // namespace

// The last two arguments are the halves of the offset; on 64-bit the first holds all of it.
Result<size_t> sys_preadv(Task& task, Fd fd, Addr iov, uint64_t count, int64_t offset, uint64_t) {
  if (offset < 0) return err(kEINVAL);
  return do_preadv(task, fd, iov, count, offset, 0);
}
Result<size_t> sys_pwritev(Task& task, Fd fd, Addr iov, uint64_t count, int64_t offset, uint64_t) {
  if (offset < 0) return err(kEINVAL);
  return do_pwritev(task, fd, iov, count, offset, 0);
}

Result<uint64_t> sys_lseek(Task& task, Fd fd, int64_t offset, int32_t whence) {
  auto file = TRY(task.get_file(fd));
  if (file->status_flags() & vfs::kO_PATH) return err(kEBADF);
  if (whence < 0 || whence > 4) return err(kEINVAL);
  const Result<uint64_t> position = file->seek(task, offset, whence);
  if (position && file->lends_position()) kernel::PlainFile(task, fd, *file).has_sought();
  return position;
}

Result<size_t> sys_preadv2(Task& task, Fd fd, Addr iov, uint64_t count, int64_t offset, uint64_t, uint32_t flags) {
  if (offset < -1) return err(kEINVAL);
  return do_preadv(task, fd, iov, count, offset, flags);
}
Result<size_t> sys_pwritev2(Task& task, Fd fd, Addr iov, uint64_t count, int64_t offset, uint64_t, uint32_t flags) {
  if (offset < -1) return err(kEINVAL);
  return do_pwritev(task, fd, iov, count, offset, flags);
}

SYSCALL_FAMILY(read_write) = {
    ROW(read, kFull, ""),    ROW(write, kFull, ""),   ROW(pread64, kFull, ""), ROW(pwrite64, kFull, ""),
    ROW(readv, kFull, ""),   ROW(writev, kFull, ""),  ROW(preadv, kFull, ""),  ROW(pwritev, kFull, ""),
    ROW(preadv2, kFull, ""), ROW(pwritev2, kFull, ""), ROW(lseek, kFull, ""),
};
SYSCALL_FAMILY_END(read_write);

}  // namespace sentry::syscalls
