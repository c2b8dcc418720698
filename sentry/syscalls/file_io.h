// SPDX-License-Identifier: Apache-2.0
// What the file calls share: blocking on kEAGAIN, results of partial transfers, the start of a relative path.
#pragma once

#include <string_view>

#include "sentry/syscalls/dispatch.h"
#include "sentry/vfs/file_description.h"

namespace sentry::kernel {
class StatAsker;
}

namespace sentry::syscalls {

inline constexpr size_t kMaxRwCount = 0x7ffff000;  // MAX_RW_COUNT
inline constexpr int32_t kAtFdcwd = -100;
enum : uint32_t { kAtSymlinkNofollow = 0x100, kAtEaccess = 0x200, kAtRemovedir = 0x200, kAtSymlinkFollow = 0x400,
                  kAtNoAutomount = 0x800, kAtEmptyPath = 0x1000 };

enum class OnWouldBlock : uint8_t { kWait, kFail };

// Calls op() until it is something other than kEAGAIN, waiting on the file in between. kERESTARTSYS on a signal.
Result<size_t> retry_while_blocked(Task& task, vfs::FileDescription& file, vfs::PollMask mask, OnWouldBlock policy,
                                   base::FunctionRef<Result<size_t>()> op);

// read(2)/write(2) on a description with everything they promise, for user or kernel buffers.
// `offset` empty: at the position.
Result<size_t> read_file(Task& task, vfs::FileDescription& file, vfs::IoBuffer& dst, std::optional<uint64_t> offset, OnWouldBlock policy);
Result<size_t> write_file(Task& task, vfs::FileDescription& file, vfs::IoBuffer& src, std::optional<uint64_t> offset, OnWouldBlock policy);

inline OnWouldBlock policy_of(const vfs::FileDescription& file) {
  return file.is_nonblocking() || file.waits_itself() ? OnWouldBlock::kFail : OnWouldBlock::kWait;
}

// A partial transfer wins over the error that ended it.
inline Result<size_t> finish_io(size_t done, const Result<size_t>& last) {
  if (done != 0) return done;
  return last;
}

// Where a path given with `dirfd` starts. EBADF, ENOTDIR. An absolute path does not look at dirfd.
// `from`: gets the file of dirfd when the path starts there.
Result<vfs::Path> start_of(Task& task, int32_t dirfd, std::string_view path, RefPtr<vfs::FileDescription>* from = nullptr);

// fdget(): what O_PATH opened does not count as open. EBADF.
inline Result<RefPtr<vfs::FileDescription>> get_open_file(Task& task, Fd fd) {
  auto file = TRY(task.get_file(fd));
  if (file->status_flags() & vfs::kO_PATH) return err(Errno::kEBADF);
  return file;
}

// import_iovec(): EINVAL for too many or negative lengths, the total cut to kMaxRwCount.
Result<std::vector<vfs::IoVec>> read_iovec(Task& task, Addr addr, uint64_t count);

// Path and object of (dirfd, path, AT_ flags): follow unless kAtSymlinkNofollow; kAtEmptyPath names dirfd itself. The result is
// positive (ENOENT otherwise).
Result<vfs::Path> lookup_at(Task& task, int32_t dirfd, UserCString path, uint32_t at_flags);
// The same, of which only the attributes are wanted.
Result<vfs::PathStat> stat_at(Task& task, int32_t dirfd, UserCString path, uint32_t at_flags, kernel::StatAsker* asker = nullptr);

}  // namespace sentry::syscalls
