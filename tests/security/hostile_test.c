// SPDX-License-Identifier: Apache-2.0
// A guest that attacks what keeps it in: it jumps to every address of the stub with chosen registers, rewrites the
// pages that it shares with the sentry while calls are under way, and unmaps or remaps them. Whatever happens to the
// attacker, a witness process of the same sandbox keeps its memory and its system calls.
#include "kit.h"

#include <pthread.h>
#include <setjmp.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#define P 4096UL
#define MAX_RANGES 256
struct range { uintptr_t start, end; bool writable; };
static struct range ranges[MAX_RANGES];
static int range_count;

static sigjmp_buf escape;
static void on_fault(int signo) { siglongjmp(escape, signo); }
static void catch_all(void) {
  static char area[65536];
  stack_t s = {.ss_sp = area, .ss_size = sizeof area};
  sigaltstack(&s, NULL);
  static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS, SIGALRM, SIGUSR1};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct sigaction a = {.sa_flags = SA_NODEFER | SA_ONSTACK};
    a.sa_handler = on_fault;
    sigaction(signals[i], &a, NULL);
  }
}
static bool can_read(uintptr_t at) {
  if (sigsetjmp(escape, 1)) return false;
  (void)*(volatile char *)at;
  return true;
}
static bool can_write(uintptr_t at) {
  if (sigsetjmp(escape, 1)) return false;
  volatile char *p = (volatile char *)at;
  *p = *p;
  return true;
}

static void need_sandbox(void) {
  struct utsname u;
  uname(&u);
  if (!strstr(u.release, "-runsc")) SKIP("only makes sense inside the sandbox");
}
static bool in_proc_maps(uintptr_t at) {
  static char *maps;
  if (!maps) maps = kit_read_file("/proc/self/maps");
  for (char *line = maps; line && *line; line = strchr(line, '\n'), line += line != NULL) {
    uintptr_t a = strtoul(line, NULL, 16), b = strtoul(strchr(line, '-') + 1, NULL, 16);
    if (at >= a && at < b) return true;
  }
  return false;
}
// What is mapped around the vDSO and is none of ours: the platform's own pages.
static void find_stub(void) {
  need_sandbox();
  catch_all();
  uintptr_t vdso = getauxval(AT_SYSINFO_EHDR);
  if (!vdso) SKIP("no vDSO to start from");
  uintptr_t from = (vdso & ~0xfffffUL) - 0x100000, to = from + 0x1000000;
  for (uintptr_t at = from; at < to && range_count < MAX_RANGES; at += P) {
    if (!can_read(at) || in_proc_maps(at)) continue;
    bool w = can_write(at);
    struct range *last = range_count ? &ranges[range_count - 1] : NULL;
    if (last && last->end == at && last->writable == w) last->end += P;
    else ranges[range_count++] = (struct range){at, at + P, w};
  }
  if (!range_count) SKIP("this platform maps nothing beside the guest");
}

// ---- the witness: another process of the sandbox, which checks itself until told to stop.
static int *board;  // shared: [0] stop, [1] rounds, [2] failures, [3] progress of the attacker
static char *bait;  // a page that the attacked code may well write to: never the board, by which the witness is led
static void witness_body(void) {
  static unsigned char pattern[64 * 4096];
  for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = (unsigned char)(i * 31 + 7);
  pid_t me = getpid();
  while (!__atomic_load_n(&board[0], __ATOMIC_SEQ_CST)) {
    for (size_t i = 0; i < sizeof pattern; i++)
      if (pattern[i] != (unsigned char)(i * 31 + 7)) board[2]++;
    int p[2];
    char c = 5;
    if (syscall(SYS_getpid) != me || pipe(p) || write(p[1], &c, 1) != 1 || read(p[0], &c, 1) != 1 || c != 5) board[2]++;
    close(p[0]), close(p[1]);
    board[1]++;
    kit_sleep_ms(2);
  }
  _exit(board[2] != 0);
}
static pid_t start_witness(void) {
  board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  bait = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t pid = OK(fork());
  if (!pid) witness_body();
  return pid;
}
static void end_witness(pid_t pid) {
  int before = board[1];
  for (int i = 0; i < 500 && board[1] < before + 3; i++) kit_sleep_ms(10);
  EXPECT_GE(board[1], before + 3);
  __atomic_store_n(&board[0], 1, __ATOMIC_SEQ_CST);
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(board[2], 0);
}
// Runs the attack in children; one that dies or makes no progress for a while is replaced from the next step on.
static void attack(int steps, void (*step)(int), int patience_ms, int budget_ms) {
  long long end = kit_now_ns() + budget_ms * 1000000LL;
  board[3] = 0;
  while (board[3] < steps && kit_now_ns() < end) {
    pid_t pid = OK(fork());
    if (!pid) {
      catch_all();
      for (int i = board[3]; i < steps; i = board[3]) {
        board[3] = i + 1;
        if (sigsetjmp(escape, 1) == 0) step(i);
      }
      _exit(0);
    }
    int seen = -1, status;
    long long since = kit_now_ns();
    while (waitpid(pid, &status, WNOHANG) == 0) {
      usleep(300);
      if (board[3] != seen) seen = board[3], since = kit_now_ns();
      else if (kit_now_ns() - since > patience_ms * 1000000LL || kit_now_ns() > end) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        break;
      }
    }
  }
}

