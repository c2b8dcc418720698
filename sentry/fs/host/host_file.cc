// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/host/host_file.h"

#include <cerrno>
#include <ctime>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/host/host_error.h"

namespace sentry::fs::host {

using base::err;
using base::RefPtr;
using base::Result;
using vfs::IoBuffer;
using vfs::OpContext;
using enum abi::Errno;

namespace {

constexpr size_t kMaxSegments = 64;
// A terminal or FIFO that cannot promise not to block takes at least this much when it is writable.
constexpr size_t kSafeWrite = 4096;
constexpr uint32_t kTcgets = 0x5401, kTiocgwinsz = 0x5413, kFionread = 0x541B;

// The host side, shared by all descriptions of one inode.
class HostHandle final : public base::RefCounted {
 public:
  HostHandle(kernel::Reactor& reactor, base::UniqueFd fd, const struct stat& st)
      : fd(std::move(fd)), reactor_(reactor), waitable_(!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {}
  ~HostHandle() override {
    if (watch_ != 0) reactor_.unwatch(watch_);
  }
  // Watched from the first time that somebody wants to wait.
  vfs::WaitQueue* queue() {
    if (!waitable_) return nullptr;
    base::MutexLock lock(mu_);
    if (watch_ == 0) watch_ = reactor_.watch(fd.get(), queue_);
    return &queue_;
  }
  bool waitable() const { return waitable_; }

  const base::UniqueFd fd;

 private:
  kernel::Reactor& reactor_;
  const bool waitable_;
  base::Mutex mu_{base::LockRank::kFileDescription};
  kernel::Reactor::WatchId watch_ GUARDED_BY(mu_) = 0;
  vfs::WaitQueue queue_;
};

class HostFs final : public vfs::FileSystem {
 public:
  std::string_view type() const override { return "hostfs"; }
  RefPtr<vfs::Inode> root() override { return nullptr; }
  abi::DeviceId device() const override { return device_; }
  Result<vfs::StatFs> statfs(OpContext&) override { return vfs::StatFs{}; }

 private:
  const abi::DeviceId device_ = vfs::allocate_device();
};

class HostInode final : public vfs::Inode {
 public:
  HostInode(vfs::FileSystem& fs, RefPtr<HostHandle> handle, const struct stat& st, const creds::Credentials& owner)
      : Inode(fs), handle_(std::move(handle)), mode_((st.st_mode & S_IFMT) | 0620), number_(st.st_ino), uid_(owner.fsuid), gid_(owner.fsgid) {}
  creds::InodeOwner owner() const override { return {uid_, gid_, mode_.load(std::memory_order_relaxed)}; }
  uint64_t number() const override { return number_; }
  Result<vfs::Stat> stat(OpContext&) override;
  Result<void> set_attr(OpContext&, const vfs::SetAttr& attr) override;
  Result<RefPtr<vfs::FileDescription>> open(OpContext& ctx, const vfs::Path& path, uint32_t flags) override;

 private:
  const RefPtr<HostHandle> handle_;
  std::atomic<uint32_t> mode_;
  const uint64_t number_;
  const abi::KUid uid_;
  const abi::KGid gid_;
};

Result<size_t> host_result(ssize_t n) {
  if (n >= 0) return static_cast<size_t>(n);
  return err(errno == EAGAIN || errno == EINTR ? kEAGAIN : base::guest_errno_from_host(errno));
}

bool is_ready(int fd, short events) {
  pollfd p{fd, events, 0};
  return ::poll(&p, 1, 0) > 0;
}

class HostFile final : public vfs::FileDescription {
 public:
  HostFile(vfs::Path path, uint32_t flags, RefPtr<HostHandle> handle) : FileDescription(std::move(path), flags), handle_(std::move(handle)) {}
  Result<size_t> read(OpContext& ctx, IoBuffer& dst) override { return transfer(dst, memory::Access::kWrite); }
  Result<size_t> write(OpContext& ctx, IoBuffer& src) override { return transfer(src, memory::Access::kRead); }
  Result<size_t> pread(OpContext& ctx, IoBuffer& dst, uint64_t offset) override;
  Result<size_t> pwrite(OpContext& ctx, IoBuffer& src, uint64_t offset) override;
  Result<uint64_t> seek(OpContext& ctx, int64_t offset, int32_t whence) override;
  bool is_seekable() const override { return inode().is_regular(); }
  vfs::PollMask readiness(vfs::PollMask interest) override;
  vfs::WaitQueue* wait_queue() override { return handle_->queue(); }
  Result<int64_t> ioctl(OpContext& ctx, uint32_t request, uint64_t arg) override;
  Result<void> fsync(OpContext& ctx, bool data_only) override;

