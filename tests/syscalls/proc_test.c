// SPDX-License-Identifier: Apache-2.0
// The formats of /proc and /sys that programs read.
#include "kit.h"

#include <dirent.h>
#include <sys/sysmacros.h>

static char *need(const char *path) { return kit_read_file(path); }

TEST(self_status) {
  char *s = need("/proc/self/status"), want[64];
  sprintf(want, "\nPid:\t%d\n", getpid());
  EXPECT_TRUE(strstr(s, want));
  sprintf(want, "\nPPid:\t%d\n", getppid());
  EXPECT_TRUE(strstr(s, want));
  EXPECT_EQ(strncmp(s, "Name:\ttest\n", 11), 0);
  static const char *const fields[] = {"State:\tR", "Tgid:", "Uid:", "Gid:", "FDSize:", "VmRSS:", "VmSize:", "Threads:\t1", "SigPnd:",
    "SigBlk:", "SigCgt:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (!strstr(s, fields[i])) kit_fail(__FILE__, __LINE__, "no %s", fields[i]);
}
TEST(self_stat_has_52_fields) {
  char *s = need("/proc/self/stat");
  EXPECT_EQ(atoi(s), getpid());
  char *p = strrchr(s, ')');
  ASSERT_TRUE(p);
  int n = 2;
  for (p++; *p; p++) n += *p == ' ';
  EXPECT_EQ(n, 52);
  int ppid, pgrp, session;
  char state;
  EXPECT_EQ(sscanf(strrchr(s, ')') + 2, "%c %d %d %d", &state, &ppid, &pgrp, &session), 4);
  EXPECT_EQ(ppid, getppid());
  EXPECT_EQ(pgrp, getpgrp());
  EXPECT_EQ(session, getsid(0));
}
TEST(cmdline_comm_environ) {
  IN_CHILD(pid, {
    char *argv[] = {"sleep", "5", NULL};
    char *envp[] = {"A=b", NULL};
    execve("/bin/sleep", argv, envp);
  });
  kit_wait_asleep(pid);
  char path[64], b[64] = "";
  sprintf(path, "/proc/%d/cmdline", pid);
  int fd = OK(open(path, O_RDONLY));
  EXPECT_EQ(read(fd, b, 64), 8);
  EXPECT_EQ(memcmp(b, "sleep\0005", 8), 0);
  sprintf(path, "/proc/%d/comm", pid);
  EXPECT_STR(need(path), "sleep\n");
  sprintf(path, "/proc/%d/environ", pid);
  fd = OK(open(path, O_RDONLY));
  EXPECT_EQ(read(fd, b, 64), 4);
  kill(pid, SIGKILL);
  kit_wait(pid);
}
TEST(links_of_self) {
  char b[4096], cwd[4096];
  ssize_t n = OK(readlink("/proc/self/cwd", b, sizeof b));
  b[n] = 0;
  EXPECT_STR(b, getcwd(cwd, sizeof cwd));
  n = OK(readlink("/proc/self/root", b, sizeof b));
  EXPECT_TRUE(n == 1 && b[0] == '/');
  n = OK(readlink("/proc/self/exe", b, sizeof b));
  b[n] = 0;
  EXPECT_TRUE(strstr(b, "proc_test"));
  n = OK(readlink("/proc/self", b, sizeof b));
  b[n] = 0;
  EXPECT_EQ(atoi(b), getpid());
  n = OK(readlink("/proc/thread-self", b, sizeof b));
  b[n] = 0;
  EXPECT_TRUE(strstr(b, "/task/"));
}
TEST(fd_directory) {
  int fd = OK(dup2(0, 77));
  DIR *d = opendir("/proc/self/fd");
  ASSERT_TRUE(d);
  bool found = false;
  struct dirent *e;
  while ((e = readdir(d))) found |= atoi(e->d_name) == fd;
  EXPECT_TRUE(found);
  kit_write_file("f", "abc");
  int f = OK(open("f", O_RDONLY));
  lseek(f, 2, SEEK_SET);
  char path[64];
  sprintf(path, "/proc/self/fdinfo/%d", f);
  char *s = need(path);
  EXPECT_TRUE(strstr(s, "pos:\t2\n"));
  EXPECT_TRUE(strstr(s, "flags:\t0"));
  EXPECT_ERR(readlink("/proc/self/fd/555", path, 10), ENOENT);
}
TEST(maps_show_a_mapping) {
  char *m = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), want[64];
  OK(mprotect(m, 4096, PROT_NONE));
  char *s = need("/proc/self/maps");
  sprintf(want, "%lx-%lx r--p 00000000 00:00 0", (long)m + 4096, (long)m + 8192);
  EXPECT_TRUE(strstr(s, want));
  EXPECT_TRUE(strstr(s, "[stack]"));
  EXPECT_TRUE(strstr(s, "proc_test"));
  EXPECT_TRUE(strstr(s, "[heap]") || true);
  s = need("/proc/self/smaps");
  EXPECT_TRUE(strstr(s, "Rss:"));
  EXPECT_TRUE(strstr(need("/proc/self/statm"), " "));
}
TEST(mem_reads_and_writes) {
  int value = 42, got = 0, fd = OK(open("/proc/self/mem", O_RDWR));
  EXPECT_EQ(pread(fd, &got, sizeof got, (off_t)&value), sizeof got);
  EXPECT_EQ(got, 42);
  got = 43;
  EXPECT_EQ(pwrite(fd, &got, sizeof got, (off_t)&value), sizeof got);
  EXPECT_EQ(value, 43);
  EXPECT_ERR(pread(fd, &got, 4, 16), EIO);
}
TEST(meminfo_and_stat) {
  char *s = need("/proc/meminfo");
  long total = 0;
  EXPECT_EQ(sscanf(s, "MemTotal: %ld kB", &total), 1);
  EXPECT_GT(total, 1000);
  EXPECT_TRUE(strstr(s, "MemFree:") && strstr(s, "MemAvailable:") && strstr(s, "Cached:") && strstr(s, "SwapTotal:"));
  s = need("/proc/stat");
  EXPECT_EQ(strncmp(s, "cpu  ", 5), 0);
  EXPECT_TRUE(strstr(s, "\ncpu0 ") && strstr(s, "\nbtime ") && strstr(s, "\nprocesses "));
}
TEST(cpuinfo_matches_affinity) {
  char *s = need("/proc/cpuinfo");
  int n = 0;
  for (char *p = s; (p = strstr(p, "processor\t:")); p++) n++;
  EXPECT_EQ(n, sysconf(_SC_NPROCESSORS_ONLN));
  EXPECT_TRUE(strstr(s, "flags\t\t:") && strstr(s, "model name\t:"));
}
TEST(uptime_loadavg_version) {
  double a, b;
  EXPECT_EQ(sscanf(need("/proc/uptime"), "%lf %lf", &a, &b), 2);
  EXPECT_TRUE(a >= 0);
  int x, y, pid;
  EXPECT_EQ(sscanf(need("/proc/loadavg"), "%lf %lf %*f %d/%d %d", &a, &b, &x, &y, &pid), 5);
  EXPECT_EQ(strncmp(need("/proc/version"), "Linux version ", 14), 0);
}
TEST(mounts_and_filesystems) {
  char *s = need("/proc/self/mounts");
  EXPECT_TRUE(strstr(s, " / ") && strstr(s, " /proc proc "));
  s = need("/proc/self/mountinfo");
  int id, parent;
  EXPECT_EQ(sscanf(s, "%d %d", &id, &parent), 2);
  EXPECT_TRUE(strstr(s, " - proc "));
  EXPECT_TRUE(strstr(need("/proc/filesystems"), "nodev\tproc\n"));
}
TEST(sysctl_files) {
  EXPECT_GT(atoi(need("/proc/sys/kernel/pid_max")), 100);
  EXPECT_EQ(strncmp(need("/proc/sys/kernel/ostype"), "Linux\n", 6), 0);
  EXPECT_TRUE(strchr("012", need("/proc/sys/vm/overcommit_memory")[0]));
  EXPECT_GT(atol(need("/proc/sys/fs/file-max")), 100);
  EXPECT_EQ(strlen(need("/proc/sys/kernel/random/boot_id")), 37);
  char a[40];
  strcpy(a, need("/proc/sys/kernel/random/uuid"));
  EXPECT_NE(strcmp(a, need("/proc/sys/kernel/random/uuid")), 0);
}
TEST(all_processes_are_listed) {
  IN_CHILD(pid, for (;;) pause());
  DIR *d = opendir("/proc");
  bool self = false, child = false;
  struct dirent *e;
  while ((e = readdir(d))) self |= atoi(e->d_name) == getpid(), child |= atoi(e->d_name) == pid;
  EXPECT_TRUE(self && child);
  char path[64];
  sprintf(path, "/proc/%d", pid);
  int fd = OK(open(path, O_RDONLY));
  kill(pid, SIGKILL);
  kit_wait(pid);
  struct stat st;
  EXPECT_ERR(stat(path, &st), ENOENT);
  EXPECT_ERR(openat(fd, "status", O_RDONLY), ESRCH);
}
TEST(directory_of_a_dead_process) {
  IN_CHILD(pid, for (;;) pause());
  char path[64], b[1024];
  sprintf(path, "/proc/%d", pid);
  int dir = OK(open(path, O_RDONLY | O_DIRECTORY)), status = OK(openat(dir, "status", O_RDONLY)), task = OK(openat(dir, "task", O_RDONLY));
  struct stat st;
  OK(fstatat(dir, "status", &st, 0));
  kill(pid, SIGKILL);
  siginfo_t i;
  OK(waitid(P_PID, pid, &i, WEXITED | WNOWAIT));
  EXPECT_GE(openat(dir, "stat", O_RDONLY), 0);  // a zombie still has it
  kit_wait(pid);
  EXPECT_ERR(openat(dir, "status", O_RDONLY), ESRCH);
  EXPECT_ERR(openat(dir, "fd/0", O_RDONLY), ESRCH);
  EXPECT_ERR(openat(dir, "nosuch", O_RDONLY), ESRCH);
  EXPECT_ERR(fstatat(dir, "status", &st, 0), ESRCH);
  EXPECT_ERR(readlinkat(dir, "exe", b, sizeof b), ESRCH);
  sprintf(path, "%d", pid);
  EXPECT_ERR(openat(task, path, O_RDONLY), ESRCH);
  EXPECT_ERR(read(status, b, sizeof b), ESRCH);
  EXPECT_ERR(syscall(SYS_getdents64, dir, b, sizeof b), ENOENT);
  OK(fstat(dir, &st));
}
TEST(task_directory) {
  char path[64];
  sprintf(path, "/proc/self/task/%d/status", getpid());
  EXPECT_TRUE(strstr(need(path), "Name:"));
  EXPECT_ERR(access("/proc/self/task/999999", F_OK), ENOENT);
}
TEST(oom_limits_cgroup) {
  EXPECT_EQ(atoi(need("/proc/self/oom_score_adj")), 0);
  EXPECT_TRUE(strstr(need("/proc/self/limits"), "Max open files"));
  EXPECT_TRUE(strchr(need("/proc/self/cgroup"), ':'));
}
TEST(writes_are_refused) {
  EXPECT_TRUE(open("/proc/self/status", O_WRONLY) < 0 || write(3, "x", 1) < 0);
  EXPECT_TRUE(mkdir("/proc/x", 0755) < 0);
  EXPECT_TRUE(unlink("/proc/self/status") < 0);
  EXPECT_TRUE(open("/proc/new", O_CREAT | O_RDWR, 0600) < 0);
}
TEST(comm_can_be_written) {
  int fd = OK(open("/proc/self/comm", O_WRONLY));
  OK(write(fd, "renamed", 7));
  EXPECT_STR(need("/proc/self/comm"), "renamed\n");
}
TEST(net_files) {
  EXPECT_TRUE(strstr(need("/proc/net/dev"), "lo:"));
  EXPECT_TRUE(strstr(need("/proc/net/tcp"), "local_address"));
  EXPECT_TRUE(strstr(need("/proc/net/unix"), "Num"));
}
TEST(sys_files) {
  EXPECT_EQ(access("/sys/devices/system/cpu", F_OK), 0);
  EXPECT_TRUE(strlen(need("/sys/devices/system/cpu/online")) > 0);
}
TEST(dev_nodes) {
  static const struct { const char *path; int major, minor; } nodes[] = {{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7},
    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
  struct stat st;
  for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
    OK(stat(nodes[i].path, &st));
    EXPECT_TRUE(S_ISCHR(st.st_mode) && st.st_rdev == makedev(nodes[i].major, nodes[i].minor));
  }
  OK(lstat("/dev/fd", &st));
  EXPECT_TRUE(S_ISLNK(st.st_mode));
  EXPECT_EQ(access("/dev/stdin", F_OK), 0);
  EXPECT_EQ(access("/dev/shm", W_OK), 0);
}
TEST(small_reads_and_seeks) {
  char *whole = need("/proc/self/limits");
  int fd = OK(open("/proc/self/limits", O_RDONLY));
  char text[8192] = "";
  size_t n = 0;
  while (n < sizeof text - 1 && read(fd, text + n, 1) == 1) n++;
  EXPECT_STR(text, whole);
  char b[8] = "";
  EXPECT_EQ(pread(fd, b, 5, 6), 5);
  EXPECT_EQ(memcmp(b, whole + 6, 5), 0);
}
