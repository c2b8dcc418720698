// SPDX-License-Identifier: Apache-2.0
// FileSystem and Inode: what a file system implements. The VFS keeps the dentry cache, mounts, permissions
// along a path, and file locks; a file system keeps its objects.
//
// Calling rules: the VFS has checked permissions, read-only mounts, name length and that `name` is neither "", "." nor "..".
// Changes of one directory are serialised by the VFS with a sleeping lock (Dentry::change_lock(); removing a directory also
// holds the victim's), renames between directories by the file system's rename lock. Lookups run beside them, without a
// lock. An implementation may block.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "abi/linux/stat.h"
#include "abi/types/types.h"
#include "base/core/function_ref.h"
#include "base/core/result.h"
#include "base/ref/ref.h"
#include "base/sync/mutex.h"
#include "sentry/creds/credentials.h"
#include "sentry/memory/mappable.h"
#include "sentry/vfs/op_context.h"
#include "sentry/vfs/sleep_lock.h"

namespace sentry::memory {
class PageSource;
}

namespace sentry::vfs {

class Dentry;
class FileDescription;
class FileLocks;
class Inode;
class InotifyWatches;
struct Path;

struct TimeSpec {
  int64_t sec = 0;
  int64_t nsec = 0;
  friend bool operator==(const TimeSpec&, const TimeSpec&) = default;
};

// stat(2) as kept inside; ids are sandbox ids.
struct Stat {
  abi::DeviceId device;
  uint64_t inode = 0;
  uint32_t mode = 0;
  uint64_t nlink = 1;
  abi::KUid uid;
  abi::KGid gid;
  abi::DeviceId rdev;
  uint64_t size = 0;
  uint32_t block_size = 4096;
  uint64_t blocks = 0;  // of 512 bytes
  TimeSpec atime, mtime, ctime;
  std::optional<TimeSpec> btime;
};

struct SetAttr {
  std::optional<uint32_t> mode;  // permission bits with set-id and sticky
  std::optional<abi::KUid> uid;
  std::optional<abi::KGid> gid;
  std::optional<uint64_t> size;
  std::optional<TimeSpec> atime, mtime;  // values; "now" has been filled in by the caller
  bool times_are_now = false;            // utimes(NULL): write permission is enough
};

// For a new object: who owns it and how.
struct CreateArgs {
  uint32_t mode = 0;  // type and permissions, umask applied
  abi::KUid uid;
  abi::KGid gid;      // set-gid directory already considered
  abi::DeviceId rdev;
};

struct StatFs {
  uint64_t type = 0, block_size = 4096, blocks = 0, blocks_free = 0, blocks_available = 0, files = 0, files_free = 0,
           name_length = 255;
  uint64_t fsid = 0;
};

class FileSystem : public base::RefCounted {
 public:
  virtual std::string_view type() const = 0;  // "tmpfs", as /proc/mounts says
  virtual base::RefPtr<Inode> root() = 0;
  virtual abi::DeviceId device() const = 0;   // st_dev; unnamed device numbers come from allocate_device()
  virtual base::Result<StatFs> statfs(OpContext& ctx) = 0;
  virtual std::string mount_options() const { return ""; }  // beyond the flags: "size=64k,mode=755"
  virtual base::Result<void> sync() { return {}; }
  // True: others may change the tree, so a cached name is checked with Inode::revalidate() each time it is used.
  virtual bool revalidates() const { return false; }
  // Its files' attributes change only inside a ChangeScope (vfs/changes.h), and their numbers are not 0.
  bool tells_changes() const { return tells_changes_; }
  SleepLock& rename_lock() { return rename_lock_; }

 protected:
  void set_tells_changes() { tells_changes_ = true; }  // before anybody else has it

 private:
  bool tells_changes_ = false;
  SleepLock rename_lock_;
};
abi::DeviceId allocate_device();

enum class XattrSetMode : uint8_t { kAny, kCreate, kReplace };
enum : uint32_t { kRenameNoReplace = 1, kRenameExchange = 2, kRenameWhiteout = 4 };

class Inode : public base::RefCounted {
 public:
  explicit Inode(FileSystem& fs) : fs_(&fs) {}
  ~Inode() override;

