// SPDX-License-Identifier: Apache-2.0
// Native asynchronous I/O: io_setup(2) and kin, fs/aio.c. Operations are carried out while they are submitted, as Linux does it
// with files that are not opened for direct I/O; what is left is to hand out their events.
//
// A context lives as long as the mapping that its id is the address of. The ring in that mapping has no magic number, which
// tells libaio to ask for events by system call.
#include <algorithm>
#include <deque>
#include <map>

#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/memory/page_cache.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

constexpr uint32_t kMaxEvents = 65536;  // fs.aio-max-nr, for the sandbox
enum : uint16_t { kCmdPread = 0, kCmdPwrite = 1, kCmdFsync = 2, kCmdFdsync = 3, kCmdPreadv = 7, kCmdPwritev = 8 };
constexpr uint32_t kFlagResFd = 1, kFlagIoPrio = 2;

struct Iocb {
  uint64_t data = 0;
  uint32_t key = 0;
  int32_t rw_flags = 0;
  uint16_t opcode = 0;
  int16_t reqprio = 0;
  int32_t fd = 0;
  uint64_t buf = 0, nbytes = 0;
  int64_t offset = 0;
  uint64_t reserved2 = 0;
  uint32_t flags = 0;
  int32_t resfd = 0;
};
static_assert(sizeof(Iocb) == 64);
constexpr uint64_t kKeyAt = 8;

struct IoEvent {
  uint64_t data = 0, obj = 0;
  int64_t res = 0, res2 = 0;
};

struct AioContext final : public base::RefCounted {
  explicit AioContext(uint32_t events) : max_events(events) {}
  ~AioContext() override { events_in_use().fetch_sub(max_events); }
  static std::atomic<uint32_t>& events_in_use() {
    static std::atomic<uint32_t> n{0};
    return n;
  }
  const uint32_t max_events;
  vfs::WaitQueue queue;
  base::Mutex mu{base::LockRank::kPipe};
  std::deque<IoEvent> events GUARDED_BY(mu);
  uint32_t taken GUARDED_BY(mu) = 0;  // of max_events: by events, and by operations under way
  bool destroyed GUARDED_BY(mu) = false;
};

using Registry = base::Guarded<std::map<const void*, RefPtr<AioContext>>>;
Registry& registry() {  // by the object that is mapped at the id
  static Registry& r = *new Registry(base::LockRank::kLeaf);
  return r;
}

// Held by the mapping of the ring.
class AioRing final : public memory::MappedFile {
 public:
  explicit AioRing(RefPtr<memory::Mappable> object) : object_(std::move(object)) {}
  ~AioRing() override {
    RefPtr<AioContext> gone;
    registry().with([&](auto& map) {
      auto it = map.find(object_.get());
      if (it == map.end()) return;
      gone = std::move(it->second);
      map.erase(it);
    });
  }
  Identity mapped_identity() const override { return {"/[aio] (deleted)", {}, 0}; }

 private:
  const RefPtr<memory::Mappable> object_;  // so that the key is not used again before it is out of the registry
};

Result<RefPtr<AioContext>> find_context(Task& task, Addr id) {
  auto key = task.mm().futex_key(id, false);
  if (!key || key->offset != 0) return err(kEINVAL);
  RefPtr<AioContext> context = registry().with([&](auto& map) {
    auto it = map.find(key->object);
    return it == map.end() ? nullptr : it->second;
  });
  if (!context) return err(kEINVAL);
  return context;
}

uint64_t ring_length(uint32_t events) {
  constexpr uint64_t kHeader = 32;
  return (kHeader + uint64_t{events} * sizeof(IoEvent) + abi::kPageSize - 1) & ~(abi::kPageSize - 1);
}

