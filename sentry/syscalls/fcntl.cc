// SPDX-License-Identifier: Apache-2.0
// fcntl(2), flock(2), and the part of ioctl(2) that every file has: fs/fcntl.c, fs/locks.c, fs/ioctl.c.
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/tty/tty.h"
#include "sentry/kernel/async_io.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/file_io.h"
#include "sentry/vfs/file_locks.h"

namespace sentry::syscalls {

using enum abi::Errno;
using vfs::FileDescription;

namespace {

enum : int32_t {
  kF_DUPFD = 0, kF_GETFD = 1, kF_SETFD = 2, kF_GETFL = 3, kF_SETFL = 4, kF_GETLK = 5, kF_SETLK = 6, kF_SETLKW = 7,
  kF_SETOWN = 8, kF_GETOWN = 9, kF_SETSIG = 10, kF_GETSIG = 11, kF_SETOWN_EX = 15, kF_GETOWN_EX = 16, kF_OFD_GETLK = 36,
  kF_OFD_SETLK = 37, kF_OFD_SETLKW = 38, kF_SETLEASE = 1024, kF_GETLEASE = 1025, kF_NOTIFY = 1026, kF_DUPFD_CLOEXEC = 1030,
  kF_SETPIPE_SZ = 1031, kF_GETPIPE_SZ = 1032, kF_ADD_SEALS = 1033, kF_GET_SEALS = 1034, kF_GET_RW_HINT = 1035,
  kF_SET_RW_HINT = 1036,
};
constexpr uint32_t kFdCloexec = 1;
enum : int16_t { kF_RDLCK = 0, kF_WRLCK = 1, kF_UNLCK = 2 };

struct UserFlock {
  int16_t type = 0, whence = 0;
  int32_t pad0 = 0;
  int64_t start = 0, len = 0;
  int32_t pid = 0, pad1 = 0;
};
static_assert(sizeof(UserFlock) == 32);

struct OwnerEx {
  int32_t type = 0, pid = 0;
};

// flock64_to_posix_lock()
Result<vfs::RecordLock> to_lock(Task& task, FileDescription& file, const UserFlock& user) {
  int64_t base = 0;
  switch (user.whence) {
    case 0: break;
    case 1: base = static_cast<int64_t>(file.offset()); break;
    case 2: base = static_cast<int64_t>(TRY(file.stat(task)).size); break;
    default: return err(kEINVAL);
  }
  int64_t start, end;
  if (__builtin_add_overflow(base, user.start, &start)) return err(kEOVERFLOW);
  if (start < 0) return err(kEINVAL);
  vfs::RecordLock lock;
  lock.end = ~uint64_t{0};
  if (user.len > 0) {
    if (__builtin_add_overflow(start, user.len - 1, &end)) return err(kEOVERFLOW);
    lock.end = static_cast<uint64_t>(end);
  } else if (user.len < 0) {
    if (start + user.len < 0) return err(kEINVAL);
    lock.end = static_cast<uint64_t>(start - 1);
    start += user.len;
  }
  lock.start = static_cast<uint64_t>(start);
  switch (user.type) {
    case kF_RDLCK: lock.type = vfs::LockType::kRead; break;
    case kF_WRLCK: lock.type = vfs::LockType::kWrite; break;
    case kF_UNLCK: lock.type = vfs::LockType::kUnlock; break;
    default: return err(kEINVAL);
  }
  return lock;
}

void set_lock_owner(Task& task, FileDescription& file, bool ofd, vfs::RecordLock& lock) {
  lock.owner = ofd ? static_cast<const void*>(&file) : task.lock_owner();
  lock.pid = ofd ? Pid(-1) : task.owner_pid();
}

Result<void> get_lock(Task& task, FileDescription& file, UserInOut<UserFlock> arg, bool ofd) {
  UserFlock user = TRY(task.read(arg));
  if (user.type != kF_RDLCK && user.type != kF_WRLCK) return err(kEINVAL);
  if (ofd && user.pid != 0) return err(kEINVAL);
  vfs::RecordLock lock = TRY(to_lock(task, file, user));
  set_lock_owner(task, file, ofd, lock);
  std::optional<vfs::RecordLock> other = file.inode().locks().conflicting(lock);
  if (!other) {
    user.type = kF_UNLCK;
  } else {
    user.type = other->type == vfs::LockType::kRead ? kF_RDLCK : kF_WRLCK;
    user.whence = 0;
    user.start = static_cast<int64_t>(other->start);
    user.len = other->end == ~uint64_t{0} ? 0 : static_cast<int64_t>(other->end - other->start + 1);
    user.pid = other->pid.value();
  }
  return task.write(arg, user);
}

Result<void> set_lock(Task& task, Fd fd, FileDescription& file, UserInOut<UserFlock> arg, bool ofd, vfs::LockWait wait) {
  const UserFlock user = TRY(task.read(arg));
  if (ofd && user.pid != 0) return err(kEINVAL);
  vfs::RecordLock lock = TRY(to_lock(task, file, user));
  if (lock.type == vfs::LockType::kRead && !file.is_readable()) return err(kEBADF);
  if (lock.type == vfs::LockType::kWrite && !file.is_writable()) return err(kEBADF);
  set_lock_owner(task, file, ofd, lock);
  TRY(file.inode().locks().set(task, lock, wait));
  // Closed by another thread meanwhile: the close has not seen the lock (fcntl_setlk()).
  if (!ofd && lock.type != vfs::LockType::kUnlock) {
    auto now = task.get_file(fd);
    if (!now || now->get() != &file) file.inode().locks().release_owner(lock.owner);
  }
  return {};
}

Result<int64_t> duplicate(Task& task, RefPtr<FileDescription> file, uint64_t min, bool close_on_exec) {
  const uint64_t limit = task.rlimit(creds::Resource::kNOFILE).soft;
  if (min >= limit || min > INT32_MAX) return err(kEINVAL);
  if (file->inode().is_dir()) task.fds().note_duplicate();
  return TRY(task.fds().install(std::move(file), close_on_exec, limit, static_cast<int32_t>(min))).value();
}

// f_modown() with the caller's identity.
kernel::AsyncOwner owned_by(Task& task, kernel::AsyncOwnerType type, RefPtr<kernel::PidNumber> number) {
  return {type, std::move(number), task.creds().uid, task.creds().euid};
}

// tty_fasync(): who asks first gets a terminal's signals, with its whole group when that is in the foreground.
void set_terminal_owner(Task& task, FileDescription& file, kernel::AsyncIo& io) {
  auto* terminal = file.as<fs::TtyFile>();
  if (!terminal) return;
  if (RefPtr<kernel::ProcessGroup> group = terminal->tty().foreground()) {
    io.set_default_owner(owned_by(task, kernel::AsyncOwnerType::kPgrp, group->id));
  } else {
    io.set_default_owner(owned_by(task, kernel::AsyncOwnerType::kPid, task.pid_namespace().find(task.owner_pid().value())));
  }
}

void set_async(Task& task, Fd fd, FileDescription& file, bool on) {
  kernel::AsyncIo& io = kernel::async_io(task.kernel(), file);
  file.set_async_flag(on);
  if (!on) return io.stop();
  set_terminal_owner(task, file, io);
  io.start(fd);
}

// setfl(); a file without signals takes O_ASYNC and ignores it.
Result<int64_t> set_flags(Task& task, Fd fd, FileDescription& file, uint32_t flags) {
  TRY(file.set_status_flags(task, flags));
  if (((flags ^ file.status_flags()) & vfs::kO_ASYNC) && file.sends_sigio()) set_async(task, fd, file, (flags & vfs::kO_ASYNC) != 0);
  return 0;
}

Result<int64_t> pipe_size(Task& task, FileDescription& file, std::optional<uint64_t> size) {
  auto* pipe = file.as<fs::pipe::PipeFile>();
  if (!pipe) return err(kEBADF);
  if (!size) return static_cast<int64_t>(pipe->pipe().capacity());
  if (*size > INT32_MAX) return err(kEINVAL);
  return static_cast<int64_t>(TRY(pipe->pipe().set_capacity(task, *size)));
}

using kernel::AsyncOwnerType;

// f_setown(): 0 is nobody.
Result<void> set_owner(Task& task, FileDescription& file, AsyncOwnerType type, int32_t id) {
  RefPtr<kernel::PidNumber> number;
  if (id != 0 && !(number = task.pid_namespace().find(id))) return err(kESRCH);
  kernel::async_io(task.kernel(), file).set_owner(owned_by(task, type, std::move(number)));
  return {};
}

// F_SETOWN's convention: a group is a negative number.
Result<void> set_owner(Task& task, FileDescription& file, int32_t id) {
  if (id == INT32_MIN) return err(kEINVAL);
  return id < 0 ? set_owner(task, file, AsyncOwnerType::kPgrp, -id) : set_owner(task, file, AsyncOwnerType::kPid, id);
}

kernel::AsyncOwner get_owner(FileDescription& file) {
  vfs::AsyncIo* io = file.async_io();
  return io ? static_cast<kernel::AsyncIo*>(io)->owner() : kernel::AsyncOwner{};
}

int32_t get_owner_id(Task& task, FileDescription& file) {
  const kernel::AsyncOwner owner = get_owner(file);
  const int32_t id = kernel::owner_number(owner, task.pid_namespace());
  return owner.type == AsyncOwnerType::kPgrp ? -id : id;
}

Result<int64_t> owner_call(Task& task, FileDescription& file, int32_t command, uint64_t arg) {
  switch (command) {
    case kF_SETOWN: TRY(set_owner(task, file, static_cast<int32_t>(arg))); return 0;
    case kF_GETOWN: return get_owner_id(task, file);
    case kF_SETSIG:
      if (arg > abi::kNSIG) return err(kEINVAL);
      kernel::async_io(task.kernel(), file).set_signal(static_cast<int32_t>(arg));
      return 0;
    case kF_GETSIG: {
      vfs::AsyncIo* io = file.async_io();
      return io ? static_cast<kernel::AsyncIo*>(io)->signal() : 0;
    }
    case kF_SETOWN_EX: {
      const OwnerEx ex = TRY(task.read(UserIn<OwnerEx>(Addr(arg))));
      if (ex.type < 0 || ex.type > static_cast<int32_t>(AsyncOwnerType::kPgrp)) return err(kEINVAL);
      TRY(set_owner(task, file, static_cast<AsyncOwnerType>(ex.type), ex.pid));
      return 0;
    }
    default: {
      const kernel::AsyncOwner owner = get_owner(file);
      const OwnerEx ex{static_cast<int32_t>(owner.type), kernel::owner_number(owner, task.pid_namespace())};
      TRY(task.write(UserOut<OwnerEx>(Addr(arg)), ex));
      return 0;
    }
  }
}

// The commands that an O_PATH descriptor allows: check_fcntl_cmd().
bool allowed_on_path(int32_t command) {
  return command == kF_DUPFD || command == kF_DUPFD_CLOEXEC || command == kF_GETFD || command == kF_SETFD || command == kF_GETFL;
}

Result<int64_t> lock_call(Task& task, Fd fd, FileDescription& file, int32_t command, uint64_t arg) {
  const UserInOut<UserFlock> user{Addr(arg)};
  const bool ofd = command >= kF_OFD_GETLK;
  if (command == kF_GETLK || command == kF_OFD_GETLK) {
    TRY(get_lock(task, file, user, ofd));
    return 0;
  }
  const bool waits = command == kF_SETLKW || command == kF_OFD_SETLKW;
  TRY(set_lock(task, fd, file, user, ofd, waits ? vfs::LockWait::kWait : vfs::LockWait::kNoWait));
  return 0;
}

}  // namespace

Result<int64_t> sys_fcntl(Task& task, Fd fd, int32_t command, uint64_t arg) {
  kernel::FdTable::Entry entry = TRY(task.fds().get_entry(fd));
  FileDescription& file = *entry.file;
  if ((file.status_flags() & vfs::kO_PATH) && !allowed_on_path(command)) return err(kEBADF);
  switch (command) {
    case kF_DUPFD: return duplicate(task, entry.file, static_cast<uint32_t>(arg), false);
    case kF_DUPFD_CLOEXEC: return duplicate(task, entry.file, static_cast<uint32_t>(arg), true);
    case kF_GETFD: return entry.close_on_exec ? kFdCloexec : 0;
    case kF_SETFD: TRY(task.fds().set_close_on_exec(fd, (arg & kFdCloexec) != 0)); return 0;
    case kF_GETFL: return file.status_flags();
    case kF_SETFL: return set_flags(task, fd, file, static_cast<uint32_t>(arg));
    case kF_GETLK:
    case kF_SETLK:
    case kF_SETLKW:
    case kF_OFD_GETLK:
    case kF_OFD_SETLK:
    case kF_OFD_SETLKW: return lock_call(task, fd, file, command, arg);
    case kF_SETOWN:
    case kF_GETOWN:
    case kF_SETSIG:
    case kF_GETSIG:
    case kF_SETOWN_EX:
    case kF_GETOWN_EX: return owner_call(task, file, command, arg);
    case kF_SETPIPE_SZ: return pipe_size(task, file, static_cast<uint32_t>(arg));
    case kF_GETPIPE_SZ: return pipe_size(task, file, std::nullopt);
    case kF_ADD_SEALS: TRY(file.add_seals(static_cast<uint32_t>(arg))); return 0;
    case kF_GET_SEALS: return TRY(file.seals());
    case kF_GETLEASE: return kF_UNLCK;  // nobody gets one
    default: return err(kEINVAL);
  }
}

Result<void> sys_flock(Task& task, Fd fd, uint32_t operation) {
  constexpr uint32_t kShared = 1, kExclusive = 2, kNonBlocking = 4, kUnlock = 8;
  auto file = TRY(get_open_file(task, fd));
  vfs::LockType type;
  switch (operation & ~kNonBlocking) {
    case kShared: type = vfs::LockType::kRead; break;
    case kExclusive: type = vfs::LockType::kWrite; break;
    case kUnlock: type = vfs::LockType::kUnlock; break;
    default: return err(kEINVAL);
  }
  return file->inode().locks().flock(task, *file, type, operation & kNonBlocking ? vfs::LockWait::kNoWait : vfs::LockWait::kWait);
}

namespace {

enum : uint32_t {
  kFioClex = 0x5451, kFioNClex = 0x5450, kFioNBio = 0x5421, kFioAsync = 0x5452, kFioQSize = 0x5460, kFioNRead = 0x541b,
  kFioSetOwn = 0x8901, kSioCsPgrp = 0x8902, kFioGetOwn = 0x8903, kSioCgPgrp = 0x8904,
};

Result<int64_t> set_nonblocking(Task& task, Fd fd, FileDescription& file, uint64_t arg) {
  const int32_t on = TRY(task.read(UserIn<int32_t>(Addr(arg))));
  const uint32_t flags = file.status_flags();
  return set_flags(task, fd, file, on ? flags | vfs::kO_NONBLOCK : flags & ~uint32_t{vfs::kO_NONBLOCK});
}

// ioctl_fioasync()
Result<int64_t> set_async_by_int(Task& task, Fd fd, FileDescription& file, uint64_t arg) {
  const bool on = TRY(task.read(UserIn<int32_t>(Addr(arg)))) != 0;
  if (on == ((file.status_flags() & vfs::kO_ASYNC) != 0)) return 0;
  if (!file.sends_sigio()) return err(kENOTTY);
  set_async(task, fd, file, on);
  return 0;
}

// sock_ioctl(): F_SETOWN and F_GETOWN by other names.
Result<int64_t> socket_owner_call(Task& task, FileDescription& file, uint32_t request, uint64_t arg) {
  if (request == kFioSetOwn || request == kSioCsPgrp) TRY(set_owner(task, file, TRY(task.read(UserIn<int32_t>(Addr(arg))))));
  else TRY(task.write(UserOut<int32_t>(Addr(arg)), get_owner_id(task, file)));
  return 0;
}

}  // namespace

// do_vfs_ioctl(), then the file's own.
Result<int64_t> sys_ioctl(Task& task, Fd fd, uint32_t request, uint64_t arg) {
  auto file = TRY(get_open_file(task, fd));
  switch (request) {
    case kFioClex: TRY(task.fds().set_close_on_exec(fd, true)); return 0;
    case kFioNClex: TRY(task.fds().set_close_on_exec(fd, false)); return 0;
    case kFioNBio: return set_nonblocking(task, fd, *file, arg);
    case kFioAsync: return set_async_by_int(task, fd, *file, arg);
    case kFioSetOwn:
    case kSioCsPgrp:
    case kFioGetOwn:
    case kSioCgPgrp: return file->as<net::Socket>() ? socket_owner_call(task, *file, request, arg) : err(kENOTTY);
    case kFioQSize: {
      const uint32_t type = file->inode().type();
      if (type != abi::kS_IFREG && type != abi::kS_IFDIR && type != abi::kS_IFLNK) return err(kENOTTY);
      TRY(task.write(UserOut<int64_t>(Addr(arg)), static_cast<int64_t>(TRY(file->stat(task)).size)));
      return 0;
    }
    case kFioNRead:
      if (file->inode().is_regular()) {
        const int64_t left = static_cast<int64_t>(TRY(file->stat(task)).size) - static_cast<int64_t>(file->offset());
        TRY(task.write(UserOut<int32_t>(Addr(arg)), static_cast<int32_t>(left)));
        return 0;
      }
      [[fallthrough]];
    default: {
      Result<int64_t> done = file->ioctl(task, request, arg);
      if (!done && done.error() == kENOIOCTLCMD) return err(kENOTTY);
      return done;
    }
  }
}

SYSCALL_FAMILY(fcntl) = {
    ROW(fcntl, kPartial, "no leases and dnotify"),
    ROW(flock, kFull, ""),
    ROW(ioctl, kPartial, "by file type"),
};
SYSCALL_FAMILY_END(fcntl);

}  // namespace sentry::syscalls
