// SPDX-License-Identifier: Apache-2.0
// devpts(5) and pty(7): each mount is an instance of its own; /dev/ptmx makes a pair in the instance beside it.
#include <algorithm>
#include <charconv>
#include <map>

#include "sentry/fs/synthetic/synthetic.h"
#include "sentry/fs/tty/tty.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/devices.h"
#include "sentry/vfs/file_system_registry.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr uint32_t kPtsMajor = 136, kMaxPtys = 1024;
constexpr uint64_t kMagic = 0x1cd1;

class PtsInode final : public SyntheticInode {
 public:
  PtsInode(SyntheticFs& fs, RefPtr<Tty> tty, uint32_t mode, abi::KUid uid, abi::KGid gid)
      : SyntheticInode(fs, abi::kS_IFCHR | mode, uid, gid), tty_(std::move(tty)) {
    rdev = tty_->device();
  }
  bool is_stale(vfs::OpContext&) const override { return tty_->is_hung_up(); }
  const RefPtr<Tty>& tty() const { return tty_; }
  // Reached through the device registry.
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext&, const vfs::Path&, uint32_t) override { return err(kENXIO); }

 private:
  const RefPtr<Tty> tty_;
};

class PtmxNode final : public SyntheticInode {
 public:
  PtmxNode(SyntheticFs& fs, uint32_t mode) : SyntheticInode(fs, abi::kS_IFCHR | mode) { rdev = {5, 2}; }
  Result<RefPtr<vfs::FileDescription>> open(vfs::OpContext&, const vfs::Path&, uint32_t) override { return err(kENXIO); }
};

struct Options {
  uint32_t mode = 0600, ptmx_mode = 0;
  std::optional<abi::KUid> uid;
  std::optional<abi::KGid> gid;
};

class DevptsFs final : public SyntheticFs {
 public:
  DevptsFs(Options options, MakeRoot make_root) : SyntheticFs("devpts", kMagic, make_root), options(options) {}
  std::string mount_options() const override {
    std::string text;
    if (options.gid) text += fmt::format("gid={},", options.gid->value());
    return text + fmt::format("mode={:03o},ptmxmode={:03o}", options.mode, options.ptmx_mode);
  }

  // ENOSPC beyond kMaxPtys.
  Result<RefPtr<Tty>> create(vfs::OpContext& ctx, abi::KUid uid) {
    base::MutexLock lock(mu_);
    uint32_t index = 0;
    for (const auto& [used, inode] : ptys_) {
      if (used != index) break;
      ++index;
    }
    if (index >= kMaxPtys) return err(kENOSPC);
    auto tty = base::make_ref<Tty>(abi::DeviceId{kPtsMajor, index});
    const creds::Credentials& c = ctx.creds();
    ptys_.emplace(index, base::make_ref<PtsInode>(*this, tty, options.mode, options.uid.value_or(uid),
                                                  options.gid.value_or(c.fsgid)));
    return tty;
  }
  void remove(const Tty& tty) {
    RefPtr<PtsInode> dropped;
    base::MutexLock lock(mu_);
    auto it = ptys_.find(tty.device().minor);
    // The number may have a new owner.
    if (it == ptys_.end() || it->second->tty().get() != &tty) return;
    dropped = std::move(it->second);
    ptys_.erase(it);
  }
  RefPtr<PtsInode> find(uint32_t index) {
    base::MutexLock lock(mu_);
    auto it = ptys_.find(index);
    return it == ptys_.end() ? nullptr : it->second;
  }
  std::vector<std::pair<uint32_t, uint64_t>> list() {
    std::vector<std::pair<uint32_t, uint64_t>> out;
    base::MutexLock lock(mu_);
    for (const auto& [index, inode] : ptys_) out.emplace_back(index, inode->number());
    return out;
  }
  const Options options;

 private:
  base::Mutex mu_{base::LockRank::kPipe};
  std::map<uint32_t, RefPtr<PtsInode>> ptys_ GUARDED_BY(mu_);  // while the other end is there
};

class PtsDirectory final : public Directory {
 public:
  explicit PtsDirectory(DevptsFs& fs) : Directory(fs, 0755) {}

