// SPDX-License-Identifier: Apache-2.0
// net/unix/af_unix.c: state, connecting, stream and message transfer.
#include <algorithm>

#include "sentry/net/unix.h"
#include "sentry/net/unix_names.h"

namespace sentry::net {

using abi::Errno;
using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxRecords = 4096;
constexpr size_t kMaxMessages = 256;      // net.unix.max_dgram_qlen
constexpr size_t kMaxQueuedBytes = 212992;
constexpr size_t kMaxInFlight = 16384;    // descriptors inside queues, of the whole sandbox: what a cycle can leak
std::atomic<size_t> in_flight{0};

// Files of queues that go away. A file may be a socket with files in its queue, to any depth, so they are closed in a
// loop by one thread at a time instead of recursively.
struct Graveyard {
  base::Mutex mu{base::LockRank::kLeaf};
  std::vector<RefPtr<vfs::FileDescription>> files GUARDED_BY(mu);
  bool digging GUARDED_BY(mu) = false;
};
Graveyard graveyard;

void bury(std::vector<RefPtr<vfs::FileDescription>> files) {
  if (files.empty()) return;
  in_flight.fetch_sub(files.size());
  {
    base::MutexLock lock(graveyard.mu);
    for (auto& f : files) graveyard.files.push_back(std::move(f));
    if (graveyard.digging) return;
    graveyard.digging = true;
  }
  for (;;) {
    std::vector<RefPtr<vfs::FileDescription>> batch;
    {
      base::MutexLock lock(graveyard.mu);
      batch.swap(graveyard.files);
      if (batch.empty()) {
        graveyard.digging = false;
        return;
      }
    }
    batch.clear();
  }
}

Result<void> take_flight(size_t files) {
  if (files == 0) return {};
  if (in_flight.fetch_add(files) + files > kMaxInFlight) {
    in_flight.fetch_sub(files);
    return err(kETOOMANYREFS);
  }
  return {};
}

// For the receiver; a peek leaves the original in place.
Ancillary hand_over(Ancillary& control, bool peek) {
  if (peek) return control;
  in_flight.fetch_sub(control.files.size());
  Ancillary out = std::move(control);
  control.files.clear();
  return out;
}

}  // namespace

UnixCore::UnixCore(int32_t type) : type_(type) { note_core(*this); }

UnixCore::~UnixCore() {
  forget_core(*this);
  std::vector<RefPtr<vfs::FileDescription>> files;
  for (Record& r : records_) std::move(r.control.files.begin(), r.control.files.end(), std::back_inserter(files));
  for (Message& m : messages_) std::move(m.control.files.begin(), m.control.files.end(), std::back_inserter(files));
  bury(std::move(files));
}

void UnixCore::connect_pair(UnixCore& a, UnixCore& b, const PeerCred& cred) {
  for (auto [self, other] : {std::pair{&a, &b}, std::pair{&b, &a}}) {
    base::MutexLock lock(self->mu_);
    self->peer_ = RefPtr<UnixCore>(other);
    self->peer_cred_ = cred;
    self->has_peer_cred_ = true;
    if (self->type_ != kSockDgram) {
      self->stream_peer_.store(other, std::memory_order_release);
      self->set_state_locked(State::kConnected);
    }
  }
}

Result<void> UnixCore::bind(vfs::OpContext& ctx, const SocketAddress& address) {
  {
    base::MutexLock lock(mu_);
    if (name_.length > 2) return err(kEINVAL);
  }
  Binding binding = TRY(bind_name(ctx, *this, address));
  base::MutexLock lock(mu_);
  name_ = binding.name;
  bound_path_ = std::move(binding.path);
  abstract_key_ = std::move(binding.abstract_key);
  return {};
}

Result<void> UnixCore::autobind(vfs::OpContext& ctx) {
  {
    base::MutexLock lock(mu_);
    if (name_.length > 2) return {};
  }
  SocketAddress family_only;
  family_only.length = 2;
  family_only.bytes[0] = kAfUnix;
  return bind(ctx, family_only);
}

Result<void> UnixCore::listen(vfs::OpContext& ctx, int32_t backlog) {
  if (type_ == kSockDgram) return err(kEOPNOTSUPP);
  base::MutexLock lock(mu_);
  if (name_.length <= 2) return err(kEINVAL);
  if (state_ != State::kNew && state_ != State::kListening) return err(kEINVAL);
  backlog_max_ = static_cast<uint32_t>(std::clamp(backlog < 0 ? 4096 : backlog, 0, 4096));
  peer_cred_ = cred_of(ctx);
  has_peer_cred_ = true;
  set_state_locked(State::kListening);
  return {};
}

