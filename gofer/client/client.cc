// SPDX-License-Identifier: Apache-2.0
#include "gofer/client/client.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <x86intrin.h>

#include "base/host/host_error.h"
#include "base/host/host_wait.h"
#include "base/log/log.h"
#include "base/stats/stats.h"
#include "base/trace/trace.h"
#include "gofer/proto/packed_list.h"

namespace gofer {

using enum abi::Errno;

namespace {

constexpr size_t kDropBatch = 128;

bool is_type(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: case S_IFDIR: case S_IFLNK: case S_IFCHR: case S_IFBLK: case S_IFIFO: case S_IFSOCK: break;
    default: return false;
  }
  return (mode & ~uint32_t{S_IFMT | 07777}) == 0;
}

bool sane(const Attr& a) {
  constexpr uint32_t kNanos = 1'000'000'000;
  return is_type(a.mode) && a.size <= uint64_t{INT64_MAX} && a.atime_nsec < kNanos && a.mtime_nsec < kNanos &&
         a.ctime_nsec < kNanos && a.btime_nsec < kNanos;
}

bool sane_target(uint32_t mode, std::string_view target) {
  return ((mode & S_IFMT) == S_IFLNK || target.empty()) && target.size() <= kMaxPath && target.find('\0') == target.npos;
}

}  // namespace

bool sane(const File& f) { return f.id != kNoFile && sane(f.attr) && sane_target(f.attr.mode, f.link_target); }

bool sane(const WalkRequest& request, const WalkReply& reply) {
  if (reply.files.size() > request.names.size() || reply.opened > 1) return false;
  if (reply.stop_errno == 0 && reply.files.size() != request.names.size()) return false;
  if (reply.opened != 0 && (request.open_flags == kNoOpen || reply.stop_errno != 0)) return false;
  for (size_t i = 0; i < reply.files.size(); ++i) {
    if (!sane(reply.files[i])) return false;
    // Only a directory has something below it.
    if (i + 1 < reply.files.size() && (reply.files[i].attr.mode & S_IFMT) != S_IFDIR) return false;
  }
  return true;
}

bool sane(const ReadDirRequest&, const ReadDirReply& reply) {
  for (const DirEntry& e : reply.entries) {
    if (!valid_name(e.name) || !sane(e.attr) || !sane_target(e.attr.mode, e.link_target)) return false;
  }
  return reply.end <= 1 && (reply.end == 1 || !reply.entries.empty());
}

bool sane(const ReadTreeRequest&, const ReadTreeReply& reply) {
  size_t entries = 0;
  for (const TreeList& list : reply.lists) {
    std::span<const uint8_t> rest = bytes_of(list.entries);
    for (uint32_t i = 0; i < list.count; ++i) {
      PackedEntry e;
      if (!unpack_entry(rest, list.device, e)) return false;
      if (!valid_name(e.name) || !sane(e.attr) || !sane_target(e.attr.mode, e.link_target)) return false;
    }
    entries += list.count;
    if (!rest.empty()) return false;
  }
  return entries <= kMaxEntries;
}

bool sane(const OpenManyRequest& request, const OpenManyReply& reply) { return reply.opened.size() <= request.files.size(); }

abi::Errno errno_of(const Packet& packet) {
  ErrorReply e;
  if (!decode(packet.body, e) || e.host_errno == 0 || e.host_errno > 4095) return kEIO;
  switch (e.host_errno) {  // of the gofer itself, beside what a host call may return
    case EBADF: return kESTALE;  // our id, not the guest's descriptor
    case ENFILE: case EMFILE: return kENFILE;
    default: return base::guest_errno_from_host(static_cast<int>(e.host_errno));
  }
}

bool valid_donation(Op op, uint32_t open_flags, int fd) {
  struct stat s;
  if (fstat(fd, &s) != 0) return false;
  if (op == Op::kConnect) return S_ISSOCK(s.st_mode);
  int flags = fcntl(fd, F_GETFL);
  return S_ISREG(s.st_mode) && flags >= 0 && (flags & O_PATH) == 0 &&
         (flags & O_ACCMODE) == static_cast<int>(open_flags & O_ACCMODE);
}

Client::Client(base::UniqueFd socket)
    : socket_(std::move(socket)), out_(std::make_unique_for_overwrite<uint8_t[]>(kMaxPacket)),
      in_(std::make_unique_for_overwrite<uint8_t[]>(kMaxPacket)) {}

Client::~Client() {
  base::MutexLock lock(mu_);
  die_locked();
}

base::Result<base::RefPtr<Client>> Client::create(base::UniqueFd socket) {
  auto client = base::make_ref<Client>(std::move(socket));
  auto hello = TRY(client->call(HelloRequest{}));
  if (hello.reply.version != kVersion || hello.reply.trees > kMaxTrees) return base::err(kEPROTO);
  client->trees_ = hello.reply.trees;
  return client;
}