 protected:
  bool has_dynamic() const override { return true; }
  Result<RefPtr<SyntheticInode>> lookup_dynamic(vfs::OpContext&, std::string_view name) override {
    uint32_t index = 0;
    auto [end, ec] = std::from_chars(name.data(), name.data() + name.size(), index);
    if (ec != std::errc{} || end != name.data() + name.size() || (name.size() > 1 && name[0] == '0')) return err(kENOENT);
    RefPtr<PtsInode> inode = static_cast<DevptsFs&>(fs()).find(index);
    if (!inode) return err(kENOENT);
    return RefPtr<SyntheticInode>(std::move(inode));
  }
  void list_dynamic(vfs::OpContext&, std::vector<ListedEntry>& out) override {
    for (const auto& [index, number] : static_cast<DevptsFs&>(fs()).list()) out.push_back({std::to_string(index), number, 2});
  }
};

RefPtr<vfs::Inode> make_root(SyntheticFs& base) {
  auto& fs = static_cast<DevptsFs&>(base);
  auto root = base::make_ref<PtsDirectory>(fs);
  root->add("ptmx", base::make_ref<PtmxNode>(fs, fs.options.ptmx_mode));
  return root;
}

class PtyMaster final : public vfs::FileDescription, private Tty::Sink {
 public:
  PtyMaster(vfs::Path path, uint32_t flags, RefPtr<DevptsFs> fs, RefPtr<Tty> tty)
      : FileDescription(std::move(path), flags & ~uint32_t{vfs::kO_NOCTTY}), fs_(std::move(fs)), tty_(std::move(tty)) {
    tty_->locked.store(true);
    tty_->set_sink(this);
  }
  ~PtyMaster() override {
    tty_->set_sink(nullptr);
    tty_->hang_up();
    fs_->remove(*tty_);
  }
  bool waits_itself() const override { return true; }
  vfs::WaitQueue* wait_queue() override { return &queue_; }
  bool sends_sigio() const override { return true; }
  vfs::PollMask readiness(vfs::PollMask) override {
    vfs::PollMask mask = 0;
    if (tty_->output_size() != 0) mask |= vfs::kPollIn | vfs::kPollRdNorm;
    if (!tty_->has_openers()) mask |= vfs::kPollHup;
    if (tty_->input_room() != 0) mask |= vfs::kPollOut | vfs::kPollWrNorm;
    return mask;
  }
  Result<size_t> read(vfs::OpContext& ctx, vfs::IoBuffer& dst) override {
    if (dst.remaining() == 0) return size_t{0};
    std::string bytes;
    TRY(wait(ctx, vfs::kPollIn, [&]() -> Result<bool> {
      const bool packet = packet_mode_.load();
      bytes = tty_->take_output(std::min<size_t>(dst.remaining() - (packet && dst.remaining() > 1 ? 1 : 0), 64 << 10));
      if (!bytes.empty()) {
        if (packet) bytes.insert(bytes.begin(), '\0');  // TIOCPKT_DATA
        return true;
      }
      if (!tty_->has_openers()) return err(kEIO);
      return false;
    }));
    return dst.put(bytes.data(), std::min(bytes.size(), dst.remaining()));
  }
  Result<size_t> write(vfs::OpContext& ctx, vfs::IoBuffer& src) override {
    size_t done = 0;
    while (src.remaining() != 0) {
      char chunk[1024];
      size_t room = 0;
      Result<void> waited = wait(ctx, vfs::kPollOut, [&]() -> Result<bool> { return (room = tty_->input_room()) != 0; });
      if (!waited) return done != 0 ? Result<size_t>(done) : err(waited.error());
      const size_t n = TRY(src.get(chunk, std::min({sizeof chunk, room, src.remaining()})));
      done += tty_->input({chunk, n});
    }
    return done;
  }
  Result<int64_t> ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) override;

 private:
  void output_ready() override { queue_.notify(vfs::kPollIn | vfs::kPollRdNorm | vfs::kPollHup); }
  void input_room() override { queue_.notify(vfs::kPollOut | vfs::kPollWrNorm); }
  Result<void> wait(vfs::OpContext& ctx, vfs::PollMask mask, base::FunctionRef<Result<bool>()> ready) {
    if (TRY(ready())) return {};
    if (is_nonblocking()) return err(kEAGAIN);
    vfs::TaskWaiter waiter(ctx);
    queue_.add(waiter, mask);
    Result<bool> done = ready();
    while (done && !*done) {
      if (ctx.block(std::nullopt) == vfs::WakeReason::kInterrupted) done = err(kERESTARTSYS);
      else done = ready();
    }
    queue_.remove(waiter);
    return done ? Result<void>{} : err(done.error());
  }
  vfs::WaitQueue queue_;
  const RefPtr<DevptsFs> fs_;
  const RefPtr<Tty> tty_;
  std::atomic<bool> packet_mode_{false};
};

