// SPDX-License-Identifier: Apache-2.0
// The mount tree of a container, from its config.
#pragma once

#include "abi/oci/sandbox_config.h"
#include "base/host/host_error.h"
#include "gofer/client/client.h"
#include "sentry/kernel/kernel.h"
#include "sentry/vfs/mount.h"

namespace sentry::boot {

// Runs on a kernel fiber. Errors name the mount.
base::HostResult<base::RefPtr<vfs::MountNamespace>> build_mounts(kernel::Kernel& kernel, vfs::OpContext& fiber,
                                                                 creds::CredPtr root_creds,
                                                                 const abi::oci::Container& config,
                                                                 base::RefPtr<gofer::Client> gofer);

}  // namespace sentry::boot
