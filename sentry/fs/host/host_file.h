// SPDX-License-Identifier: Apache-2.0
// Descriptors that the caller of runsc handed in: standard input, output and error. Reads and writes go to the host
// descriptor without ever blocking an executor; waiting is the reactor's.
#pragma once

#include "base/core/result.h"
#include "base/host/unique_fd.h"
#include "base/ref/ref.h"
#include "sentry/creds/credentials.h"
#include "sentry/kernel/reactor.h"
#include "sentry/vfs/file_description.h"

namespace sentry::fs::host {

// A description for `fd` with the access mode that it has on the host. The inode belongs to `owner`, as runtimes chown the
// standard descriptors to the container's user, and can be opened again through /proc/PID/fd.
base::Result<base::RefPtr<vfs::FileDescription>> create(kernel::Reactor& reactor, base::UniqueFd fd, const creds::Credentials& owner);

}  // namespace sentry::fs::host