Result<RefPtr<UnixCore>> UnixCore::try_accept() {
  RefPtr<UnixCore> made;
  {
    base::MutexLock lock(mu_);
    if (state_ != State::kListening) return err(kEINVAL);
    if (backlog_.empty()) return has_input_end() ? Result<RefPtr<UnixCore>>(err(kEINVAL)) : err(kEAGAIN);
    made = std::move(backlog_.front());
    backlog_.pop_front();
    backlog_count_.store(static_cast<uint32_t>(backlog_.size()), std::memory_order_release);
  }
  space_queue_.notify(vfs::kPollOut);
  return made;
}

Result<void> UnixCore::try_connect_stream(vfs::OpContext& ctx, UnixCore& target, const PeerCred& cred) {
  // Two threads that connect one socket come one after the other.
  vfs::SleepGuard guard(ctx, write_lock_);
  {
    base::MutexLock lock(mu_);
    if (state_ == State::kConnected) return err(kEISCONN);
    if (state_ != State::kNew) return err(kEINVAL);
  }
  if (&target == this) return err(kECONNREFUSED);
  RefPtr<UnixCore> server = base::make_ref<UnixCore>(type_);
  server->pass_cred.store(target.pass_cred.load());
  const SocketAddress target_name = target.name();
  {
    base::MutexLock lock(server->mu_);
    server->peer_ = RefPtr<UnixCore>(this);
    server->stream_peer_.store(this, std::memory_order_release);
    server->peer_cred_ = cred;
    server->has_peer_cred_ = true;
    server->name_ = target_name;
    server->set_state_locked(State::kConnected);
  }
  PeerCred listener_cred;
  Result<void> queued{};
  {
    base::MutexLock lock(target.mu_);
    if (target.state_ != State::kListening || target.has_input_end()) {
      queued = err(kECONNREFUSED);
    } else if (target.backlog_.size() > target.backlog_max_) {
      queued = err(kEAGAIN);
    } else {
      listener_cred = target.peer_cred_;
      target.backlog_.push_back(server);
      target.backlog_count_.store(static_cast<uint32_t>(target.backlog_.size()), std::memory_order_release);
    }
  }
  if (!queued) {
    RefPtr<UnixCore> back;  // dropped outside the lock
    base::MutexLock lock(server->mu_);
    back = std::move(server->peer_);
    server->stream_peer_.store(nullptr);
    return queued;
  }
  {
    base::MutexLock lock(mu_);
    peer_ = server;
    stream_peer_.store(server.get(), std::memory_order_release);
    peer_cred_ = listener_cred;
    has_peer_cred_ = true;
    set_state_locked(State::kConnected);
  }
  target.queue_.notify(vfs::kPollIn | vfs::kPollRdNorm);
  queue_.notify(vfs::kPollOut | vfs::kPollWrNorm);
  return {};
}

Result<void> UnixCore::connect_datagram(UnixCore* target) {
  if (target && target->type_ != type_) return err(kEPROTOTYPE);
  RefPtr<UnixCore> old;
  if (target) {
    base::MutexLock lock(target->mu_);
    if (target->peer_ && target->peer_.get() != this) return err(kEPERM);
  }
  base::MutexLock lock(mu_);
  old = std::move(peer_);
  peer_ = RefPtr<UnixCore>(target);
  return {};
}

// --- streams ---

Result<void> UnixCore::add_record(uint64_t begin, uint64_t end, Ancillary control) {
  base::MutexLock lock(mu_);
  // Writes of one sender that carry nothing but the same credentials are one piece.
  if (!records_.empty() && control.files.empty() && records_.back().control.files.empty() && records_.back().end == begin &&
      records_.back().control.cred == control.cred && !input_.is_empty()) {
    records_.back().end = end;
    return {};
  }
  records_.push_back({begin, end, std::move(control)});
  record_count_.store(static_cast<uint32_t>(records_.size()), std::memory_order_release);
  return {};
}

