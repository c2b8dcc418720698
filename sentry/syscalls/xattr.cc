// SPDX-License-Identifier: Apache-2.0
// Extended attributes: xattr(7), fs/xattr.c.
#include "sentry/syscalls/file_io.h"
#include "sentry/vfs/inotify.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

constexpr size_t kNameMax = 255, kValueMax = 65536, kListMax = 65536;
constexpr uint32_t kCreate = 1, kReplace = 2;

Result<std::string> read_name(Task& task, UserCString name) {
  Result<std::string> text = task.user_memory().read_cstring(name.addr, kNameMax);
  if (!text) return err(text.error() == kENAMETOOLONG ? kERANGE : text.error());
  if (text->empty()) return err(kERANGE);
  return text;
}

enum class Intent : uint8_t { kRead, kWrite };

// xattr_permission(), and the name spaces that exist at all.
Result<void> check_permission(Task& task, const vfs::Path& path, std::string_view name, Intent intent) {
  const bool write = intent == Intent::kWrite;
  if (write && path.mount->is_read_only()) return err(kEROFS);
  if (name.starts_with("security.")) {
    if (name.size() == 9) return err(kEINVAL);
    // cap_inode_setxattr(): file capabilities need CAP_SETFCAP, the rest is for the administrator.
    const auto cap = name == "security.capability" ? creds::Cap::kSETFCAP : creds::Cap::kSYS_ADMIN;
    if (write && !task.creds().has_cap(cap)) return err(kEPERM);
    return {};
  }
  if (name.starts_with("system.")) return err(kEOPNOTSUPP);
  if (name.starts_with("trusted.")) {
    if (name.size() == 8) return err(kEINVAL);
    if (!task.creds().has_cap(creds::Cap::kSYS_ADMIN)) return err(write ? kEPERM : kENODATA);
    return {};
  }
  if (!name.starts_with("user.")) return err(kEOPNOTSUPP);
  if (name.size() == 5) return err(kEINVAL);
  const vfs::Inode& inode = path.inode();
  if (!inode.is_regular() && !inode.is_dir()) return err(write ? kEPERM : kENODATA);
  const creds::InodeOwner owner = inode.owner();
  if (inode.is_dir() && (owner.mode & abi::kS_ISVTX) && write && !creds::is_owner_or_capable(task.creds(), owner)) return err(kEPERM);
  return vfs::check_access(task, path, write ? 2 : 4);
}

Result<void> do_set(Task& task, const vfs::Path& path, UserCString name, Addr value, uint64_t size, uint32_t flags) {
  if ((flags & ~(kCreate | kReplace)) || flags == (kCreate | kReplace)) return err(kEINVAL);
  const std::string key = TRY(read_name(task, name));
  if (size > kValueMax) return err(kE2BIG);
  std::string bytes(size, '\0');
  TRY(task.user_memory().copy_in(bytes.data(), value, size));
  TRY(check_permission(task, path, key, Intent::kWrite));
  const auto mode = flags & kCreate ? vfs::XattrSetMode::kCreate : flags & kReplace ? vfs::XattrSetMode::kReplace : vfs::XattrSetMode::kAny;
  TRY(path.inode().set_xattr(task, key, bytes, mode));
  vfs::notify_event(*path.dentry, vfs::kInAttrib);
  return {};
}

// A size of 0 asks how much room is needed.
Result<size_t> copy_result(Task& task, Addr out, uint64_t size, std::string_view bytes) {
  if (size == 0) return bytes.size();
  if (bytes.size() > size) return err(kERANGE);
  TRY(task.user_memory().copy_out(out, bytes.data(), bytes.size()));
  return bytes.size();
}

Result<size_t> do_get(Task& task, const vfs::Path& path, UserCString name, Addr value, uint64_t size) {
  const std::string key = TRY(read_name(task, name));
  TRY(check_permission(task, path, key, Intent::kRead));
  return copy_result(task, value, size, TRY(path.inode().get_xattr(task, key)));
}

