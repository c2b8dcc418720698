// SPDX-License-Identifier: Apache-2.0
#include "sentry/net/unix_names.h"

#include <map>
#include <unordered_set>

#include <fmt/format.h>

namespace sentry::net {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kPathOffset = 2, kPathMax = 108;

struct Tables {
  base::Mutex mu{base::LockRank::kLeaf};
  std::map<std::string, UnixCore*, std::less<>> abstract_names GUARDED_BY(mu);
  std::unordered_set<UnixCore*> cores GUARDED_BY(mu);
  std::atomic<uint32_t> next_auto{0};
};
Tables& tables() {
  static Tables t;
  return t;
}

std::string abstract_key(vfs::OpContext& ctx, std::string_view name) {
  const void* ns = network_namespace_key(ctx);
  std::string key(reinterpret_cast<const char*>(&ns), sizeof ns);
  key += name;
  return key;
}

struct Parsed {
  bool is_abstract = false;
  std::string name;  // without the leading NUL of an abstract one
};

Result<Parsed> parse(const SocketAddress& a) {
  if (a.length <= kPathOffset || a.length > kPathOffset + kPathMax || a.family() != kAfUnix) return err(kEINVAL);
  const std::string_view raw(reinterpret_cast<const char*>(a.bytes.data()) + kPathOffset, a.length - kPathOffset);
  if (raw[0] == '\0') return Parsed{true, std::string(raw.substr(1))};
  return Parsed{false, std::string(raw.substr(0, raw.find('\0')))};
}

SocketAddress address_of(const Parsed& p) {
  SocketAddress a;
  a.bytes[0] = kAfUnix;
  char* at = reinterpret_cast<char*>(a.bytes.data()) + kPathOffset;
  if (p.is_abstract) ++at;
  std::memcpy(at, p.name.data(), p.name.size());
  // Both kinds have one NUL: in front, or behind.
  a.length = static_cast<uint32_t>(kPathOffset + p.name.size() + 1);
  return a;
}

Result<Binding> bind_auto(vfs::OpContext& ctx, UnixCore& core) {
  Tables& t = tables();
  for (unsigned tries = 0; tries < (1u << 20); ++tries) {
    const Parsed name{true, fmt::format("{:05x}", t.next_auto.fetch_add(1) & 0xfffff)};
    std::string key = abstract_key(ctx, name.name);
    base::MutexLock lock(t.mu);
    if (t.abstract_names.emplace(key, &core).second) return Binding{address_of(name), {}, std::move(key)};
  }
  return err(kENOSPC);
}

}  // namespace

Result<Binding> bind_name(vfs::OpContext& ctx, UnixCore& core, const SocketAddress& address) {
  if (address.length == kPathOffset && address.family() == kAfUnix) return bind_auto(ctx, core);
  const Parsed name = TRY(parse(address));
  if (name.is_abstract) {
    std::string key = abstract_key(ctx, name.name);
    base::MutexLock lock(tables().mu);
    if (!tables().abstract_names.emplace(key, &core).second) return err(kEADDRINUSE);
    return Binding{address_of(name), {}, std::move(key)};
  }
  Result<vfs::Path> made = vfs::make_node_at(ctx, ctx.cwd(), name.name, abi::kS_IFSOCK | (0777 & ~ctx.umask()), {});
  if (!made) return err(made.error() == kEEXIST ? kEADDRINUSE : made.error());
  vfs::Inode& inode = made->inode();
  {
    base::MutexLock lock(inode.special_mu);
    inode.special = RefPtr<UnixCore>(&core);
  }
  return Binding{address_of(name), std::move(*made), {}};
}

void unbind_name(UnixCore& core, const vfs::Path& path, const std::string& key) {
  if (!key.empty()) {
    base::MutexLock lock(tables().mu);
    tables().abstract_names.erase(key);
  }
  if (!path.valid()) return;
  RefPtr<base::RefCounted> dropped;
  vfs::Inode& inode = path.inode();
  base::MutexLock lock(inode.special_mu);
  if (inode.special.get() == &core) dropped = std::move(inode.special);
}

Result<RefPtr<UnixCore>> find_unix(vfs::OpContext& ctx, const SocketAddress& address) {
  const Parsed name = TRY(parse(address));
  if (name.is_abstract) {
    const std::string key = abstract_key(ctx, name.name);
    base::MutexLock lock(tables().mu);
    auto it = tables().abstract_names.find(key);
    if (it == tables().abstract_names.end() || !it->second->try_ref()) return err(kECONNREFUSED);
    return RefPtr<UnixCore>::adopt(it->second);
  }
  vfs::PathResult found = TRY(vfs::walk(ctx, ctx.cwd(), name.name, vfs::kLookupFollow));
  if (found.path.dentry->is_negative()) return err(kENOENT);
  TRY(vfs::check_access(ctx, found.path, 2));
  vfs::Inode& inode = found.path.inode();
  if (inode.type() != abi::kS_IFSOCK) return err(kECONNREFUSED);
  base::MutexLock lock(inode.special_mu);
  if (!inode.special) return err(kECONNREFUSED);
  // Only bind_name() gives sockets a payload.
  return base::static_ref_cast<UnixCore>(inode.special);
}

void note_core(UnixCore& core) {
  base::MutexLock lock(tables().mu);
  tables().cores.insert(&core);
}

void forget_core(UnixCore& core) {
  base::MutexLock lock(tables().mu);
  tables().cores.erase(&core);
}

std::vector<RefPtr<UnixCore>> all_cores() {
  std::vector<RefPtr<UnixCore>> out;
  base::MutexLock lock(tables().mu);
  for (UnixCore* c : tables().cores)
    if (c->try_ref()) out.push_back(RefPtr<UnixCore>::adopt(c));
  return out;
}

}  // namespace sentry::net
