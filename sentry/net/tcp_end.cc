// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/tcp_end.h"

#include <algorithm>
#include <cerrno>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unordered_map>

#include "base/host/host_error.h"
#include "sentry/vfs/io_buffer.h"

namespace sentry::net {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr uint32_t kMaxPairAttempts = 64;
constexpr vfs::PollMask kHostAlone = vfs::kPollErr | vfs::kPollHup | vfs::kPollRdHup | vfs::kPollPri | vfs::kPollRdBand;
constexpr vfs::PollMask kReadable = vfs::kPollIn | vfs::kPollRdNorm, kWritable = vfs::kPollOut | vfs::kPollWrNorm;

Result<int32_t> ask_queue(int fd, unsigned long request) {
  int32_t value = 0;
  if (::ioctl(fd, request, &value) != 0) return err(base::guest_errno_from_host(errno));
  return value;
}

vfs::PollMask host_poll(int fd, vfs::PollMask interest) {
  pollfd p{fd, static_cast<short>(interest | POLLERR | POLLHUP), 0};
  return poll(&p, 1, 0) > 0 ? static_cast<uint16_t>(p.revents) : 0;
}

bool is_established(int fd) {
  tcp_info info{};
  socklen_t n = sizeof info;
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 && info.tcpi_state == TCP_ESTABLISHED;
}

TcpConnection::Address address_of(const SocketAddress& a) {
  TcpConnection::Address out;
  std::memcpy(&out.port, a.bytes.data() + offsetof(sockaddr_in, sin_port), sizeof out.port);
  if (a.family() == kAfInet) {
    out.bytes[10] = out.bytes[11] = 0xff;
    std::memcpy(out.bytes.data() + 12, a.bytes.data() + offsetof(sockaddr_in, sin_addr), 4);
  } else {
    std::memcpy(out.bytes.data(), a.bytes.data() + offsetof(sockaddr_in6, sin6_addr), 16);
    std::memcpy(&out.scope, a.bytes.data() + offsetof(sockaddr_in6, sin6_scope_id), 4);
  }
  return out;
}

struct ConnectionHash {
  size_t operator()(const TcpConnection& c) const {
    static_assert(sizeof c == 48);
    uint64_t words[sizeof c / 8], h = 0;
    std::memcpy(words, &c, sizeof c);
    for (const uint64_t w : words) {
      h = (h ^ w) * 0x9e3779b97f4a7c15u;
      h ^= h >> 29;
    }
    return h;
  }
};

}  // namespace

// DIVERGES: for a TCP connection with both ends in the sandbox, TCP_INFO's counters, the traffic of `lo` and the delays of TCP_CORK and MSG_MORE are not those of its bytes, which go past the host.
//
// The connected ends of the sandbox. Their host sockets are all in one network namespace, where no two connections have
// the same addresses and ports: two ends that mirror each other and are both established are one connection.
class TcpEndRegistry {
 public:
  struct Found {
    RefPtr<Socket> owner;  // keeps the descriptor open
    TcpEnd* end = nullptr;
  };
  void add(TcpEnd& end, const TcpConnection& connection) {
    base::MutexLock lock(mu_);
    forget_locked(end);
    end.connection_ = connection;
    end.registered_ = true;
    ends_.insert_or_assign(connection, &end);
  }
  void forget(TcpEnd& end) {
    base::MutexLock lock(mu_);
    forget_locked(end);
  }
  Found other_end(const TcpEnd& end) {
    base::MutexLock lock(mu_);
    if (!end.registered_) return {};
    const auto it = ends_.find({end.connection_.peer, end.connection_.local});
    if (it == ends_.end() || it->second == &end || !it->second->owner_.try_ref()) return {};
    return {RefPtr<Socket>::adopt(&it->second->owner_), it->second};
  }

