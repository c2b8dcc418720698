// SPDX-License-Identifier: Apache-2.0
// Clang thread-safety attributes (clang.llvm.org/docs/ThreadSafetyAnalysis.html); nothing under other compilers.
#pragma once

#if defined(__clang__)
#define TSA_ATTR(x) __attribute__((x))
#else
#define TSA_ATTR(x)
#endif

#define CAPABILITY(x) TSA_ATTR(capability(x))
#define SCOPED_CAPABILITY TSA_ATTR(scoped_lockable)
#define GUARDED_BY(x) TSA_ATTR(guarded_by(x))
#define PT_GUARDED_BY(x) TSA_ATTR(pt_guarded_by(x))
#define REQUIRES(...) TSA_ATTR(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) TSA_ATTR(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE(...) TSA_ATTR(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) TSA_ATTR(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) TSA_ATTR(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) TSA_ATTR(release_shared_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) TSA_ATTR(try_acquire_capability(__VA_ARGS__))
#define EXCLUDES(...) TSA_ATTR(locks_excluded(__VA_ARGS__))
#define ASSERT_CAPABILITY(x) TSA_ATTR(assert_capability(x))
#define RETURN_CAPABILITY(x) TSA_ATTR(lock_returned(x))
#define NO_THREAD_SAFETY_ANALYSIS TSA_ATTR(no_thread_safety_analysis)

// Task-exclusive: touched only by the task's own fiber (asserted in debug builds where it matters).
#define TASK_ONLY