// ptm_open_peer(): a descriptor of the other side, whatever the caller can see of devpts.
Result<int64_t> open_peer(vfs::OpContext& ctx, const vfs::Path& master, const RefPtr<Tty>& tty, const RefPtr<DevptsFs>& fs,
                          uint32_t flags) {
  if (!ctx.task()) return err(kENOTTY);
  if (tty->locked.load()) return err(kEIO);
  RefPtr<PtsInode> inode = fs->find(tty->device().minor);
  if (!inode) return err(kEIO);
  vfs::Path path = master;
  if (path.mount && &path.mount->fs() == fs.get()) path.dentry = TRY(path.mount->root()->child(ctx, std::to_string(tty->device().minor)));
  else path = vfs::make_anonymous_path(fmt::format("/dev/pts/{}", tty->device().minor), abi::kS_IFCHR | 0620, ctx.creds());
  RefPtr<vfs::FileDescription> file = base::make_ref<TtyFile>(path, flags, tty);
  if (!(flags & vfs::kO_NOCTTY)) tty->maybe_acquire(ctx);
  return TRY(ctx.task()->install_fd(std::move(file), (flags & vfs::kO_CLOEXEC) != 0)).value();
}

Result<int64_t> PtyMaster::ioctl(vfs::OpContext& ctx, uint32_t request, uint64_t arg) {
  constexpr uint32_t kTiocPkt = 0x5420, kTiocGptn = 0x80045430, kTiocSptlck = 0x40045431, kTiocGpkt = 0x80045438,
                     kTiocGptlck = 0x80045439, kTiocGptpeer = 0x5441, kFionread = 0x541b, kTiocOutq = 0x5411, kTiocSig = 0x40045436;
  int32_t value = 0;
  switch (request) {
    case kTiocSptlck:
      TRY(ctx.user_memory().copy_in(&value, abi::Addr(arg), sizeof value));
      tty_->locked.store(value != 0);
      return 0;
    case kTiocPkt:
      TRY(ctx.user_memory().copy_in(&value, abi::Addr(arg), sizeof value));
      packet_mode_.store(value != 0);
      return 0;
    case kTiocGptpeer: return open_peer(ctx, path(), tty_, fs_, static_cast<uint32_t>(arg));
    case kTiocGptn: value = static_cast<int32_t>(tty_->device().minor); break;
    case kTiocGptlck: value = tty_->locked.load() ? 1 : 0; break;
    case kTiocGpkt: value = packet_mode_.load() ? 1 : 0; break;
    case kFionread: value = static_cast<int32_t>(tty_->output_size()); break;
    case kTiocOutq: value = 0; break;
    case kTiocSig: return err(kEINVAL);
    default: return tty_->common_ioctl(ctx, request, arg);
  }
  TRY(ctx.user_memory().copy_out(abi::Addr(arg), &value, sizeof value));
  return 0;
}

// The instance that a ptmx node stands for: its own, or the one mounted on "pts" beside it (devpts_acquire()).
Result<RefPtr<DevptsFs>> instance_of(vfs::OpContext& ctx, const vfs::Path& ptmx) {
  if (ptmx.mount->fs().type() == "devpts") return RefPtr<DevptsFs>(static_cast<DevptsFs*>(&ptmx.mount->fs()));
  RefPtr<vfs::Dentry> parent = ptmx.dentry->parent();
  if (!parent) return err(kENODEV);
  vfs::PathResult found = TRY(vfs::walk(ctx, {ptmx.mount, parent}, "pts", vfs::kLookupFollow | vfs::kLookupDirectory));
  if (found.path.dentry->is_negative() || found.path.mount->fs().type() != "devpts") return err(kENODEV);
  return RefPtr<DevptsFs>(static_cast<DevptsFs*>(&found.path.mount->fs()));
}

