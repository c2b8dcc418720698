// SPDX-License-Identifier: Apache-2.0
// The program loader: #! scripts and ELF64 images into a fresh address space, and the stack that a new program finds
// (arguments, environment, auxiliary vector). What fs/exec.c, binfmt_script.c and binfmt_elf.c do in Linux.
//
// Every offset and size in the file is hostile. On an error the caller throws the new address space away and the old
// program goes on: there is no point of no return in here.
#pragma once

#include <string>
#include <vector>

#include "abi/types/types.h"
#include "base/core/function_ref.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "sentry/creds/limits.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/file_description.h"

namespace sentry::loader {

// The guest-visible identity of the new program, for the auxiliary vector.
struct Identity {
  uint32_t uid = 0, euid = 0, gid = 0, egid = 0;
  bool secure = false;  // AT_SECURE: set-id or capabilities were gained
};

struct LoadArgs {
  vfs::OpContext& ctx;
  mm::MemoryManager& mm;  // fresh: nothing mapped, limits set
  base::RefPtr<vfs::FileDescription> file;  // opened for execution: regular, permitted, mount not noexec
  std::string filename;                     // as the caller of execve named it: AT_EXECFN and a script's argument
  std::vector<std::string> argv;            // empty: becomes {""} as in Linux
  std::vector<std::string> envp;
  creds::LimitSet limits;
  // `filename` cannot be opened again by an interpreter (a close-on-exec descriptor of execveat): ENOENT for scripts.
  bool path_inaccessible = false;
  // Opens an interpreter (PT_INTERP or #!) for execution, with the checks that execve makes.
  base::FunctionRef<base::Result<base::RefPtr<vfs::FileDescription>>(const std::string& path)> open_exec;
  // Called once when the binary whose set-id bits count is known (a script's interpreter, not the script).
  base::FunctionRef<base::Result<Identity>(vfs::FileDescription& binary)> decide_identity;
};

struct LoadedImage {
  abi::Addr entry;          // first instruction: the interpreter's if there is one
  abi::Addr stack_pointer;  // 16-byte aligned, at argc
  base::RefPtr<vfs::FileDescription> binary;  // what /proc/PID/exe shows
  bool executable_stack = false;
};

// ENOEXEC, ENOENT, EACCES, ELIBBAD, EINVAL, E2BIG, ELOOP, ENOMEM, EFAULT, EIO: as execve(2). The layout, exe and
// dumpable state of `mm` are set. Registers are the caller's: all zero, rip = entry, rsp = stack_pointer.
base::Result<LoadedImage> load(const LoadArgs& args);

// The limit on what execve copies, for the caller that reads argv and envp from the guest: strings with their NULs
// and pointers. E2BIG above; a single string may have kMaxArgStrlen bytes with its NUL.
inline constexpr size_t kMaxArgStrlen = 128 * 1024;
uint64_t max_arg_bytes(const creds::LimitSet& limits);

}  // namespace sentry::loader
