// SPDX-License-Identifier: Apache-2.0
// membarrier(2). The private commands stop every running thread of the process once, which is a full barrier (and
// serialises their instruction streams) on each.
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

enum : int32_t {
  kQuery = 0, kPrivateExpedited = 8, kRegisterPrivateExpedited = 16, kPrivateExpeditedSyncCore = 32,
  kRegisterPrivateExpeditedSyncCore = 64, kGetRegistrations = 512,
};
constexpr int32_t kSupported = kPrivateExpedited | kRegisterPrivateExpedited | kPrivateExpeditedSyncCore |
                               kRegisterPrivateExpeditedSyncCore | kGetRegistrations;

}  // namespace

Result<int32_t> sys_membarrier(Task& task, int32_t command, uint32_t flags, int32_t cpu) {
  if (flags != 0) return err(kEINVAL);
  uint64_t& registered = task.mm().membarrier_registrations;
  switch (command) {
    case kQuery: return kSupported;
    case kRegisterPrivateExpedited:
    case kRegisterPrivateExpeditedSyncCore:
      registered |= static_cast<uint64_t>(command);
      return 0;
    case kPrivateExpedited:
    case kPrivateExpeditedSyncCore:
      // The bit of the registration is the next one up.
      if ((registered & (static_cast<uint64_t>(command) << 1)) == 0) return err(kEPERM);
      task.mm().platform_space().interrupt_running();
      return 0;
    case kGetRegistrations: return static_cast<int32_t>(registered);
    default: return err(kEINVAL);
  }
}

SYSCALL_FAMILY(membarrier) = {
    ROW(membarrier, kPartial, "the private commands; the global ones are not offered"),
};
SYSCALL_FAMILY_END(membarrier);

}  // namespace sentry::syscalls
