// SPDX-License-Identifier: Apache-2.0
// open(2), openat2(2), creat(2), close(2), close_range(2).
#include "sentry/kernel/plain_file.h"
#include "sentry/kernel/stat_answers.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;

struct OpenHow {
  uint64_t flags = 0, mode = 0, resolve = 0;
};

namespace {

// RESOLVE_* of openat2(2).
constexpr uint64_t kResolveNoXdev = 1, kResolveNoMagiclinks = 2, kResolveNoSymlinks = 4, kResolveBeneath = 8,
                   kResolveInRoot = 16, kResolveCached = 32, kResolveKnown = 63;
constexpr uint64_t kKnownOpenFlags = vfs::kO_ACCMODE | vfs::kO_CREAT | vfs::kO_EXCL | vfs::kO_NOCTTY | vfs::kO_TRUNC |
                                     vfs::kO_APPEND | vfs::kO_NONBLOCK | vfs::kO_SYNC | vfs::kO_ASYNC | vfs::kO_DIRECT |
                                     vfs::kO_LARGEFILE | vfs::kO_DIRECTORY | vfs::kO_NOFOLLOW | vfs::kO_NOATIME |
                                     vfs::kO_CLOEXEC | vfs::kO_PATH | vfs::kO_TMPFILE;
constexpr uint32_t kTmpfileBit = vfs::kO_TMPFILE & ~vfs::kO_DIRECTORY;

// Leaves an answer for a name that will be opened again: one that is not there, or one that was opened before.
void keep_name(Task& task, vfs::FileDescription* from, int32_t dirfd, const vfs::Path& start, std::string_view path, uint32_t flags, bool exists) {
  kernel::StatAsker asker(task);
  vfs::WalkRecord* record = asker.record();
  if (!record || (flags & (vfs::kO_CREAT | kTmpfileBit))) return;
  using enum kernel::StatAsker::Link;
  const auto link = flags & vfs::kO_NOFOLLOW ? kNoFollow : kFollow;
  const auto found = vfs::walk_stat(task, start, path, link == kFollow ? uint32_t{vfs::kLookupFollow} : 0, record);
  if (found.has_value() == exists) asker.keep(from, Fd(dirfd), path, link, found);
}

Result<Fd> do_open(Task& task, int32_t dirfd, UserCString user_path, uint32_t flags, uint32_t mode, uint32_t lookup_flags) {
  memory::UserPath user;
  TRY(user.read(task.user_memory(), user_path));
  const std::string_view path = user.text();
  if (path.empty()) return err(kENOENT);
  // A scoped walk begins at dirfd even when the path is absolute: path_init() of fs/namei.c.
  const bool scoped = (lookup_flags & (vfs::kLookupInRoot | vfs::kLookupBeneath)) != 0;
  RefPtr<vfs::FileDescription> from;
  const vfs::Path start = TRY(start_of(task, dirfd, scoped ? "." : path, &from));
  const bool plain = lookup_flags == 0;
  if (!scoped && path.front() == '/') lookup_flags |= vfs::kLookupStartIsRoot;
  auto opened = vfs::open_at(task, start, path, flags, mode & 07777 & ~task.umask(), lookup_flags);
  if (!opened) {
    if (plain && opened.error() == kENOENT) keep_name(task, from.get(), dirfd, start, path, flags, false);
    return err(opened.error());
  }
  RefPtr<vfs::FileDescription> file = std::move(*opened);
  const Fd fd = TRY(task.install_fd(RefPtr<vfs::FileDescription>(file), (flags & vfs::kO_CLOEXEC) != 0));
  if (kernel::PlainFile(task, fd, *file).opened() == kernel::PlainFile::Opened::kOften && plain)
    keep_name(task, from.get(), dirfd, start, path, flags, true);
  // Most programs ask for the size next.
  if (kernel::stats_what_it_opens(task)) kernel::StatAsker(task).keep_opened(*file, fd, path);
  if (file->inode().is_dir() && task.fds().duplicates_directories())
    task.fds().add_closed_duplicate(fd, file, task.rlimit(creds::Resource::kNOFILE).soft);
  return fd;
}

// build_open_flags() for the lenient calls: unknown bits are ignored.
uint32_t lenient(uint32_t flags) { return flags & static_cast<uint32_t>(kKnownOpenFlags); }

// build_open_flags(): the combinations that openat2 refuses.
Result<void> check_how(const OpenHow& how) {
  if ((how.flags & ~kKnownOpenFlags) != 0 || (how.resolve & ~kResolveKnown) != 0) return err(kEINVAL);
  if ((how.resolve & kResolveBeneath) && (how.resolve & kResolveInRoot)) return err(kEINVAL);
  const bool creates = (how.flags & vfs::kO_CREAT) != 0 || (how.flags & kTmpfileBit) != 0;
  if (creates ? (how.mode & ~uint64_t{07777}) != 0 : how.mode != 0) return err(kEINVAL);
  if ((how.flags & kTmpfileBit) && ((how.flags & vfs::kO_TMPFILE) != vfs::kO_TMPFILE || !(how.flags & (vfs::kO_WRONLY | vfs::kO_RDWR))))
    return err(kEINVAL);
  constexpr uint64_t kWithPath = vfs::kO_PATH | vfs::kO_DIRECTORY | vfs::kO_NOFOLLOW | vfs::kO_CLOEXEC;
  if ((how.flags & vfs::kO_PATH) && (how.flags & ~kWithPath)) return err(kEINVAL);
  if ((how.resolve & kResolveCached) && (how.flags & (vfs::kO_TRUNC | vfs::kO_CREAT | kTmpfileBit))) return err(kEAGAIN);
  return {};
}

uint32_t lookup_flags_of(uint64_t resolve) {
  uint32_t flags = 0;
  if (resolve & kResolveNoXdev) flags |= vfs::kLookupNoXdev;
  if (resolve & kResolveNoMagiclinks) flags |= vfs::kLookupNoMagicLinks;
  if (resolve & kResolveNoSymlinks) flags |= vfs::kLookupNoSymlinks;
  if (resolve & kResolveBeneath) flags |= vfs::kLookupBeneath;
  if (resolve & kResolveInRoot) flags |= vfs::kLookupInRoot;
  return flags;
}

}  // namespace

