// SPDX-License-Identifier: Apache-2.0
// drivers/char/mem.c and random.c: null, zero, full, random, urandom.
#include <algorithm>
#include <sys/random.h>

#include "sentry/fs/dev/dev.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/memory/page_cache.h"
#include "sentry/vfs/devices.h"
#include "sentry/vfs/file_description.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr uint32_t kNull = 3, kZero = 5, kFull = 7, kRandom = 8, kUrandom = 9;
// A page cache has a size; no guest maps more than its address space.
constexpr uint64_t kEndlessSize = uint64_t{1} << 47;

class MemoryDevice final : public vfs::FileDescription {
 public:
  MemoryDevice(vfs::Path path, uint32_t flags, uint32_t minor) : FileDescription(std::move(path), flags), minor_(minor) {}

  Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst) override { return pread(ctx, dst, 0); }
  Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src) override { return pwrite(ctx, src, 0); }
  Result<size_t> pread(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t) override {
    switch (minor_) {
      case kNull: return size_t{0};
      case kZero:
      case kFull: return dst.put_zeros(dst.remaining());
      default: return read_random(ctx, dst);
    }
  }
  Result<size_t> pwrite(vfs::OpContext&, vfs::IoBuffer& src, uint64_t) override {
    if (minor_ == kFull) return err(kENOSPC);
    return src.remaining();
  }
  Endless endless() const override { return minor_ == kNull ? Endless::kNothing : minor_ == kZero ? Endless::kZeros : Endless::kNo; }
  bool is_seekable() const override { return true; }
  Result<uint64_t> seek(vfs::OpContext&, int64_t, int32_t) override { return uint64_t{0}; }
  Result<RefPtr<memory::Mappable>> mappable(vfs::OpContext& ctx) override {
    if (minor_ != kZero || !ctx.task()) return err(kENODEV);
    auto pages = base::make_ref<memory::PageCache>(ctx.task()->kernel().memory(), memory::MemoryKind::kAnonymous, nullptr,
                                                   false);
    pages->set_size(kEndlessSize);
    return RefPtr<memory::Mappable>(std::move(pages));
  }
  Result<int64_t> ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) override {
    constexpr uint32_t kRndGetEntCnt = 0x80045200;
    if (request != kRndGetEntCnt || (minor_ != kRandom && minor_ != kUrandom)) return err(kENOTTY);
    const int32_t bits = 256;
    TRY(ctx.user_memory().copy_out(abi::Addr(arg), &bits, sizeof bits));
    return 0;
  }
  Result<void> truncate(vfs::OpContext&, uint64_t) override { return err(kEINVAL); }

 private:
  static Result<size_t> read_random(vfs::OpContext& ctx, vfs::IoBuffer& dst) {
    uint8_t chunk[1024];
    size_t done = 0;
    while (dst.remaining() != 0) {
      const ssize_t n = getrandom(chunk, std::min(sizeof chunk, dst.remaining()), 0);
      if (n <= 0) return done != 0 ? Result<size_t>(done) : err(kEIO);
      Result<size_t> put = dst.put(chunk, static_cast<size_t>(n));
      if (!put) return done != 0 ? Result<size_t>(done) : put;
      done += *put;
      if (*put < static_cast<size_t>(n) || (done % (1 << 20) == 0 && ctx.interrupted())) break;
    }
    return done;
  }
  const uint32_t minor_;
};

Result<RefPtr<vfs::FileDescription>> open_memory_device(vfs::OpContext&, const vfs::Path& path, uint32_t flags,
                                                        abi::DeviceId device) {
  return RefPtr<vfs::FileDescription>(base::make_ref<MemoryDevice>(path, flags, device.minor));
}

}  // namespace

void register_memory_devices() {
  for (uint32_t minor : {kNull, kZero, kFull, kRandom, kUrandom})
    vfs::register_device({vfs::DeviceClass::kChar, 1, minor, 1, "mem", open_memory_device});
}

}  // namespace sentry::fs