// What the operation did, as its event says; or why it cannot be submitted.
Result<int64_t> carry_out(Task& task, vfs::FileDescription& file, const Iocb& cb) {
  const bool reads = cb.opcode == kCmdPread || cb.opcode == kCmdPreadv, writes = cb.opcode == kCmdPwrite || cb.opcode == kCmdPwritev;
  if (cb.opcode == kCmdFsync || cb.opcode == kCmdFdsync) {
    if (cb.buf || cb.offset || cb.nbytes || cb.rw_flags) return err(kEINVAL);
    Result<void> done = file.fsync(task, cb.opcode == kCmdFdsync);
    return done ? 0 : -static_cast<int64_t>(done.error());
  }
  if (!reads && !writes) return err(kEINVAL);
  if (cb.rw_flags != 0) return err(kEOPNOTSUPP);
  if (reads ? !file.is_readable() : !file.is_writable()) return err(kEBADF);
  std::optional<uint64_t> at;
  if (file.is_seekable()) {
    if (cb.offset < 0) return err(kEINVAL);
    at = static_cast<uint64_t>(cb.offset);
    if (writes && (file.status_flags() & vfs::kO_APPEND)) at = vfs::FileDescription::kAtEnd;
  }
  std::vector<vfs::IoVec> vecs{{Addr(cb.buf), std::min<uint64_t>(cb.nbytes, kMaxRwCount)}};
  if (cb.opcode == kCmdPreadv || cb.opcode == kCmdPwritev) vecs = TRY(read_iovec(task, Addr(cb.buf), cb.nbytes));
  vfs::UserIoBuffer buffer(task.user_memory(), std::move(vecs));
  const Result<size_t> n = reads ? read_file(task, file, buffer, at, policy_of(file)) : write_file(task, file, buffer, at, policy_of(file));
  if (n) return static_cast<int64_t>(*n);
  // aio_complete_rw(): it is not the submitter's call that would be restarted.
  return -static_cast<int64_t>(n.error() == kERESTARTSYS ? kEINTR : n.error());
}

Result<RefPtr<vfs::FileDescription>> result_eventfd(Task& task, const Iocb& cb) {
  if (!(cb.flags & kFlagResFd)) return RefPtr<vfs::FileDescription>();
  auto file = TRY(get_open_file(task, Fd(cb.resfd)));
  if (!fs::eventfd::is_eventfd(*file)) return err(kEINVAL);
  return file;
}

// io_submit_one() once there is room for its event.
Result<void> submit_reserved(Task& task, AioContext& context, Addr user, const Iocb& cb) {
  auto file = TRY(get_open_file(task, Fd(cb.fd)));
  RefPtr<vfs::FileDescription> signal = TRY(result_eventfd(task, cb));
  const uint32_t key = 0;
  TRY(task.user_memory().copy_out(user + kKeyAt, &key, sizeof key));
  const int64_t res = TRY(carry_out(task, *file, cb));
  {
    base::MutexLock lock(context.mu);
    context.events.push_back({cb.data, user.value(), res, 0});
  }
  context.queue.notify(vfs::kPollIn);
  if (signal) fs::eventfd::signal_eventfd(*signal);
  return {};
}

Result<void> submit(Task& task, AioContext& context, Addr user) {
  const Iocb cb = TRY(task.read(UserIn<Iocb>(user)));
  if (cb.reserved2 != 0 || (cb.flags & ~(kFlagResFd | kFlagIoPrio)) != 0) return err(kEINVAL);
  if (static_cast<int64_t>(cb.nbytes) < 0) return err(kEINVAL);
  {
    base::MutexLock lock(context.mu);
    if (context.destroyed) return err(kEINVAL);
    if (context.taken >= context.max_events) return err(kEAGAIN);
    ++context.taken;
  }
  Result<void> done = submit_reserved(task, context, user, cb);
  if (!done) {
    base::MutexLock lock(context.mu);
    --context.taken;
  }
  return done;
}

// read_events()
Result<int64_t> get_events(Task& task, Addr id, int64_t least, int64_t most, Addr out, vfs::Deadline deadline) {
  RefPtr<AioContext> context = TRY(find_context(task, id));
  if (least < 0 || least > most) return err(kEINVAL);
  int64_t done = 0;
  Result<void> failed;
  const auto take = [&] {
    while (done < most) {
      IoEvent event;
      {
        base::MutexLock lock(context->mu);
        if (context->events.empty()) return done >= least || context->destroyed;
        event = context->events.front();
        context->events.pop_front();
        --context->taken;
      }
      failed = task.user_memory().copy_out(out + static_cast<uint64_t>(done) * sizeof event, &event, sizeof event);
      if (!failed) return true;
      ++done;
    }
    return true;
  };
  const Result<void> waited = vfs::wait_until(task, context->queue, vfs::kPollIn, deadline, take);
  if (done != 0) return done;
  TRY(failed);
  if (!waited && waited.error() != kETIMEDOUT) return err(kEINTR);
  return 0;
}

Result<vfs::Deadline> read_wait(Task& task, UserIn<abi::TimeSpec64> user) {
  if (user.is_null()) return vfs::Deadline{};
  // timespec64_to_ktime(): not validated, and what is past is not waited for.
  const abi::TimeSpec64 t = TRY(task.read(user));
  constexpr int64_t kSecond = 1'000'000'000, kMost = INT64_MAX / kSecond / 4;
  const int64_t ns = std::clamp(t.sec, -kMost, kMost) * kSecond + std::clamp(t.nsec, -kMost * kSecond, kMost * kSecond);
  return vfs::Deadline(task.now_monotonic() + ns);
}

}  // namespace