Result<Fd> sys_openat(Task& task, int32_t dirfd, UserCString path, uint32_t flags, uint32_t mode) {
  return do_open(task, dirfd, path, lenient(flags), mode, 0);
}
Result<Fd> sys_open(Task& task, UserCString path, uint32_t flags, uint32_t mode) {
  return do_open(task, kAtFdcwd, path, lenient(flags), mode, 0);
}
Result<Fd> sys_creat(Task& task, UserCString path, uint32_t mode) {
  return do_open(task, kAtFdcwd, path, vfs::kO_CREAT | vfs::kO_WRONLY | vfs::kO_TRUNC, mode, 0);
}

// Structures of a later kernel are accepted when what we do not know is zero (copy_struct_from_user).
Result<Fd> sys_openat2(Task& task, int32_t dirfd, UserCString path, Addr how_addr, size_t size) {
  if (size < sizeof(OpenHow)) return err(kEINVAL);
  if (size > abi::kPageSize) return err(kE2BIG);
  const OpenHow how = TRY(task.read(UserIn<OpenHow>(how_addr)));
  std::vector<uint8_t> rest(size - sizeof(OpenHow));
  if (!rest.empty()) TRY(task.user_memory().copy_in(rest.data(), how_addr + sizeof(OpenHow), rest.size()));
  for (uint8_t byte : rest)
    if (byte != 0) return err(kE2BIG);
  TRY(check_how(how));
  return do_open(task, dirfd, path, static_cast<uint32_t>(how.flags), static_cast<uint32_t>(how.mode), lookup_flags_of(how.resolve));
}

Result<void> sys_close(Task& task, Fd fd) {
  auto file = TRY(task.fds().remove(fd));
  return file->on_descriptor_close(task);
}

Result<void> sys_close_range(Task& task, uint32_t first, uint32_t last, uint32_t flags) {
  constexpr uint32_t kUnshare = 2, kCloexec = 4;
  if ((flags & ~(kUnshare | kCloexec)) != 0 || first > last) return err(kEINVAL);
  if (flags & kUnshare) task.unshare_fds();
  if (flags & kCloexec) {
    task.fds().set_close_on_exec_range(first, last);
    return {};
  }
  for (auto& file : task.fds().remove_range(first, last)) (void)file->on_descriptor_close(task);
  return {};
}

SYSCALL_FAMILY(open) = {
    ROW(open, kFull, ""),   ROW(openat, kFull, ""), ROW(openat2, kPartial, "RESOLVE_CACHED never fails"),
    ROW(creat, kFull, ""),  ROW(close, kFull, ""),  ROW(close_range, kFull, ""),
};
SYSCALL_FAMILY_END(open);

}  // namespace sentry::syscalls
