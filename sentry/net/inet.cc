// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/inet.h"

#include <algorithm>
#include <cerrno>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unordered_set>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/net/host_calls.h"
#include "sentry/net/tcp_end.h"

namespace sentry::net {

using abi::Errno;
using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxDatagram = 65536;
constexpr size_t kMaxSegments = 64;
constexpr size_t kMaxControl = 1024;
constexpr int32_t kTcpInq = 36;

base::Err host_failure() { return err(base::guest_errno_from_host(errno)); }

const HostOption* find_option(int32_t level, int32_t name) {
  for (const HostOption& o : host_socket_options())
    if (o.level == level && o.name == name) return &o;
  return nullptr;
}

class InetSocket;
struct Registry {
  base::Mutex mu{base::LockRank::kLeaf};
  std::unordered_set<InetSocket*> sockets GUARDED_BY(mu);
};
Registry& registry() {
  static Registry r;
  return r;
}

SocketAddress from_host(const sockaddr_storage& storage, socklen_t length) {
  SocketAddress a;
  a.length = std::min<uint32_t>(length, SocketAddress::kMax);
  std::memcpy(a.bytes.data(), &storage, a.length);
  return a;
}

class InetSocket final : public Socket {
 public:
  InetSocket(base::UniqueFd fd, int32_t family, int32_t type, int32_t protocol, uint32_t status_flags,
             const creds::Credentials& owner, kernel::Reactor& reactor)
      : Socket(family, type, protocol, status_flags, owner), fd_(std::move(fd)),
        end_(base::make_ref<TcpEnd>(fd_.get(), *this)), reactor_(reactor), uid_(owner.euid.value()) {
    watch_ = reactor_.watch(fd_.get(), end_->host_queue());
    base::MutexLock lock(registry().mu);
    registry().sockets.insert(this);
  }
  ~InetSocket() override {
    {
      base::MutexLock lock(registry().mu);
      registry().sockets.erase(this);
    }
    end_->close();
    reactor_.unwatch(watch_);
    fd_.reset();
    end_->tell_peer_of_close();
  }

  vfs::WaitQueue* wait_queue() override { return &end_->queue(); }
  vfs::PollMask readiness(vfs::PollMask interest) override { return end_->readiness(interest); }

  Result<void> bind(vfs::OpContext&, const SocketAddress& a) override {
    TRY(check_address(a));
    return ::bind(fd_.get(), raw(a), a.length) == 0 ? Result<void>{} : host_failure();
  }
  Result<void> listen(vfs::OpContext&, int32_t backlog) override {
    return ::listen(fd_.get(), backlog) == 0 ? Result<void>{} : host_failure();
  }
  Result<SocketAddress> local_address(vfs::OpContext&) override {
    sockaddr_storage s{};
    socklen_t n = sizeof s;
    if (getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&s), &n) != 0) return host_failure();
    return from_host(s, n);
  }
  Result<SocketAddress> peer_address(vfs::OpContext&) override {
    sockaddr_storage s{};
    socklen_t n = sizeof s;
    if (getpeername(fd_.get(), reinterpret_cast<sockaddr*>(&s), &n) != 0) return host_failure();
    return from_host(s, n);
  }
  Result<void> shutdown(vfs::OpContext& ctx, int32_t how) override {
    return how < 0 || how > 2 ? err(kEINVAL) : end_->shutdown(ctx, how);
  }
  Result<void> connect(vfs::OpContext& ctx, const SocketAddress& a) override;
  Result<size_t> get_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<uint8_t> out) override;
  Result<void> set_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<const uint8_t> value) override;
  Result<int64_t> ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) override;
  InetListing listing();

 protected:
  Result<RefPtr<Socket>> try_accept(vfs::OpContext& ctx, uint32_t status_flags, SocketAddress* peer) override;
  Result<size_t> try_send(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args) override;
  Result<RecvResult> try_receive(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags) override;
  Result<vfs::InPlaceEnd*> prepare_in_place(vfs::OpContext& ctx) override {
    if (type() != kSockStream || !ctx.memory_file()) return err(kEOPNOTSUPP);
    return end_->share(ctx, *ctx.memory_file());
  }
  vfs::InPlaceEnd* in_place_end() const override { return end_->shared().end(); }
  size_t low_water() const override { return static_cast<size_t>(end_->low_water()); }
  Result<int32_t> readable_bytes() override { return end_->readable_bytes(); }
  Result<int32_t> unsent_bytes() override { return queue_ioctl(TIOCOUTQ); }

 private:
  static const sockaddr* raw(const SocketAddress& a) { return reinterpret_cast<const sockaddr*>(a.bytes.data()); }
  static Result<void> check_address(const SocketAddress& a) {
    if (a.length < 2) return err(kEINVAL);
    const uint16_t f = a.family();
    return f == kAfInet || f == kAfInet6 || f == kAfUnspec ? Result<void>{} : err(kEAFNOSUPPORT);
  }
  Result<int32_t> queue_ioctl(unsigned long request) {
    int32_t value = 0;
    return ::ioctl(fd_.get(), request, &value) == 0 ? Result<int32_t>(value) : host_failure();
  }
  // A receive from the host would give bytes that those before may be taken together with.
  bool more_at_once() { return queue_ioctl(FIONREAD).value_or(0) > 0 && queue_ioctl(SIOCATMARK).value_or(1) == 0; }
  Result<void> finish_connect();
  void note_connected(vfs::OpContext& ctx);
  Result<size_t> host_send(vfs::IoBuffer& src, SendArgs& args);
  Result<RecvResult> host_receive(vfs::IoBuffer& dst, uint32_t flags);

  base::UniqueFd fd_;
  const RefPtr<TcpEnd> end_;
  std::atomic<bool> connecting_{false};  // connect(2) was called, and end_ does not know yet that it succeeded
  kernel::Reactor& reactor_;
  kernel::Reactor::WatchId watch_ = 0;
  const uint32_t uid_;
};

