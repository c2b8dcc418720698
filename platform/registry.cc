// SPDX-License-Identifier: Apache-2.0
// The one file that names every platform.
#include "platform/interface/platform.h"
#include "platform/systrap/factory.h"

namespace platform {
namespace {

systrap::SystrapFactory systrap_factory;
PlatformFactory* const kPlatforms[] = {&systrap_factory};

}  // namespace

std::span<PlatformFactory* const> all_platforms() { return kPlatforms; }

PlatformFactory* find_platform(std::string_view name) {
  for (PlatformFactory* factory : kPlatforms)
    if (factory->name() == name) return factory;
  return nullptr;
}

}  // namespace platform
