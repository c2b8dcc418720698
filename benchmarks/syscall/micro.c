// SPDX-License-Identifier: Apache-2.0
// Micro-benchmarks, libc only: `micro [name...]` prints `name nanoseconds` per measure, median of several rounds.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static char *block;
static int tmp_fd, root_fd, zero_fd, event_fd, epoll_fd, pair[2], pipes[2];
static char tmp_path[64], root_path[64];
static volatile int word;

static void getpid_raw(void) { syscall(SYS_getpid); }
static void gettid_raw(void) { syscall(SYS_gettid); }
static void getppid_call(void) { syscall(SYS_getppid); }
static void clock_vdso(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); }
static void clock_raw(void) { struct timespec t; syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t); }
static void yield(void) { sched_yield(); }
static void mask(void) { sigset_t s; sigprocmask(SIG_BLOCK, NULL, &s); }
static void futex_wake(void) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0); }
static void futex_changed(void) { syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, word + 1, 0, 0, 0); }
static void event_pair(void) { uint64_t v = 1; write(event_fd, &v, 8); read(event_fd, &v, 8); }
static void epoll_zero(void) { struct epoll_event e; epoll_wait(epoll_fd, &e, 1, 0); }
static void recv_again(void) { recv(pair[0], block, 1, MSG_DONTWAIT); }
static void unix_pair(void) { send(pair[0], block, 1, 0); recv(pair[1], block, 1, 0); }
static void pread_tmp(void) { pread(tmp_fd, block, 4096, 0); }
static void pwrite_tmp(void) { pwrite(tmp_fd, block, 4096, 0); }
static void pread_1m_tmp(void) { pread(tmp_fd, block, 1 << 20, 0); }
static void pwrite_1m_tmp(void) { pwrite(tmp_fd, block, 1 << 20, 0); }
static void pread_1m_root(void) { pread(root_fd, block, 1 << 20, 0); }
static void pwrite_1m_root(void) { pwrite(root_fd, block, 1 << 20, 0); }
static void fstat_tmp(void) { struct stat s; fstat(tmp_fd, &s); }
static void lseek_tmp(void) { lseek(tmp_fd, 0, SEEK_SET); }
static void stat_tmp(void) { struct stat s; stat(tmp_path, &s); }
static void open_tmp(void) { close(open(tmp_path, O_RDONLY)); }
static void pread_root(void) { pread(root_fd, block, 4096, 0); }
static void pwrite_root(void) { pwrite(root_fd, block, 4096, 0); }
static void fstat_root(void) { struct stat s; fstat(root_fd, &s); }
static void stat_root(void) { struct stat s; stat(root_path, &s); }
static void open_root(void) { close(open(root_path, O_RDONLY)); }
static void stat_env(void) { struct stat s; stat("/usr/bin/env", &s); }
static void stat_missing(void) { struct stat s; stat("/usr/bin/no-such-program", &s); }
static void read_zero(void) { read(zero_fd, block, 1); }
static void pipe_one(void) { write(pipes[1], block, 1); read(pipes[0], block, 1); }
static void pipe_64k(void) { write(pipes[1], block, 65536); read(pipes[0], block, 65536); }
static void create_unlink(void) {
  int fd = open("new", O_CREAT | O_RDWR | O_EXCL, 0600);
  write(fd, block, 1);
  close(fd);
  unlink("new");
}
static void mmap_touch(void) {
  char *m = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 65536; i += 4096) m[i] = 1;
  munmap(m, 65536);
}
static void mmap_untouched(void) {
  munmap(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 65536);
}
static void protect(void) {
  mprotect(block, 4096, PROT_READ);
  mprotect(block, 4096, PROT_READ | PROT_WRITE);
  block[0] = 1;
}
static void on_signal(int s) { (void)s; }
static void signal_self(void) { kill(getpid(), SIGUSR1); }
static void fork_wait(void) {
  pid_t p = fork();
  if (!p) _exit(0);
  waitpid(p, NULL, 0);
}
static void exec_true(void) {
  pid_t p = vfork();
  if (!p) {
    execl("/bin/true", "true", (char *)NULL);
    _exit(1);
  }
  waitpid(p, NULL, 0);
}
static void spawn_true(void) {
  static char *const argv[] = {"true", NULL};
  pid_t p;
  if (posix_spawn(&p, "/bin/true", NULL, NULL, argv, NULL) == 0) waitpid(p, NULL, 0);
}
// The first megabyte of a program file, mapped anew and read page by page.
static double map_touch_file(int rounds) {
  const size_t size = 1 << 20;
  int fd = open("/bin/bash", O_RDONLY);
  long long t = now_ns();
  for (int i = 0; i < rounds / 20; i++) {
    char *m = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (m == MAP_FAILED) return -1;
    for (size_t at = 0; at < size; at += 4096) (void)((volatile char *)m)[at];
    munmap(m, size);
  }
  t = now_ns() - t;
  close(fd);
  return (double)t / (rounds / 20) / 256;
}
static void fork_exec_true(void) {
  pid_t p = fork();
  if (!p) {
    execl("/bin/true", "true", (char *)NULL);
    _exit(1);
  }
  waitpid(p, NULL, 0);
}
static void fork_sh(void) {
  pid_t p = fork();
  if (!p) {
    execl("/bin/sh", "sh", "-c", "true", (char *)NULL);
    _exit(1);
  }
  waitpid(p, NULL, 0);
}
static void *thread_body(void *p) { return p; }
static void thread_join(void) {
  pthread_t t;
  if (pthread_create(&t, NULL, thread_body, NULL) == 0) pthread_join(t, NULL);
}
// A system call instruction of its own, which no pattern of a libc wrapper surrounds.
static void raw_site(void) {
  long r = SYS_getpid;
  __asm__ volatile("nop\n\tsyscall\n\tnop" : "+a"(r) : : "rcx", "r11", "memory");
}