Result<void> InetSocket::finish_connect() {
  pollfd p{fd_.get(), POLLOUT, 0};
  if (poll(&p, 1, 0) == 0) return err(kEAGAIN);
  int error = 0;
  socklen_t n = sizeof error;
  if (getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &n) != 0) return host_failure();
  return error == 0 ? Result<void>{} : err(base::guest_errno_from_host(error));
}

// Its other end may be a socket of this sandbox.
void InetSocket::note_connected(vfs::OpContext& ctx) {
  const Result<SocketAddress> local = local_address(ctx), peer = peer_address(ctx);
  connecting_.store(!local || !peer);
  if (local && peer) end_->connected(ctx, *local, *peer);
}

Result<void> InetSocket::connect(vfs::OpContext& ctx, const SocketAddress& a) {
  TRY(check_address(a));
  auto attempt = [&] { return ::connect(fd_.get(), raw(a), a.length) == 0 ? Result<void>{} : host_failure(); };
  if (type() != kSockStream) return attempt();
  if (a.family() == kAfUnspec) return end_->disconnect(ctx, attempt);
  Result<void> done = attempt();
  if (!done && done.error() != kEINPROGRESS && done.error() != kEALREADY) return done;
  // A restarted connect(2) finds its own first attempt under way.
  if (!done && !is_nonblocking()) {
    done = wait_for<void>(ctx, end_->queue(), vfs::kPollOut, send_timeout_ns_.load(), [this] { return finish_connect(); });
    if (!done && done.error() == kEAGAIN) done = err(kEINPROGRESS);
  }
  if (done || done.error() == kEINPROGRESS) note_connected(ctx);
  return done;
}

Result<RefPtr<Socket>> InetSocket::try_accept(vfs::OpContext& ctx, uint32_t status_flags, SocketAddress* peer) {
  sockaddr_storage s{};
  socklen_t n = sizeof s;
  base::UniqueFd fd(accept4(fd_.get(), reinterpret_cast<sockaddr*>(&s), &n, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) return host_failure();
  if (peer) *peer = from_host(s, n);
  auto made = base::make_ref<InetSocket>(std::move(fd), family(), type(), protocol(), status_flags, ctx.creds(), reactor_);
  made->end_->accepted_from(*end_);
  made->note_connected(ctx);
  return RefPtr<Socket>(std::move(made));
}

Result<size_t> InetSocket::get_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<uint8_t> out) {
  if (level == kSolSocket && (name == kSoType || name == kSoDomain || name == kSoProtocol || name == kSoRcvTimeo ||
                              name == kSoSndTimeo || name == kSoCookie || name == kSoPriority || name == kSoDebug))
    return Socket::get_option(ctx, level, name, out);
  if (!find_option(level, name)) return err(kENOPROTOOPT);
  uint8_t value[256] = {};
  socklen_t n = static_cast<socklen_t>(std::min(out.size(), sizeof value));
  if (getsockopt(fd_.get(), level, name, value, &n) != 0) return host_failure();
  return put_option(out, value, n);
}

