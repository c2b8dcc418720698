// SPDX-License-Identifier: Apache-2.0
// mmap, munmap, mprotect, mremap, madvise, msync, mincore, brk; copy on write; SIGSEGV and SIGBUS.
#include "kit.h"

#include <setjmp.h>
#include <sys/resource.h>
#include <sys/uio.h>

#define P 4096L
static void *map(size_t size, int prot, int flags) { return mmap(NULL, size, prot, flags, -1, 0); }
static char *anonymous(size_t size) {
  char *m = map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  ASSERT_TRUE(m != MAP_FAILED);
  return m;
}

static sigjmp_buf escape;
static volatile siginfo_t last;
static void on_fault(int signo, siginfo_t *i, void *context) {
  (void)signo;
  (void)context;
  *(siginfo_t *)&last = *i;
  siglongjmp(escape, 1);
}
static void catch_faults(void) {
  struct sigaction a = {.sa_flags = SA_SIGINFO};
  a.sa_sigaction = on_fault;
  sigaction(SIGSEGV, &a, NULL);
  sigaction(SIGBUS, &a, NULL);
}
// 0, or the signal that the access raised.
static int touch(volatile char *p, bool write) {
  last.si_signo = 0;
  if (sigsetjmp(escape, 1) == 0) {
    if (write) *p = 1; else (void)*p;
  }
  return last.si_signo;
}

