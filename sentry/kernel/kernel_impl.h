// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "base/sync/mutex.h"
#include "sentry/kernel/common_answers.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/pid_namespace.h"

namespace sentry::kernel {

struct Kernel::Impl {
  TaskSet tasks;
  base::RefPtr<creds::UserNamespace> root_user_ns;
  base::RefPtr<PidNamespace> root_pids;
  uint64_t total_memory = 0;
  CommonAnswersList common_answers;
  struct Missing {
    uint64_t count = 0;
    std::string first_program;
  };
  base::Guarded<std::map<uint64_t, Missing>> missing{base::LockRank::kLeaf};
};

}  // namespace sentry::kernel
