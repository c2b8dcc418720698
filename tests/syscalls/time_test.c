// SPDX-License-Identifier: Apache-2.0
// clock_*, nanosleep, gettimeofday, itimers, POSIX timers, alarm, times; through the vDSO and raw.
#include "kit.h"

#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <time.h>

static long long raw_now(int clock) {
  struct timespec t;
  OK(syscall(SYS_clock_gettime, clock, &t));
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

TEST(clocks_advance) {
  static const int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE,
    CLOCK_MONOTONIC_COARSE, CLOCK_TAI};
  for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
    long long a = raw_now(clocks[i]);
    kit_sleep_ms(15);
    EXPECT_GT(raw_now(clocks[i]), a);
  }
}
TEST(vdso_agrees_with_the_kernel) {
  struct timespec t;
  for (int i = 0; i < 200; i++) {
    long long before = raw_now(CLOCK_MONOTONIC);
    clock_gettime(CLOCK_MONOTONIC, &t);
    long long middle = t.tv_sec * 1000000000LL + t.tv_nsec, after = raw_now(CLOCK_MONOTONIC);
    ASSERT_TRUE(before <= middle && middle <= after);
  }
  long long before = raw_now(CLOCK_REALTIME);
  struct timeval v;
  gettimeofday(&v, NULL);
  EXPECT_GE(v.tv_sec * 1000000000LL + v.tv_usec * 1000LL + 1000, before);
  EXPECT_LE(time(NULL) - v.tv_sec, 1);
}
TEST(vdso_is_there) { EXPECT_NE(getauxval(AT_SYSINFO_EHDR), 0); }
TEST(process_and_thread_clocks) {
  long long p = raw_now(CLOCK_PROCESS_CPUTIME_ID), t = raw_now(CLOCK_THREAD_CPUTIME_ID), start = kit_now_ns();
  while (kit_now_ns() - start < 60000000) {
  }
  EXPECT_GT(raw_now(CLOCK_PROCESS_CPUTIME_ID) - p, 10000000);
  EXPECT_GT(raw_now(CLOCK_THREAD_CPUTIME_ID) - t, 10000000);
}
TEST(clock_errors) {
  struct timespec t;
  EXPECT_ERR(syscall(SYS_clock_gettime, 99, &t), EINVAL);
  EXPECT_ERR(syscall(SYS_clock_getres, 99, &t), EINVAL);
  EXPECT_EQ(syscall(SYS_clock_getres, CLOCK_MONOTONIC, &t), 0);
  EXPECT_EQ(t.tv_nsec, 1);
  EXPECT_EQ(syscall(SYS_clock_getres, CLOCK_MONOTONIC, NULL), 0);
  EXPECT_EFAULT(kBadWrite, 16, p, syscall(SYS_clock_gettime, CLOCK_REALTIME, p));
  EXPECT_EFAULT(kBadWrite, 16, p, p ? syscall(SYS_gettimeofday, p, NULL) : (errno = EFAULT, -1));
  EXPECT_EFAULT(kBadWrite, 8, p, p ? syscall(SYS_time, p) : (errno = EFAULT, -1));
}
TEST(clock_settime_refused_without_rights) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    OK(setuid(1000));
    struct timespec t = {1000, 0};
    EXPECT_ERR(syscall(SYS_clock_settime, CLOCK_REALTIME, &t), EPERM);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(nanosleep_sleeps) {
  struct timespec t = {0, 30000000};
  long long start = kit_now_ns();
  EXPECT_EQ(nanosleep(&t, NULL), 0);
  EXPECT_GE(kit_now_ns() - start, 30000000);
  t.tv_nsec = 1000000000;
  EXPECT_ERR(syscall(SYS_nanosleep, &t, NULL), EINVAL);
  t = (struct timespec){-1, 0};
  EXPECT_ERR(syscall(SYS_nanosleep, &t, NULL), EINVAL);
  EXPECT_EFAULT(kBadRead, 16, p, syscall(SYS_nanosleep, p, NULL));
}
TEST(nanosleep_interrupted_tells_the_rest) {
  kit_catch(SIGALRM, SA_RESTART);
  struct timespec t = {2, 0}, rest = {0, 0};
  ualarm(50000, 0);
  EXPECT_ERR(nanosleep(&t, &rest), EINTR);
  EXPECT_TRUE(rest.tv_sec == 1 && rest.tv_nsec > 500000000);
}
TEST(nanosleep_goes_on_after_a_stop) {
  IN_CHILD(pid, {
    struct timespec t = {0, 200000000};
    long long start = kit_now_ns();
    EXPECT_EQ(nanosleep(&t, NULL), 0);
    EXPECT_GE(kit_now_ns() - start, 200000000);
  });
  kit_sleep_ms(50);
  OK(kill(pid, SIGSTOP));
  OK(waitpid(pid, NULL, WUNTRACED));
  OK(kill(pid, SIGCONT));
  EXPECT_EXIT(pid, 0);
}
TEST(clock_nanosleep_absolute) {
  long long at = kit_now_ns() + 30000000;
  struct timespec t = {at / 1000000000, at % 1000000000};
  EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
  EXPECT_GE(kit_now_ns(), at);
  EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
  EXPECT_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL), EINVAL);
  EXPECT_EQ(clock_nanosleep(99, 0, &t, NULL), EINVAL);
}
TEST(alarm_and_itimer_real) {
  kit_catch(SIGALRM, 0);
  EXPECT_EQ(alarm(100), 0);
  EXPECT_EQ(alarm(0), 100);
  struct itimerval v = {{0, 10000}, {0, 10000}}, left;
  OK(setitimer(ITIMER_REAL, &v, NULL));
  while (kit_signals[SIGALRM] < 3) pause();
  OK(getitimer(ITIMER_REAL, &left));
  EXPECT_EQ(left.it_interval.tv_usec, 10000);
  v = (struct itimerval){{0, 0}, {0, 0}};
  OK(setitimer(ITIMER_REAL, &v, &left));
  EXPECT_EQ(left.it_interval.tv_usec, 10000);
  int n = kit_signals[SIGALRM];
  kit_sleep_ms(30);
  EXPECT_EQ(kit_signals[SIGALRM], n);
}
TEST(itimer_virtual_and_prof) {
  kit_catch(SIGVTALRM, 0);
  kit_catch(SIGPROF, 0);
  struct itimerval v = {{0, 0}, {0, 20000}};
  OK(setitimer(ITIMER_VIRTUAL, &v, NULL));
  OK(setitimer(ITIMER_PROF, &v, NULL));
  long long start = kit_now_ns();
  while ((!kit_signals[SIGVTALRM] || !kit_signals[SIGPROF]) && kit_now_ns() - start < 3000000000LL) {
  }
  EXPECT_EQ(kit_signals[SIGVTALRM], 1);
  EXPECT_EQ(kit_signals[SIGPROF], 1);
}
TEST(itimer_errors) {
  struct itimerval v = {{0, 0}, {0, 1000000}};
  EXPECT_ERR(syscall(SYS_setitimer, ITIMER_REAL, &v, NULL), EINVAL);
  v.it_value.tv_usec = 0;
  EXPECT_ERR(syscall(SYS_setitimer, 9, &v, NULL), EINVAL);
  EXPECT_ERR(syscall(SYS_getitimer, 9, &v), EINVAL);
  EXPECT_EFAULT(kBadWrite, sizeof v, p, syscall(SYS_getitimer, ITIMER_REAL, p));
}
TEST(posix_timer_signals) {
  kit_catch(SIGUSR1, 0);
  struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
  timer_t id;
  OK(timer_create(CLOCK_MONOTONIC, &e, &id));
  struct itimerspec t = {{0, 5000000}, {0, 5000000}}, left;
  OK(timer_settime(id, 0, &t, NULL));
  while (kit_signals[SIGUSR1] < 3) pause();
  OK(timer_gettime(id, &left));
  EXPECT_EQ(left.it_interval.tv_nsec, 5000000);
  OK(timer_delete(id));
  EXPECT_ERR(timer_delete(id), EINVAL);
}
TEST(posix_timer_overrun) {
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &s, NULL));
  struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 31};
  timer_t id;
  OK(timer_create(CLOCK_MONOTONIC, &e, &id));
  struct itimerspec t = {{0, 2000000}, {0, 2000000}};
  OK(timer_settime(id, 0, &t, NULL));
  kit_sleep_ms(50);
  siginfo_t i;
  EXPECT_EQ(sigwaitinfo(&s, &i), SIGUSR1);
  EXPECT_EQ(i.si_code, SI_TIMER);
  EXPECT_EQ(i.si_value.sival_int, 31);
  EXPECT_GE(i.si_overrun, 10);
}
TEST(posix_timer_none_and_errors) {
  struct sigevent e = {.sigev_notify = SIGEV_NONE};
  timer_t id;
  OK(timer_create(CLOCK_REALTIME, &e, &id));
  struct itimerspec t = {{0, 0}, {100, 0}}, left;
  OK(timer_settime(id, 0, &t, NULL));
  OK(timer_gettime(id, &left));
  EXPECT_GE(left.it_value.tv_sec, 99);
  e.sigev_notify = 77;
  EXPECT_ERR(timer_create(CLOCK_REALTIME, &e, &id), EINVAL);
  e.sigev_notify = SIGEV_SIGNAL, e.sigev_signo = 100;
  EXPECT_ERR(timer_create(CLOCK_REALTIME, &e, &id), EINVAL);
  EXPECT_ERR(timer_create(99, NULL, &id), EINVAL);
  t.it_value.tv_nsec = -1;
  EXPECT_ERR(syscall(SYS_timer_settime, 0, 0, &t, NULL), EINVAL);
  EXPECT_ERR(syscall(SYS_timer_gettime, 12345, &t), EINVAL);
  EXPECT_ERR(syscall(SYS_timer_getoverrun, 12345), EINVAL);
}
TEST(timers_are_not_inherited) {
  kit_catch(SIGALRM, 0);
  ualarm(30000, 0);
  IN_CHILD(pid, {
    struct itimerval v;
    getitimer(ITIMER_REAL, &v);
    EXPECT_EQ(v.it_value.tv_usec, 0);
    kit_sleep_ms(60);
    EXPECT_EQ(kit_signals[SIGALRM], 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(alarm_survives_exec) {
  IN_CHILD(pid, {
    ualarm(100000, 0);
    execl("/bin/sleep", "sleep", "5", NULL);
  });
  EXPECT_KILLED(pid, SIGALRM);
}
TEST(times_and_rusage) {
  struct tms t;
  EXPECT_GT(times(&t), 0);
  struct rusage u;
  EXPECT_EQ(getrusage(RUSAGE_SELF, &u), 0);
  EXPECT_GT(u.ru_maxrss, 0);
  EXPECT_EQ(getrusage(RUSAGE_THREAD, &u), 0);
  EXPECT_ERR(getrusage(77, &u), EINVAL);
  EXPECT_EFAULT(kBadWrite, sizeof u, p, syscall(SYS_getrusage, RUSAGE_SELF, p));
}
TEST(adjtimex_reads) {
  struct timex x = {0};
  EXPECT_GE(adjtimex(&x), 0);
}
