// SPDX-License-Identifier: Apache-2.0
// System call instructions in all kinds of surroundings, executed often enough that whoever optimises them has done so:
// registers, flags, the red zone and the FP state must be as the ABI says.
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "kit.h"

enum { kTimes = 400 };

// One site each: long sites (mov imm32), short ones with padding behind a ret, with padding that is reached (a loop's
// alignment), and without any.
#define SITE(name, before, after) \
  __asm__(".text\n.p2align 6\n" #name ":\n" before "\nsyscall\n" after "\n"); \
  long name(long, long, long, long)
SITE(site_long, "mov $110, %eax", "ret\n.p2align 4");
SITE(site_short, "mov %edi, %eax", "ret\n.byte 0x0f,0x1f,0x44,0,0,0x0f,0x1f,0x44,0,0");
SITE(site_aligned_loop, "mov %edi, %eax", "nopw 0x0(%rax,%rax,1)\nadd $0, %rdi\nret\n.p2align 4,0xcc");
SITE(site_bare, "mov %edi, %eax", "ret\nmov %rax, %rax\nret\nmov %rax, %rax\nret");
SITE(site_two, "mov %edi, %eax", "mov %edi, %eax\nsyscall\nret\n.byte 0x66,0x90,0x66,0x90,0x66,0x90,0x66,0x90,0x66,0x90");

TEST(every_kind_of_site_answers) {
  long (*sites[])(long, long, long, long) = {site_long, site_short, site_aligned_loop, site_bare, site_two};
  pid_t parent = getppid(), self = getpid();
  for (size_t s = 0; s < sizeof sites / sizeof *sites; s++)
    for (int i = 0; i < kTimes; i++) {
      long got = sites[s](SYS_getppid, 0, 0, 0);
      if (got != parent) EXPECT_EQ(got, parent);
      if (s == 0) continue;  // its number is its own
      got = sites[s](SYS_getpid, 0, 0, 0);
      if (got != self) EXPECT_EQ(got, self);
    }
}

// An argument is set up last, as glibc does; enough code before it to be sure of it.
#define PRELUDE "push %rbx\npush %rbp\nmov %rdi, %rbx\nmov %rsi, %rbp\nxor %r10d, %r10d\nadd $1, %r10\nmov %rsp, %r9\nlea -64(%rsp), %r8\n" \
                "mov %rbx, %r11\nxor %ecx, %ecx\nadd $8, %rcx\nmov %rcx, %r10\n"
__asm__(".section .rodata\n.p2align 4\nsite_mask: .quad 0x800\n.text\n");
SITE(site_constant, PRELUDE "mov $257, %eax\nmov $-100, %edi", "pop %rbp\npop %rbx\nret\nmov %rax, %rax");
SITE(site_rip, PRELUDE "xor %edx, %edx\nxor %edi, %edi\nmov $14, %eax\nmov %rbp, %rdx\nlea site_mask(%rip), %rsi", "pop %rbp\npop %rbx\nret\nmov %rax, %rax");
SITE(site_vector, PRELUDE "mov $110, %eax\nmovq %rbx, %xmm0\nmovups %xmm0, 0x400(%rbp)", "pop %rbp\npop %rbx\nret\nmov %rax, %rax");

TEST(arguments_that_are_set_up_last_arrive) {
  sigset_t old, now;
  EXPECT_EQ(sigprocmask(SIG_SETMASK, NULL, &old), 0);
  char room[0x500] __attribute__((aligned(16)));
  for (int i = 0; i < kTimes; i++) {
    int fd = (int)site_constant(0, (long)"/dev/null", O_RDONLY, 0);
    if (fd < 0) EXPECT_EQ(fd, 0);
    EXPECT_EQ(close(fd), 0);
    uint64_t before = ~0ull;
    EXPECT_EQ(site_rip(0, (long)&before, 0, 0), 0);  // SIG_BLOCK 0x800
    sigprocmask(SIG_SETMASK, NULL, &now);
    EXPECT_EQ(sigismember(&now, 12), 1);
    if (i > 0) EXPECT_EQ((before & 0x800) != 0, 1);
    memset(room, 0, sizeof room);
    EXPECT_EQ(site_vector(0x1234567890 + i, (long)room, 0, 0), getppid());
    uint64_t stored;
    memcpy(&stored, room + 0x400, sizeof stored);
    EXPECT_EQ(stored, 0x1234567890 + (uint64_t)i);
  }
  sigprocmask(SIG_SETMASK, &old, NULL);
}

// The `syscall` lies half on one page and half on the next, as one of glibc's does.
__asm__(".text\n.p2align 12\n.skip 4090\nsite_across:\nmov $110, %eax\nsyscall\nret\n.skip 64, 0xcc\n");
long site_across(void);

TEST(a_site_across_two_pages_answers) {
  long page = sysconf(_SC_PAGESIZE);
  EXPECT_EQ(((uintptr_t)site_across + 6) % (uintptr_t)page, 0);
  uint8_t *copy = mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_EQ(copy == MAP_FAILED, 0);
  uint8_t *start = copy + page - 6;
  memcpy(start, (const void *)site_across, 8);
  OK(mprotect(copy, 2 * (size_t)page, PROT_READ | PROT_EXEC));
  long (*made)(void) = (long (*)(void))(uintptr_t)start, parent = getppid();
  for (int i = 0; i < kTimes; i++) {
    if (site_across() != parent) EXPECT_EQ(site_across(), parent);
    if (made() != parent) EXPECT_EQ(made(), parent);
  }
  // Rewritten by its owner, it does what it says now.
  OK(mprotect(copy, 2 * (size_t)page, PROT_READ | PROT_WRITE));
  start[0] = 0xb8;
  start[1] = SYS_getpid;
  start[2] = start[3] = start[4] = 0;
  OK(mprotect(copy, 2 * (size_t)page, PROT_READ | PROT_EXEC));
  for (int i = 0; i < kTimes; i++) EXPECT_EQ(made(), getpid());
}

// long kept(long nr, long a, long b, uint64_t bad[1]), and the same at a site that nobody can patch: makes the call with known values in every register, in the red zone, in the
// flags and in vector and x87 registers; ors into bad[0] what has changed. Returns what the call did.
#define KEPT(name, before, tail) \
  __asm__( \
    ".text\n.p2align 6\n" #name ":\n" \
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\npush %rcx\n" \
    "mov %edi, %eax\nmov %rsi, %rdi\nmov %rdx, %rsi\nxor %edx, %edx\n" \
    "movabs $0x1122334455667788, %rbx\n" \
    "mov %rbx, %rbp\nmov %rbx, %r8\nmov %rbx, %r9\nmov %rbx, %r10\nmov %rbx, %r12\nmov %rbx, %r13\nmov %rbx, %r14\nmov %rbx, %r15\n" \
    "movq %rbx, %xmm7\nmovq %rbx, %mm3\n" \
    "sub $16, %rsp\nmovq $0x8d5, (%rsp)\npopfq\nlea 8(%rsp), %rsp\n" /* CF PF AF ZF SF OF */ \
    "mov %rbx, -8(%rsp)\nmov %rbx, -128(%rsp)\n" \
    before "syscall\n" \
    "lea -136(%rsp), %rsp\npushfq\npop %rcx\nlea 136(%rsp), %rsp\n" \
    "and $0x8d5, %ecx\nxor $0x8d5, %ecx\n" \
    "mov %rcx, %r11\n" \
    ".irp reg, rbp, r8, r9, r10, r12, r13, r14, r15\nxor %rbx, %\\reg\nor %\\reg, %r11\n.endr\n" \
    "mov -8(%rsp), %rcx\nxor %rbx, %rcx\nor %rcx, %r11\nmov -128(%rsp), %rcx\nxor %rbx, %rcx\nor %rcx, %r11\n" \
    "movq %xmm7, %rcx\nxor %rbx, %rcx\nor %rcx, %r11\nmovq %mm3, %rcx\nxor %rbx, %rcx\nor %rcx, %r11\nor %rdx, %r11\n" \
    "emms\npop %rcx\nor %r11, (%rcx)\n" \
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n" tail "\n"); \
  long name(long nr, long a, long b, uint64_t *bad)
KEPT(kept, "", ".p2align 4,0xcc");
KEPT(kept_bare, "mov %eax, %eax\n", "mov %rax, %rax\nmov %rax, %rax\nmov %rax, %rax\nmov %rax, %rax\nmov %rax, %rax");
static long (*const kept_at[])(long, long, long, uint64_t *) = {kept, kept_bare};

TEST(registers_survive) {
  struct timespec t;
  sigset_t none;
  sigemptyset(&none);
  int zero = open("/dev/null", O_WRONLY);
  struct {
    long nr, a, b;
  } calls[] = {{SYS_getpid, 0, 0},
               {SYS_getppid, 0, 0},
               {SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t},
               {SYS_lseek, zero, 0},
               {SYS_sched_yield, 0, 0},
               {SYS_sigaltstack, 0, 0},
               {1000, 0, 0}};
  for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
    for (size_t site = 0; site < 2; site++) {
      uint64_t bad = 0;
      for (int i = 0; i < kTimes; i++) kept_at[site](calls[c].nr, calls[c].a, calls[c].b, &bad);
      if (bad) printf("# call %ld at site %zu\n", calls[c].nr, site);
      EXPECT_EQ(bad, 0);
    }
  }
  EXPECT_EQ(t.tv_nsec / 1000000000, 0);
}

