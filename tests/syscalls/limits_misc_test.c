// SPDX-License-Identifier: Apache-2.0
// rlimits, prctl, uname, sysinfo, getrandom, personality, priority, unknown calls.
#include "kit.h"

#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

TEST(rlimit_get_and_set) {
  struct rlimit l, m;
  for (int i = 0; i < 16; i++) EXPECT_EQ(getrlimit(i, &l), 0);
  EXPECT_ERR(syscall(SYS_getrlimit, 16, &l), EINVAL);
  OK(getrlimit(RLIMIT_NOFILE, &l));
  l.rlim_cur = 100;
  OK(setrlimit(RLIMIT_NOFILE, &l));
  OK(prlimit(0, RLIMIT_NOFILE, NULL, &m));
  EXPECT_EQ(m.rlim_cur, 100);
  l.rlim_cur = l.rlim_max + 1;
  if (l.rlim_max != RLIM_INFINITY) EXPECT_ERR(setrlimit(RLIMIT_NOFILE, &l), EINVAL);
  EXPECT_ERR(prlimit(999999, RLIMIT_NOFILE, NULL, &m), ESRCH);
  EXPECT_EFAULT(kBadRead, sizeof l, p, syscall(SYS_setrlimit, RLIMIT_NOFILE, p));
  EXPECT_EFAULT(kBadWrite, sizeof l, p, syscall(SYS_getrlimit, RLIMIT_NOFILE, p));
}
TEST(rlimit_hard_cannot_be_raised) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    struct rlimit l = {50, 60};
    OK(setrlimit(RLIMIT_NOFILE, &l));
    OK(setuid(1000));
    l.rlim_max = 70;
    EXPECT_ERR(setrlimit(RLIMIT_NOFILE, &l), EPERM);
    l.rlim_max = 55;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &l), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(rlimits_are_inherited) {
  struct rlimit l = {77, 77};
  OK(setrlimit(RLIMIT_NOFILE, &l));
  IN_CHILD(pid, execl("/bin/sh", "sh", "-c", "[ $(ulimit -n) = 77 ]", NULL));
  EXPECT_EXIT(pid, 0);
}
TEST(cpu_limit_sends_sigxcpu) {
  IN_CHILD(pid, {
    struct rlimit l = {1, 2};
    setrlimit(RLIMIT_CPU, &l);
    for (;;) {}
  });
  EXPECT_KILLED(pid, SIGXCPU);
}
TEST(uname_fields) {
  struct utsname u;
  OK(uname(&u));
  EXPECT_STR(u.sysname, "Linux");
  EXPECT_STR(u.machine, "x86_64");
  int major = atoi(u.release), minor = atoi(strchr(u.release, '.') + 1);
  EXPECT_TRUE(major > 6 || (major == 6 && minor >= 1));
  EXPECT_EFAULT(kBadWrite, sizeof u, p, syscall(SYS_uname, p));
}
TEST(sethostname_shows) {
  NEEDS_ROOT();
  if (unshare(CLONE_NEWUTS) < 0) SKIP("no UTS namespaces here");
  struct utsname u;
  OK(sethostname("guest", 5));
  OK(uname(&u));
  EXPECT_STR(u.nodename, "guest");
  EXPECT_ERR(sethostname("x", 65), EINVAL);
}
TEST(sysinfo_numbers) {
  struct sysinfo s;
  OK(sysinfo(&s));
  EXPECT_GT(s.totalram, 0);
  EXPECT_GE(s.uptime, 0);
  EXPECT_GT(s.procs, 0);
  EXPECT_GT(s.mem_unit, 0);
  EXPECT_EFAULT(kBadWrite, sizeof s, p, syscall(SYS_sysinfo, p));
}
TEST(getrandom_bytes) {
  unsigned char a[64] = {0}, b[64] = {0};
  EXPECT_EQ(getrandom(a, 64, 0), 64);
  EXPECT_EQ(getrandom(b, 64, GRND_NONBLOCK), 64);
  EXPECT_NE(memcmp(a, b, 64), 0);
  EXPECT_ERR(getrandom(a, 1, 0x80), EINVAL);
  EXPECT_ERR(getrandom(a, 1, GRND_RANDOM | GRND_INSECURE), EINVAL);
  EXPECT_EFAULT(kBadWrite, 1, p, syscall(SYS_getrandom, p, 1, 0));
  char *big = malloc(1 << 20);
  EXPECT_EQ(getrandom(big, 1 << 20, 0), 1 << 20);
  int fd = OK(open("/dev/urandom", O_RDONLY));
  EXPECT_EQ(read(fd, a, 64), 64);
}
TEST(prctl_dumpable_and_others) {
  EXPECT_EQ(prctl(PR_SET_DUMPABLE, 0), 0);
  EXPECT_EQ(prctl(PR_GET_DUMPABLE), 0);
  EXPECT_ERR(prctl(PR_SET_DUMPABLE, 9), EINVAL);
  EXPECT_ERR(prctl(999999), EINVAL);
  int signo = 1;
  EXPECT_EQ(prctl(PR_SET_PDEATHSIG, SIGTERM), 0);
  EXPECT_EQ(prctl(PR_GET_PDEATHSIG, &signo), 0);
  EXPECT_EQ(signo, SIGTERM);
  EXPECT_ERR(prctl(PR_SET_PDEATHSIG, 99), EINVAL);
  EXPECT_EQ(prctl(PR_SET_TIMERSLACK, 1000), 0);
  EXPECT_EQ(prctl(PR_GET_TIMERSLACK), 1000);
  int reaper;
  EXPECT_EQ(prctl(PR_GET_CHILD_SUBREAPER, &reaper), 0);
  EXPECT_EFAULT(kBadRead, 1, p, prctl(PR_SET_NAME, p));
}
TEST(priorities) {
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 0);
  OK(setpriority(PRIO_PROCESS, 0, 5));
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 5);
  EXPECT_ERR(setpriority(9, 0, 5), EINVAL);
  EXPECT_ERR(getpriority(PRIO_PROCESS, 999999), ESRCH);
  IN_CHILD(pid, EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 5));
  EXPECT_EXIT(pid, 0);
}
TEST(personality_reads) {
  EXPECT_EQ(personality(0xffffffff), 0);
  EXPECT_EQ(personality(ADDR_NO_RANDOMIZE), 0);
  EXPECT_EQ(personality(0xffffffff), ADDR_NO_RANDOMIZE);
}
TEST(unknown_numbers_are_enosys) {
  static const long numbers[] = {-1, 700, 1000, 4096, 0x3fffffff, 214, 215, 174, 177, 180, 183, 236};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(numbers[i]), "D"(0L), "S"(0L), "d"(0L) : "rcx", "r11", "memory");
    if (r != -ENOSYS) kit_fail(__FILE__, __LINE__, "call %ld gave %ld", numbers[i], r);
  }
}
TEST(high_argument_bits_are_cut) {
  EXPECT_ERR(syscall(SYS_close, 0xffffffff00000000UL | 0xffffffffUL), EBADF);
  int fd = OK(dup(0));
  EXPECT_EQ(syscall(SYS_close, 0x100000000UL | fd), 0);
  EXPECT_EQ(syscall(SYS_getpgid, 0x500000000UL), getpgrp());
}
TEST(system_call_keeps_registers) {
  unsigned long rbx = 1, r8 = 2, r9 = 3, r10 = 4, r12 = 5;
  register unsigned long r8_in __asm__("r8") = 0x88, r9_in __asm__("r9") = 0x99, r10_in __asm__("r10") = 0x10;
  long result = SYS_getppid;
  unsigned long rdi = 0xd1, rsi = 0x51, rdx = 0xd5;
  __asm__ volatile("syscall" : "+a"(result), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r8_in), "+r"(r9_in), "+r"(r10_in) : : "rcx", "r11", "memory");
  r8 = r8_in, r9 = r9_in, r10 = r10_in;
  EXPECT_EQ(result, getppid());
  EXPECT_TRUE(rdi == 0xd1 && rsi == 0x51 && rdx == 0xd5 && r8 == 0x88 && r9 == 0x99 && r10 == 0x10);
  EXPECT_TRUE(rbx == 1 && r12 == 5);
}
TEST(flags_survive_a_system_call) {
  unsigned long flags;
  __asm__ volatile("stc\n\tmovl $110, %%eax\n\tsyscall\n\tpushfq\n\tpopq %0" : "=r"(flags) : : "rax", "rcx", "r11", "memory", "cc");
  EXPECT_EQ(flags & 1, 1);
  __asm__ volatile("std\n\tmovl $110, %%eax\n\tsyscall\n\tpushfq\n\tpopq %0\n\tcld" : "=r"(flags) : : "rax", "rcx", "r11", "memory", "cc");
  EXPECT_EQ(flags & 0x400, 0x400);
}
TEST(vector_registers_survive_system_calls) {
  char a[32] __attribute__((aligned(32))), b[32] __attribute__((aligned(32)));
  for (int i = 0; i < 32; i++) a[i] = (char)(i * 7 + 1);
  static const int calls[] = {39, 110, 186, 102};
  for (int i = 0; i < 400; i++) {
    if (__builtin_cpu_supports("avx")) {
      __asm__ volatile("vmovdqa %1, %%ymm13\n\tsyscall\n\tvmovdqa %%ymm13, %0\n\tvzeroupper" : "=m"(b) : "m"(a), "a"(calls[i % 4])
                       : "rcx", "r11", "xmm13", "memory");
      ASSERT_EQ(memcmp(a, b, 32), 0);
    }
  }
}
