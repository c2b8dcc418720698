// SPDX-License-Identifier: Apache-2.0
// Directories and names: getdents64(2), mkdir(2), unlink(2), rename(2), link(2), symlink(2), readlink(2), mknod(2), chdir(2), ...
#include <cstring>

#include "sentry/kernel/plain_file.h"
#include "sentry/kernel/stat_answers.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

constexpr size_t kMaxDirBuffer = 1 << 20;

// Packs records of linux_dirent64 or of the old linux_dirent into one buffer that is copied out once.
class DirentWriter {
 public:
  enum class Layout : uint8_t { kOld, k64 };
  DirentWriter(Layout layout, size_t limit) : layout_(layout), limit_(limit) {}
  bool add(const vfs::DirEntryInfo& entry) {
    const size_t header = layout_ == Layout::k64 ? 19 : 18;
    // The old layout keeps the type in the last byte, behind the name.
    const size_t size = (header + entry.name.size() + (layout_ == Layout::k64 ? 1 : 2) + 7) & ~size_t{7};
    if (bytes_.size() + size > limit_) {
      overflowed_ = true;
      return false;
    }
    const size_t at = bytes_.size();
    bytes_.resize(at + size);
    uint8_t* p = bytes_.data() + at;
    const auto length = static_cast<uint16_t>(size);
    memcpy(p, &entry.inode, 8);
    memcpy(p + 8, &entry.next_offset, 8);
    memcpy(p + 16, &length, 2);
    if (layout_ == Layout::k64) p[18] = entry.type;
    else p[size - 1] = entry.type;
    memcpy(p + header, entry.name.data(), entry.name.size());
    return true;
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  bool overflowed() const { return overflowed_; }

 private:
  const Layout layout_;
  const size_t limit_;
  bool overflowed_ = false;
  std::vector<uint8_t> bytes_;
};

Result<size_t> do_getdents(Task& task, Fd fd, Addr buffer, uint32_t count, DirentWriter::Layout layout) {
  auto file = TRY(task.get_file(fd));
  if (!file->is_readable()) return err(kEBADF);
  if (!file->inode().is_dir()) return err(kENOTDIR);
  if (file->path().dentry->is_deleted()) return err(kENOENT);
  DirentWriter writer(layout, std::min<size_t>(count, kMaxDirBuffer));
  const uint64_t position = file->offset();
  kernel::PlainFile plain(task, fd, *file);
  TRY(file->readdir(task, [&](const vfs::DirEntryInfo& entry) { return writer.add(entry); }));
  if (!writer.overflowed()) plain.has_listed_all();
  if (writer.bytes().empty()) return writer.overflowed() ? Result<size_t>(err(kEINVAL)) : size_t{0};
  if (auto copied = task.user_memory().copy_out(buffer, writer.bytes().data(), writer.bytes().size()); !copied) {
    (void)file->seek(task, static_cast<int64_t>(position), 0);  // told to nobody: the next call tells it again
    return err(copied.error());
  }
  if (position == 0 && task.has_stat_answers()) kernel::StatAsker(task).keep_listed(*file);
  return writer.bytes().size();
}

struct Start {
  vfs::Path path;
  std::string text;
};
Result<Start> read_start(Task& task, int32_t dirfd, UserCString path) {
  Start s;
  s.text = TRY(task.read_path(path));
  if (s.text.empty()) return err(kENOENT);
  s.path = TRY(start_of(task, dirfd, s.text));
  return s;
}

}  // namespace

Result<size_t> sys_getdents64(Task& task, Fd fd, Addr buffer, uint32_t count) {
  return do_getdents(task, fd, buffer, count, DirentWriter::Layout::k64);
}
Result<size_t> sys_getdents(Task& task, Fd fd, Addr buffer, uint32_t count) {
  return do_getdents(task, fd, buffer, count, DirentWriter::Layout::kOld);
}

Result<void> sys_mkdirat(Task& task, int32_t dirfd, UserCString path, uint32_t mode) {
  const Start s = TRY(read_start(task, dirfd, path));
  return vfs::mkdir_at(task, s.path, s.text, mode & 01777 & ~task.umask());
}
Result<void> sys_mkdir(Task& task, UserCString path, uint32_t mode) { return sys_mkdirat(task, kAtFdcwd, path, mode); }

