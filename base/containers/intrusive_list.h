// SPDX-License-Identifier: Apache-2.0
// Doubly linked list through a member hook. Does not own; an element leaves a list before it dies (checked).
#pragma once

#include <cstddef>

#include "base/core/check.h"

namespace base {

class ListHook {
 public:
  ListHook() = default;
  ListHook(const ListHook&) = delete;
  ListHook& operator=(const ListHook&) = delete;
  ~ListHook() { DCHECK(!linked()); }
  bool linked() const { return next_ != nullptr; }
  void unlink() {
    prev_->next_ = next_;
    next_->prev_ = prev_;
    next_ = prev_ = nullptr;
  }

 private:
  template <typename T, ListHook T::*>
  friend class IntrusiveList;
  ListHook* next_ = nullptr;
  ListHook* prev_ = nullptr;
};

template <typename T, ListHook T::*Hook>
class IntrusiveList {
 public:
  IntrusiveList() { head_.next_ = head_.prev_ = &head_; }
  ~IntrusiveList() {
    CHECK(empty());
    head_.next_ = head_.prev_ = nullptr;
  }
  IntrusiveList(const IntrusiveList&) = delete;
  IntrusiveList& operator=(const IntrusiveList&) = delete;
  bool empty() const { return head_.next_ == &head_; }
  void push_back(T& t) { insert(t, &head_); }
  void push_front(T& t) { insert(t, head_.next_); }
  void remove(T& t) { (t.*Hook).unlink(); }
  T* front() { return empty() ? nullptr : owner(head_.next_); }
  T* back() { return empty() ? nullptr : owner(head_.prev_); }
  T* pop_front() {
    T* t = front();
    if (t) remove(*t);
    return t;
  }
  T* next(T& t) {
    ListHook* n = (t.*Hook).next_;
    return n == &head_ ? nullptr : owner(n);
  }
  // f(T&); the current element may be removed by f.
  template <typename F>
  void for_each(F&& f) {
    for (ListHook* h = head_.next_; h != &head_;) {
      ListHook* n = h->next_;
      f(*owner(h));
      h = n;
    }
  }

 private:
  static void insert_before(ListHook& hook, ListHook* at) {
    DCHECK(!hook.linked());
    hook.prev_ = at->prev_;
    hook.next_ = at;
    at->prev_->next_ = &hook;
    at->prev_ = &hook;
  }
  void insert(T& t, ListHook* at) { insert_before(t.*Hook, at); }
  static T* owner(ListHook* h) {
    // offsetof for a pointer to member; T is standard enough in every compiler we support.
    alignas(T) static char probe[sizeof(T)];
    auto* t = reinterpret_cast<T*>(probe);
    auto offset = reinterpret_cast<char*>(&(t->*Hook)) - probe;
    return reinterpret_cast<T*>(reinterpret_cast<char*>(h) - offset);
  }
  ListHook head_;
};

}  // namespace base