static double faults(int rounds) {
  size_t size = 4096UL * 4096;
  char *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(m, size, MADV_NOHUGEPAGE);
  long long t = now_ns();
  for (size_t i = 0; i < size; i += 4096) m[i] = 1;
  t = now_ns() - t;
  munmap(m, size);
  (void)rounds;
  return (double)t / 4096;
}
static double ping_pong(int rounds, bool close_unused) {
  int a[2], b[2];
  char c = 0;
  if (pipe(a) || pipe(b)) return -1;
  pid_t p = fork();
  if (close_unused) close(p ? a[0] : a[1]), close(p ? b[1] : b[0]);
  if (!p) {
    for (int i = 0; i < rounds; i++)
      if (read(a[0], &c, 1) != 1 || write(b[1], &c, 1) != 1) _exit(1);
    _exit(0);
  }
  long long t = now_ns();
  for (int i = 0; i < rounds; i++)
    if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1) break;
  t = now_ns() - t;
  waitpid(p, NULL, 0);
  if (!close_unused) close(a[0]), close(b[1]);
  close(a[1]), close(b[0]);
  return (double)t / rounds;
}
// As a shell sets up a pipeline, and as programs do that leave all ends open on both sides.
static double pipe_ping_pong(int rounds) { return ping_pong(rounds, true); }
static double pipe_ping_pong_open(int rounds) { return ping_pong(rounds, false); }
static volatile int turn;
static void wait_turn(int want) {
  while (turn != want) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !want, 0, 0, 0);
}
static void give_turn(int to) {
  turn = to;
  syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}
static void *futex_partner(void *rounds) {
  for (long i = 0; i < (long)rounds; i++) {
    wait_turn(1);
    give_turn(0);
  }
  return NULL;
}
static double futex_ping_pong(int rounds) {
  pthread_t t;
  turn = 0;
  if (pthread_create(&t, NULL, futex_partner, (void *)(long)rounds)) return -1;
  long long start = now_ns();
  for (int i = 0; i < rounds; i++) {
    give_turn(1);
    wait_turn(0);
  }
  start = now_ns() - start;
  pthread_join(t, NULL);
  return (double)start / rounds;
}

// The copyright files of the installed packages, found without looking at their directories: each lookup is the first, so
// each of the rounds takes another fifth of them.
static double stat_cold(int rounds) {
  char path[512];
  struct stat s;
  struct dirent *e;
  long long spent = 0;
  int n = 0, index = 0;
  static int round;
  DIR *d = opendir("/var/lib/dpkg/info");
  (void)rounds;
  if (!d) return -1;
  while ((e = readdir(d))) {
    size_t length = strcspn(e->d_name, ":");
    char *list = strstr(e->d_name, ".list");
    if (!list || index++ % 5 != round % 5) continue;
    if ((size_t)(list - e->d_name) < length) length = (size_t)(list - e->d_name);
    snprintf(path, sizeof path, "/usr/share/doc/%.*s/copyright", (int)length, e->d_name);
    long long t = now_ns();
    if (stat(path, &s) == 0) n++, spent += now_ns() - t;
  }
  closedir(d);
  round++;
  return n ? (double)spent / n : -1;
}

