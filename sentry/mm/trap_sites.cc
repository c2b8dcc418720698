// SPDX-License-Identifier: Apache-2.0
#include "sentry/mm/trap_sites.h"

#include <algorithm>

namespace sentry::mm {

const char* patch_outcome_name(PatchOutcome outcome) {
  switch (outcome) {
    case PatchOutcome::kPatched: return "patched";
    case PatchOutcome::kNoPattern: return "no known sequence";
    case PatchOutcome::kNotReadOnly: return "writable or shared text";
    case PatchOutcome::kAcrossPages: return "across two pages";
    case PatchOutcome::kNotPlaced: return "trampolines do not reach";
  }
  return "?";
}

TrapSites& TrapSites::all() {
  static auto* const sites = new TrapSites;
  return *sites;
}

bool TrapSites::count(const void* where, uint64_t offset, PatchOutcome outcome) {
  base::MutexLock lock(mu_);
  auto it = sites_.find({where, offset});
  if (it == sites_.end()) {
    if (sites_.size() < kMostSites) return false;
    ++others_;
    return true;
  }
  ++it->second.count;
  it->second.outcome = outcome;
  return true;
}

void TrapSites::add(const void* where, TrapSite site) {
  site.count = 1;
  base::MutexLock lock(mu_);
  const Key key{where, site.offset};
  auto [it, added] = sites_.try_emplace(key, std::move(site));
  if (!added) ++it->second.count;
}

std::vector<TrapSite> TrapSites::list(size_t most, uint64_t& others) const {
  std::vector<TrapSite> all;
  {
    base::MutexLock lock(mu_);
    others = others_;
    all.reserve(sites_.size());
    for (const auto& [key, site] : sites_) all.push_back(site);
  }
  std::sort(all.begin(), all.end(), [](const TrapSite& a, const TrapSite& b) { return a.count > b.count; });
  if (all.size() > most) all.resize(most);
  return all;
}

}  // namespace sentry::mm
