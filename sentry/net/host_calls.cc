// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/host_calls.h"

namespace sentry::net {

namespace {

constexpr int32_t kSocket = 1, kIp = 0, kTcp = 6, kUdp = 17, kIpv6 = 41;

constexpr HostOption kOptions[] = {
    {kSocket, 2, true},   // SO_REUSEADDR
    {kSocket, 4, false},  // SO_ERROR
    {kSocket, 5, true},   // SO_DONTROUTE
    {kSocket, 6, true},   // SO_BROADCAST
    {kSocket, 7, true},   // SO_SNDBUF
    {kSocket, 8, true},   // SO_RCVBUF
    {kSocket, 9, true},   // SO_KEEPALIVE
    {kSocket, 10, true},  // SO_OOBINLINE
    {kSocket, 13, true},  // SO_LINGER
    {kSocket, 15, true},  // SO_REUSEPORT
    {kSocket, 18, true},  // SO_RCVLOWAT
    {kSocket, 29, true},  // SO_TIMESTAMP
    {kSocket, 30, false}, // SO_ACCEPTCONN
    {kSocket, 35, true},  // SO_TIMESTAMPNS
    {kSocket, 40, true},  // SO_RXQ_OVFL
    {kSocket, 49, false}, // SO_INCOMING_CPU
    {kIp, 1, true},       // IP_TOS
    {kIp, 2, true},       // IP_TTL
    {kIp, 8, true},       // IP_PKTINFO
    {kIp, 10, true},      // IP_MTU_DISCOVER
    {kIp, 11, true},      // IP_RECVERR
    {kIp, 12, true},      // IP_RECVTTL
    {kIp, 13, true},      // IP_RECVTOS
    {kIp, 14, false},     // IP_MTU
    {kIp, 15, true},      // IP_FREEBIND
    {kIp, 20, true},      // IP_RECVORIGDSTADDR
    {kIp, 24, true},      // IP_BIND_ADDRESS_NO_PORT
    {kIp, 32, true},      // IP_MULTICAST_IF
    {kIp, 33, true},      // IP_MULTICAST_TTL
    {kIp, 34, true},      // IP_MULTICAST_LOOP
    {kIp, 35, true},      // IP_ADD_MEMBERSHIP
    {kIp, 36, true},      // IP_DROP_MEMBERSHIP
    {kIp, 49, true},      // IP_MULTICAST_ALL
    {kIp, 51, true},      // IP_LOCAL_PORT_RANGE
    {kTcp, 1, true},      // TCP_NODELAY
    {kTcp, 2, true},      // TCP_MAXSEG
    {kTcp, 3, true},      // TCP_CORK
    {kTcp, 4, true},      // TCP_KEEPIDLE
    {kTcp, 5, true},      // TCP_KEEPINTVL
    {kTcp, 6, true},      // TCP_KEEPCNT
    {kTcp, 7, true},      // TCP_SYNCNT
    {kTcp, 8, true},      // TCP_LINGER2
    {kTcp, 9, true},      // TCP_DEFER_ACCEPT
    {kTcp, 10, true},     // TCP_WINDOW_CLAMP
    {kTcp, 11, false},    // TCP_INFO
    {kTcp, 12, true},     // TCP_QUICKACK
    {kTcp, 13, true},     // TCP_CONGESTION
    {kTcp, 18, true},     // TCP_USER_TIMEOUT
    {kTcp, 23, true},     // TCP_FASTOPEN
    {kTcp, 25, true},     // TCP_NOTSENT_LOWAT
    {kTcp, 36, true},     // TCP_INQ
    {kUdp, 1, true},      // UDP_CORK
    {kUdp, 103, true},    // UDP_SEGMENT
    {kUdp, 104, true},    // UDP_GRO
    {kIpv6, 16, true},    // IPV6_UNICAST_HOPS
    {kIpv6, 17, true},    // IPV6_MULTICAST_IF
    {kIpv6, 18, true},    // IPV6_MULTICAST_HOPS
    {kIpv6, 19, true},    // IPV6_MULTICAST_LOOP
    {kIpv6, 20, true},    // IPV6_ADD_MEMBERSHIP
    {kIpv6, 21, true},    // IPV6_DROP_MEMBERSHIP
    {kIpv6, 23, true},    // IPV6_MTU_DISCOVER
    {kIpv6, 24, true},    // IPV6_MTU
    {kIpv6, 25, true},    // IPV6_RECVERR
    {kIpv6, 26, true},    // IPV6_V6ONLY
    {kIpv6, 49, true},    // IPV6_RECVPKTINFO
    {kIpv6, 51, true},    // IPV6_RECVHOPLIMIT
    {kIpv6, 66, true},    // IPV6_RECVTCLASS
    {kIpv6, 67, true},    // IPV6_TCLASS
    {kIpv6, 70, true},    // IPV6_AUTOFLOWLABEL
    {kIpv6, 72, true},    // IPV6_ADDR_PREFERENCES
    {kIpv6, 78, true},    // IPV6_FREEBIND
};

constexpr HostSocketKind kKinds[] = {
    {2, 1, 6}, {10, 1, 6}, {2, 2, 17}, {10, 2, 17}, {2, 2, 1}, {10, 2, 58},
};

constexpr uint32_t kIoctls[] = {
    0x541b,                                  // FIONREAD
    0x5411,                                  // TIOCOUTQ
    0x8905,                                  // SIOCATMARK
    0x8910, 0x8912, 0x8913, 0x8915, 0x8917,  // SIOCGIFNAME, SIOCGIFCONF, SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFDSTADDR
    0x8919, 0x891b, 0x891d, 0x8921, 0x8927,  // SIOCGIFBRDADDR, SIOCGIFNETMASK, SIOCGIFMETRIC, SIOCGIFMTU, SIOCGIFHWADDR
    0x8933, 0x8942,                          // SIOCGIFINDEX, SIOCGIFTXQLEN
};

}  // namespace

std::span<const HostOption> host_socket_options() { return kOptions; }
std::span<const HostSocketKind> host_socket_kinds() { return kKinds; }
std::span<const uint32_t> host_ioctls() { return kIoctls; }

}  // namespace sentry::net
