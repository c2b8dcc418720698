// SPDX-License-Identifier: Apache-2.0
#include "platform/common/instruction.h"

#include <catch2/catch.hpp>
#include <string_view>
#include <vector>

#include "platform/common/patch_site.h"

using namespace platform;
using Bytes = std::vector<uint8_t>;

namespace {

struct Case {
  const char* text;
  Bytes bytes;
  Flow flow = Flow::kNext;
};

// As GNU as writes them.
const Case kCases[] = {
    {"syscall", {0x0f, 0x05}},
    {"cmp $-4095,%rax", {0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff}},
    {"ja .+2", {0x77, 0x00}},
    {"ja near", {0x0f, 0x87, 0, 0, 0, 0}},
    {"mov 0x8(%rsp),%r9", {0x4c, 0x8b, 0x4c, 0x24, 0x08}},
    {"mov %fs:0x10,%rax", {0x64, 0x48, 0x8b, 0x04, 0x25, 0x10, 0, 0, 0}},
    {"mov 0x1aea50(%rip),%eax", {0x8b, 0x05, 0x50, 0xea, 0x1a, 0x00}},
    {"movabs $imm64,%rax", {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}},
    {"movabs moffs,%al", {0xa0, 1, 2, 3, 4, 5, 6, 7, 8}},
    {"mov $imm16,%ax", {0x66, 0xb8, 1, 2}},
    {"test $1,%dil", {0x40, 0xf6, 0xc7, 0x01}},
    {"not %eax", {0xf7, 0xd0}},
    {"test $imm32,%eax", {0xf7, 0xc0, 1, 2, 3, 4}},
    {"imul $imm32,%rbx,%rax", {0x48, 0x69, 0xc3, 1, 2, 3, 4}},
    {"movups %xmm0,0x2d8(%rbx)", {0x0f, 0x11, 0x83, 0xd8, 0x02, 0, 0}},
    {"vmovdqu (%rdi),%ymm0", {0xc5, 0xfe, 0x6f, 0x07}},
    {"vpshufb (%rax),%xmm1,%xmm2", {0xc4, 0xe2, 0x71, 0x00, 0x10}},
    {"vpalignr $8,%ymm1,%ymm2,%ymm3", {0xc4, 0xe3, 0x6d, 0x0f, 0xd9, 0x08}},
    {"vzeroupper", {0xc5, 0xf8, 0x77}},
    {"vmovdqu64 (%rdi),%zmm16", {0x62, 0xe1, 0xfe, 0x48, 0x6f, 0x07}},
    {"pshufd $0,%xmm0,%xmm0", {0x66, 0x0f, 0x70, 0xc0, 0x00}},
    {"palignr $8,%xmm1,%xmm0", {0x66, 0x0f, 0x3a, 0x0f, 0xc1, 0x08}},
    {"lock cmpxchg %edx,(%rdi)", {0xf0, 0x0f, 0xb1, 0x17}},
    {"endbr64", {0xf3, 0x0f, 0x1e, 0xfa}},
    {"pause", {0xf3, 0x90}},
    {"xchg %r8,%rax", {0x49, 0x90}},
    {"call", {0xe8, 0, 0, 0, 0}},
    {"call *%rax", {0xff, 0xd0}},
    {"ret", {0xc3}, Flow::kNever},
    {"repz ret", {0xf3, 0xc3}, Flow::kNever},
    {"ret $8", {0xc2, 8, 0}, Flow::kNever},
    {"jmp short", {0xeb, 0xfe}, Flow::kNever},
    {"jmp near", {0xe9, 0, 0, 0, 0}, Flow::kNever},
    {"jmp *0x8(%rip)", {0xff, 0x25, 8, 0, 0, 0}, Flow::kNever},
    {"notrack jmp *%rax", {0x3e, 0xff, 0xe0}, Flow::kNever},
    {"ud2", {0x0f, 0x0b}, Flow::kNever},
    {"nop", {0x90}, Flow::kPadding},
    {"xchg %ax,%ax", {0x66, 0x90}, Flow::kPadding},
    {"nopl 0x0(%rax)", {0x0f, 0x1f, 0x40, 0x00}, Flow::kPadding},
    {"cs nopw 0x0(%rax,%rax,1)", {0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}, Flow::kPadding},
    {"int3", {0xcc}, Flow::kPadding},
};

Bytes join(std::initializer_list<Bytes> parts) {
  Bytes all;
  for (const Bytes& p : parts) all.insert(all.end(), p.begin(), p.end());
  return all;
}
const Bytes kRet = {0xc3}, kNop5 = {0x0f, 0x1f, 0x44, 0x00, 0x00}, kCompare = {0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff};

}  // namespace

TEST_CASE("instructions have the length that an assembler gave them") {
  for (const Case& c : kCases) {
    INFO(c.text);
    Bytes padded = c.bytes;
    padded.resize(padded.size() + 16, 0x90);
    const Instruction i = decode_instruction(padded);
    CHECK(i.length == c.bytes.size());
    CHECK(i.flow == c.flow);
    // Cut off anywhere it is not known.
    for (size_t n = 0; n < c.bytes.size(); ++n) {
      const Instruction cut = decode_instruction(std::span(c.bytes).first(n));
      CHECK(cut.length <= n);
    }
  }
}

TEST_CASE("what 64-bit mode does not have is not known") {
  for (const Bytes& bytes : {Bytes{0x06}, Bytes{0x9a, 0, 0, 0, 0, 0, 0}, Bytes{0x82, 0, 0}, Bytes{0x0f, 0x04}, Bytes{}, Bytes(15, 0x66)})
    CHECK(decode_instruction(bytes).length == 0);
}

TEST_CASE("a hole is padding that nothing runs into") {
  CHECK(hole_after_syscall(join({kCompare, kRet, kNop5})) == 7);
  // Reached from above: a loop's alignment.
  CHECK(hole_after_syscall(join({kCompare, kNop5, kRet})) == SIZE_MAX);
  // Too small, then one that fits; small pieces count together.
  CHECK(hole_after_syscall(join({kRet, {0x90, 0x90}, kCompare, kRet, {0x90, 0x66, 0x90, 0xcc, 0xcc}})) == 10);
  // The bytes of a hole inside another instruction are none.
  CHECK(hole_after_syscall(join({{0x48, 0xb8, 0xc3}, kNop5, {0, 0}, kRet, {0xf4}})) == SIZE_MAX);
  // Out of reach.
  CHECK(hole_after_syscall(join({Bytes(127, 0x50), kRet, kNop5})) == SIZE_MAX);
  CHECK(hole_after_syscall(join({Bytes(126, 0x50), kRet, kNop5})) == 127);
  // A function behind the return is none, and neither is what ends with the page.
  CHECK(hole_after_syscall(join({kRet, {0xf3, 0x0f, 0x1e, 0xfa, 0xc3}})) == SIZE_MAX);
  CHECK(hole_after_syscall(join({kRet, {0x90, 0x90, 0x90}})) == SIZE_MAX);
}
