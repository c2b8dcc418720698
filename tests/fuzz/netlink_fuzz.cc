// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any bytes sent to a netlink socket. Whatever was asked, every answer is a list of whole messages that fill
// their datagram, each with the sequence number of a request.
#include <cstdlib>
#include <linux/netlink.h>
#include <set>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/net/netlink.h"
#include "sentry/vfs/test_context.h"

namespace {

using namespace sentry;

constexpr size_t kAnswer = 64 << 10;

// The numbers at every place where a header could be: which of them are requests is what is tested.
std::set<uint32_t> sequence_numbers(std::span<const uint8_t> request) {
  std::set<uint32_t> numbers;
  for (size_t at = 0; at + sizeof(nlmsghdr) <= request.size(); at += NLMSG_ALIGNTO) {
    nlmsghdr header;
    std::memcpy(&header, request.data() + at, sizeof header);
    numbers.insert(header.nlmsg_seq);
  }
  return numbers;
}

void check_answer(std::span<const uint8_t> datagram, const std::set<uint32_t>& numbers) {
  size_t at = 0;
  while (at < datagram.size()) {
    nlmsghdr header;
    if (datagram.size() - at < sizeof header) abort();
    std::memcpy(&header, datagram.data() + at, sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > datagram.size() - at) abort();
    if (!numbers.contains(header.nlmsg_seq)) abort();
    at += NLMSG_ALIGN(header.nlmsg_len);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::unique_ptr<memory::MemoryFile> file = *memory::MemoryFile::create();
  static vfs::TestContext ctx{*fs::tmpfs::create(*file, {.mode = 0755})};
  auto socket = net::create_netlink_socket(ctx, net::kSockRaw, NETLINK_ROUTE, 0);
  if (!socket) abort();
  std::vector<uint8_t> request(data, data + size), answer(kAnswer);
  vfs::KernelIoBuffer src(request);
  net::SendArgs args;
  const auto sent = (*socket)->send(ctx, src, args);
  if (sent && *sent != size) abort();
  const std::set<uint32_t> numbers = sequence_numbers(request);
  for (;;) {
    vfs::KernelIoBuffer dst(answer);
    const auto got = (*socket)->receive(ctx, dst, net::kMsgDontWait | net::kMsgTrunc);
    if (!got) break;
    if (got->bytes > answer.size()) abort();
    check_answer(std::span<const uint8_t>(answer).first(got->bytes), numbers);
  }
  return 0;
}
