// SPDX-License-Identifier: Apache-2.0
#include "platform/systrap/zygote.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/core/check.h"
#include "platform/common/vdso.h"
#include "platform/filters/stub_filter.h"
#include "platform/systrap/stub/blob.h"

namespace platform::systrap {
namespace {

constexpr uint64_t kBoardFilter = 0x1000;  // where the BPF program is in the zygote's unit

uint64_t random_below(uint64_t limit) {
  uint64_t value = 0;
  CHECK(getrandom(&value, sizeof value, 0) == sizeof value);
  return value % limit;
}

static_assert(kFdHostFile == filters::kFirstHostFileFd && kHostFiles == filters::kHostFileFds);

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

// The layout of the kernel's rt_sigaction.
struct KernelSigaction {
  uint64_t handler, flags, restorer, mask;
};

base::Result<base::UniqueFd> receive_fd(int socket) {
  char byte;
  iovec iov = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr msg = {};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  ssize_t n;
  do n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  cmsghdr* c = n == 1 ? CMSG_FIRSTHDR(&msg) : nullptr;
  if (!c || c->cmsg_type != SCM_RIGHTS) return base::err(abi::Errno::kEIO);
  int fd;
  std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
  return base::UniqueFd(fd);
}

// In the zygote, whose descriptors are no longer the sentry's: the exit status is all that it can say.
void must(bool ok, int status) {
  if (!ok) _exit(status);
}

void map_fixed(uint64_t address, uint64_t size, int prot, int flags, int fd, uint64_t offset) {
  must(mmap(pointer(address), size, prot, flags | MAP_FIXED, fd, static_cast<off_t>(offset)) != MAP_FAILED, 10);
}

}  // namespace

base::HostResult<void> Zygote::choose_layout() {
  // The corner lies in the last terabytes below the host's stack; the text window under it.
  constexpr uint64_t kTop = 0x7f00'0000'0000, kSpread = uint64_t{1} << 40, kAlign = 0x20'0000, kGiB = uint64_t{1} << 30;
  for (int tries = 0; tries < 64 && !layout_.area; ++tries) {
    uint64_t at = (kTop - random_below(kSpread)) & ~(kAlign - 1);
    // Free in the sentry now means free in the zygote, which first runs the sentry's code.
    void* p = mmap(pointer(at), kAreaSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == MAP_FAILED) continue;
    munmap(p, kAreaSize);
    if (p == pointer(at)) layout_.area = at;
  }
  if (!layout_.area) return base::HostErr(base::HostError::plain("systrap: no room for the stub"));
  // Not near the corner, where the guest's stack and mappings begin.
  uint64_t window = (layout_.area - 2 * kSpread + random_below(kSpread)) & ~(kAlign - 1);
  layout_.zones.window = {abi::Addr(window), abi::Addr(window + 2 * kGiB - kHighZoneSize)};
  layout_.zones.high = {layout_.zones.window.end, abi::Addr(window + 2 * kGiB)};
  layout_.zones.low = {abi::Addr(kLowZone), abi::Addr(kLowZone + kLowZoneSize)};

  FILE* maps = fopen("/proc/self/maps", "re");
  uint64_t elf = getauxval(AT_SYSINFO_EHDR);
  if (!maps || !elf) {
    if (maps) fclose(maps);
    return {};  // the guest gets no vDSO of the host's
  }
  char line[512];
  while (fgets(line, sizeof line, maps)) {
    HostRange range;
    if ((strstr(line, "[vvar") || strstr(line, "[vdso]")) && sscanf(line, "%lx-%lx", &range.start, &range.end) == 2)
      vdso_parts_.push_back(range);
  }
  fclose(maps);
  if (vdso_parts_.empty()) return {};
  vdso_start_ = vdso_parts_.front().start;
  uint64_t length = vdso_parts_.back().end - vdso_start_;
  if (length > kVdsoRoom || elf < vdso_start_ || elf >= vdso_start_ + length) {
    vdso_parts_.clear();
    return {};
  }
  uint64_t at = layout_.area + kVdsoOffset;
  layout_.vdso = {abi::Addr(at), abi::Addr(at + length)};
  layout_.vdso_elf = abi::Addr(at + (elf - vdso_start_));
  if (uint64_t offset = vdso_symbol(elf, "__vdso_clock_gettime"); offset != 0 && offset < length)
    layout_.vdso_clock_gettime = layout_.vdso_elf.value() + offset;
  return {};
}

base::HostResult<base::UniqueFd> Zygote::start(const PlatformConfig& config) {
  if (auto r = choose_layout(); !r) return base::HostErr(r.error());
  filters::ZygoteKey key;
  CHECK(getrandom(&key, sizeof key, 0) == sizeof key);
  std::vector<sock_filter> filter = filters::build_stub_filter(layout_.text(), key);
  CHECK(filter.size() * sizeof(sock_filter) <= kBoardBoot - kBoardFilter);
  std::memcpy(control_.at<char>(kZygoteFileOffset + kBoardFilter), filter.data(), filter.size() * sizeof(sock_filter));
  std::memcpy(control_.at<char>(kTextFileOffset), kStubImage, kStubImageSize);
  auto* boot = control_.at<ZygoteBoot>(kZygoteFileOffset + kBoardBoot);
  const TrampolineZones& z = layout_.zones;
  *boot = {layout_.area, filter.size(), layout_.area + kZygoteOffset + kBoardFilter,
           {{z.high.start.value(), z.high.length(), kHighZoneFile}, {z.low.start.value(), z.low.length(), kLowZoneFile}},
           {key.first, key.second}};

  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return base::HostErr(base::HostError::from_errno("socketpair"));
  base::UniqueFd ours(pair[0]), theirs(pair[1]);
  pid_ = fork();
  if (pid_ < 0) return base::HostErr(base::HostError::from_errno("fork"));
  if (pid_ == 0) run_child(config, theirs.get());
  setpgid(pid_, pid_);
  theirs.reset();
  base::Result<base::UniqueFd> listener = receive_fd(ours.get());
  if (!listener) {
    ::kill(pid_, SIGKILL);
    return base::HostErr(base::HostError::plain("systrap: the zygote did not start (seccomp user notification needed)"));
  }
  return std::move(*listener);
}

void Zygote::move_vdso() {
  for (const HostRange& part : vdso_parts_) {
    uint64_t to = layout_.vdso.start.value() + (part.start - vdso_start_);
    uint64_t size = part.end - part.start;
    must(mremap(pointer(part.start), size, size, MREMAP_MAYMOVE | MREMAP_FIXED, pointer(to)) != MAP_FAILED, 11);
  }
}

void Zygote::map_child() {
  const uint64_t area = layout_.area;
  map_fixed(layout_.text(), kTextSize, PROT_READ | PROT_EXEC, MAP_SHARED, kFdControlReadOnly, kTextFileOffset);
  map_fixed(area + kDoorbellOffset, kBoardPages * abi::kPageSize, PROT_READ, MAP_SHARED, kFdControlReadOnly, kDoorbellFileOffset);
  map_fixed(area + kZygoteOffset, kUnitSize, PROT_READ | PROT_WRITE, MAP_SHARED, kFdControl, kZygoteFileOffset);
}

// In the zygote. Only plain calls: the sentry's locks may be held by threads that do not exist here.
void Zygote::run_child(const PlatformConfig& config, int socket) {
  const auto* header = reinterpret_cast<const StubHeader*>(kStubImage);
  setpgid(0, 0);
  must(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, 13);
  prctl(PR_SET_NAME, "stub");
  prctl(PR_SET_DUMPABLE, 0);
  rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);

