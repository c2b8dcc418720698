// SPDX-License-Identifier: Apache-2.0
#include "sentry/fs/mqueue/mqueue_fs.h"

#include <unordered_map>

#include "sentry/kernel/kernel.h"
#include "sentry/vfs/file_system_registry.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr uint64_t kMagic = 0x19800202;
constexpr uint64_t kFileSize = 80;  // FILENT_SIZE
constexpr size_t kNameMax = 255;
constexpr int64_t kHardMessages = 65536, kHardMessageSize = 16 << 20, kHardQueues = INT32_MAX;

constexpr MqueueLimitRow kLimitRows[] = {
    {"queues_max", &MqueueLimits::queues_max, 0, kHardQueues},
    {"msg_max", &MqueueLimits::msg_max, 1, kHardMessages},
    {"msgsize_max", &MqueueLimits::msgsize_max, 128, kHardMessageSize},
    {"msg_default", &MqueueLimits::msg_default, 1, kHardMessages},
    {"msgsize_default", &MqueueLimits::msgsize_default, 128, kHardMessageSize},
};

// Bytes that each user's queues may hold: mq_bytes of user_struct.
base::Guarded<std::unordered_map<uint32_t, uint64_t>>& charges() {
  static auto& map = *new base::Guarded<std::unordered_map<uint32_t, uint64_t>>(base::LockRank::kLeaf);
  return map;
}

// What a queue of this size counts: messages with their headers and tree nodes (mqueue_get_inode()).
uint64_t charge_of(const MqSize& size) {
  constexpr uint64_t kMessageHeader = 48, kTreeNode = 48;
  const auto messages = static_cast<uint64_t>(size.max_messages);
  return messages * (kMessageHeader + static_cast<uint64_t>(size.message_size)) + std::min<uint64_t>(messages, kMqPrioMax) * kTreeNode;
}

Result<MqSize> checked_size(vfs::OpContext& ctx, const MqueueLimits& limits, const MqSize* wanted) {
  const int64_t messages = limits.msg_max.load(), bytes = limits.msgsize_max.load();
  if (!wanted) return MqSize{std::min(messages, limits.msg_default.load()), std::min(bytes, limits.msgsize_default.load())};
  const bool exempt = ctx.creds().has_cap(creds::Cap::kSYS_RESOURCE);
  if (wanted->max_messages <= 0 || wanted->message_size <= 0) return err(kEINVAL);
  if (wanted->max_messages > (exempt ? kHardMessages : messages)) return err(kEINVAL);
  if (wanted->message_size > (exempt ? kHardMessageSize : bytes)) return err(kEINVAL);
  return *wanted;
}

vfs::TimeSpec timespec_of_ns(int64_t ns) { return {ns / 1'000'000'000, ns % 1'000'000'000}; }

// One per lookup; what stays is in the queue.
class QueueInode final : public vfs::Inode {
 public:
  QueueInode(vfs::FileSystem& fs, RefPtr<MessageQueue> queue) : Inode(fs), queue_(std::move(queue)) {}
  const RefPtr<MessageQueue>& queue() const { return queue_; }
  creds::InodeOwner owner() const override { return {abi::KUid(queue_->uid), abi::KGid(queue_->gid), queue_->mode}; }
  uint64_t number() const override { return queue_->number; }
  Result<vfs::Stat> stat(vfs::OpContext&) override {
    vfs::Stat st;
    st.device = fs().device();
    st.inode = queue_->number;
    st.mode = queue_->mode;
    st.nlink = queue_->links;
    st.uid = abi::KUid(queue_->uid);
    st.gid = abi::KGid(queue_->gid);
    st.size = kFileSize;
    st.atime = st.mtime = st.ctime = timespec_of_ns(queue_->changed_ns);
    return st;
  }
  Result<void> set_attr(vfs::OpContext&, const vfs::SetAttr& attr) override {
    if (attr.mode) queue_->mode = (queue_->mode & abi::kS_IFMT) | (*attr.mode & 07777);
    if (attr.uid) queue_->uid = attr.uid->value();
    if (attr.gid) queue_->gid = attr.gid->value();
    return {};
  }
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext&, const vfs::Path& path, uint32_t flags) override {
    return RefPtr<vfs::FileDescription>(base::make_ref<MqueueFile>(path, flags, queue_));
  }

 private:
  const RefPtr<MessageQueue> queue_;
};