static volatile int caught;
static void on_signal(int s) {
  (void)s;
  caught++;
  // What a handler does to the vector registers ends with it.
  __asm__ volatile("pcmpeqd %%xmm7, %%xmm7\n\tpcmpeqd %%xmm3, %%xmm3" ::: "xmm7", "xmm3");
}
TEST(registers_survive_a_signal_at_the_call) {
  struct sigaction act = {.sa_handler = on_signal};
  OK(sigaction(SIGUSR1, &act, NULL));
  uint64_t bad = 0;
  for (int i = 0; i < 2 * kTimes; i++) kept_at[i % 2](SYS_kill, getpid(), SIGUSR1, &bad);
  EXPECT_EQ(bad, 0);
  EXPECT_EQ(caught, 2 * kTimes);
}
static volatile bool stop;
static void *storm(void *thread) {
  while (!stop) {
    pthread_kill(*(pthread_t *)thread, SIGUSR1);
    usleep(30);
  }
  return NULL;
}
TEST(registers_survive_signals_anywhere) {
  struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  OK(sigaction(SIGUSR1, &act, NULL));
  pthread_t self = pthread_self(), other;
  EXPECT_EQ(pthread_create(&other, NULL, storm, &self), 0);
  uint64_t bad = 0;
  struct timespec t;
  for (int i = 0; i < 20000; i++) {
    kept(SYS_getpid, 0, 0, &bad);
    kept(SYS_getppid, 0, 0, &bad);
    kept(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t, &bad);
    if (i % 4 != 0) continue;
    kept_bare(SYS_getpid, 0, 0, &bad);
    kept_bare(SYS_getppid, 0, 0, &bad);
    kept_bare(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t, &bad);
  }
  stop = true;
  pthread_join(other, NULL);
  EXPECT_EQ(bad, 0);
  EXPECT_TRUE(caught > 0);
}
static void *caller(void *bad) {
  for (int i = 0; i < 3000; i++) {
    kept_at[i % 2](SYS_getppid, 0, 0, bad);
    if (site_short(SYS_getppid, 0, 0, 0) != getppid()) *(uint64_t *)bad |= 1;
    if (site_two(SYS_gettid, 0, 0, 0) != syscall(SYS_gettid)) *(uint64_t *)bad |= 2;
  }
  return NULL;
}
TEST(many_threads_in_one_site) {
  pthread_t t[4];
  uint64_t bad[4] = {0};
  for (int i = 0; i < 4; i++) EXPECT_EQ(pthread_create(&t[i], NULL, caller, &bad[i]), 0);
  for (int i = 0; i < 4; i++) {
    pthread_join(t[i], NULL);
    EXPECT_EQ(bad[i], 0);
  }
}

