// SPDX-License-Identifier: Apache-2.0
// mount(2), umount2(2), pivot_root(2): fs/namespace.c.
#include "sentry/kernel/pid_namespace.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/file_io.h"
#include "sentry/vfs/file_system_registry.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

constexpr uint64_t kPropagation = vfs::kMsShared | vfs::kMsPrivate | vfs::kMsSlave | vfs::kMsUnbindable;
constexpr uint64_t kPerMount = vfs::kMsRdOnly | vfs::kMsNoSuid | vfs::kMsNoDev | vfs::kMsNoExec | vfs::kMsNoAtime |
                               vfs::kMsNoDirAtime | vfs::kMsRelAtime | vfs::kMsStrictAtime | vfs::kMsNoSymFollow;
constexpr size_t kMaxData = 4095;

// may_mount()
Result<void> check_may_mount(Task& task) {
  if (!task.creds().has_cap(creds::Cap::kSYS_ADMIN)) return err(kEPERM);
  return {};
}

Result<std::string> read_optional(Task& task, Addr addr, size_t max) {
  if (addr.is_null()) return std::string();
  return task.user_memory().read_cstring(addr, max);
}

// Changes flags of a mount; what its maker locked (read-only and kin of the container) is for the kernel's side to keep.
Result<void> do_remount(Task& task, const vfs::Path& at, uint64_t flags) {
  if (at.dentry != at.mount->root()) return err(kEINVAL);
  at.mount->set_flags(flags & kPerMount);
  return {};
}

// Every mount is private: there are no peers that would hear of a change. DIVERGES: MS_SHARED is refused.
Result<void> change_propagation(const vfs::Path& at, uint64_t flags) {
  const uint64_t type = flags & kPropagation;
  if ((type & (type - 1)) != 0 || (flags & ~(kPropagation | vfs::kMsRec | vfs::kMsSilent))) return err(kEINVAL);
  if (at.dentry != at.mount->root()) return err(kEINVAL);
  if (type == vfs::kMsShared) return err(kEINVAL);
  return {};
}

Result<void> do_new_mount(Task& task, const std::string& source, const vfs::Path& at, Addr type_addr, uint64_t flags, Addr data_addr) {
  if (type_addr.is_null()) return err(kEINVAL);
  const std::string type = TRY(read_optional(task, type_addr, kMaxData));
  const std::string data = TRY(read_optional(task, data_addr, kMaxData));
  const vfs::FileSystemType* known = vfs::find_file_system(type);
  if (!known) return err(kENODEV);
  if (!known->mountable) return err(kEPERM);
  auto fs = TRY(known->create(task, {.source = source, .data = data, .flags = flags}));
  return task.mount_namespace().attach(vfs::Mount::create(std::move(fs), flags & kPerMount, source.empty() ? "none" : source), at);
}

}  // namespace

// path_mount(): one call, five operations.
Result<void> sys_mount(Task& task, Addr source_addr, UserCString target, Addr type, uint64_t flags, Addr data) {
  constexpr uint64_t kMagicMask = 0xffff0000, kMagic = 0xc0ed0000;
  if ((flags & kMagicMask) == kMagic) flags &= ~kMagicMask;
  const std::string source = TRY(read_optional(task, source_addr, kMaxData));
  const vfs::Path at = TRY(lookup_at(task, kAtFdcwd, target, 0));
  TRY(check_may_mount(task));
  if (!task.mount_namespace().contains(*at.mount)) return err(kEINVAL);
  if (flags & vfs::kMsRemount) return do_remount(task, at, flags);
  if (flags & vfs::kMsBind) {
    if (source.empty()) return err(kEINVAL);
    const vfs::Path from = TRY(vfs::walk(task, task.cwd(), source, vfs::kLookupFollow)).path;
    // As in Linux, the other flags of a bind mount wait for a remount.
    return task.mount_namespace().bind(from, at, (flags & vfs::kMsRec) != 0, 0);
  }
  if (flags & kPropagation) return change_propagation(at, flags);
  if (flags & vfs::kMsMove) {
    if (source.empty()) return err(kEINVAL);
    return task.mount_namespace().move(TRY(vfs::walk(task, task.cwd(), source, vfs::kLookupFollow)).path, at);
  }
  return do_new_mount(task, source, at, type, flags, data);
}

Result<void> sys_umount2(Task& task, UserCString target, uint32_t flags) {
  constexpr uint32_t kForce = 1, kDetach = 2, kExpire = 4, kNoFollow = 8;
  if (flags & ~(kForce | kDetach | kExpire | kNoFollow)) return err(kEINVAL);
  const vfs::Path at = TRY(lookup_at(task, kAtFdcwd, target, flags & kNoFollow ? uint32_t{kAtSymlinkNofollow} : 0));
  TRY(check_may_mount(task));
  if (flags & kExpire) return err(flags & (kForce | kDetach) ? kEINVAL : kEAGAIN);
  task.kernel().settle_descriptors();
  return task.mount_namespace().detach(at, flags & kDetach ? vfs::MountNamespace::Detach::kLazy : vfs::MountNamespace::Detach::kBusyFails);
}

Result<void> sys_pivot_root(Task& task, UserCString new_root, UserCString put_old) {
  TRY(check_may_mount(task));
  const vfs::Path top = TRY(lookup_at(task, kAtFdcwd, new_root, 0)), old = TRY(lookup_at(task, kAtFdcwd, put_old, 0));
  const vfs::Path before = task.root();
  TRY(task.mount_namespace().pivot_root(task, top, old));
  // chroot_fs_refs(): whoever was at the old root follows, as the shell that ran pivot_root(8) expects.
  for (const RefPtr<kernel::ThreadGroup>& group : task.kernel().root_pid_namespace().groups()) {
    for (const RefPtr<Task>& t : group->tasks()) {
      RefPtr<kernel::FsContext> fs = t->fs_ref();
      if (!fs) continue;
      if (fs->cwd() == before) fs->set_cwd(top);
      if (fs->root() == before) fs->set_root(top);
    }
  }
  return {};
}

// File handles would let a process open what its path permissions forbid; no file system here has them.
Result<void> sys_name_to_handle_at(Task& task, int32_t dirfd, UserCString path, Addr, Addr, uint32_t flags) {
  if (flags & ~(kAtSymlinkFollow | kAtEmptyPath)) return err(kEINVAL);
  TRY(lookup_at(task, dirfd, path, (flags & kAtEmptyPath) | (flags & kAtSymlinkFollow ? 0 : uint32_t{kAtSymlinkNofollow})));
  return err(kEOPNOTSUPP);
}

SYSCALL_FAMILY(mount) = {
    ROW(mount, kPartial, "all mounts are private"),
    ROW(umount2, kPartial, "no MNT_EXPIRE"),
    ROW(pivot_root, kFull, ""),
    ROW(name_to_handle_at, kStub, "EOPNOTSUPP, as on a file system without export"),
};
SYSCALL_FAMILY_END(mount);

}  // namespace sentry::syscalls
