// SPDX-License-Identifier: Apache-2.0
// MemoryManager: a guest address space. VMAs say what the guest asked for; pieces say which memory-file pages
// back them; the platform address space caches both.
//
// Locks, outermost first:
//   mapping_mu (kMmMapping, shared/exclusive): VMAs, brk, limits
//     active_mu (kMmActive): pieces
//       platform address space, memory file
// Faults take mapping_mu shared. Nothing here blocks the fiber except Mappable::translate of a host file.
//
// Copy-on-write needs no proof that another process has dropped a mapping: a page that was ever shared by fork is
// reused in place only when every other address space of the fork family is dead, and copied otherwise.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "platform/interface/platform.h"
#include "sentry/creds/limits.h"
#include "sentry/memory/mappable.h"
#include "sentry/memory/mapped_file.h"
#include "sentry/memory/memory_file.h"
#include "sentry/memory/user_memory.h"
#include "sentry/mm/trap_sites.h"

namespace sentry::mm {

using memory::MappedFile;

enum class Sharing : uint8_t { kPrivate, kShared };
enum class Placement : uint8_t { kAnywhere, kFixed, kFixedNoReplace };

struct MmapOptions {
  abi::Addr addr;
  uint64_t length = 0;
  abi::Prot prot;
  abi::Prot max_prot{true, true, true};  // a shared mapping of a file opened read-only may not become writable
  Sharing sharing = Sharing::kPrivate;
  Placement placement = Placement::kAnywhere;
  bool grows_down = false, locked = false, populate = false, no_reserve = false, stack = false;
  // Null: anonymous. For shared anonymous memory mm makes a page cache itself.
  base::RefPtr<memory::Mappable> object;
  base::RefPtr<MappedFile> file;
  uint64_t offset = 0;
  const char* name = nullptr;  // static text such as "[stack]"
};

// One line of /proc/PID/maps and smaps.
struct VmaInfo {
  abi::AddrRange range;
  abi::Prot prot;
  Sharing sharing = Sharing::kPrivate;
  uint64_t offset = 0;
  abi::DeviceId device;
  uint64_t inode = 0;
  std::string name;
  uint64_t rss = 0, anonymous = 0, locked = 0;
};

struct MmStats {
  uint64_t vsize = 0, rss = 0, rss_anon = 0, rss_file = 0, rss_shmem = 0, peak_rss = 0, peak_vsize = 0, data = 0,
           stack = 0, text = 0, locked = 0;
};

// What a fault was answered with when it could not be resolved.
struct FaultSignal {
  int32_t signo = 0;    // SIGSEGV or SIGBUS
  int32_t si_code = 0;  // SEGV_MAPERR, SEGV_ACCERR, BUS_ADRERR
};

class MemoryManager final : public base::RefCounted, public memory::UserMemory {
 public:
  // An empty address space with a platform address space of its own. ENOMEM, EAGAIN.
  static base::Result<base::RefPtr<MemoryManager>> create(memory::MemoryFile& file, platform::Platform& platform);
  // fork(2): a copy; private pages become copy-on-write on both sides.
  base::Result<base::RefPtr<MemoryManager>> fork();
  ~MemoryManager() override;

  platform::AddressSpace& platform_space();
  abi::Addr address_limit() const;  // one past the last guest address
  abi::Addr vdso_elf() const;       // AT_SYSINFO_EHDR; null when there is none

  // mmap(2) and kin. Errors as in the man pages; rlimits (AS, DATA, MEMLOCK, STACK) as set_limits() said last.
  base::Result<abi::Addr> mmap(const MmapOptions&);
  base::Result<void> munmap(abi::Addr addr, uint64_t length);
  base::Result<void> mprotect(abi::Addr addr, uint64_t length, abi::Prot prot, bool grows_down);
  base::Result<abi::Addr> mremap(abi::Addr old_addr, uint64_t old_size, uint64_t new_size, uint32_t flags, abi::Addr new_addr);
  base::Result<abi::Addr> brk(abi::Addr wanted);  // the current break when it cannot be moved
  base::Result<void> madvise(abi::Addr addr, uint64_t length, int32_t advice);
  base::Result<void> msync(abi::Addr addr, uint64_t length, int32_t flags);
  base::Result<void> mlock(abi::Addr addr, uint64_t length, bool on_fault);
  base::Result<void> munlock(abi::Addr addr, uint64_t length);
  base::Result<void> mlockall(int32_t flags);
  base::Result<void> munlockall();
  base::Result<std::vector<uint8_t>> mincore(abi::Addr addr, uint64_t length);  // at most 64 Ki pages per call

