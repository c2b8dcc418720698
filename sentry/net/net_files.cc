// SPDX-License-Identifier: Apache-2.0
// /proc/net: formats of net/core/net-procfs.c, net/ipv4/{tcp_ipv4,udp,fib_trie,proc}.c, net/ipv6/addrconf.c, net/unix.
#include <arpa/inet.h>
#include <cstdio>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "sentry/fs/proc/proc.h"
#include "sentry/fs/sys/sys.h"
#include "sentry/net/inet.h"
#include "sentry/net/netlink.h"
#include "sentry/net/unix.h"

namespace sentry::net {

using base::Result;
using fs::TextBuffer;

namespace {

// The payload of a message as struct T and its attributes by number.
template <typename T>
struct Parsed {
  T header{};
  std::span<const uint8_t> attributes[64];
  template <typename V>
  V value(size_t a) const {
    V v{};
    if (a < 64) std::memcpy(&v, attributes[a].data(), std::min(sizeof v, attributes[a].size()));
    return v;
  }
  std::string text(size_t a) const {
    const auto s = attributes[a];
    std::string t(s.begin(), s.end());
    return t.substr(0, t.find('\0'));
  }
};

template <typename T>
bool parse(std::span<const uint8_t> message, uint16_t wanted, Parsed<T>& out) {
  nlmsghdr h;
  if (message.size() < sizeof h + sizeof(T)) return false;
  std::memcpy(&h, message.data(), sizeof h);
  if (h.nlmsg_type != wanted) return false;
  std::memcpy(&out.header, message.data() + sizeof h, sizeof(T));
  size_t at = sizeof h + NLMSG_ALIGN(sizeof(T));
  while (at + sizeof(rtattr) <= message.size()) {
    rtattr a;
    std::memcpy(&a, message.data() + at, sizeof a);
    if (a.rta_len < sizeof a || a.rta_len > message.size() - at) break;
    const unsigned type = a.rta_type & 0x3fff;
    if (type < 64) out.attributes[type] = message.subspan(at + sizeof a, a.rta_len - sizeof a);
    at += RTA_ALIGN(a.rta_len);
  }
  return true;
}

template <typename T, typename F>
void for_each(uint16_t request, uint16_t reply, uint8_t family, F&& f) {
  T body{};
  std::memcpy(&body, &family, 1);  // every header begins with the family
  auto messages = query_host_route(request, NLM_F_DUMP, {reinterpret_cast<const uint8_t*>(&body), sizeof body});
  if (!messages) return;
  for (const std::vector<uint8_t>& m : *messages) {
    Parsed<T> parsed;
    if (parse(m, reply, parsed)) f(parsed);
  }
}

Result<void> render_dev(vfs::OpContext&, TextBuffer& out) {
  out.append("Inter-|   Receive                                                |  Transmit\n"
             " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n");
  for_each<ifinfomsg>(RTM_GETLINK, RTM_NEWLINK, 0, [&](const Parsed<ifinfomsg>& l) {
    const auto s = l.value<rtnl_link_stats64>(IFLA_STATS64);
    out.print("{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}\n", l.text(IFLA_IFNAME),
              s.rx_bytes, s.rx_packets, s.rx_errors, s.rx_dropped + s.rx_missed_errors, s.rx_fifo_errors,
              s.rx_length_errors + s.rx_over_errors + s.rx_crc_errors + s.rx_frame_errors, s.rx_compressed, s.multicast,
              s.tx_bytes, s.tx_packets, s.tx_errors, s.tx_dropped, s.tx_fifo_errors, s.collisions,
              s.tx_carrier_errors + s.tx_aborted_errors + s.tx_window_errors + s.tx_heartbeat_errors, s.tx_compressed);
  });
  return {};
}

std::vector<std::pair<uint32_t, std::string>> link_names() {
  std::vector<std::pair<uint32_t, std::string>> names;
  for_each<ifinfomsg>(RTM_GETLINK, RTM_NEWLINK, 0, [&](const Parsed<ifinfomsg>& l) {
    names.emplace_back(static_cast<uint32_t>(l.header.ifi_index), l.text(IFLA_IFNAME));
  });
  return names;
}

std::string name_of(const std::vector<std::pair<uint32_t, std::string>>& names, uint32_t index) {
  for (const auto& [i, name] : names)
    if (i == index) return name;
  return "*";
}

Result<void> render_route(vfs::OpContext&, TextBuffer& out) {
  size_t start = out.size();
  out.append("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT");
  out.pad_to(start, 127);
  out.append('\n');
  const auto names = link_names();
  for_each<rtmsg>(RTM_GETROUTE, RTM_NEWROUTE, AF_INET, [&](const Parsed<rtmsg>& r) {
    if (r.header.rtm_table != RT_TABLE_MAIN || r.header.rtm_type != RTN_UNICAST) return;
    const uint32_t gateway = r.value<uint32_t>(RTA_GATEWAY);
    const unsigned bits = r.header.rtm_dst_len;
    const uint32_t mask = bits == 0 ? 0 : htonl(~uint32_t{0} << (32 - std::min(bits, 32u)));
    const unsigned flags = 1u | (gateway != 0 ? 2u : 0) | (bits == 32 ? 4u : 0);
    start = out.size();
    out.print("{}\t{:08X}\t{:08X}\t{:04X}\t0\t0\t{}\t{:08X}\t0\t0\t0", name_of(names, r.value<uint32_t>(RTA_OIF)),
              r.value<uint32_t>(RTA_DST), gateway, flags, r.value<uint32_t>(RTA_PRIORITY), mask);
    out.pad_to(start, 127);
    out.append('\n');
  });
  return {};
}

Result<void> render_if_inet6(vfs::OpContext&, TextBuffer& out) {
  const auto names = link_names();
  for_each<ifaddrmsg>(RTM_GETADDR, RTM_NEWADDR, AF_INET6, [&](const Parsed<ifaddrmsg>& a) {
    const auto bytes = a.value<std::array<uint8_t, 16>>(IFA_ADDRESS);
    for (uint8_t b : bytes) out.print("{:02x}", b);
    const uint32_t scope = a.header.ifa_scope == RT_SCOPE_HOST ? 0x10 : a.header.ifa_scope == RT_SCOPE_LINK ? 0x20 : 0;
    out.print(" {:02x} {:02x} {:02x} {:02x} {:>8}\n", a.header.ifa_index, a.header.ifa_prefixlen, scope, a.header.ifa_flags,
              name_of(names, a.header.ifa_index));
  });
  return {};
}

void print_endpoint(const SocketAddress& a, int32_t family, TextBuffer& out) {
  uint16_t port = 0;
  if (a.length >= 4) std::memcpy(&port, a.bytes.data() + 2, 2);
  const size_t words = family == kAfInet ? 1 : 4, at = family == kAfInet ? 4 : 8;
  for (size_t i = 0; i < words; ++i) {
    uint32_t word = 0;
    if (a.length >= at + words * 4) std::memcpy(&word, a.bytes.data() + at + i * 4, 4);
    out.print("{:08X}", word);
  }
  out.print(":{:04X}", ntohs(port));
}

Result<void> render_inet(vfs::OpContext& ctx, int32_t family, int32_t protocol, TextBuffer& out) {
  const bool tcp = protocol == 6, v6 = family == kAfInet6;
  const size_t width = tcp ? 149 : 127;
  size_t start = out.size();
  if (v6)
    out.print("  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode{}",
              tcp ? "" : " ref pointer drops");
  else
    out.append(tcp ? "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
                   : "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops");
  if (!v6) out.pad_to(start, width);
  out.append('\n');
  unsigned line = 0;
  for (const InetListing& s : list_inet_sockets()) {
    if (s.family != family || s.protocol != protocol || s.state == 7 * (tcp ? 1 : 0)) continue;
    start = out.size();
    out.print("{:{}}: ", line++, tcp ? 4 : 5);
    print_endpoint(s.local, family, out);
    out.append(' ');
    print_endpoint(s.peer, family, out);
    const uint32_t uid = ctx.creds().user_ns->unmap_uid(abi::KUid(s.uid)).value();
    out.print(" {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5} {:8} {} {} 0000000000000000", s.state, s.send_queue,
              s.receive_queue, uid, 0, s.inode, tcp ? 1 : 2);
    out.append(tcp ? (s.state == 10 ? " 100 0 0 10 0" : " 20 4 30 10 -1") : " 0");
    if (!v6) out.pad_to(start, width);
    out.append('\n');
  }
  return {};
}

Result<void> render_unix(vfs::OpContext&, TextBuffer& out) {
  out.append("Num       RefCount Protocol Flags    Type St Inode Path\n");
  for (const UnixCore::Listing& s : UnixCore::list()) {
    const unsigned state = s.listening ? 1 : s.connected ? 3 : 1;
    out.print("0000000000000000: {:08X} {:08X} {:08X} {:04X} {:02X} {:5}", s.connected ? 3 : 2, 0, s.listening ? 0x10000 : 0,
              s.type, state, s.inode);
    if (!s.name.empty()) out.print(" {}", s.name);
    out.append('\n');
  }
  return {};
}

Result<void> render_sockstat(vfs::OpContext&, TextBuffer& out) {
  unsigned tcp = 0, udp = 0, tcp6 = 0, udp6 = 0, total = 0;
  for (const InetListing& s : list_inet_sockets()) {
    ++total;
    unsigned& n = s.family == kAfInet ? (s.protocol == 6 ? tcp : udp) : (s.protocol == 6 ? tcp6 : udp6);
    ++n;
  }
  out.print("sockets: used {}\nTCP: inuse {} orphan 0 tw 0 alloc {} mem 0\nUDP: inuse {} mem 0\nUDPLITE: inuse 0\n"
            "RAW: inuse 0\nFRAG: inuse 0 memory 0\n",
            total, tcp, tcp + tcp6, udp);
  return {};
}

Result<void> render_header(std::string_view text, TextBuffer& out) {
  out.append(text);
  return {};
}

std::vector<fs::NetInterface> read_interfaces() {
  std::vector<fs::NetInterface> list;
  for_each<ifinfomsg>(RTM_GETLINK, RTM_NEWLINK, 0, [&](const Parsed<ifinfomsg>& l) {
    fs::NetInterface i;
    i.name = l.text(IFLA_IFNAME);
    if (i.name.empty() || i.name.find('/') != std::string::npos) return;
    i.index = static_cast<uint32_t>(l.header.ifi_index);
    i.flags = l.header.ifi_flags;
    i.type = l.header.ifi_type;
    i.mtu = l.value<uint32_t>(IFLA_MTU);
    for (uint8_t b : l.value<std::array<uint8_t, 6>>(IFLA_ADDRESS))
      i.address += fmt::format("{}{:02x}", i.address.empty() ? "" : ":", b);
    list.push_back(std::move(i));
  });
  return list;
}

}  // namespace

void register_net_files() {
  using fs::register_proc_net_file;
  register_proc_net_file("dev", render_dev);
  register_proc_net_file("route", render_route);
  register_proc_net_file("if_inet6", render_if_inet6);
  register_proc_net_file("unix", render_unix);
  register_proc_net_file("sockstat", render_sockstat);
  struct Table {
    const char* name;
    int32_t family, protocol;
  };
  for (const Table t : {Table{"tcp", kAfInet, 6}, {"tcp6", kAfInet6, 6}, {"udp", kAfInet, 17}, {"udp6", kAfInet6, 17}})
    register_proc_net_file(t.name, [t](vfs::OpContext& ctx, TextBuffer& out) { return render_inet(ctx, t.family, t.protocol, out); });
  struct Header {
    const char* name;
    std::string_view text;
  };
  for (const Header h : {Header{"arp", "IP address       HW type     Flags       HW address            Mask     Device\n"},
                         {"raw", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"},
                         {"packet", "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"},
                         {"netlink", "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"},
                         {"ipv6_route", ""},
                         {"protocols", "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em\n"},
                         {"snmp",
                          "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates\n"
                          "Ip: 2 64 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
                          "Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n"
                          "Tcp: 1 200 120000 -1 0 0 0 0 0 0 0 0 0 0 0\n"
                          "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n"
                          "Udp: 0 0 0 0 0 0 0 0 0\n"}})
    register_proc_net_file(h.name, [h](vfs::OpContext&, TextBuffer& out) { return render_header(h.text, out); });
  fs::set_sys_interfaces(read_interfaces());
}

}  // namespace sentry::net