  FileSystem& fs() const { return *fs_; }
  // Never changes, so that it is asked for once.
  uint32_t type() const {
    const uint32_t known = type_.load(std::memory_order_relaxed);
    return known != 0 ? known : learn_type();
  }
  bool is_dir() const { return type() == abi::kS_IFDIR; }
  bool is_regular() const { return type() == abi::kS_IFREG; }
  bool is_symlink() const { return type() == abi::kS_IFLNK; }

  // Cheap, for permission checks on every path component: mode, uid, gid as known now. No blocking.
  virtual creds::InodeOwner owner() const = 0;
  virtual base::Result<Stat> stat(OpContext& ctx) = 0;
  // st_ino, without asking anybody; 0 where only stat() knows.
  virtual uint64_t number() const { return 0; }
  virtual base::Result<void> set_attr(OpContext& ctx, const SetAttr& attr) { return err(kPerm); }
  // want: 4 read, 2 write, 1 execute. The default checks the mode bits and capabilities (generic_permission()).
  virtual base::Result<void> permission(OpContext& ctx, unsigned want) const;

  // Directories.
  virtual base::Result<base::RefPtr<Inode>> lookup(OpContext& ctx, std::string_view name) { return err(kNotDir); }
  // What stat() of `name` would say now, when that takes less than lookup() (and, where others change the tree, than
  // revalidate() and stat()): no inode is made for it.
  virtual std::optional<Stat> peek(OpContext& ctx, std::string_view name) { return std::nullopt; }
  // Names from behind `after` on ("": all), at most `most` of them, as far as they are known without asking anybody; the order is that of a
  // listing. `stat` gives what stat() of the name would say, or nothing when that is not known.
  using NameSink = base::FunctionRef<void(std::string_view name, base::FunctionRef<std::optional<Stat>()> stat)>;
  virtual void peek_names(OpContext& ctx, std::string_view after, size_t most, NameSink sink) {}
  // FileSystem::tells_changes(), for this one.
  virtual bool tells_changes() const { return fs_->tells_changes(); }
  // The same of what is in a file.
  virtual bool tells_content() const { return false; }
  // Whether reading what is in the file changes anything of it (its time of access): as long as nothing else of it does; never.
  enum class Reading : uint8_t { kChangesIt, kLeavesIt, kNeverChangesIt };
  virtual Reading reading() const { return Reading::kChangesIt; }
  // Whether a stub that has it open may write its pages, with nothing but bytes and times to come of it.
  virtual bool may_be_written_in_place() const { return false; }
  // One does, or did: from then on what is in it is not told ahead.
  bool is_written_in_place() const { return written_in_place_.load(std::memory_order_seq_cst); }
  void set_written_in_place();
  // Inside a ChangeScope, before what is in it changes: a stub that is at it ends, and no other begins.
  void await_writes_in_place() const;
  // Whether `name` still is what the cache says (`cached` is null for "does not exist"). False: it is looked up again.
  virtual base::Result<bool> revalidate(OpContext& ctx, std::string_view name, Inode* cached) { return true; }
  // revalidate() of names one below the other, each leading to the inode of the same place in `cached`: how many of them
  // from the first one on still do. Those after that are asked for one by one.
  virtual size_t revalidate_chain(OpContext& ctx, std::span<const std::string_view> names, std::span<Inode* const> cached) { return 0; }
  // Hint that `names` will be looked up one below the other: a remote file system may fetch them in one message and
  // return the inodes it found, first to last (the list ends where the walk does).
  virtual std::vector<base::RefPtr<Inode>> lookup_chain(OpContext& ctx, std::span<const std::string_view> names) { return {}; }
  virtual base::Result<base::RefPtr<Inode>> create(OpContext& ctx, std::string_view name, const CreateArgs& args) { return err(kPerm); }
  virtual base::Result<base::RefPtr<Inode>> mkdir(OpContext& ctx, std::string_view name, const CreateArgs& args) { return err(kPerm); }
  virtual base::Result<base::RefPtr<Inode>> mknod(OpContext& ctx, std::string_view name, const CreateArgs& args) { return err(kPerm); }
  virtual base::Result<base::RefPtr<Inode>> symlink(OpContext& ctx, std::string_view name, std::string_view target, const CreateArgs& args) { return err(kPerm); }
  virtual base::Result<void> link(OpContext& ctx, std::string_view name, Inode& target) { return err(kPerm); }
  virtual base::Result<void> unlink(OpContext& ctx, std::string_view name, Inode& target) { return err(kPerm); }
  virtual base::Result<void> rmdir(OpContext& ctx, std::string_view name, Inode& target) { return err(kPerm); }
  // `replaced` is null when new_name does not exist. Both directories are of this file system.
  virtual base::Result<void> rename(OpContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir,
                                    std::string_view new_name, Inode* replaced, uint32_t flags) { return err(kPerm); }
  // Unlinked temporary file of this directory (O_TMPFILE).
  virtual base::Result<base::RefPtr<Inode>> tmpfile(OpContext& ctx, const CreateArgs& args) { return err(kOpNotSupp); }