// What is more than an answer, at a site that nobody can patch: it does all that other sites do, however often it is used.
__asm__(".text\n.p2align 6\nbare_call:\nmov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nsyscall\nret\n"
        "mov %rax, %rax\nret\nmov %rax, %rax\nret\n");
long bare_call(long nr, ...);  // up to four arguments, and the error as the kernel has it

static void nothing(int s) { (void)s; }
TEST(a_site_that_traps_again_moves_bytes_and_fails) {
  int ends[2];
  OK(pipe(ends));
  char got = 0;
  for (int i = 0; i < kTimes; i++) {
    const char c = (char)i;
    EXPECT_EQ(bare_call(SYS_write, ends[1], &c, 1), 1);
    EXPECT_EQ(bare_call(SYS_read, ends[0], &got, 1), 1);
    EXPECT_EQ(got, c);
    EXPECT_EQ(bare_call(SYS_write, ends[1], (void *)8, 1), -EFAULT);
    EXPECT_EQ(bare_call(SYS_read, -1, &got, 1), -EBADF);
    EXPECT_EQ(bare_call(4000), -ENOSYS);
  }
}
TEST(a_site_that_traps_again_makes_processes) {
  for (int i = 0; i < 20; i++) {
    const long child = bare_call(SYS_fork);
    if (child == 0) bare_call(SYS_exit_group, i);
    int status = 0;
    EXPECT_EQ(bare_call(SYS_wait4, child, &status, 0, 0), child);
    EXPECT_EQ(status, i << 8);
  }
}
TEST(a_site_that_traps_again_is_interrupted) {
  struct sigaction act = {.sa_handler = nothing};
  OK(sigaction(SIGALRM, &act, NULL));
  int ends[2];
  OK(pipe(ends));
  char got;
  for (int i = 0; i < 20; i++) {
    const struct itimerval soon = {.it_value.tv_usec = 2000};
    OK(setitimer(ITIMER_REAL, &soon, NULL));
    EXPECT_EQ(bare_call(SYS_read, ends[0], &got, 1), -EINTR);
  }
  act.sa_flags = SA_RESTART;
  OK(sigaction(SIGALRM, &act, NULL));
  for (int i = 0; i < 5; i++) {
    IN_CHILD(pid, {
      kit_sleep_ms(20);
      EXPECT_EQ(write(ends[1], "x", 1), 1);
    });
    const struct itimerval soon = {.it_value.tv_usec = 2000};
    OK(setitimer(ITIMER_REAL, &soon, NULL));
    EXPECT_EQ(bare_call(SYS_read, ends[0], &got, 1), 1);
    EXPECT_EXIT(pid, 0);
  }
}
TEST(a_site_that_traps_again_with_a_gs_base_of_ones_own) {
  static char area[64];
  for (int round = 0; round < 10; round++) {
    OK(syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, area));
    for (int i = 0; i < 10; i++) EXPECT_EQ(bare_call(SYS_getpid), getpid());
    void *base = NULL;
    OK(syscall(SYS_arch_prctl, 0x1004 /* ARCH_GET_GS */, &base));
    EXPECT_EQ(base == area, 1);
    OK(syscall(SYS_arch_prctl, 0x1001, 0));
    for (int i = 0; i < 10; i++) EXPECT_EQ(bare_call(SYS_getpid), getpid());
  }
}