static const long values[] = {0, 9, 10, 11, 25, 56, 57, 59, 62, 101, 202, 231, 257, 310, 311, -1, 0x7fffffff};
static uintptr_t text_start, text_end;
static int stride;
__attribute__((noinline)) static void jump(uintptr_t target, long rax, long argument) {
  static char stack[65536] __attribute__((aligned(4096)));
  register uintptr_t to __asm__("r12") = target;
  register long first __asm__("r13") = argument;
  register char *top __asm__("r14") = stack + 32768;
  __asm__ volatile(
      "mov %%rsp, %%rbx\n\tmov %%r13, %%rdi\n\tmov $4096, %%esi\n\tmov $7, %%edx\n\tmov $0x32, %%r10d\n\t"
      "mov $1, %%r8d\n\txor %%r9d, %%r9d\n\tmov %%r14, %%rsp\n\tcall *%%r12\n\tmov %%rbx, %%rsp"
      : "+a"(rax), "+r"(to), "+r"(first), "+r"(top) : : "rbx", "rcx", "rdi", "rsi", "rdx", "r8", "r9", "r10", "r11", "r15", "memory", "cc");
}
static void jump_step(int i) {
  uintptr_t target = text_start + (uintptr_t)i * stride;
  if (target >= text_end) return;
  size_t n = sizeof values / sizeof *values;
  jump(target, values[i % n], (long)(i % 3 == 0 ? ranges[0].start : i % 3 == 1 ? (uintptr_t)bait : 0x10000));
}
static struct range *executable_range(void) {
  // The stub's text: readable, not writable, with a system call instruction in it.
  for (int k = 0; k < range_count; k++) {
    if (ranges[k].writable) continue;
    for (uintptr_t at = ranges[k].start; at + 1 < ranges[k].end; at++)
      if (((unsigned char *)at)[0] == 0x0f && ((unsigned char *)at)[1] == 0x05) return &ranges[k];
  }
  return NULL;
}

TEST(stub_pages_are_not_the_guests) {
  find_stub();
  int fd = OK(open("/dev/zero", O_RDONLY)), mem = OK(open("/proc/self/mem", O_RDWR)), p[2];
  OK(pipe(p));
  for (int k = 0; k < range_count; k++) {
    void *at = (void *)ranges[k].start;
    EXPECT_ERR(read(fd, at, 16), EFAULT);
    EXPECT_ERR(write(p[1], at, 16), EFAULT);
    EXPECT_TRUE(pwrite(mem, "x", 1, (off_t)at) < 0);
    char b[16];
    struct iovec l = {b, 16}, r = {at, 16};
    EXPECT_TRUE(process_vm_readv(getpid(), &l, 1, &r, 1, 0) < 0);
    EXPECT_TRUE(process_vm_writev(getpid(), &l, 1, &r, 1, 0) < 0);
  }
}
TEST(stub_pages_cannot_be_changed) {
  find_stub();
  pid_t witness = start_witness();
  IN_CHILD(pid, {
    for (int k = 0; k < range_count; k++) {
      void *at = (void *)ranges[k].start;
      size_t size = ranges[k].end - ranges[k].start;
      munmap(at, size);
      mprotect(at, size, PROT_READ | PROT_WRITE | PROT_EXEC);
      mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x20000000);
      madvise(at, size, MADV_DONTNEED);
      EXPECT_TRUE(mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED);
      EXPECT_TRUE(getppid() > 0);
    }
    catch_all();
    for (int k = 0; k < range_count; k++)
      if (!ranges[k].writable) EXPECT_TRUE(!can_write(ranges[k].start));
  });
  EXPECT_EXIT(pid, 0);
  end_witness(witness);
}
TEST_TIMEOUT(jump_to_every_stub_address, 60) {
  find_stub();
  struct range *text = executable_range();
  if (!text) SKIP("no readable stub text");
  text_start = text->start, text_end = text->end, stride = 1;
  while (text_end > text_start + P && *(uint64_t *)(text_end - 64) == 0 && *(uint64_t *)(text_end - 8) == 0) text_end -= P;
  pid_t witness = start_witness();
  attack((int)(text_end - text_start), jump_step, 60, 25000);
  printf("# %d of %lu addresses\n", board[3], text_end - text_start);
  end_witness(witness);
}
static uintptr_t gadgets[64];
static int gadget_count;
static void gadget_step(int i) {
  long nr = i % 470;
  if (nr == SYS_exit || nr == SYS_exit_group) return;
  jump(gadgets[i / 470], nr, (long)ranges[0].start);
}
TEST_TIMEOUT(every_host_call_through_every_gadget, 60) {
  find_stub();
  struct range *text = executable_range();
  if (!text) SKIP("no readable stub text");
  for (uintptr_t at = text->start; at + 1 < text->end && gadget_count < 64; at++)
    if (((unsigned char *)at)[0] == 0x0f && ((unsigned char *)at)[1] == 0x05) gadgets[gadget_count++] = at;
  pid_t witness = start_witness();
  attack(gadget_count * 470, gadget_step, 40, 30000);
  printf("# %d of %d calls\n", board[3], gadget_count * 470);
  end_witness(witness);
}

