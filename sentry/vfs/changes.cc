// SPDX-License-Identifier: Apache-2.0
#include "sentry/vfs/changes.h"

namespace sentry::vfs {

namespace {

using platform::in_place::ChangeWords;

ChangeWords unseen;
std::atomic<ChangeWords*> change_words{&unseen};
// Of all words together. No lock: whoever looks compares them before and after.
alignas(64) std::atomic<uint64_t> begun{0};
std::atomic<uint64_t> ended{0};

uint64_t& word_at(uint32_t word) { return change_words.load(std::memory_order_relaxed)->of[word]; }

void count(uint32_t word) { __atomic_fetch_add(&word_at(word), uint64_t{1}, __ATOMIC_SEQ_CST); }
void count_down(uint32_t word) { __atomic_fetch_sub(&word_at(word), uint64_t{1}, __ATOMIC_SEQ_CST); }

}  // namespace

void set_change_words(ChangeWords* words) { change_words.store(words ? words : &unseen); }

uint64_t change_count(uint32_t word) { return __atomic_load_n(&word_at(word), __ATOMIC_SEQ_CST); }

ChangeScope::ChangeScope(uint32_t word) {
  begun.fetch_add(1, std::memory_order_seq_cst);
  count(word);
}

ChangeScope::~ChangeScope() { ended.fetch_add(1, std::memory_order_release); }

void ChangeScope::pages_too(uint64_t number) { count(size_word(number)); }

CloseWatcher::CloseWatcher() { count(platform::in_place::kCloseWatchers); }
CloseWatcher::~CloseWatcher() { count_down(platform::in_place::kCloseWatchers); }

ReadWatcher::ReadWatcher() { count(platform::in_place::kReadWatchers); }
ReadWatcher::~ReadWatcher() { count_down(platform::in_place::kReadWatchers); }

ChangedFlags::ChangedFlags() { count(platform::in_place::kChangedFlags); }
ChangedFlags::~ChangedFlags() { count_down(platform::in_place::kChangedFlags); }

QuietTime::QuietTime() {
  const uint64_t done = ended.load(std::memory_order_seq_cst);
  begun_ = begun.load(std::memory_order_seq_cst);
  quiet_ = done == begun_;
}

bool QuietTime::lasts() const {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return quiet_ && begun.load(std::memory_order_seq_cst) == begun_;
}

}  // namespace sentry::vfs
