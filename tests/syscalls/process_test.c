// SPDX-License-Identifier: Apache-2.0
// fork, vfork, clone, clone3, exit, the wait family, process groups, sessions, orphans.
#include <sys/mman.h>
#include "kit.h"

#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#undef CLONE_NEWTIME

TEST(fork_ids) {
  pid_t me = getpid();
  IN_CHILD(pid, {
    EXPECT_EQ(getppid(), me);
    EXPECT_EQ(getpid(), syscall(SYS_gettid));
    EXPECT_TRUE(getpid() != me);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(exit_codes) {
  for (int i = 0; i < 256; i += 51) {
    IN_CHILD(pid, _exit(i));
    EXPECT_EXIT(pid, i);
  }
  IN_CHILD(big, _exit(0x1ff));
  EXPECT_EXIT(big, 0xff);
}
TEST(many_forks) {
  for (int i = 0; i < 100; i++) {
    pid_t pid = OK(fork());
    if (!pid) _exit(i & 0x7f);
    ASSERT_EQ(kit_wait(pid), (i & 0x7f) << 8);
  }
}
// Pages of processes that have ended are never seen by the next ones, which have a few pages of the same memory and the rest untouched.
TEST(children_see_nothing_of_dead_ones) {
  enum { kPage = 4096, kPages = 24, kUsed = 10 };
  unsigned char *m = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < kUsed; i++) m[i * kPage] = (unsigned char)(i + 1);
  for (int round = 0; round < 60; round++) {
    IN_CHILD(pid, {
      int strange = 0;
      for (int i = 0; i < kPages * kPage; i++) strange += m[i] != (i % kPage == 0 && i / kPage < kUsed ? i / kPage + 1 : 0);
      EXPECT_EQ(strange, 0);
      memset(m, 0xee, kPages * kPage);
    });
    EXPECT_EXIT(pid, 0);
    if (round % 8 != 0) continue;
    IN_CHILD(middle, {
      IN_CHILD(inner, {
        EXPECT_EQ(m[kPage], 2);
        m[kPage] = 9;
      });
      EXPECT_EXIT(inner, 0);
      EXPECT_EQ(m[kPage], 2);
      m[kPage] = 8;
    });
    EXPECT_EXIT(middle, 0);
  }
  EXPECT_EQ(m[kPage], 2);
  munmap(m, kPages * kPage);
}
TEST(many_children_at_once) {
  for (int i = 0; i < 40; i++)
    if (OK(fork()) == 0) {
      kit_sleep_ms(20);
      _exit(1);
    }
  int n = 0, status;
  while (wait(&status) > 0) n += WEXITSTATUS(status);
  EXPECT_EQ(errno, ECHILD);
  EXPECT_EQ(n, 40);
}
TEST(deep_process_chain) {
  int depth = 0;
  while (depth < 15) {
    pid_t pid = OK(fork());
    if (pid) {
      int status = kit_wait(pid);
      if (depth == 0) {
        EXPECT_EQ(WEXITSTATUS(status), 15);
        return;
      }
      _exit(WEXITSTATUS(status));
    }
    depth++;
  }
  _exit(depth);
}
TEST(waitpid_options) {
  EXPECT_ERR(waitpid(-1, NULL, 0), ECHILD);
  IN_CHILD(pid, { kit_sleep_ms(60); });
  EXPECT_EQ(waitpid(pid, NULL, WNOHANG), 0);
  EXPECT_ERR(waitpid(1, NULL, WNOHANG), ECHILD);
  EXPECT_ERR(waitpid(pid, NULL, 0x100), EINVAL);
  EXPECT_EQ(waitpid(0, NULL, 0), pid);
  EXPECT_ERR(waitpid(pid, NULL, 0), ECHILD);
  IN_CHILD(other, {});
  EXPECT_EQ(waitpid(-getpgrp(), NULL, 0), other);
}
TEST(wait_status_of_stop_and_continue) {
  IN_CHILD(pid, for (;;) pause());
  int status;
  OK(kill(pid, SIGSTOP));
  EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
  EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
  EXPECT_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);
  OK(kill(pid, SIGCONT));
  EXPECT_EQ(waitpid(pid, &status, WCONTINUED), pid);
  EXPECT_TRUE(WIFCONTINUED(status));
  OK(kill(pid, SIGKILL));
  EXPECT_KILLED(pid, SIGKILL);
}
TEST(waitid_info) {
  IN_CHILD(pid, _exit(7));
  siginfo_t i = {0};
  OK(waitid(P_PID, pid, &i, WEXITED | WNOWAIT));
  EXPECT_EQ(i.si_pid, pid);
  EXPECT_EQ(i.si_code, CLD_EXITED);
  EXPECT_EQ(i.si_status, 7);
  EXPECT_EQ(i.si_signo, SIGCHLD);
  OK(waitid(P_ALL, 0, &i, WEXITED));
  EXPECT_ERR(waitid(P_ALL, 0, &i, WEXITED), ECHILD);
  EXPECT_ERR(waitid(P_ALL, 0, &i, 0), EINVAL);
  EXPECT_ERR(waitid(77, 0, &i, WEXITED), EINVAL);
  IN_CHILD(killed, raise(SIGTERM));
  OK(waitid(P_PID, killed, &i, WEXITED));
  EXPECT_EQ(i.si_code, CLD_KILLED);
  EXPECT_EQ(i.si_status, SIGTERM);
  IN_CHILD(running, kit_sleep_ms(50));
  i.si_pid = 5;
  OK(waitid(P_PID, running, &i, WEXITED | WNOHANG));
  EXPECT_EQ(i.si_pid, 0);
  EXPECT_EXIT(running, 0);
}
TEST(wait4_usage) {
  IN_CHILD(pid, { long long t = kit_now_ns(); while (kit_now_ns() - t < 50000000) {} });
  struct rusage u;
  int status;
  EXPECT_EQ(wait4(pid, &status, 0, &u), pid);
  EXPECT_GT(u.ru_utime.tv_usec + u.ru_stime.tv_usec, 10000);
  struct rusage children;
  OK(getrusage(RUSAGE_CHILDREN, &children));
  EXPECT_GT(children.ru_utime.tv_usec + children.ru_stime.tv_usec, 10000);
}
TEST(ignored_sigchld_reaps) {
  signal(SIGCHLD, SIG_IGN);
  IN_CHILD(pid, {});
  EXPECT_ERR(waitpid(pid, NULL, 0), ECHILD);
}
TEST(no_child_wait) {
  struct sigaction a = {.sa_flags = SA_NOCLDWAIT};
  a.sa_handler = SIG_DFL;
  OK(sigaction(SIGCHLD, &a, NULL));
  IN_CHILD(pid, {});
  EXPECT_ERR(waitpid(pid, NULL, 0), ECHILD);
}
TEST(zombie_until_waited) {
  IN_CHILD(pid, {});
  kit_sleep_ms(50);
  EXPECT_EQ(kill(pid, 0), 0);
  char path[64];
  sprintf(path, "/proc/%d/stat", pid);
  EXPECT_TRUE(strstr(kit_read_file(path), ") Z "));
  EXPECT_EXIT(pid, 0);
  EXPECT_ERR(kill(pid, 0), ESRCH);
}
TEST(orphans_go_to_the_subreaper) {
  OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
  int p[2];
  pid_t orphan;
  OK(pipe(p));
  IN_CHILD(pid, {
    pid_t grandchild = fork();
    if (!grandchild) {
      kit_sleep_ms(60);
      _exit(getppid() == 1 ? 2 : 3);
    }
    OK(write(p[1], &grandchild, sizeof grandchild));
  });
  EXPECT_EXIT(pid, 0);
  OK(read(p[0], &orphan, sizeof orphan));
  EXPECT_EXIT(orphan, 3);
}
TEST(parent_death_signal) {
  int p[2];
  char c;
  OK(pipe(p));
  IN_CHILD(pid, {
    if (fork() == 0) {
      prctl(PR_SET_PDEATHSIG, SIGUSR1);
      kit_catch(SIGUSR1, 0);
      sigset_t s;
      sigemptyset(&s);
      OK(write(p[1], "r", 1));
      for (int i = 0; i < 300 && !kit_signals[SIGUSR1]; i++) kit_sleep_ms(10);
      OK(write(p[1], kit_signals[SIGUSR1] ? "y" : "n", 1));
      _exit(0);
    }
    read(p[0], &c, 1);
  });
  EXPECT_EXIT(pid, 0);
  OK(read(p[0], &c, 1));
  EXPECT_EQ(c, 'y');
}
TEST(process_groups) {
  pid_t me = getpid();
  EXPECT_EQ(getpgrp(), me);
  EXPECT_EQ(getpgid(0), me);
  IN_CHILD(pid, {
    EXPECT_EQ(getpgrp(), me);
    OK(setpgid(0, 0));
    EXPECT_EQ(getpgrp(), getpid());
    EXPECT_EQ(setpgid(0, me), 0);
    EXPECT_EQ(getpgrp(), me);
    EXPECT_ERR(setpgid(0, -1), EINVAL);
    EXPECT_ERR(setpgid(0, 999999), EPERM);
    EXPECT_ERR(setpgid(999999, 0), ESRCH);
  });
  EXPECT_EXIT(pid, 0);
  EXPECT_ERR(getpgid(999999), ESRCH);
}
TEST(sessions) {
  EXPECT_ERR(setsid(), EPERM);  // a group leader
  IN_CHILD(pid, {
    EXPECT_EQ(setsid(), getpid());
    EXPECT_EQ(getsid(0), getpid());
    EXPECT_EQ(getpgrp(), getpid());
    EXPECT_ERR(setpgid(0, 0), EPERM);
    EXPECT_EQ(open("/dev/tty", O_RDWR), -1);
    EXPECT_EQ(errno, ENXIO);
  });
  EXPECT_EXIT(pid, 0);
  EXPECT_ERR(getsid(999999), ESRCH);
}
TEST(setpgid_after_exec_is_refused) {
  int p[2];
  char c;
  OK(pipe2(p, O_CLOEXEC));
  IN_CHILD(pid, execl("/bin/sleep", "sleep", "5", NULL));
  close(p[1]);
  EXPECT_EQ(read(p[0], &c, 1), 0);
  EXPECT_ERR(setpgid(pid, pid), EACCES);
  kill(pid, SIGKILL);
  kit_wait(pid);
}
TEST(signal_to_a_group) {
  int p[2];
  OK(pipe(p));
  pid_t leader = OK(fork());
  if (!leader) {
    setpgid(0, 0);
    for (int i = 0; i < 3; i++)
      if (!fork()) for (;;) pause();
    write(p[1], "x", 1);
    for (;;) pause();
  }
  char c;
  OK(read(p[0], &c, 1));
  OK(kill(-leader, SIGTERM));
  EXPECT_KILLED(leader, SIGTERM);
  close(p[1]);
  EXPECT_EQ(read(p[0], &c, 1), 0);  // the last of them is gone
}
TEST(vfork_shares_memory_until_exec) {
  static volatile int value;
  pid_t pid = vfork();
  if (pid == 0) {
    value = 5;
    _exit(3);
  }
  EXPECT_EQ(value, 5);
  EXPECT_EXIT(pid, 3);
}
TEST(vfork_exec) {
  for (int i = 0; i < 20; i++) {
    pid_t pid = vfork();
    if (pid == 0) {
      execl("/bin/true", "true", NULL);
      _exit(9);
    }
    int status = kit_wait(pid);
    ASSERT_EQ(status, 0);
  }
}
static char stack[65536] __attribute__((aligned(16)));
static volatile int shared_value;
static int clone_body(void *argument) {
  shared_value = (int)(long)argument;
  return 11;
}
TEST(clone_vm_shares_memory) {
  pid_t pid = OK(clone(clone_body, stack + sizeof stack, CLONE_VM | SIGCHLD, (void *)42));
  EXPECT_EXIT(pid, 11);
  EXPECT_EQ(shared_value, 42);
}
static int close_fd(void *argument) { return close((int)(long)argument); }
TEST(clone_files_shares_descriptors) {
  int fd = OK(dup(0));
  pid_t pid = OK(clone(close_fd, stack + sizeof stack, CLONE_FILES | SIGCHLD, (void *)(long)fd));
  EXPECT_EXIT(pid, 0);
  EXPECT_ERR(fcntl(fd, F_GETFD), EBADF);
}
static int change_directory(void *argument) { return chdir(argument); }
TEST(clone_fs_shares_the_directory) {
  OK(mkdir("d", 0755));
  pid_t pid = OK(clone(change_directory, stack + sizeof stack, CLONE_FS | SIGCHLD, "d"));
  EXPECT_EXIT(pid, 0);
  char b[4096];
  EXPECT_TRUE(strstr(getcwd(b, sizeof b), "/d"));
}
TEST(clone_parent_tid_and_child_tid) {
  pid_t parent_tid = 0;
  static volatile pid_t child_tid;
  pid_t pid = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &parent_tid, &child_tid, 0);
  if (pid == 0) _exit(child_tid == (pid_t)syscall(SYS_getpid) ? 0 : 1);
  EXPECT_EQ(parent_tid, pid);
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(child_tid, 0);
}
TEST(clone_flag_errors) {
  EXPECT_ERR(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_clone, CLONE_NEWNS | CLONE_FS | SIGCHLD, 0, 0, 0, 0), EINVAL);
}
TEST(clone3_basics) {
  int pidfd = -1;
  struct clone_args a = {.flags = CLONE_PIDFD, .pidfd = (uint64_t)&pidfd, .exit_signal = SIGCHLD};
  long pid = syscall(SYS_clone3, &a, sizeof a);
  if (pid == 0) _exit(4);
  ASSERT_TRUE(pid > 0);
  EXPECT_GE(pidfd, 0);
  siginfo_t i = {0};
  EXPECT_EQ(waitid(P_PIDFD, pidfd, &i, WEXITED), 0);
  EXPECT_EQ(i.si_status, 4);
  EXPECT_ERR(syscall(SYS_clone3, &a, 8), EINVAL);
  a.flags = CLONE_PIDFD | CLONE_DETACHED;
  EXPECT_ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
  a = (struct clone_args){.exit_signal = 200};
  EXPECT_ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
  a = (struct clone_args){.exit_signal = SIGCHLD, .stack = 4096};
  EXPECT_ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_clone3, p, sizeof a));
}
TEST(pidfd_open_and_signal) {
  IN_CHILD(pid, for (;;) pause());
  int fd = OK(syscall(SYS_pidfd_open, pid, 0));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), 0);
  EXPECT_EQ(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0), 0);
  EXPECT_KILLED(pid, SIGTERM);
  EXPECT_ERR(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), ESRCH);
  EXPECT_ERR(syscall(SYS_pidfd_open, 999999, 0), ESRCH);
  EXPECT_ERR(syscall(SYS_pidfd_open, -1, 0), EINVAL);
  EXPECT_ERR(syscall(SYS_pidfd_open, getpid(), 8), EINVAL);
}
TEST(process_limit) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    struct rlimit l = {1, 1};
    OK(setrlimit(RLIMIT_NPROC, &l));
    OK(setuid(54321));
    EXPECT_ERR(fork(), EAGAIN);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(exit_signal_other_than_sigchld) {
  kit_catch(SIGUSR1, 0);
  kit_catch(SIGCHLD, 0);
  pid_t pid = syscall(SYS_clone, SIGUSR1, 0, 0, 0, 0);
  if (pid == 0) syscall(SYS_exit_group, 5);
  for (int i = 0; i < 100 && !kit_signals[SIGUSR1]; i++) kit_sleep_ms(5);
  EXPECT_EQ(kit_signals[SIGUSR1], 1);
  EXPECT_EQ(kit_signals[SIGCHLD], 0);
  EXPECT_ERR(waitpid(pid, NULL, 0), ECHILD);
  EXPECT_EQ(waitpid(pid, NULL, __WALL), pid);
}
TEST(core_flag_in_the_status) {
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  IN_CHILD(pid, abort());
  int status = kit_wait(pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && !WCOREDUMP(status));
}