  virtual base::Result<std::string> readlink(OpContext& ctx) { return err(kInval); }
  // Magic links (/proc/PID/fd/N, exe, cwd, root): where following leads instead of the text. Null path: not magic.
  virtual base::Result<std::optional<Path>> follow_magic(OpContext& ctx);

  // Opens the object; `path` is where it was found. Access was checked. Device nodes, FIFOs and sockets of
  // file systems that store them are dispatched by the VFS before this is called.
  virtual base::Result<base::RefPtr<FileDescription>> open(OpContext& ctx, const Path& path, uint32_t flags) = 0;

  virtual base::Result<std::string> get_xattr(OpContext& ctx, std::string_view name) { return err(kOpNotSupp); }
  virtual base::Result<void> set_xattr(OpContext& ctx, std::string_view name, std::string_view value, XattrSetMode mode) { return err(kOpNotSupp); }
  virtual base::Result<std::vector<std::string>> list_xattr(OpContext& ctx) { return std::vector<std::string>{}; }
  virtual base::Result<void> remove_xattr(OpContext& ctx, std::string_view name) { return err(kOpNotSupp); }

  // The bytes of a regular file without a task and without caching them, for a file system above; null: only
  // through a description. Valid while a description of the file is open.
  virtual memory::PageSource* page_source() { return nullptr; }

  // fcntl and flock records; made on first use.
  FileLocks& locks();
  FileLocks* existing_locks() const { return locks_.load(std::memory_order_acquire); }
  // inotify watches on this inode, or null when there are none.
  InotifyWatches* watches() const { return watches_.load(std::memory_order_acquire); }
  InotifyWatches& make_watches();
  // Number of open-for-write descriptions and of running executables, for ETXTBSY (deny_write_access of Linux):
  // > 0 writers, < 0 executing.
  std::atomic<int32_t> write_count{0};
  // Payloads of FIFOs and bound sockets found at this inode: made by fs/pipe and net/unix, shared by all openers.
  base::Mutex special_mu{base::LockRank::kLeaf};
  base::RefPtr<base::RefCounted> special GUARDED_BY(special_mu);

 protected:
  static constexpr abi::Errno kPerm = abi::Errno::kEPERM, kNotDir = abi::Errno::kENOTDIR, kInval = abi::Errno::kEINVAL,
                              kOpNotSupp = abi::Errno::kEOPNOTSUPP;
  static constexpr base::Err err(abi::Errno e) { return base::Err(e); }

 private:
  uint32_t learn_type() const;
  const base::RefPtr<FileSystem> fs_;
  mutable std::atomic<uint32_t> type_{0};  // 0: not asked yet
  std::atomic<FileLocks*> locks_{nullptr};
  std::atomic<InotifyWatches*> watches_{nullptr};
  std::atomic<bool> written_in_place_{false};  // set once, inside a ChangeScope
};

}  // namespace sentry::vfs