Result<size_t> UnixCore::send_stream(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args) {
  UnixCore* peer = stream_peer_.load(std::memory_order_acquire);
  if (!peer) return err(kENOTCONN);
  vfs::SleepGuard guard(ctx, write_lock_);
  if (send_shut_.load(std::memory_order_acquire) || peer->has_input_end()) return err(kEPIPE);
  if (src.remaining() == 0) return size_t{0};
  if (peer->record_count_.load(std::memory_order_relaxed) >= kMaxRecords) return err(kEAGAIN);
  TRY(take_flight(args.control.files.size()));
  if (!args.control.cred && (pass_cred.load(std::memory_order_relaxed) || peer->pass_cred.load(std::memory_order_relaxed)))
    args.control.cred = cred_of(ctx);
  const Result<size_t> done = peer->input_.put(ctx, src, args.control.empty() ? StreamBuffer::Lane::kAny : StreamBuffer::Lane::kOwn);
  if (!done) {
    in_flight.fetch_sub(args.control.files.size());
    return done;
  }
  // The record is there before the bytes can be seen.
  const uint64_t head = peer->input_.head();
  if (!args.control.empty()) TRY(peer->add_record(head, head + *done, std::exchange(args.control, {})));
  peer->input_.publish();
  peer->queue_.notify(vfs::kPollIn | vfs::kPollRdNorm);
  return done;
}

// How far one read may go: not across the border of ancillary data.
size_t UnixCore::readable_limit(uint64_t tail, uint64_t head) {
  if (record_count_.load(std::memory_order_acquire) == 0) return head - tail;
  base::MutexLock lock(mu_);
  while (!records_.empty() && records_.front().end <= tail) records_.pop_front();
  record_count_.store(static_cast<uint32_t>(records_.size()), std::memory_order_release);
  if (records_.empty()) return head - tail;
  const Record& r = records_.front();
  return std::min<uint64_t>(head, r.begin <= tail ? r.end : r.begin) - tail;
}

Ancillary UnixCore::take_stream_control(uint64_t tail, bool peek) {
  if (record_count_.load(std::memory_order_acquire) == 0) return {};
  base::MutexLock lock(mu_);
  if (records_.empty() || records_.front().begin > tail || records_.front().end <= tail) return {};
  Record& r = records_.front();
  Ancillary out = hand_over(r.control, peek);
  r.control.cred = out.cred;  // the rest of the piece is from the same sender
  return out;
}

Result<RecvResult> UnixCore::receive_stream(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags) {
  if (state_hint_.load(std::memory_order_acquire) != static_cast<uint8_t>(State::kConnected)) return err(kEINVAL);
  if (flags & kMsgOob) return err(kEOPNOTSUPP);
  const bool peek = (flags & kMsgPeek) != 0;
  vfs::SleepGuard guard(ctx, read_lock_);
  RecvResult result;
  // The end is looked at first: what was written before it is then seen.
  const bool ended = has_input_end();
  if (input_.is_empty()) {
    if (const int32_t e = take_error(); e != 0) return err(static_cast<Errno>(e));
    if (ended) return result;
    return err(kEAGAIN);
  }
  if (dst.remaining() == 0) return result;
  const uint64_t tail = input_.tail();
  const StreamBuffer::Got got =
      TRY(input_.get(ctx, dst, readable_limit(tail, input_.head()), peek ? StreamBuffer::Keep::kYes : StreamBuffer::Keep::kNo,
                     record_count_.load(std::memory_order_acquire) == 0 ? StreamBuffer::Join::kYes : StreamBuffer::Join::kNo));
  result.bytes = got.bytes;
  if (got.own) result.control = take_stream_control(tail, peek);
  if (!peek && (got.made_room || (record_count_.load() >= kMaxRecords / 2 && input_.is_writable())))
    if (UnixCore* peer = stream_peer_.load(std::memory_order_acquire)) peer->queue_.notify(vfs::kPollOut | vfs::kPollWrNorm);
  return result;
}

// --- in place ---

Result<vfs::InPlaceEnd*> UnixCore::share_stream(vfs::OpContext& ctx, memory::MemoryFile& memory) {
  RefPtr<UnixCore> other = peer();
  if (type_ != kSockStream || !other || has_odd_state() || other->has_odd_state()) return err(kEOPNOTSUPP);
  if (shared_.is_shared()) return shared_.end();  // without the peer's lock, under which it may wait for its own process
  UnixCore *first = std::min(this, other.get()), *second = std::max(this, other.get());
  vfs::SleepGuard guard(ctx, first->write_lock_), other_guard(ctx, second->write_lock_);
  TRY(vfs::SharedHandle::share(memory, first->shared_, first->shared_side(), second->shared_, second->shared_side()));
  // Whoever makes it odd from now on sees that it is shared.
  if (has_odd_state() || other->has_odd_state()) leave_to_sentry();
  return shared_.end();
}