static const struct { const char *name; void (*call)(void); double (*whole)(int); } measures[] = {
  {"getpid", getpid_raw, 0}, {"gettid", gettid_raw, 0}, {"getppid", getppid_call, 0}, {"raw site getpid", raw_site, 0},
  {"clock_gettime vdso", clock_vdso, 0}, {"clock_gettime raw", clock_raw, 0}, {"sched_yield", yield, 0}, {"sigprocmask", mask, 0},
  {"futex wake none", futex_wake, 0}, {"futex wait changed", futex_changed, 0}, {"eventfd write+read", event_pair, 0},
  {"epoll_wait 0", epoll_zero, 0}, {"recv EAGAIN", recv_again, 0}, {"unix send+recv 1", unix_pair, 0},
  {"pread 4k /tmp", pread_tmp, 0}, {"pwrite 4k /tmp", pwrite_tmp, 0}, {"pread 1M /tmp", pread_1m_tmp, 0}, {"pwrite 1M /tmp", pwrite_1m_tmp, 0},
  {"pread 1M root", pread_1m_root, 0}, {"pwrite 1M root", pwrite_1m_root, 0}, {"fstat /tmp", fstat_tmp, 0},
  {"lseek /tmp", lseek_tmp, 0}, {"stat /tmp", stat_tmp, 0}, {"open+close /tmp", open_tmp, 0}, {"creat+write+unlink", create_unlink, 0},
  {"pread 4k root", pread_root, 0}, {"pwrite 4k root", pwrite_root, 0}, {"fstat root", fstat_root, 0}, {"stat root", stat_root, 0},
  {"open+close root", open_root, 0}, {"stat /usr/bin/env", stat_env, 0}, {"stat missing", stat_missing, 0}, {"stat cold", 0, stat_cold}, {"read /dev/zero 1", read_zero, 0},
  {"pipe w+r 1", pipe_one, 0}, {"pipe w+r 64k", pipe_64k, 0}, {"mmap+touch+munmap 64k", mmap_touch, 0}, {"mmap+munmap 64k", mmap_untouched, 0},
  {"anon fault/page", 0, faults}, {"map+touch cached file/page", 0, map_touch_file}, {"mprotect r/rw", protect, 0}, {"kill self handler", signal_self, 0},
  {"pipe pingpong 2proc", 0, pipe_ping_pong}, {"pipe pingpong, all ends open", 0, pipe_ping_pong_open}, {"futex pingpong 2thr", 0, futex_ping_pong}, {"thread create+join", thread_join, 0},
  {"fork+exit+wait", fork_wait, 0}, {"fork+exec true+wait", fork_exec_true, 0}, {"vfork+exec true+wait", exec_true, 0},
  {"posix_spawn true+wait", spawn_true, 0},
  {"fork+exec sh -c true+wait", fork_sh, 0},
};

static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

// Rounds long enough to be measured (about 20 ms each), the median of seven.
static double measure(void (*call)(void)) {
  double results[7];
  long n = 1;
  for (;; n *= 2) {
    long long t = now_ns();
    for (long i = 0; i < n; i++) call();
    t = now_ns() - t;
    if (t > 5000000 || n > 1 << 22) break;
  }
  n *= 3;
  for (int k = 0; k < 7; k++) {
    long long t = now_ns();
    for (long i = 0; i < n; i++) call();
    results[k] = (double)(now_ns() - t) / n;
  }
  qsort(results, 7, sizeof *results, by_value);
  return results[3];
}

static void prepare(void) {
  const char *tmp = getenv("BENCH_TMPFS") ? getenv("BENCH_TMPFS") : "/dev/shm";
  block = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(block, 1, 1 << 20);
  snprintf(tmp_path, sizeof tmp_path, "%s/micro.%d", tmp, getpid());
  snprintf(root_path, sizeof root_path, "/var/tmp/micro.%d", getpid());
  tmp_fd = open(tmp_path, O_RDWR | O_CREAT, 0600);
  root_fd = open(root_path, O_RDWR | O_CREAT, 0600);
  zero_fd = open("/dev/zero", O_RDONLY);
  if (write(tmp_fd, block, 1 << 20) < 0 || write(root_fd, block, 1 << 20) < 0 || chdir(tmp) < 0) perror("prepare");
  event_fd = eventfd(0, 0);
  epoll_fd = epoll_create1(0);
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || pipe(pipes)) perror("prepare");
  struct epoll_event e = {EPOLLIN, {0}};
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, pair[0], &e);
  signal(SIGUSR1, on_signal);
}

int main(int argc, char **argv) {
  prepare();
  for (size_t i = 0; i < sizeof measures / sizeof *measures; i++) {
    int wanted = argc == 1;
    for (int k = 1; k < argc; k++) wanted |= strstr(measures[i].name, argv[k]) != NULL;
    if (!wanted) continue;
    double ns;
    if (measures[i].call) {
      ns = measure(measures[i].call);
    } else {
      double r[5];
      for (int k = 0; k < 5; k++) r[k] = measures[i].whole(2000);
      qsort(r, 5, sizeof *r, by_value);
      ns = r[2];
    }
    printf("%s\t%.1f\n", measures[i].name, ns);
    fflush(stdout);
  }
  unlink(tmp_path);
  unlink(root_path);
  return 0;
}
