// SPDX-License-Identifier: Apache-2.0
// HostFileMap: a host file that nobody in the sandbox changes, mapped as it is (HostFiles). Its size is what it was when
// it was first mapped.
#pragma once

#include "sentry/memory/mappable.h"

namespace sentry::memory {

class HostFileMap final : public Mappable {
 public:
  // What HostFiles::add() says.
  static base::Result<base::RefPtr<HostFileMap>> create(MemoryFile& file, base::RefPtr<base::SharedFd> fd, uint64_t size);
  HostFileMap(MemoryFile& file, FileRange pages) : file_(file), pages_(pages) {}
  ~HostFileMap() override { file_.drop_ref(pages_); }

  base::Result<FileRange> translate(uint64_t offset, uint64_t length, bool write) override;
  base::Result<Placed> translate_cached(uint64_t offset, uint64_t lo, uint64_t hi, bool write) override;
  base::Result<Placed> find_pages(uint64_t offset, uint64_t lo, uint64_t hi) override { return translate_cached(offset, lo, hi, false); }
  // It never changes, so nobody need be told.
  void add_observer(MappingObserver&) override {}
  void remove_observer(MappingObserver&) override {}
  bool is_immutable() const override { return true; }
  bool is_in_memory() const override { return true; }

 private:
  MemoryFile& file_;
  const FileRange pages_;
};

}  // namespace sentry::memory
