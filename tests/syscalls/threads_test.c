// SPDX-License-Identifier: Apache-2.0
// Threads: pthreads and raw clone, TLS, group exit, per-thread state, rseq, membarrier, arch_prctl.
#include "kit.h"

#include <asm/prctl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/prctl.h>
#include <sys/rseq.h>

static __thread int tls_value = 5;
static void *set_tls(void *argument) {
  tls_value = (int)(long)argument;
  sched_yield();
  return (void *)(long)(tls_value == (int)(long)argument);
}
TEST(thread_local_storage) {
  pthread_t t[16];
  void *r;
  for (long i = 0; i < 16; i++) ASSERT_EQ(pthread_create(&t[i], NULL, set_tls, (void *)(i + 100)), 0);
  for (int i = 0; i < 16; i++) {
    pthread_join(t[i], &r);
    EXPECT_TRUE(r);
  }
  EXPECT_EQ(tls_value, 5);
}
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static long counter;
static void *count_up(void *argument) {
  for (int i = 0; i < 20000; i++) {
    pthread_mutex_lock(&mutex);
    counter++;
    pthread_mutex_unlock(&mutex);
  }
  return argument;
}
TEST(mutexes_exclude) {
  pthread_t t[4];
  for (int i = 0; i < 4; i++) ASSERT_EQ(pthread_create(&t[i], NULL, count_up, NULL), 0);
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  EXPECT_EQ(counter, 80000);
}
static int turn;
static void *play(void *argument) {
  int me = (int)(long)argument;
  for (int i = 0; i < 500; i++) {
    pthread_mutex_lock(&mutex);
    while (turn != me) pthread_cond_wait(&condition, &mutex);
    turn = !me;
    pthread_cond_broadcast(&condition);
    pthread_mutex_unlock(&mutex);
  }
  return NULL;
}
TEST(condition_variables) {
  pthread_t a, b;
  pthread_create(&a, NULL, play, (void *)0);
  pthread_create(&b, NULL, play, (void *)1);
  pthread_join(a, NULL);
  pthread_join(b, NULL);
  EXPECT_EQ(turn, 0);
}
static void *identity(void *argument) {
  long *ids = argument;
  ids[0] = getpid(), ids[1] = syscall(SYS_gettid), ids[2] = getppid();
  return NULL;
}
TEST(thread_ids) {
  long ids[3];
  pthread_t t;
  pthread_create(&t, NULL, identity, ids);
  pthread_join(t, NULL);
  EXPECT_EQ(ids[0], getpid());
  EXPECT_NE(ids[1], getpid());
  EXPECT_EQ(ids[2], getppid());
}
TEST(hundreds_created_and_joined) {
  for (int i = 0; i < 300; i++) {
    pthread_t t;
    ASSERT_EQ(pthread_create(&t, NULL, set_tls, (void *)1), 0);
    pthread_join(t, NULL);
  }
}
static void *sleeper(void *argument) {
  for (;;) pause();
  return argument;
}
TEST(many_at_once) {
  IN_CHILD(pid, {
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 32768);
    for (int i = 0; i < 200; i++) {
      pthread_t t;
      ASSERT_EQ(pthread_create(&t, &a, sleeper, NULL), 0);
    }
    char *status = kit_read_file("/proc/self/status");
    EXPECT_TRUE(strstr(status, "Threads:\t201"));
  });
  EXPECT_EXIT(pid, 0);
}
static void *exit_group_7(void *argument) {
  kit_sleep_ms(20);
  _exit(7);
  return argument;
}
TEST(exit_group_from_a_thread) {
  IN_CHILD(pid, {
    pthread_t t;
    pthread_create(&t, NULL, exit_group_7, NULL);
    for (;;) pause();
  });
  EXPECT_EXIT(pid, 7);
}
static void *outlive(void *argument) {
  kit_sleep_ms(50);
  _exit(4);
  return argument;
}
TEST(leader_exits_first) {
  IN_CHILD(pid, {
    pthread_t t;
    pthread_create(&t, NULL, outlive, NULL);
    syscall(SYS_exit, 9);
  });
  EXPECT_EXIT(pid, 4);
}
TEST(fatal_signal_ends_all_threads) {
  IN_CHILD(pid, {
    pthread_t t;
    for (int i = 0; i < 5; i++) pthread_create(&t, NULL, sleeper, NULL);
    kit_sleep_ms(10);
    raise(SIGTERM);
  });
  EXPECT_KILLED(pid, SIGTERM);
}
static void *fork_in_thread(void *argument) {
  pid_t pid = fork();
  if (pid == 0) _exit(getpid() == syscall(SYS_gettid) ? 3 : 4);
  return (void *)(long)kit_wait(pid);
}
TEST(fork_in_a_thread_has_one_thread) {
  pthread_t t;
  void *r;
  pthread_create(&t, NULL, fork_in_thread, NULL);
  pthread_join(t, &r);
  EXPECT_EQ((long)r, 3 << 8);
}
static void *own_name(void *argument) {
  prctl(PR_SET_NAME, "worker");
  char path[64];
  sprintf(path, "/proc/self/task/%ld/comm", syscall(SYS_gettid));
  char *text = kit_read_file(path);
  return (void *)(long)!strcmp(text, "worker\n");
}
TEST(names_are_per_thread) {
  prctl(PR_SET_NAME, "leader");
  pthread_t t;
  void *r;
  pthread_create(&t, NULL, own_name, NULL);
  pthread_join(t, &r);
  EXPECT_TRUE(r);
  char b[17] = "";
  prctl(PR_GET_NAME, b);
  EXPECT_STR(b, "leader");
  prctl(PR_SET_NAME, "a name that is too long");
  prctl(PR_GET_NAME, b);
  EXPECT_STR(b, "a name that is ");
}
TEST(clear_child_tid_wakes) {
  static volatile int tid = 1;
  IN_CHILD(pid, {
    EXPECT_EQ(syscall(SYS_set_tid_address, &tid), getpid());
  });
  EXPECT_EXIT(pid, 0);
  sem_t s;
  sem_init(&s, 0, 1);
  EXPECT_EQ(sem_wait(&s), 0);
}
// Asked often enough that whoever optimises it has done so: the last word counts.
TEST(thread_words_that_are_set_again_and_again) {
  volatile int *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 8; i++) words[i] = 1;
  IN_CHILD(pid, {
    for (int i = 0; i < 8; i++) EXPECT_EQ(syscall(SYS_set_tid_address, &words[i]), getpid());
    char head[8][24];
    void *got = NULL;
    size_t size = 0;
    for (int i = 0; i < 8; i++) {
      memset(head[i], 0, sizeof head[i]);
      OK(syscall(SYS_set_robust_list, head[i], sizeof head[i]));
      EXPECT_ERR(syscall(SYS_set_robust_list, head[i], 23), EINVAL);
      OK(syscall(SYS_get_robust_list, 0, &got, &size));
      EXPECT_EQ(got == head[i], 1);
      EXPECT_EQ(size, 24);
    }
    OK(syscall(SYS_set_robust_list, NULL, 24));
  });
  EXPECT_EXIT(pid, 0);
  // With no other user of the memory nobody clears the word.
  for (int i = 0; i < 8; i++) EXPECT_EQ(words[i], 1);
}
static volatile int left_word = 1;
static void *leaves_its_word(void *unused) {
  (void)unused;
  for (int i = 0; i < 4; i++) syscall(SYS_set_tid_address, i < 3 ? NULL : (int *)&left_word);
  syscall(SYS_exit, 0);
  return NULL;
}
TEST(a_thread_clears_the_word_that_it_set_last) {
  pthread_t thread;
  EXPECT_EQ(pthread_create(&thread, NULL, leaves_its_word, NULL), 0);
  for (int i = 0; i < 2000 && left_word != 0; i++) kit_sleep_ms(1);
  EXPECT_EQ(left_word, 0);
}
static char raw_stack[65536] __attribute__((aligned(16)));
static volatile int raw_done;
static int raw_thread(void *argument) {
  raw_done = (int)(long)argument;
  return 0;
}
TEST(raw_clone_thread) {
  static volatile int tid;
  int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID |
              CLONE_CHILD_SETTID | CLONE_PARENT_SETTID;
  int parent_tid = 0;
  tid = -1;
  OK(clone(raw_thread, raw_stack + sizeof raw_stack, flags, (void *)8, &parent_tid, NULL, &tid));
  for (int i = 0; i < 1000 && tid; i++) kit_sleep_ms(1);
  EXPECT_EQ(tid, 0);
  EXPECT_EQ(raw_done, 8);
  EXPECT_GT(parent_tid, 0);
  EXPECT_ERR(waitpid(parent_tid, NULL, __WALL), ECHILD);
}
TEST(arch_prctl_bases) {
  unsigned long fs = 0, gs = 0;
  OK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
  EXPECT_NE(fs, 0);
  OK(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x123000));
  OK(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
  EXPECT_EQ(gs, 0x123000);
  EXPECT_ERR(syscall(SYS_arch_prctl, ARCH_SET_FS, 0xffff800000000000UL), EPERM);
  EXPECT_ERR(syscall(SYS_arch_prctl, 0x9999, 0), EINVAL);
}
TEST(fs_base_set_again_and_again) {
  unsigned long own = 0, fs = 0;
  OK(syscall(SYS_arch_prctl, ARCH_GET_FS, &own));
  for (int i = 0; i < 20; i++) {
    long raw, again;
    // Nothing of the C library while the base is another one.
    register long number __asm__("rax") = SYS_arch_prctl;
    __asm__ volatile("syscall" : "+r"(number) : "D"(ARCH_SET_FS), "S"(&raw) : "rcx", "r11", "memory");
    again = number;
    unsigned long now;
    number = SYS_arch_prctl;
    __asm__ volatile("syscall" : "+r"(number) : "D"(ARCH_GET_FS), "S"(&now) : "rcx", "r11", "memory");
    number = SYS_arch_prctl;
    __asm__ volatile("syscall" : "+r"(number) : "D"(ARCH_SET_FS), "S"(own) : "rcx", "r11", "memory");
    EXPECT_EQ(again, 0);
    EXPECT_EQ(now, (unsigned long)&raw);
    EXPECT_ERR(syscall(SYS_arch_prctl, ARCH_SET_FS, 0xffff800000000000UL), EPERM);
  }
  OK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
  EXPECT_EQ(fs, own);
}
TEST(membarrier_commands) {
  long q = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  if (q < 0 && errno == ENOSYS) SKIP("no membarrier");
  EXPECT_TRUE(q & MEMBARRIER_CMD_PRIVATE_EXPEDITED);
  EXPECT_EQ(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0), 0);
  EXPECT_EQ(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), 0);
  EXPECT_ERR(syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 9, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_membarrier, 1 << 30, 0, 0), EINVAL);
}
TEST(rseq_registration) {
  static struct rseq area __attribute__((aligned(32)));
  long r = syscall(SYS_rseq, &area, sizeof area, 0, 0x53053053);
  if (r < 0 && errno == ENOSYS) SKIP("no rseq, which glibc lives without");
  EXPECT_TRUE(r == 0 || errno == EBUSY || errno == EINVAL);  // glibc has registered its own
  EXPECT_ERR(syscall(SYS_rseq, &area, 3, 0, 0), EINVAL);
}
TEST(scheduler_calls) {
  cpu_set_t set;
  EXPECT_GT(syscall(SYS_sched_getaffinity, 0, sizeof set, &set), 0);
  CPU_ZERO(&set);
  OK(sched_getaffinity(0, sizeof set, &set));
  EXPECT_GE(CPU_COUNT(&set), 1);
  EXPECT_ERR(syscall(SYS_sched_getaffinity, 0, 1, &set), EINVAL);
  EXPECT_EQ(sched_setaffinity(0, sizeof set, &set), 0);
  CPU_ZERO(&set);
  EXPECT_ERR(sched_setaffinity(0, sizeof set, &set), EINVAL);
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
  struct sched_param p = {0};
  OK(sched_getparam(0, &p));
  EXPECT_EQ(p.sched_priority, 0);
  EXPECT_EQ(sched_get_priority_max(SCHED_FIFO), 99);
  EXPECT_EQ(sched_get_priority_min(SCHED_OTHER), 0);
  EXPECT_ERR(sched_get_priority_max(77), EINVAL);
  EXPECT_ERR(sched_getscheduler(999999), ESRCH);
  EXPECT_EQ(sched_yield(), 0);
  unsigned cpu, node;
  EXPECT_EQ(getcpu(&cpu, &node), 0);
  EXPECT_EFAULT(kBadWrite, 8, q, syscall(SYS_sched_getaffinity, 0, 128, q));
}
static volatile bool stop;
static void *call_loop(void *argument) {
  while (!stop) {
    if (syscall(SYS_gettid) <= 0) _exit(1);
    if (syscall(SYS_lseek, -1, 0, 0) != -1) _exit(1);
  }
  return argument;
}
TEST(mapping_while_others_run) {
  pthread_t t[3];
  for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, call_loop, NULL);
  for (int i = 0; i < 300; i++) {
    char *m = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_TRUE(m != MAP_FAILED);
    for (int k = 0; k < 65536; k += 4096) m[k] = 1;
    OK(mprotect(m, 4096, PROT_READ));
    OK(munmap(m, 65536));
  }
  stop = true;
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
}
