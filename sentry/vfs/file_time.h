// SPDX-License-Identifier: Apache-2.0
// The times that changes give a file, in ns since 1970. A write's is that of the clock's tick, as in Linux: what is written later in the tick changes no time, so that a stub may
// do it alone (docs/decisions/0045). Others are exact. Whatever is changed later never has the earlier time.
#pragma once

#include <cstdint>

#include "sentry/vfs/op_context.h"

namespace sentry::vfs {

int64_t exact_time(OpContext& ctx);
int64_t write_time();

}  // namespace sentry::vfs
