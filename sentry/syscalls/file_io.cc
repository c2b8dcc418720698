// SPDX-License-Identifier: Apache-2.0
#include "sentry/syscalls/file_io.h"

#include "sentry/kernel/stat_answers.h"
#include "sentry/vfs/inotify.h"

namespace sentry::syscalls {

using enum abi::Errno;

Result<size_t> retry_while_blocked(Task& task, vfs::FileDescription& file, vfs::PollMask mask, OnWouldBlock policy,
                                   base::FunctionRef<Result<size_t>()> op) {
  Result<size_t> result = op();
  if (result || result.error() != kEAGAIN || policy == OnWouldBlock::kFail) return result;
  vfs::WaitQueue* queue = file.wait_queue();
  if (!queue) return result;
  const vfs::WaitScope scope(task);
  vfs::TaskWaiter waiter(task);
  queue->add(waiter, mask);
  for (;;) {
    result = op();
    if (result || result.error() != kEAGAIN) break;
    if (task.block(std::nullopt) == vfs::WakeReason::kInterrupted) {
      result = err(kERESTARTSYS);
      break;
    }
  }
  queue->remove(waiter);
  return result;
}

Result<size_t> read_file(Task& task, vfs::FileDescription& file, vfs::IoBuffer& dst, std::optional<uint64_t> offset, OnWouldBlock policy) {
  Result<size_t> n = retry_while_blocked(task, file, vfs::kPollIn | vfs::kPollRdNorm | vfs::kPollHup, policy, [&]() -> Result<size_t> {
    return offset ? file.pread(task, dst, *offset) : file.read(task, dst);
  });
  if (n && *n != 0) vfs::notify_event(*file.path().dentry, vfs::kInAccess);
  return n;
}

namespace {

// Streams whose blocking write goes on until everything is written (pipe_write, sock_write, tty_write of Linux).
bool writes_everything(const vfs::FileDescription& file) {
  const uint32_t type = file.inode().type();
  return type == abi::kS_IFIFO || type == abi::kS_IFSOCK || type == abi::kS_IFCHR;
}

// RLIMIT_FSIZE: generic_write_checks(). EFBIG and SIGXFSZ at the limit, a shorter write below it.
Result<void> apply_file_size_limit(Task& task, vfs::FileDescription& file, vfs::IoBuffer& src, std::optional<uint64_t> offset) {
  const uint64_t limit = task.rlimit(creds::Resource::kFSIZE).soft;
  if (limit == creds::kInfinity || !file.inode().is_regular() || src.remaining() == 0) return {};
  uint64_t at = offset.value_or(file.offset());
  if (!offset && (file.status_flags() & vfs::kO_APPEND)) at = TRY(file.stat(task)).size;
  if (at >= limit) {
    task.raise(Signo(abi::kSIGXFSZ));
    return err(kEFBIG);
  }
  src.truncate(limit - at);
  return {};
}

}  // namespace

Result<size_t> write_file(Task& task, vfs::FileDescription& file, vfs::IoBuffer& src, std::optional<uint64_t> offset, OnWouldBlock policy) {
  TRY(apply_file_size_limit(task, file, src, offset));
  if (file.inode().is_regular()) TRY(vfs::remove_privileges(task, file.path()));
  const size_t total = src.remaining();  // a file such as /dev/null may take bytes without looking at them
  size_t done = 0;
  Result<size_t> n = size_t{0};
  const auto write_once = [&] {
    return retry_while_blocked(task, file, vfs::kPollOut | vfs::kPollWrNorm, policy, [&]() -> Result<size_t> {
      return offset ? file.pwrite(task, src, *offset + done) : file.write(task, src);
    });
  };
  do {
    n = write_once();
    if (!n && n.error() == kENOSPC && file.inode().is_regular()) {
      // Files that were removed and then closed in place still take their room.
      task.kernel().settle_descriptors();
      n = write_once();
    }
    if (!n || *n == 0) break;
    done += *n;
  } while (done < total && policy == OnWouldBlock::kWait && writes_everything(file));
  if (done != 0) vfs::notify_event(*file.path().dentry, vfs::kInModify);
  return finish_io(done, n);
}

Result<vfs::Path> start_of(Task& task, int32_t dirfd, std::string_view path, RefPtr<vfs::FileDescription>* from) {
  if (!path.empty() && path.front() == '/') return task.root();
  if (dirfd == kAtFdcwd) return task.cwd();
  RefPtr<vfs::FileDescription> file = TRY(task.get_file(Fd(dirfd)));
  if (!path.empty() && !file->inode().is_dir()) return err(kENOTDIR);
  vfs::Path start = file->path();
  if (from) *from = std::move(file);
  return start;
}

Result<std::vector<vfs::IoVec>> read_iovec(Task& task, Addr addr, uint64_t count) {
  constexpr uint64_t kMaxVecs = 1024;  // UIO_MAXIOV
  if (count > kMaxVecs) return err(kEINVAL);
  struct Raw {
    uint64_t base = 0, len = 0;
  };
  std::vector<vfs::IoVec> vecs;
  vecs.reserve(count);
  size_t total = 0;
  for (const Raw& raw : TRY(task.read_array(UserIn<Raw>(addr), count))) {
    if (static_cast<int64_t>(raw.len) < 0) return err(kEINVAL);
    const uint64_t len = std::min<uint64_t>(raw.len, kMaxRwCount - total);
    total += len;
    vecs.push_back({Addr(raw.base), len});
  }
  return vecs;
}

namespace {

struct AtPath {
  memory::UserPath path;
  uint32_t lookup_flags = 0;
  bool is_descriptor = false;  // "" with AT_EMPTY_PATH: dirfd itself