bool UnixCore::has_odd_state() const {
  return state_hint_.load() != static_cast<uint8_t>(State::kConnected) || receive_shut_.load() || send_shut_.load() || pass_cred.load() ||
         error_.load() != 0;
}

void UnixCore::leave_to_sentry() {
  input_.shared().set_odd();
  if (UnixCore* other = stream_peer_.load(std::memory_order_acquire)) other->input_.shared().set_odd();
  shared_.retire();
}

// --- messages ---

bool UnixCore::is_full() const {
  return message_count_.load(std::memory_order_relaxed) >= kMaxMessages ||
         message_bytes_.load(std::memory_order_relaxed) >= kMaxQueuedBytes;
}

Result<RefPtr<UnixCore>> UnixCore::datagram_target(vfs::OpContext& ctx, const SendArgs& args) {
  if (args.to && type_ == kSockDgram) {
    RefPtr<UnixCore> target = TRY(find_unix(ctx, *args.to));
    if (target->type_ != type_) return err(kEPROTOTYPE);
    return target;
  }
  RefPtr<UnixCore> target = peer();
  if (!target) return err(kENOTCONN);
  return target;
}

Result<size_t> UnixCore::send_message(vfs::OpContext& ctx, vfs::IoBuffer& src, SendArgs& args, size_t max_bytes) {
  if (send_shut_.load(std::memory_order_acquire)) return err(kEPIPE);
  RefPtr<UnixCore> target = TRY(datagram_target(ctx, args));
  const size_t n = src.remaining();
  if (n > std::min(max_bytes, kMaxQueuedBytes) - 32) return err(kEMSGSIZE);
  if (target->closed_.load(std::memory_order_acquire)) {
    if (type_ != kSockDgram) return err(kEPIPE);
    if (!args.to) (void)connect_datagram(nullptr);
    return err(kECONNREFUSED);
  }
  if (target->has_input_end()) return err(kEPIPE);
  {
    base::MutexLock lock(target->mu_);
    if (type_ == kSockDgram && target->peer_ && target->peer_.get() != this) return err(kEPERM);
  }
  if (target->is_full()) {
    args.wait_queue = type_ == kSockDgram ? &target->space_queue_ : nullptr;
    args.wait_holder = target;
    return err(kEAGAIN);
  }
  TRY(take_flight(args.control.files.size()));
  Message message;
  message.bytes.resize(n);
  size_t have = 0;
  while (have < n) {
    Result<size_t> got = src.get(message.bytes.data() + have, n - have);
    if (!got || *got == 0) {
      in_flight.fetch_sub(args.control.files.size());
      return err(got ? kEFAULT : got.error());
    }
    have += *got;
  }
  if (!args.control.cred && (pass_cred.load() || target->pass_cred.load())) args.control.cred = cred_of(ctx);
  message.control = std::exchange(args.control, {});
  message.from = name();
  {
    base::MutexLock lock(target->mu_);
    target->message_bytes_.fetch_add(n);
    target->message_count_.fetch_add(1);
    target->messages_.push_back(std::move(message));
  }
  target->queue_.notify(vfs::kPollIn | vfs::kPollRdNorm);
  return n;
}

void UnixCore::room_made(UnixCore* sender) {
  space_queue_.notify(vfs::kPollOut);
  std::vector<base::WeakRef<UnixCore>> blocked;
  {
    base::MutexLock lock(mu_);
    blocked.swap(blocked_senders_);
  }
  for (const auto& weak : blocked)
    if (RefPtr<UnixCore> core = weak.lock()) core->queue_.notify(vfs::kPollOut | vfs::kPollWrNorm);
  if (sender) sender->queue_.notify(vfs::kPollOut | vfs::kPollWrNorm);
}

