// SPDX-License-Identifier: Apache-2.0
// AF_UNIX: unix(7). Entirely inside the sentry.
//
// UnixCore is the socket itself; UnixSocket the open file that leads to it. A core owns what it may receive: a byte ring
// (stream) or a queue of messages. Connected cores hold each other until one closes.
//
// Locks: read_lock / write_lock (sleeping) -> mu_ (kSocket) -> peer's mu_ (kSocketPeer never needed: one at a time).
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "sentry/net/socket.h"
#include "sentry/net/stream_buffer.h"
#include "sentry/vfs/shared_stream.h"
#include "sentry/vfs/sleep_lock.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::net {

class UnixCore final : public base::RefCounted {
 public:
  explicit UnixCore(int32_t type);
  ~UnixCore() override;

  int32_t type() const { return type_; }
  vfs::WaitQueue& queue() { return queue_; }
  vfs::WaitQueue& space_queue() { return space_queue_; }
  static void connect_pair(UnixCore& a, UnixCore& b, const PeerCred& cred);

  base::Result<void> bind(vfs::OpContext& ctx, const SocketAddress& address);
  base::Result<void> autobind(vfs::OpContext& ctx);
  base::Result<void> listen(vfs::OpContext& ctx, int32_t backlog);
  base::Result<base::RefPtr<UnixCore>> try_accept();
  // Streams: kEAGAIN when the backlog is full (then wait on space_queue() of `target`).
  base::Result<void> try_connect_stream(vfs::OpContext& ctx, UnixCore& target, const PeerCred& cred);
  base::Result<void> connect_datagram(UnixCore* target);  // null: forget the peer
  base::Result<size_t> send_stream(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args);
  base::Result<size_t> send_message(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args, size_t max_bytes);
  base::Result<RecvResult> receive_stream(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags);
  base::Result<RecvResult> receive_message(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags);
  base::Result<void> shutdown(vfs::OpContext& ctx, int32_t how);
  void close();

  // What stubs may work on, made at the first call; EOPNOTSUPP where that cannot be. Null until then.
  base::Result<vfs::InPlaceEnd*> share_stream(vfs::OpContext& ctx, memory::MemoryFile& memory);
  const vfs::SharedHandle& shared() const { return shared_; }
  void leave_to_sentry();  // something happened that stubs do not understand

  vfs::PollMask readiness();
  SocketAddress name() const;
  bool is_listening() const;
  base::Result<SocketAddress> peer_name() const;
  base::Result<PeerCred> peer_cred() const;
  base::RefPtr<UnixCore> peer() const;
  int32_t take_error() { return error_.exchange(0); }
  int32_t readable_bytes() const;
  int32_t unsent_bytes() const;
  std::atomic<bool> pass_cred{false};
  uint64_t inode_number = 0;  // of the open file, for /proc/net/unix; set before the core is reachable

  // For /proc/net/unix.
  struct Listing {
    uint64_t inode;
    int32_t type;
    bool listening, connected;
    std::string name;
  };
  static std::vector<Listing> list();

 private:
  struct Record {  // ancillary data of ring bytes [begin, end)
    uint64_t begin, end;
    Ancillary control;
  };
  struct Message {
    std::vector<uint8_t> bytes;
    Ancillary control;
    SocketAddress from;
  };
  enum class State : uint8_t { kNew, kListening, kConnected, kClosed };

  base::Result<base::RefPtr<UnixCore>> datagram_target(vfs::OpContext& ctx, const SendArgs& args);
  size_t readable_limit(uint64_t tail, uint64_t head);
  Ancillary take_stream_control(uint64_t tail, bool peek);
  base::Result<void> add_record(uint64_t begin, uint64_t end, Ancillary control);
  void room_made(UnixCore* sender);
  void end_of_peer(bool with_reset);
  bool has_odd_state() const;
  vfs::SharedStream::Side shared_side() { return {&input_.shared(), input_.has_own(), queue_}; }
  bool has_input_end() const { return receive_shut_.load(std::memory_order_acquire); }
  bool is_full() const;

  const int32_t type_;
  vfs::WaitQueue queue_;
  vfs::WaitQueue space_queue_{base::LockRank::kPipe};  // senders and connectors that wait for room here
  vfs::SleepLock read_lock_, write_lock_;

  StreamBuffer input_;  // of streams: what the peer wrote, under its write_lock_
  vfs::SharedHandle shared_;
  std::atomic<uint32_t> record_count_{0};  // so that streams without ancillary data take no lock
  std::atomic<bool> receive_shut_{false}, send_shut_{false};
  std::atomic<int32_t> error_{0};
  std::atomic<uint32_t> message_count_{0};
  std::atomic<size_t> message_bytes_{0};
  std::atomic<bool> closed_{false};

  mutable base::Mutex mu_{base::LockRank::kSocket};
  State state_ GUARDED_BY(mu_) = State::kNew;
  std::atomic<uint8_t> state_hint_{0};  // state_, for readiness()
  std::deque<Record> records_ GUARDED_BY(mu_);
  std::deque<Message> messages_ GUARDED_BY(mu_);
  std::deque<base::RefPtr<UnixCore>> backlog_ GUARDED_BY(mu_);
  std::atomic<uint32_t> backlog_count_{0};
  uint32_t backlog_max_ GUARDED_BY(mu_) = 0;
  base::RefPtr<UnixCore> peer_ GUARDED_BY(mu_);
  // peer_ of a connected stream or seqpacket socket: it stays until close(), when no operation is under way.
  std::atomic<UnixCore*> stream_peer_{nullptr};
  // Connected datagram senders that found this queue full: told when there is room.
  std::vector<base::WeakRef<UnixCore>> blocked_senders_ GUARDED_BY(mu_);
  SocketAddress name_ GUARDED_BY(mu_);
  vfs::Path bound_path_ GUARDED_BY(mu_);
  std::string abstract_key_ GUARDED_BY(mu_);
  PeerCred peer_cred_ GUARDED_BY(mu_);
  bool has_peer_cred_ GUARDED_BY(mu_) = false;
  void set_state_locked(State s) REQUIRES(mu_) {
    state_ = s;
    state_hint_.store(static_cast<uint8_t>(s), std::memory_order_release);
  }
};

base::Result<base::RefPtr<Socket>> create_unix_socket(vfs::OpContext& ctx, int32_t type, int32_t protocol, uint32_t status_flags);
struct SocketPair {
  base::RefPtr<Socket> first, second;
};
base::Result<SocketPair> create_unix_pair(vfs::OpContext& ctx, int32_t type, int32_t protocol, uint32_t status_flags);

}  // namespace sentry::net
