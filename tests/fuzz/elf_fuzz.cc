// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any bytes as an executable and as an interpreter; what parses is mapped too.
#include "sentry/loader/elf.h"
#include "sentry/loader/fake_file.h"
#include "sentry/mm/fake_platform.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sentry;
  static std::unique_ptr<memory::MemoryFile> file = *memory::MemoryFile::create();
  static mm::FakePlatform platform;
  auto mm = mm::MemoryManager::create(*file, platform);
  if (!mm) return 0;
  loader::FakeContext ctx(**mm);
  std::string bytes(reinterpret_cast<const char*>(data), size);
  for (loader::ElfRole role : {loader::ElfRole::kProgram, loader::ElfRole::kInterpreter}) {
    auto image = loader::parse_elf(ctx, base::make_ref<loader::BytesFile>(*file, bytes), role);
    if (image) (void)loader::map_elf(ctx, **mm, *image);
  }
  return 0;
}