class RootDescription final : public vfs::FileDescription {
 public:
  RootDescription(vfs::Path path, uint32_t flags, RefPtr<MqueueFs> fs) : FileDescription(std::move(path), flags), fs_(std::move(fs)) {}
  Result<size_t> pread(vfs::OpContext&, vfs::IoBuffer&, uint64_t) override { return err(kEISDIR); }
  Result<size_t> read(vfs::OpContext&, vfs::IoBuffer&) override { return err(kEISDIR); }
  bool is_seekable() const override { return true; }
  // Positions are those in the order of names.
  Result<void> readdir(vfs::OpContext& ctx, vfs::DirSink sink) override {
    vfs::SleepGuard guard(ctx, offset_lock_);
    constexpr uint8_t kDir = 4, kRegular = 8;
    const auto entries = fs_->list();
    uint64_t at = offset_.load();
    for (; at < entries.size() + 2; ++at) {
      vfs::DirEntryInfo info{at == 0 ? "." : "..", 1, kDir, at + 1};
      if (at >= 2) info = {entries[at - 2].first, entries[at - 2].second, kRegular, at + 1};
      if (!sink(info)) break;
    }
    offset_.store(at);
    return {};
  }

 private:
  const RefPtr<MqueueFs> fs_;
};

class RootInode final : public vfs::Inode {
 public:
  explicit RootInode(MqueueFs& fs) : Inode(fs) {}
  MqueueFs& mq() const { return static_cast<MqueueFs&>(fs()); }
  creds::InodeOwner owner() const override { return {abi::KUid(mq().root_uid), abi::KGid(mq().root_gid), mq().root_mode}; }
  uint64_t number() const override { return 1; }
  Result<vfs::Stat> stat(vfs::OpContext&) override {
    vfs::Stat st;
    st.device = fs().device();
    st.inode = 1;
    st.mode = mq().root_mode;
    st.nlink = 2;
    st.uid = abi::KUid(mq().root_uid);
    st.gid = abi::KGid(mq().root_gid);
    st.atime = st.mtime = st.ctime = timespec_of_ns(mq().made_ns);
    return st;
  }
  Result<void> set_attr(vfs::OpContext&, const vfs::SetAttr& attr) override {
    if (attr.mode) mq().root_mode = abi::kS_IFDIR | (*attr.mode & 07777);
    if (attr.uid) mq().root_uid = attr.uid->value();
    if (attr.gid) mq().root_gid = attr.gid->value();
    return {};
  }
  Result<RefPtr<vfs::Inode>> lookup(vfs::OpContext&, std::string_view name) override {
    RefPtr<MessageQueue> queue = mq().find(name);
    if (!queue) return err(kENOENT);
    return RefPtr<vfs::Inode>(base::make_ref<QueueInode>(fs(), std::move(queue)));
  }
  Result<bool> revalidate(vfs::OpContext&, std::string_view name, vfs::Inode* cached) override {
    const RefPtr<MessageQueue> now = mq().find(name);
    return cached ? static_cast<QueueInode*>(cached)->queue() == now : now == nullptr;
  }
  Result<RefPtr<vfs::Inode>> create(vfs::OpContext& ctx, std::string_view name, const vfs::CreateArgs& args) override {
    return RefPtr<vfs::Inode>(base::make_ref<QueueInode>(fs(), TRY(mq().create(ctx, name, nullptr, args))));
  }
  Result<void> unlink(vfs::OpContext&, std::string_view name, vfs::Inode& target) override {
    return mq().remove(name, *static_cast<QueueInode&>(target).queue()) ? Result<void>{} : err(kENOENT);
  }
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext&, const vfs::Path& path, uint32_t flags) override {
    return RefPtr<vfs::FileDescription>(base::make_ref<RootDescription>(path, flags, RefPtr<MqueueFs>(&mq())));
  }
};

