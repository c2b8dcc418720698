// SPDX-License-Identifier: Apache-2.0
// The loop and the dispatch; the operations are in ops_*.cc.
#include "gofer/server/server.h"

#include <cerrno>
#include <cstring>

#include <sched.h>
#include <sys/socket.h>

#include "base/log/log.h"

namespace gofer {

using enum abi::Errno;

Server::Server(base::UniqueFd socket, Options options)
    : socket_(std::move(socket)), options_(options), nodes_(options.max_descriptors),
      in_(std::make_unique_for_overwrite<uint8_t[]>(kMaxPacket)),
      out_(std::make_unique_for_overwrite<uint8_t[]>(kMaxPacket)),
      dirents_(std::make_unique_for_overwrite<char[]>(kDirentBuffer)) {}

base::HostResult<void> Server::add_tree(TreeRoot tree) {
  auto added = nodes_.add_tree(static_cast<uint16_t>(trees_.size()), std::move(tree.parent), std::move(tree.name));
  if (added) trees_.push_back({tree.readonly});
  return added;
}

int Server::run() {
  for (;;) {
    iovec iov{in_.get(), kMaxPacket};
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;  // no room for control data: the kernel drops descriptors that are sent to us
    ssize_t n = recvmsg(socket_.get(), &msg, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n == 0 || errno == ECONNRESET ? 0 : 1;
    if (msg.msg_flags & MSG_TRUNC) {
      LOG_ERROR("oversized packet from the sentry");
      return 1;
    }
    int result = handle({in_.get(), static_cast<size_t>(n)});
    if (result < 0) {
      LOG_ERROR("malformed packet from the sentry");
      return 1;
    }
    if (result > 0 && !send_reply()) return 0;
    if (result > 0) {
      Header h;
      std::memcpy(&h, in_.get(), sizeof h);
      follow(h.cpu);
    }
  }
}

// A request and its reply are two switches on one CPU, but two wake-ups where the other side sleeps on another one, and
// those cost ten times as much when that CPU is idle. docs/decisions/0031.
void Server::follow(uint16_t cpu) {
  constexpr uint32_t kPatience = 4;  // so that two who ask in turns do not make us go back and forth
  if (cpu == 0 || cpu == followed_) {
    elsewhere_ = 0;
    return;
  }
  if (followed_ != 0 && ++elsewhere_ < kPatience) return;
  elsewhere_ = 0;
  followed_ = cpu;
  if (cpu > CPU_SETSIZE) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu - 1u, &set);
  (void)sched_setaffinity(0, sizeof set, &set);  // refused where that CPU is not ours
}

bool Server::send_reply() {
  iovec iov{out_.get(), reply_size_};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxOpenMany * sizeof(int))];
  if (!donations_.empty()) {
    int fds[kMaxOpenMany];
    for (size_t i = 0; i < donations_.size(); ++i) fds[i] = donations_[i].get();
    const size_t size = donations_.size() * sizeof(int);
    std::memset(control, 0, CMSG_SPACE(size));
    msg.msg_control = control;
    msg.msg_controllen = CMSG_SPACE(size);
    cmsghdr* c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(c), fds, size);
  }
  ssize_t n;
  do {
    n = sendmsg(socket_.get(), &msg, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno == ETOOMANYREFS && !donations_.empty()) {  // too many descriptors in flight: the sentry does not read them
    Header h;
    std::memcpy(&h, out_.get(), sizeof h);
    reply_error(h.tag, kENFILE);
    return send_reply();
  }
  donations_.clear();
  return n >= 0;
}

int Server::reply_error(uint64_t tag, abi::Errno error) {
  donations_.clear();
  reply_size_ = encode(out(), Op::kError, tag, ErrorReply{static_cast<uint32_t>(error)});
  return static_cast<int>(reply_size_);
}

template <class Request>
int Server::serve(std::span<const uint8_t> body, uint64_t tag) {
  Request request;
  if (!decode(body, request)) return -1;
  auto result = serve(request);
  if constexpr (Request::kOp == Op::kClose) return 0;
  if (!result) return reply_error(tag, result.error());
  reply_size_ = encode(out(), Request::kOp, tag, *result);
  if (reply_size_ == 0) return reply_error(tag, kEIO);
  return static_cast<int>(reply_size_);
}

int Server::handle(std::span<const uint8_t> packet) {
  Header h;
  reply_size_ = 0;
  donations_.clear();
  if (!decode_header(packet, h)) return -1;
  auto body = packet.subspan(sizeof h);
  switch (static_cast<Op>(h.op)) {
    case Op::kHello: return serve<HelloRequest>(body, h.tag);
    case Op::kAttach: return serve<AttachRequest>(body, h.tag);
    case Op::kWalk: return serve<WalkRequest>(body, h.tag);
    case Op::kClose: return serve<CloseRequest>(body, h.tag);
    case Op::kStat: return serve<StatRequest>(body, h.tag);
    case Op::kOpen: return serve<OpenRequest>(body, h.tag);
    case Op::kReadDir: return serve<ReadDirRequest>(body, h.tag);
    case Op::kReadLink: return serve<ReadLinkRequest>(body, h.tag);
    case Op::kCreate: return serve<CreateRequest>(body, h.tag);
    case Op::kMkDir: return serve<MkDirRequest>(body, h.tag);
    case Op::kSymlink: return serve<SymlinkRequest>(body, h.tag);
    case Op::kMkNod: return serve<MkNodRequest>(body, h.tag);
    case Op::kLink: return serve<LinkRequest>(body, h.tag);
    case Op::kUnlink: return serve<UnlinkRequest>(body, h.tag);
    case Op::kRename: return serve<RenameRequest>(body, h.tag);
    case Op::kSetAttr: return serve<SetAttrRequest>(body, h.tag);
    case Op::kStatFs: return serve<StatFsRequest>(body, h.tag);
    case Op::kGetXattr: return serve<GetXattrRequest>(body, h.tag);
    case Op::kSetXattr: return serve<SetXattrRequest>(body, h.tag);
    case Op::kListXattr: return serve<ListXattrRequest>(body, h.tag);
    case Op::kRemoveXattr: return serve<RemoveXattrRequest>(body, h.tag);
    case Op::kConnect: return serve<ConnectRequest>(body, h.tag);
    case Op::kFsync: return serve<FsyncRequest>(body, h.tag);
    case Op::kReadTree: return serve<ReadTreeRequest>(body, h.tag);
    case Op::kOpenMany: return serve<OpenManyRequest>(body, h.tag);
    case Op::kError:
    case Op::kMax: return -1;
  }
  return -1;
}

}  // namespace gofer
