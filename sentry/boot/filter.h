// SPDX-License-Identifier: Apache-2.0
// The sentry's own seccomp policy: what a compromised sentry could still ask of the host.
#pragma once

#include "base/host/seccomp.h"
#include "platform/interface/platform.h"

namespace sentry::boot {

// `platform` adds what it needs at run time.
base::SeccompPolicy sentry_policy(const platform::PlatformFactory& platform);

}  // namespace sentry::boot
