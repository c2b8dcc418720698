// SPDX-License-Identifier: Apache-2.0
// The open file of a unix socket.
#include "sentry/net/unix.h"
#include "sentry/net/unix_names.h"

namespace sentry::net {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

class UnixSocket final : public Socket {
 public:
  UnixSocket(RefPtr<UnixCore> core, uint32_t status_flags, const creds::Credentials& owner)
      : Socket(kAfUnix, core->type(), 0, status_flags, owner), core_(std::move(core)) {}
  ~UnixSocket() override { core_->close(); }

  UnixCore& core() { return *core_; }
  vfs::WaitQueue* wait_queue() override { return &core_->queue(); }
  vfs::PollMask readiness(vfs::PollMask) override { return core_->readiness(); }

  Result<void> bind(vfs::OpContext& ctx, const SocketAddress& address) override { return core_->bind(ctx, address); }
  Result<void> listen(vfs::OpContext& ctx, int32_t backlog) override { return core_->listen(ctx, backlog); }
  Result<SocketAddress> local_address(vfs::OpContext&) override { return core_->name(); }
  Result<SocketAddress> peer_address(vfs::OpContext&) override { return core_->peer_name(); }
  Result<void> shutdown(vfs::OpContext& ctx, int32_t how) override { return core_->shutdown(ctx, how); }

  Result<void> connect(vfs::OpContext& ctx, const SocketAddress& address) override {
    if (type() == kSockDgram) {
      if (address.family() == kAfUnspec) return core_->connect_datagram(nullptr);
      RefPtr<UnixCore> target = TRY(find_unix(ctx, address));
      if (pass_cred_.load()) TRY(core_->autobind(ctx));
      return core_->connect_datagram(target.get());
    }
    RefPtr<UnixCore> target = TRY(find_unix(ctx, address));
    if (target->type() != type()) return err(kEPROTOTYPE);
    if (pass_cred_.load()) TRY(core_->autobind(ctx));
    const PeerCred cred = cred_of(ctx);
    Result<void> done = core_->try_connect_stream(ctx, *target, cred);
    if (done || done.error() != kEAGAIN || is_nonblocking()) return done;
    return wait_for<void>(ctx, target->space_queue(), vfs::kPollOut, send_timeout_ns_.load(),
                          [&] { return core_->try_connect_stream(ctx, *target, cred); });
  }

  Result<size_t> get_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<uint8_t> out) override {
    if (level != kSolSocket) return err(kEOPNOTSUPP);
    int32_t value;
    switch (name) {
      case kSoPeerCred: return peer_cred_option(ctx, out);
      case kSoError: value = core_->take_error(); break;
      case kSoAcceptConn: value = core_->is_listening() ? 1 : 0; break;
      case kSoPeerName: {
        const SocketAddress a = TRY(core_->peer_name());
        return put_option(out, a.bytes.data(), a.length);
      }
      default: return Socket::get_option(ctx, level, name, out);
    }
    return put_option(out, &value, sizeof value);
  }
  Result<void> set_option(vfs::OpContext& ctx, int32_t level, int32_t name, std::span<const uint8_t> value) override {
    TRY(Socket::set_option(ctx, level, name, value));
    if (name == kSoPassCred) {
      core_->pass_cred.store(pass_cred_.load());
      if (pass_cred_.load()) core_->leave_to_sentry();
    }
    return {};
  }

  Result<vfs::InPlaceEnd*> prepare_in_place(vfs::OpContext& ctx) override {
    if (!ctx.memory_file()) return err(kEOPNOTSUPP);
    return core_->share_stream(ctx, *ctx.memory_file());
  }
  vfs::InPlaceEnd* in_place_end() const override { return core_->shared().end(); }

 protected:
  Result<RefPtr<Socket>> try_accept(vfs::OpContext& ctx, uint32_t status_flags, SocketAddress* peer) override {
    if (type() == kSockDgram) return err(kEOPNOTSUPP);
    RefPtr<UnixCore> core = TRY(core_->try_accept());
    auto socket = base::make_ref<UnixSocket>(core, status_flags, ctx.creds());
    core->inode_number = TRY(socket->stat(ctx)).inode;
    if (core->pass_cred.load()) socket->pass_cred_.store(true);
    if (peer) {
      Result<SocketAddress> name = core->peer_name();
      if (name) *peer = *name;
    }
    return RefPtr<Socket>(std::move(socket));
  }
  Result<size_t> try_send(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args) override {
    if (args.flags & kMsgOob) return err(kEOPNOTSUPP);
    if (type() == kSockStream) {
      if (args.to) return err(core_->peer() ? kEISCONN : kEOPNOTSUPP);
      note_use();
      return core_->send_stream(ctx, src, args);
    }
    if (pass_cred_.load() && type() == kSockDgram) TRY(core_->autobind(ctx));
    return core_->send_message(ctx, src, args, static_cast<size_t>(send_buffer_.load()));
  }
  Result<RecvResult> try_receive(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags) override {
    if (type() != kSockStream) return core_->receive_message(ctx, dst, flags);
    note_use();
    return core_->receive_stream(ctx, dst, flags);
  }
  Result<int32_t> readable_bytes() override {
    if (core_->is_listening()) return err(kEINVAL);
    return core_->readable_bytes();
  }
  Result<int32_t> unsent_bytes() override {
    if (core_->is_listening()) return err(kEINVAL);
    return core_->unsent_bytes();
  }

 private:
  Result<size_t> peer_cred_option(vfs::OpContext& ctx, std::span<uint8_t> out) {
    struct Ucred {
      int32_t pid;
      uint32_t uid, gid;
    } ucred{0, ~0u, ~0u};
    if (Result<PeerCred> cred = core_->peer_cred()) {
      const creds::UserNamespace& ns = *ctx.creds().user_ns;
      ucred = {cred->pid, ns.unmap_uid(cred->uid).value(), ns.unmap_gid(cred->gid).value()};
    }
    return put_option(out, &ucred, sizeof ucred);
  }
  const RefPtr<UnixCore> core_;
};

Result<int32_t> check_type(int32_t type, int32_t protocol) {
  if (protocol != 0 && protocol != kAfUnix) return err(kEPROTONOSUPPORT);
  if (type == kSockRaw) return kSockDgram;  // unix_create(): historical
  if (type != kSockStream && type != kSockDgram && type != kSockSeqpacket) return err(kESOCKTNOSUPPORT);
  return type;
}

}  // namespace

Result<RefPtr<Socket>> create_unix_socket(vfs::OpContext& ctx, int32_t type, int32_t protocol, uint32_t status_flags) {
  type = TRY(check_type(type, protocol));
  auto core = base::make_ref<UnixCore>(type);
  auto socket = base::make_ref<UnixSocket>(core, status_flags, ctx.creds());
  core->inode_number = TRY(socket->stat(ctx)).inode;
  return RefPtr<Socket>(std::move(socket));
}

Result<SocketPair> create_unix_pair(vfs::OpContext& ctx, int32_t type, int32_t protocol, uint32_t status_flags) {
  type = TRY(check_type(type, protocol));
  auto a = base::make_ref<UnixCore>(type), b = base::make_ref<UnixCore>(type);
  SocketPair pair{base::make_ref<UnixSocket>(a, status_flags, ctx.creds()),
                  base::make_ref<UnixSocket>(b, status_flags, ctx.creds())};
  a->inode_number = TRY(pair.first->stat(ctx)).inode;
  b->inode_number = TRY(pair.second->stat(ctx)).inode;
  UnixCore::connect_pair(*a, *b, cred_of(ctx));
  return pair;
}

}  // namespace sentry::net
