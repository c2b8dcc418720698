// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/stream_buffer.h"

#include <algorithm>
#include <utility>

namespace sentry::net {

using enum abi::Errno;
using base::err;
using base::Result;

Result<size_t> StreamBuffer::put_own(vfs::IoBuffer& src) {
  const uint64_t head = head_.load(std::memory_order_relaxed);
  const uint64_t used = head - tail_.load(std::memory_order_acquire);
  if (used >= kSize) return err(kEAGAIN);
  if (!ring_) ring_.reset(new uint8_t[kSize]);
  const size_t room = std::min<size_t>(kSize - used, src.remaining());
  return vfs::move_around(head, room, kSize, [&](uint64_t at, size_t n) { return src.get(ring_.get() + at, n); });
}

Result<StreamBuffer::Got> StreamBuffer::get_own(vfs::IoBuffer& dst, size_t limit, Keep keep) {
  const uint64_t tail = tail_.load(std::memory_order_relaxed);
  const uint64_t used = head_.load(std::memory_order_acquire) - tail;
  if (used == 0) return err(kEAGAIN);
  limit = std::min<size_t>({limit, used, dst.remaining()});
  Got got;
  got.own = true;
  got.bytes = TRY(vfs::move_around(tail, limit, kSize, [&](uint64_t at, size_t n) { return dst.put(ring_.get() + at, n); }));
  if (keep == Keep::kYes) return got;
  tail_.store(tail + got.bytes, std::memory_order_release);
  got.made_room = used > kWritableLevel && used - got.bytes <= kWritableLevel;
  return got;
}

// --- both rings ---

Result<size_t> StreamBuffer::put(vfs::OpContext& ctx, vfs::IoBuffer& src, Lane lane) {
  pending_ = 0;
  if (!shared_.is_shared()) return pending_ = TRY(put_own(src));
  shared_.begin_put(ctx);
  if (!has_own()) shared_.set_behind(false);
  size_t done = 0;
  bool more = true;
  Result<size_t> part = size_t{0};
  if (lane == Lane::kAny && !shared_.is_behind()) {
    // What was counted as room: the reader may make more at any time.
    const size_t fits = std::min(shared_.room(), src.remaining());
    part = shared_.fill(src, fits);
    if (part) shared_.publish(done = *part);
    // Less than fits means that the rest of the guest's buffer is not there.
    more = part && done == fits;
  }
  if (more && src.remaining() != 0) {
    shared_.set_behind(true);
    part = put_own(src);
    if (part) pending_ = *part;
  }
  if (!part && done == 0) {
    shared_.end_put();
    return part;
  }
  return done + pending_;
}

void StreamBuffer::publish() {
  if (pending_ != 0) head_.store(head_.load(std::memory_order_relaxed) + std::exchange(pending_, 0), std::memory_order_release);
  if (shared_.is_shared()) shared_.end_put();
}

Result<StreamBuffer::Got> StreamBuffer::get(vfs::OpContext& ctx, vfs::IoBuffer& dst, size_t own_limit, Keep keep, Join join) {
  if (!shared_.is_shared()) return get_own(dst, own_limit, keep);
  shared_.begin_get(ctx);
  Result<Got> result = Got{};
  // As long as the own ring has bytes behind the shared one, nobody writes into that: what it has now comes before them.
  const bool more = join == Join::kYes && shared_.is_behind() && has_own();
  if (const size_t used = shared_.used(); used != 0) {
    const Result<size_t> bytes = shared_.peek(dst, used);
    if (bytes && keep == Keep::kNo) shared_.skip(*bytes);
    if (bytes) result->bytes = *bytes;
    else result = err(bytes.error());
    if (more && bytes && *bytes == used && dst.remaining() != 0) {
      if (Result<Got> rest = get_own(dst, own_limit, keep)) {
        rest->bytes += *bytes;
        result = rest;
      }
    }
  } else {
    result = get_own(dst, own_limit, keep);
  }
  shared_.end_get();
  if (result && result->own && !has_own()) shared_.take_back_behind([&] { return !has_own(); });
  return result;
}

}  // namespace sentry::net
