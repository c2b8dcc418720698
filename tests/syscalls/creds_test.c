// SPDX-License-Identifier: Apache-2.0
// uid and gid calls, groups, capabilities, securebits, no_new_privs.
#include "kit.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

static void get_ids(uid_t want_r, uid_t want_e, uid_t want_s) {
  uid_t r, e, s;
  OK(getresuid(&r, &e, &s));
  EXPECT_EQ(r, want_r);
  EXPECT_EQ(e, want_e);
  EXPECT_EQ(s, want_s);
}
static unsigned long caps(int which) {
  struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct d[2];
  OK(syscall(SYS_capget, &h, d));
  unsigned long low = which == 0 ? d[0].effective : which == 1 ? d[0].permitted : d[0].inheritable;
  unsigned long high = which == 0 ? d[1].effective : which == 1 ? d[1].permitted : d[1].inheritable;
  return low | high << 32;
}

TEST(setuid_of_root_sets_all) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    OK(setuid(1000));
    get_ids(1000, 1000, 1000);
    EXPECT_ERR(setuid(0), EPERM);
    EXPECT_EQ(caps(0), 0);
    EXPECT_EQ(caps(1), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(seteuid_comes_back) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    OK(seteuid(1000));
    get_ids(0, 1000, 0);
    EXPECT_EQ(caps(0), 0);
    EXPECT_NE(caps(1), 0);
    OK(seteuid(0));
    EXPECT_NE(caps(0), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(setresuid_rules) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    OK(setresuid(10, 20, 30));
    get_ids(10, 20, 30);
    OK(setresuid(-1, 30, -1));
    get_ids(10, 30, 30);
    EXPECT_ERR(setresuid(40, -1, -1), EPERM);
    OK(setresuid(30, 10, -1));
    get_ids(30, 10, 30);
    OK(setreuid(-1, 30));
    EXPECT_ERR(setreuid(77, -1), EPERM);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(setgid_rules) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    gid_t r; gid_t e; gid_t s;
    OK(setresgid(10, 20, 30));
    OK(getresgid(&r, &e, &s));
    EXPECT_TRUE(r == 10 && e == 20 && s == 30);
    OK(setuid(1000));
    EXPECT_EQ(setgid(30), 0);
    EXPECT_ERR(setgid(0), EPERM);
    EXPECT_EQ(setregid(10, 30), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(groups) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    gid_t g[3] = {7, 8, 9};
    gid_t got[3];
    OK(setgroups(3, g));
    EXPECT_EQ(getgroups(0, NULL), 3);
    EXPECT_ERR(getgroups(2, got), EINVAL);
    EXPECT_EQ(getgroups(3, got), 3);
    EXPECT_EQ(got[2], 9);
    EXPECT_ERR(syscall(SYS_setgroups, 65537, g), EINVAL);
    EXPECT_EFAULT(kBadRead, 12, p, syscall(SYS_setgroups, 3, p));
    EXPECT_EFAULT(kBadWrite, 12, p, syscall(SYS_getgroups, 3, p));
    OK(setuid(1000));
    EXPECT_ERR(setgroups(0, NULL), EPERM);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(getresuid_efault) {
  uid_t x;
  EXPECT_EFAULT(kBadWrite, 4, p, syscall(SYS_getresuid, p, &x, &x));
  EXPECT_EFAULT(kBadWrite, 4, p, syscall(SYS_getresgid, &x, &x, p));
}
TEST(capget_versions) {
  struct __user_cap_header_struct h = {0, 0};
  struct __user_cap_data_struct d[2];
  EXPECT_EQ(syscall(SYS_capget, &h, NULL), 0);
  EXPECT_EQ(h.version, _LINUX_CAPABILITY_VERSION_3);
  h.version = 0;
  EXPECT_ERR(syscall(SYS_capget, &h, d), EINVAL);
  h.version = _LINUX_CAPABILITY_VERSION_3, h.pid = 999999;
  EXPECT_ERR(syscall(SYS_capget, &h, d), ESRCH);
  h.pid = -1;
  EXPECT_ERR(syscall(SYS_capget, &h, d), EINVAL);
  EXPECT_EFAULT(kBadRead, 1, p, syscall(SYS_capget, p, d));
}
TEST(capabilities_can_only_be_given_up) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2];
    OK(syscall(SYS_capget, &h, d));
    unsigned old = d[0].permitted;
    d[0].effective = d[0].permitted = d[0].inheritable = 1u << CAP_KILL;
    d[1].effective = d[1].permitted = d[1].inheritable = 0;
    OK(syscall(SYS_capset, &h, d));
    EXPECT_EQ(caps(1), 1UL << CAP_KILL);
    d[0].permitted = old;
    EXPECT_ERR(syscall(SYS_capset, &h, d), EPERM);
    EXPECT_ERR(setuid(77), EPERM);
    EXPECT_ERR(chown(".", 5, 5), EPERM);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(root_regains_capabilities_at_exec) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {{0}};
    OK(syscall(SYS_capset, &h, d));
    execl("/bin/sh", "sh", "-c", "! grep -q 'CapEff:.0000000000000000' /proc/self/status", NULL);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(keep_capabilities) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    OK(prctl(PR_SET_KEEPCAPS, 1));
    OK(setuid(1000));
    EXPECT_EQ(caps(0), 0);
    EXPECT_NE(caps(1), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(bounding_and_ambient_sets) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    EXPECT_EQ(prctl(PR_CAPBSET_READ, CAP_KILL), 1);
    OK(prctl(PR_CAPBSET_DROP, CAP_KILL));
    EXPECT_EQ(prctl(PR_CAPBSET_READ, CAP_KILL), 0);
    EXPECT_ERR(prctl(PR_CAPBSET_READ, 999), EINVAL);
    EXPECT_ERR(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0), EPERM);
    EXPECT_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 0);
    EXPECT_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), 0);
  });
  EXPECT_EXIT(pid, 0);
}
TEST(no_new_privs_stays) {
  EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
  OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
  EXPECT_ERR(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
  IN_CHILD(pid, EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1));
  EXPECT_EXIT(pid, 0);
}
TEST(proc_status_shows_ids) {
  NEEDS_ROOT();
  IN_CHILD(pid, {
    OK(setresuid(11, 12, 13));
    execl("/bin/sh", "sh", "-c", "grep -q '^Uid:.11.12.1[23].12$' /proc/$$/status", NULL);
  });
  int s = kit_wait(pid);
  EXPECT_TRUE(WIFEXITED(s));
}