Result<RecvResult> UnixCore::receive_message(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint32_t flags) {
  if (type_ == kSockSeqpacket && state_hint_.load() != static_cast<uint8_t>(State::kConnected)) return err(kENOTCONN);
  if (flags & kMsgOob) return err(kEOPNOTSUPP);
  const bool peek = (flags & kMsgPeek) != 0;
  vfs::SleepGuard guard(ctx, read_lock_);
  const bool ended = has_input_end();
  Message message;
  RefPtr<UnixCore> sender;
  {
    base::MutexLock lock(mu_);
    if (messages_.empty()) {
      if (const int32_t e = take_error(); e != 0) return err(static_cast<Errno>(e));
      return ended ? Result<RecvResult>(RecvResult{}) : err(kEAGAIN);
    }
    Message& front = messages_.front();
    if (peek) {
      message.bytes = front.bytes;
      message.from = front.from;
      message.control = hand_over(front.control, true);
    } else {
      message = std::move(front);
      messages_.pop_front();
      in_flight.fetch_sub(message.control.files.size());
      message_bytes_.fetch_sub(message.bytes.size());
      message_count_.fetch_sub(1);
    }
    sender = peer_;
  }
  // A message whose copy fails is lost, as in Linux.
  if (!peek) room_made(sender.get());
  RecvResult result;
  const size_t n = std::min(message.bytes.size(), dst.remaining());
  if (n != 0) {
    const size_t put = TRY(dst.put(message.bytes.data(), n));
    if (put < n) return err(kEFAULT);
  }
  result.bytes = n;
  if (n < message.bytes.size()) {
    result.flags |= kMsgTrunc;
    if (flags & kMsgTrunc) result.bytes = message.bytes.size();
  }
  if (type_ == kSockSeqpacket) result.flags |= kMsgEor;
  result.from = message.from;
  result.control = std::move(message.control);
  return result;
}

// --- end of life ---

void UnixCore::end_of_peer(bool with_reset) {
  if (with_reset) error_.store(static_cast<int32_t>(kECONNRESET));
  receive_shut_.store(true, std::memory_order_release);
  send_shut_.store(true, std::memory_order_release);
  leave_to_sentry();
  queue_.notify(vfs::kPollIn | vfs::kPollRdNorm | vfs::kPollOut | vfs::kPollHup | vfs::kPollRdHup);
}

Result<void> UnixCore::shutdown(vfs::OpContext& ctx, int32_t how) {
  if (how < 0 || how > 2) return err(kEINVAL);
  RefPtr<UnixCore> other;
  {
    base::MutexLock lock(mu_);
    if (type_ != kSockDgram && state_ == State::kNew) return err(kENOTCONN);
    if (type_ != kSockDgram) other = peer_;
  }
  const bool no_receive = how == 0 || how == 2, no_send = how == 1 || how == 2;
  if (no_receive) receive_shut_.store(true, std::memory_order_release);
  if (no_send) send_shut_.store(true, std::memory_order_release);
  leave_to_sentry();
  // What a stub is writing right now comes before the end.
  input_.shared().settle_briefly();
  if (other && type_ == kSockStream) other->input_.shared().settle(ctx);
  const vfs::PollMask all = vfs::kPollIn | vfs::kPollRdNorm | vfs::kPollOut | vfs::kPollHup | vfs::kPollRdHup;
  queue_.notify(all);
  space_queue_.notify(vfs::kPollOut);
  if (!other) return {};
  if (no_receive) other->send_shut_.store(true, std::memory_order_release);
  if (no_send) other->receive_shut_.store(true, std::memory_order_release);
  other->queue_.notify(all);
  return {};
}

void UnixCore::close() {
  std::deque<RefPtr<UnixCore>> waiting;
  RefPtr<UnixCore> other;
  vfs::Path path;
  std::string key;
  std::vector<RefPtr<vfs::FileDescription>> files;
  bool unread;
  {
    base::MutexLock lock(mu_);
    if (state_ == State::kClosed) return;
    set_state_locked(State::kClosed);
    closed_.store(true, std::memory_order_release);
    receive_shut_.store(true, std::memory_order_release);
    waiting.swap(backlog_);
    other = std::move(peer_);
    path = std::move(bound_path_);
    bound_path_ = {};
    key.swap(abstract_key_);
    unread = !messages_.empty() || !input_.is_empty();
    for (Record& r : records_) std::move(r.control.files.begin(), r.control.files.end(), std::back_inserter(files));
    for (Message& m : messages_) std::move(m.control.files.begin(), m.control.files.end(), std::back_inserter(files));
    records_.clear();
    messages_.clear();
  }
  unbind_name(*this, path, key);
  for (const RefPtr<UnixCore>& core : waiting) {
    if (UnixCore* client = core->stream_peer_.load()) client->error_.store(static_cast<int32_t>(kECONNRESET));
    core->close();
  }
  if (other && type_ != kSockDgram) other->end_of_peer(unread);
  room_made(nullptr);
  queue_.notify(vfs::kPollHup | vfs::kPollIn | vfs::kPollOut);
  bury(std::move(files));
}