// The file system of a namespace, and the mount that mq_open(2) goes through (mq_mnt).
struct Instance final : public base::RefCounted {
  RefPtr<MqueueFs> fs;
  RefPtr<vfs::Mount> mount;
};

RefPtr<Instance> make_instance(RefPtr<MqueueFs> fs) {
  auto made = base::make_ref<Instance>();
  made->mount = vfs::Mount::create(fs, 0, "mqueue");
  made->fs = std::move(fs);
  return made;
}

RefPtr<Instance> instance_of(kernel::IpcNamespace& ipc) {
  const auto existing = [](kernel::IpcNamespace::Objects& o) { return base::static_ref_cast<Instance>(o.message_queues); };
  if (RefPtr<Instance> instance = ipc.objects.with(existing)) return instance;
  RefPtr<Instance> fresh = make_instance(base::make_ref<MqueueFs>());
  return ipc.objects.with([&](auto& o) {
    if (!o.message_queues) o.message_queues = fresh;
    return existing(o);
  });
}

// lookup_one_len() in the root.
Result<void> check_name(std::string_view name) {
  if (name.empty()) return err(kENOENT);
  if (name.size() > kNameMax) return err(kENAMETOOLONG);
  if (name == "." || name == ".." || name.find('/') != std::string_view::npos) return err(kEACCES);
  return {};
}

}  // namespace

std::span<const MqueueLimitRow> mqueue_limit_rows() { return kLimitRows; }

MqueueLimits& mqueue_limits(kernel::IpcNamespace& ipc) { return instance_of(ipc)->fs->limits; }

void release_mqueue_charge(abi::KUid payer, uint64_t bytes) {
  charges().with([&](auto& map) {
    auto it = map.find(payer.value());
    if ((it->second -= bytes) == 0) map.erase(it);
  });
}

RefPtr<vfs::Inode> MqueueFs::root() { return base::make_ref<RootInode>(*this); }

Result<vfs::StatFs> MqueueFs::statfs(vfs::OpContext&) { return vfs::StatFs{.type = kMagic}; }

RefPtr<MessageQueue> MqueueFs::find(std::string_view name) {
  base::MutexLock lock(mu_);
  auto it = queues_.find(name);
  return it == queues_.end() ? nullptr : it->second;
}

Result<RefPtr<MessageQueue>> MqueueFs::create(vfs::OpContext& ctx, std::string_view name, const MqSize* wanted,
                                              const vfs::CreateArgs& args) {
  const auto most = static_cast<size_t>(limits.queues_max.load());
  base::MutexLock lock(mu_);
  if (queues_.contains(name)) return err(kEEXIST);
  if (queues_.size() >= most && !ctx.creds().has_cap(creds::Cap::kSYS_RESOURCE)) return err(kENOSPC);
  const MqSize size = TRY(checked_size(ctx, limits, wanted));
  const uint64_t charge = charge_of(size), limit = ctx.rlimit(creds::Resource::kMSGQUEUE).soft;
  const abi::KUid payer = ctx.creds().uid;
  TRY(charges().with([&](auto& map) -> Result<void> {
    auto it = map.find(payer.value());
    const uint64_t have = it == map.end() ? 0 : it->second;
    if (have + charge > limit) return err(kEMFILE);
    map[payer.value()] = have + charge;
    return {};
  }));
  auto queue = base::make_ref<MessageQueue>(next_number_.fetch_add(1), size, args, charge, payer);
  queues_.emplace(name, queue);
  return queue;
}

