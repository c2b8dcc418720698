// SPDX-License-Identifier: Apache-2.0
// User copies: the only place where the sentry touches guest bytes.
//
// UNSAFE: pointers come from MemoryFile::bytes() for pages that a piece holds a reference on; active_mu (shared) keeps
// the piece for as long as the pointer is used, or a reference of our own does. Guests change the bytes
// meanwhile: they are copied once and never interpreted here.
#include <cstring>

#include "sentry/mm/impl.h"

namespace sentry::mm {

using enum abi::Errno;
using Impl = MemoryManager::Impl;
using memory::Access;
using memory::HostSegment;

namespace {

constexpr size_t kMaxSegments = 16;

bool permits(const Piece& p, Impl::Want want) {
  switch (want) {
    case Impl::Want::kRead: return (p.flags & kGuestBits) != 0;
    case Impl::Want::kWrite: return p.is_writable();
    case Impl::Want::kForceWrite: return !p.has(kCow) && (!p.has(kShared) || p.has(kNotified));
  }
  return false;
}

// Host bytes at `addr`, at most `max`, if the piece there allows it: active_mu held shared.
std::span<uint8_t> view_active(Impl& m, uint64_t addr, size_t max, Impl::Want want) {
  const Piece* p = m.pieces.find_const(addr);
  if (!p || !permits(*p, want)) return {};
  return m.file.bytes(p->offset_of(addr), std::min<uint64_t>(max, p->end - addr));
}

// Calls f(bytes, position) on consecutive runs until n bytes are done or f says false. Returns bytes done; EFAULT only when
// that is none.
template <typename F>
base::Result<size_t> for_bytes(Impl& m, uint64_t addr, size_t n, Impl::Want want, F&& f) {
  size_t done = 0;
  if (n != 0 && addr + n < addr) n = -addr;  // what follows the wrap is not there anyway
  while (done < n) {
    {
      base::ReadLock lock(m.active_mu);
      for (;;) {
        std::span<uint8_t> bytes = view_active(m, addr + done, n - done, want);
        if (bytes.empty()) break;
        bool more = f(bytes, done);
        done += bytes.size();
        if (!more || done == n) return done;
      }
    }
    if (!m.resolve(addr + done, want, Impl::MapIt::kNo)) break;
  }
  if (done == 0 && n != 0) return base::err(kEFAULT);
  return done;
}

base::Result<void> all_or_fault(base::Result<size_t> done, size_t n) {
  if (!done) return base::err(done.error());
  if (*done != n) return base::err(kEFAULT);
  return {};
}

}  // namespace

base::Result<size_t> MemoryManager::copy_in_partial(void* dst, Addr src, size_t n) {
  return for_bytes(*impl_, src.value(), n, Impl::Want::kRead, [dst](std::span<uint8_t> bytes, size_t at) {
    memcpy(static_cast<uint8_t*>(dst) + at, bytes.data(), bytes.size());
    return true;
  });
}

base::Result<size_t> MemoryManager::copy_out_partial(Addr dst, const void* src, size_t n) {
  return for_bytes(*impl_, dst.value(), n, Impl::Want::kWrite, [src](std::span<uint8_t> bytes, size_t at) {
    memcpy(bytes.data(), static_cast<const uint8_t*>(src) + at, bytes.size());
    return true;
  });
}

base::Result<void> MemoryManager::copy_in(void* dst, Addr src, size_t n) {
  return all_or_fault(copy_in_partial(dst, src, n), n);
}

base::Result<void> MemoryManager::copy_out(Addr dst, const void* src, size_t n) {
  return all_or_fault(copy_out_partial(dst, src, n), n);
}

base::Result<size_t> MemoryManager::zero_out(Addr dst, size_t n) {
  return for_bytes(*impl_, dst.value(), n, Impl::Want::kWrite, [](std::span<uint8_t> bytes, size_t) {
    memset(bytes.data(), 0, bytes.size());
    return true;
  });
}

base::Result<std::string> MemoryManager::read_cstring(Addr src, size_t max) {
  std::string s;
  bool ended = false;
  auto done = for_bytes(*impl_, src.value(), max + 1, Impl::Want::kRead, [&](std::span<uint8_t> bytes, size_t) {
    // Copied first and searched after: the guest may change it in between.
    for (size_t at = 0; at < bytes.size() && !ended;) {
      char copy[256];
      const size_t step = std::min(sizeof copy, bytes.size() - at);
      memcpy(copy, bytes.data() + at, step);
      at += step;
      const size_t length = strnlen(copy, step);
      s.append(copy, length);
      ended = length != step;
    }
    return !ended;
  });
  if (!done) return base::err(done.error());
  if (ended) return s;
  return base::err(*done == max + 1 ? kENAMETOOLONG : kEFAULT);
}

base::Result<size_t> MemoryManager::read_cstring_into(std::span<char> dst, Addr src) {
  size_t length = 0;
  bool ended = false;
  auto done = for_bytes(*impl_, src.value(), dst.size(), Impl::Want::kRead, [&](std::span<uint8_t> bytes, size_t at) {
    // Copied first and searched after: the guest may change it in between.
    memcpy(dst.data() + at, bytes.data(), bytes.size());
    const size_t n = strnlen(dst.data() + at, bytes.size());
    length = at + n;
    ended = n != bytes.size();
    return !ended;
  });
  if (!done) return base::err(done.error());
  if (ended) return length;
  return base::err(*done == dst.size() ? kENAMETOOLONG : kEFAULT);
}

base::Result<size_t> MemoryManager::with_segments(
    Addr addr, size_t n, Access access,
    base::FunctionRef<base::Result<size_t>(std::span<const HostSegment>)> f) {
  Impl& m = *impl_;
  auto want = access == Access::kWrite ? Impl::Want::kWrite : Impl::Want::kRead;
  HostSegment segments[kMaxSegments];
  FileRange pins[kMaxSegments];
  size_t count = 0, done = 0;
  while (done < n && count < kMaxSegments) {
    uint64_t at = addr.value() + done;
    {
      base::ReadLock lock(m.active_mu);
      const Piece* p = m.pieces.find_const(at);
      if (p && permits(*p, want)) {
        std::span<uint8_t> bytes = m.file.bytes(p->offset_of(at), std::min<uint64_t>(n - done, p->end - at));
        uint64_t start = round_down(p->offset_of(at), kPageSize);
        pins[count] = {start, round_up(p->offset_of(at) + bytes.size(), kPageSize) - start};
        m.file.add_ref(pins[count]);
        segments[count++] = {bytes.data(), bytes.size()};
        done += bytes.size();
        continue;
      }
    }
    if (!m.resolve(at, want, Impl::MapIt::kNo)) break;
  }
  if (count == 0 && n != 0) return base::err(kEFAULT);
  auto used = f({segments, count});
  for (size_t i = 0; i < count; ++i) m.file.drop_ref(pins[i]);
  return used;
}

namespace {

template <typename F>
auto with_word(Impl& m, Addr addr, Impl::Want want, F&& f) -> base::Result<decltype(f(nullptr))> {
  if (addr.value() % 4 != 0) return base::err(kEINVAL);
  for (int attempt = 0; attempt < 8; ++attempt) {
    {
      base::ReadLock lock(m.active_mu);
      std::span<uint8_t> bytes = view_active(m, addr.value(), 4, want);
      if (bytes.size() == 4) return f(reinterpret_cast<uint32_t*>(bytes.data()));
    }
    if (!m.resolve(addr.value(), want, Impl::MapIt::kNo)) return base::err(kEFAULT);
  }
  return base::err(kEFAULT);
}

}  // namespace

base::Result<uint32_t> MemoryManager::load_u32(Addr addr) {
  return with_word(*impl_, addr, Impl::Want::kRead, [](uint32_t* p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); });
}

