// SPDX-License-Identifier: Apache-2.0
// Sockets: net/socket.c. Protocols are in sentry/net; this family decodes addresses, messages and ancillary data.
#include <algorithm>

#include "sentry/kernel/thread_group.h"
#include "sentry/net/socket.h"
#include "sentry/net/unix.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;
using net::Ancillary;
using net::Socket;
using net::SocketAddress;

namespace {

constexpr int32_t kTypeMask = 0xf;
constexpr uint32_t kSockNonblock = 04000, kSockCloexec = 02000000;
constexpr size_t kMaxVectors = 1024, kMaxControl = 20480, kMaxFdsPerMessage = 253, kMaxTransfer = 0x7ffff000;
constexpr int32_t kScmRights = 1, kScmCredentials = 2;

struct MsgHdr {
  uint64_t name = 0;
  uint32_t name_length = 0, pad0 = 0;
  uint64_t vectors = 0, vector_count = 0;
  uint64_t control = 0, control_length = 0;
  uint32_t flags = 0, pad1 = 0;
};
static_assert(sizeof(MsgHdr) == 56);
struct MMsgHdr {
  MsgHdr header;
  uint32_t length = 0, pad0 = 0;
};
static_assert(sizeof(MMsgHdr) == 64);
struct CmsgHdr {
  uint64_t length = 0;
  int32_t level = 0, type = 0;
};
struct Ucred {
  int32_t pid = 0;
  uint32_t uid = 0, gid = 0;
};
struct Vector {
  uint64_t base = 0, length = 0;
};

constexpr size_t align8(size_t n) { return (n + 7) & ~size_t{7}; }

struct SocketRef {
  RefPtr<vfs::FileDescription> file;
  Socket* operator->() const { return static_cast<Socket*>(file.get()); }
  Socket& get() const { return *operator->(); }
};

Result<SocketRef> get_socket(Task& task, Fd fd) {
  RefPtr<vfs::FileDescription> file = TRY(task.get_file(fd));
  if (!file->as<Socket>()) return err(kENOTSOCK);
  return SocketRef{std::move(file)};
}

Result<SocketAddress> read_address(Task& task, Addr addr, uint32_t length) {
  if (static_cast<int32_t>(length) < 0 || length > SocketAddress::kMax) return err(kEINVAL);
  SocketAddress a;
  a.length = length;
  if (length != 0) TRY(task.user_memory().copy_in(a.bytes.data(), addr, length));
  return a;
}

// move_addr_to_user(): what fits, and the full length.
Result<void> write_address(Task& task, const SocketAddress& a, Addr to, UserInOut<int32_t> length) {
  const int32_t room = TRY(task.read(length));
  if (room < 0) return err(kEINVAL);
  const size_t n = std::min<size_t>(static_cast<size_t>(room), a.length);
  if (n != 0) TRY(task.user_memory().copy_out(to, a.bytes.data(), n));
  return task.write(length, static_cast<int32_t>(a.length));
}

Result<std::vector<vfs::IoVec>> read_vectors(Task& task, uint64_t at, uint64_t count) {
  if (count > kMaxVectors) return err(kEMSGSIZE);
  std::vector<Vector> raw = TRY(task.read_array(UserIn<Vector>(Addr(at)), count));
  std::vector<vfs::IoVec> out;
  out.reserve(raw.size());
  size_t total = 0;
  for (const Vector& v : raw) {
    if (static_cast<int64_t>(v.length) < 0) return err(kEINVAL);
    const size_t n = std::min<size_t>(v.length, kMaxTransfer - total);
    total += n;
    out.push_back({Addr(v.base), n});
  }
  return out;
}

Result<SyscallReturn> install_accepted(Task& task, RefPtr<Socket> socket, uint32_t flags) {
  const Fd fd = TRY(task.install_fd(std::move(socket), (flags & kSockCloexec) != 0));
  return SyscallReturn::of(fd.value());
}

// --- ancillary data in ---

Result<void> take_rights(Task& task, std::span<const uint8_t> payload, Ancillary& out) {
  const size_t count = payload.size() / sizeof(int32_t);
  if (out.files.size() + count > kMaxFdsPerMessage) return err(kEINVAL);
  for (size_t i = 0; i < count; ++i) {
    int32_t fd;
    std::memcpy(&fd, payload.data() + i * sizeof fd, sizeof fd);
    out.files.push_back(TRY(task.get_file(Fd(fd))));
  }
  return {};
}

// scm_check_creds(): the own ids, or any with the right capability.
Result<void> take_credentials(Task& task, std::span<const uint8_t> payload, Ancillary& out) {
  Ucred u;
  if (payload.size() != sizeof u) return err(kEINVAL);
  std::memcpy(&u, payload.data(), sizeof u);
  const creds::Credentials& c = task.creds();
  const std::optional<abi::KUid> uid = c.user_ns->map_uid(abi::Uid(u.uid));
  const std::optional<abi::KGid> gid = c.user_ns->map_gid(abi::Gid(u.gid));
  if (!uid || !gid) return err(kEINVAL);
  if (u.pid != task.pid().value() && !c.has_cap(creds::Cap::kSYS_ADMIN)) return err(kEPERM);
  if (*uid != c.uid && *uid != c.euid && *uid != c.suid && !c.has_cap(creds::Cap::kSETUID)) return err(kEPERM);
  if (*gid != c.gid && *gid != c.egid && *gid != c.sgid && !c.has_cap(creds::Cap::kSETGID)) return err(kEPERM);
  out.cred = net::PeerCred{u.pid, *uid, *gid};
  return {};
}

Result<Ancillary> read_control(Task& task, const MsgHdr& h) {
  Ancillary out;
  if (h.control_length == 0) return out;
  if (h.control_length > kMaxControl) return err(kENOBUFS);
  std::vector<uint8_t> bytes(h.control_length);
  TRY(task.user_memory().copy_in(bytes.data(), Addr(h.control), bytes.size()));
  size_t at = 0;
  while (at + sizeof(CmsgHdr) <= bytes.size()) {
    CmsgHdr c;
    std::memcpy(&c, bytes.data() + at, sizeof c);
    if (c.length < sizeof c || c.length > bytes.size() - at) return err(kEINVAL);
    const std::span<const uint8_t> payload = std::span<const uint8_t>(bytes).subspan(at + sizeof c, c.length - sizeof c);
    if (c.level != net::kSolSocket) {
      out.protocol.insert(out.protocol.end(), bytes.begin() + static_cast<ptrdiff_t>(at),
                          bytes.begin() + static_cast<ptrdiff_t>(std::min(bytes.size(), at + align8(c.length))));
    } else if (c.type == kScmRights) {
      TRY(take_rights(task, payload, out));
    } else if (c.type == kScmCredentials) {
      TRY(take_credentials(task, payload, out));
    } else {
      return err(kEINVAL);
    }
    at += align8(c.length);
  }
  return out;
}

// --- ancillary data out ---

class ControlWriter {
 public:
  ControlWriter(Task& task, const MsgHdr& h) : task_(task), at_(h.control), room_(h.control ? h.control_length : 0) {}
  uint64_t used() const { return used_; }
  bool truncated() const { return truncated_; }
  size_t room_for_payload() const { return room_ > used_ + sizeof(CmsgHdr) ? room_ - used_ - sizeof(CmsgHdr) : 0; }
  void mark_truncated() { truncated_ = true; }
  // put_cmsg(): what does not fit is cut.
  Result<void> put(int32_t level, int32_t type, const void* data, size_t n) {
    if (room_ < used_ + sizeof(CmsgHdr)) {
      truncated_ = true;
      return {};
    }
    if (n > room_for_payload()) {
      n = room_for_payload();
      truncated_ = true;
    }
    const CmsgHdr c{sizeof(CmsgHdr) + n, level, type};
    TRY(task_.user_memory().copy_out(Addr(at_ + used_), &c, sizeof c));
    if (n != 0) TRY(task_.user_memory().copy_out(Addr(at_ + used_ + sizeof c), data, n));
    used_ = std::min(room_, used_ + align8(c.length));
    return {};
  }

