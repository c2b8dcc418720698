// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/common_answers.h"

#include <algorithm>

#include "sentry/kernel/kernel_impl.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using base::RefPtr;

namespace {

constexpr uint32_t kWorthTable = 16;  // calls of all who would have it

bool same_rights(const creds::Credentials& a, const creds::Credentials& b) {
  return a.uid == b.uid && a.euid == b.euid && a.suid == b.suid && a.fsuid == b.fsuid && a.gid == b.gid && a.egid == b.egid && a.sgid == b.sgid &&
         a.fsgid == b.fsgid && a.groups == b.groups && a.effective == b.effective && a.permitted == b.permitted &&
         a.inheritable == b.inheritable && a.bounding == b.bounding && a.ambient == b.ambient && a.securebits == b.securebits &&
         a.no_new_privs == b.no_new_privs && a.user_ns == b.user_ns;
}

std::optional<CommonAnswers::Key> key_of(Task& task) {
  const vfs::Path root = task.root();
  if (!root.mount->fs().tells_changes() || !root.inode().tells_changes()) return std::nullopt;
  return CommonAnswers::Key{task.credentials(), task.mount_namespace().number(), root.mount->id(), root.inode().number()};
}

}  // namespace

bool CommonAnswers::Key::operator==(const Key& o) const {
  return mounts == o.mounts && root_mount == o.root_mount && root == o.root && (creds == o.creds || same_rights(*creds, *o.creds));
}

RefPtr<CommonAnswers> CommonAnswersList::look(const CommonAnswers::Key& key, bool& make, Entry& dropped) {
  base::MutexLock lock(mu_);
  auto it = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  if (it == entries_.end()) {
    if (entries_.size() == kMost) {
      it = std::min_element(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.last < b.last; });
      dropped = std::exchange(*it, Entry{.key = key});
    } else {
      it = entries_.insert(entries_.end(), Entry{.key = key});
    }
  }
  it->last = ++clock_;
  make = !it->answers && ++it->asked >= kWorthTable;
  return it->answers;
}

RefPtr<CommonAnswers> CommonAnswersList::find(Task& task) {
  const auto key = key_of(task);
  if (!key) return nullptr;
  bool make = false;
  Entry dropped;  // outside the lock
  if (auto known = look(*key, make, dropped); known || !make) return known;
  auto table = StatAnswers::create(task.kernel().memory());
  if (!table) return nullptr;
  auto made = base::make_ref<CommonAnswers>(std::move(*table), StatAnswers::new_reader());
  base::MutexLock lock(mu_);
  for (Entry& e : entries_) {
    if (!(e.key == *key)) continue;
    if (!e.answers) e.answers = made;
    return e.answers;
  }
  return nullptr;
}

}  // namespace sentry::kernel
