// SPDX-License-Identifier: Apache-2.0
// Listings: packed entries with an index of names, and how they are fetched.
#include <algorithm>
#include <bit>

#include "sentry/fs/gofer/gofer_inode.h"

namespace sentry::fs::gofer {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kMaxListing = 2'000'000;
constexpr size_t kFew = 8;  // names that are compared one by one

}  // namespace

void Listing::add(const wire::DirEntry& e) {
  at_.push_back(static_cast<uint32_t>(packed_.size()));
  wire::pack_entry(packed_, device_, e.name, e.attr, e.link_target);
}

void Listing::add(const wire::TreeList& list) {
  packed_ = list.entries;
  at_.reserve(list.count);
  std::span<const uint8_t> rest = wire::bytes_of(packed_);
  wire::PackedEntry e;
  for (uint32_t i = 0; i < list.count; ++i) {
    at_.push_back(static_cast<uint32_t>(packed_.size() - rest.size()));
    if (!wire::unpack_entry(rest, device_, e)) break;
  }
}

void Listing::finish() {
  if (at_.size() <= kFew) return;
  slots_.resize(std::bit_ceil(at_.size() * 2));
  for (uint32_t i = 0; i < at_.size(); ++i) {
    size_t slot = std::hash<std::string_view>{}(name_at(at_[i]));
    while (slots_[slot & (slots_.size() - 1)] != 0) ++slot;
    slots_[slot & (slots_.size() - 1)] = i + 1;
  }
}

// A name comes first in its entry, behind its length.
std::string_view Listing::name_at(uint32_t at) const {
  return std::string_view(packed_).substr(at + 1, static_cast<uint8_t>(packed_[at]));
}

wire::PackedEntry Listing::entry(size_t i) const {
  wire::PackedEntry e;
  std::span<const uint8_t> rest = wire::bytes_of(packed_).subspan(at_[i]);
  CHECK(wire::unpack_entry(rest, device_, e));
  return e;
}

size_t Listing::find(std::string_view name) const {
  if (slots_.empty()) {
    for (size_t i = 0; i < at_.size(); ++i) {
      if (name_at(at_[i]) == name) return i;
    }
    return kNpos;
  }
  for (size_t slot = std::hash<std::string_view>{}(name);; ++slot) {
    const uint32_t i = slots_[slot & (slots_.size() - 1)];
    if (i == 0) return kNpos;
    if (name_at(at_[i - 1]) == name) return i - 1;
  }
}

// A current listing, fetched when enough names of an exclusive directory were asked for one by one that all of them at
// once would have cost less.
RefPtr<Listing> GoferInode::listing_for_lookup() {
  constexpr uint32_t kFewest = 6, kEntriesPerMessage = 16, kBytesPerEntry = 40;
  if (gofer_fs().shared()) return nullptr;
  if (RefPtr<Listing> known = gofer_fs().current_listing(key_)) return known;
  {
    base::MutexLock lock(mu_);
    if (++asked_ < kFewest || asked_ < attr_.size / (kEntriesPerMessage * kBytesPerEntry)) return nullptr;
    asked_ = 0;
  }
  return listing().value_or(nullptr);
}

Result<RefPtr<Listing>> GoferInode::listing() {
  if (!gofer_fs().shared()) {
    if (RefPtr<Listing> known = gofer_fs().current_listing(key_)) return known;
    if (RefPtr<Listing> read = TRY(list_tree())) return read;
  }
  auto made = base::make_ref<Listing>(key_.device, gofer_fs().epoch());
  wire::ReadDirRequest request;
  request.id = TRY(id());
  for (;;) {
    auto reply = std::move(TRY(gofer_fs().client().call(request)).reply);
    if (made->size() + reply.entries.size() > kMaxListing) return err(kENOMEM);
    if (!reply.entries.empty()) request.cookie = reply.entries.back().cookie;
    for (const wire::DirEntry& e : reply.entries) made->add(e);
    if (reply.end) break;
  }
  made->finish();
  if (!gofer_fs().shared()) gofer_fs().keep_listing(key_, made);
  return made;
}