Result<void> InetSocket::set_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<const uint8_t> value) {
  if (level == kSolSocket) {
    switch (name) {
      case kSoRcvTimeo: case kSoSndTimeo: case kSoPriority: case kSoMark: case kSoDebug: case kSoType: case kSoDomain:
      case kSoProtocol: case kSoAcceptConn: case kSoPassCred: return Socket::set_option(ctx, level, name, value);
      case kSoSndBufForce: name = kSoSndBuf; break;
      case kSoRcvBufForce: name = kSoRcvBuf; break;
      default: break;
    }
  }
  const HostOption* option = find_option(level, name);
  if (!option || !option->settable) return err(kENOPROTOOPT);
  if (value.size() > 256) return err(kEINVAL);
  if (setsockopt(fd_.get(), level, name, value.data(), static_cast<socklen_t>(value.size())) != 0) return host_failure();
  const int32_t number = int_option(value).value_or(0);
  if (level == kSolSocket && name == kSoRcvLowat) end_->set_low_water(number);
  const bool adds_control = level == kSolSocket ? name == kSoTimestamp || name == kSoTimestampNs : level == IPPROTO_TCP && name == kTcpInq;
  if (adds_control && number != 0) end_->use_host();
  return {};
}

Result<int64_t> InetSocket::ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) {
  if (request != SIOCATMARK) return Socket::ioctl(ctx, request, arg);
  const int32_t value = TRY(end_->at_mark());
  TRY(ctx.user_memory().copy_out(abi::Addr(arg), &value, sizeof value));
  return 0;
}

// Which ancillary data a guest may send: packet info, TOS, TTL, segment size.
Result<void> check_protocol_control(std::span<const uint8_t> control) {
  size_t at = 0;
  while (at + sizeof(cmsghdr) <= control.size()) {
    cmsghdr h;
    std::memcpy(&h, control.data() + at, sizeof h);
    if (h.cmsg_len < sizeof h || h.cmsg_len > control.size() - at) return err(kEINVAL);
    const bool ip = h.cmsg_level == IPPROTO_IP && (h.cmsg_type == IP_PKTINFO || h.cmsg_type == IP_TOS || h.cmsg_type == IP_TTL);
    const bool ip6 = h.cmsg_level == IPPROTO_IPV6 && (h.cmsg_type == IPV6_PKTINFO || h.cmsg_type == IPV6_TCLASS || h.cmsg_type == IPV6_HOPLIMIT);
    const bool udp = h.cmsg_level == IPPROTO_UDP && h.cmsg_type == 103;
    if (!ip && !ip6 && !udp) return err(kEINVAL);
    at += CMSG_ALIGN(h.cmsg_len);
  }
  return {};
}

size_t fill_vectors(std::span<const memory::HostSegment> segments, iovec (&vectors)[kMaxSegments]) {
  const size_t n = std::min(segments.size(), kMaxSegments);
  for (size_t i = 0; i < n; ++i) vectors[i] = {segments[i].data, segments[i].len};
  return n;
}

Result<size_t> InetSocket::try_send(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args) {
  if (!args.control.files.empty() || args.control.cred) return err(kEINVAL);
  TRY(check_protocol_control(args.control.protocol));
  if (args.to) TRY(check_address(*args.to));
  if (type() != kSockStream) return host_send(src, args);
  note_use();
  const Result<size_t> sent = end_->send(ctx, src, args.flags, [&] { return host_send(src, args); });
  if (sent && connecting_.load(std::memory_order_relaxed)) note_connected(ctx);
  return sent;
}

Result<size_t> InetSocket::host_send(vfs::IoBuffer& src, SendArgs& args) {
  msghdr m{};
  if (args.to) {
    m.msg_name = const_cast<uint8_t*>(args.to->bytes.data());
    m.msg_namelen = args.to->length;
  }
  m.msg_control = args.control.protocol.empty() ? nullptr : args.control.protocol.data();
  m.msg_controllen = args.control.protocol.size();
  const int flags = static_cast<int>((args.flags & kHostMessageFlags & ~uint32_t{kMsgPeek | kMsgTrunc | kMsgErrQueue}) |
                                     kMsgDontWait | kMsgNoSignal);
  auto send_vectors = [&](iovec* v, size_t n) -> Result<size_t> {
    m.msg_iov = v;
    m.msg_iovlen = n;
    const ssize_t sent = sendmsg(fd_.get(), &m, flags);
    return sent >= 0 ? Result<size_t>(static_cast<size_t>(sent)) : host_failure();
  };
  if (type() == kSockStream && src.remaining() != 0)
    return src.with_segments(src.remaining(), memory::Access::kRead, [&](std::span<const memory::HostSegment> segments) {
      iovec v[kMaxSegments];
      return send_vectors(v, fill_vectors(segments, v));
    });
  if (src.remaining() > kMaxDatagram) return err(kEMSGSIZE);
  // The bytes are taken from the buffer only when the host has taken the datagram.
  std::vector<uint8_t> bytes(src.remaining());
  if (!bytes.empty() && TRY(src.peek(bytes.data(), bytes.size())) < bytes.size()) return err(kEFAULT);
  iovec v{bytes.data(), bytes.size()};
  const size_t sent = TRY(send_vectors(&v, 1));
  if (!bytes.empty()) TRY(src.get(bytes.data(), bytes.size()));
  return sent;
}

