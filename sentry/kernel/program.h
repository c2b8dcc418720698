// SPDX-License-Identifier: Apache-2.0
// From a file to a program ready to run: opening for execution, the credentials that it gets, a fresh address space
// loaded by sentry/loader. Used by execve(2) and by the first process of a container. Nothing of the caller changes.
#pragma once

#include <string>
#include <vector>

#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/creds/credentials.h"
#include "sentry/creds/limits.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/file_description.h"

namespace sentry::kernel {

class Kernel;

// An executable file: regular, permitted, not on a noexec mount. EACCES, ENOENT, ETXTBSY, ...
base::Result<base::RefPtr<vfs::FileDescription>> open_for_exec(vfs::OpContext& ctx, const vfs::Path& start, std::string_view path,
                                                               uint32_t lookup_flags = 0);

enum class SetId : uint8_t { kHonoured, kIgnored };  // ignored: traced, or sharing its fs context with others

struct ProgramArgs {
  base::RefPtr<vfs::FileDescription> file;
  std::string filename;  // as the caller named it
  std::vector<std::string> argv, envp;
  creds::LimitSet limits;
  SetId set_id = SetId::kHonoured;
  bool path_inaccessible = false;
};

struct Program {
  base::RefPtr<mm::MemoryManager> mm;
  abi::Addr entry, stack_pointer;
  creds::CredPtr creds;
  bool secure = false;  // set-id: the parent-death signal and the like are forgotten
  std::string comm;
};

base::Result<Program> load_program(vfs::OpContext& ctx, Kernel& kernel, ProgramArgs args);

// What execve makes of credentials: capabilities(7), "Transformation of capabilities during execve()".
base::RefPtr<creds::Credentials> credentials_after_exec(const creds::Credentials& old, const creds::InodeOwner& file,
                                                        bool mount_nosuid, SetId set_id, bool* secure);

}  // namespace sentry::kernel
