// SPDX-License-Identifier: Apache-2.0
#include "base/host/program_pages.h"

#include <cstdint>

#include <link.h>
#include <sys/mman.h>

namespace base {

void drop_program_pages() {
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        constexpr uintptr_t kPage = 4096;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr)& segment = info->dlpi_phdr[i];
          // What was relocated is in segments that were writable: those pages are ours, and would come back as they are in the file.
          if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
          const uintptr_t start = (info->dlpi_addr + segment.p_vaddr) & ~(kPage - 1);
          const uintptr_t end = (info->dlpi_addr + segment.p_vaddr + segment.p_memsz + kPage - 1) & ~(kPage - 1);
          madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
        }
        return 1;  // the program itself comes first
      },
      nullptr);
}

}  // namespace base
