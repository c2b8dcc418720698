// SPDX-License-Identifier: Apache-2.0
#include "sentry/strace/strace.h"

#include <fmt/format.h>

#include "base/log/log.h"

namespace sentry::strace {

namespace {

using syscalls::ArgKind;

constexpr size_t kMaxText = 160;

// Small numbers in decimal, what looks like an address in hex.
void append_number(fmt::memory_buffer& out, int64_t v) {
  auto o = std::back_inserter(out);
  if (v < 65536) {
    fmt::format_to(o, "{}", v);
  } else {
    fmt::format_to(o, "{:#x}", v);
  }
}

void append_cstring(fmt::memory_buffer& out, kernel::Task& task, uint64_t addr) {
  auto o = std::back_inserter(out);
  if (addr == 0) {
    fmt::format_to(o, "NULL");
    return;
  }
  auto text = task.user_memory().read_cstring(abi::Addr(addr), kMaxText);
  if (!text) {
    fmt::format_to(o, "{:#x}", addr);
    return;
  }
  out.push_back('"');
  for (char c : *text) {
    if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
      out.push_back(c);
    } else {
      fmt::format_to(o, "\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  out.push_back('"');
}

void append_arg(fmt::memory_buffer& out, kernel::Task& task, ArgKind kind, uint64_t v) {
  auto o = std::back_inserter(out);
  switch (kind) {
    case ArgKind::kNone: return;
    case ArgKind::kSigned:
    case ArgKind::kFd:
    case ArgKind::kPid:
    case ArgKind::kSigno: fmt::format_to(o, "{}", static_cast<int32_t>(v)); return;
    case ArgKind::kUnsigned:
    case ArgKind::kId: append_number(out, static_cast<int64_t>(v)); return;
    case ArgKind::kHex:
    case ArgKind::kPointer: fmt::format_to(o, "{:#x}", v); return;
    case ArgKind::kCString: append_cstring(out, task, v); return;
  }
}

void append_call(fmt::memory_buffer& out, kernel::Task& task, const syscalls::SyscallRow& row, const syscalls::Args& args) {
  fmt::format_to(std::back_inserter(out), "[{}] {} {}(", task.tid().value(), task.comm(), row.name);
  for (unsigned i = 0; i < row.arity; ++i) {
    if (i != 0) out.append(std::string_view(", "));
    append_arg(out, task, row.kinds[i], args[i]);
  }
  out.push_back(')');
}

}  // namespace

void log_enter(kernel::Task& task, const syscalls::SyscallRow& row, const syscalls::Args& args) {
  fmt::memory_buffer line;
  append_call(line, task, row, args);
  base::log_write(base::LogLevel::kDebug, {line.data(), line.size()});
}

void log_exit(kernel::Task& task, const syscalls::SyscallRow& row, const syscalls::Args& args,
              const base::Result<syscalls::SyscallReturn>& result) {
  fmt::memory_buffer line;
  auto out = std::back_inserter(line);
  fmt::format_to(out, "[{}] {} {} = ", task.tid().value(), task.comm(), row.name);
  if (!result) {
    fmt::format_to(out, "-1 {}", abi::errno_name(result.error()));
  } else if (result->kind == syscalls::SyscallReturn::Kind::kValue) {
    append_number(line, result->value);
  } else {
    fmt::format_to(out, "?");
  }
  base::log_write(base::LogLevel::kDebug, {line.data(), line.size()});
}

}  // namespace sentry::strace
