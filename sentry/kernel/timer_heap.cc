// SPDX-License-Identifier: Apache-2.0
#include "sentry/kernel/timer_heap.h"

#include "base/core/check.h"
#include "sentry/kernel/scheduler.h"

namespace sentry::kernel {

void TimerHeap::place(size_t i, TimerNode* node) {
  heap_[i] = node;
  node->index = i;
}

void TimerHeap::sift_up(size_t i) {
  TimerNode* node = heap_[i];
  while (i > 0 && heap_[(i - 1) / 2]->deadline > node->deadline) {
    place(i, heap_[(i - 1) / 2]);
    i = (i - 1) / 2;
  }
  place(i, node);
}

void TimerHeap::sift_down(size_t i) {
  TimerNode* node = heap_[i];
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && heap_[child + 1]->deadline < heap_[child]->deadline) ++child;
    if (heap_[child]->deadline >= node->deadline) break;
    place(i, heap_[child]);
    i = child;
  }
  place(i, node);
}

void TimerHeap::publish() {
  next_.store(heap_.empty() ? INT64_MAX : heap_[0]->deadline, std::memory_order_seq_cst);
}

void TimerHeap::insert_locked(TimerNode& node) {
  DCHECK(node.index == SIZE_MAX);
  heap_.push_back(&node);
  sift_up(heap_.size() - 1);
  publish();
}

void TimerHeap::remove_locked(TimerNode& node) {
  const size_t i = node.index;
  TimerNode* last = heap_.back();
  heap_.pop_back();
  if (last != &node) {
    place(i, last);
    sift_down(i);
    sift_up(last->index);
  }
  node.index = SIZE_MAX;
  publish();
}

void TimerHeap::add(TimerNode& node) {
  base::MutexLock lock(mu_);
  insert_locked(node);
}

void TimerHeap::remove(TimerNode& node) {
  base::MutexLock lock(mu_);
  if (node.index != SIZE_MAX) remove_locked(node);
}

uint64_t TimerHeap::add_callback(int64_t deadline, std::function<void()> callback) {
  auto node = std::make_unique<TimerNode>();
  node->deadline = deadline;
  node->callback = std::move(callback);
  base::MutexLock lock(mu_);
  node->id = next_id_++;
  TimerNode& ref = *node;
  callbacks_.emplace(ref.id, std::move(node));
  insert_locked(ref);
  return ref.id;
}

bool TimerHeap::cancel_callback(uint64_t id) {
  std::unique_ptr<TimerNode> dead;  // its captures die outside the lock
  base::MutexLock lock(mu_);
  auto it = callbacks_.find(id);
  if (it == callbacks_.end()) return false;
  dead = std::move(it->second);
  callbacks_.erase(it);
  remove_locked(*dead);
  return true;
}

bool TimerHeap::run_due(int64_t now) {
  bool any = false;
  while (next_.load(std::memory_order_relaxed) <= now) {
    std::unique_ptr<TimerNode> due;
    {
      base::MutexLock lock(mu_);
      if (heap_.empty() || heap_[0]->deadline > now) break;
      TimerNode& node = *heap_[0];
      remove_locked(node);
      any = true;
      if (node.fiber) {
        // Under the lock: the fiber cannot leave its park (and its node) before remove() gets it.
        node.fiber->wake();
        continue;
      }
      auto it = callbacks_.find(node.id);
      due = std::move(it->second);
      callbacks_.erase(it);
    }
    due->callback();
  }
  return any;
}

}  // namespace sentry::kernel
