// SPDX-License-Identifier: Apache-2.0
// The part of net/socket.c and net/core/sock.c that is the same for every protocol.
#include "sentry/net/socket.h"

#include <algorithm>

#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/net/inet.h"
#include "sentry/net/netlink.h"
#include "sentry/net/unix.h"

namespace sentry::net {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

const char Socket::kTag = 0;

namespace {

constexpr int32_t kMinSendBuffer = 4608, kMinReceiveBuffer = 2304, kMaxBuffer = 212992;

struct TimeVal {
  int64_t sec, usec;
};

// sock_set_timeout(): EDOM for a bad fraction; negative means none at all (polls once).
Result<int64_t> timeout_from(std::span<const uint8_t> value) {
  TimeVal tv;
  if (value.size() < sizeof tv) return err(kEINVAL);
  std::memcpy(&tv, value.data(), sizeof tv);
  if (tv.usec < 0 || tv.usec >= 1'000'000) return err(kEDOM);
  if (tv.sec < 0) return int64_t{1};
  if (tv.sec > INT64_MAX / 2'000'000'000) return int64_t{0};
  return tv.sec * 1'000'000'000 + tv.usec * 1000;
}

bool is_flag_option(int32_t name) {
  switch (name) {
    case kSoDebug: case kSoReuseAddr: case kSoDontRoute: case kSoBroadcast: case kSoKeepAlive: case kSoOobInline:
    case kSoReusePort: case kSoTimestamp: case kSoPassSec: case kSoRxqOvfl: return true;
    default: return false;
  }
}

uint32_t option_bit(int32_t name) {
  if (name == kSoRxqOvfl) return 1u << 31;
  if (name == kSoPassSec) return 1u << 30;
  return 1u << (name & 31);
}

std::atomic<uint64_t> next_cookie{1};

}  // namespace

PeerCred cred_of(const vfs::OpContext& ctx) {
  const creds::Credentials& c = ctx.creds();
  return {ctx.owner_pid().value(), c.euid, c.egid};
}

Result<size_t> put_option(std::span<uint8_t> out, const void* value, size_t n) {
  n = std::min(n, out.size());
  std::memcpy(out.data(), value, n);
  return n;
}

Result<int32_t> int_option(std::span<const uint8_t> value) {
  int32_t v;
  if (value.size() < sizeof v) return err(kEINVAL);
  std::memcpy(&v, value.data(), sizeof v);
  return v;
}

Socket::Socket(int32_t family, int32_t type, int32_t protocol, uint32_t status_flags, const creds::Credentials& owner)
    : FileDescription(vfs::make_anonymous_path("socket:", abi::kS_IFSOCK | 0777, owner),
                      vfs::kO_RDWR | (status_flags & vfs::kO_NONBLOCK)),
      family_(family), type_(type), protocol_(protocol),
      cookie_(next_cookie.fetch_add(1, std::memory_order_relaxed)) {}

Result<RefPtr<Socket>> Socket::accept(vfs::OpContext& ctx, uint32_t status_flags, SocketAddress* peer) {
  Result<RefPtr<Socket>> made = try_accept(ctx, status_flags, peer);
  if (!made && made.error() == kEAGAIN && !is_nonblocking())
    made = wait_for<RefPtr<Socket>>(ctx, *wait_queue(), vfs::kPollIn, receive_timeout_ns_.load(),
                                    [&] { return try_accept(ctx, status_flags, peer); });
  if (made) (*made)->note_inode_number(ctx);
  return made;
}

Result<size_t> Socket::send(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args) {
  const bool nonblocking = is_nonblocking() || (args.flags & kMsgDontWait) != 0;
  size_t done = 0;
  Result<size_t> sent = try_send(ctx, src, args);
  // A stream sends all that it was given, unless it may not wait; datagrams go at once or not at all.
  for (;;) {
    if (!sent && sent.error() == kEAGAIN && !nonblocking) {
      sent = wait_for<size_t>(ctx, send_queue(args), vfs::kPollOut, send_timeout_ns_.load(),
                              [&] { return try_send(ctx, src, args); });
    }
    if (!sent) break;
    done += *sent;
    if (type_ != kSockStream || src.remaining() == 0 || *sent == 0) return done;
    sent = try_send(ctx, src, args);
  }
  if (done != 0) return done;
  if (sent.error() == kEPIPE && type_ != kSockDgram && (args.flags & kMsgNoSignal) == 0) ctx.raise(abi::Signo(13));
  return sent;
}

// tcp_recvmsg_locked(): a peek that wants all waits for all to be there.
Result<void> Socket::wait_to_peek_all(vfs::OpContext& ctx, size_t bytes) {
  constexpr vfs::PollMask kEnds = vfs::kPollRdHup | vfs::kPollHup | vfs::kPollErr;
  const Result<void> done = wait_for<void>(ctx, *wait_queue(), vfs::kPollIn | kEnds, receive_timeout_ns_.load(), [&]() -> Result<void> {
    const bool ready = static_cast<size_t>(readable_bytes().value_or(INT32_MAX)) >= bytes || (readiness(kEnds) & kEnds) != 0;
    return ready ? Result<void>{} : err(kEAGAIN);
  });
  return done || readable_bytes().value_or(0) > 0 ? Result<void>{} : done;
}

Result<RecvResult> Socket::receive(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags) {
  const bool nonblocking = is_nonblocking() || (flags & (kMsgDontWait | kMsgErrQueue)) != 0;
  constexpr uint32_t kPeekAll = kMsgPeek | kMsgWaitAll;
  if (protocol_ == kProtocolTcp && !nonblocking && (flags & kPeekAll) == kPeekAll && (flags & kMsgOob) == 0)
    TRY(wait_to_peek_all(ctx, dst.remaining()));
  auto once = [&]() -> Result<RecvResult> {
    Result<RecvResult> got = try_receive(ctx, dst, flags);
    if (got || got.error() != kEAGAIN || nonblocking) return got;
    return wait_for<RecvResult>(ctx, *wait_queue(), vfs::kPollIn | vfs::kPollRdHup | vfs::kPollPri,
                                receive_timeout_ns_.load(), [&] { return try_receive(ctx, dst, flags); });
  };
  RecvResult result = TRY(once());
  if (type_ != kSockStream || (flags & kMsgPeek) != 0 || result.bytes == 0) return result;
  const size_t target = (flags & kMsgWaitAll) != 0 ? SIZE_MAX : nonblocking ? 0 : low_water();
  while (dst.remaining() != 0 && result.control.empty() && result.bytes < target) {
    Result<RecvResult> more = once();
    if (!more || more->bytes == 0) break;
    result.bytes += more->bytes;
    result.control = std::move(more->control);
  }
  return result;
}

Result<size_t> Socket::read(vfs::OpContext& ctx, vfs::IoBuffer& dst) {
  if (dst.remaining() == 0) return size_t{0};
  return TRY(receive(ctx, dst, 0)).bytes;
}

Result<size_t> Socket::write(vfs::OpContext& ctx, vfs::IoBuffer& src) {
  SendArgs args;
  return send(ctx, src, args);
}

Result<int64_t> Socket::ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) {
  constexpr uint32_t kFionread = 0x541b, kTiocoutq = 0x5411;
  int32_t value;
  if (request == kFionread) value = TRY(readable_bytes());
  else if (request == kTiocoutq) value = TRY(unsent_bytes());
  else return interface_ioctl(ctx, request, arg);
  TRY(ctx.user_memory().copy_out(abi::Addr(arg), &value, sizeof value));
  return 0;
}

Result<size_t> Socket::get_option(vfs::OpContext&, int32_t level, int32_t name, std::span<uint8_t> out) {
  if (level != kSolSocket) return err(kEOPNOTSUPP);
  int32_t value = 0;
  switch (name) {
    case kSoType: value = type_; break;
    case kSoDomain: value = family_; break;
    case kSoProtocol: value = protocol_; break;
    case kSoError: value = 0; break;
    case kSoSndBuf: value = send_buffer_.load(); break;
    case kSoRcvBuf: value = receive_buffer_.load(); break;
    case kSoPassCred: value = pass_cred_.load() ? 1 : 0; break;
    case kSoRcvLowat: value = 1; break;
    case kSoSndLowat: value = 1; break;
    case kSoPriority:
    case kSoMark:
    case kSoAcceptConn:
    case kSoBusyPoll: value = 0; break;
    case kSoLinger: {
      const uint64_t linger = linger_.load();
      return put_option(out, &linger, sizeof linger);
    }
    case kSoRcvTimeo:
    case kSoSndTimeo: {
      const int64_t ns = name == kSoRcvTimeo ? receive_timeout_ns_.load() : send_timeout_ns_.load();
      const TimeVal tv{ns / 1'000'000'000, ns % 1'000'000'000 / 1000};
      return put_option(out, &tv, sizeof tv);
    }
    case kSoCookie: {
      const uint64_t cookie = cookie_;
      if (out.size() < sizeof cookie) return err(kEINVAL);
      return put_option(out, &cookie, sizeof cookie);
    }
    default:
      if (!is_flag_option(name)) return err(kENOPROTOOPT);
      value = (option_bits_.load() & option_bit(name)) != 0 ? 1 : 0;
  }
  return put_option(out, &value, sizeof value);
}

Result<void> Socket::set_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<const uint8_t> bytes) {
  if (level != kSolSocket) return err(kEOPNOTSUPP);
  if (name == kSoRcvTimeo || name == kSoSndTimeo) {
    (name == kSoRcvTimeo ? receive_timeout_ns_ : send_timeout_ns_).store(TRY(timeout_from(bytes)));
    return {};
  }
  const int32_t value = TRY(int_option(bytes));
  switch (name) {
    case kSoPassCred: pass_cred_.store(value != 0); return {};
    // The kernel keeps twice what was asked for, to account for its own overhead: socket(7).
    case kSoSndBuf:
    case kSoSndBufForce: send_buffer_.store(std::max(std::clamp(value, 0, kMaxBuffer) * 2, kMinSendBuffer)); return {};
    case kSoRcvBuf:
    case kSoRcvBufForce: receive_buffer_.store(std::max(std::clamp(value, 0, kMaxBuffer) * 2, kMinReceiveBuffer)); return {};
    case kSoLinger: {
      uint64_t linger;
      if (bytes.size() < sizeof linger) return err(kEINVAL);
      std::memcpy(&linger, bytes.data(), sizeof linger);
      linger_.store(linger);
      return {};
    }
    case kSoPriority:
      if (value < 0 || value > 6) {
        if (!ctx.creds().has_cap(creds::Cap::kNET_ADMIN)) return err(kEPERM);
      }
      return {};
    case kSoRcvLowat: return {};
    case kSoMark: return ctx.creds().has_cap(creds::Cap::kNET_ADMIN) ? Result<void>{} : err(kEPERM);
    case kSoType: case kSoDomain: case kSoProtocol: case kSoError: case kSoAcceptConn: case kSoSndLowat:
    case kSoPeerCred: return err(kENOPROTOOPT);
    default: break;
  }
  if (!is_flag_option(name)) return err(kENOPROTOOPT);
  if (value != 0) option_bits_.fetch_or(option_bit(name));
  else option_bits_.fetch_and(~option_bit(name));
  return {};
}

Result<RefPtr<Socket>> create_socket(vfs::OpContext& ctx, int32_t family, int32_t type, int32_t protocol,
                                     uint32_t status_flags) {
  if (type < 1 || type > 10) return err(kEINVAL);
  switch (family) {
    case kAfUnix: return create_unix_socket(ctx, type, protocol, status_flags);
    case kAfInet:
    case kAfInet6: {
      RefPtr<Socket> socket = TRY(create_inet_socket(ctx, family, type, protocol, status_flags));
      socket->note_inode_number(ctx);
      return socket;
    }
    case kAfNetlink: return create_netlink_socket(ctx, type, protocol, status_flags);
    default: return err(kEAFNOSUPPORT);
  }
}

const void* network_namespace_key(vfs::OpContext& ctx) {
  if (!ctx.task()) return nullptr;
  RefPtr<kernel::Namespaces> ns = ctx.task()->namespaces();
  return ns ? ns->net.get() : nullptr;
}

}  // namespace sentry::net
