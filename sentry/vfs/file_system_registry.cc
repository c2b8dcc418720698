// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/file_system_registry.h"

namespace sentry::vfs {

namespace {
std::vector<FileSystemType>& registry() {
  static std::vector<FileSystemType> types;
  return types;
}
}  // namespace

void register_file_system(FileSystemType type) { registry().push_back(std::move(type)); }

const FileSystemType* find_file_system(std::string_view name) {
  for (const FileSystemType& type : registry())
    if (type.name == name) return &type;
  return nullptr;
}

const std::vector<FileSystemType>& all_file_systems() { return registry(); }

}  // namespace sentry::vfs
