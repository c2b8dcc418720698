// SPDX-License-Identifier: Apache-2.0
// A guest that tries to reach files outside its root: by `..`, symlinks, /proc/self/fd and root links, bind mounts,
// and renames while a path is walked. The marker lies on the host at /marker-dir/marker outside the root; see tests/security/run.
#include "kit.h"

#include <pthread.h>
#include <sys/mount.h>

static const char *marker_name(void) {
  const char *name = getenv("MARKER");  // absolute on the host
  if (!name) SKIP("MARKER is not set");
  return name;
}
static void must_not_open(const char *path) {
  int fd = open(path, O_RDONLY);
  if (fd >= 0) {
    char b[64] = "";
    read(fd, b, 63);
    kit_fail(__FILE__, __LINE__, "%s could be opened: %s", path, b);
    close(fd);
  }
  fd = open(path, O_WRONLY);
  if (fd >= 0) kit_fail(__FILE__, __LINE__, "%s could be opened for writing", path), close(fd);
}

TEST(dots_and_absolute_paths) {
  char path[4096] = "";
  must_not_open(marker_name());
  for (int i = 0; i < 20; i++) strcat(path, "../");
  strcat(path, marker_name() + 1);
  must_not_open(path);
  snprintf(path, sizeof path, "/proc/self/root/..%s", marker_name());
  must_not_open(path);
  snprintf(path, sizeof path, "/proc/1/root%s", marker_name());
  must_not_open(path);
  snprintf(path, sizeof path, "/proc/self/cwd/../../../../..%s", marker_name());
  must_not_open(path);
}
TEST(symlinks_of_the_image) {
  marker_name();
  must_not_open("/links/absolute");
  must_not_open("/links/relative");
  must_not_open("/links/directory/marker");
  must_not_open("/links/through/../../../../marker");
  must_not_open("/bind/absolute");
  must_not_open("/bind/relative");
  must_not_open("/bind/directory/marker");
}
TEST(descriptor_links) {
  char path[4096];
  int root = OK(open("/", O_RDONLY | O_DIRECTORY));
  snprintf(path, sizeof path, "/proc/self/fd/%d/../../..%s", root, marker_name());
  must_not_open(path);
  int up = OK(openat(root, "../../..", O_RDONLY | O_DIRECTORY));
  EXPECT_TRUE(openat(up, marker_name() + 1, O_RDONLY) < 0);
  for (int fd = 0; fd < 200; fd++) {
    snprintf(path, sizeof path, "/proc/self/fd/%d/..%s", fd, marker_name());
    must_not_open(path);
  }
}
TEST(chroot_does_not_lead_out) {
  NEEDS_ROOT();
  marker_name();
  OK(mkdir("jail", 0755));
  int here = OK(open(".", O_RDONLY));
  if (chroot("jail") < 0) SKIP("no chroot");
  fchdir(here);
  for (int i = 0; i < 50; i++) chdir("..");
  EXPECT_TRUE(open(marker_name() + 1, O_RDONLY) < 0);
}
TEST(new_links_and_mounts) {
  char path[4096];
  OK(symlink(marker_name(), "link"));
  must_not_open("link");
  link(marker_name(), "hard");
  must_not_open("hard");
  mkdir("m", 0755);
  mount("/../../..", "m", NULL, MS_BIND, NULL);
  snprintf(path, sizeof path, "m%s", marker_name());
  must_not_open(path);
  mknod("disk", S_IFBLK | 0600, 0xfe00);
  int fd = open("disk", O_RDONLY);
  char b[512];
  EXPECT_TRUE(fd < 0 || read(fd, b, 512) < 0);
}
static volatile bool stop;
static void *swap_forever(void *p) {
  (void)p;
  while (!stop) {
    rename("/bind/a/b", "/bind/c");
    rename("/bind/c", "/bind/a/b");
    unlink("/bind/s");
    symlink("/", "/bind/s");
    unlink("/bind/s");
    mkdir("/bind/s", 0755);
    rmdir("/bind/s");
  }
  return NULL;
}
TEST_TIMEOUT(renames_during_walks, 30) {
  if (access("/bind", W_OK) < 0) SKIP("no writable bind mount");
  char path[4096];
  mkdir("/bind/a", 0755), mkdir("/bind/a/b", 0755), mkdir("/bind/a/b/d", 0755);
  pthread_t t;
  pthread_create(&t, NULL, swap_forever, NULL);
  long long end = kit_now_ns() + 3000000000LL;
  while (kit_now_ns() < end && !kit_failed()) {
    snprintf(path, sizeof path, "/bind/a/b/d/../../../..%s", marker_name());
    must_not_open(path);
    snprintf(path, sizeof path, "/bind/s%s", marker_name());
    must_not_open(path);
    int d = open("/bind/a/b/d", O_RDONLY | O_DIRECTORY);
    if (d >= 0) {
      int up = openat(d, "../../../../..", O_RDONLY | O_DIRECTORY);
      if (up >= 0) {
        if (openat(up, marker_name() + 1, O_RDONLY) >= 0) kit_fail(__FILE__, __LINE__, "walked out");
        close(up);
      }
      close(d);
    }
  }
  stop = true;
  pthread_join(t, NULL);
}
TEST(writes_stay_inside) {
  char path[4096];
  snprintf(path, sizeof path, "%s.new", marker_name());
  int fd = open(path, O_CREAT | O_RDWR, 0600);
  if (fd >= 0) close(fd);  // the runner checks that the host does not have it
  snprintf(path, sizeof path, "/links/directory/new");
  fd = open(path, O_CREAT | O_RDWR, 0600);
  if (fd >= 0) close(fd);
  EXPECT_TRUE(unlink(marker_name()) < 0);
}
TEST(host_processes_are_invisible) {
  const char *canary = getenv("CANARY");
  if (!canary) SKIP("CANARY is not set");
  EXPECT_ERR(kill(atoi(canary), 0), ESRCH);
  char path[64];
  sprintf(path, "/proc/%s", canary);
  EXPECT_ERR(access(path, F_OK), ENOENT);
}
