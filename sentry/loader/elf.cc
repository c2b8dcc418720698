// SPDX-License-Identifier: Apache-2.0
// fs/binfmt_elf.c of Linux is the specification of which error wins.
#include "sentry/loader/elf.h"

#include <algorithm>
#include <cstring>

namespace sentry::loader {

using base::err;
using base::RefPtr;
using base::Result;
using enum abi::Errno;

namespace {

constexpr uint16_t kTypeExec = 2, kTypeDyn = 3, kMachineX86_64 = 62;
constexpr uint32_t kPtLoad = 1, kPtInterp = 3, kPtPhdr = 6, kPtGnuStack = 0x6474e551;
constexpr uint32_t kPfX = 1, kPfW = 2, kPfR = 4;
constexpr size_t kMaxHeaders = 65536;  // ELF_MIN_ALIGN-independent cap of load_elf_phdrs()
constexpr size_t kPathMax = 4096;

// All of dst, or the error.
Result<void> read_exactly(vfs::OpContext& ctx, vfs::FileDescription& file, std::span<uint8_t> dst, uint64_t offset) {
  if (TRY(read_at(ctx, file, dst, offset)) != dst.size()) return err(kEIO);
  return {};
}

bool is_elf64(const ElfHeader& h) {
  return memcmp(h.ident, "\177ELF", 4) == 0 && h.ident[4] == 2 && h.ident[5] == 1 && h.machine == kMachineX86_64 &&
         (h.type == kTypeExec || h.type == kTypeDyn);
}

Result<std::vector<ElfSegment>> read_segments(vfs::OpContext& ctx, vfs::FileDescription& file, const ElfHeader& h) {
  const size_t bytes = size_t{h.phnum} * sizeof(ElfSegment);
  if (h.phentsize != sizeof(ElfSegment) || h.phnum == 0 || bytes > kMaxHeaders || h.phoff + bytes < h.phoff) return err(kENOEXEC);
  std::vector<ElfSegment> segments(h.phnum);
  auto* raw = static_cast<uint8_t*>(static_cast<void*>(segments.data()));
  if (!read_exactly(ctx, file, {raw, bytes}, h.phoff)) return err(kENOEXEC);
  return segments;
}

Result<std::string> read_interpreter(vfs::OpContext& ctx, vfs::FileDescription& file, const ElfSegment& s) {
  if (s.filesz > kPathMax || s.filesz < 2) return err(kENOEXEC);
  std::string path(s.filesz, '\0');
  TRY(read_exactly(ctx, file, {static_cast<uint8_t*>(static_cast<void*>(path.data())), path.size()}, s.offset));
  if (path.back() != '\0') return err(kENOEXEC);
  path.resize(strlen(path.c_str()));
  return path;
}

// Extent of all PT_LOADs, page-aligned: total_mapping_size().
Result<abi::AddrRange> load_span(const ElfImage& image, uint64_t limit) {
  uint64_t low = ~uint64_t{0}, high = 0;
  for (const ElfSegment& s : image.segments) {
    if (s.type != kPtLoad) continue;
    uint64_t end;
    if (__builtin_add_overflow(s.vaddr, s.memsz, &end) || end > limit) return err(kENOMEM);
    if (s.filesz > s.memsz) return err(kEINVAL);
    low = std::min(low, s.vaddr & ~uint64_t{abi::kPageSize - 1});
    high = std::max(high, end);
  }
  if (high == 0) return err(kEINVAL);
  auto top = abi::Addr(high).page_up();
  if (!top) return err(kENOMEM);
  return abi::AddrRange{abi::Addr(low), *top};
}

abi::Prot prot_of(uint32_t flags) { return {(flags & kPfR) != 0, (flags & kPfW) != 0, (flags & kPfX) != 0}; }

class Mapper {
 public:
  Mapper(mm::MemoryManager& mm, const ElfImage& image, RefPtr<memory::Mappable> object)
      : mm_(mm), image_(image), object_(std::move(object)) {}
  Result<MappedElf> run();

 private:
  Result<uint64_t> choose_bias(abi::AddrRange span);
  Result<void> map_segment(const ElfSegment& s);
  Result<void> map_anonymous(abi::AddrRange range, abi::Prot prot);
  void note_extent(const ElfSegment& s);

