// SPDX-License-Identifier: Apache-2.0
// What hostile guests have in common: finding the pages that the platform maps around the guest, attacking in children, and a witness.
#pragma once

#include "kit.h"

#include <pthread.h>
#include <setjmp.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#define MAYBE static __attribute__((unused))
#define P 4096UL
#define MAX_RANGES 256
struct range { uintptr_t start, end; bool writable; };
MAYBE struct range ranges[MAX_RANGES];
MAYBE int range_count;

MAYBE sigjmp_buf escape;
MAYBE void on_fault(int signo) { siglongjmp(escape, signo); }
MAYBE void catch_all(void) {
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
MAYBE bool can_read(uintptr_t at) {
  if (sigsetjmp(escape, 1)) return false;
  (void)*(volatile char *)at;
  return true;
}
MAYBE bool can_write(uintptr_t at) {
  if (sigsetjmp(escape, 1)) return false;
  volatile char *p = (volatile char *)at;
  *p = *p;
  return true;
}

MAYBE void need_sandbox(void) {
  struct utsname u;
  uname(&u);
  if (!strstr(u.release, "-runsc")) SKIP("only makes sense inside the sandbox");
}
MAYBE bool in_proc_maps(uintptr_t at) {
  static char *maps;
  if (!maps) maps = kit_read_file("/proc/self/maps");
  for (char *line = maps; line && *line; line = strchr(line, '\n'), line += line != NULL) {
    uintptr_t a = strtoul(line, NULL, 16), b = strtoul(strchr(line, '-') + 1, NULL, 16);
    if (at >= a && at < b) return true;
  }
  return false;
}
// What is mapped around the vDSO and is none of ours: the platform's own pages.
MAYBE void find_stub(void) {
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

// A file that is read so often that its pages stand where the stub reads them (the first window of the process): 0 where there is no such thing.
#define WINDOWS 0x12000000UL
#define WINDOW_BYTES (2UL << 20)
MAYBE int make_window(const char *path, char filling) {
  static char b[65536];
  memset(b, filling, sizeof b);
  const int fd = OK(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
  for (size_t at = 0; at < WINDOW_BYTES; at += sizeof b) ASSERT_EQ(pwrite(fd, b, sizeof b, (off_t)at), (ssize_t)sizeof b);
  kit_sleep_ms(20);  // its time of access is to be later than that of its last change
  for (size_t i = 0; i < 200; i++) ASSERT_EQ(pread(fd, b, 4096, (off_t)(i * 7919 % 500 * 4096)), 4096);
  return fd;
}
// The same of one that is written so often that the stub may do it.
MAYBE int make_window_to_write(const char *path, char filling) {
  static char b[4096];
  memset(b, filling, sizeof b);
  const int fd = make_window(path, filling);
  for (size_t i = 0; i < 400; i++) ASSERT_EQ(pwrite(fd, b, sizeof b, (off_t)(i * 7919 % 500 * 4096)), (ssize_t)sizeof b);
  return fd;
}
MAYBE volatile char *window(void) { return (volatile char *)((getauxval(AT_SYSINFO_EHDR) & ~0xfffffUL) + WINDOWS); }

// ---- the witness: another process of the sandbox, which checks itself until told to stop.
MAYBE int *board;  // shared: [0] stop, [1] rounds, [2] failures, [3] progress of the attacker
MAYBE char *bait;  // a page that the attacked code may well write to: never the board, by which the witness is led
MAYBE void witness_body(void) {
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
MAYBE pid_t start_witness(void) {
  board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  // With room on both sides: what is attacked adds a length to it, and the board may be its neighbour.
  bait = (char *)mmap(NULL, 17 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) + 8 * 4096;
  pid_t pid = OK(fork());
  if (!pid) witness_body();
  return pid;
}
MAYBE void end_witness(pid_t pid) {
  int before = board[1];
  for (int i = 0; i < 500 && board[1] < before + 3; i++) kit_sleep_ms(10);
  EXPECT_GE(board[1], before + 3);
  __atomic_store_n(&board[0], 1, __ATOMIC_SEQ_CST);
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(board[2], 0);
}
// Runs the attack in children; one that dies or makes no progress for a while is replaced from the next step on.
MAYBE void attack(int steps, void (*step)(int), int patience_ms, int budget_ms) {
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

MAYBE volatile bool done;
MAYBE unsigned seed;
MAYBE unsigned next_random(void) {
  seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5;
  return seed;
}
