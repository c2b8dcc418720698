// SPDX-License-Identifier: Apache-2.0
// Finds the functions of an image that contain `cpuid`. Its bytes alone do not tell an instruction from a part of another one, or from data;
// the unwinding table (.eh_frame) says where functions begin and end, and from there the platform walks through instructions.
//
// Everything in the file is the guest's: each number is checked before it is used.
#include <algorithm>
#include <cstring>
#include <set>

#include "sentry/loader/elf.h"

namespace sentry::loader {
namespace {

constexpr uint32_t kPtLoad = 1, kPtGnuEhFrame = 0x6474'e550, kPfX = 1, kPfW = 2;
constexpr uint64_t kLargest = 1 << 20;  // of an image that is worth looking through

struct Function {
  uint64_t start = 0, end = 0;  // as the file numbers addresses
};

class Image {
 public:
  bool read(vfs::OpContext& ctx, const ElfImage& image) {
    uint64_t size = 0;
    for (const ElfSegment& s : image.segments) {
      if (s.type == kPtGnuEhFrame) index_ = s.vaddr;
      if (s.type != kPtLoad || (s.flags & kPfW) != 0) continue;
      if (s.filesz > kLargest || s.offset > kLargest) return false;
      loads_.push_back(s);
      size = std::max(size, s.offset + s.filesz);
      if ((s.flags & kPfX) != 0 && text_.filesz == 0) text_ = s;
    }
    if (index_ == 0 || text_.filesz == 0) return false;
    bytes_.resize(size);
    const auto n = read_at(ctx, *image.file, bytes_, 0);
    return n && *n == size;
  }

  const ElfSegment& text() const { return text_; }
  // Empty where the file has nothing for all of it.
  std::span<const uint8_t> at(uint64_t address, uint64_t length) const {
    for (const ElfSegment& s : loads_) {
      if (address < s.vaddr || address - s.vaddr > s.filesz || length > s.filesz - (address - s.vaddr)) continue;
      return std::span(bytes_).subspan(s.offset + (address - s.vaddr), length);
    }
    return {};
  }
  template <typename T>
  T value(uint64_t address) const {
    T v{};
    const auto from = at(address, sizeof v);
    if (!from.empty()) memcpy(&v, from.data(), sizeof v);
    return v;
  }

  // The function around an address, by the search table of .eh_frame_hdr. Empty: none.
  Function function_around(uint64_t address) const {
    // Version 1, and the encodings that every linker writes: addresses relative to where they stand, a table of 32-bit offsets from its start.
    constexpr uint32_t kUsual = 0x3b031b01;
    constexpr uint64_t kTable = 12, kEntry = 8;
    if (value<uint32_t>(index_) != kUsual) return {};
    uint64_t low = 0, high = value<uint32_t>(index_ + 8);
    while (low < high) {
      const uint64_t middle = low + (high - low) / 2;
      const auto entry = at(index_ + kTable + middle * kEntry, kEntry);
      if (entry.empty()) return {};
      if (index_ + offset_at(index_ + kTable + middle * kEntry) <= address) low = middle + 1;
      else high = middle;
    }
    if (low == 0) return {};
    const uint64_t entry = index_ + kTable + (low - 1) * kEntry;
    Function f;
    f.start = index_ + offset_at(entry);
    const uint64_t description = index_ + offset_at(entry + 4);
    // length, common part, start relative to its own place, length of the function
    if (description + 8 + offset_at(description + 8) != f.start) return {};
    f.end = f.start + value<uint32_t>(description + 12);
    return address < f.end ? f : Function{};
  }

 private:
  uint64_t offset_at(uint64_t address) const { return static_cast<uint64_t>(int64_t{value<int32_t>(address)}); }

  std::vector<ElfSegment> loads_;
  ElfSegment text_;
  uint64_t index_ = 0;
  std::vector<uint8_t> bytes_;
};

}  // namespace

void speed_up_cpuid(vfs::OpContext& ctx, mm::MemoryManager& mm, const ElfImage& image, uint64_t bias) {
  const auto is_text = [](const ElfSegment& s) { return s.type == kPtLoad && (s.flags & kPfX) != 0; };
  const auto text = std::find_if(image.segments.begin(), image.segments.end(), is_text);
  if (text == image.segments.end()) return;
  const abi::Addr start = abi::Addr(bias + text->vaddr).page_down();
  if (!mm.takes_cpuid_patches(start)) return;
  Image file;
  if (!file.read(ctx, image)) return;
  const auto code = file.at(file.text().vaddr, file.text().filesz);
  std::vector<platform::PatchEdit> edits;
  std::set<uint64_t> done;
  for (size_t i = 0; i + 1 < code.size(); ++i) {
    if (code[i] != 0x0f || code[i + 1] != 0xa2) continue;
    const Function f = file.function_around(file.text().vaddr + i);
    if (f.end == 0 || !done.insert(f.start).second) continue;
    mm.platform().plan_cpuid(file.at(f.start, f.end - f.start), abi::Addr(bias + f.start), edits);
  }
  mm.patch_cpuid(start, edits);
}

}  // namespace sentry::loader
