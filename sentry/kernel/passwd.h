// SPDX-License-Identifier: Apache-2.0
// The container's own /etc/passwd, for what an OCI runtime takes from there: the HOME of a process whose environment has none.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sentry/vfs/op_context.h"

namespace sentry::kernel {

// The sixth field of the first line with this uid; "/" when there is none. The text is the image's: anything may be in it.
std::string home_in_passwd(std::string_view text, uint32_t uid);

// Reads /etc/passwd beneath the root of `ctx`, at most a megabyte of it.
std::string home_of(vfs::OpContext& ctx, uint32_t uid);

}  // namespace sentry::kernel