 private:
  Task& task_;
  const uint64_t at_, room_;
  uint64_t used_ = 0;
  bool truncated_ = false;
};

// scm_detach_fds(): as many as there is room and descriptors for.
Result<void> deliver_rights(Task& task, std::vector<RefPtr<vfs::FileDescription>> files, bool cloexec, ControlWriter& out) {
  const size_t room = out.room_for_payload() / sizeof(int32_t);
  std::vector<int32_t> fds;
  for (RefPtr<vfs::FileDescription>& file : files) {
    if (fds.size() == room) break;
    Result<Fd> fd = task.install_fd(std::move(file), cloexec);
    if (!fd) break;
    fds.push_back(fd->value());
  }
  if (fds.size() < files.size()) out.mark_truncated();
  if (!fds.empty()) TRY(out.put(net::kSolSocket, kScmRights, fds.data(), fds.size() * sizeof(int32_t)));
  return {};
}

bool wants_credentials(Task& task, Socket& socket) {
  int32_t on = 0;
  uint8_t bytes[sizeof on];
  Result<size_t> n = socket.get_option(task, net::kSolSocket, net::kSoPassCred, bytes);
  if (!n || *n < sizeof on) return false;
  std::memcpy(&on, bytes, sizeof on);
  return on != 0;
}

Result<void> write_control(Task& task, Socket& socket, Ancillary control, uint32_t flags, ControlWriter& out) {
  if (socket.family() == net::kAfUnix && wants_credentials(task, socket)) {
    Ucred u{0, creds::kOverflowId, creds::kOverflowId};
    if (control.cred) {
      const creds::UserNamespace& ns = *task.creds().user_ns;
      u = {control.cred->pid, ns.unmap_uid(control.cred->uid).value(), ns.unmap_gid(control.cred->gid).value()};
    }
    TRY(out.put(net::kSolSocket, kScmCredentials, &u, sizeof u));
  }
  if (!control.files.empty())
    TRY(deliver_rights(task, std::move(control.files), (flags & net::kMsgCmsgCloexec) != 0, out));
  // Messages of the protocol, one by one as the host wrote them.
  size_t at = 0;
  while (at + sizeof(CmsgHdr) <= control.protocol.size()) {
    CmsgHdr c;
    std::memcpy(&c, control.protocol.data() + at, sizeof c);
    if (c.length < sizeof c || c.length > control.protocol.size() - at) break;
    TRY(out.put(c.level, c.type, control.protocol.data() + at + sizeof c, c.length - sizeof c));
    at += align8(c.length);
  }
  return {};
}

// --- messages ---

Result<size_t> send_message(Task& task, Socket& socket, const MsgHdr& h, uint32_t flags) {
  SocketAddress to;
  net::SendArgs args;
  args.flags = flags;
  if (h.name != 0 && h.name_length != 0) {
    to = TRY(read_address(task, Addr(h.name), std::min<uint32_t>(h.name_length, SocketAddress::kMax)));
    args.to = &to;
  }
  std::vector<vfs::IoVec> vectors = TRY(read_vectors(task, h.vectors, h.vector_count));
  args.control = TRY(read_control(task, h));
  vfs::UserIoBuffer src(task.user_memory(), std::move(vectors));
  return socket.send(task, src, args);
}

Result<size_t> receive_message(Task& task, Socket& socket, UserInOut<MsgHdr> at, uint32_t flags) {
  MsgHdr h = TRY(task.read(at));
  if (h.name != 0 && static_cast<int32_t>(h.name_length) < 0) return err(kEINVAL);
  std::vector<vfs::IoVec> vectors = TRY(read_vectors(task, h.vectors, h.vector_count));
  vfs::UserIoBuffer dst(task.user_memory(), std::move(vectors));
  net::RecvResult got = TRY(socket.receive(task, dst, flags));
  ControlWriter control(task, h);
  TRY(write_control(task, socket, std::move(got.control), flags, control));
  if (h.name != 0) {
    const size_t n = std::min(h.name_length, got.from.length);
    if (n != 0) TRY(task.user_memory().copy_out(Addr(h.name), got.from.bytes.data(), n));
    h.name_length = got.from.length;
  }
  h.control_length = control.used();
  h.flags = got.flags | (control.truncated() ? uint32_t{net::kMsgCtrunc} : 0) | (flags & net::kMsgCmsgCloexec);
  TRY(task.write(at, h));
  return got.bytes;
}

}  // namespace