// Calls whose answer may be known without a kernel: their errors must be those of the kernel.
TEST(futex_edges) {
  _Alignas(8) static uint32_t word = 5;
  struct timespec bad = {0, -1};
  for (int i = 0; i < kTimes; i++) {
    EXPECT_ERR(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 6, NULL), EAGAIN);
    EXPECT_ERR(syscall(SYS_futex, &word, FUTEX_WAIT, 6, NULL), EAGAIN);
    EXPECT_ERR(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 6, NULL, NULL, 0), EINVAL);
    EXPECT_ERR(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 6, &bad), EINVAL);
    EXPECT_ERR(syscall(SYS_futex, (char *)&word + 1, FUTEX_WAIT_PRIVATE, 6, NULL), EINVAL);
    EXPECT_ERR(syscall(SYS_futex, (char *)&word + 1, FUTEX_WAKE_PRIVATE, 1), EINVAL);
    EXPECT_ERR(syscall(SYS_futex, 16, FUTEX_WAIT_PRIVATE, 6, NULL), EFAULT);
    EXPECT_EQ(syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1), 0);
    EXPECT_EQ(syscall(SYS_futex, &word, FUTEX_WAKE, 1), 0);
    EXPECT_ERR(syscall(SYS_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 0), EINVAL);
    EXPECT_ERR(syscall(SYS_futex, &word, 77, 1), ENOSYS);
  }
}
TEST(clock_edges) {
  struct timespec *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  OK(munmap((char *)page + 4096, 4096));
  struct timespec *across = (struct timespec *)((char *)page + 4096 - 8);
  for (int i = 0; i < kTimes; i++) {
    EXPECT_EQ(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, page), 0);
    EXPECT_ERR(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, 16), EFAULT);
    EXPECT_ERR(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, across), EFAULT);
    EXPECT_ERR(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, -1L), EFAULT);
    EXPECT_ERR(syscall(SYS_clock_gettime, 63, page), EINVAL);
    EXPECT_EQ(syscall(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, page), 0);
  }
  // A page that nobody touched yet.
  for (int i = 0; i < 32; i++) {
    struct timespec *fresh = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_EQ(syscall(SYS_clock_gettime, CLOCK_REALTIME, fresh), 0);
    EXPECT_TRUE(fresh->tv_sec > 1000000000);
    munmap(fresh, 4096);
  }
}
static uint32_t turn;
static void *waker(void *p) {
  (void)p;
  for (int i = 0; i < 2000; i++) {
    while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != 1) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, 0, NULL);
    __atomic_store_n(&turn, 0, __ATOMIC_RELEASE);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1);
  }
  return NULL;
}
TEST(no_wake_is_lost) {
  pthread_t t;
  EXPECT_EQ(pthread_create(&t, NULL, waker, NULL), 0);
  for (int i = 0; i < 2000; i++) {
    __atomic_store_n(&turn, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1);
    while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != 0) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, 1, NULL);
  }
  pthread_join(t, NULL);
}