  // The guest will write there as soon as it runs (a new stack): spares it the fault.
  void prepare_write(abi::Addr addr);
  // A guest page fault. Success: mapped, run the guest again.
  std::expected<void, FaultSignal> handle_fault(abi::Addr addr, platform::AccessKind access);
  // A trapped system call at `site` (address after the instruction): patch its text if possible.
  void consider_patching(abi::Addr site);
  // Whether the text that is mapped from `text` on has a twin (text_patch.h), whose `cpuid` instructions nobody has seen to yet. True once.
  bool takes_cpuid_patches(abi::Addr text);
  // Makes those edits in it whose place is as they expect it.
  void patch_cpuid(abi::Addr text, std::span<const platform::PatchEdit> edits);

  // UserMemory. Follows VMA protections, faults pages in, breaks COW.
  base::Result<void> copy_in(void* dst, abi::Addr src, size_t n) override;
  base::Result<void> copy_out(abi::Addr dst, const void* src, size_t n) override;
  base::Result<size_t> copy_in_partial(void* dst, abi::Addr src, size_t n) override;
  base::Result<size_t> copy_out_partial(abi::Addr dst, const void* src, size_t n) override;
  base::Result<size_t> zero_out(abi::Addr dst, size_t n) override;
  base::Result<std::string> read_cstring(abi::Addr src, size_t max) override;
  base::Result<size_t> read_cstring_into(std::span<char> dst, abi::Addr src) override;
  base::Result<size_t> with_segments(abi::Addr addr, size_t n, memory::Access access,
                                     base::FunctionRef<base::Result<size_t>(std::span<const memory::HostSegment>)> f) override;
  base::Result<uint32_t> load_u32(abi::Addr addr) override;
  base::Result<bool> cas_u32(abi::Addr addr, uint32_t& expected, uint32_t desired) override;
  // shmdt(2): unmaps what is mapped of the file at `addr` as far as it goes on from there, if the file is wanted. EINVAL.
  base::Result<void> detach(abi::Addr addr, base::FunctionRef<bool(const MappedFile&)> is_wanted);
  // For ptrace, /proc/PID/mem and process_vm_writev: ignores page protections where Linux's FOLL_FORCE would.
  base::Result<size_t> force_read(abi::Addr addr, std::span<uint8_t> dst);
  base::Result<size_t> force_write(abi::Addr addr, std::span<const uint8_t> src);

  // What identifies a futex word across processes: {object or this mm, offset or address}. EFAULT.
  struct FutexKey {
    const void* object = nullptr;  // a Mappable (shared) or the MemoryManager (private); compared, never dereferenced
    uint64_t offset = 0;
    base::RefPtr<base::RefCounted> hold;  // keeps `object` alive while a waiter is queued
  };
  base::Result<FutexKey> futex_key(abi::Addr addr, bool is_private);

  // Set by the loader, shown by /proc/PID/{stat,auxv,cmdline,environ,exe}.
  struct Layout {
    abi::Addr brk_start, stack_top, code_start, code_end, data_start, data_end, arg_start, arg_end, env_start, env_end;
    std::vector<uint8_t> auxv;
    base::RefPtr<MappedFile> exe;
  };
  Layout layout() const;
  void set_layout(Layout);  // brk_start also starts the heap there
  base::RefPtr<MappedFile> exe() const;
  void set_exe(base::RefPtr<MappedFile>);

  void set_limits(const creds::LimitSet& limits);
  bool dumpable() const;
  void set_dumpable(bool);
  MmStats stats() const;
  std::vector<VmaInfo> vmas() const;
  uint64_t membarrier_registrations = 0;  // task-exclusive bits of membarrier(2)
  // For executables that ask for a place (PIE, interpreter): a free range of `length` where trampolines reach.
  abi::Addr pick_text_address(memory::Mappable& object, uint64_t length);
  platform::Platform& platform();
  // Callers with CAP_IPC_LOCK are not held to RLIMIT_MEMLOCK.
  void set_lock_exempt(bool exempt);

  struct Impl;

 private:
  template <typename T, typename... A>
  friend base::RefPtr<T> base::make_ref(A&&...);
  explicit MemoryManager(std::unique_ptr<Impl> impl);
  void populate(uint64_t start, uint64_t end);
  enum class Touch : uint8_t { kRead, kWrite };
  void map_at_once(uint64_t start, uint64_t end, Touch touch);
  void map_headers_before(uint64_t addr, const memory::Mappable& object);
  base::Result<void> remove_range(uint64_t start, uint64_t end);
  bool patch_private(uint64_t page, const platform::PatchPlan& plan);
  struct TextSite;
  bool patch_file(const TextSite& site, const platform::PatchPlan& plan);
  PatchOutcome try_patch(abi::Addr site, TextSite& text);
  void note_trap(abi::Addr site, const TextSite& text, PatchOutcome outcome);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sentry::mm