base::Result<bool> MemoryManager::cas_u32(Addr addr, uint32_t& expected, uint32_t desired) {
  return with_word(*impl_, addr, Impl::Want::kWrite, [&](uint32_t* p) {
    return __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  });
}

base::Result<size_t> MemoryManager::force_read(Addr addr, std::span<uint8_t> dst) {
  Impl& m = *impl_;
  size_t done = 0;
  while (done < dst.size()) {
    uint64_t at = addr.value() + done;
    auto n = copy_in_partial(dst.data() + done, Addr(at), dst.size() - done);
    if (n) {
      done += *n;
      continue;
    }
    // PROT_NONE memory can be looked at: pages that exist, and zeros where none do.
    base::ReadLock mapping(m.mapping_mu);
    base::ReadLock active(m.active_mu);
    auto it = m.find_vma(at);
    if (it == m.vmas.end() || it->second.special || it->second.prot.any()) break;
    size_t step = std::min<uint64_t>(dst.size() - done, kPageSize - at % kPageSize);
    if (const Piece* p = m.pieces.find_const(at)) {
      memcpy(dst.data() + done, m.file.data(p->offset_of(at)), step);
    } else if (it->second.object) {
      break;
    } else {
      memset(dst.data() + done, 0, step);
    }
    done += step;
  }
  if (done == 0 && !dst.empty()) return base::err(kEFAULT);
  return done;
}

base::Result<size_t> MemoryManager::force_write(Addr addr, std::span<const uint8_t> src) {
  return for_bytes(*impl_, addr.value(), src.size(), Impl::Want::kForceWrite,
                   [src](std::span<uint8_t> bytes, size_t at) {
                     memcpy(bytes.data(), src.data() + at, bytes.size());
                     return true;
                   });
}

}  // namespace sentry::mm
