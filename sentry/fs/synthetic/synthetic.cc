// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/synthetic/synthetic.h"

#include <charconv>
#include <ctime>
#include <iterator>

#include <fmt/format.h>

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxWrite = 64 << 10;

uint8_t type_of_mode(uint32_t mode) { return static_cast<uint8_t>((mode & abi::kS_IFMT) >> 12); }

class Snapshot final : public base::RefCounted {
 public:
  std::string text;
  std::vector<ListedEntry> entries;
};

// The snapshot of one description: made on the first read, and again when a reader comes back to the start.
class SnapshotHolder {
 public:
  RefPtr<Snapshot> get() {
    base::MutexLock lock(mu_);
    return snapshot_;
  }
  void set(RefPtr<Snapshot> next) {
    {
      base::MutexLock lock(mu_);
      std::swap(snapshot_, next);
    }
  }

 private:
  base::Mutex mu_{base::LockRank::kLeaf};
  RefPtr<Snapshot> snapshot_ GUARDED_BY(mu_);
};

class TextDescription final : public vfs::FileDescription {
 public:
  TextDescription(vfs::Path path, uint32_t flags, RefPtr<TextFile> file)
      : FileDescription(std::move(path), flags), file_(std::move(file)) {}

  Result<size_t> pread(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t offset) override {
    RefPtr<Snapshot> snapshot = snapshot_.get();
    if (!snapshot || offset == 0) {
      TextBuffer buffer;
      TRY(file_->render(ctx, buffer));
      snapshot = base::make_ref<Snapshot>();
      snapshot->text = buffer.take();
      snapshot_.set(snapshot);
    }
    if (offset >= snapshot->text.size()) return size_t{0};
    return dst.put(snapshot->text.data() + offset, std::min(dst.remaining(), snapshot->text.size() - offset));
  }
  Result<size_t> pwrite(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t) override {
    std::string text(std::min(src.remaining(), kMaxWrite), '\0');
    const size_t n = TRY(src.get(text.data(), text.size()));
    text.resize(n);
    TRY(file_->store(ctx, text));
    return n;
  }
  bool is_seekable() const override { return true; }
  Result<uint64_t> seek(vfs::OpContext& ctx, int64_t offset, int32_t whence) override {
    int64_t base = 0;
    if (whence == 1) base = static_cast<int64_t>(offset_.load());
    else if (whence != 0) return err(kEINVAL);
    int64_t next;
    if (__builtin_add_overflow(base, offset, &next) || next < 0) return err(kEINVAL);
    offset_.store(static_cast<uint64_t>(next));
    return static_cast<uint64_t>(next);
  }
  Result<void> truncate(vfs::OpContext&, uint64_t) override { return {}; }

 private:
  const RefPtr<TextFile> file_;
  SnapshotHolder snapshot_;
};

class DirectoryDescription final : public vfs::FileDescription {
 public:
  DirectoryDescription(vfs::Path path, uint32_t flags, RefPtr<Directory> dir)
      : FileDescription(std::move(path), flags), dir_(std::move(dir)) {}

  Result<size_t> pread(vfs::OpContext&, vfs::IoBuffer&, uint64_t) override { return err(kEISDIR); }
  Result<size_t> read(vfs::OpContext&, vfs::IoBuffer&) override { return err(kEISDIR); }
  Result<void> readdir(vfs::OpContext& ctx, vfs::DirSink sink) override {
    uint64_t at = offset_.load();
    RefPtr<Snapshot> snapshot = snapshot_.get();
    if (!snapshot || at == 0) {
      snapshot = base::make_ref<Snapshot>();
      TRY(dir_->list_all(ctx, snapshot->entries));
      snapshot_.set(snapshot);
    }
    for (; at < snapshot->entries.size() + 2; ++at) {
      vfs::DirEntryInfo info;
      if (at < 2) {
        info = {at == 0 ? "." : "..", at == 0 ? dir_->number() : parent_number(), 4, at + 1};
      } else {
        const ListedEntry& e = snapshot->entries[at - 2];
        info = {e.name, e.inode, e.type, at + 1};
      }
      if (!sink(info)) break;
    }
    offset_.store(at);
    return {};
  }
  bool is_seekable() const override { return true; }
  Result<uint64_t> seek(vfs::OpContext&, int64_t offset, int32_t whence) override {
    if (whence == 1) offset += static_cast<int64_t>(offset_.load());
    else if (whence != 0) return err(kEINVAL);
    if (offset < 0) return err(kEINVAL);
    offset_.store(static_cast<uint64_t>(offset));
    return static_cast<uint64_t>(offset);
  }
  Result<void> fsync(vfs::OpContext&, bool) override { return {}; }

 private:
  uint64_t parent_number() const {
    RefPtr<vfs::Dentry> parent = path().dentry->parent();
    if (!parent) return dir_->number();
    return static_cast<SyntheticInode*>(parent->inode_ptr())->number();
  }
  const RefPtr<Directory> dir_;
  SnapshotHolder snapshot_;
};

}  // namespace

void TextBuffer::vprint(fmt::string_view format, fmt::format_args args) {
  if (text_.size() < kMax) fmt::vformat_to(std::back_inserter(text_), format, args);
}

void TextBuffer::append_escaped(std::string_view s, std::string_view special) {
  for (char c : s) {
    if (special.find(c) != std::string_view::npos) print("\\{:03o}", static_cast<unsigned char>(c));
    else append(c);
  }
}

