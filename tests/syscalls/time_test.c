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
  EXPECT_EQ(timer_getoverrun(id), i.si_overrun);
}
TEST(posix_timer_overrun_of_a_handler) {
  static volatile int overrun, value, deliveries;
  static timer_t id;
  void on_timer(int, siginfo_t * i, void *) {
    overrun = i->si_overrun, value = i->si_value.sival_int, deliveries++;
  }
  sigset_t s, old;
  sigemptyset(&s);
  sigaddset(&s, SIGUSR1);
  struct sigaction a = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
  OK(sigaction(SIGUSR1, &a, NULL));
  OK(sigprocmask(SIG_BLOCK, &s, &old));
  raise(SIGUSR1);  // what is pending already does not take the timer's place
  struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 32};
  OK(timer_create(CLOCK_MONOTONIC, &e, &id));
  struct itimerspec t = {{0, 1000000}, {0, 1000000}}, off = {{0, 0}, {0, 0}};
  OK(timer_settime(id, 0, &t, NULL));
  EXPECT_EQ(timer_getoverrun(id), 0);
  kit_sleep_ms(30);
  EXPECT_EQ(timer_getoverrun(id), 0);  // counted at delivery
  OK(sigprocmask(SIG_SETMASK, &old, NULL));
  EXPECT_GE(deliveries, 2);
  EXPECT_EQ(value, 32);
  OK(timer_settime(id, 0, &off, NULL));
  EXPECT_EQ(timer_getoverrun(id), 0);
  // While it is ignored nothing is queued; the expiries count for the next signal.
  a.sa_handler = SIG_IGN, a.sa_flags = 0;
  OK(sigaction(SIGUSR1, &a, NULL));
  OK(timer_settime(id, 0, &t, NULL));
  kit_sleep_ms(30);
  overrun = value = 0;
  a.sa_sigaction = on_timer, a.sa_flags = SA_SIGINFO;
  OK(sigaction(SIGUSR1, &a, NULL));
  for (int i = 0; i < 1000 && value == 0; i++) kit_sleep_ms(1);
  EXPECT_EQ(value, 32);
  OK(timer_delete(id));
  EXPECT_ERR(timer_getoverrun(id), EINVAL);
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
  EXPECT_TRUE(x.time.tv_sec >= time(NULL) - 1 && x.time.tv_sec <= time(NULL) + 1);
  EXPECT_EQ(x.tolerance, 32768000);
  EXPECT_TRUE(x.tick >= 9000 && x.tick <= 11000);
  x.modes = 0;
  EXPECT_GE(clock_adjtime(CLOCK_REALTIME, &x), 0);
  x.modes = ADJ_OFFSET_SS_READ;
  EXPECT_GE(adjtimex(&x), 0);
  x.modes = 0;
  EXPECT_ERR(clock_adjtime(CLOCK_MONOTONIC, &x), EOPNOTSUPP);
  EXPECT_ERR(clock_adjtime(77, &x), EINVAL);
  EXPECT_EFAULT(kBadWrite, sizeof x, p, syscall(SYS_adjtimex, p));
  EXPECT_EFAULT(kBadWrite, sizeof x, p, syscall(SYS_clock_adjtime, CLOCK_REALTIME, p));
}
TEST(adjtimex_changes_need_the_capability) {
  struct timex x = {.modes = ADJ_FREQUENCY};
  IN_CHILD(pid, {
    if (getuid() == 0) OK(setuid(65534));
    EXPECT_ERR(adjtimex(&x), EPERM);
    x.modes = ADJ_OFFSET_SINGLESHOT;
    EXPECT_ERR(clock_adjtime(CLOCK_REALTIME, &x), EPERM);
    x.modes = 0x8000;
    EXPECT_ERR(adjtimex(&x), EINVAL);
    x.modes = 0;
    EXPECT_GE(adjtimex(&x), 0);
  });
  EXPECT_EXIT(pid, 0);
}
