// SPDX-License-Identifier: Apache-2.0
// ELF64 images: headers read and checked, segments mapped. Private to sentry/loader.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "abi/types/types.h"
#include "base/core/result.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/file_description.h"

namespace sentry::loader {

struct ElfHeader {
  uint8_t ident[16] = {};
  uint16_t type = 0, machine = 0;
  uint32_t version = 0;
  uint64_t entry = 0, phoff = 0, shoff = 0;
  uint32_t flags = 0;
  uint16_t ehsize = 0, phentsize = 0, phnum = 0, shentsize = 0, shnum = 0, shstrndx = 0;
};
static_assert(sizeof(ElfHeader) == 64);

struct ElfSegment {
  uint32_t type = 0, flags = 0;
  uint64_t offset = 0, vaddr = 0, paddr = 0, filesz = 0, memsz = 0, align = 0;
};
static_assert(sizeof(ElfSegment) == 56);

enum class ElfRole : uint8_t { kProgram, kInterpreter };  // the interpreter's faults are ELIBBAD

struct ElfImage {
  base::RefPtr<vfs::FileDescription> file;
  ElfHeader header;
  std::vector<ElfSegment> segments;
  std::optional<std::string> interpreter;
  bool executable_stack = false;  // also without PT_GNU_STACK, on x86-64
  bool is_dyn() const { return header.type == 3; }
};

// Where the image ended up.
struct MappedElf {
  abi::Addr entry, phdr;
  uint64_t bias = 0;
  abi::Addr code_start, code_end, data_start, data_end, end;
};

base::Result<ElfImage> parse_elf(vfs::OpContext& ctx, base::RefPtr<vfs::FileDescription> file, ElfRole role);
base::Result<MappedElf> map_elf(vfs::OpContext& ctx, mm::MemoryManager& mm, const ElfImage& image);

// Makes the `cpuid` instructions of a mapped image cheaper, where the platform can and the image was used before: a C library's
// dynamic linker executes dozens of them in each new process.
void speed_up_cpuid(vfs::OpContext& ctx, mm::MemoryManager& mm, const ElfImage& image, uint64_t bias);

// Up to dst.size() bytes of the file.
base::Result<size_t> read_at(vfs::OpContext& ctx, vfs::FileDescription& file, std::span<uint8_t> dst, uint64_t offset);

}  // namespace sentry::loader
