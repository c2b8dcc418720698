// SPDX-License-Identifier: Apache-2.0
// The table: every family once. Rows are placed by number at start-up of the process (constant initialisation of an
// array of pointers would need all handlers in one place).
#include <array>

#include "base/core/check.h"
#include "sentry/syscalls/dispatch.h"

namespace sentry::syscalls {

// One line per family, in alphabetical order; families.inc is nothing but X(name) lines.

#define X(family) extern const std::span<const SyscallRow> k_##family##_family;
#include "sentry/syscalls/families.inc"
#undef X

namespace {

constexpr size_t kTableSize = 512;

struct Table {
  std::array<const SyscallRow*, kTableSize> rows{};
  Table() {
#define X(family) add(k_##family##_family);
#include "sentry/syscalls/families.inc"
#undef X
  }
  void add(std::span<const SyscallRow> family) {
    for (const SyscallRow& row : family) {
      CHECK(row.number < kTableSize && rows[row.number] == nullptr);
      rows[row.number] = &row;
    }
  }
};

const Table& table() {
  static const Table t;
  return t;
}

}  // namespace

const SyscallRow* find_row(uint64_t number) { return number < kTableSize ? table().rows[number] : nullptr; }

const char* syscall_name(uint64_t number) {
  switch (number) {
#define SYSCALL(nr, name) \
  case nr: return #name;
#include "abi/syscalls/amd64.def"
#undef SYSCALL
    default: return nullptr;
  }
}

}  // namespace sentry::syscalls
