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

}  // namespace

void set_change_words(ChangeWords* words) { change_words.store(words ? words : &unseen); }

uint64_t change_count(uint32_t word) { return __atomic_load_n(&word_at(word), __ATOMIC_SEQ_CST); }

void count_word(uint32_t word, int64_t by) { __atomic_fetch_add(&word_at(word), static_cast<uint64_t>(by), __ATOMIC_SEQ_CST); }

void set_last_exact_time(uint64_t time) {
  using platform::in_place::kLastExactTime;
  uint64_t last = change_count(kLastExactTime);
  // One that is no write's time any more is in the way of nothing.
  while (time > last || platform::in_place::write_time(time, last) != last)
    if (__atomic_compare_exchange_n(&word_at(kLastExactTime), &last, time, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) break;
}

ChangeScope::ChangeScope(uint32_t word) {
  begun.fetch_add(1, std::memory_order_seq_cst);
  count_word(word, 1);
}

ChangeScope::~ChangeScope() { ended.fetch_add(1, std::memory_order_release); }

void ChangeScope::pages_too(uint64_t number) { count_word(size_word(number), 1); }

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
