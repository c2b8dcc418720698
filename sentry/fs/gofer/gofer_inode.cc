// SPDX-License-Identifier: Apache-2.0
// Names and attributes. Data is in gofer_data.cc.
#include "sentry/fs/gofer/gofer_inode.h"

#include <algorithm>

#include <sys/stat.h>

#include "base/host/host_error.h"
#include "sentry/fs/gofer/gofer_file.h"

namespace sentry::fs::gofer {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxIds = 8;  // names of one file that we hold an id for

GoferInode& as_gofer(vfs::Inode& inode) { return static_cast<GoferInode&>(inode); }

abi::Errno as_errno(uint32_t host_errno) { return base::guest_errno_from_host(static_cast<int>(host_errno)); }

vfs::Stat to_stat(const wire::Attr& a, abi::DeviceId device, uint64_t number) {
  vfs::Stat s{.device = device,
              .inode = number,
              .mode = a.mode,
              .nlink = a.nlink,
              .uid = abi::KUid(a.uid),
              .gid = abi::KGid(a.gid),
              .rdev = abi::DeviceId::decode(a.rdev),
              .size = a.size,
              .block_size = a.block_size == 0 ? 4096 : a.block_size,
              .blocks = a.blocks,
              .atime = {a.atime_sec, a.atime_nsec},
              .mtime = {a.mtime_sec, a.mtime_nsec},
              .ctime = {a.ctime_sec, a.ctime_nsec},
              .btime = std::nullopt};
  if (a.btime_sec != 0) s.btime = vfs::TimeSpec{a.btime_sec, a.btime_nsec};
  return s;
}

template <class Request>
Request make_request(wire::FileId dir, std::string_view name, const vfs::CreateArgs& args) {
  Request r;
  r.dir = dir;
  r.name = name;
  r.mode = args.mode;
  r.uid = args.uid.value();
  r.gid = args.gid.value();
  return r;
}

template <class Request>
Request id_request(wire::FileId id) {
  Request r;
  r.id = id;
  return r;
}

}  // namespace

