// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/netlink.h"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"
#include "sentry/kernel/task.h"
#include "sentry/net/host_calls.h"

namespace sentry::net {

using abi::Errno;
using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxRequest = 4096, kMaxQueued = 4 << 20, kHostReply = 32 << 10;

// The host's side: one request at a time.
struct HostRoute {
  base::Mutex mu{base::LockRank::kPipe};
  base::UniqueFd fd GUARDED_BY(mu);
  uint32_t sequence GUARDED_BY(mu) = 0;
  bool opened GUARDED_BY(mu) = false;
};
HostRoute& host_route() {
  static HostRoute h;
  return h;
}

void open_locked(HostRoute& h) REQUIRES(h.mu) {
  if (h.opened) return;
  h.opened = true;
  h.fd = base::UniqueFd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
}

bool is_readable_request(uint16_t type) {
  switch (type) {
    case RTM_GETLINK: case RTM_GETADDR: case RTM_GETROUTE: case RTM_GETNEIGH: case RTM_GETRULE: case RTM_GETQDISC:
    case RTM_GETNEIGHTBL: case RTM_GETNETCONF: return true;
    default: return false;
  }
}

}  // namespace

void prepare_host_network() {
  HostRoute& h = host_route();
  base::MutexLock lock(h.mu);
  open_locked(h);
}

Result<std::vector<std::vector<uint8_t>>> query_host_route(uint16_t type, uint16_t flags, std::span<const uint8_t> body) {
  if (!is_readable_request(type)) return err(kEPERM);
  if (body.size() > kMaxRequest) return err(kENOBUFS);
  HostRoute& h = host_route();
  base::MutexLock lock(h.mu);
  open_locked(h);
  if (!h.fd) return err(kENETDOWN);
  nlmsghdr header{};
  header.nlmsg_len = static_cast<uint32_t>(sizeof header + body.size());
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | (flags & (NLM_F_DUMP | NLM_F_ACK)));
  header.nlmsg_seq = ++h.sequence;
  std::vector<uint8_t> request(header.nlmsg_len);
  std::memcpy(request.data(), &header, sizeof header);
  if (!body.empty()) std::memcpy(request.data() + sizeof header, body.data(), body.size());
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  iovec v{request.data(), request.size()};
  msghdr m{};
  m.msg_name = &kernel;
  m.msg_namelen = sizeof kernel;
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  if (sendmsg(h.fd.get(), &m, MSG_DONTWAIT) < 0) return err(base::guest_errno_from_host(errno));
  // rtnetlink answers while it is asked, and continues a dump while it is read: an empty queue is the end.
  std::vector<std::vector<uint8_t>> out;
  std::vector<uint8_t> reply(kHostReply);
  size_t total = 0;
  const bool dump = (flags & NLM_F_DUMP) == NLM_F_DUMP;
  for (bool done = false; !done && total < kMaxQueued;) {
    iovec rv{reply.data(), reply.size()};
    msghdr r{};
    r.msg_iov = &rv;
    r.msg_iovlen = 1;
    const ssize_t n = recvmsg(h.fd.get(), &r, MSG_DONTWAIT);
    if (n <= 0) break;
    size_t at = 0;
    while (at + sizeof(nlmsghdr) <= static_cast<size_t>(n)) {
      nlmsghdr got;
      std::memcpy(&got, reply.data() + at, sizeof got);
      if (got.nlmsg_len < sizeof got || got.nlmsg_len > static_cast<size_t>(n) - at) break;
      if (got.nlmsg_seq == h.sequence) {
        out.emplace_back(reply.begin() + static_cast<ptrdiff_t>(at), reply.begin() + static_cast<ptrdiff_t>(at + got.nlmsg_len));
        total += got.nlmsg_len;
        done = got.nlmsg_type == NLMSG_DONE || got.nlmsg_type == NLMSG_ERROR || (!dump && (flags & NLM_F_ACK) == 0);
      }
      at += NLMSG_ALIGN(got.nlmsg_len);
    }
  }
  return out;
}

