// SPDX-License-Identifier: Apache-2.0
// futex: wait, wake, requeue, bitset, wake_op, PI, robust lists, shared between processes.
#include "kit.h"

#include <linux/futex.h>
#include <pthread.h>
#include <time.h>

static long futex(void *word, int op, long value, void *timeout, void *word2, long value3) {
  return syscall(SYS_futex, word, op, value, timeout, word2, value3);
}
static int *shared_words(void) {
  return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

TEST(wait_with_a_changed_value) {
  int w = 1;
  EXPECT_ERR(futex(&w, FUTEX_WAIT, 0, NULL, NULL, 0), EAGAIN);
  EXPECT_ERR(futex(&w, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0), EAGAIN);
  EXPECT_EQ(futex(&w, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
}
TEST(wait_times_out) {
  int w = 0;
  struct timespec t = {0, 20000000};
  long long start = kit_now_ns();
  EXPECT_ERR(futex(&w, FUTEX_WAIT, 0, &t, NULL, 0), ETIMEDOUT);
  EXPECT_GE(kit_now_ns() - start, 20000000);
  t.tv_nsec = 1000000000;
  EXPECT_ERR(futex(&w, FUTEX_WAIT, 0, &t, NULL, 0), EINVAL);
  t = (struct timespec){1, 0};  // long ago
  EXPECT_ERR(futex(&w, FUTEX_WAIT_BITSET, 0, &t, NULL, -1), ETIMEDOUT);
  clock_gettime(CLOCK_REALTIME, &t);
  t.tv_nsec += 20000000;
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  EXPECT_ERR(futex(&w, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &t, NULL, -1), ETIMEDOUT);
}
TEST(errors) {
  int w = 0;
  EXPECT_ERR(futex((char *)&w + 1, FUTEX_WAIT, 0, NULL, NULL, 0), EINVAL);
  EXPECT_ERR(futex((char *)&w + 1, FUTEX_WAKE, 1, NULL, NULL, 0), EINVAL);
  EXPECT_ERR(futex(&w, 99, 0, NULL, NULL, 0), ENOSYS);
  EXPECT_ERR(futex(&w, FUTEX_WAIT_BITSET, 0, NULL, NULL, 0), EINVAL);
  EXPECT_ERR(futex(&w, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0), EINVAL);
  void *const *bad = kit_bad_pointers(kBadRead, 1);
  for (int i = 0; bad[i]; i++) EXPECT_ERR(futex((void *)((uintptr_t)bad[i] & ~3UL), FUTEX_WAIT, 0, NULL, NULL, 0), EFAULT);
  EXPECT_ERR(futex(NULL, FUTEX_WAIT, 0, NULL, NULL, 0), EFAULT);
  EXPECT_EFAULT(kBadRead, 16, p, p ? futex(&w, FUTEX_WAIT, 0, p, NULL, 0) : (errno = EFAULT, -1));
}
TEST(wake_between_processes) {
  int *w = shared_words();
  IN_CHILD(pid, EXPECT_EQ(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0), 0));
  kit_wait_asleep(pid);
  EXPECT_EQ(futex(w, FUTEX_WAKE, 10, NULL, NULL, 0), 1);
  EXPECT_EXIT(pid, 0);
}
TEST(wake_through_two_mappings_of_a_file) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(ftruncate(fd, 4096));
  int *a = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  IN_CHILD(pid, {
    int *b = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    EXPECT_EQ(futex(b, FUTEX_WAIT, 0, NULL, NULL, 0), 0);
  });
  kit_wait_asleep(pid);
  EXPECT_EQ(futex(a, FUTEX_WAKE, 1, NULL, NULL, 0), 1);
  EXPECT_EXIT(pid, 0);
}
TEST(private_after_fork_does_not_meet) {
  static int w;
  IN_CHILD(pid, {
    struct timespec t = {0, 100000000};
    EXPECT_ERR(futex(&w, FUTEX_WAIT, 0, &t, NULL, 0), ETIMEDOUT);
  });
  kit_wait_asleep(pid);
  EXPECT_EQ(futex(&w, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
  EXPECT_EXIT(pid, 0);
}
TEST(wakes_as_many_as_asked) {
  int *w = shared_words();
  pid_t pids[5];
  for (int i = 0; i < 5; i++)
    if ((pids[i] = OK(fork())) == 0) _exit(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0) != 0);
  for (int i = 0; i < 5; i++) kit_wait_asleep(pids[i]);
  EXPECT_EQ(futex(w, FUTEX_WAKE, 2, NULL, NULL, 0), 2);
  EXPECT_EQ(futex(w, FUTEX_WAKE, 100, NULL, NULL, 0), 3);
  for (int i = 0; i < 5; i++) EXPECT_EXIT(pids[i], 0);
}
TEST(none_asked_for_is_one) {
  int *w = shared_words();
  IN_CHILD(pid, EXPECT_EQ(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0), 0));
  IN_CHILD(second, EXPECT_EQ(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0), 0));
  kit_wait_asleep(pid);
  kit_wait_asleep(second);
  EXPECT_EQ(futex(w, FUTEX_WAKE, 0, NULL, NULL, 0), 1);
  EXPECT_EQ(futex(w, FUTEX_WAKE, -1, NULL, NULL, 0), 1);
  EXPECT_EQ(futex(w, FUTEX_WAKE, 0, NULL, NULL, 0), 0);
  EXPECT_EXIT(pid, 0);
  EXPECT_EXIT(second, 0);
}
TEST(bitset_selects) {
  int *w = shared_words();
  pid_t a = OK(fork());
  if (!a) _exit(futex(w, FUTEX_WAIT_BITSET, 0, NULL, NULL, 1) != 0);
  pid_t b = OK(fork());
  if (!b) _exit(futex(w, FUTEX_WAIT_BITSET, 0, NULL, NULL, 2) != 0);
  kit_wait_asleep(a);
  kit_wait_asleep(b);
  EXPECT_EQ(futex(w, FUTEX_WAKE_BITSET, 10, NULL, NULL, 4), 0);
  EXPECT_EQ(futex(w, FUTEX_WAKE_BITSET, 10, NULL, NULL, 2), 1);
  EXPECT_EXIT(b, 0);
  EXPECT_EQ(futex(w, FUTEX_WAKE_BITSET, 10, NULL, NULL, -1), 1);
  EXPECT_EXIT(a, 0);
}
TEST(requeue_moves_waiters) {
  int *w = shared_words();
  pid_t pids[4];
  for (int i = 0; i < 4; i++)
    if ((pids[i] = OK(fork())) == 0) _exit(futex(&w[0], FUTEX_WAIT, 0, NULL, NULL, 0) != 0);
  for (int i = 0; i < 4; i++) kit_wait_asleep(pids[i]);
  EXPECT_ERR(futex(&w[0], FUTEX_CMP_REQUEUE, 1, (void *)10, &w[1], 7), EAGAIN);
  EXPECT_EQ(futex(&w[0], FUTEX_CMP_REQUEUE, 1, (void *)10, &w[1], 0), 4);
  EXPECT_EQ(futex(&w[0], FUTEX_WAKE, 10, NULL, NULL, 0), 0);
  EXPECT_EQ(futex(&w[1], FUTEX_WAKE, 10, NULL, NULL, 0), 3);
  for (int i = 0; i < 4; i++) EXPECT_EXIT(pids[i], 0);
}
TEST(wake_op_changes_and_wakes) {
  int *w = shared_words();
  w[1] = 5;
  pid_t pid = OK(fork());
  if (!pid) _exit(futex(&w[1], FUTEX_WAIT, 5, NULL, NULL, 0) != 0);
  kit_wait_asleep(pid);
  EXPECT_EQ(futex(&w[0], FUTEX_WAKE_OP, 1, (void *)1, &w[1], FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 5)), 1);
  EXPECT_EQ(w[1], 8);
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(futex(&w[0], FUTEX_WAKE_OP, 1, (void *)1, &w[1], FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 5)), 0);
  EXPECT_EQ(w[1], 1);
}
TEST(interrupted_by_a_signal) {
  int w = 0;
  kit_catch(SIGALRM, 0);
  ualarm(30000, 0);
  EXPECT_ERR(futex(&w, FUTEX_WAIT, 0, NULL, NULL, 0), EINTR);
  kit_catch(SIGALRM, SA_RESTART);
  int *s = shared_words();
  IN_CHILD(pid, { kit_sleep_ms(150); futex(s, FUTEX_WAKE, 1, NULL, NULL, 0); });
  ualarm(30000, 0);
  EXPECT_EQ(futex(s, FUTEX_WAIT, 0, NULL, NULL, 0), 0);
  EXPECT_EXIT(pid, 0);
}
// Two that take turns, so that both learn that an answer comes soon; then one that comes late, as a wake without a change.
static void *other_side(void *arg) {
  int *turn = arg;
  for (int i = 0; i < 300; i++) {
    while (__atomic_load_n(turn, __ATOMIC_SEQ_CST) != 2 * i + 1) futex(turn, FUTEX_WAIT_PRIVATE, 2 * i, NULL, NULL, 0);
    __atomic_store_n(turn, 2 * i + 2, __ATOMIC_SEQ_CST);
    futex(turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
  }
  turn[2] = gettid();
  const long woken = futex(turn + 1, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
  EXPECT_EQ(woken, 0);
  EXPECT_EQ(turn[1], 0);
  kit_catch(SIGUSR1, 0);
  turn[2] = -gettid();
  EXPECT_ERR(futex(turn + 1, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0), EINTR);
  return NULL;
}
TEST(taking_turns_and_then_waiting) {
  int turn[3] = {0};
  pthread_t other;
  EXPECT_EQ(pthread_create(&other, NULL, other_side, turn), 0);
  for (int i = 0; i < 300; i++) {
    __atomic_store_n(turn, 2 * i + 1, __ATOMIC_SEQ_CST);
    futex(turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    while (__atomic_load_n(turn, __ATOMIC_SEQ_CST) != 2 * i + 2) futex(turn, FUTEX_WAIT_PRIVATE, 2 * i + 1, NULL, NULL, 0);
  }
  int tid;
  while ((tid = __atomic_load_n(turn + 2, __ATOMIC_SEQ_CST)) == 0) kit_sleep_ms(1);
  kit_wait_asleep(tid);
  EXPECT_EQ(futex(turn + 1, FUTEX_WAKE_PRIVATE, 5, NULL, NULL, 0), 1);
  while ((tid = __atomic_load_n(turn + 2, __ATOMIC_SEQ_CST)) > 0) kit_sleep_ms(1);
  kit_wait_asleep(-tid);
  EXPECT_EQ(syscall(SYS_tgkill, getpid(), -tid, SIGUSR1), 0);
  EXPECT_EQ(pthread_join(other, NULL), 0);
}
TEST(pi_lock_and_unlock) {
  int *w = shared_words();
  pid_t tid = syscall(SYS_gettid);
  EXPECT_EQ(futex(w, FUTEX_LOCK_PI, 0, NULL, NULL, 0), 0);
  EXPECT_EQ(*w & FUTEX_TID_MASK, tid);
  EXPECT_ERR(futex(w, FUTEX_LOCK_PI, 0, NULL, NULL, 0), EDEADLK);
  IN_CHILD(pid, {
    EXPECT_ERR(futex(w, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0), EAGAIN);
    EXPECT_ERR(futex(w, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0), EPERM);
    EXPECT_EQ(futex(w, FUTEX_LOCK_PI, 0, NULL, NULL, 0), 0);
    EXPECT_EQ(*w & FUTEX_TID_MASK, getpid());
    EXPECT_EQ(futex(w, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0), 0);
  });
  kit_wait_asleep(pid);
  EXPECT_TRUE(*w & FUTEX_WAITERS);
  EXPECT_EQ(futex(w, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0), 0);
  EXPECT_EXIT(pid, 0);
  *w = 999999;
  EXPECT_ERR(futex(w, FUTEX_LOCK_PI, 0, NULL, NULL, 0), ESRCH);
}
TEST(robust_list_marks_the_dead) {
  struct robust_node { struct robust_list list; int word; } *node = (void *)shared_words();
  IN_CHILD(pid, {
    static struct robust_list_head head;
    head.list.next = &node->list;
    node->list.next = &head.list;
    head.futex_offset = offsetof(struct robust_node, word);
    node->word = (int)syscall(SYS_gettid) | (int)FUTEX_WAITERS;
    OK(syscall(SYS_set_robust_list, &head, sizeof head));
  });
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(node->word & FUTEX_OWNER_DIED, FUTEX_OWNER_DIED);
  EXPECT_EQ(node->word & FUTEX_TID_MASK, 0);
  EXPECT_ERR(syscall(SYS_set_robust_list, NULL, 5), EINVAL);
}
TEST(robust_mutex_between_processes) {
  pthread_mutex_t *m = (void *)shared_words();
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(m, &a);
  IN_CHILD(pid, pthread_mutex_lock(m));
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(pthread_mutex_lock(m), EOWNERDEAD);
  EXPECT_EQ(pthread_mutex_consistent(m), 0);
  EXPECT_EQ(pthread_mutex_unlock(m), 0);
}
TEST(waitv_of_several) {
  int *w = shared_words();
  struct futex_waitv v[2] = {{.val = 0, .uaddr = (uint64_t)&w[0], .flags = FUTEX_32}, {.val = 0, .uaddr = (uint64_t)&w[1], .flags = FUTEX_32}};
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_sec += 5;
  IN_CHILD(pid, { kit_sleep_ms(50); futex(&w[1], FUTEX_WAKE, 1, NULL, NULL, 0); });
  EXPECT_EQ(syscall(SYS_futex_waitv, v, 2, 0, &t, CLOCK_MONOTONIC), 1);
  EXPECT_EXIT(pid, 0);
  v[0].val = 1;
  EXPECT_ERR(syscall(SYS_futex_waitv, v, 2, 0, &t, CLOCK_MONOTONIC), EAGAIN);
  EXPECT_ERR(syscall(SYS_futex_waitv, v, 0, 0, &t, CLOCK_MONOTONIC), EINVAL);
  EXPECT_ERR(syscall(SYS_futex_waitv, v, 129, 0, &t, CLOCK_MONOTONIC), EINVAL);
}
TEST(waiter_is_killed) {
  int *w = shared_words();
  pid_t pid = OK(fork());
  if (!pid) _exit(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0) != 0);
  kit_wait_asleep(pid);
  OK(kill(pid, SIGKILL));
  EXPECT_KILLED(pid, SIGKILL);
  EXPECT_EQ(futex(w, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
}