Result<Fd> sys_socket(Task& task, int32_t family, int32_t type, int32_t protocol) {
  const auto flags = static_cast<uint32_t>(type & ~kTypeMask);
  if (flags & ~(kSockNonblock | kSockCloexec)) return err(kEINVAL);
  RefPtr<Socket> socket = TRY(net::create_socket(task, family, type & kTypeMask, protocol, flags & kSockNonblock));
  return task.install_fd(std::move(socket), (flags & kSockCloexec) != 0);
}

Result<void> sys_socketpair(Task& task, int32_t family, int32_t type, int32_t protocol, UserOut<int32_t> out) {
  const auto flags = static_cast<uint32_t>(type & ~kTypeMask);
  if (flags & ~(kSockNonblock | kSockCloexec)) return err(kEINVAL);
  if (family != net::kAfUnix) return err(family == net::kAfInet || family == net::kAfInet6 ? kEOPNOTSUPP : kEAFNOSUPPORT);
  net::SocketPair pair = TRY(net::create_unix_pair(task, type & kTypeMask, protocol, flags & kSockNonblock));
  std::vector<RefPtr<vfs::FileDescription>> files{pair.first, pair.second};
  const uint64_t limit = task.rlimit(creds::Resource::kNOFILE).soft;
  std::vector<Fd> fds = TRY(task.fds().install_many(std::move(files), (flags & kSockCloexec) != 0, limit));
  const int32_t numbers[2] = {fds[0].value(), fds[1].value()};
  Result<void> written = task.user_memory().copy_out(out.addr(), numbers, sizeof numbers);
  if (!written)
    for (Fd fd : fds) (void)task.fds().remove(fd);
  return written;
}

