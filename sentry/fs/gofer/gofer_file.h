// SPDX-License-Identifier: Apache-2.0
// Open files and directories of the gofer file system.
#pragma once

#include "sentry/fs/gofer/gofer_inode.h"
#include "sentry/vfs/file_description.h"

namespace sentry::fs::gofer {

class GoferFile final : public vfs::FileDescription {
 public:
  GoferFile(vfs::Path path, uint32_t flags);
  ~GoferFile() override;
  base::Result<size_t> pread(vfs::OpContext& ctx, vfs::IoBuffer& dst, uint64_t offset) override;
  base::Result<size_t> pwrite(vfs::OpContext& ctx, vfs::IoBuffer& src, uint64_t offset) override;
  bool is_seekable() const override { return true; }
  base::Result<void> fsync(vfs::OpContext& ctx, bool data_only) override;
  base::Result<void> fallocate(vfs::OpContext& ctx, uint32_t mode, uint64_t offset, uint64_t length) override;
  base::Result<base::RefPtr<memory::Mappable>> mappable(vfs::OpContext& ctx) override;

 private:
  GoferInode& file() const { return static_cast<GoferInode&>(inode()); }
};

// A snapshot of the names, taken at the first read and again after a rewind.
class GoferDirectory final : public vfs::FileDescription {
 public:
  GoferDirectory(vfs::Path path, uint32_t flags);
  base::Result<size_t> pread(vfs::OpContext&, vfs::IoBuffer&, uint64_t) override { return base::err(abi::Errno::kEISDIR); }
  base::Result<size_t> read(vfs::OpContext&, vfs::IoBuffer&) override { return base::err(abi::Errno::kEISDIR); }
  base::Result<void> readdir(vfs::OpContext& ctx, vfs::DirSink sink) override;
  bool is_seekable() const override { return true; }
  base::Result<void> fsync(vfs::OpContext& ctx, bool data_only) override;

 private:
  GoferInode& dir() const { return static_cast<GoferInode&>(inode()); }
  base::Mutex mu_{base::LockRank::kLeaf};
  base::RefPtr<Listing> listing_ GUARDED_BY(mu_);
};

}  // namespace sentry::fs::gofer