// --- what others ask ---

vfs::PollMask UnixCore::readiness() {
  vfs::PollMask mask = 0;
  if (error_.load(std::memory_order_relaxed) != 0) mask |= vfs::kPollErr;
  const bool no_input = has_input_end(), no_output = send_shut_.load(std::memory_order_acquire);
  if (no_input) mask |= vfs::kPollRdHup | vfs::kPollIn | vfs::kPollRdNorm;
  if (no_input && no_output) mask |= vfs::kPollHup;
  const auto state = static_cast<State>(state_hint_.load(std::memory_order_acquire));
  if (state == State::kListening) return backlog_count_.load() != 0 ? mask | vfs::kPollIn | vfs::kPollRdNorm : mask;
  const bool input = type_ == kSockStream ? !input_.is_empty() : message_count_.load(std::memory_order_acquire) != 0;
  if (input) mask |= vfs::kPollIn | vfs::kPollRdNorm;
  if (type_ != kSockDgram && state == State::kNew) mask |= vfs::kPollHup;
  bool room = true;
  if (type_ == kSockStream) {
    if (UnixCore* peer = stream_peer_.load(std::memory_order_acquire))
      room = peer->input_.is_writable() && peer->record_count_.load() < kMaxRecords;
  } else if (RefPtr<UnixCore> target = peer()) {
    room = !target->is_full();
    if (!room && type_ == kSockDgram) {
      base::MutexLock lock(target->mu_);
      if (target->blocked_senders_.size() < 1024) target->blocked_senders_.emplace_back(*this);
    }
  }
  if (room) mask |= vfs::kPollOut | vfs::kPollWrNorm | vfs::kPollWrBand;
  return mask;
}

SocketAddress UnixCore::name() const {
  base::MutexLock lock(mu_);
  SocketAddress a = name_;
  if (a.length == 0) {
    a.length = 2;
    a.bytes[0] = kAfUnix;
  }
  return a;
}

bool UnixCore::is_listening() const {
  return state_hint_.load(std::memory_order_acquire) == static_cast<uint8_t>(State::kListening);
}

RefPtr<UnixCore> UnixCore::peer() const {
  base::MutexLock lock(mu_);
  return peer_;
}

Result<SocketAddress> UnixCore::peer_name() const {
  RefPtr<UnixCore> p = peer();
  if (!p) return err(kENOTCONN);
  return p->name();
}

Result<PeerCred> UnixCore::peer_cred() const {
  base::MutexLock lock(mu_);
  if (!has_peer_cred_) return err(kENODATA);
  return peer_cred_;
}

int32_t UnixCore::readable_bytes() const {
  if (type_ == kSockStream) return static_cast<int32_t>(input_.used());
  base::MutexLock lock(mu_);
  if (type_ == kSockSeqpacket) return static_cast<int32_t>(message_bytes_.load());
  return messages_.empty() ? 0 : static_cast<int32_t>(messages_.front().bytes.size());
}

int32_t UnixCore::unsent_bytes() const {
  RefPtr<UnixCore> p = peer();
  if (!p) return 0;
  if (type_ == kSockStream) return static_cast<int32_t>(p->input_.used());
  return static_cast<int32_t>(p->message_bytes_.load());
}

std::vector<UnixCore::Listing> UnixCore::list() {
  std::vector<Listing> out;
  for (const RefPtr<UnixCore>& core : all_cores()) {
    const SocketAddress a = core->name();
    std::string name(reinterpret_cast<const char*>(a.bytes.data()) + 2, a.length - 2);
    if (!name.empty() && name[0] == '\0') {
      for (char& c : name)
        if (c == '\0') c = '@';
    } else {
      name.resize(std::min(name.size(), name.find('\0')));
    }
    const auto state = static_cast<State>(core->state_hint_.load());
    if (state == State::kClosed) continue;
    out.push_back({core->inode_number, core->type_, state == State::kListening, state == State::kConnected, std::move(name)});
  }
  return out;
}

}  // namespace sentry::net