Result<void> sys_bind(Task& task, Fd fd, Addr address, uint32_t length) {
  SocketRef socket = TRY(get_socket(task, fd));
  return socket->bind(task, TRY(read_address(task, address, length)));
}

Result<void> sys_listen(Task& task, Fd fd, int32_t backlog) {
  SocketRef socket = TRY(get_socket(task, fd));
  return socket->listen(task, std::clamp(backlog < 0 ? 4096 : backlog, 0, 4096));
}

Result<SyscallReturn> sys_accept4(Task& task, Fd fd, Addr address, UserInOut<int32_t> length, uint32_t flags) {
  if (flags & ~(kSockNonblock | kSockCloexec)) return err(kEINVAL);
  SocketRef socket = TRY(get_socket(task, fd));
  SocketAddress peer;
  RefPtr<Socket> made = TRY(socket->accept(task, flags & kSockNonblock, address.is_null() ? nullptr : &peer));
  if (!address.is_null()) TRY(write_address(task, peer, address, length));
  return install_accepted(task, std::move(made), flags);
}

Result<SyscallReturn> sys_accept(Task& task, Fd fd, Addr address, UserInOut<int32_t> length) {
  return sys_accept4(task, fd, address, length, 0);
}

Result<void> sys_connect(Task& task, Fd fd, Addr address, uint32_t length) {
  SocketRef socket = TRY(get_socket(task, fd));
  return socket->connect(task, TRY(read_address(task, address, length)));
}

Result<void> sys_getsockname(Task& task, Fd fd, Addr address, UserInOut<int32_t> length) {
  SocketRef socket = TRY(get_socket(task, fd));
  return write_address(task, TRY(socket->local_address(task)), address, length);
}

Result<void> sys_getpeername(Task& task, Fd fd, Addr address, UserInOut<int32_t> length) {
  SocketRef socket = TRY(get_socket(task, fd));
  return write_address(task, TRY(socket->peer_address(task)), address, length);
}

Result<size_t> sys_sendto(Task& task, Fd fd, Addr buffer, size_t length, uint32_t flags, Addr address, uint32_t address_length) {
  SocketRef socket = TRY(get_socket(task, fd));
  SocketAddress to;
  net::SendArgs args;
  args.flags = flags;
  if (!address.is_null()) {
    to = TRY(read_address(task, address, address_length));
    args.to = &to;
  }
  vfs::UserIoBuffer src(task.user_memory(), buffer, std::min(length, kMaxTransfer));
  return socket->send(task, src, args);
}

Result<size_t> sys_recvfrom(Task& task, Fd fd, Addr buffer, size_t length, uint32_t flags, Addr address,
                            UserInOut<int32_t> address_length) {
  SocketRef socket = TRY(get_socket(task, fd));
  vfs::UserIoBuffer dst(task.user_memory(), buffer, std::min(length, kMaxTransfer));
  net::RecvResult got = TRY(socket->receive(task, dst, flags));
  if (!address.is_null()) TRY(write_address(task, got.from, address, address_length));
  return got.bytes;
}

Result<size_t> sys_sendmsg(Task& task, Fd fd, UserIn<MsgHdr> message, uint32_t flags) {
  SocketRef socket = TRY(get_socket(task, fd));
  return send_message(task, socket.get(), TRY(task.read(message)), flags);
}

Result<size_t> sys_recvmsg(Task& task, Fd fd, UserInOut<MsgHdr> message, uint32_t flags) {
  SocketRef socket = TRY(get_socket(task, fd));
  return receive_message(task, socket.get(), message, flags);
}

