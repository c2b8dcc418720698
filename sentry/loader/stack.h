// SPDX-License-Identifier: Apache-2.0
// The initial stack: argc, argv, envp and the auxiliary vector, then the strings. Private to sentry/loader.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/core/result.h"
#include "sentry/creds/limits.h"
#include "sentry/mm/memory_manager.h"

namespace sentry::loader {

struct StackArgs {
  const std::vector<std::string>& argv;
  const std::vector<std::string>& envp;
  const std::string& filename;
  std::vector<std::pair<uint64_t, uint64_t>> auxv;  // without the entries that point into the stack
  creds::LimitSet limits;
  bool executable = false;
};

// Maps the stack, writes it, and fills the argument, environment and auxv fields of `layout`. The stack pointer.
base::Result<abi::Addr> build_stack(mm::MemoryManager& mm, const StackArgs& args, mm::MemoryManager::Layout& layout);

}  // namespace sentry::loader
