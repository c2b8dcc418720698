// SPDX-License-Identifier: Apache-2.0
#include "sentry/memory/host_file_map.h"

#include <algorithm>

namespace sentry::memory {

using enum abi::Errno;

base::Result<base::RefPtr<HostFileMap>> HostFileMap::create(MemoryFile& file, base::RefPtr<base::SharedFd> fd, uint64_t size) {
  FileRange pages = TRY(file.host_files().add(std::move(fd), size));
  return base::make_ref<HostFileMap>(file, pages);
}

base::Result<FileRange> HostFileMap::translate(uint64_t offset, uint64_t length, bool write) {
  return TRY(translate_cached(offset, offset, offset + length, write)).range;
}

base::Result<Mappable::Placed> HostFileMap::translate_cached(uint64_t offset, uint64_t lo, uint64_t hi, bool write) {
  if (write) return base::err(kEACCES);
  if (offset >= pages_.length) return base::err(kENXIO);
  hi = std::min(hi, pages_.length);
  const FileRange range{pages_.offset + lo, hi - lo};
  file_.add_ref(range);
  return Placed{lo, range};
}

}  // namespace sentry::memory
