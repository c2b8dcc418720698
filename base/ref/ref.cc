// SPDX-License-Identifier: Apache-2.0
#include "base/ref/ref.h"

namespace base {

void RefCounted::last_unref() const {
  if (WeakBlock* weak = weak_.load(std::memory_order_acquire)) {
    weak->clear();
    weak->unref();
  }
  destroy();
}

WeakBlock* RefCounted::weak_block() const {
  WeakBlock* block = weak_.load(std::memory_order_acquire);
  if (block) return block;
  auto* fresh = new WeakBlock(this);
  if (weak_.compare_exchange_strong(block, fresh, std::memory_order_acq_rel)) return fresh;
  fresh->unref();
  return block;
}

const RefCounted* WeakBlock::lock() {
  while (busy_.test_and_set(std::memory_order_acquire)) {
  }
  const RefCounted* p = object_ && object_->try_ref() ? object_ : nullptr;
  busy_.clear(std::memory_order_release);
  return p;
}

void WeakBlock::clear() {
  while (busy_.test_and_set(std::memory_order_acquire)) {
  }
  object_ = nullptr;
  busy_.clear(std::memory_order_release);
}

}  // namespace base
