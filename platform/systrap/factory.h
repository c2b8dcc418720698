// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "platform/interface/platform.h"

namespace platform::systrap {

class SystrapFactory final : public PlatformFactory {
 public:
  std::string_view name() const override { return "systrap"; }
  std::vector<base::SeccompRule> host_calls() const override;
  std::string unavailable_reason() const override;
  base::Result<std::unique_ptr<Platform>> create(const PlatformConfig& config) override;
};

}  // namespace platform::systrap