static volatile bool done;
static unsigned seed;
static unsigned next_random(void) {
  seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5;
  return seed;
}
static void *scribble(void *argument) {
  (void)argument;
  while (!done) {
    struct range *r = &ranges[next_random() % range_count];
    if (!r->writable) continue;
    uintptr_t at = r->start + next_random() % (r->end - r->start) / 8 * 8;
    static const uint64_t poison[] = {0, ~0UL, 1, 2, 3, 4, 0x80000000, 0xffffffff80000000UL, 0x7fffffffffffUL, 4096};
    uint64_t v = next_random() % 3 ? poison[next_random() % 10] : next_random();
    if (next_random() % 2) *(volatile uint64_t *)at = v;
    else *(volatile uint32_t *)at = (uint32_t)v;
  }
  return NULL;
}
static void scribble_step(int i) {
  seed = (unsigned)i * 2654435761u + 1;
  pthread_t t;
  done = false;
  pthread_create(&t, NULL, scribble, NULL);
  char b[64];
  int fd = open("/dev/zero", O_RDONLY);
  for (int k = 0; k < 300; k++) {
    syscall(SYS_getppid);
    pread(fd, b, 64, 0);
    char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m != MAP_FAILED) m[0] = 1, munmap(m, 8192);
  }
  done = true;
  _exit(0);
}
TEST_TIMEOUT(rewrite_shared_pages_during_calls, 60) {
  find_stub();
  bool any = false;
  for (int k = 0; k < range_count; k++) any |= ranges[k].writable;
  if (!any) SKIP("the platform shares no writable page");
  pid_t witness = start_witness();
  attack(60, scribble_step, 400, 30000);
  printf("# %d rounds\n", board[3]);
  end_witness(witness);
}
static void wipe_step(int i) {
  for (int k = 0; k < range_count; k++)
    if (ranges[k].writable) memset((void *)ranges[k].start, i % 2 ? 0xff : 0, ranges[k].end - ranges[k].start);
  syscall(SYS_getppid);
  _exit(0);
}
TEST_TIMEOUT(wipe_shared_pages, 60) {
  find_stub();
  pid_t witness = start_witness();
  attack(6, wipe_step, 400, 20000);
  end_witness(witness);
}
TEST(bad_stack_and_segments) {
  need_sandbox();
  pid_t witness = start_witness();
  for (int i = 0; i < 6; i++) {
    IN_CHILD(pid, {
      if (i == 0) __asm__ volatile("xor %%esp, %%esp\n\tmov $39, %%eax\n\tsyscall\n\tpush %%rax" ::: "memory");
      if (i == 1) __asm__ volatile("mov $-8, %%rsp\n\tmov $39, %%eax\n\tsyscall\n\tud2" ::: "memory");
      if (i == 2) __asm__ volatile("mov $0x2b, %%eax\n\tmov %%eax, %%ds\n\tmov %%eax, %%es\n\tmov $39, %%eax\n\tsyscall\n\tud2" ::: "memory");
      if (i == 3) __asm__ volatile("pushfq\n\torl $0x40100, (%%rsp)\n\tpopfq\n\tmov $39, %%eax\n\tsyscall\n\tnop\n\tnop" ::: "memory");
      if (i == 4) __asm__ volatile("mov $0x3, %%eax\n\tmov %%eax, %%gs\n\tmov $39, %%eax\n\tsyscall\n\tud2" ::: "memory");
      if (i == 5) __asm__ volatile("int $0x80" : : "a"(1), "b"(3));
    });
    kit_wait(pid);
  }
  end_witness(witness);
}
TEST(int80_and_sysenter_pass_nothing) {
  need_sandbox();
  catch_all();
  long r = 0;
  if (sigsetjmp(escape, 1) == 0) __asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "r8", "r9", "r10", "r11", "memory");
  EXPECT_TRUE(r <= 0 || r == getpid());
}
