// SPDX-License-Identifier: Apache-2.0
// Parts for file systems whose files are made up when they are read: proc, sys, devpts.
//
// Inodes are immutable but for their attributes; text files render a snapshot when a description reads at offset 0.
// Nothing is rendered under a lock. Inodes hold their file system, which makes its root on demand (no cycle).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>

#include "sentry/vfs/file_description.h"
#include "sentry/vfs/inode.h"

namespace sentry::fs {

// What a text file renders into. Bounded: beyond kMax it stops taking bytes.
class TextBuffer {
 public:
  static constexpr size_t kMax = 64 << 20;
  template <typename... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) {
    vprint(format, fmt::make_format_args(args...));
  }
  void append(std::string_view s) {
    if (text_.size() + s.size() <= kMax) text_.append(s);
  }
  void append(char c) { append(std::string_view(&c, 1)); }
  // As seq_escape() of Linux: each of `special` becomes \ooo.
  void append_escaped(std::string_view s, std::string_view special);
  size_t size() const { return text_.size(); }
  void resize(size_t n) { text_.resize(n); }
  // Blanks up to a column counted from `line_start`, as seq_pad() does.
  void pad_to(size_t line_start, size_t width) {
    while (text_.size() < line_start + width) text_ += ' ';
  }
  std::string take() { return std::move(text_); }
  const std::string& text() const { return text_; }

 private:
  void vprint(fmt::string_view format, fmt::format_args args);
  std::string text_;
};

class SyntheticInode;

class SyntheticFs : public vfs::FileSystem {
 public:
  using MakeRoot = base::RefPtr<vfs::Inode> (*)(SyntheticFs& fs);
  SyntheticFs(std::string type, uint64_t magic, MakeRoot make_root);
  std::string_view type() const override { return type_; }
  base::RefPtr<vfs::Inode> root() override { return make_root_(*this); }
  abi::DeviceId device() const override { return device_; }
  base::Result<vfs::StatFs> statfs(vfs::OpContext& ctx) override;
  uint64_t next_inode() { return next_inode_.fetch_add(1, std::memory_order_relaxed); }

 private:
  const std::string type_;
  const uint64_t magic_;
  const MakeRoot make_root_;
  const abi::DeviceId device_ = vfs::allocate_device();
  std::atomic<uint64_t> next_inode_{1};
};

class SyntheticInode : public vfs::Inode {
 public:
  SyntheticInode(SyntheticFs& fs, uint32_t mode, abi::KUid uid = abi::KUid(0), abi::KGid gid = abi::KGid(0));
  creds::InodeOwner owner() const override;
  base::Result<vfs::Stat> stat(vfs::OpContext& ctx) override;
  base::Result<void> set_attr(vfs::OpContext& ctx, const vfs::SetAttr& attr) override;
  uint64_t number() const override { return number_; }
  SyntheticFs& synthetic_fs() const { return static_cast<SyntheticFs&>(fs()); }
  // Whether a cached name must be looked up again.
  virtual bool is_stale(vfs::OpContext&) const { return false; }
  virtual uint64_t link_count() const { return 1; }
  virtual uint64_t size() const { return 0; }
  abi::DeviceId rdev;  // immutable once reachable

 private:
  const uint64_t number_;
  std::atomic<uint32_t> mode_;
  std::atomic<uint32_t> uid_, gid_;
  std::atomic<int64_t> time_ns_;
};

struct ListedEntry {
  std::string name;
  uint64_t inode = 0;
  uint8_t type = 0;  // DT_*
};

// A directory: fixed children, and whatever a subclass finds or lists beyond them.
class Directory : public SyntheticInode {
 public:
  explicit Directory(SyntheticFs& fs, uint32_t permissions = 0555);
  // While building, before the directory is reachable.
  void add(std::string name, base::RefPtr<SyntheticInode> child) { children_.emplace_back(std::move(name), std::move(child)); }
  const base::RefPtr<SyntheticInode>* find(std::string_view name) const;

  base::Result<base::RefPtr<vfs::Inode>> lookup(vfs::OpContext& ctx, std::string_view name) final;
  base::Result<bool> revalidate(vfs::OpContext& ctx, std::string_view name, vfs::Inode* cached) override;
  base::Result<base::RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) final;
  uint64_t link_count() const override;
  // ENOENT when what it showed is gone.
  base::Result<void> list_all(vfs::OpContext& ctx, std::vector<ListedEntry>& out);

 protected:
  virtual base::Result<base::RefPtr<SyntheticInode>> lookup_dynamic(vfs::OpContext&, std::string_view) {
    return err(abi::Errno::kENOENT);
  }
  virtual void list_dynamic(vfs::OpContext&, std::vector<ListedEntry>&) {}
  virtual bool has_dynamic() const { return false; }
  // Before a name is looked up here: ESRCH in the directory of a process that is gone, which has no entries either.
  virtual base::Result<void> check_present() const { return {}; }

 private:
  std::vector<std::pair<std::string, base::RefPtr<SyntheticInode>>> children_;
};

// A regular file of generated text.
class TextFile : public SyntheticInode {
 public:
  using SyntheticInode::SyntheticInode;
  virtual base::Result<void> render(vfs::OpContext& ctx, TextBuffer& out) = 0;
  // One write(2), at most 64 KiB of it.
  virtual base::Result<void> store(vfs::OpContext& ctx, std::string_view text) { return err(abi::Errno::kEINVAL); }
  // At open: extra permission, for example ptrace access.
  virtual base::Result<void> check_open(vfs::OpContext& ctx, uint32_t flags) { return {}; }
  base::Result<base::RefPtr<vfs::FileDescription>> open(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags) override;
};

class FunctionFile final : public TextFile {
 public:
  using Render = std::function<base::Result<void>(vfs::OpContext&, TextBuffer&)>;
  using Store = std::function<base::Result<void>(vfs::OpContext&, std::string_view)>;
  FunctionFile(SyntheticFs& fs, uint32_t permissions, Render render, Store store = nullptr)
      : TextFile(fs, abi::kS_IFREG | permissions), render_(std::move(render)), store_(std::move(store)) {}
  base::Result<void> render(vfs::OpContext& ctx, TextBuffer& out) override { return render_(ctx, out); }
  base::Result<void> store(vfs::OpContext& ctx, std::string_view text) override {
    return store_ ? store_(ctx, text) : err(abi::Errno::kEINVAL);
  }

 private:
  const Render render_;
  const Store store_;
};

base::RefPtr<SyntheticInode> make_text(SyntheticFs& fs, std::string text, uint32_t permissions = 0444);

class Symlink : public SyntheticInode {
 public:
  using Target = std::function<base::Result<std::string>(vfs::OpContext&)>;
  Symlink(SyntheticFs& fs, Target target) : SyntheticInode(fs, abi::kS_IFLNK | 0777), target_(std::move(target)) {}
  base::Result<std::string> readlink(vfs::OpContext& ctx) override { return target_(ctx); }
  base::Result<base::RefPtr<vfs::FileDescription>> open(vfs::OpContext&, const vfs::Path&, uint32_t) override {
    return err(abi::Errno::kELOOP);
  }

 private:
  const Target target_;
};
base::RefPtr<SyntheticInode> make_symlink(SyntheticFs& fs, std::string target);

// The text of a decimal or 0x number with surrounding blanks, as kstrtoll() reads it. EINVAL, ERANGE.
base::Result<int64_t> parse_integer(std::string_view text);
std::string_view trim(std::string_view text);

}  // namespace sentry::fs