 private:
  Result<size_t> transfer(IoBuffer& buffer, memory::Access access);
  Result<size_t> host_io(const iovec* iov, int count, memory::Access access);
  int fd() const { return handle_->fd.get(); }
  const RefPtr<HostHandle> handle_;
};

Result<size_t> HostFile::host_io(const iovec* iov, int count, memory::Access access) {
  const bool reading = access == memory::Access::kWrite;
  if (!handle_->waitable()) {
    // Regular files: the host descriptor's own position, which the caller of runsc may share.
    return host_result(reading ? ::readv(fd(), iov, count) : ::writev(fd(), iov, count));
  }
  const ssize_t n = reading ? ::preadv2(fd(), iov, count, -1, RWF_NOWAIT) : ::pwritev2(fd(), iov, count, -1, RWF_NOWAIT);
  if (n >= 0 || errno != EOPNOTSUPP) return host_result(n);
  // Terminals and some others know no RWF_NOWAIT.
  if (!is_ready(fd(), reading ? POLLIN : POLLOUT)) return err(kEAGAIN);
  iovec first = iov[0];
  if (!reading && first.iov_len > kSafeWrite) first.iov_len = kSafeWrite;
  return host_result(reading ? ::read(fd(), first.iov_base, first.iov_len) : ::write(fd(), first.iov_base, first.iov_len));
}

Result<size_t> HostFile::transfer(IoBuffer& buffer, memory::Access access) {
  if (buffer.remaining() == 0) return size_t{0};
  return buffer.with_segments(buffer.remaining(), access, [&](std::span<const memory::HostSegment> segments) -> Result<size_t> {
    iovec iov[kMaxSegments];
    int count = 0;
    for (const memory::HostSegment& s : segments) {
      if (count == static_cast<int>(kMaxSegments)) break;
      iov[count++] = {s.data, s.len};
    }
    return host_io(iov, count, access);
  });
}

Result<size_t> HostFile::pread(OpContext&, IoBuffer& dst, uint64_t offset) {
  if (!is_seekable()) return err(kESPIPE);
  return dst.with_segments(dst.remaining(), memory::Access::kWrite, [&](std::span<const memory::HostSegment> s) -> Result<size_t> {
    return host_result(::pread(fd(), s[0].data, s[0].len, static_cast<off_t>(offset)));
  });
}

Result<size_t> HostFile::pwrite(OpContext&, IoBuffer& src, uint64_t offset) {
  if (!is_seekable()) return err(kESPIPE);
  return src.with_segments(src.remaining(), memory::Access::kRead, [&](std::span<const memory::HostSegment> s) -> Result<size_t> {
    if (offset == kAtEnd) return host_result(::write(fd(), s[0].data, s[0].len));
    return host_result(::pwrite(fd(), s[0].data, s[0].len, static_cast<off_t>(offset)));
  });
}

Result<uint64_t> HostFile::seek(OpContext&, int64_t offset, int32_t whence) {
  if (!is_seekable()) return err(kESPIPE);
  if (whence < SEEK_SET || whence > SEEK_HOLE) return err(kEINVAL);
  const off_t at = ::lseek(fd(), offset, whence);
  if (at < 0) return err(base::guest_errno_from_host(errno));
  return static_cast<uint64_t>(at);
}

vfs::PollMask HostFile::readiness(vfs::PollMask interest) {
  if (!handle_->waitable()) return FileDescription::readiness(interest);
  pollfd p{fd(), static_cast<short>(interest & 0x7fff), 0};
  if (::poll(&p, 1, 0) <= 0) return 0;
  return static_cast<vfs::PollMask>(p.revents);
}

Result<int64_t> HostFile::ioctl(OpContext& ctx, uint32_t request, uint64_t arg) {
  // What isatty(3) and programs that format their output ask of a terminal that is not theirs to control.
  uint8_t data[64] = {};
  size_t size = 0;
  switch (request) {
    case kTcgets: size = 36; break;
    case kTiocgwinsz: size = 8; break;
    case kFionread: size = 4; break;
    default: return err(kENOTTY);
  }
  if (::ioctl(fd(), request, data) != 0) return err(base::guest_errno_from_host(errno));
  TRY(ctx.user_memory().copy_out(abi::Addr(arg), data, size));
  return 0;
}

Result<void> HostFile::fsync(OpContext&, bool data_only) {
  if ((data_only ? ::fdatasync(fd()) : ::fsync(fd())) != 0) return err(base::guest_errno_from_host(errno));
  return {};
}

Result<vfs::Stat> HostInode::stat(OpContext&) {
  struct stat host {};
  if (::fstat(handle_->fd.get(), &host) != 0) return err(base::guest_errno_from_host(errno));
  vfs::Stat st;
  st.device = fs().device();
  st.inode = number_;
  st.mode = mode_.load(std::memory_order_relaxed);
  st.uid = uid_;
  st.gid = gid_;
  st.size = static_cast<uint64_t>(host.st_size);
  st.blocks = static_cast<uint64_t>(host.st_blocks);
  if (S_ISCHR(host.st_mode)) st.rdev = {static_cast<uint32_t>(host.st_rdev >> 8 & 0xfff), static_cast<uint32_t>(host.st_rdev & 0xff)};
  st.atime = {host.st_atim.tv_sec, host.st_atim.tv_nsec};
  st.mtime = {host.st_mtim.tv_sec, host.st_mtim.tv_nsec};
  st.ctime = {host.st_ctim.tv_sec, host.st_ctim.tv_nsec};
  return st;
}

Result<void> HostInode::set_attr(OpContext&, const vfs::SetAttr& attr) {
  if (attr.size) {
    if (!is_regular()) return err(kEINVAL);
    if (::ftruncate(handle_->fd.get(), static_cast<off_t>(*attr.size)) != 0) return err(base::guest_errno_from_host(errno));
  }
  if (attr.mode) mode_.store((mode_.load() & abi::kS_IFMT) | (*attr.mode & 07777));
  return {};
}

Result<RefPtr<vfs::FileDescription>> HostInode::open(OpContext&, const vfs::Path& path, uint32_t flags) {
  const int host_flags = ::fcntl(handle_->fd.get(), F_GETFL);
  const int have = host_flags & O_ACCMODE;
  const uint32_t want = flags & vfs::kO_ACCMODE;
  if (have != O_RDWR && static_cast<uint32_t>(have) != want) return err(kEACCES);
  return RefPtr<vfs::FileDescription>(base::make_ref<HostFile>(path, flags, handle_));
}

const char* name_prefix(mode_t mode) {
  if (S_ISFIFO(mode)) return "pipe";
  if (S_ISSOCK(mode)) return "socket";
  return "host";
}

}  // namespace

Result<RefPtr<vfs::FileDescription>> create(kernel::Reactor& reactor, base::UniqueFd fd, const creds::Credentials& owner) {
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return err(base::guest_errno_from_host(errno));
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0) return err(base::guest_errno_from_host(errno));
  auto fs = base::make_ref<HostFs>();
  auto handle = base::make_ref<HostHandle>(reactor, std::move(fd), st);
  auto inode = base::make_ref<HostInode>(*fs, handle, st, owner);
  auto dentry = vfs::Dentry::create_root(inode, fmt::format("{}:[{}]", name_prefix(st.st_mode), st.st_ino));
  auto mount = base::make_ref<vfs::Mount>(fs, dentry, uint64_t{0}, std::string("none"));
  const uint32_t guest_flags = static_cast<uint32_t>(flags) & (vfs::kO_ACCMODE | vfs::kO_APPEND);
  return RefPtr<vfs::FileDescription>(base::make_ref<HostFile>(vfs::Path{mount, dentry}, guest_flags, handle));
}

}  // namespace sentry::fs::host
