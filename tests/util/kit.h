// SPDX-License-Identifier: Apache-2.0
// The guest tests' kit: libc only, so that one static binary runs on plain Linux and in a sandbox.
// Each TEST runs in a forked child with its own process group, its own empty working directory and a time
// limit, so that one crash or hang is one failure. Output: `ok topic.name`, `not ok topic.name - detail`,
// `skip topic.name - reason`. Usage: prog [--list] [filter...]
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct kit_case {
  const char *name;
  void (*run)(void);
  int timeout_s;
  struct kit_case *next;
};
void kit_register(struct kit_case *c);

#define TEST_TIMEOUT(id, seconds)                                                          \
  static void kit_test_##id(void);                                                         \
  static struct kit_case kit_case_##id = {#id, kit_test_##id, seconds, NULL};              \
  __attribute__((constructor)) static void kit_add_##id(void) { kit_register(&kit_case_##id); } \
  static void kit_test_##id(void)
#define TEST(id) TEST_TIMEOUT(id, 20)

// Reports a failure and lets the test go on.
void kit_fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
// Ends the test at once; in a child of a test the exit status tells the parent.
__attribute__((noreturn)) void kit_give_up(void);
__attribute__((noreturn)) void kit_skip(const char *reason);
// True once something failed in this process.
bool kit_failed(void);

#define SKIP(reason) kit_skip(reason)
#define NEEDS_ROOT() do { if (geteuid() != 0) SKIP("needs root"); } while (0)

#define EXPECT_TRUE(condition)                                                     \
  do {                                                                             \
    if (!(condition)) kit_fail(__FILE__, __LINE__, "%s is false (errno %d %s)", #condition, errno, strerrorname_np(errno)); \
  } while (0)
#define KIT_COMPARE(a, op, b, after)                                               \
  do {                                                                             \
    long long kit_a = (long long)(a);                                              \
    int kit_errno = errno;                                                         \
    long long kit_b = (long long)(b);                                              \
    if (!(kit_a op kit_b)) {                                                       \
      kit_fail(__FILE__, __LINE__, "%s " #op " %s: got %lld, other side %lld (errno %d)", #a, #b, kit_a, kit_b, kit_errno); \
      after;                                                                       \
    }                                                                              \
  } while (0)
#define EXPECT_EQ(a, b) KIT_COMPARE(a, ==, b, (void)0)
#define EXPECT_NE(a, b) KIT_COMPARE(a, !=, b, (void)0)
#define EXPECT_LT(a, b) KIT_COMPARE(a, <, b, (void)0)
#define EXPECT_LE(a, b) KIT_COMPARE(a, <=, b, (void)0)
#define EXPECT_GT(a, b) KIT_COMPARE(a, >, b, (void)0)
#define EXPECT_GE(a, b) KIT_COMPARE(a, >=, b, (void)0)
#define ASSERT_EQ(a, b) KIT_COMPARE(a, ==, b, kit_give_up())
#define ASSERT_TRUE(condition) do { if (!(condition)) { \
    kit_fail(__FILE__, __LINE__, "%s is false (errno %d %s)", #condition, errno, strerrorname_np(errno)); kit_give_up(); } } while (0)
#define EXPECT_STR(a, b)                                                           \
  do {                                                                             \
    const char *kit_a = (a), *kit_b = (b);                                         \
    if (strcmp(kit_a, kit_b)) kit_fail(__FILE__, __LINE__, "%s: got \"%s\", wanted \"%s\"", #a, kit_a, kit_b); \
  } while (0)
// The call succeeds / fails with that errno. OK gives its value and ends the test when it failed.
#define OK(call) ({                                                                \
    errno = 0;                                                                     \
    __auto_type kit_r = (call);                                                    \
    if ((long long)kit_r == -1) {                                                  \
      kit_fail(__FILE__, __LINE__, "%s failed: %s", #call, strerrorname_np(errno)); \
      kit_give_up();                                                               \
    }                                                                              \
    kit_r;                                                                         \
  })
#define EXPECT_ERR(call, wanted)                                                   \
  do {                                                                             \
    errno = 0;                                                                     \
    long long kit_r = (long long)(call);                                           \
    int kit_e = errno;                                                             \
    if (kit_r != -1) kit_fail(__FILE__, __LINE__, "%s: got %lld, wanted %s", #call, kit_r, #wanted); \
    else if (kit_e != (wanted)) kit_fail(__FILE__, __LINE__, "%s: got %s, wanted %s", #call, strerrorname_np(kit_e), #wanted); \
  } while (0)

// Addresses that no kernel may read `size` bytes from (kBadRead) or write them to (kBadWrite). The last entry is NULL.
enum kit_bad { kBadRead, kBadWrite };
void *const *kit_bad_pointers(enum kit_bad kind, size_t size);
#define EXPECT_EFAULT(kind, size, var, call)                                       \
  do {                                                                             \
    void *const *kit_list = kit_bad_pointers(kind, size);                          \
    for (size_t kit_i = 0;; kit_i++) {                                             \
      void *var = kit_list[kit_i];                                                 \
      errno = 0;                                                                   \
      long long kit_r = (long long)(call);                                         \
      int kit_e = errno;                                                           \
      if (kit_r != -1 || kit_e != EFAULT)                                          \
        kit_fail(__FILE__, __LINE__, "%s with %p: got %lld %s, wanted EFAULT", #call, var, kit_r, strerrorname_np(kit_e)); \
      if (!var) break;                                                             \
    }                                                                              \
  } while (0)

// Runs the statements in a forked child, which exits 0 or with the count of failures; kit_join says so.
#define IN_CHILD(pid_var, ...)                                                     \
  pid_t pid_var = OK(fork());                                                      \
  if (pid_var == 0) {                                                              \
    { __VA_ARGS__; }                                                               \
    _exit(kit_failed() ? 1 : 0);                                                   \
  }
int kit_wait(pid_t pid);                       // raw status
#define EXPECT_EXIT(pid, code)                                                     \
  do {                                                                             \
    int kit_s = kit_wait(pid);                                                     \
    if (!WIFEXITED(kit_s) || WEXITSTATUS(kit_s) != (code)) kit_fail(__FILE__, __LINE__, "status 0x%x, wanted exit %d", kit_s, (int)(code)); \
  } while (0)
#define EXPECT_KILLED(pid, signo)                                                  \
  do {                                                                             \
    int kit_s = kit_wait(pid);                                                     \
    if (!WIFSIGNALED(kit_s) || WTERMSIG(kit_s) != (signo)) kit_fail(__FILE__, __LINE__, "status 0x%x, wanted signal %d", kit_s, (int)(signo)); \
  } while (0)

long long kit_now_ns(void);                    // CLOCK_MONOTONIC
void kit_sleep_ms(int ms);
void kit_write_file(const char *path, const char *text);
char *kit_read_file(const char *path);         // malloc'ed, NUL-terminated; ends the test when it cannot
long kit_page(void);
// Installs a handler with flags; kit_signals counts deliveries per number.
extern volatile sig_atomic_t kit_signals[65];
void kit_catch(int signo, int flags);
// Waits until the process sleeps (state S in /proc), at most about a second.
void kit_wait_asleep(pid_t pid);