 private:
  void forget_locked(TcpEnd& end) REQUIRES(mu_) {
    if (!end.registered_) return;
    end.registered_ = false;
    const auto it = ends_.find(end.connection_);
    if (it != ends_.end() && it->second == &end) ends_.erase(it);
  }
  base::Mutex mu_{base::LockRank::kLeaf};
  std::unordered_map<TcpConnection, TcpEnd*, ConnectionHash> ends_ GUARDED_BY(mu_);
};

namespace {
TcpEndRegistry& registry() {
  static TcpEndRegistry r;
  return r;
}
}  // namespace

TcpEnd::TcpEnd(int host_fd, Socket& owner) : fd_(host_fd), owner_(owner) { host_queue_.add(host_events_, vfs::kPollAll); }

TcpEnd::~TcpEnd() { host_queue_.remove(host_events_); }

void TcpEnd::HostEvents::notify(vfs::PollMask events) {
  if (end.peer()) {
    if (events & kHostAlone) end.look_at_host();
    if (!end.ask_host_.load(std::memory_order_acquire)) return;
  }
  end.queue_.notify(events);
}

// An event may be an old one: a socket that is not connected yet is one that hung up.
void TcpEnd::look_at_host() {
  if (!(host_poll(fd_, kHostAlone) & kHostAlone)) return;
  ask_host_.store(true, std::memory_order_seq_cst);
  mark_odd(peer());  // called with a lock of the host's queue; what an end of the sandbox does, it tells itself
}

// --- how a pair is made ---

void TcpEnd::accepted_from(const TcpEnd& listener) {
  low_water_.store(listener.low_water());
  host_only_.store(listener.host_only_.load());
}

void TcpEnd::use_host() {
  host_only_.store(true);
  wants_host_.store(true, std::memory_order_release);
  leave_to_sentry(peer());
}

void TcpEnd::set_low_water(int32_t bytes) {
  low_water_.store(bytes > 0 ? bytes : bytes < 0 ? INT32_MAX : 1);
  if (low_water() != 1) leave_to_sentry(peer());
}

void TcpEnd::connected(vfs::OpContext& ctx, const SocketAddress& local, const SocketAddress& peer) {
  if (host_only_.load()) return;
  registry().add(*this, {address_of(local), address_of(peer)});
  try_pair(ctx);
}

void TcpEnd::try_pair(vfs::OpContext& ctx) {
  may_pair_later_.store(false);
  if (host_only_.load() || peer_.load()) return;
  const TcpEndRegistry::Found found = registry().other_end(*this);
  if (!found.end) return;
  TcpEnd& other = *found.end;
  TcpEnd& first = std::less<TcpEnd*>()(this, &other) ? *this : other;
  TcpEnd& second = &first == this ? other : *this;
  vfs::SleepGuard read1(ctx, first.read_lock_), write1(ctx, first.write_lock_);
  vfs::SleepGuard read2(ctx, second.read_lock_), write2(ctx, second.write_lock_);
  if (peer_.load() || other.peer_.load() || host_only_.load() || other.host_only_.load()) return;
  if (!is_established(fd_) || !is_established(other.fd_)) return;
  if (!all_arrived(other) || !other.all_arrived(*this)) {
    for (TcpEnd* end : {this, &other}) end->may_pair_later_.store(end->pair_attempts_++ < kMaxPairAttempts);
    return;
  }
  make_pair_locked(ctx, other);
}

bool TcpEnd::all_arrived(const TcpEnd& from) const {
  const size_t bytes = bytes_on_host(from);
  return bytes <= StreamBuffer::kSize && ask_queue(fd_, FIONREAD).value_or(-1) == static_cast<int32_t>(bytes);
}