  struct {
    int from, to;
  } fds[] = {{config.memory_fd, kFdMemory},
             {config.memory_fd_ro, kFdMemoryReadOnly},
             {control_.fd(), kFdControl},
             {socket, kFdBootSocket},
             {control_.fd_read_only(), kFdControlReadOnly}};
  for (auto& fd : fds) must((fd.from = fcntl(fd.from, F_DUPFD, 64)) >= 0, 14);
  for (auto& fd : fds) must(dup3(fd.from, fd.to, O_CLOEXEC) == fd.to, 15);
  must(close_range(kFdListener, kFdListener, 0) == 0 && close_range(kFdControlReadOnly + 1, ~0u, 0) == 0, 16);

  map_child();
  move_vdso();
  uint64_t mask = ~uint64_t{0};
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, 8);
  const int handled[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, kInterruptSignal};
  for (int sig : handled) {
    // SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_RESTORER, everything blocked in the handler
    KernelSigaction action = {layout_.text() + header->signal_entry, SA_SIGINFO | SA_ONSTACK | SA_RESTART | 0x0400'0000,
                              layout_.text() + header->signal_return, ~uint64_t{0}};
    must(syscall(SYS_rt_sigaction, sig, &action, nullptr, 8) == 0, 17);
  }
  // Signals stay blocked: none is to find the zygote's registers in a stub that just started.
  // The host kernel must not write to addresses that will be the guest's.
  syscall(SYS_set_tid_address, nullptr);
  syscall(SYS_set_robust_list, nullptr, 24);
  if (__rseq_size) {
    auto* rseq_area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
    syscall(SYS_rseq, rseq_area, 32, 1 /* RSEQ_FLAG_UNREGISTER */, RSEQ_SIG);
  }
  uint64_t stack = layout_.area + kZygoteOffset + kUnitSize - 64;
  uint64_t entry = layout_.text() + header->zygote_entry;
  uint64_t argument = layout_.area + kZygoteOffset + kBoardBoot;
  asm volatile("mov %0, %%rsp\n\tjmp *%1" : : "r"(stack), "r"(entry), "D"(argument) : "memory");
  __builtin_unreachable();
}

// --- Requests ---

void Zygote::request() {
  base::MutexLock lock(mu_);
  request_locked();
}

void Zygote::request_locked() {
  if (requested_ - taken_ >= 64) return;
  base::Result<uint64_t> unit = control_.allocate_unit();
  if (!unit) return;
  ZygoteBoard* board = control_.board();
  board->unit[requested_ % 64] = *unit;
  __atomic_store_n(&board->requested, ++requested_, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &board->requested, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

unsigned Zygote::outstanding() {
  base::MutexLock lock(mu_);
  return requested_ - taken_;
}

base::Result<Zygote::Fork> Zygote::take() {
  base::MutexLock lock(mu_);
  if (requested_ == taken_) request_locked();
  if (requested_ == taken_) return base::err(abi::Errno::kENOMEM);
  ZygoteBoard* board = control_.board();
  for (;;) {
    uint32_t completed = __atomic_load_n(&board->completed, __ATOMIC_ACQUIRE);
    if (completed != taken_) break;
    if (closed_) return base::err(abi::Errno::kEAGAIN);
    timespec timeout = {0, 100'000'000};
    syscall(SYS_futex, &board->completed, FUTEX_WAIT, completed, &timeout, nullptr, 0);
  }
  uint32_t at = taken_++ % 64;
  if (board->pid[at] < 0) {
    control_.free_unit(board->unit[at]);
    return base::err(board->pid[at] == -ENOMEM ? abi::Errno::kENOMEM : abi::Errno::kEAGAIN);
  }
  return Fork{board->pid[at], board->unit[at]};
}

}  // namespace platform::systrap
