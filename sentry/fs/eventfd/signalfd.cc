// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/kernel/thread_group.h"

namespace sentry::fs::eventfd {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

// struct signalfd_siginfo.
struct SignalfdInfo {
  uint32_t signo = 0;
  int32_t error = 0, code = 0;
  uint32_t pid = 0, uid = 0;
  int32_t fd = 0;
  uint32_t tid = 0, band = 0, overrun = 0, trapno = 0;
  int32_t status = 0, int_value = 0;
  uint64_t ptr = 0, utime = 0, stime = 0, addr = 0;
  uint16_t addr_lsb = 0, pad0 = 0;
  int32_t syscall = 0;
  uint64_t call_addr = 0;
  uint32_t arch = 0;
  uint8_t pad1[28] = {};
};
static_assert(sizeof(SignalfdInfo) == 128);

// signalfd_copyinfo()
SignalfdInfo convert(const abi::SigInfo& info) {
  SignalfdInfo out;
  out.signo = static_cast<uint32_t>(info.signo);
  out.error = info.error;
  out.code = info.code;
  if (info.code == abi::kSI_TIMER) {
    out.tid = static_cast<uint32_t>(info.get<int32_t>(0));
    out.overrun = static_cast<uint32_t>(info.get<int32_t>(4));
    out.ptr = info.get<uint64_t>(8);
    out.int_value = info.get<int32_t>(8);
    return out;
  }
  if (info.code > 0 && (abi::kSIGSEGV == info.signo || abi::kSIGBUS == info.signo || abi::kSIGILL == info.signo ||
                        abi::kSIGFPE == info.signo)) {
    out.addr = info.address();
    return out;
  }
  out.pid = static_cast<uint32_t>(info.pid());
  out.uid = info.uid();
  if (info.signo == abi::kSIGCHLD && info.code > 0) {
    out.status = info.status();
    out.utime = info.get<uint64_t>(16);
    out.stime = info.get<uint64_t>(24);
  } else {
    out.ptr = info.value();
    out.int_value = info.get<int32_t>(8);
  }
  return out;
}

class SignalFile final : public vfs::FileDescription {
 public:
  static constexpr char kTag = 0;
  static constexpr const void* kKind = &kTag;
  SignalFile(vfs::Path path, uint32_t flags, RefPtr<kernel::ThreadGroup> group, abi::SigSet mask)
      : FileDescription(std::move(path), flags), group_(std::move(group)), mask_(mask.bits) {}
  const void* kind() const override { return kKind; }
  void set_mask(abi::SigSet mask) {
    mask_.store(mask.bits);
    group_->signal_queue().notify(vfs::kPollIn);
  }

  Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst) override {
    if (dst.remaining() < sizeof(SignalfdInfo)) return err(kEINVAL);
    if (!ctx.task()) return err(kEAGAIN);
    size_t done = 0;
    while (dst.remaining() >= sizeof(SignalfdInfo)) {
      std::optional<abi::SigInfo> info = ctx.task()->dequeue_signal({mask_.load()});
      if (!info) break;
      const SignalfdInfo out = convert(*info);
      Result<size_t> put = dst.put(&out, sizeof out);
      if (!put) return done != 0 ? Result<size_t>(done) : put;
      done += *put;
    }
    if (done == 0) return err(kEAGAIN);
    return done;
  }

  vfs::PollMask readiness(vfs::PollMask) override {
    abi::SigSet pending = group_->shared_pending();
    for (const RefPtr<kernel::Task>& t : group_->tasks()) pending = pending | t->pending_signals();
    return (pending.bits & mask_.load()) != 0 ? vfs::kPollIn | vfs::kPollRdNorm : 0;
  }
  vfs::WaitQueue* wait_queue() override { return &group_->signal_queue(); }

 private:
  const RefPtr<kernel::ThreadGroup> group_;
  std::atomic<uint64_t> mask_;
};

abi::SigSet without_unblockable(abi::SigSet mask) { return mask & ~abi::kUnblockableSignals; }

}  // namespace

RefPtr<vfs::FileDescription> make_signalfd(kernel::Task& task, abi::SigSet mask, uint32_t flags) {
  return base::make_ref<SignalFile>(vfs::make_anonymous_path("anon_inode:[signalfd]", 0600, task.creds()),
                                    vfs::kO_RDWR | (flags & vfs::kO_NONBLOCK),
                                    RefPtr<kernel::ThreadGroup>(task.thread_group()), without_unblockable(mask));
}

Result<void> set_signalfd_mask(vfs::FileDescription& file, abi::SigSet mask) {
  SignalFile* signal_file = file.as<SignalFile>();
  if (!signal_file) return err(kEINVAL);
  signal_file->set_mask(without_unblockable(mask));
  return {};
}

}  // namespace sentry::fs::eventfd
