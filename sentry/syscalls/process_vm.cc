// SPDX-License-Identifier: Apache-2.0
// process_vm_readv(2), process_vm_writev(2): mm/process_vm_access.c; process_madvise(2).
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/pid_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/file_io.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

constexpr size_t kStep = 64 << 10;

// __ptrace_may_access() with PTRACE_MODE_ATTACH_REALCREDS.
Result<RefPtr<mm::MemoryManager>> mm_of(Task& task, RefPtr<Task> target) {
  if (!target) return err(kESRCH);
  RefPtr<mm::MemoryManager> mm = target->mm_ref();
  if (!mm) return err(kESRCH);
  if (&target->thread_group() == &task.thread_group()) return mm;
  const creds::Credentials& mine = task.creds();
  const creds::CredPtr theirs = target->credentials();
  const bool same = mine.uid == theirs->euid && mine.uid == theirs->suid && mine.uid == theirs->uid &&
                    mine.gid == theirs->egid && mine.gid == theirs->sgid && mine.gid == theirs->gid;
  const bool capable = mine.has_cap_in(creds::Cap::kSYS_PTRACE, *theirs->user_ns);
  if ((!same || !mm->dumpable()) && !capable) return err(kEPERM);
  return mm;
}

Result<RefPtr<mm::MemoryManager>> mm_of(Task& task, Pid pid) {
  return mm_of(task, task.pid_namespace().find_task(Tid(pid.value())));
}

// Walks an iovec.
class Cursor {
 public:
  explicit Cursor(std::vector<vfs::IoVec> vecs) : vecs_(std::move(vecs)) { skip_empty(); }
  bool done() const { return index_ == vecs_.size(); }
  Addr addr() const { return vecs_[index_].addr; }
  uint64_t len() const { return vecs_[index_].len; }
  void advance(uint64_t n) {
    vecs_[index_].addr = vecs_[index_].addr + n;
    vecs_[index_].len -= n;
    skip_empty();
  }

 private:
  void skip_empty() {
    while (index_ < vecs_.size() && vecs_[index_].len == 0) ++index_;
  }
  std::vector<vfs::IoVec> vecs_;
  size_t index_ = 0;
};

// Copies until either side ends or faults; bytes copied, EFAULT only when that is none.
Result<size_t> transfer(Task& task, mm::MemoryManager& from_mm, Cursor from, mm::MemoryManager& to_mm, Cursor to) {
  std::vector<uint8_t> buffer(kStep);
  size_t total = 0;
  while (!from.done() && !to.done() && !task.interrupted()) {
    const size_t n = std::min({kStep, static_cast<size_t>(from.len()), static_cast<size_t>(to.len())});
    const Result<size_t> in = from_mm.copy_in_partial(buffer.data(), from.addr(), n);
    if (!in) return finish_io(total, in);
    const Result<size_t> out = to_mm.copy_out_partial(to.addr(), buffer.data(), *in);
    if (!out) return finish_io(total, out);
    total += *out;
    if (*out < n) break;
    from.advance(n);
    to.advance(n);
  }
  return total;
}

}  // namespace

Result<size_t> sys_process_vm_readv(Task& task, Pid pid, Addr local, uint64_t local_count, Addr remote,
                                    uint64_t remote_count, uint64_t flags) {
  if (flags != 0) return err(kEINVAL);
  std::vector<vfs::IoVec> to = TRY(read_iovec(task, local, local_count));
  std::vector<vfs::IoVec> from = TRY(read_iovec(task, remote, remote_count));
  RefPtr<mm::MemoryManager> target = TRY(mm_of(task, pid));
  return transfer(task, *target, Cursor(std::move(from)), task.mm(), Cursor(std::move(to)));
}

Result<size_t> sys_process_vm_writev(Task& task, Pid pid, Addr local, uint64_t local_count, Addr remote,
                                     uint64_t remote_count, uint64_t flags) {
  if (flags != 0) return err(kEINVAL);
  std::vector<vfs::IoVec> from = TRY(read_iovec(task, local, local_count));
  std::vector<vfs::IoVec> to = TRY(read_iovec(task, remote, remote_count));
  RefPtr<mm::MemoryManager> target = TRY(mm_of(task, pid));
  return transfer(task, task.mm(), Cursor(std::move(from)), *target, Cursor(std::move(to)));
}

// Advice that changes nothing but where pages are: process_madvise_behavior_valid().
Result<size_t> sys_process_madvise(Task& task, Fd pidfd, Addr iov, uint64_t count, int32_t advice, uint32_t flags) {
  constexpr int32_t kWillNeed = 3, kCold = 20, kPageOut = 21, kCollapse = 25;
  if (flags != 0) return err(kEINVAL);
  const std::vector<vfs::IoVec> vecs = TRY(read_iovec(task, iov, count));
  auto file = TRY(get_open_file(task, pidfd));
  auto* process = file->as<kernel::PidFile>();
  if (!process) return err(kEBADF);
  RefPtr<kernel::ThreadGroup> group = process->group();
  if (!group) return err(kESRCH);
  if (advice != kWillNeed && advice != kCold && advice != kPageOut && advice != kCollapse) return err(kEINVAL);
  RefPtr<mm::MemoryManager> target = TRY(mm_of(task, group->leader()));
  if (!task.creds().has_cap(creds::Cap::kSYS_NICE)) return err(kEPERM);
  size_t done = 0;
  for (const vfs::IoVec& v : vecs) {
    if (Result<void> advised = target->madvise(v.addr, v.len, advice); !advised)
      return done != 0 ? Result<size_t>(done) : err(advised.error());
    done += v.len;
  }
  return done;
}

SYSCALL_FAMILY(process_vm) = {
    ROW(process_vm_readv, kFull, ""),
    ROW(process_vm_writev, kFull, ""),
    ROW(process_madvise, kPartial, "hints are only checked"),
};
SYSCALL_FAMILY_END(process_vm);

}  // namespace sentry::syscalls
