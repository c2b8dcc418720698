// SPDX-License-Identifier: Apache-2.0
// Handlers, masks, SA_ flags, queues, alternate stacks, sigwaitinfo, restart, stop and continue, default actions.
#include "kit.h"

#include <pthread.h>
#include <setjmp.h>
#include <sys/resource.h>
#include <ucontext.h>

static volatile siginfo_t info;
static void on_info(int signo, siginfo_t *i, void *context) {
  (void)context;
  kit_signals[signo]++;
  *(siginfo_t *)&info = *i;
}
static void catch_info(int signo, int flags) {
  struct sigaction a = {.sa_flags = flags | SA_SIGINFO};
  a.sa_sigaction = on_info;
  OK(sigaction(signo, &a, NULL));
}
static sigset_t set_of(int a, int b) {
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, a);
  if (b) sigaddset(&s, b);
  return s;
}

TEST(kill_self_runs_the_handler) {
  catch_info(SIGUSR1, 0);
  OK(kill(getpid(), SIGUSR1));
  EXPECT_EQ(kit_signals[SIGUSR1], 1);
  EXPECT_EQ(info.si_code, SI_USER);
  EXPECT_EQ(info.si_pid, getpid());
  EXPECT_EQ(info.si_uid, getuid());
}
TEST(tgkill_and_tkill) {
  catch_info(SIGUSR1, 0);
  OK(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1));
  EXPECT_EQ(info.si_code, SI_TKILL);
  OK(syscall(SYS_tkill, syscall(SYS_gettid), SIGUSR1));
  EXPECT_EQ(kit_signals[SIGUSR1], 2);
  EXPECT_ERR(syscall(SYS_tgkill, getpid(), 999999, SIGUSR1), ESRCH);
  EXPECT_ERR(syscall(SYS_tgkill, -1, 1, SIGUSR1), EINVAL);
  EXPECT_ERR(syscall(SYS_tkill, 0, SIGUSR1), EINVAL);
}
TEST(kill_errors) {
  EXPECT_ERR(kill(getpid(), 65), EINVAL);
  EXPECT_ERR(kill(getpid(), -1), EINVAL);
  EXPECT_ERR(kill(999999, 0), ESRCH);
  EXPECT_ERR(kill(-999999, 0), ESRCH);
  EXPECT_EQ(kill(getpid(), 0), 0);
}
TEST(kill_permission) {
  NEEDS_ROOT();
  IN_CHILD(target, for (;;) pause());
  IN_CHILD(pid, {
    OK(setuid(1234));
    EXPECT_ERR(kill(target, SIGTERM), EPERM);
    EXPECT_ERR(kill(target, 0), EPERM);
  });
  EXPECT_EXIT(pid, 0);
  OK(kill(target, SIGKILL));
  EXPECT_KILLED(target, SIGKILL);
}
TEST(sigaction_errors) {
  struct sigaction a = {0};
  EXPECT_ERR(sigaction(SIGKILL, &a, NULL), EINVAL);
  EXPECT_ERR(sigaction(SIGSTOP, &a, NULL), EINVAL);
  EXPECT_ERR(syscall(SYS_rt_sigaction, 65, NULL, NULL, 8), EINVAL);
  EXPECT_ERR(syscall(SYS_rt_sigaction, 0, NULL, NULL, 8), EINVAL);
  EXPECT_ERR(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4), EINVAL);
  EXPECT_EQ(syscall(SYS_rt_sigaction, SIGKILL, NULL, NULL, 8), 0);
  EXPECT_EFAULT(kBadRead, 32, p, p ? syscall(SYS_rt_sigaction, SIGUSR1, p, NULL, 8) : (errno = EFAULT, -1));
  EXPECT_EFAULT(kBadWrite, 32, p, p ? syscall(SYS_rt_sigaction, SIGUSR1, NULL, p, 8) : (errno = EFAULT, -1));
}
TEST(mask_blocks_and_pends) {
  kit_catch(SIGUSR1, 0);
  sigset_t s = set_of(SIGUSR1, SIGUSR2), old, pending;
  OK(sigprocmask(SIG_BLOCK, &s, &old));
  raise(SIGUSR1);
  raise(SIGUSR1);
  EXPECT_EQ(kit_signals[SIGUSR1], 0);
  OK(sigpending(&pending));
  EXPECT_EQ(sigismember(&pending, SIGUSR1), 1);
  EXPECT_EQ(sigismember(&pending, SIGUSR2), 0);
  OK(sigprocmask(SIG_SETMASK, &old, NULL));
  EXPECT_EQ(kit_signals[SIGUSR1], 1);  // ordinary signals do not queue
}
TEST(mask_may_overlap_its_old_value) {
  sigset_t both = set_of(SIGUSR1, 0), now;
  OK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &both, &both, 8));
  EXPECT_EQ(sigismember(&both, SIGUSR1), 0);
  sigfillset(&both);
  OK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &both, NULL, 8));
  OK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &now, 8));
  EXPECT_EQ(sigismember(&now, SIGKILL), 0);
  EXPECT_EQ(sigismember(&now, SIGSTOP), 0);
  EXPECT_EQ(sigismember(&now, SIGUSR1), 1);
}
TEST(mask_is_in_proc_and_passed_on) {
  sigset_t s = set_of(SIGUSR1, SIGUSR2);
  char line[4096];
  // Often enough that a call site that was rewritten is used.
  for (int i = 0; i < 100; i++) {
    OK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &s, NULL, 8));
    OK(syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &s, NULL, 8));
  }
  OK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &s, NULL, 8));
  pid_t child = fork();
  if (child == 0) {
    sigset_t now;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &now, 8);
    _exit(sigismember(&now, SIGUSR1) && sigismember(&now, SIGUSR2) && !sigismember(&now, SIGTERM) ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  FILE *f = fopen("/proc/self/status", "r");
  unsigned long blocked = 0;
  while (fgets(line, sizeof line, f)) sscanf(line, "SigBlk: %lx", &blocked);
  fclose(f);
  EXPECT_EQ(blocked, 1ul << (SIGUSR1 - 1) | 1ul << (SIGUSR2 - 1));
}
static volatile int toggling = 1, handled_blocked;
static volatile unsigned handled_count, may_run;
static void count_while_open(int s) {
  (void)s;
  handled_count++;
  if (!may_run) handled_blocked = 1;
}
static void *toggle_mask(void *tid) {
  sigset_t s = set_of(SIGUSR1, 0);
  *(volatile pid_t *)tid = (pid_t)syscall(SYS_gettid);
  while (toggling) {
    may_run = 1;
    pthread_sigmask(SIG_UNBLOCK, &s, NULL);
    pthread_sigmask(SIG_BLOCK, &s, NULL);
    may_run = 0;
    for (volatile int i = 0; i < 50; i++) {}
  }
  may_run = 1;
  pthread_sigmask(SIG_UNBLOCK, &s, NULL);
  return NULL;
}
// One thread blocks and unblocks a signal all the time while another sends it: it never runs while blocked, and none is lost.
TEST(mask_changes_race_with_signals) {
  enum { kSignals = 3000 };
  signal(SIGUSR1, count_while_open);
  sigset_t s = set_of(SIGUSR1, 0);
  pthread_sigmask(SIG_BLOCK, &s, NULL);
  volatile pid_t tid = 0;
  pthread_t t;
  ASSERT_EQ(pthread_create(&t, NULL, toggle_mask, (void *)&tid), 0);
  while (!tid) sched_yield();
  for (int i = 0; i < kSignals; i++) {
    const unsigned before = handled_count;
    if (i % 2) OK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1));
    else OK(kill(getpid(), SIGUSR1));
    while (handled_count == before) sched_yield();
  }
  toggling = 0;
  pthread_join(t, NULL);
  EXPECT_EQ(handled_count, kSignals);
  EXPECT_EQ(handled_blocked, 0);
}
TEST(mask_errors) {
  sigset_t s;
  sigfillset(&s);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  OK(sigprocmask(SIG_BLOCK, NULL, &s));
  EXPECT_EQ(sigismember(&s, SIGKILL), 0);
  EXPECT_EQ(sigismember(&s, SIGSTOP), 0);
  EXPECT_ERR(syscall(SYS_rt_sigprocmask, 77, &s, NULL, 8), EINVAL);
  EXPECT_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &s, NULL, 4), EINVAL);
  EXPECT_EFAULT(kBadRead, 8, p, p ? syscall(SYS_rt_sigprocmask, SIG_BLOCK, p, NULL, 8) : (errno = EFAULT, -1));
  EXPECT_EFAULT(kBadWrite, 8, p, p ? syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, p, 8) : (errno = EFAULT, -1));
  EXPECT_EFAULT(kBadWrite, 8, p, syscall(SYS_rt_sigpending, p, 8));
}
TEST(realtime_signals_queue_in_order) {
  static int order[8], count;
  void record(int signo, siginfo_t *i, void *c) { order[count++] = signo * 100 + i->si_value.sival_int; (void)c; }
  sigset_t s = set_of(SIGRTMIN + 1, SIGRTMIN + 2);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  struct sigaction a = {.sa_flags = SA_SIGINFO};
  a.sa_sigaction = record;
  sigfillset(&a.sa_mask);
  sigaction(SIGRTMIN + 1, &a, NULL);
  sigaction(SIGRTMIN + 2, &a, NULL);
  for (int i = 0; i < 2; i++) {
    OK(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = i}));
    OK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i}));
  }
  OK(sigprocmask(SIG_UNBLOCK, &s, NULL));
  EXPECT_EQ(count, 4);
  EXPECT_EQ(order[0], (SIGRTMIN + 1) * 100);
  EXPECT_EQ(order[1], (SIGRTMIN + 1) * 100 + 1);
  EXPECT_EQ(order[3], (SIGRTMIN + 2) * 100 + 1);
}
TEST(sigqueue_limit) {
  struct rlimit l = {5, 5};
  OK(setrlimit(RLIMIT_SIGPENDING, &l));
  sigset_t s = set_of(SIGRTMIN, 0);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  int n = 0;
  while (n < 100 && sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 0}) == 0) n++;
  EXPECT_LE(n, 5);
  EXPECT_ERR(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 0}), EAGAIN);
}
TEST(handler_mask_and_nodefer) {
  static volatile int depth, deepest;
  void nest(int signo) {
    if (++depth > deepest) deepest = depth;
    if (depth < 3) raise(signo);
    depth--;
  }
  struct sigaction a = {.sa_flags = SA_NODEFER};
  a.sa_handler = nest;
  sigaction(SIGUSR1, &a, NULL);
  raise(SIGUSR1);
  EXPECT_EQ(deepest, 3);
}
TEST(handler_blocks_itself) {
  static volatile int inside, overlapped, calls;
  void once(int signo) {
    if (inside) overlapped = 1;
    inside = 1;
    if (calls++ == 0) raise(signo);
    inside = 0;
  }
  signal(SIGUSR1, once);
  raise(SIGUSR1);
  EXPECT_EQ(overlapped, 0);
  EXPECT_EQ(calls, 2);
}
TEST(resethand) {
  kit_catch(SIGUSR1, SA_RESETHAND);
  raise(SIGUSR1);
  struct sigaction a;
  sigaction(SIGUSR1, NULL, &a);
  EXPECT_TRUE(a.sa_handler == SIG_DFL);
  IN_CHILD(pid, raise(SIGUSR1));
  EXPECT_KILLED(pid, SIGUSR1);
}
TEST(alternate_stack) {
  static char area[65536];
  static volatile bool inside;
  void check(int signo) {
    char here;
    inside = &here >= area && &here < area + sizeof area;
    stack_t s;
    sigaltstack(NULL, &s);
    if (!(s.ss_flags & SS_ONSTACK)) inside = false;
    s = (stack_t){.ss_sp = area, .ss_size = sizeof area};
    if (sigaltstack(&s, NULL) == 0 || errno != EPERM) inside = false;
    (void)signo;
  }
  stack_t s = {.ss_sp = area, .ss_size = sizeof area};
  OK(sigaltstack(&s, NULL));
  struct sigaction a = {.sa_flags = SA_ONSTACK};
  a.sa_handler = check;
  sigaction(SIGUSR1, &a, NULL);
  raise(SIGUSR1);
  EXPECT_TRUE(inside);
  s.ss_size = 100;
  EXPECT_ERR(sigaltstack(&s, NULL), ENOMEM);
  s.ss_flags = 77;
  EXPECT_ERR(sigaltstack(&s, NULL), EINVAL);
  EXPECT_EFAULT(kBadRead, sizeof s, p, p ? syscall(SYS_sigaltstack, p, NULL) : (errno = EFAULT, -1));
}
TEST(stack_overflow_on_the_alternate_stack) {
  IN_CHILD(pid, {
    static char area[65536];
    stack_t s = {.ss_sp = area, .ss_size = sizeof area};
    sigaltstack(&s, NULL);
    void leave(int signo) { _exit(signo == SIGSEGV ? 5 : 6); }
    struct sigaction a = {.sa_flags = SA_ONSTACK};
    a.sa_handler = leave;
    sigaction(SIGSEGV, &a, NULL);
    struct rlimit l = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_STACK, &l);
    volatile char *p = (volatile char *)&l;
    for (;; p -= 4096) *p = 1;
  });
  EXPECT_EXIT(pid, 5);
}
TEST(overflow_without_a_stack_kills) {
  IN_CHILD(pid, {
    kit_catch(SIGSEGV, 0);
    __asm__ volatile("xor %%esp, %%esp\n\tpush %%rax" ::: "memory");
  });
  EXPECT_KILLED(pid, SIGSEGV);
}
TEST(context_can_be_changed) {
  static volatile greg_t seen;
  void skip(int signo, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    seen = u->uc_mcontext.gregs[REG_RBX];
    u->uc_mcontext.gregs[REG_RAX] = 99;
    u->uc_mcontext.gregs[REG_RIP] += 2;  // over ud2
    (void)signo;
    (void)i;
  }
  struct sigaction a = {.sa_flags = SA_SIGINFO};
  a.sa_sigaction = skip;
  sigaction(SIGILL, &a, NULL);
  long result = 0;
  __asm__ volatile("mov $0x1234, %%rbx\n\tud2\n\t" : "=a"(result) : "a"(1L) : "rbx", "memory");
  EXPECT_EQ(result, 99);
  EXPECT_EQ(seen, 0x1234);
}
// Many times, as later returns may go another way than the first one.
static volatile int frame_step;
static char frame_stack[3][65536];
static void change_frame(int signo, siginfo_t *i, void *c) {
  (void)signo, (void)i;
  ucontext_t *u = c;
  const uint32_t other = 0x1f80 ^ 0x8040;  // flush to zero, denormals are zero
  __asm__ volatile("ldmxcsr %0\n\tpcmpeqd %%xmm7, %%xmm7\n\tfld1\n\tfld1" : : "m"(other) : "xmm7");
  switch (frame_step % 8) {
    case 1: u->uc_mcontext.fpregs->mxcsr ^= 0x6000; break;  // rounding
    case 2: sigaddset(&u->uc_sigmask, SIGUSR2); break;
    case 3: u->uc_mcontext.gregs[REG_R12] = 77; break;
    case 4: {
      const stack_t next = {.ss_sp = frame_stack[frame_step / 8 % 3], .ss_size = sizeof frame_stack[0]};
      u->uc_stack = next;
      break;
    }
    case 5: {
      const stack_t none = {.ss_flags = SS_DISABLE};
      sigaltstack(&none, NULL);  // the frame brings the old one back
      break;
    }
    case 6: u->uc_mcontext.gregs[REG_EFL] ^= 1; break;
    default: break;
  }
}
TEST(frames_are_obeyed_each_time) {
  struct sigaction a = {.sa_flags = SA_SIGINFO};
  a.sa_sigaction = change_frame;
  OK(sigaction(SIGUSR1, &a, NULL));
  const stack_t first = {.ss_sp = frame_stack[0], .ss_size = sizeof frame_stack[0]};
  OK(sigaltstack(&first, NULL));
  void *wanted_stack = frame_stack[0];
  const long pid = getpid();
  for (frame_step = 0; frame_step < 240; ++frame_step) {
    uint32_t mxcsr = 0x1f80, after = 0;
    unsigned long r12 = 5, xmm = 0, carry = 0;
    __asm__ volatile(
        "ldmxcsr %[mxcsr]\n\tmovq %[r12], %%xmm7\n\tmovq %[r12], %%r12\n\tmovl $62, %%eax\n\tmovq %[pid], %%rdi\n\tmovl $10, %%esi\n\tclc\n\tsyscall\n\t"
        "setc %b[carry]\n\tstmxcsr %[after]\n\tmovq %%xmm7, %[xmm]\n\tmovq %%r12, %[r12]"
        : [r12] "+r"(r12), [xmm] "=&r"(xmm), [carry] "+r"(carry), [after] "=m"(after)
        : [mxcsr] "m"(mxcsr), [pid] "r"(pid)
        : "rax", "rcx", "r11", "rdi", "rsi", "r12", "xmm7", "memory", "cc");
    const int step = frame_step % 8;
    EXPECT_EQ(after, step == 1 ? 0x1f80 ^ 0x6000 : 0x1f80);
    EXPECT_EQ(xmm, 5);
    EXPECT_EQ(r12, step == 3 ? 77 : 5);
    EXPECT_EQ(carry, step == 6);
    sigset_t mask, none;
    sigemptyset(&none);
    OK(sigprocmask(SIG_SETMASK, &none, &mask));
    EXPECT_EQ(sigismember(&mask, SIGUSR2), step == 2);
    EXPECT_EQ(sigismember(&mask, SIGUSR1), 0);
    stack_t now;
    OK(sigaltstack(NULL, &now));
    if (step == 4) wanted_stack = frame_stack[frame_step / 8 % 3];
    EXPECT_TRUE(now.ss_sp == wanted_stack && now.ss_flags == 0);
    uint32_t normal = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(normal));
    if (kit_failed()) break;
  }
}
TEST(registers_survive_a_handler) {
  kit_catch(SIGUSR1, 0);
  unsigned long in = 0x1122334455667788UL, out = 0;
  double x = 3.25;
  long pid = getpid();
  __asm__ volatile(
      "movq %[in], %%r12\n\tmovq %[in], %%r15\n\tmovq %[in], %%xmm7\n\tmovq %[in], %%xmm15\n\t"
      "movl $62, %%eax\n\tmovq %[pid], %%rdi\n\tmovl $10, %%esi\n\tsyscall\n\t"
      "movq %%xmm7, %[out]\n\tmovq %%xmm15, %%rcx\n\tandq %%rcx, %[out]\n\tandq %%r12, %[out]\n\tandq %%r15, %[out]"
      : [out] "=&r"(out) : [in] "r"(in), [pid] "r"(pid)
      : "rax", "rcx", "r11", "rdi", "rsi", "r12", "r15", "xmm7", "xmm15", "memory");
  EXPECT_EQ(out, in);
  EXPECT_EQ(kit_signals[SIGUSR1], 1);
  EXPECT_TRUE(x == 3.25);
}
TEST(red_zone_survives) {
  kit_catch(SIGUSR1, 0);
  long pid = getpid(), ok;
  __asm__ volatile(
      "movq $77, -8(%%rsp)\n\tmovq $78, -120(%%rsp)\n\t"
      "movl $62, %%eax\n\tmovq %[pid], %%rdi\n\tmovl $10, %%esi\n\tsyscall\n\t"
      "movq -8(%%rsp), %[ok]\n\taddq -120(%%rsp), %[ok]"
      : [ok] "=r"(ok) : [pid] "r"(pid) : "rax", "rcx", "r11", "rdi", "rsi", "memory");
  EXPECT_EQ(ok, 155);
}
TEST(sigsuspend_swaps_the_mask) {
  kit_catch(SIGUSR1, 0);
  sigset_t s = set_of(SIGUSR1, 0), none;
  sigemptyset(&none);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  raise(SIGUSR1);
  EXPECT_ERR(sigsuspend(&none), EINTR);
  EXPECT_EQ(kit_signals[SIGUSR1], 1);
  OK(sigprocmask(SIG_BLOCK, NULL, &s));
  EXPECT_EQ(sigismember(&s, SIGUSR1), 1);
  EXPECT_ERR(syscall(SYS_rt_sigsuspend, &none, 4), EINVAL);
}
TEST(sigwaitinfo_takes_a_signal) {
  sigset_t s = set_of(SIGUSR1, SIGRTMIN);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  OK(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 9}));
  siginfo_t i;
  EXPECT_EQ(sigwaitinfo(&s, &i), SIGUSR1);
  EXPECT_EQ(i.si_value.sival_int, 9);
  struct timespec t = {0, 20000000};
  long long start = kit_now_ns();
  EXPECT_ERR(sigtimedwait(&s, &i, &t), EAGAIN);
  EXPECT_GE(kit_now_ns() - start, 20000000);
  t.tv_nsec = -1;
  EXPECT_ERR(sigtimedwait(&s, &i, &t), EINVAL);
  IN_CHILD(pid, { kit_sleep_ms(30); OK(kill(getppid(), SIGUSR1)); });
  EXPECT_EQ(sigwaitinfo(&s, &i), SIGUSR1);
  EXPECT_EQ(i.si_pid, pid);
  EXPECT_EXIT(pid, 0);
}
TEST(sigtimedwait_interrupted) {
  kit_catch(SIGALRM, 0);
  sigset_t s = set_of(SIGUSR1, 0);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  ualarm(30000, 0);
  EXPECT_ERR(sigwaitinfo(&s, NULL), EINTR);
}
TEST(pause_returns_eintr) {
  kit_catch(SIGALRM, SA_RESTART);
  ualarm(20000, 0);
  EXPECT_ERR(pause(), EINTR);
}
TEST(restart_of_wait) {
  kit_catch(SIGALRM, SA_RESTART);
  IN_CHILD(pid, kit_sleep_ms(150));
  ualarm(30000, 0);
  EXPECT_EQ(waitpid(pid, NULL, 0), pid);
  EXPECT_EQ(kit_signals[SIGALRM], 1);
  kit_catch(SIGALRM, 0);
  IN_CHILD(other, kit_sleep_ms(300));
  ualarm(30000, 0);
  EXPECT_ERR(waitpid(other, NULL, 0), EINTR);
  EXPECT_EXIT(other, 0);
}
TEST(default_actions) {
  static const int fatal[] = {SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV,
    SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSYS, 34, 64};
  static const int ignored[] = {SIGCHLD, SIGURG, SIGWINCH, SIGCONT};
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) {
    IN_CHILD(pid, { signal(fatal[i], SIG_DFL); kill(getpid(), fatal[i]); });
    EXPECT_KILLED(pid, fatal[i]);
  }
  for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) {
    IN_CHILD(pid, { signal(ignored[i], SIG_DFL); kill(getpid(), ignored[i]); _exit(3); });
    EXPECT_EXIT(pid, 3);
  }
}
TEST(stop_signals_stop) {
  static const int stops[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
  for (int i = 0; i < 4; i++) {
    IN_CHILD(pid, raise(stops[i]));
    int status;
    // The child's group has a member whose parent is in another group of this session, so it is not an orphan.
    EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
    if (WIFSTOPPED(status)) {
      EXPECT_EQ(WSTOPSIG(status), stops[i]);
      OK(kill(pid, SIGCONT));
      EXPECT_EXIT(pid, 0);
    } else {
      kit_fail(__FILE__, __LINE__, "signal %d: status 0x%x", stops[i], status);
    }
  }
}
TEST(kill_of_a_stopped_process) {
  IN_CHILD(pid, raise(SIGSTOP));
  int status;
  OK(waitpid(pid, &status, WUNTRACED));
  OK(kill(pid, SIGKILL));
  EXPECT_KILLED(pid, SIGKILL);
}
TEST(sigchld_information) {
  catch_info(SIGCHLD, 0);
  IN_CHILD(pid, _exit(3));
  while (!kit_signals[SIGCHLD]) kit_sleep_ms(1);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_pid, pid);
  EXPECT_EQ(info.si_status, 3);
  EXPECT_EXIT(pid, 3);
}
TEST(sigchld_for_stop_unless_nocldstop) {
  kit_catch(SIGCHLD, SA_NOCLDSTOP);
  IN_CHILD(pid, for (;;) pause());
  OK(kill(pid, SIGSTOP));
  OK(waitpid(pid, NULL, WUNTRACED));
  EXPECT_EQ(kit_signals[SIGCHLD], 0);
  catch_info(SIGCHLD, 0);
  OK(kill(pid, SIGCONT));
  kit_sleep_ms(50);
  EXPECT_EQ(info.si_code, CLD_CONTINUED);
  kill(pid, SIGKILL);
  EXPECT_KILLED(pid, SIGKILL);
}
TEST(arithmetic_and_illegal_instructions) {
  static sigjmp_buf j;
  static volatile siginfo_t got;
  void on(int s, siginfo_t *i, void *c) { *(siginfo_t *)&got = *i; (void)s; (void)c; siglongjmp(j, 1); }
  struct sigaction a = {.sa_flags = SA_SIGINFO};
  a.sa_sigaction = on;
  sigaction(SIGFPE, &a, NULL);
  sigaction(SIGILL, &a, NULL);
  sigaction(SIGTRAP, &a, NULL);
  if (!sigsetjmp(j, 1)) __asm__ volatile("xor %%ecx, %%ecx\n\tmov $1, %%eax\n\tcltd\n\tidiv %%ecx" ::: "eax", "ecx", "edx");
  EXPECT_EQ(got.si_signo, SIGFPE);
  EXPECT_EQ(got.si_code, FPE_INTDIV);
  if (!sigsetjmp(j, 1)) __asm__ volatile("ud2");
  EXPECT_EQ(got.si_signo, SIGILL);
  EXPECT_EQ(got.si_code, ILL_ILLOPN);
  if (!sigsetjmp(j, 1)) __asm__ volatile("int3");
  EXPECT_EQ(got.si_signo, SIGTRAP);
}
TEST(privileged_instruction) {
  IN_CHILD(pid, __asm__ volatile("hlt"));
  EXPECT_KILLED(pid, SIGSEGV);
}
TEST(ignored_signals_stay_away) {
  signal(SIGUSR1, SIG_IGN);
  sigset_t s = set_of(SIGUSR1, 0), p;
  raise(SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  raise(SIGUSR1);
  kit_catch(SIGUSR1, 0);
  sigpending(&p);
  OK(sigprocmask(SIG_UNBLOCK, &s, NULL));
  EXPECT_LE(kit_signals[SIGUSR1], 1);
}
TEST(rt_sigqueueinfo_rules) {
  siginfo_t i = {.si_signo = SIGUSR1, .si_code = SI_USER};
  IN_CHILD(pid, for (;;) pause());
  EXPECT_ERR(syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &i), EPERM);
  i.si_code = SI_QUEUE;
  EXPECT_EQ(syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &i), 0);
  EXPECT_KILLED(pid, SIGUSR1);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, p));
}
static volatile pthread_t handled_by;
static void note_thread(int s) { handled_by = pthread_self(); (void)s; }
static void *wait_for_signal(void *argument) {
  sigset_t s = set_of(SIGUSR1, 0);
  pthread_sigmask(SIG_UNBLOCK, &s, NULL);
  while (!handled_by) kit_sleep_ms(1);
  return argument;
}
TEST(process_signal_goes_to_a_thread_that_takes_it) {
  signal(SIGUSR1, note_thread);
  sigset_t s = set_of(SIGUSR1, 0);
  pthread_sigmask(SIG_BLOCK, &s, NULL);
  pthread_t t;
  ASSERT_EQ(pthread_create(&t, NULL, wait_for_signal, NULL), 0);
  OK(kill(getpid(), SIGUSR1));
  pthread_join(t, NULL);
  EXPECT_TRUE(handled_by == t);
}
TEST(storm_from_another_process) {
  kit_catch(SIGUSR1, SA_RESTART);
  pid_t me = getpid();
  IN_CHILD(pid, for (int i = 0; i < 2000; i++) kill(me, SIGUSR1));
  volatile double x = 1;
  int status;
  while (waitpid(pid, &status, WNOHANG) == 0) x = x * 1.0000001;
  EXPECT_EQ(status, 0);
  EXPECT_GT(kit_signals[SIGUSR1], 0);
  EXPECT_TRUE(x > 0.9);
}
TEST(busy_loop_is_interrupted) {
  kit_catch(SIGALRM, 0);
  ualarm(30000, 0);
  while (!kit_signals[SIGALRM]) {
  }
  IN_CHILD(pid, for (;;) {});
  kit_sleep_ms(20);
  OK(kill(pid, SIGKILL));
  EXPECT_KILLED(pid, SIGKILL);
}

