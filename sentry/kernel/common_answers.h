// SPDX-License-Identifier: Apache-2.0
// CommonAnswers: answers about absolute paths that all processes with the same rights, mounts and root have in common, so that a program
// that starts finds what others have asked (docs/decisions/0039). Their stubs only read them.
#pragma once

#include <optional>
#include <vector>

#include "sentry/kernel/stat_answers.h"

namespace sentry::kernel {

class CommonAnswers final : public base::RefCounted {
 public:
  // Who may have them: what the answer to a question about an absolute path depends on, beside what is told of (vfs/changes.h).
  struct Key {
    creds::CredPtr creds;
    uint64_t mounts, root_mount, root;  // numbers, which are never used again: nothing is kept alive
    bool operator==(const Key& o) const;
  };
  CommonAnswers(base::RefPtr<StatAnswers> table, uint64_t reader) : table_(std::move(table)), reader_(reader) {}
  StatAnswers& table() const { return *table_; }
  uint64_t reader() const { return reader_; }

 private:
  const base::RefPtr<StatAnswers> table_;
  const uint64_t reader_;
};

// Those of a sandbox.
class CommonAnswersList {
 public:
  // Null: not yet (a few calls make it worth while), or there is no memory. The caller finds out whether the root has moved meanwhile.
  base::RefPtr<CommonAnswers> find(Task& task);

 private:
  static constexpr size_t kMost = 8;  // who was not asked for longest goes; those who have it keep it
  struct Entry {
    CommonAnswers::Key key;
    uint32_t asked = 0;
    uint64_t last = 0;
    base::RefPtr<CommonAnswers> answers;
  };
  base::RefPtr<CommonAnswers> look(const CommonAnswers::Key& key, bool& make, Entry& dropped);

  base::Mutex mu_{base::LockRank::kLeaf};
  std::vector<Entry> entries_ GUARDED_BY(mu_);
  uint64_t clock_ GUARDED_BY(mu_) = 0;
};

}  // namespace sentry::kernel
