// SPDX-License-Identifier: Apache-2.0
// AF_NETLINK, NETLINK_ROUTE, for reading: dumps and single requests for links, addresses, routes, neighbours and rules
// are answered from the host's network namespace through one socket of the sentry; changes are refused.
#pragma once

#include "sentry/net/socket.h"

namespace sentry::net {

base::Result<base::RefPtr<Socket>> create_netlink_socket(vfs::OpContext& ctx, int32_t type, int32_t protocol,
                                                         uint32_t status_flags);

// Bytes from inside the sentry to who reads this netlink socket: mq_notify(2) wakes glibc's helper thread so.
void push_to_netlink(vfs::FileDescription& socket, std::span<const uint8_t> bytes);

// The messages that the host answers a request with: each nlmsghdr and its payload, sequence and port as the host set them.
// `body` follows the header. NLMSG_DONE and errors included.
base::Result<std::vector<std::vector<uint8_t>>> query_host_route(uint16_t type, uint16_t flags, std::span<const uint8_t> body);

// /proc/net/*, and the interfaces that sysfs shows. Once, at boot.
void register_net_files();

}  // namespace sentry::net
