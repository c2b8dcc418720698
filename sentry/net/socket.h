// SPDX-License-Identifier: Apache-2.0
// Socket: what the socket calls and the read/write family see of any protocol. Protocols: unix.h (inside the sentry), inet.h
// (host sockets of the sandbox's network namespace), netlink.h.
//
// A protocol implements try_* operations that never block and answer kEAGAIN; the waiting is here.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/vfs/file_description.h"

namespace sentry::net {

enum : int32_t { kAfUnspec = 0, kAfUnix = 1, kAfInet = 2, kAfInet6 = 10, kAfNetlink = 16 };
enum : int32_t { kSockStream = 1, kSockDgram = 2, kSockRaw = 3, kSockSeqpacket = 5 };
enum : uint32_t {
  kMsgOob = 1, kMsgPeek = 2, kMsgDontRoute = 4, kMsgCtrunc = 8, kMsgTrunc = 0x20, kMsgDontWait = 0x40, kMsgEor = 0x80,
  kMsgWaitAll = 0x100, kMsgConfirm = 0x800, kMsgErrQueue = 0x2000, kMsgNoSignal = 0x4000, kMsgMore = 0x8000,
  kMsgWaitForOne = 0x10000, kMsgCmsgCloexec = 0x40000000,
};
enum : int32_t { kProtocolTcp = 6 };
enum : int32_t { kSolSocket = 1 };
enum : int32_t {
  kSoDebug = 1, kSoReuseAddr = 2, kSoType = 3, kSoError = 4, kSoDontRoute = 5, kSoBroadcast = 6, kSoSndBuf = 7, kSoRcvBuf = 8,
  kSoKeepAlive = 9, kSoOobInline = 10, kSoPriority = 12, kSoLinger = 13, kSoReusePort = 15, kSoPassCred = 16, kSoPeerCred = 17,
  kSoRcvLowat = 18, kSoSndLowat = 19, kSoRcvTimeo = 20, kSoSndTimeo = 21, kSoPeerName = 28, kSoTimestamp = 29,
  kSoAcceptConn = 30, kSoPeerSec = 31, kSoSndBufForce = 32, kSoRcvBufForce = 33, kSoPassSec = 34, kSoTimestampNs = 35,
  kSoMark = 36, kSoProtocol = 38, kSoDomain = 39, kSoRxqOvfl = 40, kSoPeekOff = 42, kSoBusyPoll = 46, kSoIncomingCpu = 49,
  kSoCookie = 57, kSoPeerGroups = 59,
};

struct SocketAddress {
  static constexpr size_t kMax = 128;  // sockaddr_storage
  uint32_t length = 0;
  alignas(8) std::array<uint8_t, kMax> bytes{};
  uint16_t family() const {
    uint16_t f = kAfUnspec;
    if (length >= 2) std::memcpy(&f, bytes.data(), 2);
    return f;
  }
};

struct PeerCred {
  int32_t pid = 0;
  abi::KUid uid;
  abi::KGid gid;
  friend bool operator==(const PeerCred&, const PeerCred&) = default;
};
PeerCred cred_of(const vfs::OpContext& ctx);

struct Ancillary {
  std::vector<base::RefPtr<vfs::FileDescription>> files;  // SCM_RIGHTS
  std::optional<PeerCred> cred;                           // SCM_CREDENTIALS
  std::vector<uint8_t> protocol;  // cmsghdrs of other levels, as the ABI has them
  bool empty() const { return files.empty() && !cred && protocol.empty(); }
};

struct SendArgs {
  uint32_t flags = 0;
  const SocketAddress* to = nullptr;
  Ancillary control;
  // Set with kEAGAIN when the sender must wait for somebody else's queue.
  vfs::WaitQueue* wait_queue = nullptr;
  base::RefPtr<base::RefCounted> wait_holder;
};

struct RecvResult {
  size_t bytes = 0;
  uint32_t flags = 0;  // MSG_TRUNC, MSG_EOR, ... for msg_flags
  SocketAddress from;
  Ancillary control;
};

class Socket : public vfs::FileDescription {
 public:
  static const char kTag;
  static constexpr const void* kKind = &kTag;
  const void* kind() const override { return kKind; }

  Socket(int32_t family, int32_t type, int32_t protocol, uint32_t status_flags, const creds::Credentials& owner);

  int32_t family() const { return family_; }
  int32_t type() const { return type_; }
  int32_t protocol() const { return protocol_; }
  uint64_t inode_number() const { return inode_number_.load(std::memory_order_relaxed); }  // as socket:[N] shows it
  void note_inode_number(vfs::OpContext& ctx) {
    if (base::Result<vfs::Stat> st = stat(ctx)) inode_number_.store(st->inode, std::memory_order_relaxed);
  }