  std::string_view text() const { return path.text(); }
  Result<void> read(Task& task, int32_t dirfd, UserCString user_path, uint32_t at_flags) {
    if (!(at_flags & kAtSymlinkNofollow)) lookup_flags = vfs::kLookupFollow;
    // Since 6.11 a null path means "" with AT_EMPTY_PATH.
    if (!user_path.is_null() || !(at_flags & kAtEmptyPath)) TRY(path.read(task.user_memory(), user_path));
    if (at_flags & kAtEmptyPath) lookup_flags |= vfs::kLookupEmptyPath;
    if (text().starts_with('/')) lookup_flags |= vfs::kLookupStartIsRoot;
    is_descriptor = (at_flags & kAtEmptyPath) != 0 && text().empty() && dirfd != kAtFdcwd;
    return {};
  }
};

}  // namespace

Result<vfs::Path> lookup_at(Task& task, int32_t dirfd, UserCString user_path, uint32_t at_flags) {
  AtPath at;
  TRY(at.read(task, dirfd, user_path, at_flags));
  if (at.is_descriptor) return TRY(task.get_file(Fd(dirfd)))->path();
  const vfs::Path start = TRY(start_of(task, dirfd, at.text()));
  vfs::PathResult found = TRY(vfs::walk(task, start, at.text(), at.lookup_flags));
  if (found.path.dentry->is_negative()) return err(kENOENT);
  return std::move(found.path);
}

Result<vfs::PathStat> stat_at(Task& task, int32_t dirfd, UserCString user_path, uint32_t at_flags, kernel::StatAsker* asker) {
  AtPath at;
  TRY(at.read(task, dirfd, user_path, at_flags));
  if (at.is_descriptor) {
    const auto file = TRY(task.get_file(Fd(dirfd)));
    const vfs::Path& path = file->path();
    vfs::PathStat found{TRY(path.inode().stat(task)), path.mount->id(), path.mount->flags(), path.dentry == path.mount->root()};
    if (asker) asker->keep_description(*file, Fd(dirfd), found.stat);
    return found;
  }
  RefPtr<vfs::FileDescription> from;
  const vfs::Path start = TRY(start_of(task, dirfd, at.text(), asker ? &from : nullptr));
  if (!asker) return vfs::walk_stat(task, start, at.text(), at.lookup_flags);
  auto found = vfs::walk_stat(task, start, at.text(), at.lookup_flags, asker->record());
  using enum kernel::StatAsker::Link;
  asker->keep(from.get(), Fd(dirfd), at.text(), at.lookup_flags & vfs::kLookupFollow ? kFollow : kNoFollow, found);
  return found;
}

}  // namespace sentry::syscalls
