// SPDX-License-Identifier: Apache-2.0
// Intrusive reference counts. An object starts with one reference, owned by the RefPtr that make_ref returns.
// The last release deletes through the virtual destructor; never let it happen under a lock that the
// destructor takes: move the RefPtr out, unlock, drop.
// WeakRef: try to get a strong reference to an object that may be gone; costs a separate control block, which
// is made on the first weak() call.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/core/check.h"

namespace base {

template <typename T>
class RefPtr;

class WeakBlock;

class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;
  virtual ~RefCounted() = default;

  void ref() const { refs_.fetch_add(1, std::memory_order_relaxed); }
  void unref() const {
    const uint32_t before = refs_.fetch_sub(1, std::memory_order_acq_rel);
    DCHECK(before != 0);
    if (before == 1) [[unlikely]] last_unref();
  }
  // False when the object is already being destroyed.
  bool try_ref() const {
    uint32_t n = refs_.load(std::memory_order_relaxed);
    while (n != 0) {
      if (refs_.compare_exchange_weak(n, n + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }
  // Nobody but the caller can get at the object, unless through a weak reference.
  bool has_one_ref() const { return refs_.load(std::memory_order_acquire) == 1; }
  uint32_t ref_count_for_debug() const { return refs_.load(std::memory_order_relaxed); }
  // The shared control block for weak references; made on demand.
  WeakBlock* weak_block() const;

 private:
  // The last reference is gone; weak ones are cleared. Overridden by what must do something as a whole object first.
  virtual void destroy() const { delete this; }
  void last_unref() const;

  mutable std::atomic<uint32_t> refs_{1};
  mutable std::atomic<WeakBlock*> weak_{nullptr};
};

template <typename T>
class RefPtr {
 public:
  constexpr RefPtr() = default;
  constexpr RefPtr(std::nullptr_t) {}  // NOLINT
  // Takes an additional reference to a live object.
  explicit RefPtr(T* p) : p_(p) {
    if (p_) p_->ref();
  }
  explicit RefPtr(T& p) : RefPtr(&p) {}
  RefPtr(const RefPtr& o) : RefPtr(o.p_) {}
  RefPtr(RefPtr&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  template <typename U>
  RefPtr(const RefPtr<U>& o) : RefPtr(static_cast<T*>(o.get())) {}  // NOLINT
  template <typename U>
  RefPtr(RefPtr<U>&& o) noexcept : p_(o.release()) {}  // NOLINT
  RefPtr& operator=(RefPtr o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~RefPtr() {
    if (p_) p_->unref();
  }
  // Takes over the reference that the caller owns.
  static RefPtr adopt(T* p) {
    RefPtr r;
    r.p_ = p;
    return r;
  }
  T* release() { return std::exchange(p_, nullptr); }
  void reset() { *this = RefPtr(); }
  T* get() const { return p_; }
  T& operator*() const { return *p_; }
  T* operator->() const { return p_; }
  explicit operator bool() const { return p_ != nullptr; }
  friend bool operator==(const RefPtr& a, const RefPtr& b) { return a.p_ == b.p_; }
  friend bool operator==(const RefPtr& a, std::nullptr_t) { return a.p_ == nullptr; }

 private:
  template <typename U>
  friend class RefPtr;
  T* p_ = nullptr;
};

template <typename T, typename... Args>
RefPtr<T> make_ref(Args&&... args) {
  return RefPtr<T>::adopt(new T(std::forward<Args>(args)...));
}

template <typename To, typename From>
RefPtr<To> static_ref_cast(const RefPtr<From>& p) {
  return RefPtr<To>(static_cast<To*>(p.get()));
}

template <typename T>
class WeakRef {
 public:
  WeakRef() = default;
  explicit WeakRef(const T& object);
  explicit WeakRef(const RefPtr<T>& p) {
    if (p) *this = WeakRef(*p);
  }
  WeakRef(const WeakRef& o);
  WeakRef(WeakRef&& o) noexcept : block_(std::exchange(o.block_, nullptr)) {}
  WeakRef& operator=(WeakRef o) noexcept {
    std::swap(block_, o.block_);
    return *this;
  }
  ~WeakRef();
  // Null when the object is gone or going.
  RefPtr<T> lock() const;

 private:
  WeakBlock* block_ = nullptr;
};

// Implementation.

class WeakBlock {
 public:
  explicit WeakBlock(const RefCounted* object) : object_(object) {}
  void ref() { refs_.fetch_add(1, std::memory_order_relaxed); }
  void unref() {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  // A strong reference taken for the caller, or null.
  const RefCounted* lock();
  // Called once, by the object's last unref.
  void clear();

 private:
  std::atomic<uint32_t> refs_{1};
  std::atomic_flag busy_;  // spin lock around object_: held for a few instructions only
  const RefCounted* object_;
};

template <typename T>
WeakRef<T>::WeakRef(const T& object) : block_(object.weak_block()) {
  block_->ref();
}
template <typename T>
WeakRef<T>::WeakRef(const WeakRef& o) : block_(o.block_) {
  if (block_) block_->ref();
}
template <typename T>
WeakRef<T>::~WeakRef() {
  if (block_) block_->unref();
}
template <typename T>
RefPtr<T> WeakRef<T>::lock() const {
  const RefCounted* p = block_ ? block_->lock() : nullptr;
  return RefPtr<T>::adopt(const_cast<T*>(static_cast<const T*>(p)));
}

}  // namespace base
