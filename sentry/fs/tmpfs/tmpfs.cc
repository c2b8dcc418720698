// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/tmpfs/tmpfs.h"

#include <charconv>

#include <fmt/format.h>
#include <unistd.h>

#include "sentry/fs/tmpfs/tmpfs_inode.h"
#include "sentry/vfs/file_system_registry.h"

namespace sentry::fs::tmpfs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr uint64_t kTmpfsMagic = 0x01021994;

uint64_t machine_pages() { return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)); }

}  // namespace

Tmpfs::Tmpfs(memory::MemoryFile& memory, const Options& options)
    : memory_(memory),
      options_(options),
      max_pages_(options.size ? (options.size + abi::kPageSize - 1) / abi::kPageSize : machine_pages() / 2) {
  set_tells_changes();
}

RefPtr<vfs::Inode> Tmpfs::root() {
  {
    base::MutexLock lock(root_mu_);
    if (RefPtr<vfs::Inode> root = root_.lock()) return root;
  }
  RefPtr<vfs::Inode> root = base::make_ref<TmpfsDirectory>(
      *this, vfs::CreateArgs{abi::kS_IFDIR | (options_.mode & 07777), options_.uid, options_.gid, {}});
  base::MutexLock lock(root_mu_);
  root_ = base::WeakRef<vfs::Inode>(root);
  return root;
}

uint64_t Tmpfs::pages_free() const {
  const uint64_t used = pages_.load(std::memory_order_relaxed);
  return used < max_pages_ ? max_pages_ - used : 0;
}

Result<void> Tmpfs::charge_inode() {
  if (options_.inodes != 0 && inodes_.load(std::memory_order_relaxed) >= options_.inodes) return err(kENOSPC);
  return {};
}

Result<vfs::StatFs> Tmpfs::statfs(vfs::OpContext&) {
  vfs::StatFs st;
  st.type = kTmpfsMagic;
  st.blocks = max_pages_;
  st.blocks_free = st.blocks_available = pages_free();
  st.files = options_.inodes ? options_.inodes : machine_pages() / 2;
  const uint64_t used = inodes_.load(std::memory_order_relaxed);
  st.files_free = used < st.files ? st.files - used : 0;
  st.fsid = device_.encoded();
  return st;
}

std::string Tmpfs::mount_options() const {
  std::string text;
  auto add = [&](std::string s) { text += (text.empty() ? "" : ",") + s; };
  if (options_.size) add(fmt::format("size={}k", max_pages_ * (abi::kPageSize / 1024)));
  if (options_.inodes) add(fmt::format("nr_inodes={}", options_.inodes));
  if (options_.mode != 01777) add(fmt::format("mode={:o}", options_.mode));
  if (options_.uid.value()) add(fmt::format("uid={}", options_.uid.value()));
  if (options_.gid.value()) add(fmt::format("gid={}", options_.gid.value()));
  return text;
}

namespace {

// memparse(): a number with k, m, g, t; or a percentage of the machine's memory where allowed.
Result<uint64_t> parse_size(std::string_view text) {
  uint64_t value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc{}) return err(kEINVAL);
  std::string_view suffix(end, text.data() + text.size());
  if (suffix.empty()) return value;
  if (suffix == "%") {
    if (value > 10'000) return err(kEINVAL);
    return machine_pages() * abi::kPageSize / 100 * value;
  }
  if (suffix.size() != 1) return err(kEINVAL);
  static constexpr std::string_view kUnits = "kmgtpe";
  const size_t unit = kUnits.find(static_cast<char>(suffix[0] | 0x20));
  if (unit == std::string_view::npos) return err(kEINVAL);
  const unsigned shift = 10 * (static_cast<unsigned>(unit) + 1);
  if (shift >= 64 || value > (~uint64_t{0} >> shift)) return err(kEINVAL);
  return value << shift;
}

Result<uint32_t> parse_number(std::string_view text, int base) {
  uint32_t value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (ec != std::errc{} || end != text.data() + text.size()) return err(kEINVAL);
  return value;
}

Result<void> parse_option(const creds::Credentials& cred, std::string_view key, std::string_view value, Options& out) {
  if (key == "size") {
    out.size = TRY(parse_size(value));
  } else if (key == "nr_blocks") {
    const uint64_t blocks = TRY(parse_size(value));
    if (blocks > (~uint64_t{0} >> abi::kPageShift)) return err(kEINVAL);
    out.size = blocks * abi::kPageSize;
  } else if (key == "nr_inodes") {
    out.inodes = TRY(parse_size(value));
  } else if (key == "mode") {
    out.mode = TRY(parse_number(value, 8)) & 07777;
  } else if (key == "uid") {
    auto id = cred.user_ns->map_uid(abi::Uid(TRY(parse_number(value, 10))));
    if (!id) return err(kEINVAL);
    out.uid = *id;
  } else if (key == "gid") {
    auto id = cred.user_ns->map_gid(abi::Gid(TRY(parse_number(value, 10))));
    if (!id) return err(kEINVAL);
    out.gid = *id;
  } else if (key != "huge" && key != "mpol" && key != "inode32" && key != "inode64" && key != "noswap") {
    return err(kEINVAL);
  }
  return {};
}

Result<RefPtr<vfs::FileSystem>> mount(vfs::OpContext& ctx, memory::MemoryFile& memory, const vfs::MountRequest& request) {
  Options options;
  options.uid = ctx.creds().fsuid;
  options.gid = ctx.creds().fsgid;
  std::string_view rest = request.data;
  while (!rest.empty()) {
    std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    if (item.empty()) continue;
    const size_t eq = item.find('=');
    TRY(parse_option(ctx.creds(), item.substr(0, eq), eq == item.npos ? std::string_view() : item.substr(eq + 1), options));
  }
  return create(memory, options);
}

}  // namespace

Result<RefPtr<vfs::FileSystem>> create(memory::MemoryFile& memory, const Options& options) {
  return RefPtr<vfs::FileSystem>(base::make_ref<Tmpfs>(memory, options));
}

void register_tmpfs(memory::MemoryFile& memory) {
  for (const char* name : {"tmpfs", "ramfs"}) {
    vfs::register_file_system({.name = name, .create = [&memory](vfs::OpContext& ctx, const vfs::MountRequest& request) {
                                 return mount(ctx, memory, request);
                               }});
  }
}

}  // namespace sentry::fs::tmpfs
