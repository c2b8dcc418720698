// SPDX-License-Identifier: Apache-2.0
// Result<T>: a value or a Linux error number; TRY: the early return.
#pragma once

#include <expected>
#include <type_traits>
#include <utility>

#include "abi/linux/errno.h"

namespace base {

template <typename T>
using Result = std::expected<T, abi::Errno>;

using Err = std::unexpected<abi::Errno>;

// Lets `return err(kENOENT);` be written for any Result<T>.
constexpr Err err(abi::Errno e) { return Err(e); }

}  // namespace base

namespace base::detail {
template <typename R>
constexpr decltype(auto) take(R&& r) {
  if constexpr (std::is_void_v<typename std::remove_cvref_t<R>::value_type>) {
    return;
  } else {
    return typename std::remove_cvref_t<R>::value_type(std::move(*r));
  }
}
}  // namespace base::detail

// Evaluates to the value, or returns the error from the enclosing function:
//   RefPtr<FileDescription> file = TRY(table.get(fd));
#define TRY(...)                                   \
  __extension__({                                  \
    auto&& try_result_ = (__VA_ARGS__);            \
    if (!try_result_.has_value()) [[unlikely]]     \
      return std::unexpected(try_result_.error()); \
    ::base::detail::take(try_result_);             \
  })
