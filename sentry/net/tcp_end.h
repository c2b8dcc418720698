// SPDX-License-Identifier: Apache-2.0
// TcpEnd: one end of a host socket, and what makes two of them a pair. When both ends of a TCP connection are sockets of
// this sandbox, its bytes go from one to the other through rings in the sentry; the host's connection stays open below
// and does everything that is not plain bytes (docs/decisions/0032-tcp-inside-the-sentry.md).
//
// One direction of a pair is a stream in three parts: what the host had carried before (moved to the ring when the pair is
// made), the ring, and, once the writer has left it for good, the host again. The writer leaves before anything that must
// come after the bytes of the ring: urgent data, its end, a peer that does not read the ring any more. So ends, resets and
// the state of the connection are always the host's own.
//
// Locks: read_lock_, write_lock_ (sleeping; of two ends in the order of their addresses) -> registry (kLeaf).
// Notification: host_queue_ (kPipe) -> queue_ (kWaitQueue).
#pragma once

#include <array>
#include <atomic>

#include "base/core/function_ref.h"
#include "sentry/net/socket.h"
#include "sentry/net/stream_buffer.h"
#include "sentry/vfs/shared_stream.h"
#include "sentry/vfs/sleep_lock.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::net {

// The addresses of a connection as one end sees them. IPv4 is as IPv6 maps it, so that both ends look alike.
struct TcpConnection {
  struct Address {
    std::array<uint8_t, 16> bytes{};
    uint32_t scope = 0;
    uint16_t port = 0, pad0 = 0;
    friend bool operator==(const Address&, const Address&) = default;
  };
  Address local, peer;
  friend bool operator==(const TcpConnection&, const TcpConnection&) = default;
};

class TcpEnd final : public base::RefCounted {
 public:
  // `host_fd` is open until close(), and `owner`, which holds this end, until close() has returned.
  TcpEnd(int host_fd, Socket& owner);
  ~TcpEnd() override;

  vfs::WaitQueue& queue() { return queue_; }            // the guest's
  vfs::WaitQueue& host_queue() { return host_queue_; }  // the reactor's

  // The connection is there: remembers it, and pairs it when its other end is known too.
  void connected(vfs::OpContext& ctx, const SocketAddress& local, const SocketAddress& peer);
  void accepted_from(const TcpEnd& listener);
  // Bytes stay on the host from now on, as far as they are not on their way yet: the host adds something to them.
  void use_host();
  void set_low_water(int32_t bytes);
  int32_t low_water() const { return low_water_.load(std::memory_order_relaxed); }

  // `host` does the same with the host's socket, without blocking.
  using HostSend = base::FunctionRef<base::Result<size_t>()>;
  using HostReceive = base::FunctionRef<base::Result<RecvResult>()>;
  base::Result<size_t> send(vfs::OpContext& ctx, vfs::IoBuffer& src, uint32_t flags, HostSend host);
  base::Result<RecvResult> receive(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags, HostReceive host);
  vfs::PollMask readiness(vfs::PollMask interest);
  base::Result<void> shutdown(vfs::OpContext& ctx, int32_t how);
  // connect(2) with AF_UNSPEC, which `host` does.
  base::Result<void> disconnect(vfs::OpContext& ctx, base::FunctionRef<base::Result<void>()> host);
  base::Result<int32_t> readable_bytes();
  base::Result<int32_t> at_mark();
  // What stubs may work on (vfs/in_place.h), made at the first call; EOPNOTSUPP while the two are no pair.
  base::Result<vfs::InPlaceEnd*> share(vfs::OpContext& ctx, memory::MemoryFile& memory);
  const vfs::SharedHandle& shared() const { return shared_; }
  // No operation is under way. What is unread makes the host send a reset when its socket is closed after this.
  void close();
  // After the host's socket was closed.
  void tell_peer_of_close();

 private:
  friend class TcpEndRegistry;
  // Passes on what the host tells, except that there are bytes or room, which in a pair the rings decide.
  struct HostEvents final : vfs::Waiter {
    explicit HostEvents(TcpEnd& e) : end(e) {}
    void notify(vfs::PollMask events) override;
    TcpEnd& end;
  };

  // Null: this end works with the host alone.
  TcpEnd* peer() const { return detached_.load(std::memory_order_acquire) ? nullptr : peer_.load(std::memory_order_acquire); }
  void try_pair(vfs::OpContext& ctx);
  void make_pair_locked(vfs::OpContext& ctx, TcpEnd& other);
  size_t bytes_on_host(const TcpEnd& from) const { return static_cast<size_t>(from.host_sent_ - host_received_); }
  bool all_arrived(const TcpEnd& from) const;
  bool has_odd_state() const;
  vfs::SharedStream::Side shared_side() { return {&input_.shared(), input_.has_own(), queue_}; }
  // Something happened that stubs do not understand.
  void leave_to_sentry(TcpEnd* peer);
  void mark_odd(TcpEnd* peer);
  void take_from_host(vfs::OpContext& ctx, size_t bytes);
  void look_at_host();
  bool must_leave(const TcpEnd& peer, uint32_t flags) const;
  void leave(TcpEnd& peer);
  void detach(TcpEnd& peer);
  base::Result<size_t> send_ring(vfs::OpContext& ctx, TcpEnd& peer, vfs::IoBuffer& src);
  base::Result<RecvResult> receive_locked(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags, HostReceive host);
  base::Result<RecvResult> receive_ring(vfs::OpContext& ctx, TcpEnd& peer, vfs::IoBuffer& dst, uint32_t flags, size_t used);
  base::Result<RecvResult> end_of_input();

  const int fd_;
  Socket& owner_;
  vfs::WaitQueue queue_;
  vfs::WaitQueue host_queue_{base::LockRank::kPipe};
  HostEvents host_events_{*this};
  vfs::SleepLock read_lock_, write_lock_;

  TcpConnection connection_;  // of the registry, under its lock
  bool registered_ = false;

  vfs::SharedHandle shared_;
  StreamBuffer input_;            // what the peer wrote, under its write_lock_
  uint64_t host_sent_ = 0;        // through the host before the pair was made; under write_lock_
  bool host_was_full_ = false;    // under write_lock_
  uint64_t host_received_ = 0;    // under read_lock_
  uint32_t pair_attempts_ = 0;    // under read_lock_
  base::RefPtr<TcpEnd> peer_ref_;  // of peer_, until close()
  std::atomic<TcpEnd*> peer_{nullptr};  // set once, under all four locks; not used after close()

  std::atomic<int32_t> low_water_{1};        // SO_RCVLOWAT
  std::atomic<bool> may_pair_later_{false};  // the other end was found, but bytes were on their way
  // Each of these goes from false to true once, so looking at them takes no lock.
  std::atomic<bool> left_{false};        // what this end writes goes through the host again; set under write_lock_
  std::atomic<bool> wants_host_{false};  // the peer is to leave the ring
  std::atomic<bool> detached_{false};    // this end was closed or disconnected: nobody reads input_
  std::atomic<bool> ask_host_{false};    // the host may have an end, an error, urgent data or bytes behind those of the ring
  std::atomic<bool> read_shut_{false};
  std::atomic<bool> host_only_{false};   // never a pair
};

}  // namespace sentry::net
