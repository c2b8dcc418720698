// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/passwd.h"

#include <algorithm>
#include <charconv>

#include "sentry/vfs/file_description.h"
#include "sentry/vfs/io_buffer.h"
#include "sentry/vfs/mount.h"

namespace sentry::kernel {

using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxPasswd = 1 << 20;

// Not blocking: the name may be that of a FIFO.
Result<std::string> read_passwd(vfs::OpContext& ctx) {
  RefPtr<vfs::FileDescription> file = TRY(vfs::open_at(ctx, ctx.root(), "/etc/passwd", vfs::kO_RDONLY | vfs::kO_NONBLOCK, 0, vfs::kLookupFollow));
  if (!file->inode().is_regular()) return base::err(abi::Errno::kEINVAL);
  std::string text;
  while (text.size() < kMaxPasswd) {
    uint8_t bytes[4096];
    vfs::KernelIoBuffer buffer(bytes);
    const size_t n = TRY(file->pread(ctx, buffer, text.size()));
    if (n == 0) break;
    text.append(static_cast<const char*>(static_cast<const void*>(bytes)), n);
  }
  return text;
}

}  // namespace

std::string home_in_passwd(std::string_view text, uint32_t uid) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    std::string_view fields[6];  // name:password:uid:gid:gecos:directory[:shell]
    size_t count = 0;
    for (std::string_view rest = line; count < std::size(fields); ++count) {
      const size_t colon = rest.find(':');
      fields[count] = rest.substr(0, colon);
      if (colon == std::string_view::npos) {
        ++count;
        break;
      }
      rest.remove_prefix(colon + 1);
    }
    uint32_t number = 0;
    const auto [end, error] = std::from_chars(fields[2].data(), fields[2].data() + fields[2].size(), number);
    if (count < std::size(fields) || error != std::errc() || end != fields[2].data() + fields[2].size() || number != uid) continue;
    // What is no path, or could not be part of an environment, is as good as nothing.
    const std::string_view home = fields[5];
    return home.starts_with('/') && home.find('\0') == std::string_view::npos ? std::string(home) : "/";
  }
  return "/";
}

std::string home_of(vfs::OpContext& ctx, uint32_t uid) {
  Result<std::string> text = read_passwd(ctx);
  return text ? home_in_passwd(*text, uid) : "/";
}

}  // namespace sentry::kernel