Result<size_t> sys_sendmmsg(Task& task, Fd fd, UserInOut<MMsgHdr> messages, uint32_t count, uint32_t flags) {
  SocketRef socket = TRY(get_socket(task, fd));
  size_t done = 0;
  for (; done < std::min<size_t>(count, kMaxVectors); ++done) {
    const UserInOut<MMsgHdr> at = messages.offset(done);
    const Result<size_t> sent = [&]() -> Result<size_t> {
      const MsgHdr h = TRY(task.read(UserIn<MsgHdr>(at.addr())));
      const size_t n = TRY(send_message(task, socket.get(), h, flags));
      TRY(task.write(UserOut<uint32_t>(at.addr() + sizeof(MsgHdr)), static_cast<uint32_t>(n)));
      return n;
    }();
    if (!sent) return done != 0 ? Result<size_t>(done) : sent;
  }
  return done;
}

Result<size_t> sys_recvmmsg(Task& task, Fd fd, UserInOut<MMsgHdr> messages, uint32_t count, uint32_t flags,
                            UserInOut<abi::TimeSpec64> timeout) {
  SocketRef socket = TRY(get_socket(task, fd));
  int64_t deadline = INT64_MAX;
  if (!timeout.is_null()) {
    const abi::TimeSpec64 t = TRY(task.read(timeout));
    if (!t.is_valid()) return err(kEINVAL);
    if (t.sec < INT64_MAX / 2'000'000'000) deadline = task.now_monotonic() + t.sec * 1'000'000'000 + t.nsec;
  }
  size_t done = 0;
  while (done < std::min<size_t>(count, kMaxVectors)) {
    const UserInOut<MMsgHdr> at = messages.offset(done);
    const bool first = done == 0;
    const uint32_t now = (flags & ~uint32_t{net::kMsgWaitForOne}) | (!first && (flags & net::kMsgWaitForOne) ? uint32_t{net::kMsgDontWait} : 0);
    const Result<size_t> got = receive_message(task, socket.get(), UserInOut<MsgHdr>(at.addr()), now);
    if (!got) return done != 0 ? Result<size_t>(done) : got;
    TRY(task.write(UserOut<uint32_t>(at.addr() + sizeof(MsgHdr)), static_cast<uint32_t>(*got)));
    ++done;
    // As in Linux, the timeout is looked at only after a message has come: recvmmsg(2), BUGS.
    if (task.now_monotonic() >= deadline) break;
  }
  return done;
}

Result<void> sys_shutdown(Task& task, Fd fd, int32_t how) {
  SocketRef socket = TRY(get_socket(task, fd));
  return socket->shutdown(task, how);
}

Result<void> sys_getsockopt(Task& task, Fd fd, int32_t level, int32_t name, Addr value, UserInOut<int32_t> length) {
  SocketRef socket = TRY(get_socket(task, fd));
  const int32_t room = TRY(task.read(length));
  if (room < 0) return err(kEINVAL);
  uint8_t bytes[256];
  const size_t n = TRY(socket->get_option(task, level, name, std::span(bytes).first(std::min<size_t>(sizeof bytes, static_cast<size_t>(room)))));
  if (n != 0) TRY(task.user_memory().copy_out(value, bytes, n));
  return task.write(length, static_cast<int32_t>(n));
}

Result<void> sys_setsockopt(Task& task, Fd fd, int32_t level, int32_t name, Addr value, int32_t length) {
  SocketRef socket = TRY(get_socket(task, fd));
  if (length < 0) return err(kEINVAL);
  uint8_t bytes[256];
  const size_t n = std::min<size_t>(sizeof bytes, static_cast<size_t>(length));
  if (n != 0) TRY(task.user_memory().copy_in(bytes, value, n));
  return socket->set_option(task, level, name, std::span<const uint8_t>(bytes, n));
}

SYSCALL_FAMILY(socket) = {
    ROW(socket, kPartial, "AF_UNIX, AF_INET, AF_INET6 (tcp, udp, icmp), AF_NETLINK route; no raw sockets"),
    ROW(socketpair, kFull, ""),
    ROW(bind, kFull, ""),
    ROW(listen, kFull, ""),
    ROW(accept, kFull, ""),
    ROW(accept4, kFull, ""),
    ROW(connect, kFull, ""),
    ROW(getsockname, kFull, ""),
    ROW(getpeername, kFull, ""),
    ROW(sendto, kFull, ""),
    ROW(recvfrom, kFull, ""),
    ROW(sendmsg, kFull, ""),
    ROW(recvmsg, kFull, ""),
    ROW(sendmmsg, kFull, ""),
    ROW(recvmmsg, kFull, ""),
    ROW(shutdown, kFull, ""),
    ROW(getsockopt, kPartial, "an allow-list of options"),
    ROW(setsockopt, kPartial, "an allow-list of options"),
};
SYSCALL_FAMILY_END(socket);

}  // namespace sentry::syscalls