  // --- protocols implement ---
  virtual base::Result<void> bind(vfs::OpContext& ctx, const SocketAddress& address) = 0;
  virtual base::Result<void> listen(vfs::OpContext& ctx, int32_t backlog) { return base::err(abi::Errno::kEOPNOTSUPP); }
  virtual base::Result<SocketAddress> local_address(vfs::OpContext& ctx) = 0;
  virtual base::Result<SocketAddress> peer_address(vfs::OpContext& ctx) = 0;
  virtual base::Result<void> shutdown(vfs::OpContext& ctx, int32_t how) { return base::err(abi::Errno::kEOPNOTSUPP); }
  // Blocks itself, as the meaning of a second attempt differs between protocols.
  virtual base::Result<void> connect(vfs::OpContext& ctx, const SocketAddress& address) { return base::err(abi::Errno::kEOPNOTSUPP); }
  // Result length; `out` is what the caller has room for.
  virtual base::Result<size_t> get_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<uint8_t> out);
  virtual base::Result<void> set_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<const uint8_t> value);

  // --- with waiting ---
  base::Result<base::RefPtr<Socket>> accept(vfs::OpContext& ctx, uint32_t status_flags, SocketAddress* peer);
  base::Result<size_t> send(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args);
  base::Result<RecvResult> receive(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags);
  base::Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst) override;
  base::Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src) override;
  vfs::WaitQueue* wait_queue() override = 0;
  bool sends_sigio() const override { return true; }
  bool waits_itself() const override { return true; }
  base::Result<int64_t> ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) override;

 protected:
  virtual base::Result<base::RefPtr<Socket>> try_accept(vfs::OpContext& ctx, uint32_t status_flags, SocketAddress* peer) {
    return base::err(abi::Errno::kEOPNOTSUPP);
  }
  // Takes from `src` what fits; kEAGAIN when nothing does. Ancillary data goes with the first byte.
  virtual base::Result<size_t> try_send(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args) = 0;
  virtual base::Result<RecvResult> try_receive(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags) = 0;
  // SO_RCVLOWAT: a receiver of a stream that may wait does so for this much.
  virtual size_t low_water() const { return 1; }
  // What a sender that got kEAGAIN waits on; a datagram sender waits for its target.
  vfs::WaitQueue& send_queue(SendArgs& args) { return args.wait_queue ? *args.wait_queue : *wait_queue(); }
  // An argument for the ioctls on the receive queue (FIONREAD) and the send queue (TIOCOUTQ).
  virtual base::Result<int32_t> readable_bytes() { return base::err(abi::Errno::kENOTTY); }
  virtual base::Result<int32_t> unsent_bytes() { return base::err(abi::Errno::kENOTTY); }

  // Runs `attempt` until it says something else than kEAGAIN.
  template <typename R>
  base::Result<R> wait_for(vfs::OpContext& ctx, vfs::WaitQueue& queue, vfs::PollMask mask, int64_t timeout_ns,
                           base::FunctionRef<base::Result<R>()> attempt);

  std::atomic<int64_t> receive_timeout_ns_{0}, send_timeout_ns_{0};  // 0: none
  std::atomic<bool> pass_cred_{false};
  std::atomic<int32_t> send_buffer_{212992}, receive_buffer_{212992};
  std::atomic<uint32_t> option_bits_{0};  // SO_REUSEADDR and kin where they mean nothing; bit n = option n
  std::atomic<uint64_t> linger_{0};

 private:
  base::Result<void> wait_to_peek_all(vfs::OpContext& ctx, size_t bytes);
  const int32_t family_, type_, protocol_;
  const uint64_t cookie_;
  std::atomic<uint64_t> inode_number_{0};
};

template <typename R>
base::Result<R> Socket::wait_for(vfs::OpContext& ctx, vfs::WaitQueue& queue, vfs::PollMask mask, int64_t timeout_ns,
                                 base::FunctionRef<base::Result<R>()> attempt) {
  vfs::Deadline deadline;
  if (timeout_ns > 0) deadline = ctx.now_monotonic() + timeout_ns;
  const vfs::WaitScope scope(ctx);
  vfs::TaskWaiter waiter(ctx);
  queue.add(waiter, mask);
  base::Result<R> result = attempt();
  while (!result && result.error() == abi::Errno::kEAGAIN) {
    const vfs::WakeReason reason = ctx.block(deadline);
    result = attempt();
    if (result || result.error() != abi::Errno::kEAGAIN) break;
    if (reason == vfs::WakeReason::kTimedOut) break;
    if (reason == vfs::WakeReason::kInterrupted) {
      result = base::err(deadline ? abi::Errno::kEINTR : abi::Errno::kERESTARTSYS);
      break;
    }
  }
  queue.remove(waiter);
  return result;
}

// One made by socket(2). EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EPERM.
base::Result<base::RefPtr<Socket>> create_socket(vfs::OpContext& ctx, int32_t family, int32_t type, int32_t protocol,
                                                 uint32_t status_flags);

// What identifies the caller's network namespace; names and dumps are per namespace. Compared, never dereferenced.
const void* network_namespace_key(vfs::OpContext& ctx);

// Option values of a plain int.
base::Result<size_t> put_option(std::span<uint8_t> out, const void* value, size_t n);
base::Result<int32_t> int_option(std::span<const uint8_t> value);

}  // namespace sentry::net
