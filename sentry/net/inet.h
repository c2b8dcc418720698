// SPDX-License-Identifier: Apache-2.0
// AF_INET and AF_INET6: host sockets of the sandbox's network namespace, behind allow-lists of types, options, flags and
// ioctls. Always non-blocking on the host; the reactor tells when something changes. Payload of streams goes straight
// between guest pages and the host.
#pragma once

#include "sentry/net/socket.h"

namespace sentry::net {

base::Result<base::RefPtr<Socket>> create_inet_socket(vfs::OpContext& ctx, int32_t family, int32_t type, int32_t protocol,
                                                      uint32_t status_flags);

// SIOCGIF*: the interfaces of the network namespace, on a socket of any family. ENOTTY for others.
base::Result<int64_t> interface_ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg);

// One line of /proc/net/{tcp,udp}*.
struct InetListing {
  int32_t family, type, protocol;
  SocketAddress local, peer;
  uint8_t state;  // as TCP_ESTABLISHED = 1, ... of include/net/tcp_states.h
  uint32_t receive_queue, send_queue;
  uint32_t uid;
  uint64_t inode;
};
std::vector<InetListing> list_inet_sockets();

}  // namespace sentry::net