uint64_t number_for(const wire::Attr& a, uint64_t root_device) {
  return a.device == root_device ? a.inode : a.inode ^ (a.device * 0x9e3779b97f4a7c15 & 0xffff'0000'0000'0000);
}

GoferInode::GoferInode(GoferFs& fs, const wire::Attr& attr, std::string link_target)
    : Inode(fs), key_{attr.device, attr.inode}, type_(attr.mode & abi::kS_IFMT),
      number_(number_for(attr, fs.root_device())), link_target_(std::move(link_target)), attr_(attr) {
  owner_.set({abi::KUid(attr.uid), abi::KGid(attr.gid), attr.mode});
}

GoferInode::~GoferInode() {
  (void)write_back();
  gofer_fs().forget(key_, this);
  RefPtr<memory::PageCache> cache = this->cache();
  if (cache) cache->detach();
  std::vector<wire::FileId> ids;
  {
    base::MutexLock lock(mu_);
    ids.swap(ids_);
  }
  for (wire::FileId id : ids) {
    if (id != gofer_fs().root_id()) gofer_fs().client().drop(id);
  }
}

creds::InodeOwner GoferInode::owner() const {
  if (const auto known = owner_.get()) return *known;
  base::MutexLock lock(mu_);
  return owner_locked();
}

void GoferInode::update(const wire::Attr& attr) {
  RefPtr<memory::PageCache> cache;
  {
    base::MutexLock lock(mu_);
    attr_ = attr;
    owner_.set(owner_locked());
    stale_ = false;
    cache = cache_;
  }
  if (cache && cache->size() != attr.size) cache->set_size(attr.size);
}

void GoferInode::add_id(wire::FileId id) {
  wire::FileId surplus = wire::kNoFile;
  RefPtr<GoferInode> parent;
  {
    base::MutexLock lock(mu_);
    if (std::find(ids_.begin(), ids_.end(), id) != ids_.end()) {
      surplus = id;
    } else {
      ids_.push_back(id);
      if (ids_.size() > kMaxIds) {
        surplus = ids_.front();
        ids_.erase(ids_.begin());
      }
    }
    std::swap(parent, parent_);
  }
  if (surplus != wire::kNoFile && surplus != gofer_fs().root_id()) gofer_fs().client().drop(surplus);
}

void GoferInode::set_place(GoferInode& parent, std::string_view name) {
  RefPtr<GoferInode> old(&parent);
  base::MutexLock lock(mu_);
  if (!ids_.empty()) return;
  std::swap(parent_, old);
  name_ = name;
}

Result<wire::FileId> GoferInode::id() {
  {
    base::MutexLock lock(mu_);
    if (!ids_.empty()) return ids_.back();
  }
  TRY(walk({}));
  base::MutexLock lock(mu_);
  if (ids_.empty()) return err(kESTALE);
  return ids_.back();
}

Result<wire::Answer<wire::WalkReply>> GoferInode::walk(std::span<const std::string_view> names, uint32_t open_flags) {
  constexpr size_t kMostAbove = wire::kMaxWalk / 2;  // of a deeper one the upper half gets its ids first
  wire::WalkRequest request{.open_flags = open_flags};
  std::vector<RefPtr<GoferInode>> nameless;  // from here upwards
  for (RefPtr<GoferInode> at(this); request.from == wire::kNoFile;) {
    RefPtr<GoferInode> parent;
    {
      base::MutexLock lock(at->mu_);
      if (!at->ids_.empty()) request.from = at->ids_.back();
      else parent = at->parent_, request.names.push_back(at->name_);
    }
    if (request.from != wire::kNoFile) break;
    if (!parent) return err(kESTALE);
    nameless.push_back(std::move(at));
    if (nameless.size() == kMostAbove) request.from = TRY(parent->id());
    at = std::move(parent);
  }
  std::reverse(request.names.begin(), request.names.end());
  for (std::string_view name : names.first(std::min(names.size(), wire::kMaxWalk - request.names.size()))) request.names.emplace_back(name);
  auto answer = TRY(gofer_fs().client().call(request));
  auto& files = answer.reply.files;
  bool same = files.size() >= nameless.size();
  for (size_t i = 0; i < std::min(files.size(), nameless.size()); ++i) {
    GoferInode& inode = *nameless[nameless.size() - 1 - i];
    same = same && inode.is_same(files[i]);
    if (same) inode.add_id(files[i].id);
    else gofer_fs().client().drop(files[i].id);
  }
  files.erase(files.begin(), files.begin() + static_cast<ptrdiff_t>(std::min(files.size(), nameless.size())));
  if (same) return answer;
  for (const wire::File& file : files) gofer_fs().client().drop(file.id);
  return err(kESTALE);
}

Result<wire::WalkReply> GoferInode::walk_one(std::string_view name) { return std::move(TRY(walk({&name, 1})).reply); }

// Attributes as the host has them now. Owners are not what our fstat() says: the sentry's user namespace maps few.
Result<wire::Attr> GoferInode::fresh_attr(AskFor what) {
  RefPtr<HostFd> fd;
  wire::Attr attr;
  {
    base::MutexLock lock(mu_);
    fd = write_fd_ ? write_fd_ : read_fd_;
    attr = attr_;
  }
  if (!fd || (what == AskFor::kAll && gofer_fs().shared())) {
    auto id = this->id();
    Result<wire::Answer<wire::AttrReply>> answer = err(kESTALE);
    if (id) answer = gofer_fs().client().call(id_request<wire::StatRequest>(*id));
    if (answer) return answer->reply.attr;
    if (!fd || answer.error() != kESTALE) return err(answer.error());
  }
  struct stat s;
  if (fstat(fd->get(), &s) != 0) return err(as_errno(static_cast<uint32_t>(errno)));
  attr.mode = s.st_mode;
  attr.nlink = static_cast<uint32_t>(s.st_nlink);
  attr.size = static_cast<uint64_t>(s.st_size);
  attr.blocks = static_cast<uint64_t>(s.st_blocks);
  attr.atime_sec = s.st_atim.tv_sec;
  attr.atime_nsec = static_cast<uint32_t>(s.st_atim.tv_nsec);
  attr.mtime_sec = s.st_mtim.tv_sec;
  attr.mtime_nsec = static_cast<uint32_t>(s.st_mtim.tv_nsec);
  attr.ctime_sec = s.st_ctim.tv_sec;
  attr.ctime_nsec = static_cast<uint32_t>(s.st_ctim.tv_nsec);
  return attr;
}

Result<vfs::Stat> GoferInode::stat(vfs::OpContext&) {
  if (!gofer_fs().shared()) {
    base::MutexLock lock(mu_);
    if (!stale_) return to_stat(attr_, gofer_fs().device_of(attr_.device), number_);
  }
  auto fresh = fresh_attr(AskFor::kAll);
  // Removed meanwhile, and nothing of it open: what was known last is all there is.
  if (fresh) update(*fresh);
  else if (fresh.error() != kESTALE) return err(fresh.error());
  base::MutexLock lock(mu_);
  return to_stat(attr_, gofer_fs().device_of(attr_.device), number_);
}

Result<void> GoferInode::set_attr(vfs::OpContext& ctx, const vfs::SetAttr& attr) {
  if (attr.size) TRY(set_size(ctx, *attr.size));
  wire::SetAttrRequest request;
  wire::SetAttr& set = request.set;
  auto ask = [&](uint32_t bit) { set.mask |= bit; };
  if (attr.mode) ask(wire::SetAttr::kMode), set.mode = *attr.mode & 07777;
  if (attr.uid) ask(wire::SetAttr::kUid), set.uid = attr.uid->value();
  if (attr.gid) ask(wire::SetAttr::kGid), set.gid = attr.gid->value();
  if (attr.atime) {
    ask(wire::SetAttr::kAtime);
    set.atime_sec = attr.atime->sec;
    set.atime_nsec = static_cast<uint32_t>(attr.atime->nsec);
  }
  if (attr.mtime) {
    ask(wire::SetAttr::kMtime);
    set.mtime_sec = attr.mtime->sec;
    set.mtime_nsec = static_cast<uint32_t>(attr.mtime->nsec);
  }
  if (set.mask == 0) return {};
  // Pages written through a mapping go first, or their times would come after what is set here.
  TRY(write_back());
  request.id = TRY(id());
  update(TRY(gofer_fs().client().call(request)).reply.attr);
  gofer_fs().changed();
  return {};
}

Result<RefPtr<vfs::Inode>> GoferInode::lookup(vfs::OpContext&, std::string_view name) {
  if (type_ != abi::kS_IFDIR) return err(kENOTDIR);
  if (RefPtr<Listing> listing = listing_for_lookup()) {
    const size_t at = listing->find(name);
    if (at == Listing::kNpos) return err(kENOENT);
    const wire::PackedEntry entry = listing->entry(at);
    if (entry.attr.inode != 0) return RefPtr<vfs::Inode>(gofer_fs().inode_of(entry, *this));
  }
  wire::WalkReply reply = TRY(walk_one(name));
  if (reply.files.empty()) return err(reply.stop_errno == 0 ? kEIO : as_errno(reply.stop_errno));
  return RefPtr<vfs::Inode>(gofer_fs().inode_of(reply.files[0]));
}

std::optional<vfs::Stat> GoferInode::peek(vfs::OpContext&, std::string_view name) {
  if (type_ != abi::kS_IFDIR) return std::nullopt;
  if (gofer_fs().shared()) {
    auto reply = walk_one(name);
    if (!reply || reply->files.empty()) return std::nullopt;
    const wire::Attr attr = reply->files[0].attr;
    (void)gofer_fs().inode_of(reply->files[0]);
    return to_stat(attr, gofer_fs().device_of(attr.device), number_for(attr, gofer_fs().root_device()));
  }
  RefPtr<Listing> listing = gofer_fs().current_listing(key_);
  const size_t at = listing ? listing->find(name) : Listing::kNpos;
  if (at == Listing::kNpos) return std::nullopt;
  const wire::PackedEntry e = listing->entry(at);
  if (e.attr.inode == 0 || gofer_fs().has_inode({e.attr.device, e.attr.inode})) return std::nullopt;
  return to_stat(e.attr, gofer_fs().device_of(e.attr.device), number_for(e.attr, gofer_fs().root_device()));
}

void GoferInode::peek_names(vfs::OpContext&, std::string_view after, size_t most, NameSink sink) {
  if (type_ != abi::kS_IFDIR || gofer_fs().shared()) return;
  const RefPtr<Listing> listing = gofer_fs().current_listing(key_);
  if (!listing) return;
  const size_t here = after.empty() ? Listing::kNpos : listing->find(after);
  if (here == Listing::kNpos && !after.empty()) return;
  for (size_t i = here + 1; i < listing->size() && most != 0; ++i, --most) {
    const wire::PackedEntry e = listing->entry(i);
    if (e.attr.inode == 0) continue;
    sink(e.name, [&]() -> std::optional<vfs::Stat> {
      if (gofer_fs().has_inode({e.attr.device, e.attr.inode})) return std::nullopt;
      return to_stat(e.attr, gofer_fs().device_of(e.attr.device), number_for(e.attr, gofer_fs().root_device()));
    });
  }
}

std::vector<RefPtr<vfs::Inode>> GoferInode::lookup_chain(vfs::OpContext&, std::span<const std::string_view> names) {
  std::vector<RefPtr<vfs::Inode>> found;
  RefPtr<GoferInode> at(this);
  // As far as listings tell.
  while (found.size() < names.size()) {
    RefPtr<Listing> listing = at->listing_for_lookup();
    if (!listing) break;
    const size_t place = listing->find(names[found.size()]);
    if (place == Listing::kNpos) return found;
    const wire::PackedEntry entry = listing->entry(place);
    if (entry.attr.inode == 0) return found;
    at = gofer_fs().inode_of(entry, *at);
    found.push_back(at);
    if (at->file_type() != abi::kS_IFDIR) return found;
  }
  std::span<const std::string_view> rest = names.subspan(found.size());
  rest = rest.first(static_cast<size_t>(std::find_if_not(rest.begin(), rest.end(), wire::valid_name) - rest.begin()));
  if (rest.empty()) return found;
  auto answer = at->walk(rest);
  if (!answer) return found;
  for (const wire::File& file : answer->reply.files) found.push_back(gofer_fs().inode_of(file));
  return found;
}

Result<bool> GoferInode::revalidate(vfs::OpContext&, std::string_view name, vfs::Inode* cached) {
  wire::WalkReply reply = TRY(walk_one(name));
  if (reply.files.empty()) {
    if (reply.stop_errno != ENOENT) return err(as_errno(reply.stop_errno));
    return cached == nullptr;
  }
  const wire::File& file = reply.files[0];
  if (!cached || !as_gofer(*cached).is_same(file)) {
    gofer_fs().client().drop(file.id);
    return false;
  }
  as_gofer(*cached).update(file.attr);
  as_gofer(*cached).add_id(file.id);
  return true;
}

size_t GoferInode::revalidate_chain(vfs::OpContext&, std::span<const std::string_view> names, std::span<vfs::Inode* const> cached) {
  auto answer = walk(names);
  if (!answer) return 0;
  size_t same = 0;
  bool all_same = true;
  for (size_t i = 0; i < answer->reply.files.size(); ++i) {
    const wire::File& file = answer->reply.files[i];
    GoferInode& known = as_gofer(*cached[i]);
    all_same = all_same && known.is_same(file);
    if (!all_same) {
      gofer_fs().client().drop(file.id);
      continue;
    }
    known.update(file.attr);
    known.add_id(file.id);
    ++same;
  }
  return same;
}

void GoferInode::directory_changed() {
  gofer_fs().changed();
  gofer_fs().drop_listing(key_);
  base::MutexLock lock(mu_);
  stale_ = true;
}

void GoferInode::lost_name() {
  base::MutexLock lock(mu_);
  stale_ = true;
  if (attr_.nlink > 0) --attr_.nlink;
  if (type_ == abi::kS_IFDIR) attr_.nlink = 0;
}

Result<RefPtr<vfs::Inode>> GoferInode::adopt_new(Result<wire::Answer<wire::FileReply>> answer) {
  wire::Answer<wire::FileReply> made = TRY(std::move(answer));
  RefPtr<GoferInode> inode = gofer_fs().inode_of(made.reply.file);
  if (made.fd) {
    {
      base::MutexLock lock(inode->mu_);
      inode->write_fd_ = base::make_ref<HostFd>(std::move(made.fd));
    }
    gofer_fs().note_descriptor(*inode);
  }
  directory_changed();
  return RefPtr<vfs::Inode>(inode);
}

Result<RefPtr<vfs::Inode>> GoferInode::create(vfs::OpContext&, std::string_view name, const vfs::CreateArgs& args) {
  auto request = make_request<wire::CreateRequest>(TRY(id()), name, args);
  request.flags = vfs::kO_RDWR;
  return adopt_new(gofer_fs().client().call(request));
}

Result<RefPtr<vfs::Inode>> GoferInode::mkdir(vfs::OpContext&, std::string_view name, const vfs::CreateArgs& args) {
  return adopt_new(gofer_fs().client().call(make_request<wire::MkDirRequest>(TRY(id()), name, args)));
}

Result<RefPtr<vfs::Inode>> GoferInode::mknod(vfs::OpContext&, std::string_view name, const vfs::CreateArgs& args) {
  return adopt_new(gofer_fs().client().call(make_request<wire::MkNodRequest>(TRY(id()), name, args)));
}

Result<RefPtr<vfs::Inode>> GoferInode::symlink(vfs::OpContext&, std::string_view name, std::string_view target,
                                               const vfs::CreateArgs& args) {
  wire::SymlinkRequest request;
  request.dir = TRY(id());
  request.name = name;
  request.target = target;
  request.uid = args.uid.value();
  request.gid = args.gid.value();
  return adopt_new(gofer_fs().client().call(request));
}

Result<void> GoferInode::link(vfs::OpContext&, std::string_view name, vfs::Inode& target) {
  wire::LinkRequest request;
  request.dir = TRY(id());
  request.name = name;
  request.target = TRY(as_gofer(target).id());
  TRY(adopt_new(gofer_fs().client().call(request)));
  return {};
}

Result<void> GoferInode::remove(std::string_view name, vfs::Inode& target, uint32_t flags) {
  wire::UnlinkRequest request;
  request.dir = TRY(id());
  request.name = name;
  request.flags = flags;
  TRY(gofer_fs().client().call(request));
  directory_changed();
  as_gofer(target).lost_name();
  return {};
}

Result<void> GoferInode::unlink(vfs::OpContext&, std::string_view name, vfs::Inode& target) {
  return remove(name, target, 0);
}

Result<void> GoferInode::rmdir(vfs::OpContext&, std::string_view name, vfs::Inode& target) {
  constexpr uint32_t kRemoveDir = 0x200;  // AT_REMOVEDIR
  return remove(name, target, kRemoveDir);
}

Result<void> GoferInode::rename(vfs::OpContext&, std::string_view old_name, vfs::Inode& moved, vfs::Inode& new_dir,
                                std::string_view new_name, vfs::Inode* replaced, uint32_t flags) {
  if (flags & vfs::kRenameWhiteout) return err(kEINVAL);
  // An inode that is known by parent and name only must get its id before those change.
  TRY(as_gofer(moved).id());
  if (replaced && (flags & vfs::kRenameExchange)) TRY(as_gofer(*replaced).id());
  wire::RenameRequest request;
  request.dir = TRY(id());
  request.name = old_name;
  request.new_dir = TRY(as_gofer(new_dir).id());
  request.new_name = new_name;
  request.flags = flags;
  TRY(gofer_fs().client().call(request));
  directory_changed();
  as_gofer(new_dir).directory_changed();
  {
    base::MutexLock lock(as_gofer(moved).mu_);
    as_gofer(moved).stale_ = true;
  }
  if (replaced && !(flags & vfs::kRenameExchange) && replaced != &moved) as_gofer(*replaced).lost_name();
  return {};
}

Result<std::string> GoferInode::readlink(vfs::OpContext&) {
  if (type_ != abi::kS_IFLNK) return err(kEINVAL);
  return link_target_;
}

Result<RefPtr<vfs::FileDescription>> GoferInode::open(vfs::OpContext&, const vfs::Path& path, uint32_t flags) {
  if (type_ == abi::kS_IFDIR) return RefPtr<vfs::FileDescription>(base::make_ref<GoferDirectory>(path, flags));
  if (type_ != abi::kS_IFREG) return err(kENXIO);
  const bool write = (flags & vfs::kO_ACCMODE) != vfs::kO_RDONLY;
  description_opened();
  auto fd = host_fd(write);
  if (!fd) {
    description_closed();
    return err(fd.error());
  }
  return RefPtr<vfs::FileDescription>(base::make_ref<GoferFile>(path, flags));
}

Result<std::string> GoferInode::get_xattr(vfs::OpContext&, std::string_view name) {
  // Nothing else leaves the gofer: no need to ask.
  if (!name.starts_with("user.")) return err(kENODATA);
  if (type_ != abi::kS_IFREG && type_ != abi::kS_IFDIR) return err(kENODATA);
  wire::GetXattrRequest request;
  request.id = TRY(id());
  request.name = name;
  return std::move(TRY(gofer_fs().client().call(request)).reply.bytes);
}

Result<void> GoferInode::set_xattr(vfs::OpContext&, std::string_view name, std::string_view value, vfs::XattrSetMode mode) {
  wire::SetXattrRequest request;
  request.id = TRY(id());
  request.name = name;
  request.value = value;
  request.flags = mode == vfs::XattrSetMode::kCreate ? 1 : mode == vfs::XattrSetMode::kReplace ? 2 : 0;
  TRY(gofer_fs().client().call(request));
  return {};
}

Result<std::vector<std::string>> GoferInode::list_xattr(vfs::OpContext&) {
  std::string bytes = std::move(TRY(gofer_fs().client().call(id_request<wire::ListXattrRequest>(TRY(id())))).reply.bytes);
  std::vector<std::string> names;
  for (size_t at = 0; at < bytes.size();) {
    size_t end = std::min(bytes.find('\0', at), bytes.size());
    if (end > at) names.push_back(bytes.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

Result<void> GoferInode::remove_xattr(vfs::OpContext&, std::string_view name) {
  wire::RemoveXattrRequest request;
  request.id = TRY(id());
  request.name = name;
  TRY(gofer_fs().client().call(request));
  return {};
}

}  // namespace sentry::fs::gofer