Result<void> sys_io_setup(Task& task, uint32_t events, UserInOut<uint64_t> id) {
  if (TRY(task.read(id)) != 0 || events == 0) return err(kEINVAL);
  if (events > 0x10000000 / sizeof(IoEvent)) return err(kEINVAL);  // ioctx_alloc()
  if (events > kMaxEvents) return err(kEAGAIN);
  if (AioContext::events_in_use().fetch_add(events) + events > kMaxEvents) {
    AioContext::events_in_use().fetch_sub(events);
    return err(kEAGAIN);
  }
  auto context = base::make_ref<AioContext>(events);
  auto pages = base::make_ref<memory::PageCache>(task.kernel().memory(), memory::MemoryKind::kAnonymous, nullptr, false);
  mm::MmapOptions options;
  options.length = ring_length(events);
  options.prot = {true, true, false};
  options.sharing = mm::Sharing::kShared;
  options.object = pages;
  pages->set_size(options.length);
  const void* key = pages.get();
  registry().with([&](auto& map) { map[key] = std::move(context); });
  options.file = base::make_ref<AioRing>(pages);
  const Addr at = TRY(task.mm().mmap(options));
  constexpr int32_t kDontFork = 10;
  TRY(task.mm().madvise(at, options.length, kDontFork));
  Result<void> written = task.write(id, at.value());
  if (!written) (void)task.mm().munmap(at, options.length);
  return written;
}

Result<void> sys_io_destroy(Task& task, Addr id) {
  RefPtr<AioContext> context = TRY(find_context(task, id));
  {
    base::MutexLock lock(context->mu);
    if (std::exchange(context->destroyed, true)) return err(kEINVAL);
  }
  context->queue.notify(vfs::kPollIn);
  return task.mm().munmap(id, ring_length(context->max_events));
}

Result<int64_t> sys_io_submit(Task& task, Addr id, int64_t count, Addr list) {
  if (count < 0) return err(kEINVAL);
  RefPtr<AioContext> context = TRY(find_context(task, id));
  count = std::min<int64_t>(count, context->max_events);
  for (int64_t done = 0; done < count; ++done) {
    Result<uint64_t> user = task.read(UserIn<uint64_t>(list + static_cast<uint64_t>(done) * sizeof(uint64_t)));
    Result<void> submitted = user ? submit(task, *context, Addr(*user)) : err(user.error());
    if (!submitted) return done != 0 ? Result<int64_t>(done) : err(submitted.error());
  }
  return count;
}

Result<int64_t> sys_io_getevents(Task& task, Addr id, int64_t least, int64_t most, Addr out, UserIn<abi::TimeSpec64> timeout) {
  return get_events(task, id, least, most, out, TRY(read_wait(task, timeout)));
}

Result<int64_t> sys_io_pgetevents(Task& task, Addr id, int64_t least, int64_t most, Addr out, UserIn<abi::TimeSpec64> timeout,
                                  Addr user_mask) {
  struct MaskArgument {
    uint64_t mask = 0, size = 0;
  };
  MaskArgument mask;
  if (user_mask.value() != 0) mask = TRY(task.read(UserIn<MaskArgument>(user_mask)));
  const vfs::Deadline deadline = TRY(read_wait(task, timeout));
  if (mask.mask != 0) {
    if (mask.size != sizeof(abi::SigSet)) return err(kEINVAL);
    task.set_temporary_mask(TRY(task.read(UserIn<abi::SigSet>(Addr(mask.mask)))));
  }
  return get_events(task, id, least, most, out, deadline);
}

// Nothing is under way that could be cancelled.
Result<void> sys_io_cancel(Task& task, Addr id, Addr iocb, Addr) {
  const uint32_t key = TRY(task.read(UserIn<uint32_t>(iocb + kKeyAt)));
  if (key != 0) return err(kEINVAL);
  TRY(find_context(task, id));
  return err(kEINVAL);
}

SYSCALL_FAMILY(aio) = {
    ROW(io_setup, kFull, ""),
    ROW(io_destroy, kFull, ""),
    ROW(io_submit, kPartial, "operations are done at submission; no IOCB_CMD_POLL, no RWF_ flags"),
    ROW(io_getevents, kFull, ""),
    ROW(io_pgetevents, kFull, ""),
    ROW(io_cancel, kFull, ""),
};
SYSCALL_FAMILY_END(aio);

}  // namespace sentry::syscalls
