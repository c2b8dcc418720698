// SPDX-License-Identifier: Apache-2.0
// HostError: what went wrong on the host side (CLI, gofer server, boot), with a message for a person.
// HostResult<T> is used where no guest is involved; a host errno becomes a guest Errno only in
// guest_errno_from_host(), through an allow-list.
#pragma once

#include <expected>
#include <string>

#include "abi/linux/errno.h"
#include "base/core/result.h"

namespace base {

struct HostError {
  int host_errno = 0;   // 0 when no system call failed
  std::string message;  // "open /a/b: No such file or directory"

  // errno now, with `what` in front.
  static HostError from_errno(std::string what);
  static HostError from_errno(std::string what, int host_errno);
  static HostError plain(std::string message) { return {0, std::move(message)}; }
  // "context: message"
  HostError wrap(std::string_view context) &&;
};

template <typename T>
using HostResult = std::expected<T, HostError>;

using HostErr = std::unexpected<HostError>;

// The guest error for a failed host call; anything not listed becomes EIO.
abi::Errno guest_errno_from_host(int host_errno);

}  // namespace base
