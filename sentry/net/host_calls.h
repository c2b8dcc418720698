// SPDX-License-Identifier: Apache-2.0
// What sentry/net asks of the host, for the sentry's seccomp policy. Data only.
#pragma once

#include <cstdint>
#include <span>

namespace sentry::net {

struct HostOption {
  int32_t level, name;
  bool settable;
};
// Every (level, name) that getsockopt(2) and, where settable, setsockopt(2) is called with.
std::span<const HostOption> host_socket_options();

struct HostSocketKind {
  int32_t family, type, protocol;
};
// Every socket(2) that is made after start, type without SOCK_NONBLOCK | SOCK_CLOEXEC, which are always set.
std::span<const HostSocketKind> host_socket_kinds();

// Every request of ioctl(2) on such a socket.
std::span<const uint32_t> host_ioctls();

// Flags of sendmsg(2) and recvmsg(2): none outside this mask.
inline constexpr uint32_t kHostMessageFlags = 0x1 | 0x2 | 0x4 | 0x20 | 0x40 | 0x800 | 0x2000 | 0x4000 | 0x8000;

// Calls without an argument list of their own. listen, accept4, bind, connect, shutdown, getsockname, getpeername, poll.

// Opens what must exist before the filter: the NETLINK_ROUTE socket that answers for interfaces and routes. Once.
void prepare_host_network();

}  // namespace sentry::net