Result<void> sys_mknodat(Task& task, int32_t dirfd, UserCString path, uint32_t mode, uint32_t device) {
  const Start s = TRY(read_start(task, dirfd, path));
  uint32_t type = mode & abi::kS_IFMT;
  if (type == 0) type = abi::kS_IFREG;
  if (type == abi::kS_IFDIR) return err(kEPERM);
  if (type != abi::kS_IFREG && type != abi::kS_IFIFO && type != abi::kS_IFSOCK && type != abi::kS_IFCHR && type != abi::kS_IFBLK) return err(kEINVAL);
  return vfs::mknod_at(task, s.path, s.text, type | (mode & 07777 & ~task.umask()), abi::DeviceId::decode(device));
}
Result<void> sys_mknod(Task& task, UserCString path, uint32_t mode, uint32_t device) {
  return sys_mknodat(task, kAtFdcwd, path, mode, device);
}

Result<void> sys_unlinkat(Task& task, int32_t dirfd, UserCString path, uint32_t flags) {
  if (flags & ~kAtRemovedir) return err(kEINVAL);
  const Start s = TRY(read_start(task, dirfd, path));
  return vfs::unlink_at(task, s.path, s.text, (flags & kAtRemovedir) != 0);
}
Result<void> sys_unlink(Task& task, UserCString path) { return sys_unlinkat(task, kAtFdcwd, path, 0); }
Result<void> sys_rmdir(Task& task, UserCString path) { return sys_unlinkat(task, kAtFdcwd, path, kAtRemovedir); }

Result<void> sys_renameat2(Task& task, int32_t old_dirfd, UserCString old_path, int32_t new_dirfd, UserCString new_path, uint32_t flags) {
  if (flags & ~uint32_t{vfs::kRenameNoReplace | vfs::kRenameExchange | vfs::kRenameWhiteout}) return err(kEINVAL);
  if ((flags & vfs::kRenameExchange) && (flags & (vfs::kRenameNoReplace | vfs::kRenameWhiteout))) return err(kEINVAL);
  const Start from = TRY(read_start(task, old_dirfd, old_path));
  const Start to = TRY(read_start(task, new_dirfd, new_path));
  return vfs::rename_at(task, from.path, from.text, to.path, to.text, flags);
}
Result<void> sys_renameat(Task& task, int32_t old_dirfd, UserCString old_path, int32_t new_dirfd, UserCString new_path) {
  return sys_renameat2(task, old_dirfd, old_path, new_dirfd, new_path, 0);
}
Result<void> sys_rename(Task& task, UserCString old_path, UserCString new_path) {
  return sys_renameat2(task, kAtFdcwd, old_path, kAtFdcwd, new_path, 0);
}

Result<void> sys_linkat(Task& task, int32_t old_dirfd, UserCString old_path, int32_t new_dirfd, UserCString new_path, uint32_t flags) {
  if (flags & ~(kAtSymlinkFollow | kAtEmptyPath)) return err(kEINVAL);
  Start from;
  if (flags & kAtEmptyPath) {
    if (!task.creds().has_cap(creds::Cap::kDAC_READ_SEARCH)) return err(kENOENT);
    from.text = TRY(task.read_path(old_path));
    from.path = TRY(start_of(task, old_dirfd, from.text));
  } else {
    from = TRY(read_start(task, old_dirfd, old_path));
  }
  const Start to = TRY(read_start(task, new_dirfd, new_path));
  return vfs::link_at(task, from.path, from.text, to.path, to.text, flags);
}
Result<void> sys_link(Task& task, UserCString old_path, UserCString new_path) {
  return sys_linkat(task, kAtFdcwd, old_path, kAtFdcwd, new_path, 0);
}

Result<void> sys_symlinkat(Task& task, UserCString target, int32_t dirfd, UserCString path) {
  const std::string text = TRY(task.read_path(target));
  if (text.empty()) return err(kENOENT);
  const Start s = TRY(read_start(task, dirfd, path));
  return vfs::symlink_at(task, s.path, s.text, text);
}
Result<void> sys_symlink(Task& task, UserCString target, UserCString path) { return sys_symlinkat(task, target, kAtFdcwd, path); }

namespace {

Result<size_t> copy_target(Task& task, std::string_view target, Addr buffer, int32_t size) {
  const size_t n = std::min(target.size(), static_cast<size_t>(size));
  TRY(task.user_memory().copy_out(buffer, target.data(), n));
  return n;
}

}  // namespace