Result<RecvResult> InetSocket::try_receive(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags) {
  if (type() != kSockStream) return host_receive(dst, flags);
  note_use();
  Result<RecvResult> got = end_->receive(ctx, dst, flags, [&] { return host_receive(dst, flags); });
  if (got && connecting_.load(std::memory_order_relaxed)) note_connected(ctx);
  return got;
}

Result<RecvResult> InetSocket::host_receive(vfs::IoBuffer& dst, uint32_t flags) {
  RecvResult result;
  sockaddr_storage from{};
  uint8_t control[kMaxControl];
  msghdr m{};
  m.msg_name = &from;
  m.msg_namelen = sizeof from;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  const uint32_t host_flags = (flags & kHostMessageFlags & ~uint32_t{kMsgMore | kMsgConfirm | kMsgDontRoute}) | kMsgDontWait;
  auto receive_vectors = [&](iovec* v, size_t n, uint32_t extra) -> Result<size_t> {
    m.msg_iov = v;
    m.msg_iovlen = n;
    const ssize_t got = recvmsg(fd_.get(), &m, static_cast<int>(host_flags | extra));
    return got >= 0 ? Result<size_t>(static_cast<size_t>(got)) : host_failure();
  };
  const bool in_place = type() == kSockStream && (flags & (kMsgTrunc | kMsgErrQueue | kMsgPeek)) == 0;
  if (in_place && dst.remaining() != 0) {
    // A buffer gives one piece at a time. The next one is asked for only when it cannot end in an error, which would be lost.
    for (bool filled = true; filled && dst.remaining() != 0;) {
      const Result<size_t> got =
          dst.with_segments(dst.remaining(), memory::Access::kWrite, [&](std::span<const memory::HostSegment> segments) {
            iovec v[kMaxSegments];
            const size_t n = fill_vectors(segments, v);
            Result<size_t> r = receive_vectors(v, n, 0);
            size_t asked = 0;
            for (size_t i = 0; i < n; ++i) asked += v[i].iov_len;
            filled = r && *r == asked && m.msg_controllen == 0 && dst.remaining() != asked && more_at_once();
            return r;
          });
      if (!got && result.bytes == 0) return err(got.error());
      if (!got) break;
      result.bytes += *got;
    }
  } else {
    std::vector<uint8_t> bytes(std::min(dst.remaining(), kMaxDatagram));
    iovec v{bytes.data(), bytes.size()};
    const size_t full = TRY(receive_vectors(&v, 1, type() == kSockDgram ? uint32_t{kMsgTrunc} : 0u));
    const size_t n = std::min(full, bytes.size());
    const bool discards = type() == kSockStream && (flags & kMsgTrunc) != 0;
    if (discards) dst.truncate(dst.remaining() - n);
    if (n != 0 && !discards && TRY(dst.put(bytes.data(), n)) < n) return err(kEFAULT);
    result.bytes = (flags & kMsgTrunc) != 0 ? full : n;
  }
  result.flags = static_cast<uint32_t>(m.msg_flags) & (kMsgOob | kMsgTrunc | kMsgCtrunc | kMsgErrQueue | kMsgEor);
  result.from = from_host(from, m.msg_namelen);
  result.control.protocol.assign(control, control + m.msg_controllen);
  return result;
}