Result<size_t> do_list(Task& task, const vfs::Path& path, Addr list, uint64_t size) {
  std::string bytes;
  for (const std::string& name : TRY(path.inode().list_xattr(task))) {
    if (name.starts_with("trusted.") && !task.creds().has_cap(creds::Cap::kSYS_ADMIN)) continue;
    bytes.append(name).push_back('\0');
  }
  if (bytes.size() > kListMax) return err(kE2BIG);
  return copy_result(task, list, size, bytes);
}

Result<void> do_remove(Task& task, const vfs::Path& path, UserCString name) {
  const std::string key = TRY(read_name(task, name));
  TRY(check_permission(task, path, key, Intent::kWrite));
  TRY(path.inode().remove_xattr(task, key));
  vfs::notify_event(*path.dentry, vfs::kInAttrib);
  return {};
}

Result<vfs::Path> at(Task& task, UserCString path) { return lookup_at(task, kAtFdcwd, path, 0); }
Result<vfs::Path> at_link(Task& task, UserCString path) { return lookup_at(task, kAtFdcwd, path, kAtSymlinkNofollow); }
Result<vfs::Path> at_fd(Task& task, Fd fd) { return TRY(get_open_file(task, fd))->path(); }

}  // namespace

Result<void> sys_setxattr(Task& task, UserCString path, UserCString name, Addr value, uint64_t size, uint32_t flags) {
  return do_set(task, TRY(at(task, path)), name, value, size, flags);
}
Result<void> sys_lsetxattr(Task& task, UserCString path, UserCString name, Addr value, uint64_t size, uint32_t flags) {
  return do_set(task, TRY(at_link(task, path)), name, value, size, flags);
}
Result<void> sys_fsetxattr(Task& task, Fd fd, UserCString name, Addr value, uint64_t size, uint32_t flags) {
  return do_set(task, TRY(at_fd(task, fd)), name, value, size, flags);
}
Result<size_t> sys_getxattr(Task& task, UserCString path, UserCString name, Addr value, uint64_t size) {
  return do_get(task, TRY(at(task, path)), name, value, size);
}
Result<size_t> sys_lgetxattr(Task& task, UserCString path, UserCString name, Addr value, uint64_t size) {
  return do_get(task, TRY(at_link(task, path)), name, value, size);
}
Result<size_t> sys_fgetxattr(Task& task, Fd fd, UserCString name, Addr value, uint64_t size) {
  return do_get(task, TRY(at_fd(task, fd)), name, value, size);
}
Result<size_t> sys_listxattr(Task& task, UserCString path, Addr list, uint64_t size) {
  return do_list(task, TRY(at(task, path)), list, size);
}
Result<size_t> sys_llistxattr(Task& task, UserCString path, Addr list, uint64_t size) {
  return do_list(task, TRY(at_link(task, path)), list, size);
}
Result<size_t> sys_flistxattr(Task& task, Fd fd, Addr list, uint64_t size) { return do_list(task, TRY(at_fd(task, fd)), list, size); }
Result<void> sys_removexattr(Task& task, UserCString path, UserCString name) { return do_remove(task, TRY(at(task, path)), name); }
Result<void> sys_lremovexattr(Task& task, UserCString path, UserCString name) {
  return do_remove(task, TRY(at_link(task, path)), name);
}
Result<void> sys_fremovexattr(Task& task, Fd fd, UserCString name) { return do_remove(task, TRY(at_fd(task, fd)), name); }

SYSCALL_FAMILY(xattr) = {
    ROW(setxattr, kPartial, "no POSIX ACLs"),
    ROW(lsetxattr, kPartial, "no POSIX ACLs"),
    ROW(fsetxattr, kPartial, "no POSIX ACLs"),
    ROW(getxattr, kPartial, "no POSIX ACLs"),
    ROW(lgetxattr, kPartial, "no POSIX ACLs"),
    ROW(fgetxattr, kPartial, "no POSIX ACLs"),
    ROW(listxattr, kFull, ""),
    ROW(llistxattr, kFull, ""),
    ROW(flistxattr, kFull, ""),
    ROW(removexattr, kFull, ""),
    ROW(lremovexattr, kFull, ""),
    ROW(fremovexattr, kFull, ""),
};
SYSCALL_FAMILY_END(xattr);

}  // namespace sentry::syscalls