Result<size_t> sys_readlinkat(Task& task, int32_t dirfd, UserCString path, Addr buffer, int32_t size) {
  if (size <= 0) return err(kEINVAL);
  memory::UserPath user;
  TRY(user.read(task.user_memory(), path));
  const std::string_view text = user.text();
  if (text.empty()) {
    if (dirfd == kAtFdcwd) return err(kENOENT);
    const vfs::Path named = TRY(task.get_file(Fd(dirfd)))->path();
    if (!named.inode().is_symlink()) return err(kENOENT);
    return copy_target(task, TRY(named.inode().readlink(task)), buffer, size);
  }
  kernel::StatAsker asker(task);
  RefPtr<vfs::FileDescription> from;
  const vfs::Path start = TRY(start_of(task, dirfd, text, &from));
  // Mostly it is no link (realpath(3) asks of each part of a path), and then that is what is kept.
  Result<vfs::PathStat> known = err(kENOENT);
  using enum kernel::StatAsker::Link;
  if (vfs::WalkRecord* record = asker.record()) {
    known = vfs::walk_stat(task, start, text, 0, record);
    if (!known || (known->stat.mode & abi::kS_IFMT) != abi::kS_IFLNK) {
      asker.keep(from.get(), Fd(dirfd), text, kNoFollow, known);
      return err(known ? kEINVAL : known.error());
    }
  }
  const vfs::Path found = TRY(vfs::walk(task, start, text, 0)).path;
  if (found.dentry->is_negative()) return err(kENOENT);
  if (!found.inode().is_symlink()) return err(kEINVAL);
  const std::string target = TRY(found.inode().readlink(task));
  if (known) asker.keep(from.get(), Fd(dirfd), text, kNoFollow, known, target);
  return copy_target(task, target, buffer, size);
}
Result<size_t> sys_readlink(Task& task, UserCString path, Addr buffer, int32_t size) {
  return sys_readlinkat(task, kAtFdcwd, path, buffer, size);
}

namespace {

Result<void> check_directory(Task& task, const vfs::Path& path) {
  if (!path.inode().is_dir()) return err(kENOTDIR);
  return vfs::check_access(task, path, 1);
}

}  // namespace

Result<void> sys_chdir(Task& task, UserCString path) {
  const vfs::Path found = TRY(lookup_at(task, kAtFdcwd, path, 0));
  TRY(check_directory(task, found));
  task.fs().set_cwd(found);
  return {};
}

Result<void> sys_fchdir(Task& task, Fd fd) {
  const vfs::Path path = TRY(task.get_file(fd))->path();
  TRY(check_directory(task, path));
  task.fs().set_cwd(path);
  return {};
}

Result<void> sys_chroot(Task& task, UserCString path) {
  const vfs::Path found = TRY(lookup_at(task, kAtFdcwd, path, 0));
  TRY(check_directory(task, found));
  if (!task.creds().has_cap(creds::Cap::kSYS_CHROOT)) return err(kEPERM);
  task.fs().set_root(found);
  return {};
}

Result<size_t> sys_getcwd(Task& task, Addr buffer, size_t size) {
  const vfs::Path cwd = task.cwd(), root = task.root();
  if (cwd.dentry->is_deleted()) return err(kENOENT);
  const std::string text = vfs::path_string(cwd, &root);
  if (text.size() + 1 > abi::kPageSize) return err(kENAMETOOLONG);
  if (text.size() + 1 > size) return err(kERANGE);
  TRY(task.user_memory().copy_out(buffer, text.c_str(), text.size() + 1));
  return text.size() + 1;
}

SYSCALL_FAMILY(dir) = {
    ROW(getdents64, kFull, ""), ROW(getdents, kFull, ""),  ROW(mkdirat, kFull, ""),    ROW(mkdir, kFull, ""),
    ROW(mknodat, kFull, ""),    ROW(mknod, kFull, ""),     ROW(unlinkat, kFull, ""),   ROW(unlink, kFull, ""),
    ROW(rmdir, kFull, ""),      ROW(renameat2, kFull, ""), ROW(renameat, kFull, ""),   ROW(rename, kFull, ""),
    ROW(linkat, kFull, ""),     ROW(link, kFull, ""),      ROW(symlinkat, kFull, ""),  ROW(symlink, kFull, ""),
    ROW(readlinkat, kFull, ""), ROW(readlink, kFull, ""),  ROW(chdir, kFull, ""),      ROW(fchdir, kFull, ""),
    ROW(chroot, kFull, ""),     ROW(getcwd, kFull, ""),
};
SYSCALL_FAMILY_END(dir);

}  // namespace sentry::syscalls
