// SPDX-License-Identifier: Apache-2.0
// A guest that attacks what keeps it in: it jumps to every address of the stub with chosen registers, rewrites the
// pages that it shares with the sentry while calls are under way, and unmaps or remaps them. Whatever happens to the
// attacker, a witness process of the same sandbox keeps its memory and its system calls.
#include "hostile.h"

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

// The stub's own mprotect on what it only reads: the right to write must not come, by whatever way it is asked for.
static uintptr_t target_page;
static void *write_at_target(void *unused) {
  (void)unused;
  while (target_page)
    if (can_write(target_page)) board[4] = 1;
  return NULL;
}
static void widen_step(int i) {
  uintptr_t gadget = gadgets[i % gadget_count], page = target_page;
  pthread_t t;
  pthread_create(&t, NULL, write_at_target, NULL);
  usleep(1000);
  long nr = SYS_mprotect;
  char stack[4096] __attribute__((aligned(16)));
  register char *top __asm__("r14") = stack + 2048;
  if (fork() == 0) _exit(0);  // the parent's pages are write-protected: nothing else is to be
  __asm__ volatile(
      "mov %%rsp, %%rbx\n\tmov $4096, %%esi\n\tmov $7, %%edx\n\tmov %%r14, %%rsp\n\tcall *%2\n\tmov %%rbx, %%rsp"
      : "+a"(nr), "+D"(page), "+c"(gadget), "+r"(top) : : "rbx", "rsi", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
  usleep(5000);
  if (can_write(target_page)) board[4] = 1;
  target_page = 0;
  _exit(0);
}
// The zygote's mmap passes by a key in the high halves of two arguments: one that is guessed must map nothing, of any descriptor.
static void guess_step(int i) {
  static const unsigned long guesses[] = {0, 1, 0xffffffff, 0x11, 0x80000000, 0x5eed1234};
  uintptr_t gadget = gadgets[i % gadget_count];
  int round = i / gadget_count;
  unsigned long guess = guesses[round % 6] << 32, fd = round / 6 % 6;
  char *at = mmap(NULL, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  target_page = (uintptr_t)at;
  pthread_t t;
  pthread_create(&t, NULL, write_at_target, NULL);
  usleep(500);
  char stack[4096] __attribute__((aligned(16)));
  register char *top __asm__("r14") = stack + 2048;
  register unsigned long flags __asm__("r10") = guess | MAP_SHARED | MAP_FIXED, r8 __asm__("r8") = fd, offset __asm__("r9") = 0x10000;
  long nr = SYS_mmap, a = (long)at, size = P, prot = (long)(guess | PROT_READ | PROT_WRITE);
  __asm__ volatile("mov %%rsp, %%rbx\n\tmov %%r14, %%rsp\n\tcall *%4\n\tmov %%rbx, %%rsp"
                   : "+a"(nr), "+D"(a), "+S"(size), "+d"(prot), "+c"(gadget), "+r"(top), "+r"(flags), "+r"(r8), "+r"(offset)
                   : : "rbx", "r11", "memory", "cc");
  usleep(1000);
  if (can_write(target_page)) board[4] = 1;
  target_page = 0;
  _exit(0);
}
// Every `syscall` in the text of the stub.
static void find_gadgets(void) {
  find_stub();
  struct range *text = executable_range();
  if (!text) SKIP("no readable stub text");
  gadget_count = 0;
  for (uintptr_t at = text->start; at + 1 < text->end && gadget_count < 64; at++)
    if (((unsigned char *)at)[0] == 0x0f && ((unsigned char *)at)[1] == 0x05) gadgets[gadget_count++] = at;
}
TEST_TIMEOUT(guessed_keys_map_nothing, 60) {
  find_gadgets();
  pid_t witness = start_witness();
  attack(gadget_count * 36, guess_step, 100, 20000);
  EXPECT_EQ(board[4], 0);
  end_witness(witness);
}

static void try_to_widen(uintptr_t page) {
  target_page = page;
  attack(gadget_count, widen_step, 100, 4000);
  if (board[4]) printf("# %lx can be written\n", page);
  EXPECT_EQ(board[4], 0);
}
TEST_TIMEOUT(stub_pages_stay_read_only, 60) {
  for (int i = 0; i < 50; i++) access("/etc", F_OK);  // answers that are in common with others are among them
  find_gadgets();
  pid_t witness = start_witness();
  uintptr_t vdso = getauxval(AT_SYSINFO_EHDR);
  for (int k = 0; k < range_count; k++) {
    bool host_vdso = vdso >= ranges[k].start - 0x40000 && vdso < ranges[k].end;  // private to the process, also on Linux
    if (!ranges[k].writable && !host_vdso) try_to_widen(ranges[k].start);
  }
  // Trampolines are every process's.
  char line[512];
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) {
    unsigned long start;
    if (strstr(line, "[sandbox]") && sscanf(line, "%lx", &start) == 1) try_to_widen(start);
  }
  if (maps) fclose(maps);
  end_witness(witness);
}

static void widen_window_step(int i) {
  make_window("/dev/shm/widen", 'w');
  target_page = (uintptr_t)window();
  if (!can_read(target_page) || *(volatile char *)target_page != 'w') board[5] = 1;
  widen_step(i);
}
TEST_TIMEOUT(windows_stay_read_only, 60) {
  find_gadgets();
  pid_t witness = start_witness();
  attack(gadget_count, widen_window_step, 300, 20000);
  if (board[5]) SKIP("this platform shows no pages of files");
  EXPECT_EQ(board[4], 0);
  end_witness(witness);
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
    struct stat st;
    struct statx stx;
    stat("/etc", &st), lstat("/bin", &st), fstat(fd, &st), access("/etc/none", R_OK), open("/etc/none", O_RDONLY);
    readlink("/bin", b, sizeof b), statx(AT_FDCWD, "/etc", 0, STATX_BASIC_STATS, &stx);
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