SyntheticFs::SyntheticFs(std::string type, uint64_t magic, MakeRoot make_root)
    : type_(std::move(type)), magic_(magic), make_root_(make_root) {}

Result<vfs::StatFs> SyntheticFs::statfs(vfs::OpContext&) { return vfs::StatFs{.type = magic_}; }

SyntheticInode::SyntheticInode(SyntheticFs& fs, uint32_t mode, abi::KUid uid, abi::KGid gid)
    : Inode(fs), number_(fs.next_inode()), mode_(mode), uid_(uid.value()), gid_(gid.value()) {
  timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  time_ns_.store(now.tv_sec * 1'000'000'000 + now.tv_nsec, std::memory_order_relaxed);
}

creds::InodeOwner SyntheticInode::owner() const {
  return {abi::KUid(uid_.load(std::memory_order_relaxed)), abi::KGid(gid_.load(std::memory_order_relaxed)),
          mode_.load(std::memory_order_relaxed)};
}

Result<vfs::Stat> SyntheticInode::stat(vfs::OpContext&) {
  const creds::InodeOwner o = owner();
  vfs::Stat st;
  st.device = fs().device();
  st.inode = number_;
  st.mode = o.mode;
  st.nlink = link_count();
  st.uid = o.uid;
  st.gid = o.gid;
  st.rdev = rdev;
  st.size = size();
  st.block_size = 1024;
  const int64_t t = time_ns_.load(std::memory_order_relaxed);
  st.atime = st.mtime = st.ctime = {t / 1'000'000'000, t % 1'000'000'000};
  return st;
}

Result<void> SyntheticInode::set_attr(vfs::OpContext&, const vfs::SetAttr& attr) {
  if (attr.mode) mode_.store((mode_.load() & abi::kS_IFMT) | (*attr.mode & 07777));
  if (attr.uid) uid_.store(attr.uid->value());
  if (attr.gid) gid_.store(attr.gid->value());
  // A size (O_TRUNC) means nothing here; times are the caller's business.
  if (attr.mtime) time_ns_.store(attr.mtime->sec * 1'000'000'000 + attr.mtime->nsec);
  return {};
}

Directory::Directory(SyntheticFs& fs, uint32_t permissions) : SyntheticInode(fs, abi::kS_IFDIR | permissions) {}

const RefPtr<SyntheticInode>* Directory::find(std::string_view name) const {
  for (const auto& [child_name, child] : children_)
    if (child_name == name) return &child;
  return nullptr;
}

Result<RefPtr<vfs::Inode>> Directory::lookup(vfs::OpContext& ctx, std::string_view name) {
  TRY(check_present());
  if (const RefPtr<SyntheticInode>* child = find(name)) return RefPtr<vfs::Inode>(*child);
  return RefPtr<vfs::Inode>(TRY(lookup_dynamic(ctx, name)));
}

Result<bool> Directory::revalidate(vfs::OpContext& ctx, std::string_view, vfs::Inode* cached) {
  TRY(check_present());
  if (!cached) return !has_dynamic();
  return !static_cast<SyntheticInode*>(cached)->is_stale(ctx);
}

uint64_t Directory::link_count() const {
  uint64_t n = 2;
  for (const auto& [name, child] : children_) n += child->is_dir() ? 1 : 0;
  return n;
}

Result<void> Directory::list_all(vfs::OpContext& ctx, std::vector<ListedEntry>& out) {
  if (!check_present()) return err(kENOENT);
  for (const auto& [name, child] : children_) out.push_back({name, child->number(), type_of_mode(child->owner().mode)});
  list_dynamic(ctx, out);
  return {};
}

Result<RefPtr<vfs::FileDescription>> Directory::open(vfs::OpContext&, const vfs::Path& path, uint32_t flags) {
  return RefPtr<vfs::FileDescription>(base::make_ref<DirectoryDescription>(path, flags, RefPtr<Directory>(this)));
}

Result<RefPtr<vfs::FileDescription>> TextFile::open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) {
  TRY(check_open(ctx, flags));
  return RefPtr<vfs::FileDescription>(base::make_ref<TextDescription>(path, flags, RefPtr<TextFile>(this)));
}

RefPtr<SyntheticInode> make_text(SyntheticFs& fs, std::string text, uint32_t permissions) {
  return base::make_ref<FunctionFile>(fs, permissions, [text = std::move(text)](vfs::OpContext&, TextBuffer& out) {
    out.append(text);
    return Result<void>{};
  });
}

RefPtr<SyntheticInode> make_symlink(SyntheticFs& fs, std::string target) {
  return base::make_ref<Symlink>(fs, [target = std::move(target)](vfs::OpContext&) { return Result<std::string>(target); });
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\n\r\v\f";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

Result<int64_t> parse_integer(std::string_view text) {
  // A written C string may carry its NUL.
  text = trim(text.substr(0, text.find('\0')));
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  int base = 10;
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  uint64_t value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (ec == std::errc::result_out_of_range || value > INT64_MAX) return err(kERANGE);
  if (ec != std::errc{} || end != text.data() + text.size()) return err(kEINVAL);
  return negative ? -static_cast<int64_t>(value) : static_cast<int64_t>(value);
}

}  // namespace sentry::fs