void TcpEnd::make_pair_locked(vfs::OpContext& ctx, TcpEnd& other) {
  const size_t mine = bytes_on_host(other), theirs = other.bytes_on_host(*this);
  take_from_host(ctx, mine);
  other.take_from_host(ctx, theirs);
  peer_ref_ = RefPtr<TcpEnd>(other);
  other.peer_ref_ = RefPtr<TcpEnd>(this);
  peer_.store(&other, std::memory_order_release);
  other.peer_.store(this, std::memory_order_release);
  other.may_pair_later_.store(false);
  // What happened to the connection before there was a pair to tell of it.
  look_at_host();
  other.look_at_host();
  // One that was told of bytes or waits for room at the host finds them here now.
  if (mine != 0 || host_was_full_) queue_.notify((mine != 0 ? kReadable : 0) | (host_was_full_ ? kWritable : 0));
  if (theirs != 0 || other.host_was_full_)
    other.queue_.notify((theirs != 0 ? kReadable : 0) | (other.host_was_full_ ? kWritable : 0));
}

// Both directions are held, so what is there stays there until it is taken here.
void TcpEnd::take_from_host(vfs::OpContext& ctx, size_t bytes) {
  std::vector<uint8_t> copy(bytes);
  size_t done = 0;
  while (done < bytes) {
    iovec v{copy.data() + done, bytes - done};
    msghdr m{};
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    const ssize_t got = recvmsg(fd_, &m, MSG_DONTWAIT);
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  if (done == 0) return;
  vfs::KernelIoBuffer source({copy.data(), done});
  if (input_.put(ctx, source, StreamBuffer::Lane::kAny)) input_.publish();
}

// --- bytes ---

// Before anything that must come after the bytes of the ring, or that only the host can do.
bool TcpEnd::must_leave(const TcpEnd& peer, uint32_t flags) const {
  if ((flags & kMsgOob) != 0 || peer.wants_host_.load(std::memory_order_acquire)) return true;
  return ask_host_.load(std::memory_order_acquire) && (host_poll(fd_, 0) & (vfs::kPollErr | vfs::kPollHup)) != 0;
}

void TcpEnd::leave(TcpEnd& peer) {
  leave_to_sentry(&peer);
  left_.store(true, std::memory_order_release);
  ask_host_.store(true, std::memory_order_release);
  peer.ask_host_.store(true, std::memory_order_release);
}

Result<size_t> TcpEnd::send(vfs::OpContext& ctx, vfs::IoBuffer& src, uint32_t flags, HostSend host) {
  vfs::SleepGuard guard(ctx, write_lock_);
  TcpEnd* peer = this->peer();
  if (peer && !left_.load(std::memory_order_relaxed)) {
    if (!must_leave(*peer, flags)) return send_ring(ctx, *peer, src);
    leave(*peer);
    peer->input_.shared().settle(ctx);
  }
  if ((flags & kMsgOob) != 0) host_only_.store(true);
  const Result<size_t> done = host();
  if (done) host_sent_ += *done;
  else host_was_full_ |= done.error() == kEAGAIN;
  return done;
}

Result<size_t> TcpEnd::send_ring(vfs::OpContext& ctx, TcpEnd& peer, vfs::IoBuffer& src) {
  if (src.remaining() == 0) return size_t{0};
  const size_t done = TRY(peer.input_.put(ctx, src, StreamBuffer::Lane::kAny));
  peer.input_.publish();
  peer.queue_.notify(kReadable);  // with a fence: either close() saw the bytes, or its mark is seen here
  if (peer.detached_.load(std::memory_order_seq_cst)) {
    // Bytes for a closed socket make its host answer with a reset. Which bytes they are nobody sees.
    leave(peer);
    if ((host_poll(fd_, 0) & (vfs::kPollErr | vfs::kPollHup)) == 0) {
      uint8_t byte = 0;
      iovec v{&byte, 1};
      msghdr m{};
      m.msg_iov = &v;
      m.msg_iovlen = 1;
      (void)!sendmsg(fd_, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
  }
  return done;
}

Result<RecvResult> TcpEnd::receive(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags, HostReceive host) {
  for (bool tried = false;; tried = true) {
    {
      vfs::SleepGuard guard(ctx, read_lock_);
      Result<RecvResult> got = receive_locked(ctx, dst, flags, host);
      if (got || got.error() != kEAGAIN || tried || !may_pair_later_.load()) return got;
    }
    try_pair(ctx);  // may sleep, so what was seen above may not be true any more
  }
}

Result<RecvResult> TcpEnd::receive_locked(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags, HostReceive host) {
  TcpEnd* peer = this->peer();
  if (!peer || (flags & (kMsgOob | kMsgErrQueue)) != 0) {
    Result<RecvResult> got = host();
    if (got && (flags & (kMsgPeek | kMsgOob | kMsgErrQueue)) == 0) host_received_ += got->bytes;
    return got;
  }
  // In this order: once the writer has left, what the ring has is all that it will ever have.
  const bool left = peer->left_.load(std::memory_order_acquire);
  const size_t used = input_.used();
  if (used == 0) return left ? host() : end_of_input();
  RecvResult result = TRY(receive_ring(ctx, *peer, dst, flags, used));
  if (!left || result.bytes < used || dst.remaining() == 0) return result;
  if (ask_queue(fd_, FIONREAD).value_or(0) <= 0 || ask_queue(fd_, SIOCATMARK).value_or(1) != 0) return result;
  Result<RecvResult> more = host();
  if (!more) return result;
  more->bytes += result.bytes;
  return more;
}

Result<RecvResult> TcpEnd::receive_ring(vfs::OpContext& ctx, TcpEnd& peer, vfs::IoBuffer& dst, uint32_t flags, size_t used) {
  RecvResult result;
  if (dst.remaining() == 0) return result;
  const StreamBuffer::Keep keep = (flags & kMsgPeek) != 0 ? StreamBuffer::Keep::kYes : StreamBuffer::Keep::kNo;
  StreamBuffer::Got got;
  if ((flags & kMsgTrunc) != 0) {  // thrown away, unseen
    std::vector<uint8_t> unseen(std::min(used, dst.remaining()));
    vfs::KernelIoBuffer sink(unseen);
    got = TRY(input_.get(ctx, sink, used, keep, StreamBuffer::Join::kYes));
    dst.truncate(dst.remaining() - got.bytes);
  } else {
    got = TRY(input_.get(ctx, dst, used, keep, StreamBuffer::Join::kYes));
  }
  result.bytes = got.bytes;
  if (got.made_room) peer.queue_.notify(kWritable);
  return result;
}

// The ring is empty and its writer has not left it, so the host has no bytes. It is not asked for any: the writer might leave
// between the question and the answer.
Result<RecvResult> TcpEnd::end_of_input() {
  if (!ask_host_.load(std::memory_order_acquire)) return err(kEAGAIN);
  const vfs::PollMask bits = host_poll(fd_, 0);
  if (bits & (vfs::kPollErr | vfs::kPollHup)) {
    int32_t error = 0;
    socklen_t n = sizeof error;
    if (getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error != 0) return err(base::guest_errno_from_host(error));
  }
  if ((bits & vfs::kPollHup) != 0 || read_shut_.load(std::memory_order_acquire)) return RecvResult{};
  return err(kEAGAIN);
}

vfs::PollMask TcpEnd::readiness(vfs::PollMask interest) {
  TcpEnd* peer = this->peer();
  if (!peer) return host_poll(fd_, interest);
  vfs::PollMask mask = 0;
  const bool left = left_.load(std::memory_order_acquire);
  if (ask_host_.load(std::memory_order_acquire)) {
    mask = host_poll(fd_, interest);
    if (!left && (mask & (vfs::kPollErr | vfs::kPollHup)) == 0) mask &= ~kWritable;
  }
  const size_t used = input_.used();
  if (used != 0 && used >= std::min<size_t>(static_cast<size_t>(low_water()), StreamBuffer::kSize)) mask |= kReadable;
  if (!left && peer->input_.is_writable()) mask |= kWritable;
  return mask;
}

Result<int32_t> TcpEnd::readable_bytes() {
  if (!peer()) return ask_queue(fd_, FIONREAD);
  const int32_t more = ask_host_.load(std::memory_order_acquire) ? ask_queue(fd_, FIONREAD).value_or(0) : 0;
  return static_cast<int32_t>(input_.used()) + more;
}

Result<int32_t> TcpEnd::at_mark() {
  if (peer() && !input_.is_empty()) return 0;
  return ask_queue(fd_, SIOCATMARK);
}

// --- in place ---

bool TcpEnd::has_odd_state() const {
  return left_.load() || wants_host_.load() || detached_.load() || ask_host_.load() || read_shut_.load() || low_water() != 1;
}

Result<vfs::InPlaceEnd*> TcpEnd::share(vfs::OpContext& ctx, memory::MemoryFile& memory) {
  TcpEnd* peer = this->peer();
  if (!peer || has_odd_state()) return err(kEOPNOTSUPP);
  if (shared_.is_shared()) return shared_.end();  // without the peer's lock, under which it may wait for its own process
  TcpEnd& first = std::less<TcpEnd*>()(this, peer) ? *this : *peer;
  TcpEnd& second = &first == this ? *peer : *this;
  vfs::SleepGuard guard(ctx, first.write_lock_), other_guard(ctx, second.write_lock_);
  if (peer->has_odd_state()) return err(kEOPNOTSUPP);
  TRY(vfs::SharedHandle::share(memory, first.shared_, first.shared_side(), second.shared_, second.shared_side()));
  // Whoever makes it odd from now on sees that it is shared.
  if (has_odd_state() || peer->has_odd_state()) leave_to_sentry(peer);
  return shared_.end();
}

void TcpEnd::mark_odd(TcpEnd* peer) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  input_.shared().set_odd();
  if (peer) peer->input_.shared().set_odd();
}

void TcpEnd::leave_to_sentry(TcpEnd* peer) {
  mark_odd(peer);
  shared_.retire();
}

// --- ends ---

Result<void> TcpEnd::shutdown(vfs::OpContext& ctx, int32_t how) {
  vfs::SleepGuard guard(ctx, write_lock_);
  TcpEnd* peer = this->peer();
  if (peer && how != SHUT_RD) leave(*peer);
  if (::shutdown(fd_, how) != 0) return err(base::guest_errno_from_host(errno));
  if (how != SHUT_WR) read_shut_.store(true, std::memory_order_release);
  ask_host_.store(true, std::memory_order_seq_cst);
  leave_to_sentry(peer);
  if (peer && how != SHUT_RD) peer->input_.shared().settle(ctx);
  queue_.notify(vfs::kPollAll);
  if (peer) peer->queue_.notify(vfs::kPollAll);
  return {};
}

void TcpEnd::detach(TcpEnd& peer) {
  wants_host_.store(true, std::memory_order_release);
  leave(peer);
  detached_.store(true, std::memory_order_seq_cst);
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

Result<void> TcpEnd::disconnect(vfs::OpContext& ctx, base::FunctionRef<Result<void>()> host) {
  vfs::SleepGuard read(ctx, read_lock_), write(ctx, write_lock_);
  registry().forget(*this);
  host_only_.store(true);
  TcpEnd* peer = this->peer();
  if (!peer) return host();
  detach(*peer);
  const Result<void> done = host();
  peer->queue_.notify(vfs::kPollAll);
  queue_.notify(vfs::kPollAll);
  return done;
}

void TcpEnd::close() {
  registry().forget(*this);
  TcpEnd* peer = this->peer();
  if (!peer) return;
  detach(*peer);
  if (input_.is_empty()) return;
  const linger reset{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

void TcpEnd::tell_peer_of_close() {
  const RefPtr<TcpEnd> peer = std::move(peer_ref_);
  if (peer) peer->queue_.notify(vfs::kPollAll);
}

}  // namespace sentry::net