namespace {

class NetlinkSocket final : public Socket {
 public:
  NetlinkSocket(int32_t type, uint32_t status_flags, const creds::Credentials& owner)
      : Socket(kAfNetlink, type, NETLINK_ROUTE, status_flags, owner) {}

  // From somebody else than the host's kernel.
  void deliver(std::vector<uint8_t> datagram) {
    push(std::move(datagram));
    queue_.notify(vfs::kPollIn | vfs::kPollRdNorm);
  }
  vfs::WaitQueue* wait_queue() override { return &queue_; }
  vfs::PollMask readiness(vfs::PollMask) override {
    base::MutexLock lock(mu_);
    return (replies_.empty() ? 0u : vfs::kPollIn | vfs::kPollRdNorm) | vfs::kPollOut | vfs::kPollWrNorm;
  }
  Result<void> bind(vfs::OpContext& ctx, const SocketAddress& a) override {
    sockaddr_nl nl;
    if (a.length < sizeof nl || a.family() != kAfNetlink) return err(kEINVAL);
    std::memcpy(&nl, a.bytes.data(), sizeof nl);
    assign_port(ctx, nl.nl_pid);
    return {};
  }
  Result<void> connect(vfs::OpContext& ctx, const SocketAddress& a) override {
    if (a.length < sizeof(sockaddr_nl) || a.family() != kAfNetlink) return err(kEINVAL);
    assign_port(ctx, 0);
    return {};
  }
  Result<SocketAddress> local_address(vfs::OpContext&) override { return address(port_.load()); }
  Result<SocketAddress> peer_address(vfs::OpContext&) override { return address(0); }
  Result<size_t> get_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<uint8_t> out) override {
    if (level != SOL_NETLINK) return Socket::get_option(ctx, level, name, out);
    const int32_t zero = 0;
    return put_option(out, &zero, sizeof zero);
  }
  // Extended acknowledgements, strict checks and groups: accepted; nothing of it changes an answer.
  Result<void> set_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<const uint8_t> value) override {
    return level == SOL_NETLINK ? Result<void>{} : Socket::set_option(ctx, level, name, value);
  }

 protected:
  Result<size_t> try_send(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args) override {
    if (src.remaining() > kMaxRequest) return err(kEMSGSIZE);
    assign_port(ctx, 0);
    std::vector<uint8_t> bytes(src.remaining());
    if (!bytes.empty() && TRY(src.get(bytes.data(), bytes.size())) < bytes.size()) return err(kEFAULT);
    size_t at = 0;
    while (at + sizeof(nlmsghdr) <= bytes.size()) {
      nlmsghdr h;
      std::memcpy(&h, bytes.data() + at, sizeof h);
      if (h.nlmsg_len < sizeof h || h.nlmsg_len > bytes.size() - at) break;
      if (h.nlmsg_type >= NLMSG_MIN_TYPE && (h.nlmsg_flags & NLM_F_REQUEST))
        answer(h, std::span<const uint8_t>(bytes).subspan(at + sizeof h, h.nlmsg_len - sizeof h));
      at += NLMSG_ALIGN(h.nlmsg_len);
    }
    queue_.notify(vfs::kPollIn | vfs::kPollRdNorm);
    return bytes.size();
  }

  Result<RecvResult> try_receive(vfs::OpContext&, vfs::IoBuffer& dst, uint32_t flags) override {
    std::vector<uint8_t> message;
    {
      base::MutexLock lock(mu_);
      if (replies_.empty()) return err(kEAGAIN);
      if (flags & kMsgPeek) {
        message = replies_.front();
      } else {
        message = std::move(replies_.front());
        replies_.pop_front();
        queued_ -= message.size();
      }
    }
    RecvResult result;
    const size_t n = std::min(message.size(), dst.remaining());
    if (n != 0 && TRY(dst.put(message.data(), n)) < n) return err(kEFAULT);
    result.bytes = flags & kMsgTrunc ? message.size() : n;
    if (n < message.size()) result.flags |= kMsgTrunc;
    result.from = address(0);
    return result;
  }
  Result<int32_t> readable_bytes() override {
    base::MutexLock lock(mu_);
    return replies_.empty() ? 0 : static_cast<int32_t>(replies_.front().size());
  }

 private:
  static SocketAddress address(uint32_t port) {
    sockaddr_nl nl{};
    nl.nl_family = AF_NETLINK;
    nl.nl_pid = port;
    SocketAddress a;
    a.length = sizeof nl;
    std::memcpy(a.bytes.data(), &nl, sizeof nl);
    return a;
  }
  void assign_port(vfs::OpContext& ctx, uint32_t wanted) {
    static std::atomic<uint32_t> next{0x80000000};
    uint32_t none = 0;
    if (wanted == 0) {
      if (port_.load() != 0) return;
      wanted = first_of_process(ctx) ? static_cast<uint32_t>(ctx.owner_pid().value()) : next.fetch_add(1);
    }
    port_.compare_exchange_strong(none, wanted);
  }
  // Programs take the port of their first socket to be their pid; later ones get a number of their own.
  static bool first_of_process(vfs::OpContext& ctx) {
    static std::atomic<int32_t> last{0};
    return last.exchange(ctx.owner_pid().value()) != ctx.owner_pid().value();
  }

  void push(std::vector<uint8_t> datagram) {
    base::MutexLock lock(mu_);
    if (queued_ + datagram.size() > kMaxQueued) return;
    queued_ += datagram.size();
    replies_.push_back(std::move(datagram));
  }
  void push_error(const nlmsghdr& request, Errno e) {
    struct {
      nlmsghdr header;
      nlmsgerr error;
    } reply{};
    reply.header.nlmsg_len = sizeof reply;
    reply.header.nlmsg_type = NLMSG_ERROR;
    reply.header.nlmsg_seq = request.nlmsg_seq;
    reply.header.nlmsg_pid = port_.load();
    reply.error.error = -static_cast<int>(e);
    reply.error.msg = request;
    std::vector<uint8_t> bytes(sizeof reply);
    std::memcpy(bytes.data(), &reply, sizeof reply);
    push(std::move(bytes));
  }
  void answer(const nlmsghdr& request, std::span<const uint8_t> body) {
    Result<std::vector<std::vector<uint8_t>>> messages = query_host_route(request.nlmsg_type, request.nlmsg_flags, body);
    if (!messages) return push_error(request, messages.error());
    // Several messages to a datagram, as the kernel packs them; DONE comes alone.
    std::vector<uint8_t> datagram;
    for (std::vector<uint8_t>& m : *messages) {
      nlmsghdr h;
      std::memcpy(&h, m.data(), sizeof h);
      h.nlmsg_seq = request.nlmsg_seq;
      h.nlmsg_pid = port_.load();
      std::memcpy(m.data(), &h, sizeof h);
      m.resize(NLMSG_ALIGN(m.size()));
      if (!datagram.empty() && (datagram.size() + m.size() > 8192 || h.nlmsg_type == NLMSG_DONE)) push(std::exchange(datagram, {}));
      datagram.insert(datagram.end(), m.begin(), m.end());
    }
    if (!datagram.empty()) push(std::move(datagram));
  }

  vfs::WaitQueue queue_;
  std::atomic<uint32_t> port_{0};
  base::Mutex mu_{base::LockRank::kSocket};
  std::deque<std::vector<uint8_t>> replies_ GUARDED_BY(mu_);
  size_t queued_ GUARDED_BY(mu_) = 0;
};

}  // namespace

void push_to_netlink(vfs::FileDescription& socket, std::span<const uint8_t> bytes) {
  static_cast<NetlinkSocket&>(socket).deliver({bytes.begin(), bytes.end()});
}

Result<RefPtr<Socket>> create_netlink_socket(vfs::OpContext& ctx, int32_t type, int32_t protocol, uint32_t status_flags) {
  if (type != kSockRaw && type != kSockDgram) return err(kESOCKTNOSUPPORT);
  if (protocol != NETLINK_ROUTE) return err(kEPROTONOSUPPORT);
  return RefPtr<Socket>(base::make_ref<NetlinkSocket>(type, status_flags, ctx.creds()));
}

}  // namespace sentry::net
