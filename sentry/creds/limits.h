// SPDX-License-Identifier: Apache-2.0
// Resource limits of a thread group: getrlimit(2). Numbers are x86-64's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sentry::creds {

enum class Resource : uint8_t {
  kCPU, kFSIZE, kDATA, kSTACK, kCORE, kRSS, kNPROC, kNOFILE, kMEMLOCK, kAS, kLOCKS, kSIGPENDING, kMSGQUEUE, kNICE,
  kRTPRIO, kRTTIME, kCount,
};

inline constexpr uint64_t kInfinity = ~uint64_t{0};

struct Limit {
  uint64_t soft = kInfinity, hard = kInfinity;
};

struct LimitSet {
  std::array<Limit, static_cast<size_t>(Resource::kCount)> limits = default_limits();
  const Limit& get(Resource r) const { return limits[static_cast<size_t>(r)]; }
  Limit& get(Resource r) { return limits[static_cast<size_t>(r)]; }

  static constexpr std::array<Limit, static_cast<size_t>(Resource::kCount)> default_limits() {
    std::array<Limit, static_cast<size_t>(Resource::kCount)> l{};
    for (Limit& limit : l) limit = {kInfinity, kInfinity};  // g++ 12 leaves some of them zero otherwise
    auto at = [&](Resource r) -> Limit& { return l[static_cast<size_t>(r)]; };
    at(Resource::kSTACK) = {8 << 20, kInfinity};
    at(Resource::kCORE) = {0, kInfinity};
    at(Resource::kNOFILE) = {1024, 1 << 20};
    at(Resource::kMEMLOCK) = {8 << 20, 8 << 20};
    at(Resource::kNPROC) = {32768, 32768};
    at(Resource::kSIGPENDING) = {32768, 32768};
    at(Resource::kMSGQUEUE) = {819200, 819200};
    at(Resource::kNICE) = {0, 0};
    at(Resource::kRTPRIO) = {0, 0};
    return l;
  }
};

}  // namespace sentry::creds
