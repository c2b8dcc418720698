// SPDX-License-Identifier: Apache-2.0
// The sentry's end of a gofer connection.
//
// Every call has two forms: call() sends and waits for its reply, and submit() sends and has a Completion called when
// the reply arrives, by whoever reads the socket then: another call(), or the reactor through poll(). Replies are
// matched by tag, so both forms mix freely.
//
// The gofer is not believed: what it sends is checked against the request (op, limits, names, identity of donated
// descriptors). A gofer that breaks the protocol, dies, or is silent for kSilenceLimitMs is dead: every call that waits and
// every later one gets EIO. Host calls used: sendmsg, recvmsg, poll, fstat, fcntl(F_GETFL), close.
//
// Locks: mu_ (kGoferChannel) is held during a call() and around completions.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/core/result.h"
#include "base/host/unique_fd.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "gofer/proto/codec.h"

namespace gofer {

inline constexpr int kSilenceLimitMs = 120'000;

// One reply as it arrived. `body` is valid during complete() only.
struct Packet {
  Header header;
  std::span<const uint8_t> body;
  std::vector<base::UniqueFd> fds;
};

// Called exactly once, with the connection's lock held: decodes, wakes, and does not call the client again.
class Completion {
 public:
  virtual void complete(base::Result<Packet> packet) = 0;

 protected:
  ~Completion() = default;
};

// A reply and what came with it: one descriptor, or those of an OpenMany.
template <class Reply>
struct Answer {
  Reply reply;
  base::UniqueFd fd;
  std::vector<base::UniqueFd> fds;
};

// Checks that need the request: what a well-formed reply must not contain.
bool sane(const WalkRequest& request, const WalkReply& reply);
bool sane(const ReadDirRequest& request, const ReadDirReply& reply);
bool sane(const ReadTreeRequest& request, const ReadTreeReply& reply);
bool sane(const OpenManyRequest& request, const OpenManyReply& reply);
bool sane(const File& file);
template <class Request, class Reply>
bool sane(const Request&, const Reply& reply) {
  if constexpr (requires { reply.file; }) return sane(reply.file);
  return true;
}

// Turns a packet into the reply of `request`: EIO for anything a correct gofer would not have sent.
template <class Request>
base::Result<Answer<typename Request::Reply>> decode_answer(const Request& request, base::Result<Packet> packet);

class Client : public base::RefCounted {
 public:
  // Says hello: fails unless the other end speaks this version. The maker of `socket` has set its SO_RCVTIMEO to
  // kSilenceLimitMs, so that one host call waits for a reply, and not forever.
  static base::Result<base::RefPtr<Client>> create(base::UniqueFd socket);
  ~Client() override;

  template <class Request>
  base::Result<Answer<typename Request::Reply>> call(const Request& request) {
    struct Slot final : Completion {
      const Request* request = nullptr;
      bool done = false;
      base::Result<Answer<typename Request::Reply>> result = base::err(abi::Errno::kEIO);
      void complete(base::Result<Packet> packet) override {
        result = decode_answer(*request, std::move(packet));
        done = true;
      }
    } slot;
    slot.request = &request;
    base::MutexLock lock(mu_);
    TRY(send_locked(Request::kOp, request, &slot, waiting_cpu()));
    while (!slot.done) receive_locked(Wait::kYes);
    return std::move(slot.result);
  }

  // `completion` must stay valid until it was called; it is called for every submit that returned a value.
  template <class Request>
  base::Result<void> submit(const Request& request, Completion& completion) {
    base::MutexLock lock(mu_);
    return send_locked(Request::kOp, request, &completion);
  }
  // Completes whatever has arrived; does not wait. For the reactor, when socket() is readable.
  void poll();
  int socket() const { return socket_.get(); }

  // Gives back a reference of `id`; sent with others when enough have come together.
  void drop(FileId id);
  void flush_drops();