bool MqueueFs::remove(std::string_view name, const MessageQueue& queue) {
  RefPtr<MessageQueue> removed;  // its last reference may be this one
  base::MutexLock lock(mu_);
  auto it = queues_.find(name);
  if (it == queues_.end() || it->second.get() != &queue) return false;
  removed = std::move(it->second);
  queues_.erase(it);
  removed->links = 0;
  return true;
}

std::vector<std::pair<std::string, uint64_t>> MqueueFs::list() {
  std::vector<std::pair<std::string, uint64_t>> out;
  base::MutexLock lock(mu_);
  for (const auto& [name, queue] : queues_) out.emplace_back(name, queue->number);
  return out;
}

// do_mq_open() and prepare_open().
Result<RefPtr<vfs::FileDescription>> open_mqueue(kernel::Task& task, std::string_view name, uint32_t flags, uint32_t mode,
                                                 const MqSize* size) {
  TRY(check_name(name));
  const RefPtr<Instance> instance = instance_of(*task.namespaces()->ipc);
  const vfs::Path root{instance->mount, instance->mount->root()};
  RefPtr<MessageQueue> queue = instance->fs->find(name);
  if (!queue && !(flags & vfs::kO_CREAT)) return err(kENOENT);
  if (!queue) {
    TRY(vfs::check_access(task, root, 3));
    const vfs::CreateArgs args{abi::kS_IFREG | (mode & 07777 & ~task.umask()), task.creds().fsuid, task.creds().fsgid, {}};
    Result<RefPtr<MessageQueue>> made = instance->fs->create(task, name, size, args);
    if (!made) return made.error() == kEEXIST ? open_mqueue(task, name, flags, mode, size) : err(made.error());
    queue = std::move(*made);
  } else {
    if ((flags & (vfs::kO_CREAT | vfs::kO_EXCL)) == (vfs::kO_CREAT | vfs::kO_EXCL)) return err(kEEXIST);
    const uint32_t access = flags & vfs::kO_ACCMODE;
    if (access == vfs::kO_ACCMODE) return err(kEINVAL);
    const unsigned want = access == vfs::kO_RDONLY ? 4 : access == vfs::kO_WRONLY ? 2 : 6;
    TRY(creds::check_permission(task.creds(), {abi::KUid(queue->uid), abi::KGid(queue->gid), queue->mode}, want));
  }
  // Unlinked meanwhile: it is open all the same.
  vfs::Path path{instance->mount, TRY(root.dentry->child(task, name))};
  if (path.dentry->is_negative() || path.inode().number() != queue->number)
    path.dentry = vfs::Dentry::create_unlinked(root.dentry, std::string(name), base::make_ref<QueueInode>(*instance->fs, queue));
  return RefPtr<vfs::FileDescription>(base::make_ref<MqueueFile>(std::move(path), flags & (vfs::kO_ACCMODE | vfs::kO_NONBLOCK), std::move(queue)));
}

Result<void> unlink_mqueue(kernel::Task& task, std::string_view name) {
  TRY(check_name(name));
  const RefPtr<Instance> instance = instance_of(*task.namespaces()->ipc);
  return vfs::unlink_at(task, {instance->mount, instance->mount->root()}, name, false);
}

void register_mqueue() {
  vfs::FileSystemType type;
  type.name = "mqueue";
  type.create = [](vfs::OpContext& ctx, const vfs::MountRequest&) -> Result<RefPtr<vfs::FileSystem>> {
    if (!ctx.task()) return RefPtr<vfs::FileSystem>(base::make_ref<MqueueFs>());
    return RefPtr<vfs::FileSystem>(instance_of(*ctx.task()->namespaces()->ipc)->fs);
  };
  vfs::register_file_system(std::move(type));
}

void adopt_mqueue(kernel::IpcNamespace& ipc, RefPtr<vfs::FileSystem> fs) {
  RefPtr<Instance> instance = make_instance(base::static_ref_cast<MqueueFs>(fs));
  ipc.objects.with([&](auto& o) {
    if (!o.message_queues) o.message_queues = std::move(instance);
  });
}

}  // namespace sentry::fs