uint16_t Client::waiting_cpu() {
  const int cpu = base::host_wait_cpu();
  return cpu < 0 || cpu >= UINT16_MAX ? uint16_t{0} : static_cast<uint16_t>(cpu + 1);
}

base::Result<void> Client::send_packet_locked(Op op, size_t size, Completion* completion) {
  if (dead_) return base::err(kEIO);
  iovec iov{out_.get(), size};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  const uint64_t sent_at = __rdtsc();
  base::stats::count(base::stats::Counter::kGoferSends);
  // Not blocking in the host: a gofer that cannot take more is waiting for us to read its replies.
  while (sendmsg(socket_.get(), &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN) {
      die_locked();
      return base::err(kEIO);
    }
    pollfd p{socket_.get(), POLLIN | POLLOUT, 0};
    int n = ::poll(&p, 1, kSilenceLimitMs);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) die_locked();
    if (n > 0 && (p.revents & POLLIN)) receive_locked(Wait::kNo);
    if (dead_) return base::err(kEIO);
  }
  if (completion) pending_.emplace(next_tag_, Pending{completion, op, sent_at});
  ++next_tag_;
  return {};
}

bool Client::receive_locked(Wait wait) {
  while (!dead_) {
    iovec iov{in_.get(), kMaxPacket};
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxOpenMany * sizeof(int))];
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control;
    msg.msg_controllen = sizeof control;
    ssize_t n = 0;
    if (wait == Wait::kYes) {
      base::HostWait waiting;
      n = recvmsg(socket_.get(), &msg, MSG_CMSG_CLOEXEC);
    } else {
      n = recvmsg(socket_.get(), &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      if (wait == Wait::kNo) return false;
      LOG_ERROR("the gofer is silent");
    }
    std::vector<base::UniqueFd> fds;
    if (n >= 0) {
      for (cmsghdr* c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
          int value;
          std::memcpy(&value, CMSG_DATA(c) + i * sizeof value, sizeof value);
          fds.emplace_back(value);
        }
      }
    }
    // The kernel installs what our table has room for, and says that there was more.
    const Donation donation = (msg.msg_flags & MSG_CTRUNC) != 0 ? Donation::kLost : Donation::kAsSent;
    if (n <= 0 || (msg.msg_flags & MSG_TRUNC) || !deliver_locked(static_cast<size_t>(n), std::move(fds), donation)) die_locked();
    return !dead_;
  }
  return false;
}

bool Client::deliver_locked(size_t size, std::vector<base::UniqueFd> fds, Donation donation) {
  std::span<const uint8_t> packet(in_.get(), size);
  Header h;
  if (!decode_header(packet, h) || h.cpu != 0) return false;
  auto it = pending_.find(h.tag);
  if (it == pending_.end()) return false;
  Completion* completion = it->second.completion;
  base::stats::count(base::stats::Counter::kGoferReceives);
  const auto what = static_cast<base::stats::Timed>(base::stats::kTimedGofer + static_cast<uint16_t>(it->second.op));
  const uint64_t sent_at = it->second.sent_at, now = __rdtsc();
  base::stats::record(what, now - sent_at);
  if (base::trace::is_on()) {
    base::trace::Event e;
    e.kind = base::trace::Kind::kGofer;
    e.start = sent_at;
    e.end = now;
    e.what = what;
    base::trace::add(e);
  }
  pending_.erase(it);
  if (donation == Donation::kLost) {
    completion->complete(base::err(kENFILE));
    return true;
  }
  completion->complete(Packet{h, packet.subspan(sizeof h), std::move(fds)});
  return true;
}

void Client::die_locked() {
  if (!dead_.exchange(true) && socket_) LOG_DEBUG("gofer connection closed");
  auto waiting = std::move(pending_);
  pending_.clear();
  for (auto& [tag, pending] : waiting) pending.completion->complete(base::err(kEIO));
}

void Client::poll() {
  base::MutexLock lock(mu_);
  while (receive_locked(Wait::kNo)) {
  }
}

void Client::drop(FileId id) {
  if (id == kNoFile) return;
  base::MutexLock lock(mu_);
  drops_.ids.push_back(id);
  if (drops_.ids.size() >= kDropBatch) send_drops_locked();
}

void Client::flush_drops() {
  base::MutexLock lock(mu_);
  if (!drops_.ids.empty()) send_drops_locked();
}

void Client::send_drops_locked() {
  (void)send_locked(Op::kClose, drops_, nullptr);
  drops_.ids.clear();
}

}  // namespace gofer