  uint32_t trees() const { return trees_; }
  bool dead() const { return dead_.load(std::memory_order_relaxed); }

  explicit Client(base::UniqueFd socket);

 private:
  static uint16_t waiting_cpu();  // of the calling thread, as Header::cpu has it
  template <class Request>
  base::Result<void> send_locked(Op op, const Request& request, Completion* completion, uint16_t cpu = 0) REQUIRES(mu_) {
    size_t size = encode({out_.get(), kMaxPacket}, op, next_tag_, request, cpu);
    if (size == 0) return base::err(abi::Errno::kEINVAL);
    return send_packet_locked(op, size, completion);
  }
  base::Result<void> send_packet_locked(Op op, size_t size, Completion* completion) REQUIRES(mu_);
  // Receives one packet and completes its waiter; anything wrong kills the connection.
  enum class Wait : uint8_t { kNo, kYes };
  bool receive_locked(Wait wait) REQUIRES(mu_);
  enum class Donation : uint8_t { kAsSent, kLost };  // lost: our own descriptor table is full
  bool deliver_locked(size_t size, std::vector<base::UniqueFd> fds, Donation donation) REQUIRES(mu_);
  void die_locked() REQUIRES(mu_);
  void send_drops_locked() REQUIRES(mu_);

  struct Pending {
    Completion* completion;
    Op op;
    uint64_t sent_at;  // ticks
  };

  base::UniqueFd socket_;  // immutable
  uint32_t trees_ = 0;     // immutable after create()
  std::atomic<bool> dead_{false};  // set once; read without the lock as a hint
  base::Mutex mu_{base::LockRank::kGoferChannel};
  uint64_t next_tag_ GUARDED_BY(mu_) = 1;
  std::unordered_map<uint64_t, Pending> pending_ GUARDED_BY(mu_);
  CloseRequest drops_ GUARDED_BY(mu_);
  // kMaxPacket bytes each, of which small messages never touch most.
  std::unique_ptr<uint8_t[]> out_ GUARDED_BY(mu_), in_ GUARDED_BY(mu_);
};

// Implementation.

// The guest errno of an error reply; EIO for numbers that mean nothing to a guest.
abi::Errno errno_of(const Packet& packet);
// A regular file, open as `open_flags` says, or a socket for connect.
bool valid_donation(Op op, uint32_t open_flags, int fd);

template <class Request>
uint32_t open_flags_of(const Request& request) {
  if constexpr (requires { request.open_flags; }) return request.open_flags;
  if constexpr (Request::kOp == Op::kOpen || Request::kOp == Op::kCreate) return request.flags;
  return 0;
}

template <class Request>
base::Result<Answer<typename Request::Reply>> decode_answer(const Request& request, base::Result<Packet> packet) {
  using enum abi::Errno;
  if (!packet) return base::err(packet.error());
  if (packet->header.op == static_cast<uint16_t>(Op::kError)) return base::err(errno_of(*packet));
  if (packet->header.op != static_cast<uint16_t>(Request::kOp)) return base::err(kEIO);
  Answer<typename Request::Reply> answer;
  if (!decode(packet->body, answer.reply) || !sane(request, answer.reply)) return base::err(kEIO);
  size_t wanted = Request::kFds;
  if constexpr (Request::kOp == Op::kOpenMany) wanted = answer.reply.opened.size();
  else if constexpr (requires { answer.reply.opened; }) wanted = answer.reply.opened;
  if (wanted != packet->fds.size()) return base::err(kEIO);
  for (const base::UniqueFd& fd : packet->fds) {
    if (!valid_donation(Request::kOp, open_flags_of(request), fd.get())) return base::err(kEIO);
  }
  if constexpr (Request::kOp == Op::kOpenMany) answer.fds = std::move(packet->fds);
  else if (wanted != 0) answer.fd = std::move(packet->fds[0]);
  return answer;
}

}  // namespace gofer
