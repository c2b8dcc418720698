// SPDX-License-Identifier: Apache-2.0
#include "platform/common/vdso.h"

#include <cstring>

#include <elf.h>

namespace platform {

uint64_t vdso_symbol(uint64_t image, const char* name) {
  // UNSAFE: the host kernel's own image, linked at 0 and mapped as one piece, is as it says.
  const auto* base = reinterpret_cast<const char*>(image);
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  const auto* programs = reinterpret_cast<const Elf64_Phdr*>(base + header->e_phoff);
  const Elf64_Dyn* dynamic = nullptr;
  for (int i = 0; i < header->e_phnum; ++i)
    if (programs[i].p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const Elf64_Dyn*>(base + programs[i].p_offset);
  const Elf64_Sym* symbols = nullptr;
  const char* strings = nullptr;
  for (; dynamic && dynamic->d_tag != DT_NULL; ++dynamic) {
    if (dynamic->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const Elf64_Sym*>(base + dynamic->d_un.d_ptr);
    if (dynamic->d_tag == DT_STRTAB) strings = base + dynamic->d_un.d_ptr;
  }
  if (!symbols || !strings) return 0;
  // The string table follows the symbols in every vDSO; its start bounds them whatever kind of hash there is.
  for (const Elf64_Sym* s = symbols; reinterpret_cast<const char*>(s + 1) <= strings; ++s)
    if (s->st_shndx != SHN_UNDEF && std::strcmp(strings + s->st_name, name) == 0) return s->st_value;
  return 0;
}

}  // namespace platform
