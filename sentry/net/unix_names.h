// SPDX-License-Identifier: Apache-2.0
// Names of unix sockets: paths (through the VFS) and abstract names (per network namespace).
#pragma once

#include <string>

#include "sentry/net/unix.h"

namespace sentry::net {

struct Binding {
  SocketAddress name;
  vfs::Path path;            // keeps the inode, which leads to the socket
  std::string abstract_key;  // in the table of abstract names
};

// Makes the name lead to `core`. EADDRINUSE, EINVAL, and the errors of mknod(2). A bare family picks an abstract name.
base::Result<Binding> bind_name(vfs::OpContext& ctx, UnixCore& core, const SocketAddress& address);
void unbind_name(UnixCore& core, const vfs::Path& path, const std::string& abstract_key);
// Who is bound to an address: ECONNREFUSED, ENOENT, EACCES, EINVAL. That the type fits is the caller's check.
base::Result<base::RefPtr<UnixCore>> find_unix(vfs::OpContext& ctx, const SocketAddress& address);

// Every core, for /proc/net/unix.
void note_core(UnixCore& core);
void forget_core(UnixCore& core);
std::vector<base::RefPtr<UnixCore>> all_cores();

}  // namespace sentry::net
