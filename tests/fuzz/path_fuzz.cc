// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: lines of operations on a small tree, `letter path[<TAB>path]`. Whatever the tree has become, a walk that must
// stay beneath a directory ends beneath it, one without links has followed none, and every walk ends.
#include <cstdlib>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/test_context.h"

namespace {

using namespace sentry;

constexpr size_t kMaxLines = 64, kMaxLine = 8192;

bool is_beneath(vfs::OpContext& ctx, vfs::Path at, const vfs::Path& top) {
  for (int depth = 0; depth < 4096; ++depth) {
    if (&at.inode() == &top.inode()) return true;
    auto up = vfs::walk(ctx, at, "..", vfs::kLookupDirectory);
    if (!up || &up->path.inode() == &at.inode()) return false;
    at = up->path;
  }
  return false;
}

void run_line(vfs::OpContext& ctx, const vfs::Path& root, const vfs::Path& top, std::string_view line) {
  if (line.size() < 2) return;
  const std::string_view paths = line.substr(1);
  const size_t tab = paths.find('\t');
  const std::string_view a = paths.substr(0, tab), b = tab == std::string_view::npos ? std::string_view() : paths.substr(tab + 1);
  switch (line[0]) {
    case 'm': (void)vfs::mkdir_at(ctx, top, a, 0755); break;
    case 's': (void)vfs::symlink_at(ctx, top, a, b); break;
    case 'l': (void)vfs::link_at(ctx, top, a, root, b, 0); break;
    case 'r': (void)vfs::rename_at(ctx, top, a, top, b, 0); break;
    case 'x': (void)vfs::rename_at(ctx, top, a, root, b, 2 /* RENAME_EXCHANGE */); break;
    case 'u': (void)vfs::unlink_at(ctx, top, a, false); break;
    case 'd': (void)vfs::unlink_at(ctx, top, a, true); break;
    case 'o': (void)vfs::open_at(ctx, top, a, vfs::kO_CREAT | vfs::kO_RDWR, 0644); break;
    case 'w': (void)vfs::walk(ctx, top, a, vfs::kLookupFollow); break;
    case 'p': (void)vfs::walk(ctx, top, a, vfs::kLookupParent); break;
    case 't': (void)vfs::walk_stat(ctx, root, a, 0); break;
    case 'b': {
      auto found = vfs::walk(ctx, top, a, vfs::kLookupFollow | vfs::kLookupDirectory | vfs::kLookupBeneath);
      if (found && !is_beneath(ctx, found->path, top)) abort();
      break;
    }
    case 'i': {
      auto found = vfs::walk(ctx, top, a, vfs::kLookupFollow | vfs::kLookupDirectory | vfs::kLookupInRoot);
      if (found && !is_beneath(ctx, found->path, top)) abort();
      break;
    }
    case 'n': {
      auto plain = vfs::walk(ctx, top, a, vfs::kLookupFollow | vfs::kLookupNoSymlinks);
      auto follow = vfs::walk(ctx, top, a, vfs::kLookupFollow);
      if (plain && (!follow || &plain->path.inode() != &follow->path.inode())) abort();
      break;
    }
    default: break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::unique_ptr<memory::MemoryFile> file = *memory::MemoryFile::create();
  vfs::TestContext ctx{*fs::tmpfs::create(*file, {.mode = 0755})};
  const vfs::Path root = ctx.root();
  if (!vfs::mkdir_at(ctx, root, "top", 0755) || !vfs::mkdir_at(ctx, root, "outside", 0755)) return 0;
  auto top = vfs::walk(ctx, root, "top", 0);
  if (!top) return 0;
  std::string_view text(static_cast<const char*>(static_cast<const void*>(data)), size);
  for (size_t lines = 0; !text.empty() && lines < kMaxLines; ++lines) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.size() <= kMaxLine) run_line(ctx, root, top->path, line);
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
  return 0;
}