// When the directory was found in a listing of its parent somebody walks through the tree: this directory, all below it and
// the ones that follow it, as far as they fit, in one message. Null: it is to be listed alone.
Result<RefPtr<Listing>> GoferInode::list_tree() {
  RefPtr<GoferInode> parent;
  wire::ReadTreeRequest request;
  {
    base::MutexLock lock(mu_);
    if (ids_.empty() && parent_) parent = parent_, request.names.push_back(name_);
  }
  RefPtr<Listing> above = parent ? gofer_fs().current_listing(parent->key_) : nullptr;
  const size_t here = above ? above->find(request.names[0]) : Listing::kNpos;
  if (here == Listing::kNpos) {
    gofer_fs().narrow_tree_window();
    return RefPtr<Listing>();
  }
  for (size_t i = here + 1; i < above->size() && request.names.size() < wire::kMaxTreeNames; ++i) {
    const wire::PackedEntry e = above->entry(i);
    if ((e.attr.mode & abi::kS_IFMT) != abi::kS_IFDIR) continue;
    if (gofer_fs().current_listing({e.attr.device, e.attr.inode})) continue;
    request.names.emplace_back(e.name);
  }
  request.dir = TRY(parent->id());
  request.max_entries = gofer_fs().widen_tree_window();
  const uint64_t epoch = gofer_fs().epoch();
  auto answer = TRY(gofer_fs().client().call(request));
  RefPtr<Listing> found;
  // The last ones first, so that what is wanted first is dropped last.
  for (auto list = answer.reply.lists.rbegin(); list != answer.reply.lists.rend(); ++list) {
    auto made = base::make_ref<Listing>(list->device, epoch);
    made->add(*list);
    made->finish();
    const FileKey key{list->device, list->inode};
    if (key == key_) found = made;
    gofer_fs().keep_listing(key, std::move(made));
  }
  return found;
}

bool OpenAhead::begin(GoferInode& directory, RefPtr<Listing> listing) {
  above_.push_back(std::move(listing));
  for (RefPtr<GoferInode> at(&directory);;) {
    RefPtr<GoferInode> parent;
    {
      base::MutexLock lock(at->mu_);
      if (!at->ids_.empty()) {
        request_.dir = at->ids_.back();
        break;
      }
      if (!at->parent_ || at_.size() == wire::kMaxOpenDepth) return false;
      parent = at->parent_;
      at_.push_back(at->name_);
    }
    at = std::move(parent);
    above_.push_back(fs_.current_listing(at->key_));
  }
  std::reverse(at_.begin(), at_.end());
  std::reverse(above_.begin(), above_.end());
  return true;
}

bool OpenAhead::collect(size_t first) {
  for (;;) {
    if (above_.back()) take(*above_.back(), first);
    // Behind the directory that is done now, in the one above.
    above_.pop_back();
    if (is_full() || at_.empty() || !above_.back()) break;
    const size_t done = above_.back()->find(at_.back());
    if (done == Listing::kNpos) break;
    at_.pop_back();
    first = done + 1;
  }
  return request_.files.size() > 1;
}

// Recursion as deep as a message's names may be.
void OpenAhead::take(const Listing& listing, size_t first) {
  for (size_t i = first; i < listing.size() && !is_full(); ++i, ++looked_at_) {
    const wire::PackedEntry e = listing.entry(i);
    if (worth_opening_ahead(e)) {
      request_.files.push_back({at_, std::string(e.name)});
      continue;
    }
    if ((e.attr.mode & abi::kS_IFMT) != abi::kS_IFDIR || at_.size() == wire::kMaxOpenDepth) continue;
    const RefPtr<Listing> below = fs_.current_listing({e.attr.device, e.attr.inode});
    if (!below) continue;
    at_.emplace_back(e.name);
    take(*below, 0);
    at_.pop_back();
  }
}

}  // namespace sentry::fs::gofer