Result<RefPtr<vfs::FileDescription>> open_ptmx(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags, abi::DeviceId) {
  RefPtr<DevptsFs> fs = TRY(instance_of(ctx, path));
  RefPtr<Tty> tty = TRY(fs->create(ctx, ctx.creds().fsuid));
  return RefPtr<vfs::FileDescription>(base::make_ref<PtyMaster>(path, flags, std::move(fs), std::move(tty)));
}

Result<RefPtr<vfs::FileDescription>> open_pts(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags, abi::DeviceId device) {
  if (path.mount->fs().type() != "devpts") return err(kENXIO);
  RefPtr<PtsInode> inode = static_cast<DevptsFs&>(path.mount->fs()).find(device.minor);
  if (!inode || inode->tty()->locked.load() || inode->tty()->is_hung_up()) return err(kEIO);
  auto file = base::make_ref<TtyFile>(path, flags, inode->tty());
  if (!(flags & vfs::kO_NOCTTY)) inode->tty()->maybe_acquire(ctx);
  return RefPtr<vfs::FileDescription>(std::move(file));
}

Result<Options> parse_options(std::string_view data) {
  Options o;
  while (!data.empty()) {
    const size_t comma = data.find(',');
    std::string_view option = data.substr(0, comma);
    data = comma == std::string_view::npos ? std::string_view{} : data.substr(comma + 1);
    const size_t equals = option.find('=');
    if (option.empty() || option == "newinstance") continue;
    if (equals == std::string_view::npos) return err(kEINVAL);
    const std::string_view key = option.substr(0, equals), text = option.substr(equals + 1);
    uint32_t value = 0;
    const bool octal = key == "mode" || key == "ptmxmode";
    auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, octal ? 8 : 10);
    if (ec != std::errc{} || end != text.data() + text.size()) return err(kEINVAL);
    if (key == "mode") o.mode = value & 07777;
    else if (key == "ptmxmode") o.ptmx_mode = value & 07777;
    else if (key == "uid") o.uid = abi::KUid(value);
    else if (key == "gid") o.gid = abi::KGid(value);
    else if (key != "max") return err(kEINVAL);
  }
  return o;
}

}  // namespace

Result<Pts> create_pts(vfs::OpContext& ctx, const vfs::Path& devpts, abi::KUid uid) {
  if (devpts.mount->fs().type() != "devpts" || devpts.dentry != devpts.mount->root()) return err(kENODEV);
  auto& fs = static_cast<DevptsFs&>(devpts.mount->fs());
  RefPtr<Tty> tty = TRY(fs.create(ctx, uid));
  Result<RefPtr<vfs::Dentry>> node = devpts.dentry->child(ctx, std::to_string(tty->device().minor));
  if (!node || (*node)->is_negative()) {
    fs.remove(*tty);
    return err(node ? kENOENT : node.error());
  }
  return Pts{{devpts.mount, std::move(*node)}, std::move(tty)};
}

void remove_pts(vfs::FileSystem& fs, const Tty& tty) { static_cast<DevptsFs&>(fs).remove(tty); }

void register_devpts() {
  vfs::register_device({vfs::DeviceClass::kChar, 5, 2, 1, "/dev/ptmx", open_ptmx});
  vfs::register_device({vfs::DeviceClass::kChar, kPtsMajor, 0, kMaxPtys, "pts", open_pts});
  vfs::FileSystemType type;
  type.name = "devpts";
  type.create = [](vfs::OpContext&, const vfs::MountRequest& request) -> Result<RefPtr<vfs::FileSystem>> {
    return RefPtr<vfs::FileSystem>(base::make_ref<DevptsFs>(TRY(parse_options(request.data)), make_root));
  };
  vfs::register_file_system(std::move(type));
}

}  // namespace sentry::fs
