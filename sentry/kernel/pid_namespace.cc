// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/pid_namespace.h"

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task_private.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {
constexpr int32_t kReservedPids = 300;  // after a wrap-around Linux starts here
}

PidNumber::~PidNumber() = default;

Result<RefPtr<PidNumber>> PidNumber::allocate_locked(PidNamespace& ns, std::span<const int32_t> wanted) {
  if (wanted.size() > static_cast<size_t>(ns.level()) + 1) return err(kEINVAL);
  auto pid = base::make_ref<PidNumber>();
  pid->levels_.resize(static_cast<size_t>(ns.level()) + 1);
  size_t outward = 0;
  for (PidNamespace* at = &ns; at; at = at->parent(), ++outward) {
    at->set_.mu.assert_held();  // one set for all namespaces
    if (at->closed) return err(kENOMEM);
    Level& level = pid->levels_[static_cast<size_t>(at->level())];
    level.ns = RefPtr<PidNamespace>(at);
    if (outward < wanted.size()) {
      const int32_t n = wanted[outward];
      if (n < 1 || n >= PidNamespace::kMaxPid) return err(kEINVAL);
      if (n != 1 && !at->init) return err(kEINVAL);
      if (at->numbers_.contains(n)) return err(kEEXIST);
      level.number = n;
      continue;
    }
    if (at->numbers_.size() >= PidNamespace::kMaxPid - 2) return err(kEAGAIN);
    int32_t n = at->last_ + 1;
    if (n >= PidNamespace::kMaxPid) n = kReservedPids;
    // Skip a run of used numbers with the iterator; at least one is free.
    auto it = at->numbers_.lower_bound(n);
    while (it != at->numbers_.end() && it->first == n) {
      ++n, ++it;
      if (n >= PidNamespace::kMaxPid) {
        n = kReservedPids;
        if (at->numbers_.size() >= PidNamespace::kMaxPid - kReservedPids) n = 2;
        it = at->numbers_.lower_bound(n);
      }
    }
    level.number = n;
  }
  for (Level& level : pid->levels_) {
    level.ns->set_.mu.assert_held();
    level.ns->numbers_.emplace(level.number, pid);
    level.ns->last_ = level.number;
  }
  return pid;
}

int32_t PidNumber::in(const PidNamespace& ns) const {
  const auto i = static_cast<size_t>(ns.level());
  return i < levels_.size() && levels_[i].ns.get() == &ns ? levels_[i].number : 0;
}

void PidNumber::release_if_unused_locked() {
  if (task || group || process_group || session) return;
  RefPtr<PidNumber> self(this);
  for (Level& level : levels_) {
    level.ns->set_.mu.assert_held();
    level.ns->numbers_.erase(level.number);
  }
}

PidNamespace::PidNamespace(TaskSet& set, RefPtr<PidNamespace> parent, RefPtr<creds::UserNamespace> owner)
    : set_(set), parent_(std::move(parent)), level_(parent_ ? parent_->level_ + 1 : 0), user_ns_(std::move(owner)),
      inode_(allocate_namespace_inode()) {}

PidNamespace::~PidNamespace() = default;

bool PidNamespace::is_ancestor_of(const PidNamespace& other) const {
  const PidNamespace* at = &other;
  while (at && at->level_ > level_) at = at->parent();
  return at == this;
}

PidNumber* PidNamespace::find_locked(int32_t number) const {
  auto it = numbers_.find(number);
  return it == numbers_.end() ? nullptr : it->second.get();
}

RefPtr<PidNumber> PidNamespace::find(int32_t number) const {
  base::MutexLock lock(set_.mu);
  return RefPtr<PidNumber>(find_locked(number));
}

RefPtr<Task> PidNamespace::find_task(abi::Tid tid) const {
  base::MutexLock lock(set_.mu);
  PidNumber* n = find_locked(tid.value());
  return n ? RefPtr<Task>(n->task) : nullptr;
}

RefPtr<ThreadGroup> PidNamespace::find_group(abi::Pid pid) const {
  base::MutexLock lock(set_.mu);
  PidNumber* n = find_locked(pid.value());
  return n ? RefPtr<ThreadGroup>(n->group) : nullptr;
}

ResourceUse PidNamespace::use_of(const Container& container) const {
  base::MutexLock lock(set_.mu);
  ResourceUse total = container.reaped_use;
  for (const auto& [nr, number] : numbers_) {
    const ThreadGroup* group = number->group;
    if (!group || &group->container() != &container) continue;
    group->set().mu.assert_held();  // one set for all
    total.add(group->own_use_locked());
  }
  return total;
}

std::vector<RefPtr<ThreadGroup>> PidNamespace::groups() const {
  std::vector<RefPtr<ThreadGroup>> all;
  base::MutexLock lock(set_.mu);
  for (const auto& [nr, number] : numbers_) {
    if (number->group) all.emplace_back(number->group);
  }
  return all;
}

int32_t PidNamespace::last_pid() const {
  base::MutexLock lock(set_.mu);
  return last_;
}

}  // namespace sentry::kernel