// ---- many questions and changes of actions in a row: what is answered without the kernel's help must not differ ----

struct raw_action {
  unsigned long handler, flags, restorer, mask;
};
static long raw_sigaction(int signo, const struct raw_action *set, struct raw_action *old) {
  return syscall(SYS_rt_sigaction, signo, set, old, 8);
}
static bool is_action(int signo, unsigned long handler, unsigned long flags, unsigned long mask) {
  struct raw_action a = {1, 1, 1, 1};
  return raw_sigaction(signo, NULL, &a) == 0 && a.handler == handler && a.flags == flags && a.mask == mask;
}
// One site, so that it is no longer new when it matters.
static void ask_often(void) {
  struct raw_action a;
  for (int i = 0; i < 40; i++) OK(raw_sigaction(1 + i % 31, NULL, &a));
}
TEST(action_details_are_kept) {
  ask_often();
  struct raw_action set = {0, SA_RESTART | SA_NODEFER | 0x20, 0, ~0UL}, old;
  for (int n = 1; n <= 64; n++) {
    if (n == SIGKILL || n == SIGSTOP) {
      EXPECT_ERR(raw_sigaction(n, &set, NULL), EINVAL);
      EXPECT_TRUE(is_action(n, 0, 0, 0));
      continue;
    }
    OK(raw_sigaction(n, &set, &old));
    EXPECT_EQ(old.flags, 0UL);
    EXPECT_TRUE(is_action(n, 0, SA_RESTART | SA_NODEFER, ~0UL & ~(1UL << (SIGKILL - 1) | 1UL << (SIGSTOP - 1))));
  }
  EXPECT_ERR(raw_sigaction(0, NULL, &old), EINVAL);
  EXPECT_ERR(raw_sigaction(65, NULL, &old), EINVAL);
  EXPECT_ERR(syscall(SYS_rt_sigaction, SIGUSR1, NULL, &old, 4), EINVAL);
  EXPECT_ERR(raw_sigaction(SIGUSR1, (void *)8, NULL), EFAULT);
  EXPECT_ERR(raw_sigaction(SIGUSR1, NULL, (void *)8), EFAULT);
}
TEST(actions_after_fork_vfork_thread_and_exec) {
  ask_often();
  struct raw_action set = {0, SA_NODEFER, 0, 0x10};
  OK(raw_sigaction(SIGUSR1, &set, NULL));
  IN_CHILD(child, {
    EXPECT_TRUE(is_action(SIGUSR1, 0, SA_NODEFER, 0x10));
    ask_often();
    struct raw_action other = {0, SA_RESTART, 0, 0x20};
    OK(raw_sigaction(SIGUSR1, &other, NULL));
    EXPECT_TRUE(is_action(SIGUSR1, 0, SA_RESTART, 0x20));
  });
  EXPECT_EXIT(child, 0);
  EXPECT_TRUE(is_action(SIGUSR1, 0, SA_NODEFER, 0x10));
  // A vfork child's changes are its own.
  pid_t v = vfork();
  if (v == 0) {
    struct raw_action other = {0, SA_ONSTACK, 0, 0x40}, a;
    for (int i = 0; i < 20; i++) raw_sigaction(SIGUSR1, &other, NULL);
    raw_sigaction(SIGUSR1, NULL, &a);
    _exit(a.mask == 0x40 && a.flags == SA_ONSTACK ? 0 : 1);
  }
  EXPECT_EXIT(v, 0);
  EXPECT_TRUE(is_action(SIGUSR1, 0, SA_NODEFER, 0x10));
}
static void *change_usr2(void *unused) {
  (void)unused;
  struct raw_action set = {0, SA_RESTART, 0, 0x80};
  return (void *)(long)(is_action(SIGUSR1, 0, SA_NODEFER, 0x10) ? raw_sigaction(SIGUSR2, &set, NULL) : 5);
}
TEST(actions_are_the_process_s) {
  ask_often();
  struct raw_action set = {0, SA_NODEFER, 0, 0x10};
  OK(raw_sigaction(SIGUSR1, &set, NULL));
  pthread_t t;
  void *result;
  EXPECT_EQ(pthread_create(&t, NULL, change_usr2, NULL), 0);
  pthread_join(t, &result);
  EXPECT_EQ((long)result, 0L);
  EXPECT_TRUE(is_action(SIGUSR2, 0, SA_RESTART, 0x80));
  ask_often();
  EXPECT_TRUE(is_action(SIGUSR2, 0, SA_RESTART, 0x80));
}
static volatile sig_atomic_t reset_count;
static void count_reset(int signo) { (void)signo, reset_count++; }
TEST(one_shot_handler_after_many_questions) {
  ask_often();
  struct sigaction a = {.sa_flags = (int)SA_RESETHAND};
  a.sa_handler = count_reset;
  OK(sigaction(SIGUSR1, &a, NULL));
  for (int i = 0; i < 10; i++) OK(sigaction(SIGUSR1, &a, NULL));
  raise(SIGUSR1);
  EXPECT_EQ(reset_count, 1);
  struct raw_action now;
  OK(raw_sigaction(SIGUSR1, NULL, &now));
  EXPECT_EQ(now.handler, 0UL);
}
TEST(default_action_drops_what_it_ignores) {
  ask_often();
  sigset_t s = set_of(SIGCHLD, SIGWINCH), p;
  signal(SIGCHLD, count_reset);
  signal(SIGWINCH, count_reset);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  raise(SIGCHLD);
  OK(sigpending(&p));
  EXPECT_TRUE(sigismember(&p, SIGCHLD));
  signal(SIGCHLD, SIG_DFL);
  OK(sigpending(&p));
  EXPECT_TRUE(!sigismember(&p, SIGCHLD));
  // Also when it was the default before.
  struct raw_action dfl = {0, 0, 0, 0};
  for (int i = 0; i < 10; i++) OK(raw_sigaction(SIGWINCH, &dfl, NULL));
  raise(SIGWINCH);
  OK(raw_sigaction(SIGWINCH, &dfl, NULL));
  OK(sigpending(&p));
  EXPECT_TRUE(!sigismember(&p, SIGWINCH));
}