TEST(protection_keys_or_none) {
  EXPECT_ERR(syscall(SYS_pkey_alloc, 1, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_pkey_alloc, 0, 4), EINVAL);
  EXPECT_ERR(syscall(SYS_pkey_free, 15), EINVAL);
  int key = syscall(SYS_pkey_alloc, 0, 0);
  if (key < 0) EXPECT_TRUE(errno == ENOSPC || errno == EINVAL);  // used up; a CPU without
  else OK(syscall(SYS_pkey_free, key));
}
TEST(process_madvise_advises_others) {
  char *m = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(m, 'x', 8 * 4096);
  IN_CHILD(pid, pause());
  int fd = OK(syscall(SYS_pidfd_open, pid, 0));
  struct iovec v[2] = {{m, 4096}, {m + 8192, 8192}}, hole = {(void *)0x10000, 4096};
  EXPECT_EQ(syscall(SYS_process_madvise, fd, v, 2, MADV_COLD, 0), 3 * 4096);
  EXPECT_EQ(m[0], 'x');
  EXPECT_ERR(syscall(SYS_process_madvise, fd, v, 2, MADV_COLD, 1), EINVAL);
  EXPECT_ERR(syscall(SYS_process_madvise, fd, v, 2, MADV_DONTNEED, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_process_madvise, fd, &hole, 1, MADV_COLD, 0), ENOMEM);
  EXPECT_ERR(syscall(SYS_process_madvise, 0, v, 2, MADV_COLD, 0), EBADF);
  EXPECT_EFAULT(kBadRead, sizeof v, p, syscall(SYS_process_madvise, fd, p, 2, MADV_COLD, 0));
  kill(pid, SIGKILL);
  kit_wait(pid);
  EXPECT_ERR(syscall(SYS_process_madvise, fd, v, 2, MADV_COLD, 0), ESRCH);
}
TEST(anonymous_is_zero_and_writable) {
  char *m = anonymous(64 * P);
  for (long i = 0; i < 64 * P; i += 512) ASSERT_EQ(m[i], 0);
  memset(m, 7, 64 * P);
  EXPECT_EQ(m[64 * P - 1], 7);
  EXPECT_EQ(munmap(m, 64 * P), 0);
}
TEST(mmap_errors) {
  int fd = OK(open("f", O_RDONLY | O_CREAT, 0600)), w = OK(open("f", O_WRONLY));
  EXPECT_ERR(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
  EXPECT_ERR(mmap(NULL, P, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
  EXPECT_ERR(mmap(NULL, P, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
  EXPECT_ERR(mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 1), EINVAL);
  EXPECT_ERR(mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EACCES);
  EXPECT_ERR(mmap(NULL, P, PROT_READ, MAP_SHARED, w, 0), EACCES);
  EXPECT_ERR(mmap((void *)0x1001, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
  EXPECT_ERR(mmap(NULL, 1UL << 60, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
  EXPECT_ERR(mmap((void *)0x7ffffffff000, 2 * P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), ENOMEM);
  int dir = OK(open(".", O_RDONLY));
  EXPECT_ERR(mmap(NULL, P, PROT_READ, MAP_PRIVATE, dir, 0), ENODEV);
}
TEST(munmap_errors_and_holes) {
  char *m = anonymous(8 * P);
  EXPECT_ERR(munmap(m + 1, P), EINVAL);
  EXPECT_ERR(munmap(m, 0), EINVAL);
  EXPECT_EQ(munmap(m + 2 * P, 2 * P), 0);
  EXPECT_EQ(munmap(m, 8 * P), 0);
  EXPECT_EQ(munmap(m, 8 * P), 0);
}
TEST(fixed_replaces) {
  char *m = anonymous(4 * P);
  memset(m, 1, 4 * P);
  EXPECT_EQ(mmap(m + P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), m + P);
  EXPECT_EQ(m[0], 1);
  EXPECT_EQ(m[P], 0);
  EXPECT_EQ(m[2 * P], 1);
  EXPECT_ERR(mmap(m, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
  munmap(m, P);
  EXPECT_EQ(mmap(m, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), m);
}
TEST(segv_details) {
  catch_faults();
  char *m = anonymous(2 * P);
  munmap(m + P, P);
  EXPECT_EQ(touch(m + P + 5, false), SIGSEGV);
  EXPECT_EQ(last.si_code, SEGV_MAPERR);
  EXPECT_EQ(last.si_addr, m + P + 5);
  OK(mprotect(m, P, PROT_READ));
  EXPECT_EQ(touch(m, false), 0);
  EXPECT_EQ(touch(m, true), SIGSEGV);
  EXPECT_EQ(last.si_code, SEGV_ACCERR);
  OK(mprotect(m, P, PROT_NONE));
  EXPECT_EQ(touch(m, false), SIGSEGV);
  EXPECT_EQ(last.si_code, SEGV_ACCERR);
  OK(mprotect(m, P, PROT_READ | PROT_WRITE));
  EXPECT_EQ(touch(m, true), 0);
  EXPECT_EQ(touch(NULL, false), SIGSEGV);
  EXPECT_EQ(last.si_addr, NULL);
}
TEST(segv_kills) {
  IN_CHILD(pid, *(volatile int *)16 = 1);
  EXPECT_KILLED(pid, SIGSEGV);
  IN_CHILD(blocked, {
    sigset_t s;
    sigfillset(&s);
    sigprocmask(SIG_BLOCK, &s, NULL);
    signal(SIGSEGV, SIG_IGN);
    *(volatile int *)16 = 1;
  });
  EXPECT_KILLED(blocked, SIGSEGV);
}
TEST(jump_to_data_faults) {
  catch_faults();
  char *m = anonymous(P);
  m[0] = (char)0xc3;
  last.si_signo = 0;
  if (sigsetjmp(escape, 1) == 0) ((void (*)(void))m)();
  EXPECT_EQ(last.si_signo, SIGSEGV);
  EXPECT_EQ(last.si_addr, m);
  OK(mprotect(m, P, PROT_READ | PROT_EXEC));
  last.si_signo = 0;
  if (sigsetjmp(escape, 1) == 0) ((void (*)(void))m)();
  EXPECT_EQ(last.si_signo, 0);
}
TEST(non_canonical_address) {
  catch_faults();
  EXPECT_EQ(touch((char *)0x123456789abcdef0UL, false), SIGSEGV);
}
TEST(mprotect_errors) {
  char *m = anonymous(4 * P);
  EXPECT_ERR(mprotect(m + 1, P, PROT_READ), EINVAL);
  EXPECT_EQ(mprotect(m, 0, PROT_READ), 0);
  munmap(m + P, P);
  EXPECT_ERR(mprotect(m, 3 * P, PROT_READ), ENOMEM);
  EXPECT_ERR(mprotect(m, P, 0x800), EINVAL);
  kit_write_file("f", "x");
  char *f = mmap(NULL, P, PROT_READ, MAP_SHARED, OK(open("f", O_RDONLY)), 0);
  EXPECT_ERR(mprotect(f, P, PROT_READ | PROT_WRITE), EACCES);
}
TEST(private_is_copied_over_fork) {
  char *m = anonymous(16 * P);
  memset(m, 'p', 16 * P);
  IN_CHILD(pid, {
    EXPECT_EQ(m[5 * P], 'p');
    memset(m, 'c', 16 * P);
    kit_sleep_ms(50);
    EXPECT_EQ(m[15 * P], 'c');
  });
  kit_sleep_ms(20);
  EXPECT_EQ(m[5 * P], 'p');
  m[0] = 'q';
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(m[15 * P], 'p');
}
TEST(many_generations_of_copies) {
  char *m = anonymous(4 * P);
  strcpy(m, "0");
  for (int i = 1; i < 12; i++) {
    pid_t pid = OK(fork());
    if (pid) {
      int status = kit_wait(pid);
      if (m[0] != '0' + i - 1) kit_fail(__FILE__, __LINE__, "generation %d sees %c", i, m[0]);
      if (status || kit_failed()) _exit(1);
      if (i > 1) _exit(0);
      return;
    }
    m[0] = '0' + i;
    m[3 * P] = i;
  }
  _exit(0);
}
TEST(system_call_writes_break_copies) {
  char *m = anonymous(P);
  strcpy(m, "old");
  int p[2];
  OK(pipe(p));
  OK(write(p[1], "new", 4));
  IN_CHILD(pid, {
    EXPECT_EQ(read(p[0], m, 4), 4);
    EXPECT_STR(m, "new");
  });
  EXPECT_EXIT(pid, 0);
  EXPECT_STR(m, "old");
}
TEST(shared_anonymous_over_fork) {
  int *m = map(P, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  IN_CHILD(pid, __atomic_store_n(m, 77, __ATOMIC_SEQ_CST));
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(*m, 77);
}
TEST(file_private_map) {
  kit_write_file("f", "hello");
  int fd = OK(open("f", O_RDWR));
  char *m = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  ASSERT_TRUE(m != MAP_FAILED);
  close(fd);
  EXPECT_STR(m, "hello");
  EXPECT_EQ(m[100], 0);
  m[0] = 'J';
  EXPECT_STR(kit_read_file("f"), "hello");
}
TEST(file_shared_map) {
  kit_write_file("f", "hello");
  int fd = OK(open("f", O_RDWR));
  char *a = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *b = mmap(NULL, P, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_TRUE(a != MAP_FAILED && b != MAP_FAILED);
  a[0] = 'J';
  EXPECT_STR(b, "Jello");
  EXPECT_STR(kit_read_file("f"), "Jello");
  OK(pwrite(fd, "C", 1, 0));
  EXPECT_STR(b, "Cello");
  EXPECT_EQ(msync(a, P, MS_SYNC), 0);
  IN_CHILD(pid, a[0] = 'Z');
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(b[0], 'Z');
}
TEST(private_map_sees_writes_until_copied) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(write(fd, "aaaa", 4));
  char *m = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  EXPECT_EQ(m[0], 'a');
  OK(pwrite(fd, "b", 1, 0));
  EXPECT_EQ(m[0], 'b');
  m[1] = 'x';
  OK(pwrite(fd, "c", 1, 0));
  EXPECT_EQ(m[0], 'b');
}
TEST(beyond_the_end_is_sigbus) {
  catch_faults();
  kit_write_file("f", "hello");
  int fd = OK(open("f", O_RDWR));
  char *m = mmap(NULL, 3 * P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  EXPECT_EQ(touch(m + 4000, false), 0);
  EXPECT_EQ(touch(m + P, false), SIGBUS);
  EXPECT_EQ(last.si_code, BUS_ADRERR);
  EXPECT_EQ(last.si_addr, m + P);
  OK(ftruncate(fd, 2 * P));
  EXPECT_EQ(touch(m + P, true), 0);
  OK(ftruncate(fd, 10));
  EXPECT_EQ(touch(m + P, false), SIGBUS);
  EXPECT_ERR(syscall(SYS_write, fd, m + P, 1), EFAULT);
}
TEST(truncate_zeroes_the_tail_of_a_page) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(ftruncate(fd, P));
  char *m = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  memset(m, 'x', P);
  OK(ftruncate(fd, 10));
  OK(ftruncate(fd, P));
  EXPECT_EQ(m[9], 'x');
  EXPECT_EQ(m[10], 0);
  EXPECT_EQ(m[P - 1], 0);
}
TEST(memory_given_back_comes_again_as_zeros) {
  static const size_t sizes[] = {P, 2 * P, 16 * P, 64 * P, 16 * P, P};
  for (int round = 0; round < 40; round++) {
    size_t size = sizes[round % 6];
    char *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_TRUE(m != MAP_FAILED);
    for (size_t i = 0; i < size; i++) ASSERT_EQ(m[i], 0);
    memset(m, round + 1, size);
    if (round % 3 == 0) munmap(m, size / 2);  // in two parts
    OK(munmap(m, size));
  }
  char *top = sbrk(0);
  for (int round = 0; round < 10; round++) {
    ASSERT_TRUE(sbrk(8 * P) == top);
    for (size_t i = 0; i < 8 * P; i++) ASSERT_EQ(top[i], 0);
    memset(top, 7, 8 * P);
    ASSERT_TRUE(sbrk(-8 * (long)P) == top + 8 * P);
  }
}
TEST(memory_given_back_stays_the_childs) {
  for (int round = 0; round < 5; round++) {
    size_t size = 16 * P;
    char *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(m, 'a', size);
    int go[2], in[2];
    char c = 0;
    OK(pipe(go));
    OK(pipe(in));
    pid_t pid = OK(fork());
    if (!pid) {
      if (round % 2) m[5 * P] = 'a';  // has one page of its own
      if (write(in[1], &c, 1) != 1 || read(go[0], &c, 1) != 1) _exit(2);
      for (size_t i = 0; i < size; i++)
        if (m[i] != 'a') _exit(3);
      char *n = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      for (size_t i = 0; i < size; i++)
        if (n[i] != 0) _exit(4);
      _exit(0);
    }
    OK(read(in[0], &c, 1));
    OK(munmap(m, size));
    for (int k = 0; k < 3; k++) {
      char *n = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      for (size_t i = 0; i < size; i++) ASSERT_EQ(n[i], 0);
      memset(n, 'b', size);
      OK(munmap(n, size));
    }
    OK(write(go[1], &c, 1));
    EXPECT_EXIT(pid, 0);
    close(go[0]), close(go[1]), close(in[0]), close(in[1]);
  }
}
TEST(mremap_ways) {
  char *m = anonymous(4 * P);
  strcpy(m, "here");
  char *big = OK(mremap(m, 4 * P, 64 * P, MREMAP_MAYMOVE));
  EXPECT_STR(big, "here");
  big[63 * P] = 1;
  EXPECT_EQ(mremap(big, 64 * P, 2 * P, 0), big);
  catch_faults();
  EXPECT_EQ(touch(big + 3 * P, false), SIGSEGV);
  char *target = anonymous(4 * P);
  EXPECT_EQ(mremap(big, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, target), target);
  EXPECT_STR(target, "here");
  EXPECT_EQ(touch(big, false), SIGSEGV);
}
TEST(mremap_errors) {
  char *m = anonymous(4 * P);
  EXPECT_ERR(mremap(m + 1, P, P, 0), EINVAL);
  EXPECT_ERR(mremap(m, P, 0, 0), EINVAL);
  EXPECT_ERR(mremap(m, P, P, MREMAP_FIXED, m), EINVAL);
  EXPECT_ERR(mremap(m, P, P, 0x100), EINVAL);
  EXPECT_ERR(mremap(m, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_FIXED, m + P), EINVAL);
  munmap(m + P, P);
  EXPECT_ERR(mremap(m + P, P, 2 * P, MREMAP_MAYMOVE), EFAULT);
  EXPECT_ERR(mremap(m, 4 * P, 8 * P, MREMAP_MAYMOVE), EFAULT);
}
TEST(mremap_shared_duplicates) {
  char *m = map(P, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  char *n = OK(mremap(m, 0, P, MREMAP_MAYMOVE));
  EXPECT_TRUE(n != m);
  m[0] = 5;
  EXPECT_EQ(n[0], 5);
}
TEST(madvise_values) {
  char *m = anonymous(4 * P);
  memset(m, 1, 4 * P);
  OK(madvise(m + P, P, MADV_DONTNEED));
  EXPECT_EQ(m[0], 1);
  EXPECT_EQ(m[P], 0);
  EXPECT_EQ(madvise(m, 4 * P, MADV_WILLNEED), 0);
  EXPECT_EQ(madvise(m, 4 * P, MADV_SEQUENTIAL), 0);
  EXPECT_ERR(madvise(m + 1, P, MADV_DONTNEED), EINVAL);
  EXPECT_ERR(madvise(m, P, 9999), EINVAL);
  munmap(m + P, P);
  EXPECT_ERR(madvise(m, 3 * P, MADV_DONTNEED), ENOMEM);
}
TEST(madvise_fork_flags) {
  char *m = anonymous(2 * P);
  memset(m, 1, 2 * P);
  OK(madvise(m, P, MADV_DONTFORK));
  OK(madvise(m + P, P, MADV_WIPEONFORK));
  IN_CHILD(pid, {
    catch_faults();
    EXPECT_EQ(touch(m, false), SIGSEGV);
    EXPECT_EQ(m[P], 0);
  });
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(m[P], 1);
}
TEST(brk_grows_and_shrinks) {
  char *now = (char *)syscall(SYS_brk, 0);
  char *next = (char *)syscall(SYS_brk, now + 10 * P);
  EXPECT_EQ(next, now + 10 * P);
  memset(now, 1, 10 * P);
  EXPECT_EQ(syscall(SYS_brk, now + P), now + P);
  EXPECT_EQ(syscall(SYS_brk, now + 10 * P), now + 10 * P);
  char *second = (char *)(((uintptr_t)now + 3 * P) & ~(P - 1));
  EXPECT_EQ(second[0], 0);
  EXPECT_EQ(syscall(SYS_brk, 1), now + 10 * P);  // refused: stays
}
TEST(msync_mincore_errors) {
  char *m = anonymous(2 * P);
  unsigned char v[2];
  m[0] = 1;
  EXPECT_EQ(mincore(m, 2 * P, v), 0);
  EXPECT_EQ(v[0] & 1, 1);
  EXPECT_ERR(mincore(m + 1, P, v), EINVAL);
  EXPECT_EFAULT(kBadWrite, 2, p, syscall(SYS_mincore, m, 2 * P, p));
  EXPECT_ERR(msync(m + 1, P, MS_SYNC), EINVAL);
  EXPECT_ERR(msync(m, P, MS_SYNC | MS_ASYNC), EINVAL);
  EXPECT_ERR(msync(m, P, 0x80), EINVAL);
  munmap(m + P, P);
  EXPECT_ERR(msync(m, 2 * P, MS_SYNC), ENOMEM);
  EXPECT_ERR(mincore(m, 2 * P, v), ENOMEM);
}
TEST(address_space_limit) {
  struct rlimit l = {200 << 20, 200 << 20};
  OK(setrlimit(RLIMIT_AS, &l));
  EXPECT_ERR(map(400 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS), ENOMEM);
  EXPECT_TRUE(map(1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS) != MAP_FAILED);
}
TEST(huge_sparse_reservation) {
  char *m = map(1UL << 38, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  ASSERT_TRUE(m != MAP_FAILED);
  OK(mprotect(m + (1UL << 37), P, PROT_READ | PROT_WRITE));
  m[1UL << 37] = 3;
  EXPECT_EQ(m[1UL << 37], 3);
}
TEST(stack_grows) {
  volatile char big[2 << 20];
  for (size_t i = 0; i < sizeof big; i += P) big[i] = 1;
  EXPECT_EQ(big[P], 1);
}
TEST(mlock_family) {
  char *m = anonymous(P);
  EXPECT_EQ(mlock(m, P), 0);
  EXPECT_EQ(munlock(m, P), 0);
  EXPECT_EQ(mlock2(m, P, MLOCK_ONFAULT), 0);
  EXPECT_ERR(mlock2(m, P, 8), EINVAL);
  EXPECT_EQ(munlockall(), 0);
  EXPECT_ERR(mlockall(0), EINVAL);
}
TEST(map_growsdown_and_populate) {
  char *m = map(4 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE);
  ASSERT_TRUE(m != MAP_FAILED);
  EXPECT_EQ(m[0], 0);
  char *g = map(P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN);
  EXPECT_TRUE(g != MAP_FAILED);
}
TEST(self_modified_code_runs) {
  unsigned char *m = map(P, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS);
  ASSERT_TRUE(m != MAP_FAILED);
  for (int i = 0; i < 100; i++) {
    unsigned char code[] = {0xb8, (unsigned char)i, 0, 0, 0, 0xc3};  // mov eax, i; ret
    memcpy(m, code, sizeof code);
    ASSERT_EQ(((int (*)(void))m)(), i);
  }
}
TEST(generated_code_makes_system_calls) {
  unsigned char *m = map(P, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS);
  unsigned char code[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3};  // mov eax, getpid; syscall; ret
  memcpy(m, code, sizeof code);
  for (int i = 0; i < 50; i++) ASSERT_EQ(((int (*)(void))m)(), getpid());
  m[1] = 186;  // gettid, in place
  for (int i = 0; i < 50; i++) ASSERT_EQ(((int (*)(void))m)(), getpid());
  EXPECT_EQ(m[5], 0x0f);  // the program reads its own bytes unchanged
}
TEST(process_vm_reads_and_writes) {
  char *m = anonymous(P);
  strcpy(m, "secret");
  IN_CHILD(pid, { kit_sleep_ms(10000); });
  char b[8] = "";
  struct { void *base; size_t size; } local = {b, 7}, remote = {m, 7};
  EXPECT_EQ(syscall(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 0), 7);
  EXPECT_STR(b, "secret");
  EXPECT_ERR(syscall(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 1), EINVAL);
  remote.base = (void *)8;
  EXPECT_ERR(syscall(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 0), EFAULT);
  kill(pid, SIGKILL);
  EXPECT_KILLED(pid, SIGKILL);
  EXPECT_ERR(syscall(SYS_process_vm_readv, 999999, &local, 1, &remote, 1, 0), ESRCH);
}