  mm::MemoryManager& mm_;
  const ElfImage& image_;
  const RefPtr<memory::Mappable> object_;
  MappedElf out_;
};

Result<uint64_t> Mapper::choose_bias(abi::AddrRange span) {
  if (!image_.is_dyn()) return uint64_t{0};
  // Segment alignment beyond a page (huge pages) is respected within reason.
  uint64_t align = abi::kPageSize;
  for (const ElfSegment& s : image_.segments)
    if (s.type == kPtLoad && (s.align & (s.align - 1)) == 0 && s.align > align && s.align <= (2u << 20)) align = s.align;
  const abi::Addr at = mm_.pick_text_address(*object_, span.length() + (align - abi::kPageSize));
  if (at.is_null()) return err(kENOMEM);
  const uint64_t base = (at.value() + align - 1) & ~(align - 1);
  return base - span.start.value();
}

Result<void> Mapper::map_anonymous(abi::AddrRange range, abi::Prot prot) {
  if (range.empty()) return {};
  mm::MmapOptions o;
  o.addr = range.start;
  o.length = range.length();
  o.prot = prot;
  o.placement = mm::Placement::kFixed;
  TRY(mm_.mmap(o));
  return {};
}

// elf_load(): the file's part, the zeroed rest of its last page, and anonymous pages behind.
Result<void> Mapper::map_segment(const ElfSegment& s) {
  const uint64_t start = s.vaddr + out_.bias;
  const abi::Addr page = abi::Addr(start).page_down();
  const uint64_t lead = start - page.value();
  const abi::Addr file_end = abi::Addr(start + s.filesz), end = abi::Addr(start + s.memsz);
  if (end > mm_.address_limit()) return err(kENOMEM);
  const abi::Prot prot = prot_of(s.flags);
  if (s.memsz == 0) return {};
  if (s.filesz == 0) return map_anonymous({page, *end.page_up()}, prot);
  if (s.offset < lead || (s.offset - lead) % abi::kPageSize != 0) return err(kEINVAL);
  mm::MmapOptions o;
  o.addr = page;
  o.length = s.filesz + lead;
  o.prot = prot;
  o.placement = image_.is_dyn() ? mm::Placement::kFixed : mm::Placement::kFixedNoReplace;
  o.object = object_;
  o.file = image_.file;
  o.offset = s.offset - lead;
  TRY(mm_.mmap(o));
  if (s.memsz == s.filesz) return {};
  const abi::Addr file_page_end = *file_end.page_up();
  if (prot.write && file_page_end > file_end) TRY(mm_.zero_out(file_end, file_page_end - file_end));
  if (end > file_page_end) TRY(map_anonymous({file_page_end, *end.page_up()}, prot));
  return {};
}

void Mapper::note_extent(const ElfSegment& s) {
  const abi::Addr start(s.vaddr + out_.bias), file_end(start + s.filesz), end(start + s.memsz);
  if ((s.flags & kPfX) && (out_.code_start.is_null() || start < out_.code_start)) out_.code_start = start;
  if ((s.flags & kPfX) && file_end > out_.code_end) out_.code_end = file_end;
  if (start > out_.data_start) out_.data_start = start;
  if (file_end > out_.data_end) out_.data_end = file_end;
  if (end > out_.end) out_.end = end;
  const ElfHeader& h = image_.header;
  if (out_.phdr.is_null() && s.offset <= h.phoff && h.phoff - s.offset < s.filesz) out_.phdr = start + (h.phoff - s.offset);
}

Result<MappedElf> Mapper::run() {
  const abi::AddrRange span = TRY(load_span(image_, mm_.address_limit().value()));
  out_.bias = TRY(choose_bias(span));
  if (image_.is_dyn()) {
    // The whole place at once, so that nothing else gets between the segments.
    mm::MmapOptions o;
    o.addr = abi::Addr(span.start.value() + out_.bias);
    o.length = span.length();
    o.placement = mm::Placement::kFixedNoReplace;
    TRY(mm_.mmap(o));
  }
  uint64_t previous = 0;
  std::vector<abi::AddrRange> covered;
  for (const ElfSegment& s : image_.segments) {
    if (s.type == kPtPhdr && out_.phdr.is_null()) out_.phdr = abi::Addr(s.vaddr + out_.bias);
    if (s.type != kPtLoad) continue;
    if (s.vaddr < previous) return err(kEINVAL);  // must ascend
    previous = s.vaddr;
    TRY(map_segment(s));
    note_extent(s);
    covered.push_back({abi::Addr(s.vaddr + out_.bias).page_down(), *abi::Addr(s.vaddr + out_.bias + s.memsz).page_up()});
  }
  if (image_.is_dyn()) {
    // Gaps of the reservation go back.
    abi::Addr at(span.start.value() + out_.bias);
    for (const abi::AddrRange& r : covered) {
      if (r.start > at) TRY(mm_.munmap(at, r.start - at));
      at = std::max(at, r.end);
    }
  }
  out_.entry = abi::Addr(image_.header.entry + out_.bias);
  if (out_.entry >= mm_.address_limit()) return err(kEINVAL);
  return out_;
}

}  // namespace

Result<size_t> read_at(vfs::OpContext& ctx, vfs::FileDescription& file, std::span<uint8_t> dst, uint64_t offset) {
  size_t done = 0;
  while (done < dst.size()) {
    vfs::KernelIoBuffer buffer(dst.subspan(done));
    const size_t n = TRY(file.pread(ctx, buffer, offset + done));
    if (n == 0) break;
    done += n;
  }
  return done;
}

Result<ElfImage> parse_elf(vfs::OpContext& ctx, RefPtr<vfs::FileDescription> file, ElfRole role) {
  const auto bad = role == ElfRole::kProgram ? kENOEXEC : kELIBBAD;
  ElfImage image;
  image.file = std::move(file);
  auto* raw = static_cast<uint8_t*>(static_cast<void*>(&image.header));
  const size_t n = TRY(read_at(ctx, *image.file, {raw, sizeof image.header}, 0));
  if (n != sizeof image.header) return err(role == ElfRole::kProgram ? kENOEXEC : kEIO);
  if (!is_elf64(image.header)) return err(bad);
  auto segments = read_segments(ctx, *image.file, image.header);
  if (!segments) return err(bad);
  image.segments = std::move(*segments);
  for (const ElfSegment& s : image.segments) {
    if (s.type == kPtGnuStack) image.executable_stack = (s.flags & kPfX) != 0;
    if (s.type == kPtInterp && role == ElfRole::kProgram && !image.interpreter)
      image.interpreter = TRY(read_interpreter(ctx, *image.file, s));
  }
  return image;
}

Result<MappedElf> map_elf(vfs::OpContext& ctx, mm::MemoryManager& mm, const ElfImage& image) {
  RefPtr<memory::Mappable> object = TRY(image.file->mappable(ctx));
  return Mapper(mm, image, std::move(object)).run();
}

}  // namespace sentry::loader