// Actions that ignore throw away what is pending, each time; and SIGCHLD's flags count with the default action.
TEST(default_actions_set_again_and_again) {
  const struct sigaction ignores = {.sa_handler = SIG_DFL}, quiet = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
  sigset_t both, pending;
  sigemptyset(&both);
  sigaddset(&both, SIGWINCH), sigaddset(&both, SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &both, NULL));
  for (int i = 0; i < 20; i++) {
    struct sigaction old;
    for (int n = 1; n < 65; n++)
      if (n != SIGKILL && n != SIGSTOP && n != 32 && n != 33) OK(sigaction(n, &ignores, &old));
    raise(SIGWINCH), raise(SIGUSR1);
    OK(sigpending(&pending));
    EXPECT_EQ(sigismember(&pending, SIGWINCH), 1);
    OK(sigaction(SIGWINCH, &ignores, NULL));
    OK(sigaction(SIGUSR1, &ignores, NULL));
    OK(sigpending(&pending));
    EXPECT_EQ(sigismember(&pending, SIGWINCH), 0);
    EXPECT_EQ(sigismember(&pending, SIGUSR1), 1);
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    OK(sigaction(SIGUSR1, &ignore, NULL));
    OK(sigpending(&pending));
    EXPECT_EQ(sigismember(&pending, SIGUSR1), 0);
    raise(SIGUSR1);
    OK(sigaction(SIGUSR1, &ignore, NULL));
    OK(sigpending(&pending));
    EXPECT_EQ(sigismember(&pending, SIGUSR1), 0);
    OK(sigaction(SIGUSR1, &ignores, &old));
    EXPECT_EQ(old.sa_handler == SIG_IGN, 1);
    // No zombie is left, and none is waited for.
    OK(sigaction(SIGCHLD, i % 2 ? &ignores : &quiet, NULL));
    const pid_t pid = fork();
    if (pid == 0) _exit(0);
    int status;
    if (i % 2) EXPECT_EQ(waitpid(pid, &status, 0), pid);
    else EXPECT_ERR(waitpid(pid, &status, 0), ECHILD);
  }
}