InetListing InetSocket::listing() {
  InetListing l{family(), type(), protocol(), {}, {}, 7, 0, 0, uid_, inode_number()};
  sockaddr_storage s{};
  socklen_t n = sizeof s;
  if (getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&s), &n) == 0) l.local = from_host(s, n);
  n = sizeof s;
  if (getpeername(fd_.get(), reinterpret_cast<sockaddr*>(&s), &n) == 0) {
    l.peer = from_host(s, n);
    l.state = 1;
  }
  if (type() == kSockStream) {
    tcp_info info{};
    n = sizeof info;
    if (getsockopt(fd_.get(), IPPROTO_TCP, TCP_INFO, &info, &n) == 0) l.state = info.tcpi_state;
    if (l.state == 10) return l;
  }
  l.receive_queue = static_cast<uint32_t>(readable_bytes().value_or(0));
  l.send_queue = static_cast<uint32_t>(unsent_bytes().value_or(0));
  return l;
}

// A socket of our own for the interface ioctls.
int control_socket() {
  static const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP);
  return fd;
}

Result<int64_t> interface_list(vfs::OpContext& ctx, uint64_t arg) {
  struct GuestIfConf {
    int32_t length;
    uint32_t pad0;
    uint64_t buffer;
  } request;
  TRY(ctx.user_memory().copy_in(&request, abi::Addr(arg), sizeof request));
  std::vector<uint8_t> bytes(64 * sizeof(ifreq));
  ifconf host{};
  host.ifc_len = static_cast<int>(bytes.size());
  host.ifc_buf = reinterpret_cast<char*>(bytes.data());
  if (::ioctl(control_socket(), SIOCGIFCONF, &host) != 0) return host_failure();
  int32_t length = host.ifc_len;
  if (request.buffer != 0) {
    if (request.length < 0) return err(kEINVAL);
    length = std::min(length, request.length / static_cast<int32_t>(sizeof(ifreq)) * static_cast<int32_t>(sizeof(ifreq)));
    if (length > 0) TRY(ctx.user_memory().copy_out(abi::Addr(request.buffer), bytes.data(), static_cast<size_t>(length)));
  }
  TRY(ctx.user_memory().copy_out(abi::Addr(arg), &length, sizeof length));
  return 0;
}

}  // namespace

Result<int64_t> interface_ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) {
  switch (request) {
    case SIOCGIFCONF: return interface_list(ctx, arg);
    case SIOCGIFNAME: case SIOCGIFFLAGS: case SIOCGIFADDR: case SIOCGIFDSTADDR: case SIOCGIFBRDADDR: case SIOCGIFNETMASK:
    case SIOCGIFMETRIC: case SIOCGIFMTU: case SIOCGIFHWADDR: case SIOCGIFINDEX: case SIOCGIFTXQLEN: break;
    default: return err(kENOTTY);
  }
  ifreq r;
  static_assert(sizeof r == 40);
  TRY(ctx.user_memory().copy_in(&r, abi::Addr(arg), sizeof r));
  r.ifr_name[IFNAMSIZ - 1] = '\0';
  if (::ioctl(control_socket(), request, &r) != 0) return host_failure();
  TRY(ctx.user_memory().copy_out(abi::Addr(arg), &r, sizeof r));
  return 0;
}

Result<RefPtr<Socket>> create_inet_socket(vfs::OpContext& ctx, int32_t family, int32_t type, int32_t protocol,
                                          uint32_t status_flags) {
  if (protocol < 0 || protocol > 255) return err(kEINVAL);
  if (type == kSockRaw || type == 10) return err(kEPERM);
  if (type == kSockStream) {
    if (protocol != 0 && protocol != IPPROTO_TCP) return err(kEPROTONOSUPPORT);
    protocol = IPPROTO_TCP;
  } else if (type == kSockDgram) {
    if (protocol == 0) protocol = 17;
    const int32_t icmp = family == kAfInet ? 1 : 58;
    if (protocol != 17 && protocol != icmp) return err(kEPROTONOSUPPORT);
  } else {
    return err(kESOCKTNOSUPPORT);
  }
  if (!ctx.task()) return err(kEPERM);
  base::UniqueFd fd(socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
  if (!fd) return host_failure();
  return RefPtr<Socket>(base::make_ref<InetSocket>(std::move(fd), family, type, protocol, status_flags, ctx.creds(),
                                                   ctx.task()->kernel().reactor()));
}

std::vector<InetListing> list_inet_sockets() {
  std::vector<RefPtr<InetSocket>> sockets;
  {
    base::MutexLock lock(registry().mu);
    for (InetSocket* s : registry().sockets)
      if (s->try_ref()) sockets.push_back(RefPtr<InetSocket>::adopt(s));
  }
  std::vector<InetListing> out;
  for (const RefPtr<InetSocket>& s : sockets) {
    InetListing l = s->listing();
    out.push_back(std::move(l));
  }
  return out;
}

}  // namespace sentry::net
