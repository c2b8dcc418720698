// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/program.h"

#include "sentry/kernel/kernel.h"
#include "sentry/loader/loader.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

enum : uint32_t {
  kSecbitNoRoot = 1, kSecbitNoSetuidFixup = 4, kSecbitKeepCaps = 16, kSecbitNoCapAmbientRaise = 64,
};

}  // namespace

Result<RefPtr<vfs::FileDescription>> open_for_exec(vfs::OpContext& ctx, const vfs::Path& start, std::string_view path,
                                                   uint32_t lookup_flags) {
  RefPtr<vfs::FileDescription> file = TRY(vfs::open_at(ctx, start, path, vfs::kO_RDONLY | vfs::kFmodeExec, 0, lookup_flags));
  if (!file->inode().is_regular()) return err(kEACCES);
  if (file->path().mount->flags() & vfs::kMsNoExec) return err(kEACCES);
  if (file->inode().write_count.load() > 0) return err(kETXTBSY);
  return file;
}

RefPtr<creds::Credentials> credentials_after_exec(const creds::Credentials& old, const creds::InodeOwner& file, bool mount_nosuid,
                                                  SetId set_id, bool* secure) {
  auto next = base::make_ref<creds::Credentials>(old);
  bool is_setid = false;
  // bprm_fill_uid(): only ids that the caller's user namespace maps count.
  const bool honoured = set_id == SetId::kHonoured && !mount_nosuid && !old.no_new_privs;
  if (honoured && (file.mode & abi::kS_ISUID) && old.user_ns->unmap_uid(file.uid).value() != creds::kOverflowId) {
    next->euid = file.uid;
    is_setid = next->euid != old.euid;
  }
  const uint32_t group_set = abi::kS_ISGID | 010;
  if (honoured && (file.mode & group_set) == group_set && old.user_ns->unmap_gid(file.gid).value() != creds::kOverflowId) {
    next->egid = file.gid;
    is_setid = is_setid || next->egid != old.egid;
  }
  next->suid = next->fsuid = next->euid;
  next->sgid = next->fsgid = next->egid;

  // DIVERGES: file capabilities (security.capability) are not honoured; a file has none or, for root, all.
  const std::optional<abi::KUid> root = old.user_ns->map_uid(abi::Uid(0));
  const bool root_real = root && next->uid == *root, root_effective = root && next->euid == *root;
  if (is_setid) next->ambient = 0;
  creds::CapSet permitted = next->ambient;
  bool effective = false;
  if (!(old.securebits & kSecbitNoRoot) && (root_real || root_effective)) {
    permitted = old.inheritable | old.bounding;
    effective = root_effective;
    next->ambient = 0;
  }
  if ((permitted & ~old.permitted) != 0 && old.no_new_privs) permitted &= old.permitted;
  next->permitted = permitted;
  next->effective = effective ? permitted : next->ambient;
  next->securebits &= ~uint32_t{kSecbitKeepCaps};
  *secure = is_setid || (!root_real && effective);
  return next;
}

Result<Program> load_program(vfs::OpContext& ctx, Kernel& kernel, ProgramArgs args) {
  Program program;
  program.mm = TRY(mm::MemoryManager::create(kernel.memory(), kernel.platform()));
  program.mm->set_limits(args.limits);
  auto open_interpreter = [&](const std::string& path) -> Result<RefPtr<vfs::FileDescription>> {
    return open_for_exec(ctx, ctx.cwd(), path, vfs::kLookupFollow);
  };
  auto decide = [&](vfs::FileDescription& binary) -> Result<loader::Identity> {
    const bool nosuid = (binary.path().mount->flags() & vfs::kMsNoSuid) != 0;
    RefPtr<creds::Credentials> next = credentials_after_exec(ctx.creds(), binary.inode().owner(), nosuid, args.set_id, &program.secure);
    loader::Identity id;
    id.uid = next->user_ns->unmap_uid(next->uid).value();
    id.euid = next->user_ns->unmap_uid(next->euid).value();
    id.gid = next->user_ns->unmap_gid(next->gid).value();
    id.egid = next->user_ns->unmap_gid(next->egid).value();
    id.secure = program.secure;
    program.creds = std::move(next);
    return id;
  };
  const size_t slash = args.filename.rfind('/');
  program.comm = args.filename.substr(slash == std::string::npos ? 0 : slash + 1);
  const loader::LoadArgs load_args = {ctx, *program.mm, args.file, args.filename, std::move(args.argv), std::move(args.envp),
                                      args.limits, args.path_inaccessible, open_interpreter, decide};
  const loader::LoadedImage image = TRY(loader::load(load_args));
  program.entry = image.entry;
  program.stack_pointer = image.stack_pointer;
  if (!program.creds) return err(kENOEXEC);
  if (program.secure) program.mm->set_dumpable(false);
  return program;
}

}  // namespace sentry::kernel
